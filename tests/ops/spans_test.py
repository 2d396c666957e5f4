"""Axes: B batch, W words, N spans."""

import jax
import numpy as np

from big_vision_like.data.text import bio
from big_vision_like.ops import spans

MOST = 3
NAMES = ('O', 'B-0', 'I-0', 'B-1', 'I-1')
FIND = jax.jit(spans.of_tags, static_argnums=2)


def test_spans_are_those_of_the_reader_of_files():
  rng = np.random.default_rng(0)
  tags_BW = rng.choice(5, (200, 7), p=[0.4, 0.15, 0.15, 0.15, 0.15])
  count_B = rng.integers(0, 8, 200)
  mask_BW = np.arange(7)[None] < count_B[:, None]
  found = FIND(tags_BW, mask_BW, MOST)
  cut = 0
  for row, tags_W in enumerate(tags_BW):
    names = [NAMES[tag] for tag in tags_W[: count_B[row]]]
    # A B is a new entity in 'bio', and only after another one of its kind in 'iob1'.
    true = bio.entities(names, scheme='iob1')
    there_N = np.asarray(found.mask_BN[row])
    ours = [
      (*span, str(kind))
      for span, kind in zip(
        np.asarray(found.spans_BN2[row])[there_N].tolist(),
        np.asarray(found.kinds_BN[row])[there_N].tolist(),
        strict=True,
      )
    ]
    assert ours == true[:MOST]
    assert found.cut_B[row] == max(len(true) - MOST, 0)
    cut += len(true) > MOST
    assert not np.asarray(found.spans_BN2[row])[~there_N].any()
  assert cut > 5


def test_more_room_than_words():
  found = FIND(np.array([[1, 2]]), np.ones((1, 2), bool), 5)
  assert found.spans_BN2[0].tolist() == [[0, 1]] + [[0, 0]] * 4
  assert found.mask_BN[0].tolist() == [True] + [False] * 4
