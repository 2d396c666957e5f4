"""Decoding of chosen frames of video files with PyAV, which contains FFmpeg.

Frame k of a file is the k-th frame that FFmpeg decodes from the start of the file, as a
player shows it, even if the times between frames vary. To find it without decoding
everything before it, all packets are read first, which takes little time: their times
give the number of each frame, and decoding starts at the key frame before it. Files for
which this may fail are decoded from their start.

One thread decodes, because the input pipeline manages workers and threads.
"""

import bisect
import contextlib
import io
import os
import pathlib
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np

from big_vision_like.data.transforms import decoding
from big_vision_like.errors import BadRecordError, UserError, plural

File = bytes | os.PathLike
# A function from the number of frames and the frames per second to the chosen frames.
Choice = Callable[[int, float], np.ndarray]

# The frames per second of files that do not store a rate.
FPS = 30.0
# Some files announce a few frames too many. A file with less than this share of the
# announced frames is damaged.
COMPLETE = 0.9
# Formats and codecs whose packets have one shown frame each, with its time.
INDEXED = ('mov,mp4,m4a,3gp,3g2,mj2', 'matroska,webm')
TIMED = ('h264', 'hevc', 'av1', 'vp8', 'vp9', 'mjpeg', 'png', 'ffv1', 'prores')
# Frames that are decoded rather than searched for a key frame behind them.
NEAR = 4


class Packets(NamedTuple):
  """What the packets of a video say about its frames.

  `times` are the times of shown frames and `keys` those of key frames, in ascending
  order; `end` is the end of the last one. Frames can only be found by their times if
  they are `sound`.
  """

  times: list[int]
  keys: list[int]
  end: int
  sound: bool


def chosen(
  file: File, choose: Choice, name: str
) -> tuple[np.ndarray, dict[int, np.ndarray]]:
  """Chooses frames of a video and decodes them; returns indices, and frames by index.

  Frames are RGB, uint8 (H, W, 3), upright as a player shows them. `name` is the name of
  the video in messages. Raises `BadRecordError` if the file is not a video or is
  damaged; if only a few frames are missing at its end, the others are chosen from.
  """
  with _opened(file, name) as (container, stream):
    announced, fps = stream.frames, float(stream.average_rate or FPS)
    packets = _packets(container, stream)
    count = len(packets.times)
    if count < COMPLETE * announced or not count:
      raise _damaged(name, count, announced)
    _check_duration(container, stream, packets, name)
    indices = choose(count, fps)
    wanted = np.unique(indices).tolist()
    found = _by_times(container, stream, packets, wanted) if packets.sound else None
  if found is None:
    decoded, found = _from_start(file, name, wanted)
    if len(found) < len(wanted):
      if decoded < COMPLETE * max(count, announced):
        raise _damaged(name, decoded, max(count, announced))
      indices = choose(decoded, fps)
      _, found = _from_start(file, name, np.unique(indices).tolist())
  return indices, found


def frame_size(file: File) -> tuple[int, int]:
  """Returns the height and width of the frames of a video, upright."""
  name = '' if isinstance(file, bytes) else str(file)
  _, frames = _from_start(file, name, [0])
  if not frames:
    raise _damaged(name, 0, 0)
  return frames[0].shape[:2]


def _damaged(name: str, found: int, announced: int) -> BadRecordError:
  if announced <= found:
    return BadRecordError(f'the video {name} has no frame that can be decoded.')
  return BadRecordError(
    f'the video {name} is damaged: {found:,} of its {plural(announced, "frame")} can be'
    ' decoded.'
  )


