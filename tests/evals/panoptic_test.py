import collections

import cv2
import found
import hypothesis
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import shapes
from hypothesis import strategies as st
from PIL import Image

from big_vision_like.data.input import pipeline
from big_vision_like.devices import mesh as meshes
from big_vision_like.errors import UserError
from big_vision_like.evals import panoptic

THINGS, CLASSES = 3, 5


# Panoptic quality


def drawn(rng, size=(12, 17), segments=4, crowd=False):
  """Draws a map of random rectangles on void; returns it with its segments."""
  ids, rows = np.zeros(size, np.int64), []
  for number in rng.permutation(50)[:segments] + 7:
    top, left = rng.integers(0, size[0] - 3), rng.integers(0, size[1] - 3)
    ids[top : top + rng.integers(2, 9), left : left + rng.integers(2, 9)] = number
    rows.append([number, rng.integers(CLASSES), 0])
  rows = [row for row in rows if (ids == row[0]).any()]
  if crowd and rows:
    rows[0][2] = 1
  return ids, np.array(rows, np.int64).reshape(-1, 3)


def in_words(true, segments, found, predicted):
  """Counts by the protocol of cocodataset/panopticapi, one pair at a time: (C, 4)."""
  result = np.zeros((CLASSES, 4))
  matched, crowds = set(), collections.defaultdict(list)
  for p, label in predicted:
    area = (found == p).sum()
    on_void = ((found == p) & (true == 0)).sum()
    for t, true_label, crowd in segments:
      shared = ((true == t) & (found == p)).sum()
      union = (true == t).sum() + area - shared - on_void
      if label == true_label and not crowd and shared / union > 0.5:
        result[label] += [1, 0, 0, shared / union]
        matched |= {('true', t), ('found', p)}
  for t, label, crowd in segments:
    if crowd:
      crowds[label].append(t)
    elif ('true', t) not in matched:
      result[label, 2] += 1
  for p, label in predicted:
    nothing = np.isin(true, [0, *crowds[label]]) & (found == p)
    if ('found', p) not in matched and nothing.sum() / (found == p).sum() <= 0.5:
      result[label, 1] += 1
  return result


@hypothesis.settings(max_examples=60, deadline=None)
@hypothesis.given(seed=st.integers(0, 9999), alike=st.booleans(), crowd=st.booleans())
def test_counts_match_pairs_one_by_one(seed, alike, crowd):
  rng = np.random.default_rng(seed)
  true, segments = drawn(rng, segments=rng.integers(0, 6), crowd=crowd)
  found, predicted = drawn(rng, segments=rng.integers(0, 6))
  if alike:  # the same segments, slightly shifted, with other ids
    found, predicted = 3 * np.roll(true, 1, axis=1), segments * [3, 1, 0]
  got = panoptic.counts(true, segments, found, predicted[:, :2], CLASSES)
  expected = in_words(true, segments, found, predicted[:, :2])
  np.testing.assert_allclose(got, expected, atol=1e-12)


def test_quality_is_the_mean_of_classes_that_are_there():
  counts = np.array([[2, 0, 0, 1.5], [0, 1, 1, 0], [0, 0, 0, 0], [1, 1, 0, 0.9]])
  got = panoptic.quality(counts, num_things=2)
  things, stuff = (0.75 + 0) / 2, 0.9 / 1.5
  assert got == pytest.approx(
    {
      'PQ': (0.75 + 0 + 0.6) / 3, 'SQ': (0.75 + 0 + 0.9) / 3, 'RQ': (1 + 2 / 3) / 3,
      'PQth': things, 'SQth': 0.375, 'RQth': 0.5,
      'PQst': stuff, 'SQst': 0.9, 'RQst': 2 / 3,
    }
  )  # fmt: skip
  assert panoptic.quality(counts[:3], num_things=3).keys() == {
    *('PQ', 'SQ', 'RQ', 'PQth', 'SQth', 'RQth')
  }


@pytest.mark.parametrize(
  'segments, message',
  [
    ([[1, 0, 0]], 'a pixel of the true map has the id 2, which none of the 1 segments'),
    ([[1, 0, 0], [2, 9, 0]], 'a true segment has the label 9, but there are 5 classes'),
  ],
)
def test_ids_and_labels_that_do_not_fit_are_reported(segments, message):
  ids = np.array([[0, 1], [2, 2]])
  with pytest.raises(UserError, match=message):
    panoptic.counts(ids, np.array(segments), ids * 0, np.zeros((0, 2), int), CLASSES)


# Segments of DETR


