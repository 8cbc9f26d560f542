"""Times and memory of the engine against the usual ways: a ratio within one run, with a check of equality beside it.

    python nbs/experiments/bench.py attention --tokens 8192 --dtype bfloat16
    python nbs/experiments/bench.py encode    --tokens 8192
    python nbs/experiments/bench.py mix
    python nbs/experiments/bench.py serve
    python nbs/experiments/bench.py train
    python nbs/experiments/bench.py stages
    python nbs/experiments/bench.py plan
    python nbs/experiments/bench.py rate

Each prints one JSON object a line. The ways take turns (A B A B ...) and the median counts; peak memory is measured in
a separate process for each way. `nbs/experiments/engine.ipynb` runs them all and draws the pictures. On a GPU the same
commands measure the GPU.
"""
import argparse, json, math, os, platform, subprocess, sys, tempfile, time
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np, torch
import torch.nn.functional as F

from bilingual_embed.model.alibi import alibi_bias, slopes
from bilingual_embed.model.attention import alibi_attention
from bilingual_embed.model.jina_bert import embed, JinaBertConfig, JinaBertForMaskedLM, JinaBertModel, mean_pool
from bilingual_embed.model.unpad import packed_attention, packing_for
from bilingual_embed.core.io import peak_memory
from bilingual_embed.core.records import Task
from bilingual_embed.core.recipes import recipe
from bilingual_embed.data.tokenizer import train_tokenizer
from bilingual_embed.data.batches import pack
from bilingual_embed.data.corpus import SampleSource
from bilingual_embed.data.tasks import load_corpus
from bilingual_embed.inference.embed import Embedder, load, shipped
from bilingual_embed.inference.sentence_transformers import save_st
from bilingual_embed.train import loop
from bilingual_embed.train.plan import flops_per_token, plan as planned
from bilingual_embed.train.stages import pretrain, start_run, tune_multitask, tune_pairs

CUDA = torch.cuda.is_available()
DEVICE = 'cuda' if CUDA else 'cpu'

def print_row(**row): print(json.dumps(row), flush=True)

def device_and_threads():
    return dict(device=torch.cuda.get_device_name() if CUDA else processor_name(), threads=torch.get_num_threads())

def machine(args):
    "What the numbers belong to"
    import transformers
    print_row(**device_and_threads(), torch=torch.__version__, transformers=transformers.__version__,
              python=platform.python_version())

def processor_name():
    info = Path('/proc/cpuinfo')
    lines = info.read_text().splitlines() if info.exists() else []
    return next((l.split(':')[1].strip() for l in lines if l.startswith('model name')), platform.processor())

# ---- measuring

def synchronize():
    if CUDA: torch.cuda.synchronize()

def seconds_in_turns(ways, repeats):
    "Seconds of each way, round by round, taking turns; the first does not count, and a fast way is repeated for 0.05 s"
    times = {name: [] for name in ways}
    calls = dict.fromkeys(ways, 1)
    for i in range(repeats+1):
        for name,f in ways.items():
            synchronize()
            start = time.perf_counter()
            for _ in range(calls[name]): f()
            synchronize()
            times[name].append((time.perf_counter()-start)/calls[name])
            if i == 0: calls[name] = max(1, round(.05/times[name][0]))
    return {name: t[1:] for name,t in times.items()}

def median_seconds(ways, repeats):
    "The median round of each way"
    return {name: float(np.median(t)) for name,t in seconds_in_turns(ways, repeats).items()}

def seconds_of_pairs(a, b, repeats, total=20):
    "(rounds,2) seconds of two ways, call by call, now one first and now the other, for `total` seconds or `repeats`"
    def seconds(f):
        start = time.perf_counter()
        f()
        synchronize()
        return time.perf_counter()-start
    rounds,start = [],time.perf_counter()
    while len(rounds) <= repeats or time.perf_counter()-start < total:
        one,other = (a, b) if len(rounds)%2 else (b, a)
        t = seconds(one),seconds(other)
        rounds.append(t if one is a else t[::-1])
    return np.array(rounds[1:])         # the first warms up

def times(seconds, way): # as the fields of a row
    return dict(seconds=seconds[way], times_ours=seconds[way]/seconds['ours'] if 'ours' in seconds else None)

