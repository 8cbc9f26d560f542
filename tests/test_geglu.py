"BERT's feed-forward as a GEGLU: layers of every kind, and weights that it must refuse"
import pytest, torch, torch.nn.functional as F
from hypothesis import given, strategies as st
from bilingual_embed.model.geglu import constant_in_norm, to_geglu

NAMES = 'norm_weight','norm_bias','intermediate_weight','intermediate_bias','output_bias'

def random_layer(D, I, seed, dtype=torch.float64):
    g = torch.Generator().manual_seed(seed)
    def randn(*shape): return torch.randn(*shape, generator=g, dtype=torch.float64).to(dtype)
    return [randn(D), randn(D), randn(I, D), randn(I), randn(D)]

def outputs(layer, made, x):
    "What goes into the second norm, before and after; its weight is the identity of as many features as there are"
    gamma,beta,W,b,b_out = layer
    D,I = gamma.numel(),b.numel()
    W_out = torch.eye(D, I, dtype=torch.float64)
    y = F.layer_norm(x, (D,), gamma, beta)
    before = F.linear(F.gelu(F.linear(y, W, b)), W_out, b_out) + y
    y = F.layer_norm(x, (D,), gamma, made.norm_bias)
    gate,up = F.linear(y, made.gated_layers).chunk(2, -1)
    return before, F.linear(F.gelu(gate)*up, W_out, made.output_bias) + y

@given(st.integers(2, 40), st.integers(1, 30), st.floats(.02, 20), st.integers(0, 3), st.integers(0, 999))
def test_same_function_for_any_layer(D, I, kappa, n_zero, seed):
    layer = random_layer(D, I, seed)
    layer[0] = layer[0].sign()*layer[0].abs().clamp_min(.01)     # either sign; the next test has smaller ones
    layer[0][:n_zero] = 0
    x = torch.randn(20, D, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    before,after = outputs(layer, to_geglu(*layer, kappa), x)
    assert (before-after).abs().max() <= 1e-9*before.abs().max()

def test_a_gamma_that_is_nearly_zero_is_exact_while_it_can_be_written():
    layer = random_layer(16, 8, 0)
    layer[0][3] = 1e-30
    before,after = outputs(layer, to_geglu(*layer), torch.randn(20, 16, dtype=torch.float64))
    torch.testing.assert_close(before, after, rtol=0, atol=1e-10)

    layer[0][3] = 1e-42
    with pytest.raises(ValueError, match='norm_weight has 1e-42, .* too large for torch.float32; set such'):
        to_geglu(*(t.float() for t in layer))
    layer[0][3] = 0
    before,after = outputs(layer, to_geglu(*layer), torch.randn(20, 16, dtype=torch.float64))
    torch.testing.assert_close(before, after, rtol=0, atol=1e-12)

@pytest.mark.parametrize('dtype', [torch.float32, torch.float16, torch.bfloat16])
def test_computed_in_float64_and_rounded_once(dtype):
    layer = random_layer(12, 6, 1, dtype)
    exact = to_geglu(*(t.double() for t in layer))
    for ours,want in zip(to_geglu(*layer), exact):
        assert ours.dtype == dtype and torch.equal(ours, want.to(dtype))

def test_the_weights_given_stay_as_they_are():
    layer = random_layer(12, 6, 2)
    before = [t.clone() for t in layer]
    made = to_geglu(*layer)
    assert made.gated_layers.shape == (12,12) and made.norm_bias.shape == made.output_bias.shape == (12,)
    assert all(map(torch.equal, layer, before))

@pytest.mark.parametrize('i,name', list(enumerate(NAMES)))
def test_refuses_what_is_not_a_layer(i, name):
    layer = random_layer(12, 6, 3)
    layer[i].view(-1)[2] = float('nan')
    with pytest.raises(ValueError, match=f'{name} has a number that is not finite'): to_geglu(*layer)

    layer = random_layer(12, 6, 3)
    layer[i] = layer[i][None]
    with pytest.raises(ValueError, match=r'is \(1, .*pass the weights of one layer'): to_geglu(*layer)

@pytest.mark.parametrize('kappa', [0, -1, float('inf'), float('nan')])
def test_refuses_a_kappa_without_size(kappa):
    with pytest.raises(ValueError, match='must be above 0 and finite'): constant_in_norm(torch.ones(4), kappa)
