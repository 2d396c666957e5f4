import pickle

import hypothesis
import hypothesis.strategies as st
import numpy as np
import pytest
from PIL import Image

from big_vision_like.data import benchmarks
from big_vision_like.data.procedural import drawing, scenes
from big_vision_like.data.sources import fake
from big_vision_like.data.transforms import boxes, compose, image
from big_vision_like.errors import BadRecordError, UserError
from big_vision_like.spec import build


def example(rectangles, height=40, width=60, masks=True):
  """Returns an image; rectangle i (left, top, right, bottom) is bright in channel i."""
  image = np.zeros((height, width, 3), np.uint8)
  drawn = np.zeros((len(rectangles), height, width), np.uint8)
  for i, (left, top, right, bottom) in enumerate(rectangles):
    image[top:bottom, left:right, i] = 255
    drawn[i, top:bottom, left:right] = 1
  result = {
    'id': 7,
    'image': image,
    'boxes': np.array(rectangles, np.float32).reshape(-1, 4),
    'box_labels': np.arange(len(rectangles), dtype=np.int32),
    'dropped': np.int32(0),
  }
  return result | ({'masks': drawn} if masks else {})


def tight(mask):
  """Returns the tight box around the true pixels of (H, W), or None."""
  rows, columns = np.flatnonzero(mask.any(1)), np.flatnonzero(mask.any(0))
  if len(rows) == 0:
    return None
  return np.array([columns[0], rows[0], columns[-1] + 1, rows[-1] + 1])


def check_consistent(got, tolerance=0.0, mask_tolerance=0.0):
  """Checks that boxes are in the image and fit its colours and masks, in pixels."""
  height, width = got['image'].shape[:2]
  assert got['boxes'].dtype == np.float32 and got['box_labels'].dtype == np.int32
  assert (got['boxes'] >= 0).all() and (got['boxes'] <= [width, height] * 2).all()
  for box, label, mask in zip(
    got['boxes'], got['box_labels'], got['masks'], strict=True
  ):
    seen = tight(got['image'][..., label] > 127)
    assert mask.shape == (height, width) and set(np.unique(mask)) <= {0, 1}
    if (box[2:] - box[:2] > 1 + 2 * tolerance).all():  # the box is not a sliver
      np.testing.assert_allclose(seen, box, atol=tolerance + 1e-3)
    if (box[2:] - box[:2] > 1 + 2 * mask_tolerance).all():
      np.testing.assert_allclose(tight(mask), box, atol=mask_tolerance + 1e-3)


@st.composite
def rectangles(draw, height=40, width=60):
  """Draws up to three rectangles of at least 5 x 5 pixels, which may overlap."""
  found = []
  for _ in range(draw(st.integers(0, 3))):
    left, top = draw(st.integers(0, width - 5)), draw(st.integers(0, height - 5))
    right = draw(st.integers(left + 5, width))
    found.append((left, top, right, draw(st.integers(top + 5, height))))
  return found


STEPS = st.one_of(
  st.just(boxes.Flip()),
  st.integers(25, 90).map(lambda size: boxes.ResizeShort(size, longest=120)),
  st.just(boxes.RandomResizeShort(sizes=[30, 44, 71], longest=100)),
  st.tuples(st.integers(10, 20), st.integers(20, 50)).map(
    lambda sides: boxes.RandomSizeCrop(*sides)
  ),
)


@hypothesis.settings(max_examples=80, deadline=None, derandomize=True)
@hypothesis.given(rectangles(), st.lists(STEPS, max_size=4), st.integers(0, 99))
def test_boxes_follow_the_image_whatever_is_done(rectangles, steps, seed):
  got, tolerance, mask_tolerance = example(rectangles), 0.0, 0.0
  for step in steps:
    before = got['image'].shape
    if isinstance(step, boxes.RandomSizeCrop) and min(before[:2]) < 20:
      continue
    got = boxes.Either([step], [], 1.0).random_map(got, np.random.default_rng(seed))
    if isinstance(step, (boxes.ResizeShort, boxes.RandomResizeShort)):
      # Errors in pixels grow with the image; the nearest pixel may be one away.
      scale = max(np.divide(got['image'].shape, before))
      tolerance, mask_tolerance = tolerance * scale + 0.8, mask_tolerance * scale + 1
  check_consistent(got, tolerance, mask_tolerance)
  assert len(got['boxes']) + got['dropped'] == len(rectangles)
  assert len(got['masks']) == len(got['boxes']) == len(got['box_labels'])


