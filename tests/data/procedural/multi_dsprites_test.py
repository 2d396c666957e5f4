import functools

import cv2
import numpy as np
import pytest
import tensorflow_datasets as tfds

from big_vision_like.data.procedural import multi_dsprites

VARIANTS = {
  'colored_on_grayscale': (2, 5, 3),
  'binarized': (2, 3, 1),
  'colored_on_colored': (1, 4, 3),
}


@functools.cache
def scenes(variant, count=300):
  return [multi_dsprites.draw(0, 'train', i, variant) for i in range(count)]


def alone(values):
  factors = ('shape', 'x', 'y', 'scale', 'orientation')
  return multi_dsprites.sprite(**{name: values[name] for name in factors})


# Pixels of the sprites at scales 0.5 to 1, upright, at the first position of dSprites,
# counted in its published animation, dsprites.gif.
@pytest.mark.parametrize(
  'shape, pixels, rows, columns, tolerance',
  [
    ('square', [100, 144, 196, 256, 324, 400], (6, 25), (6, 25), 0),
    ('ellipse', [76, 104, 144, 184, 228, 288], (9, 22), (3, 28), 4),
    ('heart', [58, 84, 108, 140, 182, 222], (7, 23), (6, 25), 8),
  ],
)
def test_sprites_are_as_large_as_those_of_dsprites(
  shape, pixels, rows, columns, tolerance
):
  drawn = [
    multi_dsprites.sprite(shape, 0, 0, scale) for scale in np.linspace(0.5, 1, 6)
  ]
  for mask_HW, want in zip(drawn, pixels, strict=True):
    assert mask_HW.shape == (64, 64) and mask_HW.dtype == bool
    assert abs(int(mask_HW.sum()) - want) <= tolerance
  y, x = np.nonzero(drawn[-1])
  assert (x.min(), x.max()) == columns
  assert abs(y.min() - rows[0]) <= 1 and abs(y.max() - rows[1]) <= 1


def test_a_heart_stands_on_its_tip():
  heart_HW = multi_dsprites.sprite('heart', 0.5, 0.5)
  y, x = np.nonzero(heart_HW)
  np.testing.assert_array_equal(heart_HW, heart_HW[:, ::-1])
  widths = heart_HW.sum(axis=1)[y.min() : y.max() + 1]
  assert widths[-1] <= 2 and widths.argmax() < 6
  top = heart_HW[y.min()]
  assert np.abs(np.diff(top.astype(int))).sum() == 4  # two bows at the top
  # Row widths of the published heart: rows 7 to 23 at the first position.
  want = [10, 14, 16, 18, 20, 20, 18, 18, 16, 16, 14, 12, 10, 8, 6, 4, 2]
  assert np.abs(widths[: len(want)] - want).max() <= 3


@pytest.mark.parametrize('shape', multi_dsprites.SHAPES)
def test_sprites_turn_counterclockwise_as_opencv_turns_them(shape):
  upright_HW = multi_dsprites.sprite(shape, 0.5, 0.5).astype(np.float32)
  for degrees in (30, 90, 200):
    turned_HW = multi_dsprites.sprite(shape, 0.5, 0.5, 1, np.deg2rad(degrees))
    # OpenCV puts the centre of the first pixel at 0.
    matrix = cv2.getRotationMatrix2D((31.5, 31.5), degrees, 1)
    want_HW = cv2.warpAffine(upright_HW, matrix, (64, 64)) > 0.5
    both = (turned_HW & want_HW).sum() / (turned_HW | want_HW).sum()
    assert both > 0.9, (shape, degrees)
  assert not np.array_equal(
    multi_dsprites.sprite('heart', 0.5, 0.5, 1, 1.0),
    multi_dsprites.sprite('heart', 0.5, 0.5, 1, -1.0),
  )


def test_places_reach_from_a_quarter_to_three():
  for x, y in [(0, 0), (1, 0), (0.25, 0.75)]:
    rows, columns = np.nonzero(multi_dsprites.sprite('square', x, y, 0.5))
    assert rows.mean() + 0.5 == pytest.approx(16 + 32 * y)
    assert columns.mean() + 0.5 == pytest.approx(16 + 32 * x)


