"""Tests of all generated data sets alike."""

import dataclasses
import os
import subprocess
import sys

import pytest
import tensorflow_datasets as tfds

from big_vision_like.data.procedural import (
  context_clips,
  digit_rows,
  digits,
  fact_sentences,
  five_shapes,
  glyphs,
  moving_squares,
  multi_dsprites,
  scene_captions,
  scene_questions,
  scenes,
  shape_world,
  solids,
  squares,
  tetrominoes,
  twins,
)

# Options that make them small.
TINY = {
  context_clips.ContextClips: dict(counts=(3, 1)),
  digit_rows.DigitRows: dict(counts=(3, 1)),
  digits.Digits: None,
  fact_sentences.FactSentences: dict(counts=(3, 1)),
  five_shapes.FiveShapes: dict(counts=(3, 1)),
  glyphs.Glyphs: dict(per_class=(1, 1)),
  moving_squares.MovingSquares: dict(counts=(3, 1)),
  multi_dsprites.MultiDsprites: dict(counts=(3, 1, 1)),
  scene_captions.SceneCaptions: dict(counts=(3, 1)),
  scene_questions.SceneQuestions: dict(counts=(3, 1)),
  scenes.Scenes: dict(counts=(3, 1)),
  shape_world.ShapeWorld: dict(counts=(3, 1)),
  solids.Solids: dict(splits={'train': (2, 4), 'validation': (1, 4)}),
  squares.Squares: dict(counts=(3, 1)),
  tetrominoes.Tetrominoes: dict(counts=(3, 1, 1)),
  twins.Twins: dict(counts=(3, 1)),
}


def prepared(kind, folder):
  config = None
  if TINY[kind]:
    config = dataclasses.replace(kind.BUILDER_CONFIGS[0], name='tiny', **TINY[kind])
  builder = kind(data_dir=folder, config=config)
  builder.download_and_prepare(file_format='array_record')
  return builder


@pytest.mark.parametrize('kind', list(TINY))
def test_two_preparations_give_the_same_bytes(kind, tmp_path):
  tfds.disable_progress_bar()
  folders = [prepared(kind, tmp_path / name).data_path for name in 'ab']
  first, again = (
    {file.name: file.read_bytes() for file in folder.glob('*.array_record*')}
    for folder in folders
  )
  assert first == again and len(first) >= 2


def test_neither_writing_nor_reading_imports_tensorflow_or_warns(tmp_path):
  program = f"""
import logging, sys
import builders_test
import tensorflow_datasets as tfds
from big_vision_like.data.sources.tfds import Tfds
tfds.disable_progress_bar()
logging.getLogger('absl').setLevel('ERROR')  # it warns of configs that are not listed
for kind in builders_test.TINY:
  name = builders_test.prepared(kind, {str(tmp_path)!r}).info.full_name
  name = name.rpartition('/')[0]
  example = Tfds(name, 'train', data_dir={str(tmp_path)!r})[0]
  pictures = [example['image']] if 'image' in example else example.get('video', ())
  assert all(picture.startswith(b'\\x89PNG') for picture in pictures)
  assert example['id'] >= 0
assert 'tensorflow' not in sys.modules
"""
  path = os.pathsep.join([os.path.dirname(__file__), *sys.path])
  result = subprocess.run(
    [sys.executable, '-W', 'error', '-c', program],
    capture_output=True,
    text=True,
    env=os.environ | {'PYTHONPATH': path},
  )
  assert (result.returncode, result.stderr) == (0, '')
