"""Times and memory of the engine against the usual ways, always as a ratio in one run with a check of equality beside it.

    python nbs/experiments/bench.py attention --tokens 8192 --dtype bfloat16
    python nbs/experiments/bench.py encode    --tokens 8192
    python nbs/experiments/bench.py mix
    python nbs/experiments/bench.py train
    python nbs/experiments/bench.py stages
    python nbs/experiments/bench.py plan

Each prints one JSON object a line. Ways are run in turn (A B A B ...), the median counts; peak memory is taken in a process of its own for each way.
`nbs/experiments/engine.ipynb` runs them all and draws the pictures. On a GPU the same commands measure the GPU."""
import argparse, json, math, os, platform, re, subprocess, sys, tempfile, time
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F

CUDA = torch.cuda.is_available()
DEV = 'cuda' if CUDA else 'cpu'

def machine():
    "What the numbers belong to"
    cpu = next((l.split(':')[1].strip() for l in open('/proc/cpuinfo') if l.startswith('model name')), platform.processor()) if Path('/proc/cpuinfo').exists() else platform.processor()
    import transformers
    return dict(device=torch.cuda.get_device_name() if CUDA else cpu, threads=torch.get_num_threads(), torch=torch.__version__, transformers=transformers.__version__, python=platform.python_version())

def wait():
    if CUDA: torch.cuda.synchronize()

def timed(ways, repeats):
    "Median seconds of each way, run in turn; the first round does not count, and a short way runs until 0.05 s are over"
    times,n = {k: [] for k in ways},dict.fromkeys(ways, 1)
    for i in range(repeats+1):
        for k,f in ways.items():
            wait()
            t = time.perf_counter()
            for _ in range(n[k]): f()
            wait()
            times[k].append((time.perf_counter()-t)/n[k])
            if not i: n[k] = max(1, round(.05/times[k][0]))
    return {k: float(np.median(v[1:])) for k,v in times.items()}

def memory(): # bytes of this machine's memory
    return torch.cuda.get_device_properties(0).total_memory if CUDA else os.sysconf('SC_PAGE_SIZE')*os.sysconf('SC_PHYS_PAGES')

def peak(): # bytes this process has held at most
    if CUDA: return torch.cuda.max_memory_allocated()
    return 1024*int(re.search(r'VmHWM:\s+(\d+)', open('/proc/self/status').read())[1])

def memory_of(*args):
    "Peak bytes above the start, of one way in a process of its own"
    r = subprocess.run([sys.executable, __file__, *map(str, args), '--memory'], capture_output=True, text=True, env=os.environ | dict(MALLOC_MMAP_THRESHOLD_='65536'))
    if r.returncode: return None                                   # killed: not enough memory
    return json.loads(r.stdout.splitlines()[-1])['bytes']

# ---- attention

def attention_ways(T, dtype, train, H=12, d=64, ways=None, seed=0):
    from bilingual_embed.model.alibi import alibi_bias, slopes
    from bilingual_embed.model.attention import alibi_attention
    g = torch.Generator().manual_seed(seed)
    x = [torch.randn(1, H, T, d, generator=g).to(DEV, dtype).requires_grad_(train) for _ in range(3)]
    m = slopes(H).to(DEV)
    bias = []
    def full(): # made once, as the published code does
        if not bias: bias.append(alibi_bias(H, T).to(DEV, dtype)[None])
        return bias[0]
    def eager(q, k, v): return ((q@k.transpose(2, 3))*d**-.5 + full()).softmax(-1)@v
    def sdpa(q, k, v): return F.scaled_dot_product_attention(q, k, v, attn_mask=full())
    def ours(q, k, v): return alibi_attention(q, k, v, m)
    def flex():
        from torch.nn.attention.flex_attention import flex_attention
        f = torch.compile(flex_attention)
        mod = lambda s, b, h, i, j: s - m[h]*(i-j).abs()
        return lambda q, k, v: f(q, k, v, score_mod=mod)
    def flash():
        from flash_attn import flash_attn_func
        return lambda q, k, v: flash_attn_func(*(t.transpose(1, 2) for t in (q,k,v)), alibi_slopes=m.float()).transpose(1, 2)
    # two of the bias must fit
    found = dict(ours=ours, sdpa=sdpa, eager=eager) if H*T*T*dtype.itemsize < memory()/2 else dict(ours=ours)
    if CUDA or not train: found['flex'] = flex
    if CUDA and dtype != torch.float32: found['flash_attn'] = flash
    return x, {k: f for k,f in found.items() if ways is None or k in ways}

