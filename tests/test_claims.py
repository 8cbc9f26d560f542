"What the notebooks about the paper's claims compute with: differences over seeds, training that is kept and resumed"
import importlib.util, json, re
import numpy as np, pandas as pd
import pytest
from bilingual_embed.core.io import repo_path
from bilingual_embed.core.records import Pair, Task
from bilingual_embed.data.corpus import SampleSource
from bilingual_embed.evaluate.tasks import Items

ROOT = repo_path()
HERE = ROOT/'nbs'/'experiments'
FIGURES = ROOT/'figures'

@pytest.fixture(scope='module')
def claims():
    pytest.importorskip('mteb')
    spec = importlib.util.spec_from_file_location('claims', HERE/'claims.py')
    m = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(m)
    return m

def answers(p, n=400, seed=0):
    "Test items of which a share p is right"
    right = (np.random.default_rng(seed).random(n) < p).astype(float)
    return Items('quiz/en', 'en', 'Retrieval', 'ndcg', right, n, 'r', '1', 'd')

def runs(*shares, n=400, first=0): # one dict of items a seed
    return [dict(t=answers(p, n, first+k)) for k,p in enumerate(shares)]

def compare(claims, baseline, /, **items): return claims.compare_arms(items, baseline).set_index('arm')

def test_a_difference_is_seen_and_chance_is_not(claims):
    better = runs(.8, .8, .8)
    d = compare(claims, 'base', base=runs(.5, .5, .5), better=better, again=runs(.5, .5, .5, first=10))
    assert d.loc['better','low'] > 15 and d.loc['better','diff'] == pytest.approx(30, abs=6)
    assert d.loc['again','low'] < 0 < d.loc['again','high']
    assert tuple(d.loc['base',['diff','low','high']]) == (0, 0, 0)
    assert (d.seeds == 3).all() and (d.n == 400).all()
    spread = 100*np.std([x['t'].score() for x in better], ddof=1)
    assert d.loc['better','spread'] == pytest.approx(spread, abs=.01)
    said = claims.count_better(d.reset_index(), 'better')
    assert said == f"1 better, 0 worse of 1 ({d.loc['better','diff']:+.1f} points)"

def test_seeds_that_disagree_widen_the_interval(claims):
    agree,differ = runs(.6, .6, .6, n=4000),runs(.5, .6, .7, n=4000)
    d = compare(claims, 'base', base=runs(.5, .5, .5, n=4000), agree=agree, differ=differ)
    width = d.high-d.low
    assert width['differ'] > 2*width['agree'] and abs(d.loc['differ','diff']-d.loc['agree','diff']) < 2

def test_a_baseline_of_one_run_is_compared_with_every_seed(claims):
    d = compare(claims, 'one', one=runs(.5), three=runs(.7, .7, .7, first=1))
    assert d.loc['three','seeds'] == 3 and np.isnan(d.loc['one','spread']) and d.loc['three','low'] > 5

def test_finished_training_is_kept_and_other_numbers_are_refused(claims, tmp_path):
    rows = SampleSource().rows('sts', 'train')
    pairs = [Pair(r['sentence1']['en'], r['sentence1']['de'], 'en-de', 's') for r in rows][:64]
    texts = [(t, l) for p in pairs for t,l in ((p.query,'en'), (p.target,'de'))]
    tok = claims.cached_tokenizer(texts*3, ('en','de'), 400, tmp_path/'tok', 20_000)
    tiny = {f'model__{k}': 32 for k in ('hidden_size','intermediate_size')}
    tiny |= {f'model__{k}': 1 for k in ('num_hidden_layers','num_attention_heads')}
    tiny |= dict(align__steps=2, align__batch_size=8, pairs__steps=2, pairs__batch_size=8, pretrain__steps=0)
    def train(name, **changes):
        r = claims.small_recipe('en-de', 0, **tiny | changes)
        tasks = [Task('pairs/s/en-de', 'pairs', pairs, 1.)]
        return claims.train_stages(tmp_path/name, r, tok, tasks, ('align','pairs'))

    weights = train('run')/'model.safetensors'
    first,when = weights.read_bytes(),weights.stat().st_mtime_ns
    assert weights.parent.name == 'pairs' and (tmp_path/'run'/'align').is_dir()
    train('run')
    assert weights.stat().st_mtime_ns == when
    assert (train('again')/'model.safetensors').read_bytes() == first
    with pytest.raises(SystemExit, match='made with other numbers'): train('run', align__lr=.1)

CLAIMS = {p.stem for p in HERE.glob('claim_*.ipynb')}
CLAIMS |= {p.name.removesuffix('_runs.csv') for p in FIGURES.glob('*_runs.csv')}

@pytest.mark.parametrize('nb', sorted(CLAIMS))
def test_every_claim_has_seeds_a_figure_and_a_verdict(nb):
    d,per_seed = (pd.read_csv(FIGURES/f'{name}.csv') for name in (nb, f'{nb}_runs'))
    assert (FIGURES/f'{nb}.png').stat().st_size > 10_000
    assert d.seeds.max() >= 3 and {'low','high','n'} <= set(d.columns)
    assert per_seed.groupby(['arm','task']).seed.nunique().max() >= 3 and per_seed.score.between(-100, 100).all()
    last = json.loads((HERE/f'{nb}.ipynb').read_text(encoding='utf-8'))['cells'][-1]
    out = ''.join(''.join(o.get('text', '')) for o in last['outputs'])
    assert re.search(r'\d seeds', out) and len(out) < 3000
