"""Images of one aspect ratio in a square, as GANsformer's data are prepared."""

import dataclasses
from typing import Any

import grain
import numpy as np

from big_vision_like.data.transforms import resizing
from big_vision_like.errors import BadRecordError, UserError

Example = dict[str, Any]
# The largest share of an image that a crop to the aspect ratio may remove.
MOST_CUT = 0.5


@dataclasses.dataclass(frozen=True)
class FitSquare(grain.transforms.Map):
  """A central crop to height / width `ratio`, black padding to a square, and resizing.

  These are the steps of dorarad/gansformer's prepare_data.py, with its antialiased
  kernel. (It stores a power of two close to the original width and reduces that later;
  here the padded image is resized once.) With ratio 1, images are only cropped.

  An image of which the crop would remove more than half is a `BadRecordError`: it has
  another aspect than the data set.
  """

  size: int
  ratio: float = 1.0
  method: str = 'pillow_lanczos'

  # In trials, the small generators draw images of this size, and data have any aspect.
  tiny = dict(size=16, ratio=lambda arguments, _: 1.0)
  sides = ()

  def __post_init__(self) -> None:
    resizing.check_method(self.method)
    if not 0 < self.ratio <= 1:
      raise UserError(
        f'ratio={self.ratio} of height to width is not in (0, 1]: padding fills rows'
      )

  def map(self, example: Example) -> Example:
    image = example['image']
    height, width = image.shape[:2]
    side = min(width, height / self.ratio)
    top, left = round((height - self.ratio * side) / 2), round((width - side) / 2)
    crop = image[top : height - top, left : width - left]
    if crop.size < MOST_CUT * image.size:
      raise BadRecordError(
        f'the image with id {example.get("id", "unknown")} is {height}x{width}, but'
        f' ratio={self.ratio:g} keeps only {crop.shape[0]}x{crop.shape[1]} of it: set'
        ' ratio to the height / width of the data, or remove the image'
      )
    rows = max(crop.shape[1] - crop.shape[0], 0)
    padded = np.pad(crop, ((rows // 2, rows - rows // 2), (0, 0), (0, 0)))
    return example | {
      'image': resizing.resized(padded, self.size, self.size, self.method)
    }
