"The models that come with the library: they load by name, offline, wherever it is installed, with complete cards"
import csv, importlib, json, os, random, re, subprocess, sys
from types import SimpleNamespace
import numpy as np, pytest, torch
from safetensors import safe_open
from bilingual_embed import load
from bilingual_embed.core.io import repo_path
from bilingual_embed.data.corpus import SampleSource
from bilingual_embed.inference.embed import FolderError, shipped
from bilingual_embed.inference.sentence_transformers import save_st

ROOT,PAIRS = repo_path(),('en-de','en-es')
LIMITED = re.compile(r'\bNC\b|\bND\b|research|XGLUE', re.I)      # licences that do not allow every use

def card_of(pair): return (shipped()[pair]/'README.md').read_text(encoding='utf-8')

def test_one_folder_is_both_and_small():
    assert set(PAIRS) <= set(shipped()) and {shipped()[pair] for pair in PAIRS} == {shipped()['en-de-es']}
    files = [p for p in (ROOT/'data'/'models').rglob('*') if p.is_file()]
    assert sum(p.stat().st_size for p in files) <= 100e6

@pytest.mark.parametrize('pair', PAIRS)
def test_weights_are_in_half_precision_and_nothing_else_is_there(pair):
    folder = shipped()[pair]
    code_or_pickles = ('.py','.bin','.pt','.pkl','.ckpt')
    assert not [p for p in folder.rglob('*') if p.suffix in code_or_pickles]
    with safe_open(folder/'model.safetensors', 'pt') as f:
        slices = [f.get_slice(k) for k in f.keys()]  # noqa: SIM118  (it is no dict)
        assert {s.get_dtype() for s in slices} == {'F16'}
        n_stored = sum(int(np.prod(s.get_shape())) for s in slices)
    m = load(pair)
    assert sum(p.numel() for p in m.model.parameters()) == n_stored <= 35e6
    assert m.max_length == 8192 and m.name == 'en-de-es'

@pytest.mark.parametrize('pair', PAIRS)
def test_it_knows_both_languages(pair):
    m,(a,b) = load(pair, device='cpu'),pair.split('-')
    rows = SampleSource().rows('sts', 'test')
    x,y = (m.encode([r['sentence1'][l] for r in rows]) for l in (a,b))
    names = [r['sentence1'][a] for r in rows]
    once = [i for i,n in enumerate(names) if names.index(n) == i]          # a sentence may stand in several pairs
    assert ((x[once] @ y[once].T).argmax(1) == np.arange(len(once))).mean() > .8          # chance is 1 %

    def rank(v): return np.argsort(np.argsort(v))
    gold = np.array([r['score'] for r in rows])
    cosines = (x*m.encode([r['sentence2'][a] for r in rows])).sum(1)
    assert np.corrcoef(rank(gold), rank(cosines))[0,1] > .5

@pytest.mark.parametrize('pair', PAIRS)
def test_the_card_names_its_sources(pair):
    folder,card = shipped()[pair],card_of(pair)
    assert 'license: apache-2.0' in card and '## Scores' in card and '## Limits' in card
    assert 'after `import bilingual_embed`, and refuse it otherwise' in card and "convert('en-de', 'folder')" in card
    assert re.search(r'\*\*0\*\* hold a text', card)
    with open(folder/'data.csv', encoding='utf-8', newline='') as f: data = list(csv.DictReader(f))
    assert len(data) > 50 and all(int(d['rows']) > 0 and d['licence'] for d in data)
    assert not [d for d in data if LIMITED.search(d['licence'])]

@pytest.mark.parametrize('pair', PAIRS)
def test_no_file_names_a_path_of_the_machine(pair):
    for p in shipped()[pair].rglob('*'):
        if p.suffix not in ('.md','.txt','.json','.csv') or p.name == 'tokenizer.json': continue
        assert not re.search(r'/(tmp|home|root|work)/', p.read_text(encoding='utf-8')), p.name

