import pictures
import pytest
from array_record.python import array_record_module

from big_vision_like.data.sources import array_records, tfds
from big_vision_like.errors import BadRecordError, UserError


def damaged(file, damage):
  data = bytearray(file.read_bytes())
  match damage:
    case 'cut in half':
      del data[len(data) // 2 :]
    case 'cut at the end':
      del data[-100:]
    case 'empty':
      del data[:]
    case 'zeros':
      data[:] = bytes(len(data))
  file.write_bytes(data)


DAMAGES = ['cut in half', 'cut at the end', 'empty', 'zeros']


@pytest.mark.parametrize('damage', DAMAGES)
def test_a_truncated_shard_gives_bad_records_and_others_are_read(tmp_path, damage):
  files = pictures.write_tfds(tmp_path, 'array_record')
  damaged(files[1], damage)
  source = tfds.Tfds('tiny', data_dir=str(tmp_path))
  assert len(source) == 20
  for i in range(20):
    if 7 <= i < 14:
      name = rf'record {i - 7} of {files[1]} \(example {i}\) is unusable'
      with pytest.raises(BadRecordError, match=name):
        source[i]
    else:
      assert source[i] == pictures.EXAMPLES[i]
  with pytest.raises(BadRecordError, match='record 2 of'):
    source.__getitems__([0, 9, 15])
  assert source.__getitems__([0, 15]) == [pictures.EXAMPLES[i] for i in (0, 15)]
  assert len(source.problems()) == 1 and str(files[1]) in source.problems()[0]


def test_a_slice_names_the_place_in_its_shard(tmp_path):
  files = pictures.write_tfds(tmp_path, 'array_record')
  files[1].unlink()
  source = tfds.Tfds('tiny', 'train[9:15]', data_dir=str(tmp_path))
  with pytest.raises(BadRecordError, match=rf'record 3 of {files[1]} \(example 1\)'):
    source[1]
  assert source[5]['id'] == 14
  assert source.problems() == [f'{files[1]} is missing']


def test_a_flipped_bit_costs_one_record(tmp_path):
  file = pictures.write_array_records(tmp_path)[0]
  data = bytearray(file.read_bytes())
  data[data.index(pictures.EXAMPLES[3]['image']) + 50] ^= 1
  file.write_bytes(data)
  source = array_records.ArrayRecord(f'{tmp_path}/*')
  with pytest.raises(BadRecordError, match=f'record 3 of {file} .* hash mismatch'):
    source[3]
  assert [source[i]['id'] for i in (2, 4, 19)] == [2, 4, 19]


@pytest.mark.parametrize('damage', DAMAGES)
def test_plain_files_have_to_be_whole(tmp_path, damage):
  files = pictures.write_array_records(tmp_path)
  damaged(files[2], damage)
  source = array_records.ArrayRecord(f'{tmp_path}/*')
  with pytest.raises(
    UserError, match=f'{files[2]} is not a complete array_record file'
  ):
    len(source)
  assert len(source.problems()) == 1
  rest = array_records.ArrayRecord([str(file) for file in files[:2]])
  assert [rest[i] for i in range(14)] == pictures.EXAMPLES[:14]


def test_a_shard_of_another_length_than_tfds_wrote_is_a_problem(tmp_path):
  files = pictures.write_tfds(tmp_path, 'array_record')
  writer = array_record_module.ArrayRecordWriter(str(files[1]), 'group_size:1')
  writer.write(pictures.RECORDS[7])
  writer.close()
  source = tfds.Tfds('tiny', data_dir=str(tmp_path))
  assert source.problems() == [f'{files[1]} holds 1 records, not 7']
  assert source[7] == pictures.EXAMPLES[7]
  with pytest.raises(BadRecordError, match=f'record 1 of {files[1]}'):
    source[8]


def test_records_that_are_not_examples_are_refused(tmp_path):
  writer = array_record_module.ArrayRecordWriter(str(tmp_path / 'a'), 'group_size:1')
  writer.write(b'\x07what is this')
  writer.close()
  with pytest.raises(UserError, match='not tf.train.Example'):
    array_records.ArrayRecord(str(tmp_path / 'a')).features  # noqa: B018
