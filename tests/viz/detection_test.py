import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from big_vision_like.models import detr, resnet
from big_vision_like.ops import positions
from big_vision_like.viz import boxes, detection
from big_vision_like.weights import tree as trees

SMALL = detr.DETR(
  num_classes=2,
  backbone=resnet.ResNet(depths=(1,), root=4, channels=(2,), norm='frozen'),
  num_queries=3,
  width=8,
  encoder_depth=1,
  decoder_depth=2,
  num_heads=2,
  mlp_dim=8,
)
IMAGE = jax.random.normal(jax.random.key(1), (2, 16, 24, 3))
SIZE = jnp.array([[16, 17], [9, 24]])


@pytest.fixture(scope='module')
def seen():
  """Returns a small DETR's parameters, its outputs, and its recorded intermediates."""

  @jax.jit
  def run(key):
    variables = SMALL.init(key, IMAGE, SIZE)
    outputs, more = SMALL.apply(
      variables,
      IMAGE,
      SIZE,
      mutable=['intermediates'],
      capture_intermediates=lambda module, _: isinstance(module, nn.LayerNorm),
    )
    return variables, outputs, more['intermediates']

  return jax.device_get(run(jax.random.key(0)))


def test_decoder_attention_is_read_from_the_last_layer(seen):
  variables, outputs, sown = seen
  grid = outputs['memory'].shape[1:3]
  assert grid == (4, 6)
  got = detection.decoder_attention(sown, grid)
  assert got.shape == (2, 3, 4, 6) and got.dtype == np.float32
  valid = np.asarray(detr.valid_cells(SIZE, (16, 24), grid))
  assert 0 < valid.mean() < 1
  places = np.asarray(positions.masked_sine2d(jnp.asarray(valid), 8))
  params = variables['params']
  attention = params['decoder']['block_1']['cross_attention']
  [x] = sown['decoder']['block_1']['norm1']['__call__']  # self-attention's output
  query, key = (
    np.einsum('...D,DHK->...HK', y, attention[name]['kernel']) + attention[name]['bias']
    for name, y in (
      ('query', x + params['queries']),
      ('key', outputs['memory'] + places.reshape(2, 4, 6, 8)),
    )
  )
  weights = np.exp(np.einsum('BQHK,BhwHK->BHQhw', query, key) / 2)  # sqrt(4)
  weights *= valid[:, None, None]
  weights /= weights.sum(axis=(-2, -1), keepdims=True)
  np.testing.assert_allclose(got, weights.mean(axis=1), atol=1e-6)
  assert np.abs(weights[:, 0] - weights[:, 1]).max() > 0.01  # heads differ


def test_decoder_attention_of_scanned_layers_is_the_same(seen):
  variables, _, sown = seen
  params = trees.stack_blocks(variables['params'])
  scanned = {**variables, 'params': params}
  _, more = SMALL.clone(scan=True).apply(
    scanned, IMAGE, SIZE, mutable=['intermediates']
  )
  assert 'blocks' in more['intermediates']['decoder']
  got = detection.decoder_attention(more['intermediates'], (4, 6))
  expected = detection.decoder_attention(sown, (4, 6))
  np.testing.assert_allclose(got, expected, atol=1e-6)


def test_other_intermediates_are_an_error(seen):
  _, _, sown = seen
  with pytest.raises(ValueError, match='24 cells does not fit a grid of 4 x 5'):
    detection.decoder_attention(sown, (4, 5))
  with pytest.raises(ValueError, match='no `decoder` of blocks'):
    detection.decoder_attention({}, (4, 6))


def grey(height=20, width=30):
  return np.full((height, width, 3), 128, np.uint8)


def painted(picture, label):
  """Returns where (H, W) a picture has the colour of a label."""
  return (picture == boxes.color(label)).all(-1)


def test_sets_of_boxes_are_side_by_side_on_an_enlarged_picture():
  first = np.array([[2.0, 10.0, 12.0, 18.0]])
  second = np.array([[15.0, 10.0, 25.0, 18.0]])
  sheet = detection.boxes_sheet(grey(), [(first, [3]), (second, [4], [0.5])], side=310)
  assert sheet.shape == (200, 2 * 300 + 2, 3) and sheet.dtype == np.uint8
  left, right = sheet[:, :300], sheet[:, 302:]
  assert np.flatnonzero(painted(left, 3)[150])[[0, -1]].tolist() == [20, 119]
  assert np.flatnonzero(painted(right, 4)[150])[[0, -1]].tolist() == [150, 249]
  assert not painted(left, 4).any() and not painted(right, 3).any()
  alone = detection.boxes_sheet(grey(400, 600), [(np.zeros((0, 4)), [])], side=300)
  np.testing.assert_array_equal(alone, grey(200, 300))


