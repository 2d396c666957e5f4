"""What a report shows of slots: the objects found in images, or predicted of them.

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
PRESENT = 0.5  # a slot that is surer than this says that it holds an object
WRONG = ' \u2717'
# What the values of CLEVR's attributes are called, by the sizes of these.
CLEVR = {
  'size': tuple(solids.RADII),
  'material': solids.MATERIALS,
  'shape': solids.SHAPES,
  'color': tuple(solids.COLORS),
}
PHRASE = ('size', 'color', 'material', 'shape')  # in the order of English


@dataclasses.dataclass(frozen=True)
class Found:
  """Evaluation examples, and numbers of each by name (N, ...)."""

  name: str
  evaluator: Any
  index_N: np.ndarray
  values: Arrays


@dataclasses.dataclass
class Discovery(report_source.Source):
  """A run that finds objects without labels."""

  predicts = 'slots'

  @functools.cached_property
  def found(self) -> Found:
    return look(
      self,
      object_discovery.Segmentation,
      'looks for objects',
      lambda outputs, batch: object_discovery.measures(outputs, batch['segmentation']),
    )


@dataclasses.dataclass
class Sets(report_source.Source):
  """A run that predicts the properties of objects."""

  predicts = 'sets'

  @functools.cached_property
  def found(self) -> Found:
    return look(self, precision.AveragePrecision, 'predicts sets of objects', matched)


def look(
  source: report_source.Source, kind: type, what: str, measure: Measure
) -> Found:
  """Measures the first examples of an evaluator's data, as the evaluator would."""
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
  """What else the task predicts of some examples."""
  return source.chosen(found.evaluator, measure, found.index_N[examples].tolist())


def sample_inputs(source: report_source.Source) -> tuple[str, str]:
  """The first training images, with the numbers of their objects if these are known."""
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
  """What the slots of some images hold, and how well they split all of them."""
  found = source.found
  fewest, most = found.evaluator.objects
  objects_N = found.values['objects']
  examples = np.flatnonzero((fewest <= objects_N) & (objects_N <= most))
  first = f'of the first {len(objects_N):,} examples of {found.name}'
  if not len(examples):
    raise UserError(f'{first}, none shows {fewest} to {most} objects.')
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
    'On the left the image, above its true segmentation. Then two rows for each '
    'iteration. They begin with the reconstruction, above the parts that it is put '
    'together from: each pixel in the colours of its slots. After that there is a '
    'column for each slot: its picture where the slot is used, above its mask; pale is '
    'what it leaves to others. A slot has the colour of the true part that it covers '
    'best at the end, or a colour of its own. Foreground ARI is 100\u00a0% where '
    'the pixels of objects are grouped as they should be, and 0\u00a0% is expected of '
    'chance; the background (grey) does not count.'
  )


def matched(outputs: Any, batch: Any) -> dict[str, jax.Array]:
  """What is said of each object, and the slot that says it."""
  predictions_BSP, targets_BOP = outputs['predictions'], batch['targets']
  cost_BOS = set_prediction.pairwise_huber(predictions_BSP, targets_BOP)
  return {
    'predictions': predictions_BSP,
    'targets': targets_BOP,
    'huber': outputs['huber'],
    'slot': matching.match(cost_BOS),
  }


def objects_found(source: Sets) -> tuple[str, str]:
  """The objects of some images beside their slots, and what slots look at."""
  found = source.found
  evaluator, values = found.evaluator, found.values
  aps = precision.average_precisions(
    values['predictions'], values['targets'], evaluator.thresholds, evaluator.attributes
  )
  content = page.paragraph(
    f'The first {len(found.index_N):,} examples of {found.name}; the loss is '
    f'{values["huber"].mean():.4g} on average.'
  )
  limits = [f'{limit:g}'.replace('inf', '\u221e') for limit in evaluator.thresholds]
  content += page.table(
    ['objects nearer than', *limits],
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
    'Two rows for each iteration. They begin with the image, above its parts: each in '
    'the colours of the slots that look at it. After that there is a column for each '
    'slot, 1 on the left: what it sees of the image, above its attention; pale is what '
    'others look at. Below, each true object and the slot that is matched to it by the '
    f'loss, with what the slot says;{WRONG} marks a wrong attribute. Coordinates are '
    f'those of the scene, from {scene(0):g} to {scene(1):g}. Slots that no object is '
    f'matched to follow, where presence is above {100 * PRESENT:g}\u00a0%.'
  )


def objects_table(
  predictions_SP: np.ndarray,
  targets_OP: np.ndarray,
  slot_O: np.ndarray,
  attributes: Sequence[int],
) -> str:
  """True objects, one in a row, beside what their slots say of them."""
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
  """The values of each attribute, by its name; numbers unless they are CLEVR's."""
  if tuple(attributes) == tuple(objects.CLEVR.values()):
    return {name: CLEVR[name] for name in objects.CLEVR}
  return {
    f'attribute {i}': [str(value) for value in range(count)]
    for i, count in enumerate(attributes, start=1)
  }


def told(object_P: np.ndarray, names: Mapping[str, Sequence[str]]) -> dict[str, str]:
  """The value of each attribute: the largest counts."""
  sizes = [len(values) for values in names.values()]
  one_hot = object_P[precision.COORDINATES : -1]
  parts = np.split(one_hot, np.cumsum(sizes)[:-1])
  return {
    name: values[part.argmax()]
    for (name, values), part in zip(names.items(), parts, strict=True)
  }


def described(values: Mapping[str, str]) -> str:
  """An object in words."""
  ordered = [values[name] for name in PHRASE if name in values]
  return ' '.join(ordered or values.values())


def scene(coordinate: Any) -> Any:
  """A coordinate in [0, 1] in the units of the scene."""
  return precision.SCENE_SIZE * (coordinate - 0.5)


def place(object_P: np.ndarray) -> str:
  """Where an object is."""
  x_3 = scene(object_P[: precision.COORDINATES])
  return ', '.join(f'{x:.2f}'.replace('-', '\u2212') for x in x_3)


INPUTS = Section('Inputs', sample_inputs, 'below')
Discovery.sections = (INPUTS, Section('Slots', slots_by_iteration, 'below'))
Sets.sections = (INPUTS, Section('Objects', objects_found, 'below'))
