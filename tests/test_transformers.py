"What transformers, accelerate, torch's quantisation and torch.export do with a model, as with BERT"
import inspect, json, stat
import numpy as np, pytest, torch
from torch import nn
from torch.testing import assert_close
from transformers import AutoModel, AutoModelForMaskedLM, BertForMaskedLM
from bilingual_embed import convert, load
from bilingual_embed.inference.embed import shipped
from bilingual_embed.inference.export import export_published
from bilingual_embed.inference.sentence_transformers import save_st
from bilingual_embed.losses.mlm import mlm_layer_loss
from bilingual_embed.model.attention import alibi_attention
from bilingual_embed.model.jina_bert import JinaBertConfig, JinaBertForMaskedLM, JinaBertModel
from bilingual_embed.model.jina_bert import embed, load_model, save_model

TEXTS = ['The lighthouse keeper wrote.', 'Am Morgen lag Nebel über dem Hafen, und die Boote blieben am Kai.', 'x']

def config(**change):
    sizes = dict(vocab_size=90, hidden_size=24, num_hidden_layers=2, num_attention_heads=3, intermediate_size=40)
    return JinaBertConfig(**sizes | dict(pad_token_id=1, initializer_range=.3) | change)

def build(cls=JinaBertForMaskedLM, **change):
    torch.manual_seed(0)
    m = cls(config(**change)).eval()
    with torch.no_grad():
        for p in m.parameters():
            if p.dim() == 1: p.add_(.3*torch.randn_like(p))   # norms and biases too, so that none can hide
    return m

def batch(*lengths, seed=0):
    g = torch.Generator().manual_seed(seed)
    ids = torch.randint(5, 90, (len(lengths), max(lengths)), generator=g)
    return ids, torch.arange(max(lengths)) < torch.tensor(lengths)[:,None]

IDS,MASK = batch(17, 5, 12)
LABELS = torch.where(MASK & (torch.arange(17) % 3 == 1), IDS, -100)

def same(a, b, atol=1e-5): assert_close(a, b, rtol=0, atol=atol)

# ---- the type to compute in is not the type of the stored weights

def half_folders(embedder, tmp_path):
    "Each way of this library to write weights in half precision"
    half = load_model(embedder.folder).half()
    save_model(tmp_path/'model', half)
    yield save_st(tmp_path/'st', half, embedder.tokenizer, code=False)
    yield convert(embedder.folder, tmp_path/'float16', dtype=torch.float16, code=False)
    yield convert(embedder.folder, tmp_path/'bfloat16', dtype=torch.bfloat16)
    yield tmp_path/'model'

def test_half_precision_is_for_storing(embedder, tmp_path):
    st = pytest.importorskip('sentence_transformers')
    want = {}
    for folder in half_folders(embedder, tmp_path):
        size = sum(w.numel() for w in load_model(folder).state_dict().values())
        assert (folder/'model.safetensors').stat().st_size < 2.5*size + 10_000     # two bytes a weight
        assert json.loads((folder/'config.json').read_text())['dtype'] == 'float32', folder
        assert AutoModel.from_pretrained(folder).dtype == torch.float32
        if folder.name == 'model': continue
        want[folder.name] = load(folder, device='cpu').encode(TEXTS)
        vectors = st.SentenceTransformer(str(folder), device='cpu').encode(TEXTS)
        np.testing.assert_allclose(np.linalg.norm(vectors, axis=1), 1, rtol=0, atol=1e-6)
        np.testing.assert_allclose(vectors, want[folder.name], rtol=0, atol=1e-5)
    assert not np.array_equal(want['float16'], want['bfloat16'])

def test_another_type_only_where_it_is_asked_for(embedder, tmp_path):
    model = load_model(embedder.folder)
    save_model(tmp_path/'asked', model.bfloat16(), dtype='bfloat16')
    assert AutoModel.from_pretrained(tmp_path/'asked').dtype == torch.bfloat16
    save_model(tmp_path/'double', model.double())
    assert AutoModel.from_pretrained(tmp_path/'double').dtype == torch.float64
    assert AutoModel.from_pretrained(tmp_path/'double', dtype=torch.float16).dtype == torch.float16

