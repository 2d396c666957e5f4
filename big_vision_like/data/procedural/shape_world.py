"""Tasks about pictures of coloured shapes, as the TFDS data set `shape_world`.

A picture has one to four shapes apart from each other, of three kinds and four colours,
on 32x32 pixels. The variants are tasks that share words and pictures:

- `objects`: boxes, with the class of the pair of colour and shape, and both by itself
- `questions`: the number of shapes of a colour, or the colour of a shape
- `statements`: whether a statement about the picture is true, false or undecided
- `paraphrases`: whether two sentences say the same
- `sentences`: whether a sentence is well-formed

Statements are undecided if they are about the size of a shape that the picture lacks.

Axes: H W image, C channels.
"""

import dataclasses
from collections.abc import Sequence
from typing import Any

import numpy as np
import tensorflow_datasets as tfds

from big_vision_like.data.procedural import drawing, scenes

SPLITS = ('train', 'validation')
SIDE = 32
COLORS = {
  'red': (0.95, 0.2, 0.15),
  'green': (0.2, 0.8, 0.25),
  'blue': (0.2, 0.35, 0.95),
  'yellow': (0.95, 0.9, 0.2),
}
SHAPES = scenes.SIMPLE
CLASSES = tuple(f'{color} {shape}' for color in COLORS for shape in SHAPES)
MOST, SIZES = 4, (8, 12)
NUMBERS = ('zero', 'one', 'two', 'three', 'four')
# The number of shapes of a colour, or a colour.
ANSWERS = (*NUMBERS, *COLORS)
TRUTHS = ('false', 'undecided', 'true')
TASKS = ('objects', 'questions', 'statements', 'paraphrases', 'sentences')
WORDS = (
  *COLORS,
  *SHAPES,
  *NUMBERS,
  *'how many what color is the a there no small large and of left right it'.split(),
)


@dataclasses.dataclass
class ShapeWorldConfig(tfds.core.BuilderConfig):
  """The task, and the number of examples of each split."""

  task: str = 'objects'
  counts: tuple[int, int] = (20_000, 1_000)
  seed: int = 0


@dataclasses.dataclass(frozen=True)
class Shape:
  """A shape of a picture; `color` and `kind` are indices, `side` is in pixels."""

  color: int
  kind: int
  top: int
  left: int
  side: int

  @property
  def words(self) -> str:
    return CLASSES[self.color * len(SHAPES) + self.kind]


def draw(config: ShapeWorldConfig, split: str, index: int) -> dict[str, Any]:
  """Draws example `index` of a split, with the features of its task."""
  rng = drawing.generator(config.seed, split, index, SPLITS)
  example = {'id': index, 'image': None}
  if config.task == 'paraphrases':
    first, second, label = paraphrase(rng)
    example |= {'sentence1': first, 'sentence2': second, 'label': label}
  elif config.task == 'sentences':
    text, label = sentence(rng)
    example |= {'sentence': text, 'label': label}
  else:
    shapes = placed(rng)
    example['image'] = picture(shapes, rng)
    if config.task == 'questions':
      text, answer = question(shapes, rng)
      example |= {'question': text, 'label': ANSWERS.index(answer)}
    elif config.task == 'statements':
      text, truth = statement(shapes, rng)
      example |= {'sentence': text, 'label': TRUTHS.index(truth)}
    else:
      example['objects'] = [entry(number, x) for number, x in enumerate(shapes)]
  return {name: value for name, value in example.items() if value is not None}


def placed(rng: np.random.Generator) -> list[Shape]:
  """Returns shapes that do not touch each other."""
  count = int(rng.integers(1, MOST, endpoint=True))
  while True:
    found, taken_HW = [], np.zeros((SIDE, SIDE), bool)
    for _ in range(count):
      side = int(rng.integers(*SIZES, endpoint=True))
      top, left = (int(x) for x in rng.integers(SIDE - side + 1, size=2))
      box = slice(top, top + side), slice(left, left + side)
      if taken_HW[box].any():
        break
      taken_HW[box] = True
      color, kind = (int(rng.integers(n)) for n in (len(COLORS), len(SHAPES)))
      found.append(Shape(color, kind, top, left, side))
    if len(found) == count:
      return found


def picture(shapes: Sequence[Shape], rng: np.random.Generator) -> np.ndarray:
  """Returns shapes on dark noise, uint8 (H, W, C)."""
  image_HWC = rng.uniform(0, 0.15, (SIDE, SIDE, 3))
  for x in shapes:
    y, z = (place + x.side / 2 for place in (x.top, x.left))
    mask_HW = scenes.shape(SHAPES[x.kind], SIDE, SIDE, y, z, x.side, 0.0)
    image_HWC[mask_HW] = list(COLORS.values())[x.color]
  return (image_HWC * 255).round().astype(np.uint8)


def entry(number: int, shape: Shape) -> dict[str, Any]:
  """Returns a shape as an object in TFDS's form; `label` is its class in `CLASSES`."""
  bottom, right = shape.top + shape.side, shape.left + shape.side
  return {
    'id': number,
    'area': shape.side**2,
    'bbox': (shape.top / SIDE, shape.left / SIDE, bottom / SIDE, right / SIDE),
    'label': shape.color * len(SHAPES) + shape.kind,
    'shape': shape.kind,
    'color': shape.color,
    'is_crowd': False,
  }


