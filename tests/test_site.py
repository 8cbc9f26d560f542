"The web site that .ci/site makes of the notebooks: complete, whole, and without network"
import ast, importlib.util, json, re, shutil, subprocess, sys
from html.parser import HTMLParser
from importlib.machinery import SourceFileLoader
from pathlib import Path
from urllib.parse import unquote, urlsplit
import pytest
pytest.importorskip('latex2mathml', reason="the site needs the dev extra")
pytest.importorskip('nbconvert', reason="the site needs the dev extra")

ROOT = Path(__file__).resolve().parent.parent
loader = SourceFileLoader('site_builder', str(ROOT/'.ci'/'site'))
sb = importlib.util.module_from_spec(importlib.util.spec_from_loader('site_builder', loader))
exec_bytecode,sys.dont_write_bytecode = sys.dont_write_bytecode,True
loader.exec_module(sb)
sys.dont_write_bytecode = exec_bytecode                     # no .ci/sitec beside it
ROOMS = sorted((ROOT/'nbs').glob('[0-9]*.ipynb'))

@pytest.fixture(scope='module')
def site(tmp_path_factory): # all of it: some ten seconds
    return sb.Site(ROOT, tmp_path_factory.mktemp('site')/'out').build().out

class Read(HTMLParser): # apart from the builder's own check: what a page links to, what it holds, whether its tags nest
    def __init__(self, path):
        super().__init__()
        self.ids,self.refs,self.stack,self.bad,self.words,self.skip = set(),[],[],[],[],0
        self.feed(path.read_text(encoding='utf-8'))
        assert not self.stack, (path, self.stack)
    def handle_starttag(self, tag, attrs):
        a = dict(attrs)
        self.refs += [(tag, k, a[k]) for k in ('href','src','srcset','action','data','poster') if a.get(k)]
        if 'id' in a:
            assert a['id'] not in self.ids, a['id']
            self.ids.add(a['id'])
        if tag == 'img': assert a.get('alt') and a.get('width'), a
        if tag not in ('meta','link','img','br','input','mspace','hr'): self.stack.append(tag)
        self.skip += tag in ('pre','code','math')
    def handle_startendtag(self, tag, attrs): pass
    def handle_endtag(self, tag):
        assert self.stack and self.stack.pop() == tag, (self.getpos(), tag)
        self.skip -= tag in ('pre','code','math')
    def handle_data(self, data):
        if not self.skip: self.words.append(data)

@pytest.fixture(scope='module')
def pages(site): return {p.relative_to(site).as_posix(): Read(p) for p in site.rglob('*.html')}

def test_a_page_for_every_notebook_and_text(pages):
    want = {p.relative_to(ROOT/'nbs').with_suffix('.html').as_posix() for p in (ROOT/'nbs').rglob('*.ipynb') if '.ipynb_checkpoints' not in p.parts} | {'experiments/LOG.html','data.html','api/index.html'}
    assert want <= set(pages), want - set(pages)

def test_links_and_anchors_lead_somewhere(site, pages):
    bad = []
    for url,p in pages.items():
        for tag,_,to in p.refs:
            s = urlsplit(to)
            if s.scheme: continue
            at = (site/url).parent/unquote(s.path) if s.path else site/url
            if not at.is_file() or site.resolve() not in at.resolve().parents: bad.append((url, to))
            elif s.fragment and at.suffix == '.html' and unquote(s.fragment) not in pages[at.resolve().relative_to(site.resolve()).as_posix()].ids:
                bad.append((url, to))
    assert not bad, bad[:10]

def test_nothing_is_loaded_from_elsewhere(site, pages):
    for url,p in pages.items():
        assert not [r for r in p.refs if r[0] != 'a' and (urlsplit(r[2]).netloc or urlsplit(r[2]).scheme not in ('','data'))], url
    for f in ('site.css','site.js'):
        assert not re.search(r'https?:|//[\w.]+\.\w+/|@import|url\(', (site/f).read_text()), f

def test_no_path_of_a_machine(site):
    for p in site.rglob('*.html'):
        m = re.search(r'(?<![\w.:/~])/(?:work|root|home/\w|Users)/[^\s<]*|site-packages', p.read_text(encoding='utf-8'))
        assert not m, (p.name, m.group())