@contextlib.contextmanager
def _opened(file: File, name: str) -> Iterator[tuple[Any, Any]]:
  """Yields a container and its first video stream, ready to decode on one thread."""
  av = _av()
  source = io.BytesIO(file) if isinstance(file, bytes) else str(file)
  try:
    container = av.open(source, metadata_errors='ignore')
  except _damage() as error:
    if isinstance(file, bytes):
      size = plural(len(file), 'byte')
    elif pathlib.Path(file).is_file():
      size = plural(pathlib.Path(file).stat().st_size, 'byte')
    else:
      size = 'there is no such file'
    raise BadRecordError(f'the video {name} cannot be read ({size}).') from error
  with container:
    streams = [x for x in container.streams.video if not _is_cover(x)]
    if not streams:
      raise BadRecordError(f'the video {name} has no pictures, perhaps only sound.')
    context = streams[0].codec_context
    try:
      if context is None:
        raise ValueError('its codec is not known to FFmpeg')
      if context.width or context.height:
        decoding.check_size(context.height, context.width)
    except ValueError as error:
      raise BadRecordError(f'the video {name} cannot be decoded: {error}.') from error
    context.thread_type, context.thread_count = 'NONE', 1
    # The size may change between frames.
    context.options = {'max_pixels': str(decoding.MOST_PIXELS)}
    yield container, streams[0]


def _av() -> Any:
  try:
    import av
  except ImportError as error:
    raise UserError('video files need PyAV: pip install av') from error
  return av


def _damage() -> tuple[type[Exception], ...]:
  """Returns the errors of PyAV for damaged files.

  IndexError is that of a packet of a stream that the file does not announce.
  """
  return _av().error.FFmpegError, OSError, IndexError


def _is_cover(stream: Any) -> bool:
  """Returns whether a stream is the picture of an album, in a file of sound."""
  return bool(stream.disposition & type(stream.disposition).attached_pic)


def _demuxed(container: Any, stream: Any) -> Iterator[Any]:
  """Yields packets with content up to the end, or to damage that hides the end."""
  try:
    for packet in container.demux(stream):
      if packet.size:
        yield packet
  except _damage():
    return


def _packets(container: Any, stream: Any) -> Packets:
  codec = stream.codec_context.codec.canonical_name
  times, keys, end = [], [], 0
  for packet in _demuxed(container, stream):
    if packet.is_keyframe:
      keys.append(packet.pts)
    if not packet.is_discard and _is_shown(packet, codec):
      times.append(packet.pts)
    end = max(end, (packet.pts or 0) + (packet.duration or 0))
  sound = container.format.name in INDEXED and codec in TIMED and bool(times and keys)
  sound = sound and len({*times}) == len(times) and None not in (*times, *keys)
  # Frames before the first key frame depend on missing ones.
  if not sound or min(times) < min(keys):
    return Packets(times, keys, end, sound=False)
  return Packets(sorted(times), sorted(keys), end, sound=True)


def _check_duration(container: Any, stream: Any, packets: Packets, name: str) -> None:
  """Raises if the only stream ends early in a file that announces no frames."""
  if stream.frames or len(container.streams) > 1 or not container.duration:
    return
  start, total = stream.start_time or 0, container.duration / 1e6  # in microseconds
  seconds = float((packets.end - start) * stream.time_base)
  if seconds < COMPLETE * total:
    raise BadRecordError(
      f'the video {name} is damaged: its frames end after {seconds:.1f} of'
      f' {total:.1f} seconds.'
    )


def _is_shown(packet: Any, codec: str) -> bool:
  """Returns whether a packet's frame is shown; VP8 and VP9 have others to refer to."""
  if codec not in ('vp8', 'vp9'):
    return True
  data = memoryview(packet)
  first = data[0]
  if codec == 'vp8':
    return bool(first & 0x10)
  if data[-1] & 0xE0 == 0xC0:  # several frames, of which the last is shown
    return True
  # From the highest bit: a mark of 2 bits, a profile of 2, one more for profile 3,
  # whether a frame is shown again, whether it is no key frame, whether it is shown.
  shift = 1 if first & 0x30 == 0x30 else 0
  again, shown = first >> (3 - shift) & 1, first >> (1 - shift) & 1
  return bool(again or shown)


