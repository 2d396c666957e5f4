"""tf.train.Example protos and TFDS features, without TensorFlow."""

import abc
import collections
import contextlib
import dataclasses
import functools
import json
import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import numpy as np

from big_vision_like import files
from big_vision_like.data.sources import shards
from big_vision_like.data.sources.base import Source, digest, label_names
from big_vision_like.data.transforms import decoding
from big_vision_like.errors import BadRecordError, UserError, listed

Example = dict[str, Any]

# Number of examples, spread over all, that features are inferred from.
LOOKED_AT = 100
# An example without these fields is a bad record; other fields may be missing.
NEEDED = ('image', 'label')


@dataclasses.dataclass(frozen=True)
class ExampleFiles(Source):
  """A source of tf.train.Example protos in files; subclasses define `records`.

  `pattern` is as in `shards.found`. `keys` chooses and renames fields of examples:
  {'image': 'image/encoded', 'label': 'image/class/label'}. Features are read from
  TFDS's `features.json` in the folders of the files. Without it, they are inferred from
  some examples: bytes that start like an image file are images, and fields that some of
  these examples lack are left out.
  """

  pattern: shards.Pattern
  keys: Mapping[str, str] | None = None

  @functools.cached_property
  def files(self) -> list[str]:
    """The paths of the files, in order."""
    return shards.found(self.pattern)

  @property
  @abc.abstractmethod
  def records(self) -> Any:
    """Random access to protos as bytes; raises `BadRecordError` for damaged ones."""

  def parts(self, counts: Sequence[int]) -> list[Any]:
    """Returns all records of the files, as TFDS's `file_instructions`.

    Each file must have the number of records given by dataset_info.json, if there is
    one.
    """
    from tensorflow_datasets.core.utils import shard_utils

    return [
      shard_utils.FileInstruction(
        path, skip=0, take=count, examples_in_shard=self._said.get(path, count)
      )
      for path, count in zip(self.files, counts, strict=True)
    ]

  @functools.cached_property
  def _said(self) -> dict[str, int]:
    """The number of examples of each file, from TFDS's dataset_info.json."""
    folders = {os.path.dirname(path) for path in self.files}
    return {path: count for f in folders for path, count in _said(f).items()}

  @functools.cached_property
  def features(self) -> Any:
    """TFDS features of an example."""
    return named(self._stored, self._keys)

  @functools.cached_property
  def _stored(self) -> Any:
    """The features under the names used in the files."""

    folders = dict.fromkeys(os.path.dirname(os.path.abspath(f)) for f in self.files)
    known = [f for f in folders if os.path.exists(os.path.join(f, 'features.json'))]
    if not known:
      needed = (*NEEDED, *(self.keys or {}).values())
      return inferred(self._some, needed)
    found = [_described(folder) for folder in known]
    for folder, features in zip(known, found, strict=True):
      if described(features) != described(found[0]):
        raise UserError(
          f'{folder}/features.json has other features or classes than {known[0]}:'
          ' read only one of these folders'
        )
    return found[0]

  @functools.cached_property
  def _some(self) -> list[Example]:
    """Some examples, spread over all, as they are stored."""
    records = some(len(self), self.records.__getitem__)
    return singles([unpacked(record) for record in records])

  @functools.cached_property
  def _keys(self) -> Mapping[str, str]:
    return self.keys or {name: name for name in self._stored}

  @property
  def title(self) -> str:
    """The format and the name of the files."""
    return shards.title(self, self.pattern)

  def fingerprint(self) -> str:
    """Returns a digest of format, `keys`, classes, and names and sizes of files."""
    # array_record files are padded, so files of equal size may differ by a record.
    counts = [part.take for part in self.records.parts]
    classes, files = (self.label_names, self.category_names), shards.below(self.files)
    kind = type(self).__qualname__
    return digest(kind, self.keys, classes, files, self.file_sizes, counts)

  def record(self, index: int) -> bytes:
    """Returns the serialized example, with fields renamed by `keys`."""
    record = self.records[index]
    return renamed(record, self.keys) if self.keys else record

  def __len__(self) -> int:
    return len(self.records)

  def __getitem__(self, index: int) -> Example:
    return self._parsed(self.records[index], index)

  def __getitems__(self, indices: Sequence[int]) -> list[Example]:
    """Returns many examples at once, in a fraction of the time of single reads."""
    records = self.records.__getitems__(indices)
    return [self._parsed(r, i) for r, i in zip(records, indices, strict=True)]

  def _parsed(self, record: bytes, index: int) -> Example:
    example = self._parser(record, f'example {index}')
    return {name: example[key] for name, key in self._keys.items()}

  @functools.cached_property
  def _parser(self) -> 'Parser':
    return Parser(self._stored)

  def remarks(self) -> list[str]:
    """Returns a remark if examples take long to parse."""
    return self._parser.remarks()

  def problems(self) -> list[str]:
    """Returns why the source cannot be read, or its damaged and missing files."""
    try:
      self.features  # noqa: B018 - reads some
      found = self.records.problems()
    except UserError as error:
      return [str(error)]
    empty = [
      f'{file} is empty'
      for file, size in zip(self.files, self.file_sizes, strict=True)
      if not size and file not in self._said
    ]
    return shards.problems(self.pattern, self.files) + empty + found

  @functools.cached_property
  def left_out(self) -> dict[str, int]:
    """The number of unused files and fields, by kind."""
    counts = [part.take for part in self.records.parts]
    found = shards.left_out(self.pattern, self.files, counts)
    stored = vars(self).get('_some')  # read only if no file describes the features
    return found | (partial(stored, self._stored) if stored else {})

  def __getstate__(self) -> dict[str, Any]:
    # Workers receive cached properties, but open their own files.
    own = ('records', '_parser')
    return {k: v for k, v in self.__dict__.items() if k not in own}