@pytest.mark.parametrize('module', sorted(p.stem for p in (ROOT/'bilingual_embed').glob('*.py') if p.stem != '_modidx'))
def test_every_public_name_is_in_the_reference(module, pages):
    tree = ast.parse((ROOT/'bilingual_embed'/f'{module}.py').read_text(encoding='utf-8'))
    public = next(ast.literal_eval(n.value) for n in tree.body if isinstance(n, ast.Assign) and ast.unparse(n.targets[0]) == '__all__')
    if module == '__init__':
        assert {f'bilingual_embed.{n}' for n in public} <= pages['api/index.html'].ids
        return
    assert set(public) <= pages[f'api/{module}.html'].ids, set(public) - pages[f'api/{module}.html'].ids

def test_reference_says_what_nbdev_says():
    "Comments of parameters, read from source without import, are those that docments finds in the imported function"
    from fastcore.docments import docments
    from bilingual_embed.model.jina_bert import alibi, infonce, mlm, records, recipes, windows
    n = 0
    for module in (alibi, infonce, mlm, records, recipes, windows):
        m = sb.read_module(Path(module.__file__))
        for name in m.names:
            if not isinstance(name.node, ast.FunctionDef): continue
            f = getattr(module, name.name)
            if hasattr(f, '__wrapped__'):
                continue                                   # decorated: docments sees another signature
            theirs = {k: v or '' for k,v in docments(f, args_kwargs=True).items()}
            ours = {p.name.lstrip('*') if p.name else 'return': p.text for p in sb.params_of(name.node, m.remarks)}
            for k in ours:
                if k in theirs:
                    assert re.sub(r'\s+', ' ', theirs[k]).strip() == ours[k], (module.__name__, name.name, k)
                    n += 1
    assert n > 60, n

def test_formulas_are_typeset(site, pages):
    import nbformat
    typed = sum(len(re.findall(r'\$\$', c.source)) for p in (ROOT/'nbs').rglob('*.ipynb') for c in nbformat.read(p, 4).cells if c.cell_type == 'markdown')
    shown = sum(p.read_text(encoding='utf-8').count('display="block"') for p in site.rglob('*.html'))
    assert typed > 20 and shown == typed//2, (typed, shown)
    for url,p in pages.items():
        m = re.search(r'\$\$|(?<!\w)\$[\\a-zA-Z][^$]*\$|\\(frac|sum|text)\b', ''.join(p.words))
        assert not m, (url, m.group())

def test_directives_are_obeyed_and_gone(site):
    for p in site.glob('*.html'):
        assert not re.search(r'#\|\s*\w+', re.sub('<[^>]*>', '', p.read_text(encoding='utf-8'))), p.name
    import nbformat
    for p in ROOMS:
        text = (site/f'{p.stem}.html').read_text(encoding='utf-8')
        for c in nbformat.read(p, 4).cells:
            if c.cell_type != 'code': continue
            hidden = re.search(r'^#\|\s*hide\s*$', c.source, re.M) or not re.sub(r'^#\|.*\n?', '', c.source, flags=re.M).strip()
            assert (f'id="c-{c.id}"' in text) != bool(hidden), (p.name, c.id)

def test_no_word_of_an_output_is_lost(site):
    "What a data frame, a verdict or a print said in the notebook stands on the page"
    import bs4, nbformat
    words = lambda t: [w for w in t.split() if re.search(r'\w', w) and w not in ('NaN','nan','None','<NA>')]
    n = 0
    for p in ROOMS:
        soup = bs4.BeautifulSoup((site/f'{p.stem}.html').read_text(encoding='utf-8'), 'html.parser')
        for c in nbformat.read(p, 4).cells:
            for o in c.get('outputs', []):
                h = o.get('data', {}).get('text/html')
                said = bs4.BeautifulSoup(re.sub(r'(?s)<style.*?</style>', '', h), 'html.parser').get_text(' ') if h else re.sub(r'[*|`_]+|---+:?', ' ', o['data']['text/markdown']) if 'text/markdown' in o.get('data', {}) else o.get('text') or ('' if 'image/png' in o.get('data', {}) else o.get('data', {}).get('text/plain', ''))
                shown = set(soup.find(id=f'c-{c.id}').get_text(' ').split()) if said else set()
                lost = [w for w in words(said) if w not in shown]
                assert not lost, (p.name, c.id, lost[:5])
                n += bool(said)
    assert n > 100, n