def total_memory(): # bytes of this machine
    if CUDA: return torch.cuda.get_device_properties(0).total_memory
    return os.sysconf('SC_PAGE_SIZE')*os.sysconf('SC_PHYS_PAGES')

def peak_bytes(reset=False): # of this process; reset: let the peak fall back to what is in use now
    if not CUDA: return peak_memory(reset) or peak_memory()
    if reset: torch.cuda.reset_peak_memory_stats()
    return torch.cuda.max_memory_allocated()

def print_peak(f):
    "What this process is for when it is called with --memory"
    before = peak_bytes(reset=True)
    f()
    print_row(bytes=peak_bytes()-before)

def memory_of_way(args, way):
    "Peak bytes above the start, of one way in a process of its own; None if it was killed"
    if not args.with_memory: return None
    options = [f'--{name}={getattr(args, name)}' for name in ('tokens','dtype','layers','texts','size')]
    if args.train: options.append('--train')
    env = os.environ | dict(MALLOC_MMAP_THRESHOLD_='65536')
    command = [sys.executable, __file__, args.what, *options, f'--ways={way}', '--memory']
    r = subprocess.run(command, capture_output=True, text=True, env=env)
    return None if r.returncode else json.loads(r.stdout.splitlines()[-1])['bytes']

def is_wanted(args, way): return not args.ways or way in args.ways.split(',')

# ---- attention

HEADS,HEAD_DIM = 12,64

def attention_inputs(args, dtype, seed=0):
    generator = torch.Generator().manual_seed(seed)
    def one(): return torch.randn(1, HEADS, args.tokens, HEAD_DIM, generator=generator).to(DEVICE, dtype)
    return [one().requires_grad_(args.train) for _ in range(3)]

def attention_ways(args, dtype):
    "Functions of queries, keys and values by name: ours, PyTorch's fused one with the whole bias, the textbook formula"
    m = slopes(HEADS).to(DEVICE)
    made = []
    def full_bias(): # made once, as the published code does
        if not made: made.append(alibi_bias(HEADS, args.tokens).to(DEVICE, dtype)[None])
        return made[0]
    packing = packing_for(None, torch.empty(1, args.tokens, device=DEVICE))    # as the model does: always on a GPU
    n_filled = len(packing.positions)-args.tokens if packing else 0
    def ours(q, k, v):
        if packing is None: return alibi_attention(q, k, v, m)
        q,k,v = (F.pad(x, (0, 0, 0, n_filled)) for x in (q, k, v))
        return packed_attention(q, k, v, m, packing)[:,:,:args.tokens]
    def sdpa(q, k, v): return F.scaled_dot_product_attention(q, k, v, attn_mask=full_bias())
    def eager(q, k, v): return ((q@k.transpose(2, 3))*HEAD_DIM**-.5 + full_bias()).softmax(-1)@v

    ways = dict(ours=ours)
    bias_bytes = HEADS*args.tokens**2*dtype.itemsize
    if 2*bias_bytes < total_memory(): ways |= dict(sdpa=sdpa, eager=eager)
    return ways | compiled_ways(args, dtype, m)

def compiled_ways(args, dtype, m):
    "FlexAttention without windows and, where it is installed, flash-attn: on a GPU, or by name"
    def flex():
        from torch.nn.attention.flex_attention import flex_attention
        compiled = torch.compile(flex_attention)
        def penalty(score, b, h, i, j): return score - m[h]*(i-j).abs()
        return lambda q, k, v: compiled(q, k, v, score_mod=penalty)
    def flash_attn():
        from flash_attn import flash_attn_func
        def run(q, k, v):
            out = flash_attn_func(*(x.transpose(1, 2) for x in (q, k, v)), alibi_slopes=m.float())
            return out.transpose(1, 2)
        return run

    by_name = args.ways.split(',')
    makers = {}
    if CUDA or ('flex' in by_name and not args.train): makers['flex'] = flex
    if CUDA and dtype != torch.float32: makers['flash_attn'] = flash_attn
    ways = {}
    for name,make in makers.items():
        try:
            ways[name] = make()
            ways[name](*attention_inputs(args, dtype))
        except Exception as e:
            print(f"{name} left out: {type(e).__name__}", file=sys.stderr)
            ways.pop(name, None)
    return ways

