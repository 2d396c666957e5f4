import collections
import dataclasses
import json
import sys

import numpy as np
import pytest

from big_vision_like.data.procedural import moving_squares
from big_vision_like.data.sources import array_records, tfds
from big_vision_like.data.transforms import video

PLAIN, TORUS, OFFSETS = moving_squares.MovingSquares.BUILDER_CONFIGS
NAMES = moving_squares.NAMES


def quiet(config):
  """Returns places[index] of each frame, and labels, of a config without noise."""
  places, labels = [], []
  for index in range(200):
    example = moving_squares.draw(config, 'train', index)
    assert example['video'].shape == (4, 16, 16, 3) and example['id'] == index
    bright_THW = example['video'].mean(-1) > 0.25 * 255
    counts = bright_THW.reshape(4, -1).sum(1)
    assert (counts <= 18).all()  # noise lights a pixel now and then
    rows = [np.average(np.arange(16), weights=x.sum(1) ** 2) for x in bright_THW]
    columns = [np.average(np.arange(16), weights=x.sum(0) ** 2) for x in bright_THW]
    places.append(np.stack([rows, columns], 1))
    labels.append(NAMES[example['label']])
  return np.array(places), labels


@pytest.mark.parametrize('config', [PLAIN, OFFSETS], ids=['plain', 'offsets'])
def test_squares_move_in_the_direction_of_their_label(config):
  places_NT2, labels = quiet(config)
  for places_T2, label in zip(places_NT2, labels, strict=True):
    down, right = places_T2[-1] - places_T2[0]
    moved = {'left': -right, 'right': right, 'up': -down, 'down': down}
    assert max(moved, key=moved.get) == label
    assert moved[label] > 8


def test_plain_squares_are_patches_of_one_row_or_column():
  for index in range(40):
    clip = moving_squares.draw(PLAIN, 'test', index)['video']
    patches = clip.reshape(4, 4, 4, 4, 4, 3).mean((2, 4, 5)) > 0.3 * 255
    assert (patches.sum((1, 2)) == 1).all()
    union = patches.any(0)
    assert sorted([union.any(0).sum(), union.any(1).sum()]) == [1, 4]


def test_all_clips_on_a_torus_have_the_frames_of_a_whole_row():
  starts = collections.Counter()
  for index in range(200):
    clip = moving_squares.draw(TORUS, 'train', index)['video']
    patches = clip.reshape(4, 4, 4, 4, 4, 3).mean((2, 4, 5)) > 0.3 * 255
    rows, columns = (np.argmax(patches.any(axis), -1) for axis in (2, 1))
    label = NAMES[index % 4]
    along = columns if label in ('left', 'right') else rows
    step = -1 if label in ('left', 'up') else 1
    np.testing.assert_array_equal(np.diff(along) % 4, [step % 4] * 3)
    starts[label, int(along[0])] += 1
  assert len(starts) == 16


def test_directions_of_one_axis_have_the_same_squares_in_reverse():
  """Frames alone do not tell left from right, whatever their set."""
  for config in (PLAIN, OFFSETS):
    firsts = collections.defaultdict(list)
    for index in range(2_000):
      clip = moving_squares.draw(config, 'train', index)['video']
      firsts[NAMES[index % 4]].append(clip.astype(float))
    for back, ahead in (('left', 'right'), ('up', 'down')):
      mean, reverse = np.mean(firsts[back], 0), np.mean(firsts[ahead], 0)[::-1]
      assert np.abs(mean - reverse).mean() < 6
      assert np.abs(mean - reverse[::-1]).mean() > 10


def test_draws_repeat_and_differ():
  clip = moving_squares.draw(PLAIN, 'train', 5)['video']
  np.testing.assert_array_equal(clip, moving_squares.draw(PLAIN, 'train', 5)['video'])
  other = dataclasses.replace(PLAIN, name='plain', seed=1)
  for again in (
    moving_squares.draw(PLAIN, 'test', 5),
    moving_squares.draw(PLAIN, 'train', 9),
    moving_squares.draw(other, 'train', 5),
  ):
    assert not np.array_equal(clip, again['video'])


def test_the_builder_writes_frames_that_clips_are_cut_from(tmp_path):
  config = dataclasses.replace(PLAIN, name='tiny', counts=(8, 4))
  builder = moving_squares.MovingSquares(data_dir=tmp_path, config=config)
  builder.download_and_prepare(file_format='array_record')
  source = tfds.Tfds('moving_squares/tiny', 'train', data_dir=str(tmp_path))
  assert len(source) == 8 and source.label_names == list(NAMES)
  assert source.remarks() == []
  example = source[6]
  assert all(isinstance(frame, bytes) for frame in example['video'])
  # Clips of all four frames: a stride of 1 at 30 frames per second.
  got = video.UniformClips(frames=4, stride=1).map(example)
  want = moving_squares.draw(PLAIN, 'train', 6)
  np.testing.assert_array_equal(got['video'], want['video'])
  assert got['label'] == want['label']

  # UCF101 has the feature `Video`, for which TFDS needs TensorFlow.
  place = tmp_path / 'moving_squares/tiny/1.0.0'
  stored = json.loads((place / 'features.json').read_text())
  stored['featuresDict']['features']['video'] = {
    'pythonClassName': 'tensorflow_datasets.core.features.video_feature.Video',
    'video': {'shape': {'dimensions': ['-1', '16', '16', '3']}, 'dtype': 'uint8'},
  }
  (place / 'features.json').write_text(json.dumps(stored))
  files = array_records.ArrayRecord(f'{place}/moving_squares-train.array_record*')
  assert files[6] == example and files.label_names == list(NAMES)
  assert 'tensorflow' not in sys.modules