def test_installed_elsewhere(tmp_path):
    pytest.importorskip('setuptools')
    build = ['setup.py', '-q', 'build', '--build-base', str(tmp_path/'base'), '--build-lib', str(tmp_path/'lib')]
    subprocess.run([sys.executable, *build], cwd=ROOT, check=True, capture_output=True)
    env = os.environ | dict(PYTHONPATH=str(tmp_path/'lib'), HF_HUB_OFFLINE='1')
    code = """if True:
        import bilingual_embed
        m = bilingual_embed.load('en-es', device='cpu')
        print(bilingual_embed.__file__, m.folder, m.encode(['hola']).shape)"""
    r = subprocess.run([sys.executable, '-c', code], cwd=tmp_path, env=env, check=True, capture_output=True, text=True)
    assert r.stdout.count(str(tmp_path/'lib')) == 2 and '(1, 384)' in r.stdout

def test_a_name_that_is_not_there(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(FolderError, match='no model of that name comes with the library .en-de, en-es, de-es, en-de-es do'):
        load('en-fr')
    (tmp_path/'en-de').mkdir()                               # a folder of that name comes first
    with pytest.raises(Exception, match='en-de'): load('en-de')

# ---- the scripts that make it

@pytest.fixture
def script(monkeypatch):
    pytest.importorskip('mteb')
    monkeypatch.syspath_prepend(str(ROOT/'nbs'/'experiments'))
    return importlib.import_module('models')

@pytest.fixture
def card_script(script): return importlib.import_module('card')

MANIFEST = { # file: licence
    'pairs/a.en-de.jsonl': 'CC0',
    'pairs/b.en-de.jsonl': 'CC-BY-NC-SA-3.0',
    'text/c.de.jsonl': 'GFDL-1.2+',
    'pairs/d.en.jsonl': 'research (MSRP)',
    'text/e.en.jsonl': 'CC-BY-4.0 or CC-BY-NC-SA-4.0 (per book)',
    'pairs/f.en-de.jsonl': 'CC-BY-NC-ND (TED)',
    'eval/g/de.test.jsonl': 'CC0',
    'pairs/h.de.jsonl': 'XGLUE research licence',
    'sts/stsb.train.de.jsonl': 'CC-BY-SA-4.0'}

def test_only_free_licences_are_taken(script, tmp_path):
    for f in MANIFEST:
        (tmp_path/f).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path/f).write_text('{}\n')
    def write_manifest(licences):
        lines = ['file\trows\tlicence', *(f'{f}\t1\t{l}' for f,l in licences.items())]
        (tmp_path/'MANIFEST.tsv').write_text('\n'.join(lines) + '\n')

    write_manifest(MANIFEST)
    free = tmp_path/'free'
    assert script.link_free_files(tmp_path, free) == 3
    linked = sorted(p.relative_to(free).as_posix() for p in free.rglob('*') if p.is_file())
    assert linked == ['MANIFEST.tsv','pairs/a.en-de.jsonl','sts/stsb.train.de.jsonl','text/c.de.jsonl']
    write_manifest(MANIFEST | {'pairs/i.de.jsonl': ''})
    with pytest.raises(SystemExit, match='i.de.jsonl has no licence'): script.link_free_files(tmp_path, free)

def test_the_card_says_what_a_long_text_keeps_of_a_sentence(card_script):
    said = card_script.long_sentence()
    assert said in card_of('en-de') and re.search(r'\d+ times in 8192 tokens', said)

def test_an_average_lies_between(script, tmp_path):
    torch.manual_seed(0)
    args,m = SimpleNamespace(out=str(tmp_path)),load('en-de', device='cpu')
    shares = dict(a=.5, b=.3, c=.2)
    for name in shares:
        with torch.no_grad():
            for p in m.model.parameters(): p.add_(torch.randn_like(p)*.01)
        save_st(tmp_path/name, m.model, m.tokenizer)
    states = {name: load(tmp_path/name, device='cpu').model.state_dict() for name in shares}
    for k,w in script.average_of(args, shares).state_dict().items():
        expected = sum(share*states[name][k].double() for name,share in shares.items())
        assert torch.allclose(w.double(), expected, atol=1e-6), k

def test_shares_are_shares(script): assert sum(script.SHARES.values()) == pytest.approx(1)

