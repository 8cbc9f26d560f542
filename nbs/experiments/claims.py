"""Shared by the notebooks on the paper's claims: small recipes, training that resumes, comparison over seeds, a figure

A notebook names its arms, trains each with several seeds and hands the scored items to `compare_arms`.
What is finished is not done again, and a run that was stopped goes on where it was.
"""
import csv, shutil
from dataclasses import asdict
from pathlib import Path

import matplotlib.pyplot as plt, numpy as np, pandas as pd
from matplotlib.ticker import MaxNLocator

from bilingual_embed import load
from bilingual_embed.model.jina_bert import load_model
from bilingual_embed.core.io import repo_path
from bilingual_embed.core.plots import save_figure
from bilingual_embed.core.records import Document, LANGUAGES, Pair, Skips, split_langs, Task
from bilingual_embed.core.recipes import recipe, STAGES
from bilingual_embed.data.tokenizer import load_tokenizer, train_tokenizer
from bilingual_embed.data.batches import Packed, pack
from bilingual_embed.data.corpus import write_jsonl
from bilingual_embed.data.tasks import load_corpus
from bilingual_embed.inference.sentence_transformers import save_st
from bilingual_embed.train.loop import train
from bilingual_embed.train.stages import new_model, Run, tokenizer_texts, with_mlm_head
from bilingual_embed.evaluate.tasks import evaluate_items, local_tasks
from bilingual_embed.evaluate.verdict import bootstrap

# ---- the recipe and its text

SMALL = dict( # what differs from the scale `cpu`, so that an arm takes about a minute and a half on one core
    text__pair_rows=40_000, text__mlm_chars=12_000_000, tokenizer__vocab_size=12_000, tokenizer__chars=4_000_000,
    model__hidden_size=128, model__num_hidden_layers=2, model__num_attention_heads=2, model__intermediate_size=384,
    model__hidden_dropout_prob=0.,
    align__steps=300, align__batch_size=512,
    pretrain__steps=150, pretrain__batch_size=32, pretrain__max_tokens=128,
    pairs__steps=150, pairs__batch_size=128, pairs__lr=1e-3, pairs__warmup_steps=15,
    multitask__steps=100, multitask__batch_size=64, multitask__max_tokens=64, multitask__lr=5e-4,
    multitask__warmup_steps=10, multitask__negatives=1)

ALPHA = .7 # a task of n rows weighs n**ALPHA
CROSS = .6 # share of the pair tasks' weight that goes to pairs of texts in two languages

def small_recipe(langs='en-de', seed=0, **changes):
    "The recipe every claim starts from, with the changes of an arm"
    return recipe('cpu', langs, seed, **SMALL | changes)

def parse_seeds(seeds): # '0,1,2', or a single number where papermill read it as one
    return [int(s) for s in str(seeds).split(',')]

def read_corpus(data, langs, out):
    "The text of a data folder, without anything that stands in its evaluation sets"
    evals = [p for p in (Path(data)/'eval', Path(data)/'sts') if p.is_dir()]
    r = small_recipe(langs, text__source=str(data), text__sample=True)
    return load_corpus(r, evals=evals, cache=Path(out)/'cache')

def corpus_tasks(corpus):
    "Pairs, triplets, graded pairs and classes of a corpus as weighted tasks"
    return corpus.tasks(ALPHA, CROSS)

def load_tests(data, langs, names):
    "The named test sets of a data folder in the languages of a pair"
    return local_tasks([Path(data)/'eval', Path(data)/'sts'], split_langs(langs), names=list(names))

def cached_tokenizer(texts, langs, size, to, chars=4_000_000):
    "A tokenizer trained on (text, language) pairs, or the one that is in the folder already"
    if not (Path(to)/'tokenizer.json').exists():
        train_tokenizer(texts, size, langs, chars=chars, max_length=8192).save_pretrained(to)
    return load_tokenizer(to)

def corpus_tokenizer(corpus, r, to):
    "A recipe's tokenizer, or the one that is in the folder already"
    return cached_tokenizer(tokenizer_texts(corpus, r), r.langs, r.tokenizer.vocab_size, to, r.tokenizer.chars)

def mlm_task(name, texts, tok, folder, length, weight, least=64):
    "Texts packed into rows of `length` tokens for masked language modelling; packed only once"
    path = Path(folder)/f'{name}-{length}.tokens'
    path.parent.mkdir(parents=True, exist_ok=True)
    if not path.with_suffix('.json').exists(): pack(texts, tok, path, length, min_rows=least)
    return Task(f'mlm/{name}', 'mlm', Packed(path, length), weight)

def mlm_tasks(corpus, tok, r, folder, length=128):
    "One such task a language, of equal weight"
    return [mlm_task(lang, corpus.texts(lang, r.text.mlm_chars), tok, folder, length, .5) for lang in r.langs]

# ---- training

def train_stages(folder, r, tok, tasks, stages=STAGES, start=None):
    "Train stages one after another, each on the tasks it gives a weight to; returns the folder of the last one"
    folder,last = Path(folder),start
    for name in stages:
        if not getattr(r, name).steps: continue
        _train_stage(folder, name, r, tok, tasks, last)
        last = folder/name
    return last

