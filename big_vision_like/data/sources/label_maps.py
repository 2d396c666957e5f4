"""A source of images in a folder with label maps, pictures of the class of each pixel.

Images and label maps are in two folders, with equal names up to their endings, in
subfolders or not. This is how ADE20K, Cityscapes, COCO-Stuff and LIP are published. The
values of pixels are turned into classes by the transform `label_maps.Labels`.
"""

import dataclasses
import functools
import os
from collections.abc import Iterator, Mapping
from typing import Any

import cv2
import numpy as np
import simplejpeg

from big_vision_like.data.sources import protos, shards
from big_vision_like.data.sources.base import Source, digest
from big_vision_like.errors import BadRecordError, UserError, listed
from big_vision_like.spec import spec

NAMED = 3  # files that a message names


@dataclasses.dataclass(frozen=True)
class LabelMaps(Source):
  """The images below a folder that have a label map, ordered by name.

  The image `images`/NAME`ending` has the label map `maps`/NAME`map_ending`. Examples
  have `image` and `label_map`, both encoded, `file`, the path of the image relative to
  `images`, and `id`, the index. `left_out` counts images without a label map, label
  maps without an image, and other files. More than the share `tolerated` of images
  without a label map is an error. `examples` is the number of images, for plans made
  before the data are available.
  """

  images: str
  maps: str
  ending: str = '.jpg'
  map_ending: str = '.png'
  examples: int | None = None
  tolerated: float = 0.0

  @functools.cached_property
  def _found(self) -> tuple[list[str], dict[str, int]]:
    """The names without endings, and the number of unused files by kind."""
    images, others = _names(self.images, self.ending)
    maps, other_maps = _names(self.maps, self.map_ending)
    names = sorted(images & maps)
    if not names:
      raise UserError(
        f'no image {self.images}/NAME{self.ending} has a label map'
        f' {self.maps}/NAME{self.map_ending}: {len(images):,} such images and'
        f' {len(maps):,} such label maps were found; correct the folders, or `ending`'
        ' and `map_ending`'
      )
    without = sorted(images - maps)
    if len(without) > self.tolerated * len(images):
      raise UserError(
        f'{len(without):,} of {len(images):,} images in {self.images} have no label map'
        f' in {self.maps} ({listed(without, NAMED)}): add them, or raise `tolerated`'
        f' ({self.tolerated:g}), the share of images that may be left out'
      )
    if self.examples not in (None, len(names)):
      raise UserError(
        f'{self.images} has {len(names):,} images with a label map, not the'
        f' {self.examples:,} that the config gives: correct `examples`.'
      )
    left_out = {
      'images without a label map': len(without),
      'label maps without an image': len(maps - images),
      f'other files than {self.ending} among images': others,
      f'other files than {self.map_ending} among label maps': other_maps,
    }
    return names, {what: count for what, count in left_out.items() if count}

  @property
  def left_out(self) -> dict[str, int]:
    """The number of unused files, by kind."""
    return self._found[1]

  @functools.cached_property
  def features(self) -> Any:
    """TFDS features of an example."""
    import tensorflow_datasets as tfds

    return tfds.features.FeaturesDict(
      {
        'image': tfds.features.Image(),
        'label_map': tfds.features.Image(shape=(None, None, 1)),
        'file': tfds.features.Text(),
      }
    )

  def _paths(self, name: str) -> tuple[str, str]:
    """Returns the paths of the image and of the label map with a name."""
    folders = os.path.expanduser(self.images), os.path.expanduser(self.maps)
    return (
      os.path.join(folders[0], name + self.ending),
      os.path.join(folders[1], name + self.map_ending),
    )

  @property
  def files(self) -> list[str]:
    """The paths of all images and label maps."""
    return [path for name in self._found[0] for path in self._paths(name)]

  @property
  def title(self) -> str:
    """The name of the folder of images."""
    return shards.title(self, self.images)

  def fingerprint(self) -> str:
    """Returns a digest of the names and sizes of all images and label maps."""
    return digest('LabelMaps', self._found[0], self.file_sizes)

  @staticmethod
  def stand_in(node: Mapping[str, Any]) -> Mapping[str, Any]:
    """Returns the recorded call of a source that needs no files, for trials."""
    del node
    return spec(MadeUp, **MadeUp.tiny)

  def planned(self) -> Source:
    """Returns this source, or a stand-in for planning if its folders are missing."""
    if all(os.path.isdir(os.path.expanduser(x)) for x in (self.images, self.maps)):
      return self
    return MadeUp(self.examples)

  def __len__(self) -> int:
    return len(self._found[0])

  def __getitem__(self, index: int) -> protos.Example:
    if not 0 <= index < len(self):
      raise IndexError(f'example {index} of {len(self)}')
    name = self._found[0][index]
    image, label_map = map(_read, self._paths(name))
    file = f'{name}{self.ending}'.encode()
    return {'image': image, 'label_map': label_map, 'file': file, 'id': index}

  def problems(self) -> list[str]:
    """Returns why the folders cannot be used, or an empty list."""
    try:
      len(self)
    except UserError as error:
      return [str(error)]
    return []

  def __getstate__(self) -> dict[str, Any]:
    # Workers receive the names; they make `features` again.
    own = ('features', 'file_sizes')
    return {k: v for k, v in self.__dict__.items() if k not in own}


