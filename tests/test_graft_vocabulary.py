"Trimmed vocabularies: hostile texts, tokenizers of other kinds, and the three classes of transformers"
import copy, json
import numpy as np, pytest, torch
from collections import Counter
from tokenizers import AddedToken, Regex, Tokenizer, models, normalizers, pre_tokenizers, trainers
from transformers import AutoTokenizer, BertTokenizer, PreTrainedTokenizerFast, RobertaTokenizer, XLMRobertaTokenizer
from bilingual_embed.data.corpus import SampleSource
from bilingual_embed.data.tokenizer import load_tokenizer, reader_normalizer, save_tokenizer, starts_of
from bilingual_embed.losses.mlm import mask_tokens
from bilingual_embed.graft.vocabulary import (CHARACTERS, VocabularyError, choose_tokens, complete, count_tokens,
    coverage, trim_report, trim_rows, trim_tokenizer)

LANGS = 'en','de','es'
SAMPLE = [(r['text'][l], l) for r in SampleSource().rows('passages', 'train')[:40] for l in LANGS]
OTHERS = ['東京は日本の首都です。', 'Москва — столица России, и Рим, рим', 'القاهرة عاصمة مصر', '👍 😀😀 ❤ 🎉', 'Εγώ είμαι η μεγάλη']
TEXTS = [t for t,_ in SAMPLE] + OTHERS*3
ASCII = [chr(c) for c in range(33, 127)]
ROBERTA,BERT = ['<s>','<pad>','</s>','<unk>'],['[PAD]','[UNK]','[CLS]','[SEP]','[MASK]']

def trained(t, trainer):
    t.train_from_iterator(TEXTS, trainer)
    return json.loads(t.to_str())['model']

def unigram():
    "As multilingual-e5 is opened"
    t = Tokenizer(models.Unigram())
    t.normalizer,t.pre_tokenizer = normalizers.NFKC(),pre_tokenizers.Metaspace()
    model = trained(t, trainers.UnigramTrainer(vocab_size=1500, special_tokens=ROBERTA, unk_token='<unk>',
                                               initial_alphabet=ASCII, show_progress=False))
    tok = XLMRobertaTokenizer(vocab=[tuple(p) for p in model['vocab']], model_max_length=512)
    tok.backend_tokenizer.normalizer = normalizers.Sequence([normalizers.Nmt(), normalizers.NFKC(),
                                                             normalizers.Replace(Regex(' {2,}'), ' ')])
    return tok

def wordpiece():
    t = Tokenizer(models.WordPiece(unk_token='[UNK]'))
    t.normalizer,t.pre_tokenizer = normalizers.BertNormalizer(lowercase=False),pre_tokenizers.BertPreTokenizer()
    model = trained(t, trainers.WordPieceTrainer(vocab_size=1500, special_tokens=BERT, show_progress=False,
                                                 initial_alphabet=ASCII))
    pieces = sorted(model['vocab'], key=model['vocab'].get)
    pieces[1:1] = [f'[unused{i}]' for i in range(20)]                # [CLS] is not 2, as in BERT
    return BertTokenizer(vocab={p: i for i,p in enumerate(pieces)}, do_lower_case=False, model_max_length=512)

def bytelevel():
    t = Tokenizer(models.BPE())
    t.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    model = trained(t, trainers.BpeTrainer(vocab_size=1500, special_tokens=[*ROBERTA, '<mask>'], show_progress=False,
                                           initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet())))
    vocab = {p: i-5 if i > 4 else 1495+i for p,i in model['vocab'].items()}    # special tokens last
    return RobertaTokenizer(vocab=vocab, merges=[tuple(m) for m in model['merges']], model_max_length=512)

MAKERS = dict(unigram=unigram, wordpiece=wordpiece, bpe=bytelevel)

@pytest.fixture(scope='module', params=list(MAKERS))
def old(request): return MAKERS[request.param]()

@pytest.fixture(scope='module')
def counts(old): return count_tokens(old, SAMPLE)

@pytest.fixture(scope='module')
def keep(old, counts): return choose_tokens(old, counts, 900, ('en','de'))

@pytest.fixture(scope='module')
def new(old, keep): return trim_tokenizer(old, keep)

