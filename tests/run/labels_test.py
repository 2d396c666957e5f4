"""Tests that classes of all inputs are compared by name, mapped or refused."""

import json

import cv2
import jax.numpy as jnp
import ml_collections as mlc
import numpy as np
import pictures
import pytest
import tiny_config

from big_vision_like.data import benchmarks
from big_vision_like.data.input import mixture, pipeline
from big_vision_like.data.sources import coco, folders
from big_vision_like.data.sources.base import InMemory, Source
from big_vision_like.data.transforms import boxes, image, labels
from big_vision_like.errors import UserError
from big_vision_like.evals import classification, detection, fewshot
from big_vision_like.run import labels as by_name
from big_vision_like.run import learned, preflight
from big_vision_like.run.labels import Known
from big_vision_like.spec import spec

FRUIT = ('apple', 'banana', 'cherry')
IMAGENET = {0: 'tench, Tinca tinca', 1: 'goldfish, Carassius auratus', 2: 'great white'}


def folder(root, names, count=2):
  return pictures.write_classes(root, names, count)


def inputs(kind, path, *transforms, **arguments):
  return spec(
    kind,
    source=spec(folders.Folder, path=path, **arguments),
    transforms=[spec(image.Decode, channels=1), *transforms],
    batch_size=2,
  )


def accuracy(path, *transforms, **arguments):
  data = inputs(pipeline.EvalInput, path, *transforms, **arguments)
  return spec(classification.Accuracy, data=data)


@pytest.fixture
def config(tmp_path):
  made = tiny_config.get_config()
  made.train_data = inputs(pipeline.TrainInput, folder(tmp_path / 'train', FRUIT))
  made.task.model.num_classes = 3
  made.evals = mlc.ConfigDict()
  return made


def labels_of(found, place='config.evals.val.data'):
  return [e['label'].item() for e in map(found.made[place].example, range(4))]


def test_classes_of_a_subset_are_mapped_by_name(config, tmp_path):
  path = folder(tmp_path / 'val', ['apple', 'cherry'])
  config.evals.val = accuracy(path)
  (tmp_path / 'val' / 'apple' / 'notes.txt').touch()
  found = preflight.check(config)
  assert found.told == []
  assert found.left_out == ['evals.val.data: left out .txt files (1)']
  assert found.table[2].endswith('2 of 3 classes, mapped by name; texts left out: file')
  assert labels_of(found) == [0, 0, 2, 2]
  assert found.evals['val'].data is found.made['config.evals.val.data']


def test_the_order_of_classes_does_not_matter(config, tmp_path):
  path = folder(tmp_path / 'val', FRUIT)
  config.evals.val = accuracy(path, classes=['cherry', 'apple', 'banana'])
  found = preflight.check(config)
  assert labels_of(found) == [2, 2, 0, 0]
  config.evals.val = accuracy(path)
  assert labels_of(preflight.check(config)) == [0, 0, 1, 1]
  config.evals.val = accuracy(folder(tmp_path / 'two', FRUIT[:2]), classes=FRUIT)
  found = preflight.check(config)
  assert found.table[2].endswith('  texts left out: file')


@pytest.mark.parametrize(
  'names, told',
  [
    (('ant', 'bee', 'cat'), "new are 'ant', 'bee', 'cat'; missing are 'apple', 'ban"),
    ((*FRUIT, 'date'), "new are 'date'. Names must be equal"),
    (('train', 'val'), 'holds train, val, which are splits, not classes: name one of'),
    (('Apple', 'banana'), "new are 'Apple'; missing are 'apple', 'cherry' ('Apple' ma"),
    (('apple ', 'banana'), "('apple ' may be 'apple'). Names must be equal: rename th"),
    (('apple', 'banana', 'chery'), "('chery' may be 'cherry')"),
    (('1', '2', '5'), "new are '1', '2', '5'"),
    (('0', '1'), "there are 2 classes ('0', '1'), but 3 ('apple', 'banana', 'cherry')"),
  ],
)
def test_other_classes_are_refused(config, tmp_path, names, told):
  config.evals.val = accuracy(folder(tmp_path / 'val', names))
  [(sentence, places)] = preflight.check(config).told
  assert sentence.startswith('evals.val.data: there are' if '0' in names else 'evals.v')
  assert told in sentence and places == ['evals.val.data']
  assert preflight.check(config).table[2].endswith('see below')


def test_labels_without_names_are_compared_by_number(config, tmp_path):
  config.evals.val = accuracy(folder(tmp_path / 'val', '012'))
  [row] = preflight.check(config).table[2:]
  assert row.endswith('3 classes, compared by number; texts left out: file')
  config.evals.val.data.source = spec(Unnamed)
  [row] = preflight.check(config).table[2:]
  assert row.endswith('classes are compared only by number')


