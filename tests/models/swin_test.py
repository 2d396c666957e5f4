"""Tests of Swin alone; the battery tests what all models share."""

import re

import battery
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import shapes

from big_vision_like import spec
from big_vision_like.cost import flops
from big_vision_like.errors import UserError
from big_vision_like.models import swin

SMALL = dict(width=8, depths=(2,), num_heads=(2,), window=4, mlp_ratio=2.0)
IMAGES = battery.images(2, 32, 32, 3)


@pytest.mark.parametrize(
  ('name', 'size', 'classes', 'count', 'gmacs'),
  [
    ('T', 224, 1000, 28_288_354, 4.49),
    ('S', 224, 1000, 49_606_258, 8.75),
    ('B', 224, 1000, 87_768_224, 15.44),
    ('B/12', 384, 1000, 87_903_584, 47.11),
    ('L', 224, 1000, 196_532_476, 34.49),
    ('L/12', 384, 1000, 196_735_516, 103.95),
    ('B', 224, 21_841, 109_130_249, 15.46),
    ('C24/8', 256, 1000, 28_306_432, 5.93),
  ],
)
def test_published_parameters_and_operations(name, size, classes, count, gmacs):
  model = swin.Swin(num_classes=classes, **swin.variant(name), scan=True)
  image = jax.ShapeDtypeStruct((1, size, size, 3), jnp.float32)
  variables = jax.eval_shape(model.init, jax.random.key(0), image)
  assert sum(leaf.size for leaf in jax.tree.leaves(variables)) == count
  counted = flops.count(model.apply, variables, image) / 2  # multiply and add
  np.testing.assert_allclose(counted / 1e9, gmacs, rtol=0.01)


def windows_of(model, variables, image):
  """Returns the outputs of both blocks of the only pair."""
  _, found = model.apply(variables, image, capture_intermediates=True)
  found = found['intermediates']['stage1']['block_0']
  return found['window']['__call__'][0], found['shifted']['__call__'][0]


@pytest.fixture(scope='module')
def small():
  model = swin.Swin(num_classes=2, **SMALL)
  return model, battery.variables(model, IMAGES)


def test_windows_move_with_the_image(small):
  model, variables = small
  moved = np.roll(IMAGES, 16, axis=(1, 2))  # one window of 4 patches of 4 pixels
  one, _ = windows_of(model, variables, IMAGES)
  other, _ = windows_of(model, variables, moved)
  np.testing.assert_allclose(np.roll(one, 4, axis=(1, 2)), other, atol=1e-6)
  by_half, _ = windows_of(model, variables, np.roll(IMAGES, 8, axis=(1, 2)))
  assert np.abs(np.roll(one, 2, axis=(1, 2)) - by_half).max() > 1e-3


@pytest.mark.parametrize(
  ('shift', 'place', 'rows', 'columns'),
  [
    (0, (1, 6), range(4), range(4, 8)),
    (2, (1, 1), range(2), range(2)),  # the corner, in a window with three other regions
    (2, (1, 4), range(2), range(2, 6)),
    (2, (3, 7), range(2, 6), (6, 7)),
    (2, (4, 3), range(2, 6), range(2, 6)),
  ],
)
def test_tokens_take_nothing_from_other_regions(shift, place, rows, columns):
  block = swin.Block(num_heads=2, mlp_dim=16, window=4, shift=shift)
  x_BhwD = battery.images(1, 8, 8, 8)
  variables = battery.variables(block, x_BhwD, jnp.zeros(()))

  def token(x_BhwD):
    return block.apply(variables, x_BhwD, jnp.zeros(()))[0, place[0], place[1]].sum()

  gradient_hwD = jax.grad(token)(x_BhwD)[0]
  seen_hw = np.zeros((8, 8), bool)
  seen_hw[np.ix_(rows, columns)] = True
  np.testing.assert_array_equal(gradient_hwD.any(axis=-1), seen_hw)


@pytest.mark.parametrize('shifted', [True, False])
def test_only_shifted_windows_compare_patches_across_a_border(shifted):
  """Checks that without shifts two patches do not interact: their effects add up."""
  model = swin.Swin(num_classes=2, **SMALL | dict(depths=(4,)), shifted=shifted)
  images = np.stack([IMAGES[0]] * 4)
  for image, signs in zip(images, ((1, 1), (1, -1), (-1, 1), (-1, -1)), strict=True):
    image[4:8, 12:16] += signs[0]
    image[4:8, 16:20] += signs[1]
  logits = model.apply(battery.variables(model, images), images)['logits']
  interaction = np.abs(logits[0] - logits[1] - logits[2] + logits[3]).max()
  assert interaction > 1e-3 if shifted else interaction < 1e-6


