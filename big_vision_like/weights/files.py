"""Files of arrays by name, .npz, .safetensors and .pth: nothing in them is executed."""

import os
import pathlib
import zipfile
import zlib
from collections.abc import Mapping

import ml_dtypes  # noqa: F401 - lets safetensors know bfloat16
import numpy as np
import safetensors
import safetensors.numpy

from big_vision_like import files
from big_vision_like.errors import UserError, listed
from big_vision_like.weights import torch_files

# What NumPy and zipfile raise of damaged files.
_DAMAGE = (
  OSError,
  EOFError,
  ValueError,
  MemoryError,
  RuntimeError,
  zipfile.BadZipFile,
  zlib.error,
)
# Files of torch.save, and pickles of anything.
TORCH = ('.pth', '.pt', '.bin')
PICKLES = ('.pkl', '.pickle', '.ckpt')


def read(path: str | os.PathLike) -> dict[str, np.ndarray]:
  """The arrays of a file; its suffix says the format.

  Of a file of torch.save they are those of its state dict, under 'model' or
  'state_dict' where it holds more. Raises a `UserError` where there is no such file,
  and for one that is cut off, of another format, or holds Python objects.
  """
  path = pathlib.Path(path)
  _check_there(path)
  if path.suffix in PICKLES:
    raise UserError(
      f'{path} is a pickle, a program that would run here, and is not read: where you'
      ' trust it, save its arrays as .safetensors (safetensors.torch.save_file) or its'
      ' state dict as .pth (torch.save)'
    )
  readers = {'.npz': read_npz, '.safetensors': read_safetensors}
  readers |= dict.fromkeys(TORCH, torch_files.read)
  if path.suffix not in readers:
    raise UserError(f'{path} ends in none of {", ".join(readers)}')
  return readers[path.suffix](path)


def read_npz(path: str | os.PathLike) -> dict[str, np.ndarray]:
  """The arrays of an .npz file."""
  _check_there(path)
  if not zipfile.is_zipfile(path):  # the last bytes of an archive say what is in it
    raise UserError(f'{path} is not a whole .npz file: copy it again')
  with open(path, 'rb') as file:  # which NumPy leaves open where it fails
    try:
      arrays = np.load(file, allow_pickle=False)
    except _DAMAGE as error:
      raise UserError(f'{path} is damaged ({error}): copy it again') from error
    with arrays:
      return {name: _array(path, arrays, name) for name in arrays.files}


def _array(path: str | os.PathLike, arrays: Mapping, name: str) -> np.ndarray:
  try:
    array = arrays[name]
  except _DAMAGE as error:
    if 'pickle' in str(error):
      raise UserError(
        f'{path}: {name!r} is a pickled Python object and is not read: save arrays of'
        ' numbers without it'
      ) from error
    raise UserError(f'{path}: {name!r} is damaged ({error}): copy it again') from error
  if not isinstance(array, np.ndarray):  # NumPy gives other files as bytes
    raise UserError(f'{path}: {name!r} is not an array')
  return array


def read_safetensors(path: str | os.PathLike) -> dict[str, np.ndarray]:
  """The arrays of a .safetensors file."""
  _check_there(path)
  try:
    return safetensors.numpy.load_file(path)
  except (safetensors.SafetensorError, KeyError) as error:
    raise UserError(
      f'{path} is not a whole .safetensors file ({error}): copy it again'
    ) from error


def write(path: str | os.PathLike, arrays: Mapping[str, np.ndarray]) -> None:
  """Writes an .npz or .safetensors file, which appears when it is complete."""
  path = pathlib.Path(path)
  if path.suffix != '.safetensors':
    return files.write_npz(path, arrays)
  # It writes the memory as it lies.
  whole = {name: np.ascontiguousarray(array) for name, array in arrays.items()}
  with files.atomic(path) as part:
    # timm and transformers want to know whose the tensors are.
    safetensors.numpy.save_file(whole, part, metadata={'format': 'pt'})


def without_counts(arrays: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
  """Returns the arrays but for the counts of steps that PyTorch's norms keep."""
  counts = '.num_batches_tracked'
  return {name: x for name, x in arrays.items() if not name.endswith(counts)}


def check_finite(arrays: Mapping[str, np.ndarray], source: str) -> None:
  """Raises a `UserError` that names the arrays with NaN or infinities."""
  broken = sorted(name for name, array in arrays.items() if not _finite(array))
  if broken:
    raise UserError(f'{source}: NaN or infinities in {listed(broken)}')


def _finite(array: np.ndarray) -> bool:
  if array.dtype == np.dtype('V2'):  # what .npz makes of bfloat16
    array = array.view(ml_dtypes.bfloat16)
  # What is no number, `tree.as_float32` refuses.
  if array.dtype.kind not in 'fV' or np.issubdtype(array.dtype, np.void):
    return True
  return bool(np.isfinite(array).all())


def _check_there(path: str | os.PathLike) -> None:
  if not pathlib.Path(path).is_file():
    raise UserError(f'{path} is not a file')
