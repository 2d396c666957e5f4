"""Decoding of images to uint8 arrays (H, W, C).

JPEGs are decoded to RGB bit-identically to Pillow, or with dct='fast' to TensorFlow's
default. Other formats are decoded as in both libraries. Like both, decoding ignores
EXIF orientation and drops alpha. It keeps the upper 8 of 16 bits, and converts a
coloured JPEG to grey by its luma, as in TensorFlow (Pillow turns grey 16-bit PNGs
white).

A small file may decode to gigabytes, so images with more than `MOST_PIXELS` pixels are
not decoded.
"""

import io
import re
from typing import Any

import cv2
import numpy as np
import simplejpeg
from PIL import Image, JpegImagePlugin

from big_vision_like.data.transforms import cropping, headers, jpeg

DCT = ('accurate', 'fast')
# Suffixes of the files that `decode` reads, the usual ones first.
SUFFIXES = tuple(
  '.jpg .jpeg .png .webp .gif .bmp .tif .tiff .jpe .jfif .apng .dib .ppm .pgm .pbm'
  ' .pnm .pam .ras .sr .jp2 .j2k .avif'.split()
)
# First bytes of these files; '.' matches any byte.
_STARTS = re.compile(
  rb'\xff\xd8\xff|\x89PNG\r\n\x1a\n|RIFF....WEBP|GIF8[79]a|BM....\0\0\0\0|II\*\0|MM\0\*'
  rb'|P[1-7]\s|\x59\xa6\x6a\x95|\0\0\0\x0cjP  |\xff\x4f\xff\x51|....ftypavi[fs]',
  re.DOTALL,
)
# Number of extra pixels decoded around a box, because decoders interpolate colours from
# neighbours. They do not in images with at most two colour samples in a row.
REACH = 4
# The end of libjpeg's warning about a file whose height was reduced.
BEHIND = 'extraneous bytes before marker 0xd9'
# Pillow's limit on the number of pixels. Decoding takes 3 bytes per pixel, and Pillow's
# resizing methods another 4.
MOST_PIXELS = 178_956_970
# Maximum of pixels times scans of a JPEG. Valid files have about a dozen scans, but a
# scan may take only a few bytes.
MOST_PASSES = 16 * MOST_PIXELS

NOT_WHOLE = 'not a complete JPEG, PNG or WebP'
NOT_RGBA = 'it is not RGBA, as 4 channels require'
FLAGS = {
  1: cv2.IMREAD_GRAYSCALE,
  3: cv2.IMREAD_COLOR_RGB,
  4: cv2.IMREAD_UNCHANGED,
}

# Errors of this module already contain OpenCV's messages about bad files.
cv2.utils.logging.setLogLevel(cv2.utils.logging.LOG_LEVEL_SILENT)


def decode(
  encoded: bytes, channels: int = 3, dct: str = 'accurate', factor: int = 1
) -> np.ndarray:
  """Decodes JPEG, PNG, WebP and other formats of OpenCV to uint8 (H, W, channels).

  `channels` is 1 (grey) or 3 (RGB), to which CMYK and palettes are converted, or 4 for
  RGBA images. A JPEG may be decoded to sides `factor` (2, 4 or 8) times smaller,
  rounded up; damaged JPEGs and other formats keep their size. Raises ValueError if the
  image is incomplete, is too large, or lacks the requested 4 channels.
  """
  if not encoded:
    raise ValueError('the file is empty')
  if not is_jpeg(encoded):
    return _with_opencv(encoded, channels)
  if channels == 4:
    raise ValueError(NOT_RGBA)
  size, warning = jpeg_size(encoded), 'its header is damaged'
  if size is not None:
    try:
      return simplejpeg.decode_jpeg(encoded, **_options(size, channels, dct, factor))
    except ValueError as error:
      warning = str(error)
      if 'Premature end of JPEG file' in warning:
        raise
  # Warnings of libjpeg, such as extra bytes, are not errors in Pillow and TensorFlow
  # either. Rows that were not decoded are grey.
  image = _with_pillow(encoded, channels)
  if (image[-1] == 128).all():
    raise ValueError(f'rows are missing at its end; {warning}')
  return image


def decode_box(
  encoded: bytes,
  box: cropping.Box,
  channels: int = 3,
  dct: str = 'accurate',
  factor: int = 1,
) -> np.ndarray:
  """Decodes a box (top, left, height, width), bit-identical to cropping after `decode`.

  The box is given in pixels of the full size. If the image is decoded `factor` times
  smaller, so is the box, with rounded edges. Only the necessary part of a JPEG is
  decoded: the rows down to the end of the box, or with restart markers the surroundings
  of the box. Damage between markers, away from the box, is then not detected.
  """
  size = jpeg_size(encoded) if is_jpeg(encoded) else None
  part = None if size is None else jpeg.cut(encoded, box, REACH * factor)
  image = None if part is None else _decoded(part, channels, dct, factor)
  if image is not None:
    return _cut(image, box, factor, part.top, part.left)
  image = decode(encoded, channels, dct, factor)
  return _cut(image, box, 1 if size in (None, image.shape[:2]) else factor)


