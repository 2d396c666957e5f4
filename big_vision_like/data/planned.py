"""What stands in for data that are not there, while a run is planned."""

import dataclasses
import functools
from typing import Any

import cv2
import numpy as np
import simplejpeg

from big_vision_like.data import fake
from big_vision_like.errors import UserError


@dataclasses.dataclass(frozen=True)
class Pictures:
  """Made-up examples, with images as dear to decode as photographs from the web.

  They have the features of the data set `name` where TFDS's catalogue has it, else
  `image`, `label` and `id`; labels are 0.
  """

  name: str
  examples: int | None

  @functools.cached_property
  def made_up(self) -> fake.Fake:
    """What the examples are but for their images."""
    return fake.Fake(self.name, examples=len(self), classes=1)

  def __len__(self) -> int:
    if self.examples is None:
      raise UserError(
        'the data are not prepared: say how many examples there are, with'
        ' --config.train_data.source.examples=N'
      )
    return self.examples

  def __getitem__(self, index: int) -> dict[str, Any]:
    # Of thousands of millions, that ids fit into a batch.
    features, example = self.made_up.features, self.made_up[index % 2**31]
    free = 'image' in features and features['image'].shape[:2] == (None, None)
    free &= 'panoptic_image' not in features  # which has its size
    return example | {'image': _picture()} if free else example


@functools.cache
def _picture() -> bytes:
  """500 x 375 in 110 kB: the averages of ImageNet."""
  rng = np.random.default_rng(0)
  shapes = rng.integers(0, 256, (15, 20, 3)).astype(np.float32)
  image = cv2.resize(shapes, (500, 375), interpolation=cv2.INTER_CUBIC)
  image = np.clip(image + rng.normal(0, 8, image.shape), 0, 255).astype(np.uint8)
  return simplejpeg.encode_jpeg(image, quality=90)


@dataclasses.dataclass(frozen=True)
class Rows:
  """Packed rows (see `data.packing`), full of pairs of some 25 tokens."""

  rows: int | None
  source_length: int
  target_length: int

  def __len__(self) -> int:
    if self.rows is None:
      raise UserError(
        'the data are not prepared: say how many packed rows there are, about, with'
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
