import cv2
import numpy as np
import pytest

from big_vision_like.data.input import pipeline
from big_vision_like.data.procedural import drawing, solids
from big_vision_like.data.sources import fake
from big_vision_like.data.transforms import image, labels, objects
from big_vision_like.errors import BadRecordError, UserError

CROP = (29, 64, 192, 192)


def picture(height=240, width=320, seed=0):
  rng = np.random.default_rng(seed)
  return rng.integers(0, 256, (height, width, 3), dtype=np.uint8)


def scene(count=3, seed=0):
  """Returns objects with known properties, as TFDS gives them: a list per property."""
  rng = np.random.default_rng(seed)
  numbers = {'size': 2, 'material': 2, 'shape': 3, 'color': 8}
  things = {k: list(rng.integers(0, n, count)) for k, n in numbers.items()}
  places = rng.uniform(-3, 3, (count, 3)).astype(np.float32)
  return things | {'3d_coords': list(places), 'rotation': [np.float32(9)] * count}


# Segmentation


def test_ids_are_decoded_unchanged():
  ids = np.arange(256, dtype=np.uint8).reshape(8, 32, 1)
  got = objects.DecodeSegmentation().map({'segmentation': drawing.png(ids), 'id': 3})
  assert got['id'] == 3 and got['segmentation'].dtype == np.uint8
  np.testing.assert_array_equal(got['segmentation'], ids[..., 0])


def test_a_damaged_segmentation_is_named():
  for bad, why in ((b'', 'the file is empty'), (b'\x89PNG', 'not a complete JPEG')):
    with pytest.raises(BadRecordError, match=f'example with id 8 cannot .*{why}'):
      objects.DecodeSegmentation().map({'segmentation': bad, 'id': 8})
  with pytest.raises(UserError, match="no 'segmentation'; they have image"):
    objects.DecodeSegmentation().map({'image': b''})


# Sizes


def bilinear(array_HWC, height, width):
  """Resizes with half-pixel centres and no antialiasing, pixel by pixel, in float64."""

  def sides(new, old):
    place = np.clip((np.arange(new) + 0.5) * old / new - 0.5, 0, old - 1)
    first = np.minimum(place.astype(int), old - 2)
    return first, place - first

  (y, dy), (x, dx) = sides(height, len(array_HWC)), sides(width, array_HWC.shape[1])
  dy, dx = dy[:, None, None], dx[None, :, None]
  top = array_HWC[y][:, x] * (1 - dx) + array_HWC[y][:, x + 1] * dx
  bottom = array_HWC[y + 1][:, x] * (1 - dx) + array_HWC[y + 1][:, x + 1] * dx
  return top * (1 - dy) + bottom * dy


@pytest.mark.parametrize('crop', [CROP, None])
@pytest.mark.parametrize('size', [128, 50, 300])
def test_images_match_the_published_code(size, crop):
  pixels = picture()
  got = objects.Resize(size, crop).map({'image': pixels})['image']
  part = pixels[29:221, 64:256] if crop else pixels
  want = bilinear(part / 127.5 - 1.0, size, size)
  assert got.shape == (size, size, 3) and got.dtype == np.float32
  np.testing.assert_allclose(got, want, rtol=0, atol=1e-6)
  assert got.min() >= -1 and got.max() <= 1


