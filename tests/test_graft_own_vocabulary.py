"A vocabulary of its own: three kinds of encoder's tokenizers, texts that are cut or odd, and a healing that was stopped"
import copy
from collections import defaultdict
from dataclasses import replace
from functools import cache
import numpy as np, pytest, torch
from tokenizers import processors
from transformers import BertConfig, BertModel, XLMRobertaConfig, XLMRobertaModel
from bilingual_embed.data.batches import pad
from bilingual_embed.data.tokenizer import train_tokenizer
from bilingual_embed.graft.encoder import Encoder
from bilingual_embed.graft.heal import HiddenStateTeacher
from bilingual_embed.graft.own_vocabulary import change_vocabulary, rows_of_pieces
from bilingual_embed.graft.positions import without_positions
from bilingual_embed.graft.stretches import Matcher, match, read_ids, read_texts
from bilingual_embed.graft.vocabulary import complete, trim_tokenizer
from bilingual_embed.graft.whole import graft, HEAL
from bilingual_embed.inference.embed import load
from bilingual_embed.model.alibi import slopes
from test_graft_vocabulary import HOSTILE, MAKERS, SAMPLE

PLAIN = [t for t,l in SAMPLE if l != 'es'][:12]
TEXTS = [*PLAIN, *HOSTILE, '😀', 'Ende 👍👍 😀😀gut', '½ ﬁ Ⅳ ™ x²', 'Zeile\n\nnoch eine\n', 'Donaudampfschifffahrt'*20]

@pytest.fixture(scope='module')
def own(): return train_tokenizer([x for x in SAMPLE if x[1] != 'es'], 900, ('en','de'))

@cache
def made(kind): return MAKERS[kind]()      # once, since training one does not give the same pieces each time

@pytest.fixture(scope='module', params=list(MAKERS))
def other(request): return made(request.param)

def is_bpe(tok): return type(tok.backend_tokenizer.model).__name__ == 'BPE'

def encoder_with(tok, kind='bert', prompt='', positions=200):
    "A small encoder of random weights"
    is_bert = kind == 'bert'
    config_class,model_class = (BertConfig, BertModel) if is_bert else (XLMRobertaConfig, XLMRobertaModel)
    torch.manual_seed(0)
    config = config_class(vocab_size=len(tok), hidden_size=16, num_hidden_layers=2, num_attention_heads=2,
                          intermediate_size=24, pad_token_id=tok.pad_token_id, hidden_dropout_prob=0.,
                          attention_probs_dropout_prob=0.,
                          max_position_embeddings=positions + (0 if is_bert else tok.pad_token_id+1))
    model = model_class(config, add_pooling_layer=False).eval().requires_grad_(False)
    for n,p in model.named_parameters():
        if 'embeddings' in n: p.add_(torch.randn_like(p)*.5)
    return Encoder(model, tok, 'random', prompt)

def cut_batch(tok, texts, max_tokens):
    "As the batches of training: cut, the last token kept"
    ids = tok(texts, split_special_tokens=True)['input_ids']
    return pad([x if len(x) <= max_tokens else [*x[:max_tokens-1],x[-1]] for x in ids], tok.pad_token_id)

def both_places(own, other, texts, max_tokens=10**6, max_length=10**6):
    batch = cut_batch(own, texts, max_tokens)
    read,a = read_ids(batch.ids[batch.mask].numpy(), batch.mask.sum(1).numpy(), own)
    return read, a, read_texts(read, other, max_length)

# ---- stretches

def components(a, b):
    "Letters joined by a token of either side, found one by one; the tokens of each group that has some of both"
    group = list(range(max(a.stop.max(), b.stop.max())))
    def find(i):
        while group[i] != i: i = group[i]
        return i
    for p in (a, b):
        for start,stop in zip(p.start, p.stop):
            for letter in range(start+1, stop): group[find(letter)] = find(start)
    tokens = [defaultdict(set), defaultdict(set)]
    for side,p in zip(tokens, (a, b)):
        for i,(start,stop) in enumerate(zip(p.start, p.stop)):
            if stop > start: side[find(start)].add(i)
    return [[side[g] for g in sorted(set(tokens[0]) & set(tokens[1]))] for side in tokens]

@pytest.mark.parametrize('max_tokens,max_length', [(10**6,10**6), (9,10**6), (30,12)])
def test_stretches_are_what_tokens_join(own, other, max_tokens, max_length):
    "Against a search for connected letters, on odd texts, cut by one side or both"
    texts = TEXTS[:2] + TEXTS[len(PLAIN):]
    _,a,b = both_places(own, other, texts, max_tokens, max_length)
    n,at_a,at_b = match(a, b)
    found = [[set(np.flatnonzero(at == i)) for i in range(n)] for at in (at_a, at_b)]
    want = components(a, b)
    order = sorted(range(len(want[0])), key=lambda i: min(want[0][i]))
    assert found == [[side[i] for i in order] for side in want]
    assert n > 2*len(texts)

