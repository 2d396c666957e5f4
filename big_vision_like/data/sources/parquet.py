"""Parquet files in the layout of Hugging Face data sets."""

import collections
import contextlib
import dataclasses
import functools
import json
import threading
from collections.abc import Collection, Iterator, Mapping
from concurrent import futures
from typing import Any

import numpy as np

from big_vision_like.data.sources import classes, protos, shards
from big_vision_like.data.sources.base import Source, digest
from big_vision_like.errors import BadRecordError, UserError

# Fields of the structs in a column of images: encoded bytes and their original path.
IMAGE_FIELDS = {'bytes', 'path'}
# Base classes of the errors that pyarrow raises for damaged files.
DAMAGE = (OSError, ValueError, TypeError, LookupError, NotImplementedError, MemoryError)


@dataclasses.dataclass(frozen=True)
class Parquet(Source):
  """Rows of Parquet files; `pattern` is as in `shards.found`.

  Images are structs of `bytes` and `path`, or bytes in a column that `keys` names
  `image`. Labels are numbers, whose names may be in the schema's metadata, or texts. If
  labels are texts, the classes are all distinct texts, sorted. `keys` chooses and
  renames columns: {'image': 'img', 'label': 'fine_label'}. A row with a missing value
  is a bad record, except for missing texts, which become empty.

  Rows are stored in `groups`, which are read as a whole; each process keeps the last
  `groups_kept` groups in memory.
  """

  pattern: shards.Pattern
  keys: Mapping[str, str] | None = None
  groups_kept: int = 24

  @functools.cached_property
  def files(self) -> list[str]:
    """The paths of the files, in order."""
    return shards.found(self.pattern)

  @functools.cached_property
  def groups(self) -> np.ndarray:
    """Starts of row groups, int64 (groups + 1,); the last is the number of rows."""
    return np.cumsum([0, *self._index['rows']])

  @functools.cached_property
  def _index(self) -> dict[str, np.ndarray]:
    """The number of `rows` of each group, and the `classes` of each file."""
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
    """TFDS features of an example."""
    import tensorflow_datasets as tfds

    described = _described(self._schema, self.files[0])
    named = np.flatnonzero(self._index['classes'])
    if len(np.unique(self._index['classes'][named])) > 1:
      one = self._index['classes'][named[0]]
      other = next(i for i in named if self._index['classes'][i] != one)
      raise UserError(
        f'{self.files[other]} has other class names than {self.files[named[0]]}:'
        ' the same number means different classes'
      )
    features = {}
    for name, column in self._columns.items():
      kind = self._schema.field(column).type
      features[name] = _feature(kind, described.get(column), column)
    if 'image' in features:
      kind = self._schema.field(self._columns['image']).type
      if _family(kind) == 'bytes':
        features['image'] = tfds.features.Image()
      inner = getattr(features['image'], 'feature', None)  # of each item of a list
      no_image = tfds.features.Text, tfds.features.FeaturesDict
      if isinstance(features['image'], no_image) or isinstance(
        inner, (*no_image, tfds.features.Image)
      ):
        raise UserError(
          f'column {self._columns["image"]!r} of {self.files[0]} is of type {kind}, not'
          ' one image per row as bytes: store bytes, or rename the column with `keys`'
        )
    if self._names:
      features['label'] = tfds.features.ClassLabel(names=self._names)
    elif 'label' in features and self._whole_labels:
      features['label'] = tfds.features.Scalar(np.int64)
    return tfds.features.FeaturesDict(features)

  @functools.cached_property
  def _labels(self) -> tuple[str, Any]:
    """The label column and its type; '' and None without labels."""
    column = self._columns.get('label', '')
    return column, self._schema.field(column).type if column else None

  @functools.cached_property
  def _names(self) -> list[str]:
    """The names of all classes, sorted, if labels are texts; otherwise empty."""
    column, kind = self._labels
    if kind is None or _family(kind) not in ('text', 'bytes'):
      return []
    scan = functools.partial(_scan_texts, column=column)
    found = shards.index(f'Parquet texts {column}', self.files, scan)['text']
    return sorted({bytes(text).decode(errors='replace') for text in found} - {''})

  @functools.cached_property
  def _whole_labels(self) -> bool:
    """Whether labels are whole numbers stored as floats or booleans."""
    column, kind = self._labels
    if kind is None or _family(kind) not in ('number', 'truth value'):
      return False
    scan = functools.partial(_scan_whole, column=column)
    return bool(shards.index(f'Parquet {column}', self.files, scan)['whole'].all())

  @functools.cached_property
  def left_out(self) -> dict[str, int]:
    """The number of files that have no rows or are missing."""
    index = self._index
    starts = np.cumsum([0, *index['rows']])[index['rows_starts']]
    return shards.left_out(self.pattern, self.files, np.diff(starts))

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
    except DAMAGE as error:
      raise BadRecordError(f'{name} cannot be read: {error}') from error
    if absent := [column for column in columns if column not in table.column_names]:
      raise BadRecordError(f'{name} has no {absent[0]!r}, unlike the first file')
    if row >= len(table):
      raise BadRecordError(f'{name} is missing: the group has {len(table):,} rows')
    example = {}
    for new, column in self._columns.items():
      kind, first = (s.field(column).type for s in (table.schema, self._schema))
      if str(kind) == 'null':  # the type that pyarrow gives to columns without values
        kind = first
      if kind != first and _family(kind) != _family(first):
        raise BadRecordError(f'{name} has {column!r} of type {kind}, not {first}')
      field = f'{name}, column {column!r},'
      example[new] = _plain(table[column][row].as_py(), kind, field)
    if self._names:
      label = example['label'].decode(errors='replace')
      example['label'] = classes.position(label, self._names, name)
    elif 'label' in example and self._whole_labels:
      example['label'] = classes.whole(example['label'], name)
    return example

  def problems(self) -> list[str]:
    """Returns why files or columns cannot be read, or an empty list."""
    try:
      len(self)
      self.features  # noqa: B018 - looks at all columns
    except UserError as error:
      return [str(error)]
    return shards.problems(self.pattern, self.files)

  def __getstate__(self) -> dict[str, Any]:
    # Workers open their own files.
    return {k: v for k, v in self.__dict__.items() if k not in ('_kept', '_schema')}


