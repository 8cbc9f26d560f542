"Sphinx's settings: MyST-NB for the notebooks, docments as parameters, formulas as MathML; nothing is fetched from anywhere"
import inspect, re, warnings
from docutils import nodes
from fastcore.docments import docments
from latex2mathml.converter import convert

warnings.filterwarnings('ignore')
project = 'bilingual_embed'
copyright = '2026, the bilingual_embed authors'
extensions = ['myst_nb', 'sphinx.ext.autodoc']
html_theme = 'furo'
html_title = project
html_static_path = ['site.css']
html_css_files = ['site.css']
html_math_renderer = 'mathml'
html_show_sourcelink = False
nb_execution_mode = 'off'
nb_output_stderr = 'remove-warn'
nb_merge_streams = True
nb_render_markdown_format = 'myst'              # tables and links of outputs, as of the text around them
myst_enable_extensions = ['dollarmath', 'amsmath']
myst_heading_anchors = 3
autodoc_typehints = 'signature'
autodoc_member_order = 'bysource'
autodoc_preserve_defaults = True
autodoc_inherit_docstrings = False
default_role = 'py:obj'
suppress_warnings = ['myst.header', 'mystnb.unknown_mime_type', 'myst-nb.lexer']

# ---- parameters and their meaning, from the comments beside them

def literal(text):
    "Text that reStructuredText takes as it stands; what is between backticks becomes a reference or code"
    parts = re.split(r'(`[^`]+`)', text)
    return ''.join(p if i % 2 else re.sub(r'([*|\\])|(?<=\w)(_)(?!\w)', r'\\\1\2', p) for i,p in enumerate(parts))

def parameters(obj):
    "Field list of a function's or class's docments"
    try: found = docments(obj, full=True, returns=True)
    except (TypeError, ValueError, OSError, SyntaxError, AttributeError): return []
    lines = []
    for name,about in found.items():
        said = getattr(about, 'docment', None)
        if not said or name == 'self': continue
        said = literal(' '.join(said.split()))
        lines.append(f':returns: {said}' if name == 'return' else f':param {name}: {said}')
    return lines

def docstring(app, what, name, obj, options, lines):
    "The docstring as plain text, then the parameters"
    lines[:] = [literal(l) for l in lines]
    if what in ('function','method','class') and (inspect.isfunction(obj) or inspect.isclass(obj)): lines += ['', *parameters(obj), '']

# ---- formulas

def mathml(latex, display):
    "A formula as MathML; in place of `\\big(`, which would stay small, a bracket as high as what it holds"
    latex = re.sub(r'\\[bB]ig\(', r'\\left(', latex.strip())
    latex = re.sub(r'\\[bB]ig\)', r'\\right)', latex)
    return convert(latex, display=display).replace('<math ', '<math class="formula" ', 1)

def visit_math(self, node):
    self.body.append(mathml(node.astext(), 'inline'))
    raise nodes.SkipNode

def visit_displaymath(self, node):
    self.body.append(f'<div class="math">{mathml(node.astext(), "block")}</div>')
    raise nodes.SkipNode

def setup(app):
    app.add_html_math_renderer('mathml', (visit_math, None), (visit_displaymath, None))
    app.connect('autodoc-process-docstring', docstring)
