"The commands as a user types them"
import contextlib, gzip, importlib.util, io, itertools, json, os, shutil, signal, subprocess, sys, tempfile, time
from pathlib import Path
from unittest.mock import patch
import numpy as np, pyarrow as pa, pyarrow.parquet as pq, pytest
from hypothesis import example, given, settings, strategies as st
import bilingual_embed.inference.embed as embed_module
from bilingual_embed.cli import COMMANDS, _missing_extras, doctor, main
from bilingual_embed.data.files import open_vectors, Output

PYTHON = sys.executable, '-W', 'ignore'

def run(*args, stdin=None):
    "In a process of its own"
    command = [*PYTHON, '-m', 'bilingual_embed.cli', *map(str, args)]
    return subprocess.run(command, input=stdin, capture_output=True, text=True)

def call(*args, stdin=b''):
    "In this process: exit code, stdout, stderr"
    out,err = io.StringIO(),io.StringIO()
    typed = patch('sys.stdin', io.TextIOWrapper(io.BytesIO(stdin)))
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err), typed:
        try: code = main([*map(str, args)])
        except SystemExit as x: code = x.code
    return code,out.getvalue(),err.getvalue()

@pytest.mark.parametrize('command', [(), *((name,) for name in COMMANDS)])
def test_help(command):
    code,out,err = call(*command, '--help')
    assert code == 0 and 'bilingual-embed' in out and not err
    if command: assert 'example' in out

def test_there_are_these_commands():
    assert sorted(COMMANDS) == ['doctor','encode','evaluate','export','graft','index','mteb','plan','prepare','search',
                                'train']

def test_encode_from_stdin(model_folder, embedder):
    texts = ['Good morning, harbour.', 'Guten Morgen, Hafen.']
    r = run('encode', '--model', model_folder, stdin='\n'.join(texts))
    assert r.returncode == 0, r.stderr
    np.testing.assert_allclose([json.loads(l) for l in r.stdout.splitlines()], embedder.encode(texts), atol=1e-5)

MISTAKES = [ # arguments, what the message says
    ('encode --model nowhere', 'nowhere'),
    ('train --scale sample --langs en-xx', 'unknown language'),
    ('train --scale sample --source no/such/folder', 'neither auto'),
    ('evaluate --model nowhere --tests nowhere', 'nowhere'),
    ('train --scale huge', 'invalid choice'),
    ('export nowhere out', 'nowhere'),
    ('mteb --suite de', '--model'),
    ('mteb --suite de --prepare', '--data'),
    ('export nowhere out --format gif', 'invalid choice'),
    ('encode --model nowhere --dtype int8', 'invalid choice')]
@pytest.mark.parametrize('args,words', MISTAKES)
def test_mistakes_get_a_sentence(args, words):
    code,_,err = call(*args.split(), stdin=b'text\n')
    assert code == 2 and words in err and 'Traceback' not in err, err

def test_a_mistake_in_a_process_of_its_own():
    r = run('encode', '--model', 'nowhere', stdin='text\n')
    assert r.returncode == 2 and 'nowhere' in r.stderr and 'Traceback' not in r.stderr, r.stderr

# ---- encode

WORDS = ('The boats lie in the harbour','fog'), ('Im Hafen liegen die Boote','Nebel'), ('The market opens','soon')
def text(i):
    a,b = WORDS[i % 3]
    return f'{a} {i}, "{b}"' + ('\nand more' if i % 5 == 0 else '')
TEXTS = [text(i) for i in range(300)]
BLOCK = 16 # texts, instead of 2048: many blocks of few texts
SMALL = f"""
import sys, bilingual_embed.inference.embed as e
from bilingual_embed.cli import main
e._blocks.__defaults__ = ({BLOCK},10**6)
sys.exit(main(sys.argv[1:]))
"""

@pytest.fixture
def small_blocks(monkeypatch): monkeypatch.setattr(embed_module._blocks, '__defaults__', (BLOCK,10**6))

def quoted(t): return '"' + t.replace('"', '""') + '"'
def table(sep): return f'id{sep}text\r\n' + ''.join(f'{i}{sep}{quoted(t)}\r\n' for i,t in enumerate(TEXTS))

@pytest.fixture(scope='module')
def files(tmp_path_factory):
    "The same texts in every format; plain lines cannot hold those with a line end inside"
    d = tmp_path_factory.mktemp('texts')
    jsonl = ''.join(json.dumps(dict(id=i, text=t))+'\n' for i,t in enumerate(TEXTS))
    plain = ''.join(t.replace('\n', ' ')+'\n' for t in TEXTS)
    contents = {'a.jsonl': jsonl, 'a.log': jsonl, 'a.txt': plain, # name -> text
                'a.csv': table(','), 'a.tsv': table('\t'), 'semi.csv': table(';'), 'lines.json': jsonl,
                'marked.txt': '\ufeff'+plain, 'texts.json': json.dumps(plain.splitlines(), indent=1)}
    objects = [dict(id=i, text=t) for i,t in enumerate(TEXTS)]
    contents |= {'a.json': json.dumps(objects, indent=2), 'one_line.json': json.dumps(objects)}
    for name,content in contents.items():
        (d/name).write_bytes(content.encode())
        (d/f'{name}.gz').write_bytes(gzip.compress(content.encode()))
    for name in ('a.jsonl','a.csv','a.txt'):
        (d/name.replace('.', '.utf16.')).write_bytes(contents[name].encode('utf-16'))
    columns = dict(id=pa.array(range(300), pa.int32()), text=TEXTS, other=[[1.]]*300)
    pq.write_table(pa.table(columns), d/'a.parquet', row_group_size=70)
    return d

