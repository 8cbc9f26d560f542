"""A model that is loaded once encodes in many processes, forked or spawned. Several processes train as one, started by
`accelerate launch` with the configs that ship: they give the losses of one process on the same global batch, and
checkpoints go from two processes to one and back. They encode as one: the same file, byte for byte, whoever was killed"""
import json, math, os, shutil, socket, subprocess, sys
from pathlib import Path
import pytest, torch
import published
from bilingual_embed import load
from bilingual_embed.core.recipes import STAGES
from bilingual_embed.data.tokenizer import load_tokenizer
from bilingual_embed.model.jina_bert import JinaBertConfig, JinaBertModel, save_model
from bilingual_embed.train.loop import read_log

CONFIGS = Path(__file__).parents[1]/'data'/'accelerate'
WORKER = Path(__file__).parent/'process_worker.py'
ENV = os.environ | dict(OMP_NUM_THREADS='1', ACCELERATE_USE_CPU='true')     # two processes on a CPU, with gloo
PYTHON = [sys.executable, '-W', 'ignore']

def free_port():
    with socket.socket() as s:
        s.bind(('127.0.0.1', 0))
        return s.getsockname()[1]

def launch(config, *args):
    "The shipped command, with two processes of this machine"
    options = '--config_file', CONFIGS/f'{config}.yaml', '--num_processes', 2
    return [*PYTHON, '-m', 'accelerate.commands.launch', *map(str, options+args)]

def starts(config):
    "Commands that run a script: one without config, one for two processes, two for two machines with a process each"
    if not config: return [PYTHON]
    port = '--main_process_port', free_port()
    if config != 'two_nodes': return [launch(config, *port)]
    return [launch(config, *port, '--machine_rank', machine, '--main_process_ip', '127.0.0.1') for machine in (0,1)]

def job(name, stop=10**9, mini_batch_tokens=2**30, precision='fp32'): # see process_worker.py
    return f'{name},{stop},{mini_batch_tokens},{precision}'

def finish(commands):
    "Runs commands side by side; what each printed"
    pipes = dict(stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=ENV)
    processes = [subprocess.Popen(c, **pipes) for c in commands]
    try: printed = [p.communicate(timeout=300) for p in processes]
    finally:
        for p in processes: p.kill()
    for p,(_,err) in zip(processes, printed): assert p.returncode == 0, err[-6000:]
    return [out for out,_ in printed]

def train_jobs(folder, config, *jobs): finish([[*start, str(WORKER), str(folder), *jobs] for start in starts(config)])

def read_logs(folder):
    "name of the way -> rows of the log"
    columns = ('step','kind','tokens','loss','grad_norm')
    return {p.name: [tuple(row[c] for c in columns) for row in read_log(p)] for p in folder.iterdir() if p.is_dir()}

@pytest.fixture(scope='module')
def runs(tmp_path_factory):
    "A folder with the same 40 steps by every way through one machine, in four launches"
    folder = tmp_path_factory.mktemp('logs')
    in_pieces,bf16 = dict(mini_batch_tokens=1),dict(precision='bf16')
    train_jobs(folder, '', job('one'), job('one bf16', **bf16), job('one > one_node', stop=27))
    shutil.copytree(folder/'one > one_node', folder/'one > fsdp')
    train_jobs(folder, 'one_node', job('one_node'), job('one_node cached', **in_pieces), job('one_node bf16', **bf16),
               job('one > one_node'), job('one_node > one', stop=27))
    train_jobs(folder, 'fsdp', job('fsdp'), job('fsdp cached', **in_pieces), job('fsdp bf16', **bf16),
               job('one > fsdp'), job('fsdp > one', stop=17))
    shutil.copytree(folder/'fsdp > one', folder/'fsdp > one > two_nodes')
    train_jobs(folder, '', job('one_node > one'), job('fsdp > one'))
    return folder

@pytest.fixture(scope='module')
def logs(runs): return read_logs(runs)

