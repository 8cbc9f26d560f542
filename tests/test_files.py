"Damaged and hostile input of the commands `encode` and `search`: each is an error that names file and line"
import codecs, csv, gzip, importlib.util, io, os, tracemalloc
import pytest
from bilingual_embed.data import files
from bilingual_embed.data.files import Bad, FileError, arrow, read_rows

with_arrow = pytest.mark.skipif(not importlib.util.find_spec('pyarrow'), reason="needs pyarrow")

def read(path, **kw): return list(read_rows([str(path)], **kw))

@pytest.mark.parametrize('name,data,field,message', [
    ('nested.jsonl', b'{"t": '*10**5, 't', 'line 1 is not JSON'),
    ('nested.json', b'['*10**5, '', 'item 1 is not JSON'),
    ('cut.json', b'["a", "b', '', 'item 2 is not JSON .*or cut short'),
    ('two.json', b'["a"]\n["b"]', '', "item 2 is not JSON .*after the end"),
    ('latin.json', '["a", "ü"]'.encode('latin-1'), '', 'item 1 is not UTF-8; convert the file: iconv -f WINDOWS-1252'),
    ('number.json', b'["a", 5]', '', 'line 2 is a int, not a text'),
    ('zero.txt', b'good\nb\0d\n', '', 'line 2 holds a zero byte'),
    ('zero.csv', b't,n\ngood,1\nb\0d,1\n', 't', 'line 3 holds a zero byte'),
    ('blank.txt', 'good\n\u200b\u00ad\u2063\n'.encode(), '', 'line 2 is empty'),
    ('filler.txt', 'good\n\u3164\n'.encode(), '', 'line 2 is empty'),
    ('half.txt', 'good\n'.encode('utf-16')[:-1], '', 'begins like UTF-16LE and is not'),
    ('surrogate.jsonl', b'{"t": "\\ud800"}', 't', 'line 1 is not UTF-8'),
    ('empty.csv', b'', 'a', 'column names'),
    ('cut.txt.gz', gzip.compress(b'x\n'*99, mtime=0)[:-9], '', 'cut short')])
def test_damaged_files(tmp_path, name, data, field, message):
    (tmp_path/name).write_bytes(data)
    with pytest.raises(FileError, match=message): read(tmp_path/name, field=field)

ENCODINGS = {'UTF-16LE': codecs.BOM_UTF16_LE, 'UTF-16BE': codecs.BOM_UTF16_BE,
             'UTF-32LE': codecs.BOM_UTF32_LE, 'UTF-32BE': codecs.BOM_UTF32_BE}
TWO = dict(txt='Größe\r\nzwei', csv='t\r\nGröße\r\nzwei\r\n', tsv='t\nGröße\nzwei',    # ending -> the same two texts
           jsonl='{"t": "Größe"}\n{"t": "zwei"}', json='["Größe",\n"zwei"]')
@pytest.mark.parametrize('ending,text', TWO.items(), ids=TWO)
@pytest.mark.parametrize('encoding', ENCODINGS)
@pytest.mark.parametrize('pack', [False, True])
def test_a_byte_order_mark_is_believed_and_nothing_else(tmp_path, ending, text, encoding, pack):
    path = tmp_path/f"a.{ending}{'.gz' if pack else ''}"
    def put(data): path.write_bytes(gzip.compress(data) if pack else data)
    field = 't' if ending in ('csv','tsv','jsonl') else ''
    put(ENCODINGS[encoding] + text.encode(encoding))
    assert [r.text for r in read(path, field=field)] == ['Größe','zwei']
    put(text.encode(encoding))
    with pytest.raises(FileError, match=f'looks like {encoding} without .*iconv -f {encoding} -t UTF-8'):
        read(path, field=field, bad=Bad(skip=True))

def test_a_long_array_takes_the_memory_of_an_item(tmp_path):
    row = '{"t": "' + 'x'*2000 + '"},\n'
    with open(tmp_path/'long.json', 'w') as f:
        f.write('[')
        for _ in range(12): f.write(row*500)
        f.write('{"t": "end"}]')
    tracemalloc.start()
    try:
        n = sum(1 for _ in read_rows([str(tmp_path/'long.json')], field='t'))
        peak = tracemalloc.get_traced_memory()[1]
    finally: tracemalloc.stop()
    assert n == 6001 and peak < 2e6, peak       # the file has 12 MB

def test_a_typed_line_is_read_before_the_next_one(monkeypatch):
    "What waits for a block of bytes, or for a mark to be complete, leaves the user without an answer"
    r,w = os.pipe()
    monkeypatch.setattr('sys.stdin', io.TextIOWrapper(os.fdopen(r, 'rb')))
    rows = read_rows(['-'], 'text')
    for line in ('a','zwei','ß'):
        os.write(w, f'{line}\n'.encode())
        assert next(rows).text == line
    os.close(w)
    assert not list(rows)

def test_what_is_no_file(tmp_path):
    for path in (tmp_path/'none.txt', tmp_path):
        with pytest.raises(FileError, match='cannot read'): read(path)

@pytest.mark.parametrize('name,text', [
    ('long.txt', 'good\n' + 'x'*21),
    ('long.jsonl', '{"t": "' + 'x'*20 + '"}'),
    ('long.csv', 't\n' + 'x'*21)])
def test_a_line_without_end_is_not_read_into_memory(tmp_path, monkeypatch, name, text):
    monkeypatch.setattr(files, 'LONGEST', 20)
    (tmp_path/name).write_text(text)
    with pytest.raises(FileError, match='longer than 20 bytes'):
        read(tmp_path/name, field='' if name.endswith('txt') else 't', bad=Bad(skip=True))
    assert csv.field_size_limit() > 20                       # the process's: others read tables too

@with_arrow
def test_what_is_no_parquet(tmp_path):
    (tmp_path/'b.parquet').write_bytes(b'PAR1')
    with pytest.raises(FileError, match='no Parquet file'): read(tmp_path/'b.parquet', field='a')

@with_arrow
def test_a_time_that_python_has_no_type_for(tmp_path):
    "As a column to carry it passes unchanged; as a value it is an error that says where"
    pa = arrow()
    pa.parquet.write_table(pa.table(dict(text=['a'], t=pa.array([2**60], pa.timestamp('ms')))), tmp_path/'far.parquet')
    row, = read(tmp_path/'far.parquet', field='text', keep=['t'])
    with pytest.raises(FileError, match='far.parquet, row 1 holds a value'): row.values(['t'])