@hypothesis.settings(max_examples=20, deadline=None, derandomize=True)
@hypothesis.given(rectangles())
def test_flipping_twice_changes_nothing(rectangles):
  given = example(rectangles)
  once = boxes.flip(given)
  check_consistent(once)
  twice = boxes.flip(once)
  for name in given:
    np.testing.assert_array_equal(twice[name], given[name])


# Sizes


@pytest.mark.parametrize(
  'height, width, size, longest, want',
  [
    (480, 640, 800, 1333, (800, 1066)),  # 1066.67 is truncated, not rounded
    (640, 480, 800, 1333, (1066, 800)),
    (427, 640, 800, 1333, (800, 1199)),
    (300, 640, 800, 1333, (625, 1333)),  # 1333 * 300 / 640 = 624.8
    (640, 480, 480, 1333, (640, 480)),
    (500, 500, 608, 1333, (608, 608)),
    (333, 500, 800, None, (800, 1201)),
    (100, 1000, 800, 1333, (133, 1330)),  # longer side below the limit: truncated twice
  ],
)
def test_sizes_are_the_published_ones(height, width, size, longest, want):
  assert boxes.short_side_size(height, width, size, longest) == want


@hypothesis.settings(max_examples=200, deadline=None, derandomize=True)
@hypothesis.given(st.integers(40, 1400), st.integers(40, 1400), st.integers(400, 800))
def test_the_longer_side_keeps_to_its_limit(height, width, size):
  got = boxes.short_side_size(height, width, size, 1333)
  assert min(got) <= size and max(got) <= 1333 + max(height, width) / min(height, width)
  assert (got[0] > got[1]) == (height > width) or got[0] == got[1]


# Crops


def test_crop_cuts_shifts_and_drops():
  given = example([(0, 0, 20, 20), (10, 10, 30, 30), (50, 0, 60, 5)])
  got = boxes.crop(given, top=5, left=20, height=20, width=30)
  np.testing.assert_array_equal(got['boxes'], [[0, 5, 10, 20]])
  np.testing.assert_array_equal(got['box_labels'], [1])
  assert got['dropped'] == 2 and got['dropped'].dtype == np.int32
  check_consistent(got)
  again = boxes.crop(got, top=0, left=15, height=5, width=5)
  assert again['boxes'].shape == (0, 4) and again['dropped'] == 3
  assert again['masks'].shape == (0, 5, 5)


def test_crops_have_every_size_and_place():
  crop, rng = boxes.RandomSizeCrop(4, 6), np.random.default_rng(0)
  rows, columns = np.mgrid[:7, :5]
  picture = np.stack([rows, columns, rows], -1).astype(np.uint8)
  given = example([], 7, 5) | {'image': picture}
  found = set()
  for _ in range(600):
    got = crop.random_map(given, rng)['image']
    top, left, _ = got[0, 0].tolist()
    height, width = got.shape[:2]
    np.testing.assert_array_equal(got, picture[top : top + height, left : left + width])
    found.add((height, width, top, left))
  assert found == {
    (h, w, top, left)
    for h in (4, 5, 6)
    for w in (4, 5)  # 6 exceeds the image
    for top in range(8 - h)
    for left in range(6 - w)
  }


def test_a_crop_of_too_small_an_image_is_an_error():
  with pytest.raises(UserError, match=r'low=50\) cannot crop an image of 40x60'):
    boxes.RandomSizeCrop(50, 60).random_map(example([]), np.random.default_rng(0))


@pytest.mark.parametrize('probability, flipped', [(1.0, True), (0.0, False)])
def test_either_of_two(probability, flipped):
  always = boxes.Either([boxes.ResizeShort(80)], [], probability)
  got = always.random_map(example([(5, 3, 20, 30)]), np.random.default_rng(0))
  assert (got['image'].shape[0] == 80) == flipped
  half = boxes.Either([boxes.ResizeShort(80)], [boxes.ResizeShort(20)], 0.25)
  rng = np.random.default_rng(0)
  heights = [half.random_map(example([]), rng)['image'].shape[0] for _ in range(200)]
  assert set(heights) == {20, 80} and 30 < heights.count(80) < 70


# Objects of TFDS


def record(bboxes, crowd=None, labels=None):
  objects = {'bbox': bboxes, 'label': labels or list(range(len(bboxes)))}
  if crowd is not None:
    objects['is_crowd'] = crowd
  return {'id': 7, 'image': np.zeros((40, 60, 3), np.uint8), 'objects': objects}