FILES = [ # -. is standard input
    'a.json', 'a.json.gz', 'one_line.json', 'lines.json', 'a.utf16.jsonl', 'a.utf16.csv', 'a.utf16.txt', 'marked.txt',
    'texts.json', '-.a.json --format json', '-.texts.json --format json', '-.a.utf16.txt',
    'a.jsonl', 'a.csv', 'a.tsv', 'a.parquet', 'a.csv.gz', 'a.tsv.gz', 'a.jsonl.gz', 'a.log', 'a.log --format jsonl',
    'semi.csv --delimiter ;', '-.a.jsonl --format jsonl', '-.a.csv --format csv', '-.a.tsv --format tsv',
    '-.a.jsonl', 'a.txt', 'a.txt.gz', '-.a.txt']

@pytest.mark.parametrize('file', FILES)
def test_every_format_gives_the_same_vectors(files, model_folder, embedder, tmp_path, file):
    name,*more = file.split(' ')
    from_stdin,plain = name.startswith('-.'),'.txt' in name or 'texts' in name
    stdin = (files/name[2:]).read_bytes() if from_stdin else b''
    field = [] if plain else ['--field','text']
    code,out,err = call('encode', '--model', model_folder, '-' if from_stdin else files/name, *field, *more,
                        '--out', tmp_path/'v.npy', stdin=stdin)
    assert code == 0, err
    texts = [t.replace('\n', ' ') for t in TEXTS] if plain else TEXTS
    np.testing.assert_array_equal(np.load(tmp_path/'v.npy'), embedder.encode(texts))
    assert sorted(p.name for p in tmp_path.iterdir()) == ['v.npy','v.npy.json'] and '300 texts' in err

COLUMNS = [('a.jsonl', list(range(300)), 'int64'), ('a.csv', [str(i) for i in range(300)], 'string'),
           ('a.parquet', list(range(300)), 'int32')] # file, ids, their type in Parquet
@pytest.mark.parametrize('name,ids,kind', COLUMNS)
def test_kept_columns(files, model_folder, embedder, tmp_path, small_blocks, name, ids, kind):
    x = embedder.encode(TEXTS)
    how = 'encode','--model',model_folder,files/name,'--field','text','--keep','id,text','--out'
    assert call(*how, tmp_path/'v.parquet')[0] == 0
    t = pq.read_table(tmp_path/'v.parquet')
    assert t['id'].to_pylist() == ids and t['text'].to_pylist() == TEXTS
    assert str(t.schema.field('id').type) == kind
    assert str(t.schema.field('embedding').type) == 'fixed_size_list<element: float>[32]'
    np.testing.assert_allclose(np.array(t['embedding'].to_pylist()), x, rtol=0, atol=1e-6)
    assert json.loads(t.schema.metadata[b'bilingual_embed'])['model'] == embedder.revision

    assert call(*how, tmp_path/'v.jsonl')[0] == 0
    rows = [json.loads(l) for l in (tmp_path/'v.jsonl').read_text().splitlines()]
    assert [r['id'] for r in rows] == ids and [r['text'] for r in rows] == TEXTS
    np.testing.assert_allclose([r['embedding'] for r in rows], x, rtol=0, atol=2e-6)

def test_kept_numbers_are_json(files, model_folder, tmp_path, monkeypatch):
    "NaN and infinity, which Python reads and writes and no other program knows, are null; in a column of Parquet too"
    def refuse(name): raise AssertionError(f"{name} is not JSON")
    monkeypatch.chdir(tmp_path)
    Path('a.jsonl').write_text('{"text": "a", "n": NaN}\n{"text": "b", "n": [Infinity]}\n{"text": "c", "n": 1}\n')
    pq.write_table(pa.table(dict(text=['a','b','c'], n=[float('nan'), float('-inf'), 1.])), 'a.parquet')
    for file in ('a.jsonl','a.parquet'):
        code,out,err = call('encode', '--model', model_folder, file, '--field', 'text', '--keep', 'n')
        assert code == 0, err
        kept = [json.loads(l, parse_constant=refuse)['n'] for l in out.splitlines()]
        assert kept == ([None,[None],1] if file == 'a.jsonl' else [None,None,1.])

        code,out,err = call('search', '--model', model_folder, file, '--field', 'text', '--keep', 'n', '--jsonl', 'a')
        assert code == 0 and len([json.loads(l, parse_constant=refuse) for l in out.splitlines()]) == 3, err
    how = 'encode','--model',model_folder,'a.jsonl','--field','text','--keep','n','--out','v.parquet'
    assert call(*how)[0] == 0
    assert pq.read_table('v.parquet')['n'].to_pylist() == ['null','[null]','1']

def test_options_are_those_of_encode(files, model_folder, embedder):
    "And their names in earlier versions"
    texts = [t.replace('\n', ' ') for t in TEXTS]
    want = embedder.encode(texts, truncate_dim=8, max_length=9)
    for options in ('--truncate-dim 8 --max-length 9 --dtype float32', '--dim 8 --max-length 9 --precision fp32'):
        code,out,err = call('encode', '--model', model_folder, files/'a.txt', *options.split())
        assert code == 0, err
        np.testing.assert_allclose([json.loads(l) for l in out.splitlines()], want, rtol=0, atol=1e-5)
    for option in ('--show-progress-bar', '--progress'):
        code,_,err = call('encode', '--model', model_folder, files/'a.txt', option)
        assert code == 0 and 'encode small' in err, err

