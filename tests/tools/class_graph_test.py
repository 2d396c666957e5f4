"""Tests of Visual Genome's files, converted for detection and counted for graphs."""

import json

import numpy as np
import pytest

from big_vision_like.data import class_graph
from big_vision_like.data.prepare import visual_genome
from big_vision_like.data.sources import coco
from big_vision_like.errors import UserError
from tools import build_class_graph, convert_visual_genome

URL = 'https://example.org/people/VG_100K{}/{}.jpg'
IMAGES = [
  {'image_id': n, 'url': URL.format('_2' * (n % 2), n), 'width': 60, 'height': 40}
  for n in (3, 1, 2)
]


def thing(number, *names, **box):
  return {
    'object_id': number,
    'names': list(names),
    'x': 1,
    'y': 2,
    'w': 9,
    'h': 8,
  } | box


OBJECTS = [
  {'image_id': 1, 'objects': [thing(1, 'Cup ', 'mug'), thing(2, 'table')]},
  {'image_id': 2, 'objects': [thing(3, 'cup'), thing(4, 'cat', w=0), thing(5, 'sky')]},
  {'image_id': 3, 'objects': [thing(6, 'cup'), thing(7, 'table'), thing(8, 'cat')]},
]
RELATIONSHIPS = [
  {
    'image_id': 1,
    'relationships': [
      {'predicate': 'ON', 'subject': thing(1, 'cup'), 'object': {'name': 'table'}},
      {'predicate': 'near', 'subject': thing(1, 'cup'), 'object': thing(4, 'cat')},
      {'predicate': '', 'subject': thing(1, 'cup'), 'object': thing(4, 'cat')},
    ],
  }
]
ATTRIBUTES = [
  {
    'image_id': 1,
    'attributes': [
      thing(1, 'cup', attributes=['Red', 'red ']),
      thing(2, 'table', attributes=['red', 'blue']),
      thing(4, 'cat'),
    ],
  }
]


@pytest.fixture
def folder(tmp_path):
  for name, content in (
    ('image_data', IMAGES),
    ('objects', OBJECTS),
    ('relationships', RELATIONSHIPS),
    ('attributes', ATTRIBUTES),
  ):
    (tmp_path / f'{name}.json').write_text(json.dumps(content))
  (tmp_path / 'classes.txt').write_text('cup\ntable\ncat\n')
  return tmp_path


def test_objects_become_annotations(folder, capsys):
  assert not convert_visual_genome.main([str(folder), '--classes=3', '--test=1'])
  printed = capsys.readouterr().out
  assert 'train_3.json: 2 images, 3 objects' in printed
  assert 'left out: 1 object of other classes' in printed
  assert 'left out: 1 object without a box' in printed
  source = coco.Coco(str(folder / 'train_3.json'), str(folder))
  # Equally frequent classes are in alphabetical order.
  assert source.category_names == ['cup', 'cat', 'table']
  assert source.contents.names == ['VG_100K_2/1.jpg', 'VG_100K/2.jpg']
  assert source.contents.labels_N.tolist() == [0, 2, 0]
  assert source.contents.boxes_N4[0].tolist() == [1, 2, 9, 8]
  assert source.left_out == {}


def graph(folder, *arguments):
  out = folder / 'graph.npz'
  classes = ['--classes', str(folder / 'classes.txt'), '--out', str(out)]
  assert not build_class_graph.main([*arguments, *classes])
  return class_graph.read(out)


def test_relations_of_visual_genome(folder, capsys):
  found = graph(
    folder, 'relation', str(folder / 'relationships.json'), '--normalize=none'
  )
  assert found.names == ('cup', 'table', 'cat')
  np.testing.assert_array_equal(found.edges, [[3, 1, 1], [1, 2, 0], [1, 0, 2]])
  assert '3 classes, 7 edges, 0 classes without' in capsys.readouterr().out
  (folder / 'own.csv').write_text('cup,on,table\ncup,near,cat\n')
  again = graph(folder, 'relation', str(folder / 'own.csv'), '--normalize=none')
  np.testing.assert_array_equal(again.edges, found.edges)


def test_attributes_of_visual_genome(folder):
  found = graph(
    folder, 'attribute', str(folder / 'attributes.json'), '--normalize=none'
  )
  (folder / 'own.tsv').write_text('cup\tred\ncup\tred\ntable\tred\ntable\tblue\n')
  again = graph(folder, 'attribute', str(folder / 'own.tsv'), '--normalize=none')
  np.testing.assert_array_equal(again.edges, found.edges)
  assert 0.68 < found.edges[0, 1] < 0.7 and found.edges[0, 2] == 0


def test_annotations_in_cocos_format(folder):
  convert_visual_genome.main([str(folder), '--classes=3', '--test=1'])
  found = graph(
    folder, 'cooccurrence', str(folder / 'train_3.json'), '--normalize=symmetric'
  )
  root = 1 / 2  # each class is in one image with the other, so both degrees are 2
  np.testing.assert_allclose(
    found.edges, [[1, root, 0], [root, 1, 0], [0, 0, 1]], rtol=1e-6
  )


@pytest.mark.parametrize(
  'text, message',
  [
    ('cup,on\n', 'line 1 has not 3 texts'),
    ('cup,on,table\ncup,,cat\n', 'line 2 has not 3 texts'),
  ],
)
def test_damaged_tables_are_named(folder, capsys, text, message):
  (folder / 'own.csv').write_text(text)
  arguments = ['relation', str(folder / 'own.csv'), '--normalize=none']
  classes = ['--classes', str(folder / 'classes.txt'), '--out', str(folder / 'g.npz')]
  assert build_class_graph.main([*arguments, *classes]) == 1
  assert message in capsys.readouterr().err


def test_other_files_are_named(folder):
  with pytest.raises(UserError, match="no image with an `image_id` and a list 'objec"):
    list(visual_genome.entries(folder / 'relationships.json', 'objects'))
  with pytest.raises(UserError, match='has 4 classes, not 9'):
    visual_genome.frequent_classes(folder / 'objects.json', 9)
  (folder / 'objects.json').write_text('{}')
  with pytest.raises(UserError, match='no list of images'):
    visual_genome.frequent_classes(folder / 'objects.json', 1)
