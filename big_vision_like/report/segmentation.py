"""Sections of a report on semantic segmentation: label maps, and the IoU of classes.

Axes: N examples, C D true and predicted classes.
"""

import dataclasses
import functools
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from big_vision_like import spec as specs
from big_vision_like.errors import UserError, plural, shape_text
from big_vision_like.evals import mean_iou
from big_vision_like.report import images, page
from big_vision_like.report import source as report_source
from big_vision_like.report.source import Section, from_best_to_worst, percent
from big_vision_like.viz import label_maps as drawing

NUM_INPUTS = 6
INPUT_SIDE = 320  # pixels
MOST_ROWS = 24  # rows of a table that is not folded
MOST_CONFUSED = 10


@dataclasses.dataclass(frozen=True)
class Found:
  """Confusion matrices of the first evaluation images, by an evaluator of this name."""

  name: str
  evaluator: mean_iou.MeanIoU
  index_N: np.ndarray
  count_NCD: np.ndarray

  @property
  def quality_N(self) -> np.ndarray:
    """The share of right pixels of each image; NaN without labels."""
    right_N = np.trace(self.count_NCD, axis1=1, axis2=2).astype(np.float64)
    all_N = self.count_NCD.sum(axis=(1, 2))
    return np.divide(right_N, all_N, out=np.full_like(right_N, np.nan), where=all_N > 0)


@dataclasses.dataclass
class Source(report_source.Source):
  """A report on a run that segments images."""

  predicts = 'label_maps'

  @property
  def sections(self) -> Sequence[Section]:
    return SECTIONS

  @property
  def names(self) -> dict[int, str]:
    """The names of classes, if an evaluator of the config has them."""
    nodes = self.log.config.get('evals', {}).values()
    names = (specs.held(node, 'names') for node in nodes)
    return dict(enumerate(next(filter(None, names), ())))

  @functools.cached_property
  def found(self) -> Found:
    name, made = self.evaluator_of(mean_iou.MeanIoU, 'measures the IoU of classes')
    rows = self.joined(made, made.measure)
    made.check(rows)
    return Found(name, made, rows.index_N, rows.values['confusion'])


def sample_inputs(source: Source) -> tuple[str, str]:
  """Shows the first training images with their label maps."""
  _, batch = source.training_batch(NUM_INPUTS)
  for needed in ('image', 'label_map'):
    if needed not in batch:
      raise UserError(f'the training batches have no `{needed}`.')
  tiles = [
    page.picture(
      drawing.sheet(images.visible(image_HWC), [label_HW], source.names, INPUT_SIDE),
      'training image and its label map',
    )
    for image_HWC, label_HW in zip(
      batch['image'][:NUM_INPUTS], batch['label_map'], strict=False
    )
  ]
  size = shape_text(batch['image'].shape[1:])
  return page.tiles(tiles), (
    f'Training images after all transforms, as {size} arrays enter the model, and '
    'their label maps. Pixels without a label are not painted.'
  )


def predicted(source: Source) -> tuple[str, str]:
  """Shows true and predicted label maps of the best, the median and the worst image."""
  found = source.found
  quality_N = found.quality_N
  there = np.flatnonzero(np.isfinite(quality_N))
  if not len(there):
    raise UserError(f'no image of evals.{found.name} has a label.')
  order = from_best_to_worst(-quality_N[there])
  titles = {int(there[i]): title for i, title in order.items()}
  indices = found.index_N[list(titles)].tolist()
  shown = source.chosen(found.evaluator, mean_iou.drawn, indices)
  content = ''
  for row, (example, title) in zip(shown, titles.items(), strict=True):
    share = percent(quality_N[example])
    content += page.heading(
      f'{title}: example {example} of {found.name}, {share} right'
    )
    sheet_HWC = found.evaluator.sheet(row)
    content += page.picture(sheet_HWC, f'true and predicted label map: {title}')
  return content, (
    'Left: the image. Middle: the true label map. Right: the predicted one. Images are '
    'ranked by the share of their labelled pixels that are right.'
  )


def by_class(source: Source) -> tuple[str, str]:
  """Shows the IoU and the accuracy of each class, and the most frequent confusions."""
  found, names = source.found, source.names
  count_CD = found.count_NCD.sum(axis=0, dtype=np.int64)
  if not count_CD.any():
    raise UserError(f'no image of evals.{found.name} has a label.')
  scores = mean_iou.scores(count_CD)
  content = page.paragraph(
    f'On the first {plural(len(found.index_N), "image")} of {found.name}, mIoU is '
    f'{percent(scores["mIoU"])}, mean accuracy {percent(scores["mAcc"])} and pixel '
    f'accuracy {percent(scores["aAcc"])}.'
  )
  iou_C = mean_iou.intersection_over_union(count_CD)
  true_C, found_C = count_CD.sum(axis=1), count_CD.sum(axis=0)
  rows = [
    [
      str(names.get(c, c)),
      percent(iou_C[c]),
      percent(count_CD[c, c] / true_C[c]) if true_C[c] else '',
      percent(count_CD[c, c] / found_C[c]) if found_C[c] else '',
      percent(true_C[c] / true_C.sum()),
    ]
    for c in np.argsort(-iou_C, kind='stable').tolist()
    if np.isfinite(iou_C[c])
  ]
  header = ['class', 'IoU', 'recall', 'precision', 'share of pixels']
  table = page.table(header, rows)
  if len(rows) > MOST_ROWS:
    table = page.details(f'{len(rows)} classes', table)
  return content + table + confusions(count_CD, names), (
    'All pixels of all images count together. Recall is the share of the true pixels '
    'of a class that are found, precision the share of its predicted pixels that are '
    'right. Classes that are neither true nor predicted are left out.'
  )


def confusions(count_CD: np.ndarray, names: Mapping[int, str]) -> str:
  """Returns a table of the pairs of classes that are confused most often."""
  wrong_CD = count_CD * (1 - np.eye(len(count_CD), dtype=count_CD.dtype))
  rows: list[list[str]] = []
  for place in np.argsort(-wrong_CD, axis=None, kind='stable')[:MOST_CONFUSED]:
    pair = divmod(int(place), len(count_CD))
    if wrong_CD[pair]:
      share: Any = wrong_CD[pair] / count_CD[pair[0]].sum()
      rows.append([*(str(names.get(c, c)) for c in pair), percent(share)])
  header = ['true class', 'predicted as', 'share of the true class']
  return page.table(header, rows) if rows else ''


SECTIONS = (
  Section('Inputs', sample_inputs, 'below'),
  Section('Label maps', predicted, 'below'),
  Section('Classes', by_class, 'beside'),
)
