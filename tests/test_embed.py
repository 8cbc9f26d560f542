"encode: odd texts, odd parameters, tokenizers and folders that are damaged"
import copy, json, pickle, shutil, time
from concurrent.futures import ThreadPoolExecutor
from itertools import product
from pathlib import Path
import numpy as np, pandas as pd, pyarrow as pa, pytest, torch
from safetensors.torch import load_file, save_file
from tokenizers import AddedToken, Regex, Tokenizer, models, normalizers, pre_tokenizers, processors
from bilingual_embed import Embedder, load
from bilingual_embed.data.tokenizer import TokenizerError, load_tokenizer, train_tokenizer
from bilingual_embed.inference.embed import FolderError, TextError, TextIds, read_prompts, shipped
from bilingual_embed.model.weights import WeightsError
from conftest import STORY

TEXTS = [t for t,_ in STORY]

# ---- texts

class WrongLength(list):
    def __len__(self): return 3

ODD_TEXTS = [ # what is given, what the message says
    (np.array('a'), r'ndarray of shape \(\)'),
    (pd.DataFrame(dict(text=TEXTS)), r'got a DataFrame of shape \(4, 1\); pass a column'),
    (pa.table(dict(text=TEXTS)), r"table\['text'\]"),
    (WrongLength(TEXTS), 'has 3 texts by its len.. and gave 4'),
    (WrongLength(TEXTS[:2]), 'gave 2'),
    (pd.Series([TEXTS[0], None], dtype=object), 'text 1 is NoneType'),
    ([TEXTS[0], 3], 'text 1 is int'),
    ([TEXTS[0], b'x'], 'text 1 is bytes'),
    ([TEXTS[0], '\n '], 'text 1 is empty'),
    ([TEXTS[0], 'a\ud800'], 'text 1 is not valid Unicode'),
    (b'x', 'got bytes'), (5, 'got int'), ({'a': 1}, 'got dict'), (None, 'got NoneType')]
@pytest.mark.parametrize('texts,words', ODD_TEXTS, ids=range(len(ODD_TEXTS)))
def test_odd_texts_are_refused(embedder, texts, words):
    with pytest.raises(TextError, match=words): embedder.encode(texts)
    assert not embedder.model.training

def test_columns_of_many_kinds(embedder):
    want = embedder.encode(TEXTS)
    chunks = pa.chunked_array([TEXTS[:1], TEXTS[1:]])
    columns = [pd.Series(TEXTS), pd.Series(TEXTS, dtype='string'), pd.Index(TEXTS), pa.array(TEXTS), chunks,
               dict(enumerate(TEXTS)).values(), np.array(TEXTS), iter(TEXTS)] # one column each
    for column in columns: np.testing.assert_array_equal(embedder.encode(column), want)

def test_an_error_of_the_source_comes_out_as_it_is(embedder):
    def breaks():
        yield TEXTS[0]
        raise KeyError('the database is gone')
    with pytest.raises(KeyError, match='the database is gone'): embedder.encode(breaks())
    assert not embedder.model.training

def test_a_mistake_far_into_a_stream(embedder):
    "What came before its block has been handed out"
    n = 2051
    blocks = embedder.encode_stream(t for t in ['a']*n + [''])
    assert next(blocks).shape == (2048,embedder.dim)
    with pytest.raises(TextError, match=f'text {n} is empty'): next(blocks)

# ---- texts without anything to see

UNSEEN = '[\u00ad\u200b\u2060\u3164\ufeff\0]'
@pytest.fixture
def blind(model_folder): # a tokenizer that removes characters which nobody sees
    tok = load_tokenizer(model_folder)
    tok.backend_tokenizer.normalizer = normalizers.Sequence([normalizers.Replace(Regex(UNSEEN), ''), normalizers.NFC()])
    return tok

INVISIBLE = ['', '\n \u00a0', '\u200b', '\u00ad\ufeff', '\0\0', '\u3164', ' \u200b\n\u2060 ', '\u200b'*1000]
@pytest.mark.parametrize('text', INVISIBLE, ids=range(len(INVISIBLE)))
def test_a_text_of_which_nothing_is_left_is_empty(embedder, blind, text):
    for model,how in product((embedder, Embedder(embedder.model, blind)),
                             ({}, dict(prompt='query: '), dict(max_length=3))):
        with pytest.raises(TextError, match='text 1 is empty .*leave it out'): model.encode([TEXTS[0], text], **how)
        with pytest.raises(TextError, match='text 0 is empty'): model.encode(text, **how)
    assert model.encode(text, on_empty='keep').shape == (32,)