clean = reader_normalizer().normalize_str
def ids(tok, text): return tok(text, add_special_tokens=False)['input_ids']
def is_a(tok, kind): return type(tok.backend_tokenizer.model).__name__ == kind

# ---- what is chosen

def test_special_tokens_come_first_in_their_order(old, keep):
    special = sorted(old.all_special_ids)
    assert keep[:5] == special and keep[5:] == sorted(keep[5:]) and len(set(keep)) == len(keep) == 900

def test_every_character_can_be_spelled(old, new):
    ends = [[int(c, 16) for c in r.split('-')] for r in CHARACTERS.split()]
    for c in (chr(x) for r in ends for x in range(r[0], r[-1]+1)):
        for text in (c, f'x{c}', f'Ε{c}ι'):                   # the last one is Greek
            if old.unk_token_id not in ids(old, clean(text)): assert new.unk_token_id not in ids(new, text), ascii(text)

def test_a_language_with_ten_times_the_text_takes_no_more(old, counts, keep):
    more = counts | dict(de=Counter({i: 10*n for i,n in counts['de'].items()}))
    assert choose_tokens(old, more, 900, ('de','en')) == keep

def smallest(old, counts, langs):
    "The size that the refusal asks for"
    with pytest.raises(VocabularyError, match=f"too small.*of {' '.join(langs)} take") as e:
        choose_tokens(old, counts, 0, langs)
    return int(str(e.value).split(' take ')[1].split(';')[0].replace(',', ''))

def test_the_smallest_size_that_works(old, counts):
    least = smallest(old, counts, ('en','de'))
    assert len(choose_tokens(old, counts, least, ('en','de'))) == least
    with pytest.raises(VocabularyError, match='too small'): choose_tokens(old, counts, least-1, ('en','de'))

@pytest.mark.parametrize('make', [unigram, wordpiece])
def test_the_script_of_a_language_stays(make):
    "Every letter, small and large, of a language that is written in Cyrillic; none for the others"
    old = make()
    counts = count_tokens(old, [*SAMPLE, *[('Москва — столица россии', 'ru')]*9])
    name = set('МосквтлициР')
    def letters(langs):
        chosen = choose_tokens(old, counts, smallest(old, counts, langs), langs)
        return name & {p[-1] for p in old.convert_ids_to_tokens(chosen)}
    assert letters(('en','ru')) == name and not letters(('en','de'))

def test_text_is_counted_as_it_will_be_read(old):
    a,b = (count_tokens(old, [(t, 'de')]) for t in ('Der\u00a0Zug nach Ber\u00adlin\r\n', 'Der Zug nach Berlin'))
    assert a == b

def test_a_union_of_choices_is_complete(old, counts):
    a,b = (set(choose_tokens(old, counts, 800, p)) for p in (('en','de'), ('en','es')))
    assert set(complete(old, a | b)) == a | b

def test_pieces_that_no_text_uses_do_not_come_in(old, counts):
    most = choose_tokens(old, counts, 10**6, ('en','de'))
    assert len(most) < len(old) and coverage(counts, most)['de'] == 1 and coverage(counts, most)['es'] < 1

def test_a_language_without_text_is_missed(old, counts):
    for c in ({}, counts | dict(de=Counter()), counts | dict(de=Counter({old.unk_token_id: 5}))):
        with pytest.raises(VocabularyError, match='no text in .*de was counted'):
            choose_tokens(old, c, 900, ('en','de'))
    with pytest.raises(ValueError, match="unknown language 'xx'"): choose_tokens(old, counts, 900, ('en','xx'))

# ---- what is split

HOSTILE = [
    '', ' ', 'Straße\u00a0Nr.\u00a05', 'un\u00adsicht\u200bbar', 'a\u2028b\r\nc\x00d', 'cafe\u0301',
    'ﬁnden 10\u2011mal',
    'x<s>y</s> <mask> <pad><unk>', '[CLS] [MASK][SEP] [PAD] [UNK]', '<s>', '[MASK]', '👍', 'gut👍sehr', 'القاهرة', '東京',
    'W'*300, 'aaaaaaaaaaaa', '   zwei   Spalten ', '\ufffd', '\U0010ffff', "don't stop", '##ing ▁Haus Ġthe']

