"Training meets damaged files, a full disk and unusable settings: each is an error that says what to do"
import json, os, shutil, types
import pytest, torch
from torch import nn
from bilingual_embed.core.records import Pair, Task
from bilingual_embed.core.recipes import recipe
from bilingual_embed.data.tasks import load_corpus
from bilingual_embed.data.tokenizer import train_tokenizer
from bilingual_embed.model.jina_bert import JinaBertConfig, JinaBertModel
from bilingual_embed.train.loop import CheckpointError, Log, load_state, make_accelerator, read_log
from bilingual_embed.train.loop import read_meta, save_state, supported_precision, train
from bilingual_embed.train.negatives import hard_negative_tasks, mine_hard_negatives
from bilingual_embed.train.stages import start_run, untrained

STORY = [('The dog sleeps in the barn.', 'Der Hund schläft in der Scheune.'), ('The owl waits.', 'Die Eule wartet.'),
         ('The fox runs over the field.', 'Der Fuchs läuft über das Feld.'), ('The hare drinks.', 'Der Hase trinkt.')]
PAIRS = [Pair(f'{en} {i}', f'{de} {i}', 'en-de', 'demo') for i in range(4) for en,de in STORY]

@pytest.fixture(scope='module')
def resume(tmp_path_factory):
    "A stage of two steps, trained; called, it starts once more"
    folder = tmp_path_factory.mktemp('stage')
    texts = [(text, lang) for pair in STORY*3 for text,lang in zip(pair, ('en','de'))]
    tok = train_tokenizer(texts, 320, ('en','de'), shrink=True)
    config = JinaBertConfig(vocab_size=len(tok), hidden_size=32, num_hidden_layers=1, num_attention_heads=2,
                            intermediate_size=64, pad_token_id=tok.pad_token_id)
    few = dict(pairs__steps=2, pairs__batch_size=4, pairs__save_steps=2)
    stage = recipe('sample', **few).pairs
    def start(): return train(JinaBertModel(config), [Task('pairs', 'pairs', PAIRS)], tok, stage, folder, progress=0)
    start()
    start.folder = folder
    return start

@pytest.fixture
def state(resume):
    "Its checkpoint, put back afterwards"
    path = resume.folder/'state.safetensors'
    kept = path.read_bytes()
    yield path
    path.unlink(missing_ok=True)
    path.write_bytes(kept)

def with_meta(data, **changes): # bytes of a checkpoint with other values in its header
    n = int.from_bytes(data[:8], 'little')
    head = json.loads(data[8:8+n])
    meta = json.loads(head['__metadata__']['meta']) | changes
    head['__metadata__']['meta'] = json.dumps(meta)
    h = json.dumps(head).encode()
    return len(h).to_bytes(8, 'little') + h + data[8+n:]

@pytest.mark.parametrize('changes', [dict(step='3'), dict(step=-1), dict(tokens=None), dict(fingerprint=5)], ids=str)
def test_a_bent_header(resume, state, changes):
    state.write_bytes(with_meta(state.read_bytes(), **changes))
    with pytest.raises(CheckpointError, match=f'its {next(iter(changes))} is'): resume()

@pytest.mark.skipif(not hasattr(os, 'mkfifo'), reason='no pipes with names here')
def test_a_pipe_is_not_waited_for(resume, state):
    state.unlink()
    os.mkfifo(state)
    with pytest.raises(CheckpointError, match='not a plain file'): resume()

def test_another_model(tmp_path):
    "Weights that are missing, of another shape, or half of the optimiser's state"
    def adamw(m): return torch.optim.AdamW(m.parameters())
    small,path = nn.Linear(3, 4),tmp_path/'state.safetensors'
    save_state(path, small, adamw(small), step=1, tokens=1, skipped=0, fingerprint='')
    wide,deep = nn.Linear(5, 4),nn.Sequential(nn.Linear(3, 4))
    with pytest.raises(CheckpointError, match='choose another run folder'): load_state(path, wide, adamw(wide))
    with pytest.raises(CheckpointError, match='lacks 2 weights of this model'): load_state(path, deep, adamw(deep))