def test_objects_become_pixels():
  got = boxes.Objects().map(record([[0.25, 0.1, 0.5, 0.2]], labels=[17]))
  np.testing.assert_allclose(got['boxes'], [[6, 10, 12, 20]], rtol=1e-6)
  assert got['boxes'].dtype == np.float32 and 'crowd' not in got
  np.testing.assert_array_equal(got['box_labels'], np.array([17], np.int32))
  assert got['dropped'] == 0


def test_objects_outside_and_without_area_are_dropped_and_counted():
  nan = float('nan')
  bboxes = [[0, 0, 1.5, 1.5], [0.2, 0.2, 0.2, 0.4], [1.1, 0, 1.2, 1], [0, 0, nan, 1]]
  got = boxes.Objects().map(record(bboxes))
  np.testing.assert_array_equal(got['boxes'], [[0, 0, 60, 40]])
  np.testing.assert_array_equal(got['box_labels'], [0])
  assert got['dropped'] == 3


def test_crowds_are_dropped_unless_requested():
  given = record([[0, 0, 0.5, 0.5], [0, 0, 1, 1]], crowd=[True, False])
  without, asked = boxes.Objects().map(given), boxes.Objects(crowds=True).map(given)
  assert without['box_labels'].tolist() == [1] and without['dropped'] == 1
  assert asked['crowd'].tolist() == [True, False] and asked['dropped'] == 0
  assert asked['crowd'].dtype == bool
  cropped = boxes.crop(asked, top=30, left=40, height=10, width=20)
  assert cropped['crowd'].tolist() == [False]


@pytest.mark.parametrize('empty', [[], np.zeros((0, 4), np.float32)])
def test_images_without_objects_stay(empty):
  got = boxes.Objects().map(record(empty))
  assert got['boxes'].shape == (0, 4) and got['box_labels'].shape == (0,)
  for step in (boxes.ResizeShort(20), boxes.Pad([(20, 30)], 3), boxes.Normalize()):
    got = step.map(boxes.flip(got) if 'size' not in got else got)
  assert got['boxes'].shape == (3, 4) and not got['box_mask'].any()


def test_examples_without_the_feature_of_objects_are_reported():
  with pytest.raises(UserError, match="no 'objects/bbox'; they have image"):
    boxes.Objects().map({'image': np.zeros((4, 4, 3), np.uint8)})


# Padding


def test_pad_makes_one_shape_and_masks_the_padding():
  given = example([(5, 3, 20, 30), (0, 0, 60, 40)]) | {'crowd': np.array([True, False])}
  got = boxes.Pad([(50, 70)], max_boxes=5).map(given)
  assert got['image'].shape == (50, 70, 3) and got['masks'].shape == (5, 50, 70)
  np.testing.assert_array_equal(got['image'][:40, :60], given['image'])
  np.testing.assert_array_equal(got['masks'][:2, :40, :60], given['masks'])
  assert not got['image'][40:].any() and not got['image'][:, 60:].any()
  assert got['masks'].sum() == given['masks'].sum()
  np.testing.assert_array_equal(got['boxes'][:2], given['boxes'])
  assert got['boxes'].shape == (5, 4) and not got['boxes'][2:].any()
  assert got['box_labels'].tolist() == [0, 1, 0, 0, 0]
  assert got['box_mask'].tolist() == [False, True, False, False, False]
  assert got['crowd'].tolist() == [True, False, False, False, False]
  np.testing.assert_array_equal(got['size'], np.array([40, 60], np.int32))
  for name, dtype in [('boxes', 'f4'), ('box_labels', 'i4'), ('size', 'i4')]:
    assert got[name].dtype == dtype


def test_pad_takes_the_smallest_size_that_fits():
  pad = boxes.Pad([(64, 64), (60, 40), (40, 60)], max_boxes=1)
  shapes = [
    pad.map(example([], height, width))['image'].shape[:2]
    for height, width in [(40, 60), (30, 50), (50, 40), (50, 50), (61, 5)]
  ]
  assert shapes == [(40, 60), (40, 60), (60, 40), (64, 64), (64, 64)]
  with pytest.raises(UserError, match=r'hold an image of 65x5: resize first'):
    pad.map(example([], 65, 5))


