"""Grey squares, as the TFDS data set `greys` (made up)."""

from typing import Any

import numpy as np
import tensorflow_datasets as tfds

from big_vision_like.data.procedural import drawing

SPLITS = ('train', 'test')


class Greys(drawing.Pictures):
  """Eight dark and eight light squares."""

  def _info(self) -> tfds.core.DatasetInfo:
    features = {
      'image': drawing.picture(4, 4, 1),
      'label': tfds.features.ClassLabel(names=['dark', 'light']),
    }
    return self.described('Grey squares.', features)

  def _split_generators(self, dl_manager: Any) -> dict[str, drawing.Counted]:
    return drawing.by_split(draw, None, dict.fromkeys(SPLITS, 8))


def draw(config: Any, split: str, index: int) -> dict[str, Any]:
  """Returns example `index`."""
  grey = drawing.generator(0, split, index, SPLITS).integers(100) + 128 * (index % 2)
  image_HWC = np.full((4, 4, 1), grey, np.uint8)
  return {'image': drawing.png(image_HWC), 'label': index % 2, 'id': index}
