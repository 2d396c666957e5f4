"""Prediction of captions of a picture, and of where the model looked at each word.

Axes: B = 1 picture, H W pixels, C channels, T words, h w map of the model.
"""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from big_vision_like.errors import UserError
from big_vision_like.inference.captions import CaptionPreprocessing
from big_vision_like.models import transformer
from big_vision_like.ops import search
from big_vision_like.viz import word_attention

BEAMS = 3


class Writer:
  """A model that writes captions, compiled once; returns the `top` best.

  As many beams are searched; None stands for 3.
  """

  prepares = CaptionPreprocessing
  does = 'write captions'
  option, explained = 'top', 'says how many captions are shown'
  columns = ('caption', 'score')
  fields = ('caption', 'score')  # of CSV
  undrawn = ''
  draws = False  # set before the first call

  def __init__(
    self,
    model: Any,
    variables: Any,
    preprocess: CaptionPreprocessing,
    top: int | None = None,
  ):
    if top is not None and top < 1:
      raise UserError(f'--top={top} is not positive')
    self.model, self.variables, self.preprocess = model, variables, preprocess
    self.beams = top or BEAMS
    self._search = jax.jit(self._found)
    self._look = jax.jit(model.looking)

  def _found(
    self, variables: Any, image_BHWC: jax.Array
  ) -> tuple[jax.Array, jax.Array]:
    told = self.preprocess
    step, cache = self.model.searching(variables, image_BHWC, self.beams, told.length)
    first_B = jnp.full(len(image_BHWC), told.bos_id)
    return search.beam_search(
      step,
      cache,
      first_B,
      told.length,
      told.eos_id,
      self.beams,
      told.alpha,
      transformer.reorder,
      (0,),
    )

  def __call__(self, picture: Any) -> tuple[list, list, dict[str, np.ndarray]]:
    """Returns rows of text, the same as plain data, and RGB uint8 pictures.

    Pictures are keyed by the suffix of their file names.
    """
    sized_HWC = self.preprocess.images.sized(picture)
    image_BHWC = self.preprocess.images.normalized(sized_HWC[None])
    beams, scores = jax.device_get(self._search(self.variables, image_BHWC))
    found = [
      {'caption': ' '.join(self.preprocess.words(ids)), 'score': float(score)}
      for ids, score in zip(beams[0], scores[0], strict=True)
      if score > search.WORST  # otherwise fewer captions have ended
    ]
    rows = [(one['caption'] or '(empty)', f'{one["score"]:.3f}') for one in found]
    if not self.draws:
      return rows, found, {}
    best = beams[0, 0]
    words = self.preprocess.words(best)
    read_1T = np.concatenate([[self.preprocess.bos_id], best[:-1]])[None]
    attention_BThw = self._look(self.variables, image_BHWC, read_1T)
    drawn = word_attention.sheet(
      sized_HWC, words, np.asarray(attention_BThw[0, : len(words)])
    )
    return rows, found, {'': drawn}
