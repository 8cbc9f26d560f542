"Local files in place of hub data sets: every format is read, and what is damaged is refused by a named error"
import gzip, json
import pytest, zstandard
from bilingual_embed.core.records import Skips
from bilingual_embed.data.hub import HubError, HubSource

def read(path, **kw):
    src = HubSource('cpu', files={'reciTAL/mlsum': dict(de=[path])}, **kw)
    return list(src.read(('en','de'), Skips()))

ROWS = [dict(title=f't{i}', text=f'u{i}') for i in range(40)]
FORMATS = {'array.json': json.dumps(ROWS), 'lines.json': ''.join(json.dumps(r)+'\n' for r in ROWS),
           'table.csv': 'title,text\n' + ''.join(f'{r["title"]},{r["text"]}\n' for r in ROWS)}

@pytest.mark.parametrize('name', FORMATS)
def test_every_format_is_read(tmp_path, name):
    (tmp_path/name).write_text(FORMATS[name])
    assert {r.query for r in read(tmp_path/name)} == {r['title'] for r in ROWS}

DAMAGED = {'deep.json': b'['*100_000, 'odd.json': b'[5]', 'long.json': b'[' + b' '*(1<<24) + b']'}

@pytest.mark.parametrize('name', DAMAGED)
def test_json_that_is_no_array_of_objects_is_refused(tmp_path, name):
    (tmp_path/name).write_bytes(DAMAGED[name])
    with pytest.raises(HubError, match=f'{name}: (not|a|not a) JSON'): read(tmp_path/name)

LINES = b'{"title":"t","text":"u"}\n'*9000
PACKED = dict(gz=gzip.compress(LINES, mtime=0)[:-20], zst=zstandard.ZstdCompressor().compress(LINES)[:20])

@pytest.mark.parametrize('ext', PACKED)
def test_a_packed_file_cut_short_is_refused(tmp_path, ext):
    "The unpackers' libraries have errors of their own"
    p = tmp_path/f'cut.jsonl.{ext}'
    p.write_bytes(PACKED[ext])
    with pytest.raises(HubError, match='reciTAL/mlsum at refs/convert'): read(p, on_error='stop')
