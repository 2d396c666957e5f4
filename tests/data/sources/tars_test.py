import gzip
import json
import os
import tarfile

import cv2
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
      pictures.add(tar, name, data, mtime=1.5)
  return tars.Tars(str(file))


NAMES = st.text(
  st.characters(codec='utf-8', exclude_characters='\0', exclude_categories=['Cs']),
  min_size=1,
  max_size=150,
).filter(lambda name: not name.endswith('/'))  # these would be folders


@hypothesis.settings(deadline=None, max_examples=50)
@hypothesis.given(
  st.lists(st.tuples(NAMES, st.binary(max_size=1500)), max_size=8),
  st.sampled_from([tarfile.PAX_FORMAT, tarfile.GNU_FORMAT]),
)
def test_members_match_tarfile(tmp_path_factory, wanted, form):
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


def test_suffixes_name_the_features_of_members(tmp_path):
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


def test_members_that_are_not_adjacent_form_one_example(tmp_path):
  members = [(f'{i}.png', pictures.EXAMPLES[0]['image']) for i in range(4)]
  members += [(f'{i}.cls', str(i).encode()) for i in (2, 0, 3, 1)]
  source = write(tmp_path / 'a.tar', members)
  assert [source[i]['label'] for i in range(4)] == [0, 1, 2, 3]


