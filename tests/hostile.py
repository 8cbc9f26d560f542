"""Hostile input for every door of the library, and the box in which it is tried.

A door takes a case (plain data drawn by hypothesis) and an empty folder, and uses the library as anybody would. `trial`
does that in a process of its own, which may use little memory and time, and may not run, import or unpickle anything
that lies in the folder, start a program or open a connection. The outcome is accepted, refused (an error of the
library's own, with a useful message) or a crash, which is everything else."""
import copy, dis, faulthandler, gzip, importlib, io, json, os, pickle, resource, select, shutil, signal, struct, sys
import tempfile, time, warnings
from collections import deque
from dataclasses import dataclass
from functools import lru_cache
from itertools import islice
from pathlib import Path
import numpy as np
from hypothesis import strategies as st

# ---- the box

ROOM = 768      # MB that a case may take above what the process already holds
SECONDS = 30    # that a case may take
LIB = str(Path(__import__('bilingual_embed').__file__).parent)
FORBIDDEN = {'os.system', 'os.exec', 'os.posix_spawn', 'os.fork', 'os.forkpty', 'os.startfile', 'subprocess.Popen',
             'pty.spawn', 'socket.connect', 'socket.getaddrinfo', 'pickle.find_class'}
OWN_ERRORS = (ValueError, OSError, FileNotFoundError, RuntimeError, FloatingPointError) # where we raise them

@dataclass
class Outcome:
    "What became of a case"
    kind:str         # accepted, refused or crash
    what:str         # the error, and where it came from
    seconds:float=0.
    mb:float=0.      # memory above what was there before

class Boom(Exception):
    "Raised outside the library, which passes it on: a source of texts that breaks off, an error of transformers"

def frames(tb):
    "Code, and the instruction at which it was left, outermost first"
    while tb:
        yield tb.tb_frame.f_code,tb.tb_lasti
        tb = tb.tb_next

def judge(e):
    "Is this an error that the library meant to raise, with a useful message?"
    if isinstance(e, Boom): return Outcome('refused', f"as it came: {e}"[:300])
    message,name = str(e),type(e).__name__
    stack = list(frames(e.__traceback__))
    ours = [code for code,_ in stack if code.co_filename.startswith(LIB)]
    where = f"{Path(ours[-1].co_filename).stem}:{ours[-1].co_name}" if ours else 'outside'

    code,left_at = stack[-1] if stack else (None,0)
    raised_here = code in ours and code.co_code[left_at] == dis.opmap['RAISE_VARARGS']   # not on the way to a raise
    mine = type(e).__module__.startswith('bilingual_embed.') or raised_here and type(e) in OWN_ERRORS
    useful = 20 <= len(message) < 20_000 and ' object at 0x' not in message
    return Outcome('refused' if mine and useful else 'crash', f"{name} in {where}: {message[:300]}")

def _vm(key):
    "A line of /proc/self/status in MB"
    with open('/proc/self/status') as f: return int(next(l for l in f if l.startswith(key)).split()[1])/1024

def _watch(folder, seen):
    "From here on: what this process executes, and whence"
    folder = os.path.realpath(folder)+os.sep
    def inside(p): return isinstance(p, (str,bytes)) and os.path.realpath(os.fsdecode(p)).startswith(folder)
    def hook(event, args):
        if event in FORBIDDEN: seen.append(f"{event} {args!r:.200}")
        elif event == 'exec' and inside(getattr(args[0], 'co_filename', None)):
            seen.append(f"exec {args[0].co_filename}")
        elif event in ('compile','import','ctypes.dlopen'):
            paths = [a for a in args[:2] if isinstance(a, str) and os.sep in a]
            seen.extend(f"{event} {args[:2]!r:.200}" for a in paths if inside(a))
    sys.addaudithook(hook)

def _inner(door, case, folder, out, room):
    null = os.open(os.devnull, os.O_RDWR)
    [os.dup2(null, n) for n in (0, 1)]
    err = os.open(str(folder)+'.err', os.O_RDWR|os.O_CREAT)
    os.dup2(err, 2)
    faulthandler.disable()
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    limit = int((_vm('VmData')+room)*2**20)
    resource.setrlimit(resource.RLIMIT_DATA, (limit, limit))
    before = _vm('VmRSS')
    seen = []
    _watch(folder, seen)
    t = time.perf_counter()
    try:
        with warnings.catch_warnings():
            warnings.simplefilter('ignore')
            door(case, folder)
        o = Outcome('accepted', '')
    except BaseException as e: o = judge(e)
    o.seconds = time.perf_counter()-t
    o.mb = max(0., resource.getrusage(resource.RUSAGE_SELF).ru_maxrss/1024-before)
    if seen: o.kind,o.what = 'crash',f"executed: {seen[0]}"
    os.write(out, pickle.dumps(o))

def trial(
    door,              # (case, folder): uses the library; anything it returns is ignored
    case,              # plain data
    seconds=SECONDS,
    room=ROOM,         # MB
)->Outcome:
    "A case in a process of its own"
    top = Path(tempfile.mkdtemp(prefix='hostile-'))
    folder = top/'here'
    folder.mkdir()
    r,w = os.pipe()
    t = time.perf_counter()
    pid = os.fork()
    if not pid:
        try:
            os.close(r)
            _inner(door, case, folder, w, room)
        finally: os._exit(0)
    os.close(w)
    data = b''
    try:
        while (left := t+seconds-time.perf_counter()) > 0 and select.select([r], [], [], left)[0]:
            if not (piece := os.read(r, 1<<16)): break
            data += piece
        if not data and time.perf_counter()-t >= seconds: os.kill(pid, signal.SIGKILL)
        _,status = os.waitpid(pid, 0)
        if data: return pickle.loads(data)
        took = time.perf_counter()-t
        if took >= seconds: return Outcome('crash', f"hangs: not done after {seconds} s", took)
        err = (top/'here.err').read_text(errors='replace')[-300:] if (top/'here.err').exists() else ''
        how = signal.Signals(os.WTERMSIG(status)).name if os.WIFSIGNALED(status) else status
        return Outcome('crash', f"the process died ({how}): {err}", took)
    finally:
        os.close(r)
        for d,*_ in os.walk(top): os.chmod(d, 0o700)
        shutil.rmtree(top, ignore_errors=True)

# ---- what is drawn

anything = st.text(st.characters(), max_size=30)                       # lone surrogates, NUL and all
WORDS = ("the harbour lies in fog Am Morgen blieben die Boote über ünïcode 日本 😀 don't <s> </s> <mask> "
         "\t \n \r \u2028 3.14")
