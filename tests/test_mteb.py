"MTEB with our models and with tasks out of a folder: the same scores, another process, no network, a kill in between"
import importlib.util, json, os, signal, subprocess, sys, tempfile, warnings, zlib
from types import SimpleNamespace

import numpy as np, pytest, scipy.sparse, torch
from conftest import ROOT
from hypothesis import example, given, settings, strategies as st

if importlib.util.find_spec('mteb') is None: pytest.skip("mteb is not installed", allow_module_level=True)
import datasets, mteb
from datasets import Dataset, DatasetDict
from mteb.get_tasks import _TASKS_REGISTRY as REGISTRY
from mteb.types import PromptType
from bilingual_embed.data.bm25 import BM25
from bilingual_embed.data.test_sets import TestSet
from bilingual_embed.evaluate.tasks import TRAINED_ON, as_mteb, as_task, evaluate, evaluate_items, Items
from bilingual_embed.evaluate.tasks import model_meta, ndcg, score_name
from bilingual_embed.evaluate.baselines import TfidfEncoder
from bilingual_embed.evaluate.verdict import bootstrap, resamples
from bilingual_embed.evaluate.suites import SUITES, prepare, suite, task_folder
from bilingual_embed.evaluate.leaderboard import evaluate_suite, leaderboard, measured, mteb_command, published

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
def python(*args, code=0, timeout=500):
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
    "as_mteb, evaluate_suite, our command in a process of its own, and sentence-transformers with bilingual_embed imported"
    from sentence_transformers import SentenceTransformer
    from bilingual_embed.inference.sentence_transformers import save_st
    folder = save_st(tmp_path/'st', embedder.model, embedder.tokenizer)
    def score(m):
        task = suite('STSES', ('es','es'), data=prepared)
        result = mteb.evaluate(m, task, cache=None, co2_tracker=False, show_progress_bar=False).task_results[0]
        return result.scores['test'][0]['main_score']

    ours = score(as_mteb(embedder))
    board = evaluate_suite(folder, 'STSES', tmp_path/'out', data=prepared, langs=('es','es'))
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

# ---- retrieval as trec_eval scores it

DOCUMENTS = [f'd{i}' for i in (0, 1, 10, 2, 3, 4, 5, 6, 7, 8, 9, 11)] + ['ä', 'ae', 'Z']
# pytrec_eval damages its memory at gains below -1, which occur in TREC's files; `as_task` takes them for 0
gains = st.dictionaries(st.sampled_from(DOCUMENTS), st.integers(-1, 3), max_size=6)
# few different scores, so that many are equal; two differ by less than single precision can tell
points = st.sampled_from([0., .25, .5, .5+1e-12, 1., -1.])
ranking = st.dictionaries(st.sampled_from(DOCUMENTS), points, max_size=len(DOCUMENTS))

def trec_eval(qrels, run, k=10):
    "nDCG@k of each query that is judged and was asked"
    import pytrec_eval
    found = pytrec_eval.RelevanceEvaluator(qrels, {f'ndcg_cut.{k}'}).evaluate(run)
    return {q: v[f'ndcg_cut_{k}'] for q,v in found.items()}

@given(qrels=gains.filter(bool), run=ranking, k=st.integers(1, 12))
@example(qrels={'d1': 0}, run={'d1': 1.}, k=10)
@example(qrels={'d0': 1, 'd1': -1}, run={'d1': .7, 'd0': .5}, k=10)
@example(qrels={'d0': 1}, run={'d0': .5+1e-12, 'd1': .5}, k=1)
@example(qrels={'d0': 1}, run={}, k=3)
def test_ndcg_is_that_of_trec_eval(qrels, run, k):
    assert ndcg(qrels, run, k) == pytest.approx(trec_eval({'q': qrels}, {'q': run}, k)['q'], abs=1e-9)
    junk = {d: g if g > 0 else -2 for d,g in qrels.items()}
    assert ndcg(junk, run, k) == ndcg(qrels, run, k)