def test_more_objects_than_places_are_an_error():
  with pytest.raises(BadRecordError, match='id 7 has 3 objects: more than max_boxes=2'):
    boxes.Pad([(40, 60)], max_boxes=2).map(example([(0, 0, 9, 9)] * 3))


def test_normalized_boxes_do_not_depend_on_the_padding():
  given = example([(15, 10, 45, 40)])
  want = [[0.5, 0.625, 0.5, 0.75]]
  np.testing.assert_allclose(boxes.Normalize().map(given)['boxes'], want)
  padded = boxes.Normalize().map(boxes.Pad([(99, 99)], 2).map(given))['boxes']
  np.testing.assert_allclose(padded, [*want, [0, 0, 0, 0]])
  assert padded.dtype == np.float32


def test_transforms_can_be_pickled():
  crop = boxes.RandomSizeCrop(10, 20)
  policy = boxes.Either([boxes.Flip(), boxes.ResizeShort(50)], [crop])
  copy = pickle.loads(pickle.dumps(policy))
  given = example([(5, 3, 20, 30)])
  for seed in range(4):
    first, second = (
      p.random_map(given, np.random.default_rng(seed)) for p in (policy, copy)
    )
    for name in given:
      np.testing.assert_array_equal(first[name], second[name])
  np.testing.assert_array_equal(given['boxes'], [[5, 3, 20, 30]])  # unchanged


@pytest.mark.parametrize(
  'size, scale', [((50, 80), 1.0), ((40, 99), 1.0), ((20, 40), 0.5)]
)
def test_padded_examples_fit_into_another_shape(size, scale):
  given = example([(5, 3, 20, 30), (0, 0, 60, 40)])
  got = boxes.fitted(boxes.Pad([(64, 64)], max_boxes=3).map(given), *size)
  small = boxes.resize(given, int(40 * scale), int(60 * scale))
  want = boxes.Pad([size], max_boxes=3).map(small)
  assert got.keys() == want.keys()
  for name in want:
    np.testing.assert_array_equal(got[name], want[name])


# Segments


def masks_of(example, count=None):
  """Returns the masks (N, H, W) of all objects, or of the first `count`."""
  count = len(example['boxes']) if count is None else count
  numbers = np.arange(1, count + 1)[:, None, None]
  return example['segment_map'][None] == numbers


@hypothesis.settings(max_examples=60, deadline=None, derandomize=True)
@hypothesis.given(rectangles(), st.lists(STEPS, max_size=4), st.integers(0, 99))
def test_segments_follow_masks_that_do_not_overlap(rectangles, steps, seed):
  given = example(rectangles)
  segments = np.zeros((40, 60), np.uint8)
  for i, mask in enumerate(given['masks'], start=1):
    segments[mask > 0] = i
  given['masks'] = np.array(
    [segments == i for i in range(1, len(rectangles) + 1)], np.uint8
  ).reshape(-1, 40, 60)
  got = given | {'segment_map': segments}
  rng = np.random.default_rng(seed)
  for step in steps:
    if isinstance(step, boxes.RandomSizeCrop) and min(got['image'].shape[:2]) < 20:
      continue
    got = compose.applied([step], got, rng)
  want = got.pop('masks')
  assert got['segment_map'].dtype == np.uint8
  np.testing.assert_array_equal(masks_of(got), want)
  padded = boxes.Pad([(130, 130)], max_boxes=4).map(got)
  height, width = got['image'].shape[:2]
  np.testing.assert_array_equal(masks_of(padded)[:, :height, :width], masks_of(got, 4))
  assert padded['segment_map'].sum() == got['segment_map'].sum()


def encoded(example):
  """Returns the example as TFDS gives it: a dict of lists, not a list of dicts."""
  example = dict(example)
  for name in ('objects', 'panoptic_objects'):
    keys = example[name][0]
    example[name] = {key: [o[key] for o in example[name]] for key in keys}
  for name in ('image', 'panoptic_image'):
    example[name] = drawing.png(example[name])
  return example