def test_what_was_read_is_read_again(own):
    "The text in a batch's ids is the cleaned text, up to where it was cut"
    clean = own.backend_tokenizer.normalizer.normalize_str
    read,_,_ = both_places(own, own, TEXTS)
    assert read == [clean(t) for t in TEXTS]
    cut,_,_ = both_places(own, own, TEXTS, max_tokens=7)
    assert all(clean(t).startswith(c) for t,c in zip(TEXTS, cut)) and '' in cut
    assert all('\ufffd' not in c or '\ufffd' in t for t,c in zip(TEXTS, cut))

def test_ends_are_matched_with_ends(own, other):
    for max_tokens,max_length in ((10**6, 10**6), (6, 10**6), (64, 5), (2, 9)):
        _,a,b = both_places(own, other, TEXTS, max_tokens, max_length)
        n,at_a,at_b = match(a, b)
        for tok,p,q,at_p,at_q in ((own,a,b,at_a,at_b), (other,b,a,at_b,at_a)):
            ends = np.cumsum(p.lengths)
            assert {*p.ids[ends-p.lengths]} == {tok.cls_token_id} and {*p.ids[ends-1]} == {tok.sep_token_id}
            first,last = at_p[ends-p.lengths],at_p[ends-1]
            assert (first < n).all() and (last < n).all() and (np.bincount(at_p)[first] == 1).all()
            theirs = np.cumsum(q.lengths)
            assert (last == at_q[theirs-1]).all() and (first == at_q[theirs-q.lengths]).all()
            assert (np.bincount(at_p)[last] == 1).all()

def test_texts_do_not_depend_on_their_neighbours(own, other):
    matcher = Matcher(own, other, 40)
    together = matcher(cut_batch(own, TEXTS, 25))
    lengths,theirs = cut_batch(own, TEXTS, 25).mask.sum(1).tolist(),together.tokens.mask.sum(1).tolist()
    n = 0
    for text,mine,other_side in zip(TEXTS, together.own.split(lengths), together.other.split(theirs)):
        alone = matcher(cut_batch(own, [text], 25))
        for got,want in ((mine, alone.own), (other_side, alone.other)):
            assert torch.where(got == together.n, -1, got-n).tolist() == torch.where(want == alone.n, -1, want).tolist()
        n += alone.n
    assert n == together.n

def test_a_tokenizer_without_ends_is_refused(own):
    bare = copy.deepcopy(made('unigram'))
    bare.backend_tokenizer.post_processor = processors.Sequence([])
    with pytest.raises(ValueError, match='special token at each end'): Matcher(own, bare, 40)
    with pytest.raises(ValueError, match='only the entries of byte-level BPE'): Matcher(bare, own, 40)

# ---- rows

def test_rows_are_means_over_letters(own, other):
    "Against a count letter by letter, with the offsets that the tokenizers give"
    encoder = encoder_with(other)
    E = encoder.model.get_input_embeddings().weight.double()
    got = rows_of_pieces(own, encoder, PLAIN)
    total,n = torch.zeros(len(own), 16, dtype=torch.double),torch.zeros(len(own))
    for text in PLAIN:
        text = own.backend_tokenizer.normalizer.normalize_str(text)
        enc,theirs = (t(text, return_offsets_mapping=True, add_special_tokens=False) for t in (own, other))
        pieces = [[] for _ in text]
        for i,(start,stop) in zip(theirs['input_ids'], theirs['offset_mapping']):
            for c in range(start, stop): pieces[c].append(i)
        for i,(start,stop) in zip(enc['input_ids'], enc['offset_mapping']):
            over = [p for c in range(start, stop) if not text[c].isspace() for p in pieces[c]]
            if not over: continue
            known = [p for p in over if p != other.unk_token_id]
            total[i] += E[known].sum(0)/len(over)
            n[i] += len(known)/len(over)
    same = set(other.get_vocab()) if is_bpe(other) else set()      # these keep their rows
    tokens = own.convert_ids_to_tokens(range(len(own)))
    compared = [i for i,t in enumerate(tokens) if n[i] > 0 and t not in same and i > 4]
    assert len(compared) > (20 if same else 300)
    want = total[compared]/n[compared,None]
    torch.testing.assert_close(got[compared].double(), want, rtol=0, atol=1e-5)

def test_special_tokens_and_bytes_have_rows(own, other):
    encoder = encoder_with(other)
    E = encoder.model.get_input_embeddings().weight
    texts = [*PLAIN[:3], 'ein \u2603 im Schnee']             # a snowman, whom no encoder here knows
    R = rows_of_pieces(own, encoder, texts)
    for role in ('cls_token_id','sep_token_id','pad_token_id','unk_token_id','mask_token_id'):
        assert torch.equal(R[getattr(own, role)], E[getattr(other, role)])
    assert R.isfinite().all() and .6 < R.norm(dim=1).mean()/E.norm(dim=1).mean() < 1.1
    newline,byte = own.convert_tokens_to_ids(['Ċ','ð'])
    if not is_bpe(other):
        for i in (newline, byte):                           # near the mean of all, and not equal
            assert 0 < (R[i]-E.mean(0)).norm() < .3*E.std(0).norm()
        assert not torch.equal(R[newline], R[byte])
        assert other.unk_token_id in other('\u2603')['input_ids']
        for i in own('\u2603')['input_ids'][1:-1]: assert (R[i]-E[other.unk_token_id]).norm() > .5*E.std(0).norm()
    assert torch.equal(R, rows_of_pieces(own, encoder, texts))

