"""Sections of a report on object detection: the figures of DETR for a run.

Axes: N examples, H W pixels, Q queries, K objects found, T thresholds of the IoU, R
recalls, C categories.
"""

import dataclasses
import functools
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import numpy as np

from big_vision_like import spec as specs
from big_vision_like.errors import UserError, plural, shape_text
from big_vision_like.evals import detection, evaluator, panoptic
from big_vision_like.models import rcnn
from big_vision_like.ops import boxes
from big_vision_like.report import images, page
from big_vision_like.report import source as report_source
from big_vision_like.report.source import Section, from_best_to_worst, percent
from big_vision_like.viz import curves
from big_vision_like.viz import detection as drawing

Arrays = Mapping[str, np.ndarray]

NUM_INPUTS = 9
INPUT_SIDE, ATTENDED_SIDE = 320, 270  # pixels: three and four of these fill a row
MOST_QUERIES = 20  # as in the paper
MOST_ATTENDED, ATTENDED_INSTEAD = 11, 3  # three rows with the whole picture, or one
MOST_CURVES = 6  # curves of classes, in addition to the curve of all
MOST_ROWS = 12  # rows of a table that is not folded
PRECISION_AT = (0, 5)  # IoU 0.5 and 0.75


@dataclasses.dataclass(frozen=True)
class Found:
  """The first evaluation images, and their quality according to an evaluator.

  `index_N` are the indices in the source. `quality_N` is NaN for images without objects
  and predictions.
  """

  name: str
  evaluator: Any
  index_N: np.ndarray
  quality_N: np.ndarray

  def shown(self) -> dict[int, str]:
    """Returns the titles of the best, the median and the worst example by index."""
    there = np.flatnonzero(np.isfinite(self.quality_N))
    titles = from_best_to_worst(-self.quality_N[there])
    return {int(there[i]): title for i, title in titles.items()}

  def read(
    self, source: report_source.Source, examples: Sequence[int]
  ) -> dict[int, Arrays]:
    """Returns a batch for each example, reading large images again to save memory."""
    examples = list(examples)
    indices = self.index_N[examples].tolist()
    rows = source.chosen(self.evaluator, lambda _, batch: batch, indices)
    return {
      example: {k: x[None] for k, x in row.items()}
      for example, row in zip(examples, rows, strict=True)
    }


@dataclasses.dataclass(frozen=True)
class Boxes(Found):
  """The first evaluation images with their predicted objects.

  `box_NQ4` are cxcywh in [0, 1], `score_NQ` the scores of the best class. `truth` and
  `found` are the true and the predicted objects in COCO's format, and `measured` is the
  evaluation of pycocotools.
  """

  box_NQ4: np.ndarray
  score_NQ: np.ndarray
  image_id_N: np.ndarray
  truth: detection.Truth
  found: Sequence[detection.Entry]
  measured: Any
  counts: Arrays

  @functools.cached_property
  def names(self) -> dict[int, str]:
    return self.evaluator.names_of(self.truth)

  def title(self, example: int) -> str:
    quality = percent(self.quality_N[example])
    return f'image {self.image_id_N[example]} of {self.name}, quality {quality}'

  def true_of(self, example: int) -> list[detection.Entry]:
    """Returns the true objects of an image."""
    number = self.image_id_N[example]
    return [e for e in self.truth['annotations'] if e['image_id'] == number]

  def found_of(self, example: int, instead: int = 0) -> dict[int, detection.Entry]:
    """Returns the predictions for an image by query, in descending order of score.

    These are the predictions with at least the score that the evaluator shows, or, if
    there are none, the `instead` best ones.
    """
    number = self.image_id_N[example]
    each = dict(enumerate(e for e in self.found if e['image_id'] == number))
    order = sorted(each, key=lambda query: -each[query]['score'])
    sure = sum(e['score'] >= self.evaluator.shown for e in each.values())
    return {query: each[query] for query in order[: sure or instead]}


@dataclasses.dataclass
class Source(report_source.Source):
  """A report on a run that detects objects."""

  predicts = 'objects'

  @property
  def sections(self) -> Sequence[Section]:
    nodes = [node for _, node in specs.calls(self.log.config['task'])]
    kinds = (specs.symbol(node) for node in nodes)
    if any(isinstance(x, type) and issubclass(x, rcnn.RCNN) for x in kinds):
      return OF_REGIONS  # and those of `report.rcnn`
    masks = any(specs.held(node, 'masks') for node in nodes)
    return (*SECTIONS, Section('Panoptic', segments, 'below')) if masks else SECTIONS

  @property
  def names(self) -> dict[int, str]:
    """The names of labels, if the config or the run has them."""
    nodes = self.log.config.get('evals', {}).values()
    names = (specs.held(node, 'names') for node in nodes)
    told = dict(enumerate(next(filter(None, names), ())))
    return told or dict(self.class_names('box_labels'))

  @functools.cached_property
  def boxes(self) -> Boxes:
    return look(self)

  @functools.cached_property
  def pictured(self) -> dict[int, Arrays]:
    """The batches of the examples that are shown in pictures."""
    return self.boxes.read(self, self.boxes.shown())


