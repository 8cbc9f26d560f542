"The index: killed at any moment, damaged, changed, and asked for what it cannot do"
import errno, json, os, shutil, signal, sys, tracemalloc
from pathlib import Path
import numpy as np, pytest
from test_cli import call, TEXTS
from bilingual_embed.core.io import DiskFull, locked
from bilingual_embed.data.files import Output, Row
from bilingual_embed.data.quantization import calibrate, quantize_embeddings, Quantized
from bilingual_embed.inference.embed import Embedder
from bilingual_embed.inference.index import build_index, Index, IndexFolderError
from bilingual_embed.inference.search import top_k
faiss = pytest.importorskip('faiss')
faiss.omp_set_num_threads(1)

D = 16
g = np.random.default_rng(0)
def unit(x): return (x/np.linalg.norm(x, axis=-1, keepdims=True)).astype(np.float32)
X,QUERIES = unit(g.normal(size=(600,D))),unit(g.normal(size=(20,D)))
def rows(n, first=0): return [Row(f'text {i}', (i,), 'a.txt', i+1) for i in range(first, first+n)]
def ids(n, first=0): return [f'id{i}' for i in range(first, first+n)]
def texts(index, at): return [[index.row(i).text for i in row] for row in at.tolist()]

@pytest.fixture
def index(tmp_path): return build_index(tmp_path/'i', X[:400], rows(400), ids(400), 'hnsw', ['id','n'], dict(model='m'))

def test_adding_gives_what_building_gives(index, tmp_path):
    whole = build_index(tmp_path/'whole', X, rows(600), ids(600))
    index.add(X[400:], rows(200, 400), ids(200, 400))
    right = top_k(QUERIES, X, 5)[1]
    for i in (index,whole,Index(index.folder)):
        score,at = i.search(QUERIES, 5, effort=600)
        np.testing.assert_array_equal(at, right)
        np.testing.assert_allclose(score, np.take_along_axis(QUERIES @ X.T, right, 1), atol=1e-6)
    assert index.row(500) == Row('text 500', ['id500',500], 'a.txt', 501)
    assert index.measure(effort=600)['recall'] == index.measure(QUERIES, effort=600)['recall'] == 1

@pytest.mark.parametrize('kind', ['flat','hnsw'])
def test_what_is_removed_is_not_found(tmp_path, kind):
    "Also where nearly all are removed, so that the graph gives too few; rebuilt without them, the answers are the same"
    index = build_index(tmp_path/'i', X, rows(600), ids(600), kind)
    gone = [i for i in range(600) if i % 20]
    index.remove(ids(600)[i] for i in gone)
    left = np.setdiff1d(np.arange(600), gone)
    right = [[f'text {left[i]}' for i in row] for row in top_k(QUERIES, X[left], 8)[1]]
    assert texts(index, index.search(QUERIES, 8)[1]) == right
    assert index.search(QUERIES, 1000)[1].shape == (20,30)                       # more than there are: all
    size = sum(p.stat().st_size for p in index.folder.iterdir())
    index.rebuild()
    assert texts(index, index.search(QUERIES, 8, effort=30)[1]) == right
    assert sum(p.stat().st_size for p in index.folder.iterdir()) < size/5
    assert 'text 1"' not in index.files['rows'].read_text()
    index.add(X[1:2], rows(1, 1), ['id1'])                                       # the id is free again
    assert texts(index, index.search(X[1:2], 1)[1]) == [['text 1']]

def test_too_few_from_the_graph(index, monkeypatch):
    "As where the lists that were looked into are nearly empty: the exact search answers"
    def near(graph, kind, queries, n, effort, removed): return np.array([[5] + [-1]*(n-1)]*len(queries))
    monkeypatch.setattr('bilingual_embed.inference.index._near', near)
    np.testing.assert_array_equal(index.search(QUERIES, 4)[1], top_k(QUERIES, X[:400], 4)[1])

def test_ivfpq_passes_over_what_is_removed(tmp_path):
    n = 10_000
    x = unit(g.normal(size=(n,16)))
    index = build_index(tmp_path/'i', x, rows(n), ids(n), 'ivfpq')
    nearest = index.search(x[:9], 10)[1]
    assert nearest[:,0].tolist() == list(range(9))
    index.remove(ids(9))
    assert index.search(x[:9], 10)[1].min() > 8
    index.add(x[:1], rows(1), ['again'])
    assert index.search(x[:1], 10)[1][0,0] == n

