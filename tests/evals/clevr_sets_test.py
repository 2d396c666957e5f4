import math
import time

import found
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import shapes

from big_vision_like.data.input import pipeline
from big_vision_like.devices import mesh as meshes
from big_vision_like.errors import UserError
from big_vision_like.evals import clevr_sets

THRESHOLDS = (math.inf, 1.0, 0.5, 0.25, 0.125)
ATTRIBUTES = (2, 3)
PROPERTIES = 3 + sum(ATTRIBUTES) + 1


def one_by_one(predictions, targets, threshold, attributes):
  """Returns the average precision by the protocol, one detection at a time."""
  bounds = 3 + np.cumsum([0, *attributes])
  pairs = list(zip(bounds[:-1], bounds[1:], strict=True))

  def values(row):
    return [row[a:b].argmax() for a, b in pairs]

  detections = [
    (row[-1], number, image)
    for number, (image, row) in enumerate(
      (image, row) for image, rows in enumerate(predictions) for row in rows
    )
  ]
  rows = predictions.reshape(-1, predictions.shape[-1])
  claimed, right, curve = set(), 0, []
  detections.sort(key=lambda d: d[:2], reverse=True)
  total = sum(1 for image in targets for row in image if row[-1] > 0)
  for seen, (_, number, image) in enumerate(detections, start=1):
    candidates = [
      (math.dist(6.0 * rows[number][:3], 6.0 * target[:3]), index)
      for index, target in enumerate(targets[image])
      if target[-1] > 0 and values(target) == values(rows[number])
    ]
    distance, index = min(candidates, default=(math.inf, None))
    if distance < threshold and (image, index) not in claimed:
      claimed.add((image, index))
      right += 1
    curve.append((right / total, right / seen))
  area, recall_before = 0.0, 0.0
  for recall, _ in curve:
    best = max(p for r, p in curve if r >= recall)
    area += (recall - recall_before) * best
    recall_before = recall
  return area


def scenes(seed, images=12, slots=6, objects=5, noise=0.08):
  """Returns targets and predictions; several slots may find the same object."""
  rng = np.random.default_rng(seed)
  targets = np.zeros((images, objects, PROPERTIES), np.float32)
  targets[..., :3] = rng.random((images, objects, 3))
  first = 3
  for count in ATTRIBUTES:
    values = rng.integers(count, size=(images, objects))
    targets[..., first : first + count] = np.eye(count)[values]
    first += count
  targets[..., -1] = 1.0
  # Padding, also before objects.
  targets[rng.random((images, objects)) < 0.3] = 0.0
  source = rng.integers(objects, size=(images, slots, 1))
  predictions = np.take_along_axis(targets, source, axis=1)
  predictions = predictions + noise * rng.normal(size=predictions.shape)
  # Few values, so that many are equal.
  presence = rng.integers(0, 5, (images, slots)) / 4
  return np.concatenate([predictions[..., :-1], presence[..., None]], -1).astype(
    np.float32
  ), targets


@pytest.mark.parametrize('seed', range(6))
def test_average_precision_matches_detections_one_by_one(seed):
  predictions, targets = scenes(seed, noise=[0.02, 0.05, 0.1][seed % 3])
  found = clevr_sets.average_precisions(predictions, targets, THRESHOLDS, ATTRIBUTES)
  expected = [one_by_one(predictions, targets, t, ATTRIBUTES) for t in THRESHOLDS]
  np.testing.assert_allclose(found, expected, rtol=1e-6)
  assert 0 < found[2] < found[0] < 1


def objects(*rows):
  """Returns objects with x, the first attribute and presence; all else is equal."""
  array = np.zeros((len(rows), PROPERTIES), np.float32)
  for row, (x, attribute, presence) in zip(array, rows, strict=True):
    row[0], row[3 + attribute], row[5], row[-1] = x, 1.0, 1.0, presence
  return array[None]


@pytest.mark.parametrize(
  'found, true, expected',
  [
    ([(0.5, 0, 1)], [(0.5, 0, 1)], 1.0),
    ([(0.5, 1, 1)], [(0.5, 0, 1)], 0.0),  # another attribute
    ([(0.5, 0, 1)], [(0.5, 0, 0)] + [(0.5, 1, 1)], 0.0),  # an object that is padding
    ([(0.5, 0, 1), (0.9, 0, 0.5)], [(0.5, 0, 1), (0.9, 0, 1)], 1.0),
    ([(0.5, 0, 1)], [(0.5, 0, 1), (0.9, 0, 1)], 0.5),  # finds one of two
    ([(0.5, 0, 0.9), (0.5, 1, 1)], [(0.5, 0, 1)], 0.5),  # after a wrong detection
    ([(0.5, 0, 1), (0.5, 1, 0.9)], [(0.5, 0, 1)], 1.0),  # before a wrong detection
    # The nearest object has already been found; the second nearest is not tried.
    ([(0.5, 0, 1), (0.51, 0, 0.9)], [(0.5, 0, 1), (0.53, 0, 1)], 0.5),
    # With equal presence, the last detection comes first.
    ([(0.5, 0, 1), (0.5, 1, 1)], [(0.5, 0, 1)], 0.5),
    ([(0.5, 1, 1), (0.5, 0, 1)], [(0.5, 0, 1)], 1.0),
    # 6 (0.5 - 0.25) = 1.5 is not nearer than 1.5
    ([(0.5, 0, 1)], [(0.25, 0, 1)], 0.0),
    ([(0.5, 0, 1)], [(0.2501, 0, 1)], 1.0),
  ],
)
def test_by_hand(found, true, expected):
  got = clevr_sets.average_precisions(
    objects(*found), objects(*true), [1.5], ATTRIBUTES
  )
  np.testing.assert_allclose(got, [expected])