class Unnamed(Source):
  def __len__(self):
    return 4

  def __getitem__(self, index):
    picture = cv2.imencode('.png', np.zeros((8, 8), np.uint8))[1].tobytes()
    return {'image': picture, 'label': np.int32(index % 3)}


def test_labels_mapped_by_hand_are_trusted(config, tmp_path):
  mapped = spec(labels.Mapped, classes=[0, 2])
  config.evals.val = accuracy(folder(tmp_path / 'val', ['pomme', 'cerise']), mapped)
  found = preflight.check(config)
  assert found.told == [] and 'other classes, mapped by the config' in found.table[2]
  assert labels_of(found) == [0, 0, 2, 2]


def test_classes_after_a_mapping_in_training_have_its_names(config):
  config.train_data.transforms.append(spec(labels.Mapped, classes=[1, 2, 0]))
  data = preflight.check(config).made['config.train_data']
  names = by_name.vocabulary(data)['label']
  assert names == {1: 'apple', 2: 'banana', 0: 'cherry'}
  assert labels.Mapped([0, 1, 1]).renamed(dict(enumerate(FRUIT))) == {}
  assert labels.Mapped([1, 2, 0]).renamed({0: 'apple', 1: 'cherry'}) == {
    1: 'apple',
    2: 'cherry',
  }


def test_the_same_mapping_of_fewer_classes_is_corrected_by_name(config, tmp_path):
  mapped = spec(labels.Mapped, classes=[1, 2, 0])
  config.train_data.transforms.append(mapped)
  config.evals.val = accuracy(folder(tmp_path / 'val', ['apple', 'cherry']), mapped)
  assert labels_of(preflight.check(config)) == [1, 1, 0, 0]


class Odd(labels.grain.transforms.Map):
  def map(self, example):
    return example | {'label': np.int32(2 - example['label'])}


def test_a_transform_from_elsewhere_that_makes_labels_leaves_no_names(config, tmp_path):
  config.evals.val = accuracy(folder(tmp_path / 'val', FRUIT[1:]), spec(Odd))
  found = preflight.check(config)
  assert found.told == [] and 'compared only by number' in found.table[2]
  assert by_name.vocabulary(found.made['config.evals.val.data']) == {}


def test_parts_of_a_mixture_have_the_same_classes(config, tmp_path):
  source = spec(
    mixture.Mixture,
    parts={
      name: spec(mixture.Part, source=spec(folders.Folder, path=path), weight=1)
      for name, path in (
        ('few', folder(tmp_path / 'few', ['cherry'])),
        ('all', folder(tmp_path / 'all', FRUIT)),
      )
    },
  )
  config.train_data.source = source
  found = preflight.check(config)
  assert found.told == []
  data = found.made['config.train_data']
  shown = [data.example(i) for i in range(12)]
  names = list(data.source.parts)
  assert {e['label'].item() for e in shown if names[e['part']] == 'few'} == {2}
  assert {e['label'].item() for e in shown if names[e['part']] == 'all'} == {0, 1, 2}
  assert by_name.vocabulary(data)['label'] == dict(enumerate(FRUIT))
  folder(tmp_path / 'few', ['date'])
  told = [text for text, _ in preflight.check(config).told]
  assert len(told) == 1 and "new are 'date'; missing are 'apple', 'banana'" in told[0]


def test_probes_compare_their_own_two_sources(config, tmp_path):
  probe = spec(
    fewshot.FewShot,
    train=inputs(pipeline.EvalInput, folder(tmp_path / 'a', ['x', 'y', 'z'])),
    data=inputs(pipeline.EvalInput, folder(tmp_path / 'b', ['x', 'z'])),
  )
  config.evals = dict(val=probe)
  found = preflight.check(config)
  assert found.told == [] and labels_of(found) == [0, 0, 2, 2]
  folder(tmp_path / 'b', ['w'])
  [(told, _)] = preflight.check(config).told
  assert "not those of its train data; new are 'w'; missing are 'y'" in told


@pytest.mark.parametrize(
  'names, theirs, reworded, want',
  [
    ({0: 'n01440764'}, {0: 'tench'}, False, '1 classes, compared by number'),
    (IMAGENET, {k: v.split(',')[0] for k, v in IMAGENET.items()}, True, 'by number'),
    ({0: '0', 1: '1'}, {0: '0', 1: '1', 2: '2'}, False, '2 of 3 classes'),
    ({7: 'b'}, {1: 'a', 7: 'b'}, False, '1 of 2 classes'),
    ({}, {0: 'a'}, False, 'classes are compared only by number'),
    ({}, {0: '0', 1: '1'}, False, ''),
  ],
)
def test_names_of_one_kind_are_compared(names, theirs, reworded, want):
  to, told = by_name.compared(names, theirs, Known({}, 'it', reworded))
  assert to is None and told.endswith(want) and bool(told) == bool(want)


