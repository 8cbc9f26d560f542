"MTEB with our models and with tasks out of a folder: the same scores, another process, no network, a kill in between"
import importlib.util, json, os, signal, subprocess, sys, warnings

import pytest
from conftest import ROOT

if importlib.util.find_spec('mteb') is None: pytest.skip("mteb is not installed", allow_module_level=True)
import datasets, mteb
from datasets import Dataset, DatasetDict
from mteb.get_tasks import _TASKS_REGISTRY as REGISTRY
from bilingual_embed.evaluate.tasks import TRAINED_ON, as_mteb, evaluate, score_name
from bilingual_embed.evaluate.suites import SUITES, prepare, suite, task_folder
from bilingual_embed.evaluate.leaderboard import judge_suite, leaderboard, measured, mteb_command, published

# ---- names

@pytest.mark.parametrize('name', sorted({n for names in SUITES.values() for n in names}))
def test_mteb_knows_every_name_of_a_suite(name):
    if name.startswith('MTEB('): assert mteb.get_benchmark(name).tasks
    else: assert mteb.get_task(name).metadata.name == name

ADDED = dict( # to MTEB, by the paper
    de='MIRACLReranking GermanSTSBenchmark GerDaLIR GermanDPR XMarket',
    es='XMarket SpanishPassageRetrievalS2S SpanishPassageRetrievalS2P MIRACLRetrieval MintakaRetrieval XPQARetrieval '
       'SpanishNewsClusteringP2P MIRACLReranking STSES PawsXPairClassification')

def test_suites_have_what_the_paper_added():
    for name,added in ADDED.items():
        names = [t.metadata.name for t in suite(name, check=False)]
        assert set(added.split()) <= set(names), set(added.split()) - set(names)
        assert len(names) == len(set(names)), f"a task occurs twice in {name}"
    for t in suite('es', check=False):
        assert all('spa-Latn' in t.metadata.hf_subsets_to_langscripts[s] for s in t.hf_subsets), t
    assert all(t in REGISTRY for ts in TRAINED_ON.values() for t in ts)

def test_published_scores_have_our_names_and_mteb_s_metrics():
    "Else they would never meet a measured score"
    pub,names = published(),{}
    for n in {p.task.split('/')[0] for p in pub}:
        cls = REGISTRY.get(n) or REGISTRY[n.rsplit('.', 1)[0]]
        t = cls()
        names |= {score_name(t, split, s)[0]: t.metadata for split in t.eval_splits for s in t.hf_subsets}
    for p in pub:
        assert p.task in names, f"MTEB has no {p.task}"
        assert (p.kind, p.metric) == (names[p.task].type, names[p.task].main_score), p

# ---- a hub that never was: MTEB reads from it as it reads from the real one

TOPICS = dict(ship='The ship lies in the harbour', bread='We bake bread of flour',
              train='The train to the city is late', dog='The dog runs on the beach')
LINES = [f'{s} number {i}' for i in range(12) for s in TOPICS.values()]          # 48 texts, four topics
KEYS = [k for _ in range(12) for k in TOPICS]
ASKED = [f'Where is {t}?' for t in LINES]

def pairs(**more):
    return Dataset.from_dict(dict(sentence1=LINES[:16], sentence2=[f'{t} again' for t in LINES[1:17]], **more))
def lists(): # the old form of a clustering set: a row of lists
    return Dataset.from_dict(dict(sentences=[LINES*8], labels=[KEYS*8]))
def retrieval(ranked): # configuration -> table
    n = 8
    queries,documents = [f'q{i}' for i in range(n)],[f'd{i}' for i in range(24)]
    corpus = dict(_id=documents, title=['T']*24, text=LINES[:24])
    qrels = {'query-id':queries*2, 'corpus-id':documents[:n]+documents[1:n+1], 'score':[1]*n+[2]*n}
    out = dict(corpus=corpus, queries=dict(_id=queries, text=ASKED[:n]), qrels=qrels)
    if ranked: out['top_ranked'] = {'query-id':queries, 'corpus-ids':[documents[i:i+6] for i in range(n)]}
    return {k:Dataset.from_dict(v) for k,v in out.items()}

