"""Axes: B batch, K objects, C classes."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from big_vision_like import optim
from big_vision_like.data.input import pipeline
from big_vision_like.errors import UserError
from big_vision_like.evals import region_classification as evals
from big_vision_like.models import reasoning_rcnn
from big_vision_like.tasks import region_classification as tasks

LABELS = np.int32([[0, 1, 2], [2, 2, 0]])
THERE = np.array([[True, True, True], [True, True, False]])
# The most probable class of each object; background (3) must not be chosen.
BOTH = np.array([[0, 1, 0], [2, 3, 0]])


def logits(best_BK):
  # The second best class of the object that looks like background is 2.
  return jnp.asarray(2.0 * np.eye(4)[best_BK] + np.eye(4)[2][None, None])


def evaluator(there=THERE):
  image = np.zeros((4, 4, 3), np.uint8)
  source = [
    {'image': image, 'box_labels': labels, 'box_mask': mask}
    for labels, mask in zip(LABELS, there, strict=True)
  ]
  return evals.RegionAccuracy(
    data=pipeline.EvalInput(source=source, batch_size=2, workers=0),
    groups=dict(twins=(0, 1), others=(2,), none=(9,)),
  )


def test_accuracy_counts_objects_by_group():
  def predict(state, batch, key):
    return {'logits': logits(BOTH), 'first': logits(np.zeros((2, 3), int))}

  found = evaluator().run(predict, None).scalars
  assert found == pytest.approx(
    {
      'accuracy': 4 / 5,
      'twins': 1.0,
      'others': 2 / 3,
      'first_accuracy': 1 / 5,
      'first_twins': 1 / 2,
      'first_others': 0.0,
    }
  )


def test_images_without_objects_are_reported():
  def predict(state, batch, key):
    return {'logits': logits(BOTH), 'first': logits(BOTH)}

  with pytest.raises(UserError, match='the images have no objects'):
    evaluator(np.zeros_like(THERE)).run(predict, None)


def test_training_ignores_padding():
  task = tasks.RegionClassification(
    model=reasoning_rcnn.GivenRegions(
      3, channels=4, hidden=6, enhance=reasoning_rcnn.Reasoning(5, 4)
    ),
    optimizer=optim.momentum(0.1),
  )
  rng = np.random.default_rng(0)
  batch = {
    'image': rng.integers(0, 256, (2, 32, 32, 3), np.uint8),
    'boxes': np.float32([[[0, 0, 9, 9], [8, 8, 20, 20], [3, 9, 30, 30]]] * 2),
    'box_labels': LABELS,
    'box_mask': THERE,
  }
  task.check(batch)
  state = jax.jit(task.init)(jax.random.key(0), batch)
  other = batch | {
    'boxes': np.where(THERE[..., None], batch['boxes'], np.nan).astype(np.float32),
    'box_labels': np.where(THERE, LABELS, 7),
  }
  step = jax.jit(task.train_step)
  (first, scalars), (second, _) = (
    step(state, each, jax.random.key(1)) for each in (batch, other)
  )
  for x, y in zip(
    jax.tree.leaves(first.params), jax.tree.leaves(second.params), strict=True
  ):
    np.testing.assert_array_equal(x, y)
  total = scalars['loss_first'] + scalars['loss_second']
  assert float(scalars['loss']) == pytest.approx(float(total), rel=1e-6)
  halved = dataclasses.replace(task, head_weights=(1.0, 0.5))
  _, scalars = jax.jit(halved.train_step)(state, batch, jax.random.key(1))
  total = scalars['loss_first'] + scalars['loss_second'] / 2
  assert float(scalars['loss']) == pytest.approx(float(total), rel=1e-6)
  assert task.predict(first, batch, jax.random.key(0))['logits'].shape == (2, 3, 4)
