"Several processes train as one, started by `accelerate launch` with the configs that ship: same losses on the same global batch, and a checkpoint goes from two to one and back"
import json, math, os, shutil, socket, subprocess, sys
from pathlib import Path
import pytest
from bilingual_embed import load
from bilingual_embed.core.recipes import STAGES
from bilingual_embed.train.loop import read_log

CONFIGS = Path(__file__).parents[1]/'data'/'accelerate'
ENV = os.environ | dict(OMP_NUM_THREADS='1', ACCELERATE_USE_CPU='true')     # two processes on a CPU, with gloo

WORKER = '''
import gc, math, os, sys
from pathlib import Path
import torch; torch.set_num_threads(1)
from safetensors import safe_open
from bilingual_embed.model.jina_bert import JinaBertConfig, JinaBertForMaskedLM
from bilingual_embed.core.records import Labelled, Pair, Scored, TeacherEmbedding, Task, Triplet
from bilingual_embed.core.recipes import recipe
from bilingual_embed.data.tokenizer import train_tokenizer
from bilingual_embed.data.batches import Batcher, pack
import bilingual_embed.train.loop as T
tmp = Path(sys.argv[1])
animals,deeds = ['dog','cat','horse','sheep','owl','fox','bear','hare'], ['sleeps in the barn','runs over the field','drinks from the river','waits at the gate']
tiere,taten = ['Hund','Katze','Pferd','Schaf','Eule','Fuchs','Bär','Hase'], ['schläft in der Scheune','läuft über das Feld','trinkt aus dem Fluss','wartet am Tor']
both = [(f'The {a} {d}.', f'{t}: {u}.') for a,t in zip(animals, tiere) for d,u in zip(deeds, taten)]
tok = train_tokenizer([(x, l) for p in both*2 for x,l in zip(p, ('en','de'))], 400, ('en','de'), shrink=True)
docs = pack((x for p in both*4 for x in p), tok, tmp/f"docs{os.environ.get('RANK', '')}.tokens", 24)
tasks = [Task('docs','mlm',docs), Task('pairs','pairs',[Pair(a, b, 'en-de', 'demo') for a,b in both]),
         Task('triplets','triplets',[Triplet(a, b, (both[(i+4) % 32][1], both[(i+1) % 32][1]), 'en-de', 'demo') for i,(a,b) in enumerate(both)]),
         Task('sts','scored',[Scored(both[i][0], both[j][1], 1. if i == j else .5 if i//4 == j//4 else 0., 'en-de', 'demo') for i in range(32) for j in (i, i//4*4+(i+1)%4, (i+9)%32)]),
         Task('flat','scored',[Scored(a, b, .5, 'en-de', 'flat') for a,b in both], .5),       # equal scores: a step that every process must pass over
         Task('classes','labelled',[Labelled(x, f'scene {i}', 'en', 'demo') for i,p in enumerate(both) for x in p]),
         Task('told','distillation',[TeacherEmbedding(x, [math.sin(1+i//4*j) + math.cos(2+i%4*j) for j in range(32)], l, 'demo') for i,p in enumerate(both) for x,l in zip(p, ('en','de'))])]
def model():
    torch.manual_seed(0)
    return JinaBertForMaskedLM(JinaBertConfig(vocab_size=len(tok), hidden_size=32, num_hidden_layers=2, num_attention_heads=2, intermediate_size=64, pad_token_id=tok.pad_token_id,
                                              attention_probs_dropout_prob=0., hidden_dropout_prob=0.))       # dropout is drawn by each process for itself
class Stop(Exception): pass
stop,made = 0,Batcher.__call__
def batch(self, step):
    if step == stop: raise Stop
    return made(self, step)
Batcher.__call__ = batch
sharded,save = set(),T.save_state
def save_state(path, objective, *args, **kw):
    sharded.add(sum(type(m).__name__ == 'FSDP_Layer' for m in objective.modules())); assert len({type(p) for p in objective.parameters()}) == 1
    save(path, objective, *args, **kw)
T.save_state = save_state; world = int(os.environ.get('WORLD_SIZE', '1'))
for job in sys.argv[2:]:                                             # one after another, as the stages of a run are
    name,stop,hold,precision = job.split(','); stop = int(stop); m = model()
    T.precision_here = lambda wanted, device: (precision, '')        # this CPU's own opinion is of no interest here
    S = recipe('sample', pretrain__steps=40, pretrain__batch_size=18, pretrain__max_tokens=24, pretrain__lr=3e-3, pretrain__warmup_steps=5, pretrain__negatives=2, pretrain__save_steps=10, pretrain__mini_batch_tokens=int(hold),
               pretrain__weights=dict(mlm=1., pairs=1., triplets=1., scored=1., labelled=1., distillation=1.)).pretrain
    try:
        info = T.train(m, tasks, tok, S, tmp/name, 'demo', progress=0, budget=96); assert (info['processes'], info['precision']) == (world, precision), info
        assert {type(p) for p in m.parameters()} == {torch.nn.Parameter}                     # whole again, whatever happened to it in between
        saved = safe_open(tmp/name/'state.safetensors', 'pt')
        for n,p in m.named_parameters(): assert torch.equal(p, saved.get_tensor(f'model/model.{n}')), n
    except Stop: pass
assert sharded == {2 if os.environ.get('ACCELERATE_USE_FSDP') == 'true' else 0}, sharded       # layers that FSDP cut up
if torch.distributed.is_initialized(): gc.collect(); torch.distributed.barrier(); torch.distributed.destroy_process_group()      # wrappers go before the group, and nobody leaves while another still talks
'''