words = st.sampled_from(WORDS.split(' '))
plain = st.lists(words, min_size=1, max_size=12).map(' '.join).filter(str.strip)
LARGE = ['a'*5_000_000, ' '*5_000_000+'a', 'ab '*1_700_000, '\u0301'*200_000, '日'*100_000, '\0'*50_000,
         '😀\u200d'*60_000, "'"*300_000, 'x\n'*200_000, '1'*300_000, '<mask>'*50_000]
numbers = st.sampled_from([0, 1, -1, 2, 3, 5, 16, 33, 1.5, 10**6, 10**9, 2**31, 2**63, 10**30, 10**400, float('nan'),
                           float('inf'), -0., 1e-300, True, False])
ODD = ['', 'x', 'de', 'en', '5', '1e999', 'nan', [], {}, [[]], ['a','b'], [None], {'a': {}}, 'y'*300, {'text': 'a'},
       ['\ud800'], 'NaN', '-1'] # other values
junk = st.one_of(st.none(), numbers, anything, st.sampled_from(ODD))
def deep(n): return '['*n+']'*n

def damage(draw, b):
    "Bytes with something done to them"
    how = draw(st.sampled_from(['cut','cut','flip','flip','insert','double','zero']))
    if not b or isinstance(b, str): return b    # nothing, or the name of a bomb
    i = draw(st.integers(0, len(b)-1))
    x = draw(st.binary(min_size=1, max_size=8))
    if how == 'cut': return b[:i]
    if how == 'flip': return b[:i]+x+b[i+len(x):]
    if how == 'insert': return b[:i]+x+b[i:]
    if how == 'double': return b+b[:i]
    return b[:i]+bytes(len(b)-i)

def bent(draw, tree, times=2):
    "A JSON tree with values replaced, removed, renamed or moved"
    tree = json.loads(json.dumps(tree))
    for _ in range(draw(st.integers(1, times))):
        at = tree
        while isinstance(at, (dict,list)) and at:
            k = draw(st.sampled_from(sorted(at, key=str)[:400] if isinstance(at, dict) else range(min(len(at), 50))))
            below = at[k]
            if not isinstance(below, (dict,list)) or not below or draw(st.integers(0, 2)) == 0:
                what = draw(st.integers(0, 5))
                if what == 0: del at[k]
                elif what == 1 and isinstance(at, dict):
                    at[draw(st.sampled_from(['x', k+'x', '__class__', 'type']))] = below
                else: at[k] = copy.deepcopy(draw(junk))         # a list out of `junk` is always the same list
                break
            at = below
    return tree

def dumps(x):
    # NaN, Infinity and half surrogate pairs go into the file as they are
    return json.dumps(x).encode('utf-8', 'surrogatepass')

# ---- encode

@lru_cache
def embedder():
    "A small model of random weights"
    import torch
    from bilingual_embed.model.jina_bert import JinaBertConfig, JinaBertModel
    from bilingual_embed.data.tokenizer import train_tokenizer
    from bilingual_embed.inference.embed import Embedder
    from conftest import STORY
    torch.manual_seed(0)
    torch.set_num_threads(1)
    tok = train_tokenizer(STORY*3, vocab_size=320, langs=('en','de'))
    config = JinaBertConfig(vocab_size=320, hidden_size=32, num_hidden_layers=2, num_attention_heads=4,
                            intermediate_size=64, pad_token_id=tok.pad_token_id, initializer_range=.2)
    return Embedder(JinaBertModel(config).eval(), tok)

class Str(str): pass
class Liar:
    def __init__(self, xs, n): self.xs,self.n = xs,n
    def __len__(self): return self.n
    def __iter__(self): return iter(self.xs)
def breaks(xs):
    yield from xs
    raise Boom('the source broke off')
def _pd():
    import pandas
    return pandas
def _pa():
    import pyarrow
    return pyarrow
def _objects(xs):
    a = np.empty(len(xs), object)
    a[:] = xs
    return a
def _str(x): return str(x).encode('utf-8', 'replace').decode()
def _or_none(xs): return [x if isinstance(x, str) else None for x in xs]
def _arrow(xs): return _pa().array([None if x is None else _str(x) for x in xs], _pa().string())

HOLDS = dict( # what the texts are held in
    list=list, tuple=tuple, generator=lambda xs: (x for x in xs), breaks=breaks, deque=deque,
    array=_objects,
    strings=lambda xs: np.array([_str(x) for x in xs]),
    series=lambda xs: _pd().Series(xs, dtype=object),
    pandas_string=lambda xs: _pd().Series(_or_none(xs), dtype='string'),
    index=lambda xs: _pd().Index(xs, dtype=object),
    frame=lambda xs: _pd().DataFrame(dict(text=_objects(xs))),
    arrow=lambda xs: _arrow(_or_none(xs)),
    arrow_table=lambda xs: _pa().table(dict(text=_arrow(map(str, xs)))),
    values=lambda xs: dict(enumerate(xs)).values(),
    dict=lambda xs: dict.fromkeys(map(str, xs)),
    one=lambda xs: xs[0] if xs else '',
    zero_dim=lambda xs: np.array('a'),
    two_dim=lambda xs: np.array([['a','b']]),
    none=lambda xs: None,
    number=lambda xs: 5,
    few=lambda xs: Liar(xs, max(0, len(xs)-1)),
    many=lambda xs: Liar(xs, len(xs)+3),
    bytes=lambda xs: b'text',
    file=lambda xs: io.StringIO('\n'.join(map(str, xs))),
    subclass=lambda xs: [Str(x) for x in xs])

@st.composite
def encode_case(draw):
    large = st.sampled_from(range(len(LARGE))).map(lambda i: ('large', i))
    item = st.one_of(plain, plain, plain, anything, junk, large) if draw(st.booleans()) else plain|anything
    odd = numbers|st.none()|st.just('8')
    options = dict( # of encode
        max_length=numbers|st.none()|st.sampled_from(['8',3,7,512]),
        truncate_dim=odd,
        batch_tokens=odd,
        normalize_embeddings=st.booleans(),
        dtype=st.sampled_from([None,'float32','float32','bfloat16','float16','int8',5]),
        prompt=st.none()|plain,
        on_long=st.sampled_from(['cut','error','wrap',None]),
        on_empty=st.sampled_from(['error','keep',0]))
    kw = draw(st.fixed_dictionaries({}, optional=options)) if draw(st.booleans()) else {}
    texts = draw(st.lists(item, max_size=5))
    if any(isinstance(t, tuple) for t in texts) and isinstance(kw.get('max_length'), int):
        kw['max_length'] = min(kw['max_length'], 8192)        # a million tokens at once need more memory than a case has
    return dict(texts=texts, how=draw(st.sampled_from(sorted(HOLDS))), kw=kw)

