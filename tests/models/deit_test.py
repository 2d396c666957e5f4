"""Tests of DeiT and DeiT III where they differ from a ViT; the battery has the rest."""

import battery
import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from big_vision_like.cost import flops
from big_vision_like.errors import UserError
from big_vision_like.layers import transformer
from big_vision_like.models import deit, vit
from big_vision_like.weights import tree

SMALL = dict(num_classes=5, patch=4, width=16, depth=3, num_heads=2, mlp_dim=24)
IMAGE = np.random.default_rng(0).normal(size=(2, 8, 12, 3)).astype('float32')

# Parameters, and billions of multiply-accumulates if published (timm,
# results/model_benchmark; README of DeiT III), by model, size and image side.
PUBLISHED = {
  ('plain', 'Ti/16', 224): (5_717_416, 1.26),
  ('plain', 'S/16', 224): (22_050_664, 4.61),
  ('plain', 'B/16', 224): (86_567_656, 17.58),
  ('plain', 'B/16', 384): (86_859_496, 55.5),
  ('distilled', 'Ti/16', 224): (5_910_800, 1.27),
  ('distilled', 'S/16', 224): (22_436_432, 4.63),
  ('distilled', 'B/16', 224): (87_338_192, 17.68),
  ('distilled', 'B/16', 384): (87_630_032, 55.7),
  ('DeiT3', 'S/16', 224): (22_059_496, 4.61),
  ('DeiT3', 'M/16', 224): (38_849_512, 8.0),
  ('DeiT3', 'B/16', 224): (86_585_320, 17.58),
  ('DeiT3', 'L/16', 224): (304_374_760, 61.6),
  ('DeiT3', 'H/14', 224): (632_126_440, 167.4),
}


def model_of(kind, size):
  sizes = dict(num_classes=1000, scan=True, **deit.variant(size))
  if kind == 'DeiT3':
    return deit.DeiT3(**sizes)
  return deit.DeiT(**sizes, distilled=kind == 'distilled')


@pytest.mark.parametrize('published', PUBLISHED, ids=str)
def test_published_parameters_and_operations(published):
  kind, size, side = published
  count, gmacs = PUBLISHED[published]
  model = model_of(kind, size)
  image = jax.ShapeDtypeStruct((1, side, side, 3), jnp.float32)
  variables = jax.eval_shape(model.init, jax.random.key(0), image)
  assert sum(leaf.size for leaf in jax.tree.leaves(variables)) == count
  counted = flops.count(model.apply, variables, image) / 2  # multiply and add
  np.testing.assert_allclose(counted / 1e9, gmacs, rtol=0.01)


@pytest.mark.parametrize('train', [False, True])
def test_the_logits_are_the_mean_of_both_heads(train):
  model = deit.DeiT(**SMALL)
  variables = battery.variables(model, IMAGE)
  outputs = jax.jit(model.apply, static_argnums=2)(variables, IMAGE, train)
  tokens_BND, params = outputs['tokens'], variables['params']
  for place, (name, head) in enumerate(
    {'class_logits': 'head', 'distilled_logits': 'head_dist'}.items()
  ):
    want = tokens_BND[:, place] @ params[head]['kernel'] + params[head]['bias'][None]
    np.testing.assert_allclose(outputs[name], want, atol=1e-5)
  mean = (outputs['class_logits'] + outputs['distilled_logits']) / 2
  np.testing.assert_allclose(outputs['logits'], mean, atol=1e-6)
  assert np.abs(outputs['class_logits'] - outputs['distilled_logits']).max() > 0.1


def test_without_distillation_token_it_is_a_vit():
  ours = deit.DeiT(**SMALL, distilled=False)
  plain = vit.ViT(**SMALL, activation='gelu_exact')
  variables = battery.variables(plain, IMAGE)
  got, want = (jax.jit(model.apply)(variables, IMAGE) for model in (ours, plain))
  assert got.keys() == want.keys()
  np.testing.assert_array_equal(got['logits'], want['logits'])


def test_without_scales_and_class_position_deit3_is_a_vit():
  ours, plain = deit.DeiT3(**SMALL), vit.ViT(**SMALL, activation='gelu_exact')
  variables = battery.variables(plain, IMAGE)
  params = dict(variables['params'])
  table = params['pos_embedding'].at[:, 0].set(0.0)
  ones = {f'layer_scale{branch}': jnp.ones(16) for branch in (1, 2)}
  encoder = {
    name: part | ones if name.startswith('block_') else part
    for name, part in params['encoder'].items()
  }
  own = params | {'pos_embedding': table[:, 1:], 'encoder': encoder}
  got = jax.jit(ours.apply)({'params': own}, IMAGE)['logits']
  want = jax.jit(plain.apply)({'params': params | {'pos_embedding': table}}, IMAGE)
  np.testing.assert_allclose(got, want['logits'], atol=1e-5)