def test_search_index_knows_names_and_prose(site):
    index = json.loads((site/'index.js').read_text(encoding='utf-8').removeprefix('window.siteIndex = ').removesuffix(';\n'))
    titles = {t for _,t,*_ in index}
    text = ' '.join(x[3] for x in index)
    assert {'info_nce','alibi_bias','ALiBi','Slopes'} <= titles and 'Position as a penalty on distance' in text
    assert len(json.dumps(index)) < 600_000 and all((site/urlsplit(u).path).is_file() for u,*_ in index)

@pytest.mark.parametrize('scheme', ['light','dark'])
def test_colours_can_be_read(scheme):
    "Contrast of letters with what they stand on is at least 4.5 (WCAG AA)"
    blocks = re.findall(r':root \{(.*?)\}', (ROOT/'.ci'/'site.css').read_text(), re.S)
    c = dict(re.findall(r'--(\w+):(#\w+)', blocks[0])) | (dict(re.findall(r'--(\w+):(#\w+)', blocks[1])) if scheme == 'dark' else {})
    def light(h):
        h = h[1:] if len(h) == 7 else ''.join(2*x for x in h[1:])
        v = [int(h[i:i+2], 16)/255 for i in (0,2,4)]
        return sum(w*(x/12.92 if x <= .04045 else ((x+.055)/1.055)**2.4) for w,x in zip((.2126,.7152,.0722), v))
    for letters in 'ink soft link kw str num com fn cls op'.split():
        for ground in ('paper','shade'):
            a,b = sorted((light(c[letters]), light(c[ground])))
            assert (b+.05)/(a+.05) >= 4.5, (scheme, letters, ground, (b+.05)/(a+.05))
    a,b = sorted((light(c['ink']), light(c['mark'])))
    assert (b+.05)/(a+.05) >= 4.5

# ---- what must stop a build

@pytest.fixture
def small(tmp_path): # a repository of three notebooks, to break
    root = tmp_path/'repo'
    # whatever the front page shows
    pictures = sorted(set(re.findall(r'figures/\w+\.png', (ROOT/'nbs'/'index.ipynb').read_text(encoding='utf-8'))))
    for f in ('nbs/index.ipynb','nbs/11_model.alibi.ipynb','nbs/42_data.batches.ipynb','bilingual_embed/alibi.py','bilingual_embed/rectangles.py','bilingual_embed/__init__.py','data/README.md','figures/alibi_reach.csv',
              'figures/batches_padding.csv', *pictures):
        (root/f).parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(ROOT/f, root/f)
    return root

def edit(root, name, change):
    p = root/'nbs'/f'{name}.ipynb'
    nb = json.loads(p.read_text(encoding='utf-8'))
    change(nb['cells'])
    p.write_text(json.dumps(nb), encoding='utf-8')
def prose(text): return dict(cell_type='markdown', id='aaaa0000', metadata={}, source=[text])
def bare(cells):
    for c in cells:
        c.pop('outputs', 0)
        c.update(outputs=[]) if c['cell_type'] == 'code' else 0
def noisy(cells):
    next(c for c in cells if c['cell_type'] == 'code')['outputs'] = [dict(output_type='stream', name='stderr', text='a warning')]
def failed(cells):
    next(c for c in cells if c['cell_type'] == 'code')['outputs'] = [dict(output_type='error', ename='KeyError', evalue='x', traceback=[])]

def test_small_one_builds(small, tmp_path):
    assert (sb.Site(small, tmp_path/'out').build().out/'11_model.alibi.html').is_file()

