"""Sections of a report on a two-stage detector: its proposals, and its masks.

Axes: N regions or objects, K true objects, H W pixels, C channels, M side of a mask.
"""

from collections.abc import Mapping
from typing import Any

import jax
import numpy as np

from big_vision_like.errors import UserError
from big_vision_like.evals import detection, instance_masks
from big_vision_like.models import rcnn
from big_vision_like.ops import boxes
from big_vision_like.report import page
from big_vision_like.report.detection import Source, shown_of
from big_vision_like.report.source import Section, percent
from big_vision_like.viz import detection as drawing
from big_vision_like.viz import images

DRAWN = 20  # most proposals drawn
COUNTS = (10, 30, 100, 300, 1000)  # numbers of proposals in the table
IOUS = (0.5, 0.7)


def predicted(source: Source) -> dict[int, dict[str, np.ndarray]]:
  """Returns the outputs for the examples in pictures, boxes in pixels of the input."""
  task, state = source.restored.task, source.restored.state

  @jax.jit
  def predict(state: Any, batch: Any) -> Any:
    own = {name: x for name, x in batch.items() if name != 'original_size'}
    return task.predict(state, own, jax.random.key(0))

  found = {}
  for example, batch in source.pictured.items():
    outputs = jax.device_get(predict(state, batch))
    found[example] = {name: np.asarray(x[0]) for name, x in outputs.items()}
  return found


def proposals(source: Source) -> tuple[str, str]:
  """Shows the best proposals, and how many objects proposals cover."""
  found = source.boxes

  def measure(outputs: Any, batch: Any) -> Any:
    true_BK4 = batch['boxes'] * detection.ratios(batch)[:, None]
    return {
      'iou': boxes.pairwise_iou(true_BK4, outputs['proposals']),
      'there': batch['box_mask'],
    }

  name, made = source.evaluator_of(detection.CocoAP, 'finds objects')
  if 'boxes' not in made.data.example():
    raise UserError(f'the data of evals.{name} have no `boxes`.')
  values = source.joined(made, measure).values
  iou_NKR, there_NK = values['iou'], values['there'].astype(bool)
  total = int(there_NK.sum())
  if not total:
    raise UserError('the images show no object.')
  most = iou_NKR.shape[-1]
  counts = [count for count in COUNTS if count < most] + [most]
  rows = []
  for count in counts:
    best_NK = iou_NKR[..., :count].max(axis=-1)
    shares = [(best_NK[there_NK] >= iou).mean() for iou in IOUS]
    rows.append([f'{count:,}', *map(percent, shares)])
  content = page.paragraph(
    f'The share of {total:,} objects that a proposal covers, by their number.'
  )
  content += page.table(['proposals', *(f'IoU {iou:g}' for iou in IOUS)], rows)
  outputs = predicted(source)
  for example, title in found.shown().items():
    image_HWC, (height, width), _ = shown_of(source.pictured[example])
    own = outputs[example]
    score_N = own['proposal_scores'][:DRAWN]
    boxes_N4 = own['proposals'][:DRAWN]
    sheet_HWC = drawing.boxes_sheet(
      image_HWC[:height, :width],
      [(boxes_N4, [''] * len(boxes_N4), score_N.tolist())],
    )
    content += page.heading(f'{title}: {found.title(example)}')
    content += page.picture(sheet_HWC, f'proposals: {title}')
  return content, (
    f'The {min(DRAWN, most)} best proposals of each image, with the scores of the '
    'proposing network, which does not know classes. The second stage classifies and '
    'refines them (arXiv:1506.01497).'
  )


def masks_found(source: Source) -> tuple[str, str]:
  """Shows the predicted masks of the best, the median and the worst image."""
  found, outputs, content = source.boxes, predicted(source), ''
  names: Mapping[int, str] = source.names
  for example, title in found.shown().items():
    image_HWC, (height, width), _ = shown_of(source.pictured[example])
    own = outputs[example]
    sure = np.flatnonzero(own['scores'] >= found.evaluator.shown)
    ids_HW = np.zeros((height, width), np.int32)
    for number in sure[::-1]:  # the best objects on top
      mask_HW = instance_masks.pasted(
        own['masks'][number], own['boxes_xyxy'][number], height, width
      )
      ids_HW[mask_HW] = number + 1
    segments_S2 = np.stack([sure + 1, own['labels'][sure]], axis=-1)
    nothing = np.zeros((height, width), np.int32), np.zeros((0, 2), np.int32)
    sheet_HWC = drawing.panoptic_sheet(
      images.to_rgb(image_HWC[:height, :width]), [nothing, (ids_HW, segments_S2)], names
    )
    content += page.heading(f'{title}: {found.title(example)}')
    content += page.picture(sheet_HWC, f'predicted masks: {title}')
  return content, (
    'Left: the image. Right: the masks of objects with a score of '
    f'{found.evaluator.shown:g} or more; better objects are on top. A mask is '
    'predicted for a grid over its box, and interpolated to pixels (arXiv:1703.06870).'
  )


def has_masks(source: Source) -> bool:
  """Returns whether the run's model predicts masks."""
  return source.run is not None and source.run.network.module.masks


OF_MODELS = {
  rcnn.RCNN: (
    Section('Proposals', proposals, 'below'),
    Section('Masks', masks_found, 'below', fits=has_masks),
  )
}