def test_counted_ids_go_on_and_codes_are_taken(tmp_path):
    ranges = calibrate(X)
    codes = Quantized(quantize_embeddings(X, 'int8', ranges), 'int8', D, ranges)
    index = build_index(tmp_path/'i', codes, rows(600))
    assert index.measure(QUERIES)['recall'] > .9
    index.remove(['600'])
    index.rebuild('flat')
    index.add(X[:1], rows(1))
    assert list(index.ids())[-2:] == ['599','601']

def peak_memory(f):
    "Bytes that Python and NumPy took beyond what they had"
    tracemalloc.start()
    try:
        f()
        return tracemalloc.get_traced_memory()[1]
    finally: tracemalloc.stop()

LONG = [Row(f'{i:4} '*60_000, (), 'a.txt', i+1) for i in range(40)]              # 12 MB

def test_rebuilding_takes_the_memory_of_a_text(tmp_path, monkeypatch):
    "And one file is opened, not one for each text"
    index = build_index(tmp_path/'i', X[:40], LONG, kind='flat')
    index.remove(['1'])
    opened,real = [],open
    def counting(path, *a):
        opened.append(path)
        return real(path, *a)
    monkeypatch.setattr('bilingual_embed.inference.index.open', counting, raising=False)
    before = index.files['rows']
    assert peak_memory(index.rebuild) < 4e6
    assert 1 <= opened.count(before) < 5
    assert [index.row(i) for i in (0,38)] == [LONG[1]._replace(kept=['2']), LONG[39]._replace(kept=['40'])]

# ---- stopped and damaged

def deadly(at):
    "Kill this process at that call of those that put something on disk, or name it, or take it away"
    calls = []
    for owner,name in ((os,'fsync'), (os,'replace'), (Path,'unlink')):
        def f(*a, real=getattr(owner, name), **k):
            calls.append(1)
            if len(calls) == at: os.kill(os.getpid(), signal.SIGKILL)
            return real(*a, **k)
        setattr(owner, name, f)

@pytest.mark.skipif(sys.platform != 'linux', reason="forks")
@pytest.mark.parametrize('what', ['add','remove','rebuild'])
def test_killed_at_every_moment(index, tmp_path, what):
    "The folder is as before or as after, and the same command ends well"
    index.remove(['id7'])
    change = dict(add=lambda i: i.add(X[400:], rows(200, 400), ids(200, 400)), remove=lambda i: i.remove(['id8']),
                  rebuild=lambda i: i.rebuild())[what]
    state = shutil.copytree(index.folder, tmp_path/'after')
    change(Index(state))
    before,after = list(index.ids()),list(Index(state).ids())
    for at in range(1, 20):
        folder = shutil.copytree(index.folder, tmp_path/f'{at}')
        if not (pid := os.fork()):
            deadly(at)
            change(Index(folder))
            os._exit(0)
        died = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
        found = Index(folder)
        found.search(QUERIES)
        if list(found.ids()) == before and died: change(found)
        assert list(Index(folder).ids()) == after
        assert Index(folder).measure(QUERIES)['recall'] > .9
        if not died: break
    assert not died and at > 2

@pytest.mark.parametrize('part', ['vectors','rows','at'])
def test_cut_short(index, part):
    with open(index.files[part], 'rb+') as f: f.truncate(100)
    with pytest.raises(IndexFolderError, match='cut short; build the index anew'): Index(index.folder)

@pytest.mark.parametrize('content', [b'', b'IHNs' + b'\xff'*99, None])
def test_a_damaged_graph_is_made_again(index, content):
    path = index.files['graph']
    if content is None: path.unlink()
    else: path.write_bytes(content)
    for f in (lambda: Index(index.folder).search(QUERIES), lambda: Index(index.folder).add(X[:1], rows(1), ['x'])):
        with pytest.raises(IndexFolderError, match='index rebuild'): f()
    index.rebuild()
    assert index.measure(QUERIES)['recall'] > .9

def test_another_version_and_a_damaged_record(index):
    path = index.folder/'index.json'
    d = json.loads(path.read_text())
    damaged = [(d | dict(version=2), 'another version of this library'), ({'version': 1}, 'damaged'), ([], 'not an object'),
               (d | dict(files=5), 'damaged'), (d | dict(removed='x'), 'damaged')]
    for content,words in damaged:
        path.write_text(json.dumps(content))
        with pytest.raises(IndexFolderError, match=words): Index(index.folder)

