import dataclasses
import json
import pathlib
import pickle
import re

import cv2
import numpy as np
import pytest
import tensorflow_datasets as tfds
from PIL import ExifTags, Image
from pycocotools import coco as pycoco
from pycocotools import mask as pymask

from big_vision_like.data.input import pipeline
from big_vision_like.data.procedural import drawing
from big_vision_like.data.sources import (
  coco,
  coco_classes,
  coco_json,
  coco_outlines,
  fake,
)
from big_vision_like.data.transforms import boxes, image, labels
from big_vision_like.errors import BadRecordError, UserError

CATEGORIES = [{'id': 7, 'name': 'cat'}, {'id': 3, 'name': 'dog'}]
IMAGES = [
  {'id': 20, 'file_name': 'b.png', 'height': 40, 'width': 60},
  {'id': 10, 'file_name': 'a.png', 'height': 30, 'width': 50},
  {'id': 30, 'file_name': 'c.png', 'height': 20, 'width': 20},
]


def annotation(name, image_id=20, bbox=(6, 10, 12, 20), category_id=7, **rest):
  return dict(
    id=name, image_id=image_id, bbox=list(bbox), category_id=category_id, **rest
  )


def written(folder, annotations, images=IMAGES, categories=CATEGORIES, **options):
  """Writes an annotation file with all of its images and returns the source."""
  folder = pathlib.Path(folder)
  entries = dict(images=images, annotations=annotations, categories=categories)
  (folder / 'a.json').write_text(json.dumps(entries))
  for i, entry in enumerate(IMAGES):
    picture = np.full((entry['height'], entry['width'], 3), 40 * i, np.uint8)
    (folder / entry['file_name']).write_bytes(drawing.png(picture))
  return coco.Coco(str(folder / 'a.json'), str(folder), **options)


def test_examples_match_tfds(tmp_path):
  source = written(
    tmp_path,
    [
      annotation(9, area=100.5, iscrowd=1),
      annotation(4, image_id=10, bbox=[0.5, 1.5, 10, 20], category_id=3),
      annotation(2, bbox=[50, 30, 20, 20]),
    ],
  )
  assert len(source) == 3 and source.left_out == {}
  assert (source.category_ids, source.category_names) == ((3, 7), ['dog', 'cat'])
  assert [source[i]['image/id'] for i in range(3)] == [10, 20, 30]
  np.testing.assert_array_equal(source.image_sizes, [[30, 50], [40, 60], [20, 20]])
  second = source[1]
  assert second['image/filename'] == b'b.png'
  assert second['image'] == (tmp_path / 'b.png').read_bytes()
  objects = second['objects']
  assert objects['id'].tolist() == [2, 9]  # sorted by id, as in TFDS
  assert objects['area'].tolist() == [400, 100.5]
  assert objects['label'].tolist() == [1, 1]
  assert objects['is_crowd'].tolist() == [False, True]
  want = [[30 / 40, 50 / 60, 50 / 40, 70 / 60], [0.25, 0.1, 0.75, 0.3]]
  np.testing.assert_allclose(objects['bbox'], want, rtol=1e-6)
  assert source[2]['objects']['bbox'].shape == (0, 4)  # empty, but kept
  with pytest.raises(IndexError):
    source[3]
  copy = pickle.loads(pickle.dumps(source))
  assert copy[1]['objects']['id'].tolist() == [2, 9]


def test_features_describe_the_examples(tmp_path):
  source = written(tmp_path, [annotation(1), annotation(2, image_id=10)])
  example = source[0]
  assert example.keys() == source.features.keys()
  own = example | {'objects': [{k: v[0] for k, v in example['objects'].items()}]}
  own['objects'][0]['bbox'] = tfds.features.BBox(*own['objects'][0]['bbox'].tolist())
  again = source.features.deserialize_example_np(source.features.serialize_example(own))
  assert again['objects']['label'] == [1] and again['image/id'] == 10