@pytest.mark.parametrize('gain', [.5, 1., '1', None])
def test_a_gain_that_is_not_whole_is_refused_as_trec_eval_does(gain):
    with pytest.raises(TypeError): trec_eval({'q': {'d': gain}}, {'q': {'d': 1.}})
    with pytest.raises(ValueError, match='whole numbers'): ndcg({'d': gain}, {'d': 1.})

class Fixed:
    "A ranker that gives the scores it was made with"
    name,revision = 'fixed','1'
    def __init__(self, scores): self.table = scores      # query -> document -> score, both by their texts
    def rank(self, queries, documents, langs):
        return np.array([[self.table[q][d] for d in documents] for q in queries])

def search_task(qrels, documents):
    "A task whose texts are the ids"
    data = dict(corpus={d: d for d in documents}, queries={q: q for q in qrels}, qrels=qrels)
    task = as_task(TestSet('drawn', 'Retrieval', {'en': data}, 'r1'))
    task.k_values = 1,10       # MTEB takes most of a second for the others
    return task

@st.composite
def searches(draw): # (qrels, all documents' scores for each query)
    documents = draw(st.lists(st.sampled_from(DOCUMENTS), min_size=1, unique=True))
    of_documents = st.sampled_from(documents)
    qrels = draw(st.dictionaries(st.sampled_from(['q0','q1','q2']), st.dictionaries(of_documents, st.integers(-2, 2),
                                                                                    min_size=1), min_size=1))
    return qrels,{q: {d: draw(points) for d in documents} for q in qrels}

@settings(max_examples=6)
@given(drawn=searches())
@example(drawn=({'q0': {'d0': 1}, 'q1': {'d1': 0}}, {q: dict(d0=.5, d1=.2) for q in ('q0','q1')}))
@example(drawn=({'q0': {'d0': -1}}, {'q0': dict(d0=.5)}))
@pytest.mark.filterwarnings('ignore')
def test_retrieval_scores_items_and_bootstraps_are_mteb_s(drawn):
    qrels,scores = drawn
    task = search_task(qrels, next(iter(scores.values())))
    expected = trec_eval({q: {d: max(g, 0) for d,g in gs.items()} for q,gs in qrels.items()}, scores)
    with tempfile.TemporaryDirectory() as out:
        s, = evaluate(Fixed(scores), [task], out=out)          # MTEB's own number
        items, = evaluate_items(Fixed(scores), [task], out=out)
    assert s.n == len(qrels) and s.value == pytest.approx(np.mean(list(expected.values())), abs=1e-5)
    np.testing.assert_allclose(items.values, [expected[q] for q in qrels], atol=1e-9)
    drawn_anew = [w @ items.values/len(qrels) for w in np.concatenate(list(resamples(len(qrels), 20, seed=3)))]
    np.testing.assert_allclose(bootstrap(items, 20, seed=3), drawn_anew, atol=1e-6)
    assert items.score() == pytest.approx(s.value, abs=1e-5)

def test_the_issue_of_a_query_without_a_relevant_document():
    "mteb counts it, with 0"
    qrels,scores = {'q0': {'d0': 1}, 'q1': {'d1': 0}},{q: dict(d0=.5, d1=.2) for q in ('q0','q1')}
    items, = evaluate_items(Fixed(scores), [search_task(qrels, ('d0','d1'))])
    assert items.values.tolist() == [1., 0.] and items.score() == .5
    assert set(bootstrap(items, 50)) == {0., .5, 1.}

def test_equal_scores_beyond_the_cut_are_chosen_by_id():
    "Of 1,500 documents with one score the answer is the first in trec_eval's order"
    ids = [f'd{i:04}' for i in range(1500)]
    scores,qrels = {'q': dict.fromkeys(ids, 0.)},{'q': {ids[-1]: 1}}
    assert evaluate(Fixed(scores), [search_task(qrels, ids)])[0].value == 1.

def test_a_pair_set_without_a_positive_pair_scores_0(): # scikit-learn's answer, so MTEB's
    items = Items('p', 'en', 'PairClassification', 'cosine_ap', np.array([[0,.1],[0,.2]]), 2, 'r', 'v', 'd')
    assert items.score() == 0. and not bootstrap(items, 5).any()