REFUSED = [ # arguments of encode, what the message says
    ('bad.txt', 'line 2 is not UTF-8'),
    ('a.txt --field text', 'as plain lines, which have no field'),
    ('a.txt --out x.npy --keep text', 'only numbers'),
    ('a.jsonl --field text --out a.jsonl', 'one of the files to read'),
    ('a.txt --restart', 'belongs to --out'),
    ('a.txt --output-dtype int8', 'wants --out with .npy or .parquet'),
    ('a.txt --output-dtype ubinary --out v.jsonl', 'in JSON each number is text'),
    ('a.txt --ranges r.npy --out v.npy', 'belongs to --output-dtype int8'),
    ('a.txt --ranges r.npy --output-dtype int8 --out v.npy', 'cannot read r.npy'),
    ('a.txt --ranges a.txt --output-dtype int8 --out v.npy', 'no ranges for vectors of 32 numbers'),
    ('a.txt --prompt-name query', "no prompt 'query'; it has none"),
    ('a.txt --prompt a --prompt-name query', 'not both'),
    ('a.csv a.parquet --field text --keep text --out v.parquet', 'all files to be Parquet, or none'),
    ('a.jsonl --field text --keep id,id', 'there twice'),
    ('- -', 'can be read once'),
    ('a.txt --out no/v.npy', 'no folder no'),
    ('unmarked.txt', 'convert it: iconv -f UTF-16LE -t UTF-8 unmarked.txt > unmarked.utf8.txt'),
    ('unmarked.txt --skip-bad', 'looks like UTF-16LE without'),
    ('latin.txt', 'convert the file: iconv -f WINDOWS-1252 -t UTF-8 latin.txt > latin.utf8.txt'),
    ('a.json', 'holds objects with the fields id, text; say with --field'),
    ('unnamed', 'looks like JSON; read it with --format json'),
    ('data.json --field text', 'jq -c \'.data[]\' data.json > data.jsonl'),
    ('data_line.json --field text', 'jq -c \'.data[]\' data_line.json > data_line.jsonl'),
    ('texts.json --keep id', 'plain texts, which have no field id')]
@pytest.mark.parametrize('args,words', REFUSED)
def test_encode_refuses(files, model_folder, monkeypatch, args, words):
    monkeypatch.chdir(files)
    (files/'bad.txt').write_bytes(b'good\n\xff\xfe\n')
    (files/'latin.txt').write_bytes('gut\nfür'.encode('latin-1'))
    (files/'unmarked.txt').write_bytes('eins\nzwei\n'.encode('utf-16-le'))
    (files/'unnamed').write_bytes(b'[\n {"text": "a"}\n]')
    (files/'data.json').write_text(json.dumps(dict(version=1, data=[dict(text='a')]), indent=2))
    (files/'data_line.json').write_text(json.dumps(dict(data=[dict(text='a')])))
    code,out,err = call('encode', '--model', model_folder, *args.split())
    assert code == 2 and words in err and 'Traceback' not in err, err

def test_damaged_prompts_are_refused(files, model_folder, tmp_path):
    m = tmp_path/'m'
    shutil.copytree(model_folder, m)
    (m/'config_sentence_transformers.json').write_text(json.dumps(dict(prompts=dict(query=5))))
    code,_,err = call('encode', '--model', m, files/'a.txt')
    assert code == 2 and 'object of texts' in err, err

OUT = [pytest.param('npy', (), id='npy'), pytest.param('jsonl', ('--keep','id'), id='jsonl', marks=pytest.mark.slow),
       pytest.param('parquet', ('--keep','id,text'), id='parquet')]
def outputs(d): return {p.name: p.read_bytes() for p in d.iterdir()}