VISIBLE = ['.', '☃', 'я', '中', '\u200bя', '\u0301', '<s>', '\x7f', '\u200b'*1000 + 'я']
@pytest.mark.filterwarnings('ignore::bilingual_embed.inference.embed.TextsCut')
@pytest.mark.parametrize('text', VISIBLE, ids=range(len(VISIBLE)))
def test_a_text_of_which_something_is_left(embedder, blind, text):
    model = Embedder(embedder.model, blind)
    for how in ({}, dict(prompt='query: '), dict(max_length=3)): assert model.encode([text], **how).shape == (1,32)

def test_an_unknown_character_is_not_nothing(model_folder):
    tok = load_tokenizer(model_folder)
    vocabulary = {t: i for i,t in enumerate(['<s>','<pad>','</s>','<unk>','<mask>','a'])}
    tok.backend_tokenizer.model = models.WordPiece(vocabulary, unk_token='<unk>')
    tok.backend_tokenizer.normalizer = normalizers.BertNormalizer()
    tok.backend_tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    assert TextIds(tok, 9)(['☃'])[0].tolist() == [0,3,2]
    with pytest.raises(TextError, match='text 1 is empty'): TextIds(tok, 9)(['a', '\u200b'])

# ---- parameters

WRONG = [ # parameters, what the message says
    (dict(max_length=2), 'max_length must be a whole number of at least 3 .*, got 2'),
    (dict(max_length=100.5), 'max_length must be a whole number of at least 3 .*, got 100.5'),
    (dict(max_length='8'), "max_length must be a whole number of at least 3 .*, got '8'"),
    (dict(truncate_dim=0), 'truncate_dim must be a whole number from 1 to 32, got 0'),
    (dict(truncate_dim=33), 'truncate_dim must be a whole number from 1 to 32, got 33'),
    (dict(truncate_dim=True), 'truncate_dim must be a whole number from 1 to 32, got True'),
    (dict(truncate_dim=1.), 'truncate_dim must be a whole number'),
    (dict(batch_tokens=0), 'batch_tokens must be a whole number of at least 1, got 0'),
    (dict(batch_tokens=float('nan')), 'batch_tokens must be a whole number of at least 1, got nan'),
    (dict(dtype='int8'), "dtype must be 'float32', 'bfloat16', 'float16' or .*, got 'int8'"),
    (dict(dtype='bf16'), "dtype must be 'float32', 'bfloat16', 'float16' or .*, got 'bf16'"),
    (dict(dtype=torch.float64), 'got torch.float64'),
    (dict(dtype='float16'), 'needs a GPU'),
    (dict(on_long='wrap'), "on_long must be 'cut' or 'error', got 'wrap'"),
    (dict(on_empty=0), "on_empty must be 'error' or 'keep', got 0"),
    (dict(prompt=5), 'prompt must be a string, got int'),
    (dict(prompt='\ud800'), 'prompt is not valid Unicode'),
    (dict(prompt_name='query'), "has no prompt 'query'; it has none"),
    (dict(prompt_name=['query']), 'has no prompt')]
@pytest.mark.parametrize('how,words', WRONG, ids=[str(how) for how,_ in WRONG])
def test_wrong_parameters_are_refused(embedder, how, words):
    with pytest.raises(ValueError, match=words): embedder.encode(TEXTS, **how)
    # at the call, not at the first text
    with pytest.raises(ValueError, match=words): embedder.encode_stream(TEXTS, **how)

def test_large_values_mean_no_limit(embedder):
    how = dict(max_length=10**30, batch_tokens=10**30, truncate_dim=np.int64(32))
    np.testing.assert_allclose(embedder.encode(TEXTS, **how), embedder.encode(TEXTS), rtol=0, atol=1e-6)

def test_names_of_dtypes(embedder):
    want = embedder.encode(TEXTS)
    for dtype in (None, 'float32', torch.float32):
        np.testing.assert_array_equal(embedder.encode(TEXTS, dtype=dtype), want)
    a,b = (embedder.encode(TEXTS, dtype=d) for d in ('bfloat16', torch.bfloat16))
    np.testing.assert_array_equal(a, b)