def test_panoptic_maps_become_segments():
  config = scenes.ScenesConfig(name='here')
  for index in range(5):
    scene = scenes.draw(config, 'train', index)
    got = boxes.Panoptic(crowds=True).map(image.Decode().map(encoded(scene)))
    listed = scene['panoptic_objects']
    assert len(got['boxes']) == len(listed) and got['dropped'] == 0
    assert got['image_id'] == index
    np.testing.assert_array_equal(got['original_size'], np.array([96, 128], np.int32))
    things = len(scene['objects'])
    ids = scene['segmentation'][..., 0]
    np.testing.assert_array_equal(
      np.where(got['segment_map'] <= things, got['segment_map'], 0), ids
    )
    for i, segment in enumerate(listed):
      mask = got['segment_map'] == i + 1
      np.testing.assert_allclose(tight(mask), got['boxes'][i], atol=1e-4)
      assert got['area'][i] == mask.sum()
      assert got['box_labels'][i] == segment['label']
      assert got['crowd'][i] == segment['is_crowd']
    np.testing.assert_array_equal(masks_of(got).sum(axis=(1, 2)), got['area'])


def test_panoptic_maps_that_are_wrong_are_bad_records():
  given = image.Decode().map(
    encoded(scenes.draw(scenes.ScenesConfig(name='a'), 'train', 0))
  )
  objects = given['panoptic_objects']
  less = {key: values[1:] for key, values in objects.items()}
  with pytest.raises(
    BadRecordError, match=r'id 0 shows segment \d+, which is not among'
  ):
    boxes.Panoptic().map(given | {'panoptic_objects': less})
  small = drawing.png(np.zeros((4, 5, 3), np.uint8))
  with pytest.raises(
    BadRecordError, match='a panoptic image of 4x5, but an image of 96x'
  ):
    boxes.Panoptic().map(given | {'panoptic_image': small})
  with pytest.raises(BadRecordError, match='panoptic image of .* cannot be decoded'):
    boxes.Panoptic().map(given | {'panoptic_image': b'none'})


def test_truth_of_panoptic_evaluation():
  scene = scenes.draw(scenes.ScenesConfig(name='here'), 'train', 1)
  given = boxes.Panoptic(crowds=True).map(image.Decode().map(encoded(scene)))
  got = boxes.PanopticTruth(size=(100, 140), max_segments=20).map(given)
  assert got['panoptic'].shape == (100, 140) and got['panoptic'].dtype == np.uint8
  assert got['segments'].shape == (20, 3) and got['segments'].dtype == np.int32
  red, green, blue = np.moveaxis(scene['panoptic_image'].astype(int), -1, 0)
  names = red + 256 * green + 65536 * blue
  for row, segment in zip(got['segments'], scene['panoptic_objects'], strict=False):
    number, label, crowd = row.tolist()
    assert (label, crowd) == (segment['label'], segment['is_crowd'])
    np.testing.assert_array_equal(
      got['panoptic'][:96, :128] == number, names == segment['id']
    )
  assert not got['segments'][len(scene['panoptic_objects']) :].any()
  assert not got['panoptic'][96:].any() and not got['panoptic'][:, 128:].any()
  with pytest.raises(BadRecordError, match='segments: more than max_segments=2; raise'):
    boxes.PanopticTruth(size=(100, 140), max_segments=2).map(given)
  with pytest.raises(UserError, match=r'size=\(90, 140\)\) cannot hold .* 96x128'):
    boxes.PanopticTruth(size=(90, 140), max_segments=20).map(given)


def test_crowds_are_segments_unless_marked():
  given = image.Decode().map(fake.Fake('coco/2017_panoptic')[3])
  assert any(given['panoptic_objects']['is_crowd'])
  plain, marked = boxes.Panoptic().map(given), boxes.Panoptic(crowds=True).map(given)
  assert 'crowd' not in plain and marked['crowd'].any()
  assert plain['box_labels'].tolist() == marked['box_labels'].tolist()
  count = len(plain['boxes'])
  for got, want in (plain, count), (marked, count - marked['crowd'].sum()):
    assert boxes.Pad([(120, 120)], 20).map(got)['box_mask'].sum() == want


# DETR


def published_size(width, height, size, longest=None):
  """Returns width and height by the published code, in Pillow's order."""
  if longest is not None:
    low, high = float(min(width, height)), float(max(width, height))
    if high / low * size > longest:
      size = int(round(longest * low / high))
  if min(width, height) == size:
    return width, height
  if width < height:
    return size, int(size * height / width)
  return int(size * width / height), size


SIDES = [480, 512, 544, 576, 608, 640, 672, 704, 736, 768, 800]


