"The one command for a GPU, rehearsed on a CPU: every part, cut off at any moment, without a card, with a training"
import json, os, signal, subprocess, sys, time
import pytest
from bilingual_embed.gpu.prepare import LIMIT, missing, PrepareError, read_machine
from bilingual_embed.gpu.run import bars, FILE_BYTES, join_parts, Results, run, story_part, train_part
from conftest import ROOT

def command(out, *options): return [sys.executable, '-m', 'bilingual_embed.gpu.run', '--toy', '--out', str(out), *options]

def test_the_rehearsal(tmp_path):
    "Checks and benchmarks at toy size, by the command itself"
    out = tmp_path/'results'
    rehearsal = command(out, '--part', 'check,bench', '--minutes', '8')
    r = subprocess.run(rehearsal, capture_output=True, text=True, cwd=ROOT, timeout=500)
    assert r.returncode == 0, r.stderr[-2000:]
    rows = Results(out, show=False).rows
    checks = [x for x in rows if x['part'] == 'check']
    assert len({x['check'] for x in checks}) == 10 and all(x['ok'] for x in checks), checks
    measured = {x.get('what') for x in rows if x['part'] == 'bench'}
    assert {'rate','attention','encode'} <= measured, r.stdout[-2000:]
    assert all(x['error'] < 1e-3 for x in rows if x.get('what') in ('attention','encode'))
    assert f'{len(checks)} of {len(checks)} checks passed' in (out/'table.md').read_text(encoding='utf-8')
    assert len(list(out.iterdir())) <= 8 and max(p.stat().st_size for p in out.iterdir()) <= FILE_BYTES

@pytest.mark.skipif(not hasattr(os, 'killpg'), reason='no groups of processes here')
def test_cut_off_at_any_moment(tmp_path):
    "Whatever is there when the machine is taken away can be read, and a second start keeps it"
    results = tmp_path/'results.jsonl'
    quiet = dict(stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    process = subprocess.Popen(command(tmp_path, '--part', 'check'), cwd=ROOT, start_new_session=True, **quiet)
    end = time.monotonic()+300
    while not (results.exists() and results.stat().st_size) and time.monotonic() < end: time.sleep(.05)
    os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    found = Results(tmp_path, show=False).rows
    assert found and found[0]['check'] == 'plan', found
    assert 'checks passed' in (tmp_path/'table.md').read_text(encoding='utf-8')
    assert not list(tmp_path.glob('*.part'))
    with results.open('a') as f: f.write('{"part": "che')
    assert Results(tmp_path, show=False).rows == found

def test_a_story_whose_time_is_up_says_so(tmp_path):
    results = Results(tmp_path/'results', show=False)
    story_part(results, .5, True, None)
    assert any('time was up' in x['what'] for x in results.rows), results.rows

@pytest.mark.slow
def test_the_story(tmp_path):
    results = Results(tmp_path/'results', show=False)
    story_part(results, 1500, True, None)
    assert any('/' in k for x in results.rows for k in x), (tmp_path/'results'/'log.txt').read_text()[-3000:]

def test_a_prepared_training_brings_its_weights(tmp_path):
    prepared,out = tmp_path/'prepared',tmp_path/'results'
    prepared.mkdir()
    weights = prepared/'run'/'model.safetensors'
    script = f"import json; open({str(weights)!r}, 'wb').write(bytes(range(256))*70_000)\n" \
             "print(json.dumps(dict(step=5)), flush=True)\nimport time; time.sleep(100)"
    weights.parent.mkdir()
    bring = ['run/model.safetensors','run/missing.json','run/large.bin']
    (prepared/'train.json').write_text(json.dumps(dict(command=['-c', script], bring=bring)))
    with open(weights.parent/'large.bin', 'wb') as f: f.truncate(3*FILE_BYTES)      # 2 parts are taken, 2 are left
    results = Results(out, show=False)
    train_part(results, 4, False, prepared)
    assert results.rows.pop()['what'] == 'run/large.bin does not fit into 2 files of 15 MiB'
    assert results.rows[0] == dict(part='train', step=5)
    assert results.rows[-1]['parts'] == 2 and results.rows[-1]['bytes'] == 256*70_000
    join_parts(out, 'model.safetensors', tmp_path/'again')
    assert (tmp_path/'again').read_bytes() == weights.read_bytes()

def test_without_a_gpu(tmp_path):
    import torch
    if torch.cuda.is_available(): pytest.skip('there is one')
    with pytest.raises(RuntimeError, match='--toy'): run(tmp_path/'out')
    with pytest.raises(ValueError, match="no part 'bnech'"): run(tmp_path/'out', parts=['bnech'], toy=True)
    assert not (tmp_path/'out').exists()

def test_bars_need_both_sides():
    assert [b['ok'] for b in bars([])] == [None]*4
    rate = dict(part='bench', what='encode', way='ours_bf16', tokens=8192, mfu=.3)
    assert [b['ok'] for b in bars([rate])] == [None, None, False, None]

def test_what_travels():
    "The listed machine: its PyTorch stays, what it lacks is named, and our lower bounds admit what it has"
    machine = read_machine(ROOT/'data'/'gpu'/'machine.txt')
    travel = missing(machine)
    assert {'fastcore','datasets','mteb','papermill','zstandard','ftfy'} <= set(travel)
    assert not {'torch','transformers','numpy','pandas'} & set(travel)
    assert LIMIT <= 60*10**6

def test_a_machine_that_is_too_old():
    with pytest.raises(PrepareError, match='lower the bound'): missing(dict(torch='2.1.0'))

def test_lists_as_pip_writes_them(tmp_path):
    path = tmp_path/'machine.txt'
    path.write_text('# a comment\nTorch==2.11.0+cu130\nruamel.yaml\nlocal @ file:///somewhere\n-e git+x\n\n')
    assert read_machine(path) == {'torch': '2.11.0', 'ruamel-yaml': '', 'local': ''}
