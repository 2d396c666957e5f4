"""Objects found without labels: slots against the entities that a picture shows.

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

NUM_IDS = 256  # what a uint8 can name
# What a sheet is drawn from, besides the true segmentation.
DRAWN = ('image', 'iterate_reconstructions', 'iterate_masks', 'iterate_contents')


@dataclasses.dataclass(kw_only=True)
class Segmentation(evaluator.Evaluator):
  """How well slots split pictures into objects (arXiv:2006.15055, section 4.1).

  Averages over images, of the pixels' slots (the greatest mask): `ari_foreground`, the
  adjusted Rand index among pixels of objects, which the paper reports; `ari`, that of
  all pixels; `miou`, which also falls when the background shares slots with objects;
  and `mse`, the error of the reconstruction. `ari_foreground_1`, `_2`, ... are those
  after so many iterations. `slots` are sheets (`viz.slots.slots_sheet`) of the first
  `pictures` images that count.

  `predict_args` may hold `num_slots` and `iterations`, which replace the model's own.
  Only images that show from `objects[0]` to `objects[1]` objects count; of none,
  foreground ARI says nothing.
  Slots are sampled anew for each batch, each time the same: other batch sizes give
  other samples, other devices do not.

  Batches hold `segmentation` (B, H, W) uint8, which entity each pixel shows; the
  prediction gives what `tasks.object_discovery` does.
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
    """Returns the numbers of each image, and whether it counts."""
    values = measures(outputs, batch['segmentation'])
    fewest, most = self.objects
    objects_B = values.pop('objects')
    return values | {'count': (fewest <= objects_B) & (objects_B <= most)}


def drawn(outputs: Arrays, batch: Arrays) -> Arrays:
  """Returns what pictures are drawn from."""
  return {name: outputs[name] for name in DRAWN} | {
    'segmentation': batch['segmentation']
  }


def measures(outputs: Arrays, true_BHW: jax.Array) -> Arrays:
  """Numbers per image (B,): those of `Segmentation`, and how many `objects` it shows.

  `outputs` has `masks` (B, S, H, W), `iterate_masks` (B, T, S, H, W) and `mse` (B,).
  UserError where the true segmentation is not uint8 or of another size than the masks.
  """
  masks_BSHW = outputs['masks']
  _, num_slots, *size = masks_BSHW.shape
  if true_BHW.dtype != jnp.uint8 or list(true_BHW.shape[1:]) != size:
    raise UserError(
      f'`segmentation` is {true_BHW.dtype}{list(true_BHW.shape)}, but masks are'
      f" {list(masks_BSHW.shape)}: it must be uint8 (B, H, W) with the masks' H and W;"
      ' crop and resize it as the image.'
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
  """How many pixels each slot shares with each entity: (B, S, 256) int32, exact.

  Entities are ids below 256, predictions ids below `num_slots`.
  """
  joint_BHW = predicted_BHW.astype(jnp.int32) * NUM_IDS + true_BHW.astype(jnp.int32)
  joint_BN = joint_BHW.reshape(len(joint_BHW), -1)
  count = functools.partial(jnp.bincount, length=num_slots * NUM_IDS)
  return jax.vmap(count)(joint_BN).reshape(-1, num_slots, NUM_IDS)


def adjusted_rand_index(counts_BSK: jax.Array) -> jax.Array:
  """Adjusted Rand index (Hubert and Arabie, 1985) of two ways to group pixels: (B,).

  `counts_BSK` are the pixels in each pair of groups; without the background's column
  they give foreground ARI, as deepmind/multi_object_datasets defines it: pixels of the
  background are ignored. 1 where the two are the same up to names, 0 expected of
  chance. Where nothing is there to be split (both are one group, or no pixel is left)
  it is 1.
  """
  counts_BSK = counts_BSK.astype(jnp.float32)
  n_B11 = counts_BSK.sum(axis=(1, 2), keepdims=True)

  def apart(groups_BSK: jax.Array) -> jax.Array:
    """The share of pairs of pixels that are in different groups."""
    pairs_B = jnp.maximum(n_B11 * (n_B11 - 1), 1.0)[:, 0, 0]
    return (groups_BSK * (n_B11 - groups_BSK)).sum(axis=(1, 2)) / pairs_B

  # Of shares in [0, 1] that are small where groups are few, little is lost in float32;
  # of numbers of pairs, which reach 1e10, the difference would be.
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
  """Mean intersection over union of an image's entities with their slots: (B,).

  Entities, the background among them, get slots one-to-one so that the sum of IoU is
  greatest; those left without one count as 0.
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
