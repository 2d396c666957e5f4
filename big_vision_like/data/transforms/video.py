"""Transforms of videos to clips.

A video is the path or the bytes of a file, a list of encoded frames, or decoded frames,
uint8 (T, H, W, C). The frames of a clip are chosen first. Other frames are not decoded,
except the frames of a file that the chosen ones depend on.
"""

import dataclasses
import math
import os
from collections.abc import Callable, Sequence
from typing import Any

import grain
import numpy as np

from big_vision_like.data.transforms import image, resizing, video_files
from big_vision_like.errors import BadRecordError, UserError

Example = dict[str, Any]
Choice = video_files.Choice

# The frames per second that TimeSformer assumes, and the rate of videos without a file.
FPS = video_files.FPS


# Choice of frames


def random_clip(
  available: int, fps: float, frames: int, stride: int, rng: np.random.Generator
) -> np.ndarray:
  """Chooses `frames` frames, `stride` 30ths of a second apart, from a random start.

  Returns int64 (frames,), indices of the `available` frames with `fps` frames per
  second. TimeSformer trains on Kinetics with these clips (arXiv:2102.05095, published
  code). A video that is too short repeats its last frame.
  """
  length = clip_length(fps, frames, stride)
  start = rng.uniform(0, max(available - length, 0))
  return spread(start, length, frames, available)


def uniform_clip(
  available: int, fps: float, frames: int, stride: int, clip: int = 0, clips: int = 1
) -> np.ndarray:
  """Chooses the frames of test clip number `clip` of `clips`; the first starts at 0.

  Returns int64 (frames,), spaced as in `random_clip`. The last clip does not end with
  the video: each starts at `clip` / `clips` of the latest possible start, as in the
  published code.
  """
  length = clip_length(fps, frames, stride)
  start = max(available - length, 0) * clip / clips
  return spread(start, length, frames, available)


def covering_clips(available: int, fps: float, frames: int, stride: int) -> np.ndarray:
  """Chooses the frames of as many consecutive clips as cover the whole video.

  Returns int64 (clips, frames). TimeSformer is tested on the long videos of HowTo100M
  with these clips.
  """
  length = clip_length(fps, frames, stride)
  starts = length * np.arange(math.ceil(available / length))
  return np.stack([spread(start, length, frames, available) for start in starts])


def random_segments(
  available: int, frames: int, rng: np.random.Generator
) -> np.ndarray:
  """Chooses a random frame from each of `frames` equal parts; returns int64 (frames,).

  TimeSformer trains on Something-Something with these frames. The boundary of two parts
  belongs to both.
  """
  ends = _segment_ends(available, frames)
  return rng.integers(ends[:-1], ends[1:], endpoint=True)


def middle_segments(available: int, frames: int) -> np.ndarray:
  """Chooses the middle frame of each of `frames` equal parts; int64 (frames,)."""
  ends = _segment_ends(available, frames)
  return (ends[:-1] + ends[1:]) // 2


def _segment_ends(available: int, frames: int) -> np.ndarray:
  return np.round((available - 1) / frames * np.arange(frames + 1)).astype(np.int64)


def clip_length(fps: float, frames: int, stride: int) -> float:
  """Returns the number of frames of the video that a clip spans."""
  return stride * frames / FPS * fps


