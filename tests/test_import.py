"`pip install .` without extras: the library imports and encodes, with nothing of training and judging at hand"
import json, subprocess, sys
import numpy as np
import pytest
from test_house import CORE, DISTS, ROOT, closure

BARE = '''
import json, sys
hidden = set(json.loads(sys.argv[1]))
class Hide:                                     # a finder that does not find some packages: as if they were not installed
    def __init__(self, f): self.f = f
    def __getattr__(self, k): return getattr(self.f, k)
    def find_spec(self, name, *a): return None if name.split('.')[0] in hidden else self.f.find_spec(name, *a)
sys.meta_path[:] = [Hide(f) for f in sys.meta_path]
'''
@pytest.fixture(scope='module')
def bare():
    "Runs code in a process that sees the core requirements and their dependencies only"
    core = closure(CORE)
    hidden = sorted(top for top,ds in DISTS.items() if not ds & core and top != 'bilingual_embed')
    want = {'pandas','sklearn','scipy','matplotlib','seaborn','datasets','accelerate','mteb','sentence_transformers','pyarrow','pytest'}
    assert want <= set(hidden), f"not hidden: {want-set(hidden)}"
    def run(code, *args):
        return subprocess.run([sys.executable, '-c', BARE+code, json.dumps(hidden), *map(str, args)], cwd=ROOT, capture_output=True, text=True, timeout=300)
    return run

def test_the_test_hides(bare):
    r = bare("import pandas")
    assert r.returncode and "No module named 'pandas'" in r.stderr

def test_import_registers_the_architecture(bare):
    r = bare("import bilingual_embed as b; from transformers import AutoConfig; print(AutoConfig.for_model('bilingual_jina_bert').model_type, 'load' in dir(b), hasattr(b, 'lod'))")
    assert r.returncode == 0, r.stderr
    assert r.stdout.split() == ['bilingual_jina_bert','True','False']

def test_encodes_without_extras(bare, model_folder, embedder, tmp_path):
    texts = ["Good morning, harbour.", "Guten Morgen, Hafen.", "ok"]
    r = bare("""
import bilingual_embed, numpy as np
m = bilingual_embed.load(sys.argv[2], device='cpu'); np.save(sys.argv[3], m.encode(json.loads(sys.argv[4])))
assert isinstance(m, bilingual_embed.Embedder)
print(sorted(hidden & {n.split('.')[0] for n in sys.modules}), m.revision)""", model_folder, tmp_path/'e.npy', json.dumps(texts))
    assert r.returncode == 0, r.stderr
    assert r.stdout.strip() == f'[] {embedder.revision}'
    np.testing.assert_allclose(np.load(tmp_path/'e.npy'), embedder.encode(texts), rtol=0, atol=1e-6)
