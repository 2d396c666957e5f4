"""Files of torch.save, .pth, without running what is in them.

Such a file is a pickle, a program that calls what it names, beside raw arrays. Here it
may name nothing but tensors and plain containers; anything else is refused by name.
Both layouts are read: the archive of PyTorch 1.6 on, and the one before it, in which
the published DETRs lie.
"""

import argparse
import collections
import math
import os
import pathlib
import pickle
import zipfile
import zlib
from collections.abc import Callable, Mapping, Sequence
from typing import Any, BinaryIO, NamedTuple

import ml_dtypes
import numpy as np

from big_vision_like.errors import UserError

_DTYPES = {
  'DoubleStorage': np.float64,
  'FloatStorage': np.float32,
  'HalfStorage': np.float16,
  'BFloat16Storage': ml_dtypes.bfloat16,
  'LongStorage': np.int64,
  'IntStorage': np.int32,
  'ShortStorage': np.int16,
  'CharStorage': np.int8,
  'ByteStorage': np.uint8,
  'BoolStorage': np.bool_,
}
# What holds the state dict where a file has more than that.
_KEYS = ('model', 'state_dict')
# What the older layout begins with, after which its version and the writer's machine.
_MAGIC, _VERSION = 0x1950A86A20F9469CFC6C, 1001
_DAMAGE = (
  OSError,
  EOFError,
  ValueError,
  KeyError,
  IndexError,
  TypeError,
  AttributeError,
  MemoryError,
  OverflowError,
  RuntimeError,
  pickle.UnpicklingError,
  zipfile.BadZipFile,
  zlib.error,
)


class _Storage(NamedTuple):
  """Where the numbers of a tensor lie: the key of a block, and how many it has."""

  key: str
  dtype: np.dtype
  size: int


class _Tensor(NamedTuple):
  """A view of a storage, whose numbers the older layout has behind the pickle."""

  storage: _Storage
  offset: int
  shape: tuple[int, ...]
  strides: tuple[int, ...]


def read(path: str | os.PathLike, key: str | None = None) -> dict[str, np.ndarray]:
  """The arrays of a state dict, or of the one under `key` in a dict of several things.

  Without `key` that is 'model' or 'state_dict', where there is one. Raises a
  `UserError` for files that are damaged, hold what is neither a tensor nor a plain
  container, or have no such state dict.
  """
  path = pathlib.Path(path)
  if not path.is_file():
    raise UserError(f'{path} is not a file')
  try:
    if zipfile.is_zipfile(path):
      content = _read_archive(path, key)
    else:
      content = _read_old(path, key)
  except UserError as error:
    raise UserError(f'{path}: {error}') from error
  except _DAMAGE as error:
    raise UserError(
      f'{path} is not a whole file of torch.save ({error}): copy it again'
    ) from error
  tensors = isinstance(content, Mapping) and all(
    isinstance(name, str) and isinstance(x, np.ndarray) for name, x in content.items()
  )
  if not tensors:
    raise UserError(
      f'{path} is not a state dict, tensors by name: name what holds it{_keys(content)}'
    )
  return dict(content)


def _chosen(content: Any, key: str | None) -> Any:
  if key is None and isinstance(content, Mapping):
    key = next((k for k in _KEYS if isinstance(content.get(k), Mapping)), None)
  if key is None:
    return content
  if not isinstance(content, Mapping) or key not in content:
    raise UserError(f'there is no {key!r} in it{_keys(content)}')
  return content[key]


def _keys(content: Any) -> str:
  if not isinstance(content, Mapping):
    return ''
  names = [str(name) for name in content]
  return f'; there are {", ".join(names[:10])}{" ..." if len(names) > 10 else ""}'


