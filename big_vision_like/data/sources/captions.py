"""A source of images with several captions each, in the split files of Karpathy.

Such a file (dataset_coco.json, dataset_flickr8k.json, dataset_flickr30k.json) lists
`images` with `filename`, an optional `filepath`, `split` and `sentences`, which have
`raw` text and `tokens`.
"""

import dataclasses
import functools
import os
from collections import Counter
from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np
import simplejpeg

from big_vision_like import files
from big_vision_like.data.sources import fake, shards
from big_vision_like.data.sources.base import Example, Source, digest
from big_vision_like.data.text import words
from big_vision_like.errors import BadRecordError, UserError, check_one_of, listed
from big_vision_like.spec import spec

EACH = ('image', 'caption')
TEXTS = ('tokens', 'raw')
FIELDS = {'filename': str, 'split': str, 'sentences': list}


class Row(NamedTuple):
  """An example: the image's path below the folder of images, its id and its texts."""

  name: str
  id: int
  captions: tuple[str, ...]


@dataclasses.dataclass(frozen=True)
class Captions(Source):
  """Images with captions from a split file and a folder of images.

  Examples have `image`, encoded, `captions`, an array of texts in UTF-8, and `id`, the
  `cocoid` or `imgid` of the image. `split` may join parts, as 'train+restval'. With
  each='caption', every caption is an example of its own, for training. `text` selects
  the `tokens` of the file, separated by spaces, or the `raw` text, which published
  evaluations read. `left_out` counts captions without words and those of more than
  `max_words` words, and images that have no others. `examples` is their
  number, for plans made before the data are available.
  """

  file: str
  images: str
  split: str = 'train'
  each: str = 'image'
  text: str = 'tokens'
  max_words: int | None = None
  examples: int | None = None

  def __post_init__(self) -> None:
    check_one_of(EACH, each=self.each)
    check_one_of(TEXTS, text=self.text)

  @staticmethod
  def stand_in(node: Mapping[str, Any]) -> Mapping[str, Any]:
    """Returns the recorded call of a source that needs no files, for trials."""
    del node
    return spec(MadeUp, **MadeUp.tiny)

  @functools.cached_property
  def _found(self) -> tuple[list[Row], dict[str, int]]:
    """The examples, and the number of unused captions and images by kind."""
    rows: list[Row] = []
    left_out: Counter[str] = Counter()
    parts, there = self.split.split('+'), Counter()
    for entry in read(self.file):
      there[entry['split']] += 1
      if entry['split'] not in parts:
        continue
      texts = [text_of(sentence, self.text) for sentence in entry['sentences']]
      kept = [text for text in texts if self._fits(text, left_out)]
      if not kept:
        left_out['images without captions'] += 1
        continue
      name = os.path.join(entry.get('filepath', ''), entry['filename'])
      image = entry.get('cocoid', entry.get('imgid', len(rows)))
      if self.each == 'image':
        rows.append(Row(name, image, tuple(kept)))
      else:
        rows += [Row(name, image, (text,)) for text in kept]
    for part in parts:
      if part not in there:
        raise UserError(
          f'{self.file} has no images of the split {part!r}; it has'
          f' {listed(f"{name} ({n:,})" for name, n in there.items())}'
        )
    if not rows:
      raise UserError(f'{self.file}: no image of {self.split!r} has a caption')
    return rows, dict(left_out)

  def _fits(self, text: str, left_out: Counter[str]) -> bool:
    """Returns whether a caption is used; counts it under its kind if not."""
    count = len(words.split_words(text))
    if not count:
      left_out['captions without words'] += 1
    elif self.max_words is not None and count > self.max_words:
      left_out[f'captions of more than {self.max_words} words'] += 1
    else:
      return True
    return False

  @property
  def rows(self) -> list[Row]:
    """All examples without their images, in the order of the file."""
    return self._found[0]

  @property
  def left_out(self) -> dict[str, int]:
    """The number of unused captions and images, by kind."""
    return self._found[1]

  @functools.cached_property
  def features(self) -> Any:
    """TFDS features of an example."""
    return captioned_features()

  def _path(self, name: str) -> str:
    return os.path.join(os.path.expanduser(self.images), name)

  @property
  def files(self) -> list[str]:
    """The path of the split file."""
    return [os.path.expanduser(self.file)]

  @property
  def title(self) -> str:
    """The name of the split file."""
    return shards.title(self, self.file)

  def fingerprint(self) -> str:
    """Returns a digest of all names and captions in order."""
    return digest('Captions', [[row.name, *row.captions] for row in self.rows])

  def planned(self) -> Source:
    """Returns this source, or a stand-in for planning if its files are missing."""
    there = os.path.isfile(self.files[0]) and os.path.isdir(self._path(''))
    return self if there else MadeUp(self.examples)

  def __len__(self) -> int:
    return len(self.rows)

  def __getitem__(self, index: int) -> Example:
    if not 0 <= index < len(self):
      raise IndexError(f'example {index} of {len(self)}')
    row = self.rows[index]
    try:
      with open(self._path(row.name), 'rb') as opened:
        image = opened.read()
    except OSError as error:
      raise BadRecordError(f'{error.filename} cannot be read: {error.strerror}') from (
        error
      )
    return {'image': image, 'captions': encoded(row.captions), 'id': np.int64(row.id)}

  def problems(self) -> list[str]:
    """Returns why the files cannot be used, or an empty list."""
    try:
      first = self._path(self.rows[0].name)
    except UserError as error:
      return [str(error)]
    if not os.path.isfile(first):
      return [
        f'{self.file} names the image {first}, which does not exist: correct `images`,'
        f' the folder of {self.rows[0].name}'
      ]
    return []

  def __getstate__(self) -> dict[str, Any]:
    # Workers receive the examples; they make `features` again.
    return {k: v for k, v in self.__dict__.items() if k != 'features'}


