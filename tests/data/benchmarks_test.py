import dataclasses
import json

import numpy as np
import pytest
import tensorflow_datasets as tfds

from big_vision_like.data import benchmarks
from big_vision_like.data.input import pipeline
from big_vision_like.data.procedural import scenes, solids
from big_vision_like.data.sources import catalogue, fake
from big_vision_like.data.sources import tfds as sources
from big_vision_like.errors import UserError
from big_vision_like.spec import build, calls, spec, symbol

PARTS = {'fit': 'train800', 'val': 'val200', 'train': 'train800val200', 'test': 'test'}
# The catalogue no longer has version 3 of Pets.
NEWER = {'oxford_iiit_pet:3.*.*': 'oxford_iiit_pet:4.*.*'}


@pytest.fixture(scope='module')
def published(golden):
  tasks = json.loads((golden / 'vtab1k_tasks.json').read_text())['tasks']
  return {task['name']: task for task in tasks}


def test_vtab_has_the_tasks_of_its_authors(published):
  assert list(benchmarks.VTAB) == list(published)


@pytest.mark.parametrize('name', benchmarks.VTAB)
def test_vtab_task(name, published):
  task, theirs = benchmarks.VTAB[name], published[name]
  assert task.name == NEWER.get(theirs['tfds'], theirs['tfds'])
  assert (task.num_classes, task.group) == (theirs['num_classes'], theirs['group'])
  splits = {PARTS[part]: split for part, (split, _) in task.parts.items()}
  assert splits == theirs['splits']
  assert [task.parts[part][1] for part in ('fit', 'val', 'train')] == [800, 200, 1000]


@pytest.mark.parametrize('name', benchmarks.VTAB)
def test_vtab_examples_become_labelled_rgb_images(name):
  task = benchmarks.VTAB[name]
  source = fake.Fake(task.name, examples=8, classes=task.num_classes)
  transforms = build(task.eval_input('test', [], batch_size=1).transforms)
  batches = pipeline.EvalInput(source=source, batch_size=1, transforms=transforms)
  for batch in batches.epoch():
    assert (
      {'image', 'label', 'mask'} <= batch.keys() <= {'image', 'label', 'mask', 'id'}
    )
    assert batch['image'].shape[-1] == 3 and batch['image'].dtype == np.uint8
    assert 0 <= batch['label'].item() < task.num_classes


def test_parts_of_a_split_are_joined(data_dir):
  parts = 'train[:800]', 'train[1000:1200]'
  first, second, both = (
    sources.Tfds('digits', split, data_dir=str(data_dir))
    for split in (*parts, '+'.join(parts))
  )
  assert len(both) == 1000
  assert (both[799], both[800]) == (first[799], second[0])


def test_vtab_means():
  accuracies = {name: i / 10 for i, name in enumerate(benchmarks.VTAB)}
  means = benchmarks.vtab_means(accuracies)
  assert means == pytest.approx(
    dict(natural=0.3, specialised=0.85, structured=1.45, all=0.9)
  )
  with pytest.raises(UserError, match='missing dtd; unknown textures'):
    benchmarks.vtab_means(
      {name.replace('dtd', 'textures'): a for name, a in accuracies.items()}
    )


@pytest.mark.parametrize('name', benchmarks.TRANSFER)
def test_transfer_parts_divide_the_training_data(name):
  parts = benchmarks.TRANSFER[name].parts
  assert parts['fit'][1] + parts['val'][1] == parts['train'][1]
  share = int(parts['fit'][0].removeprefix('train[:').removesuffix('%]'))
  assert parts['val'][0] == f'train[{share}%:]'
  assert parts['fit'][1] == round(parts['train'][1] * share / 100)  # as TFDS rounds


def test_fewshot_sets_follow_the_protocol():
  assert sorted(benchmarks.FEWSHOT) == [
    'caltech101',
    'cars196',
    'cifar100',
    'dtd',
    'imagenet',
    'oxford_iiit_pet',
    'uc_merced',
  ]
  probe = benchmarks.FEWSHOT['imagenet']
  assert probe.parts['train'][0] == 'train[:65000]'
  assert probe.parts['test'][0] == 'validation'


def test_inputs_of_a_config_share_nothing():
  own = [spec(fake.Fake, name='digits')]
  first, second = (benchmarks.IMAGENET.eval_input('val', own, 8) for _ in range(2))
  first.transforms[1].name = 'glyphs'
  assert (second.transforms[1].name, own[0].name) == ('digits', 'digits')