def attention(a):
    dtype = getattr(torch, a.dtype)
    ways = a.ways.split(',') if a.ways else ['ours','sdpa','eager'] + (['flex','flash_attn'] if CUDA else [])
    x,fs = attention_ways(a.tokens, dtype, a.train, ways=ways)
    for k in ('flex','flash_attn'):
        if k in fs:
            try:
                fs[k] = fs[k]()
                fs[k](*x)
            except Exception as e:
                print(f"{k} left out: {type(e).__name__}", file=sys.stderr)
                fs.pop(k)
    def run(f):
        def go():
            o = f(*x)
            if a.train:
                o.backward(torch.ones_like(o))
                [setattr(t, 'grad', None) for t in x]
        return go
    if a.memory:
        before = peak()
        run(fs[a.ways])()
        print(json.dumps(dict(bytes=peak()-before)))
        return
    from bilingual_embed.model.alibi import slopes
    with torch.set_grad_enabled(a.train): t = timed({k: run(f) for k,f in fs.items()}, a.repeats)
    rows = torch.randperm(a.tokens, generator=torch.Generator().manual_seed(1))[:64]
    q,k,v = (y.detach().double().cpu() for y in x)        # the formula, for some queries
    dist = (rows[:,None]-torch.arange(a.tokens)).abs()
    want = (q[:,:,rows]@k.transpose(2, 3)/8 - slopes(12).double()[:,None,None]*dist).softmax(-1)@v
    with torch.no_grad():
        err = {k: ((f(*x).detach().double().cpu()[:,:,rows]-want).pow(2).mean().sqrt()/want.pow(2).mean().sqrt()).item() for k,f in fs.items()}
    for k in fs:
        mem = memory_of('attention', '--tokens', a.tokens, '--dtype', a.dtype, '--ways', k, *(['--train'] if a.train else [])) if a.with_memory else None
        print(json.dumps(dict(what='attention', way=k, tokens=a.tokens, dtype=a.dtype, train=a.train, seconds=t[k], times_ours=t[k]/t['ours'] if 'ours' in t else None, bytes=mem, error=err[k])), flush=True)

# ---- the whole model

def base_model(layers=12, seed=0):
    from bilingual_embed.model.jina_bert import JinaBertConfig, JinaBertModel
    torch.manual_seed(seed)
    return JinaBertModel(JinaBertConfig(num_hidden_layers=layers, pad_token_id=1, attention_probs_dropout_prob=0.)).eval().to(DEV)

class Published(torch.nn.Module):
    "The same weights, computed as the published modelling code does: a bias buffer for 8192 tokens (or more), sliced, and SDPA with it as the mask"
    def __init__(self, model, longest=8192):
        super().__init__()
        from bilingual_embed.model.alibi import alibi_bias
        self.model = model
        self.register_buffer('alibi', alibi_bias(model.config.num_attention_heads, longest)[None].to(next(model.parameters()).dtype), persistent=False)
    def forward(self, ids, mask):
        m,T = self.model,ids.shape[1]
        H = m.config.num_attention_heads
        x = m.embeddings(ids, None, None)
        # (B,H,T,T)
        bias = self.alibi[:,:,:T,:T] + torch.zeros(mask.shape, dtype=x.dtype, device=x.device).masked_fill(~mask.bool(), torch.finfo(x.dtype).min)[:,None,None]
        for layer in m.encoder.layer:
            s = layer.attention.self
            q,k,v = (f(x).view(*x.shape[:2], H, -1).transpose(1, 2) for f in (s.query,s.key,s.value))
            o = F.scaled_dot_product_attention(q, k, v, attn_mask=bias).transpose(1, 2).reshape(x.shape)
            x = layer.mlp(layer.attention.output(o, x))
        return x

