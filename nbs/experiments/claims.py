"""What the notebooks about the paper's claims share: text, training that is kept, and comparison over seeds.

A notebook names arms, grows each with several seeds and hands the judged items to `compared`. A run that is done is not done again; one that was stopped goes on.
"""
import csv, shutil
from dataclasses import asdict
from pathlib import Path
import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from bilingual_embed import load
from bilingual_embed.model.jina_bert import load_model
from bilingual_embed.core.io import repo_path
from bilingual_embed.core.records import Document, Pair, Skips, split_langs, Task
from bilingual_embed.core.recipes import recipe, STAGES
from bilingual_embed.core.plots import save_figure
from bilingual_embed.data.tokenizer import load_tokenizer, train_tokenizer
from bilingual_embed.data.batches import Packed, pack
from bilingual_embed.data.corpus import write_jsonl
from bilingual_embed.data.tasks import load_corpus
from bilingual_embed.inference.sentence_transformers import save_st
from bilingual_embed.train.loop import train
from bilingual_embed.train.stages import new_model, Run, with_head
from bilingual_embed.evaluate.tasks import evaluate_items, local_tasks
from bilingual_embed.evaluate.verdict import bootstrap

SMALL = dict(                       # beside the scale `cpu`: what gives an arm in about a minute and a half on one core
    text__pair_rows=40_000, text__mlm_chars=12_000_000, tokenizer__vocab_size=12_000, tokenizer__chars=4_000_000,
    model__hidden_size=128, model__num_hidden_layers=2, model__num_attention_heads=2, model__intermediate_size=384, model__hidden_dropout_prob=0.,
    align__steps=300, align__batch_size=512, pretrain__steps=150, pretrain__batch_size=32, pretrain__max_tokens=128,
    pairs__steps=150, pairs__batch_size=128, pairs__lr=1e-3, pairs__warmup_steps=15, multitask__steps=100, multitask__batch_size=64, multitask__max_tokens=64, multitask__lr=5e-4, multitask__warmup_steps=10, multitask__negatives=1)

def small(langs='en-de', seed=0, **changes): return recipe('cpu', langs, seed, **SMALL | changes)

def texts(data, langs, out): # Corpus of a data folder, cleared of the evaluation sets in it
    return load_corpus(small(langs, text__source=str(data)), evals=[p for p in (Path(data)/'eval', Path(data)/'sts') if p.is_dir()], cache=Path(out)/'cache')

def tokenizer(texts, langs, size, to, chars=4_000_000): # made once from (text, language) pairs
    if not (Path(to)/'tokenizer.json').exists():
        train_tokenizer(texts, size, langs, chars=chars, max_length=8192).save_pretrained(to)
    return load_tokenizer(to)

def corpus_tokenizer(corpus, r, to):
    half = r.tokenizer.chars/2
    return tokenizer(((x, l) for l in r.langs for kind in ('pair','document') for x in corpus.texts(l, half, (kind,))), r.langs, r.tokenizer.vocab_size, to, r.tokenizer.chars)

def mlm_task(name, texts, tok, folder, length, weight, least=64): # packed once
    path = Path(folder)/f'{name}-{length}.tokens'
    path.parent.mkdir(parents=True, exist_ok=True)
    if not path.with_suffix('.json').exists(): pack(texts, tok, path, length, least=least)
    return Task(f'mlm/{name}', 'mlm', Packed(path, length), weight)

def grown(folder, r, tok, tasks, stages=STAGES, start=None): # the last stage's model folder
    "Train stages one after another, each with those tasks whose kinds it weighs"
    folder,at = Path(folder),start
    for name in stages:
        s,to = getattr(r, name),folder/name
        if not s.steps: continue
        made,note = repr((s, r.seed, r.model, len(tok), sorted((t.name, len(t.rows)) for t in tasks if t.kind in dict(s.weights)))),to/'made.txt'
        if note.exists() and note.read_text() != made:
            raise SystemExit(f"{to} was made with other numbers or other text; delete it, or choose another `out`")
        if not (to/'config.json').exists():
            if at: model = load_model(at)
            else: model = new_model(Run(folder, r, None, tok))
            if any(k == 'mlm' for k,_ in s.weights): model = with_head(model, r.seed)
            to.mkdir(parents=True, exist_ok=True)
            note.write_text(made)
            train(model, tasks, tok, s, to, name, r.seed, fingerprint=made, depth='embeddings' if name == 'align' else 'all', progress=0)
            save_st(to, model, tok, code=False)
            (to/'state.safetensors').unlink(missing_ok=True)
            shutil.rmtree(to/'tensorboard', ignore_errors=True)
        at = to
    return at

def base(corpus, tok, langs, seed, out, stages=('align','pretrain','pairs')): # the folder that arms start from, the same for all notebooks
    r = small(langs, seed)
    mlm = [mlm_task(l, corpus.texts(l, r.text.mlm_chars), tok, Path(out)/'tokens', 128, .5) for l in r.langs]
    return grown(Path(out)/'base'/str(seed), r, tok, corpus.tasks(.7, .6)+mlm, stages)

def sets(data, langs, names): # test sets of a data folder in a pair's languages
    return local_tasks([Path(data)/'eval', Path(data)/'sts'], split_langs(langs), names=list(names))

def judged(folder, tasks, out, into='judged'): # Items of a model folder by task, kept in that folder of `out`
    name = '-'.join(Path(folder).relative_to(out).parts)
    return {i.task: i for i in evaluate_items(load(folder), tasks, name, Path(out)/into)}