def table(lang, rows):
    "Pairs as a corpus has them"
    columns = dict(zip(('query','target'), zip(*rows)))
    return SimpleNamespace(lang=lang, source='t', column=lambda name: list(columns[name]))

def test_each_side_of_a_translation_learns_from_both(script):
    rows = list(script.translations_of(table('en-de', [('Good  morning', 'Guten Morgen'), ('Hi', 'Hallo')]), 10))
    assert rows == [('Good morning', 'en', 'Good morning\tGuten Morgen'),     # the other is too short to say anything
                    ('Guten Morgen', 'de', 'Good morning\tGuten Morgen')]
    def encode(texts): return np.array([[1,0] if t.startswith('Good') else [0,1] for t in texts], np.float32)
    teacher = script.MeanOfTranslations(SimpleNamespace(name='e5', revision='1', encode=encode))
    assert np.allclose(teacher.encode([rows[0][2]]), [[.5**.5, .5**.5]])

def test_a_teacher_answers_in_the_order_it_was_asked(script):
    def encode(texts):
        assert texts == sorted(texts, key=len)
        return np.array([[len(t)] for t in texts], np.float32)
    teacher = script.Teacher(SimpleNamespace(name='e5', encode=encode))
    assert teacher.encode(['ccc','a','bb']).tolist() == [[3],[1],[2]]

def test_two_words_change_places(script):
    text = 'Der kleine Hund jagt eine graue Katze.'
    for h in range(5):
        swapped = script.swap_words(text, h)
        assert swapped != text and sorted(swapped[:-1].split()) == sorted(text[:-1].split())
        assert swapped.startswith('Der ')                    # the first word stays: its capital letter would tell
    assert script.swap_words('Zu kurz', 0) is None

def test_who_did_what_is_told_from_either_side(script):
    sentences = {lang: [f'{lang} {i}.' for i in range(9)] for lang in script.LANGS}
    for t in script.role_triplets(200, sentences, random.Random(0)):
        right,(wrong,) = t.target,t.negatives
        assert right != wrong and sorted(re.findall(r'\w+', right)) == sorted(re.findall(r'\w+', wrong))

def test_hidden_sections_are_where_they_are_said_to_be(script, tmp_path):
    script.hide_sections([(f'title {i}', f'section {i}.') for i in range(100)], tmp_path, random.Random(0))
    rows = {r['_id']: r['text'] for r in map(json.loads, (tmp_path/'corpus.en.jsonl').open(encoding='utf-8'))}
    for line in (tmp_path/'qrels.tsv').read_text(encoding='utf-8').splitlines()[1:]:
        title,text,_ = line.split('\t')
        assert f"section {title.removeprefix('title-')}." in rows[text].split('\n')
        assert len(set(rows[text].split('\n'))) == script.AMONG

def test_choices_are_made_on_similarity_questions_and_long_texts(script, tmp_path):
    args = SimpleNamespace(out=str(tmp_path), data=str(tmp_path))
    hidden,questions = tmp_path/'dev'/'hidden-sections',tmp_path/'eval'/script.QUESTIONS
    hidden.mkdir(parents=True)
    script.hide_sections([(f'title {i}', f'section {i}.') for i in range(100)], hidden, random.Random(0))
    pairs = '\n'.join(json.dumps(dict(sentence1='a', sentence2='b', score=n)) for n in range(2))
    for lang in ('en','de','es'): (tmp_path/'dev'/f'stsb.dev.{lang}.jsonl').write_text(pairs)
    questions.mkdir(parents=True)
    (questions/'corpus.de.jsonl').write_text(json.dumps(dict(_id='p', text='Absatz')))
    (questions/'queries.de.jsonl').write_text(json.dumps(dict(_id='q', text='Frage')))
    (questions/'qrels.tsv').write_text('query-id\tcorpus-id\tscore\nq\tp\t1\n')

    def found(tasks): return sorted((t.metadata.name, *t.metadata.eval_langs) for t in tasks)
    short = [('mlqa-de','de'), ('stsb','de','en'), ('stsb','en','es')]
    assert found(script.dev_tasks(args)) == [('hidden-sections','en'), *short]
    assert found(script.short_dev_tasks(args)) == short
