"""Tests of pages about runs that learn from pseudo labels."""

import jax
import numpy as np
import pytest
import random_weights

from big_vision_like import spec, train
from big_vision_like.data.sources import pseudo_labels
from big_vision_like.devices import mesh as meshes
from big_vision_like.inference import pseudo_labels as predictions
from big_vision_like.models import vit
from big_vision_like.report import self_training
from big_vision_like.run import experiment
from tools import pseudo_label, report

SOURCE = 'train_data.inputs.unlabelled.source'
VIT = dict(num_classes=10, patch=4, width=8, depth=1, num_heads=2, mlp_dim=8)


@pytest.fixture(scope='module')
def run(tmp_path_factory, data_dir):
  """Returns a run of two steps of a tiny student, and its labels."""
  folder = tmp_path_factory.mktemp('self_training')
  overrides = [
    *('total_steps=2', 'log_every=1', f'{SOURCE}.labels={folder}/labels'),
    *(f'{SOURCE}.min_confidence=0.15', f'{SOURCE}.per_class=40'),
    'train_data.inputs.labelled.batch_size=8',
    'train_data.inputs.unlabelled.batch_size=16',
    'evals.test.data.batch_size=152',
  ]
  config = spec.load(
    'configs/noisy_student/digits.py:student', overrides, root=experiment.Settings
  )
  config.task.model = spec.spec(vit.ViT, **VIT)
  source = pseudo_label.source_of(config)
  model = vit.ViT(**VIT)
  teacher = predictions.Teacher(
    'a teacher',
    model,
    random_weights.variables_of(model, (16, 16), 1),
    predictions.Preprocessing(size=(16, 16), mean=(0.5,), std=(0.5,)),
  )
  reading = predictions.Reading(batch_size=100)
  mesh = meshes.make_mesh(devices=jax.devices()[:1])
  predictions.predict(teacher, source.source, f'{folder}/labels', mesh, reading, 1000)
  train.train(config, folder / 'run')
  return folder / 'run'


def test_a_page_shows_confidence_before_and_after(run):
  assert report.main([str(run), '--examples=20']) == 0
  page = (run / 'report.html').read_text()
  for words in (
    'Images by confidence',
    'Images by class',
    'mean confidence after',
    'The least and the most confident chosen images',
    'Pseudo labels of a teacher',
    '<h3>Unlabelled</h3>',
  ):
    assert words in page, words
  assert 'Not shown: the training batches' not in page


def test_counts_match_the_choice():
  label, copies = np.array([0, 0, 1, 2]), np.array([2, 0, 3, 0])
  confidence = np.array([0.9, 0.2, 0.8, 0.25])
  drawn = self_training.balance(label, copies, 3)
  assert '>before<' in drawn and '>after<' in drawn
  assert self_training.mean(confidence[:2], copies[:2]) == '90.0\u00a0%'
  assert self_training.mean(confidence[3:], copies[3:]) == self_training.WITHOUT
  assert pseudo_labels.UNREADABLE < 0
