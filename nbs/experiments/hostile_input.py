#!/usr/bin/env python
"""Throws hostile input at every door of the library for a given time, and counts what became of it.

    python nbs/experiments/hostile_input.py --seconds 600 --seed 1                  all doors, about a minute each
    python nbs/experiments/hostile_input.py --seconds 60 --doors rows hub --no-table

The input, and the process of its own in which each case runs, come from tests/hostile.py; tests/test_fuzz.py throws a
few cases of each kind at every test run. The table is figures/hostile_input.csv.
"""
import argparse, csv, os, sys, time
from collections import Counter
from pathlib import Path

os.environ |= dict(OMP_NUM_THREADS='1', HF_HUB_OFFLINE='1', TRANSFORMERS_OFFLINE='1', HF_DATASETS_OFFLINE='1',
                   HF_HUB_DISABLE_PROGRESS_BARS='1', TOKENIZERS_PARALLELISM='false', MPLBACKEND='agg')
ROOT = Path(__file__).resolve().parents[2]
sys.path[:0] = [str(ROOT), str(ROOT/'tests')]
from hypothesis import HealthCheck, Phase, given, seed, settings
import hostile

RANDOM_CASES = settings(max_examples=100, database=None, deadline=None, derandomize=False, phases=[Phase.generate],
                        suppress_health_check=list(HealthCheck))

def attack(name, seconds, first_seed):
    "Throw cases at one door for a time, a hundred a seed; returns a row of the table, and {error: (times, one case)}"
    cases,door = hostile.warm(name)
    kinds,crashes,longest,peak_mb = Counter(),{},0.,0.
    end = time.perf_counter() + seconds

    def throw(case):
        nonlocal longest, peak_mb
        if time.perf_counter() > end: return
        outcome = hostile.trial(door, case)
        kinds[outcome.kind] += 1
        longest,peak_mb = max(longest, outcome.seconds),max(peak_mb, outcome.mb)
        if outcome.kind == 'crash':
            what = outcome.what[:100]
            times,example = crashes.get(what, (0, case))
            crashes[what] = times+1,example

    while time.perf_counter() < end:
        seed(first_seed)(RANDOM_CASES(given(cases())(throw)))()
        first_seed += 1
    row = dict(target=name, cases=kinds.total(), refused=kinds['refused'], accepted=kinds['accepted'],
               crashes=kinds['crash'], longest_s=round(longest, 2), peak_MB=round(peak_mb))
    return row, crashes

def update_table(rows):
    "Put rows into the table; those of doors that were not attacked stay"
    path = ROOT/'figures'/'hostile_input.csv'
    table = {r['target']: r for r in csv.DictReader(path.open(newline=''))} if path.exists() else {}
    table |= {r['target']: r for r in rows}
    with path.open('w', newline='') as f:
        w = csv.DictWriter(f, rows[0])
        w.writeheader()
        w.writerows(table[name] for name in hostile.DOORS if name in table)

def main():
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument('--seconds', type=float, default=600, help='for all doors together')
    p.add_argument('--seed', type=int, default=1)
    p.add_argument('--doors', nargs='*', default=list(hostile.DOORS), choices=list(hostile.DOORS))
    p.add_argument('--no-table', action='store_true', help='leave figures/hostile_input.csv as it is')
    args = p.parse_args()

    rows = []
    for name in args.doors:
        row,crashes = attack(name, args.seconds/len(args.doors), args.seed*10_000)
        rows.append(row | dict(seed=args.seed))
        print(rows[-1], flush=True)
        for what,(times,example) in crashes.items():
            print(f"  {times} times: {what}\n    such as {example!r:.2000}", flush=True)
    if not args.no_table: update_table(rows)
    return any(r['crashes'] for r in rows)

if __name__ == '__main__': sys.exit(main())
