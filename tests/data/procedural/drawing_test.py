import contextlib
import functools
import os
import re
import signal
import subprocess
import sys
import time

import cv2
import numpy as np
import pytest
import tensorflow_datasets as tfds

from big_vision_like.data.procedural import drawing
from big_vision_like.errors import UserError


def square(factor, index):
  return {'value': factor * index**2, 'process': os.getpid()}


def fails_at(last, index):
  if index == last:
    raise UserError(f'example {index} cannot be drawn')
  return {}


def kills_itself(index):
  os.kill(os.getpid(), signal.SIGKILL)


def modules(index):
  return {'jax': 'jax' in sys.modules, 'threads': cv2.getNumThreads()}


def test_several_processes_draw_the_same_in_order(monkeypatch):
  monkeypatch.setattr(drawing, 'CHUNK', 3)
  draw = functools.partial(square, 2)
  examples = {n: list(drawing.drawn(draw, 50, workers=n)) for n in (1, 2)}
  for found in examples.values():
    assert [i for i, _ in found] == list(range(50))
    assert [example['value'] for _, example in found] == [2 * i**2 for i in range(50)]
  processes = [{e['process'] for _, e in found} for found in examples.values()]
  assert processes[0] == {os.getpid()}
  assert os.getpid() not in processes[1]


def test_few_examples_are_drawn_here():
  ((_, example),) = drawing.drawn(functools.partial(square, 1), 1)
  assert example['process'] == os.getpid()


def test_processes_load_no_jax_and_use_one_thread_each():
  ((_, example),) = drawing.drawn(modules, 1, workers=2)
  assert example == {'jax': False, 'threads': 1}


@pytest.mark.parametrize('workers', [1, 2])
def test_errors_of_workers_are_raised_here(monkeypatch, workers):
  monkeypatch.setattr(drawing, 'CHUNK', 2)
  examples = iter(drawing.drawn(functools.partial(fails_at, 5), 100, workers))
  assert [next(examples)[0] for _ in range(4)] == [0, 1, 2, 3]
  with pytest.raises(UserError, match=r'^example 5 cannot be drawn$'):
    list(examples)


def test_a_killed_process_is_reported():
  with pytest.raises(UserError, match='was killed: is there enough memory'):
    list(drawing.drawn(kills_itself, 10, workers=2))


PROGRAM = """
import os, sys, time
from big_vision_like.data.procedural import drawing

def draw(index):
  if index:
    time.sleep(60)
  return {'process': os.getpid()}

if __name__ == '__main__':
  drawing.CHUNK = 1
  for _, example in drawing.drawn(draw, 100, workers=2):
    print(example['process'], flush=True)
"""


def running(process):
  with contextlib.suppress(FileNotFoundError, ProcessLookupError):
    with open(f'/proc/{process}/stat') as file:
      return file.read().rpartition(')')[2].split()[0] != 'Z'
  return False


def test_processes_end_when_their_parent_is_killed(tmp_path):
  file = tmp_path / 'program.py'
  file.write_text(PROGRAM)
  with subprocess.Popen([sys.executable, file], stdout=subprocess.PIPE) as parent:
    process = int(parent.stdout.readline())
    assert running(process)
    parent.kill()
  until = time.monotonic() + 20
  while running(process):
    assert time.monotonic() < until, 'it goes on without its parent'
    time.sleep(0.1)


class Drawn(tfds.core.GeneratorBasedBuilder):
  """A data set of numbers."""

  VERSION = tfds.core.Version('1.0.0')

  def _info(self):
    return tfds.core.DatasetInfo(
      builder=self,
      features=tfds.features.FeaturesDict({'value': np.int64}),
      disable_shuffling=True,
    )

  def _split_generators(self, dl_manager):
    return {'train': drawing.drawn(lambda i: {'value': i}, 40)}

  def _generate_examples(self, examples):
    return examples


def test_the_progress_bar_of_tfds_knows_the_total(monkeypatch, tmp_path, capsys):
  tfds.enable_progress_bar()
  try:
    builder = Drawn(data_dir=tmp_path)
    builder.download_and_prepare(file_format='array_record')
  finally:
    tfds.disable_progress_bar()
  bars = re.findall(
    r'Generating train examples\.\.\.: +\d+%.*?/40 ', capsys.readouterr().err
  )
  assert bars
  assert [e['value'] for e in builder.as_data_source('train')] == list(range(40))


@pytest.mark.parametrize('channels', [1, 3])
def test_pictures_are_stored_without_loss(channels):
  image_HWC = (
    np.random.default_rng(0).integers(0, 256, (5, 7, channels)).astype('uint8')
  )
  feature = tfds.features.Image(shape=(5, 7, channels), encoding_format='png')
  png = drawing.png(image_HWC)
  assert png.startswith(b'\x89PNG')
  np.testing.assert_array_equal(feature.decode_example_np(png), image_HWC)
