"""Tests of T2T-ViT where it differs from a ViT; the battery has the rest."""

import functools
import pathlib

import battery
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import shapes

from big_vision_like import optim
from big_vision_like.cost import flops
from big_vision_like.errors import UserError
from big_vision_like.models import t2t_vit
from big_vision_like.ops import positions
from big_vision_like.tasks import classification
from big_vision_like.viz.attention import stack_attention
from big_vision_like.weights import tree

GOLDEN = pathlib.Path(__file__).parent.parent / 'golden'
SMALL = dict(num_classes=5, width=24, depth=2, num_heads=3, mlp_dim=72, token_dim=16)
IMAGE = np.random.default_rng(0).normal(size=(2, 32, 48, 3)).astype('float32')

# All parameters, the trained ones, and billions of multiply-accumulates in linear
# layers, for 1000 classes and 224 pixels (384 where the name says so).
PUBLISHED = {
  '7': (4_310_222, 4_255_694, 0.976),
  '10': (5_889_230, 5_834_702, 1.285),
  '12': (6_941_902, 6_887_374, 1.492),
  '14': (21_545_550, 21_465_806, 4.334),
  '19': (39_177_422, 39_085_070, 7.787),
  '24': (64_105_934, 64_000_974, 12.676),
  't_14': (21_541_070, 21_465_422, 4.334),
  't_19': (39_172_942, 39_084_686, 7.787),
  't_24': (64_101_454, 64_000_590, 12.676),
  '14@384': (21_691_470, 21_465_806, 12.70),
  '14_resnext': (21_545_550, 21_465_806, 4.334),
  '14_wide': (25_156_302, 25_000_910, 4.959),
  '14_se': (21_803_598, 21_723_854, 4.334),
  '16_ghost': (16_253_262, 16_173_518, 3.292),
  'dense': (23_647_062, 23_617_750, None),
}