def _cut(
  image: np.ndarray, box: cropping.Box, factor: int, top: int = 0, left: int = 0
) -> np.ndarray:
  """Crops a box from a `factor` times smaller image that starts at `top` and `left`."""
  rows, columns = (
    [round(x / factor) - start // factor for x in (first, first + size)]
    for first, size, start in ((box[0], box[2], top), (box[1], box[3], left))
  )
  return image[slice(*rows), slice(*columns)]


def _decoded(
  part: jpeg.Part, channels: int, dct: str, factor: int
) -> np.ndarray | None:
  """Decodes a part of a JPEG; None if only decoding the whole JPEG can validate it.

  libjpeg stops decoding at the height given by the header. Its warning about the bytes
  after that is expected for a valid file.
  """
  options = _options((part.height, part.width), channels, dct, factor)
  shape = options['min_height'], options['min_width'], channels
  image = np.empty(shape, np.uint8)
  try:
    simplejpeg.decode_jpeg(part.encoded, buffer=image, **options)
  except ValueError as error:
    if not part.cut_off or not str(error).endswith(BEHIND):
      return None
  return image


def _options(
  size: tuple[int, int], channels: int, dct: str, factor: int
) -> dict[str, Any]:
  height, width = size
  return dict(
    colorspace={1: 'GRAY', 3: 'RGB'}[channels],
    fastdct=dct == 'fast',
    min_height=-(-height // factor),
    min_width=-(-width // factor),
    min_factor=factor,
  )


def image_size(encoded: bytes | np.ndarray) -> tuple[int, int]:
  """Returns the height and width of an image, encoded or not; ValueError if invalid."""
  if isinstance(encoded, np.ndarray):
    return encoded.shape[:2]
  size = jpeg_size(encoded) if is_jpeg(encoded) else headers.size(encoded)
  return size or decode(encoded).shape[:2]


def check_size(height: int, width: int) -> None:
  """Raises ValueError for a size that is empty or larger than the limit."""
  if height < 1 or width < 1:
    raise ValueError(f'its header gives {height}x{width} pixels')
  if height * width > MOST_PIXELS:
    raise ValueError(
      f'its header gives {height}x{width} pixels, more than the limit of'
      f' {MOST_PIXELS:,}'
    )


def is_image(encoded: bytes) -> bool:
  """Returns whether the bytes start like a file that `decode` reads."""
  return _STARTS.match(encoded) is not None


def is_jpeg(encoded: bytes) -> bool:
  """Returns whether the bytes start like a JPEG."""
  return encoded[:3] == b'\xff\xd8\xff'


def jpeg_size(encoded: bytes) -> tuple[int, int] | None:
  """Returns the height and width of a JPEG; None if its header is damaged."""
  try:
    height, width, _, _ = simplejpeg.decode_jpeg_header(encoded)
  except ValueError:
    return None
  _check_jpeg(encoded, height, width)
  return height, width


def _check_jpeg(encoded: bytes, height: int, width: int) -> None:
  check_size(height, width)
  # Counts markers of scans; in coded data, other bytes follow 0xff.
  if height * width * encoded.count(bytes([0xFF, jpeg.SCAN])) > MOST_PASSES:
    raise ValueError(f'it has too many scans for {height}x{width} pixels')


def _with_pillow(encoded: bytes, channels: int) -> np.ndarray:
  """Decodes a JPEG that libjpeg warns about, or a CMYK JPEG; ignores the warnings."""
  try:
    image = JpegImagePlugin.JpegImageFile(io.BytesIO(encoded))
    _check_jpeg(encoded, image.height, image.width)
    if channels == 1:
      image.draft('L', None)  # the luma itself, if the file has one
    return bands(image, channels)
  # Pillow raises whatever error occurs while it parses a damaged header: OSError,
  # SyntaxError, IndexError, struct.error, KeyError and others.
  except Exception as error:
    raise ValueError(f'{NOT_WHOLE} ({error})') from error


def bands(image: Image.Image, channels: int) -> np.ndarray:
  """Returns the pixels of an 8-bit PIL image as uint8 (H, W, channels)."""
  pixels = np.asarray(image.convert({1: 'L', 3: 'RGB', 4: 'RGBA'}[channels]))
  return pixels[..., None] if channels == 1 else pixels


def _with_opencv(encoded: bytes, channels: int) -> np.ndarray:
  size = headers.size(encoded)
  if size is None:
    raise ValueError(NOT_WHOLE)
  check_size(*size)
  if encoded.startswith(headers.SIGNATURE):
    encoded = headers.critical_png(encoded)
  buffer = np.frombuffer(encoded, np.uint8)
  try:
    image = cv2.imdecode(buffer, FLAGS[channels] | cv2.IMREAD_IGNORE_ORIENTATION)
  except cv2.error as error:  # its text names source files of OpenCV
    raise ValueError('its header is invalid') from error
  if image is None:
    raise ValueError(NOT_WHOLE)
  if channels == 4:
    if image.ndim != 3 or image.shape[-1] != 4:
      raise ValueError(NOT_RGBA)
    image = cv2.cvtColor(image, cv2.COLOR_BGRA2RGBA)
    return upper_bits(image) if image.dtype == np.uint16 else image
  return image[..., None] if channels == 1 else image


def upper_bits(image: np.ndarray) -> np.ndarray:
  """Returns the upper 8 of 16 bits."""
  return (image >> 8).astype(np.uint8)
