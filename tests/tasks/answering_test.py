import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from big_vision_like import optim
from big_vision_like.errors import UserError
from big_vision_like.tasks import answering

BATCH, OPTIONS, TOKENS, ROWS, WIDTH = 3, 4, 5, 6, 7


class Model(nn.Module):
  """Scores pairs by sums over tokens and regions; `outputs` per pair."""

  outputs: int = 1

  @nn.compact
  def __call__(
    self, tokens, types, token_mask, regions, locations, region_mask, train=False
  ):
    text = jnp.where(token_mask, tokens, 0).sum(1, dtype=jnp.float32)
    image = jnp.where(region_mask[..., None], regions, 0.0).sum((1, 2))
    scale = self.param('scale', nn.initializers.ones, (self.outputs,))
    return {
      'head': (text * image)[:, None] * scale[None],
      'regions': regions.sum(-1) * scale[:1][None],
    }


def batch(options=False, images=False, **more):
  rng = np.random.default_rng(0)
  text = (BATCH, OPTIONS, TOKENS) if options else (BATCH, TOKENS)
  image = (BATCH, OPTIONS, ROWS) if images else (BATCH, ROWS)
  found = {
    'tokens': rng.integers(1, 9, text).astype(np.int32),
    'token_types': np.zeros(text, np.int32),
    'token_mask': rng.random(text) < 0.8,
    'regions': rng.normal(0, 1, (*image, WIDTH)).astype(np.float32),
    'locations': np.zeros((*image, 5), np.float32),
    'region_mask': rng.random(image) < 0.8,
  }
  return found | more


def task(outputs=1, **options):
  arguments = dict(head='head', optimizer=optim.adamw(1e-2)) | options
  return answering.Answering(model=Model(outputs), **arguments)


@pytest.mark.parametrize('options, images', [(1, 0), (0, 1), (1, 1)])
def test_options_are_scored_one_by_one(options, images, key):
  made = task(loss_type='softmax')
  data = batch(options, images, label=np.array([0, 3, 1]))
  state = made.init(key, data)
  found = made.predict(state, data, key)
  assert found['logits'].shape == (BATCH, OPTIONS)
  pairs = [
    {
      name: x[i, k] if x.ndim == answering.RANKS[name] + 2 else x[i]
      for name, x in data.items()
      if name != 'label'
    }
    for i in range(BATCH)
    for k in range(OPTIONS)
  ]
  pairs = {name: np.stack([pair[name] for pair in pairs]) for name in pairs[0]}
  alone = made.predict(state, pairs, key)['logits'].reshape(BATCH, OPTIONS)
  np.testing.assert_allclose(found['logits'], alone, rtol=1e-6)
  expected = optax.softmax_cross_entropy_with_integer_labels(
    found['logits'], data['label']
  )
  np.testing.assert_allclose(found['loss'], expected, rtol=1e-6, atol=1e-5)


def test_the_loss_of_scores_is_summed_over_candidates(key):
  target = np.random.default_rng(1).random((BATCH, ROWS)).astype(np.float32)
  data = batch(target=target)
  made = task(head='regions')
  state = made.init(key, data)
  loss, (_, scalars) = made.loss(state.params, {}, made.prepare(data, key), key)
  logits = data['regions'].sum(-1)
  p = 1 / (1 + np.exp(-logits.astype(np.float64)))
  expected = -(target * np.log(p) + (1 - target) * np.log(1 - p)).sum(1).mean()
  np.testing.assert_allclose(loss, expected, rtol=1e-5)
  best = target[np.arange(BATCH), logits.argmax(1)].mean()
  np.testing.assert_allclose(scalars['score'], best, rtol=1e-6)


@pytest.mark.parametrize('outputs', [1, 2])
def test_matching_pairs(outputs, key):
  made, data = task(outputs), batch()
  state = made.init(key, data)
  found = made.match(state, data, key)['score']
  logits = made.predict(state, data, key)['logits']
  expected = logits[:, 0] if outputs == 1 else logits[:, 0] - logits[:, 1]
  np.testing.assert_allclose(found, expected)


def test_unusable_batches(key):
  with pytest.raises(UserError, match='either `label`, .* or `target`'):
    task().check(batch())
  lacking = batch(label=np.zeros(3, int))
  del lacking['locations']
  with pytest.raises(UserError, match="batches have no 'locations'"):
    task().check(lacking)
  with pytest.raises(UserError, match="no head 'vqa'; its outputs are head, regions"):
    made = task(head='vqa')
    data = batch()
    made.predict(made.init(key, data), data, key)
  with pytest.raises(
    UserError, match="targets for 5 candidates, but the head 'head' h"
  ):
    data = batch(target=np.zeros((BATCH, 5), np.float32))
    made = task(outputs=2)
    made.predict(made.init(key, data), data, key)
  with pytest.raises(UserError, match='different numbers of options'):
    data = batch(True, True)
    data['regions'] = data['regions'][:, :2]
    task().model_inputs(data)


def test_steps_lower_the_loss(key):
  made, data = task(3, loss_type='softmax'), batch(label=np.array([0, 2, 1]))
  state, losses = made.init(key, data), []
  step = jax.jit(made.train_step)
  for _ in range(5):
    state, scalars = step(state, data, key)
    losses.append(float(scalars['loss']))
  assert losses[-1] < losses[0]