def question(shapes: Sequence[Shape], rng: np.random.Generator) -> tuple[str, str]:
  """Returns a question with its answer: a number of shapes, or a colour."""
  kinds = [x.kind for x in shapes]
  single = [x for x in shapes if kinds.count(x.kind) == 1]
  if single and rng.random() < 0.5:
    chosen = single[int(rng.integers(len(single)))]
    return f'what color is the {SHAPES[chosen.kind]}', list(COLORS)[chosen.color]
  # Mostly about a colour in the picture, so that zero is not the usual answer.
  color = int(rng.integers(len(COLORS)))
  if rng.random() < 0.75:
    color = shapes[int(rng.integers(len(shapes)))].color
  count = sum(x.color == color for x in shapes)
  return f'how many {list(COLORS)[color]}', NUMBERS[count]


def statement(shapes: Sequence[Shape], rng: np.random.Generator) -> tuple[str, str]:
  """Returns a statement about a picture, and whether it is true."""
  truth = TRUTHS[int(rng.integers(3))]
  there = {x.words for x in shapes}
  absent = sorted({*CLASSES} - there)
  other = absent[int(rng.integers(len(absent)))]
  if truth == 'undecided':
    return f'the {other} is {("small", "large")[int(rng.integers(2))]}', truth
  words = sorted(there)[int(rng.integers(len(there)))]
  positive = rng.random() < 0.5
  if truth == 'true':
    return (
      (f'there is a {words}', truth)
      if positive
      else (
        f'there is no {other}',
        truth,
      )
    )
  return (f'there is a {other}', truth) if positive else (f'there is no {words}', truth)


def paraphrase(rng: np.random.Generator) -> tuple[str, str, int]:
  """Returns two sentences about a shape, and 1 if they say the same, else 0."""
  first, label = int(rng.integers(len(CLASSES))), int(rng.integers(2))
  second = first
  if not label:
    second = (first + int(rng.integers(1, len(CLASSES)))) % len(CLASSES)
  return _said(first, rng), _said(second, rng), label


def _said(number: int, rng: np.random.Generator) -> str:
  """Returns one of three ways to say that there is a shape of a class."""
  forms = ('there is a {0} {1}', 'there is a {1} and it is {0}', 'the {1} is {0}')
  return forms[int(rng.integers(len(forms)))].format(*CLASSES[number].split())


def sentence(rng: np.random.Generator) -> tuple[str, int]:
  """Returns a sentence, and 1 if it is well-formed, or 0 if two words are swapped."""
  first, second = (CLASSES[i] for i in rng.choice(len(CLASSES), 2, replace=False))
  side = ('left', 'right')[int(rng.integers(2))]
  forms = (
    f'the {first} is {side} of the {second}',
    f'there is a {first} and a {second}',
    f'what color is the {first.split()[1]}',
  )
  words = forms[int(rng.integers(len(forms)))].split()
  label = int(rng.integers(2))
  if not label:
    kinds = [_kind(word) for word in words]
    while True:
      i, k = rng.choice(len(words), 2, replace=False)
      if kinds[i] != kinds[k]:
        break
    words[i], words[k] = words[k], words[i]
  return ' '.join(words), label


def _kind(word: str) -> str:
  """Returns the kind of a word: words of one kind may change places."""
  if word in COLORS:
    return 'color'
  if word in SHAPES:
    return 'shape'
  return word


class ShapeWorld(drawing.Pictures):
  """20,000 training and 1,000 validation examples of each task."""

  VERSION = tfds.core.Version('1.1.0')
  RELEASE_NOTES = {
    '1.0.0': 'First release.',
    '1.1.0': 'Paraphrases name each color and shape once; any two classes differ.',
  }
  BUILDER_CONFIGS = [
    ShapeWorldConfig(name=task, task=task, description=f'The task {task}.')
    for task in TASKS
  ]
  DEFAULT_BUILDER_CONFIG_NAME = 'objects'

  def _info(self) -> tfds.core.DatasetInfo:
    image = {'image': drawing.picture(SIDE, SIDE, 3)}
    text, label = tfds.features.Text(), tfds.features.ClassLabel
    objects = tfds.features.Sequence(
      {
        'id': np.int64,
        'area': np.int64,
        'bbox': tfds.features.BBoxFeature(),
        'label': label(names=CLASSES),
        'shape': label(names=SHAPES),
        'color': label(names=[*COLORS]),
        'is_crowd': np.bool_,
      }
    )
    features = {
      'objects': image | {'objects': objects},
      'questions': image | {'question': text, 'label': label(names=ANSWERS)},
      'statements': image | {'sentence': text, 'label': label(names=TRUTHS)},
      'paraphrases': {
        'sentence1': text,
        'sentence2': text,
        'label': label(names=('different', 'same')),
      },
      'sentences': {'sentence': text, 'label': label(names=('wrong', 'right'))},
    }
    return self.described(
      'Tasks about pictures of coloured shapes.', features[self.builder_config.task]
    )

  def _split_generators(self, dl_manager: Any) -> dict[str, drawing.Counted]:
    config = self.builder_config
    counts = dict(zip(SPLITS, config.counts, strict=True))
    return drawing.by_split(_encoded, config, counts)


def _encoded(config: ShapeWorldConfig, split: str, index: int) -> dict[str, Any]:
  """Draws example `index` in TFDS's form, with its image as PNG."""
  example = draw(config, split, index)
  if 'image' in example:
    example['image'] = drawing.png(example['image'])
  if 'objects' in example:
    example['objects'] = [
      shape | {'bbox': tfds.features.BBox(*shape['bbox'])}
      for shape in example['objects']
    ]
  return example
