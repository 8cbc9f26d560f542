"The rules of the house that a machine can check"
import ast, configparser, json, re, shlex, subprocess, sys
import importlib.metadata as md
import pytest
from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet
from packaging.utils import canonicalize_name
from conftest import code_cells, ROOT

LIB = ROOT/'bilingual_embed'
NBS = sorted((ROOT/'nbs').glob('[0-9]*.ipynb'))
ALL_NBS = sorted((ROOT/'nbs').rglob('*.ipynb'))
MODULES = sorted(p for p in LIB.rglob('*.py') if p.stem not in ('__init__','_modidx'))
def name(p): return p.stem

def read(nb): return json.loads(nb.read_text(encoding='utf-8'))
def source(cell): return ''.join(cell['source'])
# bilingual_embed/data/clean.py -> data.clean
def dotted(path): return '.'.join(path.relative_to(LIB).with_suffix('').parts)

def module(nb):
    "The module that a notebook exports, or None"
    found = [m for _,s in code_cells(nb) for m in re.findall(r'^#\|\s*default_exp\s+([\w.]+)', s, re.M)]
    assert len(found) < 2, f"{nb.name} has {len(found)} default_exp lines"
    return found[0] if found else None

FLOOR = {m: nb.stem for nb in NBS if (m := module(nb))}   # module -> its numbered notebook
PATHS = {dotted(p): p for p in MODULES}

def tree(m): return ast.parse(PATHS[m].read_text(encoding='utf-8'))

def imported(m):
    "(module of the library, name) of everything that a module imports from the library, anywhere in it"
    package = m.split('.')[:-1]
    for n in ast.walk(tree(m)):
        if isinstance(n, ast.Import):
            for a in n.names:
                if a.name.startswith('bilingual_embed.'): yield a.name.removeprefix('bilingual_embed.'), None
        elif isinstance(n, ast.ImportFrom):
            parts = (n.module or '').split('.') if n.module else []
            if n.level: parts = package[:len(package)-n.level+1] + parts
            elif parts[:1] == ['bilingual_embed']: parts = parts[1:]
            else: continue
            for a in n.names:
                whole = '.'.join([*parts, a.name])
                yield (whole, None) if whole in PATHS else ('.'.join(parts), a.name)

def own(m): return {o for o,_ in imported(m)}

def foreign(m):
    "Top-level packages from elsewhere, late imports included"
    out = set()
    for n in ast.walk(tree(m)):
        if isinstance(n, ast.Import): out |= {a.name.split('.')[0] for a in n.names}
        elif isinstance(n, ast.ImportFrom) and n.level == 0: out.add(n.module.split('.')[0])
    return out - {'bilingual_embed'} - set(sys.stdlib_module_names)

# ---- notebooks and modules

def test_every_module_has_its_notebook_and_vice_versa():
    "A deleted notebook leaves its module behind, and nbdev_export says nothing"
    assert len(FLOOR) == sum(module(nb) is not None for nb in NBS), "two notebooks export to one module"
    without,never = sorted(set(PATHS)-set(FLOOR)), sorted(set(FLOOR)-set(PATHS))
    assert not without and not never, f"modules without notebook: {without}; notebooks never exported: {never}"

@pytest.mark.parametrize('nb', NBS, ids=name)
def test_notebook_is_named_after_its_module(nb):
    assert module(nb), f"{nb.name} has a number and exports no module; it belongs in nbs/experiments"
    assert nb.stem.split('_', 1)[1] == module(nb), f"{nb.name} exports {module(nb)}; name it NN_{module(nb)}.ipynb"

@pytest.mark.parametrize('m', FLOOR)
def test_imports_only_from_below(m):
    above = sorted({o for o in own(m) if o not in FLOOR or FLOOR[o] >= FLOOR[m]})
    assert not above, f"{m} (notebook {FLOOR[m]}) imports {above}, which come after it; move the shared part down"

@pytest.mark.parametrize('m', FLOOR)
def test_no_module_imports_a_private_name(m):
    private = sorted(f'{o}.{n}' for o,n in imported(m) if n and n.startswith('_'))
    assert not private, f"{m} imports {private}: a name that others use has no underscore"

def test_model_and_losses_stand_alone():
    "The paper's ideas import nothing but each other: no plumbing of text before them"
    for m in FLOOR:
        if m.split('.')[0] in ('model','losses'):
            others = {o for o in own(m) if o.split('.')[0] not in ('model','losses')}
            assert not others, f"{m} imports {sorted(others)}"
            if m.startswith('model.'): assert not {o for o in own(m) if o.startswith('losses.')}, m

SHOWN = {'core.plots','core.io'}          # what any notebook may use for its pictures and probes
@pytest.mark.parametrize('nb', NBS, ids=name)
def test_notebook_uses_only_notebooks_below(nb):
    "Cells that are not exported keep the order too: reading order is import order"
    used = {m for _,s in code_cells(nb) for m in re.findall(r'^\s*(?:from|import) bilingual_embed\.([\w.]+)', s, re.M)}
    above = sorted(m for m in used - SHOWN if m in FLOOR and FLOOR[m] > nb.stem)
    assert not above, f"{nb.name} uses {above} from above it"