def free_port():
    with socket.socket() as s:
        s.bind(('127.0.0.1', 0))
        return s.getsockname()[1]

def launch(config, *args, n=2): # the shipped command, on two processes of this machine
    return [sys.executable, '-W', 'ignore', '-m', 'accelerate.commands.launch', '--config_file', str(CONFIGS/f'{config}.yaml'), '--num_processes', str(n), *map(str, args)]

def run(tmp, how, *jobs): # how: name of a launch config, two processes; '': one, without launcher. job: run folder, where to stop, and more of what the worker reads
    script = tmp/'worker.py'
    script.write_text(WORKER, encoding='utf-8')
    port = free_port()
    machines = (0,1) if how == 'two_nodes' else (0,)
    starts = [launch(how, '--main_process_port', port, *(('--machine_rank', m, '--main_process_ip', '127.0.0.1') if len(machines) > 1 else ())) if how else [sys.executable, '-W', 'ignore'] for m in machines]
    jobs = [','.join(map(str, (*j, *(10**9, 2**30, 'fp32')[len(j)-1:]))) for j in jobs]
    ps = [subprocess.Popen([*start, str(script), str(tmp), *jobs], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=ENV) for start in starts]
    try: said = [p.communicate(timeout=300) for p in ps]
    finally:
        for p in ps: p.kill()
    for p,(_,err) in zip(ps, said): assert p.returncode == 0, err[-6000:]

@pytest.fixture(scope='module')
def logs(tmp_path_factory):
    "The same 40 steps by every way through, in five launches: name of the way -> rows of the log"
    tmp = tmp_path_factory.mktemp('logs')
    whole,cached,half = (10**9,),(10**9, 1),(10**9, 2**30, 'bf16')
    run(tmp, '', ('one',), ('one bf16', *half), ('one > one_node', 27))
    shutil.copytree(tmp/'one > one_node', tmp/'one > fsdp')
    run(tmp, 'one_node', ('one_node',), ('one_node cached', *cached), ('one_node bf16', *half), ('one > one_node',), ('one_node > one', 27))
    run(tmp, 'fsdp', ('fsdp',), ('fsdp cached', *cached), ('fsdp bf16', *half), ('one > fsdp',), ('fsdp > one > two_nodes', 17))
    run(tmp, '', ('one_node > one',), ('fsdp > one > two_nodes', 27))
    run(tmp, 'two_nodes', ('two_nodes',), ('fsdp > one > two_nodes',))
    return {p.name: [(x['step'], x['kind'], x['loss'], x['grad_norm'], x['tokens']) for x in read_log(p)] for p in tmp.iterdir() if p.is_dir()}

