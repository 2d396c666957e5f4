import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from big_vision_like.data.input import pipeline
from big_vision_like.devices import mesh as meshes
from big_vision_like.evals import sequences

EOS = 2


def evaluate(make, source, predict, batch_size=4, devices=1, **options):
  data = pipeline.EvalInput(source=source, batch_size=batch_size)
  mesh = meshes.make_mesh(devices=jax.devices()[:devices])
  results = make(data=data, **options).run(predict, jnp.float32(1.0), mesh)
  return results.scalars


def padded(ids, length):
  return np.int32([*ids, *[0] * (length - len(ids))])


def example(target, found, target_length=6, found_length=6):
  return {
    'target': padded(target, target_length),
    'found': padded(found, found_length),
  }


def found(state, batch, key):
  return {'ids': batch['found'], 'logits': state}


RIGHT = example([5, 6, 7, EOS], [5, 6, 7, EOS])
WRONG = example([5, 6, 7, EOS], [5, 9, 7, EOS])
NO_END = example([5, 6, EOS], [5, 6, 7])
GOES_ON = example([5, 6, 7, EOS], [5, 6, 7, EOS, 9])
EARLY = example([5, 6, 7, EOS], [5, EOS])


@pytest.mark.parametrize('batch_size, devices', [(5, 1), (4, 1), (8, 8)])
def test_shares_of_sequences_and_of_tokens(batch_size, devices):
  source = [RIGHT, WRONG, NO_END, RIGHT, EARLY]
  got = evaluate(sequences.ExactMatch, source, found, batch_size, devices)
  assert got == {
    'exact': pytest.approx(2 / 5),
    'tokens': pytest.approx((1 + 3 / 4 + 2 / 3 + 1 + 1 / 4) / 5),
  }


def test_tokens_after_eos_count():
  got = evaluate(sequences.ExactMatch, [GOES_ON], found, 1)
  assert got == {'exact': 0.0, 'tokens': 1.0}


@pytest.mark.parametrize('lengths', [(4, 9), (9, 4)])
def test_lengths_may_differ(lengths):
  source = [
    example([5, 6, 7, EOS], [5, 6, 7, EOS], *lengths),
    example([5, 6, EOS], [5, 6, 7, EOS], *lengths),
  ]
  got = evaluate(sequences.ExactMatch, source, found, 2)
  assert got['exact'] == 0.5 and got['tokens'] == pytest.approx((1 + 2 / 3) / 2)


def test_tokens_beyond_a_short_target_are_a_mistake():
  source = [example([5, 6, EOS], [5, 6, EOS, 0, 9], 3, 5)]
  assert evaluate(sequences.ExactMatch, source, found, 1)['exact'] == 0.0


SUMS = [
  {'nll': np.float32(n), 'tokens': np.int32(t)} for n, t in [(1, 1), (8, 2), (3, 7)]
]


def sums(state, batch, key):
  # NaN in padding rows, which must not count.
  return {
    'nll': state * jnp.where(batch['mask'], batch['nll'], jnp.nan),
    'tokens': batch['tokens'],
  }


@pytest.mark.parametrize('batch_size, devices', [(3, 1), (2, 1), (8, 8)])
def test_perplexity_counts_all_tokens_alike(batch_size, devices):
  got = evaluate(sequences.Perplexity, SUMS, sums, batch_size, devices)
  assert got['nll'] == pytest.approx(1.2)
  assert got['perplexity'] == pytest.approx(math.exp(1.2))


def test_a_run_that_diverged_still_has_numbers():
  def diverged(state, batch, key):
    return sums(state, batch, key) | {'nll': 1e6 * batch['nll']}

  got = evaluate(sequences.Perplexity, SUMS, diverged)
  assert got['nll'] == pytest.approx(1.2e6) and math.isfinite(got['perplexity'])
  assert math.isnan(evaluate(sequences.Perplexity, SUMS, nan_sums)['perplexity'])


def nan_sums(state, batch, key):
  return sums(jnp.nan, batch, key)