def test_a_damaged_log(tmp_path):
    log = Log(tmp_path, tensorboard=False)
    numbers = dict(loss='1.0', grad_norm='1.0', lr='0.1', tokens=5, seconds='0.1', skipped=0)
    for step in range(4): log.row(step=step, kind='pairs', task='t', **numbers)
    log.close()
    assert [row['step'] for row in read_log(tmp_path)] == [0, 1, 2, 3]
    path = tmp_path/'log.csv'
    rows = path.read_bytes()
    path.write_bytes(b'\xff\n'.join(rows.split(b'\n')[:3]) + b'\nx,y\n1,2\n')
    with pytest.raises(ValueError, match='is damaged'): read_log(tmp_path)
    path.write_bytes(rows[:-20])                     # killed while it wrote the last row
    assert [row['step'] for row in read_log(tmp_path)] == [0, 1, 2]

def test_a_full_disk_leaves_the_checkpoint_before(resume, state, monkeypatch):
    monkeypatch.setattr(shutil, 'disk_usage', lambda path: types.SimpleNamespace(free=1000))
    model = nn.Linear(100, 100)
    with pytest.raises(CheckpointError, match='The checkpoint before it is whole'):
        save_state(state, model, torch.optim.AdamW(model.parameters()), step=7)
    assert read_meta(state)['step'] == 2

def test_precision_that_a_cpu_lacks():
    with pytest.raises(ValueError, match='needs a GPU'): supported_precision('fp16', torch.device('cpu'))

@pytest.mark.parametrize('version,precision,message', [
    ('1', 'fp32', 'fsdp_version differ'), # as a launch config of version 1 would have it
    ('two', 'fp32', 'take the settings from data/accelerate/fsdp.yaml'),
    ('1', 'fp16', 'fp16 is not supported with FSDP')])
def test_other_fsdp_settings(monkeypatch, version, precision, message):
    monkeypatch.setenv('ACCELERATE_USE_FSDP', 'true')
    monkeypatch.setenv('FSDP_VERSION', version)
    with pytest.raises(ValueError, match=message): make_accelerator(precision)

@pytest.fixture(scope='module')
def run(tmp_path_factory):
    tmp = tmp_path_factory.mktemp('run')
    r = recipe('sample', 'en-de', model__hidden_size=32, model__intermediate_size=64, tokenizer__vocab_size=800)
    run = start_run(r, load_corpus(r, cache=tmp/'cache', log=lambda s: None), tmp/'run')
    untrained(run)
    return run

@pytest.mark.parametrize('damaged,message', [(b'{"stage"', 'is not JSON'), (b'[]', 'holds a list')])
def test_a_damaged_stage_json(run, damaged, message):
    path = run.folder/'untrained'/'stage.json'
    kept = path.read_bytes()
    path.write_bytes(damaged)
    with pytest.raises(CheckpointError, match=message): untrained(run)
    path.write_bytes(kept)
    assert untrained(run) == path.parent

@pytest.mark.parametrize('settings,message', [
    (dict(num_negatives=0), 'at least 1'), (dict(range_max=0), 'at least 1'),
    (dict(relative_margin=95), 'share'), (dict(relative_margin=-.1), 'share')])
def test_settings_of_mining(settings, message):
    with pytest.raises(ValueError, match=message): list(mine_hard_negatives(None, PAIRS, **settings))

def test_an_encoder_that_loses_texts():
    with pytest.raises(ValueError, match='one a text'): list(mine_hard_negatives(lambda texts: torch.ones(1, 2), PAIRS))

def test_a_damaged_note_of_mined_negatives(run, embedder, tmp_path):
    tasks = hard_negative_tasks(embedder, run.corpus, tmp_path, max_tokens=16, max_pairs=60, log=lambda s: None)
    assert tasks
    next(tmp_path.glob('*.json')).write_text('{"model"')
    with pytest.raises(ValueError, match='mined again'):
        hard_negative_tasks(embedder, run.corpus, tmp_path, max_tokens=16, max_pairs=60, log=lambda s: None)