def test_a_gradient_keeps_its_numbers():
  # By hand: the centres of the 128 pixels are 240/128 rows and 320/128 columns apart.
  rows, columns = np.mgrid[:240, :320]
  gradient = (rows // 2 + columns // 4).astype(np.uint8)[..., None].repeat(3, axis=-1)
  got = objects.Resize(128).map({'image': gradient})['image'][..., 0]
  # The first centre is at row 0.4375, column 0.75: all four pixels around it are 0.
  assert got[0, 0] == -1
  # The centre in the second row and column is at row 2.3125, between rows 2 and 3,
  # which are 1; its column, 3.25, is a quarter of the way from 0 to 1.
  np.testing.assert_allclose(got[1, 1], (1 + 0.25) / 127.5 - 1, atol=1e-7)


def test_extremes_stay_in_range():
  for value, want in ((0, -1), (255, 1)):
    flat = np.full((240, 320, 3), value, np.uint8)
    assert (objects.Resize(128, CROP).map({'image': flat})['image'] == want).all()


@pytest.mark.parametrize('crop', [CROP, None])
def test_segmentations_take_the_nearest_pixel(crop):
  ids = np.random.default_rng(1).integers(0, 11, (240, 320), dtype=np.uint8)
  example = {'image': picture(), 'segmentation': ids}
  got = objects.Resize(128, crop).map(example)['segmentation']
  part = ids[29:221, 64:256] if crop else ids
  rows, columns = (
    ((np.arange(128) + 0.5) * side / 128).astype(int) for side in part.shape
  )
  assert got.dtype == np.uint8
  np.testing.assert_array_equal(got, part[rows][:, columns])


def test_segmentations_stay_where_their_pictures_are():
  ids = np.zeros((240, 320), np.uint8)
  cv2.circle(ids, (150, 120), 40, 1, -1)
  cv2.rectangle(ids, (200, 40), (240, 90), 2, -1)
  colors = np.array([[0, 0, 0], [255, 0, 0], [0, 255, 0]], np.uint8)
  example = {'image': colors[ids], 'segmentation': ids}
  got = objects.Resize(128, CROP).map(example)
  shown = (got['image'][..., :2] > 0) @ np.array([1, 2])
  differ = shown != got['segmentation']
  edges = cv2.Laplacian(got['segmentation'].astype(np.float32), cv2.CV_32F) != 0
  assert differ.mean() < 0.01 and not (differ & ~edges).any()


def test_a_box_that_leaves_the_image_is_named():
  with pytest.raises(
    UserError, match=r'crop=\(29, 64, 192, 192\)\) exceeds an image of 96x'
  ):
    objects.Resize(128, CROP).map({'image': picture(96, 320)})
  with pytest.raises(UserError, match='id 4'):
    objects.Resize(128, (-5, 0, 9, 9)).map({'image': picture(96, 320), 'id': 4})


# Targets


def test_targets_of_clevr():
  things = {
    '3d_coords': [np.float32([-3, 3, 0.7]), np.float32([0, 1.5, 0.35])],
    'size': [np.int64(1), np.int64(0)],
    'material': [np.int64(0), np.int64(1)],
    'shape': [np.int64(2), np.int64(0)],
    'color': [np.int64(7), np.int64(3)],
  }
  got = objects.ClevrTargets(max_objects=4).map({'objects': things})['targets']
  want = np.zeros((4, 19), np.float32)
  want[0, [0, 1, 2]] = 0, 1, 3.7 / 6
  want[0, [3 + 1, 5 + 0, 7 + 2, 10 + 7, 18]] = 1
  want[1, [0, 1, 2]] = 0.5, 0.75, 3.35 / 6
  want[1, [3 + 0, 5 + 1, 7 + 0, 10 + 3, 18]] = 1
  assert got.dtype == np.float32
  np.testing.assert_allclose(got, want, rtol=1e-6)


@pytest.mark.parametrize('count', [0, 1, 10])
def test_every_object_has_one_of_each_and_the_rest_is_empty(count):
  got = objects.ClevrTargets().map({'objects': scene(count)})['targets']
  assert got.shape == (10, 19)
  for start, stop in ((3, 5), (5, 7), (7, 10), (10, 18), (18, 19)):
    assert got[:count, start:stop].sum(axis=1).tolist() == [1] * count
  assert (got[:count, :3] >= 0).all() and (got[:count, :3] <= 1).all()
  assert not got[count:].any()


def test_too_many_objects_are_named():
  example = {'objects': scene(11), 'id': 5}
  with pytest.raises(UserError, match='id 5 has 11 objects: more than max_objects=10'):
    objects.ClevrTargets().map(example)


def test_targets_describe_the_drawing():
  drawn = solids.draw(0, 'train', 3, solids.View(48, 64))
  names = {'size': solids.RADII, 'material': solids.MATERIALS}
  names |= {'shape': solids.SHAPES, 'color': solids.COLORS}
  columns = {k: [o[k] for o in drawn['objects']] for k in drawn['objects'][0]}
  for name, classes in names.items():
    columns[name] = [list(classes).index(value) for value in columns[name]]
  targets = objects.ClevrTargets().map({'objects': columns})['targets']
  for row, thing in zip(targets, drawn['objects'], strict=False):
    start = 3
    for name, classes in names.items():
      assert list(classes)[row[start : start + len(classes)].argmax()] == thing[name]
      start += len(classes)
    np.testing.assert_allclose(row[:3] * 6 - 3, thing['3d_coords'], atol=1e-6)
  assert targets[:, 18].sum() == len(drawn['objects'])


def test_batches_of_clevr_as_tfds_has_it():
  steps = [image.Decode(), objects.ClevrTargets(), objects.Resize(32)]
  steps.append(labels.Keep(names=('image', 'targets')))
  source = fake.Fake('clevr:3.1.0', examples=6)
  data = pipeline.EvalInput(source=source, batch_size=4, transforms=steps)
  counts = []
  for batch in data.epoch():
    assert batch.keys() == {'image', 'targets', 'mask'}
    assert batch['image'].shape == (4, 32, 32, 3)
    assert batch['targets'].shape == (4, 10, 19)
    counts += batch['targets'][batch['mask'], :, 18].sum(axis=1).astype(int).tolist()
  assert counts == [len(source[i]['objects']['color']) for i in range(6)]
