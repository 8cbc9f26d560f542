"Test sets with odd values and odd files: refused by name, or ignored where they are not part of the set"
import json, os, pytest
from bilingual_embed.data.test_sets import TestSetError, read_tests

def write(path, *rows):
    path.write_text(''.join(json.dumps(r)+'\n' for r in rows))

@pytest.fixture
def retrieval(tmp_path):
    write(tmp_path/'queries.en.jsonl', dict(_id='q', text='?'))
    write(tmp_path/'corpus.en.jsonl', dict(_id='d', text='!'))
    return tmp_path

def qrels(folder, score): (folder/'qrels.tsv').write_text(f'query-id\tcorpus-id\tscore\nq\td\t{score}\n')

@pytest.mark.parametrize('score', ['inf','1e999','nan','x'])
def test_a_score_that_is_no_number(retrieval, score):
    qrels(retrieval, score)
    with pytest.raises(TestSetError, match='qrels.tsv:2: a row should be query-id'): read_tests(retrieval, ('en','de'))

@pytest.mark.skipif(os.name == 'nt', reason="needs /dev/zero")
def test_a_file_without_end_beside_the_set(retrieval):
    qrels(retrieval, 1)
    (retrieval/'qrels.de.tsv').symlink_to('/dev/zero')
    assert len(read_tests(retrieval, ('en','de'))) == 1

def test_half_a_surrogate_pair(tmp_path):
    (tmp_path/'x.de-en.jsonl').write_text('{"sentence1": "a\\ud800", "sentence2": "b"}')
    with pytest.raises(TestSetError, match="'sentence1' contains half a surrogate"): read_tests(tmp_path, ('en','de'))