TASKS = { # languages of each
    'STSES':('es','es'), 'GermanSTSBenchmark':('de','de'), 'Tatoeba':('en','de'), 'NTREXBitextMining':('en','de'),
    'MTOPDomainClassification':('de','de'), 'TenKGnadClusteringP2P.v2':('de','de'), 'BlurbsClusteringS2S':('de','de'),
    'PawsXPairClassification':('de','de'), 'GermanDPR':('de','de'), 'MIRACLReranking':('de','de'),
    'BelebeleRetrieval':('en','de')}
KINDS = {'STS','BitextMining','Classification','Clustering','PairClassification','Retrieval','Reranking'}

def served(task, name): # what the hub sends: data set and configuration
    def splits(d): return DatasetDict(dict.fromkeys(('train','validation','test','devtest'), d))
    if task in ('GermanDPR','MIRACLReranking'):
        part = dict(default='qrels').get(name, name).split('-')[-1]
        return retrieval(task == 'MIRACLReranking')[part]
    if task == 'BelebeleRetrieval':
        passages = [f'{t} {name}' for t in LINES[:10]]
        links = [f'l{i}' for i in range(10)]
        return splits(Dataset.from_dict(dict(link=links, question=ASKED[:10], flores_passage=passages)))
    if task == 'NTREXBitextMining':
        langs = ('eng_Latn','deu_Latn','spa_Latn')
        return splits(Dataset.from_dict({l: [f'{t} {l[:1]}' for t in LINES[:10]] for l in langs}))
    if 'STS' in task: return splits(pairs(score=[i % 6 for i in range(16)]))
    if task == 'Tatoeba': return splits(pairs(lang=['deu-eng']*16))
    if task == 'PawsXPairClassification':
        label = [i % 2 for i in range(16)]
        return splits(pairs(label=label, labels=label))
    if task == 'MTOPDomainClassification':
        return splits(Dataset.from_dict(dict(text=LINES, label=[list(TOPICS).index(k) for k in KEYS])))
    return splits(lists())

@pytest.fixture
def hub(monkeypatch):
    "Serves TASKS; what is asked for is written down"
    import mteb.abstasks.abstask as at, mteb.abstasks.retrieval_dataset_loaders as rl
    tasks = {n: mteb.get_task(n) for n in TASKS}
    of,asked = {t.metadata.dataset['path']: n for n,t in tasks.items()},[]
    def load(path, name=None, split=None, **kw):
        asked.append((path, name))
        return served(of[path], name)
    for m in {at, rl, datasets, *(sys.modules[type(t).__module__] for t in tasks.values())}:
        if hasattr(m, 'load_dataset'): monkeypatch.setattr(m, 'load_dataset', load)

    def configurations(path, *a, **k):
        if of[path] == 'GermanDPR': return ['corpus','queries','default']
        return ['de-corpus','de-queries','de-qrels','de-top_ranked']
    monkeypatch.setattr(rl, 'get_dataset_config_names', configurations)
    monkeypatch.setattr(rl, 'get_dataset_split_names', lambda *a, **k: ['dev','test'])
    return asked

READ = """
import json, socket, sys, warnings
def connect(*a): raise OSError('a test wanted the network')
socket.socket.connect = connect; warnings.simplefilter('ignore')
from bilingual_embed import load
from bilingual_embed.evaluate.tasks import evaluate
from bilingual_embed.evaluate.suites import suite
model,data,tasks,out = sys.argv[1],sys.argv[2],json.loads(sys.argv[3]),sys.argv[4] or None
ts = [t for n,l in tasks.items() for t in suite(n, tuple(l), data=data, strict=True)]
print(json.dumps([[s.task, s.metric, s.value, s.n] for s in evaluate(load(model, device='cpu'), ts, out=out)]))
"""
def python(*args, code=0, timeout=170):
    path = f"{ROOT}{os.pathsep}{os.environ.get('PYTHONPATH','')}"
    env = os.environ | dict(PYTHONPATH=path, HF_HUB_OFFLINE='1', HF_DATASETS_OFFLINE='1')
    r = subprocess.run([sys.executable, *map(str, args)], capture_output=True, text=True, env=env, timeout=timeout)
    assert code is None or r.returncode == code, r.stderr[-3000:]
    return r

