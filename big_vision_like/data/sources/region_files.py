"""Region features as others have published them, for tools/convert_regions.py.

Bottom-up attention (arXiv:1707.07998) writes tab-separated lines without a header, with
arrays as base64 of little-endian float32. Other programs write an .npz for each image.

Axes: N regions, F features, K classes; 4 is left, top, right, bottom.
"""

import base64
import binascii
import dataclasses
import functools
import os
import pathlib
import zipfile
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from big_vision_like.data.sources import region_features, shards
from big_vision_like.data.sources.base import Source, digest
from big_vision_like.errors import BadRecordError, UserError, listed, plural

Example = dict[str, Any]

# The columns of tab-separated files, by their number.
COLUMNS = {
  6: ('image_id', 'image_w', 'image_h', 'num_boxes', 'boxes', 'features'),
  # with the class distributions that ViLBERT (arXiv:1908.02265) is trained on
  7: ('image_id', 'image_w', 'image_h', 'num_boxes', 'boxes', 'features', 'cls_prob'),
  # LXMERT (arXiv:1908.07490)
  10: (
    *('image_id', 'image_h', 'image_w', 'objects_id', 'objects_conf', 'attrs_id'),
    *('attrs_conf', 'num_boxes', 'boxes', 'features'),
  ),
}
# The names that programs give to the same arrays of an .npz.
NAMES = {
  'boxes': ('boxes', 'bbox', 'bboxes'),
  'features': ('features', 'x', 'feat'),
  'classes': ('classes', 'cls_prob'),
  'height': ('image_h', 'height', 'image_height'),
  'width': ('image_w', 'width', 'image_width'),
}
OPTIONAL = ('classes',)


@dataclasses.dataclass(frozen=True)
class Tsv(Source):
  """The lines of tab-separated files, one per image; `pattern` as in `shards.found`.

  The number of columns tells which of `COLUMNS` a file has.
  """

  pattern: shards.Pattern

  @functools.cached_property
  def files(self) -> list[str]:
    """The paths of the files, in order."""
    return shards.found(self.pattern)

  @functools.cached_property
  def _index(self) -> dict[str, np.ndarray]:
    return shards.index('tsv', self.files, _lines)

  @functools.cached_property
  def _files(self) -> shards.Files:
    return shards.Files()

  @property
  def features(self) -> Any:
    """TFDS features of a record of region features."""
    return region_features.described()

  def fingerprint(self) -> str:
    """Returns a digest of the names and sizes of the files."""
    return digest('region Tsv', shards.below(self.files), self.file_sizes)

  def __len__(self) -> int:
    return len(self._index['starts'])

  def __getitem__(self, index: int) -> Example:
    if not 0 <= index < len(self):
      raise IndexError(f'example {index} of {len(self)}')
    number, line = shards.placed(self._index['starts_starts'], index)
    path = self.files[number]
    start, stop = (int(self._index[name][index]) for name in ('starts', 'stops'))
    values = self._files.read(path, start, stop).rstrip(b'\r\n').split(b'\t')
    name = f'line {line + 1} of {path}'
    if len(values) not in COLUMNS:
      raise BadRecordError(
        f'{name} has {plural(len(values), "column")}, but files of region features have'
        f' {listed(COLUMNS)}'
      )
    return _of_line(dict(zip(COLUMNS[len(values)], values, strict=True)), name)

  def __getstate__(self) -> dict[str, Any]:
    return {k: v for k, v in self.__dict__.items() if k not in ('_index', '_files')}


def _lines(path: str) -> dict[str, np.ndarray]:
  """Returns where each line of a file starts and ends; empty lines are left out."""
  starts, stops, place = [], [], 0
  with open(path, 'rb') as file:
    for line in file:
      if line.strip():
        starts.append(place)
        stops.append(place + len(line))
      place += len(line)
  return {'starts': np.array(starts, np.int64), 'stops': np.array(stops, np.int64)}


def _of_line(values: Mapping[str, bytes], name: str) -> Example:
  """Returns the regions of a line, given its columns."""
  try:
    count = int(values['num_boxes'])
    size = int(values['image_h']), int(values['image_w'])
    arrays = {
      key: np.frombuffer(base64.b64decode(values[column], validate=True), '<f4')
      for key, column in (
        ('boxes', 'boxes'),
        ('features', 'features'),
        ('classes', 'cls_prob'),
      )
      if column in values
    }
    arrays = {key: _rows(x, count, key) for key, x in arrays.items()}
  except (ValueError, binascii.Error) as error:
    raise BadRecordError(f'{name} cannot be read: {error}') from error
  image = values['image_id'].decode(errors='replace')
  return _checked({'image_id': image, 'size': size, **arrays}, name)


def _rows(values: np.ndarray, count: int, key: str) -> np.ndarray:
  if count == 0:
    return values.reshape(0, 4 if key == 'boxes' else values.size)
  if values.size % count:
    raise ValueError(f'{values.size:,} numbers in {key} are not {count} rows')
  return values.reshape(count, -1)


