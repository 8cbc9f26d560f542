"A pretrained encoder carried over by the command: both kinds, as transformers writes them, and what is refused"
import json, re
import numpy as np, pytest, torch
from tokenizers import decoders, models, normalizers, pre_tokenizers, processors, Tokenizer, trainers
from transformers import BertConfig, BertForMaskedLM, PreTrainedTokenizerFast, XLMRobertaConfig, XLMRobertaForMaskedLM
from bilingual_embed import load
from bilingual_embed.cli import main
from bilingual_embed.data.corpus import SampleSource
from bilingual_embed.graft.whole import cut_at_word, HashSample, healing_texts, passages_of
from bilingual_embed.inference.export import export_onnx, export_published

def passages(): return [r['text'][lang] for r in SampleSource().rows('passages','train') for lang in ('en','de')]

def xlm_roberta_tokenizer():
    special = ['<s>','<pad>','</s>','<unk>','<mask>']
    tok = Tokenizer(models.Unigram())
    tok.normalizer = normalizers.NFKC()
    tok.pre_tokenizer = pre_tokenizers.Metaspace()
    tok.decoder = decoders.Metaspace()
    letters = [chr(c) for c in range(33, 127)]
    trainer = trainers.UnigramTrainer(vocab_size=900, special_tokens=special, unk_token='<unk>',
                                      initial_alphabet=letters, show_progress=False)
    tok.train_from_iterator(passages(), trainer)
    tok.post_processor = processors.TemplateProcessing(single='<s> $A </s>', special_tokens=[('<s>', 0), ('</s>', 2)])
    return PreTrainedTokenizerFast(tokenizer_object=tok, bos_token='<s>', eos_token='</s>', cls_token='<s>',
                                   sep_token='</s>', pad_token='<pad>', unk_token='<unk>', mask_token='<mask>')

def bert_tokenizer():
    special = ['[PAD]','[UNK]','[CLS]','[SEP]','[MASK]']
    tok = Tokenizer(models.WordPiece(unk_token='[UNK]'))
    tok.normalizer = normalizers.BertNormalizer(lowercase=False)
    tok.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    tok.decoder = decoders.WordPiece()
    trainer = trainers.WordPieceTrainer(vocab_size=900, special_tokens=special, show_progress=False)
    tok.train_from_iterator(passages(), trainer)
    ends = [('[CLS]', 2), ('[SEP]', 3)]
    tok.post_processor = processors.TemplateProcessing(single='[CLS] $A [SEP]', special_tokens=ends)
    return PreTrainedTokenizerFast(tokenizer_object=tok, cls_token='[CLS]', sep_token='[SEP]', pad_token='[PAD]',
                                   unk_token='[UNK]', mask_token='[MASK]')

KINDS = {'bert': (bert_tokenizer, BertConfig, BertForMaskedLM),
         'xlm-roberta': (xlm_roberta_tokenizer, XLMRobertaConfig, XLMRobertaForMaskedLM)}

@pytest.fixture(scope='module', params=KINDS)
def encoder(request, tmp_path_factory):
    "A folder with random weights"
    folder = tmp_path_factory.mktemp('encoder')/request.param
    make_tokenizer,config_class,model_class = KINDS[request.param]
    tok = make_tokenizer()
    torch.manual_seed(0)
    model = model_class(config_class(vocab_size=len(tok), hidden_size=32, num_hidden_layers=2, num_attention_heads=4,
                                     intermediate_size=64, max_position_embeddings=140, pad_token_id=tok.pad_token_id))
    with torch.no_grad():
        for n,p in model.named_parameters():
            size = .3 if re.search('embeddings|query|key', n) else .03
            p.add_(torch.randn_like(p)*size)
    model.save_pretrained(folder)
    tok.save_pretrained(folder)
    return folder

def graft(encoder, out, cache, *more):
    return main(['graft', '--encoder', str(encoder), '--source', 'sample', '--vocabulary', '880', '--steps', '6',
                 '--out', str(out), '--cache', str(cache), *more])

@pytest.fixture(scope='module')
def cache(tmp_path_factory): return tmp_path_factory.mktemp('cache')

def test_the_whole_way(encoder, tmp_path, cache, capsys):
    "Grafted by the command, encoded, exported twice, trained further; a second call has nothing to do"
    out = tmp_path/'grafted'
    assert graft(encoder, out, cache) == 0
    assert f'train --start {out}' in capsys.readouterr().out
    model = load(out, device='cpu')
    config = model.model.config
    assert config.feed_forward_type == 'original' and config.vocab_size <= 880
    assert config.max_position_embeddings == 8192
    texts = ['Where is the station?', 'Wo ist der Bahnhof?', ' '.join(passages()[:8])]
    vectors = model.encode(texts)
    assert np.isfinite(vectors).all()
    assert len(model.tokenizer(texts[2])['input_ids']) > 140       # longer than the encoder reads

    before = (out/'model.safetensors').read_bytes()
    assert graft(encoder, out, cache) == 0 and (out/'model.safetensors').read_bytes() == before
    assert graft(encoder, out, cache, '--vocabulary', '700') != 0
    assert 'choose another folder' in capsys.readouterr().err

    with pytest.warns(UserWarning, match='byte-level BPE alone'):
        published = export_published(out, tmp_path/'published')
    np.testing.assert_allclose(load(published, device='cpu').encode(texts), vectors, rtol=0, atol=2e-5)
    pytest.importorskip('onnxruntime')
    import onnxruntime
    graph = onnxruntime.InferenceSession(str(export_onnx(out, tmp_path/'onnx')))
    ids = np.array([model.tokenizer(texts[0])['input_ids']])
    e, = graph.run(['sentence_embedding'], dict(input_ids=ids, attention_mask=np.ones_like(ids)))
    np.testing.assert_allclose(e[0], vectors[0], rtol=0, atol=1e-5)