def encode(a):
    from bilingual_embed.model.jina_bert import embed, mean_pool
    model = base_model(a.layers)
    ids = torch.randint(5, 61056, (1, a.tokens), generator=torch.Generator().manual_seed(3)).to(DEV)
    mask = torch.ones_like(ids, dtype=torch.bool)
    def ours(): return embed(model, ids, mask)
    def low():
        with torch.autocast(DEV, torch.bfloat16): return embed(model, ids, mask)
    made = []
    def published():
        if not made: made.append(Published(model, max(8192, a.tokens)))
        return F.normalize(mean_pool(made[0](ids, mask), mask), dim=-1)
    def published_low():
        with torch.autocast(DEV, torch.bfloat16): return published()
    ways = {k: torch.inference_mode()(f) for k,f in dict(ours=ours, published=published, ours_bf16=low, published_bf16=published_low).items() if not a.ways or k in a.ways.split(',')}
    if a.memory:
        before = peak()
        ways[a.ways]()
        print(json.dumps(dict(bytes=peak()-before)))
        return
    t = timed(ways, a.repeats)
    want = ways['published']()
    for k,f in ways.items():
        mem = memory_of('encode', '--tokens', a.tokens, '--ways', k, '--layers', a.layers) if a.with_memory else None
        print(json.dumps(dict(what='encode', way=k, tokens=a.tokens, layers=a.layers, seconds=t[k], times_ours=t[k]/t['ours'], bytes=mem, cosine=(f().double()*want.double()).sum().item(), error=(f()-want).norm().item())), flush=True)

# ---- a realistic mix of lengths

def mix_texts(n, seed=0):
    "Texts of the sample: sentences, questions, titles, passages, and one long text in a hundred"
    from bilingual_embed.data.corpus import SampleSource
    s = SampleSource()
    rows = [x for f in ('passages','sts','long') for p in ('train','test') for x in [(f,r) for r in s.rows(f, p)]]
    short = [r[k][l] for f,r in rows for l in ('en','de') for k in (('title','text','question','distractor') if f == 'passages' else ('sentence1','sentence2') if f == 'sts' else ())]
    long = [r['text'][l] for f,r in rows if f == 'long' for l in ('en','de')]
    g = np.random.default_rng(seed)
    return [long[g.integers(len(long))] if g.random() < .01 else short[g.integers(len(short))] for _ in range(n)]

