import collections
import functools

import numpy as np
import pytest
import tensorflow_datasets as tfds

from big_vision_like.data.procedural import tetrominoes

CONFIGS = {config.name: config for config in tetrominoes.Tetrominoes.BUILDER_CONFIGS}
OPTIONS = ('size', 'cell', 'step', 'shapes', 'gap')


def draw(name, index, split='train', seed=0):
  options = {option: getattr(CONFIGS[name], option) for option in OPTIONS}
  return tetrominoes.draw(seed, split, index, **options)


@functools.cache
def scenes(name, count=200):
  return [draw(name, i) for i in range(count)]


def places(mask_HW):
  rows, columns = np.nonzero(mask_HW)
  return (rows - rows.min(), columns - columns.min()), rows, columns


def connected(cells):
  found, todo = set(), [next(iter(cells))]
  while todo:
    y, x = todo.pop()
    if (y, x) in cells and (y, x) not in found:
      found.add((y, x))
      todo += [(y + 1, x), (y - 1, x), (y, x + 1), (y, x - 1)]
  return found == cells


def test_shapes_are_the_fixed_tetrominoes_without_bars():
  # All sets of four connected cells within three by three, moved into the corner: of
  # the 19 fixed tetrominoes, only the two bars do not fit.
  every = set()
  for bits in range(1 << 9):
    cells = {divmod(i, 3) for i in range(9) if bits >> i & 1}
    if len(cells) == 4 and connected(cells):
      y, x = (min(values) for values in zip(*cells, strict=True))
      every.add(frozenset((a - y, b - x) for a, b in cells))
  assert len(every) == 17
  shapes = {
    frozenset(map(tuple, np.argwhere(mask).tolist()))
    for mask in tetrominoes.SHAPES.values()
  }
  assert shapes == every
  assert len(tetrominoes.SHAPES) == 17