def test_names_that_cannot_tell():
  with pytest.raises(UserError, match="'tench, Tinca tinca'.* missing are 'tench'"):
    by_name.compared({0: IMAGENET[0]}, {0: 'tench'}, Known({}, 'it'))
  with pytest.raises(UserError, match="several classes are called 'crane'"):
    by_name.compared({0: 'crane'}, {1: 'crane', 2: 'crane'}, Known({}, 'it'))
  with pytest.raises(UserError, match="new are 'date'"):  # the unknown class is named
    by_name.compared({0: '1', 1: 'date'}, {0: '0', 1: '1'}, Known({}, 'it'))
  same = {0: 'crane', 1: 'crane'}
  assert by_name.compared(same, same, Known({}, 'it')) == (None, '')
  with pytest.raises(UserError, match="new are '2'"):
    counted = {k: str(k) for k in range(3)}
    by_name.compared(counted, {0: '0', 1: '1'}, Known({}, 'it'))


def test_missing_labels_stay():
  mapped = labels.ByName({0: 2, 1: 0}, {}, 'box_labels')
  got = mapped.map({'box_labels': np.array([1, -1, 0])})['box_labels']
  assert got.tolist() == [0, -1, 2] and got.dtype == np.int32
  one = labels.ByName({0: 2}, {}).map({'label': np.int64(0)})['label']
  assert one == 2 and np.shape(one) == ()
  with pytest.raises(UserError, match='label 1 of the example with id 5 belongs'):
    labels.ByName({0: 2}, {}).map({'label': 1, 'id': 5})


# Categories of objects


def annotated(root, categories, objects=3):
  """Writes images that each show an object; the categories repeat in order."""
  ids, images, annotations = list(categories), [], []
  (root / 'images').mkdir(parents=True, exist_ok=True)
  for i in range(3):
    cv2.imwrite(str(root / 'images' / f'{i}.png'), np.zeros((48, 48, 3), np.uint8))
    images.append(dict(id=i, file_name=f'{i}.png', height=48, width=48))
  for i in range(objects):
    own = dict(id=i + 1, image_id=i, category_id=ids[i % len(ids)], iscrowd=0)
    annotations.append(own | dict(bbox=[4, 4, 9, 9], area=81))
  content = dict(
    images=images,
    annotations=annotations,
    categories=[dict(id=k, name=name) for k, name in categories.items()],
  )
  (root / 'objects.json').write_text(json.dumps(content))
  return spec(
    coco.Coco, annotations=str(root / 'objects.json'), images=str(root / 'images')
  )


SHAPES = {0: 'square', 7: 'disc', 900: 'bar'}


def finder(tmp_path, categories, objects=3, **arguments):
  """Returns a config with these categories for validation."""
  parts = dict(
    train=annotated(tmp_path / 'train', SHAPES),
    val=annotated(tmp_path / 'val', categories, objects),
  )
  data = benchmarks.Detection(
    parts=parts, shapes=[(48, 48)], eval_shapes=[(48, 48)], max_boxes=3
  )
  evaluator = spec(detection.CocoAP, data=data.eval_input(3, workers=0), **arguments)
  train = data.train_input(3, workers=0)
  return mlc.ConfigDict(dict(train_data=train, evals=dict(val=evaluator), task=None))


def test_categories_are_mapped_by_name(tmp_path):
  found = preflight.check(finder(tmp_path, {1: 'bar', 2: 'square'}))
  assert found.told == []
  assert found.table[2].endswith('2 of 3 classes, mapped by name')
  data = found.made['config.evals.val.data']
  assert [data.example(i)['box_labels'][0] for i in range(3)] == [2, 0, 2]
  train = found.made['config.train_data']
  facts = learned.of_input(train, {'image': np.zeros((3, 48, 48, 3)), 'size': 0})
  assert facts['category_names'] == ['square', 'disc', 'bar']
  assert facts['category_ids'] == [0, 7, 900] and facts['image_size'] is None
  [(told, _)] = preflight.check(finder(tmp_path, {1: 'bar', 2: 'ball'})).told
  assert "new are 'ball'; missing are 'square', 'disc'" in told


