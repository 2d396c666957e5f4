"""What preprocessing of all kinds shares: reading pictures, normalization, names.

A module of this folder that is named after what a task predicts (`classes`, `objects`)
has its own kind, and `of_run`, which takes it from the config of a run.
"""

import abc
import dataclasses
import json
import os
from collections.abc import Mapping, Sequence
from typing import Any

import ml_collections as mlc
import numpy as np
from PIL import Image

from big_vision_like import files
from big_vision_like.data.transforms import decoding, headers
from big_vision_like.data.transforms import image as transforms
from big_vision_like.errors import UserError
from big_vision_like.tasks.task import Network

# What makes the size of an image what a model takes.
SIZING = (
  transforms.Resize,
  transforms.ResizeSmall,
  transforms.CentralCrop,
  transforms.EfficientNetCentralCrop,
)
MOST_BYTES = 2**30  # of the file of an image
IMAGENET_MEAN, IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


class Prepare(abc.ABC):
  """From pictures to what a model takes: a frozen dataclass with these fields.

  `mean` and `std` are of values in [0, 1], one for each channel. Classes without a name
  in `label_names` are called by their number. `source` is who says all this.
  """

  mean: tuple[float, ...]
  std: tuple[float, ...]
  label_names: tuple[str, ...]
  source: str

  def __post_init__(self) -> None:
    if len(self.mean) != len(self.std) or not all(self.std):
      raise UserError(
        f'mean={self.mean} and std={self.std} are not one for each channel, std not 0'
      )

  @abc.abstractmethod
  def __call__(self, picture: Any) -> Any:
    """Returns what the model takes of a picture, which is one that `decoded` takes."""

  @abc.abstractmethod
  def with_size(self, size: int | Sequence[int]) -> 'Prepare':
    """Returns the same for images of another size."""

  @abc.abstractmethod
  def replaced(self, nodes: Sequence[mlc.ConfigDict]) -> list[mlc.ConfigDict]:
    """Returns recorded transforms of a config that size images as this does."""

  @property
  def channels(self) -> int:
    """The number of channels, 1 (grey), 3 (RGB) or what the weights take."""
    return len(self.mean)

  @property
  def normalization(self) -> str:
    """Mean and deviation as text."""
    return f'mean {_listed(self.mean)}, std {_listed(self.std)}'

  def name(self, label: int) -> str:
    """Returns the name of a class, or its number as text."""
    names = self.label_names
    return names[label] if label < len(names) else str(label)

  def to_json(self) -> dict[str, Any]:
    """Returns the fields as plain data, which `from_json` reads."""
    return json.loads(json.dumps(dataclasses.asdict(self)))

  @classmethod
  def written(cls, metadata: Mapping[str, Any]) -> 'Prepare | None':
    """Reads the fields that our writer put into a JSON file, if it did."""
    told = (c['preprocessing'] for c in metadata.values() if 'preprocessing' in c)
    return next(map(cls.from_json, told), None)

  @classmethod
  def from_json(cls, content: Mapping[str, Any]) -> 'Prepare':
    """Makes the preprocessing of fields that `to_json` returned."""
    try:
      return cls(**{name: _tuples(value) for name, value in content.items()})
    except TypeError as error:
      raise UserError(f'preprocessing: {error}') from error


def decoded(image: Any, channels: int = 3) -> np.ndarray:
  """Decodes a picture of any kind: uint8 (H, W, C), C being `channels`.

  It may be a path, the bytes of a file, a PIL image, or an array (H, W) or (H, W, C) of
  uint8 or uint16. All give the same pixels: alpha is dropped, EXIF orientation ignored,
  and of 16 bits the upper 8 are kept. Grey and colours become one (grey) or three (RGB)
  channels; weights of four take RGBA, and those of other numbers arrays alone. Raises
  UserError for what cannot be read or is ambiguous.
  """
  name = 'the picture'
  if isinstance(image, str | os.PathLike):
    name = str(image)
    image = _contents(name)
  try:
    if isinstance(image, bytes | bytearray | memoryview):
      _check_channels(channels)
      return decoding.decode(bytes(image), channels)
    if isinstance(image, Image.Image):
      _check_channels(channels)
      return _of_pillow(image, channels)
  except UserError:
    raise
  except ValueError as error:
    why = '' if str(error) == decoding.NOT_WHOLE else f': {error}'
    raise UserError(f'{name} is not a readable JPEG, PNG or WebP{why}') from error
  return _of_array(image, channels)


def _contents(name: str) -> bytes:
  """Returns the bytes of a file, of which no image has more than `MOST_BYTES`."""
  try:
    with open(name, 'rb') as file:
      content = file.read(MOST_BYTES + 1)
  except (OSError, ValueError) as error:  # ValueError: a zero in the name
    why = getattr(error, 'strerror', None) or error
    raise UserError(f'{name} cannot be read: {why}') from error
  if len(content) > MOST_BYTES:
    raise UserError(f'{name} has more than {MOST_BYTES:,} bytes, which no image has')
  return content


