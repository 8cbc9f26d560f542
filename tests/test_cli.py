"The commands as a user types them"
import contextlib, gzip, importlib.util, io, itertools, json, os, resource, shutil, signal, subprocess, sys, tempfile, time
from pathlib import Path
from unittest.mock import patch
import numpy as np, pyarrow as pa, pyarrow.parquet as pq, pytest
from hypothesis import example, given, settings, strategies as st
from bilingual_embed import embed as embed_room
from bilingual_embed.cli import main

def run(*args, stdin=None):
    return subprocess.run([sys.executable, '-W', 'ignore', '-m', 'bilingual_embed.cli', *map(str, args)], input=stdin, capture_output=True, text=True)

@pytest.mark.parametrize('command', [(), ('train',), ('encode',), ('search',), ('evaluate',), ('mteb',), ('plan',), ('export',), ('doctor',)])
def test_help(command):
    r = run(*command, '--help')
    assert r.returncode == 0 and 'bilingual-embed' in r.stdout and not r.stderr
    if command: assert 'example' in r.stdout

def test_encode_from_stdin(model_folder, embedder):
    texts = ['Good morning, harbour.', 'Guten Morgen, Hafen.']
    r = run('encode', '--model', model_folder, stdin='\n'.join(texts))
    assert r.returncode == 0, r.stderr
    np.testing.assert_allclose([json.loads(l) for l in r.stdout.splitlines()], embedder.encode(texts), atol=1e-5)

@pytest.mark.parametrize('args,words', [(('encode','--model','nowhere'), 'nowhere'), (('train','--scale','sample','--langs','en-xx'), 'unknown language'), (('train','--scale','sample','--source','no/such/folder'), 'neither auto'),
                                        (('evaluate','--model','nowhere','--tests','nowhere'), 'nowhere'), (('train','--scale','huge'), 'invalid choice'), (('export','nowhere','out'), 'nowhere'), (('mteb','--suite','de'), '--model'), (('mteb','--suite','de','--prepare'), '--data'), (('export','nowhere','out','--format','gif'), 'invalid choice')])
def test_mistakes_get_a_sentence(args, words):
    r = run(*args, stdin='text\n')
    assert r.returncode == 2 and words in r.stderr and 'Traceback' not in r.stderr, r.stderr

# ---- encode

def call(*args, stdin=b''): # the same in this process: exit code, stdout, stderr
    o,e = io.StringIO(),io.StringIO()
    with contextlib.redirect_stdout(o), contextlib.redirect_stderr(e), patch('sys.stdin', io.TextIOWrapper(io.BytesIO(stdin))):
        try: code = main([*map(str, args)])
        except SystemExit as x: code = x.code
    return code,o.getvalue(),e.getvalue()

TEXTS = [f'{a} {i}, "{b}"' + '\nand more'*(i % 5 == 0) for i,(a,b) in zip(range(300), itertools.cycle([('The boats lie in the harbour','fog'), ('Im Hafen liegen die Boote','Nebel'), ('The market opens','soon')]))]
# texts, instead of 2048: many blocks of few texts
BLOCK = 16
SMALL = f"import sys, bilingual_embed.inference.embed as e; e._blocks.__defaults__ = ({BLOCK},10**6); from bilingual_embed.cli import main; sys.exit(main(sys.argv[1:]))"

@pytest.fixture
def small_blocks(monkeypatch): monkeypatch.setattr(embed_room._blocks, '__defaults__', (BLOCK,10**6))

def table(sep):
    return 'id%stext\r\n' % sep + ''.join(f'{i}{sep}"{t.replace(chr(34), chr(34)*2)}"\r\n' for i,t in enumerate(TEXTS))
@pytest.fixture(scope='module')
def files(tmp_path_factory):
    "The same texts in every format; plain lines cannot hold those with a line end inside"
    d = tmp_path_factory.mktemp('texts')
    jsonl = ''.join(json.dumps(dict(id=i, text=t))+'\n' for i,t in enumerate(TEXTS))
    for name,text in {'a.jsonl': jsonl, 'a.csv': table(','), 'a.tsv': table('\t'), 'semi.csv': table(';'), 'a.log': jsonl, 'a.txt': ''.join(t.replace('\n', ' ')+'\n' for t in TEXTS)}.items():
        (d/name).write_bytes(text.encode())
        (d/f'{name}.gz').write_bytes(gzip.compress(text.encode()))
    pq.write_table(pa.table(dict(id=pa.array(range(300), pa.int32()), text=TEXTS, other=[[1.]]*300)), d/'a.parquet', row_group_size=70)
    return d