def test_refused(index, tmp_path):
    "Nothing has changed afterwards"
    before = {p.name: p.read_bytes() for p in index.folder.iterdir()}
    bad = np.where(np.arange(D) == 3, np.nan, X[:2])
    for f,error,words in ((lambda: index.remove(['id1','no','no2']), IndexFolderError, "'no' and 1 more; nothing was removed"),
                          (lambda: index.add(X[:1], rows(1), ['id1']), IndexFolderError, "'id1' is there already"),
                          (lambda: index.add(X[:2], rows(2), ['a','a']), IndexFolderError, "'a' is there already"),
                          (lambda: index.add(X[:2,:8], rows(2), ['a','b']), IndexFolderError, r'wants \(n,16\)'),
                          (lambda: index.search(QUERIES[:,:8]), IndexFolderError, r'wants \(Q,16\)'),
                          (lambda: index.search(QUERIES, 0), ValueError, 'k must be at least 1'),
                          (lambda: index.rebuild('ivfpq'), IndexFolderError, 'at least 9,984 texts, and there are 400'),
                          (lambda: index.rebuild('tree'), ValueError, 'one of flat, hnsw, ivfpq'),
                          (lambda: build_index(tmp_path/'j', X[:2], rows(2), ['a','a']), IndexFolderError, 'there twice'),
                          (lambda: build_index(tmp_path/'j', X[:0], []), IndexFolderError, 'at least one text')):
        with pytest.raises(error, match=words): f()
    assert {p.name: p.read_bytes() for p in index.folder.iterdir()} == before
    for f,words in ((lambda: index.add(bad, rows(2), ['a','b']), 'vector 0 is not finite'),
                    (lambda: index.add(X[:2], rows(1), ['a','b']), '1 texts and 2 vectors')):
        with pytest.raises(ValueError, match=words): f()
        assert len(Index(index.folder)) == 400 and Index(index.folder).search(QUERIES)[1].max() < 400
    with locked(index.folder/'lock'), pytest.raises(IndexFolderError, match='by another process'): index.remove(['id1'])

def test_full_disk(index, monkeypatch):
    def full(*a): raise OSError(errno.ENOSPC, 'No space left on device')
    def add(): index.add(X[400:], rows(200, 400), ids(200, 400))
    with monkeypatch.context() as m:
        m.setattr(os, 'fsync', full)
        for f in (add, lambda: index.remove(['id1'])):
            with pytest.raises(DiskFull, match='the index is as it was'): f()
    with monkeypatch.context() as m:
        def cannot_write(*a): raise RuntimeError('write error')
        m.setattr(faiss, 'write_index', cannot_write)
        with pytest.raises(DiskFull, match='FAISS could not write .* as it was'): add()
    assert len(Index(index.folder)) == 400
    add()
    assert len(Index(index.folder)) == 600 and index.measure(QUERIES)['recall'] > .9

def test_without_faiss(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, 'faiss', None)
    with pytest.raises(ModuleNotFoundError, match=r"pip install '\.\[index\]'"): build_index(tmp_path/'i', X, rows(600))
    assert len(build_index(tmp_path/'flat', X, rows(600), kind='flat')) == 600

# ---- the command

@pytest.fixture(scope='module')
def files(tmp_path_factory):
    d = tmp_path_factory.mktemp('texts')
    lines = [json.dumps(dict(id=i, text=t, n=-i)) for i,t in enumerate(TEXTS)]
    (d/'some.jsonl').write_text('\n'.join(lines[:200]))
    (d/'all.jsonl').write_text('\n'.join(lines))
    (d/'changed.jsonl').write_text(json.dumps(dict(id=3, text='another', n=0)))
    (d/'unnamed.jsonl').write_text('{"text": "a", "n": 1}\n{"id": 1, "text": "b", "n": 1}')
    return d

def good(*args):
    code,out,err = call(*args)
    assert code == 0, err
    return out

