"""Prediction of the class of each pixel of a picture.

Axes: B = 1 picture, H W pixels, C channels or classes.
"""

from typing import Any

import jax
import numpy as np

from big_vision_like.errors import UserError
from big_vision_like.inference import preprocessing
from big_vision_like.inference.label_maps import SegmentationPreprocessing
from big_vision_like.viz import label_maps

SHARE = 0.005  # smallest share of a picture that is listed
SIDE = 768  # most pixels per side of a picture


class Segmenter:
  """A model that finds the class of each pixel, compiled once for each size.

  Lists classes with at least `share` of the pixels of a picture; None stands for 0.005.
  """

  prepares = SegmentationPreprocessing
  does = 'segment pictures'
  option, explained = 'share', 'says which classes are listed'
  columns = ('class', 'share of pixels')
  fields = ('label', 'class', 'share')  # of CSV
  undrawn = ''
  draws = False  # set before the first call

  def __init__(
    self,
    model: Any,
    variables: Any,
    preprocess: SegmentationPreprocessing,
    share: float | None = None,
  ):
    if share is not None and not 0 <= share < 1:
      raise UserError(f'--share={share} is not in [0, 1)')
    self.model, self.variables, self.preprocess = model, variables, preprocess
    self.share = SHARE if share is None else share
    self._apply = jax.jit(lambda variables, image: model.apply(variables, image))

  def __call__(self, picture: Any) -> tuple[list, list, dict[str, np.ndarray]]:
    """Returns rows of text, the same as plain data, and RGB uint8 pictures.

    Pictures are keyed by the suffix of their file names.
    """
    shown_HWC = preprocessing.decoded(picture, self.preprocess.channels)
    image_HWC, original_size = self.preprocess(shown_HWC)
    outputs = self._apply(self.variables, image_HWC[None])
    label_HW = self.preprocess.label_map(outputs, image_HWC.shape[:2], original_size)
    labels, counts = np.unique(label_HW, return_counts=True)
    found = [
      {'label': int(labels[i]), 'class': self.preprocess.name(int(labels[i]))}
      | {'share': float(counts[i] / label_HW.size)}
      for i in np.argsort(-counts, kind='stable')
      if counts[i] >= self.share * label_HW.size
    ]
    rows = [(one['class'], f'{100 * one["share"]:.1f} %') for one in found]
    if not self.draws:
      return rows, found, {}
    names = {label: self.preprocess.name(label) for label in labels.tolist()}
    drawn = label_maps.sheet(shown_HWC[..., :3], [label_HW], names, SIDE)
    return rows, found, {'': drawn}
