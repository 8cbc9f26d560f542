"""`pip install .` without extras: the library imports and encodes, with nothing of training and evaluation at hand.
And on systems other than POSIX: every module imports, and the command line encodes."""
import json, pkgutil, subprocess, sys
import numpy as np, pytest
import bilingual_embed
from test_house import CORE, DISTS, ROOT, closure

BARE = '''
import json, sys
hidden = set(json.loads(sys.argv[1]))
class Hide: # a finder that does not find some packages: as if they were not installed
    def __init__(self, f): self.f = f
    def __getattr__(self, k): return getattr(self.f, k)
    def find_spec(self, name, *a): return None if name.split('.')[0] in hidden else self.f.find_spec(name, *a)
sys.meta_path[:] = [Hide(f) for f in sys.meta_path]
'''
EXTRAS = 'pandas sklearn scipy matplotlib seaborn datasets accelerate mteb sentence_transformers pyarrow pytest'

def python(code, *args, timeout=300):
    command = [sys.executable, '-W', 'ignore', '-c', code, *map(str, args)]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=timeout)

@pytest.fixture(scope='module')
def bare():
    "Runs code in a process that sees the core requirements and their dependencies only"
    core = closure(CORE)
    hidden = sorted(top for top,ds in DISTS.items() if not ds & core and top != 'bilingual_embed')
    missing = set(EXTRAS.split()) - set(hidden)
    assert not missing, f"not hidden: {missing}"
    def run(code, *args): return python(BARE+code, json.dumps(hidden), *args)
    return run

def test_the_test_hides(bare):
    r = bare("import pandas")
    assert r.returncode and "No module named 'pandas'" in r.stderr

def test_import_registers_the_architecture(bare):
    r = bare("""
import bilingual_embed as b
from transformers import AutoConfig
print(AutoConfig.for_model('bilingual_jina_bert').model_type, 'load' in dir(b), hasattr(b, 'lod'))""")
    assert r.returncode == 0, r.stderr
    assert r.stdout.split() == ['bilingual_jina_bert','True','False']

ENCODE = """
import bilingual_embed, numpy as np
m = bilingual_embed.load(sys.argv[2], device='cpu')
np.save(sys.argv[3], m.encode(json.loads(sys.argv[4])))
assert isinstance(m, bilingual_embed.Embedder)
print(sorted(hidden & {n.split('.')[0] for n in sys.modules}), m.revision)"""
def test_encodes_without_extras(bare, model_folder, embedder, tmp_path):
    texts = ["Good morning, harbour.", "Guten Morgen, Hafen.", "ok"]
    r = bare(ENCODE, model_folder, tmp_path/'e.npy', json.dumps(texts))
    assert r.returncode == 0, r.stderr
    assert r.stdout.strip() == f'[] {embedder.revision}'
    np.testing.assert_allclose(np.load(tmp_path/'e.npy'), embedder.encode(texts), rtol=0, atol=1e-6)

COMMAND = "from bilingual_embed.cli import main; sys.exit(main(json.loads(sys.argv[2])))"
@pytest.mark.parametrize('extra,command', [
    ('train', ('train','--scale','sample')),
    ('train', ('evaluate','--model','en-de','--tests',ROOT/'data'/'sample')),
    ('train', ('plan','--scale','base','--tflops','1','--prepare-gb','1','--prepared','nowhere')),
    ('cluster', ('prepare','--config',ROOT/'data'/'cluster'/'local.yaml'))], ids=lambda x: x if isinstance(x, str) else x[0])
def test_says_what_to_install(bare, extra, command):
    r = bare(COMMAND, json.dumps([*map(str, command)]))
    assert r.returncode == 1 and f"pip install '.[{extra}]'" in r.stderr, r.stderr

# ---- Windows and macOS

# What Windows lacks: modules, and names of modules that it has. Other packages were built for this system and may use
# all of it, so they are imported before.
OTHERS = '''
import importlib
def load(name):
    try: importlib.import_module(name)
    except ModuleNotFoundError: pass
others = ('torch transformers.modeling_utils transformers.modeling_layers huggingface_hub accelerate datasets mteb '
          'pandas scipy.stats sklearn.linear_model matplotlib.pyplot pyarrow.parquet sentence_transformers')
for name in others.split(): load(name)
'''
LACKS = '''
import errno, os, signal, sys, types
os.environ.setdefault('USERNAME', 'somebody')
sys.modules['msvcrt'] = types.SimpleNamespace(LK_NBLCK=2, LK_UNLCK=0, locking=lambda fd, mode, n: None)
for name in ('fcntl','grp','pwd','resource','syslog','termios','tty','pty'): sys.modules[name] = None
for module,names in {os: 'fork mkfifo setsid killpg', errno: 'EDQUOT'}.items():
    for name in names.split():
        if hasattr(module, name): delattr(module, name)
'''
ELSEWHERE = OTHERS+LACKS
def modules(): return [m.name for m in pkgutil.walk_packages(bilingual_embed.__path__, 'bilingual_embed.')]

IMPORT = '''
import importlib, json
assert 'bilingual_embed' not in sys.modules
for name in json.loads(sys.argv[1]): importlib.import_module(name)
from bilingual_embed.core.io import is_disk_full, peak_memory
assert is_disk_full(OSError(errno.ENOSPC, 'full'))
peak_memory()
print('all imported')
'''
def test_every_module_imports_on_windows():
    names = modules()
    assert 'bilingual_embed.cli' in names and 'bilingual_embed.data.debian.source' in names
    r = python(ELSEWHERE+IMPORT, json.dumps(names))
    assert r.returncode == 0 and 'all imported' in r.stdout, r.stderr[-3000:]

COMMANDS = '''
import json
from bilingual_embed.cli import main
for command in json.loads(sys.argv[1]):
    try: code = main(command)
    except SystemExit as e: code = e.code
    assert not code, (command, code)
'''
def test_the_command_line_encodes_on_windows(model_folder, embedder, tmp_path):
    texts = ['Good morning, harbour.', 'Guten Morgen, Hafen.']
    (tmp_path/'t.txt').write_text('\n'.join(texts)+'\n', encoding='utf-8')
    encode = 'encode','--model',model_folder,tmp_path/'t.txt'
    search = 'search','--model',model_folder,tmp_path/'t.txt',texts[1],'-k',1
    commands = encode, [*encode, '--out', tmp_path/'v.npy'], search, ['doctor', '--help'], ['plan', '--help']
    r = python(ELSEWHERE+COMMANDS, json.dumps([[*map(str, c)] for c in commands]))
    assert r.returncode == 0, r.stderr[-3000:]
    want,lines = embedder.encode(texts),r.stdout.splitlines()
    np.testing.assert_allclose([json.loads(l) for l in lines[:2]], want, atol=1e-5)
    np.testing.assert_allclose(np.load(tmp_path/'v.npy'), want, atol=1e-5)
    assert texts[1] in lines[3]

def test_the_test_blocks():
    r = python(LACKS+"import fcntl")
    assert r.returncode and 'fcntl' in r.stderr
    r = python(LACKS+"os.mkfifo")
    assert r.returncode and 'mkfifo' in r.stderr