def test_the_command(model_folder, embedder, files, tmp_path):
    "Built from vectors in a file, added to, removed from, asked"
    how = '--model',model_folder,'--field','text','--id','id','--keep','n'
    good('encode', '--model', model_folder, files/'some.jsonl', '--field', 'text', '--out', tmp_path/'v.npy')
    out = good('index', 'build', tmp_path/'i', files/'some.jsonl', *how, '--vectors', tmp_path/'v.npy')
    assert '200 texts' in out and 'recall of the 10 nearest' in out and 'memory' in out and 'built in' in out, out
    assert '100 texts added; 200 were there already' in good('index', 'add', tmp_path/'i', files/'all.jsonl', *how)
    search = 'search','--model',model_folder,'--index',tmp_path/'i','--jsonl',TEXTS[7]
    found = [json.loads(l) for l in good(*search, '-k', 3, '--effort', 300).splitlines()]
    s = embedder.encode(TEXTS) @ embedder.encode(TEXTS[7])
    assert [r['text'] for r in found] == [TEXTS[i] for i in np.argsort(-s, kind='stable')[:3]]
    assert (found[0]['id'], found[0]['n'], found[0]['line']) == ('7',-7,8)
    good('index', 'remove', tmp_path/'i', 7, '8')
    code,out,err = call('index', 'remove', tmp_path/'i', '-', stdin=b'9\n10\n')
    assert code == 0 and '296 texts, 4 removed' in out, err
    assert '"id": "7"' not in good(*search)
    (tmp_path/'q.txt').write_text('\n'.join(t.partition('\n')[0] for t in TEXTS[:50]))
    assert 'from 50 queries' in good('index', 'recall', tmp_path/'i', '--model', model_folder, '--queries', tmp_path/'q.txt')
    assert 'Index' in good('index', 'rebuild', tmp_path/'i', '--kind', 'flat')
    assert sorted(p.name.partition('-')[0] for p in (tmp_path/'i').iterdir()) == ['at','index.json','lock','rows','vectors']

def test_the_command_goes_on(model_folder, files, tmp_path, monkeypatch):
    "Stopped among its texts, and after them: what is encoded is kept"
    build = 'index','build',tmp_path/'i',files/'all.jsonl','--model',model_folder,'--field','text'
    stream,encoded = Embedder.encode_stream,[]
    def counting(self, texts, **how):
        def seen():
            for t in texts:
                encoded.append(t)
                yield t
        return stream(self, seen(), **how)
    monkeypatch.setattr(Embedder, 'encode_stream', counting)
    monkeypatch.setattr('bilingual_embed.inference.embed._blocks.__defaults__', (16,10**6))
    with monkeypatch.context() as m:
        def stopped(self, vectors, rows, texts):
            if self.rows == 32: raise KeyboardInterrupt
            return add(self, vectors, rows, texts)
        add = Output.add
        m.setattr(Output, 'add', stopped)
        assert call(*build)[0] == 130
    with monkeypatch.context() as m:
        def full(*a): raise OSError(errno.ENOSPC, 'No space left on device')
        m.setattr(faiss, 'write_index', full)
        code,_,err = call(*build)
        assert code == 1 and 'continuing after the 32 texts' in err and 'the disk is full' in err, err
    before = len(encoded)
    good(*build)
    assert len(encoded) == before == 300+16, before
    assert not list((tmp_path/'i').glob('new*'))

def test_adding_takes_the_memory_of_a_text(model_folder, embedder, tmp_path):
    x = unit(g.normal(size=(40,embedder.dim)))
    np.save(tmp_path/'v.npy', x)
    (tmp_path/'a.jsonl').write_text('\n'.join(json.dumps(dict(id=i, text=r.text)) for i,r in enumerate(LONG)))
    about = dict(id='id', model=embedder.revision, prompt='')
    build_index(tmp_path/'i', x[:1], LONG[:1], ['0'], 'flat', about=about)
    add = 'index','add',tmp_path/'i',tmp_path/'a.jsonl','--model',model_folder,'--field','text','--id','id'
    assert peak_memory(lambda: good(*add, '--vectors', tmp_path/'v.npy')) < 6e6
    index = Index(tmp_path/'i')
    assert [r.text for r in index.rows(range(40))] == [r.text for r in LONG]
    np.testing.assert_allclose(index.vectors, x, atol=1e-6)

def test_an_add_that_came_in_is_not_repeated(model_folder, files, tmp_path, monkeypatch):
    "Counted texts: stopped anywhere between the texts' coming in and the end; but given again, they are added again"
    few = tmp_path/'few.txt'
    few.write_text('one\ntwo\nthree\n')
    def command(action, *more): return 'index',action,tmp_path/'i',few,'--model',model_folder,*more
    good(*command('build', '--kind', 'flat'))
    unlink,n = Path.unlink,3
    def stopped(*a): raise KeyboardInterrupt
    def stop_at(name):
        def f(self, **k): stopped() if self.name == name and self.exists() else unlink(self, **k)
        return f
    for owner,name,f in ((Path,'unlink',stop_at('new.npy')), (Path,'unlink',stop_at('new.npy.json')), (Index,'settle',stopped)):
        with monkeypatch.context() as m:
            m.setattr(owner, name, f)
            assert call(*command('add'))[0] == 130
        n += 3
        good('index', 'rebuild', tmp_path/'i')
        assert 'these 3 texts came in before' in good(*command('add'))
        assert len(Index(tmp_path/'i')) == n and not list((tmp_path/'i').glob('new*'))
    assert '3 texts added' in good(*command('add'))
    with monkeypatch.context() as m:
        m.setattr('bilingual_embed.inference.index._commit', stopped)
        assert call(*command('add'))[0] == 130
    assert '3 texts added' in good(*command('add'))
    assert len(Index(tmp_path/'i')) == n+6

