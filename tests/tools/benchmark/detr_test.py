"""Tests of the benchmark of DETR on the small config, without data."""

import json

import numpy as np
import pytest

from tools.benchmark import detr as tool

WORDS = ('tools/benchmark/detr.py', '--config=configs/detr/small.py')
WORDS += ('--config.task.model.num_queries=100', '--batch-size=2', '--image-size=32x48')
WORDS += ('--repeats=2', '--steps=2', '--config.task.model.decoder_depth=1')


def test_measurements(run, tmp_path):
  file = tmp_path / 'result.json'
  done = run(*WORDS, '--only', 'train', 'match', f'--output={file}')
  assert done.returncode == 0, done.stderr
  result = json.loads(file.read_text())
  assert result['image_size'] == [32, 48] and result['operations_per_step'] > 0
  assert 'network' not in result and 'torch' not in result
  for work in ('train', 'match'):
    found = result[work]['ours']
    assert found['examples_per_second'] == pytest.approx(
      2 / found['step_seconds']['median']
    )
    assert f'  {work} ' in done.stderr


def test_batches_have_objects_in_pictures_with_padding():
  batch = tool.drawn(64, 40, 60, classes=91)
  height_B, width_B = batch['size'].T
  assert height_B.max() <= 40 and width_B.max() <= 60 and width_B.min() < 60
  for image_HWC, height, width in zip(batch['image'], height_B, width_B, strict=True):
    assert image_HWC[:height, :width].any() and not image_HWC[height:].any()
    assert not image_HWC[:, width:].any()
  corners_N4 = batch['boxes'][batch['box_mask']]
  assert (corners_N4[:, :2] < corners_N4[:, 2:]).all() and corners_N4.min() >= 0
  right_B1 = batch['boxes'][..., 2].max(axis=1)
  assert (right_B1 <= width_B).all()
  mean = batch['box_mask'].sum(axis=1).mean()
  assert 4 < mean < 11  # COCO has 7.3
  assert len(np.unique(batch['box_labels'])) > 50


@pytest.mark.parametrize(
  'words, told',
  [
    (('--repeats=0',), '--repeats must be 1 or more'),
    (('--image-size=32',), '32 is not HEIGHTxWIDTH'),
    (
      ('--config.task.model.norm=pre', '--against=transformers'),
      "cannot compare norm='pre'",
    ),
  ],
)
def test_invalid_arguments(run, words, told):
  done = run(*WORDS, *words)
  assert done.returncode and told in done.stderr and 'Traceback' not in done.stderr
