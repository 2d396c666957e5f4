"""Flat coloured squares on grey, as the TFDS data set `squares`, for generation.

One to three squares of one colour each lie on a grey background of 16x16 pixels and do
not overlap. A generator has to place whole objects, and the grey background tells
background from objects in its images, which have no masks.

Axes: H W image, C channels.
"""

import colorsys
import dataclasses
from typing import Any

import numpy as np
import tensorflow_datasets as tfds

from big_vision_like.data.procedural import drawing

SPLITS = ('train', 'test')
SIDE = 16
GREY = 128  # the value of all channels of the background
MOST = 3  # squares
SIZES = (4, 7)  # smallest and largest side of a square


@dataclasses.dataclass
class SquaresConfig(tfds.core.BuilderConfig):
  """The smallest and largest number of squares, the number of images, and the seed."""

  count: tuple[int, int] = (1, MOST)
  counts: tuple[int, int] = (20_000, 1_000)
  seed: int = 0


def draw(config: SquaresConfig, split: str, index: int) -> dict[str, Any]:
  """Draws example `index` of a split: `image`, `segmentation`, `id`.

  The image is (16, 16, 3) uint8. The segmentation (16, 16, 1) uint8 is 0 on the
  background and i on the i-th square. Colours have full brightness and any hue, so each
  differs from the background by at least 100 in one channel.
  """
  rng = drawing.generator(config.seed, split, index, SPLITS)
  count = int(rng.integers(*config.count, endpoint=True))
  while (ids_HW := placed(count, rng)) is None:
    pass
  colors = [
    colorsys.hsv_to_rgb(rng.random(), rng.uniform(0.8, 1.0), 1.0) for _ in range(count)
  ]
  palette = np.rint([[GREY] * 3, *(np.multiply(255, color) for color in colors)])
  return {
    'image': palette.astype(np.uint8)[ids_HW],
    'segmentation': ids_HW[:, :, None],
    'id': index,
  }


def placed(count: int, rng: np.random.Generator) -> np.ndarray | None:
  """Returns the square of each pixel, uint8 (H, W); None if two squares touch."""
  ids_HW = np.zeros((SIDE, SIDE), np.uint8)
  for number in range(1, count + 1):
    side = int(rng.integers(*SIZES, endpoint=True))
    top, left = (int(x) for x in rng.integers(SIDE - side + 1, size=2))
    rows, columns = (slice(max(at - 1, 0), at + side + 1) for at in (top, left))
    if ids_HW[rows, columns].any():
      return None
    ids_HW[top : top + side, left : left + side] = number
  return ids_HW


class Squares(drawing.Pictures):
  """20,000 training and 1,000 test images of 16x16 pixels, with masks."""

  BUILDER_CONFIGS = [
    SquaresConfig(name='squares', description='One to three squares on grey.')
  ]

  def _info(self) -> tfds.core.DatasetInfo:
    return self.described(
      'Flat coloured squares on grey, with a mask for each.',
      {
        'image': drawing.picture(SIDE, SIDE, 3),
        'segmentation': drawing.picture(SIDE, SIDE, 1),
      },
    )

  def _split_generators(self, dl_manager: Any) -> dict[str, drawing.Counted]:
    config = self.builder_config
    counts = dict(zip(SPLITS, config.counts, strict=True))
    return drawing.by_split(_encoded, config, counts)


def _encoded(config: SquaresConfig, split: str, index: int) -> dict[str, Any]:
  """Draws example `index`, with image and segmentation as PNG."""
  return drawing.encoded(draw(config, split, index))
