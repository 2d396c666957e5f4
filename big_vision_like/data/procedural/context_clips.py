"""Clips whose action only the surroundings tell, as the TFDS data set `context_clips`.

An actor, a bright patch that looks the same in all classes, is in a picture with a
small object, at least 13 pixels away. In `context_clips/object` the class is the colour
of the object. In `context_clips/chosen` there are two objects, and the actor's own
colour says which of them counts: red the left one, blue the right one.

Axes: T frames, H W pixels, C channels.
"""

import dataclasses
from typing import Any

import numpy as np
import tensorflow_datasets as tfds

from big_vision_like.data.procedural import drawing

SPLITS = ('train', 'test')
FRAMES, SIDE, ACTOR, OBJECT = 4, 32, 8, 4
# Pixels between the borders of actor and objects, at least: a network that sees 11
# pixels around a cell of the actor does not see the object.
APART = 13
NOISE = 0.05
COLORS = {
  'red': (0.9, 0.1, 0.1),
  'green': (0.1, 0.8, 0.1),
  'blue': (0.15, 0.2, 0.95),
  'yellow': (0.9, 0.85, 0.1),
}
NAMES = tuple(COLORS)
WHITE = (0.95, 0.95, 0.95)
# Colours of the actor in `chosen`: for the left object, for the right one.
POINTERS = ((0.95, 0.6, 0.6), (0.6, 0.6, 0.95))


@dataclasses.dataclass
class ContextClipsConfig(tfds.core.BuilderConfig):
  """The number of objects, 1 or 2, numbers of clips, and the seed."""

  objects: int = 1
  counts: tuple[int, int] = (12_000, 1_000)
  seed: int = 0


def draw(config: ContextClipsConfig, split: str, index: int) -> dict[str, Any]:
  """Draws example `index` of a split.

  `video` is (4, 32, 32, 3) uint8, and nothing in it moves but noise. `actor` and
  `object`, the one that counts, are top, left, bottom, right in pixels. `label` is the
  colour of that object, an index into `NAMES`.
  """
  rng = drawing.generator(config.seed, split, index, SPLITS)
  while True:
    actor = _place(rng, ACTOR)
    places = [_place(rng, OBJECT) for _ in range(config.objects)]
    apart = all(_distance(actor, place) >= APART for place in places)
    # Two objects are side by side, so that one is the left one.
    beside = sorted(place[1] for place in places)
    if apart and all(b - a >= OBJECT for a, b in zip(beside, beside[1:], strict=False)):
      break
  places.sort(key=lambda place: place[1])
  label = index % len(NAMES)
  color, counts = WHITE, 0
  if config.objects > 1:
    counts = int(rng.integers(len(places)))
    color = POINTERS[counts]
  video_THWC = np.full((FRAMES, SIDE, SIDE, 3), 0.4)
  _paint(video_THWC, actor, color)
  for number, place in enumerate(places):
    own = label if number == counts else int(rng.integers(len(NAMES)))
    _paint(video_THWC, place, COLORS[NAMES[own]])
  video_THWC += rng.normal(0, NOISE, video_THWC.shape)
  return {
    'video': np.round(255 * np.clip(video_THWC, 0, 1)).astype(np.uint8),
    'actor': actor,
    'object': places[counts],
    'label': label,
    'id': index,
  }


def _place(rng: np.random.Generator, side: int) -> tuple[int, int, int, int]:
  top, left = rng.integers(SIDE - side + 1, size=2).tolist()
  return top, left, top + side, left + side


def _distance(one: tuple[int, ...], other: tuple[int, ...]) -> int:
  """Returns the pixels between two boxes, in the direction where they are farther."""
  return max(
    max(one[axis], other[axis]) - min(one[axis + 2], other[axis + 2]) for axis in (0, 1)
  )


def _paint(
  video_THWC: np.ndarray, place: tuple[int, ...], color: tuple[float, ...]
) -> None:
  top, left, bottom, right = place
  video_THWC[:, top:bottom, left:right] = color


class ContextClips(drawing.Pictures):
  """12,000 training and 1,000 test clips of four frames, 32x32 pixels.

  Examples have `video`, the four frames as PNG, the boxes `actor` and `object`,
  `label`, an index into `NAMES`, and `id`. Labels cycle, so any stretch of a split is
  balanced.
  """

  BUILDER_CONFIGS = [
    ContextClipsConfig(name='object', description='One object tells the class.'),
    ContextClipsConfig(
      name='chosen',
      description="The actor's colour says which of two objects tells the class.",
      objects=2,
    ),
  ]
  DEFAULT_BUILDER_CONFIG_NAME = 'object'

  def _info(self) -> tfds.core.DatasetInfo:
    frame = drawing.picture(SIDE, SIDE, 3)
    return self.described(
      'Clips of an actor whose class an object far from it tells.',
      {
        'video': tfds.features.Sequence(frame, length=FRAMES),
        'actor': tfds.features.BBoxFeature(),
        'object': tfds.features.BBoxFeature(),
        'label': tfds.features.ClassLabel(names=list(NAMES)),
      },
    )

  def _split_generators(self, dl_manager: Any) -> dict[str, drawing.Counted]:
    config = self.builder_config
    counts = dict(zip(SPLITS, config.counts, strict=True))
    return drawing.by_split(_encoded, config, counts)


def _encoded(config: ContextClipsConfig, split: str, index: int) -> dict[str, Any]:
  """Draws example `index` in TFDS's form, with its frames as PNG."""
  example = draw(config, split, index)
  places = {
    name: tfds.features.BBox(*(edge / SIDE for edge in example[name]))
    for name in ('actor', 'object')
  }
  return example | places | {'video': list(map(drawing.png, example['video']))}
