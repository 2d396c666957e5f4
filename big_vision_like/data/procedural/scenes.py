"""Coloured shapes with boxes, masks and a panoptic map, as the TFDS data set `scenes`.

It is for trying out detection and panoptic segmentation. `scenes/simple` has up to
three squares, discs and triangles on dark noise, apart from each other. The shapes of
`scenes/hidden` are of six kinds, of any angle and many sizes. They occlude each other
on two or three regions of stuff, each with its own pattern. Some scenes have a crowd, a
heap of small shapes of one kind that forms one segment.

Features are named as in TFDS's `coco/2017` and `coco/2017_panoptic`. A box is the
tightest box around the visible part of an object.

Axes: H W image, C channels, S things of a scene.
"""

import dataclasses
from collections.abc import Sequence
from typing import Any

import numpy as np
import tensorflow_datasets as tfds

from big_vision_like.data.procedural import drawing

SPLITS = ('train', 'validation')
SIMPLE = ('square', 'disc', 'triangle')
THINGS = (*SIMPLE, 'ring', 'cross', 'crescent')
STUFF = ('plain', 'stripes', 'checks', 'speckles')
# Minimum number of visible pixels of a thing, and minimum visible share of it.
SEEN_PIXELS, SEEN_SHARE = 40, 0.3
# Minimum number of pixels of a region of stuff; smaller regions become void.
STUFF_PIXELS = 64
# Probability of a heap in a scene, and ranges of its number of shapes and their sides.
CROWD, HEAP, SMALL = 0.15, (8, 13), (5.0, 8.0)


def shape(
  kind: str, height: int, width: int, y: float, x: float, side: float, angle: float
) -> np.ndarray:
  """Returns the pixels with centres in a shape, bool (H, W).

  The shape's centre is at y, x. `side` is the side of the square around it before it is
  rotated counterclockwise by `angle`, in radians.
  """
  down_H1 = (np.arange(height) + 0.5 - y)[:, None]
  right_1W = (np.arange(width) + 0.5 - x)[None, :]
  # In units of half the side.
  v_HW = (np.cos(angle) * down_H1 + np.sin(angle) * right_1W) * 2 / side
  u_HW = (np.cos(angle) * right_1W - np.sin(angle) * down_H1) * 2 / side
  return INSIDE[kind](u_HW, v_HW)


def _in_square(u_HW: np.ndarray, v_HW: np.ndarray) -> np.ndarray:
  return np.maximum(np.abs(u_HW), np.abs(v_HW)) <= 1


def _in_disc(u_HW: np.ndarray, v_HW: np.ndarray) -> np.ndarray:
  return u_HW**2 + v_HW**2 <= 1


def _in_triangle(u_HW: np.ndarray, v_HW: np.ndarray) -> np.ndarray:
  return (v_HW <= 1) & (np.abs(u_HW) <= (v_HW + 1) / 2)


def _in_ring(u_HW: np.ndarray, v_HW: np.ndarray) -> np.ndarray:
  radius_HW = np.hypot(u_HW, v_HW)
  return (radius_HW <= 1) & (radius_HW >= 0.5)


def _in_cross(u_HW: np.ndarray, v_HW: np.ndarray) -> np.ndarray:
  thin_HW = np.minimum(np.abs(u_HW), np.abs(v_HW)) <= 0.33
  return thin_HW & _in_square(u_HW, v_HW)


def _in_crescent(u_HW: np.ndarray, v_HW: np.ndarray) -> np.ndarray:
  return _in_disc(u_HW, v_HW) & ~_in_disc((u_HW - 0.5) / 0.8, v_HW / 0.8)


INSIDE = {
  'square': _in_square,
  'disc': _in_disc,
  'triangle': _in_triangle,
  'ring': _in_ring,
  'cross': _in_cross,
  'crescent': _in_crescent,
}


@dataclasses.dataclass
class ScenesConfig(tfds.core.BuilderConfig):
  """The contents of scenes, and the number of examples of each split.

  `count`, the number of shapes, and `side`, in pixels, are inclusive ranges. `hidden`
  lets shapes occlude each other and rotate, and adds stuff.
  """

  height: int = 96
  width: int = 128
  count: tuple[int, int] = (3, 8)
  side: tuple[int, int] = (12, 44)
  things: tuple[str, ...] = THINGS
  hidden: bool = True
  counts: tuple[int, int] = (10_000, 500)
  seed: int = 0


