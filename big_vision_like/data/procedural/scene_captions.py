"""Captions of drawn scenes of five objects, as the TFDS data set `scene_captions`.

The scenes are those of `scene_questions`. A caption names the colours and shapes of the
three objects on the left: 'red disc blue ring green star'. The detector's class of a
region is its pair of colour and shape, one of 30, without any doubt.

Axes: N objects, F features, K classes; 4 is left, top, right, bottom.
"""

import dataclasses
from typing import Any

import numpy as np
import tensorflow_datasets as tfds

from big_vision_like.data.procedural import drawing, scene_questions
from big_vision_like.data.procedural.scene_questions import (
  COLORS,
  NOISE,
  OBJECTS,
  SHAPES,
  WIDTH,
)

SPLITS = ('train', 'validation')
NAMED = 3
CLASSES = len(COLORS) * len(SHAPES)


@dataclasses.dataclass
class CaptionsConfig(tfds.core.BuilderConfig):
  """The deviation of the noise of features, and the number of scenes by split."""

  noise: float = NOISE
  counts: tuple[int, int] = (40_000, 1_000)
  seed: int = 0


def draw(config: CaptionsConfig, split: str, index: int) -> dict[str, Any]:
  """Draws example `index` of a split.

  `caption` is a text. `boxes` float32 (N, 4), as fractions of the image, `features`
  float32 (N, F) and `classes` float32 (N, K) are those of the objects in random order.
  """
  rng = drawing.generator(config.seed, split, index, SPLITS)
  colors_N, shapes_N = scene_questions.scene(rng)
  features_NF = scene_questions.features(colors_N, shapes_N)
  features_NF += rng.normal(0, config.noise, features_NF.shape)
  left_N, top_N = np.arange(OBJECTS) / OBJECTS, np.zeros(OBJECTS)
  boxes_N4 = np.stack([left_N, top_N, left_N + 1 / OBJECTS, top_N + 1], axis=1)
  classes_NK = np.eye(CLASSES)[colors_N * len(SHAPES) + shapes_N]
  order = rng.permutation(OBJECTS)
  named = zip(colors_N[:NAMED].tolist(), shapes_N[:NAMED].tolist(), strict=True)
  return {
    'caption': ' '.join(f'{COLORS[color]} {SHAPES[shape]}' for color, shape in named),
    'boxes': boxes_N4[order].astype(np.float32),
    'features': features_NF[order].astype(np.float32),
    'classes': classes_NK[order].astype(np.float32),
    'id': index,
  }


class SceneCaptions(drawing.Pictures):
  """40,000 training and 1,000 validation scenes, each with its caption."""

  BUILDER_CONFIGS = [
    CaptionsConfig(name='scene_captions', description='Five objects in a row.')
  ]

  def _info(self) -> tfds.core.DatasetInfo:
    return self.described(
      'Captions of five objects with colours and shapes, as regions.',
      {
        'caption': tfds.features.Text(),
        'boxes': tfds.features.Tensor(shape=(OBJECTS, 4), dtype=np.float32),
        'features': tfds.features.Tensor(shape=(OBJECTS, WIDTH), dtype=np.float32),
        'classes': tfds.features.Tensor(shape=(OBJECTS, CLASSES), dtype=np.float32),
      },
    )

  def _split_generators(self, dl_manager: Any) -> dict[str, drawing.Counted]:
    config = self.builder_config
    counts = dict(zip(SPLITS, config.counts, strict=True))
    return drawing.by_split(draw, config, counts)
