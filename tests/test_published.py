"Published folders: every layout against a second implementation, every way to load them, malicious ones"
import contextlib, json, os, pickle, struct
from pathlib import Path
import numpy as np, pytest, torch
import torch.nn.functional as F
from safetensors.torch import load_file, save_file
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors, trainers
from torch.testing import assert_close
from transformers import AutoModel, AutoTokenizer, BertModel, PreTrainedTokenizerFast
from transformers.utils import logging
import bilingual_embed
from bilingual_embed.model import jina_bert, weights as model_weights
from bilingual_embed.model.jina_bert import JinaBertForMaskedLM, JinaBertModel, embed, load_model
from bilingual_embed.model.weights import WeightsError
from bilingual_embed.core.recipes import recipe
from bilingual_embed.data.tokenizer import TokenizerError, load_tokenizer, train_tokenizer
from bilingual_embed.data.tasks import load_corpus
from bilingual_embed.train.stages import start_run, tune_pairs, untrained
from conftest import STORY
from published import BIG, SIZES, config, folder, names, reference

LAYOUTS = list(SIZES)
TEXTS = ["The lighthouse keeper wrote.", "Am Morgen lag Nebel über dem Hafen, und die Boote blieben am Kai. "*8, "ok"]

@pytest.fixture(scope='module', autouse=True)
def quiet():
    torch.set_num_threads(1)
    logging.disable_progress_bar()
    logging.set_verbosity_error()
    yield
    logging.set_verbosity_warning()

@pytest.fixture(scope='module')
def bpe(): return train_tokenizer(STORY*3, vocab_size=320, langs=('en','de'))

@pytest.fixture(scope='module')
def wordpiece(): # lower-case WordPiece, as the English models have
    t = Tokenizer(models.WordPiece(unk_token='[UNK]'))
    t.normalizer,t.pre_tokenizer = normalizers.BertNormalizer(lowercase=True),pre_tokenizers.BertPreTokenizer()
    special = ['[PAD]','[UNK]','[CLS]','[SEP]','[MASK]']
    trainer = trainers.WordPieceTrainer(vocab_size=300, special_tokens=special, show_progress=False)
    t.train_from_iterator([s for s,_ in STORY]*3, trainer)
    t.post_processor = processors.TemplateProcessing(single='[CLS] $A [SEP]', pair='[CLS] $A [SEP] $B:1 [SEP]:1',
                                                     special_tokens=[('[CLS]', 2), ('[SEP]', 3)])
    return PreTrainedTokenizerFast(tokenizer_object=t, pad_token='[PAD]', unk_token='[UNK]', cls_token='[CLS]',
                                   sep_token='[SEP]', mask_token='[MASK]')

@pytest.fixture(scope='module')
def made(tmp_path_factory, bpe, wordpiece): # layout -> folder, weights; float16 as published; de, es scale to length 1
    root = tmp_path_factory.mktemp('published')
    return {l: folder(root/l, l, wordpiece if l == 'en' else bpe, normalize=l in ('de','es')) for l in LAYOUTS}

def batch(*lengths, V=320, seed=0): # padding on the right and on the left by turns; noise in the padding
    g = torch.Generator().manual_seed(seed)
    T = max(lengths)
    ids = torch.randint(5, V, (len(lengths), T), generator=g)
    at = [torch.arange(n) if b%2 == 0 else torch.arange(T-n, T) for b,n in enumerate(lengths)]
    mask = torch.zeros_like(ids)
    for b,a in enumerate(at): mask[b,a] = 1
    return ids, mask, at

# ---- the graph

def agree(at, w, layout, sizes, lengths, f32):
    exact,plain = load_model(at, dtype=torch.float64),load_model(at)
    ids,mask,places = batch(*lengths)
    with torch.inference_mode():
        hidden = exact(ids, mask).last_hidden_state
        single = plain(ids, mask).last_hidden_state
        pooled = embed(plain, ids, mask, normalize=False)
    for b,p in enumerate(places):
        want = reference(w, layout, sizes, ids[b,p])
        # float64: the same function, hidden states and vector
        assert_close(hidden[b,p], want, rtol=0, atol=1e-6)
        assert_close(hidden[b,p].mean(0), want.mean(0), rtol=0, atol=1e-6)
        assert_close(single[b,p].double(), want, rtol=0, atol=5*f32)            # float32: up to its rounding
        assert_close(pooled[b].double(), want.mean(0), rtol=0, atol=f32)

