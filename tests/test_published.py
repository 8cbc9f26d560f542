"Published folders, read by our own code: every layout against a graph written a second time, every route, and folders that are not what they seem"
import json, os, pickle, struct
from pathlib import Path
import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors, trainers
from torch.testing import assert_close
from transformers import AutoModel, AutoTokenizer, BertModel, PreTrainedTokenizerFast
from transformers.utils import logging
import bilingual_embed
from bilingual_embed import model as room
from bilingual_embed.model.jina_bert import JinaBertForMaskedLM, JinaBertModel, WeightsError, embed, load_model
from bilingual_embed.core.recipes import recipe
from bilingual_embed.data.tokenizer import TokenizerError, load_tokenizer, train_tokenizer
from bilingual_embed.data.tasks import load_corpus
from bilingual_embed.train.stages import start_run, tune_pairs, untrained
from conftest import STORY
from published import BIG, SIZES, config, folder, names, reference, weights

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
    t.train_from_iterator([s for s,_ in STORY]*3, trainers.WordPieceTrainer(vocab_size=300, special_tokens=special, show_progress=False))
    t.post_processor = processors.TemplateProcessing(single='[CLS] $A [SEP]', pair='[CLS] $A [SEP] $B:1 [SEP]:1', special_tokens=[('[CLS]', 2), ('[SEP]', 3)])
    return PreTrainedTokenizerFast(tokenizer_object=t, pad_token='[PAD]', unk_token='[UNK]', cls_token='[CLS]', sep_token='[SEP]', mask_token='[MASK]')

@pytest.fixture(scope='module')
def made(tmp_path_factory, bpe, wordpiece): # layout -> folder, weights; float16 as published, scaled to length 1 as de and es are
    root = tmp_path_factory.mktemp('published')
    return {l: folder(root/l, l, wordpiece if l == 'en' else bpe, normalize=l in ('de','es')) for l in LAYOUTS}

def batch(*lengths, V=320, seed=0): # right padding, left padding by turns; noise where nothing stands
    g = torch.Generator().manual_seed(seed)
    T = max(lengths)
    ids = torch.randint(5, V, (len(lengths), T), generator=g)
    at = [torch.arange(n) if b%2 == 0 else torch.arange(T-n, T) for b,n in enumerate(lengths)]
    mask = torch.zeros_like(ids)
    [mask[b].__setitem__(a, 1) for b,a in enumerate(at)]
    return ids, mask, at

# ---- the graph

