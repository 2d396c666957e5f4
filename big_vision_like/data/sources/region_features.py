"""Stored features of image regions, found by the id of their image.

A data set of region features has the layout of TFDS (array_record files with
`dataset_info.json`), and one record per image:

    image_id    text
    size        int32 (2,): height and width of the image in pixels
    boxes       bytes: float32 (N, 4), left, top, right, bottom in pixels
    features    bytes: `dtype` (N, F)
    classes     bytes: `dtype` (N, K), the detector's probabilities; empty without them
    dtype       text: float32 or float16
    widths      int32 (2,): F and K

Arrays are little-endian and in C order, so that a record is read without parsing
numbers. The file NAME-SPLIT.image_ids.txt has the id of each record, one per line.
tools/convert_regions.py writes all of these. Regions are in the order of the
detector, usually by descending score; whole-image features are not stored, because
`data.transforms.regions.Regions` computes them.

Axes: N regions, F features, K classes; 4 is left, top, right, bottom.
"""

import dataclasses
import functools
import pathlib
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from big_vision_like.data.sources import tfds
from big_vision_like.data.sources.base import Source, digest
from big_vision_like.errors import BadRecordError, UserError, plural

Example = dict[str, Any]

DTYPES = {'float32': '<f4', 'float16': '<f2'}
# The width of the published features, and the detector's classes with background.
WIDTH, CLASSES = 2048, 1601
# Number of made-up images whose ids made-up annotations name.
FEW = 8


@dataclasses.dataclass(frozen=True)
class RegionFeatures(Source):
  """The stored regions of images, in the order of their records.

  `name`, `split` and `data_dir` are as in `tfds.Tfds`. Examples have `image_id`, `size`
  (height, width), `boxes` (N, 4), `features` (N, F) and, if the data have them,
  `classes` (N, K), all float32. Images without regions are examples with N = 0. `width`
  is the number F that the model takes; records of another width are an error.
  `examples` is the number of images, for plans made before the data are available.
  `made_up`, if above 0, is the number of made-up images that replace the data in plans
  and trials: '0', '1' and so on.
  """

  name: str
  split: str = 'train'
  width: int = WIDTH
  data_dir: str | None = None
  examples: int | None = None
  made_up: int = 0

  tiny = dict(width=16, made_up=lambda arguments, _: 20)

  @functools.cached_property
  def _stored(self) -> tfds.Tfds:
    return tfds.Tfds(self.name, self.split, self.data_dir, self.examples)

  @property
  def files(self) -> list[str]:
    """The paths of the files of the split."""
    return [] if self.made_up else self._stored.files

  @property
  def title(self) -> str:
    """The name of the data set."""
    return self.name if self.made_up else self._stored.title

  @functools.cached_property
  def places(self) -> dict[str, int]:
    """The index of each image, by its id."""
    if self.made_up:
      return {str(index): index for index in range(self.made_up)}
    path = ids_file(pathlib.Path(self._stored.builder.data_path), self.split)
    if not path.is_file():
      raise UserError(
        f'{self.name} has no {path.name} in {path.parent}, which lists the ids of its'
        ' images: write it with tools/convert_regions.py'
      )
    ids = path.read_text(encoding='utf-8').splitlines()
    if len(ids) != len(self):
      raise UserError(
        f'{path} lists {plural(len(ids), "image")}, but there are {len(self):,}'
        ' records: rerun tools/convert_regions.py'
      )
    return {name: place for place, name in enumerate(ids)}

  def fingerprint(self) -> str:
    """Returns a digest of the stored data set."""
    if self.made_up:
      return digest('RegionFeatures', self.made_up, self.width)
    return digest('RegionFeatures', self._stored.fingerprint())

  def problems(self) -> list[str]:
    """Returns why the data cannot be read, or damaged files."""
    if self.made_up:
      return []
    try:
      self.places  # noqa: B018 - reads the ids
    except UserError as error:
      return [str(error)]
    return self._stored.problems()

  def planned(self) -> Source:
    """Returns this source, or a stand-in for planning if it is not prepared."""
    if isinstance(self._stored.planned(), tfds.Tfds):
      return self
    return dataclasses.replace(self, made_up=self.examples or FEW)

  def __len__(self) -> int:
    return self.made_up or len(self._stored)

  def __getitem__(self, index: int) -> Example:
    if not 0 <= index < len(self):
      raise IndexError(f'example {index} of {len(self)}')
    if self.made_up:
      return made_up(index, self.width)
    return self._decoded(self._stored[index], index)

  def __getitems__(self, indices: Sequence[int]) -> list[Example]:
    if self.made_up:
      return [self[index] for index in indices]
    found = self._stored.__getitems__(indices)
    return [self._decoded(e, i) for e, i in zip(found, indices, strict=True)]

  def _decoded(self, stored: Example, index: int) -> Example:
    example = decoded(stored, f'example {index} of {self.name}')
    width = example['features'].shape[1]
    if width != self.width:
      raise UserError(
        f'{self.name} has features of width {width}, but the config has width'
        f' {self.width}: set `width` of RegionFeatures and of the model to {width}'
      )
    return example

  def __getstate__(self) -> dict[str, Any]:
    # Workers receive the ids, but open their own files.
    return {k: v for k, v in self.__dict__.items() if k != '_stored'}


