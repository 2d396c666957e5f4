import gzip
import zlib

import hypothesis
import numpy as np
import pictures
import pytest
import tensorflow_datasets as tfds
from hypothesis import strategies as st

from big_vision_like.data.input import cache
from big_vision_like.data.sources import tfds as sources
from big_vision_like.data.sources import tfrecords
from big_vision_like.errors import BadRecordError, UserError
from big_vision_like.ops import crc32c


@pytest.mark.parametrize(
  'data, checksum',
  [
    # RFC 3720, appendix B.4, and the check value in the catalogue of polynomials.
    (bytes(32), 0x8A9136AA),
    (b'\xff' * 32, 0x62A8AB43),
    (bytes(range(32)), 0x46DD794E),
    (bytes(range(31, -1, -1)), 0x113FDB5C),
    (b'123456789', 0xE3069283),
    (b'', 0),
  ],
)
def test_checksums_of_the_standard(data, checksum):
  assert crc32c.checksum(data) == checksum


@hypothesis.given(st.integers(0, 3 * crc32c.PIECE), st.integers(0, 2**32 - 1))
@hypothesis.settings(deadline=None, max_examples=30)
def test_checksums_of_long_data_match_a_bitwise_computation(length, seed):
  data = np.random.default_rng(seed).bytes(length)
  register = 0xFFFFFFFF
  table = crc32c._byte().tolist()
  for byte in data:
    register = table[(register ^ byte) & 255] ^ register >> 8
  assert crc32c.checksum(data) == register ^ 0xFFFFFFFF


def test_a_record_that_tensorflow_wrote():
  # tf.io.TFRecordWriter wrote b'big vision'.
  record = bytes.fromhex('0a00000000000000aea3bf3a62696720766973696f6e2dad7e98')
  assert tfrecords.payload(record) == b'big vision'


def test_splits_are_cut_as_tfds_says(tmp_path):
  pictures.write_tfds(tmp_path, 'tfrecord')
  ids = {
    'train[5:9]': [5, 6, 7, 8],
    'train[90%:]': [18, 19],
    'train[:1]+train[13:15]': [0, 13, 14],
  }
  for split, want in ids.items():
    source = sources.Tfds('tiny', split, str(tmp_path))
    assert [source[i]['id'] for i in range(len(source))] == want
  with pytest.raises(UserError, match='holds no examples'):
    len(sources.Tfds('tiny', 'train[:0]', str(tmp_path)))


@pytest.fixture
def cut(tmp_path):
  """Returns a TFDS data set whose second shard ends within its fourth record."""
  files = pictures.write_tfds(tmp_path, 'tfrecord')
  whole = files[1].read_bytes()
  end = sum(len(pictures.tfrecord(r)) for r in pictures.RECORDS[7:10])
  files[1].write_bytes(whole[: end + 20])
  return files[1], sources.Tfds('tiny', data_dir=str(tmp_path))


def test_records_after_a_truncation_are_bad_and_all_others_read(cut):
  file, source = cut
  assert len(source) == 20
  for i in range(20):
    if 10 <= i < 14:
      with pytest.raises(BadRecordError) as error:
        source[i]
      name = f'record {i - 7} of {file} (example {i})'
      reason = (
        'is unusable: it is truncated' if i == 10 else 'is missing: the file ends'
      )
      assert str(error.value).startswith(f'{name} {reason}')
    else:
      assert source[i]['id'] == i
  assert source.problems() == [f'{file} is truncated or damaged at record 3']
  with pytest.raises(BadRecordError, match='record 3 of'):
    source.__getitems__([0, 10])


def test_a_missing_shard_is_bad_records(cut):
  file, source = cut
  file.unlink()
  with pytest.raises(BadRecordError, match=f'record 0 of {file}'):
    source[7]
  assert source[6]['id'] == 6 and source[14]['id'] == 14
  assert source.problems() == [f'{file} is missing']


@pytest.mark.parametrize(
  'place, reason', [(3, 'its length is damaged'), (60, 'its checksum is wrong')]
)
def test_a_flipped_bit_is_found(tmp_path, place, reason):
  file = pictures.write_tfrecords(tmp_path)[0]
  data = bytearray(file.read_bytes())
  start = len(pictures.tfrecord(pictures.RECORDS[0]))
  data[start + place] ^= 1
  file.write_bytes(data)
  source = tfrecords.TFRecord(f'{tmp_path}/*')
  assert source[0]['id'] == 0
  with pytest.raises(BadRecordError, match=f'record 1 of {file} .* {reason}'):
    source[1]
  # Without a record's length, the start of the next record is unknown.
  assert len(source) == (15 if place == 3 else 20)
  assert len(source.problems()) == (place == 3)


