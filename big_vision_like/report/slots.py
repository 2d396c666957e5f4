"""Sections of a report on slots: objects that are found, or properties predicted.

Axes: N examples, S slots, H W pixels, C channels, O objects (rows of targets), P
properties of an object.
"""

import dataclasses
import functools
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import numpy as np

from big_vision_like.data.procedural import solids
from big_vision_like.data.transforms import objects
from big_vision_like.errors import UserError, plural, shape_text
from big_vision_like.evals import clevr_sets as precision
from big_vision_like.evals import object_discovery
from big_vision_like.evals.evaluator import Measure
from big_vision_like.ops import matching
from big_vision_like.report import images, page
from big_vision_like.report import source as report_source
from big_vision_like.report.source import Section, from_best_to_worst, percent
from big_vision_like.tasks import set_prediction
from big_vision_like.viz import slots

Arrays = Mapping[str, np.ndarray]

NUM_INPUTS = 16
PRESENT = 0.5  # a slot with a higher presence predicts an object
WRONG = ' \u2717'
# Names of the values of CLEVR's attributes; their numbers identify CLEVR.
CLEVR = {
  'size': tuple(solids.RADII),
  'material': solids.MATERIALS,
  'shape': solids.SHAPES,
  'color': tuple(solids.COLORS),
}
PHRASE = ('size', 'color', 'material', 'shape')  # in the order of adjectives in English


@dataclasses.dataclass(frozen=True)
class Found:
  """Evaluation examples, and arrays (N, ...) with measurements of each."""

  name: str
  evaluator: Any
  index_N: np.ndarray
  values: Arrays


@dataclasses.dataclass
class Discovery(report_source.Source):
  """A report on a run that finds objects without labels."""

  predicts = 'slots'

  @functools.cached_property
  def found(self) -> Found:
    return look(
      self,
      object_discovery.Segmentation,
      'measures the segmentation of objects',
      lambda outputs, batch: object_discovery.measures(outputs, batch['segmentation']),
    )


@dataclasses.dataclass
class Sets(report_source.Source):
  """A report on a run that predicts the properties of objects."""

  predicts = 'sets'

  @functools.cached_property
  def found(self) -> Found:
    return look(self, precision.AveragePrecision, 'predicts sets of objects', matched)


def look(
  source: report_source.Source, kind: type, what: str, measure: Measure
) -> Found:
  """Computes the measurements of the evaluator on the first examples of its data."""
  name, made = source.evaluator_of(kind, what)

  def measured(outputs: Any, batch: Any) -> Any:
    for needed in ('image', *made.needs):
      if needed not in batch:
        raise UserError(f'the data of evals.{name} has no `{needed}`.')
    return measure(outputs, batch)

  rows = source.joined(made, measured)
  return Found(name, made, rows.index_N, rows.values)


def drawn(
  source: report_source.Source, found: Found, measure: Measure, examples: Sequence[int]
) -> list[dict[str, np.ndarray]]:
  """Returns further predictions of the task for some of the examples."""
  return source.chosen(found.evaluator, measure, found.index_N[examples].tolist())


def sample_inputs(source: report_source.Source) -> tuple[str, str]:
  """Shows the first training images, with the number of objects if it is known."""
  _, batch = source.training_batch(NUM_INPUTS)
  if np.ndim(batch.get('image')) != 4:
    raise UserError('the training batches are not images.')
  lines = [''] * NUM_INPUTS
  if 'targets' in batch:
    counts = (batch['targets'][..., -1] > 0).sum(axis=1)
    lines = [page.text_line(plural(count, 'object')) for count in counts]
  cards = [
    page.card(images.thumbnail(image_HWC), 'example', line)
    for image_HWC, line in zip(batch['image'][:NUM_INPUTS], lines, strict=False)
  ]
  size = shape_text(batch['image'].shape[1:])
  return page.cards(cards), (
    f'Training images after all transforms, as {size} arrays enter the model.'
  )


