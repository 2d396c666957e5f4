"""Prediction of classes for videos, and of where and when the model looked.

Axes: V views, T frames, H W pixels, C channels or classes, h w map of patches.
"""

from typing import Any

import jax
import numpy as np

from big_vision_like.errors import UserError
from big_vision_like.inference import clip_attention
from big_vision_like.inference.clips import ClipPreprocessing
from big_vision_like.inference.predict import caption, percent
from big_vision_like.models import timesformer
from big_vision_like.viz import captions, clips

SIDE = 224  # most pixels per side of a frame


class ClipPredictor:
  """A model that names videos, compiled once; returns `top` classes for each.

  The logits of all views are summed; attention is drawn for the centre of the picture.
  """

  prepares = ClipPreprocessing
  does = 'name videos'
  option, explained = 'top', 'says how many classes are shown'
  columns = ('class', 'score')
  fields = ('label', 'class', 'score')  # of CSV
  draws = False  # set before the first call

  def __init__(
    self, model: Any, variables: Any, preprocess: ClipPreprocessing, top: int = 5
  ):
    if not model.num_classes:
      raise UserError('these weights have no head: there are no classes to name')
    if top < 1:
      raise UserError(f'--top={top} is not positive')
    self.model, self.variables, self.preprocess = model, variables, preprocess
    self.top, self.undrawn = top, ''
    if not isinstance(model, timesformer.TimeSformer):
      self.undrawn = f'a {type(model).__name__} has no attention to draw'
    self._apply = jax.jit(lambda v, x: model.apply(v, x)['logits'])
    self._attend = jax.jit(lambda v, x: clip_attention.collected(model, v, x)[1])

  def __call__(self, picture: Any) -> tuple[list, list, dict[str, np.ndarray]]:
    """Returns rows of text, the same as plain data, and RGB uint8 pictures.

    Pictures are keyed by the suffix of their file names; `-played` is an animation.
    """
    views_VTHWC = self.preprocess.sized(picture)
    # One view after the other, as in evaluation.
    normalized = self.preprocess.normalized(views_VTHWC)
    logits_C = sum(
      np.asarray(self._apply(self.variables, view_THWC[None])[0], np.float64)
      for view_THWC in normalized
    )
    best = self.preprocess.top(logits_C, self.top)
    labels = np.argsort(-logits_C, kind='stable')[: self.top].tolist()
    found = [
      {'label': label, 'class': name, 'score': score}
      for label, (name, score) in zip(labels, best, strict=True)
    ]
    rows = [(one['class'], percent(one['score'])) for one in found]
    if self.undrawn or not self.draws:
      return rows, found, {}
    centre = len(views_VTHWC) // 2
    drawn_THWC = self.drawn(views_VTHWC[centre], normalized[centre])
    sheet = captions.captioned(clips.sheet(drawn_THWC), caption(found[0]))
    return rows, found, {'': sheet, '-played': drawn_THWC}

  def drawn(self, frames_THWC: np.ndarray, video_THWC: np.ndarray) -> np.ndarray:
    """Returns the frames of a view with attention, (T, height, width, 3)."""
    probs = jax.device_get(self._attend(self.variables, video_THWC[None]))
    clip = self.model.clip(video_THWC.shape)
    map_BThw, weight_BT = clip_attention.maps(self.model, probs, clip)
    return clips.attended(frames_THWC, map_BThw[0], weight_BT[0], SIDE)