@pytest.mark.parametrize('name,more', [('a.jsonl',()), ('a.csv',()), ('a.tsv',()), ('a.parquet',()), ('a.csv.gz',()), ('a.tsv.gz',()), ('a.jsonl.gz',()), ('a.log',()), ('a.log',('--format','jsonl')), ('semi.csv',('--delimiter',';')),
                                       ('-.a.jsonl',('--format','jsonl')), ('-.a.csv',('--format','csv')), ('-.a.tsv',('--format','tsv')), ('-.a.jsonl',()), ('a.txt',()), ('a.txt.gz',()), ('-.a.txt',())], ids=lambda x: x if isinstance(x, str) else ''.join(x))
def test_every_format_gives_the_same_vectors(files, model_folder, embedder, tmp_path, name, more):
    stdin = (files/name[2:]).read_bytes() if name.startswith('-.') else b''
    plain = '.txt' in name
    code,out,err = call('encode', '--model', model_folder, '-' if stdin else files/name, *([] if plain else ['--field','text']), *more, '--out', tmp_path/'v.npy', stdin=stdin)
    assert code == 0, err
    np.testing.assert_array_equal(np.load(tmp_path/'v.npy'), embedder.encode([t.replace('\n', ' ') for t in TEXTS] if plain else TEXTS))
    assert sorted(p.name for p in tmp_path.iterdir()) == ['v.npy','v.npy.json'] and '300 texts' in err

@pytest.mark.parametrize('name,ids,kind', [('a.jsonl', list(range(300)), 'int64'), ('a.csv', [str(i) for i in range(300)], 'string'), ('a.parquet', list(range(300)), 'int32')])
def test_kept_columns(files, model_folder, embedder, tmp_path, small_blocks, name, ids, kind):
    x = embedder.encode(TEXTS)
    how = 'encode', '--model', model_folder, files/name, '--field', 'text', '--keep', 'id,text', '--out'
    assert call(*how, tmp_path/'v.parquet')[0] == 0
    t = pq.read_table(tmp_path/'v.parquet')
    assert t['id'].to_pylist() == ids and t['text'].to_pylist() == TEXTS and str(t.schema.field('id').type) == kind and str(t.schema.field('embedding').type) == 'fixed_size_list<element: float>[32]'
    np.testing.assert_allclose(np.array(t['embedding'].to_pylist()), x, rtol=0, atol=1e-6)
    assert json.loads(t.schema.metadata[b'bilingual_embed'])['model'] == embedder.revision
    assert call(*how, tmp_path/'v.jsonl')[0] == 0
    rows = [json.loads(l) for l in (tmp_path/'v.jsonl').read_text().splitlines()]
    assert [r['id'] for r in rows] == ids and [r['text'] for r in rows] == TEXTS
    np.testing.assert_allclose([r['embedding'] for r in rows], x, rtol=0, atol=2e-6)

OUT = [('npy',()), ('jsonl',('--keep','id')), ('parquet',('--keep','id,text'))]
def outputs(d): return {p.name: p.read_bytes() for p in d.iterdir()}