def slots_by_iteration(source: Discovery) -> tuple[str, str]:
  """Shows the slots of some images, and the mean quality over all of them."""
  found = source.found
  fewest, most = found.evaluator.objects
  objects_N = found.values['objects']
  examples = np.flatnonzero((fewest <= objects_N) & (objects_N <= most))
  first = f'of the first {len(objects_N):,} examples of {found.name}'
  if not len(examples):
    raise UserError(f'none {first} shows {fewest} to {most} objects.')
  values = {name: array[examples] for name, array in found.values.items()}
  mean = {name: array.mean() for name, array in values.items()}
  range_of = (
    plural(fewest, 'object') + ' or more'
    if most == object_discovery.NUM_IDS - 1
    else f'{fewest} to {most} objects'
  )
  content = page.paragraph(
    f'{len(examples):,} {first} show {range_of}. On average, foreground ARI is '
    f'{percent(mean["ari_foreground"])}, ARI of all pixels {percent(mean["ari"])}, '
    f'mean IoU {percent(mean["miou"])} and the squared error {mean["mse"]:.4g}.'
  )
  numbers = [str(i) for i in range(1, 1 + sum('ari_foreground_' in k for k in mean))]
  content += page.table(
    ['after iteration', *numbers],
    [['foreground ARI', *(percent(mean[f'ari_foreground_{n}']) for n in numbers)]],
  )
  ari_N = values['ari_foreground']
  titles = {int(examples[i]): t for i, t in from_best_to_worst(-ari_N).items()}
  pictures = drawn(source, found, object_discovery.drawn, list(titles))
  for arrays, (example, title) in zip(pictures, titles.items(), strict=True):
    names = (*object_discovery.DRAWN, 'segmentation')
    sheet_HWC = slots.slots_sheet(*(arrays[k] for k in names))
    content += page.heading(
      f'{title}: example {example} of {found.name}, foreground ARI '
      f'{percent(found.values["ari_foreground"][example])}'
    )
    content += page.picture(sheet_HWC, f'slots of example {example}')
  return content, (
    'Left: the image, above its true segmentation. Next to them are two rows for each '
    'iteration. They begin with the reconstruction, above the map of its slots: each '
    'pixel has the colours of the slots that it is composed of. Then there is one '
    'column per slot with its picture above its mask; areas left to other slots are '
    'pale. A slot has the colour of the true segment that it covers best in the last '
    'iteration, or a colour of its own. Foreground ARI is 100\u00a0% if the pixels of '
    'objects are grouped correctly, and 0\u00a0% on average for random groups; the '
    'background (grey) does not count.'
  )


def matched(outputs: Any, batch: Any) -> dict[str, jax.Array]:
  """Returns predictions, targets and loss, and the slot matched to each object."""
  predictions_BSP, targets_BOP = outputs['predictions'], batch['targets']
  cost_BOS = set_prediction.pairwise_huber(predictions_BSP, targets_BOP)
  return {
    'predictions': predictions_BSP,
    'targets': targets_BOP,
    'huber': outputs['huber'],
    'slot': matching.match(cost_BOS),
  }


def objects_found(source: Sets) -> tuple[str, str]:
  """Shows objects of some images with their matched slots, and the slots' attention."""
  found = source.found
  evaluator, values = found.evaluator, found.values
  aps = precision.average_precisions(
    values['predictions'], values['targets'], evaluator.thresholds, evaluator.attributes
  )
  content = page.paragraph(
    f'The first {len(found.index_N):,} examples of {found.name} have a mean loss of '
    f'{values["huber"].mean():.4g}.'
  )
  limits = [f'{limit:g}'.replace('inf', '\u221e') for limit in evaluator.thresholds]
  content += page.table(
    ['distance below', *limits],
    [['average precision', *map(percent, aps)]],
  )
  titles = from_best_to_worst(values['huber'])
  pictures = drawn(source, found, precision.drawn, list(titles))
  for arrays, (example, title) in zip(pictures, titles.items(), strict=True):
    content += page.heading(
      f'{title}: example {example} of {found.name}, loss {values["huber"][example]:.4g}'
    )
    sheet_HWC = slots.attention_sheet(arrays['image'], arrays['attention'])
    content += page.picture(sheet_HWC, f'attention of the slots of example {example}')
    content += objects_table(
      *(values[name][example] for name in ('predictions', 'targets', 'slot')),
      evaluator.attributes,
    )
  return content, (
    'There are two rows for each iteration. They begin with the image, above the map '
    'of its slots: each pixel has the colours of the slots that attend to it. Then '
    'there is one column per slot, slot 1 on the left, with the image as the slot sees '
    'it above its attention; areas left to other slots are pale. The table has each '
    'true object with the prediction of the slot that the loss matches to it;'
    f'{WRONG} marks a wrong attribute. Coordinates are in units of the scene, from '
    f'{scene(0):g} to {scene(1):g}. Unmatched slots with a presence above '
    f'{100 * PRESENT:g}\u00a0% follow.'
  )


