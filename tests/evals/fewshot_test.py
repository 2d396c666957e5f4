import dataclasses

import found
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from big_vision_like.data.input import pipeline
from big_vision_like.devices import mesh as meshes
from big_vision_like.evals import fewshot
from big_vision_like.ops import ridge

CLASSES = 4


def examples(count, noise, seed):
  """Returns one-hot labels and, in `noisy`, the same with noise."""
  rng = np.random.default_rng(seed)
  labels = np.arange(count) % CLASSES
  return [
    {
      'features': np.eye(CLASSES, dtype=np.float32)[label],
      'noisy': (np.eye(CLASSES)[label] + noise * rng.normal(size=CLASSES)).astype(
        np.float32
      ),
      'label': np.int32(label),
    }
    for label in labels
  ]


TRAIN, TEST = examples(43, 0.7, seed=0), examples(61, 0.7, seed=1)


def predict(state, batch, key):
  return {'pre_logits': batch['features'], 'features': 0 * batch['features']}


def predict_noisy(state, batch, key):
  return {'pre_logits': state * batch['noisy']}


def probe(predict, devices=1, train=TRAIN, test=TEST, **options):
  data = [pipeline.EvalInput(source=s, batch_size=16) for s in (train, test)]
  evaluator = fewshot.FewShot(train=data[0], data=data[1], **options)
  mesh = meshes.make_mesh(devices=jax.devices()[:devices])
  return found.run(evaluator, predict, jnp.float32(1.0), mesh)


def test_one_hot_labels_as_features_are_learned_from_one_shot():
  got = probe(predict, shots=(1, 5))
  assert got == {'1-shot': 1.0, '1-shot std': 0.0, '5-shot': 1.0, '5-shot std': 0.0}


@pytest.fixture(scope='module')
def noisy():
  return probe(predict_noisy, shots=(1, 2, 10), seeds=3)


def test_more_shots_do_better(noisy):
  assert 1 / CLASSES < noisy['1-shot'] < noisy['10-shot'] < 1.0
  assert noisy['1-shot std'] > 0


def test_the_same_twice(noisy):
  assert probe(predict_noisy, shots=(1, 2, 10), seeds=3) == noisy


def test_the_same_on_eight_devices(noisy):
  sharded = probe(predict_noisy, devices=8, shots=(1, 2, 10), seeds=3)
  assert sharded.keys() == noisy.keys()
  for name in noisy:
    assert sharded[name] == pytest.approx(noisy[name], abs=1e-6), name


def test_the_mean_is_over_draws(noisy):
  singles = probe(predict_noisy, shots=(2,), seeds=1)
  assert singles['2-shot std'] == 0.0
  assert noisy['2-shot std'] > 0.0 and noisy['2-shot'] != singles['2-shot']


def test_labels_that_say_nothing_give_chance():
  rng = np.random.default_rng(2)
  shuffled = [e | {'label': np.int32(rng.integers(CLASSES))} for e in TRAIN]
  got = probe(predict, train=shuffled, shots=(5,), seeds=3)
  assert got['5-shot'] < 0.75


def test_rare_classes_give_all_their_examples_and_are_reported(capsys):
  rare = [e for e in TRAIN if e['label'] != 3]
  rare += [e for e in TRAIN if e['label'] == 3][:2]
  data = [pipeline.EvalInput(source=s, batch_size=16) for s in (rare, TEST)]
  evaluator = fewshot.FewShot(train=data[0], data=data[1], shots=(1, 5), seeds=2)
  results = evaluator.run(predict, jnp.float32(1.0))
  (x_ND, y_N), (x_MD, y_M) = (
    [np.array([e[n] for e in part]) for n in ('features', 'label')]
    for part in (rare, TEST)
  )
  drawn = ridge.fewshot_indices(y_N, 5, seed=0)
  assert np.bincount(y_N[drawn]).tolist() == [5, 5, 5, 2]
  scores_MC = ridge.ridge_scores(x_ND[drawn], y_N[drawn], x_MD, CLASSES)
  want = np.mean(np.asarray(scores_MC).argmax(-1) == y_M)
  assert results.scalars['5-shot'] == pytest.approx(want)
  assert results.texts == {'rare classes': ['class 3 has 2 of 5 examples']}
  evaluator.run(predict, jnp.float32(1.0))
  assert capsys.readouterr().err == 'few-shot examples: class 3 has 2 of 5 examples\n'
  full = pipeline.EvalInput(source=TRAIN, batch_size=16)
  evaluator = dataclasses.replace(evaluator, train=full, seeds=1)
  assert not evaluator.run(predict, jnp.float32(1.0)).texts
