"Tables and corpora that are damaged, and a disk that is full"
import numpy as np, pyarrow.ipc as ipc, pytest
from bilingual_embed.core.io import DiskFull
from bilingual_embed.core.records import Pair, Triplet
from bilingual_embed.core.recipes import recipe
from bilingual_embed.data.corpus import write_jsonl
from bilingual_embed.data.tasks import Table, Writer, load_corpus, open_corpus

@pytest.fixture
def table(tmp_path):
    "Ten triplets in an Arrow file"
    w = Writer(tmp_path, block=3)
    for i in range(10): w.add(Triplet(f'q{i}', f'p{i}', (f'n{i}', f'm{i}'), 'en-de', 'demo/x'), hash=i)
    w.close()
    return Table(w.path('triplet', 'demo/x', 'en-de'))

def test_half_a_table_is_refused(table):
    cut = table.path.with_name('triplet~cut.arrow')
    b = table.path.read_bytes()
    cut.write_bytes(b[:len(b)//2])
    with pytest.raises(ValueError, match='not a whole Arrow table'): Table(cut)

def test_offsets_that_lead_out_of_the_file_are_refused(table):
    b = table.path.read_bytes()
    at = b.index(table.table['query'].chunks[0].buffers()[1].to_pybytes()[:16])   # where the offsets of the queries lie
    far = table.path.with_name('triplet~far.arrow')
    far.write_bytes(b[:at+8] + b'\xff'*7 + b'\x7f' + b[at+16:])
    with pytest.raises(ValueError, match='not a whole Arrow table'): Table(far)

@pytest.mark.parametrize('name,words', [('pair~other.arrow', 'it has the columns query, target, negatives'),
                                        ('nothing~x.arrow', 'of no known kind')])
def test_a_table_under_a_wrong_name_is_refused(table, name, words):
    other = table.path.with_name(name)
    other.write_bytes(table.path.read_bytes())
    with pytest.raises(ValueError, match=words): Table(other)

@pytest.mark.parametrize('content,words', [(b'', 'is not JSON'), (b'{"source": "sample", "why": "it', 'is not JSON'),
                                           (b'[]', 'holds a list'), (b'{"digest": "x"}', 'has no usable source, why')])
def test_a_damaged_corpus_json_is_refused(tmp_path, content, words):
    w = Writer(tmp_path/'tables')
    w.add(Pair('a', 'b', 'en-de', 'x'), 0)
    w.close()
    (tmp_path/'corpus.json').write_bytes(content)
    with pytest.raises(ValueError, match=words): open_corpus(tmp_path)

def test_a_full_disk_is_named(tmp_path, monkeypatch):
    def full(*args, **kw): raise OSError(28, 'No space left on device')
    monkeypatch.setattr(ipc, 'new_file', full)
    with pytest.raises(DiskFull, match='disk is full'): load_corpus(recipe('sample', 'en-es'), cache=tmp_path, log=len)

def test_mining_is_the_same_for_a_list_and_a_table(tmp_path):
    from bilingual_embed.data.tasks import mine_negatives
    rng = np.random.default_rng(0)
    words = [f'word{i}' for i in range(60)]
    texts = [' '.join(rng.choice(words, 12)) for _ in range(80)]
    pairs = [Pair(' '.join(rng.choice(t.split(), 3)), t, 'en', 'x') for t in texts]
    w = Writer(tmp_path)
    for i,p in enumerate(pairs): w.add(p, i)
    w.close()
    mined = list(mine_negatives(pairs))
    assert mined and list(mine_negatives(Table(w.path('pair', 'x', 'en')), batch_size=7)) == mined

# ---- your own text and the sample

@pytest.fixture
def my_text(tmp_path):
    "Translations and documents, no graded pairs and no classes"
    both = 'Sentence number {} of the book','Satz Nummer {} aus dem Buch'
    pairs = [dict(query=both[0].format(i), positive=both[1].format(i)) for i in range(40)]
    write_jsonl(tmp_path/'my_text'/'pairs'/'books.en-de.jsonl', pairs)
    words = dict(en=['the','and','with','ship','harbour','wind','morning','fisher','old','white'],
                 de=['der','und','mit','Schiff','Hafen','Wind','Morgen','Fischer','alte','weiße'])
    rng = np.random.default_rng(0)
    def sentence(lang): return ' '.join(rng.choice(words[lang], 10)).capitalize() + '.'
    for lang in words:
        texts = [' '.join(sentence(lang) for _ in range(4)) for _ in range(20)]
        write_jsonl(tmp_path/'my_text'/'text'/f'tales.{lang}.jsonl', [dict(text=t) for t in texts])
    return tmp_path/'my_text'

def sets_of(corpus): return {t.source for t in corpus.tables}

def test_your_own_text_is_trained_on_alone_and_said_so(my_text, tmp_path):
    said = []
    own = load_corpus(recipe('sample', text__source=str(my_text)), cache=tmp_path, log=said.append)
    assert sets_of(own) <= {'local-books','local-tales','cloze'} and 'local-books' in sets_of(own)
    assert said[1] == ("this text alone is trained on; it has no hard negatives, no graded pairs and no classes "
                       "(text.sample=True adds those of the sample that ships)")
    assert said[-1].startswith(f"to train on: {my_text} (documents 40, pairs 40); the documents' sentences (pairs ")
    assert 'sample' not in said[-1]
    assert {p['source'] for p in own.provenance} == {'local/books','local/tales'}
    again = []
    load_corpus(recipe('sample', text__source=str(my_text)), cache=tmp_path, log=again.append)
    assert again[:2] == said[:2] and again[-1] == said[-1]             # also where the text is at hand

def test_the_sample_is_mixed_in_when_asked_for_and_counted(my_text, tmp_path):
    said = []
    r = recipe('sample', text__source=str(my_text), text__sample=True, text__pair_rows=40)
    both = load_corpus(r, cache=tmp_path, log=said.append)
    assert {'local-books','sample-sts','sample-topics'} <= sets_of(both)
    assert said[1] == "the training part of the sample that ships is mixed in (text.sample=False leaves it out)"
    assert f'{my_text} (documents 40, pairs 40); the sample that ships (' in said[-1]
    assert 'graded pairs 160' in said[-1]