def test_half_precision_in_the_published_layout(embedder, tmp_path):
    folder = export_published(embedder, tmp_path/'published', half=True)
    assert json.loads((folder/'config.json').read_text())['torch_dtype'] == 'float32'
    (folder/'config.json').write_text((folder/'config.json').read_text().replace('float32', 'float16'))   # as jina's
    assert JinaBertModel.from_pretrained(folder).dtype == torch.float32
    assert JinaBertModel.from_pretrained(folder, dtype=torch.float16).dtype == torch.float16

def test_models_that_ship_compute_in_float32():
    "test_readme.py compares their vectors"
    folders = shipped()
    for folder in folders.values(): assert json.loads((folder/'config.json').read_text())['dtype'] == 'float32'
    model = AutoModel.from_pretrained(folders['en-de'])
    assert model.dtype == torch.float32
    same(embed(model, IDS, MASK).norm(dim=1), torch.ones(3), 1e-6)

# ---- what may be asked of forward

WAYS = [dict(), dict(qk_norm=True, second_norm=True)]

@pytest.mark.parametrize('how', WAYS, ids=str)
@pytest.mark.parametrize('lengths', [(17,5,12), (17,17), (1,), (700,3)], ids=str)
def test_attentions(how, lengths):
    "Probabilities over a text's own tokens, which explain the vectors"
    m = build(JinaBertModel, **how)
    ids,mask = batch(*lengths)
    with torch.no_grad(): plain,seen = m(ids, mask),m(ids, mask, output_attentions=True, output_hidden_states=True)
    same(seen.last_hidden_state[mask], plain.last_hidden_state[mask])
    B,T = ids.shape
    assert [tuple(a.shape) for a in seen.attentions] == [(B,3,T,T)]*2 and len(seen.hidden_states) == 3
    for a in seen.attentions:
        assert (a >= 0).all() and (a.masked_select(~mask[:,None,None].expand_as(a)) == 0).all()
        same(a.sum(-1), torch.ones(B, 3, T))

    inside = m.encoder.layer[0].attention.self
    x = seen.hidden_states[0]
    q,k = inside.query(x),inside.key(x)
    if how: q,k = inside.layer_norm_q(q),inside.layer_norm_k(k)
    v = inside.split_heads(inside.value(x))
    from bilingual_embed.model.alibi import slopes
    attended = alibi_attention(inside.split_heads(q), inside.split_heads(k), v, slopes(3), mask)
    at = mask[:,None,:,None].expand_as(attended)
    same((seen.attentions[0]@v)[at], attended[at], 2e-5)

def test_asked_by_the_config():
    "What sentence-transformers' losses over several layers set: output_hidden_states and return_dict"
    lm = build()
    want = lm(IDS, MASK, output_hidden_states=True, output_attentions=True)
    lm.set_attn_implementation('eager')                      # as BERT, the config wants this before output_attentions
    lm.config.output_hidden_states = lm.config.output_attentions = True
    for a,b in zip(lm(IDS, MASK).hidden_states, want.hidden_states): same(a, b)
    for a,b in zip(lm(IDS, MASK).attentions, want.attentions): same(a, b)
    assert lm(IDS, MASK, output_hidden_states=False).hidden_states is None

    lm.config.return_dict = False
    logits,states,weights = lm(IDS, MASK)
    assert (len(states), len(weights)) == (3, 2)
    same(logits, want.logits)
    assert lm(IDS, MASK, return_dict=True).keys() == want.keys()
    assert [type(x) for x in lm.bert(IDS, MASK)] == [torch.Tensor, tuple, tuple]

def test_asked_when_it_is_loaded(tmp_path):
    save_model(tmp_path, build())
    for auto in (AutoModel, AutoModelForMaskedLM):
        assert len(auto.from_pretrained(tmp_path, output_hidden_states=True)(IDS).hidden_states) == 3
        eager = auto.from_pretrained(tmp_path, attn_implementation='eager', output_attentions=True)
        assert len(eager(IDS).attentions) == 2
        assert len(auto.from_pretrained(tmp_path, return_dict=False)(IDS)) == 1
    model = JinaBertModel.from_pretrained(pretrained_model_name_or_path=tmp_path)
    same(model(IDS).last_hidden_state, load_model(tmp_path)(IDS).last_hidden_state)

