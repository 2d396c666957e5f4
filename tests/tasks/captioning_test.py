import functools

import battery
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from big_vision_like import optim
from big_vision_like.errors import UserError
from big_vision_like.models import captioning, transformer, vgg
from big_vision_like.tasks import captioning as tasks

V = 9
KEY = jax.random.key(1)


def decoder(**options):
  sizes = dict(word_width=8, units=16, attention_width=8, dropout=0.0)
  given = captioning.variant('tutorial') | sizes | options
  return captioning.RecurrentDecoder(vocab_size=V, **given)


def of_transformer():
  sizes = dict(vocab_size=V, width=16, depth=1, num_heads=2, mlp_dim=16, dropout=0.0)
  return captioning.TransformerDecoder(transformer.Transformer(**sizes))


def make(own=None, **options):
  model = captioning.Captioner(
    vgg.VGG((1, 1), channels=(8, 8)), own or decoder(), read='stage2', posemb='sincos2d'
  )
  given = dict(optimizer=optim.adamw(3e-2), length=5, mean=0.5, std=0.5) | options
  return tasks.Captioning(model=model, **given)


def some_batch():
  image = (127.5 + 127.5 * battery.images(4, 4, 8, 3)).astype(np.uint8)
  target = [[4, 5, 2, 0], [6, 2, 0, 0], [7, 5, 8, 2], [8, 4, 2, 0]]
  return {'image': image, 'target': np.array(target, np.int32)}


@functools.cache
def trained(kind):
  task = make(
    {'soft': decoder(), 'hard': decoder(hard=True), 'transformer': of_transformer()}[
      kind
    ],
    doubly=0.0 if kind == 'transformer' else 0.1,
    optimizer=optim.adamw(1e-2 if kind == 'transformer' else 3e-2),
  )
  state, step = jax.jit(task.init)(KEY, some_batch()), jax.jit(task.train_step)
  for number in range(60):
    state, scalars = step(state, some_batch(), jax.random.fold_in(KEY, number))
  assert step._cache_size() == 1
  return task, state, jax.device_get(scalars)


def test_the_decoder_reads_the_words_before():
  read = make(bos_id=3).model_inputs(some_batch())[1]
  np.testing.assert_array_equal(read[:2], [[3, 4, 5, 0], [3, 6, 0, 0]])


@pytest.mark.parametrize('kind', ['soft', 'hard', 'transformer'])
def test_captions_are_learned_by_heart(kind):
  task, state, scalars = trained(kind)
  assert scalars['cross_entropy'] < (0.4 if kind == 'hard' else 0.1)
  target = np.pad(some_batch()['target'], ((0, 0), (0, 1)))
  for predict in (task.greedy, task.caption, task.look):
    found = jax.jit(predict)(state, some_batch(), KEY)
    np.testing.assert_array_equal(found['ids'], target)
  assert found['attention'].shape == (4, 5, 2, 4)
  own = jax.jit(task.predict)(state, some_batch(), KEY)
  assert own['tokens'].tolist() == [3, 2, 4, 3]
  best = jax.jit(task.caption)(state, some_batch(), KEY)
  np.testing.assert_allclose(-own['nll'], best['scores'][:, 0], atol=1e-4)


def test_only_padding_is_added_to_longer_rows():
  task, state, _ = trained('soft')
  batch = some_batch()
  longer = batch | {'target': np.pad(batch['target'], ((0, 0), (0, 3)))}

  @jax.jit
  def loss(batch):
    return task.loss(state.params, {}, task.prepare(batch, KEY), KEY)[0]

  losses = [loss(x) for x in (batch, longer)]
  np.testing.assert_allclose(*losses, rtol=1e-6)


def test_the_doubly_stochastic_term():
  attention = np.array([[[0.25, 0.75], [0.5, 0.5]], [[1.0, 0.0], [0.0, 0.0]]])
  # Sums over words: 0.75, 1.25; 1, 0.
  want = (0.25**2 + 0.25**2 + 0 + 1) / 4
  assert float(tasks.doubly_stochastic(attention)) == pytest.approx(want)


