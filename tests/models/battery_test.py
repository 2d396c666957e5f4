"""What every model must pass; a new one joins with a line in MODELS.

`python tests/models/battery_test.py` writes the golden parameter trees anew: the diff
of tests/golden/params then shows what a change did.
"""

import functools
import pathlib

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from big_vision_like.devices import mesh as meshes
from big_vision_like.models import bit, detr, resnet, slot_attention, transformer, vit
from big_vision_like.ops import sharding
from big_vision_like.weights import tree as trees

GOLDEN = pathlib.Path(__file__).parent.parent / 'golden' / 'params'
SMALL = dict(num_classes=5, width=24, depth=2, num_heads=3, mlp_dim=40)

WORDS = dict(vocab_size=9, width=24, depth=2, num_heads=3, mlp_dim=40)
TEXT = ((4, 6), (4, 5))

SLOTS = dict(
  num_slots=5,
  slot_size=12,
  hidden=14,
  encoder_convs=((10, 3, 1), (10, 3, 2)),
  grid=(4, 8),
  decoder_convs=((10, 3, 2),),
)

# name: (model, shapes of its inputs: images (B, H, W, C) or tokens (B, T))
MODELS = {
  'vit_token': (vit.ViT(**SMALL, patch=8, rep_size=7), ((4, 16, 32, 3),)),
  'vit_gap_sincos2d': (
    vit.ViT(**SMALL, patch=(4, 8), pool='gap', posemb='sincos2d'),
    ((4, 16, 32, 3),),
  ),
  'vit_map': (vit.ViT(**SMALL, patch=8, pool='map'), ((4, 16, 32, 1),)),
  'vit_no_position': (vit.ViT(**SMALL, patch=8, posemb='none'), ((4, 16, 32, 3),)),
  'vit_relative': (
    vit.ViT(**SMALL, patch=8, posemb='relative', posemb_at='every', registers=2),
    ((4, 16, 32, 3),),
  ),
  'vit_hybrid': (vit.ViT(**SMALL, patch=1, resnet=(1,)), ((4, 16, 32, 3),)),
  'vit_r50_b16': (
    vit.ViT(num_classes=1000, **vit.variant('R50+B/16')),
    ((4, 224, 224, 3),),
  ),
  'bit': (bit.BiT(num_classes=5, depths=(1, 1)), ((4, 16, 32, 3),)),
  'bit_v1': (bit.BiTv1(num_classes=5, depths=(1, 1)), ((4, 16, 32, 3),)),
  'bit_r50x1': (
    bit.BiT(num_classes=1000, **bit.variant('R50x1')),
    ((4, 224, 224, 3),),
  ),
  'resnet': (
    resnet.ResNet(depths=(1, 1), num_classes=5, root=6, channels=(4, 6)),
    ((4, 16, 32, 3),),
  ),
  # Queries at the input: else all start alike, and the first layer compares zeros.
  'detr': (
    detr.DETR(
      num_classes=5,
      backbone=resnet.ResNet(depths=(1, 1), root=4, channels=(4, 6), norm='frozen'),
      num_queries=7,
      width=24,
      encoder_depth=2,
      decoder_depth=2,
      num_heads=3,
      mlp_dim=40,
      positions_at=('attention', 'attention', 'input'),
    ),
    ((4, 16, 32, 3),),
  ),
  'detr_r50': (
    detr.DETR(
      num_classes=91,
      backbone=resnet.ResNet(**resnet.variant('R50'), norm='frozen', frozen_stages=1),
    ),
    ((1, 64, 64, 3),),
  ),
  'vit_b16': (vit.ViT(num_classes=1000, **vit.variant('B/16')), ((4, 224, 224, 3),)),
  'transformer': (transformer.Transformer(**WORDS), TEXT),
  'transformer_t2t': (
    transformer.Transformer(**WORDS, **transformer.STYLES['t2t']),
    TEXT,
  ),
  'transformer_base': (
    transformer.Transformer(vocab_size=37_000, **transformer.variant('base')),
    TEXT,
  ),
  'slot_attention': (slot_attention.AutoEncoder(**SLOTS), ((4, 8, 16, 3),)),
  'slot_attention_clevr': (
    slot_attention.AutoEncoder(num_slots=7, **slot_attention.variant('clevr')),
    ((4, 128, 128, 3),),
  ),
  'slot_attention_tetrominoes': (
    slot_attention.AutoEncoder(num_slots=4, **slot_attention.variant('tetrominoes')),
    ((4, 35, 35, 3),),
  ),
  'slot_set': (
    slot_attention.SetClassifier(
      num_slots=5,
      num_properties=6,
      slot_size=12,
      hidden=14,
      encoder_convs=((10, 3, 2),),
    ),
    ((4, 8, 16, 3),),
  ),
  'slot_set_clevr': (
    slot_attention.SetClassifier(num_slots=10, num_properties=19),
    ((4, 128, 128, 3),),
  ),
}
RUNNABLE = [
  *('vit_token', 'vit_gap_sincos2d', 'vit_map', 'vit_no_position'),
  *('vit_relative', 'vit_hybrid', 'bit', 'transformer', 'slot_attention', 'slot_set'),
  *('resnet', 'detr'),
]
# What a loss would be of: the first of these that a model gives.
RESULTS = ('logits', 'reconstruction', 'predictions')
# Those with blocks of one kind, and randomness.
STACKS = [name for name in RUNNABLE if hasattr(MODELS[name][0], 'scan')]


