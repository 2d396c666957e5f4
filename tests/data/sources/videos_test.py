import json
import pathlib
import pickle

import film
import numpy as np
import pytest

from big_vision_like.data.input import pipeline
from big_vision_like.data.procedural import drawing
from big_vision_like.data.sources import videos
from big_vision_like.data.transforms import video
from big_vision_like.errors import BadRecordError, UserError


@pytest.fixture(scope='session')
def short() -> bytes:
  return film.written('webm', 'libvpx', count=8, cpu_used='5')


@pytest.fixture
def root(tmp_path, short) -> pathlib.Path:
  """Videos of two classes, as files, and one as frames."""
  for name in ('jump high/aa.webm', 'jump high/cc.webm', 'run/bb.webm'):
    path = tmp_path / 'clips' / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(short)
  frames = tmp_path / 'clips/run/dd'
  frames.mkdir()
  for number in range(12):  # not padded with zeros
    (frames / f'img_{number + 1}.png').write_bytes(encoded(number))
  (tmp_path / 'clips/run/notes.txt').write_text('no video')
  (tmp_path / 'clips/.hidden').write_text('no video')
  return tmp_path / 'clips'


def encoded(number: int) -> bytes:
  return drawing.png(film.frame(number))


def listed(tmp_path, text: str) -> str:
  path = tmp_path / 'list.csv'
  path.write_text(text)
  return str(path)


def frames_of(example) -> list[int]:
  got = video.UniformClips(frames=4, stride=2, fps=30.0).map(example)
  return film.numbers(got['video'])


def test_folders_of_classes(root):
  source = videos.VideoFolder(str(root))
  assert source.label_names == ['jump high', 'run'] and len(source) == 4
  assert [(x['file'], x['label'], x['id']) for x in source] == [
    (b'jump high/aa.webm', 0, 0),
    (b'jump high/cc.webm', 0, 1),
    (b'run/bb.webm', 1, 2),
    (b'run/dd', 1, 3),
  ]
  assert frames_of(source[0]) == frames_of(source[2])
  assert frames_of(source[3]) == [0, 2, 4, 7]  # the order of numbers, not of names
  assert source.left_out == {'.txt files': 1}
  assert source.problems() == [] and source.title == 'VideoFolder clips'
  assert source.features['label'].names == source.label_names


def test_lists_of_ucf101_choose_videos(root, tmp_path):
  # Its training lists have classes after the paths, its test lists do not.
  for text in ('run/bb.webm 2\njump high/aa.webm 1\n', 'run/dd\nrun/bb.webm\n'):
    text = text.replace('jump high/', '')
    source = videos.VideoFolder(str(root), listed=listed(tmp_path, text))
    assert len(source) == 2 and source[0]['label'] in (0, 1)
    assert source.left_out['videos that are not listed'] == 2
  wrong = videos.VideoFolder(str(root), listed=listed(tmp_path, 'run/ee.avi 2\n'))
  assert 'clips lacks 1 of 1 listed video (run/ee.avi)' in wrong.problems()[0]
  none = videos.VideoFolder(str(root), listed='nowhere.txt')
  assert none.problems() == ['nowhere.txt cannot be read: No such file or directory']


@pytest.mark.parametrize(
  'text',
  [
    'aa 0\nbb 1\n',
    'jump high/aa.webm,0\nrun/bb.webm,1\n',
    'jump high/aa.webm 0\nrun/bb.webm 1\n',
    '/data/train/aa.mp4 0\r\n/data/train/bb.mp4 1\r\n',
    '\ufeff"aa.mp4" , 0\n\n bb.webm\t1 \n',
  ],
)
def test_lists_of_paths_and_classes(text, root, tmp_path):
  source = videos.VideoList(str(root), listed(tmp_path, text))
  assert [(x['file'], x['label']) for x in source] == [
    (b'jump high/aa.webm', 0),
    (b'run/bb.webm', 1),
  ]
  assert source.label_names is None and source.features['label'].np_dtype == np.int64
  named = videos.VideoList(str(root), source.file, classes=['jump', 'run'])
  assert named.label_names == ['jump', 'run']


