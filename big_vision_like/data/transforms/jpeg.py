"""Cutting a part out of a JPEG without decoding it (ITU-T T.81, Annex B).

A JPEG codes its MCUs (8x8 pixels, or up to 16x16 that share colours) row by row, as
bits that can only be read from the start. Restart markers divide them into independent
intervals of a fixed number of MCUs. If rows start with intervals, the intervals around
a box form a separate JPEG. Only the markers' numbers, which count from 0 to 7
repeatedly, must be rewritten.
"""

import dataclasses
import functools

import numpy as np

# Marker bytes, which follow 0xFF. In the coded data of MCUs only 0x00 follows 0xFF.
ONE_PASS, PROGRESSIVE, INTERVAL, SCAN, END = (0xC0, 0xC1), 0xC2, 0xDD, 0xDA, 0xD9


@dataclasses.dataclass(frozen=True)
class Header:
  """The fields of a JPEG before its first scan.

  `mcu` is the height and width of an MCU in pixels, and `interval` the number of MCUs
  between two restart markers (0: no markers). `place` is the offset of the height, and
  `scan` the offset of the coded data. `one_scan` is True if one scan codes the whole
  image.
  """

  height: int
  width: int
  mcu: tuple[int, int]
  interval: int
  place: int
  scan: int
  one_scan: bool

  @functools.cached_property
  def rows(self) -> int:
    """The number of rows of MCUs."""
    return -(-self.height // self.mcu[0])

  @functools.cached_property
  def columns(self) -> int:
    """The number of columns of MCUs."""
    return -(-self.width // self.mcu[1])

  @property
  def cuttable(self) -> bool:
    """Whether each row starts with an interval, or each interval with a row."""
    k = self.interval
    return self.one_scan and k > 0 and (self.columns % k == 0 or k % self.columns == 0)


@dataclasses.dataclass(frozen=True)
class Part:
  """A JPEG of a part of another one, with its position there and its size in pixels.

  `cut_off` is True if it still has the data of the rows below, about which decoders
  warn.
  """

  encoded: bytes | bytearray
  top: int
  left: int
  height: int
  width: int
  cut_off: bool


def read_header(encoded: bytes) -> Header | None:
  """Reads the header of a baseline or progressive JPEG; None for other files."""
  frame, interval, place = None, 0, 2
  while place + 4 <= len(encoded) and encoded[place] == 0xFF:
    marker = encoded[place + 1]
    length = int.from_bytes(encoded[place + 2 : place + 4], 'big')
    content = encoded[place + 4 : place + 2 + length]
    if len(content) != length - 2:
      return None
    if marker in ONE_PASS or marker == PROGRESSIVE:
      if len(content) < 9 or len(content) != 6 + 3 * content[5]:
        return None
      frame = marker, place + 5, content
    elif marker == INTERVAL and len(content) == 2:
      interval = int.from_bytes(content, 'big')
    elif marker == SCAN:
      return _header(frame, content, interval, place + 2 + length)
    place += 2 + length
  return None


def _header(
  frame: tuple[int, int, bytes] | None, scan: bytes, interval: int, start: int
) -> Header | None:
  if frame is None or not scan:
    return None
  marker, place, content = frame
  height, width = (int.from_bytes(content[i : i + 2], 'big') for i in (1, 3))
  shares = content[7::3]  # horizontal and vertical sampling factors, four bits each
  if len(shares) == 1:
    mcu = 8, 8
  else:
    mcu = 8 * max(s & 15 for s in shares), 8 * max(s >> 4 for s in shares)
  if not (height and width and all(mcu)):
    return None
  one_scan = marker in ONE_PASS and scan[0] == len(shares)
  return Header(height, width, mcu, interval, place, start, one_scan)


def cut(encoded: bytes, box: tuple[int, int, int, int], reach: int) -> Part | None:
  """Cuts out a box (top, left, height, width) and at least `reach` pixels around it.

  Without restart markers, the part has all rows down to the end of the box. Returns
  None if the part cannot be cut or would be the whole image. Also returns None if
  restart markers are wrong or the end is missing, since the error can only be found by
  decoding the whole image. Damage between valid markers outside the part is not
  detected.
  """
  header = read_header(encoded)
  if header is None or not header.one_scan:
    return None
  top, left, height, width = box
  low, right = top + height + reach, left + width + reach
  if not header.interval:
    if low >= header.height:
      return None
    head = _with_size(encoded[: header.scan], header.place, low, header.width)
    return Part(head + encoded[header.scan :], 0, 0, low, header.width, cut_off=True)
  if not header.cuttable:
    return None
  # Intervals are `tall` x `wide` pixels, `across` of them make a row.
  across = max(header.columns // header.interval, 1)
  tall = max(header.interval // header.columns, 1) * header.mcu[0]
  wide = min(header.interval, header.columns) * header.mcu[1]
  rows = range(max(top - reach, 0) // tall, -(-min(low, header.height) // tall))
  columns = range(max(left - reach, 0) // wide, -(-min(right, header.width) // wide))
  down = -(-header.height // tall)
  if len(rows) == down and len(columns) == across:
    return None
  markers = _markers(encoded, header.scan, down * across)
  if markers is None:
    return None
  top, left = rows.start * tall, columns.start * wide
  height = min(rows.stop * tall, header.height) - top
  width = min(columns.stop * wide, header.width) - left
  head = _with_size(encoded[: header.scan], header.place, height, width)
  # The selected intervals of a row are contiguous.
  first_R = rows.start * across + columns.start + across * np.arange(len(rows))
  starts_R = markers[first_R] + 2
  markers_RC = markers[1 + first_R[:, None] + np.arange(len(columns))]
  ends_R = markers_RC[:, -1] + 2
  coded = [
    encoded[i:j] for i, j in zip(starts_R.tolist(), ends_R.tolist(), strict=True)
  ]
  part = bytearray(b''.join([head, *coded]))
  moved_R = len(head) + np.cumsum(ends_R - starts_R) - ends_R
  places = (markers_RC + moved_R[:, None]).ravel() + 1
  np.frombuffer(part, np.uint8)[places] = _numbered(len(places))
  return Part(part, top, left, height, width, cut_off=False)


def _with_size(head: bytes, place: int, height: int, width: int) -> bytes:
  size = height.to_bytes(2, 'big') + width.to_bytes(2, 'big')
  return head[:place] + size + head[place + 4 :]


def _markers(encoded: bytes, scan: int, count: int) -> np.ndarray | None:
  """Returns the offsets of the markers around `count` intervals, int (count + 1,).

  The first offset is two bytes before the coded data. Returns None unless the other
  markers are numbered in order, without other markers between them, and the end
  follows.
  """
  data = np.frombuffer(encoded, np.uint8, offset=scan)
  found = np.flatnonzero(data[:-1] == 0xFF)  # few, so a second pass is fast
  found = found[data[found + 1] != 0][:count]
  if not np.array_equal(data[found + 1], _numbered(count)):
    return None
  return np.concatenate([[-2], found]) + scan


def _numbered(count: int) -> np.ndarray:
  """Returns the bytes after 0xFF in the markers that follow `count` intervals."""
  kinds = 0xD0 + np.arange(count) % 8
  kinds[-1] = END
  return kinds
