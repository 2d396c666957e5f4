"""Stand-ins for missing data while a run is planned."""

import dataclasses
import functools
from typing import Any

import cv2
import numpy as np
import simplejpeg

from big_vision_like.data.sources import coco_classes, coco_outlines, fake
from big_vision_like.data.sources.base import Source, digest, fixed_size
from big_vision_like.errors import UserError

# Average height and width of ImageNet's images.
SIZE = (375, 500)


@dataclasses.dataclass(frozen=True)
class Pictures(Source):
  """Made-up examples with images as expensive to decode as photographs from the web.

  They have the features of the data set `name` if it is in TFDS's catalogue, and
  otherwise `image`, `label` and `id`. Labels are 0. Examples of COCO have its most
  frequent image sizes; with `masks`, masks that cover the whole image, and with
  `outlines`, their boxes as outlines.
  """

  name: str
  examples: int | None
  masks: bool = False
  outlines: bool = False

  @functools.cached_property
  def made_up(self) -> fake.Fake:
    """The source of all fields except the images."""
    return fake.Fake(self.name, examples=len(self), classes=1)

  @functools.cached_property
  def image_sizes(self) -> np.ndarray:
    """Heights and widths of the images, int32 (N, 2)."""
    if self.name.partition('/')[0] == 'coco':
      return np.resize(_coco_sizes(), (len(self), 2))
    size = fixed_size(self.made_up.features) or SIZE
    return np.broadcast_to(np.int32(size), (len(self), 2))

  @property
  def title(self) -> str:
    """The name of the missing data set."""
    return self.name

  def fingerprint(self) -> str:
    """Returns a digest of the arguments, which determine every example."""
    return digest(
      'Pictures', self.name, len(self), self.masks, *([True] if self.outlines else [])
    )

  def __len__(self) -> int:
    if self.examples is None:
      raise UserError(
        'the data are not prepared: give the number of examples with'
        ' --config.train_data.source.examples=N'
      )
    return self.examples

  def __getitem__(self, index: int) -> dict[str, Any]:
    # Limits the index, so that ids fit in int32 even with billions of examples.
    example = self.made_up[index % 2**31]
    if 'image' not in example or fixed_size(self.made_up.features):
      return example
    size = tuple(self.image_sizes[index].tolist())
    example['image'] = picture(*size)
    if 'panoptic_image' in example:
      few = self.made_up[index % 8]
      name = 'panoptic_objects'
      example |= {name: few[name], 'panoptic_image': _map(few['panoptic_image'], *size)}
    if self.masks:
      count = len(example['objects']['bbox'])
      example['masks'] = np.ones((count, *size), np.uint8)
    if self.outlines:
      example['outlines'] = coco_outlines.of_boxes(example['objects']['bbox'], *size)
    return example


@functools.cache
def _coco_sizes() -> np.ndarray:
  """Returns a thousand heights and widths, int32 (1000, 2), as frequent as in COCO."""
  *sizes, counts = np.array(coco_classes.SIZES).T
  share = counts / counts.sum()
  chosen = np.random.default_rng(0).choice(len(share), size=1000, p=share)
  return np.stack(sizes, axis=-1).astype(np.int32)[chosen]


@functools.cache
def picture(height: int, width: int) -> bytes:
  """Returns a JPEG; at ImageNet's average size it has the average 110 kB."""
  rng = np.random.default_rng(0)
  shapes = rng.integers(0, 256, (15, 20, 3)).astype(np.float32)
  image = cv2.resize(shapes, (width, height), interpolation=cv2.INTER_CUBIC)
  image = np.clip(image + rng.normal(0, 8, image.shape), 0, 255).astype(np.uint8)
  return simplejpeg.encode_jpeg(image, quality=90)


@functools.cache
def _map(png: bytes, height: int, width: int) -> bytes:
  """Returns a map of segments in another size, as PNG.

  It is cached, because a real run does not spend time on encoding maps.
  """
  small = cv2.imdecode(np.frombuffer(png, np.uint8), cv2.IMREAD_COLOR)
  size = width, height
  large = cv2.resize(small, size, interpolation=cv2.INTER_NEAREST)
  return cv2.imencode('.png', large)[1].tobytes()


@dataclasses.dataclass(frozen=True)
class Rows(Source):
  """Packed rows (see `data.input.packing`), filled with pairs of about 25 tokens."""

  rows: int | None
  source_length: int
  target_length: int

  def __len__(self) -> int:
    if self.rows is None:
      raise UserError(
        'the data are not prepared: give the approximate number of packed rows with'
        ' --config.train_data.source.rows=N'
      )
    return self.rows

  def __getitem__(self, index: int) -> dict[str, Any]:
    row = {}
    for name in ('source', 'target'):
      places = np.arange(getattr(self, f'{name}_length'), dtype=np.int32)
      row[name] = np.full_like(places, 3)
      row[f'{name}_segment'] = places // 25 + 1
      row[f'{name}_position'] = places % 25
    return row