def attention_reference(q, k, v, rows):
    "The formula in float64, for some of the queries"
    q,k,v = (x.detach().double().cpu() for x in (q, k, v))
    distance = (rows[:,None] - torch.arange(k.shape[2])).abs()
    scores = q[:,:,rows]@k.transpose(2, 3)/HEAD_DIM**.5
    return (scores - slopes(HEADS).double()[:,None,None]*distance).softmax(-1)@v

def attention(args):
    dtype = getattr(torch, args.dtype)
    inputs = attention_inputs(args, dtype)
    ways = {name: f for name,f in attention_ways(args, dtype).items() if is_wanted(args, name)}
    def runner(f):
        def run():
            out = f(*inputs)
            if not args.train: return
            out.backward(torch.ones_like(out))
            for x in inputs: x.grad = None
        return run
    if args.memory: return print_peak(runner(ways[args.ways]))

    with torch.set_grad_enabled(args.train):
        seconds = median_seconds({name: runner(f) for name,f in ways.items()}, args.repeats)
    rows = torch.randperm(args.tokens, generator=torch.Generator().manual_seed(1))[:64]
    want = attention_reference(*inputs, rows)
    def relative_error(f):
        with torch.no_grad(): got = f(*inputs).double().cpu()[:,:,rows]
        return ((got-want).pow(2).mean().sqrt()/want.pow(2).mean().sqrt()).item()
    for name,f in ways.items():
        print_row(what='attention', way=name, tokens=args.tokens, dtype=args.dtype, train=args.train,
                  **times(seconds, name), bytes=memory_of_way(args, name), error=relative_error(f))

# ---- the whole model, one text

def base_model(layers=12, seed=0):
    torch.manual_seed(seed)
    config = JinaBertConfig(num_hidden_layers=layers, pad_token_id=1, attention_probs_dropout_prob=0.)
    return JinaBertModel(config).eval().to(DEVICE)

class Published(torch.nn.Module):
    "The same weights, computed as the published code does: SDPA whose mask is cut from a bias for 8192 tokens"
    def __init__(self, model, longest=8192):
        super().__init__()
        self.model = model
        dtype = next(model.parameters()).dtype
        bias = alibi_bias(model.config.num_attention_heads, longest)[None].to(dtype)
        self.register_buffer('alibi', bias, persistent=False)

    def forward(self, ids, mask):
        n_heads,n_tokens = self.model.config.num_attention_heads,ids.shape[1]
        x = self.model.embeddings(ids, None, None)
        padding = torch.zeros(mask.shape, dtype=x.dtype, device=x.device)
        padding = padding.masked_fill(~mask.bool(), torch.finfo(x.dtype).min)
        bias = self.alibi[:,:,:n_tokens,:n_tokens] + padding[:,None,None]     # (B,H,T,T)
        for layer in self.model.encoder.layer:
            s = layer.attention.self
            q,k,v = (f(x).view(*x.shape[:2], n_heads, -1).transpose(1, 2) for f in (s.query, s.key, s.value))
            out = F.scaled_dot_product_attention(q, k, v, attn_mask=bias).transpose(1, 2).reshape(x.shape)
            x = layer.mlp(layer.attention.output(out, x))
        return x

def encode_ways(args):
    "One text of random tokens through the base model, ours and the published way, in float32 and bfloat16"
    model = base_model(args.layers)
    ids = torch.randint(5, 61056, (1, args.tokens), generator=torch.Generator().manual_seed(3)).to(DEVICE)
    mask = torch.ones_like(ids, dtype=torch.bool)
    made = []
    def ours(): return embed(model, ids, mask)
    def published():
        if not made: made.append(Published(model, max(8192, args.tokens)))
        return F.normalize(mean_pool(made[0](ids, mask), mask), dim=-1)
    def in_bf16(f):
        def run():
            with torch.autocast(DEVICE, torch.bfloat16): return f()
        return run
    ways = dict(ours=ours, published=published, ours_bf16=in_bf16(ours), published_bf16=in_bf16(published))
    return {name: torch.inference_mode()(f) for name,f in ways.items() if is_wanted(args, name)}

