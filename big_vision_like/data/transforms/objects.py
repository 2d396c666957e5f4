"""Transforms of images of several objects, for object discovery and set prediction.

They prepare CLEVR and similar data as for Slot Attention (arXiv:2006.15055, published
code). `segmentation` has the number of the object that each pixel shows, 0 for the
background. `objects` is a dict of lists with one entry per object, as in TFDS.

Axes: H W image, C channels, O objects, P properties.
"""

import dataclasses
from typing import Any

import grain
import numpy as np

from big_vision_like.data.transforms import cropping, decoding, labels, resizing
from big_vision_like.errors import BadRecordError, UserError

Example = dict[str, Any]

# Properties of CLEVR's objects and their numbers of values, in the order of `targets`.
CLEVR = {'size': 2, 'material': 2, 'shape': 3, 'color': 8}


@dataclasses.dataclass(frozen=True)
class DecodeSegmentation(grain.transforms.Map):
  """Decoding of one-channel PNG bytes to uint8 (H, W); `BadRecordError` if invalid."""

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
  """Resizing of `crop` (top, left, height, width; None: all) to `size` x `size`.

  `image` is converted from uint8 (H, W, C) to float32 in [-1, 1] before it is resized,
  bilinearly and without antialiasing. As in `tf.image.resize`, values are not rounded.
  `segmentation` uint8 (H, W), if present, is resized to the nearest pixels.
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
        f'Resize(crop={tuple(self.crop)}) exceeds an image of {array.shape[0]}x'
        f'{array.shape[1]} (id {example.get("id", "unknown")}): use a box inside the'
        ' image.'
      )
    return part


@dataclasses.dataclass(frozen=True)
class ClevrTargets(grain.transforms.Map):
  """The properties of CLEVR's objects to predict, `targets` float32 (max_objects, 19).

  Each row has x, y and z, mapped from [-3, 3] to [0, 1], then one-hot size (2),
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
        f' than max_objects={self.max_objects}; raise max_objects.'
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