def _said(folder: str) -> dict[str, int]:
  """Returns the number of examples of each file in dataset_info.json, or {}."""
  path = os.path.join(folder, 'dataset_info.json')
  if not os.path.exists(path):
    return {}
  info, found = files.read_fields(path), {}
  try:
    for split in info['splits']:
      lengths = list(map(int, split['shardLengths']))
      fields = {
        '{DATASET}': info['name'],
        '{SPLIT}': split['name'],
        '{FILEFORMAT}': info['fileFormat'],
      }
      name = split['filepathTemplate']
      for field, value in fields.items():
        name = name.replace(field, value)
      for i, length in enumerate(lengths):
        shard = f'{i:05d}-of-{len(lengths):05d}'
        file = name.replace('{SHARD_X_OF_Y}', shard)
        found[os.path.join(folder, file)] = length
  except (KeyError, TypeError, ValueError, AttributeError):
    return {}  # the format of older versions, which did not name the files
  return found


def _described(folder: str) -> Any:
  """Reads the features.json that TFDS wrote to a folder."""
  import tensorflow_datasets as tfds

  content = files.read_json(os.path.join(folder, 'features.json'))
  try:
    features = tfds.features.FeatureConnector.from_json(_as_frames(content))
    features.load_metadata(folder, feature_name=None)
    return features
  except Exception as error:  # TFDS raises several unrelated types
    reason = ' '.join(str(error).split())
    raise UserError(f'{folder}/features.json cannot be used: {reason}') from error


def _as_frames(content: Any) -> Any:
  """Replaces features of videos by lists of images, as which they are stored.

  TFDS needs TensorFlow for the feature `Video`, even to read.
  """
  if not isinstance(content, Mapping):
    return content
  if not isinstance(content.get('video'), Mapping) or 'pythonClassName' not in content:
    return {key: _as_frames(inner) for key, inner in content.items()}
  image = dict(content['video'])
  sides = image.get('shape', {}).get('dimensions', ['-1'] * 4)[1:]
  core = 'tensorflow_datasets.core.features'
  frame = {
    'pythonClassName': f'{core}.image_feature.Image',
    'image': {
      'shape': {'dimensions': sides},
      'dtype': image.get('dtype', 'uint8'),
      'encodingFormat': image.get('encodingFormat', 'png'),
    },
  }
  return {
    'pythonClassName': f'{core}.sequence_feature.Sequence',
    'sequence': {'feature': frame, 'length': '-1'},
  }