def mix(a):
    "Texts of many lengths, none longer than --tokens: ours, and sentence-transformers with the published way of computing and with our model inside"
    from sentence_transformers import SentenceTransformer
    from transformers.modeling_outputs import BaseModelOutput
    from bilingual_embed.model.jina_bert import JinaBertConfig, JinaBertModel
    from bilingual_embed.data.tokenizer import train_tokenizer
    from bilingual_embed.inference.embed import Embedder
    from bilingual_embed.inference.sentence_transformers import save_st
    texts = mix_texts(a.texts)
    tok = train_tokenizer(((t, 'en') for t in texts), 2000, ('en',), shrink=True)
    torch.manual_seed(0)
    shape = dict(base={}, small=dict(hidden_size=384, num_hidden_layers=6, num_attention_heads=6, intermediate_size=1536))[a.size]
    model = JinaBertModel(JinaBertConfig(vocab_size=len(tok), pad_token_id=tok.pad_token_id, attention_probs_dropout_prob=0., **shape)).eval().to(DEV)
    embedder = Embedder(model, tok)
    def ours(**kw): return embedder.encode(texts, max_length=a.tokens, **kw)
    with tempfile.TemporaryDirectory() as d:
        folder = str(save_st(d, model, tok))
        def st(published):
            m = SentenceTransformer(folder, device=DEV)
            m.max_seq_length = a.tokens
            if published:
                inner = m[0].auto_model if hasattr(m[0], 'auto_model') else m[0].model
                theirs = Published(inner, 8192)
                inner.forward = lambda input_ids=None, attention_mask=None, **kw: BaseModelOutput(last_hidden_state=theirs(input_ids, attention_mask))
            return lambda: m.encode(texts, show_progress_bar=False)
        made = dict(ours=lambda: ours, ours_bf16=lambda: lambda: ours(dtype='bfloat16'), st_published=lambda: st(True), st_our_model=lambda: st(False))
        ways = {k: f() for k,f in made.items() if not a.ways or k in a.ways.split(',')}
        if a.memory:
            before = peak()
            ways[a.ways]()
            print(json.dumps(dict(bytes=peak()-before)))
            return
        t = timed(ways, a.repeats)
        want = ours()
        n = sum(min(len(x), a.tokens) for x in tok(texts)['input_ids'])
        for k,f in ways.items():
            mem = memory_of('mix', '--tokens', a.tokens, '--texts', a.texts, '--size', a.size, '--ways', k) if a.with_memory else None
            print(json.dumps(dict(what='mix', way=k, size=a.size, tokens=a.tokens, texts=len(texts), real_tokens=n, seconds=t[k], texts_per_s=len(texts)/t[k], times_ours=t[k]/t['ours'] if 'ours' in t else None, bytes=mem, cosine=float((np.asarray(f())*want).sum(1).min()))), flush=True)

# ---- training

def train(a):
    "MLM: our loop's step on packed rows, against transformers' BERT of the same size with padding in its Trainer"
    from transformers import BertConfig, BertForMaskedLM, DataCollatorForLanguageModeling, Trainer, TrainingArguments
    from bilingual_embed.model.jina_bert import JinaBertConfig, JinaBertForMaskedLM
    from bilingual_embed.core.records import Task
    from bilingual_embed.core.recipes import recipe
    from bilingual_embed.data.tokenizer import train_tokenizer
    from bilingual_embed.data.batches import Batcher, pack
    from bilingual_embed.train.loop import read_log, train as loop
    r = recipe('cpu')
    texts = mix_texts(4000, 1)
    T = r.pretrain.max_tokens
    tok = train_tokenizer(((t, 'en') for t in texts), 8000, ('en',), shrink=True)
    V = r.tokenizer.vocab_size
    shape = {f: getattr(r.model, f) for f in r.model.__dataclass_fields__ if f != 'qk_norm'}
    d = Path(tempfile.mkdtemp())
    rows = 32
    def ours():
        torch.manual_seed(0)
        model = JinaBertForMaskedLM(JinaBertConfig(vocab_size=V, pad_token_id=tok.pad_token_id, **shape))
        s = recipe('cpu', pretrain__steps=a.repeats*4, pretrain__batch_size=rows, pretrain__weights=dict(mlm=1.)).pretrain
        loop(model, [Task('docs','mlm',pack(texts, tok, d/'t.tokens', T))], tok, s, Path(tempfile.mkdtemp(dir=d)), 'bench', progress=0)
        log = read_log(sorted(d.glob('tmp*'), key=lambda p: p.stat().st_mtime)[-1])[2:]
        return sum(x['tokens'] for x in log)/sum(x['seconds'] for x in log)
    def bert(): # the usual way: one text a row, cut and padded, bf16 as ours
        torch.manual_seed(0)
        model = BertForMaskedLM(BertConfig(vocab_size=V, pad_token_id=tok.pad_token_id, **{k: v for k,v in shape.items() if k != 'max_position_embeddings'}, max_position_embeddings=T))
        ids = [dict(input_ids=x) for x in tok(texts, truncation=True, max_length=T)['input_ids']]
        n = a.repeats*4
        args = TrainingArguments(str(d/'bert'), per_device_train_batch_size=rows, max_steps=n, bf16=True, use_cpu=not CUDA, report_to=[], save_strategy='no', logging_strategy='no', disable_tqdm=True)
        real = []
        class Count(DataCollatorForLanguageModeling):
            def torch_call(self, x):
                b = super().torch_call(x)
                real.append(int(b['attention_mask'].sum()))
                return b
        t = Trainer(model, args, train_dataset=ids, data_collator=Count(tok, mlm_probability=.3))
        s = time.perf_counter()
        t.train()
        return sum(real[:n])/(time.perf_counter()-s)
    out = [(ours(), bert()) for _ in range(3)]
    x,y = np.median(out, 0)
    print(json.dumps(dict(what='train', ours=x, bert=y, ratio=x/y, rounds=[a/b for a,b in out], layers=shape['num_hidden_layers'], width=shape['hidden_size'], tokens=T)), flush=True)