def draw(config: ScenesConfig, split: str, index: int) -> dict[str, Any]:
  """Draws example `index` of a split.

  `image` is (H, W, 3) uint8. `segmentation`, (H, W, 1) uint8, has the object of each
  pixel, counted from 1 in the order of `objects`. `panoptic_image`, (H, W, 3) uint8,
  has its segment as red + 256 * green + 65536 * blue, 0 for void. `objects` has things,
  and `panoptic_objects` also stuff. Each entry has `id` as in the panoptic image,
  `area` in pixels, `bbox` as top, left, bottom, right in [0, 1], `label`, the index
  among things followed by `STUFF`, and `is_crowd`.
  """
  rng = drawing.generator(config.seed, split, index, SPLITS)
  # Drawn once, before scenes are redrawn; otherwise full scenes would be rare.
  count = int(rng.integers(*config.count, endpoint=True))
  heap = config.hidden and rng.random() < CROWD
  scene = None
  while scene is None:
    if config.hidden:
      scene = _hidden(rng, config, count, heap)
    else:
      scene = _simple(rng, config, count)
  image_HWC, ids_HW, kinds, crowds, stuff_HW = scene
  # Segments of stuff are numbered after the things.
  segments_HW = ids_HW.copy()
  labels, flags = [config.things.index(kind) for kind in kinds], list(crowds)
  for number in range(len(STUFF)):
    seen_HW = (ids_HW == 0) & (stuff_HW == number)
    if seen_HW.sum() >= STUFF_PIXELS:
      labels.append(len(config.things) + number)
      flags.append(False)
      segments_HW[seen_HW] = len(labels)
  # Arbitrary numbers, as in COCO, so that programs do not mistake them for indices.
  names_S = 1 + rng.choice(2**24 - 1, len(labels), replace=False, shuffle=False)
  segments = [
    _segment(segments_HW == i, int(names_S[i - 1]), labels[i - 1], flags[i - 1])
    for i in range(1, len(labels) + 1)
  ]
  panoptic_HW = np.concatenate([[0], names_S])[segments_HW]
  return {
    'image': image_HWC,
    'segmentation': ids_HW[..., None].astype(np.uint8),
    'panoptic_image': np.stack(
      [panoptic_HW >> shift & 255 for shift in (0, 8, 16)], axis=-1
    ).astype(np.uint8),
    'objects': segments[: len(kinds)],
    'panoptic_objects': segments,
    'id': index,
  }


Scene = tuple[np.ndarray, np.ndarray, list[str], list[bool], np.ndarray]


def _simple(rng: np.random.Generator, config: ScenesConfig, count: int) -> Scene | None:
  """Draws separate shapes on noise, without stuff; returns None if they overlap."""
  size = config.height, config.width
  image_HWC = rng.uniform(0, 0.15, (*size, 3))
  ids_HW, taken_HW, kinds = np.zeros(size, np.int64), np.zeros(size, bool), []
  for number in range(1, count + 1):
    kind = config.things[int(rng.integers(len(config.things)))]
    side = int(rng.integers(*config.side, endpoint=True))
    top, left = (int(rng.integers(room - side + 1)) for room in size)
    mask_HW = shape(kind, *size, top + side / 2, left + side / 2, side, 0.0)
    box = slice(top, top + side), slice(left, left + side)
    if taken_HW[box].any():
      return None
    taken_HW[box] = True
    ids_HW[mask_HW] = number
    image_HWC[mask_HW] = rng.uniform(0.4, 1.0, 3)
    kinds.append(kind)
  return _bytes(image_HWC), ids_HW, kinds, [False] * len(kinds), np.full(size, -1)


def _hidden(
  rng: np.random.Generator, config: ScenesConfig, count: int, heap: bool
) -> Scene | None:
  """Draws shapes on stuff that may occlude each other; None if one is too hidden."""
  size = config.height, config.width
  stuff_HW, image_HWC = _ground(rng, *size)
  ids_HW, wholes, kinds, crowds = np.zeros(size, np.int64), [], [], []

  def add(kind: str, mask_HW: np.ndarray, crowd: bool) -> None:
    color = rng.uniform(0.3, 1.0, 3)
    shade = rng.normal(0, 0.03, size)
    image_HWC[mask_HW] = (color[None] * (1 + shade[mask_HW][:, None])).clip(0, 1)
    kinds.append(kind)
    crowds.append(crowd)
    wholes.append(int(mask_HW.sum()))
    ids_HW[mask_HW] = len(kinds)

  if heap:
    add(*_heap(rng, config), crowd=True)
  for _ in range(count):
    kind = config.things[int(rng.integers(len(config.things)))]
    side = float(np.exp(rng.uniform(*np.log(config.side))))
    y, x = (float(rng.uniform(0.1 * room, 0.9 * room)) for room in size)
    add(kind, shape(kind, *size, y, x, side, rng.uniform(0, 2 * np.pi)), crowd=False)
  seen = np.bincount(ids_HW.ravel(), minlength=len(kinds) + 1)[1:]
  if any(
    count < max(SEEN_PIXELS, SEEN_SHARE * whole)
    for count, whole in zip(seen, wholes, strict=True)
  ):
    return None
  return _bytes(image_HWC), ids_HW, kinds, crowds, stuff_HW


def _heap(rng: np.random.Generator, config: ScenesConfig) -> tuple[str, np.ndarray]:
  """Draws small shapes of one kind, close together; returns kind and mask."""
  size = config.height, config.width
  kind = config.things[int(rng.integers(len(config.things)))]
  middle = [float(rng.uniform(0.2 * room, 0.8 * room)) for room in size]
  mask_HW = np.zeros(size, bool)
  for _ in range(int(rng.integers(*HEAP))):
    y, x = rng.normal(middle, (6, 9))
    mask_HW |= shape(kind, *size, y, x, rng.uniform(*SMALL), rng.uniform(0, 2 * np.pi))
  return kind, mask_HW


