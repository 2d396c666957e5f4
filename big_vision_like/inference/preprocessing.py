"""What preprocessing of all kinds shares: reading pictures, normalization, names.

A module of this folder that is named after what a task predicts (`classes`, `objects`)
has its own kind, and `of_run`, which takes it from the config of a run.
"""

import abc
import dataclasses
import json
import os
import pathlib
from collections.abc import Mapping, Sequence
from typing import Any

import ml_collections as mlc
import numpy as np
from PIL import Image

from big_vision_like.data.transforms import image as transforms
from big_vision_like.errors import UserError
from big_vision_like.tasks.task import Network

# What makes the size of an image what a model takes.
SIZING = (transforms.Resize, transforms.ResizeSmall, transforms.CentralCrop)
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
    """The number of channels, 1 (grey) or 3 (RGB)."""
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
  """Decodes a picture of any kind: uint8 (H, W, C), C being `channels`, 1 or 3.

  It may be a path, the bytes of a file, a PIL image or uint8 (H, W, C), of which grey
  and alpha are made what is asked for. UserError for what cannot be read.
  """
  name = 'the picture'
  if isinstance(image, str | os.PathLike):
    name = str(image)
    try:
      image = pathlib.Path(image).read_bytes()
    except OSError as error:
      raise UserError(f'{name} cannot be read: {error.strerror}') from error
  if isinstance(image, bytes):
    try:
      decode = transforms.Decode(channels)
      return decode.map({'image': image})['image']
    except UserError as error:
      raise UserError(f'{name} is not a readable JPEG, PNG or WebP') from error
  if not isinstance(image, Image.Image):
    if np.asarray(image).dtype != np.uint8 or not _is_picture(np.shape(image)):
      raise UserError(
        f'a picture is a path, bytes, a PIL image or a uint8 array (H, W, C), C 1 to'
        f' 4, not'
        f' {type(image).__name__} {getattr(image, "dtype", "")}'
        f' {getattr(image, "shape", "")}'.rstrip()
      )
    image = np.asarray(image)
    if image.ndim == 3 and image.shape[-1] == channels:
      return image
    if image.ndim == 3 and image.shape[-1] == 1:
      image = image[..., 0]
    image = Image.fromarray(image)
  mode = 'L' if channels == 1 else 'RGB'
  return np.asarray(image.convert(mode)).reshape(image.height, image.width, -1)


def read_names(path: str | os.PathLike) -> tuple[str, ...]:
  """Reads names of classes, one a line."""
  try:
    return tuple(pathlib.Path(path).read_text(encoding='utf-8').splitlines())
  except (OSError, UnicodeDecodeError) as error:
    raise UserError(f'{path} is not a text file of names: {error}') from error


def softmax(logits: np.ndarray) -> np.ndarray:
  """Returns probabilities along the last axis."""
  odds = np.exp(logits - logits.max(axis=-1, keepdims=True, initial=-np.inf))
  return odds / odds.sum(axis=-1, keepdims=True)


def normalization(network: Network, channels: int) -> list[tuple[float, ...]]:
  """Returns mean and deviation of each channel that a network of a task wants."""
  return [tuple(np.broadcast_to(x, channels).tolist()) for x in network.images]


def _is_picture(shape: Sequence[int]) -> bool:
  """Returns whether pixels have this shape: grey or colours, alpha or none."""
  return len(shape) in (2, 3) and 0 not in shape and (*shape, 1)[2] <= 4


def _tuples(value: Any) -> Any:
  """Returns lists of JSON, and those in them, as tuples."""
  return tuple(map(_tuples, value)) if isinstance(value, list) else value


def _listed(values: Sequence[float]) -> str:
  """Returns the numbers as text, one where all are the same."""
  values = values[:1] if len({*values}) == 1 else values
  return ' '.join(f'{value:g}' for value in values)
