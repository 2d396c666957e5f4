import contextlib
import io
import json
from unittest import mock

import found
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import shapes
from pycocotools import coco, cocoeval

from big_vision_like.data.input import pipeline
from big_vision_like.data.sources import coco_classes, coco_json
from big_vision_like.devices import mesh as meshes
from big_vision_like.errors import UserError
from big_vision_like.evals import detection

SIZE = (24, 40)  # size of padded images
ROWS, QUERIES = 4, 6


def source(images=7):
  """Returns images of several sizes, with objects, crowds and detections."""
  rng = np.random.default_rng(0)
  examples = []
  for number in range(images):
    size = np.array([rng.integers(16, SIZE[0]), rng.integers(30, SIZE[1])])
    low = rng.uniform(0, 0.5, (ROWS, 2)) * size[::-1]
    boxes = np.concatenate(
      [low, low + rng.uniform(0.2, 0.5, (ROWS, 2)) * size[::-1]], -1
    )
    boxes = boxes.astype(np.float32)
    there = np.arange(ROWS) < number % (ROWS + 1)
    labels = rng.integers(0, 3, ROWS)
    of = rng.integers(0, ROWS, QUERIES)
    noise = rng.normal(size=(QUERIES, 4)) * rng.choice([0.2, 2.0], (QUERIES, 1))
    original = np.array([2, 3]) * size
    scale = np.array([3, 2, 3, 2], np.float32)
    examples.append(
      {
        'image': rng.integers(0, 255, (*SIZE, 3)).astype(np.uint8),
        'size': size.astype(np.int32),
        'original_size': original.astype(np.int32),
        'image_id': np.int32(100 + 3 * number),
        'boxes': boxes,
        'box_labels': labels.astype(np.int32),
        'box_mask': there & (np.arange(ROWS) != 2),
        'crowd': there & (np.arange(ROWS) == 2),
        'found_boxes': ((boxes[of] + noise) * scale).astype(np.float32),
        'found_labels': np.where(rng.random(QUERIES) < 0.8, labels[of], 1).astype(
          np.int32
        ),
        # Few values, so that many are equal.
        'found_scores': (rng.integers(1, 5, QUERIES) / 4).astype(np.float32),
      }
    )
  return examples


def predict(state, batch, key):
  return {
    'scores': batch['found_scores'] * state,
    'labels': batch['found_labels'],
    'boxes_xyxy': batch['found_boxes'],
  }


def evaluate(batch_size=7, devices=1, examples=None, **options):
  examples = source() if examples is None else examples
  data = pipeline.EvalInput(source=examples, batch_size=batch_size)
  mesh = meshes.make_mesh(devices=jax.devices()[:devices])
  evaluator = detection.CocoAP(data=data, **options)
  return found.run(evaluator, predict, jnp.float32(1.0), mesh)


def truth(examples, ids=tuple(range(91))):
  """Returns the objects of examples in COCO's format, in pixels of original images."""
  annotations = []
  for e in examples:
    scale = (e['original_size'] / e['size'])[::-1]
    for k in (e['box_mask'] | e['crowd']).nonzero()[0].tolist():
      low, high = e['boxes'][k, :2] * scale, e['boxes'][k, 2:] * scale
      annotations.append(
        {
          'id': len(annotations) + 1,
          'image_id': int(e['image_id']),
          'category_id': ids[e['box_labels'][k]],
          'bbox': [*low.tolist(), *(high - low).tolist()],
          'area': float(np.prod(high - low)),
          'iscrowd': int(e['crowd'][k]),
        }
      )
  return {
    'images': [{'id': int(e['image_id'])} for e in examples],
    'categories': [{'id': i, 'name': f'class {i}'} for i in ids[:3]],
    'annotations': annotations,
  }


