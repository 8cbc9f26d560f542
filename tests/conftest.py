"What every test stands on: one thread, no network, and a small model folder"
import json, os
# before torch and transformers are imported; subprocesses inherit it
os.environ |= dict(OMP_NUM_THREADS='1', TOKENIZERS_PARALLELISM='false', MPLBACKEND='agg', HF_HUB_OFFLINE='1',
                   TRANSFORMERS_OFFLINE='1', HF_DATASETS_OFFLINE='1', HF_HUB_DISABLE_PROGRESS_BARS='1')
import socket
from pathlib import Path
import pytest

ROOT = Path(__file__).resolve().parent.parent
STORY = [("The lighthouse keeper wrote the weather into a book every evening.", 'en'),
         ("Am Morgen lag Nebel über dem Hafen, und die Boote blieben am Kai.", 'de'),
         ("By noon the wind had turned, and the first sails came round the point.", 'en'),
         ("Der Hafenmeister zählte sie und strich ihre Namen auf seiner Liste durch.", 'de')]

def code_cells(nb):
    "(id, source) of a notebook's code cells"
    found = json.loads(nb.read_text(encoding='utf-8'))['cells']
    return [(c['id'], ''.join(c['source'])) for c in found if c['cell_type'] == 'code']

def pytest_addoption(parser):
    parser.addoption('--slow', action='store_true', help="run the tests marked slow too (minutes)")

def pytest_configure(config):
    config.addinivalue_line('markers', 'slow: takes a minute or more; runs with --slow')
    from hypothesis import settings
    # the same examples everywhere
    settings.register_profile('house', max_examples=25, deadline=None, derandomize=True, database=None)
    settings.load_profile('house')

# the files that take longest: the first to begin, so that no process waits for the other at the end
LONGEST = 'test_fuzz','test_processes','test_cli','test_story','test_mteb','test_gpu','test_published'

def pytest_collection_modifyitems(config, items):
    def rank(item): return LONGEST.index(item.path.stem) if item.path.stem in LONGEST else len(LONGEST)
    items.sort(key=rank)                  # stable: tests stay in their file's order
    if config.getoption('--slow'): return
    for i in items:
        if 'slow' in i.keywords: i.add_marker(pytest.mark.skip(reason='slow: run with --slow'))

@pytest.fixture(autouse=True, scope='session')
def offline():
    "A connection to anywhere but this machine is an error"
    connect = socket.socket.connect
    def local(self, address):
        if self.family != socket.AF_UNIX and str(address[0]) not in ('127.0.0.1','::1','localhost','0.0.0.0'):
            raise OSError(f"a test wanted to connect to {address}; tests are offline")
        return connect(self, address)
    socket.socket.connect = local
    yield
    socket.socket.connect = connect

@pytest.fixture(scope='session')
def model_folder(tmp_path_factory)->Path:
    "A folder with a small model of random weights and its tokenizer"
    import torch
    from transformers.utils import logging
    from bilingual_embed.model.jina_bert import JinaBertConfig, JinaBertModel
    from bilingual_embed.data.tokenizer import train_tokenizer
    logging.disable_progress_bar()
    torch.manual_seed(0)
    torch.set_num_threads(1)
    folder = tmp_path_factory.mktemp('models')/'small'
    tok = train_tokenizer(STORY*3, vocab_size=320, langs=('en','de'))
    config = JinaBertConfig(vocab_size=320, hidden_size=32, num_hidden_layers=2, num_attention_heads=4, intermediate_size=64,
                            pad_token_id=tok.pad_token_id, initializer_range=.2)
    JinaBertModel(config).save_pretrained(folder)
    tok.save_pretrained(folder)
    return folder

@pytest.fixture(scope='session')
def embedder(model_folder):
    from bilingual_embed import load
    return load(model_folder, device='cpu')
