"What a symmetric penalty cannot see, for any small model and any padding; and the probes of word order"
import numpy as np, pytest, torch
from hypothesis import given, strategies as st
from bilingual_embed.model.jina_bert import JinaBertConfig, JinaBertModel
from bilingual_embed.model.word_order import reversed_cosine, shuffled_cosine

TEXTS = ["The lighthouse keeper wrote the weather into a book every evening.",
         "Der Hafenmeister zählte sie und strich ihre Namen auf seiner Liste durch."]

def random_model(seed, **changes):
    torch.manual_seed(seed)
    sizes = dict(vocab_size=30, hidden_size=12, num_hidden_layers=2, num_attention_heads=3, intermediate_size=10)
    model = JinaBertModel(JinaBertConfig(**sizes | changes)).double().eval().requires_grad_(False)
    for p in model.parameters(): p.add_(.3*torch.randn_like(p))
    return model

@given(st.integers(1, 40), st.integers(1, 4), st.booleans(), st.booleans(), st.sampled_from(['geglu','original']),
       st.sampled_from([{}, dict(output_hidden_states=True), dict(output_attentions=True)]), st.integers(0, 99))
def test_a_reversed_row_has_the_reversed_states(T, B, qk_norm, second_norm, kind, how, seed):
    "On every road, wherever the padding is: at the end, at the beginning after the reversal, and in between"
    model = random_model(seed, qk_norm=qk_norm, second_norm=second_norm, feed_forward_type=kind)
    ids,mask = torch.randint(30, (B,T)),torch.rand(B, T) < .7
    mask[:,0] = True
    x = model(ids, mask, **how).last_hidden_state
    y = model(ids.flip(1), mask.flip(1), **how).last_hidden_state.flip(1)
    torch.testing.assert_close(x[mask], y[mask], rtol=0, atol=1e-11)

def test_by_hand(embedder):
    "The probe against ids that are put together here, in one padded batch"
    def vectors(rows):
        T = max(map(len, rows))
        ids = torch.tensor([r + [embedder.pad_id]*(T-len(r)) for r in rows])
        mask = torch.arange(T) < torch.tensor([[len(r)] for r in rows])
        with torch.no_grad(): states = embedder.model(ids, mask).last_hidden_state
        v = np.array([x[m].mean(0).numpy() for x,m in zip(states, mask)], np.float64)
        return v/np.linalg.norm(v, axis=1, keepdims=True)

    rows = [embedder.tokenizer(t)['input_ids'] for t in TEXTS]
    want = (vectors(rows)*vectors([[r[0], *r[-2:0:-1], r[-1]] for r in rows])).sum(1)
    np.testing.assert_allclose(reversed_cosine(embedder, TEXTS), want, rtol=0, atol=1e-6)
    assert want.max() < 1-1e-5

def test_one_word_and_many_shuffles(embedder):
    assert shuffled_cosine(embedder, ['lighthouse']) == 1              # several tokens, one word
    assert reversed_cosine(embedder, ['.']) == 1
    c = shuffled_cosine(embedder, TEXTS*2, seed=1)
    assert c.dtype == np.float64 and c.shape == (4,) and (c < 1).all()
    assert len(set(c)) == 4                                            # each text has a shuffle of its own

def test_texts_that_are_no_list(embedder):
    for probe in (reversed_cosine, shuffled_cosine):
        with pytest.raises(ValueError, match='pass a list of texts'): probe(embedder, 'one text')
        with pytest.raises(ValueError, match='no texts'): probe(embedder, iter([]))
        np.testing.assert_array_equal(probe(embedder, iter(TEXTS)), probe(embedder, TEXTS))
