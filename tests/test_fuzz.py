"Hostile input at every door: accepted, or refused with a useful message; no crash, nothing executed, little memory"
import ctypes, json, os, pickle, socket, subprocess, time
from collections import Counter
import numpy as np, pytest
from hypothesis import HealthCheck, Phase, given, seed, settings
from hostile import BOMBS, CANARY, DOORS, THINGS, TOKENIZERS, Boom
from hostile import dumps, file_door, model_files, stream_door, trial, warm

# cases of each door: half a minute in all
FEW = dict(encode=30, rows=50, source=20, testsets=25, hub=6, model_folder=50, from_pretrained=12, convert=12,
           run_folder=40, changes=40, launch=10, export=25)

def throw(name, n, derandomize=True, **how):
    cases,door = warm(name)
    seen = Counter()
    def one(case):
        o = trial(door, case)
        seen[o.kind] += 1
        assert o.kind != 'crash', f"{o.what} after {o.seconds:.1f} s"

    how |= dict(derandomize=derandomize, max_examples=n, suppress_health_check=list(HealthCheck),
                phases=(Phase.generate, Phase.shrink)) # no replay of earlier failures
    many = settings(**how)(given(cases())(one))
    if not derandomize: many = seed(int(os.environ.get('HOSTILE_SEED', '1')))(many)
    many()
    return seen

@pytest.mark.parametrize('name', DOORS)
def test_hostile_input(name):
    seen = throw(name, FEW[name])
    assert seen['refused'], seen       # what is thrown is hostile: where nothing is refused, nothing was tried

@pytest.mark.slow
@pytest.mark.parametrize('name', DOORS)
def test_much_hostile_input(name):
    "Other cases with another HOSTILE_SEED; nbs/experiments/hostile_input.py goes on for as long as you like"
    seen = throw(name, 100 if name == 'hub' else 500, derandomize=False, database=None)
    assert seen['accepted'] and seen['refused'], seen

# ---- each trick by name

def base(**files): return model_files() | files

@pytest.mark.parametrize('trick', TOKENIZERS)
def test_tokenizers_that_lie(trick):
    _,door = warm('model_folder')
    o = trial(door, base(**{'tokenizer.json': dumps(json.loads(model_files()['tokenizer.json']) | TOKENIZERS[trick])}))
    # one that knows no word but is whole; padding and cutting that stand in the file do not act
    assert o.kind == ('accepted' if trick in ('unigram','padded','cut') else 'refused'), o

@pytest.mark.parametrize('what', BOMBS)
def test_bombs(what):
    "A gigabyte out of a small file: refused, in little memory"
    _,door = warm('rows')
    ext = '.jsonl.gz' if what.endswith('gz') else '.jsonl.zst'
    case = dict(ext=ext, data=what, thing='file', kind='document', on_error='skip', lang='en', kw={})
    o = trial(door, case, room=200, seconds=60)
    assert o.kind == 'refused' and 'RecordError' in o.what, o

@pytest.mark.parametrize('thing', sorted(set(THINGS)-{'file','vanish','shrink'}))
def test_what_is_no_file(thing):
    state = thing if thing not in ('name','nul') else 'missing'
    weights = thing if thing not in ('name','nul','missing') else 'dangling'
    rows = dict(ext='.jsonl', data=b'{"text":"a"}', thing=thing, kind='document', on_error='stop', lang='en', kw={})
    folder = base(**{'model.safetensors': weights})
    cases = dict(rows=rows, run_folder=('state.safetensors', state), model_folder=folder)
    for name,case in cases.items():
        o = trial(warm(name)[1], case)
        assert o.kind == 'refused', (name, o)

# ---- long runs

@pytest.mark.parametrize('n', [20_000, pytest.param(200_000, marks=pytest.mark.slow)])
def test_an_endless_stream_stays_flat(n):
    warm('encode')
    o = trial(stream_door, n, seconds=600, room=100)
    assert o.kind == 'accepted', o

LARGE = [pytest.param(300, ext, marks=pytest.mark.slow) for ext in ('jsonl','jsonl.gz','jsonl.zst')]
@pytest.mark.parametrize('mb,ext', [(40,'jsonl'), (40,'jsonl.zst'), *LARGE])
def test_a_large_file_stays_flat(mb, ext):
    warm('rows')
    o = trial(file_door, (mb, ext), seconds=600, room=32)
    assert o.kind == 'accepted', o          # the whole of it would not fit

# ---- the box sees what it looks for

def _executes(case, folder):
    (folder/'x.py').write_bytes(CANARY)
    exec(compile((folder/'x.py').read_text(), str(folder/'x.py'), 'exec'), dict(__file__=str(folder/'x.py')))
def _imports(case, folder):
    import importlib.util
    (folder/'x.py').write_bytes(b'1')
    s = importlib.util.spec_from_file_location('x', folder/'x.py')
    s.loader.exec_module(importlib.util.module_from_spec(s))
def _says(e):
    def door(case, folder): raise e
    return door
BAD = dict( # what a case does, and what the box says of it
    executed=(_executes, 'executed: '),
    imported=(_imports, 'executed: '),
    unpickles=(lambda c, f: pickle.loads(pickle.dumps(np.float64)), 'pickle.find_class'),
    shell=(lambda c, f: os.system('true'), 'os.system'),
    program=(lambda c, f: subprocess.run(['true']), 'subprocess.Popen'),
    connects=(lambda c, f: socket.create_connection(('127.0.0.1', 9), 1), 'socket'),
    hangs=(lambda c, f: time.sleep(60), 'hangs'),
    dies=(lambda c, f: ctypes.string_at(0), 'SIGSEGV'),
    grows=(lambda c, f: bytearray(3<<30), 'MemoryError'),
    key=(_says(KeyError('a key of nobody knows what')), 'KeyError'),
    deep=(_says(RecursionError('maximum recursion depth exceeded')), 'RecursionError'),
    bare=(_says(ValueError('could not convert string to float')), 'ValueError'))
@pytest.mark.parametrize('what', BAD)
def test_the_box_sees(what):
    door,says = BAD[what]
    o = trial(door, None, seconds=2)
    assert o.kind == 'crash' and says in o.what, o

def test_the_box_lets_pass():
    from bilingual_embed.model.weights import WeightsError
    assert trial(lambda c, f: (f/'x').write_text('fine'), None).kind == 'accepted'
    useful = WeightsError("the weights in x are not whole: fetch them again")
    assert trial(_says(useful), None).kind == 'refused'
    assert trial(_says(WeightsError('no')), None).kind == 'crash'       # too few words
    assert trial(_says(Boom('the source broke off')), None).kind == 'refused'
