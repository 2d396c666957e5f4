"""Where examples come from: random access to dicts of numpy values."""

import dataclasses
import functools
import importlib
from collections.abc import Iterable, Sequence
from typing import Any

from big_vision_like.errors import UserError

# Data sets that this package knows how to write; importing the module tells TFDS.
OUR_BUILDERS = {
  'digits': 'big_vision_like.data.digits',
  'glyphs': 'big_vision_like.data.procedural.glyphs',
}


def announce(name: str) -> None:
  """Tells TFDS of a data set that it would not find by itself."""
  family = name.partition('/')[0].partition(':')[0]
  if family in OUR_BUILDERS:
    importlib.import_module(OUR_BUILDERS[family])
  elif family.endswith('_translate'):
    # Where TensorFlow is missing, TFDS stops importing its catalogue at the first
    # module that needs it, long before this one, which does not.
    importlib.import_module('tensorflow_datasets.translate')


@dataclasses.dataclass(frozen=True)
class Tfds:
  """A split of a TFDS data set stored as array_record, images still encoded.

  `name` is as in TFDS (`'glyphs/32'`, `'cifar10:3.0.2'`), `split` too
  (`'train[:90%]'`); `data_dir` defaults to TFDS's own (`TFDS_DATA_DIR` or
  `~/tensorflow_datasets`). `examples` says how many the split holds, for plans made
  before the data are there; data with another number are refused.
  """

  name: str
  split: str = 'train'
  data_dir: str | None = None
  examples: int | None = None

  @functools.cached_property
  def builder(self) -> Any:
    """The TFDS builder; raises `UserError` where the data set is not prepared."""
    import tensorflow_datasets as tfds

    announce(self.name)
    try:
      builder = tfds.builder(self.name, data_dir=self.data_dir)
    except Exception as error:  # TFDS raises several unrelated types here
      reason = str(error).strip().splitlines()[0]  # after it, the whole catalogue
      raise UserError(f'TFDS knows no data set {self.name!r}: {reason}') from error
    if not builder.is_prepared():
      raise MissingDataError(self, str(builder.data_path))
    return builder

  @functools.cached_property
  def records(self) -> Any:
    """TFDS's random-access reader of the split."""
    encoded = still_encoded(self.builder.info.features)
    try:
      records = self.builder.as_data_source(split=self.split, decoders=encoded)
    except (ValueError, KeyError) as error:
      splits = ', '.join(self.builder.info.splits)
      raise UserError(
        f'{self.name} has no split {self.split!r}; it has {splits}.'
      ) from error
    if self.examples not in (None, len(records)):
      raise UserError(
        f'{self.name} {self.split!r} holds {len(records):,} examples, not the'
        f' {self.examples:,} that the config says: set examples to what is true.'
      )
    return records

  @property
  def label_names(self) -> list[str] | None:
    """The classes' names in order, where the data set has them."""
    features = self.builder.info.features
    feature = features['label'] if 'label' in features else None
    return list(feature.names) if getattr(feature, 'names', None) else None

  def planned(self) -> Any:
    """The split, or where it is not prepared what stands in for it in a plan."""
    from big_vision_like.data import planned

    try:
      self.builder  # noqa: B018 - looks for the data
    except UserError:
      return planned.Pictures(self.name, self.examples)
    return self

  def __len__(self) -> int:
    return len(self.records)

  def __getitem__(self, index: int) -> dict[str, Any]:
    return self.records[index]

  def __getitems__(self, indices: Sequence[int]) -> list[dict[str, Any]]:
    """Many examples at once: a fraction of the time of one after the other."""
    return self.records.__getitems__(list(indices))

  def __getstate__(self) -> dict[str, Any]:
    # Workers open their own files.
    return {k: v for k, v in self.__dict__.items() if k not in ('builder', 'records')}


def still_encoded(features: Any) -> dict[str, Any]:
  """Decoders of TFDS that leave images as they are stored."""
  import tensorflow_datasets as tfds

  return {
    name: tfds.decode.SkipDecoding()
    for name, feature in features.items()
    if isinstance(feature, tfds.features.Image)
  }


class MissingDataError(UserError):
  """A data set that has to be prepared first."""

  def __init__(self, source: Tfds, path: str):
    self.source = source
    super().__init__(f'data set {source.name!r} is not at {path}. {remedy([source])}')


def remedy(sources: Iterable[Tfds]) -> str:
  """The commands that prepare these data sets, one for each folder."""
  by_folder: dict[str | None, dict[str, None]] = {}
  for source in sources:
    by_folder.setdefault(source.data_dir, {})[source.name] = None
  commands = [
    f'python tools/prepare_data.py {" ".join(names)}'
    + (f' --data-dir {folder}' if folder else '')
    for folder, names in by_folder.items()
  ]
  return f'Prepare it with: {" && ".join(commands)}'


def check_prepared(sources: Iterable[Tfds]) -> None:
  """Raises one error that names every data set still to be prepared."""
  missing = []
  for source in sources:
    try:
      len(source)
    except MissingDataError as error:
      missing.append(error)
  if len(missing) == 1:
    raise missing[0]
  if missing:
    absent = [error.source for error in missing]
    names = ', '.join(dict.fromkeys(repr(source.name) for source in absent))
    raise UserError(f'data sets {names} are not prepared. {remedy(absent)}')