def _check_channels(channels: int) -> None:
  if channels not in (1, 3, 4):
    raise UserError(
      f'the weights take images of {channels} channels: give uint8 arrays (H, W,'
      f' {channels}), as files have grey, RGB or RGBA'
    )


def _of_pillow(image: Image.Image, channels: int) -> np.ndarray:
  """Returns the pixels of a PIL image as `decoding.decode` gives those of a file."""
  decoding.check_size(image.height, image.width)
  try:
    image.load()
  # Files are read only now: Pillow raises what its parsing ran into, such as OSError,
  # SyntaxError and struct.error.
  except Exception as error:
    raise ValueError(str(error)) from error
  if image.mode == 'LAB':
    raise ValueError(headers.LAB)
  if channels == 4 and not image.mode.lower().endswith('a'):
    raise ValueError(f'{decoding.NOT_RGBA}, but {image.mode}')
  if image.mode.startswith('I;16'):
    image = Image.fromarray(decoding.upper_bits(np.asarray(image)))
  if image.mode in ('I', 'F'):
    image = Image.fromarray(_of_numbers(np.asarray(image), image.mode))
  if image.mode == 'La':  # grey times alpha
    image = image.convert('LA')
  return decoding.bands(image, channels)


def _of_numbers(values_HW: np.ndarray, mode: str) -> np.ndarray:
  """Returns uint8 grey of a PIL image whose mode does not say what white is.

  Numbers up to 255 are 8 bits. Larger whole ones are 16 bits, as Pillow reads some
  files. Fractions of one have no white, and neither have others.
  """
  low, high = values_HW.min(), values_HW.max()
  if mode == 'I' and low >= 0 and 255 < high < 2**16:
    return decoding.upper_bits(values_HW)
  if low >= 0 and high <= 255 and (mode == 'I' or high > 1 or not high):
    return values_HW.astype(np.uint8)
  raise UserError(
    f'a PIL image of mode {mode} with values from {low:g} to {high:g} does not say what'
    " is white: convert it to mode 'L', white being 255"
  )


def _of_array(image: Any, channels: int) -> np.ndarray:
  """Returns an array of pixels, (H, W) or (H, W, C), with this number of channels."""
  kind, shape = getattr(image, 'dtype', ''), getattr(image, 'shape', ())
  known = kind in (np.uint8, np.uint16, np.dtype('>u2'))
  if not known or not _is_picture(shape, channels):
    raise UserError(
      'a picture is a path, bytes, a PIL image or a uint8 array (H, W, C), C 1 to 4,'
      f' not {type(image).__name__} {kind} {shape or ""}'.rstrip()
    )
  pixels = np.asarray(image)
  if kind != np.uint8:
    if 0 < pixels.max() <= 255:
      raise UserError(
        f'a uint16 array has 16 bits, but the largest value is {pixels.max()}, which'
        ' makes it black: make it uint8 if white is 255'
      )
    pixels = decoding.upper_bits(pixels)
  if pixels.ndim == 3 and pixels.shape[-1] == channels:
    return pixels
  if channels not in (1, 3):
    raise UserError(
      f'the weights take images of {channels} channels, the picture is {shape}'
    )
  if pixels.ndim == 3 and pixels.shape[-1] == 1:
    pixels = pixels[..., 0]
  return decoding.bands(Image.fromarray(pixels), channels)


def read_names(path: str | os.PathLike) -> tuple[str, ...]:
  """Reads names of classes, one a line."""
  try:
    return tuple(files.read_bytes(path).decode().splitlines())
  except OSError as error:
    raise UserError(f'{path} cannot be read: {error.strerror}') from error
  except UnicodeDecodeError as error:
    raise UserError(f'{path} is not a text file of names: {error}') from error


def softmax(logits: np.ndarray) -> np.ndarray:
  """Returns probabilities along the last axis."""
  odds = np.exp(logits - logits.max(axis=-1, keepdims=True, initial=-np.inf))
  return odds / odds.sum(axis=-1, keepdims=True)


def normalization(network: Network, channels: int) -> list[tuple[float, ...]]:
  """Returns mean and deviation of each channel that a network of a task wants."""
  return [tuple(np.broadcast_to(x, channels).tolist()) for x in network.images]


def _is_picture(shape: Sequence[int], channels: int) -> bool:
  """Returns whether pixels have this shape: grey or colours, alpha or none."""
  most = max(4, channels)
  return len(shape) in (2, 3) and 0 not in shape and (*shape, 1)[2] <= most


def _tuples(value: Any) -> Any:
  """Returns lists of JSON, and those in them, as tuples."""
  return tuple(map(_tuples, value)) if isinstance(value, list) else value


def _listed(values: Sequence[float]) -> str:
  """Returns the numbers as text, one where all are the same."""
  values = values[:1] if len({*values}) == 1 else values
  return ' '.join(f'{value:g}' for value in values)