@pytest.fixture(scope='module')
def logs_of_two_machines(runs):
    train_jobs(runs, '', job('fsdp > one > two_nodes', stop=27))
    train_jobs(runs, 'two_nodes', job('two_nodes'), job('fsdp > one > two_nodes'))
    return read_logs(runs)

def assert_close(a, b, rel=2e-4, off=2e-5):
    "The same steps, kinds and tokens; losses and gradient norms within rounding"
    assert [x[:3] for x in a] == [x[:3] for x in b]
    for x,y in zip(a, b): assert x[3:] == pytest.approx(y[3:], rel=rel, abs=off, nan_ok=True), (x, y)

def test_one_process_sees_every_kind(logs):
    one = logs['one']
    assert len(one) == 40
    assert len({kind for _,kind,*_ in one}) == 6
    assert 0 < sum(math.isnan(loss) for *_,loss,_ in one) < 9

@pytest.mark.parametrize('way', ['one_node', 'one_node cached', 'fsdp', 'fsdp cached'])
def test_two_processes_give_the_losses_of_one(logs, way): assert_close(logs[way], logs['one'])

@pytest.mark.parametrize('way', ['one_node > one', 'one > one_node', 'one > fsdp', 'fsdp > one'])
def test_checkpoints_go_from_any_number_of_processes_to_any(logs, way): assert_close(logs[way], logs['one'])

@pytest.mark.slow
@pytest.mark.parametrize('way', ['two_nodes', 'fsdp > one > two_nodes'])
def test_two_machines_give_the_losses_of_one(logs_of_two_machines, way):
    assert_close(logs_of_two_machines[way], logs_of_two_machines['one'])

@pytest.mark.parametrize('way', ['one_node bf16', 'fsdp bf16'])
def test_bf16(logs, way): assert_close(logs[way], logs['one bf16'], .1, .02)

@pytest.mark.parametrize('config', ['fsdp', pytest.param('one_node', marks=pytest.mark.slow)])
def test_the_shipped_command(tmp_path, config):
    """From text to a finished model, all stages one after another in the same two processes;
    text, vocabulary and packed tokens are made by one of them"""
    few = dict(steps=4, batch_size=16, max_tokens=48, warmup_steps=1, save_steps=2)
    changes = ','.join(f'{stage}.{k}={v}' for stage in STAGES for k,v in few.items())
    run = tmp_path/'run'
    train = '-m', 'bilingual_embed.cli', 'train', '--scale', 'sample', '--no-scores', '--changes', changes
    folders = '--out', run, '--cache', tmp_path/'cache'
    command = launch(config, '--main_process_port', free_port(), *train, *folders)
    r = subprocess.run(command, capture_output=True, text=True, timeout=500, env=ENV)
    assert r.returncode == 0, r.stderr[-3000:]
    for stage in STAGES:
        assert json.loads((run/stage/'stage.json').read_text())['processes'] == 2
        assert len(read_log(run/stage)) == 4
    assert load(run, device='cpu').encode(['Guten Tag','Good day']).shape == (2,64)

@pytest.mark.parametrize('config', sorted(CONFIGS.glob('*.yaml')), ids=lambda p: p.stem)
def test_launch_configs_are_understood(config):
    "What ships is read by accelerate itself, without an unknown key"
    from accelerate.commands.config.config_args import load_config_from_file
    c = load_config_from_file(str(config))
    assert c.num_processes % c.num_machines == 0
    assert c.distributed_type.value == ('FSDP' if config.stem == 'fsdp' else 'MULTI_GPU')

def test_two_runs_of_one_text(tmp_path):
    "Started side by side, one makes it and the other waits"
    code = '''if True:
        import sys
        from bilingual_embed.core.recipes import recipe
        from bilingual_embed.data.tasks import load_corpus
        print(load_corpus(recipe('sample', 'en-de'), cache=sys.argv[1]).digest)
    '''
    a,b = finish([[sys.executable, '-c', code, str(tmp_path)]]*2)
    assert a.splitlines()[-1] == b.splitlines()[-1]
    assert (a+b).count('read and cleaned') == 1, (a, b)

