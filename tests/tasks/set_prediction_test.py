import functools

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import shapes
from scipy import optimize

from big_vision_like import optim
from big_vision_like.devices import mesh as meshes
from big_vision_like.errors import UserError
from big_vision_like.ops import sharding
from big_vision_like.tasks import set_prediction

SLOTS, PROPERTIES = 4, 3
KEY = jax.random.key(0)


class Slots(nn.Module):
  """A minimal model for the task: sampled slots that see the mean colour."""

  num_slots: int = SLOTS
  num_properties: int = PROPERTIES

  @nn.compact
  def __call__(self, image, train=False, num_slots=None, iterations=None):
    shape = image.shape[0], num_slots or self.num_slots, 8
    noise_BSD = jax.random.normal(self.make_rng('slots'), shape)
    colour_B1D = nn.Dense(8, name='colour')(image.mean(axis=(1, 2)))[:, None]
    x_BSD = noise_BSD
    for _ in range(iterations or 1):
      x_BSD = nn.tanh(x_BSD + colour_B1D)
    return {
      'predictions': nn.sigmoid(nn.Dense(self.num_properties, name='head')(x_BSD)),
      'slots': x_BSD,
    }


def make(**options):
  options = {
    'model': Slots(),
    'optimizer': optim.adamw(0.01, weight_decay=0.0),
    **options,
  }
  return set_prediction.SetPrediction(**options)


@pytest.fixture(scope='module')
def batch():
  rng = np.random.default_rng(0)
  targets = rng.random((8, 3, PROPERTIES), np.float32)
  targets[np.arange(3) >= rng.integers(0, 4, (8, 1))] = 0.0
  return {
    'image': rng.integers(0, 256, (8, 5, 6, 3), dtype=np.uint8),
    'targets': targets,
  }


@pytest.fixture(scope='module')
def task():
  return make()


@pytest.fixture(scope='module')
def state(task, batch):
  return jax.jit(task.init)(KEY, batch)


@pytest.fixture(scope='module')
def step(task):
  return jax.jit(task.train_step)


def expected_huber(predictions_BSP, targets_BOP):
  """Returns the loss by numpy and scipy, image by image."""
  found = []
  for prediction_SP, target_OP in zip(predictions_BSP, targets_BOP, strict=True):
    error_OSP = np.abs(np.float64(target_OP)[:, None] - np.float64(prediction_SP))
    huber_OSP = np.where(error_OSP <= 1, 0.5 * error_OSP**2, error_OSP - 0.5)
    cost_OS = huber_OSP.mean(axis=-1)
    found.append(cost_OS[optimize.linear_sum_assignment(cost_OS)].sum())
  return np.array(found)


@pytest.mark.parametrize('slots', [10, 12])
def test_loss_matches_scipy(slots):
  rng = np.random.default_rng(0)
  # Beyond [0, 1], where Huber's loss is no longer a square.
  predictions = rng.normal(size=(20, slots, 19)).astype(np.float32)
  targets = (1.5 * rng.normal(size=(20, 10, 19))).astype(np.float32)
  targets[np.arange(10) >= rng.integers(0, 11, (20, 1))] = 0.0
  loss = jax.jit(set_prediction.hungarian_huber)(predictions, targets)
  np.testing.assert_allclose(loss, expected_huber(predictions, targets), rtol=2e-6)


def test_gradient_comes_from_the_matched_pairs():
  rng = np.random.default_rng(1)
  predictions = rng.random((2, 4, 3), np.float32)
  targets = rng.random((2, 3, 3), np.float32)
  grads = jax.jit(jax.grad(lambda p: set_prediction.hungarian_huber(p, targets).sum()))(
    predictions
  )
  expected = np.zeros_like(predictions)
  for image, (p, t) in enumerate(zip(predictions, targets, strict=True)):
    cost = np.square(t[:, None] - p[None]).mean(axis=-1)
    objects, slots = optimize.linear_sum_assignment(cost)
    expected[image, slots] = (p[slots] - t[objects]) / 3
  np.testing.assert_allclose(grads, expected, rtol=1e-5, atol=1e-7)


def test_order_of_objects_and_of_slots_does_not_matter():
  rng = np.random.default_rng(2)
  predictions = rng.random((5, 6, 4), np.float32)
  targets = rng.random((5, 4, 4), np.float32)
  loss = jax.jit(set_prediction.hungarian_huber)
  other = loss(predictions[:, rng.permutation(6)], targets[:, rng.permutation(4)])
  np.testing.assert_allclose(other, loss(predictions, targets), rtol=1e-6)


def test_a_step_descends_the_mean_loss(batch, state, step):
  after, scalars = step(state, batch, KEY)
  image = batch['image'] / np.float32(127.5) - 1
  outputs = Slots().apply({'params': state.params}, image, rngs={'slots': KEY})
  expected = expected_huber(outputs['predictions'], batch['targets']).mean()
  np.testing.assert_allclose(scalars['loss'], expected, rtol=1e-5)
  assert after.step == 1 and scalars.keys() == {'loss', 'gradient_norm', 'rate'}
  _, other = step(state, batch, jax.random.key(1))
  assert other['loss'] != scalars['loss'], 'slots are not sampled from the key'