@pytest.mark.parametrize('kind,keep', OUT)
def test_killed_encode_equals_unbroken(files, model_folder, tmp_path, small_blocks, kind, keep):
    def command(name):
        "Into a folder of this name"
        texts,out = [files/'a.csv']*12,tmp_path/name/f'v.{kind}'
        return [*map(str, ('encode','--model',model_folder,*texts,'--field','text',*keep,'--out',out))]
    for name in ('whole','broken'): (tmp_path/name).mkdir()
    assert call(*command('whole'))[0] == 0

    note,done = tmp_path/'broken'/f'v.{kind}.part.json',0
    quiet = dict(stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    for _ in range(2):
        p = subprocess.Popen([*PYTHON, '-c', SMALL, *command('broken')], **quiet)
        while p.poll() is None and not (note.exists() and json.loads(note.read_text())['rows'] > done + 2*BLOCK):
            time.sleep(.002)
        assert p.poll() is None, "it had finished before it was killed"
        p.send_signal(signal.SIGKILL)
        p.wait()
        done = json.loads(note.read_text())['rows']
        assert 0 < done < 12*300
    code,_,err = call(*command('broken'))
    assert code == 0 and f'continuing after the {done:,} texts' in err, err
    assert outputs(tmp_path/'whole') == outputs(tmp_path/'broken')

@pytest.mark.parametrize('kind', ['npy','parquet'])
def test_a_book_before_short_texts(model_folder, embedder, tmp_path, monkeypatch, kind):
    "The block of a book has one text, so int8 takes its ranges from the next blocks too; from standard input, and stopped"
    monkeypatch.setattr(embed_module._blocks, '__defaults__', (BLOCK,1000))
    texts = ['A book. '*200, *(t.replace('\n', ' ') for t in TEXTS)]
    def encode(folder):
        command = 'encode','--model',model_folder,'--output-dtype','int8','--out',tmp_path/folder/f'v.{kind}'
        return call(*command, stdin='\n'.join(texts).encode())
    for folder in ('whole','broken'): (tmp_path/folder).mkdir()
    assert encode('whole')[0] == 0
    decoded,about = open_vectors(tmp_path/'whole'/f'v.{kind}', tmp_path)
    x = embedder.encode(texts)
    enough = 1 + 7*BLOCK
    np.testing.assert_allclose(about['ranges'], [x[:enough].min(0), x[:enough].max(0)], atol=1e-6)
    assert np.abs(decoded[:enough]-x[:enough]).max() < .01 and len(np.unique(decoded.codes, axis=0)) > 100

    add = Output.add
    for stop in (3, 9):                                # before there are enough rows, and after
        calls = itertools.count(1)
        def stopped(*a, stop=stop, calls=calls):
            if next(calls) == stop: raise KeyboardInterrupt
            add(*a)
        with monkeypatch.context() as m:
            m.setattr(Output, 'add', stopped)
            assert encode('broken')[0] == 130
    code,_,err = encode('broken')
    assert code == 0 and f'continuing after the {enough} texts' in err, err
    assert outputs(tmp_path/'broken') == outputs(tmp_path/'whole')

MOMENTS = """
import itertools, os, signal, sys
from pathlib import Path
import pyarrow.parquet, bilingual_embed.data.files, bilingual_embed.inference.embed as e
from bilingual_embed.cli import main
bilingual_embed.data.files.CALIBRATION_ROWS = 20
e._blocks.__defaults__ = (16,10**6)
model = e.load(sys.argv[1])
model.revision
e.load = lambda *a: model
folder = Path(sys.argv[2])
sides = sys.argv[4].split(',')
real = {(o,n): getattr(o, n) for o,n in ((os,'fsync'), (os,'replace'), (Path,'unlink'))}

def child(args, at=None, after=False):
    "In a process of its own, which kills itself at the call of that number, before or after what it would do"
    if pid := os.fork(): return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
    calls = 0
    def deadly(f):
        def g(*a, **k):
            nonlocal calls
            now,calls = calls == at,calls+1
            if now and not after: os.kill(os.getpid(), signal.SIGKILL)
            r = f(*a, **k)
            if now: os.kill(os.getpid(), signal.SIGKILL)
            return r
        return g
    for (o,n),f in real.items(): setattr(o, n, deadly(f))
    os.dup2(os.open(os.devnull, os.O_WRONLY), 2)
    os._exit(main(args))

def files(d): return {p.name: p.read_bytes() for p in d.iterdir()}
def command(d, kind, more):
    d.mkdir(exist_ok=True)
    return ['encode', '--model', sys.argv[1], sys.argv[3], '--field', 'text', *more, '--out', str(d/f'v.{kind}')]

total = 0
for i,(kind,*more) in enumerate((('npy',), ('jsonl','--keep','id'), ('parquet','--keep','id,text'),
                                 ('npy','--output-dtype','int8'))):
    whole = folder/f'whole{i}'
    assert child(command(whole, kind, more)) == 0
    for at,side in ((at, side) for at in itertools.count() for side in sides):
        d = folder/f'{i}-{at}-{side}'
        args = command(d, kind, more)
        died = child(args, at, side == 'after')
        if died == 0: break
        assert died == -9 and child(args) == 0 and files(d) == files(whole), (kind, at, side, died, sorted(files(d)))
        total += 1
    assert at > 6
print(total)
"""
@pytest.mark.parametrize('sides', ['before', pytest.param('before,after', marks=pytest.mark.slow)])
def test_killed_at_every_moment(sides, files, model_folder, tmp_path):
    "Before each call that puts something on disk, gives it its name or takes it away; with --slow after each as well"
    few = tmp_path/'few.csv'
    few.write_text('id,text\n' + ''.join(f'{i},text {i}\n' for i in range(40)))
    command = [*PYTHON, '-c', MOMENTS, str(model_folder), str(tmp_path), str(few), sides]
    r = subprocess.run(command, capture_output=True, text=True, timeout=600)
    assert r.returncode == 0 and int(r.stdout) > 20*len(sides.split(',')), r.stderr[-2000:]

@pytest.fixture
def stopped(files, model_folder, tmp_path, small_blocks):
    "An encode from standard input that was stopped after a few blocks"
    how = 'encode','--model',model_folder,'--field','text','--out',tmp_path/'v.npy'
    lines = table(',').splitlines(keepends=True)
    i = next(i for i,l in enumerate(lines) if i > 250 and l.count('"') == 6)
    code,_,err = call(*how, '--format', 'csv', stdin=''.join([*lines[:i], '7\r\n', *lines[i:]]).encode())
    assert code == 2 and 'has 1 values for 2 columns' in err, err
    return how,tmp_path

def test_resume_from_standard_input(stopped, embedder, model_folder, tmp_path_factory):
    how,d = stopped
    csv = '--format','csv'
    before = outputs(d)
    assert 0 < json.loads(before['v.npy.part.json'])['rows'] < 300
    other = tmp_path_factory.mktemp('m')/'other'
    shutil.copytree(model_folder, other)
    (other/'tokenizer.json').write_text((other/'tokenizer.json').read_text()+' ')
    refused = [(how, table(',').replace('market', 'shop'), 'not those'), (how, 'id,text\n1,too short\n', 'not those'),
               ((*how, '--truncate-dim', 8), table(','), 'dim was 32, now 8'), # other options
               ((*how, '--max-length', 9), table(','), 'max_length was'),
               ((*how, '--prompt', 'query: '), table(','), "prompt was '', now 'query: '"),
               (('encode','--model',other,*how[3:]), table(','), f"model was '{embedder.revision}'")]
    for args,stdin,words in refused:
        code,_,err = call(*args, *csv, stdin=stdin.encode())
        assert code == 2 and words in err and '--restart' in err, err
        assert outputs(d) == before                                                             # nothing is touched
    code,_,err = call(*how, *csv, stdin=table(',').encode())
    assert code == 0 and 'continuing after' in err, err
    np.testing.assert_allclose(np.load(d/'v.npy'), embedder.encode(TEXTS), rtol=0, atol=1e-6)

def test_restart_and_skip_bad(stopped):
    how,d = stopped
    code,_,err = call(*how, '--format', 'csv', '--restart', '--skip-bad', stdin=b'id,text\n1,a\n2\n3,\n4,b\n')
    assert code == 0 and '2 rows left out; the first: -, line 3 has 1 values' in err, err
    assert np.load(d/'v.npy').shape == (2,32)

def test_full_disk(files, model_folder, tmp_path, small_blocks):
    resource = pytest.importorskip('resource')
    how = 'encode','--model',model_folder,files/'a.csv','--field','text','--out',tmp_path/'v.npy'
    how = [*map(str, how)]
    def limit(): resource.setrlimit(resource.RLIMIT_FSIZE, (20_000,20_000))
    r = subprocess.run([*PYTHON, '-c', SMALL, *how], capture_output=True, text=True, preexec_fn=limit)
    assert r.returncode == 1 and 'are done and kept in' in r.stderr and 'make room' in r.stderr, r.stderr
    assert 'Traceback' not in r.stderr, r.stderr
    rows = json.loads((tmp_path/'v.npy.part.json').read_text())['rows']
    assert 0 < rows < 300 and not (tmp_path/'v.npy').exists()
    assert call(*how)[0] == 0
    got = outputs(tmp_path)
    assert call(*how)[0] == 0 and outputs(tmp_path) == got

    with open('/dev/full', 'w') as full:
        r = subprocess.run([*PYTHON, '-c', SMALL, *how[:-2]], stdout=full, stderr=subprocess.PIPE, text=True)
    assert r.returncode == 1 and 'No space left' in r.stderr, r.stderr
    assert 'Traceback' not in r.stderr and 'ignored' not in r.stderr, r.stderr

def test_without_pyarrow(files, model_folder, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, 'pyarrow', None)
    encode = 'encode','--model',model_folder
    for args in ((files/'a.parquet','--field','text'), (files/'a.txt','--out',tmp_path/'v.parquet')):
        code,_,err = call(*encode, *args)
        assert code == 1 and "pip install '.[files]'" in err and 'fault' not in err, err
    code,_,err = call('search', '--model', model_folder, files/'a.parquet', '--field', 'text', 'x')
    assert code == 1 and "pip install '.[files]'" in err, err
    assert call(*encode, files/'a.csv', '--field', 'text', '--out', tmp_path/'v.npy')[0] == 0
    assert len(outputs(tmp_path)) == 2

# ---- search

def test_search_over_two_files(model_folder, embedder, files, tmp_path):
    last = 'Ein ganz anderer Satz über das Wetter.'
    (tmp_path/'more.jsonl').write_text(json.dumps(dict(id='x', text=last))+'\n')
    (tmp_path/'q.txt').write_text(f'{TEXTS[7]}\n{last}\n')
    corpus = files/'a.csv',tmp_path/'more.jsonl','--field','text'
    how = 'search','--model',model_folder,*corpus,'-k',3,'--jsonl','--keep','id'
    every = [*TEXTS, last]
    code,out,err = call(*how, '--queries', tmp_path/'q.txt')
    assert code == 0, err
    rows = [json.loads(l) for l in out.splitlines()]
    s = embedder.encode([TEXTS[7], last]) @ embedder.encode(every).T
    assert [r['text'] for r in rows] == [every[i] for q in s for i in np.argsort(-q, kind='stable')[:3]]
    np.testing.assert_allclose([r['score'] for r in rows], [x for q in s for x in np.sort(q)[::-1][:3]], atol=2e-6)
    r = rows[3]
    assert (r['id'], Path(r['file']).name, r['line'], r['rank']) == ('x','more.jsonl',1,1) and rows[0]['id'] == '7'

    for kind in ('npy','parquet'):
        assert call('encode', '--model', model_folder, *corpus, '--out', tmp_path/f'v.{kind}')[0] == 0
        assert call(*how, '--queries', tmp_path/'q.txt', '--vectors', tmp_path/f'v.{kind}') == (0,out,'')
    np.save(tmp_path/'v.npy', np.load(tmp_path/'v.npy')[:-1])
    code,_,err = call(*how, 'x', '--vectors', tmp_path/'v.npy')
    assert code == 2 and 'its record says 301 rows' in err, err
    (tmp_path/'v.npy.json').unlink()
    code,_,err = call(*how, 'x', '--vectors', tmp_path/'v.npy')
    assert code == 2 and 'has 300 rows and there are 301 texts' in err, err

def test_fewer_bytes_are_searched(model_folder, embedder, files, tmp_path):
    "int8 with the ranges of another run, float16 and bits, in both kinds of file; most of what float32 finds"
    csv = files/'a.csv','--field','text'
    encode,search = ('encode','--model',model_folder,*csv),('search','--model',model_folder,*csv,'--jsonl','--queries',files/'a.txt')
    def found(vectors):
        code,out,err = call(*search, '--vectors', vectors)
        assert code == 0, err
        return [(r['query'], r['text']) for r in map(json.loads, out.splitlines())]
    assert call(*encode, '--out', tmp_path/'v.npy')[0] == 0
    want = found(tmp_path/'v.npy')
    for precision,least in (('float16',.99), ('int8',.9), ('ubinary',.2)):
        for kind in ('npy','parquet'):
            out = tmp_path/f'{precision}.{kind}'
            ranges = ('--ranges',tmp_path/'int8.npy.json') if (precision,kind) == ('int8','parquet') else ()
            assert call(*encode, '--output-dtype', precision, *ranges, '--out', out)[0] == 0
            got = found(out)
            assert len(set(got) & set(want)) >= least*len(want), precision
            if kind == 'npy': first = got
        assert got == first
    record = json.loads((tmp_path/'int8.npy.json').read_text())
    x = embedder.encode(TEXTS)
    np.testing.assert_allclose(record['ranges'], [x.min(0), x.max(0)], atol=1e-6)

def test_search_as_typed(model_folder, files):
    r = run('search', '--model', model_folder, files/'a.txt', '-k', 2, stdin=f'{TEXTS[1]}\n')
    assert r.returncode == 0 and not r.stderr, r.stderr
    lines = r.stdout.splitlines()
    assert lines[0] == TEXTS[1] and len(lines) == 3, r.stdout
    assert 'a.txt:2 ' in lines[1] and lines[1].split()[:2] == ['1','1.0000'], r.stdout

def test_search_refuses(model_folder, files, tmp_path, monkeypatch):
    "Vectors of other texts or another model, and what is neither a file nor a query"
    monkeypatch.chdir(files)
    other = tmp_path/'other'
    shutil.copytree(model_folder, other)
    (other/'tokenizer.json').write_text((other/'tokenizer.json').read_text()+' ')
    changed = tmp_path/'changed.csv'
    changed.write_bytes((files/'a.csv').read_bytes().replace(b'boats', b'ships'))
    csv,vectors = ('a.csv','--field','text'),('--vectors',tmp_path/'v.npy')
    assert call('encode', '--model', model_folder, *csv, '--out', tmp_path/'v.npy')[0] == 0
    refused = [((model_folder,'semi.csv','--delimiter',';','--field','text','x',*vectors), ''), # the same texts: taken
               ((model_folder,'a.txt','a.txt','x',*vectors), 'has 300 rows and there are 600 texts'),
               ((other,*csv,'x',*vectors), 'by another model'),
               ((model_folder,changed,*csv[1:],'x',*vectors), 'from other texts'),
               ((model_folder,*csv,'x',*vectors,'--truncate-dim',8), '--truncate-dim is 8'),
               ((model_folder,'Wo?'), 'is no file'),
               ((model_folder,'a.txt','gone.txt'), 'no file gone.txt'),
               ((model_folder,'a.txt',' '), 'query is empty')]
    for args,words in refused:
        code,out,err = call('search', '--model', *args)
        assert code == (2 if words else 0) and words in err and bool(out) == (not words), (args, code, err)

# ---- whatever is typed

NAMES = ['a.txt', 'a.jsonl', 'a.csv', 'a.tsv', 'a.parquet', 'a.npy', 'a.csv.gz']
ODD_WORDS = ['a.jsonl.gz', 'nothing.txt', '.', '-', '--', '\0', '-5', '--x', 'Wo ist der Hafen?']
word = st.text(max_size=8) | st.sampled_from([*NAMES, *ODD_WORDS])
name = st.sampled_from([*NAMES, 'a.npy.json', 'none'])
number = st.integers(-2, 40).map(str) | word
VALUES = { # option -> its values
    '--field': st.sampled_from(['text','t','id','']) | word,
    '--format': st.sampled_from(['text','jsonl','csv','tsv','parquet']) | word,
    '--keep': st.sampled_from(['id','text','id,text','embedding']) | word,
    '--out': st.sampled_from(['o.npy','o.jsonl','o.parquet','a.csv','o.gif','no/o.npy','.']),
    '--truncate-dim': number, '--dim': number, '--max-length': number, '-k': number,
    '--delimiter': st.sampled_from([',',';','\\t']) | word,
    '--vectors': name, '--queries': name, '--index': st.sampled_from(['.','none','a.txt']), '--ranges': name,
    '--output-dtype': st.sampled_from(['int8','ubinary','float16']),
    '--prompt': word, '--prompt-name': word,
    '--dtype': st.just('float32'), '--precision': st.just('fp32')}
flags = st.sampled_from([['--skip-bad'], ['--restart'], ['--jsonl'], ['--show-progress-bar']])
option = st.one_of(word.map(lambda w: [w]), flags, *(st.tuples(st.just(o), v).map(list) for o,v in VALUES.items()))

def within(v): return st.lists(v, max_size=2) | st.dictionaries(st.text(max_size=3), v, max_size=2)
plain_values = st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=6)
value = st.recursive(plain_values, within, max_leaves=3)
record = st.fixed_dictionaries(dict(text=st.text(max_size=6) | value), optional=dict(id=value, t=value))
csv_row = st.lists(st.sampled_from(['a','"a ""b"','"','','1','x\ty','ü']), min_size=1, max_size=3).map(','.join)
lines = st.lists(st.text(st.characters(exclude_categories=['Cs']), max_size=12), max_size=5)
content = st.one_of(st.binary(max_size=60), lines.map(lambda x: '\n'.join(x).encode()),
    st.lists(record, max_size=4).map(lambda x: '\n'.join(map(json.dumps, x)).encode()),
    st.lists(csv_row, max_size=4).map(lambda x: '\r\n'.join(['id,text',*x]).encode()))

