"The web site of the notebooks: complete, readable without network, and no link that leads nowhere"
import re, shutil, sys
import pytest
from conftest import ROOT
pytest.importorskip('myst_nb', reason="the site needs the dev extra")
sys.path.insert(0, str(ROOT/'.ci'/'docs'))
import build_docs as docs
import nbformat

def checkout(folder, front):
    "The library and two notebooks, with a front page of its own"
    (folder/'nbs').mkdir(parents=True)
    (folder/'bilingual_embed').symlink_to(ROOT/'bilingual_embed')
    for n in ('11_model.alibi', '24_losses.pearson'): shutil.copy(ROOT/'nbs'/f'{n}.ipynb', folder/'nbs')
    result = nbformat.v4.new_output('execute_result', {'text/plain': 'seen'}, execution_count=1)
    made = '| notebook | says |\n|---|---|\n| [ALiBi](11_model.alibi.ipynb) | **far** is faint |'
    table = nbformat.v4.new_output('display_data', {'text/markdown': made, 'text/plain': 'no picture'})
    nb = nbformat.v4.new_notebook(cells=[
        nbformat.v4.new_markdown_cell(front),
        nbformat.v4.new_code_cell('#| hide\nhidden = 1'),
        nbformat.v4.new_code_cell('#| echo: false\nunseen', outputs=[result]),
        nbformat.v4.new_code_cell('show(scores)', outputs=[table])])
    nbformat.write(nb, folder/'nbs'/'index.ipynb')
    return folder

@pytest.fixture(scope='module')
def site(tmp_path_factory):
    tmp = tmp_path_factory.mktemp('docs')
    links = '[ALiBi](11_model.alibi.ipynb), [the package](../bilingual_embed/model), [a file](../notes.txt)'
    front = f'# Front\n\n> One line.\n\nSee {links}: $m_h = 2^{{-8h/H}}$ or $\\ln\\Big(1+\\frac{{N}}{{n}}\\Big)$.'
    root = checkout(tmp/'root', front)
    (root/'notes.txt').write_text('notes')
    return docs.build(tmp/'site', root)

def page(site, name): return (site/name).read_text(encoding='utf-8')

def test_a_page_a_notebook_and_a_module(site):
    for name in ('index', '11_model.alibi', '24_losses.pearson', 'api/index', 'api/model.alibi', 'api/losses.pearson'):
        assert (site/f'{name}.html').is_file(), name

def test_directives_are_obeyed_and_gone(site):
    front = page(site, 'index.html')
    assert 'hidden' not in re.sub(r'<(\w+)[^>]*>', '', front) and 'unseen' not in front and 'seen' in front
    assert '#|' not in page(site, '11_model.alibi.html')

def test_links_lead_to_pages_and_files_come_along(site):
    front = page(site, 'index.html')
    assert 'href="11_model.alibi.html"' in front and 'href="api/index.html"' in front
    assert (site/'_downloads').is_dir() and 'notes.txt' in front

def test_a_table_that_code_made_is_a_table_and_its_links_are_links(site):
    front = page(site, 'index.html')
    made = re.search(r'show.*?<table.*?</table>', front, re.S)
    assert made and '<strong>far</strong>' in made[0] and 'href="11_model.alibi.html"' in made[0]

def test_long_code_lines_have_room(site):
    assert re.search(r'<link[^>]*_static/site\.css', page(site, '24_losses.pearson.html')) and (site/'_static'/'site.css').is_file()

def test_formulas_need_no_script(site):
    assert '<math' in page(site, 'index.html') and '<math' in page(site, '24_losses.pearson.html')
    assert page(site, 'index.html').count('<mo stretchy="true"') == 2                 # brackets grow with what they hold
    assert not re.search(r'<script[^>]*mathjax', page(site, '24_losses.pearson.html'), re.I)

def test_the_reference_has_every_name_with_its_parameters(site):
    from bilingual_embed.model import alibi
    text = page(site, 'api/model.alibi.html')
    for name in alibi.__all__: assert f'id="bilingual_embed.model.alibi.{name}"' in text, name
    assert 'number of heads H, at least 1' in text                # the comment beside the parameter

def test_search_works_from_a_file(site):
    index = page(site, 'searchindex.js')
    assert 'alibi_bias' in index and 'pearson' in index

def test_nothing_is_fetched_from_elsewhere(site):
    for p in site.rglob('*.html'):
        text = p.read_text(encoding='utf-8')
        assert not re.findall(r'<(?:script|img|link)[^>]*(?:src|href)="(?:https?:)?//', text), p.name
        assert not re.search(r'(?<![\w.:/~])/(?:work|root|home/\w|Users)/[^\s<]*|site-packages', text), p.name

@pytest.mark.parametrize('link', ['nowhere.ipynb', '../nowhere.md'])
def test_a_link_that_leads_nowhere_stops_the_build(tmp_path, link):
    root = checkout(tmp_path/'root', f'# Front\n\n> One line.\n\nSee [this]({link}).')
    with pytest.raises(SystemExit): docs.build(tmp_path/'site', root)

def test_a_folder_with_other_files_is_refused(tmp_path):
    (tmp_path/'thesis.tex').write_text('years of work')
    with pytest.raises(SystemExit, match='not a site'): docs.build(tmp_path)
    assert (tmp_path/'thesis.tex').exists()

def test_no_notebook_keeps_a_warning():                            # one would stop the build
    for p in sorted((ROOT/'nbs').rglob('*.ipynb')):
        for cell in nbformat.read(p, 4).cells:
            for o in cell.get('outputs', []):
                assert o.output_type != 'error' and o.get('name') != 'stderr', f"{p.name}: {cell.source}"

@pytest.mark.slow
def test_the_whole_site(tmp_path):
    site = docs.build(tmp_path/'site')
    for p in (ROOT/'nbs').rglob('*.ipynb'):
        name = p.relative_to(ROOT/'nbs').with_suffix('.html')
        if '.ipynb_checkpoints' not in p.parts: assert (site/name).is_file(), name
    test_nothing_is_fetched_from_elsewhere(site)