def encode(args):
    ways = encode_ways(args)
    if args.memory: return print_peak(ways[args.ways])
    seconds = median_seconds(ways, args.repeats)
    want = ways['published']()
    dtypes = {name: torch.bfloat16 if name.endswith('bf16') else torch.float32 for name in ways}
    rates = {dtype: matmul_rate(dtype) for dtype in set(dtypes.values())}
    for name,f in ways.items():
        got = f()
        equal = dict(cosine=(got.double()*want.double()).sum().item(), error=(got-want).norm().item())
        print_row(what='encode', way=name, tokens=args.tokens, layers=args.layers, **times(seconds, name),
                  mfu=layer_products(args)/seconds[name]/rates[dtypes[name]], bytes=memory_of_way(args, name), **equal)

def layer_products(args):
    "Operations of the layers' matrix products for one text; attention's are not counted, so windows cannot flatter it"
    D,I = 768,3072
    return args.tokens*args.layers*2*(4*D*D + 3*D*I)

# ---- many texts of many lengths

def mixed_texts(n, seed=0):
    "Texts of the sample: sentences, questions, titles, passages, and one long text in a hundred"
    sample = SampleSource()
    def rows(file): return [r for part in ('train','test') for r in sample.rows(file, part)]
    def texts(file, *fields): return [r[f][l] for r in rows(file) for l in ('en','de') for f in fields]
    short = texts('passages', 'title', 'text', 'question', 'distractor') + texts('sts', 'sentence1', 'sentence2')
    long = texts('long', 'text')
    rng = np.random.default_rng(seed)
    def draw():
        pool = long if rng.random() < .01 else short
        return pool[rng.integers(len(pool))]
    return [draw() for _ in range(n)]

SMALL_SHAPE = dict(hidden_size=384, num_hidden_layers=6, num_attention_heads=6, intermediate_size=1536)

def mix_model(args, texts):
    tok = train_tokenizer(((t, 'en') for t in texts), 2000, ('en',), shrink=True)
    torch.manual_seed(0)
    shape = SMALL_SHAPE if args.size == 'small' else {}
    shape = shape | dict(vocab_size=len(tok), pad_token_id=tok.pad_token_id)
    config = JinaBertConfig(attention_probs_dropout_prob=0., **shape)
    return JinaBertModel(config).eval().to(DEVICE), tok

def sentence_transformer(folder, max_tokens, published):
    "The folder in sentence-transformers, with our model inside or with the published way of computing"
    from sentence_transformers import SentenceTransformer
    from transformers.modeling_outputs import BaseModelOutput
    st = SentenceTransformer(folder, device=DEVICE)
    st.max_seq_length = max_tokens
    if published:
        inner = st[0].auto_model if hasattr(st[0], 'auto_model') else st[0].model
        compute = Published(inner, 8192)
        def forward(input_ids=None, attention_mask=None, **kw):
            return BaseModelOutput(last_hidden_state=compute(input_ids, attention_mask))
        inner.forward = forward
    return st

def mix(args):
    "Texts of many lengths, none longer than --tokens: ours, and sentence-transformers computing either way"
    texts = mixed_texts(args.texts)
    model,tok = mix_model(args, texts)
    embedder = Embedder(model, tok)
    def ours(**kw): return embedder.encode(texts, max_length=args.tokens, **kw)
    with tempfile.TemporaryDirectory() as d:
        save_st(d, model, tok)
        ways = {}
        if is_wanted(args, 'ours'): ways['ours'] = ours
        if is_wanted(args, 'ours_bf16'): ways['ours_bf16'] = partial(ours, dtype='bfloat16')
        for name,published in dict(st_published=True, st_our_model=False).items():
            if not is_wanted(args, name): continue
            st = sentence_transformer(d, args.tokens, published)
            ways[name] = partial(st.encode, texts, show_progress_bar=False)
        if args.memory: return print_peak(ways[args.ways])

        seconds = median_seconds(ways, args.repeats)
        want = ours()
        real_tokens = sum(min(len(ids), args.tokens) for ids in tok(texts)['input_ids'])
        for name,f in ways.items():
            cosines = (np.asarray(f())*want).sum(1)
            size = dict(size=args.size, tokens=args.tokens, texts=len(texts), real_tokens=real_tokens)
            print_row(what='mix', way=name, **size, **times(seconds, name), texts_per_s=len(texts)/seconds[name],
                      bytes=memory_of_way(args, name), cosine=float(cosines.min()))

# ---- one text at a time, and many

