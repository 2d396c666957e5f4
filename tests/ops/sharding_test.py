import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import PartitionSpec as P

from big_vision_like.devices import mesh as meshes
from big_vision_like.errors import UserError
from big_vision_like.ops import sharding


@pytest.fixture(scope='module')
def mesh():
  return meshes.make_mesh(data=2, fsdp=2, tensor=2)


def traced_on(mesh, fn, *args):
  def on_mesh(*args):
    with sharding.on_mesh(mesh):
      return fn(*args)

  return jax.jit(on_mesh)(*jax.device_put(args, sharding.replicated(mesh)))


def test_constrain_lays_out_on_a_mesh_and_nothing_elsewhere(mesh):
  x_BM = jnp.arange(32.0).reshape(8, 4)

  def split(x_BM):
    return sharding.constrain(x_BM, sharding.BATCH, sharding.TENSOR)

  y_BM = traced_on(mesh, split, x_BM)
  assert y_BM.sharding.spec == P(('data', 'fsdp'), 'tensor')
  np.testing.assert_array_equal(y_BM, x_BM)
  assert split(x_BM) is x_BM
  # The mesh of pmap is not one of ours.
  mapped = jax.pmap(split, 'devices')(x_BM[None, :4].repeat(8, axis=0))
  np.testing.assert_array_equal(mapped[3], x_BM[:4])


def test_gathered_weights_have_split_gradients(mesh):
  """Checks that the weight is all-gathered, and its gradient reduced into its parts."""
  x_BD = jax.random.normal(jax.random.key(0), (8, 16))
  w_DM = jax.random.normal(jax.random.key(1), (16, 4))
  split = jax.NamedSharding(mesh, P('fsdp', 'tensor'))
  rows = sharding.batch_sharding(mesh)

  def loss(w_DM, x_BD):
    w_DM = sharding.gathered(w_DM, (None, sharding.TENSOR))
    return jnp.square(jnp.tanh(x_BD @ w_DM)).mean()

  def gradient(w_DM, x_BD):
    with sharding.on_mesh(mesh):
      return jax.grad(loss)(w_DM, x_BD)

  compiled = jax.jit(gradient, in_shardings=(split, rows), out_shardings=split)
  lowered = compiled.lower(w_DM, x_BD)
  got = compiled(w_DM, x_BD)
  np.testing.assert_allclose(got, jax.grad(loss)(w_DM, x_BD), 1e-5, 1e-6)
  text = lowered.compile().as_text()
  assert 'all-gather' in text and 'all-to-all' not in text
  # Nothing larger than the weight's own part over `tensor` is gathered.
  gathered = [line for line in text.splitlines() if ' all-gather(' in line]
  assert gathered and all('f32[16,2]' in line for line in gathered)


def test_dot_general_matches_jax_with_the_kernel_gathered(mesh):
  x_BD, kernel_DM = jnp.ones((8, 4)), jnp.arange(8.0).reshape(4, 2)
  dims = (((1,), (0,)), ((), ()))
  dot = sharding.dot_general(None, sharding.TENSOR)
  got = traced_on(mesh, lambda x, w: dot(x, w, dims), x_BD, kernel_DM)
  np.testing.assert_allclose(got, x_BD @ kernel_DM)


def test_rows_that_do_not_divide_are_refused(mesh):
  with pytest.raises(UserError, match="6 rows of 'image' do not divide over 4 devices"):
    sharding.put(dict(image=np.zeros((6, 2))), mesh)