def products(model, side):
  """Returns multiply-accumulates of attention, which are not in linear layers."""
  tokens, m, d = (side // 16) ** 2 + 1, model.token_dim // 2, model.token_dim
  count = 2 * model.depth * tokens**2 * model.width
  for stride in (4, 8):
    n = (side // stride) ** 2
    if model.tokens == 'performer':  # features of q and k, both sums, their total
      count += n * (2 * d * m + 2 * d * m + m)
    else:
      count += 2 * n**2 * d
  return count


@pytest.mark.parametrize('name', PUBLISHED)
def test_published_parameters_and_operations(name):
  every, trained, gmacs = PUBLISHED[name]
  name, _, side = name.partition('@')
  side = int(side or 224)
  model = t2t_vit.T2TViT(
    num_classes=1000, scan=name != 'dense', **t2t_vit.variant(name)
  )
  image = jax.ShapeDtypeStruct((1, side, side, 3), jnp.float32)
  variables = jax.eval_shape(model.init, jax.random.key(0), image)
  assert sum(x.size for x in jax.tree.leaves(variables)) == every
  assert sum(x.size for x in jax.tree.leaves(variables['params'])) == trained
  if gmacs is not None:
    counted = flops.count(model.apply, variables, image) / 2  # multiply and add
    linear = (counted - products(model, side)) / 1e9
    np.testing.assert_allclose(linear, gmacs, rtol=0.01)


@pytest.mark.parametrize(
  'name', ['performer', 'transformer', 'se', 'ghost', 'dense'], ids=str
)
def test_positions_match_the_original(name):
  with np.load(GOLDEN / f't2t_vit_{name}.npz') as arrays:
    want = arrays['param/pos_embed']
  got = positions.sinusoid_table(*want.shape[1:])
  assert got.dtype == np.float32
  np.testing.assert_array_equal(got, want)


def test_constants_are_not_parameters():
  model = t2t_vit.T2TViT(**SMALL)
  variables = jax.jit(model.init)(jax.random.key(0), IMAGE)
  flat = tree.flatten(variables['constants'])
  layers = [f'tokens_to_token/layer{i}/w' for i in (1, 2)]
  assert flat.keys() == {'pos_embedding', *layers}
  for name in layers:  # orthonormal rows times the root of their number
    gram = flat[name] @ flat[name].T
    np.testing.assert_allclose(gram, 8 * np.eye(8), atol=1e-5)
  assert np.abs(flat[layers[0]] - flat[layers[1]]).max() > 0.1


def test_a_step_leaves_the_constants_and_moves_all_else():
  task = classification.Classification(
    model=t2t_vit.T2TViT(**SMALL),
    optimizer=optim.adamw(
      rate=1e-3,
      weight_decay=0.05,
      decay_rules=optim.decay_weights(exempt=['cls']),
    ),
    ema=optim.Ema(decay=0.5),
  )
  rng = np.random.default_rng(1)
  batch = {'image': rng.integers(0, 256, (4, 32, 48, 3), np.uint8)}
  batch['label'] = np.arange(4)
  first = jax.jit(task.init)(jax.random.key(0), batch)
  second, _ = jax.jit(task.train_step)(first, batch, jax.random.key(1))
  for name, array in tree.flatten(first.mutable['constants']).items():
    after = tree.flatten(second.mutable['constants'])[name]
    np.testing.assert_array_equal(array, after, err_msg=name)
  before, after = tree.flatten(first.params), tree.flatten(second.params)
  for name in before:
    assert np.abs(before[name] - after[name]).max() > 0, name
  kept = [
    jax.tree_util.keystr(k)
    for k, _ in jax.tree_util.tree_leaves_with_path(second.opt_state)
  ]
  assert kept and not any('pos_embedding' in k or "'w'" in k for k in kept)


def test_the_rates_of_the_recipe():
  """Checks rates at lr 5e-4: constant within an epoch, at the value of that epoch."""
  schedule = optim.per_epoch_cosine(
    5e-4, 300 * 7, 7, 10 * 7, warmup_value=1e-6, end_value=1e-5, late=False
  )
  want = {0: 1e-6, 1: 5.09e-5, 9: 4.501e-4, 10: 4.98658e-4, 150: 2.55e-4}
  want |= {299: 1.00134e-5, 300: 1e-5, 309: 1e-5}
  for epoch, rate in want.items():
    for step in (7 * epoch, 7 * epoch + 6):
      np.testing.assert_allclose(schedule(step), rate, rtol=1e-5, err_msg=str(step))


def test_the_performer_has_a_dropout_of_its_own():
  model = t2t_vit.T2TViT(**SMALL)
  variables = battery.variables(model, IMAGE)
  apply = jax.jit(functools.partial(model.apply, train=True))
  one, other = (
    apply(variables, IMAGE, rngs={'dropout': jax.random.key(n)})['logits']
    for n in (0, 1)
  )
  assert np.abs(one - other).max() > 1e-3
  # Without it nothing is random, and the Transformer has none.
  for quiet in (model.clone(token_dropout=0.0), model.clone(tokens='transformer')):
    own = battery.variables(quiet, IMAGE)
    got = jax.jit(functools.partial(quiet.apply, train=True))(own, IMAGE)['logits']
    want = jax.jit(quiet.apply)(own, IMAGE)['logits']
    np.testing.assert_allclose(got, want, atol=1e-5)


def test_half_precision_with_large_inputs():
  """Checks that features are float32: exponentials must not vanish or overflow."""
  model = t2t_vit.T2TViT(**SMALL, dtype='bfloat16')
  variables = battery.variables(model, IMAGE)
  outputs = jax.jit(model.apply)(variables, 4 * IMAGE)
  for name, array in outputs.items():
    assert np.isfinite(array.astype(jnp.float32)).all(), name
  told = str(jax.make_jaxpr(model.apply)(variables, IMAGE))
  exponentials = [line for line in told.splitlines() if ' = exp ' in line]
  assert exponentials and all(':f32[' in line for line in exponentials)


def test_a_dense_backbone_learns_and_drops_paths():
  model = t2t_vit.T2TViT(
    **SMALL | dict(depth=3), groups=(2, 1), growth=12, token_dropout=0.0
  )
  variables = battery.variables(model, IMAGE)

  def loss(params):
    outputs = model.apply(variables | {'params': params}, IMAGE)
    return jnp.square(outputs['logits']).sum()

  gradients = tree.flatten(jax.jit(jax.grad(loss))(variables['params']))
  for name, gradient in gradients.items():
    assert np.abs(gradient).max() > 0, name
  run = jax.jit(model.clone(drop_path=0.9).apply, static_argnums=2)
  rngs = {'dropout': jax.random.key(0)}
  dropped = run(variables, IMAGE, True, rngs=rngs)['logits']
  kept = jax.jit(model.apply)(variables, IMAGE)['logits']
  # The first group has a rate of 0, the second of 0.9 / 11.
  assert dropped.shape == kept.shape
  remat = jax.jit(model.clone(remat='full').apply)(variables, IMAGE)['logits']
  np.testing.assert_allclose(remat, kept, atol=1e-5)


@pytest.mark.parametrize(
  'changes',
  [
    {},
    dict(tokens='transformer'),
    dict(backbone='se'),
    dict(backbone='ghost'),
  ],
  ids=str,
)
def test_names_of_arrays_end_in_their_axes(changes):
  model = t2t_vit.T2TViT(**SMALL | changes)
  folders = (f'big_vision_like/{name}' for name in ('models', 'layers', 'ops'))
  with shapes.checked(*folders) as seen:
    jax.eval_shape(model.init, jax.random.key(0), np.zeros((5, 32, 48, 3), 'float32'))
  assert {'x_BPQC', 'x_BhwCK', 'x_BNI', 'q_BN1E', 'x_BhwI'} <= seen.keys()


@pytest.mark.parametrize('backbone', ['plain', 'se', 'ghost'])
def test_attention_of_each_block_is_where_pictures_look(backbone):
  model = t2t_vit.T2TViT(**SMALL, backbone=backbone)
  variables = battery.variables(model, IMAGE)
  _, sown = jax.jit(functools.partial(model.apply, mutable=['intermediates']))(
    variables, IMAGE
  )
  probs_LBHNN = stack_attention(sown['intermediates'])
  assert probs_LBHNN.shape == (2, 2, 3, 7, 7)
  np.testing.assert_allclose(probs_LBHNN.sum(-1), 1.0, rtol=1e-5)
  assert model.attends and not model.clone(groups=(1, 1)).attends


@pytest.mark.parametrize(
  'changes, size, words',
  [
    ({}, (40, 48), 'images of 40x48 do not divide .* resize them to 32x48 or 48x48'),
    ({}, (8, 40), 'resize them to 16x32 or 16x48'),
    (dict(token_dim=15), (32, 48), 'token_dim=15: .* choose an even width such as 16'),
    (dict(tokens='conv'), (32, 48), "tokens='conv' is not one of"),
    (dict(backbone='swin'), (32, 48), "backbone='swin' is not one of"),
    (dict(patch=8), (32, 48), r'patch=8, resnet=None: the soft splits'),
    (dict(groups=(2, 1)), (32, 48), r'groups=\(2, 1\) have 3 blocks, not depth=2'),
    (dict(groups=(1, 1), scan=True), (32, 48), 'those of a dense backbone differ'),
    (dict(backbone='ghost', mlp_dim=48), (32, 48), 'mlp_dim=48: .* 3 times its width'),
  ],
)
def test_invalid_options_are_reported(changes, size, words):
  model = t2t_vit.T2TViT(**SMALL | changes)
  with pytest.raises(UserError, match=words):
    jax.eval_shape(model.init, jax.random.key(0), np.zeros((1, *size, 3), 'float32'))


def test_images_of_another_size_need_other_positions():
  model = t2t_vit.T2TViT(**SMALL)
  variables = battery.variables(model, IMAGE)
  with pytest.raises(UserError, match=r'constant pos_embedding has shape \(1, 7, 24\)'):
    jax.eval_shape(model.apply, variables, np.zeros((1, 48, 48, 3), 'float32'))
  with pytest.raises(UserError, match="unknown T2T-ViT '15': choose one of 7, 10"):
    t2t_vit.variant('15')