@pytest.mark.parametrize('name', list(CONFIGS))
def test_scenes_hold_three_pieces_of_one_color_each(name):
  config = CONFIGS[name]
  for scene in scenes(name):
    image_HWC, ids_HW = scene['image'], scene['segmentation'][..., 0]
    assert image_HWC.shape == (config.size, config.size, 3)
    assert scene['segmentation'].shape == (config.size, config.size, 1)
    assert image_HWC.dtype == ids_HW.dtype == np.uint8
    assert set(np.unique(ids_HW)) == {0, 1, 2, 3}
    assert not image_HWC[ids_HW == 0].any()
    for i, piece in enumerate(scene['objects'], start=1):
      (rows, columns), y, x = places(ids_HW == i)
      cells = set(zip(rows // config.cell, columns // config.cell, strict=True))
      assert cells == set(map(tuple, np.argwhere(tetrominoes.SHAPES[piece['shape']])))
      assert len(rows) == 4 * config.cell**2
      assert y.min() % config.step == x.min() % config.step == 0
      assert piece['y'] == pytest.approx((y.min() + y.max() + 1) / 2 / config.size)
      assert piece['x'] == pytest.approx((x.min() + x.max() + 1) / 2 / config.size)
      on = np.array(tetrominoes.COLORS[piece['color']]) > 0
      pixels_NC = image_HWC[ids_HW == i]
      assert not pixels_NC[:, ~on].any()
      assert (pixels_NC[:, on] >= 63).all()
      assert np.ptp(pixels_NC[:, on], axis=1).max() == 0


@pytest.mark.parametrize('name', ['21', '14', '7', 'blocks'])
def test_small_scenes_have_pure_colors(name):
  for scene in scenes(name):
    assert set(np.unique(scene['image'])) == {0, 255}


def test_large_cells_are_lit_as_in_the_published_picture():
  # The J in the preview of the published set (in its README), top left at 3, 12.
  scene = next(
    s for s in scenes('35') if any(o['color'] == 'yellow' for o in s['objects'])
  )
  (i, piece) = next(
    (i, o) for i, o in enumerate(scene['objects'], 1) if o['color'] == 'yellow'
  )
  ids_HW = scene['segmentation'][..., 0]
  (rows, columns), y, x = places(ids_HW == i)
  light = {(0, 0): 191, (0, 2): 255, (0, 4): 223, (2, 0): 127, (2, 2): 159}
  light |= {(2, 4): 191, (4, 2): 63, (4, 4): 127}
  for (a, b), want in light.items():
    cell = (rows % 5 == a) & (columns % 5 == b)
    pixels_NC = scene['image'][y[cell], x[cell]]
    np.testing.assert_array_equal(pixels_NC, [[want, want, 0]] * 4)


def test_pieces_are_at_any_pixel():
  starts = [
    places(scene['segmentation'][..., 0] == i)[1].min()
    for scene in scenes('35')
    for i in (1, 2, 3)
  ]
  assert set(starts) == set(range(26))  # pieces are ten or fifteen pixels high


def test_blocks_never_touch():
  near = 0
  for scene in scenes('blocks', 1000):
    ids_HW = np.pad(scene['segmentation'][..., 0], 1)
    for i in (1, 2, 3):
      y, x = np.nonzero(ids_HW == i)
      window = ids_HW[y.min() - 1 : y.max() + 2, x.min() - 1 : x.max() + 2]
      assert set(np.unique(window)) == {0, i}
      window = ids_HW[
        max(y.min() - 2, 0) : y.max() + 3, max(x.min() - 2, 0) : x.max() + 3
      ]
      near += len(np.unique(window)) > 2
  assert near > 500  # blocks are often as close as that


def test_every_scene_is_as_likely_as_any_other():
  options = dict(size=5, cell=1, shapes=('O0',), gap=1)
  layouts = []
  grid = [(y, x) for y in range(4) for x in range(4)]
  for a in grid:
    for b in grid:
      for c in grid:
        pairs = [(a, b), (a, c), (b, c)]
        if all(max(abs(p[0] - q[0]), abs(p[1] - q[1])) > 2 for p, q in pairs):
          layouts.append((a, b, c))
  counts = collections.Counter()
  for index in range(10 * len(layouts)):
    ids_HW = tetrominoes.draw(0, 'train', index, **options)['segmentation'][..., 0]
    counts[tuple(tuple(np.argwhere(ids_HW == i)[0].tolist()) for i in (1, 2, 3))] += 1
  assert set(counts) == set(layouts)
  expected = 10
  chi2 = sum((n - expected) ** 2 / expected for n in counts.values())
  # The statistic has mean len - 1 and variance 2 (len - 1).
  assert abs(chi2 - (len(layouts) - 1)) < 5 * (2 * (len(layouts) - 1)) ** 0.5


def test_colors_and_shapes_are_all_used_and_colors_may_repeat():
  objects = [o for scene in scenes('35') for o in scene['objects']]
  shares = collections.Counter(o['color'] for o in objects)
  assert shares.keys() == tetrominoes.COLORS.keys()
  assert min(shares.values()) > 60 and max(shares.values()) < 145  # of 600, mean 100
  assert {o['shape'] for o in objects} == set(tetrominoes.SHAPES)
  several = [len({o['color'] for o in scene['objects']}) for scene in scenes('35')]
  assert set(several) == {1, 2, 3}


def test_an_example_is_a_function_of_seed_split_and_index():
  image = draw('14', 7)['image']
  np.testing.assert_array_equal(image, draw('14', 7)['image'])
  assert draw('14', 7)['id'] == 7
  for other in (draw('14', 8), draw('14', 7, 'test'), draw('14', 7, seed=1)):
    assert not np.array_equal(image, other['image'])
  with pytest.raises(ValueError, match="split='val' is not one of"):
    draw('14', 7, 'val')


def test_grids_show_the_same_scenes():
  for index in range(20):
    small, large = draw('7', index), draw('21', index)
    assert small['objects'] == large['objects']
    np.testing.assert_array_equal(small['image'], large['image'][1::3, 1::3])


TINY = tetrominoes.TetrominoesConfig(
  name='tiny', size=14, cell=2, step=2, counts=(9, 4, 3), seed=3
)


def test_records_hold_the_drawn_examples(tmp_path):
  tfds.disable_progress_bar()
  builder = tetrominoes.Tetrominoes(data_dir=tmp_path, config=TINY)
  builder.download_and_prepare(file_format='array_record')
  counts = {name: split.num_examples for name, split in builder.info.splits.items()}
  assert counts == {'train': 9, 'validation': 4, 'test': 3}
  features = builder.info.features['objects'].feature
  for split in tetrominoes.SPLITS:
    for index, example in enumerate(builder.as_data_source(split)):
      want = tetrominoes.draw(3, split, index, size=14, cell=2, step=2)
      for name in ('image', 'segmentation', 'id'):
        np.testing.assert_array_equal(example[name], want[name])
      for name in ('shape', 'color'):
        names = [features[name].int2str(v) for v in example['objects'][name]]
        assert names == [o[name] for o in want['objects']]
      for name in ('x', 'y'):
        places = [o[name] for o in want['objects']]
        np.testing.assert_allclose(example['objects'][name], places, rtol=1e-6)


def test_published_configs():
  sizes = {name: config.size for name, config in CONFIGS.items()}
  assert sizes == {'35': 35, '21': 21, '14': 14, '7': 7, 'blocks': 8}
  for name, config in CONFIGS.items():
    counts = (20_000, 256, 256) if name == 'blocks' else (60_000, 320, 320)
    assert (config.counts, config.seed) == (counts, 0)
  assert tetrominoes.Tetrominoes.DEFAULT_BUILDER_CONFIG_NAME == '35'
