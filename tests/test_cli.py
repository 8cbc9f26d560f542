"The commands as a user types them"
import importlib.util, json, subprocess, sys
import numpy as np, pytest

def run(*args, stdin=None): return subprocess.run([sys.executable, '-W', 'ignore', '-m', 'bilingual_embed.cli', *map(str, args)], input=stdin, capture_output=True, text=True)

@pytest.mark.parametrize('command', [(), ('train',), ('encode',), ('evaluate',), ('plan',), ('export',), ('doctor',)])
def test_help(command):
    r = run(*command, '--help'); assert r.returncode == 0 and 'bilingual-embed' in r.stdout and not r.stderr
    if command: assert 'example' in r.stdout

def test_encode_from_stdin(model_folder, embedder):
    texts = ['Good morning, harbour.', 'Guten Morgen, Hafen.']
    r = run('encode', '--model', model_folder, stdin='\n'.join(texts)); assert r.returncode == 0, r.stderr
    np.testing.assert_allclose([json.loads(l) for l in r.stdout.splitlines()], embedder.encode(texts), atol=1e-5)

@pytest.mark.parametrize('args,words', [(('encode','--model','nowhere'), 'nowhere'), (('train','--scale','sample','--langs','en-xx'), 'unknown language'), (('train','--scale','sample','--source','no/such/folder'), 'neither auto'),
                                        (('evaluate','--model','nowhere','--tests','nowhere'), 'nowhere'), (('train','--scale','huge'), 'invalid choice'), (('export','nowhere','out'), 'nowhere'), (('export','nowhere','out','--format','gif'), 'invalid choice')])
def test_mistakes_get_a_sentence(args, words):
    r = run(*args, stdin='text\n'); assert r.returncode == 2 and words in r.stderr and 'Traceback' not in r.stderr, r.stderr

def test_plan():
    r = run('plan', '--scale', 'base', '--gpus', 8, '--gpu-memory', 80, '--tflops', 989); assert r.returncode == 0, r.stderr
    assert '160.8 M parameters' in r.stdout and 'assumed: 40% of 989 TFLOPS' in r.stdout and '255.85B' in r.stdout, r.stdout
    r = run('plan', '--scale', 'base', '--changes', 'pretrain.depth=3'); assert r.returncode == 2 and 'names nothing' in r.stderr

@pytest.mark.skipif(not all(map(importlib.util.find_spec, ('onnx','onnxruntime'))), reason="onnx or onnxruntime is missing: pip install '.[onnx]'")
def test_export_onnx(model_folder, embedder, tmp_path):
    r = run('export', model_folder, tmp_path/'out', '--int8'); assert r.returncode == 0 and not r.stderr, r.stderr
    assert 'model.onnx' in r.stdout and 'model_quantized.onnx' in r.stdout, r.stdout
    import onnxruntime
    from tokenizers import Tokenizer
    texts = ['Good morning, harbour.', 'Guten Morgen, Hafen. '*60]; t = Tokenizer.from_file(str(tmp_path/'out'/'tokenizer.json')); t.enable_padding(pad_id=t.token_to_id('<pad>')); rows = t.encode_batch(texts)
    given = dict(input_ids=[r.ids for r in rows], attention_mask=[r.attention_mask for r in rows])
    vectors = {name: onnxruntime.InferenceSession(tmp_path/'out'/'onnx'/f'{name}.onnx').run(['sentence_embedding'], given)[0] for name in ('model','model_quantized')}
    np.testing.assert_allclose(vectors['model'], embedder.encode(texts), rtol=0, atol=1e-5)
    assert ((vectors['model_quantized']*vectors['model']).sum(1) > .98).all()

@pytest.mark.skipif(bool(importlib.util.find_spec('onnx')), reason='onnx is installed')
def test_export_names_the_extra(model_folder, tmp_path):
    r = run('export', model_folder, tmp_path/'out'); assert r.returncode == 1 and "pip install '.[onnx]'" in r.stderr and 'Traceback' not in r.stderr, r.stderr
    assert not (tmp_path/'out').exists()

def test_export_published(model_folder, embedder, tmp_path):
    r = run('export', model_folder, tmp_path/'out', '--format', 'published'); assert r.returncode == 0 and not r.stderr and 'model.safetensors' in r.stdout, r.stderr
    from bilingual_embed import load
    np.testing.assert_allclose(load(tmp_path/'out', device='cpu').encode('Good morning, harbour.'), embedder.encode('Good morning, harbour.'), rtol=0, atol=1e-6)
    assert json.loads((tmp_path/'out'/'config.json').read_text())['model_type'] == 'bert' and (tmp_path/'out'/'merges.txt').is_file()
    r = run('export', model_folder, tmp_path/'out', '--format', 'published', '--int8'); assert r.returncode == 2 and 'belongs to --format onnx' in r.stderr

def test_doctor():
    r = run('doctor'); assert r.returncode == 0 and not r.stderr, r.stderr
    for words in ('torch', 'threads', 'fp32,   128 tokens: scaled_dot_product', '8,192 tokens', 'within', 'not asked'): assert words in r.stdout, (words, r.stdout)
    r = run('doctor', '--online'); assert r.returncode == 1 and 'HF_HUB_OFFLINE is set   <- this needs attention' in r.stdout, r.stdout     # these tests are offline