def _names(folder: str, ending: str) -> tuple[set[str], int]:
  """Returns names of files below a folder without their ending, and how many others."""
  root = os.path.expanduser(folder)
  if not os.path.isdir(root):
    raise UserError(f'there is no folder {folder}')
  paths = list(_files(root))
  names = {path.removesuffix(ending) for path in paths if path.endswith(ending)}
  return names, len(paths) - len(names)


def _files(root: str) -> Iterator[str]:
  """Yields the paths of all files below a folder, relative to it; no hidden ones."""
  for place, _, files in os.walk(root, followlinks=True):
    inside = os.path.relpath(place, root)
    for file in files:
      if not file.startswith('.'):
        yield file if inside == os.curdir else os.path.join(inside, file)


def _read(path: str) -> bytes:
  try:
    with open(path, 'rb') as opened:
      return opened.read()
  except OSError as error:
    raise BadRecordError(f'{path} cannot be read: {error.strerror}') from error


@dataclasses.dataclass(frozen=True)
class MadeUp(Source):
  """Made-up images with label maps, in place of missing ones: for plans and trials.

  Values of pixels are some that all known data sets have classes for.
  """

  examples: int | None
  size: tuple[int, int] = (512, 683)

  values = (1, 7, 8)
  tiny = dict(examples=20, size=(48, 64))

  def __len__(self) -> int:
    if self.examples is None:
      raise UserError(
        'the data are not there: give the number of images with'
        ' --config.train_data.source.examples=N'
      )
    return self.examples

  def __getitem__(self, index: int) -> protos.Example:
    if not 0 <= index < len(self):
      raise IndexError(f'example {index} of {len(self)}')
    image, label_map = _drawn(tuple(self.size), index % 8)
    return {'image': image, 'label_map': label_map, 'file': b'', 'id': index}


@functools.cache
def _drawn(size: tuple[int, int], seed: int) -> tuple[bytes, bytes]:
  """Returns a JPEG of blurred patches, and a PNG of sharp ones."""
  rng = np.random.default_rng(seed)
  patches = rng.integers(0, 256, (12, 16, 3)).astype(np.float32)
  image = cv2.resize(patches, size[::-1], interpolation=cv2.INTER_LINEAR)
  values = rng.choice(MadeUp.values, (6, 8)).astype(np.uint8)
  label_map = cv2.resize(values, size[::-1], interpolation=cv2.INTER_NEAREST)
  return (
    simplejpeg.encode_jpeg(image.astype(np.uint8), quality=90),
    cv2.imencode('.png', label_map)[1].tobytes(),
  )
