"""Encoded images to uint8 arrays (H, W, C).

JPEGs come out bit for bit as Pillow decodes them to RGB, and with dct='fast' as
TensorFlow does by default; other formats as both do. What both agree on holds: EXIF
orientation is ignored, alpha is dropped. Of 16 bits the upper 8 are kept, and grey of a
coloured JPEG is its luma, as in TensorFlow (Pillow makes grey PNGs of 16 bits white).
"""

from typing import Any

import cv2
import numpy as np
import simplejpeg

DCT = ('accurate', 'fast')
# Rows decoded below those that are wanted: the last one lacks the colours below it.
MARGIN = 8
# Markers of what a JPEG starts with: frames of one pass, and intervals to start anew.
ONE_PASS, RESTARTS, SCAN = (0xC0, 0xC1), 0xDD, 0xDA
# No record has more pixels, but a damaged header may well ask for 12 GB.
MOST_PIXELS = 2**28


def decode(
  encoded: bytes,
  channels: int = 3,
  dct: str = 'accurate',
  factor: int = 1,
  rows: int | None = None,
) -> np.ndarray:
  """A JPEG, PNG, WebP or what else OpenCV reads, to uint8 (H, W, channels).

  `channels` is 1 (grey) or 3 (RGB); CMYK and palettes become that. A JPEG may be
  decoded to sides `factor` (2, 4 or 8) times smaller, rounded up; damaged ones and
  other formats keep their size. Where no more than the upper `rows` (of the full size)
  are wanted, those below may be missing. Raises ValueError where the image is not
  complete.
  """
  if not encoded:
    raise ValueError('the file is empty')
  if not is_jpeg(encoded):
    return _with_opencv(encoded, channels)
  size, warning = jpeg_size(encoded), 'its header is damaged'
  if size is not None:
    options = dict(
      colorspace={1: 'GRAY', 3: 'RGB'}[channels],
      fastdct=dct == 'fast',
      min_width=-(-size[1] // factor),
      min_factor=factor,
    )
    if rows is not None and rows + 2 * MARGIN < size[0]:
      image = _upper(encoded, rows + MARGIN, factor, options)
      if image is not None:
        return image
    try:
      return simplejpeg.decode_jpeg(
        encoded, min_height=-(-size[0] // factor), **options
      )
    except ValueError as error:
      warning = str(error)
      if 'Premature end of JPEG file' in warning:
        raise
  # What libjpeg only warns of, such as some extra bytes, is no error to Pillow and
  # TensorFlow either. Rows that it never came to are grey.
  image = _with_opencv(encoded, channels)
  if (image[-1] == 128).all():
    raise ValueError(f'rows are missing at its end; {warning}')
  return image


def _upper(
  encoded: bytes, rows: int, factor: int, options: dict[str, Any]
) -> np.ndarray | None:
  """The upper rows of a JPEG; None where it takes its whole to tell if it is sound.

  libjpeg stops decoding where the height ends that the header says: there a smaller one
  is written. What it then says of the bytes behind is what it would say of a sound file.
  """
  place = _height_at(encoded)
  if place is None:
    return None
  shorter = bytearray(encoded)
  shorter[place : place + 2] = rows.to_bytes(2, 'big')
  channels = 1 if options['colorspace'] == 'GRAY' else 3
  height, width = -(-rows // factor), options['min_width']
  image = np.empty((height, width, channels), np.uint8)
  try:
    simplejpeg.decode_jpeg(shorter, min_height=height, buffer=image, **options)
  except ValueError as error:
    if not str(error).endswith('extraneous bytes before marker 0xd9'):
      return None
  return image


def _height_at(encoded: bytes) -> int | None:
  """Where a JPEG of one pass without restarts has its height; None for others."""
  place, found = 2, None
  while place + 8 < len(encoded) and encoded[place] == 0xFF:
    marker = encoded[place + 1]
    if marker in ONE_PASS:
      found = place + 5
    elif marker == SCAN:
      return found
    elif marker == RESTARTS:
      return None
    place += 2 + int.from_bytes(encoded[place + 2 : place + 4], 'big')
  return None


def is_jpeg(encoded: bytes) -> bool:
  """Whether the bytes start as those of a JPEG do."""
  return encoded[:3] == b'\xff\xd8\xff'


def jpeg_size(encoded: bytes) -> tuple[int, int] | None:
  """Height and width of a JPEG; None where its header is damaged."""
  try:
    height, width, _, _ = simplejpeg.decode_jpeg_header(encoded)
  except ValueError:
    return None
  if height * width > MOST_PIXELS:
    raise ValueError(f'its header says {height}x{width} pixels')
  return height, width


def _with_opencv(encoded: bytes, channels: int) -> np.ndarray:
  flag = cv2.IMREAD_GRAYSCALE if channels == 1 else cv2.IMREAD_COLOR
  buffer = np.frombuffer(encoded, np.uint8)
  try:
    image = cv2.imdecode(buffer, flag | cv2.IMREAD_IGNORE_ORIENTATION)
  except cv2.error as error:  # its text names files of OpenCV's own
    raise ValueError('its header makes no sense') from error
  if image is None:
    raise ValueError('not a whole JPEG, PNG or WebP')
  return image[..., None] if channels == 1 else cv2.cvtColor(image, cv2.COLOR_BGR2RGB)