def look(source: Source) -> Boxes:
  """Detects the objects in the first images, and evaluates them with pycocotools."""
  name, made = source.evaluator_of(detection.CocoAP, 'finds objects')

  def measure(outputs: Any, batch: Any) -> Any:
    check(batch, name, made)
    return made.measure(outputs, batch) | {'box': outputs['boxes']}

  rows = source.joined(made, measure)
  values = rows.values
  truth, found = made.entries(values)
  ids_N = values['image_id']
  measured = detection.evaluated(truth, found, ids_N.tolist())
  counts = detection.agreement(measured, ids_N.tolist(), made.shown)
  return Boxes(
    name=name,
    evaluator=made,
    index_N=rows.index_N,
    quality_N=counts.pop('quality'),
    box_NQ4=values['box'],
    score_NQ=values['scores'],
    image_id_N=ids_N,
    truth=truth,
    found=found,
    measured=measured,
    counts=counts,
  )


def check(batch: Mapping[str, Any], name: str, made: evaluator.Evaluator) -> None:
  """Raises a `UserError` unless a batch has the fields that the evaluator needs."""
  for needed in ('image', *made.needs):
    if needed not in batch:
      raise UserError(f'the data of evals.{name} has no `{needed}`.')


def sample_inputs(source: Source) -> tuple[str, str]:
  """Shows the first training images with their true boxes."""
  _, batch = source.training_batch(NUM_INPUTS)
  for needed in ('image', 'boxes', 'box_labels', 'box_mask'):
    if needed not in batch:
      raise UserError(f'the training batches have no `{needed}`.')
  names, pictures = source.names, []
  for row, image_HWC in enumerate(batch['image'][:NUM_INPUTS]):
    real_K = batch['box_mask'][row].astype(bool)
    labels = batch['box_labels'][row][real_K].tolist()
    called = [names.get(label, label) for label in labels]
    sheet_HWC = drawing.boxes_sheet(
      images.visible(image_HWC),
      [(batch['boxes'][row][real_K], called)],
      INPUT_SIDE,
    )
    pictures.append(page.picture(sheet_HWC, plural(len(called), 'object')))
  size = shape_text(batch['image'].shape[1:])
  caption = (
    f'Training images after all transforms, as {size} arrays enter the model, with '
    'their true boxes.'
  )
  if 'size' in batch and np.any(batch['size'] < batch['image'].shape[1:3]):
    caption += ' Black areas on the right and at the bottom are padding.'
  return page.tiles(pictures), caption


def objects_found(source: Source) -> tuple[str, str]:
  """Shows true and predicted boxes of the best, the median and the worst image."""
  found = source.boxes
  right, wrong, missed = (found.counts[k].sum() for k in ('right', 'wrong', 'missed'))
  content = page.paragraph(
    f'The first {plural(len(found.index_N), "image")} of {found.name} have '
    f'{plural(right + missed, "object")}: {right:,} are found '
    f'({percent(right / (right + missed))}) and {missed:,} are missed. Boxes without a '
    f'matching object: {wrong:,}.'
  )
  for example, title in found.shown().items():
    image_HWC, (height, width), ratio_4 = shown_of(source.pictured[example])
    sets = [
      drawing.of_entries(list(entries), found.names, ratio_4)
      for entries in (found.true_of(example), found.found_of(example).values())
    ]
    content += page.heading(f'{title}: {found.title(example)}')
    sheet_HWC = drawing.boxes_sheet(image_HWC[:height, :width], sets)
    content += page.picture(sheet_HWC, f'true and predicted boxes: {title}')
  return content, (
    'Left: the true boxes. Right: the predicted boxes with a score of '
    f'{found.evaluator.shown:g} or more. A box finds an object if their classes are '
    'equal and their IoU is 0.5 or more; each box finds one object at most. Images are '
    'ranked by quality: the sum of the IoUs of found objects and their boxes, divided '
    'by the number of found objects plus half the number of missed objects and of '
    'boxes without an object. It is 100\u00a0% if all boxes are exact.'
  )


def shown_of(batch: Arrays) -> tuple[np.ndarray, tuple[int, int], np.ndarray]:
  """Returns the image of a batch of one, its size without padding, and `ratios`."""
  [size] = jax.device_get(boxes.valid_size(batch))
  [ratio_4] = jax.device_get(detection.ratios(batch))
  return images.visible(batch['image'][0]), tuple(size.tolist()), ratio_4


