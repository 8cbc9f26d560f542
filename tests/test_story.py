"The whole story: the notebook runs, resumes, refuses what it does not know, and survives being killed at any moment"
import csv, os, random, signal, subprocess, sys, time
from pathlib import Path

import nbformat, pytest

from bilingual_embed.core.recipes import STAGES
from bilingual_embed.train.loop import read_log

ROOT = Path(__file__).parents[1]
STAGE = dict(steps=12, batch_size=16, max_tokens=64, warmup_steps=2, save_steps=3)
SHAPE = {'model.hidden_size': 32, 'model.intermediate_size': 64, 'tokenizer.vocab_size': 1200}
FEW = {f'{s}.{k}': v for s in STAGES for k,v in STAGE.items()} | SHAPE
CHANGES = ','.join(f'{k}={v}' for k,v in FEW.items())

def story(out, folder, cache, *more, ok=True):
    given = dict(scale='sample', out=folder, cache=cache, changes=CHANGES)
    parameters = [str(x) for k,v in given.items() for x in ('-p', k, v)]
    command = [sys.executable, '-m', 'papermill', str(ROOT/'nbs'/'run_all.ipynb'), str(out), *parameters]
    env = {k: v for k,v in os.environ.items() if k != 'MPLBACKEND'}   # the kernel's own way to draw, as a reader has it
    r = subprocess.run([*command, '--no-progress-bar', *more], capture_output=True, text=True, cwd=out.parent,
                       timeout=900, env=env)
    assert (r.returncode == 0) == ok, r.stderr[-3000:]
    return r

@pytest.fixture(scope='module')
def ran(tmp_path_factory):
    tmp = tmp_path_factory.mktemp('story')
    story(tmp/'out.ipynb', tmp/'run', tmp/'cache')
    return tmp

def rows(path): # scores without their times
    with open(path, newline='', encoding='utf-8') as f:
        return sorted(tuple(v for k,v in r.items() if k != 'seconds') for r in csv.DictReader(f))

def test_leaves_a_run_folder(ran):
    run = ran/'run'
    files = 'recipe.json corpus.json tokenizer model.safetensors config.json modules.json scores.csv verdict.txt report.ipynb'
    for name in (*files.split(), *STAGES): assert (run/name).exists(), name
    pictures = {p.stem for p in (run/'figures').glob('*.png')}
    assert {'fertility','training-align-pretrain','training-pairs-multitask','scores','map'} <= pictures, pictures
    assert all((run/'figures'/f'{p}.csv').exists() for p in pictures)
    with open(run/'scores.csv', newline='', encoding='utf-8') as f: runs = {r['run'] for r in csv.DictReader(f)}
    assert {'tfidf','bm25','untrained','align','pretrain','pairs','multitask'} <= runs

def test_report_reads_well(ran):
    "No error, no warning, no flood of progress lines, every picture there"
    nb = nbformat.read(ran/'out.ipynb', 4)
    outs = [o for c in nb.cells if c.cell_type == 'code' for o in c.outputs]
    text = [o.text for o in outs if o.output_type == 'stream']
    assert not any(o.output_type == 'error' for o in outs)
    assert not [t for t in text if 'Warning' in t], [t for t in text if 'Warning' in t][:3]
    assert sum(len(t.splitlines()) for t in text) < 150
    assert sum('image/png' in o.get('data', {}) for o in outs) >= 6
    kept = nbformat.read(ran/'run'/'report.ipynb', 4)
    def outputs(notebook): return [c.outputs for c in notebook.cells[:-1] if c.cell_type == 'code']
    assert outputs(kept) == outputs(nb)      # all but the cell that copies

def test_picks_up_what_is_done(ran):
    before,stamp = rows(ran/'run'/'scores.csv'),(ran/'run'/'multitask'/'model.safetensors').stat().st_mtime_ns
    story(ran/'again.ipynb', ran/'run', ran/'cache')
    assert rows(ran/'run'/'scores.csv') == before
    assert (ran/'run'/'multitask'/'model.safetensors').stat().st_mtime_ns == stamp

