"""Drawn characters 0-9 A-Z a-z, 62 classes, as the TFDS data set `glyphs`.

It is a pretraining set that needs no download. Its characters are strokes of five
alphabets, bent, slanted, drawn with a round or broad pen, blurred and degraded, mostly
light on dark. A large share is drawn as a scan of a few pixels and enlarged, so that
pretraining transfers to the 8x8 scans of `digits`.

Axes: N points of a skeleton, 2 coordinates x and y, H W image, S side.
"""

import dataclasses
import functools
from typing import Any

import cv2
import numpy as np
import tensorflow_datasets as tfds

from big_vision_like.data.procedural import drawing, strokes

CHARACTERS = '0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz'
SPLITS = ('train', 'test')


@dataclasses.dataclass(frozen=True)
class Font:
  """An alphabet and its style; `share` is its share of the examples."""

  alphabet: strokes.Alphabet
  share: float
  slant: float = 0.0
  wobble: float = 0.012
  broad_pen: float = 0.0


FONTS = (
  Font(strokes.ROUND, share=0.16),
  Font(strokes.SERIF, share=0.16, broad_pen=0.8),
  Font(strokes.ANGULAR, share=0.12),
  Font(strokes.HAND, share=0.4, slant=0.06, wobble=0.035, broad_pen=0.1),
  Font(strokes.SCRIPT, share=0.16, slant=0.2, wobble=0.025, broad_pen=0.3),
)


def draw_glyph(character: str, size: int, rng: np.random.Generator) -> np.ndarray:
  """Draws a random image of one of `CHARACTERS`, (size,size,1) uint8.

  The random choices do not depend on the size, except for the grain of the noise.
  """
  if character not in CHARACTERS or len(character) != 1:
    raise ValueError(f'character={character!r} is not one of {CHARACTERS}')
  ends = np.cumsum([font.share for font in FONTS])[:-1]
  font = FONTS[int(np.searchsorted(ends, rng.random(), side='right'))]
  written = font.alphabet[character]
  if isinstance(written, tuple):
    written = written[int(rng.integers(len(written)))]
  points_N2, ends = _skeleton(written)
  points_N2 = _bend(points_N2, font, rng)
  scan = rng.random() < 0.6 and character.isdigit()
  points_N2, cap = _place(points_N2, font, scan, rng)
  ink_HW = _ink(points_N2, ends, cap, font, scan, size, rng)
  if scan:
    ink_HW = _stretch(ink_HW, rng)
  return _degrade(ink_HW, cap, scan, size, rng)


def draw(seed: int, split: str, index: int, size: int) -> tuple[np.ndarray, int]:
  """Draws example `index` of a split: image (size,size,1) uint8 and label 0..61."""
  label = index % len(CHARACTERS)
  rng = drawing.generator(seed, split, index, SPLITS)
  return draw_glyph(CHARACTERS[label], size, rng), label


def _uniform(rng: np.random.Generator, *ranges: tuple[float, float]) -> list[float]:
  draws = rng.random(len(ranges)).tolist()
  return [a + (b - a) * u for (a, b), u in zip(ranges, draws, strict=True)]


@functools.cache
def _skeleton(text: str) -> tuple[np.ndarray, tuple[int, ...]]:
  """Returns the points of all strokes and the end index of each stroke.

  Points have cap height 1 and are centred in x.
  """
  lines = [_dense(line_N2) for stroke in text.split(';') for line_N2 in _lines(stroke)]
  points_N2 = np.concatenate(lines)
  points_N2[:, 0] -= (points_N2[:, 0].min() + points_N2[:, 0].max()) / 2
  return points_N2, tuple(np.cumsum([len(line_N2) for line_N2 in lines]).tolist())


def _lines(stroke: str) -> list[np.ndarray]:
  kind, *arguments = stroke.split()
  if kind == 'o':
    return [_arc(*(word.split(',') for word in arguments[:2]), *arguments[2:])]
  points = [[float(x) for x in word.rstrip('!').split(',')] for word in arguments]
  points_N2 = np.array(points) / 100
  if kind == '-':
    return [points_N2]
  if kind == '~':
    return [_smooth(points_N2, [word.endswith('!') for word in arguments])]
  if kind == '_':
    return [np.array([[x - 0.11, y], [x + 0.11, y]]) for x, y in points_N2]
  raise ValueError(f'stroke {stroke!r} must begin with one of - ~ o _')


