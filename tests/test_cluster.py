"""Text prepared by many processes: the same whatever their number, the order of the files and the moment they die at;
the same as by one process; on Slurm through the scripts it is given; read by training without making it again."""
import json, os, random, shutil, signal, subprocess, sys, time
from collections import Counter
from dataclasses import replace
from pathlib import Path
import numpy as np, psutil, pyarrow as pa, pytest, yaml
from bilingual_embed.cli import main
from bilingual_embed.cluster import config as configuration, run as engine, steps
from bilingual_embed.cluster.config import Config, begin, plan_job
from bilingual_embed.cluster.run import prepare, progress
from bilingual_embed.cluster.steps import STAGES, run_task
from bilingual_embed.core.records import Document
from bilingual_embed.data.corpus import SampleSource, sentences
from bilingual_embed.data.batches import pack
from bilingual_embed.data.tasks import Table, load_corpus, mlm_streams, open_corpus
from bilingual_embed.train.stages import mlm_tasks, start_run

CHANGES = {'text.held_out': 5, 'tokenizer.vocab_size': 400, 'tokenizer.chars': 20_000, 'pretrain.max_tokens': 64}

def quiet(*_): pass

def rows():
    "Documents and pairs that differ, in both languages"
    rng = random.Random(0)
    words = {}
    for lang in ('en','de'):
        found = [w for r in SampleSource().rows('passages', 'train') for w in r['text'][lang].split()]
        words[lang] = sorted({w for w in found if w.isalpha()})
    def text(lang, n): return ' '.join(rng.choices(words[lang], k=n)) + '.'
    docs = {lang: [dict(text=f'{text(lang, 40)} {text(lang, 30)} {text(lang, 30)}') for _ in range(30)] for lang in words}
    pairs = [dict(query=text('en', 12), positive=text('de', 12)) for _ in range(40)]
    return docs, pairs

def written(folder, rng=None, near=True):
    "A source in parts: copies in other parts, and with `near` also copies with a changed word; shuffled by `rng`"
    docs,pairs = rows()
    for lang,some in docs.items():
        some = some + some[:4]
        if near: some = some + [dict(text=d['text'] + ' Ende.') for d in some[5:9]]
        parts(folder/'text'/f'tales.{lang}.jsonl', some, 2, rng)
    parts(folder/'pairs'/'talks.en-de.jsonl', pairs + pairs[:3], 2, rng)
    return folder

def parts(path, rows, n, rng):
    path.mkdir(parents=True)
    rows = list(rows)
    if rng: rng.shuffle(rows)
    names = list(range(n))
    if rng: rng.shuffle(names)
    for name,some in zip(names, np.array_split(np.arange(len(rows)), n)):
        (path/f'{name}.jsonl').write_text(''.join(json.dumps(rows[i])+'\n' for i in some))

@pytest.fixture(scope='module')
def source(tmp_path_factory): return written(tmp_path_factory.mktemp('source')/'mine')

def config(source, out, **kw): return Config(str(source), str(out), scale='sample', changes=CHANGES, shards=2, **kw)

def do(c, stages=STAGES):
    "A preparation in this process, without an engine"
    job = plan_job(c)
    begin(job)
    for s in stages:
        for n in range(s.tasks(job)): run_task(s.work, job, s.name, n)
    return open_corpus(job.out) if stages[-1].name == 'publish' else job

@pytest.fixture(scope='module')
def prepared(source, tmp_path_factory): return do(config(source, tmp_path_factory.mktemp('one')/'clean'))

def records(corpus): return Counter(r for t in corpus.tables for r in t if not t.source.endswith('-bm25'))

def few(folder, n=1, rows_each=12):
    "A source of n small files, by turns in English and German"
    texts = rows()[0]
    (folder/'text').mkdir(parents=True)
    for i in range(n):
        lang = ('en','de')[i % 2]
        docs = texts[lang]
        some = [docs[(i*rows_each + j) % len(docs)]['text'] + f' Part {i} of {j}.' for j in range(rows_each)]
        (folder/'text'/f'tales{i}.{lang}.jsonl').write_text(''.join(json.dumps(dict(text=t))+'\n' for t in some))
    return folder

