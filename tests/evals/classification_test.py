import json

import found
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from big_vision_like.data.input import pipeline
from big_vision_like.data.transforms import labels
from big_vision_like.devices import mesh as meshes
from big_vision_like.evals import classification

SIZE, CLASSES = 13, 7


@pytest.fixture(scope='module')
def examples():
  rng = np.random.default_rng(0)
  return [
    {
      'logits': rng.normal(size=CLASSES).astype(np.float32),
      'label': np.int32(rng.integers(CLASSES)),
    }
    for _ in range(SIZE)
  ]


def predict(state, batch, key):
  """Returns the logits of the data; `state` scales the loss."""
  log_p = jax.nn.log_softmax(batch['logits'])
  loss = -jnp.take_along_axis(log_p, batch['label'][:, None], axis=1)[:, 0]
  return {'logits': batch['logits'], 'loss': state * loss, 'unused': batch['logits']}


def evaluate(examples, batch_size, devices=1, predict=predict, state=1.0):
  data = pipeline.EvalInput(source=examples, batch_size=batch_size)
  mesh = meshes.make_mesh(devices=jax.devices()[:devices])
  accuracy = classification.Accuracy(data=data)
  return found.run(accuracy, predict, jnp.float32(state), mesh)


@pytest.fixture(scope='module')
def expected(examples):
  logits = np.stack([e['logits'] for e in examples]).astype(np.float64)
  labels = np.array([e['label'] for e in examples])
  order = np.argsort(-logits, axis=1)
  log_p = logits - np.log(np.exp(logits).sum(axis=1, keepdims=True))
  return {
    'top1': np.mean(order[:, 0] == labels),
    'top5': np.mean((order[:, :5] == labels[:, None]).any(axis=1)),
    'loss': -np.mean(log_p[np.arange(SIZE), labels]),
  }


@pytest.mark.parametrize('batch_size, devices', [(13, 1), (5, 1), (16, 1), (8, 8)])
def test_every_example_counts_once(batch_size, devices, examples, expected):
  got = evaluate(examples, batch_size, devices)
  assert got.keys() == expected.keys()
  for name, value in expected.items():
    assert got[name] == pytest.approx(value, rel=1e-5), name
  assert 0 < got['top1'] < got['top5'] < 1


def test_padding_rows_do_not_count_even_if_not_finite(examples, expected):
  def broken(state, batch, key):
    outputs = predict(state, batch, key)
    loss = jnp.where(batch['mask'], outputs['loss'], jnp.nan)
    return outputs | {'loss': loss}

  got = evaluate(examples, 8, predict=broken)
  assert got['loss'] == pytest.approx(expected['loss'], rel=1e-5)


def test_no_top5_of_fewer_classes():
  examples = [
    {'logits': np.float32([0.1, 0.9]), 'label': np.int32(label)} for label in (0, 1, 1)
  ]
  got = evaluate(examples, 2)
  # With two classes, the label is always among the first five.
  assert got['top1'] == pytest.approx(2 / 3) and 'top5' not in got


def test_a_later_state_needs_no_new_compilation(examples, expected):
  traces = []

  def counted(state, batch, key):
    traces.append(1)
    return predict(state, batch, key)

  data = pipeline.EvalInput(source=examples, batch_size=4)
  mesh = meshes.make_mesh(devices=jax.devices()[:1])
  accuracy = classification.Accuracy(data=data)
  for state in (1.0, 3.0):
    got = accuracy.run(counted, jnp.float32(state), mesh).scalars
    assert got['loss'] == pytest.approx(state * expected['loss'], rel=1e-5)
  assert len(traces) == 1


def test_an_empty_data_set_is_named():
  with pytest.raises(ValueError, match='holds no examples'):
    evaluate([], 4)


# ImageNet-ReaL


def real_accuracy(examples, batch_size, devices=1):
  transforms = [labels.RealLabels(), labels.Keep(names=('logits', 'labels'))]
  data = pipeline.EvalInput(
    source=examples, batch_size=batch_size, transforms=transforms
  )
  accuracy = classification.RealAccuracy(data=data)
  mesh = meshes.make_mesh(devices=jax.devices()[:devices])
  logits = lambda state, batch, key: {'logits': batch['logits']}  # noqa: E731
  return found.run(accuracy, logits, None, mesh)


@pytest.mark.parametrize('batch_size, devices', [(60, 1), (7, 1), (16, 8)])
def test_real_accuracy_is_the_published_one(batch_size, devices, golden):
  classes_of = json.loads((golden / 'imagenet_real_metric.json').read_text())['labels']
  with np.load(golden / 'imagenet_real_metric.npz') as file:
    logits, want = file['input/logits'], float(file['output/real_accuracy'])
    scored = int(file['output/n_scored'])
  examples = [
    {'logits': each, 'real_label': classes}
    for each, classes in zip(logits, classes_of, strict=True)
  ]
  got = real_accuracy(examples, batch_size, devices)
  assert got['top1'] == pytest.approx(want, rel=1e-6)
  assert scored == sum(map(bool, classes_of)) < len(classes_of)
  best = np.argsort(-logits, axis=1)[:, :5]
  hits = sum(
    bool({*five} & {*them}) for five, them in zip(best, classes_of, strict=True)
  )
  assert got['top5'] == pytest.approx(hits / scored, rel=1e-6)
  assert got.keys() == {'top1', 'top5'}


def test_images_without_labels_do_not_count():
  logits = np.float32([0.0, 3.0, 1.0])
  examples = [{'logits': logits, 'real_label': c} for c in ([1, 2], [], [0], [], [])]
  assert real_accuracy(examples, 2) == {'top1': 0.5}
  with pytest.raises(ValueError, match='no example counts'):
    real_accuracy(examples[3:], 2)