@pytest.mark.parametrize('text', HOSTILE, ids=lambda t: ascii(t)[:30])
def test_hostile_texts(old, new, keep, text):
    got = new(text)['input_ids']
    special = set(new.all_special_ids) - {new.unk_token_id}
    assert not special & set(got[1:-1]) and {got[0], got[-1]} <= special and max(got) < 900
    if is_a(old, 'BPE'): assert new.unk_token_id not in got

def test_words_of_kept_pieces_are_split_as_before(old, new, keep):
    compared = 0
    for word in {w for t,_ in SAMPLE for w in t.split()} | {'👍', '👍die', '東京die', '😀!'}:
        before = ids(old, word)
        if set(before) <= set(keep) and not (is_a(old, 'WordPiece') and old.unk_token_id in before):
            compared += 1
            assert [keep[i] for i in ids(new, word)] == before, word
    assert compared > 500

def test_a_word_unknown_to_wordpiece_may_become_known():
    "The greedy choice ab leads nowhere; with ab gone, a and ##bc spell the word"
    pieces = [*BERT, 'a', 'ab', '##bc', '##b', 'b', *'[]PADUNKCLSEM', *(f'##{c}' for c in 'PADUNKCLSEM')]
    old = BertTokenizer(vocab={p: i for i,p in enumerate(dict.fromkeys(pieces))}, do_lower_case=False)
    new = trim_tokenizer(old, complete(old, [i for p,i in old.get_vocab().items() if p != 'ab']))
    assert [t.convert_ids_to_tokens(ids(t, 'abc')) for t in (old, new)] == [['[UNK]'], ['a','##bc']]

def test_all_kept_is_the_same_tokenizer(old):
    same = trim_tokenizer(old, range(len(old)))
    for text,_ in SAMPLE: assert same(text)['input_ids'] == old(text)['input_ids']

def test_trimming_twice_is_trimming_once(old, new, keep):
    some = complete(new, range(0, 900, 3))
    direct,through = trim_tokenizer(old, [keep[i] for i in some]),trim_tokenizer(new, some)
    a,b = (json.loads(t.backend_tokenizer.to_str()) for t in (direct, through))
    for s in (a, b):
        if is_a(old, 'Unigram'): s['model']['vocab'] = [(p, round(x, 9)) for p,x in s['model']['vocab']]
    assert a == b

def test_more_special_tokens_than_five():
    "They stay, and are letters where a text has them; the mask takes the space before it, as it did"
    for make in MAKERS.values():
        old = make()
        old.add_special_tokens(dict(extra_special_tokens=['[Q]'], mask_token=AddedToken('<gap>', lstrip=True)))
        new = trim_tokenizer(old, complete(old, []))
        assert '[Q]' in new.all_special_tokens and new.convert_tokens_to_ids('[Q]') < 8
        assert not set(ids(new, 'a [Q] <gap>')) & {new.convert_tokens_to_ids('[Q]'), new.mask_token_id}
        assert new.added_tokens_decoder[new.mask_token_id].lstrip and new.mask_token == '<gap>'

def test_pairs_of_texts_get_the_template(old, new, keep):
    a,b = new('die Katze', 'the cat')['input_ids'],old('die Katze', 'the cat')['input_ids']
    assert [keep[i] for i in a if i in new.all_special_ids] == [i for i in b if i in old.all_special_ids]

ALIKE = [('Der\u00a0Zug', 'Der Zug'), ('Ber\u00adlin\u200b', 'Berlin'), ('u\u0308ber', 'über'), (' x \u2003 y ', 'x y'),
         ('ﬁnden', 'finden'), ('E\u2011Mail', 'E-Mail')]
@pytest.mark.parametrize('a,b', ALIKE, ids=ascii)
def test_texts_that_look_alike_are_split_alike(new, a, b): assert new(a)['input_ids'] == new(b)['input_ids']

def test_the_old_tokenizer_is_left_alone(old, counts):
    def state(): return old.backend_tokenizer.to_str(), old(f'a {old.mask_token} b')['input_ids'], old.model_max_length
    before = state()
    new = trim_tokenizer(old, choose_tokens(old, counts, 900, ('en','de')))
    trim_report(old, new, SAMPLE[:9])
    assert state() == before and old.mask_token_id in before[1]

