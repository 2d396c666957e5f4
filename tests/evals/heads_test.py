"""Tests that the accuracy of two heads matches counting by hand."""

import found
import jax
import numpy as np
import pytest

from big_vision_like.data.input import pipeline
from big_vision_like.devices import mesh as meshes
from big_vision_like.errors import UserError
from big_vision_like.evals import heads

SIZE, CLASSES = 29, 7


def evaluate(predict):
  rng = np.random.default_rng(0)
  scores = rng.normal(size=(SIZE, 2, CLASSES)).astype(np.float32)
  label_B = rng.integers(CLASSES, size=SIZE)
  scores[::3, :, 2] += 9.0  # here both heads choose the same class
  label_B[::2] = scores[::2].mean(axis=1).argmax(axis=-1)
  examples = [
    {'scores': own, 'label': np.int32(label)}
    for own, label in zip(scores, label_B, strict=True)
  ]
  mesh = meshes.make_mesh(devices=jax.devices()[:1])
  accuracy = heads.HeadsAccuracy(data=pipeline.EvalInput(source=examples, batch_size=4))
  return scores, label_B, found.run(accuracy, predict, None, mesh)


def test_each_head_and_their_mean():
  def predict(state, batch, key):
    scores_B2C = batch['scores']
    return {
      'logits': scores_B2C.mean(axis=1),
      'class_logits': scores_B2C[:, 0],
      'distilled_logits': scores_B2C[:, 1],
      'loss': scores_B2C[:, 0, 0],
    }

  scores, label_B, got = evaluate(predict)
  best_2B = scores.argmax(axis=-1).T
  want = {
    'top1': np.mean(scores.mean(axis=1).argmax(axis=-1) == label_B),
    'class_top1': np.mean(best_2B[0] == label_B),
    'distilled_top1': np.mean(best_2B[1] == label_B),
    'heads_agree': np.mean(best_2B[0] == best_2B[1]),
  }
  assert len({want[name] for name in want if name.endswith('top1')}) == 3
  for name, value in want.items():
    assert got[name] == pytest.approx(value), name


def test_a_model_of_one_head_is_refused():
  with pytest.raises(UserError, match='returns no `class_logits`: use .*Accuracy'):
    evaluate(lambda state, batch, key: {'logits': batch['scores'][:, 0]})