def described(features: Any) -> str:
  """Returns features and class names as a canonical text, for comparison."""
  names = label_names(features)
  classes = '' if names is None else f' classes {files.sha256(names)[:8]}'
  return ', '.join(f'{n}: {features[n]!r}' for n in sorted(features)) + classes


def still_encoded(features: Any) -> dict[str, Any]:
  """Returns TFDS decoders that leave images encoded."""
  import tensorflow_datasets as tfds

  return {
    name: tfds.decode.SkipDecoding()
    for name, feature in features.items()
    if isinstance(feature, tfds.features.Image)
  }


def parsed(record: bytes, features: Any, name: str) -> Example:
  """Parses an example, images still encoded; raises `BadRecordError` if it cannot."""
  try:
    example = features.deserialize_example_np(record, decoders=decoders(features))
  except ImportError:
    raise
  except Exception as error:  # TFDS and protobuf raise several unrelated types
    raise unfit(name, error) from error
  for key, value in example.items():
    if value is None and not features[key].get_tensor_info().optional:
      raise BadRecordError(f'{name} has no {key!r}')
  return example


def decoders(features: Any) -> dict[str, Any]:
  """Returns TFDS decoders that leave images and frames of videos encoded."""
  frames = {key: _KeptFrames() for key in features if _is_video(features[key])}
  return still_encoded(features) | frames


def _is_video(feature: Any) -> bool:
  """Returns whether a feature is a list of images, the frames of a video."""
  import tensorflow_datasets as tfds

  kind = tfds.features.Sequence
  return isinstance(feature, kind) and isinstance(feature.feature, tfds.features.Image)


class _KeptFrames:
  """A decoder for TFDS that leaves frames encoded, as its own cannot do for a list."""

  def setup(self, *, feature: Any) -> None:
    """Ignores the feature."""

  def decode_batch_example_np(self, frames: Iterable[bytes]) -> list[bytes]:
    """Returns the frames unchanged."""
    return list(frames)


# The list of a proto that holds the values of a NumPy kind.
_LISTS = {'b': 'int64_list', 'i': 'int64_list', 'u': 'int64_list', 'f': 'float_list'}
# These have the types of Python, so that converting them to NumPy changes nothing.
_PLAIN = ('int64', 'float32')


class Parser:
  """A parser of examples with given features, equal to `parsed`.

  It reads images, lists of images, texts, numbers and arrays from the proto in about a
  tenth of the time that TFDS takes. `others` are the features of other kinds. If there
  are any, or if a field of an example has another type or size than its feature, TFDS
  parses the example.
  """

  def __init__(self, features: Any):
    self._features = features
    fields = {name: _field(features[name]) for name in features}
    self.others = [name for name, field in fields.items() if field is None]
    # In TFDS's order, which messages show.
    self._fields = [(name, *fields[name]) for name in sorted(fields) if fields[name]]

  def __call__(self, record: bytes, name: str) -> Example:
    """Returns an example, images still encoded; `name` is its name in messages."""
    example = None if self.others else self._read(record)
    return parsed(record, self._features, name) if example is None else example

  def remarks(self) -> list[str]:
    """Returns a sentence about the features that only TFDS parses."""
    if not self.others:
      return []
    return [f'TFDS parses the examples, slowly, because of {listed(self.others)}']

  def _read(self, record: bytes) -> Example | None:
    """Returns an example, or None for TFDS to parse it or to name its error."""
    from google.protobuf import message
    from tensorflow_datasets.proto import tf_example_pb2

    example = {}
    try:
      stored = tf_example_pb2.Example.FromString(record).features.feature
      for name, kind, dtype, shape in self._fields:
        values = getattr(stored[name], kind).value  # empty if missing or of other kind
        if not values or (shape is None and len(values) > 1):
          return None
        if kind == 'bytes_list' and shape is not None:
          example[name] = list(values)
        elif shape is not None:
          example[name] = np.array(values, dtype).reshape(shape)
        else:
          example[name] = values[0] if dtype is None else dtype.type(values[0]).item()
    except (message.DecodeError, ValueError, OverflowError):
      return None
    return example


