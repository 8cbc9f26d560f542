"sentence-transformers, encode, MTEB and the command line: the same vectors from the same folder, prompts included"
import io, json
from contextlib import redirect_stdout
import numpy as np, pytest
from bilingual_embed import convert, load
from bilingual_embed.cli import main
from bilingual_embed.data.quantization import calibrate, quantize_embeddings
from bilingual_embed.inference.sentence_transformers import save_st

PROMPTS = dict(query='Frage: ', document='Text: ', title='Titel: ')
TEXTS = ['Where is the harbour?', 'Am Morgen lag Nebel über dem Hafen.', 'x']

@pytest.fixture(scope='module')
def folder(embedder, tmp_path_factory):
    "A model with prompts and a default among them"
    at = tmp_path_factory.mktemp('prompts')/'asks'
    return save_st(at, embedder.model, embedder.tokenizer, prompts=PROMPTS, default_prompt_name='title')

@pytest.fixture(scope='module')
def st(folder):
    st = pytest.importorskip('sentence_transformers')
    return st.SentenceTransformer(str(folder), device='cpu')

HOW = [ # parameters of encode
    dict(), dict(prompt_name='query'), dict(prompt_name='document'), dict(prompt_name='title'),
    dict(prompt='Lies: '), dict(prompt=''), dict(prompt='Lies: ', prompt_name='query')]

@pytest.mark.parametrize('how', HOW, ids=str)
def test_encode(folder, st, how):
    ours = load(folder, device='cpu')
    want = st.encode(TEXTS, **how)
    np.testing.assert_allclose(ours.encode(TEXTS, **how), want, rtol=0, atol=1e-6)
    np.testing.assert_allclose(np.concatenate([*ours.encode_stream(iter(TEXTS), **how)]), want, rtol=0, atol=1e-6)
    for side in ('encode_query','encode_document'):
        got = getattr(ours, side)(TEXTS, **how)
        np.testing.assert_allclose(got, getattr(st, side)(TEXTS, **how), rtol=0, atol=1e-6)

def printed(*args):
    "What a command prints: JSON Lines"
    out = io.StringIO()
    with redirect_stdout(out): assert main([*map(str, args)]) == 0
    return [json.loads(l) for l in out.getvalue().splitlines()]

OPTIONS = [ # of the command, the same of encode; the last is how earlier versions spelled it
    ((), {}), (('--prompt-name','query'), dict(prompt_name='query')), (('--prompt',''), dict(prompt='')),
    (('--prompt','Lies: '), dict(prompt='Lies: ')), (('--prompt','query'), dict(prompt_name='query'))]

@pytest.mark.parametrize('options,how', OPTIONS, ids=str)
def test_command_line(folder, st, tmp_path, options, how):
    (tmp_path/'t.txt').write_text('\n'.join(TEXTS)+'\n', encoding='utf-8')
    got = printed('encode', '--model', folder, tmp_path/'t.txt', *options)
    np.testing.assert_allclose(got, st.encode(TEXTS, **how), rtol=0, atol=1e-5)

def test_search(folder, st, tmp_path):
    (tmp_path/'t.txt').write_text('\n'.join(TEXTS)+'\n', encoding='utf-8')
    found = printed('search', '--model', folder, tmp_path/'t.txt', 'Hafen?', '--jsonl')
    cosines = st.encode_document(TEXTS) @ st.encode_query('Hafen?')
    assert [r['text'] for r in found] == [TEXTS[i] for i in np.argsort(-cosines)]
    np.testing.assert_allclose([r['score'] for r in found], np.sort(cosines)[::-1], rtol=0, atol=2e-6)

def test_mteb(folder, st):
    "What MTEB encodes with our model is what it encodes with SentenceTransformer(folder)"
    mteb = pytest.importorskip('mteb')
    from mteb.models.sentence_transformer_wrapper import SentenceTransformerEncoderWrapper
    from mteb.types import PromptType
    from bilingual_embed.evaluate.tasks import as_mteb
    ours,theirs = as_mteb(load(folder, device='cpu')),SentenceTransformerEncoderWrapper(st)
    metadata = mteb.get_task('STSES').metadata
    class Batches(list): # what MTEB gives: batches of texts, and the features of their data set
        class dataset: features = {'text': None}
    batches = Batches([dict(text=TEXTS)])
    seen = []
    for prompt_type in (None, PromptType.query, PromptType.document):
        where = dict(task_metadata=metadata, hf_split='test', hf_subset='es', prompt_type=prompt_type)
        want = theirs.encode(batches, **where, show_progress_bar=False)
        np.testing.assert_allclose(ours.encode(batches, **where), want, rtol=0, atol=1e-6)
        seen.append(want)
    assert min(abs(a-b).max() for i,a in enumerate(seen) for b in seen[:i]) > 1e-3   # three prompts, three vectors

