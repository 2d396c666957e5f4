import battery
import jax
import numpy as np
import pytest

from big_vision_like import optim
from big_vision_like.errors import UserError
from big_vision_like.layers import pairs
from big_vision_like.models import vilbert, visual_bert
from big_vision_like.tasks import multimodal_pretraining as tasks
from big_vision_like.tasks.task import State

PAD, UNK, CLS, SEP, MASK = range(5)
VOCABULARY, CLASSES, WIDTH = 40, 7, 6
TEXT = dict(
  vocab_size=VOCABULARY,
  width=8,
  depth=1,
  num_heads=2,
  mlp_dim=8,
  max_length=12,
  dropout=0.0,
  attention_dropout=0.0,
)
IMAGE = dict(
  image_width=8,
  image_depth=1,
  image_heads=2,
  image_mlp_dim=8,
  joint_width=8,
  joint_heads=2,
  text_places=(0,),
  image_places=(0,),
)
HEADS = dict(words=pairs.Words(), regions=pairs.Regions(CLASSES))
HEADS |= dict(alignment=pairs.Classes(2))
KEY = jax.random.key(0)


def make(model=None, heads=HEADS, **options):
  model = model or vilbert.ViLBERT(**TEXT, **IMAGE, heads=heads)
  told = dict(
    model=model,
    optimizer=optim.adamw(1e-2),
    mask_id=MASK,
    never_masked=(PAD, CLS, SEP),
  )
  return tasks.MultimodalPretraining(**told | options)


def batch(count=4, length=10, regions=7):
  """Returns random pairs, every second of which belongs together, with padding."""
  rng = np.random.default_rng(count)
  real = rng.integers(5, length + 1, count)
  position = np.arange(length)[None]
  tokens = rng.integers(5, VOCABULARY, (count, length))
  tokens[:, 0] = CLS
  tokens = np.where(position == real[:, None] - 1, SEP, tokens)
  seen = position < real[:, None]
  seen_regions = np.arange(regions)[None] < rng.integers(3, regions + 1, count)[:, None]
  features = rng.normal(size=(count, regions, WIDTH)) * seen_regions[..., None]
  features[:, 0] = features[:, 1:].sum(axis=1) / (seen_regions.sum(axis=1) - 1)[:, None]
  targets = np.zeros((count, regions, CLASSES))
  targets[:, 1:] = rng.dirichlet(np.ones(CLASSES), (count, regions - 1))
  return {
    'tokens': np.where(seen, tokens, PAD).astype(np.int32),
    'token_types': np.zeros((count, length), np.int32),
    'token_mask': seen,
    'regions': features.astype(np.float32),
    'locations': rng.uniform(size=(count, regions, 5)).astype(np.float32),
    'region_mask': seen_regions,
    'region_targets': targets.astype(np.float32),
    'aligned': np.arange(count) % 2 == 0,
  }


@pytest.fixture(scope='module')
def many():
  """Returns 2,000 examples, and the same after `prepare`."""
  examples = batch(2000)
  return examples, jax.device_get(make().prepare(examples, KEY))


def test_words_are_masked_as_in_bert(many):
  before, after = many
  masked, words = after['masked_words'], before['tokens']
  real = ~np.isin(words, (PAD, CLS, SEP))
  assert not masked[~real].any()
  np.testing.assert_allclose(masked.sum() / real.sum(), 0.15, atol=0.01)
  np.testing.assert_array_equal(after['words'], words)
  np.testing.assert_array_equal(after['tokens'][~masked], words[~masked])
  new, old = after['tokens'][masked], words[masked]
  np.testing.assert_allclose((new == MASK).mean(), 0.8, atol=0.03)
  # A random word is the old one or [MASK] in 2 of 40 cases.
  np.testing.assert_allclose((new == old).mean(), 0.1 + 0.1 / 40, atol=0.03)
  random = new[(new != MASK) & (new != old)]
  assert {*random.tolist()} == {*range(VOCABULARY)} - {MASK}


def test_regions_are_masked_and_averaged_again(many):
  before, after = many
  masked, real = after['masked_regions'], before['region_mask'][:, 1:]
  assert not masked[~real].any()
  np.testing.assert_allclose(masked.sum() / real.sum(), 0.15, atol=0.01)
  features = after['regions'][:, 1:]
  zero = (features == 0).all(axis=-1)
  np.testing.assert_allclose(zero[masked].mean(), 0.9, atol=0.03)
  kept = ~zero & real
  np.testing.assert_array_equal(features[kept], before['regions'][:, 1:][kept])
  assert (zero | real).all() and not (zero & real & ~masked).any()
  # Masked regions lower the mean: they count in the denominator.
  want = features.sum(axis=1) / real.sum(axis=1)[:, None]
  np.testing.assert_allclose(after['regions'][:, 0], want, atol=1e-5)
  np.testing.assert_array_equal(after['locations'], before['locations'])
  np.testing.assert_array_equal(after['features'], before['regions'][:, 1:])


