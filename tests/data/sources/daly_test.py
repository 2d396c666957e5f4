"""DALY's annotations and tubes, made up in the form of the published pickles."""

import pathlib
import pickle

import film
import numpy as np
import pytest

from big_vision_like.data.procedural import drawing
from big_vision_like.data.sources import daly
from big_vision_like.data.transforms import video
from big_vision_like.errors import UserError

W, H = film.WIDTH, film.HEIGHT


def instance(keys, objects=(), **flags) -> dict:
  """Returns an instance with key frames {number: box}, numbers counted from 1."""
  none = np.zeros((0, 7))
  return {
    'beginTime': 0.5,
    'endTime': 2.0,
    'flags': dict(isReflection=False, isAmbiguous=False) | flags,
    'keyframes': [
      {
        'frameNumber': number,
        'time': number / 15,
        'boundingBox': np.array([box], np.float64),
        'objects': np.array(objects) if i == 0 and len(objects) else none,
        'pose': none,
      }
      for i, (number, box) in enumerate(keys.items())
    ],
  }


def tube(first, last, box) -> np.ndarray:
  """Returns a tube of frames counted from 1, with a box in [0, 1] as pixels."""
  count = last - first + 1
  pixels = np.array(box) * [W, H, W, H]
  return np.column_stack([np.arange(first, last + 1), np.tile(pixels, (count, 1))])


LEFT, RIGHT = (0.0, 0.1, 0.4, 0.9), (0.5, 0.1, 0.9, 0.9)
HAND = (0.2, 0.2, 0.3, 0.4, 1, 0, 0)
HIDDEN = (0.6, 0.2, 0.7, 0.4, 0, 1, 0)


def content() -> dict[str, object]:
  """Returns annotations, tubes and sizes of three training videos and a test video."""
  drinking = instance({6: LEFT, 9: LEFT}, [HAND, HIDDEN])
  annot = {
    'a.mp4': {
      'suggestedClass': 'Drinking',
      'annot': {
        'Drinking': [instance({3: LEFT}, isReflection=True), drinking],
        'Phoning': [instance({8: RIGHT, 30: RIGHT})],
      },
    },
    'b.mp4': {
      'suggestedClass': 'Drinking',
      'annot': {'Drinking': [instance({2: LEFT})]},
    },
    'gone.mp4': {
      'suggestedClass': 'Drinking',
      'annot': {'Drinking': [instance({2: LEFT})]},
    },
    't.mp4': {
      'suggestedClass': 'Phoning',
      'annot': {'Phoning': [instance({5: RIGHT})]},
    },
  }
  close = (0.02, 0.1, 0.42, 0.9)
  tubes = {
    'a.mp4': [
      [tube(5, 16, close), tube(5, 16, RIGHT), tube(5, 16, (0.3, 0.0, 0.6, 0.2))],
      [tube(8, 30, RIGHT)],
    ],
    'b.mp4': [[tube(1, 3, LEFT)]],
    'gone.mp4': [[tube(1, 3, LEFT)]],
    't.mp4': [[tube(1, 40, LEFT), tube(1, 40, RIGHT)[[0, *range(5, 40)]]]],
  }
  names = {
    'annot': annot,
    'splits': [['t.mp4']],
    'objectList': ['cup', 'hand'],
    'labels': list(daly.ACTIONS[1:]),
  }
  return {'annotations': names, 'tubes': (tubes,), 'validation': ['b.mp4']}


@pytest.fixture
def given(tmp_path) -> dict[str, str]:
  """Writes the files of DALY; one video is a folder of frames, one is missing."""
  path = tmp_path / 'videos'
  path.mkdir()
  data = film.written(count=40, codec='libx264')
  for name in ('b', 't'):
    (path / f'{name}.mp4').write_bytes(data)
  frames = path / 'a.mp4'
  frames.mkdir()
  for number in range(40):
    picture = drawing.png(film.frame(number))
    (frames / f'frame{number + 1:06d}.png').write_bytes(picture)
  return {'path': str(path)} | pickled(tmp_path, content())


def pickled(tmp_path: pathlib.Path, files: dict[str, object]) -> dict[str, str]:
  for name, value in files.items():
    (tmp_path / f'{name}.pkl').write_bytes(pickle.dumps(value, 2))
  return {name: str(tmp_path / f'{name}.pkl') for name in files}


def test_an_instance_has_its_tubes_and_key_frames(given):
  source = daly.Daly(**given)
  assert len(source) == 2 and source.problems() == []
  got = source[0]
  assert (got['file'], got['instance'], got['id']) == (b'a.mp4', 0, 0)
  assert got['label'] == daly.ACTIONS.index('Drinking')
  assert got['frames'].tolist() == [4, 15] and got['size'].tolist() == [H, W]
  assert got['boxes'].shape == (3, 12, 4) and got['boxes'].dtype == np.float32
  np.testing.assert_allclose(got['boxes'][1, 5], RIGHT, atol=1e-6)
  # The last tube overlaps no instance by half.
  names = [source.label_names[label] for label in got['labels']]
  assert names == ['Drinking', 'Phoning', 'Background']
  # Its own key frames, and those of the other instance during it.
  assert got['key_frames'].tolist() == [5, 8, 7]
  assert got['key_instances'].tolist() == [0, 0, 1]
  assert [source.label_names[x] for x in got['key_labels']] == [
    *('Drinking', 'Drinking', 'Phoning')
  ]
  np.testing.assert_allclose(got['key_boxes'], [LEFT, LEFT, RIGHT], atol=1e-6)
  assert got['object_frames'].tolist() == [5, 5]
  assert got['object_hidden'].tolist() == [False, True]
  assert [source.object_names[x] for x in got['object_labels']] == ['hand', 'cup']
  np.testing.assert_allclose(got['object_boxes'][0], HAND[:4], atol=1e-6)
  assert len(got['centres']) == 10 and {*got['centres']} <= {*range(4, 16)}
  clip = video.chosen_frames(got, lambda n, fps: got['frames'], 30.0)
  assert film.numbers(clip) == [4, 15]


