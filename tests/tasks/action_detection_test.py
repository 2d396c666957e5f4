"""Action detection: loss over actors of the global batch, predictions, bad input."""

import battery
import jax
import numpy as np
import pytest

from big_vision_like import optim
from big_vision_like.devices import mesh as meshes
from big_vision_like.errors import UserError
from big_vision_like.ops import sharding
from big_vision_like.tasks import action_detection as tasks

CASES = battery.cases()


def made(name='actors_graph', **options):
  case = CASES[name]
  model = case.model
  if model.graph is not None:
    model = model.clone(graph=model.graph.clone(dropout=0.0))
  task = tasks.ActionDetection(
    model=model.clone(dropout=0.0), optimizer=optim.momentum(rate=0.1), **options
  )
  video, boxes_BAS4, mask_BA = case.inputs
  labels_BA = np.arange(mask_BA.size, dtype=np.int32).reshape(mask_BA.shape) % 5
  video = np.round(127.5 * (video + 1)).astype(np.uint8)
  return task, {
    'video': video,
    'boxes': boxes_BAS4,
    'box_labels': labels_BA,
    'box_mask': mask_BA,
  }


@pytest.fixture(scope='module')
def trained():
  """Returns a task, a batch, its first state, the compiled step, and its result."""
  task, batch = made()
  state = jax.jit(task.init)(jax.random.key(0), batch)
  step = jax.jit(task.train_step)
  return task, batch, state, step, step(state, batch, jax.random.key(1))


def test_the_loss_is_the_mean_over_actors(trained):
  task, batch, state, _, (after, scalars) = trained
  mask_BA = batch['box_mask']
  outputs = jax.jit(task.predict)(state, batch, jax.random.key(0))
  log_NC = np.asarray(jax.nn.log_softmax(outputs['logits'][mask_BA]))
  want = -log_NC[np.arange(len(log_NC)), batch['box_labels'][mask_BA]].mean()
  np.testing.assert_allclose(scalars['loss'], want, rtol=1e-5)
  assert mask_BA.sum() == 7 and int(after.step) == 1
  for before, now in zip(
    *map(jax.tree.leaves, (state.params, after.params)), strict=True
  ):
    assert np.isfinite(now).all() and before.shape == now.shape


def test_padding_and_its_labels_count_nothing(trained):
  _, batch, state, step, (after, scalars) = trained
  mask_BA = batch['box_mask']
  other = batch | {'box_labels': np.where(mask_BA, batch['box_labels'], 99)}
  again, found = step(state, other, jax.random.key(1))
  assert found['loss'] == scalars['loss']
  for one, two in zip(*map(jax.tree.leaves, (after.params, again.params)), strict=True):
    np.testing.assert_array_equal(one, two)


def test_a_batch_without_actors_changes_nothing(trained):
  _, batch, state, step, _ = trained
  after, scalars = step(
    state, batch | {'box_mask': np.zeros_like(batch['box_mask'])}, jax.random.key(1)
  )
  assert scalars['loss'] == 0
  for one, two in zip(*map(jax.tree.leaves, (state.params, after.params)), strict=True):
    np.testing.assert_array_equal(one, two)


def test_parts_and_devices_give_the_step_of_the_whole_batch(trained):
  task, batch, state, _, (after, scalars) = trained
  parts, _ = made(accumulate=2)
  other, found = jax.jit(parts.train_step)(state, batch, jax.random.key(1))
  np.testing.assert_allclose(found['loss'], scalars['loss'], rtol=1e-5)
  mesh = meshes.make_mesh(devices=jax.devices()[:4])
  spread, _ = jax.jit(task.train_step)(
    state, sharding.put(batch, mesh), jax.random.key(1)
  )
  trees = [jax.tree.leaves(x.params) for x in (after, other, spread)]
  for whole, by_parts, by_devices in zip(*trees, strict=True):
    np.testing.assert_allclose(whole, by_parts, atol=1e-5)
    np.testing.assert_allclose(whole, by_devices, atol=1e-5)


def test_attention_of_each_actor(trained):
  task, batch, state, *_ = trained
  outputs = jax.jit(task.attend)(state, batch, jax.random.key(0))
  assert outputs['attention'].shape == (4, 3, 2, 2, 2, 6, 6)
  assert not outputs['attention'][~batch['box_mask']].any()
  baseline, batch = made('actors')
  shapes = jax.eval_shape(baseline.init, jax.random.key(0), batch)
  with pytest.raises(UserError, match='this model has no context graph'):
    jax.eval_shape(baseline.attend, shapes, batch, jax.random.key(0))


@pytest.mark.parametrize(
  ('change', 'words'),
  [
    (dict(box_labels=np.full((4, 3), 5)), 'actor 0 of row 0 has label 5, .* 5 classes'),
    (
      dict(boxes=np.zeros((4, 3, 4))),
      r'`boxes` \[4, 3, 4\], .* must be \[B, A, S, 4\]',
    ),
    (dict(box_mask=np.ones((4, 2), bool)), r'`box_mask` \[4, 2\] must be'),
    (dict(boxes=np.full((4, 3, 2, 4), np.inf)), '`boxes` of actors have values that'),
  ],
)
def test_bad_batches_are_named(change, words):
  task, batch = made()
  task.check(batch)
  with pytest.raises(UserError, match=words):
    task.check(batch | change)
  with pytest.raises(UserError, match='batches have no `boxes`'):
    task.check({k: v for k, v in batch.items() if k != 'boxes'})