def _smooth(points_N2: np.ndarray, corners: list[bool]) -> np.ndarray:
  """Returns the Catmull-Rom curve through points; a corner is a repeated point."""
  path = [p for p, c in zip(points_N2, corners, strict=True) for _ in range(1 + c)]
  path = np.array([path[0], *path, path[-1]])
  t = np.linspace(0, 1, 8, endpoint=False)[:, None]
  curve = []
  for a, b, c, d in zip(path, path[1:], path[2:], path[3:], strict=False):
    if not np.array_equal(b, c):
      curve.append(
        b
        + t / 2 * (c - a)
        + t**2 / 2 * (2 * a - 5 * b + 4 * c - d)
        + t**3 / 2 * (3 * b - a - 3 * c + d)
      )
  return np.concatenate([*curve, path[-1:]])


def _arc(
  centre: list[str], radius: list[str], start: str = '0', stop: str = '360'
) -> np.ndarray:
  angle_N = np.radians(np.linspace(float(start), float(stop), 28))
  unit_N2 = np.stack([np.cos(angle_N), np.sin(angle_N)], axis=1)
  return (np.array(centre, float) + np.array(radius, float) * unit_N2) / 100


def _dense(line_N2: np.ndarray) -> np.ndarray:
  """Adds points so that neighbours are at most 0.1 apart and straight strokes bend."""
  pieces = []
  for a, b in zip(line_N2, line_N2[1:], strict=False):
    count = max(1, int(np.ceil(np.hypot(*(b - a)) / 0.1)))
    pieces.append(a + np.arange(count)[:, None] / count * (b - a))
  return np.concatenate([*pieces, line_N2[-1:]])


def _bend(points_N2: np.ndarray, font: Font, rng: np.random.Generator) -> np.ndarray:
  """Moves all points by a smooth random field; joined strokes stay joined."""
  waves_23 = rng.uniform(-7, 7, (2, 3))
  phases_N3 = points_N2 @ waves_23 + rng.uniform(0, 2 * np.pi, 3)
  shifts_32 = rng.normal(0, font.wobble, (3, 2))
  return points_N2 + np.sin(phases_N3) @ shifts_32


def _place(
  points_N2: np.ndarray, font: Font, scan: bool, rng: np.random.Generator
) -> tuple[np.ndarray, float]:
  """Places points in the unit square; returns them and the cap height there.

  Characters stand on a common baseline, because some of them differ only in size and
  place. A scan of a single digit fills the square instead.
  """
  angle, shear, stretch, cap, x, y = _uniform(
    rng,
    (-0.2, 0.2),
    (font.slant - 0.12, font.slant + 0.12),
    (-0.14, 0.14),
    (0.56, 0.68),
    (0.45, 0.55),
    (0.46, 0.54),
  )
  cos, sin = np.cos(angle), np.sin(angle)
  affine_22 = np.array([[1, 0], [-shear, 1]]) @ [[cos, sin], [-sin, cos]]
  points_N2 = (points_N2 - [0, 0.66]) @ affine_22
  points_N2 *= [np.exp(stretch), np.exp(-stretch / 2)]
  if scan:
    low_2, high_2 = points_N2.min(0), points_N2.max(0)
    points_N2 -= (low_2 + high_2) / 2
    cap = rng.uniform(0.74, 0.96) / (high_2 - low_2).max()
  return points_N2 * cap + [x, y], cap


def _ink(
  points_N2: np.ndarray,
  ends: tuple[int, ...],
  cap: float,
  font: Font,
  scan: bool,
  size: int,
  rng: np.random.Generator,
) -> np.ndarray:
  """Draws strokes of random thickness on a canvas finer than the image, uint8."""
  side = max(96, 2 * size)
  weight, broad, angle = _uniform(rng, (0, 1), (0, font.broad_pen), (-0.7, 0.1))
  weight = cap * 0.06 * (4.2 if scan else 2.9) ** weight
  nib_2 = 0.7 * broad * weight * np.array([np.cos(angle), np.sin(angle)])
  # A broad pen is a round pen drawn at three places along its edge.
  places = (-1, 0, 1) if broad > 0.1 else (0,)
  lines = [
    np.round((line + place * nib_2) * side * 16).astype(np.int32)
    for line in np.split(points_N2, ends[:-1])
    for place in places
  ]
  ink_HW = np.zeros((side, side), np.uint8)
  thickness = max(1, round(weight * side * (1 - 0.5 * broad)))
  cv2.polylines(ink_HW, lines, False, 255, thickness, cv2.LINE_AA, shift=4)
  return ink_HW