def test_the_whole_of_clevr_takes_seconds():
  rng = np.random.default_rng(0)
  predictions = rng.random((15_000, 10, 19), np.float32)
  targets = np.tile(predictions[:, ::2], (1, 2, 1))
  started = time.perf_counter()
  clevr_sets.average_precisions(predictions, targets, THRESHOLDS)
  assert time.perf_counter() - started < 10


def test_array_names_match_their_axes():
  predictions, targets = scenes(0, images=7)
  with shapes.checked('big_vision_like/evals') as seen:
    clevr_sets.average_precisions(predictions, targets, THRESHOLDS, ATTRIBUTES)
  assert {'distance_NSO', 'object_D', 'right_D'} <= seen.keys()


def source():
  predictions, targets = scenes(0, images=7)
  rng = np.random.default_rng(1)
  return [
    {
      'image': rng.uniform(-1, 1, (8, 6, 3)).astype(np.float32),
      'found': found,
      'targets': target,
    }
    for found, target in zip(predictions, targets, strict=True)
  ]


def predict(state, batch, key, num_slots=6, iterations=2):
  """Predicts `found` of the batch; `huber` is the noise, so that tests can see it."""
  batch_size = len(batch['image'])
  logits_BS = jnp.sin(jnp.arange(num_slots)[None] + 10 * batch['image'][:, 0, 0, :1])
  shape = batch_size, iterations, num_slots, 4, 3
  logits = jnp.broadcast_to(logits_BS[:, None, :, None, None], shape)
  return {
    'image': batch['image'],
    'predictions': batch['found'][:, :num_slots],
    'attention': jax.nn.softmax(3 * logits, axis=2),
    'huber': state + jax.random.normal(key, (batch_size,)),
  }


def evaluate(batch_size=7, devices=1, examples=None, **options):
  examples = source() if examples is None else examples
  data = pipeline.EvalInput(source=examples, batch_size=batch_size)
  mesh = meshes.make_mesh(devices=jax.devices()[:devices])
  options = {'attributes': ATTRIBUTES, **options}
  evaluator = clevr_sets.AveragePrecision(data=data, **options)
  return found.run(evaluator, predict, jnp.float32(3.0), mesh)


def precisions(results):
  return {k: v for k, v in results.items() if k.startswith('ap_')}


@pytest.fixture(scope='module')
def whole():
  return evaluate()


def test_results(whole):
  predictions, targets = scenes(0, images=7)
  expected = [one_by_one(predictions, targets, t, ATTRIBUTES) for t in THRESHOLDS]
  names = ['ap_inf', 'ap_1', 'ap_0.5', 'ap_0.25', 'ap_0.125']
  assert whole.keys() == {*names, 'huber', 'attention'}
  assert [whole[name] for name in names] == pytest.approx(expected, rel=1e-6)
  assert all(type(whole[name]) is float for name in [*names, 'huber'])
  key = jax.random.fold_in(jax.random.key(0), 0)
  noise = jax.random.normal(key, (7,))
  assert whole['huber'] == pytest.approx(3 + float(noise.mean()), rel=1e-5)


@pytest.mark.parametrize('batch_size, devices', [(3, 1), (8, 8)])
def test_neither_batches_nor_devices_matter(whole, batch_size, devices):
  got = evaluate(batch_size, devices)
  assert precisions(got) == precisions(whole)
  np.testing.assert_array_equal(got['attention'], whole['attention'])


def test_slots_iterations_and_thresholds_can_be_others(whole):
  got = evaluate(predict_args=dict(num_slots=2, iterations=1), thresholds=[2.0])
  assert got.keys() == {'ap_2', 'huber', 'attention'}
  assert got['ap_2'] < whole['ap_1']
  # One block instead of two, two slots instead of six.
  assert got['attention'].shape[1] < 0.6 * whole['attention'].shape[1]
  assert got['attention'].shape[2] < 0.6 * whole['attention'].shape[2]


def test_pictures_show_the_first_images(whole):
  assert whole['attention'].shape[0] == 4 and whole['attention'].dtype == np.uint8
  few = evaluate(2, pictures=3)['attention']
  np.testing.assert_array_equal(few, whole['attention'][:3])
  more = evaluate(2, pictures=99)['attention']
  assert len({sheet.tobytes() for sheet in more}) == len(more) == 7
  assert 'attention' not in evaluate(pictures=0)


def test_data_without_any_object_is_reported():
  examples = [e | {'targets': np.zeros_like(e['targets'])} for e in source()]
  with pytest.raises(UserError, match='no image of .* shows an object'):
    evaluate(examples=examples)


def test_properties_that_do_not_fit_are_reported():
  with pytest.raises(UserError, match=r'\[7, 6, 9\].*are 19 prop.*`attributes`'):
    evaluate(attributes=(2, 2, 3, 8))
  predictions, targets = scenes(0)
  with pytest.raises(UserError, match=r'`targets` is \[12, 5, 8\].* are 9 properties'):
    clevr_sets.average_precisions(predictions, targets[..., 1:], THRESHOLDS, ATTRIBUTES)