def spread(start: float, length: float, frames: int, available: int) -> np.ndarray:
  """Chooses `frames` frames, evenly spread from `start` to `start + length - 1`.

  Positions are truncated to indices of existing frames. Frames are slightly more than
  the stride apart, as in the published code.
  """
  # Computed like torch.linspace: in float32, each half from its own end.
  first, last = np.float32(start), np.float32(start + length - 1)
  last = last if frames > 1 else first
  step = (last - first) / np.float32(max(frames - 1, 1))
  up = np.arange(frames, dtype=np.float32)
  places = np.where(up < frames // 2, first + step * up, last - step * up[::-1])
  return np.clip(places, 0, available - 1).astype(np.int64)


# Clips


@dataclasses.dataclass(frozen=True)
class RandomClip(grain.transforms.RandomMap):
  """The choice of `random_clip`: `video` becomes uint8 (frames, H, W, C).

  `fps` is the rate of videos that are not files; files store their rate.
  """

  frames: int
  stride: int
  fps: float = FPS

  def random_map(self, example: Example, rng: np.random.Generator) -> Example:
    seed = rng.integers(2**63)  # `choose` may be called twice

    def choose(available: int, fps: float) -> np.ndarray:
      own = np.random.default_rng(seed)
      return random_clip(available, fps, self.frames, self.stride, own)

    return example | {'video': chosen_frames(example, choose, self.fps)}


@dataclasses.dataclass(frozen=True)
class UniformClips(grain.transforms.Map):
  """Evenly placed clips: uint8 (frames, H, W, C), or (clips, frames, H, W, C)."""

  frames: int
  stride: int
  clips: int = 1
  fps: float = FPS

  def map(self, example: Example) -> Example:
    def choose(available: int, fps: float) -> np.ndarray:
      return np.stack(
        [
          uniform_clip(available, fps, self.frames, self.stride, clip, self.clips)
          for clip in range(self.clips)
        ]
      )

    video = chosen_frames(example, choose, self.fps)
    return example | {'video': video if self.clips > 1 else video[0]}


@dataclasses.dataclass(frozen=True)
class CoveringClips(grain.transforms.Map):
  """Clips that cover the whole video in order, uint8 (clips, frames, H, W, C).

  `view_mask`, bool (clips,), is False for padding clips, which repeat the last frame. A
  video that needs more than `clips` clips is an error.
  """

  frames: int
  stride: int
  clips: int
  fps: float = FPS

  def map(self, example: Example) -> Example:
    filled = 0

    def choose(available: int, fps: float) -> np.ndarray:
      nonlocal filled
      found = covering_clips(available, fps, self.frames, self.stride)
      filled = len(found)
      if filled > self.clips:
        raise BadRecordError(
          f'the video {_named(example)} needs {filled} clips to cover: more than'
          f' clips={self.clips}; raise clips.'
        )
      rest = np.full((self.clips - filled, self.frames), available - 1)
      return np.concatenate([found, rest])

    video = chosen_frames(example, choose, self.fps)
    return example | {'video': video, 'view_mask': np.arange(self.clips) < filled}


@dataclasses.dataclass(frozen=True)
class RandomSegments(grain.transforms.RandomMap):
  """The choice of `random_segments`: `video` becomes uint8 (frames, H, W, C)."""

  frames: int

  def random_map(self, example: Example, rng: np.random.Generator) -> Example:
    seed = rng.integers(2**63)

    def choose(available: int, fps: float) -> np.ndarray:
      return random_segments(available, self.frames, np.random.default_rng(seed))

    return example | {'video': chosen_frames(example, choose, FPS)}


@dataclasses.dataclass(frozen=True)
class MiddleSegments(grain.transforms.Map):
  """The choice of `middle_segments`: `video` becomes uint8 (frames, H, W, C)."""

  frames: int

  def map(self, example: Example) -> Example:
    def choose(available: int, fps: float) -> np.ndarray:
      return middle_segments(available, self.frames)

    return example | {'video': chosen_frames(example, choose, FPS)}


# Decoding


def chosen_frames(example: Example, choose: Choice, fps: float) -> np.ndarray:
  """Decodes the chosen frames of `video`: uint8, shape of the choice plus (H, W, C).

  Raises `BadRecordError` if there are no frames, or if one cannot be read.
  """
  video = example['video']
  if isinstance(video, bytes | os.PathLike):
    indices, frames = video_files.chosen(video, choose, _named(example))
  else:
    indices, frames = _of_list(video, choose, fps, example)
  shapes = {frame.shape for frame in frames.values()}
  if len(shapes) > 1:
    raise BadRecordError(
      f'the video {_named(example)} has frames of several sizes: {sorted(shapes)}.'
    )
  clip = np.stack([frames[index] for index in indices.ravel().tolist()])
  return clip.reshape(*indices.shape, *clip.shape[1:])


def _of_list(
  video: Sequence[Any], choose: Choice, fps: float, example: Example
) -> tuple[np.ndarray, dict[int, np.ndarray]]:
  if len(video) == 0:
    raise BadRecordError(f'the video {_named(example)} has no frames.')
  indices, decode, frames = choose(len(video), fps), image.Decode(), {}
  for index in np.unique(indices).tolist():
    frame = video[index]
    if isinstance(frame, bytes):
      try:
        frame = decode.map(example | {'image': frame})['image']
      except UserError as error:
        raise BadRecordError(f'frame {index} of a video: {error}') from error
    frames[index] = frame
  return indices, frames


def _named(example: Example) -> str:
  """Returns the name of a video for messages: its file, or the id of its example."""
  if file := example.get('file'):
    return file.decode(errors='replace')
  return f'of the example with id {example.get("id", "unknown")}'


# Transforms of frames


@dataclasses.dataclass(frozen=True)
class EachFrame(grain.transforms.Map):
  """A deterministic transform of `image`, applied to every frame of `video`."""

  transform: grain.transforms.Map

  def __post_init__(self) -> None:
    if not isinstance(self.transform, grain.transforms.Map):
      raise UserError(f'{self.transform} is random: use EachFrameAlike.')

  def map(self, example: Example) -> Example:
    return _each_frame(example, self.transform.map)


@dataclasses.dataclass(frozen=True)
class EachFrameAlike(grain.transforms.RandomMap):
  """A random transform of `image`, applied equally to all frames of `video`."""

  transform: grain.transforms.RandomMap

  def __post_init__(self) -> None:
    if not isinstance(self.transform, grain.transforms.RandomMap):
      raise UserError(f'{self.transform} is not random: use EachFrame.')

  def random_map(self, example: Example, rng: np.random.Generator) -> Example:
    state = rng.bit_generator.state

    def change(frame: Example) -> Example:
      rng.bit_generator.state = state
      return self.transform.random_map(frame, rng)

    return _each_frame(example, change)


def _each_frame(example: Example, change: Callable[[Example], Example]) -> Example:
  video = example['video']
  frames = video.reshape(-1, *video.shape[-3:])
  changed = np.stack([change(example | {'image': frame})['image'] for frame in frames])
  return example | {'video': changed.reshape(*video.shape[:-3], *changed.shape[1:])}


@dataclasses.dataclass(frozen=True)
class ReversedChannels(grain.transforms.Map):
  """Frames as BGR instead of RGB, for models that were trained on frames of OpenCV.

  TimeSformer's published models of Something-Something are such models.
  """

  def map(self, example: Example) -> Example:
    return example | {'video': example['video'][..., ::-1]}


@dataclasses.dataclass(frozen=True)
class ScaleAndCrop(grain.transforms.RandomMap):
  """Resizing of the shorter side of `image` to a random length, then a random square.

  TimeSformer trains with this crop (arXiv:2102.05095, published code), without
  antialiasing. `reciprocal` draws 1 / length uniformly, which makes shorter sides more
  likely, as for Something-Something. Wrap it in `EachFrameAlike` to apply it to all
  frames of a video.
  """

  size: int
  short_side: tuple[int, int] = (256, 320)
  reciprocal: bool = False

  def __post_init__(self) -> None:
    low, high = self.short_side
    if not self.size <= low <= high:
      raise UserError(
        f'short_side={self.short_side} must ascend and be at least size={self.size}'
      )

  def random_map(self, example: Example, rng: np.random.Generator) -> Example:
    low, high = self.short_side
    if self.reciprocal:
      side = round(1 / rng.uniform(1 / high, 1 / low))
    else:
      side = round(rng.uniform(low, high))
    large = with_short_side(example['image'], side)
    # The last position is never drawn, as in the published code.
    top, left = (int(rng.integers(max(n - self.size, 1))) for n in large.shape[:2])
    crop = large[top : top + self.size, left : left + self.size]
    return example | {'image': crop}


@dataclasses.dataclass(frozen=True)
class ThreeCrops(grain.transforms.Map):
  """Three square views of a video along its longer side, with its whole shorter side.

  `video` (T, H, W, C) becomes (3, T, size, size, C): left, centre, right, or top,
  centre, bottom. Several clips (clips, T, H, W, C) become
  (clips * 3, T, size, size, C), and their `view_mask` becomes (clips * 3,).
  """

  size: int

  def map(self, example: Example) -> Example:
    video = example['video']
    clips = [
      np.stack([with_short_side(frame, self.size) for frame in clip])
      for clip in video.reshape(-1, *video.shape[-4:])
    ]
    views = [view for clip in clips for view in three_crops(clip, self.size)]
    result = example | {'video': np.stack(views)}
    if 'view_mask' in example:
      result['view_mask'] = example['view_mask'].repeat(3)
    return result


def three_crops(video_THWC: np.ndarray, size: int) -> list[np.ndarray]:
  """Returns three (T, size, size, C) along the longer side; the shorter is `size`."""
  height, width = video_THWC.shape[1:3]
  rest = max(height, width) - size
  crops = []
  for start in (0, math.ceil(rest / 2), rest):
    top, left = (start, 0) if height > width else (0, start)
    crops.append(video_THWC[:, top : top + size, left : left + size])
  return crops


def with_short_side(frame: np.ndarray, side: int) -> np.ndarray:
  """Resizes the shorter side of (H, W, C) to `side`; rounds the longer side down."""
  height, width = frame.shape[:2]
  if min(height, width) == side:
    return frame
  # The order matters for products that floating point puts just below a whole number.
  long = math.floor(max(height, width) / min(height, width) * side)
  new = (long, side) if height > width else (side, long)
  return resizing.resized(frame, *new, 'bilinear')
