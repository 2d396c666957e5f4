"""Tests of a teacher's predictions: written, resumed, chosen, and read with images."""

import dataclasses
import json
import pickle

import cv2
import flax.linen as nn
import jax
import numpy as np
import pytest

from big_vision_like.data.input import pipeline
from big_vision_like.data.sources import array_records, fewshot, pseudo_labels
from big_vision_like.data.sources.base import InMemory
from big_vision_like.devices import mesh as meshes
from big_vision_like.errors import UserError
from big_vision_like.inference import pseudo_labels as predictions
from big_vision_like.inference.classes import Preprocessing

CLASSES = 3


class Means(nn.Module):
  """A model whose logits are the means of the channels, times eight."""

  num_classes: int = CLASSES

  @nn.compact
  def __call__(self, image_BHWC, train=False):
    scale = self.param('scale', nn.initializers.constant(8.0), ())
    return {'logits': scale * image_BHWC.mean(axis=(1, 2))}


def pictures(count=10, seed=0, bad=()):
  """Returns encoded pictures; channel `index % 2` is the brightest."""
  rng, examples = np.random.default_rng(seed), []
  for index in range(count):
    image = rng.integers(0, 120, (6, 6, 3), dtype=np.uint8)
    image[..., index % 2] += np.uint8(10 * (index % 12))
    encoded = cv2.imencode('.png', image[..., ::-1])[1].tobytes()
    encoded = b'broken' if index in bad else encoded
    examples.append({'image': encoded, 'label': 7, 'id': f'picture {index}'})
  return InMemory(examples)


def teacher(scale=8.0, **options):
  model = Means()
  variables = {'params': {'scale': np.float32(scale)}}
  names = {'label_names': ('red', 'green', 'blue')}
  preprocess = Preprocessing(**{'size': (4, 4), **names, **options})
  return predictions.Teacher('a teacher', model, variables, preprocess)


@pytest.fixture
def mesh():
  return meshes.make_mesh(devices=jax.devices()[:2])


def predict(folder, mesh, source, who=None, per_file=4):
  reading = predictions.Reading(batch_size=4)
  predictions.predict(who or teacher(), source, folder, mesh, reading, per_file)
  return pseudo_labels.PseudoLabelled(source, str(folder), min_confidence=0.0)


def test_predictions_are_stored_one_record_an_image(tmp_path, mesh):
  source = pictures()
  predicted = predict(tmp_path, mesh, source)
  assert len(predicted) == 10 and predicted.label_names == ['red', 'green', 'blue']
  this = teacher()
  for index in range(10):
    example = predicted[index]
    image = this.preprocess(source[index]['image'])[None]
    want = jax.nn.softmax(this.model.apply(this.variables, image)['logits'][0])
    np.testing.assert_allclose(example['probabilities'], want, atol=1e-6)
    assert (
      example['label'] == want.argmax() and example['image'] == source[index]['image']
    )
  stored = array_records.ArrayRecord(f'{tmp_path}/*.array_record')
  assert [record['index'] for record in _parsed(stored)] == list(range(10))
  assert _parsed(stored)[3]['id'] == b'picture 3'
  again = pickle.loads(pickle.dumps(predicted))
  assert again[4]['label'] == predicted[4]['label']
  assert again.fingerprint() == predicted.fingerprint()


def _parsed(stored):
  features = pseudo_labels.features(CLASSES)
  return [
    features.deserialize_example_np(stored.records[index])
    for index in range(len(stored))
  ]


def test_missing_predictions_are_added_and_others_stay(tmp_path, mesh, monkeypatch):
  source = pictures()
  whole = [x['probabilities'] for x in predict(tmp_path / 'whole', mesh, source)]
  written, write = [], predictions.write

  def killed(path, places, batches):
    if len(written) == 1:
      part = path.with_name(path.name + '.12345678.part')
      part.write_bytes(b'half')
      raise KeyboardInterrupt
    written.append(path.name)
    write(path, places, batches)

  monkeypatch.setattr(predictions, 'write', killed)
  with pytest.raises(KeyboardInterrupt):
    predict(tmp_path / 'killed', mesh, source)
  told = pseudo_labels.PseudoLabelled(source, str(tmp_path / 'killed'))
  with pytest.raises(UserError, match='2 of the 3 files of pseudo labels .* missing'):
    len(told)
  monkeypatch.setattr(
    predictions, 'write', lambda p, *rest: (written.append(p.name), write(p, *rest))
  )
  found = predict(tmp_path / 'killed', mesh, source)
  assert sorted(written) == [f'labels-0000{n}-of-00003.array_record' for n in range(3)]
  np.testing.assert_array_equal([x['probabilities'] for x in found], whole)
  assert not list((tmp_path / 'killed').glob('*.part'))