def test_its_own_tokenizer_gives_its_own_rows():
    "Special tokens come last in this one, and text has bytes of emoji"
    tok = made('bpe')
    encoder = encoder_with(tok)
    assert torch.equal(rows_of_pieces(tok, encoder, TEXTS), encoder.model.get_input_embeddings().weight)

@pytest.mark.parametrize('kind', ['bert','xlm-roberta'])
def test_positions_stay_where_the_padding_moves(kind):
    "The same tokens under other ids: the same vectors, padded and not"
    old = made('bpe')
    new = trim_tokenizer(old, complete(old, range(len(old))))
    assert new.pad_token_id != old.pad_token_id
    encoder = encoder_with(old, kind)
    before = encoder.encode(PLAIN[:5])
    changed = change_vocabulary(encoder, new, PLAIN)
    np.testing.assert_allclose(changed.encode(PLAIN[:5]), before, rtol=0, atol=2e-6)
    assert changed.max_length == encoder.max_length == 200
    np.testing.assert_array_equal(encoder.encode(PLAIN[:5]), before)       # the encoder stays as it was

def test_the_same_text_gives_the_same_vocabulary(own):
    "The command learns it anew each time, and goes on where it was stopped"
    again = train_tokenizer([x for x in SAMPLE if x[1] != 'es'], 900, ('en','de'))
    assert again.backend_tokenizer.to_str() == own.backend_tokenizer.to_str()

# ---- healing

def test_a_model_is_its_own_perfect_student():
    tok = made('bpe')
    encoder = encoder_with(tok)
    student = without_positions(encoder, n_positions=0)
    teacher = HiddenStateTeacher(encoder, PLAIN, tokenizer=tok)
    teacher.positions,teacher.no_slopes = torch.zeros_like(teacher.positions),slopes(2)
    texts = [t for t in TEXTS if t]
    assert teacher(student, cut_batch(tok, texts, 50)).item() < 1e-6
    with torch.no_grad(): student.encoder.layer[0].output.dense.bias.add_(.1*torch.randn(16))
    assert teacher(student, cut_batch(tok, texts, 50)).item() > 1e-3

def test_what_the_teacher_reads(own, other):
    "Its states are those of the text that the student reads, cut or not, with its prompt before it"
    encoder = encoder_with(other, prompt='' if is_bpe(other) else 'query: ')   # there the space would be a word's own
    teacher = HiddenStateTeacher(encoder, PLAIN, tokenizer=own)
    batch = cut_batch(own, PLAIN[:4], 30)
    read,_,_ = both_places(own, other, PLAIN[:4], 30)
    pooled,_ = teacher.targets(teacher.matcher(batch).tokens)
    pooled = torch.nn.functional.normalize(pooled, dim=1).numpy()
    np.testing.assert_allclose(pooled, encoder.encode(read), rtol=0, atol=1e-5)
    student = without_positions(change_vocabulary(encoder, own, PLAIN))
    for odd in (TEXTS, [''], ['👍']): assert teacher(student, cut_batch(own, odd, 60)).isfinite()

def test_stopped_and_continued(own, tmp_path, monkeypatch):
    texts = [(t, l) for t,l in SAMPLE if l != 'es']
    stage = replace(HEAL, steps=6, batch_size=4, max_tokens=40, save_steps=2, warmup_steps=2, precision='fp32', lr=3e-3)
    def make(name):
        out = graft(encoder_with(made('unigram')), texts, tmp_path/name, [('en','de')], stage=stage, progress=0,
                    log=lambda line: None, tokenizer=own)
        return load(out, device='cpu')
    whole = make('whole')
    compute,calls = HiddenStateTeacher.__call__,[]
    def stop(self, *args):
        calls.append(1)
        if len(calls) > 3: raise KeyboardInterrupt
        return compute(self, *args)
    with monkeypatch.context() as m:
        m.setattr(HiddenStateTeacher, '__call__', stop)
        with pytest.raises(KeyboardInterrupt): make('stopped')
    again = make('stopped')
    for a,b in zip(again.model.parameters(), whole.model.parameters()): assert torch.equal(a, b)
    start = load(tmp_path/'whole'/'start', device='cpu')
    words = [m.model.get_input_embeddings().weight for m in (start, whole)]
    assert (words[0]-words[1]).abs().max() > 1e-3           # the rows are healed too
    assert len(whole.tokenizer) == len(own) and np.isfinite(whole.encode(['👍 東京'])).all()