def scene(seed, queries=7, grid=(9, 13)):
  rng = np.random.default_rng(seed)
  logits = rng.normal(size=(queries, CLASSES + 1)).astype(np.float32)
  logits[np.arange(queries), rng.integers(CLASSES + 1, size=queries)] += 5
  masks = rng.normal(size=(queries, *grid)).astype(np.float32)
  masks = np.stack([cv2.GaussianBlur(mask, (0, 0), 1.5) for mask in masks])
  masks[rng.integers(queries)] -= 0.5  # a segment with few pixels
  return logits, masks


def step_by_step(logits, masks, size, shown, threshold, padded=None):
  """Merges segments from whole softmaxed masks; resizes with Pillow to a shown size."""
  probs = np.exp(logits) / np.exp(logits).sum(-1, keepdims=True)
  kept = [
    (int(p.argmax()), mask)
    for p, mask in zip(probs, masks, strict=True)
    if p.argmax() < CLASSES and p.max() > threshold
  ]

  def assigned(merge):
    resized = [cv2.resize(m, (padded or size)[::-1]) for _, m in kept]
    owner = np.stack(resized)[:, : size[0], : size[1]].argmax(0)
    if merge:
      for k, (label, _) in enumerate(kept):
        alike = [i for i, (other, _) in enumerate(kept) if other == label >= THINGS]
        owner[owner == k] = alike[0] if alike else k
    image = Image.fromarray(owner.astype(np.uint8))
    return np.asarray(image.resize(shown[::-1], Image.Resampling.NEAREST)).astype(int)

  if not kept:
    return np.zeros(shown), []
  owner = assigned(merge=True)
  while True:
    areas = [(owner == k).sum() for k in range(len(kept))]
    if min(areas) > 4:
      return owner + 1, [[k + 1, label] for k, (label, _) in enumerate(kept)]
    kept = [pair for pair, area in zip(kept, areas, strict=True) if area > 4]
    owner = assigned(merge=False)


@pytest.mark.parametrize('seed', range(12))
@pytest.mark.parametrize(
  'size, shown, padded',
  [
    ((36, 52), (36, 52), None),
    ((33, 50), (45, 29), None),
    ((36, 40), (15, 18), (36, 52)),
  ],
)
def test_segments_match_the_protocol_step_by_step(seed, size, shown, padded):
  logits, masks = scene(seed)
  threshold = 0.85 if seed % 2 else 0.5
  ids, segments = panoptic.segments_of(
    logits, masks, size, shown, THINGS, threshold, padded
  )
  expected, rows = step_by_step(logits, masks, size, shown, threshold, padded)
  np.testing.assert_array_equal(ids, expected)
  assert segments.tolist() == rows
  assert ids.dtype == segments.dtype == np.int32 and ids.shape == shown


def sharp(labels):
  return 20.0 * np.eye(CLASSES + 1, dtype=np.float32)[labels]


def test_stuff_is_joined_and_things_are_not():
  masks = np.eye(4, dtype=np.float32).reshape(4, 2, 2)
  ids, segments = panoptic.segments_of(sharp([4, 1, 1, 4]), masks, (6, 6), (6, 6), 3)
  assert segments.tolist() == [[1, 4], [2, 1], [3, 1]]
  # The joined segment is dropped; its pixels go to the best of the other segments.
  assert set(np.unique(ids[:3, 3:])) <= {1, 2, 3} and (ids[:2, :2] == 1).all()


def test_nothing_found_and_nothing_large_enough():
  masks = np.zeros((3, 2, 2), np.float32)
  for labels, shown in ([CLASSES] * 3, (5, 6)), ([0, 1, 2], (2, 2)):
    ids, segments = panoptic.segments_of(sharp(labels), masks, (8, 8), shown, 3)
    np.testing.assert_array_equal(ids, np.zeros(shown))
    assert segments.shape == (0, 2)


@hypothesis.settings(max_examples=60, deadline=None)
@hypothesis.given(old=st.integers(1, 400), new=st.integers(1, 400))
def test_the_nearest_pixel_matches_pillow(old, new):
  image = Image.fromarray(np.arange(old, dtype=np.int32)[None])
  expected = np.asarray(image.resize((new, 1), Image.Resampling.NEAREST))[0]
  np.testing.assert_array_equal(panoptic._nearest(old, new), expected)


# The evaluator

SIZE = (36, 52)


