"""Encoded images to uint8 arrays (H, W, C).

JPEGs come out bit for bit as Pillow decodes them to RGB, and with dct='fast' as
TensorFlow does by default; other formats as both do. What both agree on holds: EXIF
orientation is ignored, alpha is dropped. Of 16 bits the upper 8 are kept, and grey of a
coloured JPEG is its luma, as in TensorFlow (Pillow makes grey PNGs of 16 bits white).

A small file may unfold to gigabytes, so none with more than `MOST_PIXELS` is decoded.
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
# Endings of the names of files that `decode` reads, the usual ones first.
SUFFIXES = tuple(
  '.jpg .jpeg .png .webp .gif .bmp .tif .tiff .jpe .jfif .apng .dib .ppm .pgm .pbm'
  ' .pnm .pam .ras .sr .jp2 .j2k .avif'.split()
)
# How these files start; '.' stands for any byte.
_STARTS = re.compile(
  rb'\xff\xd8\xff|\x89PNG\r\n\x1a\n|RIFF....WEBP|GIF8[79]a|BM....\0\0\0\0|II\*\0|MM\0\*'
  rb'|P[1-7]\s|\x59\xa6\x6a\x95|\0\0\0\x0cjP  |\xff\x4f\xff\x51|....ftypavi[fs]',
  re.DOTALL,
)
# Pixels decoded around those that are wanted: colours are interpolated, but not in an
# image with no more than two of them in a row.
REACH = 4
# The end of what libjpeg says of a file whose height was made smaller.
BEHIND = 'extraneous bytes before marker 0xd9'
# The limit at which Pillow refuses too. Decoding takes 3 bytes for each pixel, and
# Pillow's methods of resizing another 4.
MOST_PIXELS = 178_956_970
# Pixels times scans of a JPEG: sound ones have a dozen scans, but a few bytes make one.
MOST_PASSES = 16 * MOST_PIXELS

NOT_WHOLE = 'not a whole JPEG, PNG or WebP'
NOT_RGBA = 'it is not RGBA, which 4 channels are'
FLAGS = {
  1: cv2.IMREAD_GRAYSCALE,
  3: cv2.IMREAD_COLOR_RGB,
  4: cv2.IMREAD_UNCHANGED,
}

# What OpenCV prints of bad files is in our errors.
cv2.utils.logging.setLogLevel(cv2.utils.logging.LOG_LEVEL_SILENT)


def decode(
  encoded: bytes, channels: int = 3, dct: str = 'accurate', factor: int = 1
) -> np.ndarray:
  """A JPEG, PNG, WebP or what else OpenCV reads, to uint8 (H, W, channels).

  `channels` is 1 (grey) or 3 (RGB); CMYK and palettes become that. It is 4 for images
  that are RGBA. A JPEG may be decoded to sides `factor` (2, 4 or 8) times smaller,
  rounded up; damaged ones and other formats keep their size. Raises ValueError where
  the image is not complete, is too large or has not 4 channels.
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
  # What libjpeg only warns of, such as some extra bytes, is no error to Pillow and
  # TensorFlow either. Rows that it never came to are grey.
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
  """The box (top, left, height, width) of what `decode` gives, the same bit by bit.

  The box is one of the full size, which becomes `factor` times smaller where the image
  does, its edges rounded. Of a JPEG no more is decoded than it takes: what lies above
  the end of the box, or around it where there are restart markers. Damage between
  these, away from the box, is then not seen.
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
  """The box of what starts at `top` and `left`, `factor` times smaller."""
  rows, columns = (
    [round(x / factor) - start // factor for x in (first, first + size)]
    for first, size, start in ((box[0], box[2], top), (box[1], box[3], left))
  )
  return image[slice(*rows), slice(*columns)]


def _decoded(
  part: jpeg.Part, channels: int, dct: str, factor: int
) -> np.ndarray | None:
  """A part of a JPEG; None where it takes the whole to tell if it is sound.

  libjpeg stops decoding where the height ends that the header says. What it then says
  of the bytes behind is what it would say of a sound file.
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
  """Returns height and width of an image, encoded or not; ValueError for no image."""
  if isinstance(encoded, np.ndarray):
    return encoded.shape[:2]
  size = jpeg_size(encoded) if is_jpeg(encoded) else headers.size(encoded)
  return size or decode(encoded).shape[:2]


def check_size(height: int, width: int) -> None:
  """Raises ValueError for a size that no image has, or one that is not decoded."""
  if height < 1 or width < 1:
    raise ValueError(f'its header says {height}x{width} pixels')
  if height * width > MOST_PIXELS:
    raise ValueError(
      f'its header says {height}x{width} pixels, more than the {MOST_PIXELS:,} that are'
      ' decoded'
    )


def is_image(encoded: bytes) -> bool:
  """Returns whether the bytes start as files do that `decode` reads."""
  return _STARTS.match(encoded) is not None


def is_jpeg(encoded: bytes) -> bool:
  """Whether the bytes start as those of a JPEG do."""
  return encoded[:3] == b'\xff\xd8\xff'


def jpeg_size(encoded: bytes) -> tuple[int, int] | None:
  """Height and width of a JPEG; None where its header is damaged."""
  try:
    height, width, _, _ = simplejpeg.decode_jpeg_header(encoded)
  except ValueError:
    return None
  _check_jpeg(encoded, height, width)
  return height, width


def _check_jpeg(encoded: bytes, height: int, width: int) -> None:
  check_size(height, width)
  # Markers of scans: in coded data other bytes follow 0xff.
  if height * width * encoded.count(bytes([0xFF, jpeg.SCAN])) > MOST_PASSES:
    raise ValueError(f'it has too many scans for {height}x{width} pixels')


def _with_pillow(encoded: bytes, channels: int) -> np.ndarray:
  """Decodes a JPEG that libjpeg warns of, or one with inks, without its warnings."""
  try:
    image = JpegImagePlugin.JpegImageFile(io.BytesIO(encoded))
    _check_jpeg(encoded, image.height, image.width)
    if channels == 1:
      image.draft('L', None)  # the luma itself, where there is one
    return bands(image, channels)
  # Pillow raises what its parsing of a damaged header ran into: OSError, SyntaxError,
  # IndexError, struct.error, KeyError and others.
  except Exception as error:
    raise ValueError(f'{NOT_WHOLE} ({error})') from error


def bands(image: Image.Image, channels: int) -> np.ndarray:
  """Returns the pixels of a PIL image of 8 bits as uint8 (H, W, channels)."""
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
  except cv2.error as error:  # its text names files of OpenCV's own
    raise ValueError('its header makes no sense') from error
  if image is None:
    raise ValueError(NOT_WHOLE)
  if channels == 4:
    if image.ndim != 3 or image.shape[-1] != 4:
      raise ValueError(NOT_RGBA)
    image = cv2.cvtColor(image, cv2.COLOR_BGRA2RGBA)
    return upper_bits(image) if image.dtype == np.uint16 else image
  return image[..., None] if channels == 1 else image


def upper_bits(image: np.ndarray) -> np.ndarray:
  """Returns the upper 8 of 16 bits, as decoding does."""
  return (image >> 8).astype(np.uint8)
