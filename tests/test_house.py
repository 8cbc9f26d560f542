"The rules of the house that a machine can check"
import ast, configparser, json, re, shlex, sys
import importlib.metadata as md
from pathlib import Path
import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).resolve().parent.parent
LIB = ROOT/'bilingual_embed'
NBS = sorted((ROOT/'nbs').glob('[0-9]*.ipynb'))
ALL_NBS = sorted((ROOT/'nbs').rglob('*.ipynb'))
MODULES = sorted(p for p in LIB.glob('*.py') if p.stem not in ('__init__','_modidx'))
name = lambda p: p.stem

def read(nb): return json.loads(nb.read_text(encoding='utf-8'))
def source(cell): return ''.join(cell['source'])
def module(nb): # the module a notebook exports, or None
    found = [m for c in read(nb)['cells'] if c['cell_type'] == 'code' for m in re.findall(r'^#\|\s*default_exp\s+(\w+)', source(c), re.M)]
    assert len(found) < 2, f"{nb.name} has {len(found)} default_exp lines"
    return found[0] if found else None
FLOOR = {m: nb.stem for nb in NBS if (m := module(nb))}   # module -> its numbered notebook

def tree(m): return ast.parse((LIB/f'{m}.py').read_text(encoding='utf-8'))
def own(m): # modules of the library that a module imports, anywhere in it
    out = set()
    for n in ast.walk(tree(m)):
        if isinstance(n, ast.ImportFrom):
            parts = (n.module or '').split('.')
            if n.level == 1: out |= {parts[0]} if n.module else {a.name for a in n.names}
            elif n.level == 0 and parts[0] == 'bilingual_embed':
                out |= {parts[1]} if len(parts) > 1 else {a.name for a in n.names}
            elif n.level > 1: out.add('a package above the library')
        elif isinstance(n, ast.Import):
            out |= {a.name.split('.')[1] for a in n.names if a.name.startswith('bilingual_embed.')}
    return out
def foreign(m): # top-level packages from elsewhere, lazy imports included
    out = set()
    for n in ast.walk(tree(m)):
        if isinstance(n, ast.Import): out |= {a.name.split('.')[0] for a in n.names}
        elif isinstance(n, ast.ImportFrom) and n.level == 0: out.add(n.module.split('.')[0])
    return out - {'bilingual_embed'} - set(sys.stdlib_module_names)

# ---- rooms

def test_every_module_has_its_notebook_and_vice_versa():
    "A deleted notebook leaves its module behind, and nbdev_export says nothing"
    assert len(FLOOR) == sum(module(nb) is not None for nb in NBS), "two notebooks export to one module"
    assert {p.stem for p in MODULES} == set(FLOOR), f"modules without notebook: {sorted({p.stem for p in MODULES}-set(FLOOR))}; notebooks never exported: {sorted(set(FLOOR)-{p.stem for p in MODULES})}"

@pytest.mark.parametrize('nb', NBS, ids=name)
def test_numbered_notebooks_export(nb):
    assert module(nb), f"{nb.name} has a number and exports no module; it belongs in nbs/experiments"

@pytest.mark.parametrize('m', FLOOR)
def test_imports_only_from_below(m):
    above = [o for o in own(m) if o not in FLOOR or FLOOR[o] >= FLOOR[m]]
    assert not above, f"{m} (room {FLOOR[m]}) imports {above}, which live on its own floor or above; move the shared part down"

@pytest.mark.parametrize('nb', NBS, ids=name)
def test_notebook_uses_only_rooms_below(nb):
    "Cells that are not exported keep the order too: reading order is import order"
    used = {m for c in read(nb)['cells'] if c['cell_type'] == 'code' for m in re.findall(r'^\s*(?:from|import) bilingual_embed\.(\w+)', source(c), re.M)}
    above = [m for m in used if FLOOR.get(m, '~') > nb.stem]
    assert not above, f"{nb.name} uses {above} from above it"

def code_lines(text):
    "Lines that hold code or docstring: not blank, not a comment of their own, not the header that nbdev writes (module docstring and __all__)"
    body = text.split('\n# %% ../nbs/', 1)[-1]
    return [l for l in body.split('\n')[1:] if l.strip() and not l.strip().startswith('#')]

@pytest.mark.parametrize('p', MODULES, ids=name)
def test_room_is_small(p):
    n = len(code_lines(p.read_text(encoding='utf-8')))
    assert n <= 400, f"{p.name} has {n} lines of code; over 400 a room is split by letter"