@pytest.mark.parametrize('kind,keep', OUT, ids=[k for k,_ in OUT])
def test_killed_encode_equals_unbroken(files, model_folder, tmp_path, small_blocks, kind, keep):
    for d in ('whole','broken'): (tmp_path/d).mkdir()
    how = lambda d: ['encode', '--model', str(model_folder), *[str(files/'a.csv')]*12, '--field', 'text', *keep, '--out', str(tmp_path/d/f'v.{kind}')]
    assert call(*how('whole'))[0] == 0
    note,done = tmp_path/'broken'/f'v.{kind}.part.json',0
    for kill in range(2):
        p = subprocess.Popen([sys.executable, '-W', 'ignore', '-c', SMALL, *how('broken')], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        while p.poll() is None and not (note.exists() and json.loads(note.read_text())['rows'] > done + 2*BLOCK):
            time.sleep(.002)
        assert p.poll() is None, "it was done before the blow"
        p.send_signal(signal.SIGKILL)
        p.wait()
        done = json.loads(note.read_text())['rows']
        assert 0 < done < 12*300
    code,_,err = call(*how('broken'))
    assert code == 0 and f'goes on behind the {done:,} texts' in err, err
    assert outputs(tmp_path/'whole') == outputs(tmp_path/'broken')

MOMENTS = """
import os, signal, sys
from pathlib import Path
import pyarrow.parquet, bilingual_embed.inference.embed as e
from bilingual_embed.cli import main
e._blocks.__defaults__ = (16,10**6); model = e.load(sys.argv[1]); model.revision; e.load = lambda *a: model; folder = Path(sys.argv[2]); real = {(o,n): getattr(o, n) for o,n in ((os,'fsync'), (os,'replace'), (Path,'unlink'))}
def child(args, at=None, after=False): # in a process of its own; at: it kills itself there, before or after what it would do
    if pid := os.fork(): return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
    calls = 0
    def deadly(f):
        def g(*a, **k):
            nonlocal calls; calls += 1
            if calls-1 == at and not after: os.kill(os.getpid(), signal.SIGKILL)
            r = f(*a, **k)
            if calls-1 == at: os.kill(os.getpid(), signal.SIGKILL)
            return r
        return g
    for (o,n),f in real.items(): setattr(o, n, deadly(f))
    os.dup2(os.open(os.devnull, os.O_WRONLY), 2); os._exit(main(args))
files = lambda d: {p.name: p.read_bytes() for p in d.iterdir()}
total = 0
for kind,*keep in (('npy',), ('jsonl','--keep','id'), ('parquet','--keep','id,text')):
    whole,at = folder/kind,0; whole.mkdir(); args = lambda d: ['encode', '--model', sys.argv[1], sys.argv[3], '--field', 'text', *keep, '--out', str(d/f'v.{kind}')]
    assert child(args(whole)) == 0
    while True:
        d = folder/f'{kind}{at}'; d.mkdir(); died = child(args(d), at//2, at % 2)
        if died == 0: assert at > 12; break
        assert died == -9 and child(args(d)) == 0 and files(d) == files(whole), (kind, at, died, sorted(files(d)), sorted(files(whole))); at += 1; total += 1
print(total)
"""
def test_killed_at_every_moment(files, model_folder, tmp_path):
    "Before and after each call that puts something on disk, gives it its name or takes it away"
    few = tmp_path/'few.csv'
    few.write_text('id,text\n' + ''.join(f'{i},text {i}\n' for i in range(40)))
    r = subprocess.run([sys.executable, '-W', 'ignore', '-c', MOMENTS, str(model_folder), str(tmp_path), str(few)], capture_output=True, text=True, timeout=170)
    assert r.returncode == 0 and int(r.stdout) > 40, r.stderr[-2000:]

@pytest.fixture
def stopped(files, model_folder, tmp_path, small_blocks):
    "An encode from standard input that was stopped after a few blocks"
    how = 'encode', '--model', model_folder, '--field', 'text', '--out', tmp_path/'v.npy'
    bad = table(',').splitlines(keepends=True)
    i = next(i for i,l in enumerate(bad) if i > 250 and l.count('"') == 6)
    code,_,err = call(*how, '--format', 'csv', stdin=''.join(bad[:i]+['7\r\n']+bad[i:]).encode())
    assert code == 2 and 'has 1 values for 2 columns' in err, err
    return how,tmp_path

def test_resume_from_standard_input(stopped, embedder, model_folder, tmp_path_factory):
    how,d = stopped
    csv = ('--format','csv')
    before = outputs(d)
    assert 0 < json.loads(before['v.npy.part.json'])['rows'] < 300
    other = tmp_path_factory.mktemp('m')/'other'
    shutil.copytree(model_folder, other)
    (other/'tokenizer.json').write_text((other/'tokenizer.json').read_text()+' ')
    for args,stdin,say in ((how, table(',').replace('market', 'shop'), 'not those'), (how, 'id,text\n1,too short\n', 'not those'), ((*how, '--dim', 8), table(','), 'dim was 32, now 8'), ((*how, '--max-length', 9), table(','), 'max_length was'),
                           (('encode','--model',other,*how[3:]), table(','), f"model was '{embedder.revision}'")):
        code,_,err = call(*args, *csv, stdin=stdin.encode())
        assert code == 2 and say in err and '--restart' in err, err
        assert outputs(d) == before                                                             # nothing is touched
    code,_,err = call(*how, *csv, stdin=table(',').encode())
    assert code == 0 and 'goes on behind' in err, err
    np.testing.assert_allclose(np.load(d/'v.npy'), embedder.encode(TEXTS), rtol=0, atol=1e-6)

def test_restart_and_skip_bad(stopped):
    how,d = stopped
    code,_,err = call(*how, '--format', 'csv', '--restart', '--skip-bad', stdin=b'id,text\n1,a\n2\n3,\n4,b\n')
    assert code == 0 and '2 rows left out; the first: -, line 3 has 1 values' in err and np.load(d/'v.npy').shape == (2,32), err

def test_full_disk(files, model_folder, tmp_path, small_blocks):
    how = ['encode', '--model', str(model_folder), str(files/'a.csv'), '--field', 'text', '--out', str(tmp_path/'v.npy')]
    r = subprocess.run([sys.executable, '-W', 'ignore', '-c', SMALL, *how], capture_output=True, text=True, preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (20_000,20_000)))
    assert r.returncode == 1 and 'are done and kept in' in r.stderr and 'make room' in r.stderr and 'Traceback' not in r.stderr, r.stderr
    assert 0 < json.loads((tmp_path/'v.npy.part.json').read_text())['rows'] < 300 and not (tmp_path/'v.npy').exists()
    assert call(*how)[0] == 0
    got = outputs(tmp_path)
    assert call(*how)[0] == 0 and outputs(tmp_path) == got
    with open('/dev/full', 'w') as full:
        r = subprocess.run([sys.executable, '-W', 'ignore', '-c', SMALL, *how[:-2]], stdout=full, stderr=subprocess.PIPE, text=True)
    assert r.returncode == 1 and 'No space left' in r.stderr and 'Traceback' not in r.stderr and 'ignored' not in r.stderr, r.stderr

