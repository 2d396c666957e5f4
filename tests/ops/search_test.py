import itertools

import hypothesis
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import strategies as st

from big_vision_like.ops import search

EOS, VOCABULARY, LENGTH = 1, 4, 3


def table(seed, batch=2):
  """Returns logits (B, T, V, V) of a token at an index, for each last token."""
  rng = np.random.default_rng(seed)
  shape = batch, LENGTH, VOCABULARY, VOCABULARY
  return jnp.asarray(2 * rng.normal(size=shape), jnp.float32)


def step_of(logits, beams=1):
  def step(token, index, cache):
    example = jnp.repeat(jnp.arange(len(logits)), beams)
    return logits[example, index, token], cache

  return step


def first(logits):
  return jnp.zeros(len(logits), jnp.int32)


def all_sequences(logits, example, alpha):
  """Returns all sequences of an example with scores, best first; ended ones if any."""
  logp = np.asarray(jax.nn.log_softmax(logits[example]))
  ended, live = [], []
  for ids in itertools.product(range(VOCABULARY), repeat=LENGTH):
    total, last, count = 0.0, 0, 0
    for index, token in enumerate(ids):
      total, last, count = total + logp[index, last, token], token, index + 1
      if token == EOS:
        break
    row = ids[:count] + (0,) * (LENGTH - count)
    score = total / ((5 + count) / 6) ** alpha
    (ended if last == EOS else live).append((score, row))
  return sorted(set(ended or live), reverse=True)


@hypothesis.settings(max_examples=15, deadline=None)
@hypothesis.given(seed=st.integers(0, 2**16), alpha=st.sampled_from([0.0, 0.6, 1.5]))
def test_enough_beams_find_the_best_of_all(seed, alpha):
  logits, beams = table(seed), VOCABULARY**LENGTH
  ids, scores = compiled()(logits, alpha, beams)
  for example in range(len(logits)):
    want = all_sequences(logits, example, alpha)
    np.testing.assert_allclose(scores[example, 0], want[0][0], rtol=1e-5)
    assert tuple(ids[example, 0].tolist()) == want[0][1]
    # The scores of the next best sequences match, too.
    count = min(len(want), 5)
    np.testing.assert_allclose(
      scores[example, :count], [score for score, _ in want[:count]], rtol=1e-5
    )


def compiled():
  def run(logits, alpha, beams):
    step = step_of(logits, beams)
    return search.beam_search(step, None, first(logits), LENGTH, EOS, beams, alpha)

  return JITTED.setdefault('beam', jax.jit(run, static_argnums=(1, 2)))


JITTED = {}


def test_one_beam_without_an_end_is_greedy():
  logits = table(3).at[..., EOS].set(-1e9)
  ids, _ = search.beam_search(step_of(logits), None, first(logits), LENGTH, EOS, 1)
  got = search.greedy(step_of(logits), None, first(logits), LENGTH, EOS)
  np.testing.assert_array_equal(ids[:, 0], got)
  want, token = [], np.zeros(2, int)
  for index in range(LENGTH):
    token = np.asarray(logits)[np.arange(2), index, token].argmax(axis=-1)
    want.append(token)
  np.testing.assert_array_equal(got, np.stack(want, axis=1))


def test_nothing_comes_after_the_end():
  logits = table(0).at[0, 1, :, EOS].set(99.0)
  ids = search.greedy(step_of(logits), None, first(logits), LENGTH, EOS)
  assert ids[0, 1] == EOS and not ids[0, 2:].any()


def test_all_done_stops_the_steps():
  logits = jnp.zeros((2, 100, VOCABULARY, VOCABULARY)).at[..., EOS].set(50.0)

  def counting(token, index, cache):
    return step_of(logits, len(token) // 2)(token, index, None)[0], cache + 1

  steps = []

  def recording(token, index, cache):
    jax.debug.callback(lambda index: steps.append(int(index)), index)
    return counting(token, index, cache)

  search.greedy(recording, 0, first(logits), 100, EOS)
  jax.effects_barrier()
  assert max(steps) == 0
  steps.clear()
  search.beam_search(recording, 0, first(logits), 100, EOS, 3)
  jax.effects_barrier()
  assert max(steps) < 6  # the most likely one ends at once, and no other can beat it


@pytest.mark.parametrize('find', ['greedy', 'beam'])
def test_tokens_that_are_never_taken(find):
  logits = table(5).at[..., 2].add(30.0)
  if find == 'greedy':
    ids = search.greedy(step_of(logits), None, first(logits), LENGTH, EOS, never=(2,))
  else:
    ids, _ = search.beam_search(
      step_of(logits, 4), None, first(logits), LENGTH, EOS, 4, never=(2,)
    )
  assert not (ids == 2).any()
