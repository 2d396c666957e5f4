"""Pictures of one shape of five, as the TFDS data set `five_shapes`.

A disc, a square, a triangle, a cross or a ring of a random colour, size and place, on a
dark ground, with noise.

Axes: H W image, C channels.
"""

import dataclasses
from typing import Any

import numpy as np
import tensorflow_datasets as tfds

from big_vision_like.data.procedural import drawing, scenes

SPLITS = ('train', 'test')
SHAPES = ('disc', 'square', 'triangle', 'cross', 'ring')
SIDE = 32
RADII = (7.0, 13.0)
DARK = 0.25  # brightest ground
CONTRAST = 0.4  # least difference of the colours in some channel


@dataclasses.dataclass
class FiveShapesConfig(tfds.core.BuilderConfig):
  """The deviation of the noise, and the number of pictures of each split."""

  noise: float = 0.03
  counts: tuple[int, int] = (2_400, 600)
  seed: int = 0


def draw(config: FiveShapesConfig, split: str, index: int) -> dict[str, Any]:
  """Draws picture `index` of a split: `image` (H, W, 3) uint8, `label` and `id`."""
  rng = drawing.generator(config.seed, split, index, SPLITS)
  label = int(rng.integers(len(SHAPES)))
  radius = rng.uniform(*RADII)
  left, top = rng.uniform(radius, SIDE - radius, 2)
  v_HW, u_HW = np.mgrid[:SIDE, :SIDE] + 0.5
  inside = scenes.INSIDE[SHAPES[label]]
  inside_HW = inside((u_HW - left) / radius, (v_HW - top) / radius)
  while True:
    ground_C, shape_C = rng.uniform(0, DARK, 3), rng.uniform(0, 1, 3)
    if (shape_C - ground_C).max() >= CONTRAST:
      break
  image_HWC = np.where(inside_HW[..., None], shape_C, ground_C)
  image_HWC = image_HWC + rng.normal(0, config.noise, image_HWC.shape)
  image_HWC = (255 * image_HWC.clip(0, 1)).round().astype(np.uint8)
  return {'image': image_HWC, 'label': label, 'id': index}


def _encoded(config: FiveShapesConfig, split: str, index: int) -> dict[str, Any]:
  example = draw(config, split, index)
  return example | {'image': drawing.png(example['image'])}


class FiveShapes(drawing.Pictures):
  """2,400 training and 600 test pictures."""

  BUILDER_CONFIGS = [FiveShapesConfig(name='five_shapes', description='One shape.')]

  def _info(self) -> tfds.core.DatasetInfo:
    return self.described(
      'Pictures of one of five shapes.',
      {
        'image': drawing.picture(SIDE, SIDE, 3),
        'label': tfds.features.ClassLabel(names=SHAPES),
      },
    )

  def _split_generators(self, dl_manager: Any) -> dict[str, drawing.Counted]:
    config = self.builder_config
    counts = dict(zip(SPLITS, config.counts, strict=True))
    return drawing.by_split(_encoded, config, counts)
