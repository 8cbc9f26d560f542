"Damaged and hostile input of the commands `encode` and `search`: each is an error that names file and line"
import gzip, importlib.util, pytest
from bilingual_embed.data import files
from bilingual_embed.data.files import Bad, FileError, arrow, read_rows

with_arrow = pytest.mark.skipif(not importlib.util.find_spec('pyarrow'), reason="needs pyarrow")

def read(path, **kw): return list(read_rows([str(path)], **kw))

@pytest.mark.parametrize('name,data,field,message', [
    ('nested.jsonl', b'['*10**5, 't', 'line 1 is not JSON'),
    ('surrogate.jsonl', b'{"t": "\\ud800"}', 't', 'line 1 is not UTF-8'),
    ('empty.csv', b'', 'a', 'column names'),
    ('cut.txt.gz', gzip.compress(b'x\n'*99)[:-9], '', 'cut short')])
def test_damaged_files(tmp_path, name, data, field, message):
    (tmp_path/name).write_bytes(data)
    with pytest.raises(FileError, match=message): read(tmp_path/name, field=field)

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
