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

@pytest.mark.parametrize('encoding', ['utf-8-sig','utf-16','utf-32'])
def test_files_of_a_spreadsheet(retrieval, encoding):
    "With a byte-order mark, as Excel and Notepad write them"
    qrels(retrieval, 1)
    for name in ('queries.en.jsonl','qrels.tsv'):
        path = retrieval/name
        path.write_bytes(path.read_text(encoding='utf-8').encode(encoding))
    found, = read_tests(retrieval, ('en','de'))
    assert found.data['en']['queries'] == {'q': '?'}

def test_an_unmarked_file_names_the_command(retrieval):
    qrels(retrieval, 1)
    path = retrieval/'qrels.tsv'
    path.write_bytes(path.read_text().encode('utf-16-le'))
    with pytest.raises(ValueError, match='qrels.tsv looks like UTF-16LE without .*iconv -f UTF-16LE -t UTF-8'):
        read_tests(retrieval, ('en','de'))

def test_a_json_array_with_a_language_is_a_set_and_settings_are_none(tmp_path):
    rows = [dict(sentence1='a', sentence2='b'), dict(sentence1='c', sentence2='d')]
    (tmp_path/'x.de-en.json').write_text(json.dumps(rows, indent=1))
    (tmp_path/'task.json').write_text('{"kind": "none of ours"}')
    found, = read_tests(tmp_path, ('en','de'))
    assert found.name == 'x' and found.data['de-en']['test'] == rows

def test_half_a_surrogate_pair(tmp_path):
    (tmp_path/'x.de-en.jsonl').write_text('{"sentence1": "a\\ud800", "sentence2": "b"}')
    with pytest.raises(TestSetError, match="'sentence1' contains half a surrogate"): read_tests(tmp_path, ('en','de'))

@pytest.mark.parametrize('score', ['0.5','1.5','-0.1','2147483648','1e300'])
def test_a_gain_that_trec_eval_does_not_take(retrieval, score):
    qrels(retrieval, score)
    with pytest.raises(TestSetError, match='qrels.tsv:2: score .* is not a whole'): read_tests(retrieval, ('en','de'))

@pytest.mark.parametrize('score,gain', [('1',1), ('1.0',1), ('0',0), ('-2',-2), ('1e3',1000), ('-0',0)])
def test_gains_are_kept_and_a_judged_query_counts(retrieval, score, gain):
    qrels(retrieval, score)
    s, = read_tests(retrieval, ('en','de'))
    assert s.data['en']['qrels'] == {'q': {'d': gain}} and s.n('en') == 1
    assert bool(s.notes) == (gain <= 0)

def test_a_query_without_a_row_is_left_out_and_a_missing_document_matters_only_as_an_answer(retrieval):
    write(retrieval/'queries.en.jsonl', dict(_id='q', text='?'), dict(_id='r', text='??'))
    (retrieval/'qrels.tsv').write_text('query-id\tcorpus-id\tscore\nq\td\t1\nq\tgone\t0\n')
    s, = read_tests(retrieval, ('en','de'))
    assert s.data['en']['qrels'] == {'q': {'d': 1}}
    assert s.notes == ['en: 1 of 2 queries have no row in qrels.tsv and are left out']

@pytest.mark.parametrize('langs', ['de-en', ('de','en'), ['en','de']])
def test_the_order_of_the_languages_says_nothing(retrieval, langs):
    qrels(retrieval, 1)
    assert read_tests(retrieval, langs)[0].data == read_tests(retrieval, 'en-de')[0].data

def test_an_unknown_language_is_named(retrieval):
    qrels(retrieval, 1)
    with pytest.raises(ValueError, match="unknown language 'en-xx'"): read_tests(retrieval, ('en','xx'))
