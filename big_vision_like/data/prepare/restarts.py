"""Restart markers in JPEGs that are stored, so that boxes of them are decoded alone.

data/transforms/jpeg.py has what they are; each takes about two bytes and a half.
"""

import math
import shutil
import subprocess

import cv2
import numpy as np

from big_vision_like.data.transforms import decoding, image, jpeg
from big_vision_like.errors import UserError

# About as many pixels are to lie between two of them.
APART = 64


def encode(pixels: np.ndarray, quality: int) -> bytes:
  """A JPEG with restart markers, 4:2:0 or grey, of uint8 (H, W, 1 or 3)."""
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
  """The same image, pixel by pixel, with restart markers, or the same file.

  It stays as it is where it has them already, is no JPEG, or where jpegtran, which
  writes them, has something to say against it. `index` names one that cannot be
  decoded: BadRecordError. What comes out is baseline, with the best Huffman tables.
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
  """Raises UserError where `insert` cannot work."""
  if shutil.which('jpegtran') is None:
    raise UserError(
      'restart markers are written by jpegtran, which is not there: install'
      ' libjpeg-turbo (Debian: libjpeg-turbo-progs)'
    )


def interval(width: int, mcu: int) -> int:
  """How many MCUs of that width lie between two markers: rows start with one."""
  columns, wanted = -(-width // mcu), APART / mcu
  divisors = [k for k in range(1, columns + 1) if columns % k == 0]
  return min(divisors, key=lambda k: abs(math.log(k / wanted)))