def test_the_table_of_kinetics(tmp_path, short):
  for name in ('-Ab_000002_000012', 'c_000100_000110'):
    (tmp_path / f'{name}.mp4').write_bytes(short)
  text = (
    'label,youtube_id,time_start,time_end,split,is_cc\n'
    'zumba,c,100,110,train,0\nabseiling,-Ab,2,12,train,0\nzumba,gone,0,10,train,0\n'
  )
  given = dict(path=str(tmp_path), file=listed(tmp_path, text), name=videos.KINETICS)
  source = videos.VideoList(**given, tolerated=0.4)
  assert source.label_names == ['abseiling', 'zumba']
  assert [x['label'] for x in source] == [1, 0]
  assert source.left_out['listed videos that are missing'] == 1
  (problem,) = videos.VideoList(**given).problems()
  assert 'lacks 1 of 3 listed videos (gone_000000_000010): add them' in problem
  other = videos.VideoList(**given, label='class')
  assert 'not those of name=' in other.problems()[0]


def test_the_table_of_howto100m(root, tmp_path):
  text = 'video_id,category_1,rank,task_id\naa,Food,1,7\nbb,Food,1,0\n'
  source = videos.VideoList(
    str(root), listed(tmp_path, text), name=videos.HOWTO100M, label='task_id'
  )
  assert [x['label'] for x in source] == [7, 0] and source.label_names is None


@pytest.mark.parametrize(
  'text, words',
  [
    ('', 'lists no videos'),
    ('aa\n', "'aa' in line 1, not a path and a class"),
    ('aa 0\nbb two\n', "the label 'two', which is not the name or the index"),
    ('aa -1\n', "the label '-1'"),
    ('zz 0\n', 'add them, or raise `tolerated`'),
  ],
)
def test_lists_that_cannot_be_used(text, words, root, tmp_path):
  (problem,) = videos.VideoList(str(root), listed(tmp_path, text)).problems()
  assert words in problem
  classes = videos.VideoList(str(root), listed(tmp_path, 'aa 2\n'), classes=['a', 'b'])
  assert "the label '2'" in classes.problems()[0]


def something(tmp_path, entries, labels=None) -> dict[str, str]:
  labels = labels or {'Holding something': '0', 'Pushing something': '1'}
  for name, content in (('train', entries), ('labels', labels)):
    (tmp_path / f'{name}.json').write_text(json.dumps(content))
  return dict(
    annotations=str(tmp_path / 'train.json'), labels=str(tmp_path / 'labels.json')
  )


def test_something_something(root, tmp_path):
  entries = [
    {'id': 'dd', 'label': 'pushing a cup', 'template': 'Pushing [something]'},
    {'id': 'aa', 'label': 'holding a cup', 'template': 'Holding [something]'},
  ]
  files = something(tmp_path, entries)
  source = videos.SomethingSomething(str(root), **files)
  assert source.label_names == ['Holding something', 'Pushing something']
  assert [(x['file'], x['label']) for x in source] == [
    (b'run/dd', 1),
    (b'jump high/aa.webm', 0),
  ]
  assert frames_of(source[0]) == [0, 2, 4, 7]
  entries[0]['template'] = 'Eating [something]'
  files = something(tmp_path, entries)
  (problem,) = videos.SomethingSomething(str(root), **files).problems()
  assert "no 'Eating something'; it needs an `id`, and a `template`" in problem
  files = something(tmp_path, entries, {'a': '0', 'b': '2'})
  (problem,) = videos.SomethingSomething(str(root), **files).problems()
  assert 'must number the classes from 0' in problem
  files = something(tmp_path, {})
  (problem,) = videos.SomethingSomething(str(root), **files).problems()
  assert 'must hold a list that is not empty' in problem