INTO_PARQUET = [['a.jsonl'], ['--field','text'], ['--keep','id'], ['--out','o.parquet']]
ODD_FLOATS = b'{"text": "a", "id": NaN}\n{"text": "b", "id": 1e999}'
LARGE_IDS = b'{"text": "a", "id": 9223372036854775808}\n{"text": "b", "id": -9223372036854775808}'
rest = dict(vectors=b'', stdin=b'', whole=True)

@settings(max_examples=150)
@given(command=st.sampled_from(['encode','search']), options=st.lists(option, max_size=6), body=content,
       vectors=st.binary(max_size=40), stdin=content, whole=st.booleans())
@example(command='search', options=INTO_PARQUET[:2], body=b'{"text": "a"}', **rest | dict(stdin=b'\xff\na\n\n'))
@example(command='encode', options=INTO_PARQUET, body=ODD_FLOATS, **rest)
@example(command='encode', options=INTO_PARQUET, body=LARGE_IDS, **rest)
def test_no_command_is_a_traceback(model_folder, command, options, body, vectors, stdin, whole):
    "Any arguments and any files: an exit code of 0, 1 or 2, a sentence, and an end"
    here = os.getcwd()
    with tempfile.TemporaryDirectory() as d:
        os.chdir(d)
        signal.signal(signal.SIGALRM, lambda *_: pytest.fail('it hangs'))
        signal.alarm(60)
        try:
            write_files(body, vectors, whole)
            code,out,err = call(command, '--model', model_folder, *itertools.chain(*options), stdin=stdin)
        finally:
            signal.alarm(0)
            os.chdir(here)
    assert code in (0,1,2) and 'Traceback' not in err and 'fault of the program' not in err, (code, err)
    assert code == 0 or err.strip(), "it failed without a word"

