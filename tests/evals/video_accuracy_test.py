"""Accuracy of videos from several views.  Axes: V views, C classes."""

import found
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from big_vision_like.data.input import pipeline
from big_vision_like.data.transforms import video
from big_vision_like.devices import mesh as meshes
from big_vision_like.errors import UserError
from big_vision_like.evals import classification

SIZE, VIEWS, CLASSES = 11, 3, 7


class Task:
  """Its logits are the values of a view, which has one pixel for each class."""

  def prediction(self, name, **arguments):
    assert (name, arguments) == ('predict', {})
    return self.predict

  def predict(self, state, batch, key):
    logits_BC = batch['video'][:, 0, 0, :, 0].astype(jnp.float32)
    return {'logits': state * logits_BC}


@pytest.fixture(scope='module')
def examples():
  rng = np.random.default_rng(0)
  return [
    {
      'video': rng.integers(0, 100, (VIEWS, 1, 1, CLASSES, 1), np.uint8),
      'label': np.int32(rng.integers(CLASSES)),
      'view_mask': np.array([True, True, index % 2 == 0]),
    }
    for index in range(SIZE)
  ]


def evaluate(examples, batch_size, devices=1):
  data = pipeline.EvalInput(source=examples, batch_size=batch_size)
  mesh = meshes.make_mesh(devices=jax.devices()[:devices])
  accuracy = classification.VideoAccuracy(data=data)
  task = Task()
  predict = accuracy.prediction(task)
  assert accuracy.prediction(task) is predict  # so that it is compiled once
  return found.run(accuracy, predict, jnp.float32(1.0), mesh)


@pytest.mark.parametrize('batch_size, devices', [(11, 1), (4, 1), (8, 4)])
def test_a_video_counts_once_by_the_sum_of_its_views(batch_size, devices, examples):
  sums = np.stack(
    [(e['video'][:, 0, 0, :, 0] * e['view_mask'][:, None]).sum(0) for e in examples]
  )
  labels = np.array([e['label'] for e in examples])
  order = np.argsort(-sums, axis=1, kind='stable')
  got = evaluate(examples, batch_size, devices)
  assert got == {
    'top1': pytest.approx(np.mean(order[:, 0] == labels)),
    'top5': pytest.approx(np.mean((order[:, :5] == labels[:, None]).any(axis=1))),
  }


def test_masked_views_do_not_count(examples):
  whole = [{k: x for k, x in e.items() if k != 'view_mask'} for e in examples]
  masked = [e | {'view_mask': np.array([True, False, False])} for e in examples]
  first = np.mean([e['video'][0, 0, 0, :, 0].argmax() == e['label'] for e in examples])
  assert evaluate(masked, 4)['top1'] == pytest.approx(first)
  assert evaluate(whole, 4) != evaluate(masked, 4)


def test_clips_without_views_are_refused(examples):
  plain = [e | {'video': e['video'][0]} for e in examples]
  with pytest.raises(UserError, match=r'\(4, 1, 1, 7, 1\), not \(batch, views, frames'):
    evaluate(plain, 4)


@pytest.mark.parametrize('size', [(8, 21), (21, 8)])
def test_views_of_the_published_protocol(size):
  """Offsets 0, ceil((W - c) / 2) and W - c along the longer side."""
  ramp = np.arange(21, dtype=np.uint8)
  picture = np.broadcast_to(ramp if size[1] == 21 else ramp[:, None], size)
  clip = np.broadcast_to(picture[None, :, :, None], (2, *size, 3))
  views = video.ThreeCrops(8).map({'video': clip})['video']
  assert views.shape == (3, 2, 8, 8, 3)
  assert views[:, 0, 0, 0, 0].tolist() == [0, 7, 13]
