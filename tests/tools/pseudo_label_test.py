"""Tests of the command that labels images with a teacher, on the digits."""

import os
import signal
import subprocess
import sys
import time

import pytest
import random_weights

from big_vision_like import cli, spec
from big_vision_like.data.sources import pseudo_labels
from big_vision_like.run import experiment
from tools import pseudo_label as tool

CONFIG = 'configs/noisy_student/digits.py:student'
SOURCE = '--config.train_data.inputs.unlabelled.source'


@pytest.fixture
def teacher(tmp_path):
  """Returns a run of a tiny ViT on the digits."""
  config = spec.load('tests/tiny_config.py', root=experiment.Settings)
  random_weights.run_of(config, tmp_path / 'teacher')
  return tmp_path / 'teacher'


@pytest.fixture
def label(capsys, monkeypatch, data_dir, tmp_path):
  monkeypatch.setattr(cli, 'set_up_jax', lambda: None)

  def call(*words, config=CONFIG):
    status = tool.main(
      [f'--config={config}', f'{SOURCE}.labels={tmp_path}/labels', *map(str, words)]
    )
    told = capsys.readouterr()
    return status, told.out, told.err

  return call


def test_images_of_a_config_are_labelled_and_counted(label, teacher, tmp_path):
  words = f'--weights={teacher}', '--per-file=500', f'{SOURCE}.min_confidence=0.2'
  status, out, err = label(*words, '--all')
  assert (status, err) == (0, '')
  assert '3 of 3 files' in out and 'of 1,297 images are used' in out
  rows = [line.split() for line in out.splitlines() if line[:1].isdigit()]
  assert len(rows) == 10 and sum(int(row[1].replace(',', '')) for row in rows) == 1297
  (tmp_path / 'labels' / 'labels-00001-of-00003.array_record').unlink()
  status, again, _ = label(*words)
  assert status == 0 and '2 of 3 files exist already' in again
  assert [line for line in out.splitlines() if line.startswith('chosen')] == [
    line for line in again.splitlines() if line.startswith('chosen')
  ]


def test_a_teacher_with_other_classes_is_reported(label, teacher, tmp_path):
  config = spec.load('tests/tiny_config.py', root=experiment.Settings)
  config.task.model.num_classes = 12
  random_weights.run_of(config, tmp_path / 'twelve')
  status, _, err = label(f'--weights={tmp_path}/twelve')
  assert status == 1 and 'has 12 classes and the model of the config 10' in err
  assert not (tmp_path / 'labels').exists()


def test_a_config_without_pseudo_labels_is_reported(capsys, monkeypatch, data_dir):
  monkeypatch.setattr(cli, 'set_up_jax', lambda: None)
  words = ['--config=configs/noisy_student/digits.py:teacher', '--weights=x']
  assert tool.main(words) == 1
  assert 'have no pseudo_labels.PseudoLabelled' in capsys.readouterr().err


def test_a_killed_command_resumes(teacher, data_dir, tmp_path):
  words = [
    *(sys.executable, 'tools/pseudo_label.py', f'--config={CONFIG}'),
    *(f'--weights={teacher}', f'{SOURCE}.labels={tmp_path}/labels'),
    *('--per-file=5', '--batch-size=5', f'{SOURCE}.min_confidence=0.0'),
  ]
  environment = os.environ | {'PYTHONPATH': '.', 'TFDS_DATA_DIR': str(data_dir)}
  process = subprocess.Popen(words, env=environment, stdout=subprocess.DEVNULL)
  folder, deadline = tmp_path / 'labels', time.monotonic() + 300
  while len(list(folder.glob('*.array_record'))) < 3:
    assert process.poll() is None and time.monotonic() < deadline
    time.sleep(0.01)
  process.send_signal(signal.SIGKILL)
  process.wait()
  whole = list(folder.glob('*.array_record'))
  assert 3 <= len(whole) < 260
  stamps = {path: path.stat().st_mtime_ns for path in whole}
  subprocess.run(words, env=environment, check=True, stdout=subprocess.DEVNULL)
  assert {path: path.stat().st_mtime_ns for path in whole} == stamps
  config = spec.load(CONFIG, [f'{SOURCE.removeprefix("--config.")}.labels={folder}'])
  found = tool.source_of(config)
  assert isinstance(found, pseudo_labels.PseudoLabelled)
  index = [found.predictions[place]['index'] for place in range(1297)]
  assert index == list(range(1297))