@pytest.mark.parametrize('compress', [gzip.compress, zlib.compress])
def test_compressed_files_are_refused_with_the_remedy(tmp_path, compress):
  file = pictures.write_tfrecords(tmp_path)[0]
  file.write_bytes(compress(file.read_bytes()))
  with pytest.raises(UserError, match='compressed.*prepare_data.py --from tfrecord:'):
    len(tfrecords.TFRecord(str(file)))


def write(file, features, examples):
  features = tfds.features.FeaturesDict(features)
  records = [features.serialize_example(example) for example in examples]
  file.write_bytes(b''.join(map(pictures.tfrecord, records)))


def test_features_are_inferred_and_renamed(tmp_path):
  file = tmp_path / 'a'
  features = {
    'image/encoded': tfds.features.Image(),
    'image/class/label': tfds.features.Scalar(np.int64),
    'xmin': tfds.features.Tensor(shape=(None,), dtype=np.float32),
    'text': tfds.features.Text(),
    'words': tfds.features.Sequence(tfds.features.Text()),
  }
  examples = [
    {
      'image/encoded': e['image'],
      'image/class/label': e['label'],
      'xmin': [0.5] * (i % 3),
      'text': f'number {i}',
      'words': ['a', 'b', 'c'][: i % 4],
    }
    for i, e in enumerate(pictures.EXAMPLES)
  ]
  write(file, features, examples)
  source = tfrecords.TFRecord(str(file))
  assert {n: type(f) for n, f in source.features.items()} == {
    n: type(f) for n, f in features.items()
  }
  example = source[5]
  assert example['xmin'].tolist() == [0.5, 0.5] and example['text'] == b'number 5'
  assert example['words'] == [b'a']
  chosen = {'image': 'image/encoded', 'label': 'image/class/label'}
  renamed = tfrecords.TFRecord(str(file), keys=chosen)
  assert renamed[5] == {k: pictures.EXAMPLES[5][k] for k in chosen}
  assert list(renamed.features) == ['image', 'label']
  assert (
    renamed.features.deserialize_example_np(
      renamed.record(5), decoders={'image': tfds.decode.SkipDecoding()}
    )
    == renamed[5]
  )
  with pytest.raises(UserError, match="have no 'img'; they have .*xmin"):
    tfrecords.TFRecord(str(file), keys={'image': 'img'}).features  # noqa: B018


def test_features_json_next_to_the_files_is_used(tmp_path):
  pictures.write_tfrecords(tmp_path)
  pictures.FEATURES.save_config(str(tmp_path))
  source = tfrecords.TFRecord(f'{tmp_path}/a.tfrecord-*')
  assert source.label_names == pictures.NAMES
  assert source[19] == pictures.EXAMPLES[19]


def test_an_example_without_a_feature_of_the_others_is_bad(tmp_path):
  file = tmp_path / 'a'
  records = [*pictures.RECORDS[:3]]
  del records[1:2]
  short = tfds.features.FeaturesDict({'id': np.int64}).serialize_example({'id': 1})
  pictures.FEATURES.save_config(str(tmp_path))
  file.write_bytes(b''.join(map(pictures.tfrecord, [records[0], short, b'\x07junk'])))
  source = tfrecords.TFRecord(str(file))
  with pytest.raises(BadRecordError, match=r"example 1 has no '(image|label)'"):
    source[1]
  with pytest.raises(BadRecordError, match='example 2 does not match its features'):
    source[2]


def test_an_index_is_kept_until_a_file_changes(tmp_path, monkeypatch):
  files = pictures.write_tfrecords(tmp_path)
  seen = []
  scan = tfrecords._scan
  monkeypatch.setattr(tfrecords, '_scan', lambda path: seen.append(path) or scan(path))
  for _ in range(2):
    assert len(tfrecords.TFRecord(f'{tmp_path}/*')) == 20
  assert sorted(seen) == sorted(map(str, files))
  files[2].write_bytes(files[2].read_bytes() + pictures.tfrecord(pictures.RECORDS[0]))
  assert len(tfrecords.TFRecord(f'{tmp_path}/*')) == 21
  kept = cache.file('index', []).parent
  assert len(list(kept.glob('*.npz'))) == 2