# ---- encoding in many processes

ENCODE = '''if True: # with torch's threads, and texts long enough to need them
    import multiprocessing, os, sys
    import numpy as np, torch
    from bilingual_embed import load
    torch.set_num_threads(2)
    texts = [f'By noon {i} boats had come round the point, and the wind had turned. '*9 for i in range(16)]
    parts = texts[:3],texts[3:]
    def threads(): return len(os.listdir('/proc/self/task'))
    def in_processes(how):
        with multiprocessing.get_context(how).Pool(2) as pool:
            return pool.map_async(model.encode, parts).get(300)
    def check(got):
        for x,p in zip(got, parts): np.testing.assert_allclose(x, model.encode(p), rtol=0, atol=1e-6)

    before = threads()
    models = [load(folder, device='cpu') for folder in sys.argv[2:]]
    assert threads() == before, f'load started {threads()-before} threads'
    model = models[0]
    if sys.argv[1] == 'fork':
        after_load = in_processes('fork')
        check(after_load)                  # here the parent encodes, for the first time
        after_encode = in_processes('fork')
        check(after_encode)
        assert threads() > before          # of torch, so it was not for want of them
    else: check(in_processes(sys.argv[1]))
    print('answered')
'''

@pytest.fixture(scope='module')
def folders(model_folder, tmp_path_factory):
    "A model in three types and a published one in float16, with weights large enough for several threads"
    tmp = tmp_path_factory.mktemp('folders')
    tok = load_tokenizer(model_folder)
    sizes = dict(vocab_size=320, hidden_size=256, num_hidden_layers=1, num_attention_heads=4, intermediate_size=256)
    torch.manual_seed(0)
    model = JinaBertModel(JinaBertConfig(**sizes, pad_token_id=tok.pad_token_id))
    for dtype in ('float16','bfloat16','float32'):
        save_model(tmp/dtype, model.to(getattr(torch, dtype)))
        tok.save_pretrained(tmp/dtype)
    published.folder(tmp/'code', 'code', tok, sizes=sizes)
    return [str(tmp/name) for name in ('float16','bfloat16','float32','code')]

def encode_in_processes(how, folders):
    env = ENV | dict(OMP_NUM_THREADS='2', TOKENIZERS_PARALLELISM='true')
    command = [*PYTHON, '-c', ENCODE, how, *folders]
    r = subprocess.run(command, capture_output=True, text=True, timeout=500, env=env)
    assert r.stdout == 'answered\n', r.stderr[-3000:]

@pytest.mark.skipif(sys.platform != 'linux', reason="counts threads in /proc, and forks")
def test_forked_processes_encode(folders):
    "After `load`, and after `encode`: a web server that loads the model and answers once before it forks"
    encode_in_processes('fork', folders)

@pytest.mark.slow
@pytest.mark.skipif(sys.platform != 'linux', reason="counts threads in /proc")
@pytest.mark.parametrize('how', ['spawn','forkserver'])
def test_other_processes_encode(folders, how): encode_in_processes(how, folders[:1])

# ---- one encode shared by several processes

