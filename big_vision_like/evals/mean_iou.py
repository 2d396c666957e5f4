"""Mean intersection over union of predicted and true label maps.

Axes: B images, H W pixels, C D true and predicted classes.
"""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh

from big_vision_like.errors import UserError
from big_vision_like.evals import evaluator
from big_vision_like.evals.evaluator import Arrays, Predict, Results
from big_vision_like.ops import boxes, label_maps
from big_vision_like.viz import label_maps as drawing
from big_vision_like.viz.detection import stacked


@dataclasses.dataclass(kw_only=True)
class MeanIoU(evaluator.Evaluator):
  """Mean IoU of classes over all images, by the rules of mmsegmentation.

  Pixels of all images are counted together. The IoU of a class is the number of pixels
  that truly are and are predicted as the class, over the number of those that are one
  of both. `mIoU` is its mean over the classes that are true or predicted somewhere,
  `mAcc` the mean share of a class's true pixels that are found, and `aAcc` the share of
  all pixels; all are in [0, 1]. Pixels labelled 255 do not count. `classes` lists the
  IoU of each class, and `label_maps` shows the first `pictures` images, each with its
  true and its predicted label map.

  The prediction has `found_map` (B, H, W), see `tasks.semantic_segmentation`. Batches
  have `truth_map` of the same shape, and `original_size` (B, 2): pixels outside of it
  do not count. `predict_args` may have `scales`, `flip`, `window` and `stride`.
  `names` are the names of the classes.
  """

  needs = ('truth_map', 'original_size')
  tiny = dict(predict_args=lambda arguments, _: _fewer(arguments['predict_args']))

  num_classes: int
  names: Sequence[str] = ()
  pictures: int = 4

  def __post_init__(self) -> None:
    if self.names and len(self.names) != self.num_classes:
      raise UserError(
        f'`names` has {len(self.names)} names, but num_classes={self.num_classes}'
      )

  def reports(self) -> Mapping[str, str]:
    return {'mIoU|mAcc|aAcc': 'max'}

  @property
  def class_names(self) -> dict[int, str]:
    """The names of classes by label, as far as they are known."""
    return dict(enumerate(self.names))

  def run(self, predict: Predict, state: Any, mesh: Mesh | None = None) -> Results:
    count_CD, sheets = np.zeros((self.num_classes,) * 2, np.int64), []
    rows = self.rows(
      self.measure, predict, state, mesh, draw=drawn, pictures=self.pictures
    )
    for part in rows:
      self.check(part)
      count_CD += part.values['confusion'].sum(axis=0, dtype=np.int64)
      sheets += [self.sheet(row) for row in part.drawn]
    if not count_CD.any():
      raise UserError(
        f'no pixel of {self.data.source} has a label: there is no IoU to measure.'
      )
    pictures = {'label_maps': stacked(sheets)} if sheets else {}
    iou_C = intersection_over_union(count_CD)
    known = self.class_names
    lines = [
      f'{known.get(label, label)}: {100 * iou:.2f} %'
      for label, iou in enumerate(iou_C.tolist())
      if np.isfinite(iou)
    ]
    return Results(scores(count_CD), pictures, {'classes': lines})

  def measure(self, outputs: Arrays, batch: Arrays) -> Arrays:
    """Returns the confusion matrix of each image, and its largest label."""
    truth_BHW = counted(batch)

    def of_image(truth_HW: jax.Array, found_HW: jax.Array) -> jax.Array:
      return label_maps.confusion(truth_HW, found_HW, self.num_classes)

    labels_BHW = jnp.where(truth_BHW == label_maps.IGNORED, 0, truth_BHW)
    return {
      'confusion': jax.vmap(of_image)(truth_BHW, outputs['found_map']),
      'largest': labels_BHW.max(axis=(1, 2)).astype(jnp.int32),
      'most': outputs['found_map'].max(axis=(1, 2)),
    }

  def check(self, part: evaluator.Rows) -> None:
    """Raises if an image has a label, or a prediction, beyond the classes."""
    for name, what in ('largest', 'a true label'), ('most', 'a predicted label'):
      wrong_N = part.values[name] >= self.num_classes
      if wrong_N.any():
        raise UserError(
          f'example {part.index_N[wrong_N][0]} of {self.data.source} has {what} of'
          f' {part.values[name][wrong_N][0]}, but num_classes={self.num_classes}'
        )

  def sheet(self, row: Mapping[str, np.ndarray]) -> np.ndarray:
    """Draws an image with its true and its predicted label map."""
    height, width = row['size']
    tall, wide = row['original_size']
    maps = [row[name][:tall, :wide] for name in ('truth_map', 'found_map')]
    return drawing.sheet(row['image'][:height, :width], maps, self.class_names)


def counted(batch: Arrays) -> jax.Array:
  """Returns true label maps in which pixels outside of their images are ignored."""
  truth_BHW, size_B2 = batch['truth_map'], batch['original_size']
  _, height, width = truth_BHW.shape
  below_BH1 = jnp.arange(height)[None, :, None] < size_B2[:, :1, None]
  left_B1W = jnp.arange(width)[None, None] < size_B2[:, 1:, None]
  return jnp.where(below_BH1 & left_B1W, truth_BHW, label_maps.IGNORED)


def drawn(outputs: Arrays, batch: Arrays) -> Arrays:
  """Returns the arrays that sheets are drawn from."""
  kept = {name: batch[name] for name in ('image', 'truth_map', 'original_size')}
  return kept | {'size': boxes.valid_size(batch), 'found_map': outputs['found_map']}


def intersection_over_union(count_CD: np.ndarray) -> np.ndarray:
  """Returns the IoU of each class (C,) from a confusion matrix; NaN for absent ones."""
  both_C = np.diag(count_CD).astype(np.float64)
  either_C = count_CD.sum(axis=0) + count_CD.sum(axis=1) - both_C
  return np.divide(
    both_C, either_C, out=np.full_like(both_C, np.nan), where=either_C > 0
  )


def scores(count_CD: np.ndarray) -> dict[str, float]:
  """Returns `mIoU`, `mAcc` and `aAcc` of a confusion matrix, true classes by row."""
  both_C = np.diag(count_CD).astype(np.float64)
  true_C = count_CD.sum(axis=1)
  found_C = np.divide(
    both_C, true_C, out=np.full_like(both_C, np.nan), where=true_C > 0
  )
  return {
    'mIoU': float(np.nanmean(intersection_over_union(count_CD))),
    'mAcc': float(np.nanmean(found_C)),
    'aAcc': float(both_C.sum() / count_CD.sum()),
  }


def _fewer(predict_args: Any) -> Any:
  """Returns arguments for a trial: two scales, and small windows."""
  if not isinstance(predict_args, Mapping):  # the default of the field
    return predict_args
  fewer = dict(predict_args)
  if 'scales' in fewer:
    fewer['scales'] = tuple(fewer['scales'][:2])
  for name, most in ('window', 64), ('stride', 48):
    if fewer.get(name):
      fewer[name] = min(fewer[name], most)
  return fewer
