"""Published scenes of many objects with masks, as the TFDS data set `multi_object`.

Reads the files of github.com/google-deepmind/multi_object_datasets that Slot Attention
(arXiv 2006.15055) is trained on, without TensorFlow. Each data set is one TFRecord
file, compressed by gzip. Its examples store every byte of an image as a separate bytes
value.

Axes: H W image, C channels, E entities, the first of which is the background.
"""

import dataclasses
import gzip
import pathlib
import zlib
from collections.abc import Iterator
from typing import Any

import numpy as np
import tensorflow_datasets as tfds

from big_vision_like.data.procedural import drawing
from big_vision_like.data.sources import tfrecords
from big_vision_like.errors import BadRecordError, UserError
from big_vision_like.ops import crc32c

URL = 'https://storage.googleapis.com/multi-object-datasets'
SPLITS = ('train', 'test', 'validation')


def records(path: pathlib.Path) -> Iterator[bytes]:
  """Yields the records of a compressed TFRecord file in order, reading on demand.

  Raises `UserError` if the file is damaged or ends within a record.
  """
  position = 0
  try:
    with gzip.open(path) as file:
      while header := file.read(tfrecords.HEADER):
        length = int.from_bytes(header[:8], 'little')
        if crc32c.masked(header[:8]) != int.from_bytes(header[8:], 'little'):
          raise ValueError('its length is damaged')
        rest = file.read(length + tfrecords.FOOTER)
        yield tfrecords.payload(header + rest)
        position += 1
  except (ValueError, OSError, EOFError, zlib.error) as error:
    raise UserError(
      f'{path} is damaged or truncated at record {position:,}: download it again'
      f' ({error})'
    ) from error


def values(record: bytes) -> dict[str, np.ndarray]:
  """Returns the features of a tf.train.Example: float32 numbers, or uint8 bytes.

  Lists of bytes must have values of one byte each. This function does not use protobuf,
  which makes an object of each of the million values of a CLEVR scene: protobuf takes
  90 ms per scene, this function 1.4 ms.
  """
  found = {}
  for _, features in _fields(memoryview(record)):
    for _, entry in _fields(features):
      parts = dict(_fields(entry))
      ((kind, content),) = _fields(parts[2])
      found[bytes(parts[1]).decode()] = LISTS[kind](content)
  return found


def _fields(message: memoryview) -> Iterator[tuple[int, memoryview]]:
  """Yields number and content of each field of a proto with only messages and bytes."""
  position = 0
  while position < len(message):
    tag, position = _varint(message, position)
    length, position = _varint(message, position)
    if tag & 7 != 2 or position + length > len(message):
      raise ValueError('it is not a valid proto')
    yield tag >> 3, message[position : position + length]
    position += length


def _varint(message: memoryview, position: int) -> tuple[int, int]:
  """Returns a number stored in pieces of seven bits, and the position after it."""
  number, shift = 0, 0
  while position < len(message):
    byte = message[position]
    number, shift, position = number | (byte & 127) << shift, shift + 7, position + 1
    if byte < 128:
      return number, position
  raise ValueError('it is not a valid proto')


def _single_bytes(content: memoryview) -> np.ndarray:
  """Returns a BytesList of single bytes, uint8.

  Each value is stored as the tag of field 1, the length 1, and the byte.
  """
  if len(content) % 3:
    raise ValueError('its bytes are not single values')
  triples = np.frombuffer(content, np.uint8).reshape(-1, 3)
  if (triples[:, 0] != 10).any() or (triples[:, 1] != 1).any():
    raise ValueError('its bytes are not single values')
  return triples[:, 2]


def _floats(content: memoryview) -> np.ndarray:
  """Returns a FloatList, float32; its values are packed into one field."""
  return np.concatenate([np.frombuffer(part, '<f4') for _, part in _fields(content)])


# Readers of lists, by field number in tf.train.Feature.
LISTS = {1: _single_bytes, 2: _floats}


