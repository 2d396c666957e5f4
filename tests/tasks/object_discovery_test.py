import jax
import jax.numpy as jnp
import numpy as np
import pytest
import shapes

from big_vision_like import optim
from big_vision_like.devices import mesh as meshes
from big_vision_like.errors import UserError
from big_vision_like.models import slot_attention
from big_vision_like.ops import sharding
from big_vision_like.tasks import object_discovery

MODEL = slot_attention.AutoEncoder(
  num_slots=3,
  slot_size=8,
  hidden=10,
  encoder_convs=((6, 3, 1),),
  grid=(5, 4),
  decoder_convs=((7, 3, 1),),
)
TASK = object_discovery.ObjectDiscovery(model=MODEL, optimizer=optim.adamw(3e-3))
KEY = jax.random.key(0)


@pytest.fixture(scope='module')
def batch():
  rng = np.random.default_rng(0)
  return dict(image=rng.integers(0, 256, (4, 5, 4, 3), dtype=np.uint8))


@pytest.fixture(scope='module')
def state(batch):
  return jax.jit(TASK.init)(KEY, batch)


step = jax.jit(TASK.train_step)
predict = jax.jit(TASK.predict, static_argnames=('num_slots', 'iterations'))


def test_loss_is_the_mean_squared_error(state, batch):
  loss, _ = jax.jit(TASK.loss)(state.params, {}, batch, KEY)
  image_BHWC = batch['image'] / np.float32(127.5) - 1
  outputs = MODEL.apply({'params': state.params}, image_BHWC, rngs={'slots': KEY})
  want = np.square(np.asarray(outputs['reconstruction']) - image_BHWC).mean()
  np.testing.assert_allclose(loss, want, rtol=1e-5)


def test_a_step_learns_and_samples_slots_from_its_key(state, batch):
  first, scalars = step(state, batch, KEY)
  _, other = step(state, batch, jax.random.key(1))
  assert scalars['loss'] != other['loss']
  assert set(scalars) == {'loss', 'gradient_norm', 'rate'}
  for i in range(60):
    first, scalars = step(first, batch, jax.random.key(i))
  assert scalars['loss'] < 0.8 * other['loss']


def test_predictions_after_each_iteration(state, batch):
  outputs = predict(state, batch, KEY)
  assert outputs['iterate_masks'].shape == (4, 3, 3, 5, 4)
  assert outputs['iterate_contents'].shape == (4, 3, 3, 5, 4, 3)
  for name in 'masks', 'contents':
    np.testing.assert_array_equal(outputs[f'iterate_{name}'][:, -1], outputs[name])
  fewer = predict(state, batch, KEY, iterations=1)
  np.testing.assert_allclose(
    fewer['reconstruction'], outputs['iterate_reconstructions'][:, 0], atol=1e-5
  )
  composed = np.einsum(
    'BTSHW,BTSHWC->BTHWC', outputs['iterate_masks'], outputs['iterate_contents']
  )
  np.testing.assert_allclose(composed, outputs['iterate_reconstructions'], atol=1e-5)


def test_the_error_is_per_image(state, batch):
  outputs = predict(state, batch, KEY)
  np.testing.assert_allclose(outputs['image'], batch['image'] / 127.5 - 1, atol=1e-6)
  error = np.square(outputs['image'] - outputs['reconstruction'])
  np.testing.assert_allclose(outputs['mse'], error.mean(axis=(1, 2, 3)), rtol=1e-5)


def test_an_average_predicts(state, batch):
  doubled = jax.tree.map(lambda x: 2 * x, state.params)
  averaged = predict(state.replace(ema={'params': doubled}), batch, KEY)
  plain = predict(state.replace(params=doubled), batch, KEY)
  np.testing.assert_array_equal(averaged['masks'], plain['masks'])


def test_two_devices_match_one(state, batch):
  mesh = meshes.make_mesh(devices=jax.devices()[:2])
  _, one = step(state, batch, KEY)
  with sharding.on_mesh(mesh):
    _, two = jax.jit(TASK.train_step)(state, sharding.put(batch, mesh), KEY)
  for name in one:
    np.testing.assert_allclose(one[name], two[name], rtol=1e-5, err_msg=name)


def test_images_of_another_size_are_refused(batch):
  with pytest.raises(UserError, match=r'images are \(4, 4, 3\).* \(5, 4, 3\).*grid'):
    jax.eval_shape(TASK.init, KEY, {'image': batch['image'][:, :4]})


def test_array_names_match_their_axes():
  image = jnp.zeros((6, 5, 4, 3), jnp.uint8)
  with shapes.checked('big_vision_like'):
    state = jax.eval_shape(TASK.init, KEY, {'image': image})
    jax.eval_shape(TASK.train_step, state, {'image': image}, KEY)
    jax.eval_shape(TASK.predict, state, {'image': image}, KEY)
