"""Transforms of pictures of several objects, to find these or to say what they are.

What Slot Attention (arXiv:2006.15055, published code) is given of CLEVR and the like.
`segmentation` tells which object each pixel shows, 0 for the background; `objects` are
a dict of lists, one entry to an object, as TFDS gives them.

Axes: H W image, C channels, O objects, P properties.
"""

import dataclasses
from typing import Any

import grain
import numpy as np

from big_vision_like.data.transforms import cropping, decoding, labels, resizing
from big_vision_like.errors import BadRecordError, UserError

Example = dict[str, Any]

# What CLEVR says of an object, in the order of `targets`, and how many values each has.
CLEVR = {'size': 2, 'material': 2, 'shape': 3, 'color': 8}


@dataclasses.dataclass(frozen=True)
class DecodeSegmentation(grain.transforms.Map):
  """PNG bytes of one channel to uint8 (H, W); `BadRecordError` for what is none."""

  def map(self, example: Example) -> Example:
    encoded = labels.feature(example, 'segmentation')
    try:
      ids_HWC = decoding.decode(encoded, channels=1)
    except ValueError as error:
      raise BadRecordError(
        f'the segmentation of the example with id {example.get("id", "unknown")} cannot'
        f' be decoded ({len(encoded)} bytes: {str(error).strip()}); prepare the data'
        ' set again or remove it.'
      ) from error
    return example | {'segmentation': ids_HWC[..., 0]}


@dataclasses.dataclass(frozen=True)
class Resize(grain.transforms.Map):
  """The `crop` (top, left, height, width; None: all) to `size` x `size`.

  `image` goes from uint8 (H, W, C) to float32 in [-1, 1], and only then to its new
  size, bilinearly and without antialiasing: as by `tf.image.resize`, nothing rounded.
  `segmentation` uint8 (H, W), where there is one, takes the nearest pixels.
  """

  size: int
  crop: cropping.Box | None = None

  def map(self, example: Example) -> Example:
    image = self._cut(example['image'], example).astype(np.float32)
    image = self._resized((image / 255 - 0.5) * 2, 'bilinear')
    result = example | {'image': np.clip(image, -1, 1)}
    if 'segmentation' in example:
      ids = self._cut(example['segmentation'], example)[..., None]
      result['segmentation'] = self._resized(ids, 'pillow_nearest')[..., 0]
    return result

  def _resized(self, array: np.ndarray, method: str) -> np.ndarray:
    return resizing.resized(array, self.size, self.size, method)

  def _cut(self, array: np.ndarray, example: Example) -> np.ndarray:
    if self.crop is None:
      return array
    top, left, height, width = self.crop
    part = array[top : top + height, left : left + width]
    if part.shape[:2] != (height, width):
      raise UserError(
        f'Resize(crop={tuple(self.crop)}) of an image of {array.shape[0]}x'
        f'{array.shape[1]} (id {example.get("id", "unknown")}): take a box that lies'
        ' inside.'
      )
    return part


@dataclasses.dataclass(frozen=True)
class ClevrTargets(grain.transforms.Map):
  """What is to be said of the objects of CLEVR, as `targets` float32 (max_objects, 19).

  In each row x, y and z, of which [-3, 3] becomes [0, 1], then one-hot size (2),
  material (2), shape (3) and colour (8) in the order of TFDS's classes, then 1. Rows
  after the last object are 0.
  """

  max_objects: int = 10

  def map(self, example: Example) -> Example:
    places_O3 = labels.feature(example, 'objects/3d_coords')
    count = len(places_O3)
    if count > self.max_objects:
      raise UserError(
        f'the example with id {example.get("id", "unknown")} has {count} objects: more'
        f' than max_objects={self.max_objects}; raise it.'
      )
    places_O3 = np.array(places_O3, np.float32).reshape(-1, 3)
    columns = [(places_O3 + 3) / 6]
    for name, values in CLEVR.items():
      ids_O = np.array(labels.feature(example, f'objects/{name}'), np.int64)
      columns.append(ids_O[:, None] == np.arange(values)[None, :])
    columns.append(np.ones((count, 1)))
    targets_OP = np.concatenate(columns, axis=1).astype(np.float32)
    rest = self.max_objects - count
    return example | {'targets': np.pad(targets_OP, [(0, rest), (0, 0)])}