@dataclasses.dataclass
class MultiObjectConfig(tfds.core.BuilderConfig):
  """A published file and the layout of its examples.

  `file` is the path below `URL`. Images have the `shape` (H,W,C) and show up to
  `entities` entities. Masks are (E,H,W), or (H,W,E) with `masks_last`. `factors` names
  the float features of an entity with the number of values of each; `codes` names the
  features stored as single bytes. `counts` has the numbers of examples for training,
  from the start of the file, for the test, which follow, and for validation, after
  these. `max_objects` leaves out scenes with more objects; the first count then counts
  all scenes read.
  """

  file: str = ''
  shape: tuple[int, int, int] = (0, 0, 3)
  entities: int = 0
  masks_last: bool = False
  factors: tuple[tuple[str, int], ...] = ()
  codes: tuple[str, ...] = ()
  counts: tuple[int, int, int] = (60_000, 320, 320)
  max_objects: int | None = None

  @property
  def instructions(self) -> str:
    """Instructions for downloading the file."""
    return f'Download {URL}/{self.file} into this folder.'


TETROMINOES = MultiObjectConfig(
  name='tetrominoes',
  description='Three tetrominoes on black, 35x35.',
  file='tetrominoes/tetrominoes_train.tfrecords',
  shape=(35, 35, 3),
  entities=4,
  factors=(('x', 1), ('y', 1), ('shape', 1), ('color', 3)),
)
MULTI_DSPRITES = [
  MultiObjectConfig(
    name=f'multi_dsprites_{name}',
    description=f'Sprites that hide each other, 64x64, {name.replace("_", " ")}.',
    file=f'multi_dsprites/multi_dsprites_{name}.tfrecords',
    shape=(64, 64, channels),
    entities=entities,
    masks_last=True,
    factors=(
      ('x', 1),
      ('y', 1),
      ('shape', 1),
      ('color', channels),
      ('orientation', 1),
      ('scale', 1),
    ),
  )
  for name, entities, channels in (
    ('colored_on_grayscale', 6, 3),
    ('binarized', 4, 1),
    ('colored_on_colored', 5, 3),
  )
]
CLEVR = MultiObjectConfig(
  name='clevr_with_masks',
  description='Rendered cubes, spheres and cylinders, 240x320.',
  file='clevr_with_masks/clevr_with_masks_train.tfrecords',
  shape=(240, 320, 3),
  entities=11,
  factors=(('x', 1), ('y', 1), ('z', 1), ('pixel_coords', 3), ('rotation', 1)),
  codes=('color', 'material', 'shape', 'size'),
  counts=(70_000, 320, 320),
)
CLEVR6 = dataclasses.replace(
  CLEVR,
  name='clevr6_with_masks',
  description='The scenes of CLEVR with masks of at most six objects.',
  max_objects=6,
)


