"What may lie in a folder of training files without being one"
import json, os, pytest
from bilingual_embed.core.records import Skips
from bilingual_embed.data.corpus import LocalSource

@pytest.fixture
def folder(tmp_path):
    (tmp_path/'text').mkdir()
    (tmp_path/'text'/'laws.de.jsonl').write_text(json.dumps(dict(text='Die Würde des Menschen ist unantastbar.')))
    return tmp_path

@pytest.mark.skipif(os.name == 'nt', reason="Windows has neither pipes nor links in folders")
def test_what_is_no_plain_file_is_counted(folder):
    "Reading one of these would never end, or end the run"
    (folder/'text'/'folder.de.jsonl').mkdir()
    os.mkfifo(folder/'text'/'pipe.de.jsonl')
    (folder/'text'/'loop.de.jsonl').symlink_to('loop.de.jsonl')
    skips = Skips()
    assert len(list(LocalSource(folder).read(('en','de'), skips))) == 1
    skipped = {source for source,reason in skips.counts if reason == 'not a plain file'}
    assert skipped == {'local/folder','local/pipe','local/loop'}

def test_a_manifest_that_is_not_utf8(folder):
    (folder/'MANIFEST.tsv').write_bytes(b'file\tlicence\ntext/laws.de.jsonl\tPD \xe9\n')
    assert [d['licence'] for d in LocalSource(folder).describe(('en','de'))] == ['PD \ufffd']