def busy_processes(run, work): # those that the fork server has begun, once there is work
    if not (work/'scan').exists(): return []
    return [p for server in psutil.Process(run.pid).children() for p in server.children()]

def test_processes_may_die(source, prepared, tmp_path):
    "Two processes, killed at random moments, leave what one leaves, and so does a killed command: the same files to the bit"
    settings = dict(source=str(source), out=str(tmp_path/'clean'), scale='sample', changes=CHANGES, shards=2, workers=2)
    (tmp_path/'c.yaml').write_text(yaml.safe_dump(settings))
    command = [sys.executable, '-W', 'ignore', '-m', 'bilingual_embed.cli', 'prepare', '--config', str(tmp_path/'c.yaml')]
    def begun(): return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    run = begun()
    while not (orphans := busy_processes(run, tmp_path/'clean.work')): time.sleep(.05)
    run.kill()
    _,alive = psutil.wait_procs(orphans, timeout=60)
    for p in alive: p.kill()
    assert not alive                              # they end with their command
    run.communicate()

    run = begun()
    rng,killed = random.Random(1),0
    while run.poll() is None and killed < 2:      # three in a row and no task done: it would give up
        if busy := busy_processes(run, tmp_path/'clean.work'):
            os.kill(rng.choice(busy).pid, signal.SIGKILL)
            killed += 1
        time.sleep(rng.uniform(.1, .6))
    said = run.communicate(timeout=500)[0]
    assert run.returncode == 0, said
    assert killed and 'publish: done' in said
    assert open_corpus(tmp_path/'clean').digest == prepared.digest

def test_a_stopped_command_goes_on(source, prepared, tmp_path):
    c = config(source, tmp_path/'clean')
    job = do(c, STAGES[:4])
    shutil.rmtree(job.task('copies', 1))                                   # as if that task had been killed
    half = job.work/'copies'/'00001.dead.part'
    half.mkdir()
    (half/'exact.npy').write_text('half')
    made = job.task('clean').stat().st_mtime_ns
    with pytest.raises(ValueError, match='begun with other numbers'): do(replace(c, seed=1))
    assert do(c, STAGES[:-1]).task('clean').stat().st_mtime_ns == made      # not done again
    assert not half.exists()
    assert do(c).digest == prepared.digest
    assert prepare(c, log=quiet).digest == prepared.digest                  # ready: nothing to do

def test_a_task_is_on_disk_before_it_counts(tmp_path, monkeypatch):
    job = plan_job(Config('sample', str(tmp_path/'clean'), scale='sample'))
    flushed = set()
    monkeypatch.setattr(os, 'fsync', lambda fd: flushed.add(os.fstat(fd).st_ino))
    def work(job, n, folder):
        (folder/'of').mkdir()
        (folder/'of'/'rows').write_text('some')
        return {}
    run_task(work, job, 'demo', 0)
    done = job.task('demo')
    assert flushed >= {p.stat().st_ino for p in (done, *done.rglob('*'))}

def marked_done(job): # as datatrove marks them
    for s in STAGES:
        for n in range(s.tasks(job)):
            mark = job.work/'logs'/s.name/'completions'/f'{n:05d}'
            mark.parent.mkdir(parents=True, exist_ok=True)
            mark.touch()

def test_what_is_gone_is_made_again(tmp_path):
    c = Config(str(few(tmp_path/'mine')), str(tmp_path/'clean'), scale='sample', changes=CHANGES, tokens=False)
    job = plan_job(c)
    begin(job)
    marked_done(job)                       # and the folders of the tasks were deleted
    digest = prepare(c, log=quiet).digest
    assert not job.work.exists()

    (tmp_path/'clean').rename(tmp_path/'elsewhere')        # the result of jobs on Slurm, which leave the last task's folder
    begin(job)
    marked_done(job)
    job.task('publish').mkdir(parents=True)
    assert prepare(c, log=quiet).digest == digest

    begin(job)                                             # a command was killed when the result was there
    job.task('lay').mkdir(parents=True)
    (tmp_path/'clean'/'about.json').write_text('{}')
    assert prepare(c, log=quiet).digest == digest
    assert not job.work.exists() and not (tmp_path/'clean'/'about.json').exists()