def test_real_labels_go_into_batches():
  node = benchmarks.imagenet_real([], batch_size=4)
  names = [symbol(node).__name__ for _, node in calls(node)]
  assert names == ['EvalInput', 'Tfds', 'Decode', 'RealLabels', 'Keep']
  assert list(node.transforms[-1].names) == ['image', 'labels']


@pytest.mark.parametrize(
  'transforms',
  [
    benchmarks.deit_augmentation(32),
    benchmarks.three_augment(32),
    benchmarks.three_augment(32, simple_crop=True),
  ],
  ids=['deit', 'three', 'three simple'],
)
def test_augmentation(transforms):
  source = fake.Fake('imagenet2012', examples=3, classes=7)
  task = benchmarks.IMAGENET.train_input('train', transforms, batch_size=6, workers=0)
  batches = pipeline.TrainInput(
    source=source, batch_size=6, transforms=build(task.transforms)
  )
  batch = next(iter(batches))
  assert batch['image'].shape == (6, 32, 32, 3) and batch['image'].dtype == np.uint8
  assert len({image.tobytes() for image in batch['image']}) == 6


# Data set name and image sides.
SCENES = {
  'tetrominoes': ('tetrominoes', 35),
  'multi_dsprites': ('multi_dsprites', 64),
  'solids': ('solids/discovery', 128),
  'tetrominoes_7': ('tetrominoes/7', 7),
  'blocks': ('tetrominoes/blocks', 8),
  'published_tetrominoes': ('multi_object/tetrominoes', 35),
  'published_multi_dsprites': ('multi_object/multi_dsprites_colored_on_grayscale', 64),
  'clevr': ('multi_object/clevr6_with_masks', 128),
}
PROPERTIES = {
  'clevr': ('clevr:3.1.0', 128),
  'solids': ('solids/128', 128),
  'solids_64': ('solids/64', 64),
}


def made_up(node):
  """Returns the input of a config, with fake examples."""
  source = fake.Fake(node.source.name, node.source.split, examples=5)
  return symbol(node)(
    source=source, batch_size=node.batch_size, transforms=build(node.transforms)
  )


@pytest.mark.parametrize('name', SCENES)
def test_objects_are_found_in_pictures_alone_and_judged_by_masks(name):
  scenes, (data_set, side) = benchmarks.DISCOVERY[name], SCENES[name]
  train, val = scenes.train_input(4, workers=0), scenes.eval_input(3)
  assert train.source.name == val.source.name == data_set
  batch = next(iter(made_up(train)))
  assert batch.keys() - {'id'} == {'image'}
  assert batch['image'].shape == (4, side, side, 3)
  batch = next(made_up(val).epoch())
  assert batch.keys() - {'id'} == {'image', 'segmentation', 'mask'}
  assert batch['image'].shape == (3, side, side, 3)
  assert batch['segmentation'].shape == (3, side, side)
  assert batch['segmentation'].dtype == np.uint8
  # CLEVR images are resized as float32, all others keep their size and type.
  resized = name == 'clevr'
  assert batch['image'].dtype == (np.float32 if resized else np.uint8)


@pytest.mark.parametrize('name', PROPERTIES)
def test_objects_are_predicted_as_sets(name):
  scenes, (data_set, side) = benchmarks.PROPERTIES[name], PROPERTIES[name]
  train, val = scenes.train_input(4, workers=0), scenes.eval_input(3)
  assert train.source.name == val.source.name == data_set
  for batch, size in ((next(iter(made_up(train))), 4), (next(made_up(val).epoch()), 3)):
    assert batch.keys() - {'id', 'mask'} == {'image', 'targets'}
    assert batch['image'].shape == (size, side, side, 3)
    assert batch['targets'].shape == (size, 10, 19)
    assert (batch['targets'][..., 18].sum(axis=1) >= 3).all()


def test_every_set_of_scenes_is_tried():
  assert SCENES.keys() == benchmarks.DISCOVERY.keys()
  assert PROPERTIES.keys() == benchmarks.PROPERTIES.keys()