def inputs_of(shapes: tuple[tuple[int, ...], ...]) -> list[jax.Array]:
  """Random images or tokens."""
  keys = jax.random.split(jax.random.key(1), len(shapes))
  return [
    jax.random.uniform(key, shape, minval=-1.0)
    if len(shape) == 4
    else jax.random.randint(key, shape, 1, 9)
    for key, shape in zip(keys, shapes, strict=True)
  ]


def listed(model: nn.Module, shapes: tuple[tuple[int, ...], ...]) -> str:
  """Names and shapes of all parameters, one a line."""
  params = jax.eval_shape(model.init, jax.random.key(0), *inputs_of(shapes))['params']
  flat = trees.flatten(params)
  lines = [f'{name} {"x".join(map(str, flat[name].shape))}' for name in sorted(flat)]
  total = sum(leaf.size for leaf in flat.values())
  return '\n'.join([*lines, f'total {total:,}']) + '\n'


def result(outputs: dict[str, jax.Array]) -> jax.Array:
  return outputs[next(name for name in RESULTS if name in outputs)]


def applied(model: nn.Module, variables: dict, inputs: list[jax.Array]) -> dict:
  """What the model gives where only slots are random."""
  return model.apply(variables, *inputs, rngs={'slots': jax.random.key(4)})


def started(name: str) -> tuple[nn.Module, dict, list[jax.Array]]:
  """The model, variables away from their special starting points, and inputs."""
  model, shapes = MODELS[name]
  inputs = inputs_of(shapes)
  variables = jax.jit(model.init)(jax.random.key(0), *inputs)
  leaves, structure = jax.tree.flatten(variables)
  keys = jax.random.split(jax.random.key(2), len(leaves))
  noisy = [
    x + 0.1 * jax.random.normal(k, x.shape) for x, k in zip(leaves, keys, strict=True)
  ]
  return model, jax.tree.unflatten(structure, noisy), inputs


@pytest.fixture(params=RUNNABLE, scope='module')
def case(request) -> tuple[nn.Module, dict, list[jax.Array]]:
  return started(request.param)


@pytest.mark.parametrize('name', MODELS)
def test_parameter_tree_is_the_golden_one(name):
  assert listed(*MODELS[name]) == (GOLDEN / f'{name}.txt').read_text()


def test_gradient_reaches_every_parameter(case):
  model, variables, inputs = case

  def loss(params):
    outputs = applied(model, variables | {'params': params}, inputs)
    found = [outputs[name] for name in (*RESULTS, 'boxes') if name in outputs]
    return sum((x * jnp.arange(x.size).reshape(x.shape)).sum() for x in found)

  grads = trees.flatten(jax.jit(jax.grad(loss))(variables['params']))
  largest = max(np.abs(g).max() for g in grads.values())
  for name, grad in grads.items():
    assert np.isfinite(grad).all(), name
    # Softmax over keys does not see what is added to all of them alike; over queries,
    # what is added to all queries.
    if not name.endswith(('key/bias', 'norm_slots/bias')):
      assert np.abs(grad).max() > 1e-6 * largest, name


