import io

import cv2
import numpy as np
import pytest
from PIL import Image

from big_vision_like.data.transforms import label_maps
from big_vision_like.errors import BadRecordError, UserError

VALUES = np.array([[1, 2, 2, 9], [1, 1, 0, 9], [2, 2, 2, 0]], np.uint8)
IMAGE = np.arange(36, dtype=np.uint8).reshape(3, 4, 3)
LABELS = label_maps.Labels(values=(1, 2, 9), ignored=(0,))
CLASSES = np.array([[0, 1, 1, 2], [0, 0, 255, 2], [1, 1, 1, 255]])


def saved(array, mode='L', form='PNG'):
  picture = Image.fromarray(array)
  if mode == 'P':
    picture = Image.fromarray(array, 'P')
    picture.putpalette([3 * i % 256 for i in range(768)])
  else:
    picture = picture.convert(mode)
  out = io.BytesIO()
  picture.save(out, form)
  return out.getvalue()


def example(label_map=None, **more):
  label_map = saved(VALUES) if label_map is None else label_map
  return {'image': IMAGE, 'label_map': label_map, 'id': 7, **more}


@pytest.mark.parametrize(
  'encoded',
  [
    saved(VALUES),
    saved(VALUES, 'P'),
    saved(VALUES, 'RGB'),
    cv2.imencode('.png', VALUES.astype(np.uint16))[1].tobytes(),
  ],
  ids=['grey', 'palette', 'equal channels', '16 bits'],
)
def test_values_become_classes(encoded):
  found = LABELS.map(example(encoded))
  np.testing.assert_array_equal(found['label_map'], CLASSES)
  assert found['label_map'].dtype == np.uint8
  assert found['original_size'].tolist() == [3, 4]


@pytest.mark.parametrize(
  ('encoded', 'words'),
  [
    (saved(np.where(VALUES == 9, 8, VALUES)), 'value 8, which is neither one of the 3'),
    (saved(VALUES.T.copy()), 'label map of 4x3, but an image of 3x4'),
    (saved(VALUES, form='JPEG'), 'is a JPEG, whose values are not exact'),
    (saved(IMAGE, 'RGB'), r'has colours \(RGB\): a label map has one channel'),
    (b'nothing', 'the example with id 7 cannot be decoded'),
    (saved(VALUES)[:40], 'the example with id 7 cannot be decoded'),
  ],
)
def test_bad_label_maps_are_bad_records(encoded, words):
  with pytest.raises(BadRecordError, match=words):
    LABELS.map(example(encoded))


def test_too_many_or_equal_values_are_refused():
  for values in range(256), (1, 1):
    with pytest.raises(UserError, match='at most 255 classes'):
      label_maps.Labels(values=tuple(values))


def test_sizes_match_mmcv():
  # Results of mmcv 1.3's imrescale for the scale (2048, 512).
  for size, want in [
    ((683, 512), (683, 512)),
    ((256, 341), (512, 682)),
    ((300, 2000), (307, 2048)),
    ((375, 500), (512, 683)),
  ]:
    assert label_maps.fitted_size(*size, 2048, 512) == want


def big(height=40, width=64):
  rng = np.random.default_rng(0)
  label_map = np.kron(
    rng.integers(0, 3, (height // 8, width // 8)), np.ones((8, 8))
  ).astype(np.uint8)
  image = np.repeat(label_map[..., None], 3, axis=-1) * 80
  return {'image': image, 'label_map': label_map}


def test_image_and_label_map_move_together():
  steps = [
    label_maps.RandomResize(96, 48, factors=(2.0, 2.0)),
    label_maps.RandomCrop(32),
    label_maps.Flip(),
  ]
  flipped = set()
  for seed in range(6):
    rng = np.random.default_rng(seed)
    found = big()
    size = found['image'].shape[:2]
    for step in steps:
      if hasattr(step, 'size_after'):
        size = step.size_after(size, np.random.default_rng(0))
      found = step.random_map(found, rng)
      assert found['image'].shape[:2] == found['label_map'].shape == tuple(size)
    # Unblurred pixels of the image show the label.
    clear = np.isin(found['image'][..., 0], (0, 80, 160))
    same = found['image'][..., 0] == found['label_map'] * 80
    assert clear.mean() > 0.6 and same[clear].mean() > 0.95
    flipped.add(found['image'].tobytes())
  assert len(flipped) == 6


def test_the_same_key_gives_the_same_example():
  step = label_maps.PhotometricDistortion()
  rng = np.random.default_rng(0)
  image = rng.integers(0, 256, (9, 8, 3)).astype(np.uint8)
  found = [
    step.random_map({'image': image}, np.random.default_rng(seed))['image']
    for seed in (1, 1, 2, 3)
  ]
  np.testing.assert_array_equal(found[0], found[1])
  assert len({x.tobytes() for x in found}) > 1
  still = label_maps.PhotometricDistortion(0, (1.0, 1.0), (1.0, 1.0), 0)
  changed = still.random_map({'image': image}, np.random.default_rng(5))['image']
  # Only the conversion to hue, saturation and value and back.
  assert np.abs(changed.astype(int) - image).max() < 8


def test_crops_avoid_a_single_class():
  label_map = np.zeros((40, 40), np.uint8)
  label_map[:, 30:] = 1
  sample = {'image': np.zeros((40, 40, 3), np.uint8), 'label_map': label_map}

  def shares(most):
    crop = label_maps.RandomCrop(10, most)
    return [
      np.bincount(
        crop.random_map(sample, np.random.default_rng(i))['label_map'].ravel()
      ).max()
      / 100
      for i in range(60)
    ]

  plain, mixed = shares(1.0), shares(0.75)
  assert np.mean(np.array(plain) == 1.0) > 0.5
  assert np.mean(np.array(mixed) < 0.75) > 0.6


def test_views_have_sizes_in_proportion_and_padding_is_ignored():
  sample = big(40, 64)
  truth = label_maps.Truth(size=(50, 70)).map(sample | {'original_size': (40, 64)})
  assert 'label_map' not in truth and truth['truth_map'].shape == (50, 70)
  assert (truth['truth_map'] == 255).sum() == 50 * 70 - 40 * 64
  views = label_maps.Views(256, 32, scales=(0.5, 1.0), multiple=16)
  assert views.size_after((40, 64)) == (32, 48)
  found = label_maps.Pad(((32, 48), (32, 64)), scales=(0.5, 1.0)).map(views.map(truth))
  assert found['image'].shape == (32, 48, 3) and found['image_0.5'].shape == (16, 24, 3)
  assert found['size'].tolist() == [32, 48] and found['size_0.5'].tolist() == [16, 24]
  plain = label_maps.Views(256, 33)
  found = label_maps.Pad(((33, 64),)).map(plain.map(truth))
  assert found['size'].tolist() == [33, 53] and not found['image'][:, 53:].any()
  with pytest.raises(UserError, match='cannot hold an image of 40x64: set size'):
    label_maps.Truth(size=(40, 60)).map(sample)
  with pytest.raises(UserError, match='cannot hold an image of 40x64: resize or crop'):
    label_maps.Pad(((32, 64),)).map(sample)


def test_a_padded_example_fits_into_another_shape():
  pad = label_maps.Pad(((40, 64), (48, 80), (32, 96)))
  found = pad.fit(pad.map(big()), (48, 80))
  assert found['image'].shape == (48, 80, 3) and found['size'].tolist() == [40, 64]
  assert (found['label_map'][40:] == 255).all()
  less = pad.fit(found, (32, 96))
  assert less['size'].tolist() == [32, 64] and less['label_map'].shape == (32, 96)