def test_a_size_is_compiled_once_and_its_mask_is_a_constant(small):
  model, variables = small
  apply = jax.jit(model.apply)
  for images in (IMAGES, IMAGES[::-1], battery.images(2, 32, 64, 3)):
    apply(variables, images)
  assert apply._cache_size() == 2
  text = apply.lower(variables, IMAGES).compile().as_text()
  # The mask covers the 4 windows of a map, whatever the batch, and needs no
  # computation.
  assert re.search(r' = pred\[4,16,16\]\S* constant\(', text)
  assert ' iota(' not in text
  still = jax.jit(model.clone(shifted=False).apply)
  assert 'pred[4,16,16]' not in still.lower(variables, IMAGES).compile().as_text()


def test_padding_changes_nothing_where_windows_divide(small):
  model, variables = small
  want = model.apply(variables, IMAGES)['logits']
  for change in dict(padding='windows'), dict(padding='dense'):
    got = model.clone(**change).apply(variables, IMAGES)['logits']
    np.testing.assert_allclose(got, want, atol=1e-6)


def test_only_the_dense_form_shifts_windows_as_large_as_the_map():
  model = swin.Swin(num_classes=2, **SMALL)
  image = IMAGES[:, :16, :16]
  variables = battery.variables(model, image)
  want = model.apply(variables, image)['logits']
  got = model.clone(padding='windows').apply(variables, image)['logits']
  np.testing.assert_allclose(got, want, atol=1e-6)
  dense = model.clone(padding='dense').apply(variables, image)['logits']
  assert np.abs(dense - want).max() > 1e-4


def test_absolute_positions_of_another_grid_are_resized_by_the_model():
  arguments = dict(**SMALL, maps=(1,), padding='dense', posemb='both', pos_grid=(8, 8))
  model = swin.Swin(**arguments)
  assert model.grid((640, 480)) == (8, 8)
  variables = battery.variables(model, IMAGES)
  assert variables['params']['pos_embedding'].shape == (1, 64, 8)
  outputs = model.apply(variables, battery.images(1, 37, 50, 3))
  assert outputs['stage1'].shape == (1, 10, 13, 8)
  same = model.clone(pos_grid=None).apply(variables, IMAGES)['stage1']
  np.testing.assert_array_equal(model.apply(variables, IMAGES)['stage1'], same)


@pytest.mark.parametrize(
  ('size', 'message'),
  [
    ((225, 224), r'225x224: patches of 4x4 do not divide them'),
    (
      (256, 256),
      r'windows of 7x7 do not divide the 64x64 tokens of stage 1; take images of'
      r" 224x224 or 448x448, another window than 7, or padding='windows'",
    ),
    ((224, 300), r'224x300: windows of 7x7 .* take images of 224x224 or 224x448'),
    ((112, 112), r'2x2 do not divide the 7x7 tokens of stage 3'),
  ],
)
def test_images_that_do_not_divide(size, message):
  model = swin.Swin(num_classes=2, **swin.variant('T'))
  with pytest.raises(UserError, match=message):
    jax.eval_shape(model.init, jax.random.key(0), jnp.zeros((1, *size, 3)))
  whole = model.clone(padding='windows')
  jax.eval_shape(whole.init, jax.random.key(0), jnp.zeros((1, *size, 3)))


def test_windows_grow_with_images():
  model = swin.Swin(**swin.variant('B'))
  assert model.for_images((224, 448)) is model
  assert model.for_images((384, 384)).window == 12
  with pytest.raises(UserError, match='400x400: windows of 7x7 do not divide'):
    model.for_images((400, 400))


def test_a_table_for_another_window():
  model = swin.Swin(num_classes=2, **SMALL)
  variables = battery.variables(model, IMAGES)
  image = battery.images(1, 48, 48, 3)
  with pytest.raises(
    UserError,
    match=r'stage1/block_0/window/relative_bias has shape \(49, 2\), but for windows of'
    r' 6x6 tokens it must be \(121, 2\): resize it with init_from or load',
  ):
    model.clone(window=6).apply(variables, image)