BATCH_SIZES = 1,8,64,512
def texts_of_words(texts, n, least, most, seed=0):
    "Texts of the sample, cut to a number of words drawn from a range"
    words = [w for t in texts if len(w := t.split()) >= least]
    rng = np.random.default_rng(seed)
    def draw(): return words[rng.integers(len(words))][:rng.integers(least, most+1)]
    return [' '.join(draw()) for _ in range(n)]

def short_and_long(n):
    "Sentences of about 10 words, and texts of about 400 tokens, in both languages"
    sample = SampleSource()
    def texts(file, *fields):
        rows = [r for part in ('train','test') for r in sample.rows(file, part)]
        return [r[f][l] for r in rows for l in ('en','de') for f in fields]
    short = texts_of_words(texts('sts', 'sentence1', 'sentence2'), n, 8, 12)
    return dict(short=short, long=texts_of_words(texts('long', 'text'), n, 220, 360))

def serve(args):
    "A model that ships, in batches of every size: `encode`, and sentence-transformers in float32 with our model inside"
    from sentence_transformers import SentenceTransformer
    folder = shipped()['en-de']
    model = load(folder, DEVICE)
    st = SentenceTransformer(str(folder), device=DEVICE, model_kwargs=dict(dtype='float32'))
    for length,texts in short_and_long(max(BATCH_SIZES)).items():
        for n in BATCH_SIZES:
            batch = texts[0] if n == 1 else texts[:n]         # a single text as a string, as a server gets it
            ours,theirs = partial(model.encode, batch),partial(st.encode, batch, show_progress_bar=False)
            seconds = seconds_of_pairs(ours, theirs, args.repeats)
            a,b = np.median(seconds, 0)
            tokens = sum(map(len, model.tokenizer(texts[:n])['input_ids']))/n
            print_row(what='serve', length=length, texts=n, tokens=tokens, texts_per_s=n/a, st_texts_per_s=n/b,
                      times_st=b/a, rounds=len(seconds), error=float(np.abs(ours()-theirs()).max()),
                      **device_and_threads())

# ---- a training step

ROWS = 32 # of a batch

def our_mlm_rate(texts, tok, r, shape, steps):
    "Tokens a second of our loop, on packed rows"
    torch.manual_seed(0)
    config = JinaBertConfig(vocab_size=r.tokenizer.vocab_size, pad_token_id=tok.pad_token_id, **shape)
    model = JinaBertForMaskedLM(config)
    stage = recipe('cpu', pretrain__steps=steps, pretrain__batch_size=ROWS, pretrain__weights=dict(mlm=1.)).pretrain
    with tempfile.TemporaryDirectory() as d:
        rows = pack(texts, tok, Path(d)/'t.tokens', stage.max_tokens)
        run = Path(d)/'run'
        run.mkdir()
        loop.train(model, [Task('docs', 'mlm', rows)], tok, stage, run, 'bench', progress=0)
        log = loop.read_log(run)[2:]
    return sum(x['tokens'] for x in log)/sum(x['seconds'] for x in log)

def bert_mlm_rate(texts, tok, r, shape, steps):
    "Real tokens a second the usual way: transformers' Trainer, one text a row, cut and padded, in bfloat16 as ours"
    from transformers import BertConfig, BertForMaskedLM, DataCollatorForLanguageModeling, Trainer, TrainingArguments
    torch.manual_seed(0)
    longest = r.pretrain.max_tokens
    shape = shape | dict(max_position_embeddings=longest)
    model = BertForMaskedLM(BertConfig(vocab_size=r.tokenizer.vocab_size, pad_token_id=tok.pad_token_id, **shape))
    rows = [dict(input_ids=ids) for ids in tok(texts, truncation=True, max_length=longest)['input_ids']]
    real = []
    class CountTokens(DataCollatorForLanguageModeling):
        def torch_call(self, examples):
            batch = super().torch_call(examples)
            real.append(int(batch['attention_mask'].sum()))
            return batch
    with tempfile.TemporaryDirectory() as d:
        quiet = dict(report_to=[], save_strategy='no', logging_strategy='no', disable_tqdm=True)
        sizes = dict(per_device_train_batch_size=ROWS, max_steps=steps, bf16=True, use_cpu=not CUDA)
        options = TrainingArguments(d, **sizes, **quiet)
        trainer = Trainer(model, options, train_dataset=rows, data_collator=CountTokens(tok, mlm_probability=.3))
        start = time.perf_counter()
        trainer.train()
        return sum(real[:steps])/(time.perf_counter()-start)

