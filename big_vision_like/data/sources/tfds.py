"""TFDS data sets as sources: random access to dicts of NumPy values."""

import contextlib
import dataclasses
import functools
import io
from collections.abc import Iterable, Sequence
from typing import Any

from big_vision_like.data.sources import (
  array_records,
  catalogue,
  planned,
  protos,
  shards,
  tfrecords,
)
from big_vision_like.data.sources.base import Source, digest
from big_vision_like.errors import UserError

# Readers of the TFDS formats with random access.
READERS = {'array_record': array_records.Reader, 'tfrecord': tfrecords.Reader}


@dataclasses.dataclass(frozen=True)
class Tfds(Source):
  """A split of a TFDS data set in array_record or TFRecord, images still encoded.

  `name` and `split` are as in TFDS (`'glyphs/32'`, `'cifar10:3.0.2'`;
  `'train[:90%]'`). `data_dir` defaults to TFDS's folder (`TFDS_DATA_DIR` or
  `~/tensorflow_datasets`). `examples` is the number of examples in the split, for plans
  made before the data are available; data with another number are an error.
  """

  name: str
  split: str = 'train'
  data_dir: str | None = None
  examples: int | None = None

  @functools.cached_property
  def builder(self) -> Any:
    """The TFDS builder; raises `UserError` if the data set is not prepared."""
    import tensorflow_datasets as tfds

    catalogue.announce(self.name)
    try:
      builder = tfds.builder(self.name, data_dir=self.data_dir)
    except Exception as error:  # TFDS raises several unrelated types here
      reason = str(error).strip().splitlines()[0]  # the whole catalogue follows
      raise UserError(f'TFDS knows no data set {self.name!r}: {reason}') from error
    if not builder.is_prepared():
      raise MissingDataError(self, str(builder.data_path))
    return builder

  @functools.cached_property
  def records(self) -> Any:
    """Random access to the serialized examples of the split."""
    info = self.builder.info
    try:
      parts = info.splits[self.split].file_instructions
    except (ValueError, KeyError) as error:
      splits = ', '.join(info.splits)
      raise UserError(
        f'{self.name} has no split {self.split!r}; it has {splits}.'
      ) from error
    if not parts:
      raise UserError(f'{self.name} {self.split!r} holds no examples.')
    if info.file_format.value not in READERS:
      raise UserError(
        f'{self.name} is stored as {info.file_format.value} in'
        f' {self.builder.data_path}, but only {" and ".join(READERS)} can be read.'
      )
    records = READERS[info.file_format.value](parts)
    if self.examples not in (None, len(records)):
      raise UserError(
        f'{self.name} {self.split!r} holds {len(records):,} examples, not the'
        f' {self.examples:,} that the config gives: correct `examples`.'
      )
    return records

  @property
  def features(self) -> Any:
    """TFDS features of an example."""
    return self.builder.info.features

  @property
  def files(self) -> list[str]:
    """The paths of the files of the split."""
    return [part.filename for part in self.records.parts]

  @property
  def title(self) -> str:
    """The name of the data set, with its version once the data set is loaded."""
    builder = vars(self).get('builder')
    return self.name if builder is None else f'{self.name} {builder.version}'

  def fingerprint(self) -> str:
    """Returns a digest of name, version, classes and the split's parts of files."""
    parts = [[part.skip, part.take] for part in self.records.parts]
    classes = self.label_names, self.category_names
    name, files = self.builder.info.full_name, shards.below(self.files)
    return digest('Tfds', name, classes, files, self.file_sizes, parts)

  def problems(self) -> list[str]:
    """Returns why the split cannot be read, or its damaged files."""
    try:
      return self.records.problems()
    except UserError as error:
      return [str(error)]

  def planned(self) -> Source:
    """Returns this source, or a stand-in for planning if it is not prepared."""
    try:
      # TFDS prints the modules of its catalogue that need TensorFlow.
      with contextlib.redirect_stdout(io.StringIO()):
        self.builder  # noqa: B018 - looks for the data
    except UserError:
      return planned.Pictures(self.name, self.examples)
    return self

  def __len__(self) -> int:
    return len(self.records)

  def record(self, index: int) -> bytes:
    """Returns the serialized example."""
    return self.records[index]

  def __getitem__(self, index: int) -> dict[str, Any]:
    return self._parsed(self.records[index], index)

  def __getitems__(self, indices: Sequence[int]) -> list[dict[str, Any]]:
    """Returns many examples at once, in a fraction of the time of single reads."""
    indices = list(indices)
    records = self.records.__getitems__(indices)
    return [self._parsed(r, i) for r, i in zip(records, indices, strict=True)]

  def _parsed(self, record: bytes, index: int) -> dict[str, Any]:
    return self._parser(record, f'example {index} of {self.name}')

  @functools.cached_property
  def _parser(self) -> protos.Parser:
    return protos.Parser(self.features)

  def remarks(self) -> list[str]:
    """Returns a remark if examples take long to parse."""
    return self._parser.remarks()

  def __getstate__(self) -> dict[str, Any]:
    # Workers open their own files.
    own = ('builder', 'features', 'records', '_parser')
    return {k: v for k, v in self.__dict__.items() if k not in own}


class MissingDataError(UserError):
  """An error for a data set that must be prepared first."""

  def __init__(self, source: Tfds, path: str):
    self.source = source
    super().__init__(f'data set {source.name!r} is not at {path}. {remedy([source])}')


def remedy(sources: Iterable[Tfds]) -> str:
  """Returns the commands that prepare these data sets, one per folder."""
  by_folder: dict[str | None, dict[str, None]] = {}
  for source in sources:
    by_folder.setdefault(source.data_dir, {})[source.name] = None
  commands = [
    f'python tools/prepare_data.py {" ".join(names)}'
    + (f' --data-dir {folder}' if folder else '')
    for folder, names in by_folder.items()
  ]
  return f'Prepare it with: {" && ".join(commands)}'
