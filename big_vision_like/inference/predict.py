"""Prediction of classes for pictures, and of where the model looked.

Axes: B pictures, H W pixels, C channels or classes, P patches, h w a smaller map.
"""

from typing import Any

import cv2
import jax
import numpy as np

from big_vision_like.errors import UserError
from big_vision_like.inference import loading
from big_vision_like.inference.classes import Preprocessing
from big_vision_like.viz import attention, captions, images

SIDE = 384  # most pixels per side of each part of a picture
SOWN = ('encoder', 'map_head', 'with_position')  # inputs of the rollout


class Predictor:
  """A model that names pictures, compiled once; returns `top` classes for each."""

  prepares = Preprocessing
  does = 'name pictures'
  option, explained = 'top', 'says how many classes are shown'
  columns = ('class', 'score')
  fields = ('label', 'class', 'score')  # of CSV

  def __init__(
    self, model: Any, variables: Any, preprocess: Preprocessing, top: int = 5
  ):
    if not model.num_classes:
      raise UserError('these weights have no head: there are no classes to name')
    if top < 1:
      raise UserError(f'--top={top} is not positive')
    self.model, self.variables, self.preprocess = model, variables, preprocess
    self.top = top
    self.attends = loading.attends(model)
    self.undrawn = ''
    if not self.attends:
      self.undrawn = f'a {type(model).__name__} has no attention to draw'
    self._apply = jax.jit(self._run)

  def _run(self, variables: Any, image_BHWC: jax.Array) -> tuple[jax.Array, Any]:
    if not self.attends:
      return self.model.apply(variables, image_BHWC)['logits'], {}
    outputs, collected = self.model.apply(
      variables, image_BHWC, mutable=['intermediates']
    )
    sown = collected['intermediates']
    return outputs['logits'], {k: sown[k] for k in SOWN if k in sown}

  def __call__(self, image: Any) -> tuple[list, list, dict[str, np.ndarray]]:
    """Returns rows of text, the same as plain data, and RGB uint8 pictures.

    Pictures are keyed by the suffix of their file names.
    """
    sized_HWC = self.preprocess.sized(image)
    logits_C, rollout_hw = self.outputs(sized_HWC)
    best = self.preprocess.top(logits_C, self.top)
    labels = np.argsort(-logits_C, kind='stable')[: self.top].tolist()
    found = [
      {'label': label, 'class': name, 'score': score}
      for label, (name, score) in zip(labels, best, strict=True)
    ]
    rows = [(one['class'], percent(one['score'])) for one in found]
    if rollout_hw is None:
      return rows, found, {}
    drawn = captions.captioned(picture(sized_HWC, rollout_hw), caption(found[0]))
    return rows, found, {'': drawn}

  def outputs(self, sized_HWC: np.ndarray) -> tuple[np.ndarray, np.ndarray | None]:
    """Returns logits (C,) of a model-sized picture, and its rollout (h, w) or None."""
    image_BHWC = self.preprocess.normalized(sized_HWC[None])
    logits_BC, sown = self._apply(self.variables, image_BHWC)
    if not self.attends:
      return np.asarray(logits_BC[0]), None
    registers, leading = self.model.registers, len(self.model.leading)
    rollout_BP = attention.rollout(
      attention.stack_attention(sown),
      attention.output_weights(sown, self.model.pool, registers, leading),
      num_prefix=registers + leading,
    )
    grid = self.model.grid(sized_HWC.shape[:2])
    return np.asarray(logits_BC[0]), rollout_BP[0].reshape(grid)


def caption(one: dict[str, Any]) -> str:
  """Returns a class and its score; the class by number if it cannot be drawn."""
  name = one['class']
  if name.isdigit() or not captions.writable(name):
    name = f'class {one["label"]}'
  return f'{name}  {percent(one["score"])}'


def percent(score: float) -> str:
  """Returns '71.2 %' for 0.712."""
  return f'{100 * score:.1f} %'


def picture(sized_HWC: np.ndarray, rollout_hw: np.ndarray) -> np.ndarray:
  """Draws the input, the input lit by attention, and attention: RGB, side by side."""
  input_HWC = images.fit(images.to_rgb(sized_HWC[..., :3]), SIDE)  # without alpha
  height, width = input_HWC.shape[:2]
  coloured_hwC = images.colormap(rollout_hw, rollout_hw.min(), rollout_hw.max())
  coloured_HWC = cv2.resize(
    coloured_hwC, (width, height), interpolation=cv2.INTER_NEAREST
  )
  parts = [input_HWC, images.highlight(input_HWC, rollout_hw), coloured_HWC]
  return images.tile(np.stack(parts), columns=3, gap=8)