def test_hidden_states_are_those_of_the_layers():
    "Their gradients can be asked for, and a choice of layers"
    m = build(JinaBertModel)
    out = m(IDS, MASK, output_hidden_states=True)
    out.hidden_states[1].retain_grad()
    out.last_hidden_state.pow(2).sum().backward()
    assert out.hidden_states[1].grad.abs().sum() > 0
    for n,layer in enumerate(m.encoder.layer):
        same(out.hidden_states[n+1], layer(out.hidden_states[n], *through(m), MASK))

def through(m):
    from bilingual_embed.model.alibi import slopes
    return (slopes(m.config.num_attention_heads),)

def test_keywords_that_other_programs_pass():
    "PEFT passes all of these, set or not; Trainer passes num_items_in_batch"
    for m in (build(JinaBertModel), build()):
        want = m(IDS, MASK)[0]
        nothing = dict(output_attentions=None, output_hidden_states=None, return_dict=None, inputs_embeds=None,
                       token_type_ids=None, position_ids=None, use_cache=False, past_key_values=None)
        same(m(input_ids=IDS, attention_mask=MASK.long(), **nothing)[0], want, 0)
        same(m(IDS, MASK.float(), position_ids=torch.arange(17).expand(3, 17))[0], want, 0)
    parameters = [inspect.signature(f.forward).parameters for f in (JinaBertForMaskedLM, BertForMaskedLM)]
    shared = [n for n in parameters[1] if n in parameters[0]]
    assert shared == [n for n in parameters[0] if n in shared] and 'labels' in shared     # in BERT's order

def test_positions():
    "ALiBi knows distances only: other counting is refused, since it would be without effect"
    m = build(JinaBertModel)
    left = MASK.flip(1)
    from_mask = (left.cumsum(1)-1).clamp(min=0)                 # as callers count where padding is on the left
    same(m(IDS, left, position_ids=from_mask)[0], m(IDS, left)[0], 0)
    for wrong in (from_mask.flip(1), torch.arange(17)[None] % 8, torch.zeros(1, 17, dtype=torch.long)):
        with pytest.raises(ValueError, match='give each text a row of its own'): m(IDS, MASK, position_ids=wrong)

@pytest.mark.parametrize('name', ['past_key_values','encoder_hidden_states','encoder_attention_mask','is_causal'])
def test_what_would_change_the_result_is_refused(name):
    for m in (build(JinaBertModel), build()):
        with pytest.raises(ValueError, match=f'has no {name}; leave it out'): m(IDS, MASK, **{name: MASK})

@pytest.mark.parametrize('mask', [MASK[:,None,None], MASK[:,:9], MASK[:1], MASK[0]], ids=lambda m: str(tuple(m.shape)))
def test_masks_of_another_shape(mask):
    with pytest.raises(ValueError, match=r'this model takes \(3, 17\), the shape of the ids'): build()(IDS, mask)

def test_logits_with_labels():
    "One shape with labels and without, as Trainer's compute_metrics needs it; the loss is BERT's"
    lm = build()
    out,logits = lm(IDS, MASK, labels=LABELS),lm(IDS, MASK).logits
    same(out.logits, logits, 0)
    flat = logits.flatten(0, 1),LABELS.flatten()
    assert_close(out.loss, nn.functional.cross_entropy(*flat))
    n = (LABELS != -100).sum()
    assert_close(lm(IDS, MASK, labels=LABELS, num_items_in_batch=4*n).loss, out.loss/4)
    assert_close(lm(IDS, MASK, labels=LABELS, head_loss=mlm_layer_loss).loss, out.loss)
    nothing = lm(IDS, MASK, labels=torch.full_like(IDS, -100)).loss
    nothing.backward()
    assert nothing.item() == 0 and all(p.grad.isfinite().all() for p in lm.parameters() if p.grad is not None)

