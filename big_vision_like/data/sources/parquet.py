"""Parquet files as data sets of Hugging Face are stored."""

import collections
import dataclasses
import functools
import json
import threading
from collections.abc import Mapping
from concurrent import futures
from typing import Any

import numpy as np

from big_vision_like.data.sources import protos, shards
from big_vision_like.data.sources.base import Source, digest
from big_vision_like.errors import BadRecordError, UserError

# A column of images: structs of the encoded bytes and the path they once had.
IMAGE_FIELDS = {'bytes', 'path'}


@dataclasses.dataclass(frozen=True)
class Parquet(Source):
  """Rows of Parquet files; `pattern` is as in `shards.found`.

  Images are structs of `bytes` and `path`, or bytes that `keys` calls `image`; of
  classes the schema's metadata give the names. `keys` chooses and renames columns:
  {'image': 'img', 'label': 'fine_label'}. A row without a value is a bad record, but
  for texts, which are then empty.

  Rows come in `groups`, which are read as a whole; the last `groups_kept` stay in
  memory, in each process.
  """

  pattern: shards.Pattern
  keys: Mapping[str, str] | None = None
  groups_kept: int = 24

  @functools.cached_property
  def files(self) -> list[str]:
    """The paths in order."""
    return shards.found(self.pattern)

  @functools.cached_property
  def groups(self) -> np.ndarray:
    """Where groups of rows start, int64 (groups + 1,), the last is the length."""
    return np.cumsum([0, *self._index['rows']])

  @functools.cached_property
  def _index(self) -> dict[str, np.ndarray]:
    """`rows` of each group of each file."""
    return shards.index('Parquet', self.files, _scan)

  @functools.cached_property
  def _schema(self) -> Any:
    return _open(self.files[0]).schema_arrow

  @functools.cached_property
  def _columns(self) -> dict[str, str]:
    columns = dict(self.keys or {name: name for name in self._schema.names})
    if absent := [c for c in columns.values() if c not in self._schema.names]:
      there = ', '.join(self._schema.names)
      raise UserError(f'{self.files[0]} has no column {absent[0]!r}; it has {there}')
    return columns

  @functools.cached_property
  def features(self) -> Any:
    """TFDS's description of an example."""
    import tensorflow_datasets as tfds

    known = json.loads((self._schema.metadata or {}).get(b'huggingface', b'{}'))
    described = known.get('info', {}).get('features', {})
    features = {}
    for name, column in self._columns.items():
      kind = self._schema.field(column).type
      features[name] = _feature(kind, described.get(column, {}), column)
      if name == 'image' and isinstance(features[name], tfds.features.Text):
        features[name] = tfds.features.Image()
    return tfds.features.FeaturesDict(features)

  @property
  def title(self) -> str:
    """The format and the name of the files."""
    return shards.title(self, self.pattern)

  def fingerprint(self) -> str:
    """Returns a digest of `keys`, classes, and names and sizes of the files."""
    classes, files = (self.label_names, self.category_names), shards.below(self.files)
    return digest('Parquet', self.keys, classes, files, self.file_sizes, self.groups)

  @functools.cached_property
  def _kept(self) -> '_Kept':
    return _Kept(self.groups_kept)

  def __len__(self) -> int:
    return int(self.groups[-1])

  def __getitem__(self, index: int) -> protos.Example:
    group, row = shards.placed(self.groups, index)
    file, place = shards.placed(self._index['rows_starts'], group)
    path = self.files[file]
    name = f'row {row} of group {place} of {path} (example {index})'
    columns = list(self._columns.values())
    try:
      table = self._kept.get(group, lambda: _read(path, place, columns))
    except (OSError, ValueError) as error:  # those of pyarrow are both
      raise BadRecordError(f'{name} cannot be read: {error}') from error
    if absent := [column for column in columns if column not in table.column_names]:
      raise BadRecordError(f'{name} has no {absent[0]!r}, as the first file has')
    return {
      new: _plain(table[column][row].as_py(), table.schema.field(column).type, name)
      for new, column in self._columns.items()
    }

  def problems(self) -> list[str]:
    """What keeps it from being read."""
    try:
      len(self)
      self.features  # noqa: B018 - looks at all columns
    except UserError as error:
      return [str(error)]
    return []

  def __getstate__(self) -> dict[str, Any]:
    # Workers open their own files.
    return {k: v for k, v in self.__dict__.items() if k not in ('_kept', '_schema')}


