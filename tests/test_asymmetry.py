"ALiBi with a slope for each side: every road gives the numbers of the formula, direction is seen, and files keep it"
import json, math
from dataclasses import replace
from unittest.mock import patch
import numpy as np, pytest, torch
from hypothesis import given, strategies as st
from torch.testing import assert_close
from transformers import AutoModel, BertConfig, BertModel
from transformers.dynamic_module_utils import get_class_from_dynamic_module
import published
from bilingual_embed import load
from bilingual_embed.data.batches import Tokens
from bilingual_embed.graft.encoder import Encoder, EncoderError
from bilingual_embed.graft.heal import HiddenStateTeacher, keep_layers, packed_states
from bilingual_embed.graft.positions import to_alibi
from bilingual_embed.graft.whole import graft, HEAL
from bilingual_embed.inference.export import export_onnx, export_published
from bilingual_embed.inference.sentence_transformers import convert, save_st
from bilingual_embed.losses.hidden_states import hidden_state_loss, pooled_loss
from bilingual_embed.model import attention
from bilingual_embed.model.alibi import alibi_bias, slopes, toeplitz_bias
from bilingual_embed.model.attention import alibi_attention, eager_attention
from bilingual_embed.model.jina_bert import JinaBertConfig, JinaBertModel, load_model, save_model
from bilingual_embed.model.unpad import Packing, packed_attention, packing_for
from bilingual_embed.model.windows import key_spans, reach, window_attention
from bilingual_embed.model.word_order import reversed_cosine
from conftest import STORY

R = 4.                                                  # its root is exact, so float64 models agree to 1e-10

# ---- slopes and bias

@pytest.mark.parametrize('n_heads', [1,2,3,12])
@pytest.mark.parametrize('r', [1,1.,2.5,8.])
def test_slopes_and_bias_by_their_formula(n_heads, r):
    b = alibi_bias(n_heads, 7, r)
    for h,m in enumerate(published.slopes(n_heads)):
        sides = m*r**-.5,m*r**.5
        left,right = sides if h%2 == 0 else sides[::-1]
        for i in range(7):
            for j in range(7):
                want = -left*(i-j) if j < i else -right*(j-i)
                assert math.isclose(b[h,i,j], want, rel_tol=1e-6)
    assert slopes(n_heads, r).shape == ((n_heads,) if r == 1 else (2, n_heads))
    assert torch.equal(toeplitz_bias(slopes(n_heads, r), 7, torch.float32).flip(1), b)

@pytest.mark.parametrize('r', [0, .99, -4, math.inf, math.nan])
def test_an_asymmetry_that_is_none(r):
    with pytest.raises(ValueError, match=r'asymmetry is .*, not a number of at least 1'): slopes(4, r)
    with pytest.raises(ValueError, match=r'alibi_asymmetry is .*, not a number from 1 to 1000'):
        JinaBertConfig(alibi_asymmetry=r)

@pytest.mark.parametrize('r', ['4', None, True, [4.], 1001])
def test_a_configuration_of_another_type(r):
    with pytest.raises(ValueError, match='alibi_asymmetry is'): JinaBertConfig(alibi_asymmetry=r)

# ---- attention: each way against the formula in float64

def formula(q, k, v, m, mask): # (B,H,T,d) -> the same, float64, zeros at padding; queries and keys one by one
    B,H,T,d = q.shape
    out = torch.zeros_like(v, dtype=torch.float64)
    for b in range(B):
        on = mask[b].nonzero()[:,0].tolist()
        for h in range(H):
            left,right = m[0,h].item(),m[1,h].item()
            bias = torch.tensor([[-left*(i-j) if j < i else -right*(j-i) for j in on] for i in on], dtype=torch.float64)
            x,y,z = (t[b,h,on].double() for t in (q, k, v))
            if on: out[b,h,on] = (x@y.T/math.sqrt(d) + bias).softmax(1)@z
    return out

def packed(q, k, v, m, mask):
    p = Packing(mask)
    q,k,v = (p.pack(t.transpose(1, 2)).transpose(1, 2) for t in (q, k, v))
    return p.unpack(packed_attention(q, k, v, m, p).transpose(1, 2)).transpose(1, 2)

def as_if_long(attend): # so that windows are used
    def attend_windows(*args):
        with patch.object(attention, 'SHORT', 0): return attend(*args)
    return attend_windows

def in_blocks(q, k, v, m, mask):
    rows = zip(q.split(1), k.split(1), v.split(1), mask)
    with patch.object(attention, 'QUERY_BLOCK', 5):
        return torch.cat([attention._long_attention(*qkv, m, on, 0.) for *qkv,on in rows])

def eager(*args): return eager_attention(*args)[0]

