"""Panoptic quality, and DETR's conversion of predictions to panoptic segments.

Axes: B images, H W pixels of a map of segments, h w mask logits, Q queries, K queries
that are kept, C classes (of logits: and "no object"), S true segments, P predicted.
"""

import dataclasses
from collections.abc import Mapping
from typing import Any

import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh

from big_vision_like.errors import UserError
from big_vision_like.evals import evaluator
from big_vision_like.evals.evaluator import Arrays, Predict, Results
from big_vision_like.ops import boxes
from big_vision_like.viz import detection as drawing

VOID = 0
SMALLEST = 4  # segments of at most this number of pixels are dropped


@dataclasses.dataclass(kw_only=True)
class PanopticQuality(evaluator.Evaluator):
  """Panoptic quality (arXiv:1801.00868) of DETR's segments, by COCO's rules.

  `PQ`, `SQ` and `RQ`, in [0, 1], are means over all true and predicted classes; `PQth`,
  ... are means over things, labels below `num_things`, and `PQst`, ... over stuff.
  `panoptic` shows the first `pictures` images, true segments on the left, predicted
  segments on the right.

  The prediction has `logits` and `mask_logits`; queries whose best class has a score
  above `threshold` become segments (`segments_of`). The ground truth is `panoptic`
  (B, H, W) int, the id of each pixel's segment, 0 void, and `segments` (B, S, 3) int:
  id (0 for padding), label and whether it is a crowd. The map covers the original image
  if batches have `original_size` (B, 2), and otherwise the image before padding,
  `size`. The part of the map outside this height and width is ignored.
  """

  needs = ('panoptic', 'segments')

  num_things: int
  threshold: float = 0.85
  pictures: int = 4

  def reports(self) -> Mapping[str, str]:
    return {'[PSR]Q(th|st)?': 'max'}

  def run(self, predict: Predict, state: Any, mesh: Mesh | None = None) -> Results:
    counts_C4, sheets = 0, []
    rows = self.rows(
      self.measure, predict, state, mesh, draw=drawn, pictures=self.pictures
    )
    for part in rows:
      for number in range(len(part.index_N)):
        row = {name: array[number] for name, array in part.values.items()}
        true, found = self.segments(row)
        counts_C4 += counts(*true, *found, row['logits'].shape[-1] - 1)
        if number < len(part.drawn):
          height, width = row['size']
          sheets.append(
            drawing.panoptic_sheet(
              part.drawn[number]['image'][:height, :width],
              [(ids_HW, segments[:, :2]) for ids_HW, segments in (true, found)],
            )
          )
    if not counts_C4[:, [0, 2]].any():
      raise UserError(
        f'no image of {self.data.source} has a segment that is not a crowd: `segments`'
        ' has none.'
      )
    pictures = {'panoptic': drawing.stacked(sheets)} if sheets else {}
    return Results(quality(counts_C4, self.num_things), pictures)

  def measure(self, outputs: Arrays, batch: Arrays) -> Arrays:
    """Returns predictions, ground truth and sizes of each image."""
    rows = {name: batch[name] for name in ('panoptic', 'segments')}
    rows |= {
      name: outputs[name].astype(jnp.float32) for name in ('logits', 'mask_logits')
    }
    rows['size'] = boxes.valid_size(batch)
    rows['shown_size'] = batch.get('original_size', rows['size'])
    count, *padded, _ = batch['image'].shape
    rows['padded'] = jnp.tile(jnp.array([padded]), (count, 1))
    return rows

  def segments(
    self, row: dict[str, np.ndarray]
  ) -> tuple[tuple[np.ndarray, np.ndarray], tuple[np.ndarray, np.ndarray]]:
    """Returns the true map and segments of an image, and the predicted ones.

    `row` is the output of `measure` for the image.
    """
    height, width = shown = tuple(row['shown_size'].tolist())
    true_HW = row['panoptic'][:height, :width]
    if true_HW.shape != shown:
      raise UserError(
        f'`panoptic` is {list(row["panoptic"].shape)}, but its image is'
        f' {height}x{width}: the map must be at least as large.'
      )
    segments_S3 = row['segments']
    found = segments_of(
      row['logits'],
      row['mask_logits'],
      tuple(row['size'].tolist()),
      shown,
      self.num_things,
      threshold=self.threshold,
      padded=tuple(row['padded'].tolist()),
    )
    return (true_HW, segments_S3[segments_S3[:, 0] != VOID]), found


def drawn(outputs: Arrays, batch: Arrays) -> Arrays:
  """Returns the arrays that sheets are drawn from."""
  del outputs
  return {'image': batch['image']}


