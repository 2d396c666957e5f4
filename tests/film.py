"""Small videos of numbered frames, written with PyAV."""

import fractions
import io
from collections.abc import Sequence

import av
import numpy as np

HEIGHT, WIDTH, COUNT = 48, 64, 60


def frame(number: int, height: int = HEIGHT, width: int = WIDTH) -> np.ndarray:
  """Returns a picture with a number as six blocks, black or white, above red."""
  picture = np.zeros((height, width, 3), np.uint8)
  picture[32:, :, 0] = 200
  for bit in range(6):
    picture[:16, 10 * bit : 10 * bit + 10] = 255 * (number >> bit & 1)
  return picture


def numbers(frames: np.ndarray) -> list[int]:
  """Returns the numbers of frames, after checking that they are RGB."""
  red, green, blue = frames[..., 40:, 8:-8, :].mean((-3, -2)).T
  assert (red > 150).all() and (green < 60).all() and (blue < 60).all()
  bits = [
    frames[..., 4:12, 10 * b + 3 : 10 * b + 7, :].mean((-3, -2, -1)) for b in range(6)
  ]
  return sum((bit > 128).astype(int) << b for b, bit in enumerate(bits)).tolist()


def written(
  kind: str = 'mp4',
  codec: str = 'libx264',
  count: int = COUNT,
  fps: int = 15,
  times: Sequence[int] | None = None,
  rotation: int = 0,
  container: dict[str, str] | None = None,
  height: int = HEIGHT,
  width: int = WIDTH,
  **options: str,
) -> bytes:
  """Returns a video file of `count` frames; `times` are those of frames, in ms."""
  file = io.BytesIO()
  output = av.open(file, 'w', format=kind, container_options=container or {})
  names = {name.replace('_', '-'): value for name, value in options.items()}
  stream = output.add_stream(codec, rate=fps, options=names)
  stream.width, stream.height = width, height
  stream.pix_fmt = 'yuvj420p' if codec == 'mjpeg' else 'yuv420p'
  stream.codec_context.thread_count = 1
  if rotation:
    stream.set_display_rotation(rotation)
  if times is not None:
    stream.codec_context.time_base = fractions.Fraction(1, 1000)
  for number in range(count):
    picture = av.VideoFrame.from_ndarray(frame(number, height, width), format='rgb24')
    if times is not None:
      picture.pts, picture.time_base = times[number], fractions.Fraction(1, 1000)
    output.mux(stream.encode(picture))
  output.mux(stream.encode())
  output.close()
  return file.getvalue()
