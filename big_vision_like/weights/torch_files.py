"""Files of torch.save, .pth, read without running anything in them.

Such a file is a pickle, a program that calls functions by name, with raw arrays. It
never reaches Python's own unpickler. `pickles` follows the few instructions that
tensors and plain containers need, and rejects anything else by name. Some files hold
whole modules instead of their state dicts: objects of the classes in `_OBJECTS` become
inert records of their attributes, in which arrays are found by name. Both layouts are
read: the archive of PyTorch since 1.6, and the older one, which DETRs were published
in.
"""

import dataclasses
import io
import math
import os
import pathlib
import re
import zipfile
from collections.abc import Callable, Mapping
from typing import Any, BinaryIO, NamedTuple

import ml_dtypes
import numpy as np

from big_vision_like.errors import UserError, listed
from big_vision_like.weights import archives, pickles

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
# Keys of the state dict in a file that holds more; the first one present is used. In
# files of timm's scripts this is the average, which timm itself reads.
_KEYS = (
  'model',
  'state_dict_ema',
  'state_dict',
  'model_state_dict',
  'model_state',
  'net',
  'network',
  'module',
  'model_ema',
  'ema',
  'ema_state_dict',
)
# The start of the older layout, which the version and the writer's machine follow.
_MAGIC, _VERSION = 0x1950A86A20F9469CFC6C, 1001
_LONGEST = 2**26  # most bytes of a pickle
_TENSORS = ('_rebuild_tensor', '_rebuild_tensor_v2')
# The allowed callables, and stand-ins for their results.
_CALLABLES: dict[tuple[str, str], Callable[..., Any]] = {
  ('collections', 'OrderedDict'): lambda pairs=(): pickles.put(
    {}, [x for name, value in pairs for x in (name, value)]
  ),
  **{('torch._utils', name): lambda *told: _tensor(*told) for name in _TENSORS},
  ('torch._utils', '_rebuild_parameter'): lambda tensor, *_: tensor,
  ('torch', 'Size'): tuple,
  ('argparse', 'Namespace'): lambda: None,  # the arguments of a training run
  ('collections', 'defaultdict'): lambda *_: {},
  **{(home, 'set'): lambda items=(): None for home in ('builtins', '__builtin__')},
  ('torch.nn.backends.thnn', '_get_thnn_function_backend'): lambda: None,
}
# Modules, and classes of them, whose objects are read as their attributes.
_OBJECTS = (
  (r'torch\.nn\.modules\.\w+', r'[A-Z]\w*'),
  (r'torch\.optim\.\w+', r'[A-Z]\w*'),
  (r'torchvision\.models\.resnet', r'ResNet|Bottleneck|BasicBlock'),
  # The captioning tutorial of sgrvinod.
  (r'models', r'Encoder|DecoderWithAttention|Attention'),
)
_PLAIN = ('dict', 'object')  # types that are named, but not called
_DEEPEST = 50  # levels of modules in modules


# Arrays by name, and sentences about what was not read.
Read = tuple[dict[str, np.ndarray], tuple[str, ...]]


@dataclasses.dataclass(eq=False)
class _Object:
  """A stand-in for an object: the attributes that a pickle sets."""

  attributes: dict[str, Any] = dataclasses.field(default_factory=dict)


class _Storage(NamedTuple):
  """The location of a tensor's numbers: the key of a block, and how many it has."""

  key: str
  dtype: np.dtype
  size: int

  @property
  def nbytes(self) -> int:
    return self.size * self.dtype.itemsize


class _Tensor(NamedTuple):
  """A view of a storage; in the older layout its numbers follow the pickle."""

  storage: _Storage
  offset: int
  shape: tuple[int, ...]
  strides: tuple[int, ...]

  @property
  def nbytes(self) -> int:
    return math.prod(self.shape) * self.storage.dtype.itemsize


def read_told(path: str | os.PathLike) -> Read:
  """Reads the arrays of a state dict; also returns sentences about skipped ones.

  A dict of several things has it under 'model', 'state_dict' or a similar key. Raises a
  `UserError` for files that are damaged, hold anything but tensors and plain
  containers, or have no such state dict.
  """
  path = pathlib.Path(path)
  if not path.is_file():
    raise UserError(f'{path} is not a file')
  try:
    reader = _read_archive if zipfile.is_zipfile(path) else _read_old
    return reader(path)
  except UserError as error:
    said = str(error)
    raise UserError(said if str(path) in said else f'{path}: {said}') from error
  except archives.DAMAGE as error:
    raise UserError(
      f'{path} is not a whole file of torch.save ({error}): copy it again'
    ) from error