def source(images=5):
  """Returns maps of original images, and masks that approximate them."""
  rng = np.random.default_rng(0)
  examples = []
  for number in range(images):
    size = np.array([rng.integers(20, 33), rng.integers(30, 50)])
    original = size + rng.integers(0, 9, 2)
    ids, rows = drawn(rng, tuple(original), segments=4, crowd=number == 2)
    segments = np.zeros((6, 3), np.int32)
    segments[: len(rows)] = rows
    truth = np.zeros((45, 60), np.int32)
    truth[: original[0], : original[1]] = ids
    truth[original[0] :] = 99  # ignored padding
    masks = rng.normal(size=(7, 9, 13)).astype(np.float32)
    for query, row in enumerate(rows):
      there = cv2.resize((ids == row[0]).astype(np.float32), tuple(size[::-1].tolist()))
      whole = np.zeros(SIZE, np.float32)
      whole[: size[0], : size[1]] = there
      masks[query] = 6 * cv2.resize(whole, (13, 9), interpolation=cv2.INTER_AREA)
    labels = [*rows[:, 1], *[CLASSES] * 7][:6] + [4]
    examples.append(
      {
        'image': rng.integers(0, 255, (*SIZE, 3)).astype(np.uint8),
        'size': size.astype(np.int32),
        'original_size': original.astype(np.int32),
        'panoptic': truth,
        'segments': segments,
        'found_logits': sharp(labels),
        'found_masks': masks,
      }
    )
  return examples


def predict(state, batch, key):
  return {
    'logits': state * batch['found_logits'],
    'mask_logits': batch['found_masks'].astype(jnp.bfloat16),
  }


def evaluate(batch_size=5, devices=1, examples=None, **options):
  examples = source() if examples is None else examples
  data = pipeline.EvalInput(source=examples, batch_size=batch_size)
  mesh = meshes.make_mesh(devices=jax.devices()[:devices])
  evaluator = panoptic.PanopticQuality(data=data, num_things=THINGS, **options)
  return found.run(evaluator, predict, jnp.float32(1.0), mesh)


@pytest.fixture(scope='module')
def whole():
  return evaluate()


def test_results_match_images_one_by_one(whole):
  total = 0
  for e in source():
    size, shown = tuple(e['size'].tolist()), tuple(e['original_size'].tolist())
    masks = np.float32(jnp.bfloat16(e['found_masks']))
    found = step_by_step(e['found_logits'], masks, size, shown, 0.85, SIZE)
    truth = e['panoptic'][: shown[0], : shown[1]]
    total += in_words(truth, e['segments'][e['segments'][:, 0] > 0], *found)
  there = total[total.any(axis=1)]
  quality = there[:, 3] / (there[:, 0] + there[:, 1] / 2 + there[:, 2] / 2)
  assert whole['PQ'] == pytest.approx(quality.mean(), abs=1e-9)
  assert 0.1 < whole['PQ'] < 0.9
  assert {type(v) for k, v in whole.items() if k != 'panoptic'} == {float}


@pytest.mark.parametrize('batch_size, devices', [(3, 1), (8, 8)])
def test_neither_batches_nor_devices_matter(whole, batch_size, devices):
  got = evaluate(batch_size, devices)
  np.testing.assert_array_equal(got.pop('panoptic'), whole['panoptic'])
  assert got == {k: v for k, v in whole.items() if k != 'panoptic'}


def test_pictures_show_the_first_images(whole):
  assert whole['panoptic'].shape[0] == 4 and whole['panoptic'].dtype == np.uint8
  few = evaluate(2, pictures=3)['panoptic']
  height, width = few.shape[1:3]
  np.testing.assert_array_equal(few, whole['panoptic'][:3, :height, :width])
  assert 'panoptic' not in evaluate(pictures=0)


def test_the_threshold_matters():
  assert evaluate(threshold=0.999999999)['PQ'] == 0


@pytest.mark.parametrize(
  'change, message',
  [
    ({'segments': np.zeros((6, 3), np.int32), 'panoptic': np.zeros((45, 60), np.int32)},
     'no image of .* has a segment that is not a crowd'),
    ({'panoptic': np.zeros((20, 60), np.int32)}, r'`panoptic` is \[20, 60\], but i'),
  ],
)  # fmt: skip
def test_unusable_truth_is_reported(change, message):
  with pytest.raises(UserError, match=message):
    evaluate(examples=[e | change for e in source()])


def test_array_names_match_their_axes():
  with shapes.checked('big_vision_like/evals', 'big_vision_like/viz/detection') as seen:
    evaluate(5)
  assert {'masks_KHW', 'same_KK', 'shared_SP', 'label_P', 'counts_C4'} <= seen.keys()