def ids_file(folder: pathlib.Path, split: str) -> pathlib.Path:
  """Returns the path of the ids of a split; `folder` is DATA_DIR/NAME/VERSION."""
  return folder / f'{folder.parent.name}-{split}.image_ids.txt'


def described() -> Any:
  """Returns the TFDS features of a record."""
  import tensorflow_datasets as tfds

  two = tfds.features.Tensor(shape=(2,), dtype=np.int32)
  texts = ('image_id', 'boxes', 'features', 'classes', 'dtype')
  return tfds.features.FeaturesDict(
    {'size': two, 'widths': two, **{name: tfds.features.Text() for name in texts}}
  )


def encoded(example: Mapping[str, Any], dtype: str = 'float32') -> Example:
  """Returns the record of an image; `features` and `classes` are stored as `dtype`."""
  width = example['features'].shape[1]
  classes = example.get('classes')

  def packed(values: np.ndarray | None, kind: str) -> bytes:
    return b'' if values is None else np.asarray(values, kind).tobytes()

  return {
    'image_id': example['image_id'],
    'size': np.asarray(example['size'], np.int32),
    'boxes': packed(example['boxes'], '<f4'),
    'features': packed(example['features'], DTYPES[dtype]),
    'classes': packed(classes, DTYPES[dtype]),
    'dtype': dtype,
    'widths': np.array([width, 0 if classes is None else classes.shape[1]], np.int32),
  }


def decoded(record: Mapping[str, Any], name: str) -> Example:
  """Returns the arrays of a record; `name` is its name in messages."""
  dtype = DTYPES.get(text(record['dtype']))
  width, classes = record['widths'].tolist()
  try:
    boxes_N4 = np.frombuffer(record['boxes'], '<f4').reshape(-1, 4)
    features_NF = np.frombuffer(record['features'], dtype).reshape(-1, width)
    found = {'boxes': boxes_N4, 'features': features_NF}
    if classes:
      found['classes'] = np.frombuffer(record['classes'], dtype).reshape(-1, classes)
  except (ValueError, TypeError) as error:
    raise BadRecordError(f'{name} is damaged: {error}') from error
  for key, values in found.items():
    if len(values) != len(boxes_N4):
      raise BadRecordError(f'{name} has {len(boxes_N4)} boxes, but {len(values)} {key}')
  found = {key: values.astype(np.float32) for key, values in found.items()}
  return {'image_id': text(record['image_id']), 'size': record['size'], **found}


def text(value: str | bytes) -> str:
  """Returns a text that TFDS may have stored as bytes."""
  return value.decode() if isinstance(value, bytes) else value


def check(example: Mapping[str, Any], name: str) -> None:
  """Raises `BadRecordError` for regions that no model can use; `name` is for messages.

  These are boxes without area or outside of the image, and values that are not finite.
  """
  height, width = np.asarray(example['size']).tolist()
  if height < 1 or width < 1:
    raise BadRecordError(f'{name} has the image size {height}x{width}')
  boxes_N4 = example['boxes']
  for key in ('boxes', 'features', 'classes'):
    values = example.get(key)
    if values is not None and not np.isfinite(values).all():
      raise BadRecordError(f'{name} has {key} that are not finite numbers')
  # Detectors may exceed the border by a pixel.
  low_N2, high_N2 = boxes_N4[:, :2], boxes_N4[:, 2:]
  outside_N = (low_N2 < -1).any(axis=1) | (high_N2 > [width + 1, height + 1]).any(1)
  bad_N = outside_N | (high_N2 <= low_N2).any(axis=1)
  if bad_N.any():
    box = ', '.join(f'{x:g}' for x in boxes_N4[bad_N][0])
    raise BadRecordError(
      f'{name} has the box {box} in an image of {height}x{width} pixels: boxes must be'
      ' left, top, right, bottom in pixels'
    )


def made_up(index: int, width: int, classes: int = CLASSES) -> Example:
  """Returns made-up regions of an image, 3 to 8 of them."""
  rng = np.random.default_rng(index)
  count = int(rng.integers(3, 8, endpoint=True))
  corners_N22 = np.sort(rng.uniform(0, 0.95, (count, 2, 2)), axis=1)
  corners_N22[:, 1] += 0.01
  likely_NK = rng.uniform(0, 1, (count, classes))
  return {
    'image_id': str(index),
    'size': np.array([240, 240], np.int32),
    'boxes': (240 * corners_N22).reshape(count, 4).astype(np.float32),
    'features': rng.normal(0, 1, (count, width)).astype(np.float32),
    'classes': (likely_NK / likely_NK.sum(1, keepdims=True)).astype(np.float32),
  }
