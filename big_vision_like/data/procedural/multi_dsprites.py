"""Coloured sprites that occlude each other, as the TFDS data set `multi_dsprites`.

It imitates the published set (github.com/google-deepmind/multi_object_datasets) that
Slot Attention (arXiv 2006.15055) is trained on, whose generator is not public. The
sprites are from dSprites (github.com/google-deepmind/dsprites-dataset): ellipses,
hearts and squares, without antialiasing, with 6 sizes, 40 orientations and 32x32
positions. Sizes and positions were measured in the images of dSprites. The published
distribution of colours is unknown; in this data set colours are uniform in RGB, or for
sprites on greyscale uniform in HSV.

Axes: H W image, C channels; x to the right, y down.
"""

import colorsys
import dataclasses
from typing import Any

import numpy as np
import tensorflow_datasets as tfds

from big_vision_like.data.procedural import drawing

SPLITS = ('train', 'validation', 'test')
SIZE = 64
SHAPES = ('ellipse', 'heart', 'square')
# Minimum and maximum number of sprites, and channels of the image.
VARIANTS = {
  'colored_on_grayscale': ((2, 5), 3),
  'binarized': ((2, 3), 1),
  'colored_on_colored': ((1, 4), 3),
}
# As in dSprites, where the last orientation also equals the first.
FACTORS = {
  'x': np.linspace(0, 1, 32),
  'y': np.linspace(0, 1, 32),
  'scale': np.linspace(0.5, 1, 6),
  'orientation': np.linspace(0, 2 * np.pi, 40),
}
# In pixels, at scale 1: centres at x = 0 and x = 1, half of a square's side, and half
# of an ellipse's axes. A heart is two discs and the tangents to them from its tip.
CENTERS = (16.0, 48.0)
SQUARE = 9.6
ELLIPSE = (12.8, 7.2)
HEART_DISC, HEART_RADIUS, HEART_TIP = (4.45, -4.0), 5.3, 8.7


def sprite(
  shape: str, x: float, y: float, scale: float = 1.0, orientation: float = 0.0
) -> np.ndarray:
  """Returns the pixels with centres in a sprite, bool (64,64).

  The sprite's centre is at x, y in [0, 1]. `orientation`, in radians, rotates it
  counterclockwise.
  """
  start, stop = CENTERS
  middles = np.arange(SIZE) + 0.5
  right_1W = middles[None, :] - (start + (stop - start) * x)
  down_H1 = middles[:, None] - (start + (stop - start) * y)
  cos, sin = np.cos(orientation) / scale, np.sin(orientation) / scale
  return INSIDE[shape](cos * right_1W - sin * down_H1, sin * right_1W + cos * down_H1)


def _in_ellipse(x_HW: np.ndarray, y_HW: np.ndarray) -> np.ndarray:
  return (x_HW / ELLIPSE[0]) ** 2 + (y_HW / ELLIPSE[1]) ** 2 <= 1


def _in_square(x_HW: np.ndarray, y_HW: np.ndarray) -> np.ndarray:
  return np.maximum(np.abs(x_HW), np.abs(y_HW)) <= SQUARE


def _in_heart(x_HW: np.ndarray, y_HW: np.ndarray) -> np.ndarray:
  # The right half, in coordinates relative to the centre of the disc.
  x_HW, y_HW = np.abs(x_HW) - HEART_DISC[0], y_HW - HEART_DISC[1]
  to_tip = -HEART_DISC[0], HEART_TIP - HEART_DISC[1]
  # The tangent touches the disc at this angle.
  angle = np.arctan2(to_tip[1], to_tip[0]) - np.arccos(HEART_RADIUS / np.hypot(*to_tip))
  outwards_HW = np.cos(angle) * x_HW + np.sin(angle) * y_HW
  to_tip_HW = np.cos(angle) * y_HW - np.sin(angle) * x_HW
  below_HW = (y_HW >= 0) & (to_tip_HW >= 0) & (outwards_HW <= HEART_RADIUS)
  return below_HW | (x_HW**2 + y_HW**2 <= HEART_RADIUS**2)


INSIDE = {'ellipse': _in_ellipse, 'heart': _in_heart, 'square': _in_square}