def test_refused_before_texts_are_encoded(model_folder, files, tmp_path, monkeypatch):
    def encode(*a, **k): raise AssertionError("encoded")
    monkeypatch.setattr(Embedder, 'encode_stream', encode)
    build_index(tmp_path/'i', X[:1], rows(1), ['x'], about=dict(id='id'))
    some,new = files/'some.jsonl',tmp_path/'new'
    def refused(action, folder, *args):
        code,_,err = call('index', action, folder, *args, '--model', model_folder, '--field', 'text', '--id', 'id')
        assert code in (1,2) and not new.exists(), err
        return err
    assert "the id '0' is there twice" in refused('build', new, some, some)
    assert "the id '0' is there already" in refused('add', tmp_path/'i', some, some)
    assert 'ivfpq learns its codes from at least' in refused('build', new, some, '--kind', 'ivfpq')
    monkeypatch.setitem(sys.modules, 'faiss', None)
    for args in (('build',new), ('add',tmp_path/'i')): assert 'an index needs FAISS' in refused(*args, some)

def test_the_command_refuses(model_folder, files, tmp_path):
    other = tmp_path/'other'
    shutil.copytree(model_folder, other)
    (other/'tokenizer.json').write_text((other/'tokenizer.json').read_text()+' ')
    asks = tmp_path/'asks'
    shutil.copytree(model_folder, asks)
    i,some = tmp_path/'i',files/'some.jsonl'
    how = '--field','text','--id','id'
    good('index', 'build', i, some, '--model', model_folder, *how, '--kind', 'flat')
    good('encode', '--model', model_folder, files/'all.jsonl', '--field', 'text', '--out', tmp_path/'v.npy')
    d = json.loads((i/'index.json').read_text())
    (asks/'index.json').write_text(json.dumps(d | dict(about=d['about'] | dict(prompt='passage: '))))
    for p in i.glob('*-*'): shutil.copy(p, asks)
    model = '--model',model_folder
    for args,words in ((('index','build',i,some,*model,*how), 'is an index already'),
                       (('index','build',tmp_path/'j',*model), 'give the files'),
                       (('index','build',tmp_path/'j',some,*how), '--model names'),
                       (('index','build',tmp_path/'j',some,*model,*how,'--kind','ivfpq'), 'at least 9,984 texts'),
                       (('index','build',tmp_path/'j',some,*model,*how,'--vectors',tmp_path/'v.npy'), 'has 300 rows and there are 200'),
                       (('index','build',tmp_path/'j',some,some,*model,*how), "the id '0' is there twice"),
                       (('index','build',tmp_path/'j',some,*model,'--field','text','--id','text'), 'name another field'),
                       (('index','build',tmp_path/'j',files/'unnamed.jsonl',*model,*how), "line 1 has no 'id' to name it by"),
                       (('index','add',i,files/'changed.jsonl',*model,*how), "1 of the texts have changed"),
                       (('index','add',i,some,*model,'--field','text'), 'holds texts with --id id; give the same'),
                       (('index','add',i,files/'all.jsonl','--model',other,*how), 'by another model'),
                       (('index','add',tmp_path/'none',some,*model,*how), 'is no index; make one'),
                       (('index','remove',i), 'give the ids'),
                       (('index','remove',i,5,'x'), "no text with the id 'x'; nothing was removed"),
                       (('index','recall',i,'x'), 'takes no files'),
                       (('search','--index',i,'--model',other,'x'), 'by another model'),
                       (('search','--index',asks,*model,'x'), "with the prompt 'passage: '"),
                       (('search','--index',i,*model,'--truncate-dim',8,'x'), '--truncate-dim is 8'),
                       (('search','--index',i,*model,some,'x'), 'an index has its own texts'),
                       (('search','--index',i,*model,'--keep','n','x'), 'belong to files'),
                       (('search',some,*model,'--field','text','--effort',3,'x'), '--effort belongs to --index')):
        code,out,err = call(*args)
        assert code == 2 and words in err and 'Traceback' not in err and not out, (args, code, out, err)
    assert len(Index(i)) == 200
