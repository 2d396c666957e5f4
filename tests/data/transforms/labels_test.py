import json

import numpy as np
import pytest

from big_vision_like.data.input import pipeline
from big_vision_like.data.transforms import labels
from big_vision_like.errors import BadRecordError, UserError


def label(transform, **example):
  got = transform.map({'image': 'kept', **example})
  assert got['image'] == 'kept'
  assert got['label'].dtype == np.int32 and got['label'].shape == ()
  return int(got['label'])


def clevr(*depths):
  """Returns objects as TFDS gives them: one list for each property."""
  places = [np.array([9.0, 200.0, depth], np.float32) for depth in depths]
  return {'pixel_coords': places, 'shape': [0] * len(depths)}


def kitti(*objects):
  return {
    'type': [np.int64(kind) for kind, _ in objects],
    'location': [np.array([-90.0, 3.0, depth], np.float32) for _, depth in objects],
  }


def test_another_feature_as_label():
  assert label(labels.Label('label_azimuth'), label_azimuth=np.int64(17)) == 17
  nested = labels.Label('objects/size')
  assert label(nested, objects={'size': 4}, label=np.int64(2)) == 4
  with pytest.raises(UserError, match="no 'label_azimuth'; they have image, id"):
    labels.Label('label_azimuth').map({'image': 0, 'id': 1})


def test_a_hidden_label_keeps_the_names_of_classes():
  assert (
    label(labels.Unlabelled(), label=np.int64(3)) == label(labels.Unlabelled()) == -1
  )
  names = {0: 'ant', 1: 'bee'}
  assert labels.Unlabelled().renamed(names) == names
  by_name = labels.ByName({0: 1, 1: 0}, {0: 'bee', 1: 'ant'})
  assert label(by_name, label=np.int32(-1)) == -1


@pytest.mark.parametrize('values, size', [(32, 2), (40, 2.5)])
def test_bins_of_dsprites(values, size):
  transform = labels.Binned('x', values=values)
  got = [label(transform, x=np.int64(x)) for x in range(values)]
  assert got == [int(x // size) for x in range(values)]
  assert set(got) == set(range(16))
  for wrong in (-1, values):
    with pytest.raises(UserError, match=f'x is {wrong} in the example with id 3'):
      transform.map({'x': wrong, 'id': 3})


@pytest.mark.parametrize('count', [3, 7, 10])
def test_objects_of_clevr_are_counted(count):
  assert label(labels.ClevrCount(), objects=clevr(*[9.0] * count)) == count - 3


@pytest.mark.parametrize(
  'closest, want',
  [(5.0, 0), (8.0, 0), (8.25, 1), (8.5, 1), (8.75, 2), (9.5, 3), (9.75, 4), (10.5, 5)],
)
def test_distance_of_clevr(closest, want):
  transform = labels.ClevrDistance()
  assert label(transform, objects=clevr(11.0, closest, 12.0)) == want


@pytest.mark.parametrize(
  'objects, want',
  [
    ([(0, 7.5)], 0),
    ([(1, 8.0), (0, 30.0)], 0),
    ([(2, 19.0), (5, 3.0)], 1),  # a cyclist is not a vehicle
    ([(0, 20.5)], 2),
    ([(3, 5.0), (6, 4.0)], 3),
    ([], 3),
  ],
)
def test_distance_of_kitti(objects, want):
  assert label(labels.KittiDistance(), objects=kitti(*objects)) == want


def test_a_value_below_all_thresholds_is_named():
  with pytest.raises(UserError, match='-1.0 is not above the lowest threshold, 0.0'):
    labels.ClevrDistance().map({'objects': clevr(9.0, -1.0)})


def test_real_labels_are_filled_up(golden):
  found = json.loads((golden / 'imagenet_real_metric.json').read_text())['labels']
  for each in found:
    example = {'real_label': [np.int64(c) for c in each]}
    got = labels.RealLabels(size=4).map(example)['labels']
    assert got.dtype == np.int32 and got.shape == (4,)
    assert got.tolist() == each + [-1] * (4 - len(each))
  with pytest.raises(
    UserError, match='id 9 has 3 labels: more than size=2; raise size'
  ):
    labels.RealLabels(size=2).map({'real_label': [1, 2, 3], 'id': 9})


def test_kept_features_fit_into_a_batch():
  source = [
    {
      'image': np.zeros((2, 2, 1), np.uint8),
      'label': np.int64(i),
      'file_name': b'text',
      'objects': {'type': [0] * i},
      'id': ident,
    }
    for i, ident in enumerate([np.int64(7), np.int64(8)])
  ]
  data = pipeline.EvalInput(
    source=source, batch_size=2, transforms=[labels.Keep(('image', 'label'))]
  )
  (batch,) = data.epoch()
  assert batch.keys() == {'image', 'label', 'id', 'mask'}
  assert batch['id'].tolist() == [7, 8] and batch['label'].tolist() == [0, 1]


def test_an_id_that_is_a_text_is_left_out():
  got = labels.Keep(names=('a',)).map({'a': 1, 'b': 2, 'id': b'n01440764_10026'})
  assert got == {'a': 1}
  with pytest.raises(UserError, match="no 'label'; they have a, id"):
    labels.Keep(names=('a', 'label')).map({'a': 1, 'id': 2})


def test_labels_out_of_range_are_bad_records():
  check = labels.InRange(classes=3)
  assert check.map({'label': np.int64(2)}) == {'label': 2}
  for label in (-1, 3):
    with pytest.raises(BadRecordError) as error:
      check.map({'label': label, 'id': 7})
    assert str(error.value) == (
      f'label {label} of the example with id 7 is not one of 3 classes (0 to 2)'
    )


def test_classes_become_others():
  odd = labels.Mapped([0, 1, 0, 1])
  assert [label(odd, label=np.int64(i)) for i in range(4)] == [0, 1, 0, 1]
  for wrong in (4, -1):
    with pytest.raises(UserError, match=f'label {wrong} of .* id 7 is not one of'):
      odd.map({'label': wrong, 'id': 7})