def test_many_files_are_neither_open_together_nor_told_to_every_task(tmp_path, monkeypatch):
    resource = pytest.importorskip('resource')
    c = Config(str(few(tmp_path/'mine', 60, 2)), str(tmp_path/'clean'), scale='sample', shards=2,
               changes=CHANGES | {'text.mlm_chars': 30_000})
    job = do(c, STAGES[:1])
    soft,hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    free = sorted(set(range(1000)) - set(map(int, os.listdir('/dev/fd'))))
    resource.setrlimit(resource.RLIMIT_NOFILE, (free[15], hard))
    try:
        for s in STAGES[1:-1]:
            with monkeypatch.context() as m:
                if s.name in ('copies','gather','tokens'): m.setattr(steps, 'about', None)      # notes of other tasks
                for n in range(s.tasks(job)): run_task(s.work, job, s.name, n)
    finally: resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    assert steps.about(job, 'bars')['bars'][0][-1] < 1<<64             # there was a bar to find

def test_a_file_of_another_size_leaves_the_shards(tmp_path, monkeypatch):
    monkeypatch.setattr(configuration, 'SHARD', 1000)
    c = Config(str(few(tmp_path/'mine')), str(tmp_path/'clean'), scale='sample')
    job = plan_job(c)
    begin(job)
    file = tmp_path/'mine'/'text'/'tales0.en.jsonl'
    file.write_text(file.read_text()*2)                    # it was cut short
    again = plan_job(c)
    begin(again)
    assert again.shards == job.shards > 1
    file.write_text('')
    assert plan_job(replace(c, out=str(tmp_path/'other'), changes={'text.sample': True})).shards == 1

def test_what_is_left_out_is_told(tmp_path, capsys):
    (few(tmp_path/'mine')/'text'/'notes.jsonl').write_text('{"text": "In no language."}')
    c = Config(str(tmp_path/'mine'), str(tmp_path/'clean'), scale='sample', changes=CHANGES, tokens=False)
    said = []
    found = prepare(c, log=said.append)
    assert 'file name without a language' in said[0] and 'notes.jsonl' in said[0]
    assert [s['source'] for s in found.skips] == ['local/notes']
    (tmp_path/'c.yaml').write_text(yaml.safe_dump(dict(source=c.source, out=str(tmp_path/'other'), scale='sample')))
    assert main(['prepare', '--config', str(tmp_path/'c.yaml'), '--check']) == 0
    assert 'notes.jsonl' in capsys.readouterr().out

@pytest.mark.parametrize('name,encoding,n,cut', [('a.en.json', 'utf-8', 5, 30), ('a.en.json', 'latin-1', 600, 0),
    ('a.en.jsonl', 'utf-16', 5, 0), ('a.en.jsonl', 'utf-16', 5, 60), ('a.en.jsonl', 'utf-32', 5, 60)])
def test_files_cut_short_in_other_forms(tmp_path, name, encoding, n, cut):
    docs = rows()[0]['en']
    lines = [json.dumps(docs[i % len(docs)]) for i in range(n-1)]
    lines.append(json.dumps(dict(text='Wörter mit Umlauten zählen auch.'), ensure_ascii=False))
    whole = (f"[{', '.join(lines)}]" if name.endswith('.json') else ''.join(l+'\n' for l in lines)).encode(encoding)
    (tmp_path/'mine'/'text').mkdir(parents=True)
    (tmp_path/'mine'/'text'/name).write_bytes(whole[:len(whole)-cut])
    c = Config(str(tmp_path/'mine'), str(tmp_path/'clean'), scale='sample')
    if encoding == 'utf-16' and not cut: assert steps.about(do(c, STAGES[:1]), 'scan')['samples'][0]['rows'] == 5
    else:
        with pytest.raises(ValueError, match='is damaged|was cut short'): do(c, STAGES[:1])