class _Kept:
  """A cache of the last used groups; one thread reads a group while others wait."""

  def __init__(self, count: int):
    self._count = count
    self._lock = threading.Lock()
    self._groups: collections.OrderedDict[int, futures.Future] = (
      collections.OrderedDict()
    )

  def get(self, group: int, read: Any) -> Any:
    """Returns a group; calls `read` if it is not in the cache."""
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
  except DAMAGE as error:
    raise UserError(
      f'{path} is not a complete Parquet file ({error}). The number of lost rows is'
      ' unknown: copy the file again, or list only the other files.'
    ) from error


def _scan(path: str) -> dict[str, np.ndarray]:
  with _open(path) as file:
    metadata = file.metadata
    groups = [metadata.row_group(i) for i in range(metadata.num_row_groups)]
    rows = [group.num_rows for group in groups]
    values = [
      [group.column(i).num_values for i in range(group.num_columns)] for group in groups
    ]
    described = _described(file.schema_arrow, path)
  known = zip(rows, values, strict=True)
  if sum(rows) != metadata.num_rows or any(
    count < 0 or any(count > column for column in columns) for count, columns in known
  ):
    raise UserError(f'{path} is damaged: its numbers of rows contradict each other')
  names = {
    column: known.get('names')
    for column, known in described.items()
    if isinstance(known, dict) and known.get('_type') == 'ClassLabel'
  }
  return {
    'rows': np.array(rows, np.int64),
    'classes': np.array([digest(names) if names else '']),
  }


def _scan_texts(path: str, column: str) -> dict[str, np.ndarray]:
  """Returns the distinct texts of a column of a file."""
  found = {t for group in _groups(path, column) for t in group.unique().to_pylist()}
  texts = [text if isinstance(text, bytes) else (text or '').encode() for text in found]
  return {'text': np.array(texts, np.bytes_)}


def _scan_whole(path: str, column: str) -> dict[str, np.ndarray]:
  """Returns whether all numbers of a column of a file are whole or missing."""
  whole = all(
    float(number).is_integer()
    for group in _groups(path, column)
    for number in group.unique().to_pylist()
    if number is not None and number == number  # pandas stores missing values as NaN
  )
  return {'whole': np.array([whole])}