def as_users_do(truth_file, found_file, images=None):
  """Evaluates two files as users of pycocotools do."""
  with contextlib.redirect_stdout(io.StringIO()):
    true = coco.COCO(truth_file)
    measured = cocoeval.COCOeval(true, true.loadRes(str(found_file)), 'bbox')
    if images is not None:
      measured.params.imgIds = images
    measured.evaluate()
    measured.accumulate()
    measured.summarize()
  names = 'AP AP50 AP75 APs APm APl AR1 AR10 AR100 ARs ARm ARl'.split()
  return {k: v for k, v in zip(names, measured.stats.tolist(), strict=True) if v >= 0}


def scalars(results):
  return {name: value for name, value in results.items() if name != 'boxes'}


@pytest.fixture(scope='module')
def whole():
  return evaluate()


def write(folder, value):
  path = folder / 'truth.json'
  path.write_text(json.dumps(value))
  return str(path)


@pytest.mark.parametrize('ids', [None, coco_classes.IDS])
def test_results_match_pycocotools_on_the_saved_file(tmp_path, capsys, ids):
  file = tmp_path / 'made' / 'found.json'
  got = evaluate(categories=ids, save=str(file), pictures=0)
  assert capsys.readouterr().out == ''
  expected = as_users_do(write(tmp_path, truth(source(), ids or range(91))), file)
  assert got == pytest.approx(expected, abs=1e-6)
  assert 0.1 < got['AP'] < got['AP50'] < 1 and all(
    type(v) is float for v in got.values()
  )
  found = json.loads(file.read_text())
  assert len(found) == 7 * QUERIES
  first = source()[0]
  left, top, right, bottom = first['found_boxes'][0].tolist()
  assert found[0] == {
    'image_id': 100,
    'category_id': (ids or range(91))[first['found_labels'][0]],
    'bbox': [left, top, right - left, bottom - top],
    'score': first['found_scores'][0],
  }
  assert [path.name for path in file.parent.iterdir()] == ['found.json']


@pytest.mark.parametrize('batch_size, devices', [(3, 1), (8, 8)])
def test_neither_batches_nor_devices_matter(whole, batch_size, devices):
  got = evaluate(batch_size, devices)
  assert scalars(got) == scalars(whole)
  np.testing.assert_array_equal(got['boxes'], whole['boxes'])


def test_truth_may_be_a_file_of_more_images(whole, tmp_path):
  path = write(tmp_path, truth(source(images=9)))
  wanted = ('image', 'size', 'original_size', 'image_id')
  examples = [
    {k: v for k, v in e.items() if k in wanted or k.startswith('found')}
    for e in source()
  ]
  assert detection.CocoAP(data=None, annotations=path).needs == ('image_id',)
  got = evaluate(examples=examples, annotations=path)
  assert scalars(got) == pytest.approx(scalars(whole), abs=1e-6)
  # The class names come from the file.
  assert got['boxes'].shape == whole['boxes'].shape
  assert not np.array_equal(got['boxes'], whole['boxes'])
  named = evaluate(names=[f'class {i}' for i in range(3)])
  np.testing.assert_array_equal(named['boxes'], got['boxes'])


def test_one_process_writes(tmp_path):
  with mock.patch.object(jax, 'process_index', lambda: 1):
    evaluate(save=str(tmp_path / 'found.json'), pictures=0)
  assert list(tmp_path.iterdir()) == []


def test_areas_may_be_given():
  examples = [e | {'area': np.full(ROWS, 1000.0, np.float32)} for e in source()]
  assert detection.CocoAP(data=None).needs[0] == 'image_id'
  got = evaluate(examples=examples, pictures=0)
  assert {'APs', 'APl', 'ARs', 'ARl'} & got.keys() == {'APs', 'ARs'}
  examples = [e | {'area': np.full(ROWS, 1e5, np.float32)} for e in source()]
  assert {'APm', 'APl'} & evaluate(examples=examples).keys() == {'APl'}


def objects(*rows):
  """Returns entries of image 1 and category 1, squares of 10 pixels at these places."""
  return [
    {'image_id': 1, 'category_id': 1, 'bbox': [x, 0, 10, 10], **more}
    for x, more in rows
  ]