@pytest.mark.parametrize(
  ('arguments', 'message'),
  [
    (dict(posemb='learned'), "posemb='learned' is not one of none, absolute, both"),
    (dict(padding='same'), "padding='same' is not one of none, windows, dense"),
    (
      dict(num_heads=(2, 2)),
      r'num_heads=\(2, 2\) and depths=\(2,\) are for .*, 2 and 1',
    ),
    (dict(maps=(1,)), r'maps=\(1,\) makes a backbone, .* num_classes=2 must be 0'),
    (dict(maps=(2,), num_classes=0), r'maps=\(2,\) must be stages from 1 to 1'),
    (dict(depths=(3,), scan=True), r'depths=\(3,\) must be even'),
  ],
)
def test_arguments_that_do_not_fit(arguments, message):
  model = swin.Swin(**dict(num_classes=2) | SMALL | arguments)
  with pytest.raises(UserError, match=message):
    jax.eval_shape(model.init, jax.random.key(0), IMAGES)


def test_unknown_variant():
  with pytest.raises(UserError, match="unknown Swin variant 'X': write SIZE or SIZE"):
    swin.variant('X')


def test_parameters_start_as_published(key):
  model = swin.Swin(num_classes=7, **SMALL | dict(width=32))
  params = model.init(key, IMAGES)['params']
  block = params['stage1']['block_0']['shifted']
  for array in (
    block['attention']['query']['kernel'],
    block['mlp']['fc1']['kernel'],
    block['relative_bias'],
    params['head']['kernel'],
  ):
    np.testing.assert_allclose(array.std(), 0.02, rtol=0.25)
  assert not block['mlp']['fc1']['bias'].any()
  bound = 1 / np.sqrt(48)
  for leaf in params['embed'].values():
    assert 0.7 * bound < np.abs(leaf).max() <= bound


def test_rate_of_imagenet():
  """Checks 1e-6 at first, 1e-3 after 20 epochs and 1e-5 at the end, as published."""
  config = spec.in_steps(spec.load('configs/swin/i1k.py:T'), 1251 * 1024, 1024)
  optimizer = spec.build(config['task'], 'task').optimizer
  warm, steps = 20 * 1251, 300 * 1251
  assert config['total_steps'] == steps
  places = 0, warm, (warm + steps) // 2, steps - 1
  rates = [optimizer.rate_at(step) for step in places]
  np.testing.assert_allclose(rates, [1e-6, 1e-3, 5.05e-4, 1e-5], rtol=1e-4)


@pytest.mark.parametrize(
  'options',
  [
    dict(posemb='both', drop_path=0.1, remat='dots', num_classes=11),
    dict(posemb='without_content', scan=True, depths=(2, 4), num_classes=11),
    dict(padding='dense', maps=(1, 2), posemb='both', pos_grid=(3, 7)),
  ],
)
def test_array_names_match_their_axes(options, key):
  arguments = SMALL | dict(depths=(2, 3), num_heads=(2, 4), window=2) | options
  model = swin.Swin(**arguments)
  image = jax.ShapeDtypeStruct((5, 32, 48, 3), jnp.float32)

  def forward(image):
    variables = model.init(key, image)
    return model.apply(variables, image, train=True, rngs={'dropout': key})

  ours = ('big_vision_like/models', 'big_vision_like/ops/windows')
  with shapes.checked(*ours) as seen:
    jax.eval_shape(forward, image)
  expected = {'image_BHWI', 'x_BhwD', 'y_BhwD', 'y_RND', 'mask_R1NN', 'bias_1GNN'}
  assert expected | {'table_TG', 'x_BuvC', 'x_RNC', 'region_WN'} <= seen.keys()


def test_weight_decay():
  config = spec.in_steps(spec.load('configs/swin/i1k.py:T,both'))
  optimizer = spec.build(config['task'], 'task').optimizer
  model = swin.Swin(num_classes=2, **SMALL, posemb='both')
  params = jax.eval_shape(model.init, jax.random.key(0), IMAGES)['params']
  decay = optimizer.decay_of(params)
  block = decay['stage1']['block_0']['window']
  assert decay['pos_embedding'] == block['relative_bias'] == 0
  assert block['attention']['query'] == dict(kernel=0.05, bias=0)