# ---- tokenizers

def test_a_template_with_an_unknown_token(model_folder):
    tok = load_tokenizer(model_folder)
    special_tokens = [('<s>', 0), ('<x>', 10**6), ('</s>', 2)]
    template = dict(single='<s> <x> $A </s>', pair='$A $B', special_tokens=special_tokens)
    tok.backend_tokenizer.post_processor = processors.TemplateProcessing(**template)
    with pytest.raises(TokenizerError, match='id 1000000 around a text'): TextIds(tok, 9)

def test_a_tokenizer_without_a_token_for_the_unknown(model_folder):
    tok = load_tokenizer(model_folder)
    tok.backend_tokenizer.normalizer = tok.backend_tokenizer.pre_tokenizer = None
    vocabulary = {t: i for i,t in enumerate(['<s>','<pad>','</s>','<unk>','<mask>','a'])}
    tok.backend_tokenizer.model = models.WordPiece(vocabulary, unk_token='[UNK]')
    with pytest.raises(TokenizerError, match='cannot split one of the texts from 0 on.*UNK'): TextIds(tok, 9)(['z'])

def reference_ids(tok, texts): # by a tokenizer written to JSON and read again
    other = Tokenizer.from_str(tok.backend_tokenizer.to_str())
    other.no_padding()
    other.no_truncation()
    other.encode_special_tokens = tok.split_special_tokens
    return [other.encode(t).ids for t in texts]

def set_part(name, part): return lambda tok: setattr(tok.backend_tokenizer, name, part)
def set_template(tok):
    ids = [('<s>', 0), ('</s>', 2)]
    template = processors.TemplateProcessing(single='<s> <s> $A </s>', pair='$A $B', special_tokens=ids)
    tok.backend_tokenizer.post_processor = template
def letters(yes): return lambda tok: setattr(tok, 'split_special_tokens', yes)
def set_rules(tok):
    tok.backend_tokenizer.enable_padding(length=64)
    tok.backend_tokenizer.enable_truncation(4)

CHANGES = dict( # one after the other, on the same tokenizer
    rules=set_rules, normalizer=set_part('normalizer', normalizers.Lowercase()), template=set_template,
    tokens=lambda tok: tok.add_tokens(['harbour', AddedToken('fog', lstrip=True), 'Zeit']),
    read_as_special=letters(False),
    specials=lambda tok: tok.add_special_tokens(dict(additional_special_tokens=['<lang>'])),
    letters_again=letters(True), pre_tokenizer=set_part('pre_tokenizer', pre_tokenizers.Whitespace()),
    dropout=lambda tok: setattr(tok.backend_tokenizer.model, 'dropout', 1.))
def test_a_tokenizer_is_taken_as_it_is_at_the_call(model_folder):
    "Whatever was changed since the last call counts, and the tokenizer itself keeps its rules"
    tok = load_tokenizer(model_folder)
    texts = [*TEXTS, 'A <s> harbour  fog<mask> Zeit <lang>', 'é']
    seen = [reference_ids(tok, texts)]
    for name,change in CHANGES.items():
        change(tok)
        before = tok.backend_tokenizer.to_str()
        seen.append([x.tolist() for x in TextIds(tok, 999)(texts)])
        assert seen[-1] == reference_ids(tok, texts), name
        assert tok.backend_tokenizer.to_str() == before, name
    rules = tok.backend_tokenizer.padding['length'],tok.backend_tokenizer.truncation['max_length']
    assert rules == (64,4)
    assert [a == b for a,b in zip(seen, seen[1:])] == [True] + [False]*8      # only the rules changed no ids

def test_a_call_does_not_build_a_tokenizer():
    "It takes its parts; to write and read them again takes a thousand times as long"
    tok = load_tokenizer(shipped()['en-de'])
    def best(f):
        times = []
        for _ in range(5):
            start = time.perf_counter()
            f()
            times.append(time.perf_counter()-start)
        return min(times)
    assert best(lambda: TextIds(tok, 99)) < best(tok.backend_tokenizer.to_str)/10

