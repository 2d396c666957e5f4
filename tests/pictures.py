"""Twenty tiny labelled images, and writers for every format that the package reads."""

import io
import json
import os
import pathlib
import struct
import tarfile
from collections.abc import Sequence
from typing import Any

import cv2
import numpy as np
import simplejpeg
import tensorflow_datasets as tfds

from big_vision_like.ops import crc32c

NAMES = ['ape', 'bee', 'cat']
FEATURES = tfds.features.FeaturesDict(
  {
    'image': tfds.features.Image(),
    'label': tfds.features.ClassLabel(names=NAMES),
    'id': np.int64,
  }
)


def _image(index: int) -> bytes:
  rng = np.random.default_rng(index)
  pixels = rng.integers(0, 256, (9 + index % 3, 12, 3)).astype(np.uint8)
  if index % 3 == 0:
    return cv2.imencode('.png', pixels)[1].tobytes()
  if index % 3 == 1:
    return cv2.imencode('.webp', pixels)[1].tobytes()
  return simplejpeg.encode_jpeg(pixels)


def suffix(index: int) -> str:
  """Returns the suffix of files of the image at an index."""
  return ('png', 'webp', 'jpg')[index % 3]


# Sorted by class, like folders.
EXAMPLES = [{'image': _image(i), 'label': i * 3 // 20, 'id': i} for i in range(20)]
RECORDS = [FEATURES.serialize_example(example) for example in EXAMPLES]


def tfrecord(data: bytes) -> bytes:
  """Returns a record of a TFRecord file."""
  length = struct.pack('<Q', len(data))
  checksums = [struct.pack('<I', crc32c.masked(part)) for part in (length, data)]
  return length + checksums[0] + data + checksums[1]


def write_tfrecords(folder: pathlib.Path, name: str = 'a') -> list[pathlib.Path]:
  """Writes three files of 7, 7 and 6 records."""
  files = [folder / f'{name}.tfrecord-{i:05d}-of-00003' for i in range(3)]
  for i, file in enumerate(files):
    file.write_bytes(b''.join(map(tfrecord, RECORDS[i * 7 : i * 7 + 7])))
  return files


def write_array_records(folder: pathlib.Path, name: str = 'a') -> list[pathlib.Path]:
  """Writes three files of 7, 7 and 6 records."""
  from array_record.python import array_record_module

  files = [folder / f'{name}.array_record-{i:05d}-of-00003' for i in range(3)]
  for i, file in enumerate(files):
    writer = array_record_module.ArrayRecordWriter(str(file), 'group_size:1')
    for record in RECORDS[i * 7 : i * 7 + 7]:
      writer.write(record)
    writer.close()
  return files


def write_tfds(
  root: pathlib.Path, file_format: str, name: str = 'tiny'
) -> list[pathlib.Path]:
  """Writes a data set `tiny` in the format of TFDS, split train, without a builder."""
  folder = root / name / '1.0.0'
  folder.mkdir(parents=True)
  write = {'tfrecord': write_tfrecords, 'array_record': write_array_records}
  files = write[file_format](folder, f'{name}-train')
  identity = tfds.core.dataset_info.DatasetIdentity(
    name=name, version=tfds.core.Version('1.0.0'), data_dir=str(folder), module_name=''
  )
  info = tfds.core.DatasetInfo(builder=identity, features=FEATURES)
  info.set_file_format(file_format)
  template = tfds.core.ShardedFileTemplate(
    data_dir=str(folder), dataset_name=name, split='train', filetype_suffix=file_format
  )
  split = tfds.core.SplitInfo(
    name='train', shard_lengths=[7, 7, 6], num_bytes=1, filename_template=template
  )
  info.set_splits(tfds.core.SplitDict([split]))
  info.write_to_directory(str(folder))
  return files


def write_folders(folder: pathlib.Path) -> pathlib.Path:
  """Writes a folder for each class."""
  for example in EXAMPLES:
    place = folder / NAMES[example['label']]
    place.mkdir(exist_ok=True)
    file = place / f'{example["id"]:02d}.{suffix(example["id"])}'
    file.write_bytes(example['image'])
  return folder


def write_classes(
  folder: pathlib.Path,
  names: Sequence[str],
  count: int = 3,
  size: tuple[int, int] = (8, 8),
) -> str:
  """Writes a folder for each class, with `count` pictures of a single colour."""
  for number, name in enumerate(names):
    (folder / name).mkdir(parents=True, exist_ok=True)
    for i in range(count):
      pixels = np.full((*size, 3), 60 * number + i, np.uint8)
      cv2.imwrite(str(folder / name / f'{i}.png'), pixels)
  return str(folder)


def write_tars(folder: pathlib.Path, **options) -> list[pathlib.Path]:
  """Writes two files of 10 examples: image, class and JSON."""
  files = [folder / f'a-{i:03d}.tar' for i in range(2)]
  for i, file in enumerate(files):
    with tarfile.open(file, 'w', **options) as tar:
      for example in EXAMPLES[i * 10 : i * 10 + 10]:
        parts = {
          suffix(example['id']): example['image'],
          'cls': str(example['label']).encode(),
          'json': json.dumps({'id': example['id'], 'caption': 'é'}).encode(),
        }
        for end, data in parts.items():
          add(tar, f'some/{example["id"]:04d}.{end}', data)
  return files


def add(tar: tarfile.TarFile, name: str, data: bytes = b'', **fields: Any) -> None:
  """Adds a member with these fields to a tar file."""
  member = tarfile.TarInfo(name)
  for field, value in {'size': len(data), **fields}.items():
    setattr(member, field, value)
  tar.addfile(member, io.BytesIO(data))


def write_parquet(
  folder: pathlib.Path, rows: int = 4, names: list[str] = NAMES
) -> list[pathlib.Path]:
  """Writes two files of 10 rows in groups of `rows`, described as Hugging Face does."""
  import pyarrow
  import pyarrow.parquet

  image = pyarrow.struct({'bytes': pyarrow.binary(), 'path': pyarrow.string()})
  described = {
    'image': {'_type': 'Image'},
    'label': {'names': names, '_type': 'ClassLabel'},
    'id': {'dtype': 'int64', '_type': 'Value'},
  }
  schema = pyarrow.schema(
    {'image': image, 'label': pyarrow.int64(), 'id': pyarrow.int64()},
    metadata={'huggingface': json.dumps({'info': {'features': described}})},
  )
  files = [folder / f'train-{i:05d}-of-00002.parquet' for i in range(2)]
  for i, file in enumerate(files):
    examples = [
      e | {'image': {'bytes': e['image'], 'path': None}}
      for e in EXAMPLES[i * 10 : i * 10 + 10]
    ]
    table = pyarrow.Table.from_pylist(examples, schema)
    pyarrow.parquet.write_table(table, os.fspath(file), row_group_size=rows)
  return files