def test_a_start_for_training(encoder, tmp_path, cache):
    out = tmp_path/'grafted'
    assert graft(encoder, out, cache, '--steps', '2', '--asymmetry', '2') == 0
    changes = 'pairs.steps=2,pairs.batch_size=8,multitask.steps=2,multitask.batch_size=8,pairs.matryoshka_dims=(8,16)'
    assert main(['train', '--start', str(out), '--scale', 'sample', '--out', str(tmp_path/'run'), '--cache', str(cache),
                 '--changes', changes, '--no-scores']) == 0
    tuned = load(tmp_path/'run'/'multitask', device='cpu')
    assert tuned.model.config.feed_forward_type == 'original' and tuned.model.config.alibi_asymmetry == 2
    assert not np.allclose(tuned.encode(['Boot']), load(out, device='cpu').encode(['Boot']), atol=1e-4)

def test_a_vocabulary_of_its_own(encoder, tmp_path, cache, capsys):
    "Byte-level BPE learned from the text: the same command, and the published layout without a warning"
    if encoder.name == 'bert': pytest.skip("once is enough here; test_graft_own_vocabulary has all kinds")
    out = tmp_path/'anew'
    assert graft(encoder, out, cache, '--own-vocabulary') == 0
    assert '880 tokens in place of 9' in capsys.readouterr().out
    model = load(out, device='cpu')
    texts = ['Wo ist der Bahnhof?', '😀 東京']
    assert model.tokenizer.unk_token_id not in sum(model.tokenizer(texts)['input_ids'], [])
    published = export_published(out, tmp_path/'published')
    np.testing.assert_allclose(load(published, device='cpu').encode(texts), model.encode(texts), rtol=0, atol=2e-5)

def test_refused_before_work(encoder, tmp_path, cache, capsys):
    def refused(message, *more):
        assert graft(encoder, tmp_path/'out', cache, *more) != 0
        assert message in capsys.readouterr().err
        assert not (tmp_path/'out'/'start'/'config.json').exists()
    refused('is too small', '--vocabulary', '50')
    with pytest.raises(SystemExit): graft(encoder, tmp_path/'out', cache, '--asymmetry', '.5')
    assert '.5 is not from 1 to 1000' in capsys.readouterr().err
    path = encoder/'config.json'
    config = path.read_text()
    try:
        path.write_text(json.dumps(json.loads(config) | dict(hidden_act='silu')))
        refused("hidden_act 'silu'")
    finally: path.write_text(config)
    (encoder/'model.safetensors').rename(encoder/'pytorch_model.bin')
    try: refused('is a pickle')
    finally: (encoder/'pytorch_model.bin').rename(encoder/'model.safetensors')

# ---- the text that is healed on

class OneDocumentSet:
    "What healing_texts needs of a corpus"
    tables = []
    def texts(self, lang, chars):
        for k in range(0, 900, 9):
            yield ' '.join(f'Satz {i} hat so viele Worte, dass er lang genug ist.' for i in range(k, k+9))

def test_texts_in_one_language_are_the_same_each_time():
    first,second = (healing_texts([OneDocumentSet()], 'de', 200, 20) for _ in range(2))
    assert first == second
    short,long = first
    assert (len(short), len(long)) == (200, 20) and len({*short, *long}) == 220
    assert all(250 < len(t) <= 800 for t in long)

def test_passages_follow_one_another():
    text = ' '.join(f'Wort{i}' for i in range(400))
    parts = passages_of(text)
    assert text.startswith(' '.join(parts))                  # nothing between them is lost
    assert len(parts) > 3 and all(250 < len(p) <= 800 for p in parts)
    assert cut_at_word('ein langes Wort', 12) == 'ein langes' and cut_at_word('kurz', 12) == 'kurz'

def sample_by_hash(rows, n):
    sample = HashSample(n)
    for r in rows: sample.offer(r, r)
    return sample.rows()

def test_a_sample_is_the_same_each_time():
    rows = [f'text {i}' for i in range(1000)]
    got = sample_by_hash(rows, 50)
    assert len(got) == 50 == len(set(got)) and got == sample_by_hash(rows[::-1], 50)
    assert sample_by_hash(rows[:9]*2, 50) == sample_by_hash(rows[:9], 50)