def test_boxes_of_batches_match_the_file(tmp_path):
  source = written(
    tmp_path, [annotation(9, iscrowd=1), annotation(2, bbox=[50, 30, 20, 20], area=7)]
  )
  transforms = [
    image.Decode(),
    boxes.Objects(crowds=True, ids=source.category_ids),
    labels.Keep(
      names=('image', 'boxes', 'box_labels', 'crowd', 'area', 'image_id', 'dropped')
    ),
    boxes.Pad([(40, 60)], max_boxes=3),
  ]
  data = pipeline.EvalInput(source=source, batch_size=3, transforms=transforms)
  (batch,) = data.epoch()
  assert batch['image_id'].tolist() == [10, 20, 30]
  np.testing.assert_allclose(batch['boxes'][1, 0], [50, 30, 60, 40])  # clipped
  np.testing.assert_allclose(batch['boxes'][1, 1], [6, 10, 18, 30], rtol=1e-6)
  assert batch['crowd'][1].tolist() == [False, True, False]
  assert batch['box_mask'][1].tolist() == [True, False, False]
  assert batch['box_labels'][1].tolist() == [7, 7, 0]
  assert batch['area'][1].tolist() == [7, 240, 0]
  assert not batch['box_mask'][[0, 2]].any()


BAD = {
  'of an unknown image': [annotation(101, image_id=5), annotation(102, image_id=[1])],
  'of an unknown category': [annotation(103, category_id=1)],
  'whose bbox is not four finite numbers': [
    annotation(104) | {'bbox': 'none'},
    annotation(105, bbox=[0, 0, 1]),
    annotation(106, bbox=[0, 0, float('nan'), 1]),
    {k: v for k, v in annotation(107).items() if k != 'bbox'},
  ],
  'without area': [annotation(108, bbox=[3, 3, 0, 4])],
  'outside of the image': [annotation(109, bbox=[60, 0, 5, 5])],
  'reaching far beyond the image': [annotation(111, bbox=[5, 5, 1e8, 9])],
  'with a repeated id': [annotation(1)],
  'without fields': [[1, 2]],
  'whose area is not a number': [annotation(110, area='large')],
  'whose iscrowd is not 0 or 1': [annotation(112, iscrowd=2)],
}


def test_unusable_annotations_are_left_out_counted_and_named(tmp_path, capfd):
  bad = [entry for entries in BAD.values() for entry in entries]
  entries = [annotation(1), *bad, annotation(2, bbox=[-5, 0, 9, 9])]
  source = written(tmp_path, entries, tolerated=0.9)
  assert source.left_out == {reason: len(entries) for reason, entries in BAD.items()}
  assert source[1]['objects']['id'].tolist() == [1, 2]
  assert source[1]['objects']['label'].tolist() == [1, 1]
  told = capfd.readouterr().err
  assert told.count('\n') == 1
  assert '2 of an unknown image (id 101, id 102)' in told
  assert '1 without fields (entry 12)' in told
  names = ', '.join(f'id {i}' for i in range(104, 108))
  assert f'4 whose bbox is not four finite numbers ({names})' in told


def test_many_that_are_left_out_are_counted_and_an_error(tmp_path):
  entries = [annotation(i, image_id=1) for i in range(1000)]
  for more, tolerated, told in (
    (
      [],
      1.0,
      r'1,000 of 1,000 .*: 1,000 of an unknown image \(.* id 4 and 995 more\); correct',
    ),
    ([annotation(1000)], 0.99, r'1,000 of 1,001 .* raise `tolerated` \(0.99\)'),
  ):
    source = written(tmp_path, entries + more, tolerated=tolerated)
    assert len(source.problems()) == 1
    with pytest.raises(UserError, match=told):
      len(source)
  assert len(written(tmp_path, [*entries, annotation(1000)], tolerated=1.0)) == 3


def whole(kind, *names):
  """Returns a function that converts these fields of an entry to another type."""
  return lambda e: e.update({n: kind(e[n]) for n in names if n in e})


def square(entry):
  """Replaces the box of an entry by its outline."""
  left, top, width, height = entry.pop('bbox')
  right, bottom = left + width, top + height
  entry['segmentation'] = [[left, top, right, top, right, bottom, left, bottom]]


def runs(text):
  """Returns a function that replaces a box by run lengths, numbers or COCO's text."""

  def change(entry):
    image = next(i for i in IMAGES if i['id'] == entry['image_id'])
    drawn = np.zeros((image['height'], image['width']), np.uint8)
    left, top, width, height = entry.pop('bbox')
    drawn[top : top + height, left : left + width] = 1
    if text:
      made = pymask.encode(np.asfortranarray(drawn))
      entry['segmentation'] = made | {'counts': made['counts'].decode()}
      return
    flat = drawn.T.ravel()
    edges = np.flatnonzero(np.diff(flat, prepend=0)).tolist()
    counts = np.diff([0, *edges, flat.size]).tolist()
    entry['segmentation'] = {'size': list(drawn.shape), 'counts': counts}

  return change