def test_masks_depend_on_the_key_alone(many):
  before, after = many
  again = make().prepare(before, KEY)
  np.testing.assert_array_equal(again['tokens'], after['tokens'])
  other = make().prepare(before, jax.random.key(1))
  assert (other['tokens'] != after['tokens']).any()


def test_masks_in_one_modality_of_an_example(many):
  after = make(masked='either').prepare(many[0], KEY)
  words, regions = (
    np.asarray(after[name]).any(axis=1) for name in ('masked_words', 'masked_regions')
  )
  assert words.any() and regions.any() and not (words & regions).any()


def test_masks_of_mismatched_pairs_count_or_not(many):
  before, after = many
  aligned = before['aligned']
  only = make(filled='aligned').prepare(before, KEY)
  for name in ('masked_words', 'masked_regions'):
    assert after[name][~aligned].any() and not only[name][~aligned].any()
    np.testing.assert_array_equal(only[name][aligned], after[name][aligned])
  np.testing.assert_array_equal(only['tokens'], after['tokens'])


def test_modalities_are_dropped(many):
  before = many[0]
  after = make(drop_text=0.3, drop_image=0.2).prepare(before, KEY)
  text = np.asarray(after['token_mask']).sum(axis=1) == 1
  image = np.asarray(after['region_mask']).sum(axis=1) == 1
  np.testing.assert_allclose([text.mean(), image.mean()], [0.3, 0.2], atol=0.04)
  assert not np.asarray(after['regions'])[image].any()
  assert not np.asarray(after['masked_words'])[text].any()
  assert not np.asarray(after['masked_regions'])[image].any()


def test_a_hidden_modality_has_no_influence():
  examples, task = batch(), make()
  state = random_state(task, examples)
  predict = jax.jit(task.predict, static_argnames='hidden')
  other_image = examples | {'regions': examples['regions'] + 1.0}
  other_text = examples | {'tokens': np.where(examples['tokens'] > 4, 9, 2)}
  for hidden, same, different in (
    ('image', other_image, other_text),
    ('text', other_text | {'tokens': _with_first(examples, 9)}, other_image),
  ):
    one = predict(state, examples, KEY, hidden=hidden)['logits']
    two = predict(state, same, KEY, hidden=hidden)['logits']
    np.testing.assert_allclose(one, two, atol=1e-6)
    other = predict(state, different, KEY, hidden=hidden)['logits']
    assert np.abs(one - other).max() > 1e-3


def random_state(task, examples):
  """Returns a state with random parameters, which compiles nothing."""
  found = battery.variables(task.model, *task.model_inputs(examples))
  return State(np.int32(0), found['params'], None)


def _with_first(examples, word):
  tokens = np.full_like(examples['tokens'], word)
  tokens[:, 0] = examples['tokens'][:, 0]
  return tokens


@pytest.fixture(scope='module')
def trained():
  """Returns a task, its batch, its state after 30 steps, first and last scalars."""
  examples, task = batch(8), make()
  state = jax.jit(task.init)(KEY, examples)
  step, scalars = jax.jit(task.train_step), []
  for _ in range(30):
    state, found = step(state, examples, KEY)
    scalars.append(found)
  return task, examples, state, scalars[0], scalars[-1]


def test_the_loss_is_the_sum_and_falls(trained):
  *_, first, last = trained
  names = ('words', 'regions_kl', 'alignment')
  for scalars in (first, last):
    total = sum(scalars[f'loss_{name}'] for name in names)
    np.testing.assert_allclose(scalars['loss'], total, rtol=1e-5)
  for name in names:
    assert last[f'loss_{name}'] < first[f'loss_{name}']


def test_predictions(trained):
  task, examples, state, *_ = trained
  outputs = jax.jit(task.predict)(state, examples, KEY)
  np.testing.assert_array_equal(outputs['logits'], outputs['alignment'])
  score = jax.jit(task.match)(state, examples, KEY)['score']
  logits = np.asarray(outputs['logits'])
  np.testing.assert_allclose(score, logits[:, 0] - logits[:, 1], atol=1e-6)
  found = jax.jit(task.fill)(state, examples, KEY)
  masked = task.prepare(examples, KEY)
  np.testing.assert_array_equal(found['words'], masked['masked_words'].sum(axis=1))
  np.testing.assert_array_equal(found['regions'], masked['masked_regions'].sum(axis=1))
  assert (found['right_words'] <= found['words']).all()
  # The masks of these examples were learnt.
  assert found['right_words'].sum() > 0.5 * found['words'].sum()