def test_prepared_tasks_give_the_same_scores_in_another_process(hub, embedder, model_folder, tmp_path):
    data = tmp_path/'mteb-data'
    at_hub = [t for n,l in TASKS.items() for t in suite(n, l, check=False)]
    assert {t.metadata.type for t in at_hub} == KINDS
    with warnings.catch_warnings():
        warnings.simplefilter('ignore')
        first = [[s.task, s.metric, s.value, s.n] for s in evaluate(embedder, at_hub)]
    rows = [r for n,l in TASKS.items() for r in prepare(n, data, l, check=False)]
    assert [r['state'] for r in rows] == ['prepared']*len(TASKS), rows
    n = len(hub)
    again = [r for name,l in TASKS.items() for r in prepare(name, data, l, check=False)]
    assert {r['state'] for r in again} == {'ready'} and len(hub) == n                # nothing is fetched twice
    files = {p.suffix for p in data.rglob('*') if p.is_file()}
    assert files == {'.parquet','.json'}, files
    for t in at_hub:
        assert (task_folder(t, data)/'task.json').is_file() and t.metadata.revision in str(task_folder(t, data))
    r = python('-c', READ, model_folder, data, json.dumps(TASKS), '')
    assert json.loads(r.stdout.splitlines()[-1]) == json.loads(json.dumps(first))
    assert len({round(v, 3) for _,_,v,_ in first}) > 6, f"the tasks are too easy to tell a wrong reading: {first}"

def test_what_cannot_be_fetched_is_told_and_the_rest_goes_on(hub, tmp_path, monkeypatch):
    import mteb.abstasks.abstask as at
    load = at.load_dataset
    def gone(path, *a, **k):
        if 'STSES' in path: raise ConnectionError('no such data set')
        return load(path, *a, **k)
    monkeypatch.setattr(at, 'load_dataset', gone)
    monkeypatch.setitem(SUITES, 'two', ('STSES','GermanSTSBenchmark'))
    rows = prepare('two', tmp_path, ('de','es'), check=False)
    assert [r['state'] for r in rows] == ['ConnectionError: no such data set', 'prepared']
    with pytest.warns(UserWarning, match="1 of 2 tasks of suite 'two' cannot be read.*\n  STSES is not there"):
        ready = suite('two', ('de','es'), data=tmp_path)
    assert [t.metadata.name for t in ready] == ['GermanSTSBenchmark']
    (task_folder(ready[0], tmp_path)).rename(tmp_path/'GermanSTSBenchmark'/'another')
    with pytest.raises(ValueError, match='prepared at revision another, and this MTEB evaluates'):
        suite('two', ('de','es'), data=tmp_path)

KILL = READ.replace("ts = [", """
import os, signal
from bilingual_embed.inference.embed import Embedder
real = Embedder.encode
def encode(self, texts, **kw): # dies at the first question: in the third task
    texts = list(texts)
    if any('Where is' in t for t in texts): os.kill(os.getpid(), signal.SIGKILL)
    return real(self, texts, **kw)
Embedder.encode = encode
ts = [""")
def test_a_killed_evaluation_goes_on_at_its_task(hub, embedder, model_folder, tmp_path, monkeypatch):
    from bilingual_embed.inference.embed import Embedder
    with_and_without_items = 'MTOPDomainClassification BlurbsClusteringS2S MIRACLReranking GermanDPR Tatoeba'
    names = {n: TASKS[n] for n in with_and_without_items.split()}
    data,out = tmp_path/'data',tmp_path/'out'
    seen,real = [],Embedder.encode
    for n,l in names.items(): prepare(n, data, l, check=False)
    python('-c', KILL, model_folder, data, json.dumps(names), out, code=-signal.SIGKILL)
    done = sorted(p.stem for p in out.rglob('*.json') if p.name != 'model_meta.json')
    assert done == ['BlurbsClusteringS2S','MTOPDomainClassification'], done
    def encode(self, texts, **kw):
        texts = list(texts)
        seen.extend(texts)
        return real(self, texts, **kw)
    monkeypatch.setattr(Embedder, 'encode', encode)
    def judge(out):
        seen.clear()
        with warnings.catch_warnings():
            warnings.simplefilter('ignore')
            tasks = [t for n,l in names.items() for t in suite(n, l, data=data)]
            return [(s.task, s.metric, s.value, s.n) for s in evaluate(embedder, tasks, out=out)]
    resumed = judge(out)
    assert LINES[30] not in seen, "a text that only the finished tasks hold was encoded again"
    assert any('Where is' in t for t in seen) and any(t.endswith('again') for t in seen)
    assert judge(out) == resumed and not seen                                        # and once more costs nothing
    assert judge(None) == resumed and LINES[30] in seen                              # as if nothing had happened