def test_truncation_and_padding_of_the_folder_are_gone():
    old = unigram()
    old.backend_tokenizer.enable_truncation(8)
    old.backend_tokenizer.enable_padding(length=8)
    new = trim_tokenizer(old, range(len(old)))
    assert 'max_length' not in new.init_kwargs and 'padding_side' not in new.init_kwargs
    assert len(new.backend_tokenizer.encode('a b c d e f g h i j').ids) > 10 and new.model_max_length == 8192

def test_an_added_word_stays_with_its_id(tmp_path):
    "Words that were added to a vocabulary are matched before the model; they stay or go like other pieces"
    for make in MAKERS.values():
        old = make()
        old.add_tokens(['Grüezi'])
        i = old.convert_tokens_to_ids('Grüezi')
        kept = complete(old, [i])
        new = trim_tokenizer(old, kept)
        assert [kept[x] for x in ids(new, 'x Grüezi') if kept[x] == i] == [i]
        save_tokenizer(tmp_path, new)
        assert ids(load_tokenizer(tmp_path), 'x Grüezi') == ids(new, 'x Grüezi')
        assert 'Grüezi' not in trim_tokenizer(old, complete(old, [])).get_vocab()

# ---- on disk

def test_every_reader_of_the_folder_agrees(tmp_path, old, new):
    save_tokenizer(tmp_path, new)
    again,theirs = load_tokenizer(tmp_path),AutoTokenizer.from_pretrained(tmp_path)
    bare = Tokenizer.from_file(f'{tmp_path}/tokenizer.json')
    for text in [*HOSTILE, *(t for t,_ in SAMPLE[:6])]:
        want = new(text)['input_ids']
        assert again(text)['input_ids'] == theirs(text)['input_ids'] == bare.encode(text).ids == want, ascii(text)
    assert again.model_max_length == 8192 and again.special_tokens_map == new.special_tokens_map
    mask = again(f'x {again.mask_token} y', split_special_tokens=False)['input_ids']
    assert mask.count(again.mask_token_id) == 1

def test_the_folder_of_the_original_opens(tmp_path, old):
    "As it is saved by transformers, with the step for spaces that its converter from SentencePiece writes"
    old.save_pretrained(tmp_path)
    again = load_tokenizer(tmp_path)
    assert [again(t)['input_ids'] for t,_ in SAMPLE[:6]] == [old(t)['input_ids'] for t,_ in SAMPLE[:6]]
    save_tokenizer(tmp_path/'again', old)
    load_tokenizer(tmp_path/'again')

# ---- what is reported

def test_what_falls_to_unknown_is_counted(old, new):
    texts = [('gut 👍 👍 東京 \U0001f9ff', 'de'), ('fine', 'en'), ('\u200b', 'de')]
    de,en = trim_report(old, new, texts)
    assert (de['lang'], de['texts'], en['lang'], en['lost'], en['unknown_after']) == ('de', 1, 'en', {}, 0)
    if is_a(old, 'BPE'): assert de['lost'] == {} and de['unknown_after'] == 0
    else:
        assert de['lost'] == {'👍': 2, '東': 1, '京': 1} and list(de['lost'])[0] == '👍'
        assert de['unknown_after'] > de['unknown_before'] > 0     # one sign was unknown already

def test_nothing_trimmed_nothing_changed(old):
    for r in trim_report(old, trim_tokenizer(old, range(len(old))), SAMPLE):
        assert r['split_as_before'] == 1 and r['tokens_per_word_before'] == r['tokens_per_word_after'] and not r['lost']

def test_nothing_to_compare(old, new):
    for texts in ([], [('\u200b \n', 'de')]):
        with pytest.raises(VocabularyError, match='no text to compare'): trim_report(old, new, texts)

# ---- what is refused

def test_ids_that_do_not_fit(old, keep, counts):
    with pytest.raises(VocabularyError, match='no token with id 99999'): trim_tokenizer(old, [*keep, 99999])
    with pytest.raises(VocabularyError, match='no token with id -1'): complete(old, [-1])
    with pytest.raises(VocabularyError, match='counted or chosen with another'):
        choose_tokens(old, counts | dict(de=Counter({99999: 3})), 900, ('en','de'))
    with pytest.raises(VocabularyError, match=f'id {keep[9]} is kept twice'): trim_tokenizer(old, [*keep, keep[9]])
    with pytest.raises(VocabularyError, match=r'are missing.*complete\(tokenizer, ids\)'): trim_tokenizer(old, keep[1:])
    with pytest.raises(VocabularyError, match='are missing'): trim_tokenizer(old, [])
    with pytest.raises(VocabularyError, match='matrix has 10 rows'): trim_rows(np.zeros((10,2)), keep)

