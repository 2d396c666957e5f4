"""Damaged and missing shards of data sets."""

import functools
import io
import pathlib
import tarfile
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np

from big_vision_like.data.sources import (
  array_records,
  folders,
  parquet,
  tars,
  tfrecords,
)
from big_vision_like.errors import UserError
from big_vision_like.ops import crc32c
from tools.faults import common

SHARDS, EACH = 3, 4


def pictures() -> Iterator[tuple[bytes, int]]:
  """Yields small PNGs and their labels."""
  from PIL import Image

  rng = np.random.default_rng(0)
  for i in range(SHARDS * EACH):
    content = io.BytesIO()
    Image.fromarray(rng.integers(0, 256, (6, 7, 3), np.uint8)).save(content, 'PNG')
    yield content.getvalue(), i % 3


def parts(folder: pathlib.Path) -> Iterator[tuple[pathlib.Path, list]]:
  """Yields the path of each shard, without suffix, and its examples."""
  examples = list(pictures())
  for i in range(SHARDS):
    name = f'data-{i:05}-of-{SHARDS:05}'
    yield folder / name, examples[i * EACH : (i + 1) * EACH]


def records(examples: Sequence[tuple[bytes, int]]) -> list[bytes]:
  """Returns tf.train.Example protos."""
  import tensorflow_datasets as tfds

  features = {'image': tfds.features.Image(), 'label': tfds.features.Scalar(np.int64)}
  encode = tfds.features.FeaturesDict(features).serialize_example
  return [encode({'image': image, 'label': label}) for image, label in examples]


def write_tars(folder: pathlib.Path) -> None:
  """Writes tar files."""
  for path, examples in parts(folder):
    with tarfile.open(f'{path}.tar', 'w') as archive:
      for i, (image, label) in enumerate(examples):
        for suffix, content in ('png', image), ('cls', str(label).encode()):
          member = tarfile.TarInfo(f'{path.name[5:10]}{i}.{suffix}')
          member.size = len(content)
          archive.addfile(member, io.BytesIO(content))


def write_parquet(folder: pathlib.Path) -> None:
  """Writes Parquet files."""
  import pyarrow
  from pyarrow import parquet as writer

  for path, examples in parts(folder):
    images, labels = zip(*examples, strict=True)
    table = pyarrow.table({'image': list(images), 'label': list(labels)})
    writer.write_table(table, f'{path}.parquet', write_page_checksum=True)


def write_tfrecords(folder: pathlib.Path) -> None:
  """Writes TFRecord files."""

  def masked(content: bytes) -> bytes:
    return crc32c.masked(content).to_bytes(4, 'little')

  for path, examples in parts(folder):
    content = b''
    for record in records(examples):
      size = len(record).to_bytes(8, 'little')
      content += size + masked(size) + record + masked(record)
    path.with_name(f'{path.name}.tfrecord').write_bytes(content)


def write_array_records(folder: pathlib.Path) -> None:
  """Writes array_record files."""
  from array_record.python import array_record_module

  for path, examples in parts(folder):
    file = f'{path}.array_record'
    writer = array_record_module.ArrayRecordWriter(file, 'group_size:1')
    for record in records(examples):
      writer.write(record)
    writer.close()


def write_folder(folder: pathlib.Path) -> None:
  """Writes a folder for each class."""
  for i, (image, label) in enumerate(pictures()):
    path = folder / f'class_{label}' / f'{i}.png'
    path.parent.mkdir(exist_ok=True)
    path.write_bytes(image)


def read(source: Callable[[str], Any], pattern: str, folder: pathlib.Path) -> Any:
  """Reads all examples, or raises the first problem of the source."""
  found = source(str(folder / pattern))
  if problems := found.problems():
    raise UserError(problems[0])
  return list(found)


# Name: function that writes it, source, files, and whether it detects other values.
FORMS = {
  'tar': (write_tars, tars.Tars, '*.tar', False),
  'Parquet': (write_parquet, parquet.Parquet, '*.parquet', True),
  'TFRecord': (write_tfrecords, tfrecords.TFRecord, '*.tfrecord', True),
  'array_record': (write_array_records, array_records.ArrayRecord, '*_record', True),
  'folder': (write_folder, folders.Folder, '', False),
}
KINDS = tuple(
  common.Kind(
    f'shards, {name}',
    write,
    common.any_file(*common.BYTES, common.delete),
    functools.partial(read, source, pattern),
    checked,
  )
  for name, (write, source, pattern, checked) in FORMS.items()
)