class _Unpickler(pickle.Unpickler):
  """Finds what tensors and plain containers need, and nothing else."""

  def find_class(self, module: str, name: str) -> Any:
    if module in ('torch', 'torch.storage') and name in _DTYPES:
      return name
    known: dict[tuple[str, str], Callable] = {
      ('collections', 'OrderedDict'): collections.OrderedDict,
      ('torch._utils', '_rebuild_tensor'): _tensor,
      ('torch._utils', '_rebuild_tensor_v2'): _tensor,
      ('torch._utils', '_rebuild_parameter'): lambda tensor, *_: tensor,
      ('torch', 'Size'): tuple,
      ('argparse', 'Namespace'): argparse.Namespace,  # the arguments of a training run
    }
    if (module, name) not in known:
      raise UserError(
        f'it holds a {module}.{name}, which is not read since it may run code: save its'
        ' tensors alone where you trust it'
      )
    return known[module, name]

  def persistent_load(self, saved: Sequence[Any]) -> _Storage:
    kind, dtype, key, _, size, *view = saved
    if kind != 'storage' or dtype not in _DTYPES or (view and view[0]):
      raise UserError(f'it holds tensors of a kind that is not read, {dtype}')
    return _Storage(str(key), np.dtype(_DTYPES[dtype]), int(size))


def _tensor(
  storage: _Storage, offset: int, shape: Sequence[int], strides: Sequence[int], *_: Any
) -> _Tensor:
  if not isinstance(storage, _Storage):
    raise UserError('it holds a tensor without numbers')
  return _Tensor(storage, int(offset), tuple(shape), tuple(strides))


def _read_archive(path: pathlib.Path, key: str | None) -> Any:
  with zipfile.ZipFile(path) as archive:
    (pickled,) = (name for name in archive.namelist() if name.endswith('/data.pkl'))
    folder = pickled.removesuffix('data.pkl')
    names = set(archive.namelist())
    if (
      folder + 'byteorder' in names and archive.read(folder + 'byteorder') != b'little'
    ):
      raise UserError('its numbers are big-endian, which is not read')
    with archive.open(pickled) as file:
      content = _Unpickler(file).load()

    def block(storage: _Storage) -> bytes:
      return archive.read(f'{folder}data/{storage.key}')

    return _filled(_chosen(content, key), block, {})


def _read_old(path: pathlib.Path, key: str | None) -> Any:
  with path.open('rb') as file:
    if (_load(file), _load(file)) != (_MAGIC, _VERSION):
      raise ValueError('another beginning')
    if not _load(file)['little_endian']:
      raise UserError('its numbers are big-endian, which is not read')
    content, keys = _load(file), _load(file)
    storages = {s.key: s for s in _storages(content)}
    blocks = {}
    for name in keys:
      size = int.from_bytes(file.read(8), 'little')
      blocks[name] = file.read(size * storages[name].dtype.itemsize)
  return _filled(_chosen(content, key), lambda storage: blocks[storage.key], {})


def _load(file: BinaryIO) -> Any:
  return _Unpickler(file).load()


def _storages(content: Any) -> list[_Storage]:
  if isinstance(content, _Tensor):
    return [content.storage]
  if isinstance(content, Mapping):
    content = list(content.values())
  if isinstance(content, (list, tuple)):
    return [storage for x in content for storage in _storages(x)]
  return []


def _filled(
  content: Any,
  block: Callable[[_Storage], bytes],
  seen: dict[str, np.ndarray],
) -> Any:
  """The content with arrays for tensors; `seen` are the storages read so far."""
  if isinstance(content, _Tensor):
    storage = content.storage
    if storage.key not in seen:
      seen[storage.key] = np.frombuffer(block(storage), storage.dtype)
    return _view(seen[storage.key], content)
  if isinstance(content, Mapping):
    return {name: _filled(x, block, seen) for name, x in content.items()}
  if isinstance(content, (list, tuple)):
    return [_filled(x, block, seen) for x in content]
  return content


def _view(numbers: np.ndarray, tensor: _Tensor) -> np.ndarray:
  """The tensor's array, after its strides were found to lie within the numbers."""
  if not all(x >= 0 for x in (tensor.offset, *tensor.shape, *tensor.strides)):
    raise ValueError('negative sizes')
  if 0 in tensor.shape:
    return np.zeros(tensor.shape, numbers.dtype)
  last = sum((n - 1) * s for n, s in zip(tensor.shape, tensor.strides, strict=True))
  # One that is repeated would fill the memory.
  if tensor.offset + last >= numbers.size or math.prod(tensor.shape) > numbers.size:
    raise ValueError('a tensor is larger than its numbers')
  strides = tuple(s * numbers.itemsize for s in tensor.strides)
  array = np.lib.stride_tricks.as_strided(
    numbers[tensor.offset :], tensor.shape, strides, writeable=False
  )
  return array.copy()