def test_reinforce_pushes_away_from_locations_of_costly_words():
  scores = jnp.array([[[0.3, -0.2, 0.5], [1.0, 0.0, -1.0]]] * 2)
  seen = jax.nn.one_hot(np.array([[0, 2], [1, 1]]), 3)
  advantage = jnp.array([[2.0, -1.0], [5.0, 5.0]])
  counted = np.array([[True, True], [True, False]])

  def loss(scores):
    outputs = {
      'attention': jax.nn.softmax(scores),
      'seen': seen,
      'drawn': np.array([True, False]),
    }
    return tasks.location_loss(outputs, advantage, counted)

  gradient = jax.grad(lambda x: loss(x)[0])(scores)
  # The gradient of log p of a drawn location is its indicator minus p.
  want = advantage[..., None] * (seen - jax.nn.softmax(scores)) / 3
  np.testing.assert_allclose(gradient[0], want[0], atol=1e-6)
  assert not gradient[1].any()  # its locations were not drawn
  p = np.asarray(jax.nn.softmax(scores))
  entropy = -(p * np.log(p)).sum(axis=-1)
  assert loss(scores)[1] == pytest.approx(entropy[counted].mean(), rel=1e-5)


def test_the_baseline_follows_the_mean_cost():
  task = make(decoder(hard=True), baseline_decay=0.75)
  state = jax.jit(task.init)(KEY, some_batch())
  assert state.mutable[tasks.BASELINE]['cost'] == 0.0
  after, scalars = jax.jit(task.train_step)(state, some_batch(), KEY)
  assert scalars['baseline'] == 0.0
  have = float(after.mutable[tasks.BASELINE]['cost'])
  assert have == pytest.approx(0.25 * float(scalars['cross_entropy']), rel=1e-5)
  _, scalars = jax.jit(task.train_step)(after, some_batch(), KEY)
  assert scalars['baseline'] == have


def test_parts_of_a_batch_give_the_gradient_of_the_whole():
  whole = make()
  state = jax.jit(whole.init)(KEY, some_batch())
  results = [
    jax.jit(make(accumulate=parts).train_step)(state, some_batch(), KEY)[1]
    for parts in (1, 2)
  ]
  for name in ('loss', 'gradient_norm'):
    assert results[0][name] == pytest.approx(float(results[1][name]), rel=1e-4)


def test_the_encoder_can_have_a_rate_of_its_own():
  rules = (('encoder/stage1.*', 0.0), ('encoder/.*', 0.5))
  task = make(optimizer=optim.adamw(1e-2, rate_rules=rules, clip_value=5.0))
  state = jax.jit(task.init)(KEY, some_batch())
  after, _ = jax.jit(task.train_step)(state, some_batch(), KEY)
  moved = jax.tree.map(
    lambda x, y: float(jnp.abs(x - y).max()), *((after.params, state.params))
  )
  assert moved['encoder']['stage1_conv1']['kernel'] == 0.0
  assert moved['encoder']['stage2_conv1']['kernel'] == pytest.approx(5e-3, rel=1e-2)
  assert moved['decoder']['out']['head']['bias'] == pytest.approx(1e-2, rel=1e-2)


def test_values_of_gradients_are_clipped():
  optimizer = optim.Optimizer(optax.identity(), rate=1.0, clip_value=0.5)
  params = {'a': jnp.zeros(3)}
  gradients = {'a': jnp.array([2.0, -3.0, 0.1])}
  updates, _ = optimizer.update(gradients, optimizer.init(params), params)
  np.testing.assert_allclose(updates['a'], [-0.5, 0.5, -0.1])
  assert optim.adamw(1e-3, clip_value=5.0).clip_value == 5.0


@pytest.mark.parametrize(
  ('change', 'message'),
  [
    ({'target': np.array([[4, V, 2, 0]], np.int32)}, r'word id 9 in row 0: .* 0 to 8'),
    ({'target': np.zeros((1, 4), np.int32), 'id': np.array([7])}, r'\(id 7\) is empty'),
    (
      {'target': np.array([[4, 5, 6, 0]], np.int32)},
      'ends with the id 6, not with eos',
    ),
  ],
)
def test_batches_that_cannot_be_trained_on(change, message):
  with pytest.raises(UserError, match=message):
    make().check(some_batch() | change)


def test_batches_without_captions():
  with pytest.raises(UserError, match="batches have no 'target', only image"):
    make().check({'image': some_batch()['image']})
  make().check(some_batch())


@pytest.mark.parametrize(
  ('options', 'message'),
  [
    (dict(length=0), 'length=0 and beams=3 must be positive'),
    (dict(entropy=-1.0), 'entropy=-1.0 are weights of losses'),
    (dict(own=of_transformer(), doubly=1.0), 'doubly=1.0 is for a RecurrentDecoder'),
  ],
)
def test_wrong_arguments(options, message):
  with pytest.raises(UserError, match=message):
    make(**options)
