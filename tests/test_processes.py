"Two processes train as one: same losses on the same global batch, and a checkpoint goes from two to one and back"
import json, os, socket, subprocess, sys
from pathlib import Path
import pytest
from bilingual_embed.train import read_log

WORKER = '''
import json, os, sys
from pathlib import Path
import torch; torch.set_num_threads(1)
from bilingual_embed.batches import Batcher, pack
from bilingual_embed.model import JinaBertConfig, JinaBertForMaskedLM
from bilingual_embed.recipes import recipe
from bilingual_embed.records import Labelled, Pair, Scored, Task, Triplet
from bilingual_embed.tokenizer import train_tokenizer
from bilingual_embed.train import train
folder,stop,hold = Path(sys.argv[1]),int(sys.argv[2]),int(sys.argv[3])
animals,deeds = ['dog','cat','horse','sheep','owl','fox','bear','hare'], ['sleeps in the barn','runs over the field','drinks from the river','waits at the gate']
tiere,taten = ['Hund','Katze','Pferd','Schaf','Eule','Fuchs','Bär','Hase'], ['schläft in der Scheune','läuft über das Feld','trinkt aus dem Fluss','wartet am Tor']
both = [(f'The {a} {d}.', f'{t}: {u}.') for a,t in zip(animals, tiere) for d,u in zip(deeds, taten)]
tok = train_tokenizer([(x, l) for p in both*2 for x,l in zip(p, ('en','de'))], 400, ('en','de'), shrink=True)
folder.mkdir(parents=True, exist_ok=True)
docs = pack((x for p in both*4 for x in p), tok, folder/f"docs{os.environ.get('RANK', '')}.tokens", 24)
tasks = [Task('docs','mlm',docs), Task('pairs','pairs',[Pair(a, b, 'en-de', 'demo') for a,b in both]),
         Task('triplets','triplets',[Triplet(a, b, (both[(i+4) % 32][1], both[(i+1) % 32][1]), 'en-de', 'demo') for i,(a,b) in enumerate(both)]),
         Task('sts','scored',[Scored(both[i][0], both[j][1], 1. if i == j else .5 if i//4 == j//4 else 0., 'en-de', 'demo') for i in range(32) for j in (i, i//4*4+(i+1)%4, (i+9)%32)]),
         Task('classes','labelled',[Labelled(x, f'scene {i}', 'en', 'demo') for i,p in enumerate(both) for x in p])]
torch.manual_seed(0)
model = JinaBertForMaskedLM(JinaBertConfig(vocab_size=len(tok), hidden_size=32, num_hidden_layers=2, num_attention_heads=2, intermediate_size=64, pad_token_id=tok.pad_token_id,
                                           attention_probs_dropout_prob=0., hidden_dropout_prob=0.))          # dropout is drawn by each process for itself
S = recipe('sample', pretrain__steps=40, pretrain__batch_size=18, pretrain__max_tokens=24, pretrain__lr=3e-3, pretrain__warmup=5, pretrain__negatives=2, pretrain__checkpoint=10, pretrain__hold=hold,
           pretrain__weights=dict(mlm=1., pairs=1., triplets=1., scored=1., labelled=1.)).pretrain
class Stop(Exception): pass
made = Batcher.__call__
def batch(self, step):
    if step == stop: raise Stop
    return made(self, step)
Batcher.__call__ = batch
try: info = train(model, tasks, tok, S, folder, 'demo', progress=0, budget=96)
except Stop: info = dict(processes=int(os.environ.get('WORLD_SIZE', '1')))
assert info['processes'] == int(os.environ.get('WORLD_SIZE', '1')), info
if torch.distributed.is_initialized(): torch.distributed.destroy_process_group()
'''

def run(tmp, folder, n, stop=10**9, hold=2**30):
    script = tmp/'worker.py'; script.write_text(WORKER, encoding='utf-8')
    with socket.socket() as s: s.bind(('127.0.0.1', 0)); port = s.getsockname()[1]
    launch = [sys.executable, '-W', 'ignore'] + (['-m', 'torch.distributed.run', '--nproc_per_node', str(n), '--master_addr', '127.0.0.1', '--master_port', str(port)] if n > 1 else [])
    r = subprocess.run([*launch, str(script), str(folder), str(stop), str(hold)], capture_output=True, text=True, timeout=300, env=os.environ | dict(OMP_NUM_THREADS='1', ACCELERATE_USE_CPU='true'))
    assert r.returncode == 0, r.stderr[-3000:]
    return [(x['step'], x['kind'], x['loss'], x['grad_norm'], x['tokens']) for x in read_log(folder)]

def close(a, b, rel=2e-4):
    assert [x[:2] + x[4:] for x in a] == [x[:2] + x[4:] for x in b]             # the same tasks, the same tokens
    for x,y in zip(a, b): assert x[2:4] == pytest.approx(y[2:4], rel=rel, abs=2e-5), (x, y)

@pytest.fixture(scope='module')
def one(tmp_path_factory):
    tmp = tmp_path_factory.mktemp('one'); out = run(tmp, tmp/'run', 1); assert len(out) == 40 and len({x[1] for x in out}) == 5; return out

@pytest.mark.parametrize('hold', [2**30, 1], ids=['whole','cached'])
def test_two_processes_give_the_losses_of_one(one, tmp_path, hold): close(run(tmp_path, tmp_path/'run', 2, hold=hold), one)

@pytest.mark.parametrize('first,then', [(2,1), (1,2)])
def test_checkpoints_go_from_two_to_one_and_back(one, tmp_path, first, then):
    run(tmp_path, tmp_path/'run', first, stop=27)
    close(run(tmp_path, tmp_path/'run', then), one)

@pytest.mark.parametrize('config', sorted((Path(__file__).parents[1]/'data'/'accelerate').glob('*.yaml')), ids=lambda p: p.stem)
def test_launch_configs_are_understood(config):
    "What ships is read by accelerate itself, without an unknown key"
    from accelerate.commands.config.config_args import load_config_from_file
    c = load_config_from_file(str(config)); assert c.num_processes % c.num_machines == 0 and c.distributed_type.value == 'MULTI_GPU'
