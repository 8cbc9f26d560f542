"Properties that hold for all inputs, tried on inputs nobody would think of"
import math, random, re, shutil, tempfile, unicodedata
from pathlib import Path

import numpy as np, pytest, torch
from hypothesis import assume, example, given, settings, strategies as st
from torch.testing import assert_close
from bilingual_embed.model.alibi import alibi_bias, slopes
from bilingual_embed.model.attention import alibi_attention
from bilingual_embed.inference.embed import load
from bilingual_embed.model import attention
from bilingual_embed.model.weights import WeightsError
from bilingual_embed.losses.distillation import distillation_loss, geometry_loss
from bilingual_embed.core.records import (LANGUAGES, Document, Labelled, Pair, RecordError, Scored, TeacherEmbedding,
    Task, Triplet, texts_of)
from bilingual_embed.data.tokenizer import char_class, INVISIBLE, LOOKALIKES, reader_normalizer, SPACES
from bilingual_embed.data.tokenizer import TokenizerError, starts_of
from bilingual_embed.data.sampler import Sampler, permute
from bilingual_embed.data.batches import padded_batches
from bilingual_embed.data.teacher import TeacherRows, embed_with_teacher

WORDS = ['the', 'harbour', 'lies', 'in', 'fog', 'Am', 'Morgen', 'blieben', 'die', 'Boote', 'über', 'ünïcode', '日本', '😀',
         "don't", '<s>', '</s>', '<mask>', '\t\n', '3.14']
plain = st.lists(st.sampled_from(WORDS), min_size=1, max_size=40).map(' '.join).filter(str.strip)
# any Unicode but lone surrogates
wild = st.text(st.characters(exclude_categories=['Cs']), min_size=1, max_size=60).filter(str.strip)
seeds = st.integers(0, 2**31-1)

# ---- embeddings

@given(texts=st.lists(plain|wild, min_size=1, max_size=12), budget=st.integers(1, 3000),
       order=st.randoms(use_true_random=False))
@example(texts=['a', 'harbour '*400], budget=100_000, order=random.Random(0))
def test_padding_and_batch_order_never_change_an_embedding(embedder, texts, budget, order):
    alone = np.stack([embedder.encode(t) for t in texts])
    at = list(range(len(texts)))
    order.shuffle(at)
    together = embedder.encode([texts[i] for i in at], batch_tokens=budget)
    np.testing.assert_allclose(together, alone[at], rtol=0, atol=1e-5)
    np.testing.assert_allclose(np.linalg.norm(alone, axis=1), 1, atol=1e-5)

@given(texts=st.lists(plain, min_size=2, max_size=6), n=st.integers(3, 30))
@pytest.mark.filterwarnings('ignore::bilingual_embed.inference.embed.TextsCut')
def test_what_is_cut_off_has_no_influence(embedder, texts, n):
    def make(ts): return embedder.encode(ts, max_length=n)
    long = [t for t in texts if len(embedder.tokenizer(t)['input_ids']) > n]
    assume(long)
    np.testing.assert_allclose(make([t+' and more' for t in long]), make(long), rtol=0, atol=1e-5)

@given(ids=st.lists(st.lists(st.integers(0, 99), min_size=1, max_size=50), max_size=30), budget=st.integers(1, 500))
def test_padded_batches_lose_nothing(ids, budget):
    rects,place = padded_batches(ids, 7, budget)
    rows = [r[m].tolist() for t in rects for r,m in zip(t.ids, t.mask)]
    assert [rows[p] for p in place] == ids
    assert all(t.ids.numel() <= budget or len(t.ids) == 1 for t in rects)

@settings(max_examples=40)
@given(name=st.sampled_from(['config.json','model.safetensors','tokenizer.json','tokenizer_config.json']),
       share=st.floats(0, .999))
def test_a_file_cut_anywhere_is_a_clear_error(model_folder, name, share):
    with tempfile.TemporaryDirectory() as d:
        f = Path(shutil.copytree(model_folder, Path(d)/'m'))/name
        b = f.read_bytes()
        f.write_bytes(b[:min(int(len(b)*share), len(b)-2)])        # never the line end alone
        with pytest.raises((WeightsError, TokenizerError), match='cut short|missing|not those') as e:
            load(f.parent, device='cpu')
        assert name in str(e.value)

# ---- tokenizer

def seen(text):
    "What a reader sees: no spaces, no control characters, one spelling"
    for old,new in LOOKALIKES.items(): text = text.replace(old, new)
    text = re.sub(char_class(f'{INVISIBLE} {SPACES}'), '', text.replace('μ', 'µ'))
    return ''.join(c for c in unicodedata.normalize('NFC', text) if unicodedata.category(c)[0] not in 'CZ')

