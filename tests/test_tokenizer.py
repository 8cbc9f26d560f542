"Tokenizer files that lie: no text grows without end, no pattern takes exponential time, no file fills the memory"
import json, pytest
from bilingual_embed.data.tokenizer import TokenizerError, load_tokenizer, train_tokenizer
from conftest import STORY

SWELL = dict(type='Replace', pattern=dict(String='a'), content='a'*1_000_000)
EXPONENTIAL = dict(type='Split', pattern=dict(Regex='(a+)+$'), behavior='Isolated', invert=False)

@pytest.fixture
def folder(tmp_path):
    train_tokenizer(STORY*3, vocab_size=320, langs=('en','de')).save_pretrained(tmp_path)
    return tmp_path

@pytest.mark.parametrize('nested', [False, True])
@pytest.mark.parametrize('name,part', [('normalizer',SWELL), ('pre_tokenizer',EXPONENTIAL)])
def test_parts_of_their_own_are_refused(folder, name, part, nested):
    if nested: part = {'type': 'Sequence', dict(normalizer='normalizers', pre_tokenizer='pretokenizers')[name]: [part]}
    path = folder/'tokenizer.json'
    path.write_text(json.dumps(json.loads(path.read_text()) | {name: part}))
    with pytest.raises(TokenizerError, match=r"has a '(Replace|Split)', which inserts text or matches a pattern"):
        load_tokenizer(folder)

def test_a_giant_file_is_refused(folder):
    with (folder/'tokenizer.json').open('wb') as f: f.truncate((1<<26)+1)    # a file with a hole takes no disk
    with pytest.raises(TokenizerError, match='tokenizer.json has 67,108,865 bytes, more than'): load_tokenizer(folder)
