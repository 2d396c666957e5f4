"""The scenes of `scenes` with label maps, as the TFDS data set `label_scenes`.

It is for trying out semantic segmentation. `label_scenes/simple` has a background and
squares, discs and triangles on it. `label_scenes/hidden` has six kinds of shapes, which
occlude each other, and four kinds of stuff; small regions of stuff have no label.

Axes: H W image.
"""

from typing import Any

import numpy as np
import tensorflow_datasets as tfds

from big_vision_like.data.procedural import drawing, scenes

CONFIGS = {config.name: config for config in scenes.Scenes.BUILDER_CONFIGS}
# The names of classes by data set. In label maps class i has the value i + 1, and 0
# marks pixels without a label.
NAMES = {
  'simple': ('background', *scenes.SIMPLE),
  'hidden': (*scenes.THINGS, *scenes.STUFF),
}


def draw(config: scenes.ScenesConfig, split: str, index: int) -> dict[str, Any]:
  """Draws example `index` of a split.

  `image` is (H, W, 3) uint8, and `label_map`, (H, W, 1) uint8, has the class of each
  pixel, counted from 1, or 0 for none.
  """
  scene = scenes.draw(config, split, index)
  red, green, blue = np.moveaxis(scene['panoptic_image'].astype(np.int64), -1, 0)
  names_HW = red + 256 * green + 65536 * blue
  # Without stuff, all pixels outside of shapes are background.
  first = 1 if config.hidden else 2
  label_HW = np.full(names_HW.shape, 0 if config.hidden else 1, np.uint8)
  for segment in scene['panoptic_objects']:
    label_HW[names_HW == segment['id']] = segment['label'] + first
  return {'image': scene['image'], 'label_map': label_HW[..., None], 'id': index}


class LabelScenes(drawing.Pictures):
  """10,000 training and 500 validation scenes, 96x128 pixels (`simple`: 48x48)."""

  BUILDER_CONFIGS = list(CONFIGS.values())
  DEFAULT_BUILDER_CONFIG_NAME = 'hidden'

  def _info(self) -> tfds.core.DatasetInfo:
    size = self.builder_config.height, self.builder_config.width
    return self.described(
      'Coloured shapes with the class of each pixel.',
      {
        'image': drawing.picture(*size, 3),
        'label_map': drawing.picture(*size, 1),
      },
    )

  def _split_generators(self, dl_manager: Any) -> dict[str, drawing.Counted]:
    config = self.builder_config
    counts = dict(zip(scenes.SPLITS, config.counts, strict=True))
    return drawing.by_split(_encoded, config, counts)


def _encoded(config: scenes.ScenesConfig, split: str, index: int) -> dict[str, Any]:
  """Draws example `index` with its images as PNG."""
  example = draw(config, split, index)
  return example | {name: drawing.png(example[name]) for name in ('image', 'label_map')}
