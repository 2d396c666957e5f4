"""Tests of DETR alone; the golden files have its numbers."""

import functools

import battery
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import shapes

from big_vision_like.cost import flops
from big_vision_like.errors import UserError
from big_vision_like.models import detr, resnet
from big_vision_like.weights import tree as trees

BACKBONE = resnet.ResNet(
  depths=(1, 1, 1, 1), root=4, channels=(2, 3, 3, 4), norm='frozen'
)
SMALL = detr.DETR(
  num_classes=5,
  backbone=BACKBONE,
  num_queries=7,
  width=32,
  encoder_depth=1,
  decoder_depth=2,
  num_heads=4,
  mlp_dim=24,
  masks=True,
)
BOXES = SMALL.clone(masks=False)
IMAGE = jax.random.normal(jax.random.key(1), (2, 96, 130, 3))
SIZE = jnp.array([[96, 90], [50, 130]])
# Backbone, dilated, classes, masks; parameters and constants of the published files.
PUBLISHED = {
  'R50': ('R50', False, 91, False, 41_524_768, 106_240),
  'R50-DC5': ('R50', True, 91, False, 41_524_768, 106_240),
  'R101': ('R101', False, 91, False, 60_464_672, 210_688),
  'R101-DC5': ('R101', True, 91, False, 60_464_672, 210_688),
  'R50-panoptic': ('R50', False, 250, True, 42_899_288, 106_240),
  'R101-panoptic': ('R101', False, 250, True, 61_839_192, 210_688),
}
# Parameters without requires_grad in the published code: root and first stage.
FROZEN = 222_400


def published(backbone, dilated, classes, masks):
  sizes = resnet.variant(backbone)
  return detr.DETR(
    num_classes=classes,
    backbone=resnet.ResNet(**sizes, norm='frozen', dilated=dilated, frozen_stages=1),
    masks=masks,
  )


def shapes_of(model, height=64, width=64):
  image = jax.ShapeDtypeStruct((1, height, width, 3), 'float32')
  return image, jax.eval_shape(model.init, jax.random.key(0), image)


def count(tree):
  return sum(x.size for x in jax.tree.leaves(tree))


@pytest.mark.parametrize('name', PUBLISHED)
def test_published_parameter_counts(name):
  *sizes, params, constants = PUBLISHED[name]
  _, variables = shapes_of(published(*sizes))
  assert count(variables['params']) == params
  assert count(variables['constants']) == constants
  backbone = variables['params']['backbone']
  assert count([backbone['conv_root'], backbone['stage1']]) == FROZEN


@pytest.mark.parametrize('width, products', [(1066, 81.2), (1137, 86.8), (1333, 101.7)])
def test_published_operations(width, products):
  model = published('R50', False, 91, False)
  image, variables = shapes_of(model, 800, width)
  done = flops.count(lambda v, x: model.apply(v, x), variables, image)
  assert done / 2e9 == pytest.approx(products, rel=0.002)


@pytest.fixture(scope='module')
def variables():
  variables = battery.variables(SMALL, IMAGE, SIZE)
  variables['params']['queries'] *= 5  # scaled up to make queries distinguishable
  return variables


@pytest.fixture(scope='module')
def outputs(variables):
  return jitted(variables, IMAGE, SIZE)


jitted = jax.jit(SMALL.apply)


def boxes_only(variables):
  params = {k: v for k, v in variables['params'].items() if not k.startswith('mask')}
  return variables | {'params': params}


def test_outputs(outputs):
  shapes = {name: x.shape for name, x in outputs.items()}
  assert shapes == {
    'logits': (2, 7, 6),
    'boxes': (2, 7, 4),
    'layer_logits': (2, 2, 7, 6),
    'layer_boxes': (2, 2, 7, 4),
    'features': (2, 7, 32),
    'memory': (2, 3, 5, 32),
    'mask_logits': (2, 7, 24, 33),
    'mask_attention': (2, 7, 4, 3, 5),
  }
  np.testing.assert_array_equal(outputs['logits'], outputs['layer_logits'][-1])
  np.testing.assert_array_equal(outputs['boxes'], outputs['layer_boxes'][-1])
  assert outputs['boxes'].min() > 0.0 and outputs['boxes'].max() < 1.0
  sums = outputs['mask_attention'].sum(axis=(2, 3, 4))
  np.testing.assert_allclose(sums, 1.0, atol=1e-5)


