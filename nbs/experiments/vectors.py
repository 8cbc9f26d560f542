"""Indexes and codes against the exact search, on vectors with the structure of texts.

    python nbs/experiments/vectors.py 1000000 --folder /a/disk/with/room

Each kind is measured in a process of its own, for its peak of memory; the rows are added to figures/vectors.csv, in place
of earlier ones of the same size. `nbs/experiments/vectors.ipynb` shows them.
"""
import argparse, csv, json, subprocess, sys, tempfile, time
from pathlib import Path
import numpy as np
from bilingual_embed.core.io import own_memory, repo_path
from bilingual_embed.data.files import Row
from bilingual_embed.data.quantization import calibrate, PRECISIONS, quantize_embeddings, Quantized
from bilingual_embed.inference.index import build_index, faiss_library
from bilingual_embed.inference.search import top_k

EFFORTS = dict(hnsw=(40,128,512), ivfpq=(4,16,64,256))
K = 10
COLUMNS = ('size','dim','kind','effort','recall','ms','build_s','graph_mb','peak_mb','add_s','remove_s','threads')

def vectors(n, dim, seed, n_topics=2000, rank=48):
    "Unit rows in blocks: topics within subjects, directions that all share, and what is each text's own"
    fixed = np.random.default_rng(0)                      # topics and directions are the same for texts and queries
    subjects = fixed.normal(size=(40,dim))
    topics = .7*subjects[fixed.integers(40, size=n_topics)] + .7*fixed.normal(size=(n_topics,dim))
    shared = fixed.normal(size=(rank,dim))/rank**.5
    g = np.random.default_rng(seed)
    for i in range(0, n, 2**14):
        m = min(2**14, n-i)
        x = topics[g.integers(n_topics, size=m)] + g.normal(size=(m,rank))@shared + .3*g.normal(size=(m,dim))
        yield (x/np.linalg.norm(x, axis=1, keepdims=True)).astype(np.float32)

def write_vectors(path, n, dim):
    x = np.lib.format.open_memmap(path, 'w+', np.float32, (n,dim))
    at = 0
    for block in vectors(n, dim, seed=1):
        x[at:at+len(block)] = block
        at += len(block)
    x.flush()

def rows(n, first=0): return (Row(f'text {i}', (), 'texts.txt', i+1) for i in range(first, first+n))

def timed(f):
    t = time.perf_counter()
    result = f()
    return result, time.perf_counter()-t

def measure_index(x, queries, kind, folder):
    index,build_s = timed(lambda: build_index(folder/kind, x, rows(len(x)), kind=kind))
    found = []
    for effort in EFFORTS.get(kind, (None,)):
        m = index.measure(queries, K, effort)
        found.append(dict(kind=kind, effort=effort, recall=m['recall'], ms=m['ms']))
    more = next(vectors(1000, x.shape[1], seed=3))
    add_s = timed(lambda: index.add(more, list(rows(1000, len(x)))))[1]
    remove_s = timed(lambda: index.remove(map(str, range(1, 1001))))[1]
    assert index.search(queries, K)[1].min() >= 1000
    about = dict(build_s=build_s, graph_mb=index.size()['graph']/1e6, add_s=add_s, remove_s=remove_s)
    return [f | about for f in found]

def measure_codes(x, queries):
    "What is left of the exact search over codes; the time is of the whole search"
    right = top_k(queries, x, K)[1].tolist()
    ranges = calibrate(x[:2048])
    found = []
    for precision in PRECISIONS:
        codes = np.concatenate([quantize_embeddings(x[i:i+2**14], precision, ranges) for i in range(0, len(x), 2**14)])
        kept = Quantized(codes, precision, x.shape[1], ranges)
        at,seconds = timed(lambda: top_k(queries, kept, K)[1].tolist())      # noqa: B023 (called at once)
        recall = np.mean([len({*a} & {*b})/K for a,b in zip(at, right)])
        found.append(dict(kind=f'exact, {precision}', recall=float(recall), ms=1000*seconds/len(queries),
                          graph_mb=codes.nbytes/1e6))
    return found

def measure_one(a):
    x = np.load(a.folder/'x.npy', mmap_mode='r')
    queries = next(vectors(200, a.dim, seed=2))
    if a.threads: faiss_library().omp_set_num_threads(a.threads)
    with own_memory() as peak:
        found = measure_codes(x, queries) if a.kind == 'codes' else measure_index(x, queries, a.kind, a.folder)
    about = dict(size=a.size, dim=a.dim, peak_mb=(peak() or 0)/1e6, threads=faiss_library().omp_get_max_threads())
    for f in found: print(json.dumps(f | about), flush=True)

def measure_all(a):
    with tempfile.TemporaryDirectory(dir=a.folder) as tmp:
        write_vectors(Path(tmp)/'x.npy', a.size, a.dim)
        found = []
        for kind in ('codes','hnsw','ivfpq'):
            command = [sys.executable, __file__, a.size, '--dim', a.dim, '--threads', a.threads, '--folder', tmp, '--kind', kind]
            r = subprocess.run([*map(str, command)], stdout=subprocess.PIPE, text=True, check=True)
            print(r.stdout, end='', flush=True)
            found += map(json.loads, r.stdout.splitlines())
    path = repo_path('figures','vectors.csv')
    old = list(csv.DictReader(path.open())) if path.exists() else []
    kept = [r for r in old if (r['size'],r['dim']) != (str(a.size),str(a.dim))]
    rows = sorted(kept + found, key=lambda r: int(r['size']))
    with path.open('w', newline='') as f:
        w = csv.DictWriter(f, COLUMNS, lineterminator='\n')
        w.writeheader()
        for r in rows: w.writerow({k: f'{v:.4g}' if isinstance(v, float) else v for k,v in r.items()})

if __name__ == '__main__':
    p = argparse.ArgumentParser(description=__doc__.split('\n')[0])
    p.add_argument('size', type=int, help='vectors')
    p.add_argument('--dim', type=int, default=256)
    p.add_argument('--threads', type=int, default=0, help='0: as many as FAISS takes')
    p.add_argument('--folder', type=Path, help='for the vectors (size x dim x 4 bytes, three times) and the indexes')
    p.add_argument('--kind', help=argparse.SUPPRESS)
    a = p.parse_args()
    measure_one(a) if a.kind else measure_all(a)