# FlexAttention has a check of its own, `check_sides` in gpu.check
WAYS = dict(short=alibi_attention, windows=as_if_long(alibi_attention), blocks=in_blocks, eager=eager, packed=packed,
            packed_windows=as_if_long(packed))

def example(T, dtype, seed=0, B=3, H=3, d=8, r=R):
    g = torch.Generator().manual_seed(seed)
    q,k,v = (torch.randn(B, H, T, d, generator=g, dtype=torch.float64).to(dtype) for _ in range(3))
    mask = torch.rand(B, T, generator=g) < .7            # holes: places count, packed or not
    mask[0],mask[1,0] = True,True
    return q, k, v, slopes(H, r), mask

@pytest.mark.parametrize('way', WAYS)
@pytest.mark.parametrize('T', [1,40,150])
def test_each_way_of_attention(way, T):
    *qkv,m,mask = example(T, torch.float64, T)
    inputs = [[t.clone().requires_grad_() for t in qkv] for _ in range(2)]
    real = mask[:,None,:,None]
    got = WAYS[way](*inputs[0], m, mask)*real
    want = formula(*inputs[1], m, mask)
    atol = 1e-6 if 'windows' in way else 1e-10             # windows leave out what rounding of their type could
    assert_close(got, want, rtol=0, atol=atol)
    for out in (got, want): (out*torch.linspace(-1, 1, 8)).sum().backward()
    for a,b in zip(*inputs): assert_close(a.grad*real, b.grad*real, rtol=0, atol=10*atol)

@given(st.integers(1, 90), st.integers(1, 4), st.floats(1, 30), st.integers(0, 99))
def test_windows_and_packing_for_any_shape(T, B, r, seed):
    q,k,v,m,mask = example(T, torch.float32, seed, B=max(2, B), H=2, r=r)
    if m.dim() == 1: return
    want = formula(q, k, v, m, mask)
    for way in ('windows','packed_windows'):
        assert_close((WAYS[way](q, k, v, m, mask)*mask[:,None,:,None]).double(), want, rtol=0, atol=3e-6)

def test_windows_that_leave_something_out():
    "A steep and a flat side: the reach of one is not that of the other"
    *qkv,_,_ = example(400, torch.float32, B=2, H=2)
    m = torch.tensor([[.125,2.], [2.,.125]])             # head 1 looks left, head 2 right
    left,right = reach(*qkv[:2], m)                      # (B,H,T) each
    assert left[:,0].min() > 4*right[:,0].max() and right[:,1].min() > 4*left[:,1].max()
    read = [hi-lo for head in key_spans(torch.stack([left, right]), 16) for _,_,lo,hi in head]
    assert max(read) < 350
    want = formula(*qkv, m, torch.ones(2, 400, dtype=torch.bool))
    assert_close(window_attention(*qkv, m, block=16).double(), want, rtol=0, atol=3e-6)

def test_in_bfloat16():
    q,k,v,m,mask = example(300, torch.bfloat16, H=4)
    want = formula(q, k, v, m, mask)
    for way in ('short','windows','eager','packed'):
        got = WAYS[way](q, k, v, m, mask)*mask[:,None,:,None]
        assert (got-want).pow(2).mean() < .01**2*want.pow(2).mean(), way

def test_a_bias_that_is_kept_is_not_taken_for_another():
    "Of symmetric slopes and of the two sides' slopes, in one process"
    q,k,v,m,mask = example(20, torch.float64)
    kinds = [m, m.flip(0), slopes(3), slopes(6)[:3]]
    first = [alibi_attention(q, k, v, x) for x in kinds]
    for x,y in zip(first, [alibi_attention(q, k, v, x) for x in kinds]): assert torch.equal(x, y)
    assert all((x-y).abs().max() > 1e-3 for i,x in enumerate(first) for y in first[:i])

# ---- the model: each road against the network that is written a second time

LAYOUTS = [('de', {}), ('es', dict(qk_norm=True))]

def random_model(layout='de', dtype=torch.float64, r=R, **more): # and its weights
    sizes = published.SIZES[layout]
    w = published.weights(layout, sizes, torch.float64)
    model = JinaBertModel(JinaBertConfig(**sizes, alibi_asymmetry=r, pad_token_id=1, **more)).eval()
    model.load_state_dict(w)
    return model.to(dtype).requires_grad_(False), w

def batch(*lengths, seed=0):
    mask = torch.arange(max(lengths)) < torch.tensor(lengths)[:,None]
    return torch.randint(5, 320, mask.shape, generator=torch.Generator().manual_seed(seed)), mask

def traced(model):
    def last_state(ids, mask): return model(ids, mask).last_hidden_state
    return torch.jit.trace(last_state, batch(9, 4), check_trace=False)