def test_other_splits(given):
  train, val = daly.Daly(**given), daly.Daly(**given, split='val')
  assert [x['file'] for x in val] == [b'b.mp4']
  assert len(daly.Daly(**given, split='trainval')) == 3
  test = daly.Daly(**given, split='test')
  (example,) = test
  names = [test.label_names[label] for label in example['labels']]
  assert names == ['Background', 'Phoning']
  assert video.chosen_frames(example, lambda n, fps: np.array([7]), 30.0).shape == (
    *(1, H, W, 3),
  )
  assert train.left_out == {
    'instances of videos that are missing': 1,
    'reflections and ambiguous instances': 1,
  }
  # Frames 2 to 5 are missing in a tube; the nearest boxes fill them.
  assert test.left_out == {'tubes with missing frames, which get the nearest box': 1}
  np.testing.assert_allclose(example['boxes'][1], np.tile(RIGHT, (40, 1)), atol=1e-6)
  assert len({train.fingerprint(), val.fingerprint(), test.fingerprint()}) == 3


def test_actions_can_be_excluded(given):
  source = daly.Daly(**given, excluded=['Phoning'], split='trainval')
  assert 'Phoning' not in source.label_names and len(source.label_names) == 10
  assert [x['file'] for x in source] == [b'b.mp4']
  test = daly.Daly(**given, excluded=['Phoning'], split='test')
  assert len(test) == 1 and 'Phoning' in test.label_names
  with pytest.raises(UserError, match="excluded='Singing' is not one of Applying"):
    daly.Daly(**given, excluded=['Singing'])


def test_the_published_split_holds_out_ten_of_31():
  annotated = {
    f'{action}{number}': {'suggestedClass': action}
    for number in range(31)
    for action in daly.ACTIONS[1:]
  }
  held = daly._held_out(list(annotated), annotated)
  assert len(held) == 100
  rng = np.random.RandomState(86723)
  first = rng.choice(np.arange(31), size=10, replace=False)
  assert {f'{daly.ACTIONS[1]}{n}' for n in first} <= held


def test_sizes_of_resized_frames(given, tmp_path):
  files = content()
  (every,) = files['tubes']
  every['a.mp4'][0][0][:, 1:] *= 3
  every['a.mp4'][0][1][:, 1:] *= 3
  every['a.mp4'][0][2][:, 1:] *= 3
  every['a.mp4'][1][0][:, 1:] *= 3
  given = given | pickled(tmp_path, {'tubes': (every,)})
  (problem,) = daly.Daly(**given).problems()
  assert 'tubes of a.mp4 are outside of its 64x48 pixels: if its frames' in problem
  sizes = {name: (W, H) for name in ('b.mp4', 't.mp4')} | {'a.mp4': (3 * W, 3 * H)}
  given |= pickled(tmp_path, {'sizes': sizes})
  got = daly.Daly(**given)[0]
  np.testing.assert_allclose(got['boxes'][1, 0], RIGHT, atol=1e-6)
  assert got['size'].tolist() == [3 * H, 3 * W]


def test_files_that_cannot_be_used(given, tmp_path):
  def problem(**changes):
    return daly.Daly(**given | changes).problems()[0]

  assert problem(annotations='no.pkl') == 'there is no file no.pkl'
  assert 'name daly1.1.0.pkl of DALY' in problem(annotations=given['validation'])
  assert 'do not fit together' in problem(tubes=given['validation'])
  assert 'there is no folder' in problem(path=str(tmp_path / 'nowhere'))
  empty = tmp_path / 'empty'
  empty.mkdir()
  assert 'none of the 2 videos of' in problem(path=str(empty))
  odd = pickled(tmp_path, {'odd': ['t.mp4'], 'code': pathlib.PurePosixPath('x')})
  assert "names 't.mp4', which is no training video" in problem(validation=odd['odd'])
  assert 'PurePosixPath, which is not read since it may run' in problem(
    annotations=odd['code']
  )
  short = tmp_path / 'short.pkl'
  short.write_bytes(pathlib.Path(given['tubes']).read_bytes()[:-50])
  assert 'is not a whole pickle' in problem(tubes=str(short))


def test_sources_travel_to_workers_without_the_pickles(given):
  source = daly.Daly(**given)
  first = source[0]
  for name in ('annotations', 'tubes'):
    pathlib.Path(given[name]).unlink()
  copy = pickle.loads(pickle.dumps(source))
  np.testing.assert_array_equal(copy[0]['boxes'], first['boxes'])


def test_made_up_instances_have_the_same_fields(given):
  want = daly.Daly(**given)[0]
  planned = daly.Daly(**given | {'path': 'nowhere'}, examples=7).planned()
  assert len(planned) == 7
  tiny = daly.MadeUp(**daly.MadeUp.tiny)
  for got in (planned[3], tiny[0]):
    assert got.keys() == want.keys()
    for name, value in want.items():
      assert np.ndim(got[name]) == np.ndim(value) or name == 'video', name
      assert getattr(got[name], 'dtype', int) == getattr(value, 'dtype', int), name
    assert got['labels'].tolist() == [got['label'], 0]
  assert video.chosen_frames(tiny[0], lambda n, fps: tiny[0]['frames'], 30.0).shape == (
    *(2, 24, 32, 3),
  )