IDS = ('id', 'image_id', 'category_id')
SAME = {
  'numbers as text': whole(str, *IDS, 'height', 'width'),
  'numbers with a point': whole(float, *IDS, 'height', 'width'),
  'annotations without id': lambda e: 'bbox' in e and e.pop('id'),
  'annotations of one id': lambda e: 'bbox' in e and e.update(id=1),
  'ids beyond 64 bits': lambda e: 'bbox' in e and e.update(id=10**30),
  'no area': lambda e: e.pop('area', None),
  'null': lambda e: 'bbox' in e and e.update(area=None, iscrowd=None),
  'areas of 0': lambda e: 'bbox' in e and e.update(area=0),
  'areas that are NaN': lambda e: 'bbox' in e and e.update(area=float('nan')),
  'polygons': lambda e: 'bbox' in e and square(e),
  'run lengths': lambda e: 'bbox' in e and runs(text=False)(e),
  'run lengths as text': lambda e: 'bbox' in e and runs(text=True)(e),
  'crowds as text': lambda e: 'bbox' in e and e.update(iscrowd='0'),
}


@pytest.mark.parametrize('name', SAME)
def test_equivalent_files_are_read_alike(tmp_path, name):
  entries = [
    annotation(1, area=240, iscrowd=0),
    annotation(2, image_id=10, bbox=[3, 0, 1, 30], area=30, category_id=3),
    annotation(3, bbox=[40, 30, 20, 10], area=200),
  ]
  want = written(tmp_path, entries)
  want.contents  # noqa: B018
  changed = [[dict(e) for e in part] for part in (entries, IMAGES, CATEGORIES)]
  for entry in (e for part in changed for e in part):
    SAME[name](entry)
  got = written(tmp_path, *changed)
  assert got.problems() == want.problems() == []
  for field in ('image_ids', 'starts', 'boxes_N4', 'labels_N', 'areas_N', 'crowds_N'):
    np.testing.assert_array_equal(
      getattr(got.contents, field), getattr(want.contents, field), field
    )
  if 'id' not in name:
    assert got.fingerprint() == want.fingerprint()
  assert len(set(got.contents.ids_N.tolist())) == 3
  # Evaluation reads the same boxes.
  true = coco_json.read_strictly(got.annotations)['annotations']
  boxes = {tuple(map(float, e['bbox'])) for e in true}
  assert boxes == set(map(tuple, want.contents.boxes_N4.tolist()))
  assert {e['image_id'] for e in true} == {10, 20} and not any(
    e['iscrowd'] for e in true
  )
  assert sorted(e['area'] for e in true) == [30, 200, 240]


@pytest.mark.parametrize(
  'change, told',
  [
    (lambda x, y, w, h: [x, y, x + w, y + h], '12 of 16 boxes reach beyond .* right'),
    (lambda x, y, w, h: [x / 60, y / 40, w / 60, h / 40], '16 of 16 .* fractions'),
  ],
)
def test_boxes_of_another_convention_are_reported(tmp_path, change, told):
  places = [(x, y, 12, 9) for x in (1, 15, 30, 45) for y in (1, 10, 20, 30)]
  plain = written(tmp_path, [annotation(i, bbox=b) for i, b in enumerate(places)])
  assert plain.problems() == []
  entries = [annotation(i, bbox=change(*box)) for i, box in enumerate(places)]
  source = written(tmp_path, entries)
  (problem,) = source.problems()
  assert re.search(told, problem)
  with pytest.raises(UserError, match=told):
    coco_json.read_strictly(source.annotations)