def _groups(path: str, column: str) -> Iterator[Any]:
  """Yields a column by groups; skips damaged groups, whose rows are bad records."""
  with _open(path) as file:
    for group in range(file.metadata.num_row_groups):
      with contextlib.suppress(*DAMAGE):
        yield file.read_row_group(group, [column], use_threads=False)[column]


def _described(schema: Any, path: str) -> dict[str, Any]:
  """Returns Hugging Face's description of each column; empty if there is none."""
  known = (schema.metadata or {}).get(b'huggingface', b'{}')
  try:
    features = json.loads(known).get('info', {}).get('features', {})
    return dict(features.items())
  except (ValueError, AttributeError, RecursionError) as error:
    raise UserError(
      f'{path} has damaged metadata of Hugging Face: copy it again ({error})'
    ) from error


def _read(path: str, group: int, columns: list[str]) -> Any:
  with _open(path) as file:
    return file.read_row_group(group, columns, use_threads=False)


def _feature(kind: Any, described: Any, column: str) -> Any:
  """Returns the TFDS feature of a column, from its type and its description."""
  import pyarrow.types as types
  from tensorflow_datasets import features

  known = described if isinstance(described, dict) else {}
  if known.get('_type') == 'ClassLabel':
    names = known.get('names')
    if not isinstance(names, list) or not all(isinstance(n, str) for n in names):
      raise UserError(f'column {column} has classes in its metadata that are not texts')
    return features.ClassLabel(names=names)
  if types.is_dictionary(kind):
    return _feature(kind.value_type, described, column)
  if types.is_struct(kind):
    fields = {kind.field(i).name: kind.field(i).type for i in range(kind.num_fields)}
    if _is_image(fields):
      return features.Image()
    return features.FeaturesDict(
      {n: _feature(t, known.get(n), f'{column}.{n}') for n, t in fields.items()}
    )
  if _family(kind) == 'list':
    item = described[0] if isinstance(described, list) and described else None
    inner = _feature(kind.value_type, known.get('feature', item), column)
    length = known.get('length')
    if types.is_fixed_size_list(kind):
      length = kind.list_size
    shaped = isinstance(length, int) and length > 0
    if shaped and type(inner) is features.Scalar:
      return features.Tensor(shape=(length,), dtype=inner.np_dtype)
    return protos.several(inner)
  if _family(kind) in ('number', 'whole number', 'truth value'):
    return features.Scalar(kind.to_pandas_dtype())
  if _family(kind) in ('text', 'bytes'):
    return features.Text()
  raise UserError(f'column {column} is of type {kind}: choose others with `keys`')


def _is_image(fields: Collection[str]) -> bool:
  return 'bytes' in fields and IMAGE_FIELDS.issuperset(fields)


def _family(kind: Any) -> str:
  """Returns the family of a type, independent of how its values are stored."""
  import pyarrow.types as types

  if types.is_dictionary(kind):
    return _family(kind.value_type)
  families = {
    'text': (types.is_string, types.is_large_string, types.is_string_view),
    'bytes': (
      *(types.is_binary, types.is_large_binary, types.is_binary_view),
      types.is_fixed_size_binary,
    ),
    'list': (
      *(types.is_list, types.is_large_list, types.is_fixed_size_list),
      *(types.is_list_view, types.is_large_list_view),
    ),
    'truth value': (types.is_boolean,),
    'whole number': (types.is_integer,),
    'number': (types.is_floating,),
    'struct': (types.is_struct,),
  }
  for family, tests in families.items():
    if any(test(kind) for test in tests):
      return family
  return str(kind)


def _plain(value: Any, kind: Any, name: str) -> Any:
  """Converts a value of Arrow to the form that TFDS returns."""
  import pyarrow.types as types

  if value is None:
    if _family(kind) == 'text':
      return b''
    raise BadRecordError(f'{name} has no value of type {kind}')
  if isinstance(value, str):
    return value.encode()
  if isinstance(value, dict):
    if _is_image(value):
      if value['bytes'] is None and value.get('path'):
        raise BadRecordError(
          f'{name} has the path of its image, {value["path"]!r}, but not its bytes:'
          ' write the images into the Parquet files'
        )
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