def through_heal(model, ids, mask): # as a healing student
    m = slopes(model.config.num_attention_heads, model.config.alibi_asymmetry)
    packing,states = packed_states(model, Tokens(ids, mask), m)
    out = torch.zeros(*ids.shape, states[-1].shape[-1], dtype=torch.float64)
    out[mask] = states[-1]
    return out

ROADS = dict(
    packed=lambda m, ids, mask: m(ids, mask).last_hidden_state,
    padded=lambda m, ids, mask: m(ids, mask, output_hidden_states=True).hidden_states[-1],
    eager=lambda m, ids, mask: m(ids, mask, output_attentions=True).last_hidden_state,
    recorded=lambda m, ids, mask: traced(m)(ids, mask),
    heal=through_heal)

@pytest.mark.parametrize('layout,more', LAYOUTS, ids=str)
@pytest.mark.parametrize('road', ROADS)
def test_each_road_through_the_model(layout, more, road):
    model,w = random_model(layout, **more)
    ids,mask = batch(17, 5, 1)
    assert packing_for(mask, ids) is not None
    got = ROADS[road](model, ids, mask)
    for x,i,on in zip(got, ids, mask):
        assert_close(x[on], published.reference(w, layout, published.SIZES[layout], i[on], R), rtol=0, atol=1e-5)
    with pytest.raises(AssertionError):                   # the symmetric model is another one
        assert_close(got[0], published.reference(w, layout, published.SIZES[layout], ids[0]), rtol=0, atol=1e-2)

def test_a_long_text_and_one_that_is_alone():
    model,w = random_model()
    for n in (1, 30, 200):                                # the last through windows
        ids,_ = batch(n)
        want = published.reference(w, 'de', published.SIZES['de'], ids[0], R)
        with patch.object(attention, 'SHORT', 100): got = model(ids).last_hidden_state[0]
        assert_close(got, want, rtol=0, atol=1e-5)

# ---- what it is for

@pytest.mark.parametrize('how', [dict(), dict(output_hidden_states=True), dict(output_attentions=True)], ids=str)
def test_a_reversed_text_without_end_tokens_is_another(how):
    ids,mask = batch(12, 20)
    def cosine(r):
        model,_ = random_model(r=r)
        rows = [i[on] for i,on in zip(ids, mask)]
        def means(rows): return torch.stack([model(row[None], **how).last_hidden_state[0].mean(0) for row in rows])
        return torch.cosine_similarity(means(rows), means([row.flip(0) for row in rows]))
    assert (1-cosine(1.)).abs().max() < 1e-12             # proved in nbs/17
    assert cosine(R).max() < .999

def test_the_probe_sees_it(embedder):
    "With the same vector at both ends a reversal is seen by two slopes alone"
    with torch.no_grad():
        for r,seen in ((1., False), (R, True)):
            config = JinaBertConfig(**embedder.model.config.to_dict() | dict(alibi_asymmetry=r))
            model = JinaBertModel(config).eval()
            model.load_state_dict(embedder.model.state_dict())
            words = model.embeddings.word_embeddings.weight
            words[embedder.tokenizer.sep_token_id] = words[embedder.tokenizer.cls_token_id]
            far = 1-reversed_cosine(type(embedder)(model, embedder.tokenizer), [t for t,_ in STORY])
            assert (far.min() > 1e-4) == seen and (far.max() < 1e-9) != seen

# ---- files

TEXTS = [t for t,_ in STORY]

@pytest.fixture(scope='module')
def folder(embedder, tmp_path_factory):
    config = JinaBertConfig(**embedder.model.config.to_dict() | dict(alibi_asymmetry=R))
    model = JinaBertModel(config).eval()
    model.load_state_dict(embedder.model.state_dict())
    return save_st(tmp_path_factory.mktemp('models')/'sided', model, embedder.tokenizer)

def test_saved_and_read_again(folder, embedder, tmp_path):
    model = load(folder, device='cpu')
    vectors = model.encode(TEXTS)
    assert model.model.config.alibi_asymmetry == R
    assert abs(vectors-embedder.encode(TEXTS)).max() > .01
    np.testing.assert_array_equal(load(convert(folder, tmp_path/'again'), device='cpu').encode(TEXTS), vectors)

    save_model(tmp_path/'plain', model.model)
    model.model.save_pretrained(tmp_path/'hf')
    copied = get_class_from_dynamic_module('jina_bert.JinaBertModel', str(folder))   # the code beside the weights
    assert copied is not JinaBertModel
    assert type(AutoModel.from_pretrained(folder)) is JinaBertModel   # the copy does not take the library's place
    ids = torch.tensor(model.tokenizer(TEXTS[0])['input_ids'])[None]
    want = model.model(ids).last_hidden_state
    for again in (load_model(tmp_path/'plain'), load_model(tmp_path/'hf'), copied.from_pretrained(folder).eval()):
        assert torch.equal(again(ids).last_hidden_state, want)
    assert keep_layers(model.model, [1,2]).config.alibi_asymmetry == R