def _state(
  content: Any, path: pathlib.Path
) -> tuple[dict[str, _Tensor], tuple[str, ...]]:
  """Finds the state dict, and returns sentences about others in the file."""
  within, told = (), ()
  if arrays := _of_modules(content):
    content = arrays
  while not _is_state(content):
    there = isinstance(content, dict) and [
      k for k in _KEYS if isinstance(content.get(k), dict) and content[k]
    ]
    if not there or len(within) == len(_KEYS):  # a dict may contain itself
      raise UserError(
        f'{path} is not a state dict, tensors by name: save one without its container'
        f'{_keys(content)}'
      )
    there.sort(key=lambda k: not _is_state(content[k]))
    within += (there[0],)
    if len(there) > 1:
      others = listed(repr('.'.join((*within[:-1], k))) for k in there[1:])
      told += (f'{".".join(within)!r} of the file is read, not {others}',)
    content = content[there[0]]
  archives.check_names(content, path)
  archives.check_size(sum(tensor.nbytes for tensor in content.values()), path)
  return content, told


def _of_modules(content: Any) -> dict[str, _Tensor]:
  """Returns the tensors of a module, or of all modules in a dict, by name."""
  if isinstance(content, _Object):
    return _of_module(content)
  found = {}
  for name, value in content.items() if isinstance(content, dict) else ():
    if isinstance(name, str) and isinstance(value, _Object):
      found |= {f'{name}.{inner}': x for inner, x in _of_module(value).items()}
  return found


def _of_module(module: _Object, level: int = 0) -> dict[str, _Tensor]:
  """Returns the tensors of a module and of its parts, named as in its state dict."""
  if level > _DEEPEST:
    raise UserError(f'its modules contain each other more than {_DEEPEST} times')
  found = {}
  for kind in ('_parameters', '_buffers', '_modules'):
    parts = module.attributes.get(kind)
    for name, value in parts.items() if isinstance(parts, dict) else ():
      if isinstance(value, _Object):
        inner = _of_module(value, level + 1)
        found |= {f'{name}.{key}': x for key, x in inner.items()}
      elif isinstance(value, _Tensor):
        found[str(name)] = value
    if len(found) > pickles.MOST:
      raise UserError('its modules hold too many arrays')
  return found


def _is_state(content: Any) -> bool:
  return isinstance(content, dict) and all(
    isinstance(name, str) and isinstance(x, _Tensor) for name, x in content.items()
  )


def _keys(content: Any) -> str:
  if not isinstance(content, Mapping):
    return ''
  names = [f'{name!s:.40}'.encode('ascii', 'backslashreplace') for name in content]
  names = [name.decode() for name in names]
  return f'; its keys are {", ".join(names[:10])}{" ..." if len(names) > 10 else ""}'


def _tensor(storage: Any, offset: Any, shape: Any, strides: Any, *_: Any) -> _Tensor:
  if not isinstance(storage, _Storage):
    raise UserError('it holds a tensor without numbers')
  if max(len(shape), len(strides)) > 64:  # NumPy's limit of axes
    raise ValueError('a tensor of too many axes')
  sizes = (offset, *shape, *strides)
  if any(type(size) is not int or size < 0 for size in sizes):
    raise ValueError('negative sizes')
  return _Tensor(storage, offset, tuple(shape), tuple(strides))


def _storage(saved: Any) -> _Storage | pickles.Named:
  if saved[0] == 'module' and isinstance(saved[1], pickles.Named):
    return saved[1]  # a class with its source code, which older files hold
  kind, dtype, key, _, size, *view = saved
  known = isinstance(dtype, pickles.Named) and dtype.name in _DTYPES
  if kind != 'storage' or not known or (view and view[0]):
    name = dtype.name if known else type(dtype).__name__
    raise UserError(f'it holds tensors of a kind that is not supported, {name}')
  if type(size) is not int or size < 0 or not isinstance(key, str | int):
    raise ValueError('negative sizes')
  return _Storage(str(key), np.dtype(_DTYPES[dtype.name]), size)


def _found(module: str, name: str) -> pickles.Named:
  storage = module in ('torch', 'torch.storage') and name in _DTYPES
  plain = module in ('builtins', '__builtin__') and name in _PLAIN
  known = storage or plain or _is_object(module, name)
  if not known and (module, name) not in _CALLABLES:
    raise UserError(
      f'it holds a {module}.{name}, which is not read since it may run code: if you'
      ' trust it, save only its tensors'
    )
  return pickles.Named(module, name)


def _is_object(module: str, name: str) -> bool:
  return any(re.fullmatch(x, module) and re.fullmatch(y, name) for x, y in _OBJECTS)