@pytest.mark.parametrize(
  'content, told',
  [
    ('{"images": [', 'is not JSON: .*line 1 column 13'),
    ('[1]', 'holds a list, not fields by name'),
    ('{"images": []}', "has no list 'annotations'; it has images"),
    (dict(images=[]), 'names no images'),
    (dict(images=[5]), r'images\[0\] is 5, not an object'),
    (
      dict(images=[IMAGES[0], {'id': 4, 'file_name': 'x', 'height': 3}]),
      r"images\[1\] \(id 4\): 'width' is missing, not a whole number",
    ),
    (
      dict(images=[IMAGES[0] | {'file_name': None}]),
      r"images\[0\] \(id 20\): 'file_name' is null, not a text",
    ),
    (dict(images=[IMAGES[0], IMAGES[0]]), r'images\[1\]: another entry has id 20 too'),
    (dict(images=[IMAGES[0] | {'width': 0}]), r'images\[0\] \(id 20\) has 40x0 pixels'),
    (
      dict(images=[IMAGES[0] | {'width': 10**9}]),
      r'images\[0\] \(id 20\) has 40x1000000000 pixels, not 1 to 178,956,970',
    ),
    (dict(images=[IMAGES[0] | {'id': 1e30}]), r"'id' is 1e\+30, not a whole number"),
    (dict(images=[IMAGES[0] | {'id': True}]), "'id' is true, not a whole number"),
    (dict(images=[IMAGES[0] | {'file_name': 'a\0'}]), "'file_name' is .*, not a text"),
    (dict(categories=[]), 'names no categories'),
    (
      dict(categories=[CATEGORIES[0], CATEGORIES[1] | {'name': 'cat'}]),
      'the categories 7 and 3 are both called "cat"; give each a name',
    ),
    (dict(annotations=[dict(segments_info=[])]), 'so it is a panoptic file: set'),
    (
      dict(categories=[{'id': 'cat', 'name': 'cat'}]),
      r"categories\[0\] \(id cat\): 'id' is \"cat\", not a whole number",
    ),
  ],
)
def test_malformed_files_are_reported_by_entry(content, told, tmp_path):
  source = written(tmp_path, [annotation(1)])
  file = tmp_path / 'a.json'
  if isinstance(content, dict):
    content = json.dumps(json.loads(file.read_text()) | content)
  file.write_text(content)
  with pytest.raises(UserError, match=told):
    len(source)
  assert len(source.problems()) == 1


def test_a_file_that_is_not_there(tmp_path):
  with pytest.raises(UserError, match='nowhere.json cannot be read: No such file'):
    len(coco.Coco(str(tmp_path / 'nowhere.json'), str(tmp_path)))


def test_images_that_are_missing_damaged_or_of_another_size_are_bad_records(tmp_path):
  source = written(tmp_path, [annotation(1)])
  assert source.problems() == []
  (tmp_path / 'a.png').unlink()
  (tmp_path / 'b.png').write_bytes((tmp_path / 'c.png').read_bytes())
  (tmp_path / 'c.png').write_bytes(b'no image')
  for index, told in enumerate(
    [
      'a.png cannot be read: No such',
      'has 20x20 pixels, but .* says 40x60',
      'not an im',
    ]
  ):
    with pytest.raises(BadRecordError, match=told):
      source[index]
  (problem,) = source.problems()
  assert problem.startswith('1 of 3 images of ') and problem.endswith(': a.png')


@pytest.mark.parametrize('orientation', [1, 6])
def test_images_with_an_orientation_tag(tmp_path, orientation):
  source = written(tmp_path, [annotation(1)], [IMAGES[0] | {'height': 60, 'width': 40}])
  exif = Image.Exif()
  exif[ExifTags.Base.Orientation] = orientation
  with Image.open(tmp_path / 'b.png') as picture:
    picture.save(tmp_path / 'b.png', exif=exif)
  with pytest.raises(BadRecordError, match='40x60 pixels, but .* says 60x40') as told:
    source[0]
  assert ('EXIF' in str(told.value)) == (orientation == 6)
  assert len(written(tmp_path, [annotation(1)])[1]['image']) > 0


def test_images_in_a_folder_further_up(tmp_path):
  source = written(tmp_path, [annotation(1)])
  below = dataclasses.replace(source, images=str(tmp_path / 'train'))
  (problem,) = below.problems()
  assert problem.endswith(f'a.png is in {tmp_path}: set `images` to that')
  (tmp_path / 'train').mkdir()
  with pytest.raises(BadRecordError, match='train is not a file'):
    coco._opened(str(tmp_path), 'train')


# Masks