def test_names_that_repeat_must_be_paths(root, tmp_path, short):
  (root / 'run/aa.mp4').write_bytes(short)
  (problem,) = videos.VideoList(str(root), listed(tmp_path, 'aa 0\n')).problems()
  assert "two videos named 'aa', jump high/aa.webm and run/aa.mp4" in problem
  assert len(videos.VideoList(str(root), listed(tmp_path, 'run/aa.mp4 0\n'))) == 1


def test_fingerprints_change_with_content_but_not_with_the_place(root, tmp_path):
  lines = 'aa 0\nbb 1\n'
  one = videos.VideoList(str(root), listed(tmp_path, lines))
  before = one.fingerprint()
  moved = root.rename(tmp_path / 'moved')
  two = videos.VideoList(str(moved), listed(tmp_path, lines))
  assert before == two.fingerprint()
  other = videos.VideoList(str(moved), listed(tmp_path, 'aa 1\nbb 1\n'))
  assert other.fingerprint() != before
  (moved / 'run/bb.webm').write_bytes(b'other')
  frames = videos.VideoFolder(str(moved))
  assert str(moved / 'run/dd') not in frames.files and len(frames.files) == 3
  before_frames = frames.fingerprint()
  (moved / 'run/dd/img_7.png').unlink()
  assert videos.VideoFolder(str(moved)).fingerprint() != before_frames
  assert videos.VideoList(str(moved), listed(tmp_path, lines)).fingerprint() != before


def test_sources_travel_to_workers(root):
  source = videos.VideoFolder(str(root))
  assert len(source.features) == 3
  copy = pickle.loads(pickle.dumps(source))
  assert copy[3]['file'] == source[3]['file']
  assert frames_of(copy[3]) == frames_of(source[3])


def test_files_that_vanish_later_are_bad_records(root):
  source = videos.VideoFolder(str(root))
  assert len(source) == 4
  (root / 'run/bb.webm').unlink()
  with pytest.raises(BadRecordError, match='run/bb.webm cannot be read .there is no'):
    frames_of(source[2])
  example = source[3]
  (root / 'run/dd/img_5.png').unlink()
  with pytest.raises(BadRecordError, match='img_5.png cannot be read: No such file'):
    frames_of(example)


def test_damaged_videos_are_replaced_and_reported(root, short):
  (root / 'run/bb.webm').write_bytes(short[:300])
  crop = video.ScaleAndCrop(32, (36, 44))
  data = pipeline.TrainInput(
    source=videos.VideoFolder(str(root)),
    batch_size=4,
    bad_share=1.0,
    transforms=[video.RandomClip(4, 2), video.EachFrameAlike(crop)],
  )
  batches = data.batches()
  batch = next(batches)
  batches.close()
  assert batch['video'].shape == (4, 4, 32, 32, 3) and batches.replaced == 1
  assert 'run/bb.webm' in batches.news()[0]


def test_missing_and_empty_folders(root, tmp_path):
  (tmp_path / 'empty/some').mkdir(parents=True)
  (problem,) = videos.VideoFolder(str(tmp_path / 'empty')).problems()
  assert 'has no videos in folders of classes: it needs CLASS/VIDEO.mp4' in problem
  missing = videos.VideoFolder(str(tmp_path / 'nowhere'), examples=5)
  assert 'there is no folder' in missing.problems()[0]
  planned = missing.planned()
  assert len(planned) == 5
  assert frames_of_shape(planned[4]) == (4, 256, 340, 3)
  tiny = videos.MadeUp(**videos.MadeUp.tiny)
  assert frames_of_shape(tiny[0]) == (4, 24, 32, 3)
  with pytest.raises(UserError, match='give the number of videos'):
    len(videos.VideoFolder(str(tmp_path / 'nowhere')).planned())
  source = videos.VideoFolder(str(root))
  assert source.planned() is source


def frames_of_shape(example) -> tuple[int, ...]:
  return video.MiddleSegments(frames=4).map(example)['video'].shape
