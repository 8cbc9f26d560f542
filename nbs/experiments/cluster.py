"""Text to prepare, of any size, and commands that prepare it: timed, or with processes killed on the way.

Used by cluster.ipynb, which shows what came out.
"""
import json, os, random, signal, subprocess, sys, time
from pathlib import Path
import psutil, yaml
from bilingual_embed.core.io import read_json
from bilingual_embed.core.records import Skips, texts_of
from bilingual_embed.data.corpus import SampleSource, sentences
from bilingual_embed.data.tasks import open_corpus

CHANGED = 1/3 # of the words of a sentence

def at_hand():
    "Sentences as lists of words, by language: those of the sample that ships"
    found = {lang: {} for lang in ('en','de')}
    for rec in SampleSource().read(('en','de'), Skips()):
        for text,lang in texts_of(rec): found[lang] |= dict.fromkeys(sentences(text))
    return {lang: [s.split() for s in some] for lang,some in found.items()}

def varied(words, vocabulary, rng):
    "A sentence with every third word or so replaced by another of its language: no two are alike"
    return ' '.join(rng.choice(vocabulary) if rng.random() < CHANGED else w for w in words)

def make_text(folder, MB, seed=0, file_MB=64):
    "A source of so many megabytes: documents and pairs in parts, one row in ten a copy of another, half of these exact"
    folder,rng,sents = Path(folder),random.Random(seed),at_hand()
    vocabulary = {lang: [w for s in some for w in s] for lang,some in sents.items()}
    def text(lang, n): return ' '.join(varied(rng.choice(sents[lang]), vocabulary[lang], rng) for _ in range(n))
    def document(lang): return dict(text=text(lang, rng.choice((3, 6, 12, 25, 150 if rng.random() < .02 else 12))))
    def pair():
        n = rng.choice((1, 2))
        return dict(query=text('en', n), positive=text('de', n))
    sets = {('text','web.en'): (.4, lambda: document('en')), ('text','web.de'): (.4, lambda: document('de')),
            ('pairs','talks.en-de'): (.2, pair)}

    parts = max(2, round(MB*.4/file_MB))
    for (kind,name),(share,new) in sets.items():
        path = folder/kind/f'{name}.jsonl'
        path.mkdir(parents=True)
        earlier = []                                   # rows to copy from, out of other files too
        for n in range(parts):
            with (path/f'{n:05d}.jsonl').open('w', encoding='utf-8') as f:
                while f.tell() < MB*1e6*share/parts:
                    row = new()
                    if earlier and rng.random() < .1: row = copy_of(rng.choice(earlier), rng.random() < .5)
                    elif rng.random() < .05: earlier = [*earlier[-5000:], row]
                    f.write(json.dumps(row, ensure_ascii=False)+'\n')
    return sum(p.stat().st_size for p in folder.rglob('*.jsonl'))/1e6

def copy_of(row, exact):
    "The same row, or with a word more at the end"
    return row if exact else {k: v + ' Ende.' for k,v in row.items()}

def start(source, out, workers, **settings):
    "`bilingual-embed prepare` in a process of its own"
    out = Path(out)
    out.parent.mkdir(parents=True, exist_ok=True)
    config = dict(source=str(source), out=str(out), scale='base', workers=workers, **settings)
    config['changes'] = {'tokenizer.vocab_size': 8000, 'tokenizer.chars': 5_000_000} | settings.get('changes', {})
    path = out.with_suffix('.yaml')
    path.write_text(yaml.safe_dump(config))
    command = [sys.executable, '-W', 'ignore', '-m', 'bilingual_embed.cli', 'prepare', '--config', str(path)]
    env = os.environ | dict(OMP_NUM_THREADS='1', RAYON_NUM_THREADS='1', TOKENIZERS_PARALLELISM='false')
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, env=env)

def result(run, out, began):
    "What a finished command has made: seconds, digest, rows, the rates of its stages"
    said = run.communicate()[0]
    if run.returncode: raise RuntimeError(said[-3000:])
    corpus = open_corpus(out)
    return dict(seconds=time.time()-began, digest=corpus.digest, rows=sum(map(len, corpus.tables)),
                rates=read_json(Path(out)/'prepare.json')['rates'])

def timed(source, out, workers, **settings):
    "Prepare, and see how long it takes"
    began = time.time()
    return result(start(source, out, workers, **settings), out, began)

def killed(source, out, workers, kills, seconds, seed=0):
    "Prepare while processes are killed at random moments, spread over about so many seconds; a command that gives up is repeated"
    rng,began,moments,commands = random.Random(seed),time.time(),[],1
    run = start(source, out, workers)
    stages = Path(f'{out}.work')
    while len(moments) < kills and run.poll() != 0:
        if run.poll() is not None:
            run,commands = start(source, out, workers),commands+1
        time.sleep(rng.uniform(0, 2*seconds/kills))
        if not (stages/'scan').exists() or run.poll() is not None: continue
        busy = [p for p in psutil.Process(run.pid).children(recursive=True) if p.ppid() != run.pid]   # of the fork server
        if not busy: continue
        try: os.kill(rng.choice(busy).pid, signal.SIGKILL)
        except ProcessLookupError: continue
        stage = max((p for p in stages.iterdir() if p.is_dir()), key=lambda p: p.stat().st_mtime).name
        moments.append(dict(second=round(time.time()-began, 1), stage=stage))
    if run.wait() != 0: run,commands = start(source, out, workers),commands+1
    return result(run, out, began) | dict(killed=moments, commands=commands)
