#!/usr/bin/env python
"nbs/index.ipynb -> README.md; run it after changing the front page. With --check it only says whether the two agree."
import posixpath, re, sys
from pathlib import Path
import nbformat

ROOT = Path(__file__).resolve().parent.parent

def from_root(match):
    "A link as it is from the repository's root: the notebook's own are from nbs/"
    target = match[2]
    if re.match(r'[a-z]+:|#', target): return match[0]
    return f"{match[1]}({posixpath.normpath(posixpath.join('nbs', target))})"

def output(o):
    "A cell's output as Markdown, or nothing"
    data = o.get('data', {})
    if 'text/markdown' in data: return data['text/markdown']
    text = o.get('text') or data.get('text/plain', '')
    return '```\n' + text.rstrip() + '\n```' if text else ''

def readme():
    "Markdown of the front page: its prose, its code, and the outputs that are text"
    parts = []
    for c in nbformat.read(ROOT/'nbs'/'index.ipynb', 4).cells:
        if c.cell_type == 'markdown': parts.append(c.source)
        if c.cell_type != 'code' or '#| hide' in c.source: continue
        if '#| echo: false' not in c.source: parts.append(f'```python\n{c.source}\n```')
        parts += filter(None, map(output, c.outputs))
    return re.sub(r'(!?\[[^\]]*\])\(([^)\s]+)\)', from_root, '\n\n'.join(parts)).rstrip() + '\n'

if __name__ == '__main__':
    path = ROOT/'README.md'
    text = readme()
    if '--check' not in sys.argv: path.write_text(text, encoding='utf-8')
    elif not path.exists() or path.read_text(encoding='utf-8') != text:
        sys.exit("README.md and nbs/index.ipynb differ; change the notebook and run python .ci/readme.py")
