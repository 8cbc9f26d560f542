"What the tokenizer makes of texts that look alike, and tokenizer files that lie"
import json, re, shutil, unicodedata
import numpy as np, pytest
from hypothesis import given, strategies as st
from tokenizers import Tokenizer
from transformers import AutoTokenizer
from bilingual_embed.data.tokenizer import (INVISIBLE, LINE_ENDS, LOOKALIKES, SPACES, TokenizerError,
    load_tokenizer, reader_normalizer, save_tokenizer, train_tokenizer)
from bilingual_embed.inference.embed import TextIds
from conftest import STORY

@pytest.fixture(scope='module')
def tok(): return train_tokenizer(STORY*3, vocab_size=320, langs=('en','de'))

@pytest.fixture
def folder(tmp_path, tok):
    save_tokenizer(tmp_path, tok)
    return tmp_path

def edit(folder, **new):
    path = folder/'tokenizer.json'
    path.write_text(json.dumps(json.loads(path.read_text(encoding='utf-8')) | new))

# ---- what a reader cannot tell apart

SENTENCE = 'Der Zug nach Berlin hat Verspätung: „5 µm“ – 50 % von\n\nneun, sagt er.'
def characters(ranges): # the ends of each range
    return [chr(int(c, 16)) for r in ranges.split() for c in r.split('-')]

HIDDEN = characters(INVISIBLE) + ['\u200c', '\u200d', '\u2068', '\ufe0f', '\u061c', '\ufffb', '\U000e0041']
@pytest.mark.parametrize('c', HIDDEN, ids=ascii)
def test_what_nobody_sees_changes_nothing(tok, c):
    ids = tok(SENTENCE)['input_ids']
    for text in (c.join(SENTENCE), c+SENTENCE+c, SENTENCE.replace(' ', f' {c} '), SENTENCE.replace('\n', f'{c}\n')):
        assert tok(text)['input_ids'] == ids

@pytest.mark.parametrize('c', [*characters(SPACES), '  ', ' \u00a0\t'], ids=ascii)
def test_every_space_is_a_space(tok, c):
    ids = tok(SENTENCE)['input_ids']
    for text in (SENTENCE.replace(' ', c), f'{c}{SENTENCE}{c}', SENTENCE.replace('\n', f'{c}\n{c}')):
        assert tok(text)['input_ids'] == ids

@pytest.mark.parametrize('c', [*characters(LINE_ENDS), '\r', '\r\n'], ids=ascii)
def test_every_line_end_is_a_newline(tok, c):
    ids = tok(SENTENCE)['input_ids']
    for text in (SENTENCE.replace('\n', c), SENTENCE.replace('\n\n', 5*c), c+SENTENCE+c):
        assert tok(text)['input_ids'] == ids

ALIKE = [('\u03bc','µ'), ('u\u0308','ü'), ('\u212a','K'), ('u\u034f\u0308','ü'), *LOOKALIKES.items()]
@pytest.mark.parametrize('c,usual', ALIKE, ids=ascii)
def test_what_looks_alike_is_alike(tok, c, usual):
    assert tok(f'1 {c}m')['input_ids'] == tok(f'1 {usual}m')['input_ids']

SEEN = '… ½ m² − 3', 'Ⅳ ™ № “x” ‚y‘', '👩\u200d💻 🏳\u200d🌈', 'µῆνιν 日本', 'λόγος μου', 'a\n\nb', "don't -"
@pytest.mark.parametrize('text', SEEN)
def test_what_a_reader_sees_stays(text):
    text = unicodedata.normalize('NFC', text)
    assert reader_normalizer().normalize_str(text) == text

ODD = [*characters(f'{INVISIBLE} {SPACES} {LINE_ENDS}'), *LOOKALIKES, *'a  \n\r\nμαuK👩💻❤\u200d\u0308ä']
texts = st.text(st.sampled_from(ODD)) | st.text(st.characters(codec='utf-8'))
BROKEN = ['a\x85b', 'caf&eacute;\x0b&shy;', 'fÃ¼r\u00a0ihn', 'x\u3000&#8203; y']
@given(texts)
def test_the_rules_read_the_same_in_another_engine(text):
    "A second implementation of the steps in the file, with Python's expressions; and nothing is left to clean"
    out = text
    for step in json.loads(reader_normalizer().__getstate__())['normalizers']:
        if step['type'] == 'Replace':
            pattern = step['pattern']
            pattern = pattern['Regex'] if 'Regex' in pattern else re.escape(pattern['String'])
            out = re.sub(pattern, step['content'], out)
        else: out = unicodedata.normalize('NFC', out) if step['type'] == 'NFC' else out.strip()
    seen = reader_normalizer().normalize_str
    assert seen(text) == out == seen(out)