def test_parameters_start_as_published():
  model = deit.DeiT(**deit.variant('S/16') | dict(depth=1), num_classes=1000)
  params = jax.jit(model.init)(jax.random.key(0), np.zeros((1, 224, 224, 3)))['params']
  block = params['encoder']['block_0']
  normal = [
    *(block['attention'][name] for name in ('query', 'key', 'value', 'out')),
    *(block['mlp'][name] for name in ('fc1', 'fc2')),
    *(params[name] for name in ('head', 'head_dist')),
  ]
  for part in normal:
    np.testing.assert_allclose(part['kernel'].std(), 0.02, rtol=0.01)
    # Values beyond two deviations occur, unlike with the usual truncation.
    assert jnp.abs(part['kernel']).max() > 0.06
    assert not part['bias'].any()
  for name in ('cls', 'dist'):
    np.testing.assert_allclose(params[name].std(), 0.02, rtol=0.15)
  np.testing.assert_allclose(params['pos_embedding'].std(), 0.02, rtol=0.01)
  bound = 768**-0.5
  for array in params['embed'].values():
    assert 0.97 * bound < jnp.abs(array).max() <= bound
    np.testing.assert_allclose(array.std(), bound / 3**0.5, rtol=0.06)


def rates_of(model):
  """Returns the rates of drop path that the blocks of a model are called with."""
  rates = []

  def note(next_function, args, kwargs, context):
    called = context.method_name == '__call__'
    if called and isinstance(context.module, transformer.Block):
      rates.append(float(args[1]))
    return next_function(*args, **kwargs)

  with nn.intercept_methods(note):
    model.init(jax.random.key(0), IMAGE)
  return rates


def test_the_rates_of_drop_path():
  linear = rates_of(deit.DeiT(**SMALL, drop_path=0.1))
  np.testing.assert_allclose(linear, [0.0, 0.05, 0.1], rtol=1e-6)
  constant = rates_of(deit.DeiT3(**SMALL, drop_path=0.1))
  np.testing.assert_allclose(constant, [0.1] * 3, rtol=1e-6)


def test_drop_path_keeps_the_mean():
  drop = transformer.DropPath()
  x_BND = jnp.ones((20_000, 1, 1))
  y_BND = drop.apply({}, x_BND, 0.3, rngs={'dropout': jax.random.key(0)})
  np.testing.assert_allclose(np.unique(y_BND), [0.0, 1 / 0.7], rtol=1e-6)
  deviation = (0.3 / 0.7 / len(x_BND)) ** 0.5
  assert abs(float(y_BND.mean()) - 1.0) < 3 * deviation


@pytest.mark.parametrize('kind', [deit.DeiT, deit.DeiT3])
def test_without_drop_path_nothing_is_random(kind):
  model = kind(**SMALL)
  variables = battery.variables(model, IMAGE)
  apply = jax.jit(model.apply, static_argnums=2)
  one, other = (apply(variables, IMAGE, train)['logits'] for train in (True, False))
  np.testing.assert_array_equal(one, other)
  dropping = model.clone(drop_path=0.9)
  rngs = {'dropout': jax.random.key(0)}
  dropped = jax.jit(dropping.apply, static_argnums=2)(variables, IMAGE, True, rngs=rngs)
  assert np.abs(dropped['logits'] - other).max() > 1e-3


def test_scanned_blocks_have_the_same_rates():
  model = deit.DeiT3(**SMALL, drop_path=0.999)
  variables = battery.variables(model, IMAGE)
  scanned = {'params': tree.stack_blocks(variables['params'])}
  embedded = model.clone(depth=0).apply
  rngs = {'dropout': jax.random.key(0)}
  for each, own in ((model, variables), (model.clone(scan=True), scanned)):
    got = jax.jit(each.apply, static_argnums=2)(own, IMAGE, True, rngs=rngs)
    # This draw drops all branches, so that only the embedding remains.
    want = embedded(variables, IMAGE)
    np.testing.assert_allclose(got['tokens'], want['tokens'], atol=1e-6)


def test_invalid_options_are_reported():
  with pytest.raises(UserError, match="pool='gap': a DeiT must use its class token"):
    jax.eval_shape(deit.DeiT(**SMALL, pool='gap').init, jax.random.key(0), IMAGE)
  with pytest.raises(UserError, match='drop_path has 2 rates, but there are 3 blocks'):
    stack = transformer.Stack(3, 2, 24, drop_path=(0.1, 0.2))
    jax.eval_shape(stack.init, jax.random.key(0), jnp.zeros((1, 2, 16)))
  with pytest.raises(UserError, match="unknown ViT variant 'XL/16'"):
    deit.variant('XL/16')
