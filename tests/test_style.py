"How the code looks: one statement a line, lines that fit, and what ruff and chkstyle find"
import io, subprocess, sys, tokenize
import pytest
from conftest import code_cells, ROOT

NBS = sorted(p for p in (ROOT/'nbs').rglob('*.ipynb') if '.ipynb_checkpoints' not in p.parts)
LIBRARY = sorted(p for p in (ROOT/'bilingual_embed').rglob('*.py') if p.stem != '_modidx')
SCRIPTS = sorted([*(ROOT/'tests').glob('*.py'), *(ROOT/'nbs').rglob('*.py'), *(ROOT/'.ci').rglob('*.py'),
                  ROOT/'setup.py', *(p for p in LIBRARY if p.stem == '__init__')])

# rules of chkstyle that are off, and why
CHKSTYLE_OFF = {
    'continuation-indent': "a continuation lines up under what it continues: columns of a table, terms of an equation",
    'lhs-assignment-annotation': "papermill shows a parameter's type, transformers reads those of a configuration's fields",
    'single-statement-body': "it joins an `if` and its body up to its own limit of 160 characters; ours is 120",
    'inefficient-multiline-expression': "a table is read down: a row a line, whatever would fit",
    'mixed-imports': "a cell that shows something may import what it shows",
    'consecutive-short-imports': "numpy as np and pytest read well on lines of their own"}

def pieces(p):
    "(cell, source) of a notebook's code cells, or a script as it is"
    return code_cells(p) if p.suffix == '.ipynb' else [('', p.read_text(encoding='utf-8'))]

def short(p): return p.relative_to(ROOT).as_posix()
def run(*command): return subprocess.run([sys.executable, *command], cwd=ROOT, capture_output=True, text=True)
def chkstyle(*args): return run('-c', 'from chkstyle.core import cli; cli()', *args)

def semicolons(text):
    return [t.start[0] for t in tokenize.generate_tokens(io.StringIO(text).readline) if t.type == tokenize.OP and t.string == ';']

@pytest.mark.parametrize('p', NBS + SCRIPTS, ids=short)
def test_one_statement_a_line(p):
    found = [(cell, line) for cell,text in pieces(p) for line in semicolons(text)]
    assert not found, f"{short(p)} has semicolons at (cell, line) {found[:5]}"

def exported_lines():
    return [(p, i, l) for p in LIBRARY for i,l in enumerate(p.read_text(encoding='utf-8').split('\n'), 1)]

def test_exported_lines_fit():
    "None above 160 characters, at most one in a hundred above 120"
    lines = [x for x in exported_lines() if x[2].strip()]
    above = [f'{short(p)}:{i}' for p,i,l in lines if len(l) > 160]
    assert not above, above[:10]
    long = [f'{short(p)}:{i}' for p,i,l in lines if len(l) > 120]
    assert len(long) <= len(lines)/100, f"{len(long)} of {len(lines)} exported lines are above 120 characters: {long[:20]}"

@pytest.mark.parametrize('p', NBS + SCRIPTS, ids=short)
def test_lines_fit(p):
    above = [(cell, i) for cell,text in pieces(p) for i,l in enumerate(text.split('\n'), 1) if len(l) > 160]
    assert not above, f"{short(p)} has lines above 160 characters at (cell, line) {above[:5]}"

def test_ruff_finds_nothing():
    r = run('-m', 'ruff', 'check', '--output-format', 'concise', '--no-cache')
    assert r.returncode == 0, r.stdout[-4000:] + r.stderr[-2000:]

def test_chkstyle_finds_nothing():
    paths = [short(p) for p in NBS + SCRIPTS]
    r = chkstyle('--ignore', ','.join(CHKSTYLE_OFF), *paths)
    assert r.returncode == 0, r.stdout[-6000:] + r.stderr[-2000:]

def test_the_rules_see_what_they_forbid(tmp_path):
    assert semicolons("a = 'x; y'  # no; really\nb = 1; c = 2\n") == [2]
    bad = tmp_path/'bad.py'
    bad.write_text("import os\nx = lambda: 1\n")
    r = run('-m', 'ruff', 'check', '--no-cache', '--config', str(ROOT/'ruff.toml'), str(bad))
    assert r.returncode == 1 and 'F401' in r.stdout and 'E731' in r.stdout, r.stdout
    bad.write_text('def f():\n    """Three quotes for one line"""\n    return 1\n')
    assert chkstyle(str(bad)).returncode == 1