def agree(at, w, layout, sizes, lengths, f32):
    exact,plain = load_model(at, dtype=torch.float64),load_model(at)
    ids,mask,places = batch(*lengths)
    with torch.inference_mode():
        hidden,single,pooled = exact(ids, mask).last_hidden_state,plain(ids, mask).last_hidden_state,embed(plain, ids, mask, normalize=False)
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
    off = lambda w, l=layout, s=s: (reference(w, l, s, ids)-want).abs().max()
    gate = [k for k in w if 'gated' in k]
    assert off({k: v.roll(len(v)//2, 0) if k in gate else v for k,v in w.items()}) > .1
    if layout == 'es': assert off(w, 'de') > .1
    assert off({k: v.roll(s['hidden_size']//s['num_attention_heads'], 0) if any(n in k for n in ('query','key','value')) else v for k,v in w.items()}) > .01

@pytest.mark.parametrize('name', BIG)
def test_true_sizes_to_the_last_parameter(name, tmp_path, monkeypatch):
    layout,sizes,count = BIG[name]
    (tmp_path/'config.json').write_text(json.dumps(config(layout, sizes)))
    shapes = names(layout, sizes)
    assert sum(torch.Size(s).numel() for s in shapes.values()) == count
    monkeypatch.setattr(room, '_read_weights', lambda folder: {k: torch.empty(s, dtype=torch.float16, device='meta') for k,s in shapes.items()})
    m = load_model(tmp_path)
    assert sum(p.numel() for p in m.parameters()) == count and m.embeddings.word_embeddings.padding_idx is None

REFERENCE = dict(BILINGUAL_EMBED_SMALL_EN=('jina-embeddings-v2-small-en', [-0.7366036, -0.34022003, -0.0716392, 0.108484305, 0.14210966, -0.4099645]),
                 BILINGUAL_EMBED_CODE=('jina-embeddings-v2-base-code', [-0.15109017, -0.021903912, -0.08391459, -0.12880382])) # first numbers, not scaled
@pytest.mark.parametrize('var', REFERENCE)
def test_reference_vector(var):
    name,want = REFERENCE[var]
    if not os.environ.get(var): pytest.skip(f"the weights are not here: set {var} to the folder of {name}")
    # computed elsewhere, in float32 or float16
    assert_close(bilingual_embed.load(os.environ[var], device='cpu').encode("What is Deep Learning?", normalize_embeddings=False)[:len(want)], np.array(want, np.float32), rtol=0, atol=1e-3)

# ---- the routes

def by_hand(tok, w, layout, text):
    return reference(w, layout, SIZES[layout], torch.tensor(tok(text)['input_ids'])).mean(0)

@pytest.mark.parametrize('layout', LAYOUTS)
def test_every_route_gives_the_same_vectors(layout, made, tmp_path, bpe, wordpiece):
    from sentence_transformers import SentenceTransformer
    at,w = made[layout]
    tok = wordpiece if layout == 'en' else bpe
    want = torch.stack([by_hand(tok, w, layout, t) for t in TEXTS])
    unit = torch.nn.functional.normalize(want, dim=-1)
    close = lambda got, want: assert_close(torch.as_tensor(np.asarray(got)).double(), want, rtol=0, atol=2e-6)
    close(bilingual_embed.load(at, device='cpu').encode(TEXTS), unit)
    out = bilingual_embed.convert(at, tmp_path/'out')
    close(bilingual_embed.load(out, device='cpu').encode(TEXTS), unit)
    # scaled where the published folder scales
    close(SentenceTransformer(str(out), device='cpu').encode(TEXTS), unit if layout in ('de','es') else want)
    t = load_tokenizer(at)(TEXTS, padding=True, return_tensors='pt')
    for m in (JinaBertModel.from_pretrained(at, dtype=torch.float32), AutoModel.from_pretrained(out)):
        with torch.no_grad(): close(embed(m.eval(), t['input_ids'], t['attention_mask'], normalize=False), want)
    assert AutoTokenizer.from_pretrained(out)(TEXTS)['input_ids'] == tok(TEXTS)['input_ids'] == load_tokenizer(at)(TEXTS)['input_ids']

@pytest.fixture(scope='module')
def corpus(tmp_path_factory):
    return load_corpus(recipe('sample', 'en-de'), cache=tmp_path_factory.mktemp('text'), log=lambda s: None)

@pytest.mark.parametrize('layout', LAYOUTS)
def test_trained_further(layout, made, corpus, tmp_path, capsys):
    "A run begins with a published model's vectors, keeps its vocabulary, and its own folder has them before the first step"
    at,_ = made[layout]
    few = dict(batch_size=4, max_tokens=32, warmup_steps=1)
    run = start_run(recipe('sample', 'en-de', align__steps=0, pretrain__steps=0, multitask__steps=0, pairs__steps=2, **{f'pairs__{k}': v for k,v in few.items()}), corpus, tmp_path/'run', start=at)
    old,new = bilingual_embed.load(at),bilingual_embed.load(untrained(run))
    assert_close(old.encode(TEXTS), new.encode(TEXTS), atol=1e-6, rtol=0)
    assert run.tokenizer.get_vocab() == old.tokenizer.get_vocab()
    after = bilingual_embed.load(tune_pairs(run))
    assert np.isfinite(x := after.encode(TEXTS)).all() and abs(x-old.encode(TEXTS)).max() > 1e-5

def test_dtype_and_padding_of_from_pretrained(made):
    at,_ = made['es']
    m = JinaBertModel.from_pretrained(at)
    # the file's own dtype, as everywhere in transformers
    assert m.dtype == torch.float16 and m.config.pad_token_id is None and m.config.qk_norm
    assert JinaBertModel.from_pretrained(at, pad_token_id=1).embeddings.word_embeddings.padding_idx == 1
    with pytest.raises(WeightsError, match='missing'):
        JinaBertForMaskedLM.from_pretrained(at)                # a head is not made up either
    assert JinaBertModel.from_pretrained(at, output_loading_info=True)[1]['missing_keys'] == set()

def test_prefix_and_head_of_an_mlm_file(tmp_path):
    at,w = folder(tmp_path/'m', 'code', prefix='bert.', dtype=torch.float32)
    D,V = 48,320
    head = {'cls.predictions.bias': torch.randn(V), 'cls.predictions.transform.dense.weight': torch.randn(D, D), 'cls.predictions.transform.dense.bias': torch.randn(D),
            'cls.predictions.transform.LayerNorm.weight': torch.ones(D), 'cls.predictions.transform.LayerNorm.bias': torch.zeros(D)}
    save_file({'bert.'+k: v for k,v in w.items()} | head, at/'model.safetensors')
    ids = torch.arange(5, 25)[None]
    x = reference(w, 'code', SIZES['code'], ids[0])
    for m in (load_model(at), JinaBertModel.from_pretrained(at)):
        assert_close(m(ids).last_hidden_state[0].double(), x, rtol=0, atol=2e-5)
    z = torch.nn.functional.layer_norm(torch.nn.functional.gelu(x@head['cls.predictions.transform.dense.weight'].double().T+head['cls.predictions.transform.dense.bias']), (D,), eps=1e-12)
    want = z@w['embeddings.word_embeddings.weight'].double().T+head['cls.predictions.bias']
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
    m = JinaBertModel.from_pretrained('jinaai/jina-embeddings-v2-base-de', cache_dir=tmp_path, dtype=torch.float32).eval()
    ids = torch.arange(5, 25)
    assert_close(m(ids[None]).last_hidden_state[0].double(), reference(w, 'de', SIZES['de'], ids), rtol=0, atol=2e-5)

# ---- the silent failure

@pytest.mark.parametrize('cls', [BertModel, AutoModel], ids=['BertModel','AutoModel'])
@pytest.mark.parametrize('layout', LAYOUTS)
def test_stock_bert_makes_feed_forwards_up_and_only_warns(layout, cls, made, caplog):
    "Why these folders are not for AutoModel; should transformers ever refuse them, this test says that the warning can go"
    at,_ = made[layout]
    ids = torch.arange(5, 25)[None]
    attn = {}
    if layout != 'en':                                              # it trips over their attn_implementation, and says what to pass instead
        with pytest.raises(ValueError, match='attn_implementation="torch"` is not supported.*attn_implementation=sdpa'):
            cls.from_pretrained(at)
        attn = dict(attn_implementation='sdpa')
    logging.set_verbosity_warning()
    logging.enable_propagation()
    try:
        (a,info),(b,_) = (cls.from_pretrained(at, output_loading_info=True, dtype=torch.float32, **attn) for _ in range(2))
    finally:
        logging.disable_propagation()
        logging.set_verbosity_error()
    assert any('intermediate.dense.weight' in r.getMessage() for r in caplog.records) and all(r.levelname == 'WARNING' for r in caplog.records)
    up,kept = {f'encoder.layer.{i}.{n}.dense.{w}' for i in range(2) for n in ('intermediate','output') for w in ('weight','bias')},set(a.state_dict())-set(info['missing_keys'])
    # half of it is right, which is why it looks loaded
    assert up <= set(info['missing_keys']) and {'embeddings.word_embeddings.weight','encoder.layer.0.attention.self.query.weight'} <= kept
    # another noise at every load
    assert type(a) is BertModel and (a.eval()(ids).last_hidden_state-b.eval()(ids).last_hidden_state).abs().max() > 1e-3

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
    whole = dict(w)
    for i,k in enumerate(w):
        routes = (load_model, JinaBertModel.from_pretrained)[:2 if i%7 == 0 or 'mlp' in k else 1]
        refused({n: v for n,v in whole.items() if n != k}, 'missing', *routes)
        if i%3 == 0: refused(whole | {k: torch.ones(3, 5)}, 'of another shape', *routes)
    refused(whole | {'encoder.layer.0.mlp.extra': torch.ones(2)}, r'1 unknown \(encoder.layer.0.mlp.extra\)', load_model, JinaBertModel.from_pretrained)
    refused(whole | {'bert.pooler.dense.bias': torch.ones(2)}, 'twice', load_model, JinaBertModel.from_pretrained)
    refused(whole | {'pooler.dense.bias': torch.ones(SIZES[layout]['hidden_size'], dtype=torch.int64)}, 'as int64', load_model, JinaBertModel.from_pretrained)
    save_file(whole, f)
    load_model(tmp_path)

# ---- folders that are not what they seem

class Bomb: # runs a function where it is unpickled
    def __init__(self, path): self.path = path
    def __reduce__(self): return Path.touch, (Path(self.path),)

def hostile(kind, at, outside): # changes a good folder for the worse -> what the error says
    f,index = at/'model.safetensors',at/'model.safetensors.index.json'
    whole = f.read_bytes()
    n = struct.unpack('<Q', whole[:8])[0]
    def indexed(name):
        f.unlink()
        index.write_text(json.dumps(dict(weight_map={k: name for k in load_file(outside/'model.safetensors')})))
    def conf(**new): (at/'config.json').write_text(json.dumps(json.loads((at/'config.json').read_text()) | new))
    def pick(path):
        f.unlink()
        path.write_bytes(pickle.dumps(dict(x=Bomb(outside/'ran'))))
    def torch_pick(path):
        f.unlink()
        torch.save(dict(x=Bomb(outside/'ran')), path)
    def link(path, to):
        path.unlink()
        path.symlink_to(to)
    def two_links():
        f.unlink()
        (at/'a').symlink_to(at/'b')
        (at/'b').symlink_to(at/'a')
        f.symlink_to(at/'a')
    do,says = {
        'empty': (lambda: f.write_bytes(b''), 'cannot be read'), 'cut in the header': (lambda: f.write_bytes(whole[:n//2]), 'cannot be read'), 'cut by a byte': (lambda: f.write_bytes(whole[:-1]), 'cannot be read'),
        'a byte too long': (lambda: f.write_bytes(whole+b'x'), 'cannot be read'), 'header of 2^63 bytes': (lambda: f.write_bytes(struct.pack('<Q', 2**63)+whole[8:]), 'cannot be read'),
        'header of 99 MB': (lambda: f.write_bytes(struct.pack('<Q', 99_000_000)+whole[8:]), 'cannot be read'),
        'deep header': (lambda: f.write_bytes(struct.pack('<Q', 200_000)+b'{"a":'*40_000), 'cannot be read'),
        'pickle': (lambda: pick(f), 'cannot be read'), 'torch pickle': (lambda: torch_pick(f), 'cannot be read'), 'pytorch_model.bin': (lambda: torch_pick(at/'pytorch_model.bin'), 'is a pickle'),
        'pickle in index': (lambda: (pick(at/'x.bin'), index.write_text(json.dumps(dict(weight_map={'a': 'x.bin'})))), 'cannot be read'),
        'index outside': (lambda: indexed('../outside/model.safetensors'), 'not a name inside'), 'index absolute': (lambda: indexed(str(outside/'model.safetensors')), 'not a name inside'),
        'index dots': (lambda: indexed('..'), 'not a name inside'), 'index to nowhere': (lambda: indexed('other.safetensors'), 'cannot be read'),
        'index of numbers': (lambda: (f.unlink(), index.write_text('{"weight_map": [1]}')), 'has no weight_map'), 'index a list': (lambda: (f.unlink(), index.write_text('[]')), 'holds a list'),
        'link to itself': (lambda: link(f, f), 'cannot be read'), 'links in a ring': (two_links, 'cannot be read'), 'config link to itself': (lambda: link(at/'config.json', at/'config.json'), 'config.json'),
        'a folder for weights': (lambda: (f.unlink(), f.mkdir()), 'is missing'), 'config deep': (lambda: (at/'config.json').write_text('['*200_000), 'is not JSON'), 'config a list': (lambda: (at/'config.json').write_text('[]'), 'holds a list'),
        'no layers': (lambda: conf(num_hidden_layers=0), 'not a size'), 'a billion layers': (lambda: conf(num_hidden_layers=10**9), 'wants 1,000,000,000 layers'), 'size a text': (lambda: conf(hidden_size='48'), 'not a size'),
        'too wide': (lambda: conf(hidden_size=10**12), 'not a size'), 'wider': (lambda: conf(hidden_size=4800), 'of another shape'), 'odd heads': (lambda: conf(num_attention_heads=7), 'not a multiple'),
        'other activation': (lambda: conf(feed_forward_type='reglu'), "built for 'geglu'"), 'eps a text': (lambda: conf(layer_norm_eps='tiny'), 'config.json'), 'other type': (lambda: conf(model_type='gpt2'), "model_type 'gpt2'"),
    }[kind]
    do()
    return says
KINDS = ['empty','cut in the header','cut by a byte','a byte too long','header of 2^63 bytes','header of 99 MB','deep header','pickle','torch pickle','pytorch_model.bin','pickle in index','index outside',
         'index absolute','index dots','index to nowhere','index of numbers','index a list','link to itself','links in a ring','config link to itself','a folder for weights','config deep','config a list',
         'no layers','a billion layers','size a text','too wide','wider','odd heads','other activation','eps a text','other type']

@pytest.mark.parametrize('kind', KINDS)
def test_hostile_folders(kind, tmp_path, bpe, monkeypatch):
    at,_ = folder(tmp_path/'m', 'es', bpe)
    outside = tmp_path/'outside'
    folder(outside, 'es')
    says = hostile(kind, at, outside)
    opened = []
    real = room.safe_open
    monkeypatch.setattr(room, 'safe_open', lambda p, *a, **k: (opened.append(Path(p)), real(p, *a, **k))[1])
    routes = [load_model, lambda f: bilingual_embed.load(f, device='cpu'), lambda f: bilingual_embed.convert(f, tmp_path/'out')]
    if kind not in ('config link to itself','other type'):
        routes.append(JinaBertModel.from_pretrained)   # transformers finds no config, or another model's
    for load in routes:
        with pytest.raises(WeightsError, match=says): load(at)
    assert not (outside/'ran').exists() and not (tmp_path/'out').exists()
    assert all(p.parent == at for p in opened), opened

def test_code_that_a_folder_names_is_not_run(tmp_path, bpe):
    at,_ = folder(tmp_path/'m', 'de', bpe)
    ran = tmp_path/'ran'
    (at/'evil.py').write_text(f"open({str(ran)!r}, 'w').close()\nfrom transformers import *\nclass JinaBertModel(BertModel): pass\nclass Tok(PreTrainedTokenizerFast): pass\nclass JinaBertConfig(BertConfig): pass\n")
    for name,new in {'config.json': dict(auto_map=dict(AutoConfig='evil.JinaBertConfig', AutoModel='evil.JinaBertModel')), 'tokenizer_config.json': dict(tokenizer_class='Tok', auto_map=dict(AutoTokenizer=['evil.Tok','evil.Tok']))}.items():
        (at/name).write_text(json.dumps(json.loads((at/name).read_text()) | new))
    load_model(at)
    JinaBertModel.from_pretrained(at)
    for route in (load_tokenizer, bilingual_embed.load, lambda f: bilingual_embed.convert(f, tmp_path/'out')):
        try: route(at)
        except TokenizerError:
            # a tokenizer of its own making: refused, or the plain one taken
            pass
    assert not ran.exists()

def test_our_own_folders_keep_their_parts_inside(model_folder, tmp_path):
    "The same index, in a folder of our model type, where transformers does the reading"
    for p in model_folder.iterdir(): (tmp_path/p.name).write_bytes(p.read_bytes())
    state = load_file(tmp_path/'model.safetensors')
    (tmp_path/'model.safetensors').unlink()
    half = list(state)[::2]
    parts = {'a-1.safetensors': half, 'a-2.safetensors': [k for k in state if k not in half]}
    for f,ks in parts.items(): save_file({k: state[k] for k in ks}, tmp_path/f, metadata=dict(format='pt'))
    index = lambda **move: (tmp_path/'model.safetensors.index.json').write_text(json.dumps(dict(metadata={}, weight_map={k: move.get(f[:3], f) for f,ks in parts.items() for k in ks})))
    index()
    ids = torch.arange(5, 25)[None]
    for load in (load_model, AutoModel.from_pretrained):
        assert_close(load(tmp_path).eval()(ids).last_hidden_state, load_model(model_folder)(ids).last_hidden_state, rtol=0, atol=0)
    index(**{'a-2': '../a-2.safetensors'})
    for load in (load_model, AutoModel.from_pretrained, JinaBertModel.from_pretrained):
        with pytest.raises(WeightsError, match='not a name inside'): load(tmp_path)