@pytest.mark.parametrize('p', MODULES, ids=name)
def test_exported_names_are_documented(p):
    "Every function and class that a room exports says in a line what it is"
    bare = [n.name for n in tree(p.stem).body if isinstance(n, (ast.FunctionDef, ast.ClassDef)) and not n.name.startswith('_') and not ast.get_docstring(n)
            and not (isinstance(n, ast.ClassDef) and any(isinstance(b, ast.Name) and b.id.startswith('PreTrained') for b in n.bases))]
    assert not bare, f"{p.name}: no docstring on {', '.join(bare)}"

# ---- what the library may name

FORBIDDEN = {
    'a path of one machine': r'''(?<![\w.:/~])/(?:work|root|home|tmp|Users|mnt)\b''',
    'a registry or hub host': r'pypi\.org|pythonhosted|huggingface\.co|hf\.co|deb\.debian\.org|archive\.ubuntu|github\.com|gitlab\.com|npmjs|anaconda\.org',
    'loading that can run code': r'pickle\.load|torch\.load\s*\(|trust_remote_code\s*=\s*True|weights_only\s*=\s*False|allow_pickle\s*=\s*True|joblib\.load|yaml\.load\(|(?<![\w.])(?:eval|exec)\(',
    'a shell': r'shell\s*=\s*True|os\.system\(|os\.popen\(',
}
@pytest.mark.parametrize('what', FORBIDDEN)
@pytest.mark.parametrize('p', [*MODULES, LIB/'__init__.py'], ids=name)
def test_library_never_names(p, what):
    hits = [f'{i}: {l.strip()[:120]}' for i,l in enumerate(p.read_text(encoding='utf-8').split('\n'), 1) if re.search(FORBIDDEN[what], l)]
    assert not hits, f"{p.name} names {what}:\n" + '\n'.join(hits)

def test_the_rules_see_what_they_forbid():
    for what,line in {'a path of one machine': "open('/tmp/x')", 'a registry or hub host': 'https://pypi.org/simple', 'loading that can run code': 'torch.load(f)', 'a shell': 'run(c, shell=True)'}.items():
        assert re.search(FORBIDDEN[what], line), what
    for fine in ('nbs/tmp/x', 'model.eval()', 'work/root', "'a/home'"):
        assert not any(re.search(r, fine) for r in FORBIDDEN.values()), fine
    assert len(code_lines('"""doc"""\n\n__all__ = []\n\n# %% ../nbs/00_a.ipynb #1\nimport x\n\n# %% ../nbs/00_a.ipynb #2\n# why\ndef f():\n    "doc"\n')) == 3

# ---- notebooks

@pytest.mark.parametrize('nb', ALL_NBS, ids=name)
def test_outputs_are_kept_well(nb):
    "Outputs are evidence: no error among them, small, no path of the machine that made them, no flood of progress lines"
    cells = read(nb)['cells']
    total = 0
    for i,c in enumerate(cells):
        outs = c.get('outputs', [])
        total += len(json.dumps(outs))
        assert not [o for o in outs if o['output_type'] == 'error'], f"{nb.name} cell {i} holds an error"
        text = ''.join(''.join(o.get('text', '')) + ''.join(o.get('data', {}).get('text/plain', '')) for o in outs)
        assert len(outs) <= 20 and len(text) < 20_000, f"{nb.name} cell {i} has {len(outs)} outputs and {len(text):,} characters of text: {text[:200]}"
        m = re.search(r'(?<![\w.:/~])/(?:work|root|tmp|Users)/\S*|\S*site-packages\S*', text)
        assert not m, f"{nb.name} cell {i} shows {m.group()!r} of the machine it ran on; hide it or make it relative"
    assert total < 400_000, f"{nb.name} holds {total/1000:.0f} KB of outputs; draw smaller pictures"

@pytest.mark.parametrize('nb', ALL_NBS, ids=name)
def test_notebook_begins_with_title_and_one_line(nb):
    first = next(source(c) for c in read(nb)['cells'] if c['cell_type'] == 'markdown')
    assert re.match(r'# \S.*\n+> \S', first), f"{nb.name} begins with {first[:80]!r}; wanted a title and a > line"
    assert not re.search(r'^- ', first, re.M), f"{nb.name}: nbdev reads lines that begin with '- ' in the title cell as settings; put the list into a cell of its own"

