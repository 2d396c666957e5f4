"""Three tetrominoes on black, as the TFDS data set `tetrominoes`.

It imitates the published set (github.com/google-deepmind/multi_object_datasets) that
Slot Attention (arXiv 2006.15055) is trained on, whose generator is not public. Images
have 35x35 pixels and three pieces at any pixel, of 17 shapes and orientations and six
colours, with cells lit from above. There are 19 tetrominoes counting rotations, and the
published set does not document which two it omits. This data set omits both bars of
four, the only choice that leaves a set closed under rotation and reflection.

Axes: H W image, h w bounding box of a piece, C channels.
"""

import dataclasses
import functools
from collections.abc import Sequence
from typing import Any

import cv2
import numpy as np
import tensorflow_datasets as tfds

from big_vision_like.data.procedural import drawing

SPLITS = ('train', 'validation', 'test')
COLORS = {
  'red': (255, 0, 0),
  'green': (0, 255, 0),
  'blue': (0, 0, 255),
  'yellow': (255, 255, 0),
  'magenta': (255, 0, 255),
  'cyan': (0, 255, 255),
}
PIECES = 3
# Brightness of the pixels of a 5x5 cell, from the published preview.
LIT = np.array(
  [
    [191, 255, 255, 255, 223],
    [127, 159, 159, 159, 191],
    [127, 159, 159, 159, 191],
    [127, 159, 159, 159, 191],
    [95, 63, 63, 63, 127],
  ],
  np.uint8,
)


def _rotations() -> dict[str, np.ndarray]:
  """Returns the filled cells of each shape, bool, by letter and quarter turns."""
  letters = {'O': '## ##', 'T': '### .#.', 'S': '.## ##.', 'Z': '##. .##'}
  letters |= {'J': '#.. ###', 'L': '..# ###'}
  turns = {'O': 1, 'S': 2, 'Z': 2}
  return {
    f'{letter}{turn}': np.rot90(
      np.array([[cell == '#' for cell in row] for row in rows.split()]), turn
    )
    for letter, rows in letters.items()
    for turn in range(turns.get(letter, 4))
  }


SHAPES = _rotations()


def draw(
  seed: int,
  split: str,
  index: int,
  size: int = 35,
  cell: int = 5,
  step: int = 1,
  shapes: Sequence[str] = tuple(SHAPES),
  gap: int = 0,
) -> dict[str, Any]:
  """Draws example `index` of a split: `image`, `segmentation`, `objects`, `id`.

  Scenes are uniform over all placements of three pieces that do not overlap and have at
  least `gap` pixels between them, also across corners. Places are multiples of `step`.
  The image is (size,size,3) uint8, the segmentation (size,size,1) uint8: 0 is the
  background, 1 to 3 are the pieces. Cells have a side of `cell` pixels; cells of five
  pixels look raised, others are flat. Objects have a name of `SHAPES` as `shape`, one
  of `COLORS` as `color`, and the centre of their bounding box as `x` and `y` in [0, 1].
  """
  rng = drawing.generator(seed, split, index, SPLITS)
  ids_HW = None
  while ids_HW is None:
    pieces = [_piece(rng, size, cell, step, shapes) for _ in range(PIECES)]
    ids_HW = _laid(pieces, size, cell, gap)
  colors = [list(COLORS)[i] for i in rng.integers(len(COLORS), size=PIECES)]
  palette = np.array([(0, 0, 0), *(COLORS[color] for color in colors)], np.uint8)
  light_HW = np.full((size, size), 255, np.uint8)
  objects = []
  for (shape, y, x), color in zip(pieces, colors, strict=True):
    mask_hw = _mask(shape, cell)
    height, width = mask_hw.shape
    if cell == len(LIT):
      lit_hw = np.tile(LIT, SHAPES[shape].shape)
      light_HW[_part(mask_hw, y, x)][mask_hw] = lit_hw[mask_hw]
    centre = {'x': (x + width / 2) / size, 'y': (y + height / 2) / size}
    objects.append({'shape': shape, 'color': color, **centre})
  return {
    'image': np.minimum(palette[ids_HW], light_HW[:, :, None]),
    'segmentation': ids_HW[:, :, None],
    'objects': objects,
    'id': index,
  }


