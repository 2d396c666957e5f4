import collections
import dataclasses
import pickle

import cv2
import hypothesis
import hypothesis.strategies as st
import numpy as np
import pytest
import simplejpeg

from big_vision_like.data import benchmarks
from big_vision_like.data.input import grouping, mixture, pipeline
from big_vision_like.data.procedural import drawing
from big_vision_like.data.sources import coco_classes, memory
from big_vision_like.data.sources.base import Source
from big_vision_like.data.transforms import boxes, decoding, image, labels
from big_vision_like.errors import BadRecordError, UserError
from big_vision_like.spec import build

SHAPES = [(40, 60), (60, 40), (64, 80), (80, 64)]


@dataclasses.dataclass(frozen=True)
class Images(Source):
  """Images of many sizes, each in the colour of its index."""

  count: int
  bad: tuple[int, ...] = ()

  def __len__(self):
    return self.count

  def __getitem__(self, index):
    if index in self.bad:
      raise BadRecordError('damaged')
    height, width = np.random.default_rng(index).integers(30, 61, 2)
    picture = np.full((height, width, 3), index % 256, np.uint8)
    picture[0, 0] = index // 256
    return {
      'image': drawing.png(picture),
      'id': index,
      'objects': {'bbox': [[0, 0, 0.5, 0.5]] * (index % 3), 'label': [0] * (index % 3)},
    }


TRANSFORMS = [
  image.Decode(),
  boxes.Objects(),
  labels.Keep(names=('image', 'boxes', 'box_labels', 'dropped')),
  boxes.Flip(),
  boxes.Either(
    [boxes.RandomResizeShort((30, 40, 50), longest=70)],
    [boxes.RandomSizeCrop(20, 40), boxes.RandomResizeShort((30, 40), longest=64)],
  ),
  boxes.Pad(SHAPES, max_boxes=2),
]
PAD = TRANSFORMS[-1]


def train(source, **rest):
  return pipeline.TrainInput(
    **dict(source=source, batch_size=6, transforms=TRANSFORMS, seed=3) | rest
  )


def take(data, count, rows=None, start=0):
  batches = data.batches(np.arange if rows is None else lambda size: rows)
  if start:
    batches.set_state({'step': start})
  found = [next(batches) for _ in range(count)]
  batches.close()
  return found


def assert_equal(found, expected):
  for a, b in zip(found, expected, strict=True):
    assert a.keys() == b.keys()
    for name in a:
      np.testing.assert_array_equal(a[name], b[name])


@pytest.fixture(scope='module')
def batches():
  with pytest.MonkeyPatch.context() as patch:
    patch.setattr(grouping.cache.pathlib.Path, 'home', lambda: '/nowhere')
    patch.setattr(grouping.cache, 'arrays', lambda file, make: make(), raising=True)
    patch.setattr(grouping.cache, 'file', lambda kind, known: None)
    return take(train(Images(96)), 2 * grouping.WINDOW)


def test_batches_have_one_shape_and_everything_comes_once(batches):
  shapes = collections.Counter(batch['image'].shape for batch in batches)
  assert set(shapes) == {(6, *shape, 3) for shape in SHAPES}
  window = grouping.WINDOW * 6
  assert window == 192
  ids = np.concatenate([batch['id'] for batch in batches])
  for half in ids[:window], ids[window:]:
    assert collections.Counter(half.tolist()) == {i: 2 for i in range(96)}  # two epochs


def test_examples_are_those_of_the_stream_in_another_order(batches):
  plain = train(Images(96), transforms=TRANSFORMS[:-1])
  want = collections.defaultdict(list)
  for position in range(grouping.WINDOW * 6):
    example = plain.examples[position]
    want[int(example['id'])].append(example)
  shrunk = 0
  for batch in batches[: grouping.WINDOW]:
    for i, name in enumerate(batch['id'].tolist()):
      height, width = batch['size'][i]
      found = [e for e in want[name] if e['image'].shape[:2] == (height, width)]
      if not found:
        shrunk += 1
        continue
      example, count = found[0], len(found[0]['boxes'])
      pixels = batch['image'][i]
      assert any((pixels[:height, :width] == e['image']).all() for e in found)
      assert not pixels[height:].any() and not pixels[:, width:].any()
      assert batch['box_mask'][i].sum() == count
      if len(found) == 1:
        np.testing.assert_array_equal(batch['boxes'][i, :count], example['boxes'])
  assert shrunk <= 6  # at most one batch


def test_shapes_are_the_smallest_except_for_remainders(batches):
  larger = 0
  for batch in batches:
    height, width = batch['image'].shape[1:3]
    for size in batch['size'].tolist():
      fits = [h * w for h, w in SHAPES if h >= size[0] and w >= size[1]]
      larger += height * width > min(fits)
  assert larger <= 2 * len(SHAPES) * 5


