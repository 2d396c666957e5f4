"""Golden files of detection: boxes, matching and losses."""

import jax
import jax.numpy as jnp
import numpy as np

from big_vision_like.ops import boxes, positions
from big_vision_like.tasks import set_detection
from tools.golden.common import (
  EXACT,
  FLOAT,
  LOSS,
  Check,
  Fields,
  Results,
  Tolerance,
  float_name,
  loss_and_gradients,
)

# The reference's names of our losses.
LOSSES = {'class': 'loss_ce', 'l1': 'loss_bbox', 'giou': 'loss_giou'}


def matching_and_losses(description: Fields, arrays: Fields) -> Results:
  """Computes overlaps of boxes, matched queries, losses of a layer, sine positions."""
  a_N4, b_M4 = (
    boxes.cxcywh_to_xyxy(jnp.asarray(arrays[f'input/boxes_{name}_cxcywh']))
    for name in 'ab'
  )
  results = {
    'output/iou': (boxes.pairwise_iou(a_N4, b_M4), FLOAT),
    'output/giou': (boxes.pairwise_generalized_iou(a_N4, b_M4), FLOAT),
    'output/union': (boxes.union(a_N4[:, None], b_M4[None]), FLOAT),
  }
  for i, (*_, size) in enumerate(description['pos_cases']):
    valid_Bhw = ~arrays[f'input/pos{i}_mask']
    positions_BhwD = positions.masked_sine2d(jnp.asarray(valid_Bhw), 2 * size)
    results[f'output/pos{i}'] = (jnp.moveaxis(positions_BhwD, -1, 1), FLOAT)
  found = {
    name: jnp.asarray(arrays[f'input/pred_{name}']) for name in ('logits', 'boxes')
  }
  objects = padded(description['num_targets'], arrays)

  def total_loss(
    found: dict[str, jax.Array],
  ) -> tuple[jax.Array, tuple[dict[str, jax.Array], jax.Array]]:
    losses, query_LBK = set_detection.set_losses(
      found['logits'][None],
      found['boxes'][None],
      objects,
      jnp.asarray(objects.valid_BK.sum(), float),
      set_detection.COSTS,
      no_object_weight=0.1,
    )
    total = sum(
      set_detection.WEIGHTS[name] * loss_L[0] for name, loss_L in losses.items()
    )
    return total, (losses, query_LBK)

  total, (losses, query_LBK), gradients = loss_and_gradients(total_loss, found)
  for name, gradient in gradients.items():
    results[f'grad/pred_{name}'] = (gradient, Tolerance(relative=1e-3))
  results |= matches('output/match{}', query_LBK[0], objects)
  for name, theirs in LOSSES.items():
    results[f'loss/{theirs}'] = (losses[name][0], LOSS)
  results['loss/total'] = (total, LOSS)
  for name, error in set_detection.errors(
    found['logits'], objects, query_LBK[0]
  ).items():
    results[f'loss/{name}'] = (error, LOSS)
  return results


def matches(name: str, query_BK: jax.Array, objects: set_detection.Objects) -> Results:
  """Returns the matched pairs of each image, ordered by query, named by its number."""
  results: Results = {}
  pairs = zip(np.asarray(query_BK), objects.valid_BK, strict=True)
  for i, (query_K, valid_K) in enumerate(pairs):
    target_K = query_K[valid_K].argsort()
    results[f'{name.format(i)}_query'] = (query_K[target_K], EXACT)
    results[f'{name.format(i)}_target'] = (target_K, EXACT)
  return results


def padded(counts: list[int], arrays: Fields) -> set_detection.Objects:
  """Returns the objects of a file, with these numbers in its images, as one batch."""
  valid_BK = np.arange(max(counts))[None] < np.array(counts)[:, None]
  label_BK = np.zeros(valid_BK.shape, np.int32)
  boxes_BK4 = np.ones((*valid_BK.shape, 4), float_name())
  for i, count in enumerate(counts):
    label_BK[i, :count] = arrays[f'input/target{i}_labels']
    boxes_BK4[i, :count] = arrays[f'input/target{i}_boxes']
  return set_detection.Objects(*map(jax.device_put, (boxes_BK4, label_BK, valid_BK)))


CHECKS = (
  Check(
    matching_and_losses,
    'detr HungarianMatcher, SetCriterion and positions',
    fields=('queries', 'num_targets', 'pos_cases'),
  ),
)
