"The commands as a user types them"
import json, subprocess, sys
import numpy as np, pytest

def run(*args, stdin=None): return subprocess.run([sys.executable, '-W', 'ignore', '-m', 'bilingual_embed.cli', *map(str, args)], input=stdin, capture_output=True, text=True)

@pytest.mark.parametrize('command', [(), ('train',), ('encode',), ('evaluate',), ('plan',)])
def test_help(command):
    r = run(*command, '--help'); assert r.returncode == 0 and 'bilingual-embed' in r.stdout and not r.stderr
    if command: assert 'example' in r.stdout

def test_encode_from_stdin(model_folder, embedder):
    texts = ['Good morning, harbour.', 'Guten Morgen, Hafen.']
    r = run('encode', '--model', model_folder, stdin='\n'.join(texts)); assert r.returncode == 0, r.stderr
    np.testing.assert_allclose([json.loads(l) for l in r.stdout.splitlines()], embedder.encode(texts), atol=1e-5)

@pytest.mark.parametrize('args,words', [(('encode','--model','nowhere'), 'nowhere'), (('train','--scale','sample','--langs','en-xx'), 'unknown language'), (('train','--scale','sample','--source','no/such/folder'), 'neither auto'),
                                        (('evaluate','--model','nowhere','--tests','nowhere'), 'nowhere'), (('train','--scale','huge'), 'invalid choice')])
def test_mistakes_get_a_sentence(args, words):
    r = run(*args, stdin='text\n'); assert r.returncode == 2 and words in r.stderr and 'Traceback' not in r.stderr, r.stderr

def test_plan():
    r = run('plan', '--scale', 'base', '--gpus', 8, '--gpu-memory', 80, '--tflops', 989); assert r.returncode == 0, r.stderr
    assert '160.8 M parameters' in r.stdout and 'assumed: 40% of 989 TFLOPS' in r.stdout and '255.85B' in r.stdout, r.stdout
    r = run('plan', '--scale', 'base', '--changes', 'pretrain.depth=3'); assert r.returncode == 2 and 'names nothing' in r.stderr