def _ground(
  rng: np.random.Generator, height: int, width: int
) -> tuple[np.ndarray, np.ndarray]:
  """Draws stuff; returns its index at each pixel, (H, W), and its image, (H, W, 3)."""
  rows_HW, columns_HW = np.mgrid[:height, :width]
  count = int(rng.integers(2, 4))
  kinds = rng.permutation(len(STUFF))[:count]
  # Each pixel shows the stuff of the nearest of several random points.
  points = rng.uniform(0, 1, (count, 2)) * (height, width)
  far = [(rows_HW - y) ** 2 + (columns_HW - x) ** 2 for y, x in points]
  nearest_HW = np.argmin(far, axis=0)
  image_HWC = np.zeros((height, width, 3))
  for number, kind in enumerate(kinds):
    pattern_HW = PATTERNS[STUFF[kind]](rng, rows_HW, columns_HW)
    colors = rng.uniform(0.05, 0.55, (2, 3))
    mixed_HWC = np.where(pattern_HW[..., None], colors[0], colors[1])
    image_HWC = np.where((nearest_HW == number)[..., None], mixed_HWC, image_HWC)
  return kinds[nearest_HW], image_HWC


def _plain(rng: np.random.Generator, y: np.ndarray, x: np.ndarray) -> np.ndarray:
  return np.ones(y.shape, bool)


def _stripes(rng: np.random.Generator, y: np.ndarray, x: np.ndarray) -> np.ndarray:
  angle, period = rng.uniform(0, np.pi), rng.uniform(4, 9)
  return (y * np.cos(angle) + x * np.sin(angle)) % period < period / 2


def _checks(rng: np.random.Generator, y: np.ndarray, x: np.ndarray) -> np.ndarray:
  side = int(rng.integers(3, 7))
  return (y // side + x // side) % 2 == 0


def _speckles(rng: np.random.Generator, y: np.ndarray, x: np.ndarray) -> np.ndarray:
  return rng.random(y.shape) < 0.25


PATTERNS = {
  'plain': _plain,
  'stripes': _stripes,
  'checks': _checks,
  'speckles': _speckles,
}


def _bytes(image_HWC: np.ndarray) -> np.ndarray:
  return (image_HWC * 255).round().astype(np.uint8)


def _segment(
  mask_HW: np.ndarray, name: int, label: int, is_crowd: bool
) -> dict[str, Any]:
  rows, columns = np.flatnonzero(mask_HW.any(1)), np.flatnonzero(mask_HW.any(0))
  height, width = mask_HW.shape
  return {
    'id': name,
    'area': int(mask_HW.sum()),
    'bbox': (
      rows[0] / height,
      columns[0] / width,
      (rows[-1] + 1) / height,
      (columns[-1] + 1) / width,
    ),
    'label': label,
    'is_crowd': is_crowd,
  }


class Scenes(drawing.Pictures):
  """10,000 training and 500 validation scenes, 96x128 pixels (`simple`: 48x48)."""

  BUILDER_CONFIGS = [
    ScenesConfig(
      name='hidden', description='Three to eight shapes that hide each other, on stuff.'
    ),
    ScenesConfig(
      name='simple',
      height=48,
      width=48,
      count=(1, 3),
      side=(10, 19),
      things=SIMPLE,
      hidden=False,
      description='One to three shapes apart from each other on dark noise.',
    ),
  ]
  DEFAULT_BUILDER_CONFIG_NAME = 'hidden'

  def _info(self) -> tfds.core.DatasetInfo:
    config = self.builder_config
    stuff = STUFF if config.hidden else ()
    size = config.height, config.width

    def segments(names: Sequence[str]) -> tfds.features.Sequence:
      return tfds.features.Sequence(
        {
          'id': np.int64,
          'area': np.int64,
          'bbox': tfds.features.BBoxFeature(),
          'label': tfds.features.ClassLabel(names=names),
          'is_crowd': np.bool_,
        }
      )

    return self.described(
      'Coloured shapes with boxes, masks and a panoptic map.',
      {
        'image': drawing.picture(*size, 3),
        'segmentation': drawing.picture(*size, 1),
        'panoptic_image': drawing.picture(*size, 3),
        'objects': segments(config.things),
        'panoptic_objects': segments([*config.things, *stuff]),
      },
    )

  def _split_generators(self, dl_manager: Any) -> dict[str, drawing.Counted]:
    config = self.builder_config
    counts = dict(zip(SPLITS, config.counts, strict=True))
    return drawing.by_split(_encoded, config, counts)


def _encoded(config: ScenesConfig, split: str, index: int) -> dict[str, Any]:
  """Draws example `index` in TFDS's form, with its images as PNG."""
  example = drawing.encoded(draw(config, split, index), 'panoptic_image')
  for name in ('objects', 'panoptic_objects'):
    example[name] = [
      segment | {'bbox': tfds.features.BBox(*segment['bbox'])}
      for segment in example[name]
    ]
  return example
