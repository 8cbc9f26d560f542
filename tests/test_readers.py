"Rows and paths that no reader should trip over: each is refused by name, in little memory"
import gzip, json, os
import pyarrow as pa, pyarrow.parquet as pq, pytest, zstandard
from bilingual_embed.core.io import peak_memory
from bilingual_embed.core.records import RecordError, Skips
from bilingual_embed.data.readers import read_rows, records_of

BODY = b''.join(json.dumps(dict(text=f'Satz {i}: "Grüße", sagte sie', doc=str(i))).encode()+b'\n' for i in range(300))
GRADED = dict(sentence1='a', sentence2='b')

def written(path, data):
    path.write_bytes(data)
    return path

def packed(block, times, zst): # one frame of zstd, or many of gzip, as `cat` makes them
    if not zst: return gzip.compress(block, 1)*times
    c = zstandard.ZstdCompressor(level=1).compressobj()
    return b''.join(c.compress(block) for _ in range(times)) + c.flush()

@pytest.mark.parametrize('ext', ['gz','zst'])
@pytest.mark.parametrize('block,message', [
    (bytes(1<<22), 'giant line: over 16 MB'),
    (b'\n'*(1<<22), 'empty lines: 1,048,577 in a row')])
def test_a_small_file_that_unpacks_to_a_large_one(tmp_path, block, message, ext):
    path = written(tmp_path/f'bomb.jsonl.{ext}', packed(block, 64, ext == 'zst'))
    before = peak_memory()
    with pytest.raises(RecordError, match=message): list(read_rows(path))
    if before is not None: assert (peak_memory()-before)/2**20 < 150     # MB, for 256 MB unpacked

ROWS = [dict(text='Größe', n=1), dict(text='zwei\nZeilen', n=2)]
FORMS = dict(lines='\n'.join(map(json.dumps, ROWS)), array=json.dumps(ROWS), pretty=json.dumps(ROWS, indent=4))
@pytest.mark.parametrize('form', FORMS)
@pytest.mark.parametrize('ext', ['.jsonl','.json','.jsonl.gz','.json.zst'])
@pytest.mark.parametrize('encoding', ['utf-8','utf-8-sig','utf-16','utf-32'])
def test_json_in_any_form_and_encoding(tmp_path, form, ext, encoding):
    data = FORMS[form].encode(encoding)
    if ext.endswith('.gz'): data = gzip.compress(data)
    if ext.endswith('.zst'): data = zstandard.ZstdCompressor().compress(data)
    path = written(tmp_path/f'a.de{ext}', data)
    assert list(read_rows(path)) == ROWS
    assert [d.text for d in records_of(path, 'document')] == [r['text'] for r in ROWS]

def test_an_array_of_texts_is_documents(tmp_path):
    path = written(tmp_path/'a.de.json', json.dumps(['eins','zwei'], indent=1).encode())
    assert [d.text for d in records_of(path, 'document')] == ['eins','zwei']
    with pytest.raises(RecordError, match='wrong columns: no query'): list(records_of(path, 'pair'))

@pytest.mark.parametrize('name,data,message', [
    ('a.csv', 'text,n\neins,1\n'.encode('utf-16-be'), 'looks like UTF-16BE without .*iconv -f UTF-16BE -t UTF-8'),
    ('a.jsonl', 'text'.encode('utf-32-le'), 'looks like UTF-32LE without'),
    ('a.tsv', 'text\tn\nfür\t1\n'.encode('latin-1'), 'iconv -f WINDOWS-1252 -t UTF-8'),
    ('a.csv', b'text,n\na,1\nb\0,1\n', ':3: not text: a zero byte'),
    ('a.jsonl', b'[{"text": "a"}, {"text": "b"', 'item 2 of the array'),
    ('a.jsonl', b'[1, 2]', ':1: not a JSON object: 1'),
    ('a.jsonl', b'{\n "text": "a"\n}', 'write it on one line: jq -c . '),
    ('a.jsonl', b'{"of": {"x": [1]},\n "rows": [\n', "jq -c '.rows\\[\\]'"),
    ('settings.json', b'[]', 'unknown file format')])
def test_what_is_not_lines_is_refused_with_a_command(tmp_path, name, data, message):
    with pytest.raises(RecordError, match=message): list(read_rows(written(tmp_path/name, data)))
    if 'looks like' in message:  # nothing in it is a row, so there is nothing to skip
        with pytest.raises(RecordError, match=message): list(read_rows(tmp_path/name, 'skip', Skips()))

@pytest.mark.parametrize('kind,row,message', [
    ('document', dict(text='a', lang=['de']), 'unknown language'),
    ('triplet', dict(query='a', positive='b', negatives=5), 'negatives is int 5'),
    ('triplet', dict(query='a', positive='b', negatives=float('nan')), 'no negative'),
    ('scored', GRADED | dict(score=10**400), 'score is no number'),
    ('scored', GRADED | dict(score=float('nan')), 'score outside its scale'),
    ('pair', {f'c{i}': 'x' for i in range(1000)}, 'c19 and 980 more; accepted for query')])
def test_what_json_may_hold_and_a_row_may_not(tmp_path, kind, row, message):
    path = written(tmp_path/'odd.en.jsonl', json.dumps(row).encode())
    with pytest.raises(RecordError, match=message): list(records_of(path, kind))

@pytest.mark.skipif(os.name == 'nt', reason="Windows has neither pipes nor links in folders")
def test_what_is_no_file(tmp_path):
    (tmp_path/'folder.jsonl').mkdir()
    os.mkfifo(tmp_path/'pipe.jsonl')
    (tmp_path/'loop.jsonl').symlink_to('loop.jsonl')
    for name,message in dict(folder='not a plain file', pipe='not a plain file', loop='no such file').items():
        with pytest.raises(FileNotFoundError, match=message): list(read_rows(tmp_path/f'{name}.jsonl'))
    for name,message in {'x'*300: 'too long', 'a\0': 'no such file'}.items():
        with pytest.raises(FileNotFoundError, match=message): list(read_rows(tmp_path/f'{name}.jsonl'))

def test_a_date_in_no_calendar(tmp_path):
    table = pa.table(dict(text=['a'], when=pa.array([2**62], pa.timestamp('us'))))
    pq.write_table(table, tmp_path/'late.parquet')
    with pytest.raises(RecordError, match='late.parquet:1: damaged Parquet'): list(read_rows(tmp_path/'late.parquet'))

@pytest.mark.skipif(os.name == 'nt', reason="Windows does not delete an open file")
def test_an_open_file_that_is_deleted_stays_whole(tmp_path):
    path = written(tmp_path/'gone.jsonl', BODY*40)
    rows = read_rows(path)
    next(rows)
    path.unlink()
    assert sum(1 for _ in rows) == 300*40-1

def test_an_open_file_that_shrinks_gives_what_is_left(tmp_path):
    path = written(tmp_path/'shrinks.jsonl', BODY*40)
    rows = read_rows(path, 'skip', Skips())
    next(rows)
    os.truncate(path, 300_000)
    assert 0 < sum(1 for _ in rows) < 300*40