@pytest.mark.parametrize('scores,words', [(np.zeros((1,1)), 'expected'), (np.full((1,2), np.nan), 'NaN')])
def test_a_broken_ranker_is_named(scores, words):
    class Broken(Fixed):
        def rank(self, *a): return scores
    with pytest.raises(ValueError, match=f'ranker fixed returned.*{words}'):
        evaluate(Broken({}), [search_task({'q': {'d0': 1}}, ('d0','d1'))])

# ---- the contract of MTEB's encoders

def rows(n): return np.random.default_rng(n).normal(size=(n, 8)).astype(np.float32)

def cosines(a, b): # by the definition
    a,b = (np.atleast_2d(np.asarray(x, np.float64)) for x in (a, b))
    return np.array([[x@y/(np.linalg.norm(x)*np.linalg.norm(y)) for y in b] for x in a])

FORMS = dict( # what MTEB and its users hold vectors in
    arrays=np.asarray, half=lambda x: np.asarray(x, np.float16), double=lambda x: np.asarray(x, np.float64),
    tensors=lambda x: torch.tensor(x), halves=lambda x: torch.tensor(x, dtype=torch.float16),
    brain=lambda x: torch.tensor(x, dtype=torch.bfloat16), learned=lambda x: torch.tensor(x, requires_grad=True),
    lists=lambda x: x.tolist(), list_of_arrays=list, list_of_tensors=lambda x: list(torch.tensor(x)))

@pytest.mark.parametrize('form', FORMS)
@pytest.mark.parametrize('shapes', ['D D', 'D ND', 'ND D', 'ND MD'])
def test_similarity_of_vectors_in_any_form(embedder, form, shapes):
    a,b = (x[0] if s == 'D' else x for x,s in zip((rows(3), rows(4)), shapes.split()))
    got = as_mteb(embedder).similarity(FORMS[form](a), FORMS[form](b))
    assert torch.is_tensor(got) and got.shape == (1 if a.ndim == 1 else 3, 1 if b.ndim == 1 else 4)
    np.testing.assert_allclose(got, cosines(a, b), atol=.02 if form == 'brain' else 2e-3)
    if shapes == 'ND D': return
    got = as_mteb(embedder).similarity_pairwise(FORMS[form](a), FORMS[form](b[:3] if b.ndim > 1 else b))
    wanted = cosines(a, b)[0] if shapes == 'D ND' else np.diag(cosines(a, b))
    assert got.shape == (wanted.shape if shapes != 'D ND' else (3,))
    np.testing.assert_allclose(got, wanted[:3], atol=.02 if form == 'brain' else 2e-3)

def test_similarity_of_a_zero_vector_is_0(embedder):
    m = as_mteb(embedder)
    assert m.similarity(np.zeros(8), rows(2)).tolist() == [[0., 0.]]
    assert m.similarity_pairwise(np.zeros(8), np.ones(8)).tolist() == [0.]

def batches(texts, **more): # as MTEB's loaders give them
    columns = dict(text=texts, **more)
    return [{k: v[i:i+2] for k,v in columns.items()} for i in range(0, len(texts), 2)]

def about(name='X', kind='STS'): # what the encoder reads of a task
    return SimpleNamespace(name=name, type=kind, hf_subsets_to_langscripts=dict(default=['eng-Latn']))