def test_images_without_padding_need_no_size(variables):
  whole = jnp.broadcast_to(jnp.array([96, 130]), (2, 2))
  said, unsaid = jitted(variables, IMAGE, whole), jitted(variables, IMAGE)
  for name, x in said.items():
    np.testing.assert_allclose(x, unsaid[name], atol=1e-5, err_msg=name)


@pytest.mark.parametrize('image, cells', [((96, 130), (3, 5)), ((90, 96), (6, 6))])
def test_valid_cells_follow_the_nearest_pixel(image, cells):
  sizes = [(image[0], 40), (31, image[1]), (61, 64), (1, 1)]
  valid = detr.valid_cells(jnp.array(sizes), image, cells)
  for (height, width), got in zip(sizes, valid, strict=True):
    pixels = np.zeros(image, bool)
    pixels[:height, :width] = True
    for i, j in np.ndindex(*cells):
      pixel = pixels[i * image[0] // cells[0], j * image[1] // cells[1]]
      assert got[i, j] == pixel, (height, width, i, j)


def test_cells_that_are_not_valid_change_nothing(variables):
  rng = np.random.default_rng(7)
  maps, _ = jax.eval_shape(BACKBONE.init_with_output, jax.random.key(0), IMAGE)
  maps = {name: np.float32(rng.normal(size=x.shape)) for name, x in maps.items()}
  valid = detr.valid_cells(SIZE, (96, 130), (3, 5))
  assert 0 < valid.sum() < valid.size
  garbage = rng.normal(size=maps['stage4'].shape)

  def with_last(replaced):
    last = np.where(replaced[..., None], garbage, maps['stage4'])
    return detect(SMALL, variables, maps | {'stage4': last}, valid)

  clean, padded = detect(SMALL, variables, maps, valid), with_last(~valid)
  for name in ('layer_logits', 'layer_boxes', 'features', 'mask_attention'):
    np.testing.assert_allclose(padded[name], clean[name], atol=1e-6, err_msg=name)
  cells = valid[..., None]
  np.testing.assert_allclose(
    np.where(cells, padded['memory'], 0), np.where(cells, clean['memory'], 0), atol=1e-6
  )
  assert np.abs(with_last(valid)['boxes'] - clean['boxes']).max() > 1e-3


@pytest.mark.parametrize('order', [(6, 5, 4, 3, 2, 1, 0), (2, 0, 1, 3, 6, 4, 5)])
def test_outputs_follow_the_queries(variables, outputs, order):
  order = np.array(order)
  params = variables['params'] | {'queries': variables['params']['queries'][order]}
  other = jitted(variables | {'params': params}, IMAGE, SIZE)
  for name, axis in (
    ('layer_logits', 2),
    ('layer_boxes', 2),
    ('features', 1),
    ('mask_logits', 1),
    ('mask_attention', 1),
  ):
    expected = jnp.take(outputs[name], order, axis=axis)
    np.testing.assert_allclose(other[name], expected, atol=2e-5, err_msg=name)
  assert np.abs(np.diff(outputs['boxes'], axis=1)).max() > 1e-3


def test_each_layer_continues_without_the_final_norm(variables, outputs):
  """Checks that the first layer alone gives the same outputs as among others."""
  params = dict(variables['params'])
  params['decoder'] = {k: v for k, v in params['decoder'].items() if k != 'block_1'}
  short = SMALL.clone(decoder_depth=1)
  first = jax.jit(short.apply)(variables | {'params': params}, IMAGE, SIZE)
  np.testing.assert_allclose(first['logits'], outputs['layer_logits'][0], atol=1e-5)
  np.testing.assert_allclose(first['boxes'], outputs['layer_boxes'][0], atol=1e-5)
  assert np.abs(first['logits'] - outputs['logits']).max() > 1e-2


def test_scanned_is_unrolled_before_norms_too():
  model = BOXES.clone(norm='pre', encoder_depth=2)
  variables = battery.variables(model, IMAGE, SIZE)
  assert 'norm' in variables['params']['encoder']
  stacked = variables | {'params': trees.stack_blocks(variables['params'])}
  scanned = model.clone(scan=True, remat='full')
  want = jax.jit(model.apply)(variables, IMAGE, SIZE)
  for name, x in jax.jit(scanned.apply)(stacked, IMAGE, SIZE).items():
    np.testing.assert_allclose(x, want[name], atol=1e-5, err_msg=name)


@functools.partial(jax.jit, static_argnums=0)
def of_model(model, variables):
  return model.apply(boxes_only(variables), IMAGE, SIZE)


@functools.partial(jax.jit, static_argnums=0)
def detect(model, variables, *args):
  return model.apply(variables, *args, method='detect')


def test_queries_that_do_not_attend_do_not_see_each_other(variables):
  alone = BOXES.clone(queries_attend=False)
  queries = variables['params']['queries'].at[0].add(1.0)
  params = variables['params'] | {'queries': queries}
  for model, seen in ((alone, False), (BOXES, True)):
    one = of_model(model, variables)['logits']
    other = of_model(model, variables | {'params': params})['logits']
    differ = np.abs(one - other).max(axis=(0, 2))
    assert differ[0] > 1e-3
    assert (differ[1:].max() > 1e-4) == seen


def test_places_of_positions(variables, outputs):
  places = [
    ('input', 'none', 'input'),
    ('none', 'none', 'attention'),
    ('none', 'attention', 'attention'),
    ('attention', 'attention', 'none'),
  ]
  found = [of_model(BOXES.clone(positions_at=at), variables) for at in places]
  logits = [x['logits'] for x in [outputs, *found]]
  for i, one in enumerate(logits):
    assert all(np.abs(one - other).max() > 1e-3 for other in logits[:i])
  # Without their own positions, all queries are equal.
  same = np.abs(np.diff(logits[-1], axis=1)).max()
  assert same < 1e-5 < np.abs(np.diff(logits[0], axis=1)).max()


def test_without_positions_cells_have_no_order(variables):
  model = BOXES.clone(positions_at=('none', 'none', 'attention'))
  maps = {'stage1': jax.random.normal(jax.random.key(5), (2, 3, 5, 16))}

  def run(model, maps):
    return detect(model, boxes_only(variables), maps)['boxes']

  turned = {'stage1': maps['stage1'][:, ::-1, ::-1]}
  np.testing.assert_allclose(run(model, maps), run(model, turned), atol=1e-5)
  assert np.abs(run(BOXES, maps) - run(BOXES, turned)).max() > 1e-4


def test_learned_positions_are_columns_then_rows():
  """Checks positions at the input: with an identity projection they equal features."""
  model = BOXES.clone(positions='learned', positions_at=('input', 'none', 'none'))
  maps = {'stage1': jax.random.normal(jax.random.key(5), (1, 3, 5, 32))}
  variables = battery.variables(model, maps, method='detect')
  params = variables['params']
  assert params['pos_rows'].shape == params['pos_columns'].shape == (50, 16)
  params['input_proj']['kernel'] = jnp.eye(32)[None, None]
  columns = np.broadcast_to(params['pos_columns'][None, :5], (3, 5, 16))
  rows = np.broadcast_to(params['pos_rows'][:3, None], (3, 5, 16))
  position = np.concatenate([columns, rows], axis=-1)[None]

  bare = model.clone(positions_at=('none', 'none', 'none'))
  one = detect(model, variables, maps)['memory']
  other = detect(bare, variables, {'stage1': maps['stage1'] + position})['memory']
  np.testing.assert_allclose(one, other, atol=1e-5)
  assert np.abs(one - detect(bare, variables, maps)['memory']).max() > 0.1


BAD = {
  'positions': (dict(positions='rotary'), "positions='rotary' is not one of 'sine'"),
  'places': (
    dict(positions_at=('attention', 'output', 'none')),
    'must be three of attention, input, none',
  ),
  'too many cells': (
    dict(positions='learned', backbone=BACKBONE.clone(depths=(1,))),
    "cover 50 rows and columns, but the backbone's map is 3 x 60",
  ),
  'masks without four stages': (
    dict(masks=True, backbone=BACKBONE.clone(depths=(1, 1, 1))),
    'needs a backbone of four stages, but this one has 3',
  ),
}


@pytest.mark.parametrize('case', BAD)
def test_bad_input(case):
  arguments, message = BAD[case]
  model = BOXES.clone(**arguments)
  with pytest.raises(UserError, match=message):
    jax.eval_shape(model.init, jax.random.key(0), jnp.zeros((1, 12, 240, 3)))


def test_array_names_match_their_axes():
  size = jnp.ones((5, 2), jnp.int32)
  with shapes.checked('big_vision_like/models', 'big_vision_like/layers'):
    for model in SMALL, BOXES.clone(positions='learned', norm='pre'):
      jax.eval_shape(model.init, jax.random.key(0), jnp.zeros((5, 96, 192, 3)), size)
