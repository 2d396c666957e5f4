"""Padding of images of varying size, whatever else is padded with them.

Axes: N records.
"""

from collections.abc import Sequence

import numpy as np

from big_vision_like.data.input import bucket
from big_vision_like.data.sources.base import Example, Source, fixed_size
from big_vision_like.data.transforms import decoding
from big_vision_like.errors import UserError, shape_text


class ImageBucket(bucket.Bucket):
  """A bucket of images: pads each to the smallest of `sizes`, heights and widths.

  Padded examples have `size`, int32 (2,), the height and width without padding.
  `remedy` ends the message about an image that no size holds.
  """

  sizes: Sequence[tuple[int, int]]

  noun = 'image'
  sides = ('sizes',)
  remedy = 'resize first.'

  @property
  def shapes(self) -> Sequence[tuple[int, int]]:
    """The heights and widths that images are padded to."""
    return self.sizes

  def measure(self, record: Example) -> tuple[int, int]:
    """Returns the height and width of a record's image, from its header alone."""
    return decoding.image_size(record['image'])

  def known(self, source: Source) -> np.ndarray | None:
    """Returns heights and widths if the source or its features give them, or None."""
    if source.image_sizes is not None:
      return source.image_sizes
    size = fixed_size(source.features)
    return None if size is None else np.tile(np.array(size, np.int32), (len(source), 1))

  def size(self, example: Example) -> tuple[int, int]:
    """Returns the height and width of an image without its padding."""
    return tuple(example['size'].tolist())

  def choose(self, size: tuple[int, int]) -> int:
    """Returns the index in `sizes` of the size that an image is padded to."""
    found = bucket.smallest(self.sizes, size)
    if found is None:
      raise UserError(
        f'Pad(sizes={[tuple(size) for size in self.sizes]}) cannot hold an image of'
        f' {shape_text(size)}: {self.remedy}'
      )
    return found
