"""Our parser of examples, against that of TFDS."""

import numpy as np
import pictures
import pytest
import tensorflow_datasets as tfds
from tensorflow_datasets.proto import tf_example_pb2

from big_vision_like.data.sources import array_records, protos
from big_vision_like.errors import BadRecordError

f = tfds.features
PNG = pictures.EXAMPLES[0]['image']
MATRIX = np.arange(6, dtype=np.float32).reshape(2, 3)
BYTES = np.array([[0, 1], [2, 255]], np.uint8)
# Features that the parser reads itself, with values.
FEATURES = {
  'image': (f.Image(), pictures.EXAMPLES[2]['image']),
  'fixed': (f.Image(shape=(9, 12, 3), encoding_format='png'), PNG),
  'text': (f.Text(), 'schön\0'.encode()),
  'label': (f.ClassLabel(names=['a', 'b']), 1),
  'plain': (f.Scalar(np.int64), -(2**40)),
  'int32': (f.Scalar(np.int32), -7),
  'uint8': (f.Scalar(np.uint8), 255),
  'bool': (f.Scalar(np.bool_), True),
  'float32': (f.Scalar(np.float32), 0.1),
  'float64': (f.Scalar(np.float64), 0.1),
  'float16': (f.Scalar(np.float16), 0.1),
  'scalar': (f.Tensor(shape=(), dtype=np.uint16), 65535),
  'matrix': (f.Tensor(shape=(2, 3), dtype=np.float32), MATRIX),
  'bools': (f.Tensor(shape=(3,), dtype=np.bool_), np.array([True, False, True])),
  'bytes': (f.Tensor(shape=(2, 2), dtype=np.uint8), BYTES),
  'free': (f.Tensor(shape=(None, 2), dtype=np.int64), np.arange(6).reshape(3, 2)),
  'video': (f.Sequence(f.Image(shape=(9, 12, 3), encoding_format='png')), [PNG] * 2),
  'none': (f.Tensor(shape=(None,), dtype=np.int64), np.zeros(0, np.int64)),
}  # fmt: skip
OTHERS = {
  'encoded': f.Tensor(shape=(2,), dtype=np.uint8, encoding='zlib'),
  'sequence': f.Sequence(np.int64),
  'objects': f.Sequence({'bbox': f.BBoxFeature()}),
  'box': f.BBoxFeature(),
  'nested': f.FeaturesDict({'x': np.int64}),
  'optional': f.Text(optional=True),
  'ragged': f.Tensor(shape=(None, None), dtype=np.int64),
  'string': f.Tensor(shape=(), dtype=np.str_),
}


def assert_same(got, want):
  assert got.keys() == want.keys()
  for name, value in want.items():
    assert type(got[name]) is type(value), name
    np.testing.assert_array_equal(got[name], value, err_msg=name)
    if isinstance(value, np.ndarray):
      assert (got[name].dtype, got[name].shape) == (value.dtype, value.shape), name


@pytest.mark.parametrize('name', FEATURES)
def test_each_kind_of_feature_is_parsed_as_tfds_does(name):
  feature, value = FEATURES[name]
  features = f.FeaturesDict({name: feature})
  record = features.serialize_example({name: value})
  parser = protos.Parser(features)
  assert parser.others == [] and parser.remarks() == []
  want = protos.parsed(record, features, 'it')
  assert_same(parser(record, 'it'), want)
  if name != 'none':  # TFDS decides whether an empty field is missing
    assert_same(parser._read(record), want)


def test_whole_examples_are_parsed_as_tfds_does(monkeypatch):
  whole = {name: pair for name, pair in FEATURES.items() if name != 'none'}
  features = f.FeaturesDict({name: feature for name, (feature, _) in whole.items()})
  record = features.serialize_example(
    {name: value for name, (_, value) in whole.items()}
  )
  want = protos.parsed(record, features, 'it')
  monkeypatch.setattr(protos, 'parsed', None)  # not needed
  assert_same(protos.Parser(features)(record, 'it'), want)


@pytest.mark.parametrize('name', OTHERS)
def test_other_features_are_left_to_tfds_and_told(name):
  features = f.FeaturesDict({'label': np.int64, name: OTHERS[name]})
  parser = protos.Parser(features)
  assert parser.others == [name]
  assert parser.remarks() == [f'TFDS parses the examples, slowly, because of {name}']


def test_an_example_of_other_features_is_that_of_tfds():
  features = f.FeaturesDict({'label': np.int64, 'boxes': f.Sequence(f.BBoxFeature())})
  boxes = [f.BBox(0.0, 0.1, 0.5, 1.0)] * 2
  record = features.serialize_example({'label': 3, 'boxes': boxes})
  assert_same(
    protos.Parser(features)(record, 'it'), protos.parsed(record, features, 'it')
  )


def changed(**fields):
  """A record of FEATURES' label and text with fields changed; None deletes one."""
  features = f.FeaturesDict({'label': np.uint8, 'text': f.Text(), 'extra': np.int64})
  record = features.serialize_example({'label': 1, 'text': 'x', 'extra': 5})
  proto = tf_example_pb2.Example.FromString(record)
  for name, change in fields.items():
    del proto.features.feature[name]
    if change is not None:
      change(proto.features.feature[name])
  return proto.SerializeToString()


@pytest.mark.parametrize(
  'fields',
  [
    {'label': None},
    {'label': lambda x: x.int64_list.value.extend([1, 2])},
    {'label': lambda x: x.int64_list.value.append(256)},
    {'label': lambda x: x.bytes_list.value.append(b'1')},
    {'label': lambda x: x.float_list.value.append(2.0)},
    {'text': lambda x: x.int64_list.value.append(4)},
    {'text': lambda x: x.bytes_list.SetInParent()},
    {'extra': None},
  ],
)
def test_odd_examples_are_those_of_tfds_or_bad_in_the_same_words(fields):
  features = f.FeaturesDict({'label': np.uint8, 'text': f.Text()})
  record = changed(**fields)

  def outcome(parse):
    try:
      return parse()
    except BadRecordError as error:
      return str(error)

  got = outcome(lambda: protos.Parser(features)(record, 'it'))
  want = outcome(lambda: protos.parsed(record, features, 'it'))
  assert got == want
  assert isinstance(got, str) or got['text']


def test_what_is_no_proto_is_a_bad_record():
  with pytest.raises(BadRecordError, match='it does not match its features'):
    protos.Parser(pictures.FEATURES)(b'\x07what is this', 'it')


def test_plain_files_are_read_in_bulk(tmp_path):
  pictures.write_array_records(tmp_path)
  source = array_records.ArrayRecord(
    f'{tmp_path}/*', keys={'picture': 'image', 'label': 'label'}
  )
  examples = source.__getitems__([3, 19, 3])
  assert examples == [source[i] for i in (3, 19, 3)]
  assert examples[1] == {
    'picture': pictures.EXAMPLES[19]['image'],
    'label': pictures.EXAMPLES[19]['label'],
  }
