"""Axes: C classes."""

import json

import numpy as np
import pytest

from big_vision_like.data import class_graph
from big_vision_like.errors import UserError

NAMES = ('cup', 'table', 'cat')
TRIPLES = [
  ('cup', 'on', 'table'),
  ('table', 'under', 'cup'),
  ('cup', 'near', 'cat'),
  ('cup', 'on', 'tray'),
]


@pytest.mark.parametrize(
  'how, want',
  [
    ('none', [[4, 2, 1], [2, 3, 0], [1, 0, 2]]),
    (
      'symmetric',
      [[1, 2 / 12**0.5, 1 / 8**0.5], [2 / 12**0.5, 1, 0], [1 / 8**0.5, 0, 1]],
    ),
    ('row', [[4 / 7, 2 / 7, 1 / 7], [2 / 5, 3 / 5, 0], [1 / 3, 0, 2 / 3]]),
  ],
)
def test_relations_count_in_both_directions(how, want):
  graph = class_graph.relation(TRIPLES, NAMES, how)
  np.testing.assert_allclose(graph.edges, want, rtol=1e-6)
  assert (graph.kind, graph.normalization) == ('relation', how)


def test_only_the_most_frequent_relations_count():
  triples = [*TRIPLES, ('cat', 'on', 'table')]
  graph = class_graph.relation(triples, NAMES, 'none', most_relations=1)
  np.testing.assert_array_equal(graph.edges, [[2, 1, 0], [1, 3, 1], [0, 1, 2]])


def test_attributes_are_compared_by_jensen_shannon():
  counts = {'cup': {'red': 2}, 'table': {'red': 3, 'blue': 3}}
  graph = class_graph.attribute(counts, NAMES, 'none')
  # By hand: the mean of log2(1 / 0.75) and of log2(0.5 / 0.75) / 2 + log2(2) / 2.
  alike = 1 - (np.log2(4 / 3) + np.log2(2 / 3) / 2 + 0.5) / 2
  np.testing.assert_allclose(
    graph.edges, [[1, alike, 0], [alike, 1, 0], [0, 0, 1]], rtol=1e-6
  )
  rows = class_graph.attribute(counts, NAMES, 'row').edges
  np.testing.assert_allclose(rows.sum(axis=1), 1.0, rtol=1e-6)
  red = class_graph.attribute(counts, NAMES, 'none', most_attributes=1)
  assert red.edges[0, 1] == 1.0


def test_images_that_show_both_classes_count_once():
  images = [['cup', 'table', 'cup'], ['cup', 'cup'], ['cup', 'table', 'cat', 'dog']]
  graph = class_graph.cooccurrence(images, NAMES, 'none')
  np.testing.assert_array_equal(graph.edges, [[4, 2, 1], [2, 4, 1], [1, 1, 3]])


@pytest.mark.parametrize('suffix', ('npz', 'json'))
def test_a_file_is_reordered_by_name(tmp_path, capsys, suffix):
  path = tmp_path / f'graph.{suffix}'
  class_graph.write(path, class_graph.relation(TRIPLES, NAMES, 'none'))
  same = class_graph.weights(str(path), NAMES)['constants']['enhance']['graph']
  np.testing.assert_array_equal(
    same, [[4, 2, 1, 0], [2, 3, 0, 0], [1, 0, 2, 0], [0] * 4]
  )
  assert not capsys.readouterr().err
  other = class_graph.weights(str(path), NAMES[::-1], at='graph')['constants']['graph']
  np.testing.assert_array_equal(other[:3, :3], same[:3, :3][::-1, ::-1])
  assert 'reordered' in capsys.readouterr().err
  class_graph.weights(str(path), NAMES[1:])
  assert 'left out of the graph: cup' in capsys.readouterr().err


def test_classes_come_from_annotations(tmp_path):
  path = tmp_path / 'graph.npz'
  class_graph.write(path, class_graph.relation(TRIPLES, NAMES, 'none'))
  categories = [{'id': 7, 'name': 'cup'}, {'id': 2, 'name': 'cat'}]
  annotations = tmp_path / 'train.json'
  annotations.write_text(
    json.dumps({'images': [], 'annotations': [], 'categories': categories})
  )
  found = class_graph.weights(str(path), annotations=str(annotations), at='graph')
  np.testing.assert_array_equal(
    found['constants']['graph'], [[2, 1, 0], [1, 4, 0], [0, 0, 0]]
  )
  with pytest.raises(UserError, match='either `names` or `annotations`'):
    class_graph.weights(str(path))


def test_groups_link_all_their_classes():
  groups = [('cat', 'cup'), ('table',)]
  for weight in (1, 3):
    found = class_graph.of_groups(groups, NAMES, weight)
    np.testing.assert_array_equal(
      found['constants']['enhance']['graph'],
      weight * np.array([[1, 0, 1, 0], [0, 1, 0, 0], [1, 0, 1, 0], [0] * 4]),
    )


@pytest.mark.parametrize(
  'changes, message',
  [
    (dict(names=['cup', 'cup']), 'several classes of the graph are called cup'),
    (dict(graph=[[1.0]]), r'2 names has edges of shape \(1, 1\), not \(2, 2\)'),
    (dict(graph=[[1, 0], [0, -1]]), 'negative or not finite'),
    (dict(graph=[[1, 0], [0]]), '`graph` is not a matrix of numbers'),
    (dict(names='cup'), '`names` must be a list of texts'),
    (dict(names=['cup', 'dog']), 'the graph lacks 1 of the 2 classes .*: cat; it has'),
  ],
)
def test_wrong_files_are_one_sentence(tmp_path, changes, message):
  path = tmp_path / 'graph.json'
  whole = dict(
    names=['cup', 'cat'], graph=[[1, 0], [0, 1]], kind='relation', normalization='none'
  )
  path.write_text(json.dumps(whole | changes))
  with pytest.raises(UserError, match=message) as error:
    class_graph.weights(str(path), ('cup', 'cat'))
  assert str(path) in str(error.value)


def test_missing_files_and_fields_are_named(tmp_path):
  with pytest.raises(UserError, match='does not exist: write it with'):
    class_graph.read(tmp_path / 'graph.npz')
  (tmp_path / 'graph.json').write_text('{"names": []}')
  with pytest.raises(UserError, match='it lacks graph, kind, normalization'):
    class_graph.read(tmp_path / 'graph.json')
  (tmp_path / 'graph.pkl').write_text('x')
  with pytest.raises(UserError, match='neither .json nor .npz'):
    class_graph.read(tmp_path / 'graph.pkl')