def test_the_stream_resumes_at_any_position(batches):
  again = take(train(Images(96)), 5, start=30)
  assert_equal(again, batches[30:35])


@pytest.mark.parametrize('count', [2, 3])
def test_rows_of_processes_are_the_batch_of_one(count, batches):
  parts = [take(train(Images(96)), 4, np.arange(6)[i::count]) for i in range(count)]
  for step, batch in enumerate(batches[:4]):
    for i, part in enumerate(parts):
      assert_equal([part[step]], [{k: v[i::count] for k, v in batch.items()}])


def test_workers_give_the_same(batches):
  assert_equal(take(train(Images(96), workers=2), 4), batches[:4])


def test_bad_records_are_replaced_and_fit():
  data = train(Images(96, bad=(5, 50)), bad_share=1.0)
  stream = iter(data)
  ids = np.concatenate([next(stream)['id'] for _ in range(grouping.WINDOW)])
  assert stream.replaced == 4 and not {5, 50} & set(ids.tolist())
  assert all('damaged' in line for line in stream.news())


def test_an_example_alone_has_the_largest_shape():
  example = train(Images(96)).example()
  assert example['image'].shape == (64, 80, 3) or example['image'].shape == (80, 64, 3)


@pytest.mark.parametrize('shape', SHAPES)
def test_an_example_in_a_shape(shape):
  example = train(Images(96)).example(shape=shape)
  assert example['image'].shape == (*shape, 3)


def test_how_often_shapes_come_is_known_beforehand(batches):
  steps = len(batches)
  found = collections.Counter(batch['image'].shape[1:3] for batch in batches)
  data = train(Images(96))
  shares = data.signatures(steps)
  assert shares == {shape: count / steps for shape, count in found.items()}
  plain = [*TRANSFORMS[:-1], boxes.Pad([(80, 80)], max_boxes=2)]
  assert train(Images(20), transforms=plain).signatures(steps) == {(): 1.0}
  assert data.label((40, 60)) == '40x60' and data.label(()) == ''
  assert data.abstract((40, 60))['image'].shape == (6, 40, 60, 3)
  assert data.abstract()['image'].shape == (6, 64, 80, 3)


def test_too_many_objects_are_a_bad_record():
  transforms = [*TRANSFORMS[:-1], boxes.Pad(SHAPES, max_boxes=1)]
  data = train(Images(96), transforms=transforms, bad_share=1.0)
  stream = iter(data)
  masks = [next(stream)['box_mask'] for _ in range(20)]
  assert np.concatenate(masks).any() and stream.replaced > 10
  assert 'has 2 objects: more than max_boxes=1; raise max_' in stream.news()[0]


def test_mixtures_are_grouped():
  parts = {
    'a': mixture.Part(source=Images(40), weight=2),
    'b': mixture.Part(source=Images(30), weight=1, transforms=[]),
  }
  data = train(mixture.Mixture(parts=parts))
  found = take(
    dataclasses.replace(
      data,
      transforms=[
        *TRANSFORMS[:2],
        labels.Keep(names=('image', 'boxes', 'box_labels', 'dropped', 'part')),
        *TRANSFORMS[3:],
      ],
    ),
    grouping.WINDOW,
  )
  part = np.concatenate([batch['part'] for batch in found])
  assert np.bincount(part).tolist() == [128, 64]
  assert len({batch['image'].shape for batch in found}) == 4


def test_an_unforeseen_change_of_sizes_is_an_error():
  transforms = [TRANSFORMS[0], image.Resize(size=40), *TRANSFORMS[1:]]
  with pytest.raises(UserError, match='only transforms of boxes may change sizes'):
    take(train(Images(96), transforms=transforms), 1)


def test_evaluation_counts_every_example_once():
  resize = boxes.ResizeShort(36, longest=70)
  transforms = [*TRANSFORMS[:3], resize, boxes.Pad(SHAPES, max_boxes=2)]
  data = pipeline.EvalInput(source=Images(50), batch_size=8, transforms=transforms)
  found = list(data.epoch())
  ids = np.concatenate([batch['id'][batch['mask']] for batch in found])
  assert sorted(ids.tolist()) == list(range(50))
  assert {batch['image'].shape for batch in found} == {(8, *s, 3) for s in SHAPES}
  assert sum((~batch['mask']).sum() for batch in found) < 4 * 8
  for batch in found:
    for size in batch['size']:
      fits = [s for s in SHAPES if (np.array(s) >= size).all()]
      assert batch['image'].shape[1:3] == min(fits, key=np.prod)
  index_N, real_N = data.order
  assert index_N[real_N].tolist() == ids.tolist()
  assert real_N.tolist() == np.concatenate([b['mask'] for b in found]).tolist()
  parts = [list(data.epoch(lambda size, i=i: np.arange(size)[i::2])) for i in range(2)]
  assert_equal(parts[1], [{k: v[1::2] for k, v in batch.items()} for batch in found])