@dataclasses.dataclass(frozen=True)
class Arrays(Source):
  """The .npz files below a folder, one per image, whose name is the id of the image.

  Each has boxes (N, 4) in pixels, features (N, F), and the height and the width of the
  image, under any of `NAMES`; class distributions (N, K) are optional. Other entries
  are not read. Pickled objects are never loaded. `left_out` counts other files.
  """

  folder: str

  @functools.cached_property
  def _found(self) -> tuple[list[str], int]:
    root = pathlib.Path(self.folder).expanduser()
    if not root.is_dir():
      raise UserError(f'there is no folder {self.folder}')
    below = sorted(p for p in root.rglob('*') if p.is_file() and p.name[0] != '.')
    found = [str(path) for path in below if path.suffix == '.npz']
    if not found:
      pickled = any(path.suffix in ('.npy', '.pkl') for path in below)
      why = (
        ': .npy and .pkl files of regions are pickles, which can run code when they are'
        ' loaded; write the arrays with numpy.savez'
        if pickled
        else ''
      )
      raise UserError(f'{self.folder} has no .npz file{why}')
    return found, len(below) - len(found)

  @property
  def files(self) -> list[str]:
    """The paths of all .npz files, in order."""
    return self._found[0]

  @property
  def left_out(self) -> dict[str, int]:
    """The number of files of other kinds."""
    other = self._found[1]
    return {'files that are not .npz': other} if other else {}

  @property
  def features(self) -> Any:
    """TFDS features of a record of region features."""
    return region_features.described()

  def fingerprint(self) -> str:
    """Returns a digest of the names and sizes of the files."""
    return digest('region Arrays', shards.below(self.files), self.file_sizes)

  def __len__(self) -> int:
    return len(self.files)

  def __getitem__(self, index: int) -> Example:
    if not 0 <= index < len(self):
      raise IndexError(f'example {index} of {len(self)}')
    path = self.files[index]
    root = pathlib.Path(self.folder).expanduser()
    image = pathlib.Path(path).relative_to(root).with_suffix('').as_posix()
    try:
      with np.load(path, allow_pickle=False) as saved:
        arrays = {key: _entry(saved, key, path) for key in NAMES}
    except (OSError, ValueError, EOFError, zipfile.BadZipFile) as error:
      if isinstance(error, BadRecordError):
        raise
      raise BadRecordError(f'{path} cannot be read: {error}') from error
    size = int(arrays.pop('height')), int(arrays.pop('width'))
    arrays = {key: x for key, x in arrays.items() if x is not None}
    arrays['boxes'] = arrays['boxes'].reshape(-1, 4)
    count = len(arrays['boxes'])
    if arrays['features'].shape[0] != count == arrays['features'].shape[-1]:
      arrays['features'] = arrays['features'].T  # some programs store columns
    return _checked({'image_id': image, 'size': size, **arrays}, path)


def _entry(saved: Mapping[str, np.ndarray], key: str, path: str) -> np.ndarray | None:
  """Returns an array under any of its names."""
  for name in NAMES[key]:
    if name in saved:
      values = saved[name]  # raises for pickled objects
      if values.dtype.kind not in 'fiu':
        raise BadRecordError(f'{path}: {name} is {values.dtype}, not numbers')
      return values
  if key in OPTIONAL:
    return None
  raise BadRecordError(f'{path} has no {key}: none of {", ".join(NAMES[key])}')


def _checked(example: Example, name: str) -> Example:
  """Returns float32 arrays; raises `BadRecordError` if they do not fit together."""
  found = dict(example)
  for key in ('boxes', 'features', 'classes'):
    if key in found:
      found[key] = np.asarray(found[key], np.float32)
  count = len(found['boxes'])
  for key in ('boxes', 'features', 'classes'):
    if key in found and (found[key].ndim != 2 or len(found[key]) != count):
      shape = 'x'.join(map(str, found[key].shape))
      raise BadRecordError(f'{name}: {key} are {shape} for {plural(count, "box")}')
  if found['boxes'].shape[1] != 4:
    raise BadRecordError(f'{name}: boxes have {found["boxes"].shape[1]} numbers, not 4')
  region_features.check(found, name)
  return found


@dataclasses.dataclass(frozen=True)
class Encoded(Source):
  """The regions of another source as records, with arrays stored as `dtype`.

  All images must have features of the same width, that of the first one with regions.
  """

  source: Source
  dtype: str = 'float32'

  @property
  def features(self) -> Any:
    """TFDS features of a record."""
    return region_features.described()

  @property
  def files(self) -> Sequence[str]:
    """The paths of the files that the regions are read from."""
    return self.source.files

  @property
  def left_out(self) -> Mapping[str, int]:
    """The number of unused files, by kind."""
    return self.source.left_out

  @functools.cached_property
  def width(self) -> int:
    """The width of features."""
    for example in self.source:
      if len(example['boxes']):
        return example['features'].shape[1]
    raise UserError(f'{self.source!r} has no image with regions')

  def __len__(self) -> int:
    return len(self.source)

  def __getitem__(self, index: int) -> Example:
    example = self.source[index]
    width = example['features'].shape[1]
    if not len(example['boxes']):
      example['features'] = np.zeros((0, self.width), np.float32)
    elif width != self.width:
      raise BadRecordError(
        f'the image {example["image_id"]} has features of width {width}, the first one'
        f' {self.width}'
      )
    return region_features.encoded(example, self.dtype)


def write_ids(folder: str | os.PathLike, split: str, source: Source) -> int:
  """Writes the ids of the records of a split, once each; returns their number."""
  from big_vision_like import files

  ids = [region_features.text(source[i]['image_id']) for i in range(len(source))]
  seen: set[str] = set()
  for name in ids:
    if name in seen:
      raise UserError(f'{folder}: there are two records of the image {name}')
    if '\n' in name or not name:
      raise UserError(f'{folder}: {name!r} cannot be the id of an image')
    seen.add(name)
  path = region_features.ids_file(pathlib.Path(folder), split)
  files.write(path, ''.join(f'{name}\n' for name in ids))
  return len(ids)