def fast(model, pre=None):
    t = Tokenizer(model)
    t.pre_tokenizer = pre or pre_tokenizers.Whitespace()
    return PreTrainedTokenizerFast(tokenizer_object=t, unk_token='<unk>')

V = {'<unk>': 0, 'a': 1}
OTHER_KINDS = dict(
    WordLevel=(fast(models.WordLevel(V, unk_token='<unk>')), 'tokenizer is WordLevel'),
    SentencePieceBPE=(fast(models.BPE(V, [], unk_token='<unk>'), pre_tokenizers.Metaspace()), 'is BPE without bytes'),
    fallback=(fast(models.Unigram([('<unk>', 0.), ('<0x41>', -1.)], unk_id=0, byte_fallback=True)), 'byte fallback'),
    bare=(Tokenizer(models.WordPiece(V, unk_token='<unk>')), 'a Tokenizer is no fast tokenizer'),
    no_tokenizer=('xlm-roberta-base', 'a str is no fast tokenizer'))
@pytest.mark.parametrize('name', OTHER_KINDS)
def test_tokenizers_of_other_kinds(name):
    tok,why = OTHER_KINDS[name]
    counts = dict(en=Counter([1]), de=Counter([1]))
    with pytest.raises(VocabularyError, match=why): complete(tok, [0])
    with pytest.raises(VocabularyError, match=why): trim_tokenizer(tok, [0,1])
    with pytest.raises(VocabularyError, match=why): choose_tokens(tok, counts, 100, ('en','de'))

def test_a_vocabulary_that_cannot_spell_its_special_tokens():
    vocab = [(s, 0.) for s in (*ROBERTA, '<mask>')] + [(c, -3.) for c in '▁abc']
    with pytest.raises(VocabularyError, match=r"'<\S+>' in a text would be read as the special token"):
        trim_tokenizer(XLMRobertaTokenizer(vocab=vocab), range(9))

# ---- where words begin

ODD_WORDS = [*HOSTILE, 'x Grüezi! mir', "Das (Haus), don't", '東京 x東y', 'a👍b 👍']
def test_words_begin_where_the_tokenizer_says(old, new):
    "Whole-word masking knows the words of all three kinds, unknown characters and added words among them"
    added = copy.deepcopy(old)
    if not is_a(old, 'BPE'): added.add_tokens(['Grüezi'])
    for tok in (old, new, added):
        for text in [*ODD_WORDS, *(t for t,_ in SAMPLE[:20])]:
            enc = tok(text)
            w = enc.word_ids()
            want = [i == 0 or w[i] is None or w[i] != w[i-1] for i in range(len(w))]
            assert starts_of(enc['input_ids'], tok).tolist() == want, (ascii(text), enc.tokens())

def test_words_of_other_tokenizers_are_not_guessed():
    for tok in (OTHER_KINDS['WordLevel'][0], OTHER_KINDS['SentencePieceBPE'][0]):
        with pytest.raises(ValueError, match='known of byte-level BPE, Unigram and WordPiece'): starts_of([1,1], tok)

def test_whole_words_are_hidden(old):
    "A batch of masked language modelling: of a word with several tokens all are hidden or none"
    ids = torch.tensor([ids for t,_ in SAMPLE if len(ids := old(t)['input_ids'][:40]) == 40])
    starts = starts_of(ids, old)
    special = torch.isin(ids, torch.tensor(old.all_special_ids))
    _,labels = mask_tokens(ids, starts, special, old.mask_token_id, len(old), old.all_special_ids, seed=0, step=0)
    hidden = labels != -100
    inside = ~starts & ~special
    inside[:,0] = False
    assert inside.sum() > 99 and .2 < hidden.float().mean() < .4
    assert (hidden[:,1:] == hidden[:,:-1])[inside[:,1:]].float().mean() == 1