def read(path: str) -> list[dict[str, Any]]:
  """Returns the entries of a split file; a `UserError` names a wrong one."""
  content = files.read_fields(os.path.expanduser(path))
  entries = content.get('images')
  if not isinstance(entries, list):
    raise UserError(
      f"{path} has no list 'images', but {listed(content) or 'no fields'}: it is not a"
      ' split file such as dataset_coco.json'
    )
  for number, entry in enumerate(entries):
    for name, kind in FIELDS.items():
      value = entry.get(name) if isinstance(entry, dict) else None
      if not isinstance(value, kind):
        raise UserError(
          f'{path}: images[{number}] has no {name!r}, or it is not a {kind.__name__}'
        )
  return entries


def text_of(sentence: Any, kind: str) -> str:
  """Returns the text of a sentence of a split file; '' if it has none."""
  value = sentence.get(kind) if isinstance(sentence, dict) else None
  if kind == 'tokens' and isinstance(value, list):
    return ' '.join(map(str, value))
  return value if isinstance(value, str) else ''


def encoded(captions: tuple[str, ...]) -> np.ndarray:
  """Returns texts as TFDS returns them, an array of UTF-8."""
  return np.array([text.encode() for text in captions], object)


def captioned_features() -> Any:
  """Returns the TFDS features of images with captions."""
  import tensorflow_datasets as tfds

  return tfds.features.FeaturesDict(
    {
      'image': tfds.features.Image(shape=(None, None, 3)),
      'captions': tfds.features.Sequence(tfds.features.Text()),
      'id': np.int64,
    }
  )


@dataclasses.dataclass(frozen=True)
class MadeUp(Source):
  """Made-up photographs with captions, in place of missing ones: for plans.

  As there may be no vocabulary, they have ids of words too, `target`.
  """

  examples: int | None
  size: tuple[int, int] = (480, 640)

  tiny = dict(examples=20, size=(72, 96))

  def __len__(self) -> int:
    if self.examples is None:
      raise UserError(
        'the data are not there: give the number of examples with'
        ' --config.train_data.source.examples=N'
      )
    return self.examples

  @property
  def features(self) -> Any:
    """TFDS features of an example."""
    return captioned_features()

  def __getitem__(self, index: int) -> Example:
    if not 0 <= index < len(self):
      raise IndexError(f'example {index} of {len(self)}')
    rng = np.random.default_rng(index)
    texts = [
      ' '.join(rng.choice(fake.WORDS, size=rng.integers(3, 6))) for _ in range(2)
    ]
    image = _picture(tuple(self.size), index % 8)
    return {
      'image': image,
      'captions': encoded(tuple(texts)),
      'target': np.array([4, 5, 6], np.int32),
      'id': index,
    }


@functools.cache
def _picture(size: tuple[int, int], seed: int) -> bytes:
  """Returns a JPEG of coloured patches."""
  rng = np.random.default_rng(seed)
  image_HWC = np.kron(
    rng.integers(0, 256, (6, 8, 3)), np.ones((size[0] // 6, size[1] // 8, 1), int)
  )
  return simplejpeg.encode_jpeg(image_HWC.astype(np.uint8), quality=90)