@pytest.mark.parametrize(
  'source',
  [
    source
    for choices in (benchmarks.DISCOVERY, benchmarks.PROPERTIES)
    for scenes in choices.values()
    for source in scenes.parts.values()
    if source.name != 'clevr:3.1.0'
  ],
  ids=lambda source: f'{source.name} {source.split}',
)
def test_parts_hold_as_many_as_are_prepared(source):
  catalogue.announce(source.name)
  config = tfds.builder(source.name).builder_config
  if hasattr(config, 'splits'):
    counts = {split: count for split, (count, _) in config.splits.items()}
  else:
    counts = dict(zip(('train', 'validation', 'test'), config.counts, strict=True))
  split, _, part = source.split.partition('[')
  if source.name == 'multi_object/clevr6_with_masks' and split == 'train':
    assert source.examples is None  # depends on how many of the 70,000 are kept
  else:
    held_out = {'': 0, '512:]': 512, ':512]': counts[split] - 512}[part]
    assert source.examples == counts[split] - held_out


def test_inputs_of_scenes_share_nothing():
  first, second = (benchmarks.DISCOVERY['clevr'].eval_input(8) for _ in range(2))
  first.source.examples, first.transforms[-1].size = 7, 64
  assert (second.source.examples, second.transforms[-1].size) == (320, 128)


def test_the_error_of_an_unknown_part_lists_the_known_ones():
  with pytest.raises(
    UserError, match="no part 'crowd': choose one of train, val, test, "
  ):
    benchmarks.DISCOVERY['solids'].eval_input(8, part='crowd')


def test_scenes_that_were_prepared(tmp_path):
  splits = {'train': (6, 6), 'crowded': (3, 10)}
  view = solids.View(32, 32, solids.MIDDLE)
  tiny = solids.SolidsConfig(name='tiny', view=view, splits=splits)
  builder = solids.Solids(data_dir=tmp_path, config=tiny)
  builder.download_and_prepare(file_format='array_record')
  scenes = benchmarks.DISCOVERY['solids']
  nodes = scenes.train_input(6, workers=0), scenes.eval_input(2, 'more', workers=0)
  for node in nodes:
    node.source.name, node.source.data_dir = 'solids/tiny', str(tmp_path)
    node.source.examples = None
  train, more = map(build, nodes)
  batch = next(iter(train))
  assert sorted(batch['id']) == list(range(6))
  for i, pixels in zip(batch['id'], batch['image'], strict=True):
    want = solids.draw(0, 'train', int(i), view, (3, 6))['image']
    np.testing.assert_array_equal(pixels, want)
  found = [ids for b in more.epoch() for ids in b['segmentation'][b['mask']]]
  assert len(found) == 3
  for i, ids in enumerate(found):
    want = solids.draw(0, 'crowded', i, view, (3, 10))['segmentation']
    np.testing.assert_array_equal(ids, want[..., 0])


CHOICES = {'detection': benchmarks.DETECTION, 'panoptic': benchmarks.PANOPTIC}
# Data set, sides, classes, and maximum number of objects.
FOUND = {
  'detection coco': ('coco/2017', None, 91, 100),
  'detection scenes': ('scenes/hidden', (96, 128), 6, 10),
  'detection scenes_simple': ('scenes/simple', (48, 48), 3, 3),
  'panoptic coco': ('coco/2017_panoptic', None, 201, 100),
  'panoptic scenes': ('scenes/hidden', (96, 128), 10, 12),
  'panoptic scenes_simple': ('scenes/simple', (96, 96), 3, 3),
}


@pytest.mark.parametrize('name', FOUND)
def test_objects_are_found_with_boxes(name):
  kind, _, choice = name.partition(' ')
  found, (data_set, shape, classes, room) = CHOICES[kind][choice], FOUND[name]
  if choice == 'scenes_simple':  # these generated scenes have up to eight objects
    found = dataclasses.replace(found, max_boxes=(room := 9))
  train, val = found.train_input(4, workers=0), found.eval_input(3, workers=0)
  assert train.source.name == val.source.name == data_set
  names = {'image', 'size', 'boxes', 'box_labels', 'box_mask', 'dropped'}
  more = names | {'crowd', 'area', 'image_id', 'original_size', 'mask'}
  if kind == 'panoptic':
    names, more = names | {'segment_map'}, more | {'panoptic', 'segments'}
  for batch, own, count in (
    (next(iter(made_up(train))), names, 4),
    (next(made_up(val).epoch()), more, 3),
  ):
    assert batch.keys() - {'id'} == own
    size = batch['image'].shape[1:3]
    assert size == shape or (shape is None and size in benchmarks.DETR_SHAPES + EVAL)
    assert batch['boxes'].shape == (count, room, 4)
    assert batch['box_mask'].any() and batch['box_mask'].dtype == bool
    assert (batch['boxes'] <= [*size[::-1]] * 2).all()
    assert batch['box_labels'].max() < classes
    if 'segment_map' in own:
      assert batch['segment_map'].shape == (count, *size)
      assert batch['segment_map'].dtype == np.uint8
    if 'panoptic' in own:
      assert batch['panoptic'].shape == (count, *found.truth_size)
      assert batch['segments'].shape == (count, room, 3)
    if 'crowd' in own:
      assert not (batch['crowd'] & batch['box_mask']).any() and batch['crowd'].any()