def write_files(body, vectors, whole):
    for n in ('a.txt','a.jsonl','a.csv','a.tsv','a.jsonl.gz','a.npy.json'): Path(n).write_bytes(body)
    Path('a.csv.gz').write_bytes(gzip.compress(body)[:None if whole else -9])
    if whole:
        np.save('a.npy', np.frombuffer(vectors[:len(vectors)//4*4], np.float32).reshape(1, -1))
        pq.write_table(pa.table(dict(text=['a',None,'b'], id=[1,2,3], embedding=[[1.],[2.],[3.]])), 'a.parquet')
    else:
        Path('a.npy').write_bytes(b'\x93NUMPY'+vectors)
        Path('a.parquet').write_bytes(vectors)

# ---- the other commands

def test_plan():
    code,out,err = call('plan', '--scale', 'base', '--gpus', 8, '--gpu-memory', 80, '--tflops', 989)
    assert code == 0, err
    for words in ('160.8 M parameters', 'assumed: 40% of 989 TFLOPS', '255.85B'): assert words in out, out
    code,_,err = call('plan', '--scale', 'base', '--changes', 'pretrain.depth=3')
    assert code == 2 and 'names nothing' in err

def prepared(folder, MB):
    "What `prepare` leaves of so many megabytes: 4 seconds and 2 for each, and half of the text again on disk"
    rate = dict(stage='clean', each='a file', tasks=1, side_by_side=True, cpu=4+2*MB, disk_MB=MB/2, peak_MB=700)
    folder.mkdir()
    (folder/'prepare.json').write_text(json.dumps(dict(MB=MB, disk_MB=MB/4, limits={}, amounts=[[MB, 1e12]], rates=[rate])))
    return folder

def test_plan_of_text_and_vectors(model_folder, tmp_path):
    training = 'plan', '--scale', 'sample', '--tflops', 989
    runs = [prepared(tmp_path/f'{MB}', MB) for MB in (10, 30)]
    (tmp_path/'texts.txt').write_text('Where is the station?\nDie Suppe ist kalt.\n'*50)
    encoding = '--encode', 1e6, '--model', model_folder, '--texts', tmp_path/'texts.txt', '--output-dtype', 'float16'
    code,out,err = call(*training, '--workers', 4, '--prepare-gb', 1800, '--prepared', *runs, *encoding)
    assert code == 0 and not err, err
    for words in ('in all 1,000.0 core-hours, 250.0 hours (10.4 days); 900.0 GB of disk beside the text, 450.0 GB in the end',
                  'Encoding 1,000,000 texts', 'measured here on 100 texts'):
        assert words in out, out
    for wrong,words in ((['--prepare-gb', 5], 'go together'), (['--encode', 5, '--model', model_folder], 'go together'),
                        (['--prepare-gb', 5, '--prepared', tmp_path], 'prepare.json is missing'),
                        (['--encode', 5, '--model', model_folder, '--texts', tmp_path/'no'], 'is no file')):
        code,_,err = call(*training, *wrong)
        assert code == 2 and words in err, err

HAVE_ONNX = all(map(importlib.util.find_spec, ('onnx','onnxruntime')))

@pytest.mark.skipif(not HAVE_ONNX, reason="onnx or onnxruntime is missing: pip install '.[onnx]'")
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
    def vectors(name):
        session = onnxruntime.InferenceSession(tmp_path/'out'/'onnx'/f'{name}.onnx')
        return session.run(['sentence_embedding'], given)[0]
    exact,rounded = vectors('model'),vectors('model_quantized')
    np.testing.assert_allclose(exact, embedder.encode(texts), rtol=0, atol=1e-5)
    assert ((rounded*exact).sum(1) > .98).all()

@pytest.mark.skipif(bool(importlib.util.find_spec('onnx')), reason='onnx is installed')
def test_export_names_the_extra(model_folder, tmp_path):
    r = run('export', model_folder, tmp_path/'out')
    assert r.returncode == 1 and "pip install '.[onnx]'" in r.stderr and 'Traceback' not in r.stderr, r.stderr
    assert not (tmp_path/'out').exists()

def test_export_published(model_folder, embedder, tmp_path):
    code,out,err = call('export', model_folder, tmp_path/'out', '--format', 'published')
    assert code == 0 and not err and 'model.safetensors' in out, err
    from bilingual_embed import load
    text = 'Good morning, harbour.'
    again = load(tmp_path/'out', device='cpu').encode(text)
    np.testing.assert_allclose(again, embedder.encode(text), rtol=0, atol=1e-6)
    assert json.loads((tmp_path/'out'/'config.json').read_text())['model_type'] == 'bert'
    assert (tmp_path/'out'/'merges.txt').is_file()
    code,_,err = call('export', model_folder, tmp_path/'out', '--format', 'published', '--int8')
    assert code == 2 and 'belongs to --format onnx' in err

def test_doctor():
    r = run('doctor')
    assert r.returncode == 0 and not r.stderr, r.stderr
    short = 'float32,   128 tokens: scaled_dot_product'
    for words in ('torch', 'threads', short, '8,192 tokens', 'within', 'not asked'):
        assert words in r.stdout, (words, r.stdout)
    code,out,_ = call('doctor', '--online')
    # these tests are offline
    assert code == 1 and 'HF_DATASETS_OFFLINE is set   <- this needs attention' in out, out

def test_doctor_knows_the_extras():
    requires = ['torch>=2.9', 'numpy>=1; extra == "train"', 'no-such-thing==1; extra == "train"',
                "no_other ; extra == 'peers'", 'pytest; extra == "dev"'] # as the metadata of a package gives them
    with patch('importlib.metadata.requires', return_value=requires):
        assert _missing_extras() == dict(train=['no-such-thing'], peers=['no_other'])
    assert all(f.ok for f in doctor() if f.what == 'extras')

# ---- letters in arguments

ODD = 'M\udcc3\udcbcller'       # Müller, as Python hands over what its locale has no letters for

def test_arguments_are_utf8_whatever_the_locale(model_folder, tmp_path):
    (tmp_path/'a.jsonl').write_text('{"größe": "Herr Müller"}\n{"größe": "by noon"}\n', encoding='utf-8')
    def found(query, field): return call('search', '--model', model_folder, tmp_path/'a.jsonl', '--field', field, query)
    code,out,err = found('Müller', 'größe')
    assert code == 0 and 'Herr Müller' in out, err
    assert found(ODD, 'gr\udcc3\udcb6\udcc3\udc9fe')[1] == out

    (tmp_path/'a.txt').write_text('noon', encoding='utf-8')
    def vector(prompt): return call('encode', '--model', model_folder, '--prompt', prompt, tmp_path/'a.txt')[1]
    assert vector(ODD) == vector('Müller') and vector(ODD).startswith('[')

def test_bytes_of_another_encoding_are_refused_with_what_helps(model_folder, tmp_path):
    (tmp_path/'a.txt').write_text('noon', encoding='utf-8')
    code,out,err = call('search', '--model', model_folder, tmp_path/'a.txt', 'M\udcfcller')
    assert code == 2 and not out and 'is not UTF-8' in err and 'iconv -f latin1 -t utf-8' in err
    code,_,err = call('encode', '--model', model_folder, tmp_path/'a.txt', '--prompt', 'M\udcfcller')
    assert code == 2 and '--prompt' in err and 'iconv' in err

@pytest.mark.skipif(os.name == 'nt', reason="Windows hands over letters, not bytes")
def test_a_locale_without_letters(model_folder, tmp_path):
    "As `LC_ALL=C` is where Python does not replace it"
    (tmp_path/'a.txt').write_text('Herr Müller\nby noon\n', encoding='utf-8')
    env = os.environ | dict(LC_ALL='C', PYTHONUTF8='0', PYTHONCOERCECLOCALE='0')
    search = ['-m', 'bilingual_embed.cli', 'search', '--model', str(model_folder), str(tmp_path/'a.txt'), 'Müller']
    r = subprocess.run([x.encode() for x in (*PYTHON, *search)], capture_output=True, env=env)
    assert r.returncode == 0 and rb'Herr M\xfcller' in r.stdout, r.stderr

def test_the_order_of_the_languages_says_nothing_here_either(capsys):
    assert main(['plan','--scale','sample','--langs','de-en']) == 0
    assert 'sample en-de:' in capsys.readouterr().out
    for command in (['evaluate','--model','x','--tests','.'], ['mteb','--suite','de','--model','x']):
        assert main([*command, '--langs', 'en-xx']) == 2 and "unknown language 'en-xx'" in capsys.readouterr().err
