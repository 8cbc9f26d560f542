"""The notebooks as a web site, by Sphinx and MyST-NB: a page each, a reference of every exported name, search.

    python .ci/docs/build_docs.py [folder]     by default _site/; open its index.html

It needs no network, to build or to read. Nothing is executed: pages show the outputs that the notebooks hold.
A warning (a link without target, a notebook that cannot be read) stops the build.
"""
import ast, os, re, shutil, sys, tempfile
from pathlib import Path
import nbformat

HERE = Path(__file__).resolve().parent
ROOT = HERE.parent.parent
LIB = 'bilingual_embed'
TAGS = {
    ('hide', ''): 'remove-cell',
    ('echo', 'false'): 'remove-input',
    ('hide_input', ''): 'remove-input',
    ('output', 'false'): 'remove-output'}                     # nbdev's directives -> MyST-NB's tags
TEXTS = ('nbs/experiments/LOG.md', 'data/README.md', 'CONTRIBUTING.md', 'CHANGELOG.md')
LINK = re.compile(r'(!?)\[((?:[^\[\]]|\[[^\]]*\])*)\]\(([^)\s]+)\)')

def directives(source):
    "nbdev's `#| name: value` lines of a cell, and the source without them"
    found = re.findall(r'^#\|\s*([\w-]+):?[ \t]*(.*)$', source, re.M)
    return [(name, value.strip()) for name,value in found], re.sub(r'^#\|.*\n?', '', source, flags=re.M).strip('\n')

def linked(text, page, to, root):
    "Markdown whose links lead to pages of the site, or to files that come along; a link to a folder becomes its text"
    def one(m):
        picture,words,target = m.groups()
        if re.match(r'[a-z]+:|#', target): return m[0]
        path,_,anchor = target.partition('#')
        path = os.path.normpath(os.path.join(os.path.dirname(page), path))
        if path == 'README.md': path = 'nbs/index.ipynb'
        if path.startswith(LIB): return f'[{words}](/api/index.md)'
        if (root/path).is_dir(): return words
        if not (root/path).is_file(): return m[0]                  # Sphinx says that it leads nowhere
        is_page = path.endswith('.ipynb') or path in TEXTS
        at = path.removeprefix('nbs/')
        if not is_page and not (to/at).exists():
            (to/at).parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(root/path, to/at)
        return f'{picture}[{words}](/{at}{"#"+anchor if anchor else ""})'
    return LINK.sub(one, text)

def write_notebook(path, to, root):
    "A notebook with its directives as the tags that MyST-NB knows, and links as the site has them"
    nb = nbformat.read(root/path, 4)
    for c in nb.cells:
        if c.cell_type == 'markdown': c.source = linked(c.source, path, to, root)
        if c.cell_type != 'code': continue
        found,c.source = directives(c.source)
        tags = [TAGS[d] for d in found if d in TAGS]
        if not c.source and not c.outputs: tags.append('remove-cell')
        c.metadata['tags'] = [*c.metadata.get('tags', []), *tags]
        for o in c.outputs:
            data = o.get('data', {})
            if 'text/markdown' in data: data['text/markdown'] = linked(data['text/markdown'], path, to, root)
    at = to/path.removeprefix('nbs/')
    at.parent.mkdir(parents=True, exist_ok=True)
    nbformat.write(nb, at)

def modules(root):
    "Dotted names of the library's modules, in the order of their notebooks"
    names = [p.stem.split('_', 1)[1] for p in sorted((root/'nbs').glob('[0-9]*.ipynb'))]
    return [n for n in names if (root/LIB/f"{n.replace('.', '/')}.py").is_file()]

def write_reference(to, root):
    "A page a module, and an index of them"
    (to/'api').mkdir()
    names = modules(root)
    for m in names:
        text = f"# {m}\n\n```{{eval-rst}}\n.. automodule:: {LIB}.{m}\n   :members:\n   :show-inheritance:\n```\n"
        (to/'api'/f'{m}.md').write_text(text, encoding='utf-8')
    package = ast.get_docstring(ast.parse((root/LIB/'__init__.py').read_text(encoding='utf-8')))
    text = f"""# Reference

Every name that the library exports: signature, parameters and what they mean.

```text
{package}
```

{directive('toctree', names, maxdepth=1)}
"""
    (to/'api'/'index.md').write_text(text, encoding='utf-8')

def directive(name, lines, **options):
    "A directive of MyST"
    return '\n'.join(['```{' + name + '}', *(f':{k}: {v}'.rstrip() for k,v in options.items()), '', *lines, '```'])

def toctree(caption, pages):
    "A group of pages in the side bar"
    return directive('toctree', pages, caption=caption, hidden='') if pages else ''

def write_sources(to, root=ROOT):
    "Everything that Sphinx reads"
    to.mkdir(parents=True, exist_ok=True)
    found = [p.relative_to(root).as_posix() for p in sorted((root/'nbs').rglob('*.ipynb'))]
    notebooks = [p for p in found if '/_' not in p and '/.' not in p]
    for path in notebooks: write_notebook(path, to, root)
    for path in TEXTS:
        if not (root/path).is_file(): continue
        at = to/path.removeprefix('nbs/')
        at.parent.mkdir(parents=True, exist_ok=True)
        at.write_text(linked((root/path).read_text(encoding='utf-8'), path, to, root), encoding='utf-8')
    write_reference(to, root)

    names = [p.removeprefix('nbs/').removesuffix('.ipynb') for p in notebooks]
    groups = {}
    for n in names:
        if re.match(r'\d', n): groups.setdefault(n.split('_', 1)[1].rpartition('.')[0] or 'top level', []).append(n)
    experiments = [n for n in names if n.startswith('experiments/')]
    other = [n for n in names if not re.match(r'\d', n) and n not in experiments and n != 'index']
    texts = [t.removeprefix('nbs/').removesuffix('.md') for t in TEXTS if (root/t).is_file()]
    trees = [toctree('start', [*other, 'api/index'])] + [toctree(g, pages) for g,pages in groups.items()]
    trees.append(toctree('experiments', experiments + [t for t in texts if t.startswith('experiments/')]))
    trees.append(toctree('project', [t for t in texts if not t.startswith('experiments/')]))
    front = nbformat.read(to/'index.ipynb', 4)
    front.cells.append(nbformat.v4.new_markdown_cell('\n\n'.join(filter(None, trees))))
    nbformat.write(front, to/'index.ipynb')

def build(out, root=ROOT):
    "The site in a folder; an error with Sphinx's words where something is wrong"
    from sphinx.cmd.build import build_main
    out = Path(out)
    if out.exists() and any(out.iterdir()) and not (out/'searchindex.js').exists():
        raise SystemExit(f"{out} holds files that are not a site's; name another folder")
    if out.exists(): shutil.rmtree(out)
    with tempfile.TemporaryDirectory() as tmp:
        source = Path(tmp)/'source'
        write_sources(source, root)
        options = ['-q', '-W', '--keep-going', '-j', 'auto', '-c', str(HERE), '-d', f'{tmp}/doctrees']
        code = build_main([*options, str(source), str(out)])
    if code: raise SystemExit(code)
    return out

if __name__ == '__main__': print(f"{build(sys.argv[1] if len(sys.argv) > 1 else ROOT/'_site')}/index.html")
