"""Restart markers in stored JPEGs, which allow decoding parts of the images.

data/transforms/jpeg.py explains them. Each takes about two and a half bytes.
"""

import math
import shutil
import subprocess

import cv2
import numpy as np

from big_vision_like.data.transforms import decoding, image, jpeg
from big_vision_like.errors import UserError

# Desired distance between two markers in pixels.
APART = 64


def encode(pixels: np.ndarray, quality: int) -> bytes:
  """Encodes uint8 (H, W, 1 or 3) as a grey or 4:2:0 JPEG with restart markers."""
  coloured = pixels.shape[-1] == 3
  options = {
    cv2.IMWRITE_JPEG_QUALITY: quality,
    cv2.IMWRITE_JPEG_RST_INTERVAL: interval(pixels.shape[1], 16 if coloured else 8),
  }
  if coloured:
    sampling = cv2.IMWRITE_JPEG_SAMPLING_FACTOR_420
    options[cv2.IMWRITE_JPEG_SAMPLING_FACTOR] = sampling
    pixels = cv2.cvtColor(pixels, cv2.COLOR_RGB2BGR)
  _, encoded = cv2.imencode(
    '.jpg', pixels, [x for pair in options.items() for x in pair]
  )
  return encoded.tobytes()


def insert(encoded: bytes, index: int) -> bytes:
  """Returns a file of the same pixels with restart markers, or the file unchanged.

  The file is unchanged if it has markers already, is not a JPEG, or is rejected by
  jpegtran, which writes the markers. The result is a baseline JPEG with optimal Huffman
  tables. Raises BadRecordError, which names `index`, if the image cannot be decoded.
  """
  header = jpeg.read_header(encoded) if decoding.is_jpeg(encoded) else None
  if header is None or header.cuttable:
    return encoded
  pixels = image.Decode().map({'image': encoded, 'id': index})['image']
  between = interval(header.width, header.mcu[1])
  command = ['jpegtran', '-copy', 'all', '-optimize', '-restart', f'{between}B']
  done = subprocess.run(command, input=encoded, capture_output=True)
  if done.returncode:
    return encoded
  again = image.Decode().map({'image': done.stdout, 'id': index})['image']
  return done.stdout if np.array_equal(again, pixels) else encoded


def check() -> None:
  """Raises UserError if `insert` cannot work because jpegtran is missing."""
  if shutil.which('jpegtran') is None:
    raise UserError(
      'restart markers are written by jpegtran, which is missing: install'
      ' libjpeg-turbo (Debian: libjpeg-turbo-progs)'
    )


def interval(width: int, mcu: int) -> int:
  """Returns the number of MCUs of a width between two markers; rows start with one."""
  columns, wanted = -(-width // mcu), APART / mcu
  divisors = [k for k in range(1, columns + 1) if columns % k == 0]
  return min(divisors, key=lambda k: abs(math.log(k / wanted)))