def outlines():
  """Returns a polygon, run lengths as numbers and as text, and the equivalent masks."""
  drawn = np.zeros((3, 40, 60), np.uint8)
  polygon = [10.0, 5.0, 30.0, 5.0, 30.0, 25.0, 10.0, 25.0]
  drawn[0, 5:25, 10:30] = 1
  drawn[1, 3:9, 40:55] = 1
  cv2.circle(drawn[2], (30, 20), 9, 1, -1)
  flat = drawn[1].T.ravel()
  edges = np.flatnonzero(np.diff(flat)) + 1
  counts = np.diff([0, *edges, len(flat)]).tolist()
  text = pymask.encode(np.asfortranarray(drawn[2]))
  text['counts'] = text['counts'].decode()
  return [[polygon], {'size': [40, 60], 'counts': counts}, text], drawn


def test_outlines_become_masks(tmp_path):
  found, drawn = outlines()
  entries = [annotation(i, segmentation=outline) for i, outline in enumerate(found)]
  bad = [
    [[1, 2, 3, 4]],
    {'size': [60, 40], 'counts': [2400]},
    {'size': [40, 60], 'counts': [7]},
    None,
    {'size': [40, 60], 'counts': [-1, 2401]},
    {'size': [40, 60], 'counts': [2400, 1 << 70]},
    {'size': [40, 60], 'counts': [1200, True, 1199]},
    {'size': [40, 60], 'counts': '~'},
    {'size': [40, 60], 'counts': 'P'},
    {'size': [40, 60], 'counts': 'o' * 40 + '0'},
    [[0, 0, 1e8, 0, 9, 9]],
    [[0, 0, 1e30, 0, 9, 9]],
    [[0, 0, 9, 0, 9, float('nan')]],
    [[0, 0, 500, 0] * 2000],
  ]
  entries += [annotation(50 + i, segmentation=outline) for i, outline in enumerate(bad)]
  plain = written(tmp_path, entries)
  source = coco.Coco(plain.annotations, plain.images, masks=True, tolerated=0.9)
  np.testing.assert_array_equal(source[1]['masks'], drawn)
  assert source[1]['masks'].dtype == np.uint8
  assert source[0]['masks'].shape == (0, 30, 50)
  assert sum(source.left_out.values()) == len(bad) and plain.left_out == {}
  theirs = pycoco.COCO(plain.annotations)
  for i in range(3):
    np.testing.assert_array_equal(source[1]['masks'][i], theirs.annToMask(entries[i]))
  # They stay aligned with the boxes.
  example = boxes.Objects().map(image.Decode().map(source[1]))
  turned = boxes.flip(example)
  np.testing.assert_array_equal(turned['masks'], drawn[..., ::-1])
  cut = boxes.crop(example, top=10, left=6, height=5, width=5)
  assert cut['masks'].shape == (3, 5, 5)


def test_masks_that_no_memory_holds(tmp_path):
  with pytest.raises(BadRecordError, match='9 masks of 16384x16384 pixels take more'):
    coco_outlines.decoded([np.array([1 << 28])] * 9, 1 << 14, 1 << 14, range(9))


def test_a_number_of_images_that_differs_from_the_config(tmp_path):
  source = written(tmp_path, [])
  with pytest.raises(UserError, match=r'has \d+ images, not the 77 that the config'):
    len(dataclasses.replace(source, examples=77))
  assert len(dataclasses.replace(source, examples=len(source))) == len(source)


def test_only_instances_have_masks(tmp_path):
  with pytest.raises(UserError, match='masks=True needs instances'):
    coco.Coco('a', 'b', panoptic='c', masks=True)


# Panoptic