def _stretch(ink_HW: np.ndarray, rng: np.random.Generator) -> np.ndarray:
  """Widens the ink, including strokes, like software that crops and rescales digits."""
  side = len(ink_HW)
  left, right = np.flatnonzero(ink_HW.any(axis=0))[[0, -1]]
  factor = np.clip(rng.uniform(0.5, 0.85) * side / (right + 1 - left), 0.9, 3)
  shift = side / 2 - factor * (left + right) / 2
  return cv2.warpAffine(ink_HW, np.array([[factor, 0, shift], [0, 1, 0]]), (side, side))


def _degrade(
  ink_HW: np.ndarray, cap: float, scan: bool, size: int, rng: np.random.Generator
) -> np.ndarray:
  """Makes an image of the canvas: coarse or blurred, of random contrast, with noise."""
  coarse, rows, kernel, blur, levels, paper, ink, invert, grain = _uniform(
    rng,
    (0, 1),
    (0, 1),
    (0, 1),
    (-0.06, 0.07),
    (0, 1),
    (0, 70),
    (130, 255),
    (0, 1),
    (-16, 12),
  )
  if coarse < (0.6 if scan else 0.3):
    pixels = min(size, round(6.6 * 2**rows / cap))
    ink_HW = cv2.resize(ink_HW, (pixels, pixels), interpolation=cv2.INTER_AREA)
    kernels = (cv2.INTER_LINEAR, cv2.INTER_LINEAR, cv2.INTER_CUBIC, cv2.INTER_NEAREST)
    ink_HW = cv2.resize(ink_HW, (size, size), interpolation=kernels[int(4 * kernel)])
  else:
    ink_HW = cv2.resize(ink_HW, (size, size), interpolation=cv2.INTER_AREA)
    if blur > 0:
      ink_HW = cv2.GaussianBlur(ink_HW, (0, 0), max(0.2, blur * cap * size))
  image_HW = ink_HW.astype(np.float32)
  if levels < 0.5:
    image_HW = paper + (ink - paper) / 255 * image_HW
  if invert < 0.06:
    image_HW = 255 - image_HW
  if grain > 0:
    image_HW += np.float32(grain) * rng.standard_normal((size, size), np.float32)
  return np.clip(np.rint(image_HW), 0, 255).astype(np.uint8)[:, :, None]


@dataclasses.dataclass
class GlyphsConfig(tfds.core.BuilderConfig):
  """The side of images, the number of examples per class and split, and the seed."""

  size: int = 32
  per_class: tuple[int, int] = (800, 80)
  seed: int = 0


class Glyphs(drawing.Pictures):
  """49,600 training and 4,960 test images; `glyphs/64` has images 64 pixels wide.

  Examples have `image` (S,S,1) uint8, `label` 0..61, an index into `CHARACTERS`, and
  `id`. Labels cycle, so any stretch of a split is balanced.
  """

  BUILDER_CONFIGS = [
    GlyphsConfig(name=str(size), size=size, description=f'{size}x{size} pixels.')
    for size in (16, 24, 28, 32, 48, 64, 128, 224)
  ]
  DEFAULT_BUILDER_CONFIG_NAME = '32'

  def _info(self) -> tfds.core.DatasetInfo:
    size = self.builder_config.size
    return self.described(
      'Drawn characters 0-9 A-Z a-z in five alphabets, 62 classes.',
      {
        'image': drawing.picture(size, size, 1),
        'label': tfds.features.ClassLabel(names=list(CHARACTERS)),
      },
      supervised_keys=('image', 'label'),
    )

  def _split_generators(self, dl_manager: Any) -> dict[str, drawing.Counted]:
    config = self.builder_config
    counts = [count * len(CHARACTERS) for count in config.per_class]
    return drawing.by_split(_encoded, config, dict(zip(SPLITS, counts, strict=True)))


def _encoded(config: GlyphsConfig, split: str, index: int) -> dict[str, Any]:
  """Draws example `index`, with its image as PNG."""
  image_HWC, label = draw(config.seed, split, index, config.size)
  return {'image': drawing.png(image_HWC), 'label': label, 'id': index}
