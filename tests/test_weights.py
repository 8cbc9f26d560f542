"Model folders that are damaged or malicious, or cannot be written: each is an error that names what is wrong"
import json, os
from pathlib import Path
import pytest, torch
from torch.testing import assert_close
from transformers import AutoModel
import bilingual_embed
from bilingual_embed.model.jina_bert import JinaBertConfig, JinaBertForMaskedLM, JinaBertModel, load_model, save_model
from bilingual_embed.model.weights import WeightsError

@pytest.fixture
def model():
    torch.manual_seed(0)
    return JinaBertForMaskedLM(JinaBertConfig(vocab_size=90, hidden_size=24, num_hidden_layers=2, num_attention_heads=3,
                                              intermediate_size=40, pad_token_id=1)).eval()

@pytest.fixture
def folder(model, tmp_path):
    save_model(tmp_path/'model', model)
    return tmp_path/'model'

def change_config(folder, **new):
    path = folder/'config.json'
    path.write_text(json.dumps(json.loads(path.read_text()) | new))

def refused(folder, message, load=load_model):
    with pytest.raises(WeightsError, match=message): load(folder)

@pytest.mark.parametrize('kept', [0, 5, 100, .5, -1])
def test_weights_cut_short(folder, kept):
    path = folder/'model.safetensors'
    whole = path.read_bytes()
    path.write_bytes(whole[:int(kept*len(whole)) if kept == .5 else kept])
    refused(folder, 'model/model.safetensors cannot be read')

@pytest.mark.parametrize('text,message', [
    ('{"vocab', 'config.json is not JSON'),
    ('{"hidden_size": ' + '9'*5000 + '}', 'is not JSON'),
    (' '*(1<<24) + '{}', 'more than any such file')], ids=['cut','long number','long file'])
def test_config_that_is_no_config(folder, text, message):
    (folder/'config.json').write_text(text)
    refused(folder, message)

HUGE = dict(hidden_size=2**31-1, num_attention_heads=1, vocab_size=2**31-1, intermediate_size=2**31-1)
@pytest.mark.parametrize('new,message', [
    (dict(max_position_embeddings='8192'), 'not a size'),
    (HUGE, 'no memory can hold'),
    (dict(qk_norm='yes'), 'neither true nor false'),
    (dict(layer_norm_eps=float('nan')), 'not a number from 0 to 1'),
    (dict(pad_token_id='1'), 'outside the vocabulary'),
    (dict(hidden_act=['gelu']), "built for 'gelu'"),
    (dict(hidden_size=48), 'another shape')], ids=lambda x: next(iter(x)) if isinstance(x, dict) else None)
def test_config_values(folder, new, message):
    change_config(folder, **new)
    refused(folder, message)

def test_transformers_takes_no_memory_for_what_does_not_fit(folder):
    change_config(folder, hidden_size=48)
    refused(folder, 'another shape', AutoModel.from_pretrained)
    change_config(folder, hidden_size=24, num_hidden_layers=10**6)
    refused(folder, 'wants 1,000,000 layers', JinaBertModel.from_pretrained)

def test_files_that_are_missing(folder, tmp_path):
    refused(tmp_path/'nowhere', 'is not a model folder')
    (folder/'config.json').rename(tmp_path/'config.json')
    refused(folder, 'has no config.json', JinaBertModel.from_pretrained)
    (tmp_path/'config.json').rename(folder/'config.json')
    (folder/'model.safetensors').unlink()
    (folder/'pytorch_model.bin').touch()
    refused(folder, 'is a pickle')

@pytest.mark.skipif(not hasattr(os, 'mkfifo'), reason='no named pipes here')
def test_a_pipe_is_not_waited_for(folder):
    (folder/'model.safetensors').unlink()
    os.mkfifo(folder/'pipe')
    (folder/'model.safetensors').symlink_to('pipe')
    refused(folder, 'not a regular file')

IMPOSSIBLE = {'a file': 'file', 'below it': 'file/below', 'a ring of links': 'round', 'long': 'x'*300, 'nul': 'a\0b'}
@pytest.mark.parametrize('name', IMPOSSIBLE.values(), ids=IMPOSSIBLE)
def test_places_that_cannot_be_a_folder(name, model, tmp_path):
    (tmp_path/'file').write_text('mine')
    (tmp_path/'round').symlink_to('round')
    with pytest.raises(ValueError, match='cannot be a folder to write into'): save_model(tmp_path/name, model)
    assert (tmp_path/'file').read_text() == 'mine'

def test_a_good_folder_loads(folder, model):
    ids = torch.arange(5, 25)[None]
    assert_close(load_model(folder, head=True)(ids).logits, model(ids).logits, rtol=0, atol=0)

def test_weights_are_written_in_one_place():
    "The safetensors library's own `save_file` makes files that only their owner can read; `save_weights` mends that"
    library = Path(bilingual_embed.__file__).parent
    users = [p for p in library.rglob('*.py') if 'save_file(' in p.read_text(encoding='utf-8')]
    assert [p.relative_to(library).as_posix() for p in users] == ['model/weights.py']