# Grouping


@hypothesis.settings(max_examples=60, deadline=None, derandomize=True)
@hypothesis.given(st.integers(1, 7), st.integers(1, 9), st.integers(0, 99))
def test_everything_is_in_one_batch(batch_size, count, seed):
  shape_N = np.random.default_rng(seed).integers(0, 4, batch_size * count)
  places_MB, shape_M = grouping.together(shape_N, SHAPES, batch_size)
  assert places_MB.shape == (count, batch_size) and shape_M.shape == (count,)
  assert sorted(places_MB.ravel().tolist()) == list(range(batch_size * count))
  misfits = [
    batch
    for batch, shape in zip(places_MB, shape_M, strict=True)
    if not all((np.array(SHAPES[shape]) >= SHAPES[s]).all() for s in shape_N[batch])
  ]
  assert len(misfits) <= 1


def test_remainders_go_into_the_next_larger_shape():
  shape_N = np.array([0, 0, 0, 2, 1, 1])
  places_MB, shape_M = grouping.together(shape_N, SHAPES, 2)
  found = {
    (s, *sorted(shape_N[p].tolist())) for p, s in zip(places_MB, shape_M, strict=True)
  }
  assert found == {(0, 0, 0), (1, 1, 1), (2, 0, 2)}


# Image sizes


def test_sizes_are_read_from_headers_once(home):
  grey = np.zeros((7, 9, 3), np.uint8)
  files = {
    'jpeg': simplejpeg.encode_jpeg(grey),
    'png': drawing.png(grey),
    'webp': cv2.imencode('.webp', grey)[1].tobytes(),
  }
  for encoded in files.values():
    assert decoding.image_size(encoded) == (7, 9)
  assert decoding.image_size(grey) == (7, 9)
  with pytest.raises(ValueError):
    decoding.image_size(b'no image')
  source = Images(5, bad=(0,))
  want = [
    cv2.imdecode(np.frombuffer(source[i]['image'], np.uint8), 1).shape[:2]
    for i in range(1, 5)
  ]
  got = grouping.sizes(source, PAD)
  np.testing.assert_array_equal(got, [want[0], *want])
  (kept,) = (home / '.cache' / 'big_vision_like' / 'sizes').glob('*.npz')
  np.savez(kept, sizes=got + 1)
  np.testing.assert_array_equal(grouping.sizes(source, PAD), got + 1)
  cached = memory.Cached(source=Images(3), transforms=[image.Decode()])
  assert grouping.sizes(cached, PAD).tolist() == [
    list(decoding.image_size(Images(3)[i]['image'])) for i in range(3)
  ]


def test_sources_without_images_are_reported():
  with pytest.raises(UserError, match='has no image that can be read'):
    grouping.sizes(Images(3, bad=(0, 1, 2)), PAD)


def test_pickled_windows_leave_their_cache_behind():
  data = train(Images(20))
  windows = data.examples._windows
  want = windows.batch(40)
  again = pickle.loads(pickle.dumps(windows)).batch(40)
  for a, b in zip(again, want, strict=True):
    np.testing.assert_array_equal(a, b)


# Padding


class Sizes(Source):
  """Images with the sizes of COCO's, one for each hundred."""

  def __init__(self):
    counts = np.array([count for *_, count in coco_classes.SIZES]) // 100
    sizes_N2 = np.array([size for *size, _ in coco_classes.SIZES], np.int32)
    self._sizes_N2 = sizes_N2.repeat(counts, axis=0)

  def __len__(self):
    return len(self._sizes_N2)

  def __getitem__(self, index):
    raise AssertionError('no image is read')

  @property
  def image_sizes(self):
    return self._sizes_N2


def test_padding_of_coco_is_less_than_a_quarter():
  node = benchmarks.DETECTION['coco'].train_input(16, workers=0)
  transforms = build(node.transforms)

  def share(shapes):
    own = [*transforms[:-1], dataclasses.replace(transforms[-1], sizes=shapes)]
    data = pipeline.TrainInput(source=Sizes(), batch_size=16, transforms=own)
    return data.padded_share(4 * grouping.WINDOW)

  ours = share(transforms[-1].sizes)
  assert 0.18 < ours < 0.25
  assert share([(800, 1344), (1344, 800)]) > 0.45
  assert share([(1344, 1344), (1344, 1345)]) > 0.65


def test_the_padding_of_a_single_shape_is_refused():
  transforms = [*TRANSFORMS[:-1], boxes.Pad([(80, 80)], max_boxes=2)]
  with pytest.raises(UserError, match='whose Pad has several sizes'):
    train(Images(20), transforms=transforms).padded_share(3)