def _field(feature: Any) -> tuple[str, np.dtype | None, list[int] | None] | None:
  """Returns how to read a feature; None if only TFDS can.

  This is the list of the proto, the type to convert to, and the shape of an array.
  """
  import tensorflow_datasets as tfds

  if type(feature) in (tfds.features.Image, tfds.features.Text):
    encoder = getattr(feature, 'encoder', None)  # makes numbers of texts
    optional = feature.get_serialized_info().optional
    return None if encoder or optional else ('bytes_list', None, None)
  if _is_video(feature):
    return 'bytes_list', None, [-1]
  kinds = tfds.features.Tensor, tfds.features.Scalar, tfds.features.ClassLabel
  if type(feature) not in kinds or feature.get_tensor_info().optional:
    return None
  info = feature.get_serialized_info()
  if isinstance(info, Mapping):  # the shape is stored, too
    return None
  dtype, shape = np.dtype(info.np_dtype), info.shape
  if dtype.kind not in _LISTS or any(size is None for size in shape[1:]):
    return None
  if not shape:
    return _LISTS[dtype.kind], None if dtype in _PLAIN else dtype, None
  return _LISTS[dtype.kind], dtype, [-1 if size is None else size for size in shape]


def unfit(name: str, error: Exception) -> BadRecordError:
  """Returns the error for an example that does not match its features."""
  reason = ' '.join(str(error).split())  # TFDS's messages have several lines
  return BadRecordError(f'{name} does not match its features: {reason}')


def named(features: Any, keys: Mapping[str, str]) -> Any:
  """Returns the features chosen by `keys`, under their new names."""
  import tensorflow_datasets as tfds

  if absent := [key for key in keys.values() if key not in features]:
    raise UserError(f'examples have no {absent[0]!r}; they have {", ".join(features)}')
  return tfds.features.FeaturesDict({name: features[key] for name, key in keys.items()})


def renamed(record: bytes, keys: Mapping[str, str]) -> bytes:
  """Returns a proto with the fields chosen by `keys`, under their new names."""
  from tensorflow_datasets.proto import tf_example_pb2

  stored = tf_example_pb2.Example.FromString(record)
  chosen = tf_example_pb2.Example()
  for name, key in keys.items():
    for path, value in stored.features.feature.items():
      if path == key or path.startswith(f'{key}/'):  # part of a nested feature
        chosen.features.feature[name + path[len(key) :]].CopyFrom(value)
  return chosen.SerializeToString(deterministic=True)


def changed(record: bytes, values: Mapping[str, bytes]) -> bytes:
  """Returns a proto with the bytes of some fields replaced."""
  from tensorflow_datasets.proto import tf_example_pb2

  proto = tf_example_pb2.Example.FromString(record)
  for name, value in values.items():
    proto.features.feature[name].bytes_list.value[0] = value
  return proto.SerializeToString(deterministic=True)


def unpacked(record: bytes) -> Example:
  """Returns the values of a proto as lists."""
  from google.protobuf import message
  from tensorflow_datasets.proto import tf_example_pb2

  try:
    proto = tf_example_pb2.Example.FromString(record)
  except message.DecodeError as error:
    raise UserError('the records are not tf.train.Example protos') from error
  return {
    name: list(getattr(value, value.WhichOneof('kind')).value)
    for name, value in proto.features.feature.items()
    if value.WhichOneof('kind')
  }