def draw(seed: int, split: str, index: int, variant: str) -> dict[str, Any]:
  """Draws example `index` of a split: `image`, `segmentation`, `objects`, `id`.

  `variant` is one of `VARIANTS`. The image is (64,64,C) uint8, the segmentation
  (64,64,1) uint8: 0 is the background, and i + 1 is the visible part of `objects[i]`.
  Later objects occlude earlier ones. Objects have `shape`, one of `SHAPES`, `x`, `y`,
  `scale`, `orientation` as in dSprites, `color` (C,) in [0, 1], and `visibility`, which
  is 0 if the object is completely hidden and otherwise 1.
  """
  (least, most), channels = VARIANTS[variant]
  rng = drawing.generator(seed, split, index, SPLITS)
  count = int(rng.integers(least, most + 1))
  background_C, colors_NC = _colors(variant, count, rng)
  ids_HW = np.zeros((SIZE, SIZE), np.uint8)
  objects = []
  for i, color_C in enumerate(colors_NC, start=1):
    values = {'shape': SHAPES[int(rng.integers(len(SHAPES)))]}
    for name, choices in FACTORS.items():
      values[name] = float(choices[int(rng.integers(len(choices)))])
    ids_HW[sprite(**values)] = i
    objects.append({**values, 'color': color_C.astype(np.float32)})
  seen = np.bincount(ids_HW.ravel(), minlength=count + 1)[1:] > 0
  for values, visible in zip(objects, seen.tolist(), strict=True):
    values['visibility'] = float(visible)
  palette = np.rint(255 * np.concatenate([background_C[None], colors_NC]))
  return {
    'image': palette.astype(np.uint8)[ids_HW].reshape(SIZE, SIZE, channels),
    'segmentation': ids_HW[:, :, None],
    'objects': objects,
    'id': index,
  }


def _colors(
  variant: str, count: int, rng: np.random.Generator
) -> tuple[np.ndarray, np.ndarray]:
  """Draws the colours of the background (C,) and the sprites (count,C), in [0, 1]."""
  if variant == 'binarized':
    return np.zeros(1), np.ones((count, 1))
  if variant == 'colored_on_colored':
    return rng.random(3), rng.random((count, 3))
  hsv = rng.random((count, 3)).tolist()
  return np.full(3, rng.random()), np.array([colorsys.hsv_to_rgb(*c) for c in hsv])


@dataclasses.dataclass
class MultiDspritesConfig(tfds.core.BuilderConfig):
  """One of `VARIANTS`, the number of examples of each split, and the seed."""

  variant: str = 'colored_on_grayscale'
  counts: tuple[int, int, int] = (60_000, 320, 320)
  seed: int = 0


class MultiDsprites(drawing.Pictures):
  """60,000 training, 320 validation and 320 test scenes, 64x64 pixels.

  The paper also trains on 60,000 and tests on 320.
  `multi_dsprites/colored_on_grayscale` has 2-5 coloured sprites on grey. `/binarized`
  has 2-3 white sprites on black and one channel. `/colored_on_colored` has 1-4 sprites
  on a background of any colour.
  """

  BUILDER_CONFIGS = [
    MultiDspritesConfig(
      name=variant,
      variant=variant,
      description=f'{least}-{most} sprites, {variant.replace("_", " ")}.',
    )
    for variant, ((least, most), _) in VARIANTS.items()
  ]
  DEFAULT_BUILDER_CONFIG_NAME = 'colored_on_grayscale'

  def _info(self) -> tfds.core.DatasetInfo:
    _, channels = VARIANTS[self.builder_config.variant]
    objects = {
      'shape': tfds.features.ClassLabel(names=SHAPES),
      'color': tfds.features.Tensor(shape=(channels,), dtype=np.float32),
      **{name: np.float32 for name in (*FACTORS, 'visibility')},
    }
    return self.described(
      'Sprites that occlude each other, with a segmentation of their pixels.',
      {
        'image': drawing.picture(SIZE, SIZE, channels),
        'segmentation': drawing.picture(SIZE, SIZE, 1),
        'objects': tfds.features.Sequence(objects),
      },
    )

  def _split_generators(self, dl_manager: Any) -> dict[str, drawing.Counted]:
    config = self.builder_config
    counts = dict(zip(SPLITS, config.counts, strict=True))
    return drawing.by_split(_encoded, config, counts)


def _encoded(config: MultiDspritesConfig, split: str, index: int) -> dict[str, Any]:
  """Draws example `index`, with its images as PNG."""
  return drawing.encoded(draw(config.seed, split, index, config.variant))