EVAL = ((800, 1088), (1088, 800))


def test_boxes_of_stuff_go_without_masks():
  found = benchmarks.PANOPTIC['coco']
  boxes = dataclasses.replace(found, masks=False)
  train, val = boxes.train_input(2, workers=0), boxes.eval_input(2, workers=0)
  example = made_up(train).example()
  whole = made_up(found.train_input(2, workers=0)).example()
  assert whole.keys() - example.keys() == {'segment_map'}
  for name in example:
    np.testing.assert_array_equal(example[name], whole[name])
  assert example['box_labels'].max() > 90  # stuff
  assert not {'panoptic', 'segments'} & next(made_up(val).epoch()).keys()


def test_scenes_of_boxes_that_were_prepared(tmp_path):
  for name, kind in ('simple', 'detection'), ('hidden', 'panoptic'):
    (config,) = (c for c in scenes.Scenes.BUILDER_CONFIGS if c.name == name)
    few = dataclasses.replace(config, name=f'few_{name}', counts=(5, 7))
    builder = scenes.Scenes(data_dir=tmp_path, config=few)
    builder.download_and_prepare(file_format='array_record')
    choice = {'simple': 'scenes_simple', 'hidden': 'scenes'}[name]
    node = CHOICES[kind][choice].eval_input(4, workers=0)
    node.source.name, node.source.data_dir = f'scenes/few_{name}', str(tmp_path)
    node.source.examples = None
    rows = [(b, i) for b in build(node).epoch() for i in np.flatnonzero(b['mask'])]
    assert len(rows) == 7
    for index, (batch, i) in enumerate(rows):
      scene = scenes.draw(few, 'validation', index)
      np.testing.assert_array_equal(batch['image'][i], scene['image'])
      listed = scene['panoptic_objects' if kind == 'panoptic' else 'objects']
      assert batch['image_id'][i] == index
      real = ~np.array([o['is_crowd'] for o in listed])
      assert batch['box_mask'][i].tolist() == [
        *real,
        *[False] * (batch['box_mask'].shape[1] - len(listed)),
      ]
      sides = np.array(scene['image'].shape[:2] * 2)
      for place, thing in enumerate(listed):
        top, left, bottom, right = np.multiply(thing['bbox'], sides)
        box = batch['boxes'][i, place]
        np.testing.assert_allclose(box, [left, top, right, bottom], atol=1e-4)
        if kind == 'panoptic':
          number, label, crowd = batch['segments'][i, place].tolist()
          assert (label, crowd) == (thing['label'], thing['is_crowd'])
          assert (batch['panoptic'][i] == number).sum() == thing['area']


@pytest.mark.parametrize('name', FOUND)
def test_parts_of_detection_hold_as_many_as_there_are(name):
  kind, _, choice = name.partition(' ')
  parts = CHOICES[kind][choice].parts
  counts = (118_287, 5000) if choice == 'coco' else (10_000, 500)
  assert (parts['train'].examples, parts['val'].examples) == counts
  assert (parts['train'].split, parts['val'].split) == ('train', 'validation')


def test_inputs_of_detection_share_nothing():
  found = benchmarks.DETECTION['coco']
  first, second = (found.train_input(8) for _ in range(2))
  first.transforms[4].second[0].sizes = (1,)
  first.transforms[-1].max_boxes = 3
  assert tuple(second.transforms[4].second[0].sizes) == (400, 500, 600)
  assert second.transforms[-1].max_boxes == found.max_boxes == 100
