"""Evaluation of object discovery: slots against the true entities of an image.

Axes: B images, T iterations, S slots, H W pixels, N pixels of an image, K entities
(entity 0 is the background).
"""

import dataclasses
import functools
from collections.abc import Iterator, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh

from big_vision_like.errors import UserError
from big_vision_like.evals import evaluator
from big_vision_like.evals.evaluator import Arrays, Predict, Results
from big_vision_like.ops import matching
from big_vision_like.viz import slots

NUM_IDS = 256  # the number of values of a uint8
# Outputs that a sheet is drawn from, in addition to the true segmentation.
DRAWN = ('image', 'iterate_reconstructions', 'iterate_masks', 'iterate_contents')


@dataclasses.dataclass(kw_only=True)
class Segmentation(evaluator.Evaluator):
  """Quality of the segmentation of images by slots (arXiv:2006.15055, section 4.1).

  Each pixel belongs to the slot with the greatest mask. The scalars are averages over
  images: `ari_foreground`, the adjusted Rand index among pixels of objects, which the
  paper reports; `ari`, the adjusted Rand index of all pixels; `miou`, which also
  decreases when the background shares slots with objects; and `mse`, the error of the
  reconstruction. `ari_foreground_1`, `_2`, ... are values after 1, 2, ... iterations.
  `slots` has sheets (`viz.slots.slots_sheet`) of the first `pictures` images that
  count.

  `predict_args` may have `num_slots` and `iterations`, which replace the values of the
  model. Only images with `objects[0]` to `objects[1]` objects count, since foreground
  ARI is meaningless without objects. Slots are sampled for each batch, with the same
  keys in every evaluation: samples depend on the batch size, not on the devices.

  Batches have `segmentation` (B, H, W) uint8, the entity of each pixel. The prediction
  is the one of `tasks.object_discovery`.
  """

  needs = ('segmentation',)
  tiny = dict(predict_args=dict(iterations=2))

  objects: tuple[int, int] = (1, NUM_IDS - 1)
  pictures: int = 4

  def reports(self) -> Mapping[str, str]:
    return {
      r'ari(_foreground(_\d+)?)?': 'max',
      'miou': 'max',
      'mse': 'min',
    }

  def run(self, predict: Predict, state: Any, mesh: Mesh | None = None) -> Results:
    sheets: list[np.ndarray] = []
    fewest, most = self.objects
    means = evaluator.means(
      self._drawing(predict, state, mesh, sheets),
      self.data,
      f'no image shows {fewest} to {most} objects',
    )
    return Results(means, {'slots': np.stack(sheets)} if sheets else {})

  def _drawing(
    self, predict: Predict, state: Any, mesh: Mesh | None, sheets: list[np.ndarray]
  ) -> Iterator[evaluator.Rows]:
    rows = self.rows(
      self.measure, predict, state, mesh, draw=drawn, pictures=self.pictures
    )
    for part in rows:
      names = (*DRAWN, 'segmentation')
      sheets += [slots.slots_sheet(*(row[k] for k in names)) for row in part.drawn]
      yield part

  def measure(self, outputs: Arrays, batch: Arrays) -> Arrays:
    """Returns the measures of each image, and whether it counts."""
    values = measures(outputs, batch['segmentation'])
    fewest, most = self.objects
    objects_B = values.pop('objects')
    return values | {'count': (fewest <= objects_B) & (objects_B <= most)}


def drawn(outputs: Arrays, batch: Arrays) -> Arrays:
  """Returns the arrays that sheets are drawn from."""
  return {name: outputs[name] for name in DRAWN} | {
    'segmentation': batch['segmentation']
  }


