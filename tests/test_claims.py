"""What the notebooks about the paper's claims compute with: differences over seeds, runs that are kept, negatives, losses."""
import importlib.util, json, re
import numpy as np
import pandas as pd
import pytest
from bilingual_embed.core.io import repo_path
from bilingual_embed.core.records import Pair, Task
from bilingual_embed.evaluate.tasks import Items

ROOT = repo_path()
HERE = ROOT/'nbs'/'experiments'

@pytest.fixture(scope='module')
def claims():
    pytest.importorskip('mteb')
    spec = importlib.util.spec_from_file_location('claims', HERE/'claims.py')
    m = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(m)
    return m

def answers(p, n=400, seed=0):
    return Items('quiz/en', 'en', 'Retrieval', 'ndcg', (np.random.default_rng(seed).random(n) < p).astype(float), n, 'r', '1', 'd')

def test_a_difference_is_seen_and_chance_is_not(claims):
    same = [dict(t=answers(.5, seed=k)) for k in range(3)]
    better = [dict(t=answers(.8, seed=k)) for k in range(3)]
    again = [dict(t=answers(.5, seed=k+10)) for k in range(3)]
    d = claims.compared(dict(base=same, better=better, again=again), 'base').set_index('arm')
    assert d.loc['better','low'] > 15 and d.loc['better','diff'] == pytest.approx(30, abs=6) and d.loc['again','low'] < 0 < d.loc['again','high'] and tuple(d.loc['base',['diff','low','high']]) == (0, 0, 0)
    assert (d.seeds == 3).all() and (d.n == 400).all() and d.loc['better','spread'] == pytest.approx(100*np.std([x['t'].score() for x in better], ddof=1), abs=.01)
    assert claims.words(d.reset_index(), 'better') == f"1 better, 0 worse of 1 ({d.loc['better','diff']:+.1f} points)"

def test_seeds_that_disagree_widen_the_interval(claims):
    base = [dict(t=answers(.5, 4000, k)) for k in range(3)]
    agree,differ = ([dict(t=answers(p, 4000, k)) for k,p in enumerate(ps)] for ps in ((.6,.6,.6), (.5,.6,.7)))
    d = claims.compared(dict(base=base, agree=agree, differ=differ), 'base').set_index('arm')
    width = d.high-d.low
    assert width['differ'] > 2*width['agree'] and abs(d.loc['differ','diff']-d.loc['agree','diff']) < 2

def test_a_baseline_of_one_run_is_held_against_every_seed(claims):
    d = claims.compared(dict(one=[dict(t=answers(.5))], three=[dict(t=answers(.7, seed=k)) for k in (1,2,3)]), 'one').set_index('arm')
    assert d.loc['three','seeds'] == 3 and np.isnan(d.loc['one','spread']) and d.loc['three','low'] > 5

def test_what_was_trained_is_kept_and_other_numbers_are_refused(claims, tmp_path):
    from bilingual_embed.data.corpus import SampleSource
    pairs = [Pair(r['sentence1']['en'], r['sentence1']['de'], 'en-de', 's') for r in SampleSource().rows('sts', 'train')][:64]
    tok = claims.tokenizer([(t, l) for p in pairs for t,l in ((p.query,'en'), (p.target,'de'))]*3, ('en','de'), 400, tmp_path/'tok', 20_000)
    tasks = [Task('pairs/s/en-de', 'pairs', pairs, 1.)]
    tiny = dict(model__hidden_size=32, model__num_hidden_layers=1, model__num_attention_heads=1, model__intermediate_size=32, align__steps=2, align__batch_size=8, pairs__steps=2, pairs__batch_size=8, pretrain__steps=0)
    r = claims.small('en-de', 0, **tiny)
    a = claims.grown(tmp_path/'run', r, tok, tasks, ('align','pairs'))
    first = (a/'model.safetensors').read_bytes()
    assert a.name == 'pairs' and (tmp_path/'run'/'align').is_dir()
    when = (a/'model.safetensors').stat().st_mtime_ns
    claims.grown(tmp_path/'run', r, tok, tasks, ('align','pairs'))
    assert (a/'model.safetensors').stat().st_mtime_ns == when
    assert (claims.grown(tmp_path/'again', r, tok, tasks, ('align','pairs'))/'model.safetensors').read_bytes() == first
    with pytest.raises(SystemExit, match='made with other numbers'):
        claims.grown(tmp_path/'run', claims.small('en-de', 0, **tiny | dict(align__lr=.1)), tok, tasks, ('align','pairs'))

@pytest.mark.parametrize('nb', sorted({p.stem for p in HERE.glob('claim_*.ipynb')} | {p.name.removesuffix('_runs.csv') for p in (ROOT/'figures').glob('*_runs.csv')}))
def test_every_claim_has_seeds_a_figure_and_a_verdict(nb):
    d = pd.read_csv(ROOT/'figures'/f'{nb}.csv')
    runs = pd.read_csv(ROOT/'figures'/f'{nb}_runs.csv')
    assert (ROOT/'figures'/f'{nb}.png').stat().st_size > 10_000
    assert d.seeds.max() >= 3 and {'low','high','n'} <= set(d.columns) and runs.groupby(['arm','task']).seed.nunique().max() >= 3 and runs.score.between(-100, 100).all()
    last = json.loads((HERE/f'{nb}.ipynb').read_text(encoding='utf-8'))['cells'][-1]
    out = ''.join(''.join(o.get('text', '')) for o in last['outputs'])
    assert re.search(r'\d seeds', out) and len(out) < 3000
