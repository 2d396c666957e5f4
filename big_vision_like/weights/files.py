"""Files of arrays by name, .npz, .safetensors and .pth; nothing in them is executed.

The names, types, shapes and offsets that a file declares are checked before any memory
is allocated for it.
"""

import math
import os
import pathlib
import re
import zipfile
from collections.abc import Mapping
from typing import Any

import ml_dtypes  # also registers bfloat16 with safetensors
import numpy as np
import safetensors
import safetensors.numpy

from big_vision_like import files
from big_vision_like.errors import UserError, listed
from big_vision_like.weights import archives, tf_checkpoint, torch_files

# The header of an array in an .npz file, a Python dict of three entries in any order,
# with single spaces.
_NPY_HEADER = re.compile(
  r'\{(?: ?(?:'
  r"""['"]descr['"] ?: ?['"](?P<dtype>[<>|=]?[a-zA-Z]\d*)['"]|"""
  r"""['"]fortran_order['"] ?: ?(?P<order>True|False)|"""
  r"""['"]shape['"] ?: ?\((?P<shape>[\dL, ]*)\)"""
  r') ?,?){3} ?\}'
)
_NPY_LONGEST = 10_000  # bytes, as in NumPy
# The supported types of a .safetensors file, and the longest header in bytes.
_SAFETENSORS = {
  'BOOL': np.bool_,
  'BF16': ml_dtypes.bfloat16,
  **{f'F{8 * n}': f'<f{n}' for n in (2, 4, 8)},
  **{f'I{8 * n}': f'<i{n}' for n in (1, 2, 4, 8)},
  **{f'U{8 * n}': f'<u{n}' for n in (1, 2, 4, 8)},
}
_SAFETENSORS_LONGEST = 2**24
# Files of torch.save, and pickles of anything.
TORCH = ('.pth', '.pt', '.bin', '.tar', '.pyth')  # .pth.tar ends in .tar
PICKLES = ('.pkl', '.pickle', '.ckpt')


def read(path: str | os.PathLike) -> dict[str, np.ndarray]:
  """Reads the arrays of a file, in the format of its suffix.

  For a file of torch.save, these are the arrays of its state dict, under 'model' or
  'state_dict' if the file holds more. Raises a `UserError` for a file that is missing,
  cut off, of another format, or holds Python objects.
  """
  return read_told(path)[0]


def read_told(path: str | os.PathLike) -> torch_files.Read:
  """Reads like `read`, and also returns sentences about what was not read."""
  path = pathlib.Path(path)
  _check_there(path)
  if path.suffix in PICKLES:
    raise UserError(
      f'{path} is a pickle, a program that would run when loaded, and is not read: if'
      ' you trust it, save its arrays as .safetensors (safetensors.torch.save_file) or'
      ' its state dict as .pth (torch.save)'
    )
  readers = {'.npz': read_npz, '.safetensors': read_safetensors}
  if path.suffix in TORCH:
    return torch_files.read_told(path)
  if path.suffix == tf_checkpoint.SUFFIX:
    return tf_checkpoint.read(path)
  if path.suffix not in readers:
    known = ', '.join([*readers, *TORCH, tf_checkpoint.SUFFIX])
    raise UserError(f'{path} ends in none of {known}')
  return readers[path.suffix](path), ()


def read_npz(path: str | os.PathLike) -> dict[str, np.ndarray]:
  """Reads the arrays of an .npz file."""
  _check_there(path)
  if not zipfile.is_zipfile(path):  # the last bytes of an archive list its members
    raise UserError(f'{path} is not a whole .npz file: copy it again')
  arrays: dict[str, np.ndarray] = {}
  try:
    with archives.opened(path) as members:
      archives.check_names(members, path)
      for file, member in members.items():
        name = file.removesuffix('.npy')
        if name in arrays:
          raise UserError(f'{path} has {name!r} twice: write it again')
        arrays[name] = _array(path, name, member)
  except UserError:
    raise
  except archives.DAMAGE as error:
    raise UserError(f'{path} is damaged ({error}): copy it again') from error
  return arrays


def _array(path: str | os.PathLike, name: str, member: archives.Member) -> np.ndarray:
  """Reads one array, if its size matches the size that its header declares."""
  try:
    with member.open() as file:
      _check_npy(file, name, member.size)
    with member.open() as file:
      return np.lib.format.read_array(file, allow_pickle=False)
  except UserError as error:
    raise UserError(f'{path}: {error}') from error
  except archives.DAMAGE as error:
    raise UserError(f'{path}: {name!r} is damaged ({error}): copy it again') from error


def _check_npy(file: Any, name: str, size: int) -> None:
  """Raises unless this is an array of numbers of the declared size."""
  start = file.read(8)
  if start[:6] != np.lib.format.MAGIC_PREFIX or len(start) < 8:
    raise UserError(f'{name!r} is not an array')
  length = int.from_bytes(file.read(2 if start[6] == 1 else 4), 'little')
  if length > _NPY_LONGEST:
    raise UserError(f'{name!r} has a header of {length:,} bytes, which is too long')
  text = ' '.join(file.read(length).decode('latin1').split())
  if re.search(r"""['"]\|O['"]""", text):
    raise UserError(
      f'{name!r} is a pickled Python object and is not read: save arrays of numbers'
      ' without it'
    )
  header = _NPY_HEADER.fullmatch(text)
  if header is None or None in header.groups():
    raise UserError(
      f'{name!r} has a header that does not describe an array of numbers: write it'
      ' again'
    )
  shape = [int(n) for n in re.findall(r'\d+', header['shape'])]
  promised = math.prod(shape) * np.dtype(header['dtype']).itemsize
  if promised != size - file.tell():
    raise UserError(
      f'{name!r} declares {promised:,} bytes, but has {size - file.tell():,}: copy it'
      ' again'
    )