def test_annotations_get_their_own_categories_by_name(tmp_path):
  file = str(tmp_path / 'val' / 'objects.json')
  config = finder(tmp_path, {1: 'bar', 2: 'square'}, annotations=file)
  found = preflight.check(config)
  assert found.told == []
  evaluator = found.evals['val']
  rows = {
    'image_id': np.arange(3),
    'labels': np.array([[2, 1], [0, 1], [2, 5]]),
    'boxes_xyxy': np.zeros((3, 2, 4)),
    'scores': np.ones((3, 2)),
  }
  truth, entries = evaluator.entries(rows)
  # Labels of the training data: bar is 2, square is 0; disc is not a category there.
  assert [e['category_id'] for e in entries] == [1, -2, 2, -2, 1, -6]
  assert evaluator.names_of(truth) == {1: 'bar', 2: 'square', -2: 'disc'}
  config.evals.val.categories = [2, 7, 1]
  assert preflight.check(config).told == []
  config.evals.val.categories = [1, 7, 2]
  [(told, _)] = preflight.check(config).told
  assert "maps label 0, 'square', to category 1, which is 'bar' in" in told
  other = annotated(tmp_path / 'other', {3: 'ball', 4: 'disc'}).annotations
  config = finder(tmp_path, SHAPES, annotations=other)
  [(told, _)] = preflight.check(config).told
  assert 'new are ball; missing are square, bar: names must be equal, or' in told


@pytest.mark.parametrize(
  'categories', [SHAPES, {7: 'disc', 900: 'bar'}, {3: 'square', 1: 'disc', 2: 'bar'}]
)
@pytest.mark.parametrize('of_file', [False, True])
def test_true_objects_found_again_have_full_precision(tmp_path, categories, of_file):
  path = tmp_path / 'val' / 'objects.json'
  saved = tmp_path / 'saved.json'
  truth = dict(annotations=str(path)) if of_file else {}
  config = finder(tmp_path, categories, save=str(saved), pictures=0, **truth)
  found = preflight.check(config)
  assert found.told == []

  def predict(state, batch, key):
    del state, key
    scores = jnp.where(batch['box_mask'], 0.9, 0.0)
    return dict(boxes_xyxy=batch['boxes'], labels=batch['box_labels'], scores=scores)

  results = found.evals['val'].run(predict, None)
  assert results.scalars['AP'] == pytest.approx(1.0)
  there = {entry['category_id'] for entry in json.loads(saved.read_text())}
  assert there == {*categories}
  names = found.evals['val'].names_of({'categories': []})
  assert names.items() >= categories.items()


def test_labels_that_are_ids_already_stay(tmp_path):
  names = {1: 'person', 2: 'bicycle'}
  file = annotated(tmp_path, names).annotations
  objects = boxes.Objects(ids=[1, 2])
  data = pipeline.EvalInput(
    source=coco.Coco(file, str(tmp_path / 'images')),
    transforms=[image.Decode(), objects],
    batch_size=1,
  )
  evaluator = detection.CocoAP(data=data, annotations=file)
  assert evaluator.class_names == names and evaluator.problems() == []
  rows = {
    'image_id': np.arange(1),
    'labels': np.array([[2, 1]]),
    'boxes_xyxy': np.zeros((1, 2, 4)),
    'scores': np.ones((1, 2)),
  }
  _, entries = evaluator.entries(rows)
  assert [e['category_id'] for e in entries] == [2, 1]


def test_images_without_any_object_are_reported(tmp_path):
  [(told, _)] = preflight.check(finder(tmp_path, SHAPES, objects=0)).told
  assert told.startswith('evals.val.data: none of 3 images has an object that is not a')


# Other messages


def test_all_images_are_decoded_when_asked(config, tmp_path):
  path = folder(tmp_path / 'val', FRUIT, count=40)
  config.evals.val = accuracy(path)
  bad = tmp_path / 'val' / 'banana' / '17.png'
  bad.write_bytes(bad.read_bytes()[:40])
  assert preflight.check(config).told == []
  found = preflight.check(config, thorough=True)
  [(told, _)] = found.told
  assert '1 of 120 examples cannot be used: 49 (the image of the example' in told
  assert 'all examples decoded' in found.table[1]
  config.train_data.source.path = path
  assert 'others replace them' in preflight.check(config, thorough=True).table[1]


def test_the_best_checkpoint_has_a_name_that_is_known(config, tmp_path):
  config.evals.val = accuracy(folder(tmp_path / 'val', FRUIT))
  config.keep_best = 'val/loss'
  preflight.require(config)
  config.keep_best = 'val/los'
  with pytest.raises(UserError, match="keep_best='val/los' is reported by no evalu"):
    preflight.require(config)
  preflight.require(config, training=False)
  with config.ignore_type():
    config.keep_best = 3
  with pytest.raises(UserError, match='keep_best=3 is not a text: name a scalar, as'):
    preflight.require(config)


def test_texts_are_left_out_unless_they_are_needed(config):
  words = [{'image': np.zeros((8, 8, 1), np.uint8), 'label': 'apple', 'note': [b'a']}]
  config.train_data.source = words
  config.train_data.transforms = []
  data = pipeline.EvalInput(source=InMemory(words), batch_size=2)
  assert set(next(data.epoch())) == {'image', 'mask'}
  [(told, _)] = preflight.check(config).told
  assert told == (
    "train_data: 'label' are texts, which no batch can hold: make them numbers."
  )
