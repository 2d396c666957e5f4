"""Clips of a moving square, told apart by its direction, as the TFDS `moving_squares`.

A square of 4x4 pixels crosses a frame of 16x16 pixels in four frames, one patch per
frame: to the left or right along a row, up or down along a column. The frames of a clip
to the left, in reverse order, are a clip to the right. A classifier that ignores the
order of frames is therefore right for at most half of the clips.

Axes: T frames, H W pixels, C channels.
"""

import dataclasses
from typing import Any

import numpy as np
import tensorflow_datasets as tfds

from big_vision_like.data.procedural import drawing

SPLITS = ('train', 'test')
FRAMES, SIDE, SQUARE = 4, 16, 4
# The axis of each direction (0 is vertical) and its sign; down and right are positive.
DIRECTIONS = {'left': (1, -1), 'right': (1, 1), 'up': (0, -1), 'down': (0, 1)}
NAMES = tuple(DIRECTIONS)
NOISE = 0.1
# The mean and deviation that the published trial normalizes with.
MEAN, STD = 0.05, 0.25


@dataclasses.dataclass
class MovingSquaresConfig(tfds.core.BuilderConfig):
  """The kind of motion, numbers of training and test clips, and the seed.

  `wraps` starts at any of the four patches of the row or column and continues at the
  opposite border, so that all clips along a row have the same set of frames. `offsets`
  shifts the path by a random number of pixels in both directions: squares are not
  aligned with patches, and the first or last one is partly outside of the frame.
  """

  wraps: bool = False
  offsets: bool = False
  counts: tuple[int, int] = (12_000, 1_000)
  seed: int = 0


def draw(config: MovingSquaresConfig, split: str, index: int) -> dict[str, Any]:
  """Draws example `index` of a split: `video` (4, 16, 16, 3) uint8, `label`, `id`."""
  rng = drawing.generator(config.seed, split, index, SPLITS)
  label = index % len(NAMES)
  axis, sign = DIRECTIONS[NAMES[label]]
  along_T = SQUARE * np.arange(FRAMES)
  across = SQUARE * int(rng.integers(SIDE // SQUARE))
  if config.wraps:
    along_T = (along_T + SQUARE * rng.integers(SIDE // SQUARE)) % SIDE
  if config.offsets:
    along_T = along_T + rng.integers(1 - SQUARE, SQUARE)
    across = int(rng.integers(SIDE - SQUARE + 1))
  color_C = rng.uniform(0.4, 1.0, 3)
  video_THWC = np.zeros((FRAMES, SIDE, SIDE, 3))
  for frame_HWC, start in zip(video_THWC, along_T[::sign].tolist(), strict=True):
    path = slice(max(start, 0), start + SQUARE)
    row = slice(across, across + SQUARE)
    frame_HWC[(path, row) if axis == 0 else (row, path)] = color_C
  video_THWC += rng.normal(0, NOISE, video_THWC.shape)
  video_THWC = np.round(255 * np.clip(video_THWC, 0, 1)).astype(np.uint8)
  return {'video': video_THWC, 'label': label, 'id': index}


class MovingSquares(drawing.Pictures):
  """12,000 training and 1,000 test clips of four frames, 16x16 pixels.

  Examples have `video`, the four frames as PNG, `label`, an index into `NAMES`, and
  `id`. Labels cycle, so any stretch of a split is balanced.
  """

  BUILDER_CONFIGS = [
    MovingSquaresConfig(name='plain', description='Full rows and columns.'),
    MovingSquaresConfig(
      name='torus',
      description='Motion from a random patch across the border, back to that patch.',
      wraps=True,
    ),
    MovingSquaresConfig(
      name='offsets',
      description='Motion from a random pixel, not aligned with patches.',
      offsets=True,
    ),
  ]
  DEFAULT_BUILDER_CONFIG_NAME = 'plain'

  def _info(self) -> tfds.core.DatasetInfo:
    frame = drawing.picture(SIDE, SIDE, 3)
    return self.described(
      'Clips of a square that moves to the left, right, up or down.',
      {
        'video': tfds.features.Sequence(frame, length=FRAMES),
        'label': tfds.features.ClassLabel(names=list(NAMES)),
      },
      supervised_keys=('video', 'label'),
    )

  def _split_generators(self, dl_manager: Any) -> dict[str, drawing.Counted]:
    config = self.builder_config
    counts = dict(zip(SPLITS, config.counts, strict=True))
    return drawing.by_split(_encoded, config, counts)


def _encoded(config: MovingSquaresConfig, split: str, index: int) -> dict[str, Any]:
  """Draws example `index`, with its frames as PNG."""
  example = draw(config, split, index)
  return example | {'video': list(map(drawing.png, example['video']))}