def some(count: int, read: Callable[[int], Any]) -> list[Any]:
  """Returns about LOOKED_AT readable records, spread over all."""
  found, error = [], None
  for index in range(0, count, max(count // LOOKED_AT, 1)):
    try:
      found.append(read(index))
    except BadRecordError as bad:
      error = bad
  if not found:
    raise UserError(f'nothing can be read: {error or "there are no examples"}')
  return found


def singles(protos: Sequence[Example]) -> list[Example]:
  """Unwraps lists of fields that have exactly one value in every proto."""
  several = {name for proto in protos for name, v in proto.items() if len(v) != 1}
  return [
    {name: v if name in several else v[0] for name, v in proto.items()}
    for proto in protos
  ]


def inferred(examples: Sequence[Example], needed: Iterable[str] = NEEDED) -> Any:
  """Infers the features of examples of bytes, text, numbers and lists of these.

  Includes the fields that all examples have, and `needed` fields that at least half of
  them have.
  """
  import tensorflow_datasets as tfds

  counts = collections.Counter(name for example in examples for name in example)
  least = {name: len(examples) for name in counts} | {
    name: len(examples) / 2 for name in needed
  }
  return tfds.features.FeaturesDict(
    {
      name: _feature([example[name] for example in examples if name in example])
      for name, count in counts.items()
      if count >= least[name]
    }
  )


def partial(examples: Sequence[Example], features: Any) -> dict[str, int]:
  """Returns the fields that are left out because some examples lack them."""
  names = {name for example in examples for name in example if name not in features}
  lacking = {name: sum(name not in example for example in examples) for name in names}
  return {
    f'fields {name!r}, which {lacking[name]:,} of {len(examples):,} examples lack': 1
    for name in sorted(names)
  }


def _feature(values: Sequence[Any]) -> Any:
  import tensorflow_datasets as tfds

  if all(isinstance(value, list) for value in values):
    items = [item for value in values for item in value]
    return several(_feature(items))
  kinds = {type(value) for value in values}
  if kinds == {bytes} and all(map(decoding.is_image, values)):
    return tfds.features.Image()
  for types, dtype in (
    ({bool}, np.bool_),
    ({int}, np.int64),
    ({int, float}, np.float32),
  ):
    if kinds and kinds <= types:
      return tfds.features.Scalar(dtype)
  return tfds.features.Text()


def several(feature: Any) -> Any:
  """Returns the feature of a list of any length; scalars become an array."""
  import tensorflow_datasets as tfds

  if type(feature) is tfds.features.Scalar:
    return tfds.features.Tensor(shape=(None,), dtype=feature.np_dtype)
  return tfds.features.Sequence(feature)


def _number(value: Any, dtype: np.dtype) -> Any:
  """Converts a number or a list of numbers; raises BadRecordError if not exact."""
  exact = None
  with contextlib.suppress(ValueError):  # lists of several lengths
    exact = np.array(value)
  numbers = exact is not None and exact.dtype.kind in 'biuf'
  if not numbers or (dtype.kind != 'f' and (exact.astype(dtype) != exact).any()):
    raise BadRecordError(f'{value!r} is not {dtype}, as in other examples')
  return exact.astype(dtype) if isinstance(value, list) else value


def fitted(value: Any, feature: Any) -> Any:
  """Converts a JSON value for its feature; text features get other values as JSON."""
  import tensorflow_datasets as tfds

  if isinstance(feature, tfds.features.Sequence) and isinstance(value, list):
    return [fitted(item, feature.feature) for item in value]
  if isinstance(feature, tfds.features.Tensor):
    dtype = np.dtype(feature.np_dtype)
    if dtype.kind in 'biuf':
      return _number(value, dtype)
  if not isinstance(feature, tfds.features.Text) or isinstance(value, bytes):
    return value
  return (value if isinstance(value, str) else json.dumps(value)).encode()
