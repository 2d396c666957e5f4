"""Measures how fast clips are decoded from video files, on one core of this machine.

    python tools/benchmark/videos.py > videos.json

Videos of 30 seconds, 340x256 pixels, H.264, with moving photographs, are written first,
with a key frame every 250 frames (the encoder's default) and every 30 frames. A clip is
8 frames, 32 frames apart, from a random start. Clips per second are those per second of
CPU time, so other programs on the machine matter little. Readers take turns, with the
same clips:

    ours       data.transforms.video_files, from the key frame before each frame
    start      the same library, decoding from the start of the file
    opencv     cv2.VideoCapture, decoding from the start of the file
    decord     decord.VideoReader(num_threads=1), if it is installed
    torchcodec torchcodec.decoders.VideoDecoder(num_ffmpeg_threads=1), if it can be
               loaded

`difference` is the largest difference of a pixel from what decoding everything gives.
Prints JSON; numbers are medians over --rounds.
"""

import argparse
import functools
import importlib.metadata
import json
import pathlib
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from typing import Any

import cv2
import numpy as np

from big_vision_like import errors, files
from big_vision_like.data.transforms import video, video_files

HEIGHT, WIDTH, FPS = 256, 340, 30
FRAMES, STRIDE = 8, 32
INTERVALS = (250, 30)
# A reader returns the frames of a file with given numbers, (T, H, W, 3) RGB.
Reader = Callable[[str, np.ndarray], np.ndarray]


def write_video(path: pathlib.Path, seed: int, seconds: int, interval: int) -> None:
  """Writes a video of a photograph that moves, with noise, as H.264."""
  import av
  from sklearn import datasets

  rng = np.random.default_rng(seed)
  photographs = datasets.load_sample_images().images
  photograph = photographs[seed % len(photographs)]
  speed, phase = rng.uniform(0.2, 0.6, 3), rng.uniform(0, 6, 3)
  output = av.open(str(path), 'w')
  options = {'g': str(interval), 'preset': 'veryfast'}
  stream = output.add_stream('libx264', rate=FPS, options=options)
  stream.width, stream.height, stream.pix_fmt = WIDTH, HEIGHT, 'yuv420p'
  noise = rng.normal(0, 4, (4, HEIGHT, WIDTH, 3))
  for number in range(seconds * FPS):
    x, y, z = np.sin(speed * number / FPS + phase)
    scale = 0.62 + 0.08 * z
    matrix = np.float32([[scale, 0, 110 + 90 * x], [0, scale, 110 + 60 * y]])
    picture = cv2.warpAffine(
      photograph,
      matrix,
      (WIDTH, HEIGHT),
      flags=cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP,
      borderMode=cv2.BORDER_REFLECT,
    )
    picture = np.clip(picture + noise[number % 4], 0, 255).astype(np.uint8)
    frame = av.VideoFrame.from_ndarray(picture, format='rgb24')
    output.mux(stream.encode(frame))
  output.mux(stream.encode())
  output.close()


def ours(path: str, wanted: np.ndarray) -> np.ndarray:
  """Decodes from the key frames before the wanted ones."""
  given = {'video': pathlib.Path(path)}
  return video.chosen_frames(given, lambda available, fps: wanted, FPS)


def from_start(path: str, wanted: np.ndarray) -> np.ndarray:
  """Decodes from the start of the file with PyAV."""
  file = pathlib.Path(path)
  _, frames = video_files._from_start(file, path, wanted.tolist())
  return np.stack([frames[index] for index in wanted.tolist()])


def with_opencv(path: str, wanted: np.ndarray) -> np.ndarray:
  """Decodes from the start of the file with OpenCV."""
  settings = [cv2.CAP_PROP_N_THREADS, 1]
  capture, frames, number = cv2.VideoCapture(path, cv2.CAP_FFMPEG, settings), [], 0
  for index in wanted.tolist():
    while number < index:
      capture.grab()
      number += 1
    frames.append(cv2.cvtColor(capture.read()[1], cv2.COLOR_BGR2RGB))
    number += 1
  capture.release()
  return np.stack(frames)


def with_decord(path: str, wanted: np.ndarray) -> np.ndarray:
  """Decodes with decord on one thread."""
  import decord

  reader = decord.VideoReader(path, ctx=decord.cpu(0), num_threads=1)
  return reader.get_batch(wanted.tolist()).asnumpy()


def with_torchcodec(path: str, wanted: np.ndarray) -> np.ndarray:
  """Decodes with torchcodec on one thread, with its exact way to seek."""
  from torchcodec import decoders

  decoder = decoders.VideoDecoder(
    path, dimension_order='NHWC', num_ffmpeg_threads=1, seek_mode='exact'
  )
  return decoder.get_frames_at(wanted.tolist()).data.numpy()