@pytest.mark.parametrize(
  'true, found, expected',
  [
    ([(0, {})], [(0, {'score': 0.1})], 1.0),
    ([(0, {})], [(6, {'score': 0.9})], 0.0),
    ([(0, {})], [(20, {'score': 0.9}), (0, {'score': 0.5})], 0.5),
    (
      [(0, {})],
      [(0, {'score': 0.5}), (20, {'score': 0.5})],
      1.0,
    ),  # the first scores higher
    ([(0, {}), (20, {})], [(0, {'score': 0.5})], 51 / 101),
    ([(0, {}), (20, {'iscrowd': 1})], [(20, {'score': 0.9}), (0, {'score': 0.5})], 1.0),
    ([(0, {})], [(0, {'score': 0.5}), (0, {'score': 0.9, 'image_id': 2})], 1.0),
    ([(0, {})], [], 0.0),
  ],
)
def test_by_hand(true, found, expected):
  truth = {
    'images': [{'id': 1}, {'id': 2}],
    'categories': [{'id': 1}],
    'annotations': [e | {'id': i} for i, e in enumerate(objects(*true))],
  }
  before = json.dumps(truth)
  measured = detection.evaluated(truth, objects(*found), [1])
  np.testing.assert_allclose(measured.stats[1], expected, atol=1e-6)
  assert json.dumps(truth) == before


def test_pictures_show_the_first_images(whole):
  assert whole['boxes'].shape[0] == 4 and whole['boxes'].dtype == np.uint8
  few = evaluate(2, pictures=3)['boxes']
  height, width = few.shape[1:3]
  np.testing.assert_array_equal(few, whole['boxes'][:3, :height, :width])
  assert len({sheet.tobytes() for sheet in evaluate(2, pictures=99)['boxes']}) == 7
  assert 'boxes' not in evaluate(pictures=0)
  assert not np.array_equal(evaluate(shown=0.9)['boxes'], whole['boxes'])


def test_true_and_found_boxes_are_drawn_in_place():
  [example] = source(1)
  box = np.float32([4, 5, 14, 15])
  example |= {
    'image': np.full((*SIZE, 3), 128, np.uint8),
    'box_mask': np.arange(ROWS) == 0,
    'crowd': np.zeros(ROWS, bool),
    'boxes': np.tile(box, (ROWS, 1)),
    'found_boxes': np.tile(box * [3, 2, 3, 2], (QUERIES, 1)).astype(np.float32),
    'found_labels': example['box_labels'][:1].repeat(QUERIES),
    'found_scores': np.float32([0.9] + [0.1] * (QUERIES - 1)),
  }
  got = evaluate(1, examples=[example])
  assert got['AP'] == pytest.approx(1.0)
  height, width = example['size']
  factor = 480 // width
  left = got['boxes'][0, : height * factor, : width * factor]
  right = got['boxes'][0, : height * factor, width * factor + 2 :]
  for half in (left, right):
    drawn = (half != 128).any(-1)
    # The right and the lower side, which no tag covers.
    assert drawn[:, 14 * factor - 1].sum() == 10 * factor
    assert drawn[15 * factor - 1].sum() == 10 * factor
  assert not np.array_equal(left, right)  # one has a score


@pytest.mark.parametrize(
  'change, options, message',
  [
    ({'box_mask': np.zeros(ROWS, bool)}, {}, 'none of 7 images shows an object'),
    ({'image_id': np.int32(5)}, {}, 'several images of .* have the `image_id` 5'),
    ({'box_labels': np.full(ROWS, 80, np.int32)}, {'categories': coco_classes.IDS},
     'a true label is 80, but `categories` has only 80 ids'),
    ({'found_labels': np.full(QUERIES, -1, np.int32)}, {'categories': [3, 4, 5]},
     'a predicted label is -1'),
    ({'found_scores': np.full(QUERIES, np.nan, np.float32)}, {},
     'predicted for the image 100 are not finite'),
  ],
)  # fmt: skip
def test_unusable_inputs_are_reported(change, options, message):
  with pytest.raises(UserError, match=message):
    evaluate(examples=[e | change for e in source()], **options)


