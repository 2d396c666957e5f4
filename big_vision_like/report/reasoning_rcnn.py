"""Section of a report on reasoning over classes: the classes that images attend to.

Axes: B images, C classes (background, last, among them).
"""

from collections.abc import Sequence
from typing import Any

import jax
import numpy as np

from big_vision_like.errors import UserError, plural
from big_vision_like.evals import evaluator
from big_vision_like.models import rcnn, reasoning_rcnn
from big_vision_like.report import page
from big_vision_like.report.source import Section, Source, percent
from big_vision_like.viz import images
from big_vision_like.weights import tree

NUM_IMAGES, NUM_CLASSES = 6, 5
SIZE = 128  # side in pixels of the pictures
ATTENTION = 'enhance/class_attention'


def attention(module: Any, variables: Any, inputs: Sequence[jax.Array]) -> np.ndarray:
  """Returns the share of each class in the attention of each image: (B, C)."""

  @jax.jit
  def run(variables: Any, *inputs: jax.Array) -> jax.Array:
    _, sown = module.apply(variables, *inputs, mutable=['intermediates'])
    return tree.flatten(sown['intermediates'])[ATTENTION][-1]

  return np.asarray(run(variables, *inputs))


def attended(source: Source) -> tuple[str, str]:
  """Shows the classes that the first evaluation images attend to, next to the true."""
  network, state = source.restored.network, source.restored.state
  _, made = source.evaluator_of(evaluator.Evaluator, 'evaluates')
  batch = next(made.data.epoch())
  if 'box_labels' not in batch:
    raise UserError('the data of the evaluator have no `box_labels`.')
  batch = {name: np.asarray(x)[:NUM_IMAGES] for name, x in batch.items()}
  variables = network.variables(state)
  share_BC = attention(network.module, variables, network.inputs(batch))
  names = [*map(str, range(share_BC.shape[1] - 1)), 'background']
  for label, name in source.class_names('box_labels').items():
    if label < len(names) - 1:
      names[label] = name
  edges_CC = np.asarray(variables['constants']['enhance']['graph'])
  cards = []
  for image, share_C in enumerate(share_BC):
    there = batch['box_mask'][image].astype(bool)
    true = sorted({*batch['box_labels'][image][there].tolist()})
    picture = images.fit(images.to_rgb(batch['image'][image]), SIZE)
    parts = [page.picture(picture, 'input')]
    parts.append(page.text_line(', '.join(names[label] for label in true)))
    for label in np.argsort(-share_C)[:NUM_CLASSES].tolist():
      parts.append(page.bar(names[label], float(share_C[label]), label in true))
    cards.append(page.card(''.join(parts), '', ''))
  linked = int((edges_CC > 0).sum() - (np.diag(edges_CC) > 0).sum())
  return page.cards(cards), (
    'Below each image: its true classes, and the classes with the largest share of its '
    'attention, those of the image in another colour. The vectors of classes are '
    f'weighted by it. The graph has {plural(linked, "edge")} between different classes.'
    f' Uniform attention would be {percent(1 / share_BC.shape[1])}.'
  )


def reasons(source: Source) -> bool:
  """Returns whether the run's model reasons over classes."""
  if source.run is None:
    return False
  enhance = getattr(source.run.network.module, 'enhance', None)
  return isinstance(enhance, reasoning_rcnn.Reasoning)


SECTION = Section('Classes that images attend to', attended, 'below', fits=reasons)
OF_MODELS = {rcnn.RCNN: (SECTION,), reasoning_rcnn.GivenRegions: (SECTION,)}