def test_trainer(tmp_path):
    "Two steps, gradients of two batches each, and metrics over logits; the loss of a step is the mean over its tokens"
    from transformers import Trainer, TrainingArguments
    rows = [dict(input_ids=i, attention_mask=m.long(), labels=l) for i,m,l in zip(IDS, MASK, LABELS)][:2]*2
    arguments = TrainingArguments(
        str(tmp_path), per_device_train_batch_size=1, gradient_accumulation_steps=2, max_steps=2, learning_rate=0.,
        per_device_eval_batch_size=2, report_to=[], use_cpu=True, logging_steps=1, disable_tqdm=True,
        save_strategy='no')
    def metrics(p): return dict(right=float((p.predictions.argmax(-1) == p.label_ids)[p.label_ids != -100].mean()))
    lm = build(hidden_dropout_prob=0., attention_probs_dropout_prob=0.)
    trainer = Trainer(lm, arguments, train_dataset=rows, eval_dataset=rows, compute_metrics=metrics)
    trainer.train()
    losses = [r['loss'] for r in trainer.state.log_history if 'loss' in r]
    together = lm.eval()(IDS[:2], MASK[:2], labels=LABELS[:2])
    np.testing.assert_allclose(losses[:1], together.loss.item(), atol=1e-3)
    right = (together.logits.argmax(-1) == LABELS[:2])[LABELS[:2] != -100].float().mean()
    assert trainer.evaluate()['eval_right'] == pytest.approx(right.item())

# ---- modules are called

def test_hooks_see_the_logits():
    lm,seen = build(),[]
    lm.get_output_embeddings().register_forward_hook(lambda layer, args, logits: seen.append(logits))
    out = lm(IDS, MASK)
    assert seen[0] is out.logits
    lm(IDS, MASK, labels=LABELS, head_loss=mlm_layer_loss)
    assert len(seen) == 2 and seen[1].shape == ((LABELS != -100).sum(), 90)

def called(model, ids, **kw):
    names = []
    hooks = [m.register_forward_hook(lambda *_, n=n: names.append(n)) for n,m in model.named_modules()]
    model(ids, **kw)
    for h in hooks: h.remove()
    return set(names)

def test_every_module_is_called():
    lm = build(qk_norm=True, second_norm=True)
    never = {n for n,_ in lm.named_modules()} - called(lm, IDS, attention_mask=MASK)
    # a list, what is published unused, and in each layer the rate of a dropout that attention does itself, as in BERT
    rates = {f'bert.encoder.layer.{i}.attention.self.dropout' for i in range(2)}
    assert never == {'bert.encoder.layer','bert.pooler','bert.pooler.dense'} | rates
    assert called(lm, IDS, labels=LABELS, head_loss=lambda h, layer, y: layer(h).sum()) >= called(lm, IDS)

def test_dropout_is_a_matter_of_modules():
    "Tools switch dropout off, or on for estimates of uncertainty, module by module"
    lm = build()
    want = lm(IDS, MASK).logits
    drops = [m for m in lm.modules() if isinstance(m, nn.Dropout)]
    for m in drops: m.train()
    assert not torch.equal(lm(IDS, MASK).logits, want)
    for m in drops: m.p = 0.
    same(lm.train()(IDS, MASK).logits, want)
    for layer in lm.bert.encoder.layer: layer.attention.self.dropout.p = .5
    assert (lm(IDS, MASK).logits-want).abs().max() > .01

@pytest.mark.parametrize('tied', [True, False])
def test_offloaded_weights(tied):
    accelerate = pytest.importorskip('accelerate')
    lm = build(tie_word_embeddings=tied)
    want,alone = lm(IDS, MASK).logits,lm(IDS, MASK, labels=LABELS, head_loss=mlm_layer_loss).loss
    lm = accelerate.cpu_offload(lm, execution_device='cpu')
    for _ in range(2):
        same(lm(IDS, MASK).logits, want, 0)
        assert_close(lm(IDS, MASK, labels=LABELS, head_loss=mlm_layer_loss).loss, alone)

def test_weights_on_disk(tmp_path):
    pytest.importorskip('accelerate')
    lm = build()
    save_model(tmp_path/'m', lm)
    where = {'bert.embeddings':'cpu', 'bert.encoder.layer.0':'cpu', 'bert.encoder.layer.1':'disk', 'bert.pooler':'disk',
             'cls':'cpu'}
    for device_map in (where, {**where, 'bert.embeddings':'disk', 'cls':'disk'}):
        far = AutoModelForMaskedLM.from_pretrained(tmp_path/'m', device_map=device_map, offload_folder=tmp_path/'disk')
        assert far.bert.encoder.layer[1].mlp.wo.weight.device.type == 'meta'
        same(far(IDS, MASK).logits, lm(IDS, MASK).logits)

