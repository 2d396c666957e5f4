"""Prediction of objects in a picture, and of where the model looked for them.

Axes: B = 1 picture, H W pixels, C channels, N objects, Q queries, h w a smaller map.
"""

from collections.abc import Sequence
from typing import Any

import jax
import numpy as np

from big_vision_like.errors import UserError
from big_vision_like.evals import instance_masks, panoptic
from big_vision_like.inference import preprocessing
from big_vision_like.inference.objects import DetectionPreprocessing, Found
from big_vision_like.viz import detection

THRESHOLD = 0.7  # as in the published demonstration
SIDE = 768  # most pixels per side of a picture
ATTENDED = 15  # most objects with drawn attention
ATTENDED_SIDE = 320


class Detector:
  """A model that finds objects, compiled once for each size of padded pictures.

  Objects and segments are those with a score above `threshold`. None uses the published
  values, 0.7 for objects and 0.85 for segments.
  """

  prepares = DetectionPreprocessing
  does = 'find objects'
  option, explained = 'threshold', 'says which are shown'
  columns = ('object', 'score', 'left, top, right, bottom')
  fields = ('label', 'class', 'score', 'left', 'top', 'right', 'bottom')  # of CSV
  undrawn = ''
  draws = False  # set before the first call

  def __init__(
    self,
    model: Any,
    variables: Any,
    preprocess: DetectionPreprocessing,
    threshold: float | None = None,
  ):
    if threshold is not None and not 0 <= threshold < 1:
      raise UserError(f'--threshold={threshold} is not in [0, 1)')
    self.model, self.variables, self.preprocess = model, variables, preprocess
    self.threshold = THRESHOLD if threshold is None else threshold
    self.segments_at = {} if threshold is None else {'threshold': threshold}
    self._apply = jax.jit(self._run)

  def _run(self, variables: Any, *inputs: jax.Array) -> tuple[Any, Any]:
    if not self.draws:
      return self.model.apply(variables, *inputs), {}
    outputs, collected = self.model.apply(variables, *inputs, mutable=['intermediates'])
    sown = collected.get('intermediates', {})
    return outputs, {name: sown[name] for name in ('decoder',) if name in sown}

  def __call__(self, picture: Any) -> tuple[list, list, dict[str, np.ndarray]]:
    """Returns rows of text, the same as plain data, and RGB uint8 pictures.

    Pictures are keyed by the suffix of their file names.
    """
    shown_HWC = preprocessing.decoded(picture, self.preprocess.channels)
    example = self.preprocess.sized(shown_HWC)
    image_HWC, size, original_size = self.preprocess.normalized(example)
    outputs, sown = self._apply(self.variables, image_HWC[None], size[None])
    found = self.preprocess.objects(outputs, original_size, threshold=-1.0)
    objects = [one for one in found if one.score > self.threshold]
    rows = [(one.name, *numbers(one)) for one in objects]
    if not rows:
      rows = [(f'none above {self.threshold:g}', '', '')]
      rows += [(f'best: {best.name}', *numbers(best)) for best in found[:1]]
    plain = [
      {'label': one.label, 'class': one.name, 'score': one.score, 'box': list(one.box)}
      for one in objects
    ]
    if not self.draws:
      return rows, plain, {}
    shown_HWC = shown_HWC[..., :3]  # without alpha
    drawn = {'': boxes_picture(shown_HWC, objects)}
    # The cells of a UniT have no grid: its report draws what they attend to.
    if objects and sown and outputs['memory'].ndim == 4:
      grid_hw = outputs['memory'].shape[1:3]
      attention_Qhw = detection.decoder_attention(sown, grid_hw)[0]
      drawn['-attention'] = attention_picture(example, objects, attention_Qhw)
    if 'mask_logits' in outputs:
      drawn['-segments'] = self._segments(shown_HWC, example, outputs)
    if 'masks' in outputs:
      drawn['-masks'] = self._masks(shown_HWC, outputs, objects)
    return rows, plain, drawn

  def _masks(
    self, shown_HWC: np.ndarray, outputs: Any, objects: Sequence[Found]
  ) -> np.ndarray:
    """Draws the masks of objects, the best on top."""
    size = shown_HWC.shape[:2]
    ids_HW = np.zeros(size, np.int32)
    for number, one in reversed([*enumerate(objects, start=1)]):
      mask_MM = np.asarray(outputs['masks'][0, one.query], np.float32)
      ids_HW[instance_masks.pasted(mask_MM, np.array(one.box), *size)] = number
    segments = [(number, one.label) for number, one in enumerate(objects, start=1)]
    segments_S2 = np.array(segments, np.int32).reshape(-1, 2)
    names = {one.label: one.name for one in objects}
    return detection.panoptic_sheet(shown_HWC, [(ids_HW, segments_S2)], names, SIDE)

  def _segments(self, shown_HWC: np.ndarray, example: Any, outputs: Any) -> np.ndarray:
    things = self.preprocess.num_things
    ids_HW, segments_S2 = panoptic.segments_of(
      np.asarray(outputs['logits'][0], np.float32),
      np.asarray(outputs['mask_logits'][0], np.float32),
      tuple(example['size'].tolist()),
      shown_HWC.shape[:2],
      self.model.num_classes if things is None else things,
      padded=example['image'].shape[:2],
      **self.segments_at,
    )
    names = {label: self.preprocess.name(label) for label in segments_S2[:, 1].tolist()}
    return detection.panoptic_sheet(shown_HWC, [(ids_HW, segments_S2)], names, SIDE)


def boxes_picture(shown_HWC: np.ndarray, objects: Sequence[Found]) -> np.ndarray:
  """Draws objects on the picture; their boxes are in its pixels."""
  boxes_N4 = np.array([one.box for one in objects]).reshape(-1, 4)
  names, scores = [one.name for one in objects], [one.score for one in objects]
  return detection.boxes_sheet(shown_HWC, [(boxes_N4, names, scores)], SIDE)


def attention_picture(
  example: Any, objects: Sequence[Found], attention_Qhw: np.ndarray
) -> np.ndarray:
  """Draws the best objects, each in the model's input lit by its attention."""
  best = objects[:ATTENDED]
  size, original_size = example['size'], example['original_size']
  ratio_4 = np.tile((size / original_size)[::-1], 2)
  return detection.attention_sheet(
    example['image'],
    np.array([one.box for one in best]) * ratio_4,
    [one.name for one in best],
    [one.score for one in best],
    attention_Qhw[[one.query for one in best]],
    size=tuple(size.tolist()),
    side=ATTENDED_SIDE,
  )


def numbers(one: Found) -> tuple[str, str]:
  """Formats the score and box of an object."""
  return f'{one.score:.4f}', ' '.join(f'{side:6.1f}' for side in one.box)