def test_prompts_of_a_task(embedder):
    "A prompt may be for a task, by its name or kind, as MTEB has it"
    mteb = pytest.importorskip('mteb')
    from bilingual_embed import Embedder
    from bilingual_embed.evaluate.tasks import as_mteb
    prompts = dict(STSES='for this task: ', STS='for all of its kind: ', query='Q: ')
    metadata = mteb.get_task('STSES').metadata
    def encode(prompts):
        model = as_mteb(Embedder(embedder.model, embedder.tokenizer, prompts=prompts))
        return model.encode([dict(text=TEXTS)], task_metadata=metadata, hf_split='test', hf_subset='es')
    for name in ('STSES','STS'):
        want = embedder.encode([prompts[name]+t for t in TEXTS])
        np.testing.assert_allclose(encode(prompts), want, rtol=0, atol=1e-6)
        del prompts[name]
    np.testing.assert_allclose(encode(prompts), embedder.encode(TEXTS), rtol=0, atol=1e-6)

# ---- what is written again keeps its prompts

def test_convert_and_export_keep_prompts(folder, st, tmp_path):
    from bilingual_embed.inference.export import export_published
    for again in (convert(folder, tmp_path/'ours'), export_published(folder, tmp_path/'published')):
        e = load(again, device='cpu')
        assert (e.prompts, e.default_prompt_name) == (PROMPTS, 'title')
        np.testing.assert_allclose(e.encode(TEXTS), st.encode(TEXTS), rtol=0, atol=1e-6)

def test_onnx_keeps_prompts(folder, tmp_path):
    pytest.importorskip('onnx')
    from bilingual_embed.inference.embed import read_prompts
    from bilingual_embed.inference.export import export_onnx
    export_onnx(folder, tmp_path/'onnx')
    assert read_prompts(tmp_path/'onnx') == (PROMPTS, 'title')

# ---- folders that convert refuses

def modules(*kinds, pooling='1_Pooling'):
    paths = ['', pooling, '2_Last']
    return [dict(type=f'sentence_transformers.models.{kind}', path=path) for kind,path in zip(kinds, paths)]

SETTINGS = 'config_sentence_transformers.json'
REFUSED = [ # file, what it says, what the message says
    ('modules.json', modules('Transformer','Pooling','Dense'), r"wants \['Transformer', 'Pooling', 'Dense'\]"),
    ('modules.json', ['Transformer','Pooling'], r"wants \['str', 'str'\]"),
    ('modules.json', modules('Transformer','Pooling','Normalize', pooling='../a/1_Pooling'),
     "'../a/1_Pooling', which is not a name inside"),
    ('1_Pooling/config.json', dict(pooling_mode_cls_token=True), 'pools by cls'),
    ('sentence_bert_config.json', dict(max_seq_length=64, do_lower_case=True), 'lower case'),
    ('sentence_bert_config.json', dict(max_seq_length='64'), 'no max_seq_length'),
    (SETTINGS, dict(prompts=5), '"prompts" must be'),
    (SETTINGS, dict(prompts=dict(a=5)), '"prompts" must be'),
    (SETTINGS, dict(default_prompt_name=[]), '"default_prompt_name" must be'),
    (SETTINGS, dict(default_prompt_name='title'), "'title', which is not among the prompts")]
@pytest.mark.parametrize('file,data,words', REFUSED, ids=range(len(REFUSED)))
def test_convert_refuses(embedder, tmp_path, file, data, words):
    at = save_st(tmp_path/'m', embedder.model, embedder.tokenizer, code=False)
    (at/file).write_text(json.dumps(data))
    with pytest.raises(ValueError, match=words): convert(at, tmp_path/'never')
    assert not (tmp_path/'never').exists()

def test_a_name_in_the_way(embedder, tmp_path):
    (tmp_path/'m'/'tokenizer.json').mkdir(parents=True)
    with pytest.raises(OSError, match='something of that name in the way'):
        save_st(tmp_path/'m', embedder.model, embedder.tokenizer)

def test_the_same_codes(embedder):
    "quantize_embeddings, with ranges of other texts"
    theirs = pytest.importorskip('sentence_transformers.util').quantize_embeddings
    x = embedder.encode(TEXTS*2)
    ranges = calibrate(embedder.encode(TEXTS[:2]))
    for precision in ('float32','int8','ubinary'):
        ours = quantize_embeddings(x, precision, ranges)
        np.testing.assert_array_equal(ours, theirs(x, precision, ranges=ranges))