def segments_of(
  logits_QC: np.ndarray,
  masks_Qhw: np.ndarray,
  size: tuple[int, int],
  shown_size: tuple[int, int],
  num_things: int,
  threshold: float = 0.85,
  padded: tuple[int, int] | None = None,
) -> tuple[np.ndarray, np.ndarray]:
  """Returns DETR's panoptic segments (arXiv:2005.12872, section 4.4, published code).

  Queries are kept if their best class is not "no object", the last class, and has a
  probability above the threshold. Each pixel goes to the kept query with the greatest
  mask logit, interpolated bilinearly to `size`, the height and width of the model's
  image. Masks of the same stuff (labels from `num_things`) are joined. Masks of up to 4
  pixels are dropped and their pixels reassigned, until no such mask is left. Returns
  the map, int32 of `shown_size`, with ids 1, 2, ... (0 if no segment was found), where
  each pixel is the nearest pixel of `size`, and the segments (P, 2) int32, id and
  label.

  With `padded`, the size of the padded image, masks cover the padded image, and the
  part outside `size` is cut off. The published code stretches masks instead, which is
  equivalent without padding.
  """
  probs_QC = np.exp(logits_QC - logits_QC.max(axis=1, keepdims=True))
  probs_QC /= probs_QC.sum(axis=1, keepdims=True)
  labels_Q = probs_QC.argmax(axis=1)
  kept_Q = (labels_Q < probs_QC.shape[1] - 1) & (probs_QC.max(axis=1) > threshold)
  labels_K = labels_Q[kept_Q]
  if not len(labels_K):
    return np.zeros(shown_size, np.int32), np.zeros((0, 2), np.int32)
  rows, columns = map(_nearest, size, shown_size)
  masks_KHW = interpolated(masks_Qhw[kept_Q], padded or size, rows, columns)
  same_KK = (labels_K[:, None] == labels_K) & (labels_K >= num_things)
  same_KK |= np.eye(len(labels_K), dtype=bool)
  first_K = same_KK.argmax(axis=1)
  owner_HW, labels = _large(masks_KHW, labels_K, first_K[masks_KHW.argmax(axis=0)])
  ids = np.arange(1, len(labels) + 1)
  ids_HW = owner_HW + 1 if len(labels) else np.zeros_like(owner_HW)
  return ids_HW.astype(np.int32), np.stack([ids, labels], axis=1).astype(np.int32)