@pytest.mark.parametrize('say,damage', {
    'no cell has an output':        lambda r: edit(r, '11_model.alibi', bare),
    'there is no nbs/nowhere':      lambda r: edit(r, '11_model.alibi', lambda c: c.append(prose('[see](nowhere.ipynb)'))),
    'has no \'no-such-part\'':      lambda r: edit(r, '11_model.alibi', lambda c: c.append(prose('[see](42_data.batches.ipynb#no-such-part)'))),
    'there is no figures/gone.png': lambda r: edit(r, 'index', lambda c: c.append(prose('![a picture](../figures/gone.png)'))),
    'no alternative text':          lambda r: edit(r, 'index', lambda c: c.append(prose('![](../figures/engine_mix.png)'))),
    'there is no figures/alibi_reach.csv': lambda r: (r/'figures'/'alibi_reach.csv').unlink(),
    'cell .* holds an error: KeyError': lambda r: edit(r, '11_model.alibi', failed),
    'warnings or noise':            lambda r: edit(r, '11_model.alibi', noisy),
    'begins without a title':       lambda r: edit(r, '11_model.alibi', lambda c: c.pop(0)),
    'lists missing_name in __all__': lambda r: (p := r/'bilingual_embed'/'alibi.py').write_text(p.read_text().replace("__all__ = [", "__all__ = ['missing_name', ")),
    'slopes comes from cell':       lambda r: edit(r, '11_model.alibi', lambda c: next(x for x in c if 'def slopes' in ''.join(x['source'])).update(id='bbbb0000')),
    'latex2mathml does not know':   lambda r: edit(r, '11_model.alibi', lambda c: c.append(prose(r'$\nosuchmacro x$'))),
}.items(), ids=lambda x: x if isinstance(x, str) else '')
def test_what_is_wrong_stops_the_build(small, tmp_path, say, damage):
    damage(small)
    with pytest.raises(sb.SiteError, match=say): sb.Site(small, tmp_path/'out').build()

def test_a_folder_of_other_things_is_left_alone(small, tmp_path):
    (tmp_path/'thesis').mkdir()
    (tmp_path/'thesis'/'chapter.txt').write_text('years of work')
    with pytest.raises(sb.SiteError, match='not a site'): sb.Site(small, tmp_path/'thesis').build()
    assert (tmp_path/'thesis'/'chapter.txt').exists()

def test_command(tmp_path):
    r = subprocess.run([sys.executable, str(ROOT/'.ci'/'site'), str(tmp_path/'s')], capture_output=True, text=True, cwd=tmp_path)
    assert r.returncode == 0 and re.search(r'\d+ pages, reference of \d+ names', r.stdout), r.stdout + r.stderr

# ---- in a browser, where there is one

BROWSER = next((b for b in map(shutil.which, ('chromium','chromium-browser','google-chrome')) if b), None)
def dom(url, tmp_path):
    r = subprocess.run([BROWSER, '--headless', '--no-sandbox', '--disable-gpu', f'--user-data-dir={tmp_path}/chromium', '--host-resolver-rules=MAP * ~NOTFOUND', '--virtual-time-budget=5000', '--enable-logging=stderr', '--v=0', '--dump-dom', url],
                       capture_output=True, text=True, timeout=60)
    errors = [l for l in r.stderr.split('\n') if 'CONSOLE' in l]
    assert not errors, errors
    return r.stdout

@pytest.mark.skipif(not BROWSER, reason='no chromium here')
def test_in_a_browser(site, tmp_path):
    page = dom(f'file://{site}/index.html?q=alibi_bias', tmp_path)
    hits = re.search(r'<div id="site-hits".*?>(.*?)</div>', page, re.S)[1]
    assert hits.startswith('<a href="api/alibi.html#alibi_bias"') and '<form role="search" id="site-search">' in page, hits[:300]
    page = dom(f'file://{site}/api/infonce.html?q=no-such-word-anywhere', tmp_path)
    assert 'Nothing found.' in page and 'aria-current="page"' in page
    page = dom(f'file://{site}/api/infonce.html?q=hard+negatives', tmp_path)
    assert re.search(r'<a href="\.\./[\w/]+\.html', re.search(r'<div id="site-hits".*?>(.*?)</div>', page, re.S)[1])