@pytest.mark.parametrize('dtype', [torch.float16, torch.float32], ids=['fp16','fp32'])
@pytest.mark.parametrize('layout', LAYOUTS)
def test_equals_the_second_implementation(layout, dtype, tmp_path):
    at,w = folder(tmp_path/'m', layout, dtype=dtype)
    for lengths in ((1,), (17,1,9), (512,17,300)): agree(at, w, layout, SIZES[layout], lengths, f32=2e-6)

@pytest.mark.parametrize('layout', LAYOUTS)
def test_equals_the_second_implementation_at_4096_tokens(layout, tmp_path):
    sizes = SIZES[layout] | dict(num_hidden_layers=1)
    at,w = folder(tmp_path/'m', layout, sizes=sizes)
    agree(at, w, layout, sizes, (4096,9), f32=5e-6)

@pytest.mark.parametrize('layout', LAYOUTS)
def test_the_reference_tells_layouts_apart(layout, made):
    "Norms left out, halves swapped, heads in another order: none of it passes for rounding"
    _,w = made[layout]
    s = SIZES[layout]
    ids = torch.arange(5, 45)
    want = reference(w, layout, s, ids)
    def off(w, layout=layout): return (reference(w, layout, s, ids)-want).abs().max()

    swapped = {k: v.roll(len(v)//2, 0) if 'gated' in k else v for k,v in w.items()}
    assert off(swapped) > .1
    if layout == 'es': assert off(w, 'de') > .1
    d = s['hidden_size']//s['num_attention_heads']
    other_heads = {k: v.roll(d, 0) if any(n in k for n in ('query','key','value')) else v for k,v in w.items()}
    assert off(other_heads) > .01

@pytest.mark.parametrize('name', BIG)
def test_true_sizes_to_the_last_parameter(name, tmp_path, monkeypatch):
    layout,sizes,count = BIG[name]
    (tmp_path/'config.json').write_text(json.dumps(config(layout, sizes)))
    shapes = names(layout, sizes)
    assert sum(torch.Size(s).numel() for s in shapes.values()) == count
    on_meta = {k: torch.empty(s, dtype=torch.float16, device='meta') for k,s in shapes.items()}
    monkeypatch.setattr(jina_bert, 'read_weights', lambda folder: on_meta)
    m = load_model(tmp_path)
    assert sum(p.numel() for p in m.parameters()) == count and m.embeddings.word_embeddings.padding_idx is None

REFERENCE = dict( # first numbers of a vector that is not scaled
    BILINGUAL_EMBED_SMALL_EN=('jina-embeddings-v2-small-en',
                              [-0.7366036, -0.34022003, -0.0716392, 0.108484305, 0.14210966, -0.4099645]),
    BILINGUAL_EMBED_CODE=('jina-embeddings-v2-base-code', [-0.15109017, -0.021903912, -0.08391459, -0.12880382]))
@pytest.mark.parametrize('var', REFERENCE)
def test_reference_vector(var):
    name,want = REFERENCE[var]
    if not os.environ.get(var): pytest.skip(f"the weights are not here: set {var} to the folder of {name}")
    model = bilingual_embed.load(os.environ[var], device='cpu')
    got = model.encode("What is Deep Learning?", normalize_embeddings=False)
    # computed elsewhere, in float32 or float16
    assert_close(got[:len(want)], np.array(want, np.float32), rtol=0, atol=1e-3)

# ---- the routes

def by_hand(tok, w, layout, text):
    return reference(w, layout, SIZES[layout], torch.tensor(tok(text)['input_ids'])).mean(0)

@pytest.mark.parametrize('layout', LAYOUTS)
def test_every_route_gives_the_same_vectors(layout, made, tmp_path, bpe, wordpiece):
    from sentence_transformers import SentenceTransformer
    at,w = made[layout]
    tok = wordpiece if layout == 'en' else bpe
    want = torch.stack([by_hand(tok, w, layout, t) for t in TEXTS])
    unit = F.normalize(want, dim=-1)
    def close(got, want): assert_close(torch.as_tensor(np.asarray(got)).double(), want, rtol=0, atol=2e-6)

    close(bilingual_embed.load(at, device='cpu').encode(TEXTS), unit)
    out = bilingual_embed.convert(at, tmp_path/'out')
    close(bilingual_embed.load(out, device='cpu').encode(TEXTS), unit)
    # scaled where the published folder scales
    close(SentenceTransformer(str(out), device='cpu').encode(TEXTS), unit if layout in ('de','es') else want)
    t = load_tokenizer(at)(TEXTS, padding=True, return_tensors='pt')
    for m in (JinaBertModel.from_pretrained(at, dtype=torch.float32), AutoModel.from_pretrained(out)):
        with torch.no_grad(): close(embed(m.eval(), t['input_ids'], t['attention_mask'], normalize=False), want)
    for other in (AutoTokenizer.from_pretrained(out), load_tokenizer(at)):
        assert other(TEXTS)['input_ids'] == tok(TEXTS)['input_ids']

@pytest.fixture(scope='module')
def corpus(tmp_path_factory):
    return load_corpus(recipe('sample', 'en-de'), cache=tmp_path_factory.mktemp('text'), log=lambda s: None)

@pytest.mark.parametrize('layout', LAYOUTS)
def test_trained_further(layout, made, corpus, tmp_path, capsys):
    "A run begins with a published model's vectors and vocabulary; its own folder gives them before the first step"
    at,_ = made[layout]
    skipped = dict(align__steps=0, pretrain__steps=0, multitask__steps=0)
    few = dict(pairs__steps=2, pairs__batch_size=4, pairs__max_tokens=32, pairs__warmup_steps=1)
    run = start_run(recipe('sample', 'en-de', **skipped, **few), corpus, tmp_path/'run', start=at)
    old,new = bilingual_embed.load(at),bilingual_embed.load(untrained(run))
    assert_close(old.encode(TEXTS), new.encode(TEXTS), atol=1e-6, rtol=0)
    assert run.tokenizer.get_vocab() == old.tokenizer.get_vocab()
    after = bilingual_embed.load(tune_pairs(run))
    x = after.encode(TEXTS)
    assert np.isfinite(x).all() and abs(x-old.encode(TEXTS)).max() > 1e-5

def test_dtype_and_padding_of_from_pretrained(made):
    at,_ = made['es']
    m = JinaBertModel.from_pretrained(at)
    # how the weights are stored is not how to compute
    assert m.dtype == torch.float32 and m.config.pad_token_id is None and m.config.qk_norm
    assert JinaBertModel.from_pretrained(at, dtype='auto').dtype == torch.float16
    assert JinaBertModel.from_pretrained(at, pad_token_id=1).embeddings.word_embeddings.padding_idx == 1
    with pytest.raises(WeightsError, match='missing'):
        JinaBertForMaskedLM.from_pretrained(at)                # a head is not made up either
    assert JinaBertModel.from_pretrained(at, output_loading_info=True)[1]['missing_keys'] == set()

def test_prefix_and_head_of_an_mlm_file(tmp_path):
    at,w = folder(tmp_path/'m', 'code', prefix='bert.', dtype=torch.float32)
    D,V = 48,320
    bias,W,b = torch.randn(V),torch.randn(D, D),torch.randn(D)
    head = {'bias': bias, 'transform.dense.weight': W, 'transform.dense.bias': b,
            'transform.LayerNorm.weight': torch.ones(D), 'transform.LayerNorm.bias': torch.zeros(D)}
    head = {'cls.predictions.'+k: v for k,v in head.items()}
    save_file({'bert.'+k: v for k,v in w.items()} | head, at/'model.safetensors')
    ids = torch.arange(5, 25)[None]
    x = reference(w, 'code', SIZES['code'], ids[0])
    for m in (load_model(at), JinaBertModel.from_pretrained(at)):
        assert_close(m(ids).last_hidden_state[0].double(), x, rtol=0, atol=2e-5)
    z = F.layer_norm(F.gelu(x@W.double().T + b), (D,), eps=1e-12)
    want = z@w['embeddings.word_embeddings.weight'].double().T + bias
    for m in (load_model(at, head=True), JinaBertForMaskedLM.from_pretrained(at).eval()):
        assert_close(m(ids).logits[0].double(), want, rtol=0, atol=1e-3)

def test_a_name_in_the_hubs_cache(made, tmp_path):
    "Offline, out of the cache, where every file is a link"
    at,w = made['de']
    repo = tmp_path/'models--jinaai--jina-embeddings-v2-base-de'
    snap = repo/'snapshots'/('0'*40)
    blobs = repo/'blobs'
    for d in (snap, blobs, repo/'refs'): d.mkdir(parents=True)
    (repo/'refs'/'main').write_text('0'*40)
    for n in ('config.json','model.safetensors'):
        (blobs/n).write_bytes((at/n).read_bytes())
        (snap/n).symlink_to(Path('..')/'..'/'blobs'/n)
    name = 'jinaai/jina-embeddings-v2-base-de'
    m = JinaBertModel.from_pretrained(name, cache_dir=tmp_path, dtype=torch.float32).eval()
    ids = torch.arange(5, 25)
    assert_close(m(ids[None]).last_hidden_state[0].double(), reference(w, 'de', SIZES['de'], ids), rtol=0, atol=2e-5)

# ---- the silent failure

@pytest.mark.parametrize('cls', [BertModel, AutoModel], ids=['BertModel','AutoModel'])
@pytest.mark.parametrize('layout', LAYOUTS)
def test_stock_bert_makes_feed_forwards_up_and_only_warns(layout, cls, made, caplog):
    "Why these folders are not for AutoModel; should transformers ever refuse them, our warning can go"
    at,_ = made[layout]
    ids = torch.arange(5, 25)[None]
    attn = {}
    if layout != 'en':  # transformers trips over their attn_implementation and says what to pass instead
        with pytest.raises(ValueError, match='attn_implementation="torch"` is not supported.*attn_implementation=sdpa'):
            cls.from_pretrained(at)
        attn = dict(attn_implementation='sdpa')
    logging.set_verbosity_warning()
    logging.enable_propagation()
    try:
        a,info = cls.from_pretrained(at, output_loading_info=True, dtype=torch.float32, **attn)
        b = cls.from_pretrained(at, dtype=torch.float32, **attn)
    finally:
        logging.disable_propagation()
        logging.set_verbosity_error()
    assert any('intermediate.dense.weight' in r.getMessage() for r in caplog.records)
    assert all(r.levelname == 'WARNING' for r in caplog.records)

    dense = [f'{n}.dense.{w}' for n in ('intermediate','output') for w in ('weight','bias')]
    made_up = {f'encoder.layer.{i}.{d}' for i in range(2) for d in dense}
    kept = set(a.state_dict())-set(info['missing_keys'])
    assert made_up <= set(info['missing_keys'])
    # half of it is right, which is why it looks loaded
    assert {'embeddings.word_embeddings.weight','encoder.layer.0.attention.self.query.weight'} <= kept
    # another noise at every load
    assert type(a) is BertModel
    assert (a.eval()(ids).last_hidden_state-b.eval()(ids).last_hidden_state).abs().max() > 1e-3

@pytest.mark.parametrize('layout', LAYOUTS)
def test_ours_cannot(layout, made, tmp_path):
    "Each weight in turn left out, renamed or of another shape: an error with its name"
    at,w = made[layout]
    f = tmp_path/'model.safetensors'
    (tmp_path/'config.json').write_bytes((at/'config.json').read_bytes())
    def refused(state, match, *routes):
        save_file(state, f)
        for load in routes:
            with pytest.raises(WeightsError, match=match): load(tmp_path)
    both = load_model,JinaBertModel.from_pretrained
    for i,k in enumerate(w):
        routes = both if i%7 == 0 or 'mlp' in k else both[:1]
        refused({n: v for n,v in w.items() if n != k}, 'missing', *routes)
        if i%3 == 0: refused(w | {k: torch.ones(3, 5)}, 'of another shape', *routes)

    refused(w | {'encoder.layer.0.mlp.extra': torch.ones(2)}, r'1 unknown \(encoder.layer.0.mlp.extra\)', *both)
    refused(w | {'bert.pooler.dense.bias': torch.ones(2)}, 'twice', *both)
    whole_numbers = torch.ones(SIZES[layout]['hidden_size'], dtype=torch.int64)
    refused(w | {'pooler.dense.bias': whole_numbers}, 'as int64', *both)
    save_file(w, f)
    load_model(tmp_path)

# ---- folders that are not what they seem

class Bomb: # runs a function where it is unpickled
    def __init__(self, path): self.path = path
    def __reduce__(self): return Path.touch, (Path(self.path),)

class Folder: # a good model folder, to be changed for the worse, and one outside of it
    def __init__(self, at, outside):
        self.at,self.outside = at,outside
        self.weights,self.config = at/'model.safetensors',at/'config.json'
        self.bytes = self.weights.read_bytes()
        self.header = struct.unpack('<Q', self.bytes[:8])[0]

    def write(self, weights): self.weights.write_bytes(weights)
    def write_header_size(self, n, rest=None):
        self.write(struct.pack('<Q', n) + (self.bytes[8:] if rest is None else rest))
    def write_index(self, text):
        self.weights.unlink()
        (self.at/'model.safetensors.index.json').write_text(text)
    def index_to(self, name):
        self.write_index(json.dumps(dict(weight_map={k: name for k in load_file(self.outside/'model.safetensors')})))

    def pickle(self, name):
        self.weights.unlink()
        (self.at/name).write_bytes(pickle.dumps(dict(x=Bomb(self.outside/'ran'))))
    def torch_pickle(self, name):
        self.weights.unlink()
        torch.save(dict(x=Bomb(self.outside/'ran')), self.at/name)
    def index_to_pickle(self):
        (self.at/'x.bin').write_bytes(pickle.dumps(dict(x=Bomb(self.outside/'ran'))))
        self.write_index(json.dumps(dict(weight_map={'a': 'x.bin'})))

    def link_to_itself(self, path):
        path.unlink()
        path.symlink_to(path)
    def links_in_a_ring(self):
        self.weights.unlink()
        (self.at/'a').symlink_to(self.at/'b')
        (self.at/'b').symlink_to(self.at/'a')
        self.weights.symlink_to(self.at/'a')
    def folder_for_weights(self):
        self.weights.unlink()
        self.weights.mkdir()

    def write_config(self, text): self.config.write_text(text)
    def configure(self, **new): self.write_config(json.dumps(json.loads(self.config.read_text()) | new))

UNREADABLE = 'cannot be read'
HOSTILE = { # what is done to a folder, and what the error says
    'empty':                 (lambda f: f.write(b''), UNREADABLE),
    'cut in the header':     (lambda f: f.write(f.bytes[:f.header//2]), UNREADABLE),
    'cut by a byte':         (lambda f: f.write(f.bytes[:-1]), UNREADABLE),
    'a byte too long':       (lambda f: f.write(f.bytes+b'x'), UNREADABLE),
    'header of 2^63 bytes':  (lambda f: f.write_header_size(2**63), UNREADABLE),
    'header of 99 MB':       (lambda f: f.write_header_size(99_000_000), UNREADABLE),
    'deep header':           (lambda f: f.write_header_size(200_000, b'{"a":'*40_000), UNREADABLE),
    'pickle':                (lambda f: f.pickle('model.safetensors'), UNREADABLE),
    'torch pickle':          (lambda f: f.torch_pickle('model.safetensors'), UNREADABLE),
    'pytorch_model.bin':     (lambda f: f.torch_pickle('pytorch_model.bin'), 'is a pickle'),
    'pickle in index':       (lambda f: f.index_to_pickle(), UNREADABLE),
    'index outside':         (lambda f: f.index_to('../outside/model.safetensors'), 'not a name inside'),
    'index absolute':        (lambda f: f.index_to(str(f.outside/'model.safetensors')), 'not a name inside'),
    'index dots':            (lambda f: f.index_to('..'), 'not a name inside'),
    'index to nowhere':      (lambda f: f.index_to('other.safetensors'), UNREADABLE),
    'index of numbers':      (lambda f: f.write_index('{"weight_map": [1]}'), 'has no weight_map'),
    'index a list':          (lambda f: f.write_index('[]'), 'holds a list'),
    'link to itself':        (lambda f: f.link_to_itself(f.weights), UNREADABLE),
    'links in a ring':       (lambda f: f.links_in_a_ring(), UNREADABLE),
    'a folder for weights':  (lambda f: f.folder_for_weights(), 'is missing'),
    'config link to itself': (lambda f: f.link_to_itself(f.config), 'config.json'),
    'config deep':           (lambda f: f.write_config('['*200_000), 'is not JSON'),
    'config a list':         (lambda f: f.write_config('[]'), 'holds a list'),
    'no layers':             (lambda f: f.configure(num_hidden_layers=0), 'not a size'),
    'a billion layers':      (lambda f: f.configure(num_hidden_layers=10**9), 'wants 1,000,000,000 layers'),
    'size a text':           (lambda f: f.configure(hidden_size='48'), 'not a size'),
    'too wide':              (lambda f: f.configure(hidden_size=10**12), 'not a size'),
    'wider':                 (lambda f: f.configure(hidden_size=4800), 'of another shape'),
    'odd heads':             (lambda f: f.configure(num_attention_heads=7), 'not a multiple'),
    'other activation':      (lambda f: f.configure(feed_forward_type='reglu'), "built for 'geglu'"),
    'eps a text':            (lambda f: f.configure(layer_norm_eps='tiny'), 'config.json'),
    'other type':            (lambda f: f.configure(model_type='gpt2'), "model_type 'gpt2'")}

@pytest.mark.parametrize('kind', HOSTILE)
def test_hostile_folders(kind, tmp_path, bpe, monkeypatch):
    change,message = HOSTILE[kind]
    at,_ = folder(tmp_path/'m', 'es', bpe)
    outside = tmp_path/'outside'
    folder(outside, 'es')
    change(Folder(at, outside))

    opened = []
    real_open = model_weights.safe_open
    def watched_open(path, *a, **kw):
        opened.append(Path(path))
        return real_open(path, *a, **kw)
    monkeypatch.setattr(model_weights, 'safe_open', watched_open)

    def load(f): return bilingual_embed.load(f, device='cpu')
    def convert(f): return bilingual_embed.convert(f, tmp_path/'out')
    routes = [load_model, load, convert]
    if kind not in ('config link to itself','other type'): # there transformers finds no config, or another model's
        routes.append(JinaBertModel.from_pretrained)
    for route in routes:
        with pytest.raises(WeightsError, match=message): route(at)
    assert not (outside/'ran').exists() and not (tmp_path/'out').exists()
    assert all(p.parent == at for p in opened), opened

EVIL = """open({ran!r}, 'w').close()
from transformers import *
class JinaBertModel(BertModel): pass
class Tok(PreTrainedTokenizerFast): pass
class JinaBertConfig(BertConfig): pass
"""
def test_code_that_a_folder_names_is_not_run(tmp_path, bpe):
    at,_ = folder(tmp_path/'m', 'de', bpe)
    ran = tmp_path/'ran'
    (at/'evil.py').write_text(EVIL.format(ran=str(ran)))
    def name_code(file, **new): (at/file).write_text(json.dumps(json.loads((at/file).read_text()) | new))
    name_code('config.json', auto_map=dict(AutoConfig='evil.JinaBertConfig', AutoModel='evil.JinaBertModel'))
    name_code('tokenizer_config.json', tokenizer_class='Tok', auto_map=dict(AutoTokenizer=['evil.Tok','evil.Tok']))
    load_model(at)
    JinaBertModel.from_pretrained(at)
    for route in (load_tokenizer, bilingual_embed.load, lambda f: bilingual_embed.convert(f, tmp_path/'out')):
        with contextlib.suppress(TokenizerError): route(at)    # refused, or the plain tokenizer is taken
    assert not ran.exists()

def test_our_own_folders_keep_their_parts_inside(model_folder, tmp_path):
    "The same index, in a folder of our model type, where transformers does the reading"
    for p in model_folder.iterdir(): (tmp_path/p.name).write_bytes(p.read_bytes())
    state = load_file(tmp_path/'model.safetensors')
    (tmp_path/'model.safetensors').unlink()
    half = list(state)[::2]
    parts = {'a-1.safetensors': half, 'a-2.safetensors': [k for k in state if k not in half]}
    for file,keys in parts.items(): save_file({k: state[k] for k in keys}, tmp_path/file, metadata=dict(format='pt'))
    def write_index(second='a-2.safetensors'):
        where = {k: second if file == 'a-2.safetensors' else file for file,keys in parts.items() for k in keys}
        (tmp_path/'model.safetensors.index.json').write_text(json.dumps(dict(metadata={}, weight_map=where)))

    write_index()
    ids = torch.arange(5, 25)[None]
    want = load_model(model_folder)(ids).last_hidden_state
    for load in (load_model, AutoModel.from_pretrained):
        assert_close(load(tmp_path).eval()(ids).last_hidden_state, want, rtol=0, atol=0)
    write_index('../a-2.safetensors')
    for load in (load_model, AutoModel.from_pretrained, JinaBertModel.from_pretrained):
        with pytest.raises(WeightsError, match='not a name inside'): load(tmp_path)