def measures(outputs: Arrays, true_BHW: jax.Array) -> Arrays:
  """Returns the scalars of `Segmentation` and the number of `objects` per image, (B,).

  `outputs` has `masks` (B, S, H, W), `iterate_masks` (B, T, S, H, W) and `mse` (B,).
  Raises UserError if the true segmentation is not uint8 or differs in size from the
  masks.
  """
  masks_BSHW = outputs['masks']
  _, num_slots, *size = masks_BSHW.shape
  if true_BHW.dtype != jnp.uint8 or list(true_BHW.shape[1:]) != size:
    raise UserError(
      f'`segmentation` is {true_BHW.dtype}{list(true_BHW.shape)}, but masks are'
      f" {list(masks_BSHW.shape)}: it must be uint8 (B, H, W) with the masks' H and W;"
      ' crop and resize it like the image.'
    )
  counts_BSK = overlaps(true_BHW, masks_BSHW.argmax(axis=1), num_slots)
  iterates_TBHW = jnp.moveaxis(outputs['iterate_masks'].argmax(axis=2), 1, 0)
  by_iteration = {
    f'ari_foreground_{number}': adjusted_rand_index(
      overlaps(true_BHW, iterate_BHW, num_slots)[..., 1:]
    )
    for number, iterate_BHW in enumerate(iterates_TBHW, start=1)
  }
  return {
    'ari_foreground': adjusted_rand_index(counts_BSK[..., 1:]),
    'ari': adjusted_rand_index(counts_BSK),
    'miou': mean_iou(counts_BSK),
    'mse': outputs['mse'],
    **by_iteration,
    'objects': (counts_BSK.sum(axis=1) > 0)[:, 1:].sum(axis=1),
  }


def overlaps(
  true_BHW: jax.Array, predicted_BHW: jax.Array, num_slots: int
) -> jax.Array:
  """Counts the pixels that each slot shares with each entity, (B, S, 256) int32, exact.

  Entities are ids below 256, and predictions are ids below `num_slots`.
  """
  joint_BHW = predicted_BHW.astype(jnp.int32) * NUM_IDS + true_BHW.astype(jnp.int32)
  joint_BN = joint_BHW.reshape(len(joint_BHW), -1)
  count = functools.partial(jnp.bincount, length=num_slots * NUM_IDS)
  return jax.vmap(count)(joint_BN).reshape(-1, num_slots, NUM_IDS)


def adjusted_rand_index(counts_BSK: jax.Array) -> jax.Array:
  """Returns the adjusted Rand index (Hubert and Arabie, 1985) of two groupings, (B,).

  `counts_BSK` has the number of pixels in each pair of groups. Without the column of
  the background, the result is foreground ARI as in deepmind/multi_object_datasets:
  pixels of the background are ignored. The index is 1 for groupings that are equal up
  to names, and has expectation 0 for random ones. If there is nothing to split (both
  have one group, or there are no pixels), it is 1.
  """
  counts_BSK = counts_BSK.astype(jnp.float32)
  n_B11 = counts_BSK.sum(axis=(1, 2), keepdims=True)

  def apart(groups_BSK: jax.Array) -> jax.Array:
    """Returns the share of pairs of pixels that are in different groups."""
    pairs_B = jnp.maximum(n_B11 * (n_B11 - 1), 1.0)[:, 0, 0]
    return (groups_BSK * (n_B11 - groups_BSK)).sum(axis=(1, 2)) / pairs_B

  # Shares in [0, 1], which are small for few groups, lose little precision in float32.
  # Differences of numbers of pairs, which reach 1e10, would lose too much.
  predicted_B = apart(counts_BSK.sum(axis=2, keepdims=True))
  true_B = apart(counts_BSK.sum(axis=1, keepdims=True))
  both_B = predicted_B + true_B - apart(counts_BSK)
  chance_B = predicted_B * true_B
  spread_B = 0.5 * (predicted_B + true_B) - chance_B
  alike_B = spread_B == 0
  return jnp.where(
    alike_B, 1.0, (both_B - chance_B) / jnp.where(alike_B, 1.0, spread_B)
  )


def mean_iou(counts_BSK: jax.Array) -> jax.Array:
  """Returns the mean intersection over union of entities with their slots, (B,).

  Entities, including the background, are matched one-to-one to slots such that the sum
  of IoU is maximal. Entities without a slot count as 0.
  """
  of_slot_BS1 = counts_BSK.sum(axis=2, keepdims=True)
  of_entity_B1K = counts_BSK.sum(axis=1, keepdims=True)
  union_BSK = of_slot_BS1 + of_entity_B1K - counts_BSK
  iou_BSK = counts_BSK / jnp.maximum(union_BSK, 1)
  # There are always more ids than slots, so slots are the rows.
  entity_BS1 = matching.match(1.0 - iou_BSK)[..., None]
  matched_BS1 = jnp.take_along_axis(iou_BSK, entity_BS1, axis=2)
  entities_B = (of_entity_B1K > 0).sum(axis=(1, 2))
  return matched_BS1.sum(axis=(1, 2)) / jnp.maximum(entities_B, 1)