READERS: dict[str, Reader] = {
  'ours': ours,
  'start': from_start,
  'opencv': with_opencv,
  'decord': with_decord,
  'torchcodec': with_torchcodec,
}


def usable(path: str) -> tuple[dict[str, Reader], dict[str, str]]:
  """Returns the readers that work here, and why others do not."""
  found, missing = {}, {}
  for name, reader in READERS.items():
    try:
      reader(path, np.array([0, 5]))
      found[name] = reader
    except Exception as error:  # loading libraries fails in many ways
      lines = str(error).strip().splitlines()
      missing[name] = f'{type(error).__name__}: {lines[0] if lines else ""}'
  return found, missing


def clips(paths: Sequence[str], count: int, seconds: int) -> list[tuple[str, Any]]:
  """Draws clips: a path and the numbers of frames."""
  rng = np.random.default_rng(1)
  choose = functools.partial(
    video.random_clip, seconds * FPS, FPS, FRAMES, STRIDE, rng=rng
  )
  return [(paths[i % len(paths)], choose()) for i in range(count)]


def measure(folder: pathlib.Path, interval: int, args: argparse.Namespace) -> dict:
  """Returns clips per second of CPU time for files with one key frame interval."""
  paths = []
  for seed in range(args.videos):
    path = folder / f'{interval}-{seed}.mp4'
    write_video(path, seed, args.seconds, interval)
    paths.append(str(path))
  readers, missing = usable(paths[0])
  given = clips(paths, args.clips, args.seconds)
  # The same pixels come from everything decoded by the library of `ours`.
  last = args.seconds * FPS
  every = {path: from_start(path, np.arange(last)) for path in paths[:1]}
  differences = {
    name: max(
      int(np.abs(reader(path, at).astype(int) - every[path][at]).max())
      for path, at in given
      if path in every
    )
    for name, reader in readers.items()
  }
  rates: dict[str, list[float]] = {name: [] for name in readers}
  for turn in range(args.rounds):
    order = list(readers)[turn % len(readers) :] + list(readers)[: turn % len(readers)]
    for name in order:
      start = time.process_time()
      for path, wanted in given:
        readers[name](path, wanted)
      rates[name].append(len(given) / (time.process_time() - start))
  middle = {name: statistics.median(found) for name, found in rates.items()}
  return {
    'key_frame_interval': interval,
    'kilobytes': statistics.mean(pathlib.Path(p).stat().st_size for p in paths) / 1000,
    'clips_per_cpu_second': middle,
    'rounds': rates,
    'ours_over': {name: middle['ours'] / rate for name, rate in middle.items()},
    'difference': differences,
    'missing': missing,
  }


def versions() -> dict[str, str]:
  """Returns the versions of the libraries that are installed."""
  found = {}
  for name in ('av', 'opencv-python-headless', 'decord', 'torchcodec', 'torch'):
    try:
      found[name] = importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
      continue
  return found


@errors.told_plainly
def main(argv: Sequence[str] | None = None) -> None:
  """Parses the command line, measures, and prints the results."""
  parser = errors.parser(__doc__)
  add = parser.add_argument
  add('--videos', type=int, default=2, help='number of files; default: %(default)s')
  add('--seconds', type=int, default=30, help='length of files; default: %(default)s')
  add('--clips', type=int, default=16, help='clips per round; default: %(default)s')
  add('--rounds', type=int, default=5, help='number of rounds; default: %(default)s')
  add('--output', metavar='FILE', help='file for the JSON; default: stdout')
  args = parser.parse_args(argv)
  if min(args.videos, args.clips, args.rounds) < 1:
    raise errors.UserError('--videos, --clips and --rounds must be 1 or more.')
  if args.seconds * FPS < FRAMES * STRIDE:
    raise errors.UserError(f'--seconds {args.seconds} is shorter than a clip: give 9.')
  cv2.setNumThreads(1)
  with tempfile.TemporaryDirectory() as folder:
    rows = [measure(pathlib.Path(folder), interval, args) for interval in INTERVALS]
  for row in rows:
    rates = ', '.join(f'{k} {v:.2f}' for k, v in row['clips_per_cpu_second'].items())
    print(f'key frames every {row["key_frame_interval"]}: {rates}', file=sys.stderr)
  result = {'versions': versions(), 'frames': FRAMES, 'stride': STRIDE, 'videos': rows}
  if args.output:
    files.write_json(args.output, result)
  else:
    print(json.dumps(result, indent=2))


if __name__ == '__main__':
  main()