@pytest.mark.parametrize('variant', list(VARIANTS))
def test_later_sprites_hide_earlier_ones(variant):
  least, most, channels = VARIANTS[variant]
  counts, hidden = set(), 0
  for scene in scenes(variant):
    image_HWC, ids_HW = scene['image'], scene['segmentation'][..., 0]
    assert image_HWC.shape == (64, 64, channels)
    assert image_HWC.dtype == ids_HW.dtype == np.uint8
    counts.add(len(scene['objects']))
    later_HW = np.zeros((64, 64), bool)
    for i, values in reversed(list(enumerate(scene['objects'], start=1))):
      seen_HW = alone(values) & ~later_HW
      np.testing.assert_array_equal(ids_HW == i, seen_HW)
      assert values['visibility'] == float(seen_HW.any())
      hidden += not seen_HW.any()
      assert values['color'].shape == (channels,)
      color_C = np.rint(255 * values['color'].astype(np.float64))
      assert np.abs(image_HWC[seen_HW] - color_C).max(initial=0) <= 1
      later_HW |= alone(values)
    np.testing.assert_array_equal(ids_HW == 0, ~later_HW)
    background = np.unique(image_HWC[ids_HW == 0], axis=0)
    assert len(background) == 1
    if variant == 'colored_on_grayscale':
      assert np.ptp(background) == 0
    if variant == 'binarized':
      assert background == [[0]]
      assert (image_HWC[ids_HW > 0] == 255).all()
  assert counts == set(range(least, most + 1))
  assert hidden < 30
  if variant == 'colored_on_grayscale':
    assert hidden > 0


def test_factors_match_dsprites():
  objects = [o for scene in scenes('colored_on_grayscale') for o in scene['objects']]
  numbers = {
    'x': np.linspace(0, 1, 32),
    'y': np.linspace(0, 1, 32),
    'scale': np.linspace(0.5, 1, 6),
    'orientation': np.linspace(0, 2 * np.pi, 40),
  }
  for name, want in numbers.items():
    found = sorted({o[name] for o in objects})
    np.testing.assert_allclose(found, want)  # about a thousand draws find all values
  shares = [
    sum(o['shape'] == s for o in objects) for s in ('ellipse', 'heart', 'square')
  ]
  assert sum(shares) == len(objects)
  assert max(shares) < 1.25 * min(shares)


def test_colors_are_spread():
  for variant in ('colored_on_grayscale', 'colored_on_colored'):
    colors_N3 = np.array([o['color'] for s in scenes(variant) for o in s['objects']])
    assert (colors_N3.min(axis=0) < 0.05).all() and (colors_N3.max(axis=0) > 0.95).all()
  backgrounds = [s['image'][0, 0, 0] for s in scenes('colored_on_grayscale')]
  assert min(backgrounds) < 10 and max(backgrounds) > 245


def test_an_example_is_a_function_of_seed_split_and_index():
  image = multi_dsprites.draw(0, 'train', 7, 'binarized')['image']
  again = multi_dsprites.draw(0, 'train', 7, 'binarized')
  np.testing.assert_array_equal(image, again['image'])
  assert again['id'] == 7
  for other in [(1, 'train', 7), (0, 'test', 7), (0, 'validation', 7), (0, 'train', 8)]:
    drawn = multi_dsprites.draw(*other, 'binarized')['image']
    assert not np.array_equal(image, drawn)
  with pytest.raises(ValueError, match="split='val' is not one of"):
    multi_dsprites.draw(0, 'val', 7, 'binarized')


@pytest.mark.parametrize('variant', list(VARIANTS))
def test_records_hold_the_drawn_examples(tmp_path, variant):
  tfds.disable_progress_bar()
  config = multi_dsprites.MultiDspritesConfig(
    name='tiny', variant=variant, counts=(6, 3, 2), seed=4
  )
  builder = multi_dsprites.MultiDsprites(data_dir=tmp_path, config=config)
  builder.download_and_prepare(file_format='array_record')
  counts = {name: split.num_examples for name, split in builder.info.splits.items()}
  assert counts == {'train': 6, 'validation': 3, 'test': 2}
  shapes = builder.info.features['objects'].feature['shape']
  for split in multi_dsprites.SPLITS:
    for index, example in enumerate(builder.as_data_source(split)):
      want = multi_dsprites.draw(4, split, index, variant)
      for name in ('image', 'segmentation', 'id'):
        np.testing.assert_array_equal(example[name], want[name])
      found = example['objects']
      assert [shapes.int2str(v) for v in found.pop('shape')] == [
        o['shape'] for o in want['objects']
      ]
      assert set(found) == {'x', 'y', 'scale', 'orientation', 'color', 'visibility'}
      for name, numbers in found.items():
        wanted = np.array([o[name] for o in want['objects']], np.float32)
        np.testing.assert_array_equal(np.array(numbers), wanted)


def test_published_configs():
  for config in multi_dsprites.MultiDsprites.BUILDER_CONFIGS:
    assert config.name == config.variant
    assert (config.counts, config.seed) == ((60_000, 320, 320), 0)
  names = [config.name for config in multi_dsprites.MultiDsprites.BUILDER_CONFIGS]
  assert sorted(names) == sorted(VARIANTS)
  default = multi_dsprites.MultiDsprites.DEFAULT_BUILDER_CONFIG_NAME
  assert default == 'colored_on_grayscale'