def train(args):
    "MLM: our loop's step on packed rows, against transformers' BERT of the same size with padding in its Trainer"
    r = recipe('cpu')
    texts = mixed_texts(4000, 1)
    tok = train_tokenizer(((t, 'en') for t in texts), 8000, ('en',), shrink=True)
    shape = {f: getattr(r.model, f) for f in r.model.__dataclass_fields__ if f != 'qk_norm'}
    inputs = (texts, tok, r, shape, 4*args.repeats)
    rounds = [(our_mlm_rate(*inputs), bert_mlm_rate(*inputs)) for _ in range(3)]
    ours,bert = np.median(rounds, 0)
    print_row(what='train', ours=ours, bert=bert, ratio=ours/bert, rounds=[a/b for a,b in rounds],
              layers=r.model.num_hidden_layers, width=r.model.hidden_size, tokens=r.pretrain.max_tokens)

# ---- the stages: how much of the machine they use, and what limits them

def matmul_rate(dtype, n=0): # operations a second of a matrix product on this machine, the best of several
    n = n or (8192 if CUDA else 2048)
    x,y = (torch.randn(n, n, device=DEVICE).to(dtype) for _ in range(2))
    best = math.inf
    for _ in range(8):
        synchronize()
        start = time.perf_counter()
        F.linear(x, y)
        synchronize()
        best = min(best, time.perf_counter()-start)
    return 2*n**3/best

def rate(args):
    for dtype in (torch.float32, torch.bfloat16):
        print_row(what='rate', dtype=str(dtype)[6:], operations_per_s=matmul_rate(dtype))

PARTS = dict( # kinds of operation, by a part of the name that the profiler gives; the first that fits counts
    products=('mm','linear','addmm','matmul','convolution'),
    attention=('scaled_dot_product','flash_attention','softmax','flex'),
    optimiser=('adam','_foreach_','clip','norm_except','linalg_vector_norm'),
    norms=('layer_norm','norm'),
    gate=('gelu',),
    loss=('log_softmax','nll_loss','logsumexp','cross_entropy'),
    embedding=('embedding','index','gather','scatter'),
    moving=('copy_','cat','to_copy','clone','empty','zero_','fill_','contiguous'))

def part_of(operation):
    operation = operation.lower()
    return next((part for part,words in PARTS.items() if any(w in operation for w in words)), 'elementwise')

class WatchedPrefetch:
    "Replaces the loop's `prefetch`: notes each batch and the seconds waited for it, and profiles the last few steps"
    def __init__(self, profiled_steps):
        self.profiled_steps,self.prefetch = profiled_steps,loop.prefetch
    def __enter__(self):
        loop.prefetch = self
        return self
    def __exit__(self, *error): loop.prefetch = self.prefetch

    def __call__(self, make, start, stop):
        from torch.profiler import ProfilerActivity, profile
        self.waited,self.batches,self.operations = [],[],()
        profiler = profile(activities=[ProfilerActivity.CPU] + [ProfilerActivity.CUDA]*CUDA)
        it = self.prefetch(make, start, stop)
        for i in range(stop-start):
            before = time.perf_counter()
            step,batch = next(it)
            self.waited.append(time.perf_counter()-before)
            self.note(batch)
            if self.profiled_steps and i == stop-self.profiled_steps+1: profiler.start()
            yield step, batch
            if self.profiled_steps and i == stop-2:
                profiler.stop()
                self.operations = profiler.key_averages()

    def note(self, batch):
        padded = sum(t.ids.numel() for t in batch.tokens)
        rows = sum(len(t.ids) for t in batch.tokens)
        self.batches.append(dict(kind=batch.kind, real=batch.n_tokens, padded=padded, rows=rows))

    def time_by_part(self):
        "Share of the profiled time by kind of operation"
        used = {}
        for e in self.operations:
            seconds = e.self_device_time_total if CUDA else e.self_cpu_time_total
            used[part_of(e.key)] = used.get(part_of(e.key), 0) + seconds
        return {f'share_{part}': v/sum(used.values()) for part,v in used.items()}