def test_images_missing_from_the_annotations_are_reported(tmp_path):
  path = write(tmp_path, truth(source(3)))
  with pytest.raises(UserError, match='image with `image_id` 109 is not in the annota'):
    evaluate(annotations=path)


@pytest.mark.parametrize(
  'place, value, message',
  [
    (('images', 2), {}, r"images\[2\] \(id unknown\): 'id' is missing, not a whole"),
    (('annotations', 3), 'a', r"annotations\[3\] is 'a', not an object"),
    (('annotations', 3, 'image_id'), 1, r'annotations\[3\] has image_id=1, which is'),
    (
      ('annotations', 3, 'category_id'),
      None,
      r'\[3\] has category_id=None.*categories',
    ),
    (('annotations', 3, 'bbox'), [1, 2, 3], r'\[3\] has bbox=\[1, 2, 3\]'),
    (('annotations', 3, 'bbox'), [1, 2, 3, -4], r'\[3\] has bbox=\[1, 2, 3, -4\]'),
    (('annotations', 3, 'bbox'), [1, 2, 3, float('nan')], r'\[3\] has bbox=.*nan'),
    (('annotations', 3, 'area'), 'big', r"\[3\] has .*area='big'"),
    (('annotations', 3, 'iscrowd'), 7, r'\[3\] has iscrowd=7'),
  ],
)
def test_a_malformed_file_names_the_entry(tmp_path, place, value, message):
  malformed = node = truth(source())
  for key in place[:-1]:
    node = node[key]
  node[place[-1]] = value
  with pytest.raises(UserError, match=message):
    coco_json.read_strictly(write(tmp_path, malformed))


def test_a_file_that_is_not_json_is_reported(tmp_path):
  annotations = str(tmp_path / 'truth.json')
  [problem] = detection.CocoAP(data=None, annotations=annotations).problems()
  assert 'truth.json cannot be read' in problem


def test_a_missing_pycocotools_is_reported_with_the_command():
  with mock.patch.object(detection.importlib.util, 'find_spec', lambda name: None):
    assert detection.CocoAP(data=None).problems() == [detection.NO_PYCOCOTOOLS]
  with mock.patch.dict('sys.modules', {'pycocotools': None}):
    with pytest.raises(UserError, match=r"install -e '\.\[detection\]'"):
      evaluate()


def test_array_names_match_their_axes():
  with shapes.checked('big_vision_like/evals', 'big_vision_like/viz/detection') as seen:
    evaluate(7)
  assert {'boxes_BK4', 'ratio_B4', 'image_BQ', 'there_BK', 'size_B2'} <= seen.keys()


def overlap(one, other, crowd=False):
  """Returns the IoU of boxes xywh; with a crowd, the share of the first inside it."""
  low = np.maximum(one[:2], other[:2])
  high = np.minimum(np.add(one[:2], one[2:]), np.add(other[:2], other[2:]))
  both = np.prod(np.maximum(high - low, 0))
  areas = np.prod(one[2:]), np.prod(other[2:])
  return both / (areas[0] if crowd else sum(areas) - both)