def _train_stage(folder, name, r, tok, tasks, start):
    stage,to = getattr(r, name),folder/name
    kinds = dict(stage.weights)
    rows = sorted((t.name, len(t.rows)) for t in tasks if t.kind in kinds)
    inputs = repr((stage, r.seed, r.model, len(tok), rows))
    note = to/'made.txt'
    if note.exists() and note.read_text() != inputs:
        raise SystemExit(f"{to} was made with other numbers or other text; delete it, or choose another `out`")
    if (to/'config.json').exists(): return

    model = load_model(start) if start else new_model(Run(folder, r, None, tok))
    if 'mlm' in kinds: model = with_mlm_head(model, r.seed)
    to.mkdir(parents=True, exist_ok=True)
    note.write_text(inputs)
    depth = 'embeddings' if name == 'align' else 'all'
    train(model, tasks, tok, stage, to, name, r.seed, fingerprint=inputs, depth=depth, progress=0)

    save_st(to, model, tok, code=False)
    (to/'state.safetensors').unlink(missing_ok=True)
    shutil.rmtree(to/'tensorboard', ignore_errors=True)

def starting_model(corpus, tok, langs, seed, out, stages=('align','pretrain','pairs')):
    "The model that arms start from, the same in all notebooks"
    r = small_recipe(langs, seed)
    tasks = corpus_tasks(corpus) + mlm_tasks(corpus, tok, r, Path(out)/'tokens')
    return train_stages(Path(out)/'base'/str(seed), r, tok, tasks, stages)

# ---- scores

def score_items(folder, tasks, out, cache='judged'):
    "What a model gets for every test item, a dict from task to `Items`; kept in a folder of `out`"
    name = '-'.join(Path(folder).relative_to(out).parts)
    return {i.task: i for i in evaluate_items(load(folder), tasks, name, Path(out)/cache)}

def compare_arms(items, baseline, n_boot=1000, seed=0):
    """Each arm against the baseline: means over seeds, and 95 % intervals from a bootstrap over test items and seeds

    `items` is a dict from arm to a list with one dict of `Items` a seed. The resampled test items are the same for both
    arms. Returns a DataFrame with columns arm, task, n, seeds, score, spread, diff, low, high, all x 100.
    """
    rng = np.random.default_rng(seed)
    def resample(one): return {task: bootstrap(i, n_boot, seed) for task,i in one.items()}
    draws = {arm: [resample(one) for one in seeds] for arm,seeds in items.items()}
    rows = []
    for arm,seeds in items.items():
        for task,first in seeds[0].items():
            scores = np.array([one[task].score() for one in seeds])
            base = np.resize([one[task].score() for one in items[baseline]], len(scores))

            base_draws = draws[baseline]
            diffs = np.array([one[task] - base_draws[k % len(base_draws)][task] for k,one in enumerate(draws[arm])])
            drawn_seeds = rng.integers(0, len(diffs), diffs.shape)
            low,high = np.nanquantile(np.take_along_axis(diffs, drawn_seeds, 0).mean(0), [.025,.975])

            spread = scores.std(ddof=1) if len(scores) > 1 else np.nan
            points = dict(score=scores.mean(), spread=spread, diff=(scores - base).mean(), low=low, high=high)
            rows.append(dict(arm=arm, task=task, n=first.n, seeds=len(scores)) | {k: 100*v for k,v in points.items()})
    return pd.DataFrame(rows).round(2)

def run_rows(items):
    "A row for every arm, seed and task"
    return [dict(arm=arm, seed=k, task=t, n=i.n, score=round(100*i.score(), 2))
            for arm,seeds in items.items() for k,one in enumerate(seeds) for t,i in one.items()]

def save_runs(name, rows):
    "Keep those rows beside the table that the figure saves: figures/<name>_runs.csv"
    pd.DataFrame(rows).to_csv(repo_path('figures')/f'{name}_runs.csv', index=False)

def read_results(name):
    "The table of an earlier measurement, from figures/"
    return pd.read_csv(repo_path('figures')/f'{name}.csv')

def score_table(results):
    "Mean scores, a row a task and a column an arm, in the order of the results"
    arms,tasks = results.arm.unique(),results.task.unique()
    return results.pivot(index='task', columns='arm', values='score').loc[tasks, arms].round(1)

# ---- tasks by what they ask

SET_NAMES = {'stsb': 'STS-B', 'sick-r': 'SICK-R', 'sts12': 'STS12', 'tatoeba': 'Tatoeba', 'xquad': 'XQuAD',
             'pawsx': 'PAWS-X', 'mlqa-de': 'MLQA', 'pud-bitext': 'PUD'}

def task_label(task): # 'xquad/de-en' -> 'XQuAD de-en'
    name,lang = task.split('/')
    return f'{SET_NAMES.get(name, name)} {lang}'

def across(task):
    "Whether a task goes from one language to another"
    return '-' in task.rsplit('/', 1)[-1]

def is_similarity(task): return task.startswith(('stsb','sick-r','sts12'))

