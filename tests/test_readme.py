"What the front page tells a user to type, typed as it stands"
import contextlib, importlib.util, io, json, re, shlex, subprocess, sys, warnings
import numpy as np
import pytest
from bilingual_embed.inference.sentence_transformers import save_st
from bilingual_embed.cli import main
from conftest import ROOT, STORY
from published import folder as published_folder

PAGE = (ROOT/'README.md').read_text(encoding='utf-8')
BLOCKS = re.findall(r'```(python|sh)\n(.*?)```', PAGE[PAGE.index('\n## Use it\n'):PAGE.index('\n## Change it\n')], re.S)
PYTHON = [b for k,b in BLOCKS if k == 'python']
SHELL = [shlex.split(l, comments=True) for k,b in BLOCKS if k == 'sh' for l in b.splitlines() if l.strip()]

@pytest.fixture(scope='module')
def desk(embedder, tmp_path_factory):
    "A folder with all that the page's commands name: a trained model, a downloaded one, texts, test sets"
    at = tmp_path_factory.mktemp('desk')
    save_st(at/'runs'/'cpu-en-de-42', embedder.model, embedder.tokenizer)
    published_folder(at/'jina-embeddings-v2-base-de', 'de', embedder.tokenizer)
    (at/'texts.txt').write_text('\n'.join(t for t,_ in STORY)+'\n', encoding='utf-8')
    (at/'articles.csv').write_text('id,title,body\n' + ''.join(f'{i},Title {i},"{t}"\n' for i,(t,_) in enumerate(STORY)), encoding='utf-8')
    tests = at/'my_tests'/'harbour'
    tests.mkdir(parents=True)
    (tests/'de-en.jsonl').write_text(''.join(json.dumps(dict(sentence1=STORY[i][0], sentence2=STORY[i-1][0]))+'\n' for i in (1,3)), encoding='utf-8')
    if importlib.util.find_spec('mteb'):
        import mteb
        from datasets import Dataset, DatasetDict
        from bilingual_embed.evaluate.suites import save_task
        (task,) = [t for t in mteb.get_tasks(tasks=['GermanSTSBenchmark'])]
        n = 12
        rows = Dataset.from_dict(dict(sentence1=[f'Satz {i}' for i in range(n)], sentence2=[f'Ein Satz {i*i}' for i in range(n)], score=[i % 6 for i in range(n)]))
        task.dataset,task.data_loaded = (DatasetDict(test=rows, validation=rows) if task.hf_subsets == ['default'] else {s: DatasetDict(test=rows, validation=rows) for s in task.hf_subsets}),True
        save_task(task, at/'mteb_de')
    return at

def needs(words, *packages):
    for p in packages:
        if re.search(rf'\b{p}\b', words) and importlib.util.find_spec(p) is None: pytest.skip(f"{p} is not installed")

def test_there_is_something_to_type(): assert len(PYTHON) >= 6 and len(SHELL) >= 10

def test_every_block_of_python(desk):
    "In the order of the page, each after the ones before it, as a reader goes through"
    needs(PAGE, 'mteb', 'onnxruntime', 'sentence_transformers')
    code = '\n'.join(PYTHON)
    assert {'load','convert','SentenceTransformer','AutoModel','as_mteb','InferenceSession'} <= set(re.findall(r'\w+', code))
    for line in SHELL:                                                               # ONNX Runtime reads what the command wrote
        if line[1] == 'export': go(desk, line)
    done = subprocess.run([sys.executable, '-W', 'ignore', '-c', code + '\nimport json, numpy as np; print(json.dumps([np.asarray(v).ravel().tolist() for v in (vectors, vector)]))'], cwd=desk, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr[-2000:]
    ours,onnx = map(np.array, json.loads(done.stdout.splitlines()[-1]))
    np.testing.assert_allclose(ours, onnx, atol=1e-5)

def go(desk, line):
    assert line[0] == 'bilingual-embed', line
    out,err = io.StringIO(),io.StringIO()
    with contextlib.chdir(desk), contextlib.redirect_stdout(out), contextlib.redirect_stderr(err), warnings.catch_warnings():
        warnings.simplefilter('ignore')
        try: code = main(line[1:])
        except SystemExit as e: code = e.code
    assert not code, (line, err.getvalue())
    return out.getvalue()

@pytest.mark.parametrize('line', [l for l in SHELL if l[1] != 'export'], ids=lambda l: ' '.join(l[1:3]))
def test_every_command(desk, line):
    if line[1] in ('evaluate','mteb','plan'): needs('mteb', 'mteb')
    if line[1] == 'search':
        go(desk, next(l for l in SHELL if '--out' in l and l[l.index('--out')+1] == line[line.index('--vectors')+1]))
    said = go(desk, line)
    if '--out' in line: assert (desk/line[line.index('--out')+1]).stat().st_size > 0
    if line[1] in ('search','evaluate','mteb','doctor','plan','train'): assert said.strip()
