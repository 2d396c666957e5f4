"""Heights and widths of encoded images from their headers, without decoding.

This module reads all formats that OpenCV reads, except JPEG; see `jpeg` and simplejpeg.
"""

import math
import re
import struct
import zlib
from functools import partial

SIGNATURE = b'\x89PNG\r\n\x1a\n'
# Chunks of a PNG that its pixels need. libpng prints warnings about other chunks.
_CRITICAL = (b'IHDR', b'PLTE', b'IDAT', b'IEND')
_INDEXED = 3  # the colour type of a PNG with a palette
# White space and comments between the numbers of a PNM.
_GAP = rb'(?:\s|#[^\n]*\n)+'
_MOST_TEXT = 4096  # maximum size of a text header in bytes
LAB = 'its colours are CIELAB: convert it to RGB'
# TIFF tags, and the `struct` format of each integer type.
_WIDTH, _HEIGHT, _COLOURS, _TURNED = 256, 257, 262, 274
_CIELAB, _SIDEWAYS = 8, (5, 6, 7, 8)
_INTEGERS = {1: 'B', 3: 'H', 4: 'I', 16: 'Q'}


def size(encoded: bytes) -> tuple[int, int] | None:
  """Returns height and width; None for a damaged header or an unknown format.

  Raises ValueError for colours that OpenCV decodes incorrectly.
  """
  for signature, read in _READERS.items():
    if re.match(signature, encoded, re.DOTALL):
      try:
        return read(encoded)
      except (struct.error, OverflowError):  # truncated, or points past the end
        return None
  return None


def critical_png(encoded: bytes) -> bytes:
  """Returns a PNG without the chunks that its pixels do not need.

  Raises ValueError if a chunk is truncated or damaged, or if the last one is missing.
  """
  kept, kinds, place = [SIGNATURE], set(), len(SIGNATURE)
  view = memoryview(encoded)
  while place + 12 <= len(encoded):
    length, kind = struct.unpack_from('>I4s', encoded, place)
    end = place + 12 + length
    if end > len(encoded):
      break
    if kind in _CRITICAL:
      (checksum,) = struct.unpack_from('>I', encoded, end - 4)
      if zlib.crc32(view[place + 4 : end - 4]) != checksum:
        raise ValueError(f'its chunk {kind.decode()} is damaged')
      kept.append(view[place:end])
      kinds.add(kind)
    if kind == b'IEND':
      if encoded[25] == _INDEXED and b'PLTE' not in kinds:
        raise ValueError('its palette is missing')
      return b''.join(kept)
    place = end
  raise ValueError('its end is missing')


def _at(encoded: bytes, place: int, form: str) -> tuple[int, int]:
  """Reads width and height, in a `struct` format, at a place; returns height, width."""
  width, height = struct.unpack_from(form, encoded, place)
  return height, width


def _bmp(encoded: bytes) -> tuple[int, int]:
  (length,) = struct.unpack_from('<I', encoded, 14)
  width, height = struct.unpack_from('<HH' if length == 12 else '<ii', encoded, 18)
  return abs(height), abs(width)  # a negative height means rows from the top


def _webp(encoded: bytes) -> tuple[int, int] | None:
  kind = encoded[12:16]
  if kind == b'VP8X':
    width, height = (int.from_bytes(encoded[i : i + 3], 'little') for i in (24, 27))
    return height + 1, width + 1
  if kind == b'VP8L':
    (bits,) = struct.unpack_from('<I', encoded, 21)
    return (bits >> 14 & 0x3FFF) + 1, (bits & 0x3FFF) + 1
  if kind == b'VP8 ':
    width, height = struct.unpack_from('<HH', encoded, 26)
    return height & 0x3FFF, width & 0x3FFF
  return None


def _tiff(encoded: bytes) -> tuple[int, int] | None:
  order = '<' if encoded[:2] == b'II' else '>'
  big = 43 in struct.unpack_from(order + 'H', encoded, 2)
  first, count, entry = ('Q', 'Q', 20) if big else ('I', 'H', 12)
  (place,) = struct.unpack_from(order + first, encoded, 8 if big else 4)
  (entries,) = struct.unpack_from(order + count, encoded, place)
  place += struct.calcsize(order + count)
  found: dict[int, int] = {}
  for i in range(min(entries, 4096)):
    tag, kind = struct.unpack_from(order + 'HH', encoded, place + entry * i)
    if tag in (_WIDTH, _HEIGHT, _COLOURS, _TURNED) and kind in _INTEGERS:
      at = place + entry * i + (12 if big else 8)
      (value,) = struct.unpack_from(order + _INTEGERS[kind], encoded, at)
      found[tag] = max(value, found.get(tag, 0))
  if found.get(_COLOURS) == _CIELAB:
    raise ValueError(LAB)
  sides = found.get(_HEIGHT), found.get(_WIDTH)
  if None in sides:
    return None
  return sides[::-1] if found.get(_TURNED) in _SIDEWAYS else sides


def _pnm(encoded: bytes) -> tuple[int, int] | None:
  pattern = rb'P.' + _GAP + rb'(\d{1,9})' + _GAP + rb'(\d{1,9})'
  found = re.match(pattern, encoded[:_MOST_TEXT])
  return found and (int(found[2]), int(found[1]))


def _texts(encoded: bytes, height: bytes, width: bytes) -> tuple[int, int] | None:
  found = [re.search(pattern, encoded[:_MOST_TEXT]) for pattern in (height, width)]
  return (int(found[0][1]), int(found[1][1])) if all(found) else None


def _jpeg2000(encoded: bytes) -> tuple[int, int] | None:
  # The size is in the SIZ marker of the code stream: the right and lower ends.
  place = encoded.find(b'\xff\x4f\xff\x51')
  return None if place < 0 else _at(encoded, place + 8, '>II')


def _avif(encoded: bytes) -> tuple[int, int] | None:
  # The file has a size for each contained image, including alpha and thumbnails.
  places = [match.end() + 4 for match in re.finditer(b'ispe', encoded)]
  sides = [_at(encoded, place, '>II') for place in places]
  return max(sides, key=math.prod, default=None)


_READERS = {
  re.escape(SIGNATURE): partial(_at, place=16, form='>II'),
  b'GIF8': partial(_at, place=6, form='<HH'),
  b'BM': _bmp,
  b'RIFF....WEBP': _webp,
  rb'II[*+]\0|MM\0[*+]': _tiff,
  rb'P[1-6fF]\s': _pnm,
  rb'P7\s': partial(_texts, height=rb'\nHEIGHT (\d{1,9})', width=rb'\nWIDTH (\d{1,9})'),
  rb'#\?R': partial(_texts, height=rb'[-+]Y (\d{1,9})', width=rb'[-+]X (\d{1,9})'),
  re.escape(b'\x59\xa6\x6a\x95'): partial(_at, place=4, form='>II'),
  rb'\0\0\0\x0cjP|\xff\x4f\xff\x51': _jpeg2000,
  b'....ftyp': _avif,
}