@given(texts | st.sampled_from(BROKEN))
def test_clean_training_text_is_what_the_tokenizer_sees(text):
    "Cleaning ends with the tokenizer's own rules: a text that was learned from is tokenized as it stands"
    clean = pytest.importorskip('bilingual_embed.data.clean', reason="needs pip install '.[train]'")
    repaired = clean.normalise(text)
    assert reader_normalizer().normalize_str(repaired) == repaired

def test_a_tokenizer_of_before_is_left_as_it_was(folder, tok):
    edit(folder, normalizer=dict(type='NFC'))
    old = load_tokenizer(folder)
    assert json.loads(old.backend_tokenizer.normalizer.__getstate__())['type'] == 'NFC'
    assert old('a\u00a0b')['input_ids'] != tok('a\u00a0b')['input_ids'] == tok('a b')['input_ids']

# ---- special tokens written in a text

FORGED = ['Jetzt nur <s>49,99</s> 29,99 Euro', '<mask>', 'x <pad></s>', '<unk> <s>', 'a<mask>b']
@pytest.mark.parametrize('text', FORGED)
def test_special_tokens_in_a_text_are_letters_for_every_reader(folder, tok, text):
    readers = [lambda t: Tokenizer.from_file(str(folder/'tokenizer.json')).encode(t).ids,
               lambda t: AutoTokenizer.from_pretrained(folder)(t)['input_ids'],
               lambda t: load_tokenizer(folder)(t)['input_ids']]
    ids = tok(text)['input_ids']
    assert not set(ids[1:-1]) & set(tok.all_special_ids)
    for read in readers: assert read(text) == ids

def test_special_tokens_survive_the_file(folder, tok):
    again = load_tokenizer(folder)
    assert again.all_special_ids == tok.all_special_ids and len(again) == len(tok)
    assert again.decode(again('Am Morgen')['input_ids'], skip_special_tokens=True) == 'Am Morgen'
    def typed(t): return t('der <mask>', split_special_tokens=False)['input_ids']
    assert typed(again) == typed(tok) and typed(tok)[-2] == tok.mask_token_id
    save_tokenizer(folder/'again', again)
    for name in ('tokenizer.json','tokenizer_config.json'):
        assert (folder/'again'/name).read_text(encoding='utf-8') == (folder/name).read_text(encoding='utf-8')

def test_tokens_of_ones_own_stay(tmp_path, tok, folder):
    "Only what the vocabulary holds may leave the list of added tokens"
    more = load_tokenizer(folder)
    more.add_tokens(['Hafenmeister'])
    save_tokenizer(tmp_path/'more', more)
    bare = Tokenizer.from_file(str(tmp_path/'more'/'tokenizer.json'))
    assert bare.encode('Hafenmeister').ids[1:-1] == [len(tok)]

def test_a_tokenizer_that_reads_special_tokens_still_does(tmp_path, tok, folder):
    "As the published ones: parsed by transformers, and by every reader of a folder that is written from there"
    (folder/'tokenizer_config.json').write_text(json.dumps(
        json.loads((folder/'tokenizer_config.json').read_text()) | dict(split_special_tokens=False)))
    published = load_tokenizer(folder)
    save_tokenizer(tmp_path/'out', published)
    bare = Tokenizer.from_file(str(tmp_path/'out'/'tokenizer.json'))
    again = load_tokenizer(tmp_path/'out')
    for text in FORGED: assert bare.encode(text).ids == published(text)['input_ids'] == again(text)['input_ids']

def test_the_class_for_roberta_keeps_the_rules(folder, tok):
    "transformers 5 builds that class anew from vocabulary and merges, without what tokenizer.json says of the text"
    config = json.loads((folder/'tokenizer_config.json').read_text()) | dict(tokenizer_class='RobertaTokenizer')
    (folder/'tokenizer_config.json').write_text(json.dumps(config))
    again = load_tokenizer(folder)
    assert type(again).__name__.startswith('Roberta')
    assert again('Ne\u00adbel\u00a0u\u0308ber')['input_ids'] == tok('Nebel über')['input_ids']
    save_tokenizer(folder/'out', again)
    assert AutoTokenizer.from_pretrained(folder/'out')('Ne\u00adbel')['input_ids'] == tok('Nebel')['input_ids']

