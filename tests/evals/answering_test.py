import jax
import jax.numpy as jnp
import numpy as np
import pytest

from big_vision_like.data.input import pipeline
from big_vision_like.devices import mesh as meshes
from big_vision_like.errors import UserError
from big_vision_like.evals import answering

CANDIDATES = 4


def rows(count, seed, **more):
  rng = np.random.default_rng(seed)
  return [
    {
      'logits': rng.normal(0, 1, CANDIDATES).astype(np.float32),
      'target': rng.choice([0.0, 0.3, 0.6, 1.0], CANDIDATES).astype(np.float32),
      'label': np.int32(rng.integers(CANDIDATES)),
      'id': i,
    }
    for i in range(count)
  ]


def data(examples):
  return pipeline.EvalInput(source=examples, transforms=(), batch_size=4)


class Task:
  def prediction(self, name, **arguments):
    return getattr(self, name)

  def predict(self, state, batch, key):
    logits = state * batch['logits']
    return {'logits': logits, 'loss': logits.sum(1)}


def run(evaluator, devices):
  mesh = meshes.make_mesh(devices=jax.devices()[:devices])
  return evaluator.run(evaluator.prediction(Task()), jnp.float32(1.0), mesh).scalars


@pytest.mark.parametrize('devices', [1, 2])
def test_scores_of_answers_and_regions(devices):
  examples = rows(10, 0)
  best = np.array([e['target'][e['logits'].argmax()] for e in examples])
  found = run(answering.AnswerScore(data=data(examples)), devices)
  assert found['accuracy'] == pytest.approx(best.mean())
  loss = np.mean([e['logits'].sum() for e in examples])
  assert found['loss'] == pytest.approx(loss, rel=1e-5)
  found = run(answering.RegionHits(data=data(examples)), devices)
  assert found == {'accuracy': pytest.approx((best > 0.5).mean())}


@pytest.mark.parametrize('devices', [1, 2])
def test_vcr_three_ways(devices):
  stages = rows(9, 1), rows(9, 2)
  right = [
    np.array([e['logits'].argmax() == e['label'] for e in stage]) for stage in stages
  ]
  right[1][:3] = right[0][:3] = True
  for stage, truth in zip(stages, right, strict=True):
    for example, is_right in zip(stage, truth, strict=True):
      best = int(example['logits'].argmax())
      example['label'] = np.int32(best if is_right else (best + 1) % CANDIDATES)
  evaluator = answering.Vcr(data=data(stages[0]), rationales=data(stages[1]))
  assert run(evaluator, devices) == {
    'answer': pytest.approx(right[0].mean()),
    'rationale': pytest.approx(right[1].mean()),
    'both': pytest.approx((right[0] & right[1]).mean()),
  }
  assert 0 < (right[0] & right[1]).mean() < min(x.mean() for x in right)


def test_vcr_needs_the_same_questions():
  evaluator = answering.Vcr(data=data(rows(3, 0)), rationales=data(rows(2, 0)))
  with pytest.raises(
    UserError, match='3 questions with answers, but 2 with rationales'
  ):
    run(evaluator, 1)