def test_losses_have_weights():
  examples = batch()
  task = make(losses={'words': 3.0, 'alignment': 1.0})
  params, prepared = random_state(task, examples).params, task.prepare(examples, KEY)
  total, (_, scalars) = jax.jit(task.loss)(params, {}, prepared, KEY)
  assert not any(name.startswith('loss_regions') for name in scalars)
  want = 3 * scalars['loss_words'] + scalars['loss_alignment']
  np.testing.assert_allclose(total, want, rtol=1e-5)


@pytest.mark.parametrize('name', ['regions_mse', 'regions_nce'])
def test_regions_may_be_regressed(name):
  """Checks that a model that returns the features themselves has the least loss."""
  task, examples = make(losses={name: 1.0}), batch()
  prepared = task.prepare(examples, KEY)
  right = jax.numpy.pad(9 * prepared['features'], ((0, 0), (1, 0), (0, 0)))
  scale = 9 if name == 'regions_mse' else 1
  outputs = {'regions': right / scale}
  good = task.values(outputs, prepared, KEY)[name]
  bad = task.values({'regions': -right / scale}, prepared, KEY)[name]
  assert 0 <= good < 0.1 < bad


def test_contrastive_needs_streams_that_do_not_meet():
  apart = IMAGE | dict(text_places=(), image_places=())
  task = make(vilbert.ViLBERT(**TEXT, **apart), losses={'contrastive': 1.0})
  examples = batch()
  params = random_state(task, examples).params
  loss, _ = jax.jit(task.loss)(params, {}, task.prepare(examples, KEY), KEY)
  assert np.isfinite(loss) and loss > 0
  with pytest.raises(UserError, match=r'text_places=\(\)'):
    make(losses={'contrastive': 1.0})
  with pytest.raises(UserError, match=r'text_places=\(\)'):
    make(visual_bert.VisualBert(**TEXT), losses={'contrastive': 1.0})


def test_a_single_stream_takes_the_same_batches():
  task = make(visual_bert.VisualBert(**TEXT, heads=HEADS, locations=True))
  examples = batch()
  params, prepared = random_state(task, examples).params, task.prepare(examples, KEY)
  loss, _ = jax.jit(task.loss)(params, {}, prepared, KEY)
  assert np.isfinite(loss) and loss > 0


@pytest.mark.parametrize(
  ('change', 'message'),
  [
    ({'tokens': 40}, 'have the id 40 in row 0: the model knows 0 to 39'),
    ({'tokens': -1}, 'have the id -1'),
    ({'token_mask': False}, 'token_mask shows no token in row 0'),
    ({'region_mask': False}, 'region_mask shows no region in row 0'),
    ({'locations': None}, 'batches have no locations'),
    ({'aligned': None}, 'batches have no aligned'),
    ({'region_targets': None}, 'batches have no region_targets'),
  ],
)
def test_bad_batches_are_sentences(change, message):
  examples = batch()
  make().check(examples)
  for name, value in change.items():
    if value is None:
      del examples[name]
    else:
      examples[name] = examples[name].copy()
      examples[name][0] = value
  with pytest.raises(UserError, match=message):
    make().check(examples)


@pytest.mark.parametrize(
  ('options', 'message'),
  [
    ({'losses': {'word': 1.0}}, r"losses \(word\)='word' is not one of words,"),
    ({'losses': {'words': 0.0}}, 'all without weight'),
    ({'masked': 'one'}, "masked='one' is not one of both, either"),
    ({'filled': 'none'}, "filled='none' is not one of all, aligned"),
    ({'word_share': 1.5}, 'word_share=1.5 is not a share'),
    ({'mask_id': 103}, 'mask_id=103 is not a token of a model with vocab_size=40'),
  ],
)
def test_bad_settings_are_sentences(options, message):
  with pytest.raises(UserError, match=message):
    make(**options)


def test_a_missing_head_is_named():
  task, examples = make(heads={'words': pairs.Words()}), batch()
  with pytest.raises(UserError, match="needs the output 'regions' of the model"):
    state = jax.eval_shape(task.init, KEY, examples)
    jax.eval_shape(task.train_step, state, examples, KEY)
