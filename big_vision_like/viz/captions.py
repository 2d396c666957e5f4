"""Pictures with a line of text above them.  Axes: H W pixels, C channels."""

import functools
import unicodedata

import numpy as np
from PIL import Image, ImageDraw, ImageFont

INK, PAPER = (0, 0, 0), (255, 255, 255)
LARGEST, SMALLEST = 20, 10  # font sizes in pixels
MARGIN = 4


def captioned(picture_HWC: np.ndarray, text: str) -> np.ndarray:
  """Returns an RGB uint8 picture with a strip above it that shows a line of text.

  If the text is too long for the picture, its font is reduced, and then the text is cut
  off. Accents are removed, and characters that the font lacks, such as those of other
  scripts than Latin, become question marks (see `writable`).
  """
  width = picture_HWC.shape[1]
  text = ''.join(char if _has(char) else '?' for char in _without_accents(text))
  size = LARGEST
  while size > SMALLEST and _font(size).getlength(text) > width - 2 * MARGIN:
    size -= 1
  font, shown = _font(size), text
  while text and font.getlength(shown) > width - 2 * MARGIN:
    text = text[:-1]
    shown = f'{text}...'
  strip = Image.new('RGB', (width, LARGEST + 2 * MARGIN), PAPER)
  place = MARGIN, strip.height - MARGIN
  ImageDraw.Draw(strip).text(place, shown, fill=INK, font=font, anchor='ld')
  return np.concatenate([np.asarray(strip), picture_HWC])


def writable(text: str) -> bool:
  """Returns whether the font of `captioned` has all characters of a text."""
  return all(map(_has, _without_accents(text)))


def _without_accents(text: str) -> str:
  parts = unicodedata.normalize('NFKD', text)
  return ''.join(char for char in parts if not unicodedata.combining(char))


@functools.cache
def _font(size: int) -> ImageFont.FreeTypeFont:
  return ImageFont.load_default(size)  # a font that comes with Pillow


@functools.cache
def _has(char: str) -> bool:
  """Returns whether the font has a character; for others it draws a box."""
  font = _font(LARGEST)
  return bytes(font.getmask(char)) != bytes(font.getmask('\uffff'))