@given(text=wild)
def test_tokenizer_loses_nothing(embedder, text):
    ids = embedder.tokenizer(text)['input_ids']
    back = embedder.tokenizer.decode(ids[1:-1], clean_up_tokenization_spaces=False)
    assert back == reader_normalizer().normalize_str(text)
    assert seen(back) == seen(text)
    assert not set(ids[1:-1]) & set(embedder.tokenizer.all_special_ids)

@given(text=plain|wild)
def test_words_begin_where_the_tokenizer_says(embedder, text):
    enc = embedder.tokenizer(text)
    w = enc.word_ids()
    want = [i == 0 or w[i] is None or w[i] != w[i-1] for i in range(len(w))]
    assert starts_of(np.array(enc['input_ids']), embedder.tokenizer).tolist() == want

# ---- attention

shapes = st.tuples(st.integers(1, 3), st.integers(1, 5), st.integers(1, 40), seeds)
def qkv(B, H, T, seed):
    g = torch.Generator().manual_seed(seed)
    q,k,v = (torch.randn(B, H, T, 8, generator=g) for _ in range(3))
    mask = torch.rand(B, T, generator=g) < .7
    mask[:,torch.randint(T, (1,), generator=g)] = True
    return q,k,v,mask
def textbook(q, k, v, mask): # softmax over an (H,T,T) bias, in float64
    q,k,v = q.double(),k.double(),v.double()
    s = q@k.transpose(2, 3)/math.sqrt(q.shape[-1]) + alibi_bias(q.shape[1], q.shape[2]).double()
    return (s.masked_fill(~mask[:,None,None], -math.inf).softmax(-1)@v).float()
def real(o, mask): return o.transpose(1, 2)[mask]

@pytest.mark.parametrize('short', [1024, 0], ids=['short','long'])
@given(shape=shapes)
def test_attention_is_the_textbook_one(short, shape):
    q,k,v,mask = qkv(*shape)
    m = slopes(shape[1])
    with pytest.MonkeyPatch.context() as mp:
        mp.setattr(attention, 'SHORT', short)
        ours,theirs = alibi_attention(q, k, v, m, mask),textbook(q, k, v, mask)
        assert_close(real(ours, mask), real(theirs, mask), rtol=1e-5, atol=1e-5)
        full = torch.ones_like(mask)
        assert_close(alibi_attention(q, k, v, m), textbook(q, k, v, full), rtol=1e-5, atol=1e-5)

@given(shape=shapes, left=st.integers(0, 20), right=st.integers(0, 20))
def test_attention_knows_distances_only(shape, left, right):
    "Padding on either side and reading backwards change nothing: ALiBi is symmetric and has no positions"
    B,H,T,seed = shape
    q,k,v,_ = qkv(B, H, T, seed)
    m = slopes(H)
    o = alibi_attention(q, k, v, m)
    def fill(t): return torch.nn.functional.pad(t, (0,0,left,right), value=9.)
    mask = torch.zeros(B, left+T+right, dtype=torch.bool)
    mask[:,left:left+T] = True
    assert_close(alibi_attention(fill(q), fill(k), fill(v), m, mask)[:,:,left:left+T], o, rtol=1e-5, atol=1e-5)
    assert_close(alibi_attention(q.flip(2), k.flip(2), v.flip(2), m).flip(2), o, rtol=1e-5, atol=1e-5)

@given(shape=shapes)
def test_masked_keys_are_not_read(shape):
    q,k,v,mask = qkv(*shape)
    m = slopes(shape[1])
    hide = ~mask[:,None,:,None]
    a,b = (alibi_attention(q, k.masked_fill(hide, x), v.masked_fill(hide, -x), m, mask) for x in (0., 50.))
    assert_close(real(a, mask), real(b, mask), rtol=1e-5, atol=1e-5)

# ---- sampler

@given(n=st.integers(1, 3000), key=seeds)
@example(n=1, key=0)
def test_permute_is_a_permutation(n, key): assert np.array_equal(np.sort(permute(np.arange(n), n, key)), np.arange(n))

# rows and weight of each task
task_sizes = st.lists(st.tuples(st.integers(1, 40), st.floats(.1, 9)), min_size=1, max_size=4)
def rows(sizes): return [Task(f't{i}', 'mlm', range(n), weight=w) for i,(n,w) in enumerate(sizes)]

@given(sizes=task_sizes, batch=st.integers(1, 16), seed=seeds)
def test_each_row_once_before_any_row_twice(sizes, batch, seed):
    s = Sampler(rows(sizes), batch, seed=seed)
    seen = [[] for _ in sizes]
    for step in range(40):
        d = s.draw(step)
        seen[d.task] += d.rows.tolist()
    for (n,_),got in zip(sizes, seen):
        for e in range(0, len(got), n): assert len(set(got[e:e+n])) == len(got[e:e+n])
        assert all(0 <= r < n for r in got)

@given(sizes=task_sizes, seed=seeds, steps=st.lists(st.integers(0, 500), min_size=1, max_size=8))
def test_a_draw_depends_on_seed_and_step_alone(sizes, seed, steps):
    s = Sampler(rows(sizes), 8, seed=seed)
    for t in steps:
        a,b = s.draw(t),Sampler(rows(sizes), 8, seed=seed).draw(t)
        assert a.task == b.task and np.array_equal(a.rows, b.rows)

