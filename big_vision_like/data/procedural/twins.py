"""Objects that only their surroundings tell apart, as the TFDS data set `twins`.

Twelve classes belong to four contexts of three. An image has one context, and each of
its objects is of this context with probability 0.85, else of any other. Six classes are
twins: each looks like a class of another context, up to noise. With the context known,
a classifier can be right for 90 % of them; from an object alone, for half of them.

Axes: H W image, C channels.
"""

import dataclasses
from typing import Any

import numpy as np
import tensorflow_datasets as tfds

from big_vision_like.data.procedural import drawing, scenes

SPLITS = ('train', 'validation')
SIDE, CELLS = 64, 3
WITHIN = 0.85
# Pixels between an object and the border of its cell, at least.
MARGIN = 3
NOISE = 0.04
COLORS = {
  'blue': (0.2, 0.3, 1.0),
  'red': (0.9, 0.15, 0.15),
  'orange': (1.0, 0.6, 0.1),
  'cyan': (0.1, 0.9, 0.9),
  'green': (0.2, 0.8, 0.2),
  'yellow': (0.95, 0.9, 0.2),
  'magenta': (0.9, 0.2, 0.8),
  'white': (0.95, 0.95, 0.95),
}
# The look of each class, by context.
CONTEXTS = {
  'sea': ('blue disc', 'red square', 'cyan ring'),
  'farm': ('blue disc', 'green triangle', 'yellow cross'),
  'street': ('red square', 'orange triangle', 'magenta crescent'),
  'room': ('orange triangle', 'white square', 'white disc'),
}
LOOKS = tuple(look for looks in CONTEXTS.values() for look in looks)
NAMES = tuple(f'{context} {look}' for context in CONTEXTS for look in CONTEXTS[context])
# Names of classes of each context.
GROUPS = tuple(
  tuple(f'{context} {look}' for look in looks) for context, looks in CONTEXTS.items()
)
TWINS = tuple(i for i, look in enumerate(LOOKS) if LOOKS.count(look) > 1)
OTHERS = tuple(i for i in range(len(LOOKS)) if i not in TWINS)


@dataclasses.dataclass
class TwinsConfig(tfds.core.BuilderConfig):
  """Inclusive ranges of the number and the sides of objects, and numbers of images."""

  count: tuple[int, int] = (3, 6)
  side: tuple[int, int] = (11, 15)
  counts: tuple[int, int] = (20_000, 1_000)
  seed: int = 0


def draw(config: TwinsConfig, split: str, index: int) -> dict[str, Any]:
  """Draws example `index` of a split.

  `image` is (64, 64, 3) uint8, `context` the index in `CONTEXTS`. Each of `objects` has
  `id`, `area`, `bbox` as top, left, bottom, right in [0, 1], `label`, and `is_crowd`,
  False. Objects are in different cells of a 3x3 grid, at least 6 pixels apart.
  """
  rng = drawing.generator(config.seed, split, index, SPLITS)
  context, each = int(rng.integers(len(CONTEXTS))), len(LOOKS) // len(CONTEXTS)
  inside = range(each * context, each * (context + 1))
  outside = [label for label in range(len(LOOKS)) if label not in inside]
  image_HWC = rng.uniform(0, 0.15, (SIDE, SIDE, 3))
  count = int(rng.integers(*config.count, endpoint=True))
  room, objects = SIDE // CELLS, []
  for number, cell in enumerate(rng.permutation(CELLS**2)[:count].tolist()):
    choice = inside if rng.random() < WITHIN else outside
    label = int(choice[rng.integers(len(choice))])
    color, kind = LOOKS[label].split()
    side = int(rng.integers(*config.side, endpoint=True))
    free = room - side - 2 * MARGIN
    top, left = (
      room * place + MARGIN + int(rng.integers(free, endpoint=True))
      for place in divmod(cell, CELLS)
    )
    mask_HW = scenes.shape(kind, SIDE, SIDE, top + side / 2, left + side / 2, side, 0.0)
    noise_NC = rng.normal(0, NOISE, (int(mask_HW.sum()), 3))
    shade = rng.uniform(0.8, 1.0)
    image_HWC[mask_HW] = np.clip(shade * np.array([COLORS[color]]) + noise_NC, 0, 1)
    rows, columns = np.flatnonzero(mask_HW.any(1)), np.flatnonzero(mask_HW.any(0))
    box = rows[0], columns[0], rows[-1] + 1, columns[-1] + 1
    objects.append(
      {
        'id': number + 1,
        'area': int(mask_HW.sum()),
        'bbox': tuple(float(edge) / SIDE for edge in box),
        'label': label,
        'is_crowd': False,
      }
    )
  return {
    'image': (image_HWC * 255).round().astype(np.uint8),
    'objects': objects,
    'context': context,
    'id': index,
  }


class Twins(drawing.Pictures):
  """20,000 training and 1,000 validation images of 64x64 pixels."""

  BUILDER_CONFIGS = [
    TwinsConfig(name='twins', description='Three to six objects apart on dark noise.')
  ]

  def _info(self) -> tfds.core.DatasetInfo:
    return self.described(
      'Objects that only their surroundings tell apart.',
      {
        'image': drawing.picture(SIDE, SIDE, 3),
        'objects': tfds.features.Sequence(
          {
            'id': np.int64,
            'area': np.int64,
            'bbox': tfds.features.BBoxFeature(),
            'label': tfds.features.ClassLabel(names=NAMES),
            'is_crowd': np.bool_,
          }
        ),
        'context': tfds.features.ClassLabel(names=list(CONTEXTS)),
      },
    )

  def _split_generators(self, dl_manager: Any) -> dict[str, drawing.Counted]:
    config = self.builder_config
    counts = dict(zip(SPLITS, config.counts, strict=True))
    return drawing.by_split(_encoded, config, counts)


def _encoded(config: TwinsConfig, split: str, index: int) -> dict[str, Any]:
  """Draws example `index` in TFDS's form, with its image as PNG."""
  example = draw(config, split, index)
  objects = [
    entry | {'bbox': tfds.features.BBox(*entry['bbox'])} for entry in example['objects']
  ]
  return example | {'image': drawing.png(example['image']), 'objects': objects}