def encode_door(case, folder):
    e,kw = embedder(),case['kw']
    xs = [LARGE[t[1]] if isinstance(t, tuple) and t[0] == 'large' else t for t in case['texts']]
    try: v = e.encode(HOLDS[case['how']](xs), **kw)
    finally: assert not e.model.training
    assert isinstance(v, np.ndarray) and v.dtype == np.float32 and np.isfinite(v).all(), (v.dtype, v.shape)
    assert v.shape[-1] == (kw.get('truncate_dim') or e.dim), v.shape
    rows = v if v.ndim == 2 else v[None]
    assert case['how'] in ('one','file','few','many','zero_dim') or len(rows) == len(xs), (len(rows), len(xs))
    if kw.get('normalize_embeddings', True): np.testing.assert_allclose(np.linalg.norm(rows, axis=1), 1, atol=1e-4)
    if case['how'] == 'list' and kw.get('dtype') in (None, 'float32'):
        for t,row in list(zip(xs, rows))[:3]:
            np.testing.assert_allclose(e.encode(t, **kw), row, rtol=0, atol=1e-5*max(1, np.abs(row).max()))

# ---- files of rows

KINDS = ['document', 'pair', 'triplet', 'scored', 'labelled']
COLS = ['text', 'query', 'positive', 'negatives', 'sentence1', 'sentence2', 'score', 'label', 'lang', 'query_lang',
        'positive_lang', 'id', '_id', 'a', 'b'] # some names that readers know, and some that they do not
good = dict(text=plain, query=plain, positive=plain, negatives=st.lists(plain, min_size=1, max_size=2), sentence1=plain,
            sentence2=plain, score=st.floats(0, 5), label=st.sampled_from(['x','y',0,1])) # a value for each column
good_row = st.fixed_dictionaries(good)
bad_row = good_row.flatmap(lambda r: st.dictionaries(st.sampled_from(COLS), junk, max_size=2).map(lambda bad: r | bad))
row = bad_row | good_row
BAD_LINES = [ # of any format
    b'', b' ', b'null', b'[]', b'{}', b'"x"', b'5', b'{', b'{"text":', b'\xff\xfe', b'{"text":"\\ud800"}',
    b'{"text":"a","text":"b"}', ('{"text":'+'['*100_000).encode(), ('{"text":'+deep(100_000)+'}').encode(),
    b'{"score":'+b'9'*5000+b'}', b'{"text":"'+b'z'*200_000+b'"}', '{"text":"ü"}'.encode('latin-1'), b'\0'*100,
    b'\xef\xbb\xbf{"text":"a"}', b'a\tb\tc', b'a,b,"c', b'"', b'text,label', b'text\tlabel', b'a\rb']
line = row.map(dumps) | good_row.map(dumps) | good_row.map(dumps) | st.sampled_from(BAD_LINES) | st.binary(max_size=40)