def test_encode_takes_every_batch_and_every_option(embedder, monkeypatch):
    m,texts = as_mteb(embedder),['the harbour','die Boote','in fog','lies']
    task = dict(task_metadata=about(), hf_split='test', hf_subset='default')
    plain = embedder.encode(texts)
    np.testing.assert_array_equal(m.encode(batches(texts), **task), plain)
    speed = dict(batch_size=1, show_progress_bar=False, convert_to_tensor=True)     # no other vectors for these
    np.testing.assert_array_equal(m.encode(batches(texts, title=texts), **task, **speed), plain)
    short = embedder.encode(texts, truncate_dim=8)
    np.testing.assert_array_equal(m.encode(batches(texts), **task, truncate_dim=8), short)
    assert m.encode([], **task).shape == (0, embedder.dim)
    with pytest.raises(TypeError, match='precision'): m.encode(batches(texts), **task, precision='int8')

    monkeypatch.setattr(embedder, 'prompts', dict(query='Q: ', document='D: ', mine='M: '))
    m = as_mteb(embedder)
    for side,words in zip(PromptType, ('Q: ','D: ')):
        wanted = embedder.encode([words+t for t in texts])
        np.testing.assert_array_equal(m.encode(batches(texts), **task, prompt_type=side), wanted)
    np.testing.assert_array_equal(m.encode(batches(texts), **task, prompt_name='mine'),
                                  embedder.encode(['M: '+t for t in texts]))

def spelled(texts): # counts of pairs of letters, hashed
    x = np.zeros((len(texts), 512), np.float32)
    for row,t in zip(x, texts):
        for i in range(len(t)-1): row[zlib.crc32(t[i:i+2].encode()) % 512] += 1
    return x/np.linalg.norm(x, axis=1, keepdims=True)

class Letters:
    name,revision = 'letters','1'
    def encode(self, texts): return spelled(texts)
class SparseLetters(Letters):
    def encode(self, texts): return scipy.sparse.csr_matrix(spelled(texts))
class RankedLetters(Letters):
    def rank(self, queries, documents, langs): return spelled(queries) @ spelled(documents).T

def test_candidates_and_titles_count_for_every_kind_of_model(hub):
    "Reranking is among the candidates of each query; what is a document's text is one for all"
    for name in ('MIRACLReranking','GermanDPR'):
        task, = suite(name, ('de','de'), check=False)
        task.k_values = 1,10,1000
        models = Letters(),SparseLetters(),RankedLetters()
        dense,sparse,ranked = ({s.metric: s.value for s in evaluate(m, [task])} for m in models)
        assert dense == pytest.approx(sparse, abs=1e-5) and dense == pytest.approx(ranked, abs=1e-5)
        assert .2 < dense['ndcg_at_10'] < 1

@pytest.mark.filterwarnings('ignore')
def test_evaluating_again_and_otherwise_changes_nothing(hub, embedder, tmp_path, monkeypatch):
    "From the cache, in other batches, from the model's record; and MTEB's numbers are ours"
    tasks = [t for n in ('STSES','GermanDPR','Tatoeba') for t in suite(n, TASKS[n], check=False)]
    def scores(model, **kw):
        r = mteb.evaluate(model, tasks, co2_tracker=False, show_progress_bar=False, **dict(cache=None) | kw)
        return {t.task_name: t.scores['test'][0]['main_score'] for t in r.task_results}
    cache = mteb.ResultCache(cache_path=tmp_path)
    first = scores(as_mteb(embedder), cache=cache)
    assert scores(as_mteb(embedder), encode_kwargs=dict(batch_size=3)) == first
    assert scores(model_meta(embedder)) == first
    ours = {s.task.split('/')[0]: s.value for s in evaluate(embedder, tasks)}
    assert ours == pytest.approx(first, abs=1e-5)
    monkeypatch.setattr(type(embedder), 'encode', None)
    assert scores(as_mteb(embedder), cache=cache) == pytest.approx(first, abs=1e-5)

@pytest.mark.slow
@pytest.mark.filterwarnings('ignore')
def test_every_kind_of_text_task_runs(embedder):
    "MTEB's own small tasks, one of each kind and more, with a model, sparse rows and a ranker"
    from mteb.mocks import ALL_MOCK_TASK_TEST_GRID as grid
    tasks = {t.metadata.name: t for t in grid if t.metadata.modalities == ['text']}
    assert len(tasks) >= 28
    for model in (embedder, TfidfEncoder(['The dog runs on the beach']), BM25()):
        ran = mteb.mock_run(as_mteb(model))
        failed = [n for n in tasks if n in ran and type(ran[n]).__name__ == 'TaskError']
        assert not failed, (model.name, failed)
        if model is embedder: assert {n for n,r in ran.items() if r is not None} >= set(tasks)