def test_it_learns(batch, state, step):
  # All images have the same three objects.
  batch = batch | {'targets': np.tile(np.float32(np.eye(3)), (8, 1, 1))}
  losses = []
  for i in range(100):
    state, scalars = step(state, batch, jax.random.fold_in(KEY, i))
    losses.append(scalars['loss'])
  assert np.mean(losses[-5:]) < 0.7 * np.mean(losses[:5])


def test_no_object_at_all_is_fine(batch, task, state, step):
  empty = batch | {'targets': np.zeros_like(batch['targets'])}
  task.check(empty)
  _, scalars = step(state, empty, KEY)
  assert scalars['loss'] > 0 and scalars['gradient_norm'] > 0
  none = batch['targets'][:, :0]
  task.check({'targets': none})
  loss_B = set_prediction.hungarian_huber(np.ones((8, SLOTS, PROPERTIES)), none)
  np.testing.assert_array_equal(loss_B, np.zeros(8))


def test_prediction(batch, state):
  task = make(ema=optim.Ema(decay=0.5))
  zeros = jax.tree.map(jnp.zeros_like, state.params)
  state = state.replace(params=zeros, ema={'params': state.params})
  outputs = jax.jit(task.predict)(state, batch, KEY)
  image = batch['image'] / np.float32(127.5) - 1
  np.testing.assert_allclose(outputs['image'], image, atol=1e-6)
  expected = Slots().apply(state.ema, image, rngs={'slots': KEY})
  np.testing.assert_allclose(outputs['predictions'], expected['predictions'], atol=1e-6)
  huber = expected_huber(outputs['predictions'], batch['targets'])
  np.testing.assert_allclose(outputs['huber'], huber, rtol=1e-5)
  assert outputs.keys() == {'predictions', 'slots', 'image', 'huber'}


def test_prediction_with_other_slots_and_iterations_and_without_targets(
  batch, task, state
):
  predict = functools.partial(task.predict, num_slots=7, iterations=3)
  image = batch['image'] / np.float32(127.5) - 1  # floats are used unchanged
  outputs = jax.jit(predict)(state, {'image': image}, KEY)
  assert outputs.keys() == {'predictions', 'slots', 'image'}
  assert outputs['predictions'].shape == (8, 7, PROPERTIES)
  np.testing.assert_array_equal(outputs['image'], image)
  expected = Slots(num_slots=7).apply(
    {'params': state.params}, image, iterations=3, rngs={'slots': KEY}
  )
  np.testing.assert_allclose(outputs['slots'], expected['slots'], atol=1e-6)
  with pytest.raises(UserError, match='3 targets.*2 queries'):
    task.predict(state, batch, KEY, num_slots=2)


def test_a_step_is_the_same_on_two_devices(batch, task, state, step):
  mesh = meshes.make_mesh(data=2, devices=jax.devices()[:2])

  def on_mesh(state, batch):
    with sharding.on_mesh(mesh):
      return task.train_step(state, batch, KEY)

  after, scalars = jax.jit(on_mesh)(
    jax.device_put(state, sharding.replicated(mesh)), sharding.put(batch, mesh)
  )
  expected, alone = step(state, batch, KEY)
  np.testing.assert_allclose(scalars['loss'], alone['loss'], rtol=1e-6)
  for got, want in zip(
    jax.tree.leaves(after.params), jax.tree.leaves(expected.params), strict=True
  ):
    np.testing.assert_allclose(got, want, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize(
  'change, message',
  [
    (
      lambda t: np.repeat(t, 2, axis=1),
      r'\[8, 6, 3\].* 4 slots.*num_slots to 6 or more',
    ),
    (lambda t: t[..., :2], r'\[8, 3, 2\].* 3 properties.*task.model.num_properties'),
    (lambda t: t[:, 0], r'\[8, 3\].*must be \(batch, objects, 3\)'),
    (lambda t: np.where(t == t[5, 0, 0], np.nan, t), r'id 105 hold NaN'),
    (lambda t: np.where(t == t[5, 0, 0], np.inf, t), r'id 105 hold NaN or infinity'),
  ],
)
def test_unusable_targets_are_reported(batch, task, change, message):
  targets = batch['targets'] + np.float32(1e-3)
  good = {'targets': targets, 'id': np.arange(100, 108)}
  task.check(good)
  with pytest.raises(UserError, match=message):
    task.check(good | {'targets': change(targets)})


def test_array_names_match_their_axes():
  with shapes.checked('big_vision_like/tasks/set_prediction') as seen:
    jax.eval_shape(
      set_prediction.hungarian_huber, np.zeros((2, 5, 7)), np.zeros((2, 3, 7))
    )
  assert {'cost_BOS', 'slot_BO1', 'targets_BO1P'} <= seen.keys()


def test_a_slot_that_is_nan_is_not_hidden():
  predictions = np.full((2, 3, 4), 0.5, np.float32)
  predictions[1, 2] = np.nan
  loss = jax.jit(set_prediction.hungarian_huber)(predictions, np.zeros((2, 3, 4)))
  assert np.isfinite(loss[0]) and np.isnan(loss[1])