class _Callables(dict):
  """Stand-ins by name; those of the classes in `_OBJECTS` make records."""

  def __missing__(self, named: pickles.Named) -> Callable[..., _Object]:
    if _is_object(*named):
      return lambda *_: _Object()
    raise KeyError(named)


def _build(target: Any, state: Any) -> None:
  """Sets the attributes of a record; those of other objects are not needed."""
  if isinstance(target, _Object) and isinstance(state, dict):
    target.attributes = state


def _load(file: BinaryIO) -> tuple[Any, dict[str, _Storage]]:
  """Interprets one pickle; returns its value, and the storages it names by key."""
  storages: dict[str, _Storage] = {}

  def persistent(saved: Any) -> _Storage | pickles.Named:
    storage = _storage(saved)
    if isinstance(storage, pickles.Named):
      return storage
    if storages.setdefault(storage.key, storage) != storage:
      raise ValueError(f'two storages are called {storage.key}')
    return storage

  known = _Callables(_CALLABLES)
  value = pickles.load(file, _found, known, persistent=persistent, build=_build)
  return value, storages


def _read_archive(path: pathlib.Path) -> Read:
  with archives.opened(path) as members:
    (pickled,) = (name for name in members if name.endswith('/data.pkl'))
    folder = pickled.removesuffix('data.pkl')
    order = members.get(folder + 'byteorder')
    if order is not None and order.read() != b'little':
      raise UserError('its numbers are big-endian, which is not supported')
    if members[pickled].size > _LONGEST:
      raise UserError(
        f'its pickle has {members[pickled].size:,} bytes, which is too large'
      )
    content, _ = _load(io.BytesIO(members[pickled].read()))
    state, told = _state(content, path)
    _check_storages(state)
    blocks: dict[str, np.ndarray] = {}
    for storage in {tensor.storage for tensor in state.values()}:
      member = members[f'{folder}data/{storage.key}']
      if member.size != storage.nbytes:
        raise ValueError(
          f'storage {storage.key} declares {storage.nbytes:,} bytes, but has'
          f' {member.size:,}'
        )
      blocks[storage.key] = np.frombuffer(member.read(), storage.dtype)
  return {k: _view(blocks[x.storage.key], x) for k, x in state.items()}, told


def _read_old(path: pathlib.Path) -> Read:
  with path.open('rb') as file:
    if (_load(file)[0], _load(file)[0]) != (_MAGIC, _VERSION):
      raise ValueError('it starts differently')
    if not _load(file)[0]['little_endian']:
      raise UserError('its numbers are big-endian, which is not supported')
    (content, storages), (keys, _) = _load(file), _load(file)
    state, told = _state(content, path)
    _check_storages(state)
    used = {tensor.storage.key for tensor in state.values()}
    blocks: dict[str, np.ndarray] = {}
    whole = path.stat().st_size
    for name in keys:
      if not isinstance(name, str):
        raise ValueError('a storage without a name')
      storage, size = storages[name], int.from_bytes(file.read(8), 'little')
      end = file.tell() + storage.nbytes
      if size != storage.size or end > whole:
        raise ValueError(f'the numbers of storage {name} are cut off')
      if name in used:
        blocks[name] = np.frombuffer(file.read(storage.nbytes), storage.dtype)
      file.seek(end)
    if file.tell() != whole:
      raise ValueError(f'{whole - file.tell():,} bytes follow its numbers')
  return {k: _view(blocks[x.storage.key], x) for k, x in state.items()}, told


def _check_storages(state: Mapping[str, _Tensor]) -> None:
  """Raises for large storages if tensors use only a small part of them."""
  needed: dict[_Storage, int] = {}
  for tensor in state.values():
    needed[tensor.storage] = needed.get(tensor.storage, 0) + tensor.nbytes
  for storage, size in needed.items():
    if storage.nbytes > max(archives.SMALL, archives.RATIO * size):
      raise UserError(
        f'it has {storage.nbytes:,} bytes for tensors of {size:,}: save copies of them'
        ' (tensor.clone())'
      )


def _view(numbers: np.ndarray, tensor: _Tensor) -> np.ndarray:
  """Returns a tensor's array, after checking that its strides stay in the numbers."""
  if 0 in tensor.shape:
    return np.zeros(tensor.shape, numbers.dtype)
  last = sum((n - 1) * s for n, s in zip(tensor.shape, tensor.strides, strict=True))
  # A tensor that repeats its numbers could fill the memory.
  if tensor.offset + last >= numbers.size or math.prod(tensor.shape) > numbers.size:
    raise ValueError('a tensor is larger than its numbers')
  strides = tuple(s * numbers.itemsize for s in tensor.strides)
  array = np.lib.stride_tricks.as_strided(
    numbers[tensor.offset :], tensor.shape, strides, writeable=False
  )
  return array.copy()