def test_the_disk_is_for_what_stays(tmp_path, monkeypatch):
    c = Config(str(few(tmp_path/'mine', 2)), str(tmp_path/'clean'), scale='sample')
    size = sum(p.stat().st_size for p in (tmp_path/'mine'/'text').iterdir())
    usage = shutil.disk_usage('.')
    monkeypatch.setattr(shutil, 'disk_usage', lambda p: usage._replace(free=2*size))
    with pytest.raises(OSError, match='free some space'): do(c, STAGES[:2])
    do(replace(c, out=str(tmp_path/'other'), changes={'text.mlm_chars': size//8}), STAGES[:2])

def test_what_two_folders_share_is_on_disk_once(tmp_path):
    for name in 'ab': (tmp_path/name).mkdir()
    (tmp_path/'a'/'rows').write_text('x'*3000)
    os.link(tmp_path/'a'/'rows', tmp_path/'b'/'rows')
    (tmp_path/'b'/'more').write_text('x'*2000)
    counted = set()
    assert [steps._disk_MB(tmp_path/name, counted) for name in 'ab'] == [.003, .002]

def test_order_and_shards_change_nothing(tmp_path, prepared):
    "Rows shuffled over the files, other names of files, more shards: the same records and the same report"
    shuffled = written(tmp_path/'mine', random.Random(3))
    other = do(replace(config(shuffled, tmp_path/'clean', tokens=False), shards=5))
    assert records(other) == records(prepared)
    def counts(c): return sorted((r['kind'], r['source'], r['lang'], r['in'], r['left']) for r in c.report)
    assert counts(other) == counts(prepared)
    near = sum(r.get('near duplicate', 0) for r in prepared.report)
    assert near == 8 and sum(r['duplicate'] for r in prepared.report) == 11

def test_the_same_as_one_process(tmp_path):
    "Where no near duplicates compete for a place: the same records, report and held-out sets"
    source = written(tmp_path/'mine', near=False)
    c = config(source, tmp_path/'clean', tokens=False)
    many,one = do(c), load_corpus(c.recipe, cache=tmp_path/'cache', log=quiet)
    assert records(many) == records(one)
    assert sorted(map(str, many.report)) == sorted(map(str, one.report))
    held = [sorted((p.name, p.read_text()) for p in x.held_out.rglob('*.jsonl')) for x in (many, one)]
    assert held[0] == held[1]

def test_thinned_as_by_one_process(tmp_path):
    source = written(tmp_path/'mine', near=False)
    c = replace(config(source, tmp_path/'clean', tokens=False), changes=CHANGES | {'text.mlm_chars': 6000, 'text.pair_rows': 15})
    many,one = do(c), load_corpus(c.recipe, cache=tmp_path/'cache', log=quiet)
    def kept(corpus): return {r for r in records(corpus) if r.source != 'cloze'}
    assert kept(many) == kept(one)
    assert sum(len(r.text) for r in kept(many) if isinstance(r, Document) and r.lang == 'en') <= 6000

def test_training_reads_it_without_making_it_again(source, tmp_path, monkeypatch):
    monkeypatch.setattr(steps, '_SMALL', 0)                                     # so that tables are folders of files
    prepared = do(replace(config(source, tmp_path/'clean'), shards=3))
    assert all(t.path.is_dir() for t in prepared.tables if t.kind == 'document')
    r = config(prepared.folder, '').recipe
    corpus = load_corpus(r, log=quiet)
    assert corpus.digest == prepared.digest
    run = start_run(r, corpus, tmp_path/'run')
    tasks = mlm_tasks(run)
    assert [t.rows.path.parent.parent for t in tasks] == [prepared.folder]*3     # en, de, side by side
    assert not any((tmp_path/'run'/'tokens').iterdir())
    streams = mlm_streams(r)
    for name,task in zip(('en','de','parallel'), tasks):
        texts = corpus.parallel(streams[name]) if name == 'parallel' else corpus.texts(name, streams[name])
        alone = pack(texts, run.tokenizer, tmp_path/'alone.tokens', 64)         # the same stream, of one process
        assert np.array_equal(task.rows[np.arange(len(task.rows))], alone[np.arange(len(alone))])

    other = replace(r, tokenizer=replace(r.tokenizer, vocab_size=380))          # another vocabulary: made as ever
    run = start_run(other, corpus, tmp_path/'other')
    first = mlm_tasks(run)
    assert [t.rows.path.parent for t in first] == [tmp_path/'other'/'tokens']*3
    made = [t.rows.path.stat().st_mtime_ns for t in first]
    assert [t.rows.path.stat().st_mtime_ns for t in mlm_tasks(run)] == made     # once

SBATCH = '''#!/bin/bash
# stands for Slurm: keeps the script and, if asked to, does its tasks, in order
last="${@: -1}"
n=$(ls "$SLURM_TEST" | wc -l); cp "$last" "$SLURM_TEST/$n.slurm"; echo "$@" > "$SLURM_TEST/$n.args"
range=$(grep -oP '(?<=--array=)0-\\d+' "$last")
export SLURM_NODELIST=here SLURM_JOB_ID=$n
for i in $(seq 0 ${range#0-}); do [ -n "$SLURM_DOES" ] && SLURM_ARRAY_TASK_ID=$i bash "$last" >> "$SLURM_TEST/log" 2>&1; done
echo "Submitted batch job $((100+n))"
'''
@pytest.mark.parametrize('does', [False, pytest.param(True, marks=pytest.mark.slow)], ids=['scripts','done'])
def test_slurm(source, prepared, tmp_path, monkeypatch, does):
    "The scripts are submitted one after the other, each waits for the one before, and their tasks make the same"
    tools = tmp_path/'bin'
    tools.mkdir()
    task = '"from datatrove.tools.launch_pickled_pipeline import main; main()"'
    scripts = dict(sbatch=SBATCH, scontrol='#!/bin/bash\necho here\n', merge_stats='#!/bin/bash\n',
                   launch_pickled_pipeline=f'#!/bin/bash\nexec {sys.executable} -W ignore -c {task} "$@"\n')
    for name,text in scripts.items():
        (tools/name).write_text(text)
        (tools/name).chmod(0o755)
    monkeypatch.setenv('PATH', f"{tools}:{os.environ['PATH']}")
    monkeypatch.setenv('SLURM_TEST', str(tmp_path/'jobs'))
    monkeypatch.setenv('SLURM_DOES', 'yes' if does else '')
    (tmp_path/'jobs').mkdir()

    options = dict(partition='cpu', time='1:00:00', mem_per_cpu_gb=3, with_srun=False)
    c = config(source, tmp_path/'clean', engine='slurm', workers=7, options=options)
    job = do(replace(c, engine='local'), STAGES[:-2])           # the last two stages are left to Slurm
    said = []
    assert prepare(c, log=said.append) is None and said[-1].startswith('submitted as jobs')
    scripts = [p.read_text() for p in sorted((tmp_path/'jobs').glob('*.slurm'), key=lambda p: int(p.stem))]
    scripts = [s for s in scripts if 'launch_pickled_pipeline' in s]                # the others add up statistics
    assert len(scripts) == 2
    for line in ('--array=0-1%7', '--partition=cpu', '--mem-per-cpu=3G', '--job-name=prepare-tokens', '--time=1:00:00'):
        assert line in scripts[0], scripts[0]
    waits = [p.read_text() for p in (tmp_path/'jobs').glob('*.args')]
    assert any('--dependency=afterok:' in w for w in waits), waits
    prepare(c, log=said.append)
    assert ('clean is prepared already' if does else '--again submits what is missing') in ' '.join(said)
    if not does: return
    assert job.out.exists(), (tmp_path/'jobs'/'log').read_text()[-3000:]
    assert open_corpus(tmp_path/'clean').digest == prepared.digest

def slurm(tmp_path, source, **options):
    options = dict(partition='cpu', time='1:00:00') | options
    return Config(str(source), str(tmp_path/'clean'), scale='sample', engine='slurm', tokens=False, options=options)

def test_jobs_that_slurm_took_are_not_forgotten(tmp_path, monkeypatch):
    tools = tmp_path/'bin'
    tools.mkdir()
    (tools/'sbatch').write_text(f'#!/bin/bash\necho >> {tmp_path}/calls\nn=$(wc -l < {tmp_path}/calls)\n'
                                '[ $n -gt 4 ] && exit 1\necho "Submitted batch job $((100+n))"\n')
    (tools/'sbatch').chmod(0o755)
    c = slurm(tmp_path, few(tmp_path/'mine'))
    with monkeypatch.context() as m:
        m.setenv('PATH', str(tmp_path))
        with pytest.raises(RuntimeError, match='needs sbatch'): prepare(c, log=quiet)
    assert not (tmp_path/'clean.work').exists()
    monkeypatch.setenv('PATH', f"{tools}:{os.environ['PATH']}")
    with pytest.raises(RuntimeError, match='sbatch did not take clean .* jobs 101, 103 go on'): prepare(c, log=quiet)
    said = []
    assert prepare(c, log=said.append) is None and 'as jobs 101, 103; --again' in said[0]

def test_what_an_engine_lacks_is_told_at_once(tmp_path, monkeypatch, capsys):
    c = slurm(tmp_path, few(tmp_path/'mine'))
    with pytest.raises(ValueError, match='time is 86400; write it in quotes'): prepare(slurm(tmp_path, c.source, time=86400))
    (tmp_path/'c.yaml').write_text(yaml.safe_dump(dict(source=c.source, out=c.out, engine='slurm')))
    assert main(['prepare', '--config', str(tmp_path/'c.yaml'), '--check']) == 2
    assert 'must say time, partition' in capsys.readouterr().err
    monkeypatch.setattr(engine, 'find_spec', lambda name: None)
    with pytest.raises(ModuleNotFoundError, match='pip install ray'): prepare(replace(c, engine='ray', options={}), log=quiet)
    assert not (tmp_path/'clean.work').exists()
    monkeypatch.setattr(engine.multiprocessing, 'get_all_start_methods', lambda: ['spawn'])      # as on Windows
    assert engine._processes().get_start_method() == 'spawn'

def test_two_shards_cut_short_are_told_together(source, tmp_path):
    mine = tmp_path/'mine'
    shutil.copytree(source, mine)
    broken = [mine/'text'/'tales.de.jsonl'/'1.jsonl', mine/'pairs'/'talks.en-de.jsonl'/'0.jsonl']
    whole = [p.read_bytes() for p in broken]
    for p,b in zip(broken, whole): p.write_bytes(b[:-40])
    c = config(mine, tmp_path/'clean', tokens=False)
    with pytest.raises(RuntimeError, match='ends in the middle of a row.*1 more'): prepare(c, log=quiet)
    assert progress(plan_job(c))[0] == dict(stage='scan', tasks=6, done=4, failed=2)
    for p,b in zip(broken, whole): p.write_bytes(b)
    assert len(prepare(c, log=quiet).tables)
    assert not [p for p in (tmp_path/'clean.work').rglob('*.failed')]

def test_a_full_disk_is_told_before_cleaning(source, tmp_path, monkeypatch):
    usage = shutil.disk_usage('.')
    monkeypatch.setattr(shutil, 'disk_usage', lambda p: usage._replace(free=1000))
    with pytest.raises(RuntimeError, match='bars: the disk of .* has 0.0 GB free'):
        prepare(config(source, tmp_path/'clean'), log=quiet)

def test_command(tmp_path, capsys):
    (tmp_path/'c.yaml').write_text('source: nowhere\nout: clean\n')
    assert main(['prepare', '--config', str(tmp_path/'c.yaml')]) == 2
    assert 'nowhere is not a folder' in capsys.readouterr().err
    assert main(['prepare', '--config', str(tmp_path/'none.yaml')]) == 2
    ours = Path(__file__).parents[1]/'data'/'cluster'/'local.yaml'
    assert main(['prepare', '--config', str(ours), '--out', str(tmp_path/'clean'), '--check']) == 0
    assert capsys.readouterr().out.startswith('1 files, 1 shards, 2 at a time, on local')
    assert not (tmp_path/'clean.work').exists()

def test_a_table_of_many_batches_is_not_copied_to_take_a_few_rows(prepared):
    "Arrow's own take joins all batches of a column first"
    table = next(t for t in prepared.tables if t.kind == 'document')
    rows = np.arange(len(table))[::7]
    many = Table(table.path)
    many._hold(pa.concat_tables([many.table]*20_000))
    pool = pa.default_memory_pool()
    before = pool.max_memory()
    assert many.take(rows) == table.take(rows)
    assert pool.max_memory() < max(before, pool.bytes_allocated() + many.table.nbytes//2)
    assert many.table.nbytes > 2*before               # a copy would have been seen

def test_sentences_are_there(prepared):
    "The clozes of documents of several sentences"
    assert sum(len(t) for t in prepared.tables if t.source == 'cloze')
    assert len(sentences('One here. Two there.')) == 2
