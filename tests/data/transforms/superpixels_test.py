import numpy as np
import pytest

from big_vision_like.data.procedural import drawing
from big_vision_like.data.sources import folders, memory
from big_vision_like.data.transforms import image, superpixels
from big_vision_like.errors import BadRecordError

pytest.importorskip('skimage')
IMAGE = np.random.default_rng(0).integers(0, 256, (28, 28, 1), np.uint8)


def made(image_HWC=IMAGE, **options):
  return superpixels.Superpixels(**options).map({'image': image_HWC, 'id': 7})


def test_a_graph():
  example = made()
  count, edges = int(example['node_mask'].sum()), example['weights'] > 0
  assert example['nodes'].shape == (96, 3) and example['nodes'].dtype == np.float32
  assert 0 <= example['nodes'].min() and example['nodes'].max() < 1
  assert not example['nodes'][count:].any() and 'image' not in example
  pairs = {tuple(pair) for pair in example['edges'][edges].tolist()}
  assert pairs == {pair[::-1] for pair in pairs}
  assert {(i, i) for i in range(count)} <= pairs
  is_loop = example['edges'][edges, 0] == example['edges'][edges, 1]
  np.testing.assert_array_equal(example['weights'][edges], 1 + is_loop)


def test_colours_keep_their_published_range():
  one, other = made(), made(scale=255.0)
  np.testing.assert_allclose(255 * one['nodes'][:, 0], other['nodes'][:, 0], rtol=1e-5)
  np.testing.assert_array_equal(one['nodes'][:, 1:], other['nodes'][:, 1:])


@pytest.mark.parametrize('channels', [1, 3])
def test_images_of_one_colour_have_a_regular_grid(channels):
  example = made(np.full((28, 28, channels), 9, np.uint8))
  assert example['node_mask'].sum() == 81
  assert (example['weights'] > 0).sum() == 2 * 144 + 81


def test_grey_images_have_graphs_of_their_own():
  places = [made(np.roll(IMAGE, shift, axis=1))['nodes'][:81, 1:] for shift in (0, 5)]
  assert np.abs(places[0] - places[1]).max() > 0.01


@pytest.mark.parametrize('size', [(1, 1), (2, 3)])
def test_images_of_one_superpixel_have_one_loop(size):
  example = made(IMAGE[: size[0], : size[1]], segments=1)
  assert example['node_mask'].sum() == 1
  assert example['edges'][example['weights'] > 0].tolist() == [[0, 0]]
  assert example['weights'].max() == 2
  assert np.isfinite(example['nodes']).all()


def test_folders_of_images_become_graphs(tmp_path):
  for name, value in (('black', 0), ('white', 255)):
    (tmp_path / name).mkdir()
    image_HWC = np.full((20, 30, 3), value, np.uint8)
    (tmp_path / name / 'one.png').write_bytes(drawing.png(image_HWC))
  source = memory.Cached(
    folders.Folder(str(tmp_path)),
    [
      image.Decode(channels=3),
      image.Resize(size=16, method='bilinear'),
      superpixels.Superpixels(segments=20),
    ],
  )
  black, white = source
  assert [black['label'], white['label']] == [0, 1]
  for example, value in ((black, 0), (white, 1)):
    colours = example['nodes'][example['node_mask'], :3]
    assert len(colours) > 4 and (colours == value).all()


def test_borders_of_a_panorama_touch():
  label_HW = np.arange(8)[None].repeat(4, axis=0) // 2
  image_HWC = np.zeros((4, 8, 1), np.uint8)
  nodes_NF, pairs_E2 = superpixels.graph(image_HWC, label_HW)
  assert pairs_E2.tolist() == [[0, 1], [1, 2], [2, 3]]
  label_HW = np.roll(label_HW, 1, axis=1)  # number 3 crosses the border
  wrapped_NF, wrapped_E2 = superpixels.graph(image_HWC, label_HW, wrap=True)
  assert wrapped_E2.tolist() == [[0, 1], [0, 3], [1, 2], [2, 3]]
  np.testing.assert_allclose(wrapped_NF[:, 1], [1.5 / 8, 3.5 / 8, 5.5 / 8, 7.5 / 8])


@pytest.mark.parametrize(
  ('options', 'sentence'),
  [
    (
      dict(max_nodes=50),
      'image of example 7 has 81 superpixels, and there is room for',
    ),
    (dict(max_edges=100), 'edges, and there is room for 100: raise max_nodes'),
  ],
)
def test_too_large_graphs_are_one_sentence(options, sentence):
  with pytest.raises(BadRecordError, match=sentence):
    made(**options)