# ---- distillation

def spheres(n, d, seed):
    "Two sets of n unit rows in d dimensions, and a rotation"
    g = torch.Generator().manual_seed(seed)
    def random(*shape): return torch.randn(*shape, generator=g, dtype=torch.float64)
    e,t = (torch.nn.functional.normalize(random(n, d), dim=-1) for _ in range(2))
    return e, t, torch.linalg.qr(random(d, d))[0]

@given(n=st.integers(1, 12), d=st.integers(2, 9), seed=seeds, weight=st.floats(0, 20))
def test_distillation_sees_geometry_and_directions(n, d, seed, weight):
    e,t,turn = spheres(n, d, seed)
    loss = distillation_loss(e, t, weight=weight)
    # both turned together: nothing changes
    assert_close(distillation_loss(e@turn, t@turn, weight=weight), loss)
    assert_close(geometry_loss(e@turn, t), geometry_loss(e, t))
    assert_close(distillation_loss(t, e, weight=weight), loss)
    order = torch.randperm(n)
    assert_close(distillation_loss(e[order], t[order], weight=weight), loss)
    assert distillation_loss(t, t, weight=weight) == 0 and loss > 0
    assert_close(distillation_loss(e, t, weight=0.), (1 - (e*t).sum(-1)).mean())

@settings(max_examples=30)
@given(texts=st.lists(wild, min_size=1, max_size=25), batch=st.integers(1, 7),
       kills=st.lists(st.integers(0, 9), max_size=4), tail=st.binary(max_size=9))
def test_a_teacher_may_be_killed_at_any_time(texts, batch, kills, tail):
    class Teacher:
        name,revision,left = 'toy','1',10**9
        def encode(self, ts):
            self.left -= len(ts)
            if self.left < 0: raise KeyboardInterrupt
            return np.array([[1+len(t), ord(t[0]), -ord(t[-1])] for t in ts])
    with tempfile.TemporaryDirectory() as d:
        a,b = Path(d)/'a',Path(d)/'b'
        rows = [(t,'en') for t in texts]
        whole = embed_with_teacher(rows, Teacher(), a, batch)
        for k in kills:
            t = Teacher()
            t.left = k
            try: embed_with_teacher(iter(rows), t, b, batch)
            except KeyboardInterrupt:
                for f in ('texts.jsonl','vectors.npy'):
                    (b/f).open('ab').write(tail)                      # a block that was cut short
        embed_with_teacher(iter(rows), Teacher(), b, batch)
        assert all((a/f).read_bytes() == (b/f).read_bytes() for f in ('texts.jsonl','vectors.npy','teacher.json'))
        assert [r.text for r in whole] == texts and isinstance(whole, TeacherRows)

# ---- records

empty = st.sampled_from(['', ' ', '\n\t', '\u2003'])
lists = st.lists(st.text(max_size=3), max_size=2)
junk = st.none() | st.integers() | st.floats() | st.binary(max_size=5) | empty | lists
langs = st.sampled_from(['', 'xx', 'EN', 'en-', '-de', 'en-de-es', 'deu', 'english'])
@given(bad=junk, good=wild)
def test_records_refuse_texts_that_are_none(bad, good):
    with pytest.raises(RecordError): Document(bad, 'en', 's')
    with pytest.raises(RecordError): Pair(good, bad, 'en', 's')
    with pytest.raises(RecordError): Pair(bad, good, 'en', 's')
    with pytest.raises(RecordError): Triplet(good, good+'x', (bad,), 'en', 's')
    with pytest.raises(RecordError): Scored(good, bad, .5, 'en', 's')
    with pytest.raises(RecordError): Labelled(bad, 'x', 'en', 's')
    with pytest.raises(RecordError): TeacherEmbedding(bad, [1.], 'en', 's')

@given(lang=langs, good=wild)
def test_records_refuse_unknown_languages(lang, good):
    with pytest.raises(ValueError, match='unknown language'): Document(good, lang, 's')

@given(score=st.floats(allow_nan=True, allow_infinity=True))
def test_scores_are_0_to_1(score):
    if 0 <= score <= 1: assert Scored('a', 'b', score, 'en', 's').score == score
    else:
        with pytest.raises(RecordError, match='outside 0..1'): Scored('a', 'b', score, 'en', 's')

codes = st.sampled_from(sorted(LANGUAGES))
@given(q=wild, p=wild, n=st.lists(wild, min_size=1, max_size=3), a=codes, b=codes)
def test_good_records_keep_their_texts(q, p, n, a, b):
    assume(p not in n)
    assert texts_of(Triplet(q, p, tuple(n), f'{a}-{b}', 's')) == [(q,a), (p,b), *((t,b) for t in n)]
