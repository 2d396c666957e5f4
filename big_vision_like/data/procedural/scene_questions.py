"""Questions about drawn scenes of five objects, as the TFDS data set `scene_questions`.

A scene has five objects in a row, each with one of six colours and five shapes. Its
regions are the objects in random order; the feature of a region is a vector of its
colour and a vector of its shape with noise, and its location tells its place. Questions
ask for the colour or the shape of an object, the neighbour of an object, the number of
objects of a colour, or whether there is an object. The answer is one of `ANSWERS`.

Axes: N objects, F features; 4 is left, top, right, bottom.
"""

import dataclasses
from typing import Any

import numpy as np
import tensorflow_datasets as tfds

from big_vision_like.data.procedural import drawing

SPLITS = ('train', 'validation')
OBJECTS = 5
COLORS = ('red', 'green', 'blue', 'yellow', 'purple', 'white')
SHAPES = ('disc', 'square', 'triangle', 'star', 'ring')
COUNTS = tuple(map(str, range(OBJECTS + 1)))
ANSWERS = (*COLORS, *SHAPES, *COUNTS, 'no', 'yes')
KINDS = ('color', 'shape', 'left', 'count', 'exists')
WIDTH, NOISE = 24, 0.3
# The words of questions, for a `wordpiece.WordPiece`.
WORDS = (
  *COLORS,
  *SHAPES,
  *'what how many is there a the of left color shape object objects'.split(),
)


@dataclasses.dataclass
class QuestionsConfig(tfds.core.BuilderConfig):
  """The deviation of the noise of features, and the number of questions by split."""

  noise: float = NOISE
  counts: tuple[int, int] = (20_000, 1_000)
  seed: int = 0


def draw(config: QuestionsConfig, split: str, index: int) -> dict[str, Any]:
  """Draws example `index` of a split.

  `question` is a text and `label` the index of its answer in `ANSWERS`. `kind` is the
  index of the kind of question in `KINDS`. `boxes` float32 (N, 4), as fractions of
  the image, and `features` float32 (N, F) are those of the objects.
  """
  rng = drawing.generator(config.seed, split, index, SPLITS)
  kind = KINDS[rng.integers(len(KINDS))]
  while (found := asked(kind, *scene(rng), rng)) is None:
    pass
  colors_N, shapes_N, question, answer = found
  features_NF = features(colors_N, shapes_N)
  features_NF += rng.normal(0, config.noise, features_NF.shape)
  left_N = np.arange(OBJECTS) / OBJECTS
  top_N = np.zeros(OBJECTS)
  boxes_N4 = np.stack([left_N, top_N, left_N + 1 / OBJECTS, top_N + 1], axis=1)
  order = rng.permutation(OBJECTS)
  return {
    'question': question,
    'label': ANSWERS.index(answer),
    'kind': KINDS.index(kind),
    'boxes': boxes_N4[order].astype(np.float32),
    'features': features_NF[order].astype(np.float32),
    'id': index,
  }


def scene(rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
  """Returns the colours and the shapes of objects from left to right, int (N,) each."""
  return rng.integers(len(COLORS), size=OBJECTS), rng.integers(
    len(SHAPES), size=OBJECTS
  )


def features(colors_N: np.ndarray, shapes_N: np.ndarray) -> np.ndarray:
  """Returns the features of objects without noise (N, F): fixed random vectors."""
  rng = np.random.default_rng(0)
  half = WIDTH // 2
  color_table = rng.normal(0, 1, (len(COLORS), half))
  shape_table = rng.normal(0, 1, (len(SHAPES), half))
  return np.concatenate([color_table[colors_N], shape_table[shapes_N]], axis=1)


def asked(
  kind: str, colors_N: np.ndarray, shapes_N: np.ndarray, rng: np.random.Generator
) -> tuple[np.ndarray, np.ndarray, str, str] | None:
  """Returns a scene with a question of a kind and its answer.

  Returns None if the question would have no single answer.
  """
  place = int(rng.integers(OBJECTS))
  color, shape = int(colors_N[place]), int(shapes_N[place])
  same = (colors_N == color) & (shapes_N == shape)
  if kind == 'color':
    if (shapes_N == shape).sum() > 1:
      return None
    question, answer = f'what color is the {SHAPES[shape]}', COLORS[color]
  elif kind == 'shape':
    if (colors_N == color).sum() > 1:
      return None
    question = f'what shape is the {COLORS[color]} object'
    answer = SHAPES[shape]
  elif kind == 'left':
    if place == 0 or same.sum() > 1:
      return None
    question = f'what shape is left of the {COLORS[color]} {SHAPES[shape]}'
    answer = SHAPES[shapes_N[place - 1]]
  elif kind == 'count':
    color = int(rng.integers(len(COLORS)))
    answer = COUNTS[(colors_N == color).sum()]
    question = f'how many {COLORS[color]} objects is there'
  else:
    if rng.random() < 0.5:  # both words occur, but not in one object
      shape = int(shapes_N[rng.integers(OBJECTS)])
    there = ((colors_N == color) & (shapes_N == shape)).any()
    if there and rng.random() < 0.7:  # makes 'no' about as frequent as 'yes'
      return None
    question = f'is there a {COLORS[color]} {SHAPES[shape]}'
    answer = 'yes' if there else 'no'
  return colors_N, shapes_N, question, answer


class SceneQuestions(drawing.Pictures):
  """20,000 training and 1,000 validation questions, each about its own scene."""

  BUILDER_CONFIGS = [
    QuestionsConfig(name='scene_questions', description='Five objects in a row.')
  ]

  def _info(self) -> tfds.core.DatasetInfo:
    return self.described(
      'Questions about five objects with colours and shapes, as regions.',
      {
        'question': tfds.features.Text(),
        'label': tfds.features.ClassLabel(names=ANSWERS),
        'kind': tfds.features.ClassLabel(names=KINDS),
        'boxes': tfds.features.Tensor(shape=(OBJECTS, 4), dtype=np.float32),
        'features': tfds.features.Tensor(shape=(OBJECTS, WIDTH), dtype=np.float32),
      },
    )

  def _split_generators(self, dl_manager: Any) -> dict[str, drawing.Counted]:
    config = self.builder_config
    counts = dict(zip(SPLITS, config.counts, strict=True))
    return drawing.by_split(draw, config, counts)