def runs_table(items, **more): # items: arm -> one dict of Items a seed
    return [dict(arm=arm, seed=k, task=t, n=i.n, score=round(100*i.score(), 2), **more) for arm,seeds in items.items() for k,one in enumerate(seeds) for t,i in one.items()]

def compared(items, base, n_boot=1000, seed=0): # DataFrame: arm, task, n, seeds, score, spread, diff, low, high
    "Each arm against the base arm: means over seeds, and 95 % intervals by a bootstrap that draws test items and seeds, the same for both"
    out,pick = [],np.random.default_rng(seed)
    draws = {arm: [{t: bootstrap(i, n_boot, seed) for t,i in one.items()} for one in seeds] for arm,seeds in items.items()}
    for arm,seeds in items.items():
        for t in seeds[0]:
            v,b = (np.array([one[t].score() for one in x]) for x in (seeds, items[base]))
            d = np.array([draws[arm][k][t] - draws[base][k % len(b)][t] for k in range(len(v))])
            which = pick.integers(0, len(d), (len(d), d.shape[1]))
            low,high = np.nanquantile(np.take_along_axis(d, which, 0).mean(0), [.025,.975])
            out.append(dict(arm=arm, task=t, n=seeds[0][t].n, seeds=len(v), score=100*v.mean(), spread=100*v.std(ddof=1) if len(v) > 1 else np.nan,
                            diff=100*(v - np.resize(b, len(v))).mean(), low=100*low, high=100*high))
    return pd.DataFrame(out).round(2)

def keep(name, table, runs): # both beside each other; the figure's rows come from `picture`
    pd.DataFrame(runs).to_csv(repo_path('figures')/f'{name}_runs.csv', index=False)
    return table

def kept(name): return pd.read_csv(repo_path('figures')/f'{name}.csv')

def wide(table): # score by task and arm
    return table.pivot(index='task', columns='arm', values='score')[list(dict.fromkeys(table.arm))].loc[list(dict.fromkeys(table.task))].round(1)

def picture(table, base, name, title, short=lambda t: t):
    "Differences to the base arm with their intervals, a column a test set"
    arms,names = [a for a in dict.fromkeys(table.arm) if a != base],list(dict.fromkeys(table.task))
    step = .8/max(1, len(arms))
    fig,ax = plt.subplots(figsize=(max(6, 1.1*len(names)+2), 3.4))
    for k,a in enumerate(arms):
        g = table[table.arm == a].set_index('task').loc[names]
        x = np.arange(len(names)) + (k-(len(arms)-1)/2)*step
        ax.errorbar(x, g['diff'], yerr=[g['diff']-g.low, g.high-g['diff']], fmt='o', ms=4, lw=1.2, label=a)
    ax.axhline(0, color='grey', lw=.8)
    ax.set_xticks(range(len(names)), map(short, names), rotation=25, ha='right')
    ax.set(ylabel=f'points above "{base}"', title=title)
    ax.legend(fontsize=8, loc='upper left', bbox_to_anchor=(1, 1))
    save_figure(fig, name, table.to_dict('records'))
    plt.show()

def words(table, arm, tasks=None): # "2 better, 1 worse of 5 (+0.3 points)"
    g = table[(table.arm == arm) & (table.task.isin(tasks) if tasks is not None else True)]
    return f"{(g.low > 0).sum()} better, {(g.high < 0).sum()} worse of {len(g)} ({g['diff'].mean():+.1f} points)"

# with English ten languages, all that the library knows but Chinese, whose catalogues stand under several names
MORE = 'de es fr it pt nl pl ru ja'.split()
def catalogues(lang, cache, most=2_000_000): # DebianSource for English and one of MORE
    "Message catalogues and GNOME's help, which stand in the same packages in all these languages: the manifest's rows under `most` bytes, read in another language"
    from bilingual_embed.data.debian import source
    cache = Path(cache)
    cache.mkdir(parents=True, exist_ok=True)
    manifest = cache/'manifest.tsv'
    rows = [asdict(p) for p in debian.load_manifest() if ('catalogues:gettext' in p.reads or 'gnome:' in p.reads) and p.bytes < most and not p.package.startswith('apt-lists')]
    with manifest.open('w', encoding='utf-8', newline='') as f:
        w = csv.DictWriter(f, rows[0].keys(), delimiter='\t', lineterminator='\n')
        w.writeheader()
        w.writerows(r | dict(pairs=' '.join(f'en-{l}' for l in MORE), scales='cpu small') for r in rows)
    return debian.DebianSource('small', cache, manifest)

def as_folder(source, langs, to): # a source's records as a folder in the layout of data/README.md
    to,out,skips,kinds = Path(to),{},Skips(),{Document: 'text', Pair: 'pairs'}
    if (to/'README').exists(): return to
    for r in source.read(langs, skips):
        kind = kinds[type(r)]
        key = (kind, r.source.replace('/','-'), r.lang)
        d = {k: v for k,v in asdict(r).items() if k in ('text','query','target')}
        if len(out.setdefault(key, [])) < 200_000: out[key].append(d)
    for (kind,name,lang),rows in out.items(): write_jsonl(to/kind/f'{name}.{lang}.jsonl', rows)
    print('-'.join(langs), {'/'.join(k): len(v) for k,v in out.items()})
    (to/'README').write_text('made by claims.py')
    return to