def _large(
  masks_KHW: np.ndarray, labels_K: np.ndarray, owner_HW: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
  """Drops small segments and reassigns their pixels; returns owner map and labels."""
  large_K = np.bincount(owner_HW.ravel(), minlength=len(labels_K)) > SMALLEST
  if large_K.all():
    return owner_HW, labels_K
  if not large_K.any():
    return owner_HW, labels_K[:0]
  masks = masks_KHW[large_K]
  return _large(masks, labels_K[large_K], masks.argmax(axis=0))


def _nearest(old: int, new: int) -> np.ndarray:
  """Returns each new pixel's source pixel, int64 (new,), as in Pillow."""
  steps = np.full(new, old / new)
  steps[0] /= 2
  # Pillow accumulates steps; products would sometimes round to another pixel.
  return np.minimum(steps.cumsum().astype(np.int64), old - 1)


def interpolated(
  masks_Khw: np.ndarray, size: tuple[int, int], rows: np.ndarray, columns: np.ndarray
) -> np.ndarray:
  """Returns rows and columns of masks resized to `size`, bilinearly between centres."""
  height, width = masks_Khw.shape[1:]
  top, below, down = _taps(height, size[0], rows)
  left, right, over = _taps(width, size[1], columns)
  masks_KHw = (
    masks_Khw[:, top] * (1 - down)[:, None] + masks_Khw[:, below] * down[:, None]
  )
  return masks_KHw[:, :, left] * (1 - over) + masks_KHw[:, :, right] * over


def _taps(
  old: int, new: int, places: np.ndarray
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
  """Returns the two old pixels around each new place, and the weight of the second."""
  centre = np.clip((places + 0.5) * (old / new) - 0.5, 0, old - 1)
  low = centre.astype(np.int64)
  return low, np.minimum(low + 1, old - 1), (centre - low).astype(np.float32)


def counts(
  true_HW: np.ndarray,
  segments_S3: np.ndarray,
  found_HW: np.ndarray,
  segments_P2: np.ndarray,
  num_classes: int,
) -> np.ndarray:
  """Returns the counts for panoptic quality of an image by class, (C, 4) float64.

  The columns are true positives, false positives, false negatives, and the sum of the
  IoUs of true positives. Maps have ids, 0 for void. Segments have id, label and, for
  true ones, whether it is a crowd. A pair of a true and a predicted segment is a true
  positive if the labels are equal and the IoU, without void pixels, is above 0.5.
  Crowds need not be found. Predicted segments that are mostly on void or on a crowd of
  their class are not false positives (cocodataset/panopticapi). Raises UserError for
  pixels with an id that no segment has, and for invalid labels.
  """
  for kind, labels in ('true', segments_S3[:, 1]), ('found', segments_P2[:, 1]):
    wrong = labels[(labels < 0) | (labels >= num_classes)]
    if len(wrong):
      raise UserError(
        f'a {kind} segment has the label {wrong[0]}, but there are {num_classes}'
        ' classes: labels must be below this number.'
      )
  true = _positions(true_HW, segments_S3[:, 0], 'true')
  found = _positions(found_HW, segments_P2[:, 0], 'found')
  shape = len(segments_S3) + 1, len(segments_P2) + 1
  shared = np.bincount(
    np.ravel_multi_index((true, found), shape), minlength=np.prod(shape)
  )
  shared = shared.reshape(shape).astype(np.float64)
  area_S, area_P = shared.sum(axis=1)[1:], shared.sum(axis=0)[1:]
  shared_SP, on_void_P = shared[1:, 1:], shared[0, 1:]
  _, label_S, crowd_S = segments_S3.T
  label_P, crowd_S = segments_P2[:, 1], crowd_S.astype(bool)
  alike_SP = label_S[:, None] == label_P
  union_SP = area_S[:, None] + (area_P - on_void_P) - shared_SP
  iou_SP = np.where(alike_SP & ~crowd_S[:, None], shared_SP, 0) / np.maximum(
    union_SP, 1
  )
  # With an IoU above 0.5, each segment is in at most one pair.
  pair_SP = iou_SP > 0.5
  ignored_P = on_void_P + np.where(alike_SP & crowd_S[:, None], shared_SP, 0).sum(
    axis=0
  )
  wrong_P = ~pair_SP.any(axis=0) & (ignored_P <= 0.5 * area_P)
  missed_S = ~pair_SP.any(axis=1) & ~crowd_S
  s, p = pair_SP.nonzero()

  def by_class(labels: np.ndarray, weights: np.ndarray | None = None) -> np.ndarray:
    return np.bincount(labels, weights, minlength=num_classes)

  columns = [by_class(label_S[s]), by_class(label_P[wrong_P])]
  columns += [by_class(label_S[missed_S]), by_class(label_S[s], iou_SP[s, p])]
  return np.stack(columns, axis=1).astype(np.float64)


def _positions(ids_HW: np.ndarray, ids: np.ndarray, kind: str) -> np.ndarray:
  """Returns the index in `ids` of each pixel's id, from 1, or 0 for void, (H W,)."""
  known = np.concatenate([[VOID], ids])
  order = known.argsort()
  place = np.searchsorted(known[order], ids_HW.ravel())
  position = order[np.minimum(place, len(known) - 1)]
  wrong = known[position] != ids_HW.ravel()
  if wrong.any():
    raise UserError(
      f'a pixel of the {kind} map has the id {ids_HW.ravel()[wrong][0]}, which none of'
      f' the {len(ids)} segments has: use 0 for pixels without a segment.'
    )
  return position


def quality(counts_C4: np.ndarray, num_things: int) -> dict[str, float]:
  """Returns `PQ`, `SQ` and `RQ` of summed `counts`, also for things and for stuff.

  Values for things end in `th`, values for stuff in `st`. They are means over all true
  and predicted classes; a group without such classes is left out.
  """
  there_C = counts_C4.any(axis=1)
  things_C = np.arange(len(counts_C4)) < num_things
  values_C3 = class_quality(counts_C4)
  results: dict[str, float] = {}
  for suffix, group_C in ('', there_C), ('th', things_C), ('st', ~things_C):
    if (there_C & group_C).any():
      means = values_C3[there_C & group_C].mean(axis=0).tolist()
      results |= zip((f'{q}{suffix}' for q in ('PQ', 'SQ', 'RQ')), means, strict=True)
  return results


def class_quality(counts_C4: np.ndarray) -> np.ndarray:
  """Returns panoptic, segmentation and recognition quality of each class, (C, 3).

  The values are 0 for classes without segments.
  """
  found_C, wrong_C, missed_C, iou_C = counts_C4.T
  half_C = np.maximum(found_C + 0.5 * wrong_C + 0.5 * missed_C, 0.5)
  columns = [iou_C / half_C, iou_C / np.maximum(found_C, 1), found_C / half_C]
  return np.stack(columns, axis=1)