@pytest.mark.parametrize('cpu', [100_000, 1_000])
def test_device_map_auto(tmp_path, cpu):
    pytest.importorskip('accelerate')
    lm = build(hidden_size=48, num_hidden_layers=4)
    save_model(tmp_path/'m', lm)
    room = dict(device_map='auto', max_memory={'cpu': cpu}, offload_folder=tmp_path/'disk')
    far = AutoModelForMaskedLM.from_pretrained(tmp_path/'m', **room)
    assert {*far.hf_device_map.values()} >= {'disk'}
    same(far(IDS, MASK).logits, lm(IDS, MASK).logits)

def test_a_packing_moves_between_devices():
    from accelerate.utils import send_to_device
    from bilingual_embed.model.unpad import Packing
    p = Packing(MASK)
    assert p.texts and send_to_device(p, 'cpu') is p
    moved = send_to_device(p, 'meta')
    assert {t.device.type for t in (moved.mask, moved.positions, *moved.texts)} == {'meta'}
    assert p.positions.device.type == 'cpu'

@pytest.mark.filterwarnings('ignore')
@pytest.mark.parametrize('cls', [JinaBertForMaskedLM, JinaBertModel])
def test_quantised_weights(cls):
    m = build(cls, hidden_size=48)
    small = torch.ao.quantization.quantize_dynamic(m, {nn.Linear}, dtype=torch.qint8)
    want,got = m(IDS, MASK)[0],small(IDS, MASK)[0]
    assert not torch.equal(got, want)
    assert nn.functional.cosine_similarity(got[MASK], want[MASK], dim=-1).mean() > .97   # random weights, 7 bits
    if cls is JinaBertForMaskedLM:
        ask = dict(attention_mask=MASK, labels=LABELS)
        alone = small(IDS, **ask, head_loss=mlm_layer_loss).loss
        assert_close(alone, small(IDS, **ask).loss, rtol=.01, atol=0)     # other rows, so other steps of rounding

# ---- a vocabulary of another size

@pytest.mark.parametrize('tied', [True, False])
@pytest.mark.parametrize('size', [100, 60])
def test_resized_vocabulary(tmp_path, tied, size):
    lm = build(tie_word_embeddings=tied)
    before = lm(IDS%60, MASK).logits
    lm.resize_token_embeddings(size)
    after = lm(IDS%60, MASK, labels=LABELS.clamp(max=59)).logits
    assert after.shape[-1] == size == lm.cls.predictions.bias.numel() == lm.config.vocab_size
    same(after[...,:60], before[...,:60])

    save_model(tmp_path/'ours', lm)
    lm.save_pretrained(tmp_path/'theirs')
    for folder in (tmp_path/'ours', tmp_path/'theirs'):
        for again in (load_model(folder, head=True), AutoModelForMaskedLM.from_pretrained(folder)):
            same(again(IDS%60, MASK).logits, after, 0)
            assert (again.cls.predictions.decoder.weight is again.get_input_embeddings().weight) == tied
            assert again.cls.predictions.decoder.bias is again.cls.predictions.bias
        same(load_model(folder)(IDS%60, MASK)[0], lm.bert(IDS%60, MASK)[0], 0)

def test_the_bias_is_stored_once_under_its_old_name(tmp_path):
    from bilingual_embed.model.weights import read_shapes, save_weights
    lm = build()
    save_model(tmp_path/'ours', lm)
    lm.save_pretrained(tmp_path/'theirs')
    for folder in (tmp_path/'ours', tmp_path/'theirs'):
        names = {n for n in read_shapes(folder) if 'predictions.' in n and 'transform' not in n}
        assert names == {'cls.predictions.bias'}

    untied = build(tie_word_embeddings=False)                    # as older versions wrote it: without decoder.bias
    untied.save_pretrained(tmp_path/'untied')
    assert 'cls.predictions.decoder.bias' not in read_shapes(tmp_path/'untied')
    for again in (load_model(tmp_path/'untied', head=True), AutoModelForMaskedLM.from_pretrained(tmp_path/'untied')):
        same(again(IDS, MASK).logits, untied(IDS, MASK).logits, 0)

    both = {f'cls.predictions.decoder.{n}': t.clone() for n,t in lm.cls.predictions.decoder.named_parameters()}
    state = {k: v for k,v in lm.state_dict().items() if 'decoder' not in k} | both     # as other programs write it
    save_weights(tmp_path/'ours'/'model.safetensors', state, format='pt')
    for again in (load_model(tmp_path/'ours', head=True), AutoModelForMaskedLM.from_pretrained(tmp_path/'ours')):
        same(again(IDS, MASK).logits, lm(IDS, MASK).logits, 0)

