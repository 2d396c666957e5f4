"""Shared parts of all kinds of preprocessing: reading pictures, normalization, names.

A module of this folder named after what a task predicts (`classes`, `objects`) defines
its kind of preprocessing, and `of_run`, which derives it from the config of a run.
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

# Transforms that give images the size that a model takes.
SIZING = (
  transforms.Resize,
  transforms.ResizeSmall,
  transforms.CentralCrop,
  transforms.EfficientNetCentralCrop,
)
MOST_BYTES = 2**30  # of the file of an image
IMAGENET_MEAN, IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


class Prepare(abc.ABC):
  """Preprocessing from pictures to model inputs: a frozen dataclass with these fields.

  `mean` and `std` are for values in [0, 1], one per channel. Classes without a name in
  `label_names` are called by their number. `source` names the origin of all this.
  """

  mean: tuple[float, ...]
  std: tuple[float, ...]
  label_names: tuple[str, ...]
  source: str

  def __post_init__(self) -> None:
    if len(self.mean) != len(self.std) or not all(self.std):
      raise UserError(
        f'mean={self.mean} and std={self.std} need one value per channel, std not 0'
      )

  @abc.abstractmethod
  def __call__(self, picture: Any) -> Any:
    """Returns the model input for a picture, which is any that `decoded` takes."""

  @abc.abstractmethod
  def with_size(self, size: int | Sequence[int]) -> 'Prepare':
    """Returns preprocessing for images of another size, otherwise equal."""

  @abc.abstractmethod
  def replaced(self, nodes: Sequence[mlc.ConfigDict]) -> list[mlc.ConfigDict]:
    """Replaces the transforms that size images among recorded ones of a config."""

  @property
  def channels(self) -> int:
    """The number of channels: 1 (grey), 3 (RGB), or another number of the weights."""
    return len(self.mean)

  @property
  def input_shape(self) -> tuple[int, ...]:
    """The shape of the model's input for one picture of the size `size`."""
    return (*self.size, self.channels)

  @property
  def normalization(self) -> str:
    """The mean and deviation as text."""
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
    """Reads the fields that our writer stored in a JSON file; None if it did not."""
    told = (c['preprocessing'] for c in metadata.values() if 'preprocessing' in c)
    return next(map(cls.from_json, told), None)

  @classmethod
  def from_json(cls, content: Mapping[str, Any]) -> 'Prepare':
    """Builds the preprocessing from fields that `to_json` returned."""
    try:
      return cls(**{name: _tuples(value) for name, value in content.items()})
    except TypeError as error:
      raise UserError(f'preprocessing: {error}') from error


def decoded(image: Any, channels: int = 3) -> np.ndarray:
  """Decodes a picture of any kind to uint8 (H, W, C), where C is `channels`.

  The picture may be a path, the bytes of a file, a PIL image, or an array (H, W) or
  (H, W, C) of uint8 or uint16. All give the same pixels: alpha is dropped, EXIF
  orientation is ignored, and the upper 8 of 16 bits are kept. Grey and colours become
  one (grey) or three (RGB) channels. Weights with four channels take RGBA, and those
  with other numbers take arrays only. Raises `UserError` for pictures that cannot be
  read or are ambiguous.
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
  """Returns the bytes of a file; raises if they exceed `MOST_BYTES`."""
  try:
    with open(name, 'rb') as file:
      content = file.read(MOST_BYTES + 1)
  except (OSError, ValueError) as error:  # ValueError: a zero in the name
    why = getattr(error, 'strerror', None) or error
    raise UserError(f'{name} cannot be read: {why}') from error
  if len(content) > MOST_BYTES:
    raise UserError(f'{name} has more than {MOST_BYTES:,} bytes: no image is so large')
  return content


def _check_channels(channels: int) -> None:
  if channels not in (1, 3, 4):
    raise UserError(
      f'the weights take images of {channels} channels: give uint8 arrays (H, W,'
      f' {channels}), as files have grey, RGB or RGBA'
    )


def _of_pillow(image: Image.Image, channels: int) -> np.ndarray:
  """Returns the pixels of a PIL image, as `decoding.decode` does for a file."""
  decoding.check_size(image.height, image.width)
  try:
    image.load()
  # Files are only read at this point. Pillow raises whatever its parsing ran into, such
  # as OSError, SyntaxError and struct.error.
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
  """Returns uint8 grey of a PIL image in a mode that does not define white.

  Values up to 255 are 8 bits. Larger integers are 16 bits, as Pillow reads some files.
  Fractions within [0, 1] and other values raise, as their white is unknown.
  """
  low, high = values_HW.min(), values_HW.max()
  if mode == 'I' and low >= 0 and 255 < high < 2**16:
    return decoding.upper_bits(values_HW)
  if low >= 0 and high <= 255 and (mode == 'I' or high > 1 or not high):
    return values_HW.astype(np.uint8)
  raise UserError(
    f'a PIL image of mode {mode} with values from {low:g} to {high:g} does not define'
    " white: convert it to mode 'L', where white is 255"
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
  """Reads class names from a file with one per line."""
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
  """Returns mean and deviation per channel, as a network of a task expects."""
  return [tuple(np.broadcast_to(x, channels).tolist()) for x in network.images]


def _is_picture(shape: Sequence[int], channels: int) -> bool:
  """Returns whether a shape fits a picture: grey or colour, with alpha or without."""
  most = max(4, channels)
  return len(shape) in (2, 3) and 0 not in shape and (*shape, 1)[2] <= most


def _tuples(value: Any) -> Any:
  """Converts lists of JSON to tuples, recursively."""
  return tuple(map(_tuples, value)) if isinstance(value, list) else value


def _listed(values: Sequence[float]) -> str:
  """Formats numbers as text, or one number if all are equal."""
  values = values[:1] if len({*values}) == 1 else values
  return ' '.join(f'{value:g}' for value in values)