def test_a_progress_bar_only_where_it_is_asked_for(embedder, capsys, monkeypatch):
    for texts in (TEXTS, iter(TEXTS), []): embedder.encode(texts, show_progress_bar=True)
    assert 'encode small: ' in capsys.readouterr().err
    monkeypatch.setattr('bilingual_embed.inference.embed.tqdm', None)     # it would start a thread
    embedder.encode(TEXTS)

# ---- threads and processes (forked ones: test_processes.py)

def test_many_threads_at_once(embedder):
    "Bit for bit what one thread gives, even where the model is in training and somebody uses its tokenizer"
    model = Embedder(copy.deepcopy(embedder.model).train(), embedder.tokenizer)
    model.model.encoder.layer[0].eval()
    modes = [m.training for m in model.model.modules()]
    hows = [{}, dict(truncate_dim=8), dict(dtype='bfloat16'), dict(max_length=9), dict(prompt='Text: ')]
    jobs = [(texts, how) for texts in (TEXTS[0], TEXTS, TEXTS*9) for how in hows]*4
    def run(job): return model.encode(job[0], **job[1])
    def use_tokenizer(_): return embedder.tokenizer(TEXTS, padding='max_length', truncation=True, max_length=5)
    with pytest.warns(UserWarning), ThreadPoolExecutor(8) as pool:
        want = [run(job) for job in jobs]
        others = [pool.submit(use_tokenizer, i) for i in range(60)]
        for got,x in zip(pool.map(run, jobs), want): np.testing.assert_array_equal(got, x)
        for o in others: o.result()
    assert [m.training for m in model.model.modules()] == modes
    embedder.tokenizer.backend_tokenizer.no_padding()
    embedder.tokenizer.backend_tokenizer.no_truncation()

def test_a_stream_that_is_not_finished_leaves_the_model_in_training(embedder):
    model = Embedder(copy.deepcopy(embedder.model).train(), embedder.tokenizer)
    stream = model.encode_stream(t for t in TEXTS*999)
    next(stream)
    assert all(m.training for m in model.model.modules())
    stream.close()
    with pytest.raises(TextError): model.encode([TEXTS[0], ''])
    assert all(m.training for m in model.model.modules())

def test_an_embedder_is_pickled_for_other_processes(embedder):
    np.testing.assert_array_equal(pickle.loads(pickle.dumps(embedder)).encode(TEXTS), embedder.encode(TEXTS))

# ---- devices

NO_DEVICE = ['gpu', 'CPU', 'meta', 'cuda:-1', 'cuda:99', '', True, 99, -1, 3.5, ['cpu']]
if not torch.cuda.is_available(): NO_DEVICE += ['cuda', 'cuda:7', torch.device('cuda')]
if not torch.backends.mps.is_available(): NO_DEVICE += ['mps']
@pytest.mark.parametrize('device', NO_DEVICE, ids=str)
def test_a_device_that_is_not_here(model_folder, device):
    with pytest.raises(ValueError, match="torch cannot compute on device .* here .*: pass 'cpu'.*, or leave it out"):
        load(model_folder, device=device)

def test_the_devices_that_are_here_are_named(model_folder, monkeypatch):
    monkeypatch.setattr(torch.accelerator, 'current_accelerator', lambda **kw: torch.device('cuda'))
    monkeypatch.setattr(torch.accelerator, 'device_count', lambda: 2)
    with pytest.raises(ValueError, match="'gpu' here .*: pass 'cpu' or 'cuda:0' or 'cuda:1', or leave it out"):
        load(model_folder, device='gpu')

def test_a_device_by_name_or_object(model_folder):
    for device in ('cpu', torch.device('cpu')): assert load(model_folder, device).device.type == 'cpu'

# ---- folders

