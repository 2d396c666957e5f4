"""Handwritten digits side by side with their names, as the TFDS data set `digit_rows`.

It is for trying out captioning. Two or three UCI digits (see `digits`) are pasted from
left to right at random places of a dark canvas, and the caption has their names in
reading order: "three seven one". Test images are made of test scans only.

Axes: H W canvas, N digits.
"""

import dataclasses
import functools
from typing import Any

import numpy as np
import tensorflow_datasets as tfds

from big_vision_like.data.procedural import digits, drawing

SPLITS = ('train', 'test')
NAMES = 'zero one two three four five six seven eight nine'.split()
HEIGHT, WIDTH, SIDE = 16, 32, 8
MOST = 3  # digits


@dataclasses.dataclass
class DigitRowsConfig(tfds.core.BuilderConfig):
  """Inclusive range of the number of digits, and numbers of images."""

  count: tuple[int, int] = (2, MOST)
  counts: tuple[int, int] = (20_000, 1_000)
  seed: int = 0


def draw(config: DigitRowsConfig, split: str, index: int) -> dict[str, Any]:
  """Draws example `index` of a split.

  `image` is (16, 32, 1) uint8, `captions` has one text, and `spans` (3, 2) int64 holds
  the first column of each digit and the column after its last, -1 without a digit.
  """
  rng = drawing.generator(config.seed, split, index, SPLITS)
  images_NHW, labels_N = scans(split)
  count = int(rng.integers(*config.count, endpoint=True))
  # Free columns before, between and after digits, each division equally likely.
  free = WIDTH - count * SIDE
  cuts = np.sort(rng.integers(0, free, count, endpoint=True))
  image_HW = np.zeros((HEIGHT, WIDTH), np.uint8)
  spans = np.full((MOST, 2), -1)
  words = []
  for place, cut in enumerate(cuts.tolist()):
    scan = int(rng.integers(len(labels_N)))
    left, top = cut + place * SIDE, int(rng.integers(HEIGHT - SIDE, endpoint=True))
    image_HW[top : top + SIDE, left : left + SIDE] = images_NHW[scan]
    spans[place] = left, left + SIDE
    words.append(NAMES[labels_N[scan]])
  return {
    'image': image_HW[..., None],
    'captions': [' '.join(words)],
    'spans': spans,
    'id': index,
  }


@functools.cache
def scans(split: str) -> tuple[np.ndarray, np.ndarray]:
  """Returns the scans of a split of `digits`, uint8 (N, 8, 8), and their labels."""
  images_NHW, labels_N, ids = digits.scans()
  return images_NHW[ids[split]], labels_N[ids[split]]


class DigitRows(drawing.Pictures):
  """20,000 training and 1,000 test images of 16x32 pixels."""

  BUILDER_CONFIGS = [
    DigitRowsConfig(name='digit_rows', description='Two or three digits in a row.')
  ]

  def _info(self) -> tfds.core.DatasetInfo:
    return self.described(
      'Handwritten digits side by side, with their names as a caption.',
      {
        'image': drawing.picture(HEIGHT, WIDTH, 1),
        'captions': tfds.features.Sequence(tfds.features.Text(), length=1),
        'spans': tfds.features.Tensor(shape=(MOST, 2), dtype=np.int64),
      },
      homepage='https://archive.ics.uci.edu/dataset/80',
      license='CC BY 4.0',
    )

  def _split_generators(self, dl_manager: Any) -> dict[str, drawing.Counted]:
    config = self.builder_config
    counts = dict(zip(SPLITS, config.counts, strict=True))
    return drawing.by_split(_encoded, config, counts)


def _encoded(config: DigitRowsConfig, split: str, index: int) -> dict[str, Any]:
  """Draws example `index` with its image as PNG."""
  example = draw(config, split, index)
  return example | {'image': drawing.png(example['image'])}