@functools.cache
def _mask(shape: str, cell: int) -> np.ndarray:
  return SHAPES[shape].repeat(cell, 0).repeat(cell, 1)


def _part(mask_hw: np.ndarray, y: int, x: int) -> tuple[slice, slice]:
  height, width = mask_hw.shape
  return slice(y, y + height), slice(x, x + width)


def _piece(
  rng: np.random.Generator, size: int, cell: int, step: int, shapes: Sequence[str]
) -> tuple[str, int, int]:
  """Draws a shape, and the row and column of its bounding box."""
  while True:
    shape = shapes[int(rng.integers(len(shapes)))]
    y, x = (step * rng.integers(size // step, size=2)).tolist()
    height, width = _mask(shape, cell).shape
    if y + height <= size and x + width <= size:
      return shape, y, x


def _laid(
  pieces: Sequence[tuple[str, int, int]], size: int, cell: int, gap: int
) -> np.ndarray | None:
  """Returns the number of the piece at each pixel, from 1; None if too close."""
  ids_HW = np.zeros((size, size), np.uint8)
  taken_HW = np.zeros((size, size), np.uint8)
  around = np.ones((2 * gap + 1, 2 * gap + 1), np.uint8)
  for i, (shape, y, x) in enumerate(pieces, start=1):
    mask_hw = _mask(shape, cell)
    part = _part(mask_hw, y, x)
    if taken_HW[part][mask_hw].any():
      return None
    ids_HW[part][mask_hw] = i
    taken_HW = cv2.dilate(np.minimum(ids_HW, 1), around)
  return ids_HW


@dataclasses.dataclass
class TetrominoesConfig(tfds.core.BuilderConfig):
  """The arguments of `draw`, and the number of examples of each split."""

  size: int = 35
  cell: int = 5
  step: int = 1
  shapes: tuple[str, ...] = tuple(SHAPES)
  gap: int = 0
  counts: tuple[int, int, int] = (60_000, 320, 320)
  seed: int = 0


class Tetrominoes(drawing.Pictures):
  """60,000 training, 320 validation and 320 test scenes, 35x35 pixels.

  The paper also trains on 60,000 and tests on 320. `tetrominoes/21`, `/14` and `/7` are
  simpler: a grid of 7x7 flat cells of 3x3, 2x2 or one pixels, with the same scenes in
  each. `tetrominoes/blocks` is for experiments: squares of 2x2 pixels that never touch,
  in 8x8 pixels; 20,000 training, 256 validation and 256 test scenes.
  """

  BUILDER_CONFIGS = [
    TetrominoesConfig(name='35', description='35x35 pixels, as published.'),
    *(
      TetrominoesConfig(
        name=str(7 * cell),
        size=7 * cell,
        cell=cell,
        step=cell,
        description=f'{7 * cell}x{7 * cell} pixels, 7x7 cells.',
      )
      for cell in (3, 2, 1)
    ),
    TetrominoesConfig(
      name='blocks',
      size=8,
      cell=1,
      shapes=('O0',),
      gap=1,
      counts=(20_000, 256, 256),
      description='Three squares that never touch, 8x8 pixels.',
    ),
  ]
  DEFAULT_BUILDER_CONFIG_NAME = '35'

  def _info(self) -> tfds.core.DatasetInfo:
    size = self.builder_config.size
    objects = {
      'shape': tfds.features.ClassLabel(names=self.builder_config.shapes),
      'color': tfds.features.ClassLabel(names=list(COLORS)),
      'x': np.float32,
      'y': np.float32,
    }
    return self.described(
      'Three coloured tetrominoes on black, with a segmentation of their pixels.',
      {
        'image': drawing.picture(size, size, 3),
        'segmentation': drawing.picture(size, size, 1),
        'objects': tfds.features.Sequence(objects),
      },
    )

  def _split_generators(self, dl_manager: Any) -> dict[str, drawing.Counted]:
    config = self.builder_config
    counts = dict(zip(SPLITS, config.counts, strict=True))
    return drawing.by_split(_encoded, config, counts)


def _encoded(config: TetrominoesConfig, split: str, index: int) -> dict[str, Any]:
  """Draws example `index`, with its images as PNG."""
  options = {
    name: getattr(config, name) for name in ('size', 'cell', 'step', 'shapes', 'gap')
  }
  return drawing.encoded(draw(config.seed, split, index, **options))
