import found
import jax.numpy as jnp
import numpy as np
import pytest

from big_vision_like.data.input import pipeline
from big_vision_like.evals import pretraining

RNG = np.random.default_rng(0)
COUNT = 7
ROWS = [
  {
    'given': RNG.normal(size=2).astype(np.float32),
    'aligned': bool(RNG.integers(2)),
    'words': int(RNG.integers(4)),
    'id': i,
  }
  for i in range(COUNT)
]


def data():
  return pipeline.EvalInput(source=ROWS, transforms=(), batch_size=3)


def test_pairs_told_right():
  def predict(state, batch, key):
    return {'logits': batch['given']}

  evaluator = pretraining.Alignment(data=data())
  scores = found.run(evaluator, predict, jnp.float32(1.0))
  logits = np.stack([row['given'] for row in ROWS])
  label = 1 - np.array([row['aligned'] for row in ROWS])
  assert scores['accuracy'] == pytest.approx((logits.argmax(axis=1) == label).mean())
  each = np.log(np.exp(logits).sum(axis=1)) - logits[np.arange(COUNT), label]
  assert scores['loss'] == pytest.approx(each.mean(), rel=1e-5)


def test_all_masks_have_equal_weight():
  def predict(state, batch, key):
    words = batch['words']
    return {
      'words': words,
      'right_words': jnp.minimum(words, 1),
      'regions': jnp.zeros_like(words),
      'right_regions': jnp.zeros_like(words),
    }

  evaluator = pretraining.Filling(data=data())
  scores = found.run(evaluator, predict, jnp.float32(1.0))
  words = np.array([row['words'] for row in ROWS])
  assert scores == {'words': pytest.approx((words > 0).sum() / words.sum())}
