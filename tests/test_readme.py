"What the front page tells a user to type, typed as it stands"
import contextlib, importlib.util, io, json, re, shlex, subprocess, sys, warnings
import numpy as np
import pytest
from bilingual_embed.cli import main
from conftest import ROOT, STORY

PAGE = (ROOT/'README.md').read_text(encoding='utf-8')

def section(title):
    start = PAGE.index(f'\n## {title}\n')
    end = PAGE.find('\n## ', start+1)
    return PAGE[start:end]

def blocks(text, kind): return re.findall(rf'```{kind}\n(.*?)```', text, re.S)

PYTHON = blocks(section('Install'), 'python') + blocks(section('Use it elsewhere'), 'python')
SHELL = [shlex.split(l, comments=True) for b in blocks(section('Use it elsewhere'), 'sh') for l in b.splitlines() if l.strip()]

def write_lines(path, rows):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(''.join(r if isinstance(r, str) else json.dumps(r) + '\n' for r in rows), encoding='utf-8')

@pytest.fixture(scope='module')
def desk(tmp_path_factory):
    "A folder with the files that the page's commands name: texts, a table, a test set"
    at = tmp_path_factory.mktemp('desk')
    write_lines(at/'texts.txt', [t + '\n' for t,_ in STORY])
    write_lines(at/'articles.csv', ['id,title,body\n', *(f'{i},Title {i},"{t}"\n' for i,(t,_) in enumerate(STORY))])
    write_lines(at/'my_tests'/'harbour'/'de-en.jsonl', [dict(sentence1=STORY[i][0], sentence2=STORY[i-1][0]) for i in (1,3)])
    return at

def needs(words, *packages):
    for p in packages:
        if re.search(rf'\b{p}\b', words) and importlib.util.find_spec(p) is None: pytest.skip(f"{p} is not installed")

def go(desk, line):
    "Run a command of the page in the folder; what it printed"
    assert line[0] == 'bilingual-embed', line
    out,err = io.StringIO(),io.StringIO()
    with contextlib.chdir(desk), contextlib.redirect_stdout(out), contextlib.redirect_stderr(err), warnings.catch_warnings():
        warnings.simplefilter('ignore')
        try: code = main(line[1:])
        except SystemExit as e: code = e.code
    assert not code, (line, err.getvalue())
    return out.getvalue()

def test_the_page_is_short_and_there_is_something_to_type():
    assert PAGE.count('\n') <= 150
    assert len(PYTHON) >= 4 and len(SHELL) >= 8

def test_every_link_leads_somewhere():
    for text,target in re.findall(r'\[([^\]]*)\]\(([^)\s]+)\)', PAGE):
        if not re.match(r'https?:', target): assert (ROOT/target.split('#')[0]).exists(), (text, target)

def test_every_file_that_is_named_is_a_link():
    "In the prose; commands and code name what they name"
    prose = re.sub(r'```.*?```', '', PAGE, flags=re.S)
    prose = re.sub(r'!?\[[^\]]*\]\([^)]*\)', '', prose)
    named = re.findall(r'`((?:nbs|data|tests|figures)/[\w./]+|[\w/]+\.(?:ipynb|md|py|cff))`', prose)
    assert set(named) <= {'nbs/', 'out.ipynb'}, named

def test_every_block_of_python(desk):
    "In the order of the page, each after the ones before it, as a reader goes through"
    needs(PAGE, 'mteb', 'onnxruntime', 'sentence_transformers')
    code = '\n'.join(PYTHON)
    assert {'load','SentenceTransformer','AutoModel','as_mteb','InferenceSession'} <= set(re.findall(r'\w+', code))
    for line in SHELL:
        if line[1] == 'export': go(desk, line)                # ONNX Runtime reads what the command wrote
    code += """
import json
exact = bilingual_embed.load('en-de').encode('Wo ist der Bahnhof?')
print(json.dumps([[float(x) for x in v] for v in (exact, vector[0], vectors[0])]))
"""
    done = subprocess.run([sys.executable, '-W', 'ignore', '-c', code], cwd=desk, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr[-2000:]
    exact,onnx,st = map(np.array, json.loads(done.stdout.splitlines()[-1]))
    np.testing.assert_allclose(onnx, exact, atol=1e-5)
    np.testing.assert_allclose(st, exact, atol=1e-5)

def test_the_first_example_prints_what_the_page_shows(capsys):
    shown = re.search(r'```python\n(import bilingual_embed\n.*?)```\n+```\n(.*?)```', section('Install'), re.S)
    exec(shown[1], {})
    assert capsys.readouterr().out.strip() == shown[2].strip()

@pytest.mark.parametrize('line', [l for l in SHELL if l[1] != 'export'], ids=lambda l: ' '.join(l[1:3]))
def test_every_command(desk, line):
    if line[1] in ('evaluate','plan'): needs('mteb', 'mteb')
    if '--vectors' in line:
        vectors = line[line.index('--vectors')+1]
        go(desk, next(l for l in SHELL if '--out' in l and l[l.index('--out')+1] == vectors))
    said = go(desk, line)
    if '--out' in line: assert (desk/line[line.index('--out')+1]).stat().st_size > 0
    if line[1] in ('search','evaluate','doctor','plan'): assert said.strip()