def counted(true, found, shown):
  """Counts right, wrong and missed boxes, box by box; sums the right ones' IoUs."""
  right, wrong, ious, taken = 0, 0, 0.0, set()
  for e in sorted(found, key=lambda e: -e['score']):
    # pycocotools leaves the results for boxes with a negative side undefined.
    if e['score'] < shown or np.prod(e['bbox'][2:]) < 0:
      continue
    same = [t for t in true if t['category_id'] == e['category_id']]
    free = [t for t in same if not t['iscrowd'] and t['id'] not in taken]
    best = max(free, key=lambda t: overlap(e['bbox'], t['bbox']), default=None)
    crowds = [t['bbox'] for t in same if t['iscrowd']]
    if best and overlap(e['bbox'], best['bbox']) >= 0.5:
      right, ious = right + 1, ious + overlap(e['bbox'], best['bbox'])
      taken.add(best['id'])
    elif not any(overlap(e['bbox'], crowd, crowd=True) >= 0.5 for crowd in crowds):
      wrong += 1
  return right, wrong, sum(not t['iscrowd'] for t in true) - right, ious


@pytest.mark.parametrize('shown', [0.5, 0.8])
def test_agreement_of_images(tmp_path, shown):
  file = tmp_path / 'found.json'
  evaluate(save=str(file), pictures=0, examples=source(20))
  true, found = truth(source(20)), json.loads(file.read_text())
  ids = [e['image_id'] for e in source(20)][::-1]  # the order is arbitrary
  got = detection.agreement(detection.evaluated(true, found, ids), ids, shown)
  expected = [
    counted(
      [e for e in true['annotations'] if e['image_id'] == number],
      [e for e in found if e['image_id'] == number],
      shown,
    )
    for number in ids
  ]
  right, wrong, missed, ious = np.array(expected).T
  assert right.sum() > 5 and wrong.sum() > 5 and missed.sum() > 5
  np.testing.assert_array_equal(got['right'], right)
  np.testing.assert_array_equal(got['wrong'], wrong)
  np.testing.assert_array_equal(got['missed'], missed)
  whole = right + wrong / 2 + missed / 2
  quality = np.where(whole > 0, ious / np.maximum(whole, 0.5), np.nan)
  np.testing.assert_allclose(got['quality'], quality, rtol=1e-6)


def test_where_nothing_is_nothing_can_be_said():
  box = {'category_id': 1, 'bbox': [1.0, 2.0, 5.0, 5.0]}
  true = {
    'images': [{'id': 1}, {'id': 2}, {'id': 3}],
    'categories': [{'id': 1}, {'id': 7}],
    'annotations': [{'image_id': 1, **box}],
  }
  found = [
    {'image_id': 2, 'score': 0.4, **box},
    {'image_id': 3, 'score': 0.6, **box, 'category_id': 7},
  ]
  measured = detection.evaluated(true, found, [1, 2, 3])
  got = detection.agreement(measured, [1, 2, 3])
  assert got['missed'].tolist() == [1, 0, 0] and got['wrong'].tolist() == [0, 0, 1]
  np.testing.assert_array_equal(got['quality'], [0, np.nan, 0])


def test_ap_is_the_mean_of_precisions(tmp_path, whole):
  file = tmp_path / 'found.json'
  evaluate(save=str(file), pictures=0)
  true = truth(source())
  true['categories'].append({'id': 50})  # has no objects
  ids = [int(e['image_id']) for e in source()]
  measured = detection.evaluated(true, json.loads(file.read_text()), ids)
  got = detection.precisions(measured)
  assert got.shape == (10, 101, 4) and np.isnan(got[..., 3]).all()
  assert np.nanmean(got) == pytest.approx(whole['AP'])
  assert np.nanmean(got[0]) == pytest.approx(whole['AP50'])
  assert np.nanmean(got[5]) == pytest.approx(whole['AP75'])


def test_classes_that_are_only_found_are_categories():
  examples = source()
  data = pipeline.EvalInput(source=examples, batch_size=7)
  evaluator = detection.CocoAP(data=data)
  batch = next(data.epoch()) | {'found_labels': np.full((7, QUERIES), 9, np.int32)}
  rows = evaluator.measure(predict(1.0, batch, None), batch)
  true, found = evaluator.entries(jax.device_get(rows))
  assert [e['id'] for e in true['categories']] == [0, 1, 2, 9]
  assert len(found) == 7 * QUERIES
