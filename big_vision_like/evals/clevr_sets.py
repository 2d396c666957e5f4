"""Average precision of sets of objects predicted in images.

Axes: N images, S slots, O objects (rows of targets), P properties, D detections (slots
of all images).
"""

import dataclasses
import math
import re
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from jax.sharding import Mesh

from big_vision_like.errors import UserError
from big_vision_like.evals import evaluator
from big_vision_like.evals.evaluator import Arrays, Predict, Results
from big_vision_like.viz import slots

COORDINATES = 3
# Coordinates in [0, 1] correspond to [-3, 3] in CLEVR's scenes, the unit of distances.
SCENE_SIZE = 6.0


@dataclasses.dataclass(kw_only=True)
class AveragePrecision(evaluator.Evaluator):
  """Average precision of objects with all their properties (arXiv:2006.15055, 4.2).

  `ap_inf`, `ap_1`, `ap_0.5`, ... are average precisions at each of `thresholds` (see
  `average_precisions`), and `huber` is the mean loss. `attention` has sheets
  (`viz.slots.attention_sheet`) of the first `pictures` images.

  The properties of an object are 3 coordinates, one-hot attributes (CLEVR: size,
  material, shape, colour) with the numbers of values in `attributes`, and presence; a
  row without presence is padding. `predict_args` may have `num_slots` and `iterations`,
  which replace the values of the model. Slots are sampled for each batch, with the same
  keys in every evaluation: samples depend on the batch size, not on the devices.

  Batches have `targets` (B, O, P). The prediction is the one of `tasks.set_prediction`.
  """

  needs = ('targets',)
  tiny = dict(predict_args=dict(iterations=2))

  thresholds: Sequence[float] = (math.inf, 1.0, 0.5, 0.25, 0.125)
  attributes: Sequence[int] = (2, 2, 3, 8)
  pictures: int = 4

  def reports(self) -> Mapping[str, str]:
    return {
      **{re.escape(f'ap_{threshold:g}'): 'max' for threshold in self.thresholds},
      'huber': 'min',
    }

  def run(self, predict: Predict, state: Any, mesh: Mesh | None = None) -> Results:
    found = self.joined(
      self.measure, predict, state, mesh, draw=drawn, pictures=self.pictures
    )
    targets_NOP = found.values['targets']
    if not (targets_NOP[..., -1] > 0).any():
      raise UserError(
        f'no image of {self.data.source} shows an object: the last column of `targets`'
        ' (presence) is 0 everywhere.'
      )
    precisions = average_precisions(
      found.values['predictions'], targets_NOP, self.thresholds, self.attributes
    )
    names = [f'ap_{threshold:g}' for threshold in self.thresholds]
    scalars = dict(zip(names, precisions.tolist(), strict=True))
    scalars['huber'] = float(found.values['huber'].mean(dtype=np.float64))
    sheets = [
      slots.attention_sheet(row['image'], row['attention']) for row in found.drawn
    ]
    return Results(scalars, {'attention': np.stack(sheets)} if sheets else {})

  def measure(self, outputs: Arrays, batch: Arrays) -> Arrays:
    """Returns predictions, targets and loss of each image."""
    rows = {name: outputs[name] for name in ('predictions', 'huber')}
    return rows | {'targets': batch['targets']}


def drawn(outputs: Arrays, batch: Arrays) -> Arrays:
  """Returns the arrays that sheets are drawn from."""
  del batch
  return {name: outputs[name] for name in ('image', 'attention')}


def average_precisions(
  predictions_NSP: np.ndarray,
  targets_NOP: np.ndarray,
  thresholds: Sequence[float],
  attributes: Sequence[int] = (2, 2, 3, 8),
) -> np.ndarray:
  """Returns the average precision of arXiv:2006.15055 at each distance threshold.

  All slots of all images are detections. They are sorted by decreasing presence, with
  the last first among equal ones. A detection is right if the nearest object of its
  image with the same attributes is closer than the threshold, and no earlier detection
  was matched to this object. The result is the mean over objects of the best precision
  at the recall that includes them, or at any higher recall.
  """
  properties = COORDINATES + sum(attributes) + 1
  num_images, num_slots, _ = predictions_NSP.shape
  num_objects = targets_NOP.shape[1]
  for name, array in ('predictions', predictions_NSP), ('targets', targets_NOP):
    if array.shape[-1] != properties:
      raise UserError(
        f'`{name}` is {list(array.shape)}, but {COORDINATES} coordinates, attributes of'
        f' {list(attributes)} values and presence are {properties} properties: set the'
        " evaluator's `attributes` to match the data."
      )
  real_NO = targets_NOP[..., -1] > 0
  alike_NSO = (
    _values(predictions_NSP, attributes)[:, :, None]
    == _values(targets_NOP, attributes)[:, None]
  ).all(axis=-1)
  offset_NSO3 = (
    predictions_NSP[:, :, None, :COORDINATES] - targets_NOP[:, None, :, :COORDINATES]
  )
  distance_NSO = np.linalg.norm(SCENE_SIZE * offset_NSO3, axis=-1)
  distance_NSO[~(alike_NSO & real_NO[:, None])] = np.inf
  nearest_NS = distance_NSO.argmin(axis=-1)
  distance_D = distance_NSO.min(axis=-1).reshape(-1)
  object_D = (nearest_NS + num_objects * np.arange(num_images)[:, None]).reshape(-1)
  order_D = np.argsort(predictions_NSP[..., -1].reshape(-1), kind='stable')[::-1]
  return np.array(
    [
      _average_precision(
        _right(object_D[order_D], distance_D[order_D] < threshold), real_NO.sum()
      )
      for threshold in thresholds
    ]
  )


def _values(objects_NSP: np.ndarray, attributes: Sequence[int]) -> np.ndarray:
  """Returns the value of each attribute, (N, S, attributes)."""
  parts = np.split(
    objects_NSP[..., COORDINATES:-1], np.cumsum(attributes)[:-1], axis=-1
  )
  return np.stack([part.argmax(axis=-1) for part in parts], axis=-1)


def _right(object_D: np.ndarray, hit_D: np.ndarray) -> np.ndarray:
  """Returns whether each detection is the first to hit its object, bool (D,)."""
  hits = hit_D.nonzero()[0]
  _, first = np.unique(object_D[hits], return_index=True)
  right_D = np.zeros(len(hit_D), bool)
  right_D[hits[first]] = True
  return right_D


def _average_precision(right_D: np.ndarray, num_objects: int) -> float:
  precision_D = right_D.cumsum() / np.arange(1, len(right_D) + 1)
  best_D = np.maximum.accumulate(precision_D[::-1])[::-1]
  return float(best_D[right_D].sum() / num_objects)
