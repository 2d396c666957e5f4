"""Sections of a report on action detection: clips with actors, and their attention."""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from big_vision_like import spec as specs
from big_vision_like.errors import UserError, plural, shape_text
from big_vision_like.evals import action_detection as evals
from big_vision_like.report import page
from big_vision_like.report import source as report_source
from big_vision_like.report.source import Section, from_best_to_worst, percent
from big_vision_like.viz import actors as drawing

NUM_INPUTS = 4


@dataclasses.dataclass
class Source(report_source.Source):
  """A report on a run that detects actions of actors."""

  predicts = 'actions'

  @property
  def sections(self) -> Sequence[Section]:
    return SECTIONS

  @property
  def names(self) -> Mapping[int, str]:
    """The names of classes: those of an evaluator, else of the labels of the data."""
    nodes = self.log.config.get('evals', {}).values()
    names = next(filter(None, (node.get('names') for node in nodes)), ())
    return dict(enumerate(names)) or self.class_names('label')


def sample_inputs(source: Source) -> tuple[str, str]:
  """Shows the middle frames of the first training clips with their actors."""
  _, batch = source.training_batch(NUM_INPUTS)
  for needed in ('video', 'boxes', 'box_mask', 'box_labels'):
    if needed not in batch:
      raise UserError(f'the training batches have no `{needed}`.')
  side = map_side(source.log.config)
  tiles = []
  for row in range(len(batch['video'][:NUM_INPUTS])):
    labels = [
      source.names.get(label, label)
      for label in batch['box_labels'][row][batch['box_mask'][row]].tolist()
    ]
    slices = batch['boxes'].shape[2]
    boxes_A4 = batch['boxes'][row, :, (slices - 1) // 2][batch['box_mask'][row]]
    frame_HWC = batch['video'][row, (len(batch['video'][row]) - 1) // 2]
    drawn_HWC = drawing.boxed(frame_HWC, boxes_A4 / side, labels)
    tiles.append(page.picture(drawn_HWC, 'middle frame of a training clip'))
  size = shape_text(batch['video'].shape[1:])
  return page.tiles(tiles), (
    f'The middle frames of training clips, which enter the model as {size}, with the'
    ' boxes and the labels of actors.'
  )


def map_side(config: Mapping[str, Any]) -> int:
  """Returns the side of the feature map in whose cells a config's boxes are."""
  for _, node in specs.calls(config['train_data']):
    if (side := specs.held(node, 'map_side')) is not None:
      return side
  raise UserError('no transform of the training data has a `map_side`.')


def attended(source: Source) -> tuple[str, str]:
  """Shows what actors attend to in the best, the median and the worst clip."""
  name, made = source.evaluator_of(evals.ObjectRecall, 'measures attention to objects')
  rows = source.joined(made, made.measure)
  mass_N = np.full(len(rows.index_N), np.nan)
  for row in range(len(mass_N)):
    found = evals.largest_masses({k: x[row : row + 1] for k, x in rows.values.items()})
    mass_N[row] = np.mean(found) if found else np.nan
  there = np.flatnonzero(np.isfinite(mass_N))
  if not len(there):
    raise UserError(f'no clip of evals.{name} has an object and an actor who acts.')
  order = from_best_to_worst(-mass_N[there])
  titles = {int(there[i]): title for i, title in order.items()}
  shown = source.chosen(made, made.draw, rows.index_N[list(titles)].tolist())
  share = percent(float((mass_N[there] > 0.5).mean()))
  content = page.paragraph(
    f'In {share} of {plural(len(there), "clip")}, more than half of the attention in'
    ' the middle slice is on the object.'
  )
  for row, (place, title) in zip(shown, titles.items(), strict=True):
    example = rows.index_N[place]
    content += page.heading(
      f'{title}: example {example} of {name}, {percent(mass_N[place])} on the object'
    )
    picture_HWC = drawing.sheet(row, source.names)
    content += page.picture(picture_HWC, f'attention of actors: {title}')
  return content, (
    'Each row is an actor, in its box with the predicted class, over slices of time. '
    'Frames are bright where it attends, averaged over layers and graphs. Clips are '
    'ranked by the share of attention on the annotated object, in the layer and graph '
    'where it is largest.'
  )


def has_graph(source: Source) -> bool:
  """Returns whether an evaluator of the run measures attention."""
  nodes = source.log.config.get('evals', {}).values()
  return any(issubclass(specs.symbol(node), evals.ObjectRecall) for node in nodes)


SECTIONS = (
  Section('Inputs', sample_inputs, 'below'),
  Section('Attention', attended, 'below', fits=has_graph),
)