class MultiObject(drawing.Pictures):
  """Scenes with masks: `multi_object/tetrominoes`, `multi_object/clevr6_with_masks`...

  The training split has the first 60,000 examples of the file (70,000 for CLEVR), and
  the test split the 320 that follow, as in the paper; the next 320 are `validation`.
  `clevr6_with_masks` has the scenes of at most six objects among the first 70,000, then
  the next 320 such scenes for the test, and 320 for validation.

  Examples have `image` (H,W,C), `segmentation` (H,W,1), both uint8, `objects` and `id`,
  the position in the file. The segmentation is 0 for the background and i + 1 for the
  visible part of `objects[i]`. Fields of objects have the names and numbers of the
  file. For CLEVR, the names are those of TFDS's `clevr`, and x, y and z are
  `3d_coords`. The mapping from numbers to colors, materials, shapes and sizes is not
  published.
  """

  BUILDER_CONFIGS = [TETROMINOES, *MULTI_DSPRITES, CLEVR, CLEVR6]

  @property
  def MANUAL_DOWNLOAD_INSTRUCTIONS(self) -> str:  # noqa: N802 - a name of TFDS
    """The instructions that TFDS prints if the manual download folder has no files."""
    return self.builder_config.instructions

  def _info(self) -> tfds.core.DatasetInfo:
    config = self.builder_config
    height, width, channels = config.shape
    factors = dict(config.factors)
    if 'z' in factors:
      factors = {name: n for name, n in factors.items() if name not in ('x', 'y', 'z')}
      factors['3d_coords'] = 3
    objects = {
      name: np.float32
      if size == 1
      else tfds.features.Tensor(shape=(size,), dtype=np.float32)
      for name, size in factors.items()
    }
    objects |= {name: np.int64 for name in config.codes}
    return self.described(
      'Scenes of several objects, with a segmentation of their pixels.',
      {
        'image': drawing.picture(height, width, channels),
        'segmentation': drawing.picture(height, width, 1),
        'objects': tfds.features.Sequence(objects),
      },
      homepage='https://github.com/google-deepmind/multi_object_datasets',
    )

  def _split_generators(self, dl_manager: Any) -> dict[str, drawing.Counted]:
    config = self.builder_config
    try:
      folder = pathlib.Path(dl_manager.manual_dir)
    except AssertionError as error:  # missing or empty
      raise UserError(' '.join(str(error).split())) from error
    path = folder / pathlib.Path(config.file).name
    if not path.exists():
      raise UserError(f'There is no {path}. {config.instructions}')
    # TFDS writes one split after the other, so the file is read only once.
    stream = enumerate(records(path))
    return {
      split: drawing.Counted(self._generate_examples(stream, split, path), count)
      for split, count in zip(SPLITS, config.counts, strict=True)
    }

  def _generate_examples(
    self, stream: Iterator[tuple[int, bytes]], split: str, path: pathlib.Path
  ) -> Iterator[drawing.Example]:
    config = self.builder_config
    count, taken = config.counts[SPLITS.index(split)], 0
    while taken < count:
      position, record = next(stream, (None, b''))
      if position is None:
        raise UserError(
          f'{path} ends before {split} has its {count:,} examples: download it again'
        )
      example = parsed(record, config, f'record {position:,} of {path}')
      fits = config.max_objects is None or len(example['objects']) <= config.max_objects
      if fits:
        yield position, {**drawing.encoded(example), 'id': position}
      # For training, scenes that are left out count too.
      taken += fits or split == 'train'


def parsed(record: bytes, config: MultiObjectConfig, name: str) -> dict[str, Any]:
  """Returns `image`, `segmentation` and `objects`; `name` is for error messages."""
  try:
    found = values(record)
    image_HWC = found['image'].reshape(config.shape)
    ids_HW = _masks(found['mask'], config).argmax(axis=0)
    seen_E = found['visibility'].reshape(config.entities) > 0
    factors = {
      key: found[key].reshape(config.entities, size) for key, size in config.factors
    }
    codes = {key: found[key].reshape(config.entities) for key in config.codes}
  except (KeyError, ValueError) as error:
    raise BadRecordError(f'{name} is not as published: {error}') from error
  seen_E[0] = False
  if 'z' in factors:
    xyz = [factors.pop(key) for key in ('x', 'y', 'z')]
    factors['3d_coords'] = np.concatenate(xyz, axis=1)
  objects = [
    {key: v[e] if v.shape[1] > 1 else float(v[e, 0]) for key, v in factors.items()}
    | {key: int(v[e]) for key, v in codes.items()}
    for e in np.flatnonzero(seen_E)
  ]
  # Absent entities get the number 0.
  numbers_E = (np.cumsum(seen_E) * seen_E).astype(np.uint8)
  return {
    'image': image_HWC,
    'segmentation': numbers_E[ids_HW][:, :, None],
    'objects': objects,
  }


def _masks(mask: np.ndarray, config: MultiObjectConfig) -> np.ndarray:
  """Returns masks as (E,H,W)."""
  height, width, _ = config.shape
  if config.masks_last:
    return mask.reshape(height, width, config.entities).transpose(2, 0, 1)
  return mask.reshape(config.entities, height, width)