def close(a, b, rel=2e-4, off=2e-5):
    assert [x[:2] + x[4:] for x in a] == [x[:2] + x[4:] for x in b]             # the same tasks, the same tokens
    for x,y in zip(a, b): assert x[2:4] == pytest.approx(y[2:4], rel=rel, abs=off, nan_ok=True), (x, y)

def test_one_process_sees_every_kind(logs):
    one = logs['one']
    assert len(one) == 40 and len({x[1] for x in one}) == 6 and 0 < sum(math.isnan(x[2]) for x in one) < 9

@pytest.mark.parametrize('way', ['one_node', 'one_node cached', 'fsdp', 'fsdp cached', 'two_nodes'])
def test_two_processes_give_the_losses_of_one(logs, way): close(logs[way], logs['one'])

@pytest.mark.parametrize('way', ['one_node > one', 'one > one_node', 'one > fsdp', 'fsdp > one > two_nodes'])
def test_checkpoints_go_from_any_number_of_processes_to_any(logs, way): close(logs[way], logs['one'])

@pytest.mark.parametrize('way', ['one_node bf16', 'fsdp bf16'])
def test_bf16(logs, way): close(logs[way], logs['one bf16'], .1, .02)

@pytest.mark.parametrize('how', ['fsdp', pytest.param('one_node', marks=pytest.mark.slow)])
def test_the_shipped_command(tmp_path, how):
    "From text to a finished model, all stages one after another in the same two processes; text, vocabulary and packed tokens are made by one of them"
    changes = ','.join(f'{s}.{k}={v}' for s in STAGES for k,v in dict(steps=4, batch_size=16, max_tokens=48, warmup_steps=1, save_steps=2).items())
    r = subprocess.run([*launch(how, '--main_process_port', free_port()), '-m', 'bilingual_embed.cli', 'train', '--scale', 'sample', '--no-scores', '--out', str(tmp_path/'run'), '--cache', str(tmp_path/'cache'), '--changes', changes],
                       capture_output=True, text=True, timeout=500, env=ENV)
    assert r.returncode == 0, r.stderr[-3000:]
    for stage in STAGES:
        assert json.loads((tmp_path/'run'/stage/'stage.json').read_text())['processes'] == 2 and len(read_log(tmp_path/'run'/stage)) == 4
    assert load(tmp_path/'run', device='cpu').encode(['Guten Tag','Good day']).shape == (2,64)

@pytest.mark.parametrize('config', sorted(CONFIGS.glob('*.yaml')), ids=lambda p: p.stem)
def test_launch_configs_are_understood(config):
    "What ships is read by accelerate itself, without an unknown key"
    from accelerate.commands.config.config_args import load_config_from_file
    c = load_config_from_file(str(config))
    assert c.num_processes % c.num_machines == 0 and c.distributed_type.value == ('FSDP' if config.stem == 'fsdp' else 'MULTI_GPU')

def test_two_runs_of_one_text(tmp_path):
    "Begun side by side, one makes it and the other waits"
    code = "import sys; from bilingual_embed.core.recipes import recipe; from bilingual_embed.data.tasks import load_corpus; print(load_corpus(recipe('sample', 'en-de'), cache=sys.argv[1]).digest)"
    both = [subprocess.Popen([sys.executable, '-c', code, str(tmp_path)], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=ENV) for _ in range(2)]
    (a,ea),(b,eb) = [p.communicate(timeout=300) for p in both]
    assert [p.returncode for p in both] == [0, 0], (ea, eb)
    assert a.splitlines()[-1] == b.splitlines()[-1] and (a+b).count('read and cleaned') == 1, (a, b)
