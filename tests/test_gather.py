"Every loss over two real processes, with equal and unequal parts: the gradients of one process on the same batch"
import gc, os, time

import pytest
import torch, torch.distributed as dist, torch.multiprocessing as mp, torch.nn.functional as F

from bilingual_embed.losses.infonce import all_gather_grad, info_nce
from bilingual_embed.losses.tuples import draw_tuples, tuple_loss
from bilingual_embed.losses.pearson import ConstantScores, cosent_loss, mse_loss, pearson_loss
from bilingual_embed.losses.distillation import distillation_loss

B,K,D = 12,3,16   # global batch
CUTS = dict(equal=(0,6,12), unequal=(0,5,12))

def batch():
    "Features of the global batch; the same on every process"
    g = torch.Generator().manual_seed(0)
    x = dict(q=torch.randn(B,D,generator=g), p=torch.randn(B,D,generator=g), n=torch.randn(B,K,D,generator=g))
    x['present'] = torch.rand(B,K,generator=g) < .7
    x['ids'] = torch.randint(0,20,(B,2+K),generator=g)
    x['score'] = torch.rand(B,generator=g)
    texts = torch.arange(4).repeat_interleave(12)
    x['t'] = draw_tuples(texts, B, seed=0)
    x['y'] = texts[x['t']]
    x['texts'] = torch.randn(48,D,generator=g)
    return x

def losses(model, x):
    "Each loss of the project on the rows in `x`; the model runs once a loss, as in training"
    b,i = len(x['q']),x['ids']
    def e(*parts): return F.normalize(model(torch.cat([t.reshape(-1,D) for t in parts])), dim=-1)
    def with_negatives(**kw):
        z = e(x['q'], x['p'], x['n'])
        return info_nce(z[:b], z[b:2*b], z[2*b:].view(b,K,-1), x['present'], **kw)
    def pairs(**kw):
        z = e(x['q'], x['p'])
        return info_nce(z[:b], z[b:], **kw)
    def scored(f):
        z = e(x['q'], x['p'])
        return f(z[:b], z[b:], x['score'])

    yield 'info_nce', with_negatives
    yield 'info_nce, false negatives masked', lambda: with_negatives(margin=.2, ids=(i[:,0],i[:,1],i[:,2:]))
    yield 'pairs only', pairs
    yield 'one way', lambda: pairs(both_ways=False)
    yield 'tuple_loss', lambda: tuple_loss(e(x['texts'][x['t']]).view(b,9,-1), x['y'])
    for f in (pearson_loss, mse_loss, cosent_loss): yield f.__name__, lambda f=f: scored(f)
    yield 'distillation_loss', lambda: distillation_loss(e(x['q']), F.normalize(x['p'][:,:8], dim=-1))

def gradients(model, net, x):
    out = {}
    for name,f in losses(model, x):
        net.zero_grad()
        loss = f()
        loss.backward()
        out[name] = (loss.detach(), torch.cat([p.grad.flatten() for p in net.parameters()]))
    return out

def net():
    torch.manual_seed(1)
    return torch.nn.Linear(D, 8)

def worker(rank, folder):
    torch.set_num_threads(1)
    dist.init_process_group('gloo', init_method=f'file://{folder}/store', rank=rank, world_size=2)
    assert dist.get_world_size() == 2
    for cut in CUTS: torch.save(part(rank, cut), f'{folder}/{cut}-{rank}.pt')
    gc.collect()
    # the wrapper must go before the group: a gloo group freed from its destructor can wait for itself for ever
    dist.barrier()
    dist.destroy_process_group()

def part(rank, cut):
    "What one process of two computes on its rows of the global batch"
    lo,hi = CUTS[cut][rank:rank+2]
    x = {k: v if k == 'texts' else v[lo:hi] for k,v in batch().items()}
    m = torch.nn.parallel.DistributedDataParallel(net())
    out = gradients(m, m.module, x)
    rows,start,world = all_gather_grad(torch.arange(lo, hi))
    a,b = F.normalize(x['q'], dim=-1), F.normalize(x['p'], dim=-1)
    try:
        pearson_loss(a, b, torch.ones(hi-lo))
        refused = False
    except ConstantScores as e: refused = 'all 12 scores in this batch are 1' in str(e)
    pearson_loss(a, b, torch.full((hi-lo,), float(rank)))       # constant on each process, but not in the global batch
    return dict(out=out, rows=rows, start=start, world=world, refused=refused)

@pytest.fixture(scope='module')
def two(tmp_path_factory):
    "What two processes computed, for each cut of the batch"
    folder = tmp_path_factory.mktemp('two')
    with pytest.MonkeyPatch.context() as m:
        m.setenv('OMP_NUM_THREADS', '1')
        if os.path.exists('/sys/class/net/lo'): m.setenv('GLOO_SOCKET_IFNAME', 'lo')
        run,end = mp.spawn(worker, (str(folder),), nprocs=2, join=False), time.monotonic() + 240
        while not run.join(timeout=5):
            if time.monotonic() > end:
                for p in run.processes: p.kill()
                pytest.fail("two processes did not finish in 240 s: they wait for each other")
    return {cut: [torch.load(folder/f'{cut}-{r}.pt') for r in range(2)] for cut in CUTS}

@pytest.mark.parametrize('cut', CUTS)
def test_two_processes_equal_one(two, cut):
    m = net()
    one = gradients(m, m, batch())
    for r,g in enumerate(two[cut]):
        assert g['world'] == 2 and g['start'] == CUTS[cut][r] and g['rows'].tolist() == list(range(B)) and g['refused']
        for name,(_,grad) in one.items():
            size = grad.abs().max()
            assert size > 1e-3, name
            off = (g['out'][name][1] - grad).abs().max()/size
            assert off < 1e-6, f"{name}, process {r}: gradient off by {off:.1e} of its largest element"
    for name,(loss,_) in one.items():   # what the processes report averages to the loss of the whole
        mean = sum(g['out'][name][0] for g in two[cut])/2
        assert abs(mean-loss) <= 1e-6 + 1e-5*abs(loss), name

def test_one_process_gathers_nothing():
    x = torch.randn(3,2)
    assert all_gather_grad(x) == (x,0,1) and all_gather_grad(x)[0] is x