class _Kept:
  """The groups used last, each read by one thread while others wait for it."""

  def __init__(self, count: int):
    self._count = count
    self._lock = threading.Lock()
    self._groups: collections.OrderedDict[int, futures.Future] = (
      collections.OrderedDict()
    )

  def get(self, group: int, read: Any) -> Any:
    """A group, read unless it is there."""
    with self._lock:
      mine = group not in self._groups
      if mine:
        self._groups[group] = futures.Future()
      future = self._groups[group]
      self._groups.move_to_end(group)
      while len(self._groups) > self._count:
        self._groups.popitem(last=False)
    if mine:
      try:
        future.set_result(read())
      except BaseException as error:
        future.set_exception(error)
    return future.result()


def _open(path: str) -> Any:
  try:
    import pyarrow.parquet
  except ImportError as error:
    raise UserError(
      "Parquet files need pyarrow: pip install -e '.[parquet]'"
    ) from error
  try:
    return pyarrow.parquet.ParquetFile(path, page_checksum_verification=True)
  except (OSError, ValueError) as error:
    raise UserError(
      f'{path} is not a whole Parquet file ({error}). Nobody can say how many rows are'
      ' lost: copy it again, or name the others only.'
    ) from error


def _scan(path: str) -> dict[str, np.ndarray]:
  with _open(path) as file:
    metadata = file.metadata
    rows = [metadata.row_group(i).num_rows for i in range(metadata.num_row_groups)]
  return {'rows': np.array(rows, np.int64)}


def _read(path: str, group: int, columns: list[str]) -> Any:
  with _open(path) as file:
    return file.read_row_group(group, columns, use_threads=False)


def _feature(kind: Any, described: Any, column: str) -> Any:
  """The feature of a column of this type, as Hugging Face described it."""
  import pyarrow.types as types
  from tensorflow_datasets import features

  if described_as(described) == 'ClassLabel':
    return features.ClassLabel(names=described['names'])
  if types.is_struct(kind):
    fields = {kind.field(i).name: kind.field(i).type for i in range(kind.num_fields)}
    if fields.keys() == IMAGE_FIELDS:
      return features.Image()
    inner = described if isinstance(described, dict) else {}
    return features.FeaturesDict(
      {n: _feature(t, inner.get(n, {}), f'{column}.{n}') for n, t in fields.items()}
    )
  if types.is_list(kind) or types.is_large_list(kind) or types.is_fixed_size_list(kind):
    item = described.get('feature', {}) if isinstance(described, dict) else described[0]
    inner = _feature(kind.value_type, item, column)
    length = described.get('length', -1) if isinstance(described, dict) else -1
    if types.is_fixed_size_list(kind):
      length = kind.list_size
    if length > 0 and type(inner) is features.Scalar:
      return features.Tensor(shape=(length,), dtype=inner.np_dtype)
    return protos.several(inner)
  if types.is_boolean(kind) or types.is_integer(kind) or types.is_floating(kind):
    return features.Scalar(kind.to_pandas_dtype())
  for test in (types.is_string, types.is_large_string, types.is_binary):
    if test(kind) or types.is_large_binary(kind):
      return features.Text()
  raise UserError(f'column {column} is of type {kind}: choose others with `keys`')


def described_as(described: Any) -> str | None:
  """The type that Hugging Face names, if any."""
  return described.get('_type') if isinstance(described, dict) else None


def _plain(value: Any, kind: Any, name: str) -> Any:
  """A value of Arrow as TFDS would give it."""
  import pyarrow.types as types

  if value is None:
    if types.is_string(kind) or types.is_large_string(kind):
      return b''
    raise BadRecordError(f'{name} has no value in a column of type {kind}')
  if isinstance(value, str):
    return value.encode()
  if isinstance(value, dict):
    if value.keys() == IMAGE_FIELDS:
      return _plain(value['bytes'], kind.field('bytes').type, name)
    return {
      key: _plain(inner, kind.field(key).type, name) for key, inner in value.items()
    }
  if isinstance(value, list):
    items = [_plain(item, kind.value_type, name) for item in value]
    if types.is_struct(kind.value_type) and items and isinstance(items[0], dict):
      return {key: [item[key] for item in items] for key in items[0]}
    if types.is_primitive(kind.value_type):
      return np.array(items, kind.value_type.to_pandas_dtype())
    return items
  return value