@pytest.mark.parametrize('name', ['langz', pytest.param('sede', marks=pytest.mark.slow)])
def test_misspelt_parameter_is_an_error(tmp_path, name):
    r = story(tmp_path/'o.ipynb', tmp_path/'run', tmp_path/'cache', '-p', name, '7', ok=False)
    assert f"unknown parameter '{name}'" in r.stderr and not (tmp_path/'run').exists()

def test_goes_on_from_a_finished_model(ran, tmp_path):
    "Its weights and vocabulary, no stage 0 or 1, and scores against what it was"
    few = ','.join(f'{k}={v}' for k,v in FEW.items() if k.startswith(('pairs.','multitask.')))
    story(tmp_path/'out.ipynb', tmp_path/'run', ran/'cache', '-p', 'changes', few, '-p', 'start', str(ran/'run'))
    run = tmp_path/'run'
    first,second = (f/'tokenizer'/'tokenizer.json' for f in (ran/'run', run))
    assert first.read_bytes() == second.read_bytes()
    assert not (run/'align').exists() and not (run/'pretrain').exists()
    with open(run/'scores.csv', newline='', encoding='utf-8') as f:
        got = {(r['run'],r['task'],r['metric']): r['value'] for r in csv.DictReader(f)}
    with open(ran/'run'/'scores.csv', newline='', encoding='utf-8') as f:
        was = {(r['run'],r['task'],r['metric']): r['value'] for r in csv.DictReader(f)}
    assert {'untrained','pairs','multitask'} <= {k[0] for k in got} and not {'align','pretrain'} & {k[0] for k in got}
    # it begins as the other ended
    assert all(abs(float(got['untrained',*k[1:]]) - float(v)) < 1e-5 for k,v in was.items() if k[0] == 'multitask')

OPEN = """
import sys, bilingual_embed
from sentence_transformers import SentenceTransformer
texts = ['Guten Tag','Good day']
a = bilingual_embed.load(sys.argv[1]).encode(texts)
b = SentenceTransformer(sys.argv[1]).encode(texts)
print(abs(a-b).max())
"""
def test_run_folder_opens_everywhere(ran):
    r = subprocess.run([sys.executable, '-W', 'ignore', '-c', OPEN, str(ran/'run')], capture_output=True, text=True,
                       env=os.environ | dict(HF_HUB_OFFLINE='1'))
    assert r.returncode == 0 and float(r.stdout) < 1e-6, r.stderr[-2000:]

# ---- killed

def command(folder, cache):
    return [sys.executable, '-m', 'bilingual_embed.cli', 'train', '--scale', 'sample', '--no-scores',
            '--out', str(folder), '--cache', str(cache), '--changes', CHANGES]

def losses(folder): return {s: [(r['step'], r['loss'], r['grad_norm']) for r in read_log(folder/s)] for s in STAGES}

def killed(folder, cache, kills, seed, longest):
    "Start the run again and again, kill it at a random moment, then let it finish"
    g,done = random.Random(seed),0
    while done < kills:
        p = subprocess.Popen(command(folder, cache), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        time.sleep(g.uniform(.2, 1)*longest)
        if p.poll() is not None: break                       # it was done before the blow
        p.send_signal(signal.SIGKILL)
        p.wait()
        done += 1
    subprocess.run(command(folder, cache), check=True, capture_output=True)
    return done

def equal_after(kills, tmp, seed=0):
    t = time.time()
    subprocess.run(command(tmp/'whole', tmp/'cache'), check=True, capture_output=True)
    whole = time.time()-t
    done = killed(tmp/'broken', tmp/'cache', kills, seed, whole*.7)
    assert losses(tmp/'whole') == losses(tmp/'broken')
    for s in STAGES:
        assert (tmp/'whole'/s/'model.safetensors').read_bytes() == (tmp/'broken'/s/'model.safetensors').read_bytes(), s
    return done

def test_killed_runs_equal_unbroken(tmp_path): assert equal_after(2, tmp_path) >= 1

@pytest.mark.slow
def test_twenty_kills(tmp_path):
    "Twenty blows at random moments, at most four a run; every run ends with the bytes of the unbroken one"
    done = i = 0
    while done < 20:
        (f := tmp_path/str(i)).mkdir()
        done += equal_after(4, f, seed=i)
        i += 1
        assert i <= 20, f"only {done} of the blows came before the run was done"
    print(f'{done} kills in {i} runs')
