"core.recipes: what a recipe refuses, whoever asks"
import pytest

from bilingual_embed.core.recipes import recipe, recipe_from_json, recipe_json, recipe_rows

INF = float('inf')
BAD = [   # a case a line  # chkstyle: ignore
    ('model__num_attention_heads', 0, 'above 0'),
    ('model__hidden_size', -64, 'above 0'),
    ('pairs__steps', INF, 'should be int'),
    ('pairs__steps', 1.5, 'should be int'),
    ('pairs__steps', 2**31, 'below 2'),
    ('pairs__batch_size', 10**30, 'should be int'),
    ('pairs__weights', 5, 'should be tuple'),
    ('pairs__weights', {'pairs': 0}, 'not all 0'),
    ('pairs__temperature', True, 'should be float'),
    ('pairs__temperature', 10**400, 'should be float'),
    ('pairs__lr', 0., 'above 0'),
    ('pairs__eps', 0., 'above 0'),
    ('pairs__weight_decay', -.1, 'at least 0'),
    ('pairs__mlm_probability', 1., 'between 0 and 1'),
    ('pairs__max_grad_norm', -1., 'at least 0'),
    ('pairs__precision', 'fp8', 'not fp32'),
    ('text__source', ' ', 'empty'),
    ('text__cross', 0., 'a share'),
    ('text__parallel', 1., 'a share'),
    ('text__ratio', 0., 'above 0'),
    ('tokenizer__chars', 0, 'above 0'),
    ('pretrain', 1, 'steps'),
    ('__class__', 1, 'names nothing')]

@pytest.mark.parametrize('key,value,words', BAD)
def test_bad_overrides_are_refused(key, value, words):
    with pytest.raises(ValueError, match=words): recipe(**{key: value})

@pytest.mark.parametrize('key,value', [('text__cross', 1.), ('text__mlm_chars', 2**40), ('pairs__max_grad_norm', 0.),
                                       ('align__steps', 0), ('pairs__warmup_steps', 0), ('tokenizer__vocab_size', 300)])
def test_the_ends_of_the_bounds_are_allowed(key, value):
    part,_,field = key.partition('__')
    assert getattr(getattr(recipe('base', **{key: value}), part), field) == value

@pytest.mark.parametrize('kw,words', [(dict(scale=[]), 'unknown scale'), (dict(langs=None), 'unknown language'),
                                      (dict(seed='7'), "seed '7'"), (dict(seed=2**32), 'whole number from 0')])
def test_bad_arguments_are_refused(kw, words):
    with pytest.raises(ValueError, match=words): recipe(**kw)

GOOD = recipe_json(recipe('sample'))
@pytest.mark.parametrize('text', ['', '[]', 'null', '['*100_000, GOOD.replace('"betas"', '"beta"'), GOOD[:-5]],
                         ids=['empty', 'list', 'null', 'nested', 'renamed', 'cut'])
def test_damaged_recipes_are_refused(text):
    with pytest.raises(ValueError, match='another version'): recipe_from_json(text)

@pytest.mark.parametrize('langs', ['de-en', ('de','en'), ('en','de')])
def test_the_order_of_the_languages_says_nothing(langs):
    assert recipe('sample', langs) == recipe('sample', 'en-de')
    assert recipe('base', 'es-en').model.qk_norm

def test_what_the_sample_is_added_to():
    assert recipe('cpu').text.sample and recipe('sample').text.sample and recipe('base').text.sample
    own = recipe('cpu', text__source='my_text/')
    assert not own.text.sample and recipe('cpu', text__source='my_text/', text__sample=True).text.sample
    why = {f"{row['part']}.{row['field']}": row['why'] for row in recipe_rows(own)}
    assert 'alone' in why['text.sample']
    assert recipe_from_json(recipe_json(own)) == own
    with pytest.raises(ValueError, match='no text'): recipe('sample', text__sample=False)