@pytest.mark.parametrize(
  'members, reason',
  [
    ([('2.jpg', b'')], r"2 in .*a.tar \(example 2, 2 there\) has no 'label'"),
    ([('2.cls', b'cat'), ('2.jpg', b'')], "has the class b'cat', not a number"),
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
  # As in a large file, whose features are inferred from a part of its examples.
  features = write(tmp_path / 'b.tar', whole).features
  source.__dict__['features'] = features
  with pytest.raises(BadRecordError, match=reason):
    source[2]
  assert source[1]['label'] == 1


PNG = pictures.EXAMPLES[0]['image']


def pairs(count=4, label=b'1', ending='png'):
  return [
    (f'{i}.{e}', d) for i in range(count) for e, d in ((ending, PNG), ('cls', label))
  ]


def test_every_format_of_images_is_an_image(tmp_path):
  pixels = np.full((4, 5, 3), 7, np.uint8)
  bmp = cv2.imencode('.bmp', pixels)[1].tobytes()
  source = write(tmp_path / 'a.tar', [*pairs(), ('x.BMP', bmp), ('x.cls', b'2')])
  assert source[4] == {'__key__': b'x', 'image': bmp, 'label': 2}
  assert isinstance(source.features['image'], tfds.features.Image)
  assert source.left_out == {}


def test_one_example_without_an_image_is_bad_and_others_keep_theirs(tmp_path):
  members = [*pairs(), ('x.svg', b'<svg>'), ('x.cls', b'2'), ('0.txt', b'one')]
  source = write(tmp_path / 'a.tar', members)
  assert source[0].keys() == {'__key__', 'image', 'label'}
  with pytest.raises(BadRecordError, match="x in .* has no 'image', unlike other"):
    source[4]
  assert source.left_out == {
    "fields 'svg', which 4 of 5 examples lack": 1,
    "fields 'text', which 4 of 5 examples lack": 1,
  }


@pytest.mark.parametrize(
  'texts, names, labels',
  [
    ([b'pear', b'fig\n', b'pear'], ['fig', 'pear'], [1, 0, 1]),
    (['\ufeffé'.encode(), 'b'.encode('utf-16')], ['b', 'é'], [1, 0]),
    ([b'\xef\xbb\xbf3\r\n', b' 4 ', b'2.0', b'-1'], None, [3, 4, 2, -1]),
  ],
)
def test_labels_are_numbers_or_names(tmp_path, texts, names, labels):
  members = [
    (f'{i}.{e}', d) for i, t in enumerate(texts) for e, d in (('png', PNG), ('cls', t))
  ]
  source = write(tmp_path / 'a.tar', members)
  assert [source[i]['label'] for i in range(len(texts))] == labels
  assert source.label_names == names
  in_json = [
    (f'{i}.json', json.dumps({'label': n}).encode()) for i, n in enumerate('ba')
  ]
  source = write(tmp_path / 'b.tar', in_json)
  assert [e['label'] for e in source] == [1, 0] and source.label_names == ['a', 'b']


def test_labels_that_are_neither_are_bad(tmp_path):
  odd = [b'0.5', b'', b'\0\1', b'x' * 1000, b'pear']
  members = [
    (f'x{i}.{e}', d) for i, t in enumerate(odd) for e, d in (('png', PNG), ('cls', t))
  ]
  source = write(tmp_path / 'a.tar', [*pairs(9), *members])
  for index in range(9, 14):
    with pytest.raises(
      BadRecordError, match='label 0.5, not a whole|the class .*, not a num'
    ):
      source[index]


def test_dots_in_names_are_reported_with_the_remedy(tmp_path):
  members = [(f'v1.0_{name}', data) for name, data in pairs()]
  source = write(tmp_path / 'a.tar', members)
  with pytest.raises(UserError, match="in v1 the field '0_0.png' .* set dots='last'"):
    source.features  # noqa: B018
  assert len(source.problems()) == 1
  last = tars.Tars(source.pattern, dots='last')
  assert (len(last), last[3]['__key__'], last[3]['label']) == (4, b'v1.0_3', 1)
  views = write(tmp_path / 'b.tar', [('0.left.png', PNG), ('0.right.png', PNG)])
  assert views[0].keys() == {'__key__', 'left.png', 'right.png'}
  some = write(tmp_path / 'c.tar', [*pairs(), *members[:2]])
  with pytest.raises(BadRecordError, match="no 'image'.* it has '0_0.png', since its"):
    some[4]
  with pytest.raises(UserError, match="dots='both' is not one of first, last"):
    tars.Tars('a', dots='both')


def test_members_without_an_example_are_counted(tmp_path):
  junk = ['__MACOSX/0.png', './._0.png', '.git/1.png', 'a/Thumbs.db', 'README']
  source = write(tmp_path / 'a.tar', [*pairs(), *((name, b'x') for name in junk)])
  assert len(source) == 4 and source.problems() == []
  assert source.left_out == {'hidden files': 4, 'files without an ending': 1}


def test_links_are_the_files_that_they_lead_to(tmp_path):
  with tarfile.open(tmp_path / 'a.tar', 'w') as tar:
    for name, data in pairs(2):
      pictures.add(tar, f'd/{name}', data)
    for name, kind, target in (
      ('x.png', tarfile.LNKTYPE, 'd/0.png'),
      ('e/x.png', tarfile.SYMTYPE, '../d/1.png'),
      ('x.cls', tarfile.SYMTYPE, '/etc/passwd'),
      ('e/x.cls', tarfile.LNKTYPE, 'd/1.cls'),
    ):
      pictures.add(tar, name, type=kind, linkname=target)
  source = tars.Tars(str(tmp_path / 'a.tar'))
  assert [source[i]['image'] for i in (0, 1, 3)] == [PNG] * 3
  assert source.left_out == {'links to no file in the same tar file': 1}
  with pytest.raises(BadRecordError, match="x in .* has no 'label'"):
    source[2]


@pytest.mark.parametrize(
  'size', [b'7' * 11, b'\x80' + b'\xff' * 11, b'-0000001000', b'\xff' * 12, b'1_0']
)
def test_sizes_that_make_no_sense_cost_no_memory(tmp_path, size):
  write(tmp_path / 'a.tar', pairs())
  data = bytearray((tmp_path / 'a.tar').read_bytes())
  data[124:136] = size.ljust(12, b'\0')
  data[148:156] = b' ' * 8
  data[148:156] = b'%06o\0 ' % sum(data[:512])
  (tmp_path / 'a.tar').write_bytes(data)
  (problem,) = tars.Tars(str(tmp_path / 'a.tar')).problems()
  assert (
    'truncated' in problem or 'is damaged, or not a tar file, from byte 0' in problem
  )


@pytest.mark.parametrize('form', [tarfile.PAX_FORMAT, tarfile.GNU_FORMAT])
def test_sparse_files_are_left_out_and_later_members_are_read(tmp_path, form):
  with tarfile.open(tmp_path / 'a.tar', 'w', format=form) as tar:
    kind = {'type': b'S'}
    if form == tarfile.PAX_FORMAT:
      kind = {'pax_headers': {'GNU.sparse.major': '1', 'GNU.sparse.minor': '0'}}
    pictures.add(tar, 'holes.png', b'abc', **kind)
    for name, data in pairs():
      pictures.add(tar, name, data)
  source = tars.Tars(str(tmp_path / 'a.tar'))
  assert len(source) == 4 and source.left_out == {'sparse files': 1}


@pytest.mark.parametrize(
  'content, told', [(b'', 'is empty'), (b'text' * 999, 'is damaged, or not a tar')]
)
def test_a_malformed_tar_file_is_reported(tmp_path, content, told):
  (tmp_path / 'a.tar').write_bytes(content)
  source = tars.Tars(f'{tmp_path}/*.tar')
  assert told in source.problems()[0]
  write(tmp_path / 'b.tar', pairs())
  assert len(source.problems()) == 1 and len(tars.Tars(f'{tmp_path}/*.tar')) == 4


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
    f'some/{bad:04d} in {files[0]} (example {bad}, {bad} there) is the last of a'
    ' truncated file'
  )
  assert source[bad - 1]['image'] == pictures.EXAMPLES[bad - 1]['image']
  assert source[bad + 1]['id'] == 10  # the first example of the other file
  assert source.problems() == [
    f'{files[0]} is truncated: it lacks the end of a tar file'
  ]


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
  with pytest.raises(UserError, match='no file matches'):
    shards.found(f'{tmp_path}/*.zip')


def test_more_files_than_may_stay_open(tmp_path, monkeypatch):
  monkeypatch.setattr(shards, 'MAX_OPEN', 1)
  pictures.write_tars(tmp_path)
  source = tars.Tars(f'{tmp_path}/*.tar')
  assert [source[i]['id'] for i in (15, 3, 16, 2)] == [15, 3, 16, 2]
  assert len(source._reader._open) == 1