@pytest.mark.parametrize('m', FLOOR)
def test_exported_names_are_documented(m):
    "Every function and class that a module exports says in a line what it is"
    def documented(n):
        if isinstance(n, ast.ClassDef) and any(ast.unparse(b).startswith('PreTrained') for b in n.bases): return True
        return bool(ast.get_docstring(n))
    public = [n for n in tree(m).body if isinstance(n, (ast.FunctionDef, ast.ClassDef)) and not n.name.startswith('_')]
    bare = [n.name for n in public if not documented(n)]
    assert not bare, f"{m}: no docstring on {', '.join(bare)}"

@pytest.mark.parametrize('p', sorted(LIB.rglob('__init__.py')), ids=lambda p: p.parent.name)
def test_packages_say_what_they_hold(p):
    assert ast.get_docstring(ast.parse(p.read_text(encoding='utf-8'))), f"{p.parent.name}/__init__.py has no docstring"

# ---- what the library may name

FORBIDDEN = {
    'a path of one machine': r'''(?<![\w.:/~])/(?:work|root|home|tmp|Users|mnt)\b''',
    # the last one is the name of an XML format
    'an address elsewhere': r'https?://(?!127\.0\.0\.1|localhost|projectmallard\.org/)\w',
    'loading that can run code': '|'.join((
        r'pickle\.load', r'torch\.load\s*\(', r'joblib\.load', r'yaml\.load\(', r'(?<![\w.])(?:eval|exec)\(',
        r'trust_remote_code\s*=\s*True', r'weights_only\s*=\s*False', r'allow_pickle\s*=\s*True')),
    'a shell': r'shell\s*=\s*True|os\.system\(|os\.popen\('}
@pytest.mark.parametrize('what', FORBIDDEN)
@pytest.mark.parametrize('p', sorted(p for p in LIB.rglob('*.py') if p.stem != '_modidx'), ids=lambda p: p.relative_to(LIB).as_posix())
def test_library_never_names(p, what):
    lines = p.read_text(encoding='utf-8').split('\n')
    hits = [f'{i}: {l.strip()[:120]}' for i,l in enumerate(lines, 1) if re.search(FORBIDDEN[what], l)]
    assert not hits, f"{p.name} names {what}:\n" + '\n'.join(hits)

def test_the_rules_see_what_they_forbid():
    lines = {'a path of one machine': "open('/tmp/x')", 'an address elsewhere': 'https://example.test/simple',
             'loading that can run code': 'torch.load(f)', 'a shell': 'run(c, shell=True)'}
    for what,line in lines.items(): assert re.search(FORBIDDEN[what], line), what
    for fine in ('nbs/tmp/x', 'model.eval()', 'work/root', "'a/home'"):
        assert not any(re.search(r, fine) for r in FORBIDDEN.values()), fine

ADDRESSES = {'127.0.0.1', 'localhost', 'example.test', 'projectmallard.org',
             'arxiv.org', 'doi.org', 'www.apache.org', 'keepachangelog.com'}
def test_the_repository_names_known_addresses_only():
    "Papers and licences: no registry, hub or forge whose name would age or send a reader to somebody's mirror"
    files = subprocess.run(['git','-C',str(ROOT),'ls-files'], capture_output=True, text=True).stdout.split('\n')
    if len(files) < 2: pytest.skip('not a git checkout')
    odd = {}
    for f in filter(None, files):
        if not (ROOT/f).is_file() or (ROOT/f).suffix in ('.png','.safetensors','.zst'): continue
        for host in re.findall(r'https?://([\w.-]+)', (ROOT/f).read_text(encoding='utf-8', errors='replace')):
            if host not in ADDRESSES: odd.setdefault(host, f)
    assert not odd, odd

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
        few = len(outs) <= 20 and len(text) < 20_000
        assert few, f"{nb.name} cell {i} has {len(outs)} outputs and {len(text):,} characters of text: {text[:200]}"
        m = re.search(r'(?<![\w.:/~])/(?:work|root|tmp|Users)/\S*|\S*site-packages\S*', text)
        assert not m, f"{nb.name} cell {i} shows {m.group()!r} of the machine it ran on; hide it or make it relative"
    assert total < 400_000, f"{nb.name} holds {total/1000:.0f} KB of outputs; draw smaller pictures"

@pytest.mark.parametrize('nb', ALL_NBS, ids=name)
def test_notebook_begins_with_title_and_one_line(nb):
    first = next(source(c) for c in read(nb)['cells'] if c['cell_type'] == 'markdown')
    assert re.match(r'# \S.*\n+> \S', first), f"{nb.name} begins with {first[:80]!r}; wanted a title and a > line"
    settings = re.search(r'^- ', first, re.M)
    assert not settings, f"{nb.name}: nbdev reads a title cell's lines that begin with '- ' as settings; give the list a cell of its own"