SHARED = """
import json, os, signal, socket, sys
from pathlib import Path
import bilingual_embed.inference.embed as e
from bilingual_embed.cli import main
from bilingual_embed.inference.processes import Processes
e._blocks.__defaults__ = (16,10**6)
model = e.load(sys.argv[1])
model.revision
e.load = lambda *a: model
folder = Path(sys.argv[2])

def start(rank, size, port, args, dies_at):
    "A process that kills itself before it hands over the vectors of that round"
    if pid := os.fork(): return pid
    os.environ |= dict(RANK=str(rank), WORLD_SIZE=str(size), MASTER_ADDR='127.0.0.1', MASTER_PORT=str(port))
    collect,rounds = Processes.collect,[]
    def deadly(self, vectors):
        rounds.append(len(vectors))
        if len(rounds) == dies_at: os.kill(os.getpid(), signal.SIGKILL)
        return collect(self, vectors)
    Processes.collect = deadly
    os.dup2(os.open(folder/f'stderr{rank}', os.O_WRONLY|os.O_CREAT|os.O_TRUNC), 2)
    os._exit(main(args))

def encode(out, size=2, dies=None, dies_at=None, more=()):
    "Exit codes of the processes"
    with socket.socket() as s:
        s.bind(('127.0.0.1', 0))
        port = s.getsockname()[1]
    args = ['encode', '--model', sys.argv[1], sys.argv[3], '--field', 'text', '--out', str(out), *more]
    pids = [start(r, size, port, args, dies_at if r == dies else None) for r in range(size)]
    return [os.waitstatus_to_exitcode(os.waitpid(p, 0)[1]) for p in pids]

def rows(out):
    note = Path(f'{out}.part.json')
    return json.loads(note.read_text())['rows'] if note.exists() else 0
def files(d): return {p.name: p.read_bytes() for p in d.iterdir()}

WAYS = dict(int8=('--output-dtype','int8'), parquet=('--keep','id'))
for way,more in WAYS.items():
    whole,broken = folder/f'{way}-whole',folder/f'{way}-broken'
    for d in (whole,broken): d.mkdir()
    name = f"v.{'npy' if way == 'int8' else way}"
    assert encode(whole/name, 1, more=more) == [0]
    assert encode(broken/name, dies=1, dies_at=3, more=more) == [1,-9]
    done = 0 if way == 'int8' else 64                   # 64 rows are too few for ranges: they wait
    assert rows(broken/name) == done and 'same command continues' in (folder/'stderr0').read_text()
    assert encode(broken/name, 3, dies=0, dies_at=2, more=more) == [-9,1,1]
    if way == 'int8':
        assert rows(broken/name) == 0
        assert encode(broken/name, 2, dies=0, dies_at=5, more=more) == [-9,1]
    done = 128 if way == 'int8' else 112
    assert rows(broken/name) == done and not (folder/'stderr1').read_text()
    if way == 'int8':
        codes = encode(broken/name, more=('--truncate-dim','8'))
        assert codes == [2,1] and 'dim was 32, now 8' in (folder/'stderr0').read_text(), codes
    assert encode(broken/name, more=more) == [0,0]
    assert f'continuing after the {done} texts' in (folder/'stderr0').read_text()
    assert files(broken) == files(whole), way
print('the same')
"""

@pytest.mark.skipif(sys.platform != 'linux', reason="forks")
def test_processes_share_an_encode(model_folder, tmp_path):
    "Two and three processes write the file of one; the first or another is killed, and any number continues"
    (tmp_path/'a.csv').write_text('id,text\n' + ''.join(f'{i},{"the boats of text " * (i % 4)}{i}\n' for i in range(200)))
    command = [*PYTHON, '-c', SHARED, model_folder, tmp_path, tmp_path/'a.csv']
    r = subprocess.run([*map(str, command)], capture_output=True, text=True, timeout=300, env=ENV)
    assert r.stdout == 'the same\n', r.stderr[-3000:]

@pytest.mark.slow
def test_the_shipped_command_encodes(model_folder, tmp_path):
    "Started by accelerate; warnings about texts that were cut are counted over all processes, once"
    (tmp_path/'a.txt').write_text(''.join(f'text {i} and more\n' for i in range(5000)))
    def encode(out): return '-m','bilingual_embed.cli','encode','--model',model_folder,tmp_path/'a.txt','--max-length',4,'--out',tmp_path/out
    command = launch('one_node', '--main_process_port', free_port(), *encode('two.npy'))
    for c in (command, [sys.executable, *map(str, encode('one.npy'))]):
        r = subprocess.run(c, capture_output=True, text=True, timeout=500, env=ENV)
        assert r.returncode == 0 and r.stderr.count('5,000 of 5,000 texts are longer') == 1, r.stderr[-3000:]
    assert (tmp_path/'one.npy').read_bytes() == (tmp_path/'two.npy').read_bytes()