def read_safetensors(path: str | os.PathLike) -> dict[str, np.ndarray]:
  """Reads the arrays of a .safetensors file."""
  _check_there(path)
  try:
    _check_safetensors(path)
    return safetensors.numpy.load_file(path)
  except UserError:
    raise
  except (safetensors.SafetensorError, *archives.DAMAGE) as error:
    raise UserError(
      f'{path} is not a whole .safetensors file ({error}): copy it again'
    ) from error


def _check_safetensors(path: str | os.PathLike) -> None:
  """Raises for headers that do not describe exactly the bytes after them."""
  size = pathlib.Path(path).stat().st_size
  with open(path, 'rb') as file:
    length = int.from_bytes(file.read(8), 'little')
    if length > size - 8:
      raise ValueError(f'its header of {length:,} bytes is cut off')
    if length > _SAFETENSORS_LONGEST:
      raise UserError(f'{path} has a header of {length:,} bytes, which is too long')
    entries = files.parse_json(file.read(length), f'the header of {path}')
  if not isinstance(entries, dict):
    raise ValueError('its header has no names')
  entries.pop('__metadata__', None)
  archives.check_names(entries, path)
  places = []
  for name, entry in entries.items():
    dtype, shape, place = (
      entry.get(key) if isinstance(entry, dict) else None
      for key in ('dtype', 'shape', 'data_offsets')
    )
    if not _counts(shape) or not _counts(place) or len(place) != 2:
      raise UserError(
        f'{path}: {name!r} has no shape or place of whole numbers: {entry!s:.100}'
      )
    if not isinstance(dtype, str) or dtype not in _SAFETENSORS:
      raise UserError(
        f'{path}: {name!r} holds {dtype!r:.100}, which is not supported; the types are'
        f' {", ".join(_SAFETENSORS)}'
      )
    promised = math.prod(shape) * np.dtype(_SAFETENSORS[dtype]).itemsize
    if promised != place[1] - place[0]:
      raise UserError(
        f'{path}: {name!r} declares {promised:,} bytes, but has {place[1] - place[0]:,}'
      )
    places.append(place)
  end = 0
  for start, stop in sorted(places):
    if start != end:
      raise ValueError(f'its arrays overlap or leave gaps at byte {start:,}')
    end = stop
  if end != size - 8 - length:
    raise ValueError(f'its arrays take {end:,} of {size - 8 - length:,} bytes')


def _counts(numbers: Any) -> bool:
  """Returns whether this is a list of whole numbers, none of them negative."""
  return isinstance(numbers, list) and all(type(n) is int and n >= 0 for n in numbers)


def write(path: str | os.PathLike, arrays: Mapping[str, np.ndarray]) -> None:
  """Writes an .npz or .safetensors file atomically."""
  path = pathlib.Path(path)
  if path.suffix != '.safetensors':
    return files.write_npz(path, arrays)
  # safetensors writes the memory of an array regardless of its strides.
  whole = {name: np.ascontiguousarray(array) for name, array in arrays.items()}
  with files.atomic(path) as part:
    try:
      # timm and transformers require the framework of the tensors.
      safetensors.numpy.save_file(whole, part, metadata={'format': 'pt'})
    except safetensors.SafetensorError as error:
      system = re.search(r'\(os error (\d+)\)', str(error))  # such as a full disk
      if system is None:
        raise
      number = int(system[1])
      raise OSError(number, os.strerror(number), str(path)) from error


def without_counts(arrays: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
  """Returns the arrays without the step counts that PyTorch and TensorFlow keep.

  PyTorch's norms and averages of models (`swa_utils.AveragedModel`) have such counts,
  and so do TensorFlow checkpoints.
  """
  counts = '.num_batches_tracked'
  return {
    name: x
    for name, x in arrays.items()
    if not name.endswith(counts) and name not in ('n_averaged', 'global_step')
  }


def check_finite(arrays: Mapping[str, np.ndarray], source: str) -> None:
  """Raises a `UserError` that names the arrays with NaN or infinities."""
  broken = sorted(name for name, array in arrays.items() if not _finite(array))
  if broken:
    raise UserError(f'{source}: NaN or infinities in {listed(broken)}')


def _finite(array: np.ndarray) -> bool:
  if array.dtype == np.dtype('V2'):  # .npz's form of bfloat16
    array = array.view(ml_dtypes.bfloat16)
  # `tree.as_float32` rejects arrays of anything but numbers.
  if array.dtype.kind not in 'fV' or np.issubdtype(array.dtype, np.void):
    return True
  return bool(np.isfinite(array).all())


def _check_there(path: str | os.PathLike) -> None:
  if not pathlib.Path(path).is_file():
    raise UserError(f'{path} is not a file')