@pytest.mark.skipif(not (ROOT/'nbs'/'run_all.ipynb').exists(), reason='no run_all.ipynb')
def test_run_all_keeps_its_parameters():
    "Without the tag papermill's values come first and the defaults overwrite them"
    cells = read(ROOT/'nbs'/'run_all.ipynb')['cells']
    tagged = [c for c in cells if 'parameters' in c['metadata'].get('tags', [])]
    assert len(tagged) == 1, f"{len(tagged)} cells of run_all.ipynb are tagged parameters"
    assert {'scale','langs','seed','out'} <= set(re.findall(r'^(\w+)\s*(?::\s*\w+\s*)?=', source(tagged[0]), re.M)), source(tagged[0])
    assert not any(c.get('outputs') for c in cells), "run_all.ipynb stays bare; its executed copy goes to the run folder"

def test_every_picture_has_its_numbers():
    bare = [p.name for p in (ROOT/'figures').glob('*.png') if not p.with_suffix('.csv').exists()]
    assert not bare, f"pictures without .csv: {bare}"

# ---- packaging

INI = configparser.ConfigParser(delimiters=['='])
INI.read(ROOT/'settings.ini', encoding='utf-8')
def requirements(*keys): return [Requirement(r) for k in keys for r in shlex.split(INI['DEFAULT'][k])]
def closure(names): # distributions these need, all the way down, as installed here
    todo,out = [canonicalize_name(n) for n in names],set()
    while todo:
        n = todo.pop()
        if n in out: continue
        try: needs = md.requires(n) or []
        except md.PackageNotFoundError: continue
        out.add(n)
        todo += [canonicalize_name(r.name) for r in map(Requirement, needs) if not r.marker or r.marker.evaluate(dict(extra=''))]
    return out
DISTS = {top: {canonicalize_name(d) for d in ds} for top,ds in md.packages_distributions().items()}
CORE = {canonicalize_name(r.name) for r in requirements('requirements')}
DECLARED = CORE | {canonicalize_name(r.name) for r in requirements('train_requirements')}
OPTIONAL = DECLARED | {canonicalize_name(r.name) for r in requirements('onnx_requirements', 'peers_requirements')}

@pytest.mark.parametrize('m', FLOOR)
def test_imports_are_declared(m):
    "What a room imports stands in settings.ini by its own name, not as somebody's dependency"
    from bilingual_embed.evaluate.baselines import PEERS
    # need not be installed here
    peer = {module: {canonicalize_name(package)} for module,package,*_ in PEERS.values()}
    lost = sorted(f for f in foreign(m) if not DISTS.get(f, peer.get(f, {canonicalize_name(f)})) & OPTIONAL)
    assert not lost, f"{m} imports {lost}; name them in settings.ini (requirements or train_requirements)"

def test_encoding_needs_the_core_alone():
    "`pip install .` without extras gives a library that encodes"
    todo,rooms = ['embed'],set()
    while todo:
        m = todo.pop()
        rooms.add(m)
        todo += own(m) - rooms
    for m in rooms:
        more = sorted(f for f in foreign(m) if not DISTS.get(f, {canonicalize_name(f)}) & CORE)
        assert not more, f"{m}, which encoding needs, imports {more}: only settings.ini's requirements ({', '.join(sorted(CORE))}) may be used there"

def test_constraints_cover_what_is_asked_for():
    "constraints.txt pins each requirement, to a version settings.ini accepts"
    pins = dict(l.split('==') for l in (ROOT/'constraints.txt').read_text().split('\n') if l.strip() and not l.startswith('#'))
    for r in requirements('requirements', 'train_requirements', 'onnx_requirements', 'dev_requirements'):
        assert r.name in pins or canonicalize_name(r.name) in map(canonicalize_name, pins), f"{r.name} has no line in constraints.txt; run python .ci/pin"
        v = next(v for n,v in pins.items() if canonicalize_name(n) == canonicalize_name(r.name))
        assert r.specifier.contains(v, prereleases=True), f"constraints.txt has {r.name}=={v}, settings.ini wants {r}"
    assert not any('+' in v for v in pins.values()), "a local version (+cpu) cannot be installed elsewhere"

def test_readme_is_the_front_page():
    "README.md is made from nbs/index.ipynb, never edited"
    import subprocess
    r = subprocess.run([sys.executable, str(ROOT/'.ci'/'readme'), '--check'], capture_output=True, text=True)
    assert r.returncode == 0, r.stderr