def flops(batch, stage, model, vocab_size):
    "Operations of a training step, with attention counted at the mean length"
    mean_length = max(1, round(batch['real']/batch['rows']))
    per_token = flops_per_token(model, vocab_size, replace(stage, max_tokens=mean_length), batch['kind'] == 'mlm')
    return batch['real']*per_token

def run_stages(r, names, profiled_steps=8, skip=4):
    "Train stages on the bundled text; a row each: tokens a second, share of the matrix-product rate, time by part"
    tmp = Path(tempfile.mkdtemp())
    rate = matmul_rate(torch.bfloat16 if r.pretrain.precision == 'bf16' else torch.float32)
    run = start_run(r, load_corpus(r, cache=tmp/'text', log=lambda s: None), tmp/'run')
    functions = dict(pretrain=pretrain, pairs=tune_pairs, multitask=tune_multitask)
    with WatchedPrefetch(profiled_steps) as watched:
        for name in names:
            functions[name](run)
            log = loop.read_log(run.folder/name)
            measured = slice(skip, len(log)-profiled_steps)
            seconds = sum(x['seconds'] for x in log[measured])
            tokens = sum(x['tokens'] for x in log[measured])
            stage,vocab_size = getattr(r, name),len(run.tokenizer)
            operations = sum(flops(b, stage, r.model, vocab_size) for b in watched.batches[measured])
            real = sum(b['real'] for b in watched.batches)/sum(b['padded'] for b in watched.batches)
            yield dict(stage=name, tokens_per_s=tokens/seconds, mfu=operations/seconds/rate, rate=rate,
                       waited=sum(watched.waited[measured])/seconds, real=real) | watched.time_by_part()

def sample_recipe(scale, steps, **changes):
    "A recipe on the bundled text with a few steps a stage, without the align stage"
    for name in ('pretrain','pairs','multitask'):
        changes |= {f'{name}__steps': steps, f'{name}__save_steps': 10**6}
    return recipe(scale, text__source='sample', align__steps=0, tokenizer__chars=10**6, **changes)

def stages(args):
    r = sample_recipe(args.scale, 12+4*args.repeats)
    for row in run_stages(r, ('pretrain','pairs','multitask')): print_row(what='stages', scale=args.scale, **row)

WIDE = dict(model__hidden_size=512, model__num_attention_heads=8, model__intermediate_size=2048)
PLAN_SIZES = dict(cpu={}, wide=WIDE, deep=dict(model__num_hidden_layers=10))

def plan(args):
    "The planner's tokens a second, from a few seconds of one and two layers, beside those of the real loop"
    batches = dict(multitask__weights=(('pairs',1.),), pretrain__weights=(('mlm',1.),), pretrain__batch_size=32,
                   pairs__batch_size=64)
    for size,shape in PLAN_SIZES.items():
        r = sample_recipe('cpu', 4+3*args.repeats, **batches, **shape)
        for row in run_stages(r, ('pretrain','pairs'), profiled_steps=0):
            guesses = planned(r, fill=row['real'])      # the planner is given how full the real batches were
            guess = next(x for x in guesses if x['stage'] == row['stage'])
            predicted,measured = guess['tokens_per_s'],row['tokens_per_s']
            print_row(what='plan', size=size, stage=row['stage'], predicted=predicted, measured=measured,
                      ratio=predicted/measured)

def main():
    commands = dict(attention=attention, encode=encode, mix=mix, serve=serve, train=train, stages=stages, plan=plan,
                    rate=rate, machine=machine)
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument('what', choices=commands)
    p.add_argument('--tokens', type=int, default=8192)
    p.add_argument('--dtype', default='float32', choices=('float32','bfloat16','float16'))
    p.add_argument('--train', action='store_true', help='forward and backward')
    p.add_argument('--ways', default='', help='some of the ways, separated by commas; all otherwise')
    p.add_argument('--repeats', type=int, default=3)
    p.add_argument('--layers', type=int, default=12)
    p.add_argument('--texts', type=int, default=400)
    p.add_argument('--size', default='base', choices=('base','small'))
    p.add_argument('--scale', default='cpu')
    p.add_argument('--memory', action='store_true', help=argparse.SUPPRESS)
    p.add_argument('--with-memory', action='store_true', help='peak memory too, in further processes')
    args = p.parse_args()
    commands[args.what](args)

if __name__ == '__main__': main()