def test_without_pyarrow(files, model_folder, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, 'pyarrow', None)
    for args in ((files/'a.parquet','--field','text'), (files/'a.txt','--out',tmp_path/'v.parquet')):
        code,_,err = call('encode', '--model', model_folder, *args)
        assert code == 1 and "pip install '.[files]'" in err and 'fault' not in err, err
    code,_,err = call('search', '--model', model_folder, files/'a.parquet', '--field', 'text', 'x')
    assert code == 1 and "pip install '.[files]'" in err, err
    assert call('encode', '--model', model_folder, files/'a.csv', '--field', 'text', '--out', tmp_path/'v.npy')[0] == 0 and len(outputs(tmp_path)) == 2

# ---- search

def test_search_over_two_files(model_folder, embedder, files, tmp_path):
    (tmp_path/'more.jsonl').write_text(json.dumps(dict(id='x', text='Ein ganz anderer Satz über das Wetter.'))+'\n')
    (tmp_path/'q.txt').write_text(TEXTS[7]+'\nEin ganz anderer Satz über das Wetter.\n')
    how = 'search', '--model', model_folder, files/'a.csv', tmp_path/'more.jsonl', '--field', 'text', '-k', 3, '--jsonl', '--keep', 'id'
    every = [*TEXTS, 'Ein ganz anderer Satz über das Wetter.']
    code,out,err = call(*how, '--queries', tmp_path/'q.txt')
    assert code == 0, err
    rows = [json.loads(l) for l in out.splitlines()]
    s = embedder.encode([TEXTS[7], every[-1]]) @ embedder.encode(every).T
    assert [r['text'] for r in rows] == [every[i] for q in s for i in np.argsort(-q, kind='stable')[:3]]
    np.testing.assert_allclose([r['score'] for r in rows], [x for q in s for x in np.sort(q)[::-1][:3]], atol=2e-6)
    assert (rows[3]['id'], Path(rows[3]['file']).name, rows[3]['line'], rows[3]['rank']) == ('x','more.jsonl',1,1) and rows[0]['id'] == '7'
    for kind in ('npy','parquet'):
        assert call('encode', '--model', model_folder, files/'a.csv', tmp_path/'more.jsonl', '--field', 'text', '--out', tmp_path/f'v.{kind}')[0] == 0
        assert call(*how, '--queries', tmp_path/'q.txt', '--vectors', tmp_path/f'v.{kind}') == (0,out,'')
    np.save(tmp_path/'v.npy', np.load(tmp_path/'v.npy')[:-1])
    code,_,err = call(*how, 'x', '--vectors', tmp_path/'v.npy')
    assert code == 2 and 'recorded' in err
    (tmp_path/'v.npy.json').unlink()
    code,_,err = call(*how, 'x', '--vectors', tmp_path/'v.npy')
    assert code == 2 and 'has 300 rows and there are 301 texts' in err, err