def attention(source: Source) -> tuple[str, str]:
  """Shows the decoder's attention for each object that it found."""
  found, network = source.boxes, source.restored.network

  @jax.jit
  def attended(variables: Any, batch: Any) -> Any:
    outputs, sown = network.module.apply(
      variables, *network.inputs(batch), mutable=['intermediates']
    )
    return outputs.get('memory'), sown.get('intermediates', {})

  variables, content = source.restored.variables, ''
  for example, title in found.shown().items():
    batch = source.pictured[example]
    memory, sown = jax.device_get(attended(variables, batch))
    if memory is None:
      kind = type(network.module).__name__
      raise UserError(f'{kind} has no output `memory`, which the attention map needs.')
    weights_1Qhw = drawing.decoder_attention(sown, memory.shape[1:3])
    each = found.found_of(example, ATTENDED_INSTEAD)
    chosen = dict(list(each.items())[:MOST_ATTENDED])
    content += page.heading(f'{title}: {found.title(example)}')
    image_HWC, size, ratio_4 = shown_of(batch)
    sheet_HWC = drawing.attention_sheet(
      image_HWC,
      *drawing.of_entries(list(chosen.values()), found.names, ratio_4),
      weights_1Qhw[0][list(chosen)],
      size=size,
      side=ATTENDED_SIDE,
    )
    content += page.picture(sheet_HWC, f'attention of the decoder: {title}')
  return content, (
    'The predicted objects, then the attention of the decoder for each of them: the '
    'weights of its query in the last layer, averaged over heads; brighter is more '
    f'(arXiv:2005.12872, figure 6). Up to {MOST_ATTENDED} objects are shown, by '
    f'descending score, or the best {ATTENDED_INSTEAD} boxes if no object was found.'
  )


def queries(source: Source) -> tuple[str, str]:
  """Shows where in the images each query predicts its boxes."""
  found = source.boxes
  share_Q = (found.score_NQ >= found.evaluator.shown).mean(axis=0)
  most = np.sort(np.argsort(-share_Q, kind='stable')[:MOST_QUERIES])
  cards = [
    page.card(
      page.picture(drawing.places_picture(found.box_NQ4[:, query]), f'query {query}'),
      f'query {query}',
      page.text_line(f'query {query}: {percent(share_Q[query])}'),
    )
    for query in most.tolist()
  ]
  which = 'all queries'
  if len(most) < len(share_Q):
    which = f'the {len(most)} of {len(share_Q)} queries that find the most objects'
  content = page.paragraph(
    f'The boxes of {which} in the first {plural(len(found.box_NQ4), "image")} of '
    f'{found.name}.'
  )
  return content + page.cards(cards), (
    'A point is the centre of the box that the query predicts for an image, whatever '
    'its score. The square is the image, whatever its aspect ratio (arXiv:2005.12872, '
    'figure 7). Small boxes are green; large ones are red if wide, blue if tall, and '
    'purple otherwise. The number is the share of images in which the query finds an '
    f'object with a score of {found.evaluator.shown:g} or more.'
  )


def precision(source: Source) -> tuple[str, str]:
  """Shows average precision by threshold and by class, and precision by recall."""
  found = source.boxes
  measured = found.measured
  precision_TRC = detection.precisions(measured)
  thresholds_T, recalls_R = measured.params.iouThrs, measured.params.recThrs
  there = np.flatnonzero(np.isfinite(precision_TRC[0, 0]))
  categories = [int(measured.params.catIds[c]) for c in there]
  precision_TRC = precision_TRC[:, :, there]
  ap_TC = precision_TRC.mean(axis=1)
  called = [str(found.names.get(category, category)) for category in categories]
  lines = [curves.Curve('all', thresholds_T, 100 * ap_TC.mean(axis=1))]
  if 1 < len(called) <= MOST_CURVES:
    lines += [
      curves.Curve(name, thresholds_T, 100 * ap_T)
      for name, ap_T in zip(called, ap_TC.T, strict=True)
    ]
  by_recall = [
    curves.Curve(
      f'IoU {thresholds_T[t]:.2g}', recalls_R, 100 * precision_TRC[t].mean(axis=-1)
    )
    for t in PRECISION_AT
  ]
  content = page.paragraph(
    f'On the first {plural(len(found.index_N), "image")} of {found.name}, AP is '
    f'{percent(ap_TC.mean())}, AP50 {percent(ap_TC[0].mean())} and AP75 '
    f'{percent(ap_TC[5].mean())}.'
  )
  percentages = dict(from_zero=True, limits=(0.0, 100.0))
  content += page.charts(
    [
      curves.chart(lines, 'Average precision by IoU, %', 'IoU', **percentages),
      curves.chart(by_recall, 'Precision by recall, %', 'recall', **percentages),
    ]
  )
  objects = [e for e in measured.cocoGt.anns.values() if not e['iscrowd']]
  number = {c: sum(e['category_id'] == c for e in objects) for c in categories}
  rows = [
    [called[c], f'{number[categories[c]]:,}']
    + [percent(ap) for ap in (ap_TC[:, c].mean(), ap_TC[0, c], ap_TC[5, c])]
    for c in np.argsort(-ap_TC.mean(axis=0), kind='stable')
  ]
  table = page.table(['class', 'objects', 'AP', 'AP50', 'AP75'], rows)
  if len(rows) > MOST_ROWS:
    table = page.details(f'{len(rows)} classes', table)
  return content + table, (
    'Computed by pycocotools. AP is the precision averaged over all recalls and over '
    'IoU thresholds from 0.5 to 0.95; a box counts as correct if its IoU reaches the '
    'threshold. The curve and the numbers of all classes are means over classes.'
  )