@lru_cache
def bomb(kind):
    "A few hundred kilobytes that unpack to a gigabyte"
    import zstandard
    what,pack = kind.split('.')
    size = 1<<24
    block = dict(zeros=bytes(size), lines=b'\n'*size, brackets=b'['*size, rows=b'{}\n'*(size//3), # repeated 64 times
                 quote=b'"'+b'a'*(size-1))[what]
    if pack == 'zst':
        c = zstandard.ZstdCompressor(level=1).compressobj()
        return b''.join(c.compress(block) for _ in range(64)) + c.flush()
    return gzip.compress(block, 1)*64
BOMBS = [f'{w}.{p}' for w in ('zeros','lines','brackets','rows','quote') for p in ('gz','zst')]

@lru_cache
def parquet(kind=''):
    import pyarrow as pa, pyarrow.parquet as pq
    n = 50
    cols = dict(text=pa.array([f'Satz {i}, der länger ist' for i in range(n)]), query=pa.array(['q']*n),
                positive=pa.array(['p']*n), score=pa.array(np.linspace(0, 5, n))) # a good table
    if kind == 'late': cols['when'] = pa.array([2**62]*n, pa.timestamp('us'))
    if kind == 'bytes': cols['text'] = pa.array([b'\xff\xfe']*n, pa.binary())
    if kind == 'lists': cols['negatives'] = pa.array([[None,'a']]*n)
    if kind == 'bad_utf8':
        cols['text'] = pa.Array.from_buffers(pa.string(), n, pa.array([b'\xff\xfe']*n, pa.binary()).buffers())
    t = pa.table(cols)
    if kind == 'twice': t = t.append_column('text', t['query'])
    b = io.BytesIO()
    pq.write_table(t, b, row_group_size=20)
    return b.getvalue()

THINGS = ['file']*20 + ['folder','fifo','loop','dangling','device','missing','name','vanish','shrink','nul']

GOOD = dict(text='Ein Satz', query='what', positive='this', negatives='no', sentence1='one', sentence2='two',
            score='2.5', label='x') # a row as CSV has it

@st.composite
def body(draw, ext):
    "Bytes of a file with that name"
    import zstandard
    if ext == '.parquet':
        b = parquet(draw(st.sampled_from(['','late','bytes','lists','bad_utf8','twice'])))
        return damage(draw, b) if draw(st.booleans()) else b
    if draw(st.integers(0, 60)) == 0: return draw(st.sampled_from(BOMBS))
    table = '.csv' in ext or '.tsv' in ext
    sep = b'\t' if '.tsv' in ext else b','
    if draw(st.booleans()): # a good file with one odd line in it
        header = [sep.join(c.encode() for c in GOOD)] if table else []
        fine = [sep.join(v.encode() for v in GOOD.values()) if table else dumps(GOOD | dict(negatives=['no']))]*9
        b = b'\n'.join(header + fine + [draw(line)] + fine)
    else: b = b'\n'.join(draw(st.lists(line, max_size=8)))
    if table and not b.startswith(b'text'):
        many = b','.join(f'c{i}'.encode() for i in range(3000))
        headers = [b'text,label,score', b'text\tlabel\tscore', b'', b'query,positive', many, b'text,text']
        b = draw(st.sampled_from(headers))+b'\n'+b
    enc = draw(st.sampled_from(['','','','utf-8-sig','utf-16','utf-32','latin-1']))
    if enc: b = b.decode('utf-8', 'replace').encode(enc, 'replace')
    pack = ext.rsplit('.', 1)[1]
    if draw(st.integers(0, 5)):
        if pack == 'gz': b = gzip.compress(b, mtime=0)
        if pack == 'zst': b = zstandard.ZstdCompressor().compress(b)
    return damage(draw, b) if draw(st.integers(0, 3)) == 0 else b

EXTS = ['.jsonl','.jsonl','.csv','.tsv','.parquet','.jsonl.gz','.jsonl.zst','.csv.gz','.tsv.zst']

@st.composite
def rows_case(draw):
    ext = draw(st.sampled_from(EXTS))
    options = [{}, {}, dict(max_chars=5), dict(columns=dict(text='label')), dict(scale=(0,1)), dict(scale=(5,0)),
               dict(columns=dict(nothing='x'))] # of records_of
    return dict( # drawn in this order
        ext=ext, data=draw(body(ext)), thing=draw(st.sampled_from(THINGS)), kind=draw(st.sampled_from(KINDS)),
        on_error=draw(st.sampled_from(['stop','skip'])), lang=draw(st.sampled_from(['en','en-de',None])),
        kw=draw(st.sampled_from(options)))

def place(path, thing, data):
    "A file, or what stands in its place"
    if isinstance(data, str): data = bomb(data)
    if thing == 'folder': path.mkdir()
    elif thing == 'fifo': os.mkfifo(path)
    elif thing == 'loop': path.symlink_to(path.name)
    elif thing == 'dangling': path.symlink_to('nowhere')
    elif thing == 'device': path.symlink_to('/dev/zero')
    elif thing == 'missing': pass
    else: path.write_bytes(data)

def rows_door(case, folder):
    from bilingual_embed.core.records import RECORDS, Skips, texts_of
    from bilingual_embed.data.readers import records_of
    path = folder/('set.train.en'+case['ext'])
    skips = Skips()
    place(path, case['thing'], case['data'])
    if case['thing'] == 'name': path = folder/('x'*300+'.en.jsonl')
    if case['thing'] == 'nul': path = folder/'a\0b.en.jsonl'
    records = records_of(path, case['kind'], case['lang'], on_error=case['on_error'], skips=skips, **case['kw'])
    for i,r in enumerate(islice(records, 20_000)):
        assert type(r) is RECORDS[case['kind']] and all(t.strip() and t.encode() for t,_ in texts_of(r))
        if i == 0 and case['thing'] == 'vanish': path.unlink(missing_ok=True)
        if i == 0 and case['thing'] == 'shrink': os.truncate(path, path.stat().st_size//2)

# ---- folders of files: a source, test sets, the hub's local files

@st.composite
def source_case(draw):
    names = ['text/a.en','text/b.de','pairs/c.en-de','triplets/d.en','sts/e.train.de','labels/f.en','pairs/g',
             'text/h.xx','sts/i.train.en-de','text/.j.en','MANIFEST'] # any ending may follow
    files = []
    if draw(st.integers(0, 3)):
        good = b'\n'.join(dumps(dict(query=f'q {i}', positive=f'p {i}')) for i in range(40))
        files.append(('pairs/good.en-de', '.jsonl', 'file', good))
    for name in draw(st.lists(st.sampled_from(names), min_size=1, max_size=3, unique=True)):
        ext = '.tsv' if name == 'MANIFEST' else draw(st.sampled_from(EXTS))
        files.append((name, ext, draw(st.sampled_from(THINGS)), draw(body(ext))))
    return files

def source_door(case, folder):
    from bilingual_embed.core.records import Skips
    from bilingual_embed.data.corpus import LocalSource
    for name,ext,thing,data in case:
        (folder/name).parent.mkdir(exist_ok=True)
        place(folder/(name+ext), thing, data)
    s = LocalSource(folder)
    list(islice(s.read(('en','de'), Skips()), 20_000))
    s.describe()

def _set(rows, **more):
    "Lines of JSON with all texts; `more` has the values of further columns, which take turns"
    texts = [dict(sentence1=f'a {i}', sentence2=f'b {i}', text=f't {i}', _id=str(i)) for i in range(rows)]
    return b'\n'.join(dumps(t | {k: v[i % len(v)] for k,v in more.items()}) for i,t in enumerate(texts))

JUDGED = {'corpus.en.jsonl': _set(5), 'queries.en.jsonl': _set(3), 'queries.de.jsonl': _set(3),
          'qrels.tsv': b'query-id\tcorpus-id\tscore\n0\t1\t1\n1\t2\t2\n'} # a retrieval set
PAIRED = {'x.en.jsonl': _set(4), 'y.en-de.test.jsonl': _set(4, score=[1,2.5]), # sets of pairs
          'z.de.test.jsonl': _set(4, label=['p','q'])}
@st.composite
def tests_case(draw):
    "A good folder of test sets with one to three things done to it"
    files = dict(draw(st.sampled_from([JUDGED, PAIRED])))
    required = dict(_id=st.sampled_from(['1','2',3,'',None])|junk, text=plain, sentence1=plain, sentence2=plain)
    optional = dict(score=st.floats(0,5)|junk, label=st.sampled_from([0,1])|junk)
    simple = st.fixed_dictionaries(required, optional=optional)
    other = ['corpus.en','queries.en','qrels','x.en','y.en.train','z.de.all','en-x.test','nolang','w.xx']
    answer = st.tuples(st.sampled_from(['0','1','7','']), st.sampled_from(['1','2','9']),
                       st.sampled_from(['1','0','-1','inf','nan','1e999','x',''])).map('\t'.join) # a line of qrels.tsv
    for _ in range(draw(st.integers(1, 3))):
        how = draw(st.integers(0, 5))
        name = draw(st.sampled_from(sorted(files)))
        if how == 0:
            ext = draw(st.sampled_from(EXTS))
            files[draw(st.sampled_from(other))+ext] = draw(body(ext))
        elif how == 1:
            files[name+'!'] = draw(st.sampled_from([t for t in THINGS if t != 'file']))
            files.pop(name)
        elif how == 2: files[name] = damage(draw, files[name]) if files[name] else b''
        elif how == 3:
            answers = draw(st.lists(answer, max_size=4))
            files['qrels.tsv'] = '\n'.join(['query-id\tcorpus-id\tscore', *answers]).encode()
        elif how == 4: files[name] += b'\n'+dumps(draw(simple)) if isinstance(files[name], bytes) else ''
        else: files[name.replace('.en', '.en-de')] = files.pop(name)
    return files

def tests_door(case, folder):
    from bilingual_embed.data.test_sets import read_tests
    at = folder/'eval'/'set'
    at.mkdir(parents=True)
    for name,data in case.items():
        odd = name.endswith('!')                # then `data` is what stands in its place
        path = at/name.removesuffix('!')
        if not os.path.lexists(path): place(path, data if odd else 'file', b'' if odd else data)
    for s in read_tests(folder, ('en','de')):
        assert all(t.encode() for t,_ in s.texts()) and all(s.n(l) for l in s.data)

@st.composite
def hub_case(draw):
    ext = draw(st.sampled_from(['.jsonl','.json','.parquet','.csv','.jsonl.gz','.jsonl.zst','.txt']))
    data = draw(body('.jsonl' if ext in ('.json','.txt') else ext))
    return dict(ext=ext, data=data, thing=draw(st.sampled_from(THINGS)), which=draw(st.integers(0, 10)),
                on_error=draw(st.sampled_from(['skip','stop']))) # drawn in this order

def hub_door(case, folder):
    os.environ['HF_DATASETS_CACHE'] = str(folder/'cache')
    from bilingual_embed.core.records import Skips
    from bilingual_embed.data.hub import SETS, HubSource
    s = SETS[case['which'] % len(SETS)]
    path = folder/('x'+case['ext'])
    place(path, case['thing'], case['data'])
    source = HubSource(files={s.id: {l: [path] for l in s.config}}, on_error=case['on_error'])
    list(islice(source.read(('en','de'), Skips()), 5000))

# ---- model folders

@lru_cache
def model_files():
    "Name -> bytes of a small model folder as `save_st` writes it"
    from bilingual_embed.inference.sentence_transformers import save_st
    with tempfile.TemporaryDirectory() as d:
        e = embedder()
        save_st(Path(d)/'m', e.model, e.tokenizer)
        root = Path(d)/'m'
        return {str(p.relative_to(root)): p.read_bytes() for p in sorted(root.rglob('*')) if p.is_file()}

CANARY = b"import os\nopen(os.path.join(os.path.dirname(os.path.abspath(__file__)), 'executed'), 'w')\n"
class _Evil:
    def __reduce__(self): return os.system, ('true',)
SIZES = ['vocab_size', 'hidden_size', 'num_hidden_layers', 'num_attention_heads', 'intermediate_size',
         'max_position_embeddings', 'type_vocab_size'] # of a configuration
VALUES = st.sampled_from([0, 1, -1, 2, 3, 5, 16, 31, 33, 64, 319, 321, 10**4, 10**6, 10**9, 2**31-1, 2**31, 2**63,
                          10**30, 1.5, '32', None, True, [], float('nan')])
DTYPES = ['F64', 'F32', 'F16', 'BF16', 'F8_E4M3', 'F8_E5M2', 'F8_E8M0', 'F4', 'F6_E2M3', 'C64', 'I64', 'I32', 'I8',
          'U8', 'U16', 'U32', 'U64', 'BOOL', 'X'] # of safetensors, and one that does not exist

@st.composite
def weights_bytes(draw):
    "A safetensors file whose header lies"
    b = model_files()['model.safetensors']
    n, = struct.unpack('<Q', b[:8])
    head = json.loads(b[8:8+n])
    how = draw(st.integers(0, 6))
    name = draw(st.sampled_from(sorted(head)))
    if how == 0:
        size = draw(st.sampled_from([0, 1, n-1, n+1, 2**20, 2**40, 2**60, 2**63, 2**64-1]))
        return struct.pack('<Q', size)+b[8:]
    if how == 1: return damage(draw, b)
    if how == 2:
        def framed(n, header): return struct.pack('<Q', n)+header
        return draw(st.sampled_from([pickle.dumps(_Evil()), b'PK\x03\x04'+b, b'', b'\x80\x02', # no weights at all
                                     framed(10**6, b'{"a":'*200_000+b' '*10),
                                     framed(2, b'{}'), framed(2, b'[]'), framed(4, b'null')]))
    if how == 3 and name != '__metadata__':
        head[name]['shape'] = draw(st.lists(st.sampled_from([0, 1, 2, 32, 64, 2**31, 2**60, -1, 1.5]), max_size=4))
    elif how == 4 and name != '__metadata__':
        head[name]['dtype'] = draw(st.sampled_from(DTYPES))
    elif how == 5 and name != '__metadata__':
        offset = st.sampled_from([0, 4, 128, 2**60, -1, len(b)])
        head[name]['data_offsets'] = draw(st.lists(offset, min_size=1, max_size=3))
    else: head = bent(draw, head)
    h = dumps(head)
    return struct.pack('<Q', len(h))+h+b[8+n:]

def _split(regex): return dict(type='Split', pattern=dict(Regex=regex), behavior='Isolated', invert=False)
def _replace(content, **pattern): return dict(type='Replace', pattern=pattern, content=content)
def _special(token, *ids): return dict(id=token, ids=list(ids), tokens=[token])
def _added(i):
    off = dict.fromkeys(('single_word','lstrip','rstrip','normalized'), False)
    return dict(id=1000+i, content=f'<t{i}>', special=True, **off)

_A,_B = ({'Sequence': dict(id=i, type_id=0)} for i in 'AB')
_BOS,_EOS,_X = ({'SpecialToken': dict(id=t, type_id=0)} for t in ('<s>','</s>','<x>'))
_VOCAB = ['<s>', '<pad>', '</s>', '<unk>', '<mask>']

TOKENIZERS = dict( # what is changed in a good tokenizer.json
    redos_split=dict(pre_tokenizer=_split('(a+)+$')),
    redos_replace=dict(normalizer=_replace('', Regex='(a|aa)+$')),
    swell=dict(normalizer=_replace('a'*1_000_000, String='a')),
    prepend=dict(normalizer=dict(type='Prepend', prepend='z'*10_000_000)),
    none=dict(post_processor=None),
    unigram=dict(model=dict(type='Unigram', unk_id=0, vocab=[[t, 0.] for t in _VOCAB])),
    wordpiece=dict(
        model=dict(type='WordPiece', unk_token='[UNK]', continuing_subword_prefix='##', max_input_chars_per_word=100,
                   vocab={t: i for i,t in enumerate([*_VOCAB, 'a'])}),
        pre_tokenizer=None, normalizer=None),
    outside=dict(post_processor=dict(
        type='TemplateProcessing', single=[_BOS,_X,_A,_EOS], pair=[_A,_B], # <x> has an id that does not exist
        special_tokens={'<s>': _special('<s>', 0), '</s>': _special('</s>', 2), '<x>': _special('<x>', 10**6)})),
    many=dict(added_tokens=[_added(i) for i in range(2000)]),
    padded=dict(padding=dict(strategy=dict(Fixed=10**9), direction='Right', pad_to_multiple_of=None, pad_id=1,
                             pad_type_id=0, pad_token='<pad>')), # to a billion tokens
    cut=dict(truncation=dict(direction='Right', max_length=0, strategy='LongestFirst', stride=10**9)))

MODEL_FILES = ['config.json','model.safetensors','tokenizer.json','tokenizer_config.json','modules.json',
               'model.safetensors.index.json'] # some of those in a model folder
NO_JSON = [b'', b'null', b'[]', b'{}', b'5', b'"x"', b'\xff', deep(100_000).encode(), b'{"a":'*100_000,
           b'{"hidden_size":'+b'9'*5000+b'}', '{}'.encode('utf-16'), b'\xef\xbb\xbf{}', b' '*10_000_000]
MODULES = ('model','modeling','configuration','tokenization','__init__','sitecustomize','torch','handler')
SCRIPTS = [f'{m}.py' for m in MODULES] # that nothing may run
WEIGHT_PATHS = ['pytorch_model.bin', 'x.safetensors', '../x', '/etc/passwd', '..', '', 'a\0b', 5, None, 'x'*300]

@st.composite
def folder_case(draw):
    "{file: bytes, or what stands in its place}"
    files = dict(model_files())
    config = json.loads(files['config.json'])
    tok = json.loads(files['tokenizer.json'])
    for _ in range(draw(st.integers(1, 2))):
        how = draw(st.integers(0, 12))
        if how == 0:
            f = draw(st.sampled_from(sorted(files)))
            files[f] = damage(draw, files[f]) if isinstance(files[f], bytes) else files[f]
        elif how == 1: files.pop(draw(st.sampled_from(sorted(files))))
        elif how == 2:
            instead = ['folder','fifo','loop','dangling','device','link_fifo']
            files[draw(st.sampled_from(MODEL_FILES))] = draw(st.sampled_from(instead))
        elif how in (3,4):
            config[draw(st.sampled_from(SIZES))] = draw(VALUES)
            files['config.json'] = dumps(config)
        elif how == 5:
            config = bent(draw, config, 3)
            files['config.json'] = dumps(config)
        elif how in (6,7): files['model.safetensors'] = draw(weights_bytes())
        elif how == 8: files['tokenizer.json'] = dumps(tok | TOKENIZERS[draw(st.sampled_from(sorted(TOKENIZERS)))])
        elif how == 9: files['tokenizer.json'] = dumps(bent(draw, tok, 3))
        elif how == 10:
            f = draw(st.sampled_from(['tokenizer_config.json','modules.json','config_sentence_transformers.json']))
            files[f] = dumps(bent(draw, json.loads(model_files()[f]), 3))
        elif how == 11:
            f = draw(st.sampled_from(['config.json','tokenizer_config.json','tokenizer.json','modules.json']))
            files[f] = draw(st.sampled_from(NO_JSON))
        else:
            files |= dict.fromkeys(SCRIPTS, CANARY)
            what = draw(st.integers(0, 4))
            evil = pickle.dumps(_Evil())
            classes = ('AutoConfig','AutoModel','AutoModelForMaskedLM','AutoTokenizer')
            named = {c: f'modeling.{c}' for c in classes}          # code of the folder
            config |= dict(auto_map=named, custom_pipelines={}, _attn_implementation='modeling.X')
            files['config.json'] = dumps(config)
            if isinstance(files.get('tokenizer_config.json'), bytes):
                named = draw(st.sampled_from(['Evil','PreTrainedTokenizerFast','os.system','../x']))
                auto_map = dict(AutoTokenizer=['tokenization.Evil','tokenization.Evil'])
                files['tokenizer_config.json'] = dumps(dict(tokenizer_class=named, auto_map=auto_map))
            if what == 0:
                files.pop('model.safetensors', None)
                files['pytorch_model.bin'] = evil
            elif what == 1: files['model.safetensors'] = evil
            elif what == 2: files |= {'training_args.bin': evil, 'optimizer.pt': evil, 'model.pkl': evil}
            elif what == 3:
                files.pop('model.safetensors', None)
                index = dict(weight_map={'a': draw(st.sampled_from(WEIGHT_PATHS))})
                files['model.safetensors.index.json'] = dumps(index)
    return files

def lay(files, at):
    at.mkdir(exist_ok=True)
    for name,data in files.items():
        p = at/name
        p.parent.mkdir(exist_ok=True)
        if data == 'link_fifo':
            os.mkfifo(at/(name+'.pipe'))
            p.symlink_to(name+'.pipe')
        elif isinstance(data, str): place(p, data, b'')
        else: p.write_bytes(data)
    return at

def folder_door(case, folder):
    from bilingual_embed import load
    at = lay(case, folder/'m')
    try:
        e = load(at, device='cpu')
        texts = ['Am Morgen', 'a'*60+'!', 'harbour 日本 😀'*9]
        v = e.encode(texts)
        assert np.isfinite(v).all() and v.shape == (3, e.dim)
        np.testing.assert_allclose(np.linalg.norm(v, axis=1), 1, atol=1e-4)
        np.testing.assert_allclose(e.encode(texts[0]), v[0], rtol=0, atol=1e-4)
        e.revision
    finally: assert not list(folder.rglob('executed')), "code of the folder ran"

def pretrained_door(case, folder):
    "transformers' way in: whatever it says, nothing of the folder runs"
    from bilingual_embed.model.jina_bert import JinaBertModel
    at = lay(case, folder/'m')
    try: JinaBertModel.from_pretrained(at)
    except (RecursionError, MemoryError): raise
    except Exception as e: raise Boom(str(e)) from e
    finally: assert not list(folder.rglob('executed')), "code of the folder ran"

def convert_door(case, folder):
    from bilingual_embed.inference.sentence_transformers import convert
    at = lay(case, folder/'m')
    try: convert(at, folder/'out')
    finally: assert not list(folder.rglob('executed')), "code of the folder ran"

# ---- what a run leaves behind

@lru_cache
def run_files():
    "Name -> bytes of what training writes"
    import torch
    from bilingual_embed.core.records import Pair
    from bilingual_embed.core.recipes import recipe, recipe_json
    from bilingual_embed.data.batches import pack
    from bilingual_embed.data.tasks import Writer
    from bilingual_embed.train.loop import Log, save_state
    with tempfile.TemporaryDirectory() as d:
        root = Path(d)
        torch.manual_seed(0)
        o,opt = _objective()
        o(_batch()).backward()
        opt.step()
        save_state(root/'state.safetensors', o, opt, step=3, fingerprint='f', skipped=0, tokens=9, name='pairs',
                   scaler=None) # as after three steps
        pack(['Am Morgen lag Nebel']*40, embedder().tokenizer, root/'en.tokens', 16)
        (root/'recipe.json').write_text(recipe_json(recipe('sample')))
        log = Log(root, tensorboard=False)
        for i in range(4):
            log.row(step=i, kind='pairs', task='t', loss='1.0', grad_norm='1.0', lr='0.1', tokens=5, seconds='0.1',
                    skipped=0)
        log.close()
        w = Writer(root/'tables')
        for i in range(40): w.add(Pair(f'q{i}', f'ein Satz {i}', 'de', 'x'), i)
        w.close()
        about = dict(source='sample', why='w', provenance=[], report=[], examples=[], skips=[], seconds=1., digest='d')
        (root/'corpus.json').write_text(json.dumps(about))
        return {str(p.relative_to(root)): p.read_bytes() for p in sorted(root.rglob('*')) if p.is_file()}

def _objective():
    import torch
    from bilingual_embed.core.recipes import recipe
    from bilingual_embed.train.loop import Objective, param_groups
    o = Objective(copy.deepcopy(embedder().model), recipe('sample').pairs)
    return o, torch.optim.AdamW(param_groups(o, .01), lr=1e-3, fused=True)

def _batch():
    from bilingual_embed.core.records import Pair, Task
    from bilingual_embed.data.sampler import Sampler
    from bilingual_embed.data.batches import Batcher
    pairs = [Pair(f'q{i}', f'ein Satz {i}', 'de', 'x') for i in range(8)]
    return Batcher(Sampler([Task('t', 'pairs', pairs)], 4, 0), embedder().tokenizer, 16, 0)(0)

@st.composite
def run_case(draw):
    files = run_files()
    name = draw(st.sampled_from([n for n in files for _ in range(3 if n == 'state.safetensors' else 1)]))
    b = files[name]
    how = draw(st.integers(0, 4))
    if how == 0: b = draw(st.sampled_from(['folder','fifo','loop','dangling','device','missing','link_fifo']))
    elif how == 1 or name.endswith(('tokens','arrow','csv')): b = damage(draw, b)
    elif how == 2:
        digits = b'{"tokens":'+b'9'*5000+b'}'
        b = draw(st.sampled_from([b'', b'null', b'[]', b'{}', b'5', deep(100_000).encode(), digits, b'\xff\xfe{}']))
    elif name.endswith('.json'): b = dumps(bent(draw, json.loads(b), 3))
    else: # the header
        n, = struct.unpack('<Q', b[:8])
        head = json.loads(b[8:8+n])
        meta = json.loads(head['__metadata__']['meta'])
        if draw(st.booleans()):
            odd = [dumps(bent(draw, meta)).decode(), deep(100_000), '5', 'null', '{}', '[]',
                   json.dumps(meta | dict(step=draw(junk)))] # in place of the record
            head['__metadata__']['meta'] = draw(st.sampled_from(odd))
        else: head = bent(draw, head)
        h = dumps(head)
        b = struct.pack('<Q', len(h))+h+b[8+n:]
    return name,b

def run_door(case, folder):
    from bilingual_embed.core.recipes import recipe_from_json
    from bilingual_embed.data.batches import Packed
    from bilingual_embed.data.tasks import open_corpus
    from bilingual_embed.train.loop import load_state, read_log
    name,data = case
    files = run_files() | {name: data}
    if data == 'missing': files.pop(name)
    at = lay(files, folder/'r')
    if name == 'state.safetensors':
        o,opt = _objective()
        m = load_state(at/name, o, opt)
        assert 0 <= m['step'] < 2**53
        o(_batch()).backward()
        opt.step()
    elif 'en.' in name:
        p = Packed(at/'en.tokens', 16)
        assert p[np.arange(len(p))].shape == (len(p), 16)
    elif name == 'recipe.json': recipe_from_json(at/name)
    elif name == 'log.csv': read_log(at)
    else:
        c = open_corpus(at)
        for t in c.tables: t.take(np.arange(len(t)))
        list(c.texts('de', kinds=('pair',)))
        c.describe()

# ---- recipes, launch configs, export

FIELDS = [ # of a recipe, and some that do not exist
    'text.source', 'text.mlm_chars', 'text.cross', 'text.ratio', 'tokenizer.vocab_size',
    'model.hidden_size', 'model.num_attention_heads', 'model.num_hidden_layers',
    'model.hidden_dropout_prob', 'model.qk_norm', 'model.max_position_embeddings', 'pairs.steps',
    'pairs.lr', 'pairs.temperature', 'pairs.batch_size', 'pairs.weights', 'pairs.betas', 'pairs.precision',
    'pairs.max_grad_norm', 'align.warmup_steps', 'multitask.negatives', 'pretrain.mlm_probability',
    'text.alpha', 'scale', 'langs', 'seed', 'x', '.', 'model', 'model.', 'pairs.steps.x', '__class__']
SETTINGS = [ # what a field may be set to
    '', '(', '((1', '{}', "{'pairs':1}", "{'x':1}", "{'pairs':'a'}", "[1]", '1j', 'None', 'True', '"bf16"',
    'bf16', '-'*3000+'1', '('*150+'1'+')'*150, '['*90+']'*90, '9'*5000, '1e999', '1e-999', 'nan', 'inf',
    '0x10', '1_000', 'b"x"', '{1}', '...', '__import__("os").system("true")', '\0', '5 5', '0.5', '7', '64',
    '200']

@st.composite
def changes_case(draw):
    value = st.one_of(numbers.map(repr), anything, st.sampled_from(SETTINGS))
    one = st.tuples(st.sampled_from(FIELDS), st.sampled_from(['=','=','=',' = ','==','',':']), value).map(''.join)
    if draw(st.integers(0, 3)):
        changes = draw(st.lists(one, min_size=1, max_size=2).map(','.join))
        return dict(changes=changes, scale='sample', langs='en-de', seed=1)
    return dict(
        changes=draw(st.lists(one|anything, min_size=1, max_size=3).map(','.join)), # anything may be wrong
        scale=draw(st.sampled_from(['sample','cpu','small','base'])|junk),
        langs=draw(st.sampled_from(['en-de','en-es'])|junk), seed=draw(st.just(42)|junk))

def changes_door(case, folder):
    from bilingual_embed.core.recipes import recipe_from_json, recipe_json, recipe_rows
    from bilingual_embed.story import story_recipe
    r = story_recipe(case['scale'], case['langs'], case['seed'], '', case['changes'])
    for n in ('align','pretrain','pairs','multitask'):
        s = getattr(r, n)
        fields = ('steps','lr','temperature','max_grad_norm','warmup_steps','batch_size','eps','weight_decay')
        assert all(np.isfinite(float(getattr(s, f))) for f in fields)
        assert isinstance(s.steps, int) and s.batch_size < 2**31
    m = r.model
    assert min(m.hidden_size, m.num_attention_heads, m.num_hidden_layers, m.intermediate_size) >= 1
    recipe_rows(r)
    assert recipe_from_json(recipe_json(r)) == r

FSDP_KEYS = ['FSDP_VERSION', 'FSDP_RESHARD_AFTER_FORWARD', 'FSDP_AUTO_WRAP_POLICY', 'FSDP_TRANSFORMER_CLS_TO_WRAP',
             'FSDP_OFFLOAD_PARAMS', 'FSDP_CPU_RAM_EFFICIENT_LOADING', 'FSDP_ACTIVATION_CHECKPOINTING', # one a setting
             'FSDP_STATE_DICT_TYPE', 'FSDP_SHARDING_STRATEGY', 'FSDP_MIN_NUM_PARAMS', 'FSDP_BACKWARD_PREFETCH']
FSDP_VALUES = ['', 'true', 'false', '1', '2', '3', '-1', 'x', 'TRANSFORMER_BASED_WRAP', 'SIZE_BASED_WRAP', 'NO_WRAP',
               'SHARDED_STATE_DICT', '9'*30]

@st.composite
def launch_case(draw):
    env = dict(ACCELERATE_USE_FSDP='true', FSDP_VERSION='2', FSDP_AUTO_WRAP_POLICY='TRANSFORMER_BASED_WRAP',
               FSDP_TRANSFORMER_CLS_TO_WRAP='_Layer', FSDP_RESHARD_AFTER_FORWARD='true', # which works
               FSDP_CPU_RAM_EFFICIENT_LOADING='false')
    changed = draw(st.dictionaries(st.sampled_from(FSDP_KEYS), st.sampled_from(FSDP_VALUES), max_size=3))
    return env | changed, draw(st.sampled_from(['fp32','bf16','fp16']))

def launch_door(case, folder):
    from bilingual_embed.train.loop import make_accelerator
    env,precision = case
    os.environ.update(env)
    make_accelerator(precision)

@st.composite
def export_case(draw):
    places = ['new','file','below_file','readonly','file_in','folder_in','loop','dangling','fifo_in','device','own',
              'nul','long','link'] # see export_door
    what = draw(st.sampled_from(['onnx','onnx','published','st','convert']))
    at = draw(st.sampled_from(places))
    queries = draw(st.sampled_from([256, 0, 1, -1, 7, 10**9, 1.5, '8', None]))
    return dict(what=what, at=at, queries=queries, half=draw(st.booleans()))

def export_door(case, folder):
    from bilingual_embed import load
    from bilingual_embed.inference.sentence_transformers import convert, save_st
    from bilingual_embed.inference.export import export_onnx, export_published
    m = lay(model_files(), folder/'m')
    out = folder/'out'
    how = case['at']
    weights = 'onnx/model.onnx' if case['what'] == 'onnx' else 'model.safetensors'
    if how == 'file': out.write_bytes(b'mine')
    elif how == 'below_file':
        (folder/'f').write_bytes(b'mine')
        out = folder/'f'/'out'
    elif how == 'readonly':
        out.mkdir()
        out.chmod(0o555)
    elif how == 'file_in':
        out.mkdir()
        (out/'onnx').write_bytes(b'mine')
        (out/'tokenizer.json').mkdir()
    elif how == 'folder_in':
        (out/weights).mkdir(parents=True)
        (out/weights/'x').write_bytes(b'mine')
    elif how == 'loop': out.symlink_to('out')
    elif how == 'dangling': out.symlink_to('nowhere')
    elif how == 'fifo_in':
        (out/weights).parent.mkdir(parents=True)
        os.mkfifo(out/weights)
    elif how == 'device': out = Path('/dev/null')
    elif how == 'own': out = m
    elif how == 'nul': out = folder/'a\0b'
    elif how == 'long': out = folder/('x'*300)
    elif how == 'link':
        (folder/'real').mkdir()
        out.symlink_to('real')
    if os.getuid() == 0 and how == 'readonly':
        os.chmod(folder, 0o755)
        os.chmod(folder.parent, 0o755)
        os.setuid(65534)   # root may write anywhere
    if case['what'] == 'onnx': export_onnx(m, out, queries=case['queries'])
    elif case['what'] == 'published': export_published(m, out, half=case['half'])
    elif case['what'] == 'convert': convert(m, out)
    else:
        e = load(m, device='cpu')
        save_st(out, e.model, e.tokenizer)
    assert how in ('new','file_in','folder_in','fifo_in','dangling','link','own'), f"written into {how}"

DOORS = dict( # name -> how its cases are drawn, how they are tried
    encode=(encode_case, encode_door),
    rows=(rows_case, rows_door),
    source=(source_case, source_door),
    testsets=(tests_case, tests_door),
    hub=(hub_case, hub_door),
    model_folder=(folder_case, folder_door),
    from_pretrained=(folder_case, pretrained_door),
    convert=(folder_case, convert_door),
    run_folder=(run_case, run_door),
    changes=(changes_case, changes_door),
    launch=(launch_case, launch_door),
    export=(export_case, export_door))

# imports that a door needs
SOURCES = ('bilingual_embed.data.corpus', 'bilingual_embed.data.test_sets')
NEEDS = dict.fromkeys(('source','testsets','rows','hub'), SOURCES)
NEEDS['hub'] += ('bilingual_embed.data.hub', 'datasets')
NEEDS['hub'] += tuple(f'datasets.packaged_modules.{m}.{m}' for m in ('json','csv','parquet'))
NEEDS |= dict(changes=('bilingual_embed.story',), export=('bilingual_embed.inference.export','onnx'),
              **dict.fromkeys(('launch','run_folder'), ('accelerate','bilingual_embed.data.tasks'))) # by door

def warm(name):
    "Imports and caches what a door needs, once, so that its trials start where a user's process stands"
    for module in ('bilingual_embed.inference.sentence_transformers','pandas','pyarrow.parquet', *NEEDS.get(name, ())):
        importlib.import_module(module)
    embedder()
    model_files()
    if name in ('launch','run_folder'): run_files()
    return DOORS[name]

# ---- long runs

def stream_door(n, folder):
    "n short texts from a generator: as many embeddings, in memory that stays what it was after a tenth of them"
    e = embedder()
    words = ['der', 'Hafen', 'liegt', 'im', 'Nebel', 'and', 'the', 'boats', 'stayed', 'in']
    got,grew = 0,0.
    texts = (f"{words[i%9]} {words[i*7%9]} {i} {words[i%4]}" for i in range(n))
    for block in e.encode_stream(texts):
        got += len(block)
        assert np.isfinite(block).all() and abs(np.linalg.norm(block[0])-1) < 1e-4
        if got*10 >= n: grew = grew or _vm('VmData')
    grew = _vm('VmData')-grew
    assert got == n and grew < 16, (got, grew)

def file_door(case, folder):
    "A file of so many MB, one row after another"
    import zstandard
    from bilingual_embed.data.readers import records_of
    mb,ext = case
    path = folder/f'big.en.{ext}'
    def line(i): return dumps(dict(query=f'question {i}', positive=f'answer {i} '+'of some length '*20))+b'\n'
    i = size = 0
    with open(path, 'wb') as raw:
        f = raw
        if ext.endswith('gz'): f = gzip.GzipFile(fileobj=raw, mode='wb', compresslevel=1)
        if ext.endswith('zst'): f = zstandard.ZstdCompressor(level=1).stream_writer(raw, closefd=False)
        while size < mb*2**20:
            b = b''.join(map(line, range(i, i+500)))
            i += 500
            size += len(b)
            f.write(b)
        if f is not raw: f.close()
    before,n = _vm('VmData'),0
    for _ in records_of(path, 'pair'): n += 1
    grew = _vm('VmData')-before
    assert n == i and grew < 16, (n, i, grew)