@pytest.mark.parametrize('width, height', [(640, 427), (333, 500), (612, 612)])
def test_detr_augmentation(width, height):
  """Checks which draws occur, and the sizes and positions that they lead to."""
  transforms = build(benchmarks.detr_augmentation())
  rng = np.random.default_rng(0)
  drawn = []
  for _ in range(800):
    steps, size = [], (height, width)
    for transform in transforms:
      steps += transform.steps(*size, rng)
      size = boxes.size_after(steps, height, width)
    drawn.append([(step.func.__name__, step.keywords) for step in steps])
  flipped = [steps[0][0] == 'flip' for steps in drawn]
  rest = [
    steps[1:] if turned else steps for turned, steps in zip(flipped, drawn, strict=True)
  ]
  plain = [steps for steps in rest if len(steps) == 1]
  cropped = [steps for steps in rest if len(steps) == 3]
  assert len(plain) + len(cropped) == len(drawn)
  for share in np.mean(flipped), len(plain) / len(drawn):
    assert 0.44 < share < 0.56

  def of(step):
    return step[1]['width'], step[1]['height']

  assert {of(steps[0]) for steps in plain} == {
    published_size(width, height, size, 1333) for size in SIDES
  }
  middle = {published_size(width, height, size) for size in (400, 500, 600)}
  assert {of(steps[0]) for steps in cropped} == middle
  for first, crop, last in cropped:
    assert (first[0], crop[0], last[0]) == ('resize', 'crop', 'resize')
    for side, whole in zip(of(crop), of(first), strict=True):
      assert 384 <= side <= min(whole, 600)
    assert 0 <= crop[1]['top'] <= of(first)[1] - of(crop)[1]
    assert 0 <= crop[1]['left'] <= of(first)[0] - of(crop)[0]
    assert of(last) in {published_size(*of(crop), size, 1333) for size in SIDES}
  sides = [of(steps[1])[0] for steps in cropped if of(steps[0])[0] >= 600]
  assert min(sides) < 395 and max(sides) > 590 and 480 < np.mean(sides) < 504


@pytest.mark.parametrize('seed', range(8))
def test_detr_augmentation_of_pixels_and_boxes(seed):
  rng = np.random.default_rng(seed)
  picture = rng.integers(0, 256, (427, 640, 3), dtype=np.uint8)
  corners = np.sort(rng.uniform(0, 1, (6, 2, 2)), axis=1) * [640, 427]
  given = {
    'image': picture,
    'boxes': corners.reshape(6, 4).astype(np.float32),
    'box_labels': np.arange(6, dtype=np.int32),
    'dropped': np.int32(0),
  }
  transforms = build(benchmarks.detr_augmentation())
  got = compose.applied(transforms, given, np.random.default_rng(seed))
  # Repeats the same draws with Pillow and float64.
  rng, size, steps = np.random.default_rng(seed), (427, 640), []
  for transform in transforms:
    more = transform.steps(*size, rng)
    size, steps = boxes.size_after(more, *size), steps + more
  shown, xyxy, kept = Image.fromarray(picture), corners.reshape(6, 4), np.arange(6)
  for step in steps:
    options, (width, height) = step.keywords, shown.size
    if step.func.__name__ == 'flip':
      shown = shown.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
      xyxy = xyxy[:, [2, 1, 0, 3]] * [-1, 1, -1, 1] + [width, 0, width, 0]
    elif step.func.__name__ == 'resize':
      new = options['width'], options['height']
      shown = shown.resize(new, Image.Resampling.BILINEAR)
      xyxy = xyxy * (np.divide(new, (width, height)).tolist() * 2)
    else:
      left, top = options['left'], options['top']
      right, bottom = left + options['width'], top + options['height']
      shown = shown.crop((left, top, right, bottom))
      new = np.array(shown.size * 2)
      xyxy = np.clip(xyxy - [left, top, left, top], 0, new)
      whole = (xyxy[:, 2:] > xyxy[:, :2]).all(axis=1)
      xyxy, kept = xyxy[whole], kept[whole]
  assert got['image'].shape[:2] == size == shown.size[::-1]
  # The last bit may differ where OpenCV enlarges, and again where it enlarges twice.
  assert np.abs(got['image'].astype(int) - np.asarray(shown)).max() <= 2
  np.testing.assert_allclose(got['boxes'], xyxy, atol=2e-3)
  assert got['box_labels'].tolist() == kept.tolist()
  assert got['dropped'] == 6 - len(kept)


def test_either_takes_only_transforms_of_positions_or_sizes():
  with pytest.raises(UserError, match='Either cannot take Normalize, only transforms'):
    boxes.Either([boxes.Flip()], [boxes.Normalize()])
