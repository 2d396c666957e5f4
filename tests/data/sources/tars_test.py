import gzip
import io
import json
import os
import tarfile

import hypothesis
import numpy as np
import pictures
import pytest
import tensorflow_datasets as tfds
from hypothesis import strategies as st

from big_vision_like.data.sources import shards, tars
from big_vision_like.errors import BadRecordError, UserError


def write(file, members, **options):
  with tarfile.open(file, 'w', **options) as tar:
    for name, data in members:
      member = tarfile.TarInfo(name)
      member.size, member.mtime = len(data), 1.5
      tar.addfile(member, io.BytesIO(data))
  return tars.Tars(str(file))


NAMES = st.text(
  st.characters(codec='utf-8', exclude_characters='\0', exclude_categories=['Cs']),
  min_size=1,
  max_size=150,
).filter(lambda name: not name.endswith('/'))  # those of folders


@hypothesis.settings(deadline=None, max_examples=50)
@hypothesis.given(
  st.lists(st.tuples(NAMES, st.binary(max_size=1500)), max_size=8),
  st.sampled_from([tarfile.PAX_FORMAT, tarfile.GNU_FORMAT]),
)
def test_members_are_those_that_tarfile_finds(tmp_path_factory, wanted, form):
  file = tmp_path_factory.mktemp('tar') / 'a.tar'
  write(file, wanted, format=form)
  with tarfile.open(file) as tar:
    want = [(os.fsencode(m.name), m.offset_data, m.size) for m in tar]
  descriptor = os.open(file, os.O_RDONLY)
  found, left_out, stop = tars.members(descriptor)
  assert left_out == []
  # tarfile drops slashes at the end.
  assert [(n.rstrip(b'/'), *rest) for n, *rest in found] == want
  assert [os.pread(descriptor, s, o) for _, o, s in found] == [d for _, d in wanted]
  tail = os.pread(descriptor, 1 << 20, stop)
  assert len(tail) >= 1024 and not any(tail)
  os.close(descriptor)


def test_suffixes_say_what_members_are(tmp_path):
  members = []
  for i in range(3):
    fields = {'id': i, 'score': [1, 0.5][i % 2], 'url': 'http://é', 'exif': {'a': 1}}
    fields |= {'tags': ['x'] * i, 'box': [0.0, 1.0], 'nsfw': None, 'good': True}
    members += [
      (f'd/{i}.jpg', pictures.EXAMPLES[2]['image']),
      (f'd/{i}.cls', b'7\n'),
      (f'd/{i}.JSON', json.dumps(fields).encode()),
      (f'd/{i}.txt', 'grün'.encode()),
      (f'd/{i}.seg.npy', b'\x93NUMPY'),
    ]
  source = write(
    tmp_path / 'a.tar', [*members, ('README', b''), ('d/.hidden.jpg', b'')]
  )
  assert len(source) == 3
  example = source[1]
  box = example.pop('box')
  assert box.tolist() == [0, 1] and box.dtype == np.float32
  assert example == {
    '__key__': b'd/1',
    'image': pictures.EXAMPLES[2]['image'],
    'label': 7,
    'text': 'grün'.encode(),
    'seg.npy': b'\x93NUMPY',
    'id': 1,
    'score': 0.5,
    'url': 'http://é'.encode(),
    'exif': b'{"a": 1}',
    'tags': [b'x'],
    'nsfw': b'null',
    'good': True,
  }
  features = source.features
  assert features['score'].np_dtype == np.float32
  assert isinstance(features['exif'], tfds.features.Text)


def test_members_apart_from_each_other_are_one_example(tmp_path):
  members = [(f'{i}.png', pictures.EXAMPLES[0]['image']) for i in range(4)]
  members += [(f'{i}.cls', str(i).encode()) for i in (2, 0, 3, 1)]
  source = write(tmp_path / 'a.tar', members)
  assert [source[i]['label'] for i in range(4)] == [0, 1, 2, 3]