def written_by(how, model_folder, to):
    "A folder as this library writes it, from one with the list of special tokens that transformers writes"
    from bilingual_embed import convert, load
    from bilingual_embed.inference.export import export_onnx, export_published
    if how == 'convert': return convert(model_folder, to)
    if how == 'published': return export_published(model_folder, to)
    pytest.importorskip('onnx', reason="needs pip install '.[onnx]'")
    if how == 'onnx into its own folder':
        shutil.copytree(model_folder, to)
        load(model_folder, device='cpu').tokenizer.save_pretrained(to)
        assert Tokenizer.from_file(str(to/'tokenizer.json')).encode('<s>').ids == [0, 0, 2]
        model_folder = to
    return export_onnx(model_folder, to).parent.parent

@pytest.mark.parametrize('how', ['convert','published','onnx','onnx into its own folder'])
def test_every_folder_that_is_written_reads_texts_like_encode(model_folder, embedder, tmp_path, how):
    "By the tokenizers library alone, and to the vectors where there is a graph"
    to = written_by(how, model_folder, tmp_path/'out')
    bare = Tokenizer.from_file(str(to/'tokenizer.json'))
    odd = [*FORGED, 'Ne\u00adbel\u00a0u\u0308ber\r\n\u202bdem\u202c Hafen', '\ufeffBoote \x00 am Kai']
    want = [i.tolist() for i in TextIds(embedder.tokenizer, 8192)(odd)]
    assert [bare.encode(t).ids for t in odd] == want
    assert [load_tokenizer(to)(t)['input_ids'] for t in odd] == want
    if how != 'published':   # of the class that it names, transformers 5 keeps the vocabulary only
        assert [AutoTokenizer.from_pretrained(to)(t)['input_ids'] for t in odd] == want
    if not how.startswith('onnx'): return

    session = pytest.importorskip('onnxruntime').InferenceSession(to/'onnx'/'model.onnx')
    def vector(ids):
        return session.run(['sentence_embedding'], dict(input_ids=[ids], attention_mask=[[1]*len(ids)]))[0][0]
    vectors = [vector(ids) for ids in want]
    np.testing.assert_allclose(np.stack(vectors), embedder.encode(odd), rtol=0, atol=1e-5)

# ---- files that lie: no text grows without end, no pattern takes exponential time, no file fills the memory

SWELL = dict(type='Replace', pattern=dict(String='a'), content='a'*1_000_000)
EXPONENTIAL = dict(type='Split', pattern=dict(Regex='(a+)+$'), behavior='Isolated', invert=False)
OURS = dict(type='Replace', pattern=dict(Regex='  +'), content=' ')
ALMOST_OURS = [OURS | dict(content='  '), *(OURS | dict(pattern=p) for p in (dict(Regex='( +)+'), dict(String='  +')))]

@pytest.mark.parametrize('nested', [False, True])
@pytest.mark.parametrize('name,part', [('normalizer',SWELL), ('pre_tokenizer',EXPONENTIAL),
                                       *(('normalizer',p) for p in ALMOST_OURS)])
def test_parts_of_their_own_are_refused(folder, name, part, nested):
    if nested: part = {'type': 'Sequence', dict(normalizer='normalizers', pre_tokenizer='pretokenizers')[name]: [part]}
    edit(folder, **{name: part})
    with pytest.raises(TokenizerError, match=r"has a '(Replace|Split)', which inserts text or matches a pattern"):
        load_tokenizer(folder)

def test_one_step_of_ours_is_accepted(folder):
    edit(folder, normalizer=OURS)
    assert load_tokenizer(folder)('a   b')['input_ids'] == load_tokenizer(folder)('a b')['input_ids']

def test_a_giant_file_is_refused(folder):
    with (folder/'tokenizer.json').open('wb') as f: f.truncate((1<<26)+1)    # a file with a hole takes no disk
    with pytest.raises(TokenizerError, match='tokenizer.json has 67,108,865 bytes, more than'): load_tokenizer(folder)