def tasks_by_language(results, langs):
    "Dict of task lists: the pair's two languages by name, and 'across'"
    tasks = list(results.task.unique())
    within = {LANGUAGES[l]: [t for t in tasks if t.endswith(f'/{l}')] for l in split_langs(langs)}
    return within | dict(across=[t for t in tasks if across(t)])

def count_better(results, arm, tasks=None):
    "In words, on how many tasks the interval of an arm leaves out 0: '2 better, 1 worse of 5 (+0.3 points)'"
    g = results[results.arm == arm]
    if tasks is not None: g = g[g.task.isin(tasks)]
    return f"{(g.low > 0).sum()} better, {(g.high < 0).sum()} worse of {len(g)} ({g['diff'].mean():+.1f} points)"

def print_counts(results, baseline, groups, skip=()):
    "A line an arm: `count_better` for each group of tasks"
    print(f"Against {baseline}, {int(results.seeds.max())} seeds.")
    for arm in results.arm.unique():
        if arm == baseline or arm in skip: continue
        counts = [f"{name} {count_better(results, arm, tasks)}" for name,tasks in groups.items()]
        print(f"{arm}: {', '.join(counts)}.")

# ---- the figure

BETTER,WORSE,SAME = 'C0','C3','0.55'

def forest_plot(results, baseline, name, title, labels=None):
    "Differences from the baseline: tasks down, an arm a panel, coloured where the 95 % interval leaves out 0"
    labels = labels or {}
    arms = [a for a in results.arm.unique() if a != baseline]
    tasks = sorted(results.task.unique(), key=lambda t: (not is_similarity(t), t.split('/')[0], across(t), t))
    rows = np.arange(len(tasks))[::-1]
    size = (8.9 if len(arms) > 1 else 6.5, 1.5 + .26*len(tasks))
    fig,axs = plt.subplots(1, len(arms), figsize=size, sharex=True, sharey=True, squeeze=False)

    for ax,arm in zip(axs[0], arms):
        g = results[results.arm == arm].set_index('task').loc[tasks]
        for y,(_,r) in zip(rows, g.iterrows()):
            color = BETTER if r.low > 0 else WORSE if r.high < 0 else SAME
            ax.plot([r.low, r.high], [y, y], color=color, lw=1.6)
            ax.plot(r['diff'], y, 'o', ms=5, color=color)
        ax.axvline(0, color='0.3', lw=.9)
        ax.grid(axis='y', alpha=.4)
        ax.set_title(labels.get(arm, arm), fontsize=10, fontweight='normal', loc='center')
    axs[0,0].set_yticks(rows, map(task_label, tasks))
    axs[0,0].xaxis.set_major_locator(MaxNLocator(4, integer=True))
    fig.supxlabel(f'points above "{labels.get(baseline, baseline)}", with 95 % intervals', fontsize=10, wrap=False)
    fig.suptitle(title, x=.01, ha='left', fontsize=11, fontweight='bold')
    save_figure(fig, name, results)
    plt.show()

# ---- text of the Debian packages in more languages

# With English, the ten languages that the library knows except Chinese, whose catalogues come under several names.
MORE = ['de', 'es', 'fr', 'it', 'pt', 'nl', 'pl', 'ru', 'ja']

def catalogue_source(lang, cache, max_bytes=2_000_000):
    """Message catalogues and GNOME's help for English and one of `MORE`, out of packages that hold all these languages

    The rows of the manifest below `max_bytes`, read in another language.
    """
    from bilingual_embed.data.debian.source import DebianSource, load_manifest
    def wanted(p):
        is_catalogue = 'catalogues:gettext' in p.reads or 'gnome:' in p.reads
        return is_catalogue and p.bytes < max_bytes and not p.package.startswith('apt-lists')

    cache = Path(cache)
    cache.mkdir(parents=True, exist_ok=True)
    manifest = cache/'manifest.tsv'
    rows = [asdict(p) for p in load_manifest() if wanted(p)]
    with manifest.open('w', encoding='utf-8', newline='') as f:
        w = csv.DictWriter(f, rows[0].keys(), delimiter='\t', lineterminator='\n')
        w.writeheader()
        for r in rows: w.writerow(r | dict(pairs=' '.join(f'en-{l}' for l in MORE), scales='cpu small'))
    return DebianSource('small', cache, manifest)

def write_data_folder(source, langs, to, max_rows=200_000):
    "The records of a source as a folder in the layout of data/README.md"
    to = Path(to)
    if (to/'README').exists(): return to
    kinds = {Document: 'text', Pair: 'pairs'}
    found = {}
    for r in source.read(langs, Skips()):
        key = (kinds[type(r)], r.source.replace('/','-'), r.lang)
        rows = found.setdefault(key, [])
        if len(rows) < max_rows: rows.append({k: v for k,v in asdict(r).items() if k in ('text','query','target')})
    for (kind,name,lang),rows in found.items(): write_jsonl(to/kind/f'{name}.{lang}.jsonl', rows)
    print('-'.join(langs), {'/'.join(k): len(v) for k,v in found.items()})
    (to/'README').write_text('made by claims.py')
    return to