def objects_table(
  predictions_SP: np.ndarray,
  targets_OP: np.ndarray,
  slot_O: np.ndarray,
  attributes: Sequence[int],
) -> str:
  """Returns a table of true objects, one per row, with predictions of their slots."""
  names = attribute_names(attributes)
  real = np.flatnonzero(targets_OP[:, -1] > 0)
  rows = []
  for target_P, slot in zip(targets_OP[real], slot_O[real], strict=True):
    prediction_P = predictions_SP[slot]
    true, said = (told(x_P, names) for x_P in (target_P, prediction_P))
    offset_3 = (prediction_P - target_P)[: precision.COORDINATES]
    found = [str(slot + 1), percent(prediction_P[-1])]
    found += [said[k] if said[k] == true[k] else said[k] + WRONG for k in names]
    found += [
      place(prediction_P),
      f'{precision.SCENE_SIZE * np.linalg.norm(offset_3):.2f}',
    ]
    rows.append([described(true), place(target_P), *found])
  for slot in np.flatnonzero(predictions_SP[:, -1] > PRESENT):
    if slot in slot_O[real]:
      continue
    prediction_P = predictions_SP[slot]
    found = [str(slot + 1), percent(prediction_P[-1])]
    found += [*told(prediction_P, names).values(), place(prediction_P)]
    rows.append(['no object', '', *found, ''])
  header = ['true object', 'x, y, z', 'slot', 'presence', *names, 'x, y, z', 'distance']
  return page.table(header, rows)


def attribute_names(attributes: Sequence[int]) -> dict[str, Sequence[str]]:
  """Returns the values of each attribute by its name; numbers unless CLEVR's."""
  if tuple(attributes) == tuple(objects.CLEVR.values()):
    return {name: CLEVR[name] for name in objects.CLEVR}
  return {
    f'attribute {i}': [str(value) for value in range(count)]
    for i, count in enumerate(attributes, start=1)
  }


def told(object_P: np.ndarray, names: Mapping[str, Sequence[str]]) -> dict[str, str]:
  """Returns the most probable value of each attribute."""
  sizes = [len(values) for values in names.values()]
  one_hot = object_P[precision.COORDINATES : -1]
  parts = np.split(one_hot, np.cumsum(sizes)[:-1])
  return {
    name: values[part.argmax()]
    for (name, values), part in zip(names.items(), parts, strict=True)
  }


def described(values: Mapping[str, str]) -> str:
  """Returns an object in words."""
  ordered = [values[name] for name in PHRASE if name in values]
  return ' '.join(ordered or values.values())


def scene(coordinate: Any) -> Any:
  """Converts a coordinate in [0, 1] to units of the scene."""
  return precision.SCENE_SIZE * (coordinate - 0.5)


def place(object_P: np.ndarray) -> str:
  """Returns the coordinates of an object as text."""
  x_3 = scene(object_P[: precision.COORDINATES])
  return ', '.join(f'{x:.2f}'.replace('-', '\u2212') for x in x_3)


INPUTS = Section('Inputs', sample_inputs, 'below')
Discovery.sections = (INPUTS, Section('Slots', slots_by_iteration, 'below'))
Sets.sections = (INPUTS, Section('Objects', objects_found, 'below'))