def panoptic(folder, change=lambda entries: None):
  """Writes a panoptic set: image 20 has two segments, image 10 a single one."""
  source = written(folder, [])
  (folder / 'maps').mkdir(exist_ok=True)
  names = np.zeros((40, 60), np.int64)
  names[:, 6:18], names[20:, 18:] = 300, 70_000
  everything = np.full((30, 50), 5)
  for name, ids in ('b.png', names), ('a.png', everything):
    rgb = np.stack([ids >> shift & 255 for shift in (0, 8, 16)], -1).astype(np.uint8)
    (folder / 'maps' / name).write_bytes(drawing.png(rgb))
  segments = [
    dict(id=70_000, category_id=3, area=840, bbox=[18, 20, 42, 20], iscrowd=1),
    dict(id=300, category_id=7, area=480, bbox=[6, 0, 12, 40], iscrowd=0),
  ]
  whole = [dict(id=5, category_id=3, area=1500, bbox=[0, 0, 50, 30], iscrowd=0)]
  entries = dict(
    images=IMAGES[:2],
    categories=CATEGORIES,
    annotations=[
      dict(image_id=20, file_name='b.png', segments_info=segments),
      dict(image_id=10, file_name='a.png', segments_info=whole),
    ],
  )
  change(entries)
  (folder / 'a.json').write_text(json.dumps(entries))
  return coco.Coco(source.annotations, source.images, panoptic=str(folder / 'maps'))


def test_panoptic_files(tmp_path):
  source = panoptic(tmp_path)
  example = boxes.Panoptic(ids=source.category_ids).map(image.Decode().map(source[1]))
  np.testing.assert_allclose(example['boxes'], [[18, 20, 60, 40], [6, 0, 18, 40]])
  assert example['box_labels'].tolist() == [3, 7] and 'crowd' not in example
  segments = example['segment_map']
  assert segments.shape == (40, 60) and segments.dtype == np.uint8
  assert (segments[20:, 18:] == 1).all() and (segments[:, 6:18] == 2).all()
  assert (segments[:20, 18:] == 0).all() and (segments[:, :6] == 0).all()
  marked = boxes.Panoptic(crowds=True).map(image.Decode().map(source[1]))
  assert marked['crowd'].tolist() == [True, False]
  assert (source.features.keys()) == source[0].keys()
  before = source.fingerprint()
  (tmp_path / 'maps' / 'a.png').write_bytes(b'')
  assert source.fingerprint() != before


def test_panoptic_files_with_errors(tmp_path):
  def no_segments(entries):
    del entries['annotations'][1]['segments_info']

  with pytest.raises(UserError, match=r"annotations\[1\] has no list 'segments_info'"):
    len(panoptic(tmp_path, no_segments))
  with pytest.raises(UserError, match='has no annotation of image 10'):
    len(panoptic(tmp_path, lambda entries: entries['annotations'].pop()))

  def bad_segment(entries):
    entries['annotations'][0]['segments_info'][0]['category_id'] = 99
    entries['annotations'].append(dict(image_id=8, file_name='x', segments_info=[]))

  source = dataclasses.replace(panoptic(tmp_path, bad_segment), tolerated=0.5)
  assert source.left_out == {'of an unknown image': 1, 'of an unknown category': 1}
  with pytest.raises(
    BadRecordError, match='20 shows segment 70000, which is not among'
  ):
    boxes.Panoptic().map(image.Decode().map(source[1]))
  (tmp_path / 'maps' / 'b.png').unlink()
  with pytest.raises(BadRecordError, match='b.png cannot be read'):
    source[1]


# COCO itself


def test_ids_match_coco():
  unused = {12, 26, 29, 30, 45, 66, 68, 69, 71, 83}
  assert list(coco_classes.IDS) == [i for i in range(1, 91) if i not in unused]
  assert len(coco_classes.IDS) == 80
  assert list(coco_classes.PANOPTIC_IDS) == sorted(set(coco_classes.PANOPTIC_IDS))
  assert (
    len(coco_classes.PANOPTIC_IDS) == 133
    and coco_classes.PANOPTIC_IDS[:80] == coco_classes.IDS
  )
  assert (min(coco_classes.STUFF_IDS), max(coco_classes.STUFF_IDS)) == (92, 200)


def test_labels_of_tfds_become_ids():
  example = image.Decode().map(fake.Fake('coco/2017')[0])
  got = boxes.Objects(crowds=True, ids=coco_classes.IDS).map(example)
  for label, name in zip(example['objects']['label'], got['box_labels'], strict=True):
    assert name == coco_classes.IDS[label]
  assert got['image_id'] == 0 and set(got['box_labels'].tolist()) & {1, 90}
  with pytest.raises(BadRecordError, match='label 79, which is not one of 3'):
    boxes.Objects(ids=(1, 2, 3)).map(
      example | {'objects': example['objects'] | {'label': [79] * len(got['boxes'])}}
    )
