"""Report on loaded weights, and on the images given with them."""

import dataclasses
import functools
import os
from collections.abc import Sequence
from typing import Any, ClassVar

import flax.linen as nn
import jax
import numpy as np

from big_vision_like.errors import UserError
from big_vision_like.inference import loading
from big_vision_like.inference.classes import Preprocessing
from big_vision_like.inference.objects import DetectionPreprocessing
from big_vision_like.ops import images
from big_vision_like.report import page, vit
from big_vision_like.report.source import Section
from big_vision_like.viz import images as pictures


@dataclasses.dataclass
class Source:
  """Loaded weights, and images from files as the model receives them, uint8."""

  sections: ClassVar[Sequence[Section]]

  path: str
  model: nn.Module
  variables: Any
  preprocess: Preprocessing
  files: Sequence[str]
  image_BHWC: np.ndarray

  @functools.cached_property
  def trained(self) -> vit.Trained:
    """The model, with the given images."""
    mean, std = self.preprocess.mean, self.preprocess.std
    return vit.Trained(
      model=self.model,
      variables=self.variables,
      inputs=lambda image_BHWC: (images.normalize(image_BHWC, mean, std),),
      images=lambda: self.image_BHWC,
    )

  @functools.cached_property
  def attention(self) -> vit.Attention:
    """The attention of the model on all images."""
    rows = np.arange(len(self.files))
    return vit.attend(self.trained, rows, shown=rows)


def read(
  path: str, files: Sequence[str], image_size: Sequence[int] | None, step: int | None
) -> Source:
  """Loads weights and images."""
  model, variables, preprocess = loading.load(path, image_size, step)
  if isinstance(preprocess, DetectionPreprocessing):
    raise UserError(
      f'{path} detects objects, which reports on weights do not support: use'
      ' tools/predict.py'
    )
  image_BHWC = np.zeros((len(files), *preprocess.size, preprocess.channels), np.uint8)
  for image_HWC, file in zip(image_BHWC, files, strict=True):
    image_HWC[:] = preprocess.sized(file)
  return Source(path, model, variables, preprocess, files, image_BHWC)


def summary(source: Source) -> tuple[str, str]:
  """Shows the model, its number of parameters, its preprocessing and its classes."""
  model, preprocess = source.model, source.preprocess
  sizes = [leaf.size for leaf in jax.tree.leaves(source.variables['params'])]
  fields = [f for f in dataclasses.fields(model) if f.name not in ('parent', 'name')]
  arguments = ', '.join(f'{f.name}={getattr(model, f.name)!r}' for f in fields)
  rows = [
    ('model', f'{type(model).__name__}({arguments})'),
    ('parameters', f'{sum(sizes):,}'),
    ('preprocessing', f'{preprocess} ({preprocess.source})'),
    ('classes', described_classes(model.num_classes, preprocess)),
  ]
  return page.table([], rows), ''


def described_classes(num_classes: int, preprocess: Preprocessing) -> str:
  if not num_classes:
    return 'none: the weights have no head'
  named = len(preprocess.label_names)
  names = 'without names' if not named else f'{named:,} with names'
  return f'{num_classes:,}, {names}; scores from a {preprocess.scores}'


def looked_at(source: Source) -> tuple[str, str]:
  """Shows the images with their best classes and, for a ViT, the attention rollout."""
  if not source.files:
    raise UserError('no images given: name them with --images.')
  trained, captions = source.trained, []
  stacks = [picture(image_HWC) for image_HWC in source.image_BHWC]
  if loading.attends(source.model):
    stacks = [
      vit.rollout_pictures(
        pictures.to_rgb(image_HWC), source.attention.of(place), trained.grid
      )
      for place, image_HWC in enumerate(source.image_BHWC)
    ]
    captions.append(vit.how_to_read_rollouts(trained))
  else:
    captions.append(
      f'{type(source.model).__name__} has no attention, so no rollout is shown.'
    )
  bars = [''] * len(stacks)
  if source.model.num_classes:
    bars = [
      ''.join(page.bar(name, score, False) for name, score in best)
      for best in predicted(source)
    ]
    captions.append(
      'Below the name of an image are its most probable classes with probabilities.'
    )
  cards = [
    page.card(stack, file, page.text_line(os.path.basename(file)) + lines)
    for stack, file, lines in zip(stacks, source.files, bars, strict=True)
  ]
  return page.cards(cards), ' '.join(captions)


def picture(image_HWC: np.ndarray) -> str:
  image_HWC = pictures.fit(pictures.to_rgb(image_HWC), vit.THUMBNAIL)
  return page.picture(image_HWC, 'input')


def predicted(source: Source) -> list[list[tuple[str, float]]]:
  """Returns the most probable classes of each image, with probabilities."""
  trained = source.trained

  @jax.jit
  def logits(variables: Any, image_BHWC: jax.Array) -> jax.Array:
    return trained.model.apply(variables, *trained.inputs(image_BHWC))['logits']

  return [
    source.preprocess.top(logits(source.variables, image_HWC[None])[0])
    for image_HWC in source.image_BHWC
  ]


Source.sections = (
  Section('Summary', summary, 'below'),
  Section('Predictions and attention rollout', looked_at, 'below'),
  vit.FILTERS,
  vit.POSITIONS,
  vit.DISTANCES,
)