# ---- the ways into MTEB

@pytest.fixture
def prepared(hub, tmp_path):
    prepare('STSES', tmp_path/'data', ('es','es'), check=False)
    return tmp_path/'data'

def test_four_ways_to_one_score(prepared, embedder, model_folder, tmp_path):
    "as_mteb, judge_suite, our command in a process of its own, and sentence-transformers with bilingual_embed imported"
    from sentence_transformers import SentenceTransformer
    from bilingual_embed.inference.sentence_transformers import save_st
    folder = save_st(tmp_path/'st', embedder.model, embedder.tokenizer)
    def score(m):
        task = suite('STSES', ('es','es'), data=prepared)
        result = mteb.evaluate(m, task, cache=None, co2_tracker=False, show_progress_bar=False).task_results[0]
        return result.scores['test'][0]['main_score']

    ours = score(as_mteb(embedder))
    board = judge_suite(folder, 'STSES', tmp_path/'out', data=prepared, langs=('es','es'))
    assert board.table.loc['st','STSES/es'] == pytest.approx(100*ours, abs=1e-3)
    assert (board.table.origin == 'published').sum() > 5
    assert score(SentenceTransformer(str(folder), device='cpu')) == pytest.approx(ours, abs=1e-6)

    cmd = tmp_path/'cmd'
    python('-m', 'bilingual_embed.evaluate.leaderboard', 'run', '-m', folder, '-t', 'STSES', '--data', prepared,
           '--output-folder', cmd, '-v', '0')
    (s,) = measured(cmd)
    assert (s.task, s.run) == ('STSES/es', 'bilingual-embed/st') and s.value == pytest.approx(ours, abs=1e-6)
    record = json.loads(next(cmd.rglob('model_meta.json')).read_text())
    assert record['n_parameters'] == sum(p.numel() for p in embedder.model.parameters())
    assert (record['embed_dim'], record['max_tokens']) == (32, embedder.max_length)
    assert record['similarity_fn_name'] == 'cosine'
    assert str(tmp_path) not in json.dumps(record), "the record of a result names a folder of this machine"
    both = leaderboard([*measured(cmd), *measured(tmp_path/'out')], published=False).table
    assert set(both.index) == {'st','bilingual-embed/st'} and both['STSES/es'].std() < 1e-3

def test_the_suite_command(prepared, model_folder, tmp_path, capsys):
    from bilingual_embed.cli import main
    model = ['--data', str(prepared), '--model', str(model_folder)]
    assert main(['mteb','--suite','STSES','--langs','es-es', *model, '--out', str(tmp_path/'out')]) == 0
    table = (tmp_path/'out'/'leaderboard.csv').read_text()
    said = capsys.readouterr()
    assert 'STSES/es' in table and '*(published)*' in said.out
    assert model_folder.name in said.out and 'continues' in said.err

    assert main(['mteb','--suite','STSBenchmark','--langs','en-es', *model, '--out', str(tmp_path/'no')]) == 2
    assert 'STSBenchmark' in capsys.readouterr().err
    assert main(['mteb','--suite','nonsense', *model]) == 2
    assert 'nonsense' in capsys.readouterr().err

def test_mteb_alone_takes_no_folder(model_folder):
    "Why there is a command of ours; when this fails, MTEB has learned it"
    with warnings.catch_warnings():
        warnings.simplefilter('ignore')
        with pytest.raises(NotImplementedError, match='No model implementation'): mteb.get_model(f'{model_folder}/.')

def test_other_commands_of_mteb_pass_through(capsys):
    mteb_command(['available-tasks', '-t', 'STSES'])
    assert 'STSES' in capsys.readouterr().out
    with pytest.raises(SystemExit): mteb_command(['run', '--no-such-flag'])
    assert sys.argv[0] != 'mteb'
