import flax.linen as nn
import jax
import jax.numpy as jnp
import pytest

from big_vision_like.cost import flops
from big_vision_like.layers import transformer
from big_vision_like.models import vit
from big_vision_like.ops import branches


def array(*shape):
  return jax.ShapeDtypeStruct(shape, jnp.float32)


def count_module(module, *args):
  variables = jax.eval_shape(module.init, jax.random.key(0), *args)
  return flops.count(module.apply, variables, *args)


def test_batched_product():
  def product(q, k):
    return jnp.einsum('BNHK,BMHK->BHNM', q, k)

  count = flops.count(product, array(2, 3, 4, 5), array(2, 6, 4, 5))
  assert count == 2 * (2 * 4) * (3 * 6) * 5


def test_elementwise_work_is_not_counted():
  assert flops.count(lambda x: jnp.tanh(x).sum() * 2, array(100)) == 0


@pytest.mark.parametrize('groups', [1, 2])
def test_conv(groups):
  conv = nn.Conv(8, (3, 5), strides=(2, 1), padding='SAME', feature_group_count=groups)
  positions = 2 * (12 // 2) * 10
  assert count_module(conv, array(2, 12, 10, 4)) == (
    2 * positions * (3 * 5 * 4 // groups) * 8
  )


def test_gradients_of_a_dense_layer_cost_two_more_products():
  def loss(w, x):
    return (x @ w).sum()

  forward = 2 * 3 * 5 * 7
  w, x = array(5, 7), array(3, 5)
  assert flops.count(loss, w, x) == forward
  assert flops.count(jax.grad(loss), w, x) == 2 * forward  # none for the input
  assert flops.count(jax.grad(loss, argnums=(0, 1)), w, x) == 3 * forward


@pytest.mark.parametrize('groups', [1, 2])
def test_the_gradient_of_a_convolution_costs_as_much_for_its_kernel(groups):
  conv = nn.Conv(6, (4, 4), strides=4, padding='VALID', feature_group_count=groups)
  image = array(2, 8, 12, 4)
  variables = jax.eval_shape(conv.init, jax.random.key(0), image)

  def loss(variables, image):
    return conv.apply(variables, image).sum()

  forward = flops.count(loss, variables, image)
  assert forward == 2 * (2 * 2 * 3) * (4 * 4 * 4 // groups) * 6
  assert flops.count(jax.grad(loss), variables, image) == 2 * forward


@pytest.mark.parametrize('stride', [1, 2])
def test_the_zeros_between_strided_gradients_are_no_work(stride):
  conv = nn.Conv(6, (4, 4), strides=stride)
  image = array(2, 8, 12, 4)
  variables = jax.eval_shape(conv.init, jax.random.key(0), image)

  def loss(variables, image):
    return conv.apply(variables, image).sum()

  forward = flops.count(loss, variables, image)
  both = flops.count(jax.grad(loss, argnums=(0, 1)), variables, image)
  assert both == 3 * forward


def test_a_loop_body_counts_once_per_trip():
  def loop(x, w):
    return jax.lax.scan(lambda x, _: (jnp.tanh(x @ w), None), x, length=6)[0]

  def nested(x, w):
    return jax.lax.scan(lambda x, _: (loop(x, w), None), x, length=3)[0]

  product = 2 * 4 * 5 * 5
  assert flops.count(loop, array(4, 5), array(5, 5)) == 6 * product
  assert flops.count(nested, array(4, 5), array(5, 5)) == 18 * product
  assert flops.count(jax.jit(nested), array(4, 5), array(5, 5)) == 18 * product


def test_the_more_expensive_of_two_branches_counts():
  def branch(x, w):
    return jax.lax.cond(x.sum() > 0, lambda: (x @ w) @ w.T, lambda: x)

  assert flops.count(branch, array(3, 5), array(5, 7)) == 2 * (2 * 3 * 5 * 7)


def encoder_count(**options):
  encoder = transformer.Stack(depth=3, num_heads=2, mlp_dim=24, **options)
  x = array(2, 5, 16)
  variables = jax.eval_shape(encoder.init, jax.random.key(0), x)

  def loss(variables, x):
    return encoder.apply(variables, x).sum()

  return flops.count(loss, variables, x), flops.count(jax.grad(loss), variables, x)


@pytest.mark.parametrize('compiled', [False, True])
def test_branches_of_some_steps_count_by_how_often_they_run(compiled):
  """Checks a lazy penalty with its gradient, as in a GAN, next to regular work."""

  def loss(x, step):
    lazy = branches.every(16, step, lambda x: (x @ x).sum(), lambda x: 0.0 * x.sum(), x)
    return lazy + (x @ x).sum()

  gradient = jax.grad(loss)
  if compiled:
    gradient = jax.jit(gradient)
  once = 3 * 2 * 8**3  # forward pass, and gradients of both factors
  found = flops.count(gradient, jnp.ones((8, 8)), jnp.int32(3))
  assert found == once + once // 16


def test_a_branch_runs_at_its_steps_only():
  @jax.jit
  def f(step):
    return branches.every(3, step, lambda x: x + 1, lambda x: x, jnp.zeros(()))

  assert [float(f(step)) for step in range(5)] == [1, 0, 0, 1, 0]
  assert branches.steps_of('jit(f)/every_3_steps') == 3
  assert branches.steps_of('transpose(jvp(every_16_steps))') == 16
  assert branches.steps_of('every_3_steps/inner') is None


def test_recomputation_is_not_counted():
  forward, backward = encoder_count()
  tokens, width, hidden = 2 * 5, 16, 24
  block = tokens * (4 * width * width + 2 * 5 * width + 2 * width * hidden)
  assert forward == 2 * 3 * block
  # Gradients add twice the forward pass, but none is computed for inputs before which
  # there are no parameters.
  assert 2.5 * forward < backward <= 3 * forward
  for scan in (False, True):
    for remat in ('none', 'dots', 'full'):
      assert encoder_count(scan=scan, remat=remat) == (forward, backward), (scan, remat)


def test_by_scope():
  model = vit.ViT(
    num_classes=3, patch=4, width=8, depth=2, num_heads=2, mlp_dim=16, pool='gap'
  )
  image = array(1, 8, 12, 1)
  variables = jax.eval_shape(model.init, jax.random.key(0), image)
  scopes = flops.by_scope(jax.make_jaxpr(model.apply)(variables, image))
  assert scopes['ViT/embed'] == 2 * 6 * (4 * 4) * 8
  assert scopes['ViT/encoder/block_1/mlp/fc1'] == 2 * 6 * 8 * 16
  assert scopes['ViT/head'] == 2 * 8 * 3
  assert sum(scopes.values()) == count_module(model, image)