# ---- torch.export

def test_export():
    "One graph for every batch and length"
    m = build(JinaBertModel, num_hidden_layers=1, **WAYS[1])
    rows,tokens = torch.export.Dim('rows', max=64),torch.export.Dim('tokens', max=8192)
    program = torch.export.export(m, (IDS, MASK.long()), dynamic_shapes=({0: rows, 1: tokens},)*2, strict=False)
    for lengths in ((17,5,12), (9,9), (1100,40,3), (2,1,2,2)):
        ids,mask = batch(*lengths)
        with torch.no_grad(): got,want = program.module()(ids, mask.long()),m(ids, mask)
        same(got.last_hidden_state[mask], want.last_hidden_state[mask], 2e-5)

@pytest.mark.filterwarnings('ignore')
def test_trace():
    class Vectors(nn.Module):
        def __init__(self):
            super().__init__()
            self.model = build(JinaBertModel)
        def forward(self, ids, mask): return embed(self.model, ids, mask)
    plain = Vectors()
    traced = torch.jit.trace(plain, (IDS, MASK))
    for lengths in ((17,5,12), (40,40)):
        ids,mask = batch(*lengths, seed=1)
        with torch.no_grad(): same(traced(ids, mask), plain(ids, mask))

# ---- what is written can be read again, and by others

@pytest.mark.parametrize('name', ['layer_norm_eps','hidden_dropout_prob','attention_probs_dropout_prob'])
def test_ends_of_the_allowed_numbers(tmp_path, name):
    for value in (0., 1., 1):
        save_model(tmp_path, build(**{name: value}))
        assert getattr(load_model(tmp_path).config, name) == value
    model = build()
    setattr(model.config, name, 1.5)
    with pytest.raises(ValueError, match=f'{name} is 1.5, not a number'): save_model(tmp_path/'never', model)
    assert not (tmp_path/'never').exists()
    assert torch.isfinite(build(**{name: 1.}).train()(IDS, MASK).logits).all()

def test_every_file_has_the_mode_of_the_umask(embedder, tmp_path):
    import os
    from bilingual_embed.data.teacher import TeacherProjection
    from bilingual_embed.train.loop import save_state
    before = os.umask(0o027)
    try:
        save_st(tmp_path/'st', embedder.model, embedder.tokenizer, prompts=dict(query='Q: '))
        export_published(embedder, tmp_path/'published', half=True)
        TeacherProjection(np.ones((2,3), np.float32), 'toy', '1').save(tmp_path/'projection.safetensors')
        layer = nn.Linear(2, 3)
        save_state(tmp_path/'state.safetensors', layer, torch.optim.AdamW(layer.parameters()), step=1)
    finally: os.umask(before)
    modes = {str(p.relative_to(tmp_path)): stat.filemode(p.stat().st_mode) for p in tmp_path.rglob('*') if p.is_file()}
    assert {*modes.values()} == {'-rw-r-----'}, modes

def test_convert_takes_the_names_that_load_takes(embedder, tmp_path, monkeypatch):
    monkeypatch.setattr('bilingual_embed.inference.embed.shipped', lambda: {'en-xy': embedder.folder})
    again = load(convert('en-xy', tmp_path/'again', code=False), device='cpu')
    np.testing.assert_array_equal(again.encode(TEXTS), embedder.encode(TEXTS))
    with pytest.raises(ValueError, match='no model of that name'): convert('en-xx', tmp_path/'never')
    assert not (tmp_path/'never').exists()
