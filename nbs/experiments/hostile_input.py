#!/usr/bin/env python
"""Throws hostile input at every door of the library for as long as it is told to, and counts what became of it: figures/hostile_input.csv.

    python nbs/experiments/hostile_input.py --seconds 600 --seed 1                  all doors, a minute each or so
    python nbs/experiments/hostile_input.py --seconds 60 --doors rows hub --no-table

What is thrown, and the process of its own in which each case runs, is tests/hostile.py; tests/test_fuzz.py throws a few cases of each kind at every test run."""
import argparse, csv, os, sys, time
from collections import Counter
from pathlib import Path
os.environ |= dict(OMP_NUM_THREADS='1', HF_HUB_OFFLINE='1', TRANSFORMERS_OFFLINE='1', HF_DATASETS_OFFLINE='1', HF_HUB_DISABLE_PROGRESS_BARS='1', TOKENIZERS_PARALLELISM='false', MPLBACKEND='agg')
ROOT = Path(__file__).resolve().parents[2]
sys.path[:0] = [str(ROOT), str(ROOT/'tests')]
from hypothesis import HealthCheck, Phase, given, seed, settings
import hostile

def campaign(name, seconds, first): # a row of the table, and {error: (times, one case)} of the crashes
    "One door until its time is over, a hundred cases a seed"
    cases,door = hostile.warm(name)
    kinds,crashes,longest,most,end = Counter(),{},0.,0.,time.perf_counter()+seconds
    while time.perf_counter() < end:
        def go(case):
            nonlocal longest, most
            if time.perf_counter() > end: return
            o = hostile.trial(door, case)
            kinds[o.kind] += 1
            longest,most = max(longest, o.seconds),max(most, o.mb)
            if o.kind == 'crash':
                n,was = crashes.get(o.what[:100], (0,case))
                crashes[o.what[:100]] = n+1,was
        seed(first)(settings(max_examples=100, database=None, deadline=None, derandomize=False, phases=[Phase.generate], suppress_health_check=list(HealthCheck))(given(cases())(go)))()
        first += 1
    return dict(target=name, cases=kinds.total(), refused=kinds['refused'], accepted=kinds['accepted'], crashes=kinds['crash'], longest_s=round(longest, 2), peak_MB=round(most)),crashes

if __name__ == '__main__':
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument('--seconds', type=float, default=600, help='for all doors together')
    p.add_argument('--seed', type=int, default=1)
    p.add_argument('--doors', nargs='*', default=list(hostile.DOORS), choices=list(hostile.DOORS))
    p.add_argument('--no-table', action='store_true')
    a = p.parse_args()
    rows = []
    for name in a.doors:
        row,crashes = campaign(name, a.seconds/len(a.doors), a.seed*10_000)
        rows.append(row | dict(seed=a.seed))
        print(rows[-1], flush=True)
        for what,(n,case) in crashes.items(): print(f"  {n} times: {what}\n    such as {case!r:.2000}", flush=True)
    if not a.no_table:
        path = ROOT/'figures'/'hostile_input.csv'
        was = {r['target']: r for r in csv.DictReader(path.open(newline=''))} if path.exists() else {}
        table = was | {r['target']: r for r in rows}      # rows of doors that were not asked for stay
        with path.open('w', newline='') as f:
            w = csv.DictWriter(f, rows[0])
            w.writeheader()
            w.writerows(table[n] for n in hostile.DOORS if n in table)
    sys.exit(any(r['crashes'] for r in rows))