def test_attention_is_shown_for_each_object():
  image = grey(16, 24)
  found = np.array([[0.0, 4.0, 6.0, 12.0], [9.0, 4.0, 15.0, 12.0]])
  attention = np.zeros((2, 2, 3))
  attention[0, :, 0] = attention[1, :, 1] = 0.5
  # A third of the picture is padding.
  sheet = detection.attention_sheet(
    image, found, [0, 1], [0.9, 0.8], attention, size=(16, 16), columns=2, side=160
  )
  assert sheet.shape == (2 * 160 + 2, 2 * 160 + 2, 3)
  everything, first, second = sheet[:160, :160], sheet[:160, 162:], sheet[162:, :160]
  assert painted(everything, 0).any() and painted(everything, 1).any()
  assert painted(first, 0).any() and not painted(first, 1).any()
  assert painted(second, 1).any() and not painted(second, 0).any()
  assert np.all(sheet[162:, 162:] == detection.PAPER)
  # Bright where weights are large, dark elsewhere, in pixels outside of boxes.
  assert first[155, 5, 0] == 128 and first[155, 155, 0] == 0
  assert second[155, 115, 0] > 100 and second[155, 5, 0] == 0


def test_without_objects_there_is_the_picture():
  sheet = detection.attention_sheet(
    grey(), np.zeros((0, 4)), [], [], np.zeros((0, 2, 3)), side=30
  )
  np.testing.assert_array_equal(sheet, grey())


def halves(height=20, width=30):
  ids = np.zeros((height, width), np.int32)
  ids[:, 10:20], ids[:, 20:] = 7, 9
  return ids


def test_segments_are_tinted_and_void_is_not():
  picture = detection.panoptic(
    grey(), halves(), np.array([[7, 3], [9, 4]]), strength=1.0
  )
  np.testing.assert_array_equal(picture[:, :9], 128)
  assert (picture[-2:, [9, 19]] == 255).all()  # borders, below the tags
  assert painted(picture[:, 10:], 3).any() and not painted(picture[:, :10], 3).any()
  assert painted(picture[:, 20:], 4).any()
  half = detection.panoptic(grey(), halves(), np.array([[7, 3]]), strength=0.5)
  mean = np.rint((128 + np.array(boxes.color(3))) / 2)
  assert (half == mean).all(-1)[:, 10:19].any()


def test_segments_of_one_label_differ():
  segments = np.array([[7, 3], [9, 3]])
  picture = detection.panoptic(grey(200, 300), halves(), segments, strength=1.0)
  assert (
    painted(picture[:, 110:190], 3).any() and not painted(picture[:, 210:], 3).any()
  )


def test_a_map_of_another_size_is_stretched_and_tags_can_be_names():
  large = grey(200, 300)
  segments = np.array([[7, 3], [9, 4]])
  picture = detection.panoptic(large, halves(), segments, strength=1.0)
  assert painted(picture[:, 100:199], 3).mean() > 0.8
  assert (picture[:, 99] == 255).all() and (picture[:, :99] == 128).all()
  named = detection.panoptic(large, halves(), segments, names={3: 'sky'}, strength=1.0)
  changed = (named != picture).any(-1)
  assert changed[:, 100:].any() and not changed[:, :100].any()


def test_sheets_of_segments():
  sets = [(halves(), np.array([[7, 3]])), (halves(), np.zeros((0, 2), int))]
  sheet = detection.panoptic_sheet(grey(), sets, side=60)
  assert sheet.shape == (40, 122, 3)
  picture = detection.panoptic(grey(40, 60), halves(), np.array([[7, 3]]))
  np.testing.assert_array_equal(sheet[:, :60], picture)


def test_pictures_of_several_sizes_become_one_array():
  got = detection.stacked([grey(4, 9), grey(6, 5)])
  assert got.shape == (2, 6, 9, 3)
  np.testing.assert_array_equal(got[0, :4], grey(4, 9))
  assert (got[0, 4:] == 255).all() and (got[1, :, 5:] == 255).all()


def test_places_are_points_in_the_colour_of_their_shape():
  boxes_of = {
    (0.1, 0.2): (0.2, 0.2),
    (0.5, 0.2): (0.9, 0.3),
    (0.9, 0.2): (0.3, 0.9),
    (0.5, 0.8): (0.5, 0.5),
  }
  picture = detection.places_picture(
    np.array([[*place, *size] for place, size in boxes_of.items()]), side=100
  )
  assert picture.shape == (100, 100, 3) and picture.dtype == np.uint8
  small, wide, tall, square = (
    picture[round(100 * y), round(100 * x)].astype(int) for x, y in boxes_of
  )
  assert small.argmax() == 1 and wide.argmax() == 0 and tall.argmax() == 2
  red, green, blue = square
  assert abs(red - blue) < 30 < red - green
  inked = (picture < 250).any(axis=-1)
  assert 4 * 3 <= inked.sum() < 4 * 16
  empty = detection.places_picture(np.zeros((0, 4)))
  assert empty.shape == (128, 128, 3) and (empty == 255).all()
  # Partly outside, or without an extent.
  odd = np.array([[1.2, 0.5, 0.1, 0.0], [1.0, 0.0, 0.0, 1.0]])
  assert detection.places_picture(odd).shape == (128, 128, 3)