@pytest.mark.skipif(not (ROOT/'nbs'/'run_all.ipynb').exists(), reason='no run_all.ipynb')
def test_run_all_keeps_its_parameters():
    "Without the tag papermill's values come first and the defaults overwrite them"
    cells = read(ROOT/'nbs'/'run_all.ipynb')['cells']
    tagged = [c for c in cells if 'parameters' in c['metadata'].get('tags', [])]
    assert len(tagged) == 1, f"{len(tagged)} cells of run_all.ipynb are tagged parameters"
    named = set(re.findall(r'^(\w+)\s*(?::\s*\w+\s*)?=', source(tagged[0]), re.M))
    assert {'scale','langs','seed','out'} <= named, source(tagged[0])
    assert not any(c.get('outputs') for c in cells), "run_all.ipynb stays bare; its executed copy goes to the run folder"

def test_every_picture_has_its_numbers():
    bare = [p.name for p in (ROOT/'figures').glob('*.png') if not p.with_suffix('.csv').exists()]
    assert not bare, f"pictures without .csv: {bare}"

@pytest.mark.parametrize('png', sorted((ROOT/'figures').glob('*.png')), ids=name)
def test_pictures_fit_on_a_page(png):
    "At most 1,100 pixels wide, so that its words are read at the size they were drawn"
    width = int.from_bytes(png.read_bytes()[16:20], 'big')
    assert width <= 1100, f"{png.name} is {width} pixels wide; draw it smaller"

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
        wanted = [r for r in map(Requirement, needs) if not r.marker or r.marker.evaluate(dict(extra=''))]
        todo += [canonicalize_name(r.name) for r in wanted]
    return out
DISTS = {top: {canonicalize_name(d) for d in ds} for top,ds in md.packages_distributions().items()}
CORE = {canonicalize_name(r.name) for r in requirements('requirements')}
DECLARED = CORE | {canonicalize_name(r.name) for r in requirements('train_requirements')}
OPTIONAL = DECLARED | {canonicalize_name(r.name) for r in requirements(
    'onnx_requirements', 'index_requirements', 'cluster_requirements', 'peers_requirements')}

@pytest.mark.parametrize('m', FLOOR)
def test_imports_are_declared(m):
    "What a module imports stands in settings.ini by its own name, not as somebody's dependency"
    from bilingual_embed.evaluate.baselines import PEERS
    # need not be installed here
    peer = {module: {canonicalize_name(package)} for module,package,*_ in PEERS.values()} | dict(faiss={'faiss-cpu'})
    lost = sorted(f for f in foreign(m) if not DISTS.get(f, peer.get(f, {canonicalize_name(f)})) & OPTIONAL)
    assert not lost, f"{m} imports {lost}; name them in settings.ini (requirements or train_requirements)"

def test_encoding_needs_the_core_alone():
    "`pip install .` without extras gives a library that encodes"
    todo,needed = ['inference.embed'],set()
    while todo:
        m = todo.pop()
        needed.add(m)
        todo += own(m) - needed
    for m in needed:
        more = sorted(f for f in foreign(m) if not DISTS.get(f, {canonicalize_name(f)}) & CORE)
        allowed = ', '.join(sorted(CORE))
        assert not more, f"{m}, which encoding needs, imports {more}: only settings.ini's requirements ({allowed}) may be used there"

def read_pins(): # name -> version
    lines = [l for l in (ROOT/'constraints.txt').read_text().split('\n') if l.strip() and not l.startswith('#')]
    return {canonicalize_name(n): v for n,v in (l.split('==') for l in lines)}

def test_constraints_cover_what_is_asked_for():
    "constraints.txt pins each requirement, to a version settings.ini accepts"
    pins = read_pins()
    for r in requirements('requirements', 'train_requirements', 'onnx_requirements', 'index_requirements',
                          'cluster_requirements', 'dev_requirements'):
        v = pins.get(canonicalize_name(r.name))
        assert v, f"{r.name} has no line in constraints.txt; run python .ci/pin.py"
        assert r.specifier.contains(v, prereleases=True), f"constraints.txt has {r.name}=={v}, settings.ini wants {r}"
    assert not any('+' in v for v in pins.values()), "a local version (+cpu) cannot be installed elsewhere"

def test_constraints_are_for_every_python_that_is_allowed():
    "A release that wants 3.11.5 keeps out those whose system has 3.11.2"
    oldest = INI['DEFAULT']['min_python']+'.0'
    installed = {canonicalize_name(d.metadata['Name']): d for d in md.distributions()}
    pinned = [d for n,v in read_pins().items() if (d := installed.get(n)) and d.version.split('+')[0] == v]
    assert pinned
    wanted = {d.metadata['Name']: d.metadata['Requires-Python'] or '' for d in pinned}
    bad = {n: w for n,w in wanted.items() if not SpecifierSet(w).contains(oldest)}
    assert not bad, f"constraints.txt: not for Python {oldest}: {bad}; pin older releases"

def test_readme_is_the_front_page():
    "README.md is made from nbs/index.ipynb, never edited"
    r = subprocess.run([sys.executable, str(ROOT/'.ci'/'readme.py'), '--check'], capture_output=True, text=True)
    assert r.returncode == 0, r.stderr
