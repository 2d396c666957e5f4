"""Damaged images, as training, evaluation and prediction decode them."""

import functools
import io
import pathlib
from typing import Any

import numpy as np
from PIL import Image

from big_vision_like.data.transforms import image
from big_vision_like.inference import preprocessing
from tools.faults import common

# Name: the format in Pillow, and the options to write it.
FORMATS = {
  'png': ('PNG', {}),
  'jpeg': ('JPEG', dict(quality=90)),
  'jpeg, progressive': ('JPEG', dict(progressive=True)),
  'webp': ('WEBP', {}),
  'gif': ('GIF', {}),
  'bmp': ('BMP', {}),
  'tiff': ('TIFF', dict(compression='tiff_lzw')),
  'ppm': ('PPM', {}),
}


def make(form: str, folder: pathlib.Path) -> None:
  """Writes a picture in a format."""
  name, options = FORMATS[form]
  y, x = np.mgrid[0:48, 0:80]
  waves = np.stack([np.sin(x / 4 + y / 9), np.cos(y / 5), np.sin((x - y) / 7)], -1)
  pixels = (120 + 110 * waves).astype(np.uint8)
  content = io.BytesIO()
  Image.fromarray(pixels).save(content, name, **options)
  (folder / 'picture').write_bytes(content.getvalue())


def read(folder: pathlib.Path) -> Any:
  """Decodes a picture as the input does, and as prediction does."""
  record = {'image': (folder / 'picture').read_bytes(), 'id': 7}
  return image.Decode(3).map(record), preprocessing.decoded(folder / 'picture')


KINDS = tuple(
  common.Kind(
    f'image, {form}',
    functools.partial(make, form),
    common.any_file(*common.BYTES),
    read,
  )
  for form in FORMATS
)