@pytest.mark.parametrize(
  'members, reason',
  [
    ([('2.jpg', b'')], r"2 in .*a.tar \(example 2, 2 there\) has no 'label'"),
    ([('2.cls', b'cat'), ('2.jpg', b'')], "has the class b'cat', no number"),
    ([('2.json', b'{'), ('2.jpg', b''), ('2.cls', b'1')], 'has damaged JSON'),
    ([('2.jpg', b''), ('2.png', b''), ('2.cls', b'1')], "has 'image' twice"),
    ([('2.cls', b'1'), ('2.jpg', b''), ('2.json', b'{"label": 3}')], "'label' twice"),
  ],
)
def test_examples_that_contradict_the_others_are_bad(
  tmp_path, monkeypatch, members, reason
):
  whole = [(f'{i}.{e}', d) for i in range(2) for e, d in (('jpg', b'x'), ('cls', b'1'))]
  source = write(tmp_path / 'a.tar', whole + members)
  # As in a large file, where features are not inferred from all.
  features = write(tmp_path / 'b.tar', whole).features
  source.__dict__['features'] = features
  with pytest.raises(BadRecordError, match=reason):
    source[2]
  assert source[1]['label'] == 1


def cut(file, keep):
  file.write_bytes(file.read_bytes()[:keep])


@pytest.mark.parametrize('where', ['data', 'header', 'between', 'no end'])
def test_the_last_example_of_a_cut_file_is_bad(tmp_path, where):
  files = pictures.write_tars(tmp_path)
  with tarfile.open(files[0]) as tar:
    member = tar.getmember(f'some/0006.{pictures.suffix(6)}')
    after = tar.getmember('some/0006.json')
    last = tar.getmembers()[-1]
  keep = {
    'data': member.offset_data + 30,
    'header': after.offset + 100,
    'between': after.offset,
    'no end': last.offset_data + 512,
  }[where]
  cut(files[0], keep)
  source = tars.Tars(f'{tmp_path}/*.tar')
  bad = 9 if where == 'no end' else 6
  assert len(source) == bad + 1 + 10
  with pytest.raises(BadRecordError) as error:
    source[bad]
  assert str(error.value) == (
    f'some/{bad:04d} in {files[0]} (example {bad}, {bad} there) is the last of a file'
    ' that is cut off'
  )
  assert source[bad - 1]['image'] == pictures.EXAMPLES[bad - 1]['image']
  assert source[bad + 1]['id'] == 10  # the first of the other file
  assert source.problems() == [f'{files[0]} is cut off: it has no end of a tar file']


def test_damage_in_the_middle_is_seen(tmp_path):
  files = pictures.write_tars(tmp_path)
  with tarfile.open(files[1]) as tar:
    header = tar.getmember('some/0015.cls').offset
  data = bytearray(files[1].read_bytes())
  data[header + 1] ^= 1
  files[1].write_bytes(data)
  source = tars.Tars(f'{tmp_path}/*.tar')
  assert len(source) == 16 and len(source.problems()) == 1
  with pytest.raises(BadRecordError):
    source[15]


def test_compressed_files_are_refused_with_the_remedy(tmp_path):
  file = pictures.write_tars(tmp_path)[0]
  file.write_bytes(gzip.compress(file.read_bytes()))
  with pytest.raises(
    UserError, match='is compressed.*prepare_data.py --from tar:FILES'
  ):
    len(tars.Tars(str(file)))


@pytest.mark.parametrize(
  'pattern, names',
  [
    ('a-{000..002}.tar', ['a-000.tar', 'a-001.tar', 'a-002.tar']),
    ('{a,b}/{9..10}', ['a/9', 'a/10', 'b/9', 'b/10']),
    ('plain', ['plain']),
    ('{no}', ['{no}']),
  ],
)
def test_braces(pattern, names):
  assert shards.braces(pattern) == names


def test_files_are_found_in_order_and_missing_ones_named(tmp_path):
  for name in ('b.tar', 'a.tar', 'c.tar'):
    (tmp_path / name).touch()
  got = shards.found([f'{tmp_path}/b*', f'{tmp_path}/{{a,c}}.tar'])
  assert [os.path.basename(f) for f in got] == ['b.tar', 'a.tar', 'c.tar']
  with pytest.raises(UserError, match=f'there is no file {tmp_path}/d.tar and 1 more'):
    shards.found(f'{tmp_path}/{{a,d,e}}.tar')
  with pytest.raises(UserError, match='no file is called'):
    shards.found(f'{tmp_path}/*.zip')


def test_more_files_than_may_stay_open(tmp_path, monkeypatch):
  monkeypatch.setattr(shards, 'MAX_OPEN', 1)
  pictures.write_tars(tmp_path)
  source = tars.Tars(f'{tmp_path}/*.tar')
  assert [source[i]['id'] for i in (15, 3, 16, 2)] == [15, 3, 16, 2]
  assert len(source._reader._open) == 1