def test_search_as_typed(model_folder, files):
    r = run('search', '--model', model_folder, files/'a.txt', '-k', 2, stdin=f'{TEXTS[1]}\n')
    assert r.returncode == 0 and not r.stderr, r.stderr
    lines = r.stdout.splitlines()
    assert lines[0] == TEXTS[1] and len(lines) == 3 and 'a.txt:2 ' in lines[1] and lines[1].split()[:2] == ['1','1.0000'], r.stdout

# ---- whatever is typed

word = st.text(max_size=8) | st.sampled_from(['a.txt','a.jsonl','a.csv','a.tsv','a.parquet','a.npy','a.csv.gz','a.jsonl.gz','nothing.txt','.','-','--','\0','-5','--x','Wo ist der Hafen?'])
name = st.sampled_from(['a.txt','a.jsonl','a.csv','a.tsv','a.parquet','a.npy','a.csv.gz','a.npy.json','none'])
number = st.integers(-2, 40).map(str) | word
option = st.one_of(word.map(lambda w: [w]), *(st.tuples(st.just(o), v).map(list) for o,v in {'--field': st.sampled_from(['text','t','id','']) | word, '--format': st.sampled_from(['text','jsonl','csv','tsv','parquet']) | word, '--keep': st.sampled_from(['id','text','id,text','embedding']) | word,
    '--out': st.sampled_from(['o.npy','o.jsonl','o.parquet','a.csv','o.gif','no/o.npy','.']), '--dim': number, '--max-length': number, '-k': number, '--delimiter': st.sampled_from([',',';','\\t']) | word, '--vectors': name, '--queries': name, '--prompt': word, '--precision': st.just('fp32')}.items()),
    st.sampled_from([['--skip-bad'], ['--restart'], ['--jsonl'], ['--progress']]))
value = st.recursive(st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=6), lambda v: st.lists(v, max_size=2) | st.dictionaries(st.text(max_size=3), v, max_size=2), max_leaves=3)
content = st.binary(max_size=60) | st.lists(st.text(st.characters(exclude_categories=['Cs']), max_size=12), max_size=5).map(lambda x: '\n'.join(x).encode()) \
    | st.lists(st.fixed_dictionaries(dict(text=st.text(max_size=6) | value), optional=dict(id=value, t=value)), max_size=4).map(lambda x: '\n'.join(map(json.dumps, x)).encode()) \
    | st.lists(st.lists(st.sampled_from(['a','"a ""b"','"','','1','x\ty','ü']), min_size=1, max_size=3).map(','.join), max_size=4).map(lambda x: '\r\n'.join(['id,text',*x]).encode())

