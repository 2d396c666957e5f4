"""Non-maximum suppression on the device, with static shapes.

Axes: N candidate boxes of one image, xyxy; K kept.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp

from big_vision_like.errors import check_one_of
from big_vision_like.ops import boxes

SOFT = ('none', 'linear', 'gaussian')


def kept(
  boxes_N4: jax.Array, scores_N: jax.Array, valid_N: jax.Array, threshold: float
) -> jax.Array:
  """Returns which boxes greedy suppression keeps, bool (N,), in their own order.

  From the highest score down, a valid box is kept unless its IoU with a kept one is
  above the threshold; of equal scores the first ranks higher. All candidates are judged
  at once, and again until nothing changes: after n rounds the first n are final, and
  mostly a few rounds are enough. Memory is N^2 booleans.
  """
  order_N = jnp.argsort(jnp.where(valid_N, -scores_N, jnp.inf), stable=True)
  boxes_N4, valid_N = boxes_N4[order_N], valid_N[order_N]
  rank_N = jnp.arange(len(order_N))
  over_NN = boxes.pairwise_iou(boxes_N4, boxes_N4) > threshold
  # Entry (i, j): box i, if it is kept, suppresses box j.
  over_NN &= rank_N[:, None] < rank_N[None]

  def judge(state: tuple[jax.Array, jax.Array]) -> tuple[jax.Array, jax.Array]:
    kept_N, _ = state
    return valid_N & ~(over_NN & kept_N[:, None]).any(axis=0), kept_N

  def changes(state: tuple[jax.Array, jax.Array]) -> jax.Array:
    return (state[0] != state[1]).any()

  first = valid_N, jnp.zeros_like(valid_N)
  kept_N, _ = jax.lax.while_loop(changes, judge, judge(first))
  return jnp.zeros_like(kept_N).at[order_N].set(kept_N)


class Selected(NamedTuple):
  """The boxes that remain, by falling score.

  `index_K` are their places among the candidates, `scores_K` their scores, which soft
  suppression lowers, and `valid_K` False where there was no further box.
  """

  index_K: jax.Array
  scores_K: jax.Array
  valid_K: jax.Array


def select(
  boxes_N4: jax.Array,
  scores_N: jax.Array,
  groups_N: jax.Array,
  most: int,
  threshold: float,
  least: float = 0.0,
  soft: str = 'none',
  sigma: float = 0.5,
) -> Selected:
  """Selects up to `most` boxes with a score above `least`, one after the other.

  After each choice, boxes of its group (a class, say) whose IoU with it is above the
  threshold are dropped. With `soft` (arXiv:1704.04503), their scores are multiplied by
  1 - IoU ('linear'), or those of all boxes of its group by exp(-IoU^2 / sigma)
  ('gaussian'). This equals suppression within each group followed by the best `most`,
  for any number of candidates, in `most` steps and without a matrix of pairs.
  """
  check_one_of(SOFT, soft=soft)

  def step(scores_N: jax.Array, _: None) -> tuple[jax.Array, tuple[jax.Array, ...]]:
    best = scores_N.argmax()
    score = scores_N[best]
    iou_N = boxes.iou(boxes_N4[best][None], boxes_N4)
    factor_N = jnp.where(iou_N > threshold, 0.0, 1.0)
    if soft == 'linear':
      factor_N = jnp.where(iou_N > threshold, 1.0 - iou_N, 1.0)
    if soft == 'gaussian':
      factor_N = jnp.exp(-jnp.square(iou_N) / sigma)
    rest_N = jnp.where(groups_N == groups_N[best], scores_N * factor_N, scores_N)
    # A box without area does not overlap itself.
    rest_N = rest_N.at[best].set(0.0)
    rest_N = jnp.where(rest_N > least, rest_N, 0.0)
    return rest_N, (best.astype(jnp.int32), score, score > 0)

  first_N = jnp.where(scores_N > least, scores_N, 0.0)
  _, found = jax.lax.scan(step, first_N, None, length=most)
  return Selected(*found)