def segments(source: Source) -> tuple[str, str]:
  """Shows true and predicted segments of the best, the median and the worst image."""
  name, made = source.evaluator_of(panoptic.PanopticQuality, 'finds segments')

  def measure(outputs: Any, batch: Any) -> Any:
    check(batch, name, made)
    return made.measure(outputs, batch)

  def compared(row: Arrays) -> tuple[Any, np.ndarray]:
    """Returns true and predicted segments of an image, and counts of their pairs."""
    true, found = made.segments(row)
    return (true, found), panoptic.counts(*true, *found, row['logits'].shape[-1] - 1)

  predict, state = made.prediction(source.restored.task), source.restored.state
  indices, counts = [], []
  for part in made.rows(measure, predict, state, limit=source.num_examples):
    indices += part.index_N.tolist()
    for row in range(len(part.index_N)):
      counts.append(compared({k: x[row] for k, x in part.values.items()})[1])
  index_N = np.array(indices[: source.num_examples])
  counts_NC4 = counts[: source.num_examples]
  whole_N4 = np.sum(counts_NC4, axis=1)
  quality_N = panoptic.class_quality(whole_N4)[:, 0]
  quality_N = np.where(whole_N4[:, [0, 2]].any(axis=1), quality_N, np.nan)
  if np.isnan(quality_N).all():
    raise UserError(f'no image of evals.{name} has a segment.')
  found = Found(name, made, index_N, quality_N)
  measured = panoptic.quality(np.sum(counts_NC4, axis=0), made.num_things)
  rows = [
    [what, *(percent(measured[f'{q}{of}']) for q in ('PQ', 'SQ', 'RQ'))]
    for what, of in (('all classes', ''), ('things', 'th'), ('stuff', 'st'))
    if f'PQ{of}' in measured
  ]
  content = page.paragraph(
    f'The first {plural(len(index_N), "image")} of {name}; queries with a score above '
    f'{made.threshold:g} become segments.'
  )
  content += page.table(['', 'quality', 'segmentation', 'recognition'], rows)
  titles, batches = found.shown(), found.read(source, found.shown())
  shown = source.chosen(made, measure, index_N[list(titles)].tolist())
  for row, (example, title) in zip(shown, titles.items(), strict=True):
    both, _ = compared(row)
    image_HWC, (height, width), _ = shown_of(batches[example])
    sheet_HWC = drawing.panoptic_sheet(
      image_HWC[:height, :width],
      [(ids_HW, segments_SX[:, :2]) for ids_HW, segments_SX in both],
      source.names,
    )
    quality = percent(quality_N[example])
    content += page.heading(f'{title}: example {example} of {name}, quality {quality}')
    content += page.picture(sheet_HWC, f'true and predicted segments: {title}')
  return content, (
    'Left: the true segments. Right: the predicted ones. Segments of one class have '
    'shades of one colour. Panoptic quality (arXiv:1801.00868) is the product of '
    'segmentation quality, the mean IoU of the segments that are found, and '
    'recognition quality, their F1 score. A segment is found if a predicted one of its '
    'class has an IoU above 0.5 with it. The numbers in the table are means over '
    'classes. Images are ranked by the quality of each image alone, over all classes '
    'together.'
  )


SECTIONS = (
  Section('Inputs', sample_inputs, 'below'),
  Section('Objects', objects_found, 'below'),
  Section('Attention', attention, 'below'),
  Section('Queries', queries, 'below'),
  Section('Precision', precision, 'below'),
)
# Detectors by regions have no queries, and no decoder that attends.
OF_REGIONS = (*SECTIONS[:2], SECTIONS[-1])