@settings(max_examples=150)
@given(command=st.sampled_from(['encode','search']), options=st.lists(option, max_size=6), body=content, vectors=st.binary(max_size=40), stdin=content, whole=st.booleans())
@example(command='search', options=[['a.jsonl'], ['--field','text']], body=b'{"text": "a"}', vectors=b'', stdin=b'\xff\na\n\n', whole=True)
@example(command='encode', options=[['a.jsonl'], ['--field','text'], ['--keep','id'], ['--out','o.parquet']], body=b'{"text": "a", "id": NaN}\n{"text": "b", "id": 1e999}', vectors=b'', stdin=b'', whole=True)
@example(command='encode', options=[['a.jsonl'], ['--field','text'], ['--keep','id'], ['--out','o.parquet']], body=b'{"text": "a", "id": 9223372036854775808}\n{"text": "b", "id": -9223372036854775808}', vectors=b'', stdin=b'', whole=True)
def test_no_command_is_a_traceback(model_folder, command, options, body, vectors, stdin, whole):
    "Any arguments and any files: an exit code of 0, 1 or 2, a sentence, and an end"
    here = os.getcwd()
    with tempfile.TemporaryDirectory() as d:
        os.chdir(d)
        signal.signal(signal.SIGALRM, lambda *_: pytest.fail('it hangs'))
        signal.alarm(60)
        try:
            for n in ('a.txt','a.jsonl','a.csv','a.tsv'): Path(n).write_bytes(body)
            Path('a.csv.gz').write_bytes(gzip.compress(body)[:None if whole else -9])
            Path('a.jsonl.gz').write_bytes(body)
            Path('a.npy.json').write_bytes(body)
            if whole:
                np.save('a.npy', np.frombuffer(vectors[:len(vectors)//4*4], np.float32).reshape(1, -1))
                pq.write_table(pa.table(dict(text=['a',None,'b'], id=[1,2,3], embedding=[[1.],[2.],[3.]])), 'a.parquet')
            else:
                Path('a.npy').write_bytes(b'\x93NUMPY'+vectors)
                Path('a.parquet').write_bytes(vectors)
            code,out,err = call(command, '--model', model_folder, *itertools.chain(*options), stdin=stdin)
        finally:
            signal.alarm(0)
            os.chdir(here)
    assert code in (0,1,2) and 'Traceback' not in err and 'fault of the program' not in err, (code, err)
    assert code == 0 or err.strip(), "it failed without a word"

# ---- the other commands

def test_plan():
    r = run('plan', '--scale', 'base', '--gpus', 8, '--gpu-memory', 80, '--tflops', 989)
    assert r.returncode == 0, r.stderr
    assert '160.8 M parameters' in r.stdout and 'assumed: 40% of 989 TFLOPS' in r.stdout and '255.85B' in r.stdout, r.stdout
    r = run('plan', '--scale', 'base', '--changes', 'pretrain.depth=3')
    assert r.returncode == 2 and 'names nothing' in r.stderr

@pytest.mark.skipif(not all(map(importlib.util.find_spec, ('onnx','onnxruntime'))), reason="onnx or onnxruntime is missing: pip install '.[onnx]'")
def test_export_onnx(model_folder, embedder, tmp_path):
    r = run('export', model_folder, tmp_path/'out', '--int8')
    assert r.returncode == 0 and not r.stderr, r.stderr
    assert 'model.onnx' in r.stdout and 'model_quantized.onnx' in r.stdout, r.stdout
    import onnxruntime
    from tokenizers import Tokenizer
    texts = ['Good morning, harbour.', 'Guten Morgen, Hafen. '*60]
    t = Tokenizer.from_file(str(tmp_path/'out'/'tokenizer.json'))
    t.enable_padding(pad_id=t.token_to_id('<pad>'))
    rows = t.encode_batch(texts)
    given = dict(input_ids=[r.ids for r in rows], attention_mask=[r.attention_mask for r in rows])
    vectors = {name: onnxruntime.InferenceSession(tmp_path/'out'/'onnx'/f'{name}.onnx').run(['sentence_embedding'], given)[0] for name in ('model','model_quantized')}
    np.testing.assert_allclose(vectors['model'], embedder.encode(texts), rtol=0, atol=1e-5)
    assert ((vectors['model_quantized']*vectors['model']).sum(1) > .98).all()

@pytest.mark.skipif(bool(importlib.util.find_spec('onnx')), reason='onnx is installed')
def test_export_names_the_extra(model_folder, tmp_path):
    r = run('export', model_folder, tmp_path/'out')
    assert r.returncode == 1 and "pip install '.[onnx]'" in r.stderr and 'Traceback' not in r.stderr, r.stderr
    assert not (tmp_path/'out').exists()

def test_export_published(model_folder, embedder, tmp_path):
    r = run('export', model_folder, tmp_path/'out', '--format', 'published')
    assert r.returncode == 0 and not r.stderr and 'model.safetensors' in r.stdout, r.stderr
    from bilingual_embed import load
    np.testing.assert_allclose(load(tmp_path/'out', device='cpu').encode('Good morning, harbour.'), embedder.encode('Good morning, harbour.'), rtol=0, atol=1e-6)
    assert json.loads((tmp_path/'out'/'config.json').read_text())['model_type'] == 'bert' and (tmp_path/'out'/'merges.txt').is_file()
    r = run('export', model_folder, tmp_path/'out', '--format', 'published', '--int8')
    assert r.returncode == 2 and 'belongs to --format onnx' in r.stderr

def test_doctor():
    r = run('doctor')
    assert r.returncode == 0 and not r.stderr, r.stderr
    for words in ('torch', 'threads', 'fp32,   128 tokens: scaled_dot_product', '8,192 tokens', 'within', 'not asked'):
        assert words in r.stdout, (words, r.stdout)
    r = run('doctor', '--online')
    # these tests are offline
    assert r.returncode == 1 and 'HF_DATASETS_OFFLINE is set   <- this needs attention' in r.stdout, r.stdout
