"""Cutting a part out of a JPEG without decoding it (ITU-T T.81, Annex B).

A JPEG codes its MCUs (8x8 pixels, or up to 16x16 that share colours) row by row, as
bits that can only be read from the start. Restart markers part them into intervals of a
fixed number of MCUs that need nothing of each other. Where rows start with intervals,
those around a box are a JPEG of their own; only the markers' numbers, which count from
0 to 7 over and over, have to be written anew.
"""

import dataclasses
import functools

import numpy as np

# Bytes that follow 0xFF, which bits of MCUs never have after it but 0x00.
ONE_PASS, PROGRESSIVE, INTERVAL, SCAN, END = (0xC0, 0xC1), 0xC2, 0xDD, 0xDA, 0xD9


@dataclasses.dataclass(frozen=True)
class Header:
  """What a JPEG says before its first scan.

  `mcu` is the height and width of an MCU in pixels, `interval` how many of them lie
  between two restart markers (0: there are none); `place` is where the height is
  written, `scan` where the coded data start. `one_scan`: a single pass codes it all.
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
    """Of MCUs."""
    return -(-self.height // self.mcu[0])

  @functools.cached_property
  def columns(self) -> int:
    """Of MCUs."""
    return -(-self.width // self.mcu[1])

  @property
  def cuttable(self) -> bool:
    """Whether each row starts with an interval, or each interval with a row."""
    k = self.interval
    return self.one_scan and k > 0 and (self.columns % k == 0 or k % self.columns == 0)


@dataclasses.dataclass(frozen=True)
class Part:
  """A JPEG with a part of another: where it starts there, and its size in pixels.

  `cut_off`: it still has the data of what is below it, of which decoders warn.
  """

  encoded: bytes | bytearray
  top: int
  left: int
  height: int
  width: int
  cut_off: bool


def read_header(encoded: bytes) -> Header | None:
  """The header of a baseline or progressive JPEG; None for others and damaged ones."""
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
  shares = content[7::3]  # across and down, four bits each
  if len(shares) == 1:
    mcu = 8, 8
  else:
    mcu = 8 * max(s & 15 for s in shares), 8 * max(s >> 4 for s in shares)
  if not (height and width and all(mcu)):
    return None
  one_scan = marker in ONE_PASS and scan[0] == len(shares)
  return Header(height, width, mcu, interval, place, start, one_scan)


def cut(encoded: bytes, box: tuple[int, int, int, int], reach: int) -> Part | None:
  """The part that has the box (top, left, height, width) and `reach` pixels around it.

  Without restart markers that is all rows down to the end of the box. None where no
  part can be cut, where that would be all, and where restart markers are not as they
  must be or the end is missing: then it takes the whole to tell what is wrong. Damage
  in what is cut away, between sound markers, is not seen.
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
  # Of each row all intervals that are taken follow each other.
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
  """Where the markers around `count` intervals are, int (count + 1,).

  The first stands for the bytes before the scan. None unless the others are numbered in
  turn, with no other marker between, and the end follows.
  """
  data = np.frombuffer(encoded, np.uint8, offset=scan)
  found = np.flatnonzero(data[:-1] == 0xFF)  # few, so that looking twice is faster
  found = found[data[found + 1] != 0][:count]
  if not np.array_equal(data[found + 1], _numbered(count)):
    return None
  return np.concatenate([[-2], found]) + scan


def _numbered(count: int) -> np.ndarray:
  """What follows 0xFF in the markers behind `count` intervals."""
  kinds = 0xD0 + np.arange(count) % 8
  kinds[-1] = END
  return kinds