def _by_times(
  container: Any, stream: Any, packets: Packets, wanted: Sequence[int]
) -> dict[int, np.ndarray] | None:
  """Decodes frames from the key frames before them.

  Returns None if a frame was not found or is corrupt.
  """
  index = {packets.times[k]: k for k in wanted}
  found: dict[int, np.ndarray] = {}
  groups: list[tuple[int, list[int]]] = []  # key frames to start at, with wanted times
  for time in index:
    place = bisect.bisect_right(packets.keys, time) - 1
    if place < 0:
      return None
    key = packets.keys[place]
    if groups:
      last = groups[-1][1][-1]
      if bisect.bisect_left(packets.times, key) - index[last] <= NEAR:
        groups[-1][1].append(time)
        continue
    groups.append((key, [time]))
  try:
    for key, times in groups:
      waiting = {*times}
      for frame in _decoded(container, stream, key, waiting):
        if frame.is_corrupt:
          return None
        found[index[frame.pts]] = _upright(frame)
        waiting.discard(frame.pts)
        if not waiting:
          break
      if waiting:
        return None
  except _damage():
    return None
  return found


def _decoded(container: Any, stream: Any, key: int, waiting: set[int]) -> Iterator[Any]:
  """Yields the frames at the times `waiting`, decoding from the key frame at `key`."""
  context = stream.codec_context
  skips = context.name == 'h264'
  for packet in _from_key(container, stream, key):
    if skips:
      # No frame depends on the ones that the decoder then leaves out.
      needed = not packet.size or packet.pts in waiting
      context.skip_frame = 'DEFAULT' if needed else 'NONREF'
    for frame in packet.decode():
      if frame.pts in waiting:
        yield frame


def _from_key(container: Any, stream: Any, key: int) -> Iterator[Any]:
  """Yields the packets from a key frame on; nothing if it cannot be found."""
  # Some formats search by the time of decoding, which is before that of the frame.
  for target in (key, stream.start_time or 0):
    container.seek(target, stream=stream)
    packets = container.demux(stream)
    for packet in packets:
      if packet.is_keyframe and packet.pts is not None and packet.pts >= key:
        break
    if packet.pts == key:
      yield packet
      yield from packets
      return


def _from_start(
  file: File, name: str, wanted: Sequence[int]
) -> tuple[int, dict[int, np.ndarray]]:
  """Decodes a file from its start; returns the number of frames, and wanted frames.

  Stops after the last of the wanted frames, which are in ascending order. Leaves out
  packets that cannot be decoded.
  """
  frames: dict[int, np.ndarray] = {}
  number = 0
  left = {*wanted}
  with _opened(file, name) as (container, stream):
    for frame in _all_frames(container, stream):
      if number in left:
        frames[number] = _upright(frame)
        left.discard(number)
      number += 1
      if not left:
        break
  return number, frames


def _all_frames(container: Any, stream: Any) -> Iterator[Any]:
  for packet in _demuxed(container, stream):
    try:
      frames = packet.decode()
    except _damage():
      continue
    yield from frames
  with contextlib.suppress(*_damage()):
    yield from stream.codec_context.decode(None)


def _upright(frame: Any) -> np.ndarray:
  """Returns a frame as RGB, turned and mirrored as the file says."""
  return turned(frame.to_ndarray(format='rgb24'), _matrix(frame))


def _matrix(frame: Any) -> tuple[int, int, int, int] | None:
  """Returns the linear part of a frame's display matrix, if it has one."""
  side = frame.side_data.get('DISPLAYMATRIX')
  if side is None:
    return None
  # Nine numbers in rows, of which those in the last column are of perspective.
  numbers = np.frombuffer(bytes(side), np.int32)
  return tuple(numbers[[0, 1, 3, 4]].tolist())


def turned(picture_HWC: np.ndarray, matrix: Sequence[int] | None) -> np.ndarray:
  """Turns and mirrors a picture by the linear part (a, b, c, d) of a display matrix.

  A pixel at (x, y) is shown at (a x + c y, b x + d y), up to a shift and a scale. Turns
  by other angles than multiples of 90 degrees are left out.
  """
  if matrix is None or not any(matrix):
    return picture_HWC
  largest = max(map(abs, matrix))
  a, b, c, d = (round(x / largest) for x in matrix)
  if (a, b, c, d).count(0) != 2 or a * d == b * c:
    return picture_HWC
  if a == 0:  # x and y change places
    picture_HWC, a, d = picture_HWC.swapaxes(0, 1), c, b
  return np.ascontiguousarray(picture_HWC[::d, ::a])