def test_examples_do_not_see_each_other(case):
  model, variables, inputs = case
  apply = jax.jit(functools.partial(applied, model, variables))
  changed = [x.at[1].set(x[1, ::-1]) for x in inputs]
  one, other = apply(inputs), apply(changed)
  for name in one:
    if name.startswith('layer_'):  # whose first axis is another one
      continue
    np.testing.assert_allclose(one[name][0], other[name][0], atol=1e-6, err_msg=name)
    assert np.abs(one[name][1] - other[name][1]).max() > 1e-3, name


@pytest.mark.parametrize('case', STACKS, indirect=True, scope='module')
def test_training_is_random_and_evaluation_is_not(case):
  model, variables, inputs = case
  rates = {n: 0.3 for n in ('dropout', 'drop_path') if hasattr(model, n)}
  model = model.clone(**rates)

  @jax.jit
  def train(key):
    return model.apply(variables, *inputs, train=True, rngs={'dropout': key})['logits']

  evaluate = jax.jit(lambda: model.apply(variables, *inputs, train=False)['logits'])
  keys = jax.random.split(jax.random.key(3))
  assert np.abs(train(keys[0]) - train(keys[1])).max() > 1e-3
  np.testing.assert_array_equal(train(keys[0]), train(keys[0]))
  np.testing.assert_array_equal(evaluate(), evaluate())
  assert np.abs(train(keys[0]) - evaluate()).max() > 1e-3


def test_bfloat16_is_finite_and_near(case):
  model, variables, inputs = case
  run = jax.jit(applied, static_argnums=0)
  exact = run(model, variables, inputs)
  rough = run(model.clone(dtype='bfloat16'), variables, inputs)
  assert result(rough).dtype == jnp.float32
  if 'features' in rough:
    assert rough['features'].dtype == jnp.bfloat16
  for name, value in rough.items():
    assert np.isfinite(value.astype(jnp.float32)).all(), name
  scale, error = np.abs(result(exact)).max(), result(rough) - result(exact)
  assert np.abs(error).max() < 0.05 * scale
  assert np.any(error)  # half precision was at work


def loss_and_grads(model, variables, inputs):
  def loss(variables):
    return (model.apply(variables, *inputs)['logits'] ** 2).mean()

  return jax.jit(jax.value_and_grad(loss))(variables)


@pytest.fixture(scope='module')
def unrolled(case):
  return loss_and_grads(*case)


@pytest.mark.parametrize('case', STACKS, indirect=True, scope='module')
@pytest.mark.parametrize('remat', ['none', 'dots', 'full'])
def test_scanned_is_unrolled(case, unrolled, remat):
  model, variables, inputs = case
  loss, grads = unrolled
  stacked = variables | {'params': trees.stack_blocks(variables['params'])}
  loss_scanned, grads_scanned = loss_and_grads(
    model.clone(scan=True, remat=remat), stacked, inputs
  )
  np.testing.assert_allclose(loss, loss_scanned, rtol=1e-5)
  back = trees.flatten(trees.unstack_blocks(grads_scanned['params']))
  for name, grad in trees.flatten(grads['params']).items():
    np.testing.assert_allclose(grad, back[name], atol=1e-5, rtol=1e-3, err_msg=name)


def test_four_devices_are_one(case):
  model, variables, inputs = case
  mesh = meshes.make_mesh(devices=jax.devices()[:4])
  named = {str(n): np.asarray(x) for n, x in enumerate(inputs)}
  spread = sharding.put(named, mesh).values()
  assert all(len(x.sharding.device_set) == 4 for x in spread)
  run = jax.jit(applied, static_argnums=0)
  one, four = run(model, variables, inputs), run(model, variables, list(spread))
  for name in one:
    allowed = 2e-5 * max(1.0, np.abs(one[name]).max())
    np.testing.assert_allclose(one[name], four[name], atol=allowed, err_msg=name)


if __name__ == '__main__':
  for name, (model, shapes) in MODELS.items():
    (GOLDEN / f'{name}.txt').write_text(listed(model, shapes))