def test_predictions_of_other_images_or_teachers_are_refused(tmp_path, mesh):
  predict(tmp_path, mesh, pictures())
  other = pseudo_labels.PseudoLabelled(pictures(seed=1), str(tmp_path))
  with pytest.raises(UserError, match='for other images: for InMemory .10 examples, '):
    len(other)
  with pytest.raises(UserError, match='was started with other source'):
    predict(tmp_path, mesh, pictures(seed=1))
  with pytest.raises(UserError, match='was started with other weights .teacher a t'):
    predict(tmp_path, mesh, pictures(), teacher(scale=9.0))
  with pytest.raises(UserError, match='was started with other images'):
    predict(tmp_path, mesh, pictures(), teacher(mean=(0.4,) * 3))
  wrong = pseudo_labels.PseudoLabelled(pictures(), str(tmp_path), classes=4)
  with pytest.raises(UserError, match='have 3 classes, not classes=4'):
    len(wrong)
  absent = pseudo_labels.PseudoLabelled(pictures(), str(tmp_path / 'none'))
  with pytest.raises(UserError, match='holds no pseudo labels: write them with'):
    len(absent)


def test_images_that_cannot_be_read_are_never_chosen(tmp_path, mesh):
  found = predict(tmp_path, mesh, pictures(bad=(2, 5)))
  assert found.indices.tolist() == [0, 1, 3, 4, 6, 7, 8, 9]
  assert found.remarks()[-1] == '2 images could not be read by the teacher'


def test_images_are_balanced_and_absent_classes_reported(tmp_path, mesh):
  source = pictures(40)
  every = predict(tmp_path, mesh, source)
  chosen = dataclasses.replace(every, min_confidence=0.5, per_class=30)
  labels = [example['label'] for example in chosen]
  assert len(chosen) == len(labels) > 40
  assert min(x['probabilities'].max() for x in chosen) >= 0.5
  counts = np.bincount(labels, minlength=3)
  assert abs(counts[0] - 30) < 8 and abs(counts[1] - 30) < 8 and counts[2] == 0
  assert [text for text in chosen.remarks() if 'no pseudo label of blue' in text] == [
    'no pseudo label of blue has a confidence of at least 0.5, so only labelled images'
    ' teach this class: lower min_confidence, or train a better teacher'
  ]
  assert dataclasses.replace(chosen, seed=1).fingerprint() != chosen.fingerprint()
  with pytest.raises(UserError, match='reaches min_confidence=1;'):
    len(dataclasses.replace(every, min_confidence=1.0))


def test_a_diverged_teacher_is_reported(tmp_path, mesh):
  with pytest.raises(UserError, match='not finite for image 0: it has diverged'):
    predict(tmp_path, mesh, pictures(), teacher(scale=np.nan))


def test_a_plan_makes_them_up(tmp_path, mesh):
  absent = pseudo_labels.PseudoLabelled(pictures(), str(tmp_path / 'none'), classes=5)
  planned = absent.planned()
  data = pipeline.TrainInput(source=planned, batch_size=2)
  share = planned[0]['probabilities']
  assert share.shape == (5,) and share.sum() == pytest.approx(1)
  assert data.abstract()['probabilities'].shape == (2, 5)
  unknown = pseudo_labels.PseudoLabelled(pictures(), str(tmp_path / 'none'))
  with pytest.raises(UserError, match='give the number of classes'):
    unknown.planned()[0]
  there = predict(tmp_path / 'there', mesh, pictures())
  assert there.planned() is there


@pytest.mark.parametrize(
  'options, words',
  [
    (dict(min_confidence=1.2), r'min_confidence=1.2 is not in \[0, 1\]'),
    (dict(per_class=0), 'per_class=0 is less than 1'),
  ],
)
def test_wrong_fields_are_reported(options, words):
  with pytest.raises(UserError, match=words):
    pseudo_labels.PseudoLabelled(pictures(), 'folder', **options)


def test_a_damaged_folder_is_reported(tmp_path, mesh):
  found = predict(tmp_path, mesh, pictures())
  facts = json.loads((tmp_path / pseudo_labels.FACTS).read_text())
  del facts['shards']
  (tmp_path / pseudo_labels.FACTS).write_text(json.dumps(facts))
  with pytest.raises(UserError, match=r"teacher.json lacks 'shards'"):
    len(dataclasses.replace(found))


def test_images_that_are_not_chosen_have_no_labels():
  labelled = InMemory([{'label': n % 2, 'id': n} for n in range(9)])
  few = fewshot.PerClass(labelled, count=2)
  rest = fewshot.Remaining(few)
  assert {x['id'] for x in rest} | {x['id'] for x in few} == set(range(9))
  assert len(rest) == 5 and all('label' not in example for example in rest)
