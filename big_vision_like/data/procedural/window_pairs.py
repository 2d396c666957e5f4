"""A toy task that compares two coloured patches on either side of a window's border.

Axes: H W image, C channels.
"""

import dataclasses
from collections.abc import Sequence
from typing import Any

import numpy as np

from big_vision_like.data.procedural import drawing
from big_vision_like.data.sources.base import Source
from big_vision_like.errors import check_one_of

SPLITS = ('train', 'test')
PATCH, TOKENS = 4, 8
NOISE = 0.3
COLOR = np.array([2.0, -2.0, 0.0])
# Pixels hold values from -LARGEST to LARGEST; larger noise does not occur.
LARGEST = 3.0


@dataclasses.dataclass(frozen=True, kw_only=True)
class WindowPairs(Source):
  """Images with two coloured patches; `label` is 1 if they have the same colour.

  Two patches of 4x4 pixels are next to each other on Gaussian noise, in columns 3 and 4
  of 8x8 patches. They are therefore in different windows of 4x4 patches, unless windows
  are shifted. Each is red or green at random. Examples have `image`, a PNG (32, 32, 3)
  to normalize with mean 0.5 and deviation 1 / 6, `label` 0 or 1, and `id`.
  """

  examples: int
  split: str = dataclasses.field()  # without the default of a source
  seed: int = 0

  tiny = dict(examples=20)

  def __post_init__(self) -> None:
    check_one_of(SPLITS, split=self.split)

  def __len__(self) -> int:
    return self.examples

  @property
  def label_names(self) -> Sequence[str]:
    return 'other colour', 'same colour'

  def __getitem__(self, index: int) -> dict[str, Any]:
    if not 0 <= index < self.examples:
      raise IndexError(f'example {index} of {self.examples}')
    rng = drawing.generator(self.seed, self.split, index, SPLITS)
    side = PATCH * TOKENS
    image_HWC = rng.normal(0.0, NOISE, (side, side, 3))
    top, signs = PATCH * rng.integers(TOKENS), rng.choice((-1.0, 1.0), 2)
    for column, sign in zip((TOKENS // 2 - 1, TOKENS // 2), signs, strict=True):
      left = PATCH * column
      image_HWC[top : top + PATCH, left : left + PATCH] += sign * COLOR
    share_HWC = 0.5 + np.clip(image_HWC, -LARGEST, LARGEST) / (2 * LARGEST)
    return {
      'image': drawing.png(np.round(255 * share_HWC).astype(np.uint8)),
      'label': np.int64(signs[0] == signs[1]),
      'id': np.int64(index),
    }