def test_a_configuration_from_before(folder, embedder, tmp_path):
    again = convert(folder, tmp_path/'again')
    path = again/'config.json'
    config = json.loads(path.read_text())
    config.pop('alibi_asymmetry')
    path.write_text(json.dumps(config))
    np.testing.assert_array_equal(load(again, device='cpu').encode(TEXTS), embedder.encode(TEXTS))
    path.write_text(json.dumps(config | dict(alibi_asymmetry='steep')))
    with pytest.raises(ValueError, match="alibi_asymmetry is 'steep'"): load(again, device='cpu')

def test_the_published_layout_refuses_it(folder, embedder, tmp_path):
    with pytest.raises(ValueError, match='know one slope and would give other vectors'):
        export_published(folder, tmp_path/'never')
    assert not (tmp_path/'never').exists()
    config = json.loads((export_published(embedder, tmp_path/'fine')/'config.json').read_text())
    assert 'alibi_asymmetry' not in config

def test_onnx(folder, tmp_path):
    pytest.importorskip('onnx')
    ort = pytest.importorskip('onnxruntime')
    model = load(folder, device='cpu')
    ids,mask = batch(40, 7)
    with torch.no_grad(): want = model.model(ids, mask).last_hidden_state
    for queries in (256, 7, 0):
        run = ort.InferenceSession(str(export_onnx(folder, tmp_path/'onnx', queries=queries))).run
        got,_ = run(None, dict(input_ids=ids.numpy(), attention_mask=mask.long().numpy()))
        np.testing.assert_allclose(got[mask], want[mask], rtol=0, atol=1e-4)
    assert json.loads((tmp_path/'onnx'/'config.json').read_text())['alibi_asymmetry'] == R

# ---- grafting

def encoder(tok):
    torch.manual_seed(0)
    sizes = dict(vocab_size=len(tok), hidden_size=16, num_hidden_layers=2, num_attention_heads=4, intermediate_size=16)
    config = BertConfig(**sizes, max_position_embeddings=130, pad_token_id=tok.pad_token_id, initializer_range=.3)
    return Encoder(BertModel(config, add_pooling_layer=False).eval().requires_grad_(False), tok, 'random')

def test_the_student_is_healed_as_it_will_be_used(embedder):
    "The loss is that of the states which the model itself gives"
    teacher = HiddenStateTeacher(encoder(embedder.tokenizer), TEXTS)
    model = to_alibi(encoder(embedder.tokenizer), [torch.randint(5, 300, (4, 20))], asymmetry=R)[0]
    ids,mask = batch(17, 5)
    ids = ids.clamp(max=len(embedder.tokenizer)-1)
    states = model(ids, mask, output_hidden_states=True).hidden_states[1:]
    pooled,targets = teacher.targets(Tokens(ids, mask))
    means = torch.stack([x[on].mean(0) for x,on in zip(states[-1], mask)])
    want = hidden_state_loss([x[mask] for x in states], targets, teacher.weights)
    want += pooled_loss(means, pooled, teacher.mean)
    assert_close(teacher(model, Tokens(ids, mask)), want)

def test_healing_stopped_and_continued(embedder, tmp_path):
    "Ends at the same weights, with two slopes; another asymmetry wants another folder"
    stage = replace(HEAL, steps=4, batch_size=2, warmup_steps=1, save_steps=2, precision='fp32')
    texts = [(t, lang) for i in range(8) for t,lang in ((f'{t} {i}', lang) for t,lang in STORY)]
    def make(out, **more):
        more = dict(progress=0, log=lambda line: None) | more
        return graft(encoder(embedder.tokenizer), texts, tmp_path/out, [('en','de')], 310, stage, **more)

    class Stopped(Exception): pass
    compute,calls = HiddenStateTeacher.__call__,[]
    def stop_after_3(self, *args):
        calls.append(1)
        if len(calls) > 3: raise Stopped
        return compute(self, *args)
    whole = load_model(make('whole', asymmetry=R))
    with patch.object(HiddenStateTeacher, '__call__', stop_after_3), pytest.raises(Stopped): make('halves', asymmetry=R)
    halves = load_model(make('halves', asymmetry=R))
    assert whole.config.alibi_asymmetry == halves.config.alibi_asymmetry == R
    assert load_model(tmp_path/'halves'/'start').config.alibi_asymmetry == R
    for a,b in zip(whole.parameters(), halves.parameters()): assert torch.equal(a, b)
    with pytest.raises(EncoderError, match='another asymmetry'): make('halves')