# ---- the three stages: how much of the machine they use, and what limits them

def product_rate(dtype, n=2048, d=None): # operations a second of a matrix product of this machine, the best of several
    x,y = (torch.randn(n, d or n, device=DEV).to(dtype) for _ in range(2))
    best = math.inf
    for _ in range(8):
        wait()
        t = time.perf_counter()
        F.linear(x, y)
        wait()
        best = min(best, time.perf_counter()-t)
    return 2*n*n*(d or n)/best

PARTS = dict(products=('mm','linear','addmm','matmul','convolution'), attention=('scaled_dot_product','flash_attention','softmax','flex'), optimiser=('adam','_foreach_','clip','norm_except','linalg_vector_norm'), # by a part of the operation's name, in this order
             norms=('layer_norm','norm'), gate=('gelu',), loss=('log_softmax','nll_loss','logsumexp','cross_entropy'), embedding=('embedding','index','gather','scatter'), moving=('copy_','cat','to_copy','clone','empty','zero_','fill_','contiguous'))
def part_of(name): return next((p for p,xs in PARTS.items() if any(x in name.lower() for x in xs)), 'elementwise')

def through_the_loop(r, names, quick=False):
    "Stages of a recipe on the bundled text: rows of tokens a second, share of the machine's matrix-product rate, time spent waiting for batches, and time by kind of operation"
    from dataclasses import replace
    from torch.profiler import ProfilerActivity, profile
    import bilingual_embed.train.loop as loop
    from bilingual_embed.data.tasks import load_corpus
    from bilingual_embed.train.loop import read_log
    from bilingual_embed.train.stages import pretrain, start_run, tune_multitask, tune_pairs
    from bilingual_embed.train.plan import flops_per_token
    tmp = Path(tempfile.mkdtemp())
    rate = product_rate(torch.bfloat16 if r.pretrain.precision == 'bf16' else torch.float32)
    skip,last = 4,0 if quick else 8
    run = start_run(r, load_corpus(r, cache=tmp/'text', log=lambda s: None), tmp/'run')
    waited,batches,profiles = [],[],[]
    prefetch = loop.prefetch
    def timed_ahead(*args): # the seconds the loop waits for a batch; a profile of the last few steps
        p = profile(activities=[ProfilerActivity.CPU] + [ProfilerActivity.CUDA]*CUDA)
        it = prefetch(*args)
        for i in range(args[2]-args[1]):
            t = time.perf_counter()
            x = next(it)
            b = x[1]
            waited.append(time.perf_counter()-t)
            batches.append((b.kind, b.n_tokens, sum(t.ids.numel() for t in b.tokens), sum(len(t.ids) for t in b.tokens)))
            if last and i == args[2]-last+1: p.start()
            yield x
            if last and i == args[2]-2:
                p.stop()
                profiles.append(p.key_averages())
    loop.prefetch = timed_ahead
    try:
        for stage in names:
            waited.clear()
            batches.clear()
            profiles.clear()
            s = getattr(r, stage)
            dict(pretrain=pretrain, pairs=tune_pairs, multitask=tune_multitask)[stage](run)
            log = read_log(run.folder/stage)
            end = len(log)-last
            log = log[skip:end]
            t = sum(x['seconds'] for x in log)
            tokens = sum(x['tokens'] for x in log)
            # attention counted at the mean length
            flops = sum(real*flops_per_token(r.model, len(run.tokenizer), replace(s, max_tokens=max(1, round(real/rows))), kind == 'mlm') for kind,real,_,rows in batches[skip:end])
            used = {}
            for e in profiles[0] if profiles else ():
                used[part_of(e.key)] = used.get(part_of(e.key), 0) + (e.self_device_time_total if CUDA else e.self_cpu_time_total)
            yield dict(stage=stage, tokens_per_s=tokens/t, mfu=flops/t/rate, rate=rate, waited=sum(waited[skip:end])/t, real=sum(x[1] for x in batches)/sum(x[2] for x in batches)) | {f'share_{k}': v/sum(used.values()) for k,v in used.items()}
    finally: loop.prefetch = prefetch