def cut(path):
    content = path.read_bytes()
    path.write_bytes(content[:len(content)//2])
def without_a_weight(folder):
    weights = load_file(folder/'model.safetensors')
    del weights['encoder.layer.1.mlp.wo.weight']
    save_file(weights, folder/'model.safetensors', metadata=dict(format='pt'))
def with_other_tokenizer(folder): train_tokenizer(STORY*3, vocab_size=340, langs=('en','de')).save_pretrained(folder)
def write_prompts(folder, **settings): (folder/'config_sentence_transformers.json').write_text(json.dumps(settings))

DAMAGED = [ # what is done to the folder, error, what the message says
    (lambda f: (f/'model.safetensors').unlink(), WeightsError, 'model.safetensors is missing'),
    (lambda f: cut(f/'model.safetensors'), WeightsError, 'cut short'),
    (without_a_weight, WeightsError, 'encoder.layer.1.mlp.wo.weight'),
    (lambda f: (f/'tokenizer.json').unlink(), TokenizerError, 'tokenizer.json is missing'),
    (lambda f: cut(f/'tokenizer.json'), TokenizerError, 'tokenizer.json cannot be read'),
    (with_other_tokenizer, TokenizerError, 'ids up to 339 and the model 320 embeddings'),
    (lambda f: write_prompts(f, prompts=5), FolderError, '"prompts" must be an object of texts'),
    (lambda f: write_prompts(f, prompts=dict(query=5)), FolderError, '"prompts" must be an object of texts'),
    (lambda f: write_prompts(f, default_prompt_name=[]), FolderError, '"default_prompt_name" must be the name'),
    (lambda f: write_prompts(f, default_prompt_name='x'), FolderError, 'not among the prompts .there are none'),
    (lambda f: (f/'config_sentence_transformers.json').write_text('{'), FolderError, 'is not JSON')]
@pytest.mark.parametrize('damage,error,words', DAMAGED, ids=range(len(DAMAGED)))
def test_damaged_folders_are_refused(model_folder, tmp_path, damage, error, words):
    folder = Path(shutil.copytree(model_folder, tmp_path/'m'))
    damage(folder)
    with pytest.raises(error, match=words): load(folder, device='cpu')

def test_what_is_no_model_folder(model_folder, tmp_path):
    with pytest.raises(FolderError, match='pass the folder it is in'): load(model_folder/'config.json')
    (tmp_path/'empty').mkdir()
    with pytest.raises(WeightsError, match='is not a model folder'): load(tmp_path/'empty')
    shutil.copytree(model_folder, tmp_path/'demo')
    with pytest.raises(FolderError, match='holds no model itself, but folders that do: .*demo'): load(tmp_path)

def test_weights_that_make_no_vectors(model_folder, tmp_path, embedder):
    folder = Path(shutil.copytree(model_folder, tmp_path/'m'))
    weights = load_file(folder/'model.safetensors')
    weights['embeddings.LayerNorm.weight'][3] = float('nan')
    save_file(weights, folder/'model.safetensors', metadata=dict(format='pt'))
    damaged = load(folder, 'cpu')
    with pytest.raises(FloatingPointError, match='the vector of text 0 is not finite'): damaged.encode(TEXTS)

    zeros = load(model_folder, 'cpu')
    for p in zeros.model.parameters(): p.data.zero_()     # a file whose end is zeros, as a full disk leaves it
    with pytest.raises(FloatingPointError, match='the vector of text 0 is zero'): zeros.encode(TEXTS)
    assert not zeros.encode(TEXTS, normalize_embeddings=False).any()

# ---- prompts

def test_default_names_that_sentence_transformers_always_has(model_folder, tmp_path):
    folder = Path(shutil.copytree(model_folder, tmp_path/'m'))
    write_prompts(folder, prompts={}, default_prompt_name='query')
    assert read_prompts(folder) == ({'query': ''}, 'query')
    write_prompts(folder, prompts=None)
    assert read_prompts(folder) == ({}, None)

def test_an_empty_text_is_empty_with_a_prompt_too(embedder):
    with pytest.raises(TextError, match='text 0 is empty'): embedder.encode([''], prompt='query: ')
    kept = embedder.encode([''], prompt='query: x', on_empty='keep')
    np.testing.assert_allclose(kept, embedder.encode(['query: x']), rtol=0, atol=1e-6)

def test_prompts_in_memory(embedder):
    e = Embedder(embedder.model, embedder.tokenizer, prompts=dict(query='Q: '), default_prompt_name='query')
    np.testing.assert_allclose(e.encode(TEXTS), embedder.encode(['Q: '+t for t in TEXTS]), rtol=0, atol=1e-6)
    assert e.revision != Embedder(embedder.model, embedder.tokenizer).revision
    with pytest.raises(ValueError, match='not among the prompts'):
        Embedder(embedder.model, embedder.tokenizer, prompts=dict(query='Q: '), default_prompt_name='document')

def test_shipped_models_have_no_prompts():
    for folder in shipped().values(): assert read_prompts(folder) == ({}, None)