def short(scale, n, **over): # a recipe on the bundled text with n steps a stage
    from bilingual_embed.core.recipes import recipe
    return recipe(scale, text__source='sample', align__steps=0, tokenizer__chars=10**6, **{f'{st}__{k}': v for st in ('pretrain','pairs','multitask') for k,v in dict(steps=n, save_steps=10**6).items()}, **over)

def stages(a):
    for row in through_the_loop(short(a.scale, 12+4*a.repeats), ('pretrain','pairs','multitask')):
        print(json.dumps(dict(what='stages', scale=a.scale, **row)), flush=True)

def plan(a):
    "The planner's tokens a second, from one and two layers in a few seconds, beside those of the real loop"
    from bilingual_embed.train.plan import plan as planned
    for size,over in dict(cpu={}, wide=dict(model__hidden_size=512, model__num_attention_heads=8, model__intermediate_size=2048), deep=dict(model__num_hidden_layers=10)).items():
        r = short('cpu', 4+3*a.repeats, multitask__weights=(('pairs',1.),), pretrain__weights=(('mlm',1.),), pretrain__batch_size=32, pairs__batch_size=64, **over)
        for row in through_the_loop(r, ('pretrain','pairs'), quick=True):
            # the planner is told how full the real batches were
            fill = row['real']
            guess = next(x for x in planned(r, fill=fill) if x['stage'] == row['stage'])
            print(json.dumps(dict(what='plan', size=size, stage=row['stage'], predicted=guess['tokens_per_s'], measured=row['tokens_per_s'], ratio=guess['tokens_per_s']/row['tokens_per_s'])), flush=True)

if __name__ == '__main__':
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument('what', choices=('attention','encode','mix','train','stages','plan','machine'))
    p.add_argument('--tokens', type=int, default=8192)
    p.add_argument('--dtype', default='float32', choices=('float32','bfloat16','float16'))
    p.add_argument('--train', action='store_true', help='forward and backward')
    p.add_argument('--ways', default='')
    p.add_argument('--repeats', type=int, default=3)
    p.add_argument('--layers', type=int, default=12)
    p.add_argument('--texts', type=int, default=400)
    p.add_argument('--size', default='base', choices=('base','small'))
    p.add_argument('--scale', default='cpu')
    p.add_argument('--memory', action='store_true', help=argparse.SUPPRESS)
    p.add_argument('--with-memory', action='store_true', help='peak memory too, in further processes')
    a = p.parse_args()
    if a.what == 'machine': print(json.dumps(machine()))
    else: dict(attention=attention, encode=encode, mix=mix, train=train, stages=stages, plan=plan)[a.what](a)
