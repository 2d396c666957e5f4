"""Clips of annotated actions, with the boxes of their actors.

Records are those of `sources.daly`: `video`, the first and last of the `frames` of an
action, `boxes` (A, F, 4) of its actors in [0, 1], `labels` (A,), and further
annotations. Transforms make an example for `tasks.action_detection`:

- `video`: uint8 (T, H, W, C)
- `boxes`: float32 (max_actors, S, 4), left, top, right, bottom in cells of the feature
  map, one box for each slice of the map in time
- `box_labels`: int32 (max_actors,); `box_mask`: bool, False for padding

Axes: A actors, F frames of an action, T frames of a clip, S slices of the feature map,
R rows for actors, O objects, K key frames, H W pixels, C channels.
"""

import dataclasses
from typing import Any

import grain
import numpy as np

from big_vision_like.data.transforms import resizing, video
from big_vision_like.errors import BadRecordError, UserError
from big_vision_like.ops import boxes as box_ops

Example = dict[str, Any]
EXPLAINED = 0.5  # actors that overlap key boxes by more are those who act


@dataclasses.dataclass(frozen=True)
class ActorClip(grain.transforms.Map):
  """The clip around the frame `centre` of an action, with its actors.

  It has `frames` frames, from centre - frames / 2 + 1 on. Frames outside of the action
  are its first or last one, with their boxes. Frames are resized to squares of side
  `size`. The map has a slice for each `per_slice` frames, whose actors are those of the
  last of these frames, and `map_side` rows and columns. All are as in arXiv:2107.13648.

  If records have annotated objects, examples also have those of the frame `centre`:
  `object_boxes` float32 (max_objects, 4) in cells and `object_mask`, and `acts` bool
  (max_actors,), the actors whose mean IoU with the action's key boxes is above 0.5.
  Objects that are hidden are left out.
  """

  max_actors: int = 20
  frames: int = 32
  size: int = 224
  per_slice: int = 4
  map_side: int = 14
  max_objects: int = 10

  def __post_init__(self) -> None:
    if self.frames < self.per_slice or self.frames % self.per_slice:
      raise UserError(
        f'frames={self.frames} must be a multiple of per_slice={self.per_slice}, the'
        ' frames of a slice'
      )

  def map(self, example: Example) -> Example:
    return clip_at(example, int(example['centre']), self)


@dataclasses.dataclass(frozen=True)
class RandomActorClip(grain.transforms.RandomMap):
  """An `ActorClip` around a random frame of the action, another one in each epoch."""

  max_actors: int = 20
  frames: int = 32
  size: int = 224
  per_slice: int = 4
  map_side: int = 14

  def __post_init__(self) -> None:
    self.fixed  # noqa: B018 - checks the arguments

  @property
  def fixed(self) -> ActorClip:
    """The transform for a given frame."""
    return ActorClip(
      self.max_actors, self.frames, self.size, self.per_slice, self.map_side, 0
    )

  def random_map(self, example: Example, rng: np.random.Generator) -> Example:
    first, last = example['frames'].tolist()
    return clip_at(example, int(rng.integers(first, last, endpoint=True)), self.fixed)


def clip_at(example: Example, centre: int, how: ActorClip) -> Example:
  """Returns the example of a clip around the frame `centre`."""
  first, last = example['frames'].tolist()
  start = centre - how.frames // 2 + 1
  frame_T = np.clip(np.arange(start, start + how.frames), first, last)

  def choose(available: int, fps: float) -> np.ndarray:
    del fps
    if available <= frame_T.min():
      raise BadRecordError(
        f'the video of {named(example)} has {available} frames, but an action in it'
        f' starts at frame {first}: its annotations are of another video'
      )
    return np.minimum(frame_T, available - 1)

  frames = video.chosen_frames(example, choose, video.FPS)
  clip = np.stack([resizing.resized(f, how.size, how.size, 'bilinear') for f in frames])
  frame_S = frame_T[how.per_slice - 1 :: how.per_slice]
  boxes_AS4 = np.asarray(example['boxes'], np.float32)[:, frame_S - first]
  check_boxes(boxes_AS4, example)
  made = {'video': clip} | rows_of(
    boxes_AS4 * np.float32(how.map_side), example['labels'], how.max_actors, example
  )
  if how.max_objects and 'object_boxes' in example:
    made |= objects_at(example, centre, how)
  return example | made


def rows_of(
  boxes_AS4: np.ndarray, label_A: np.ndarray, max_actors: int, example: Example
) -> Example:
  """Returns boxes, labels and mask of actors, padded to `max_actors` rows."""
  count = len(boxes_AS4)
  if count > max_actors:
    raise UserError(
      f'a clip of {named(example)} has {count} actors, but max_actors={max_actors}:'
      ' raise max_actors'
    )
  rest = max_actors - count
  return {
    'boxes': np.pad(boxes_AS4, ((0, rest), (0, 0), (0, 0))).astype(np.float32),
    'box_labels': np.pad(np.asarray(label_A, np.int32), (0, rest)),
    'box_mask': np.arange(max_actors) < count,
  }


def check_boxes(boxes_AS4: np.ndarray, example: Example) -> None:
  """Raises `BadRecordError` for boxes of actors that are no numbers."""
  if not np.isfinite(boxes_AS4).all():
    actor = np.argwhere(~np.isfinite(boxes_AS4))[0][0]
    raise BadRecordError(
      f'a box of actor {actor} of {named(example)} is not a number: correct its tube'
    )


def objects_at(example: Example, centre: int, how: ActorClip) -> Example:
  """Returns the visible objects annotated at a frame, and who acts."""
  there_O = (example['object_frames'] == centre) & ~example['object_hidden']
  boxes_O4 = np.asarray(example['object_boxes'], np.float32)[there_O]
  if len(boxes_O4) > how.max_objects:
    raise UserError(
      f'frame {centre} of {named(example)} has {len(boxes_O4)} objects, but'
      f' max_objects={how.max_objects}: raise max_objects'
    )
  rest = how.max_objects - len(boxes_O4)
  overlap_A = key_overlap(example)
  return {
    'object_boxes': np.pad(boxes_O4 * np.float32(how.map_side), ((0, rest), (0, 0))),
    'object_mask': np.arange(how.max_objects) < len(boxes_O4),
    'acts': np.pad(overlap_A > EXPLAINED, (0, how.max_actors - len(overlap_A))),
  }


def key_overlap(example: Example) -> np.ndarray:
  """Returns the mean IoU of each actor with the key boxes of the action: (A,)."""
  first, last = example['frames'].tolist()
  own_K = example['key_instances'] == example['instance']
  frame_K = example['key_frames'][own_K]
  inside_K = (frame_K >= first) & (frame_K <= last)
  boxes_AF4 = np.asarray(example['boxes'], np.float64)
  if not inside_K.any():
    return np.zeros(len(boxes_AF4))
  key_1K4 = np.asarray(example['key_boxes'], np.float64)[own_K][inside_K][None]
  found_AK = box_ops.iou(boxes_AF4[:, frame_K[inside_K] - first], key_1K4)
  return found_AK.mean(axis=1)


def named(example: Example) -> str:
  """Returns the name of an example for messages: its file and id."""
  file = example.get('file', b'')
  words = f'the example with id {example.get("id", "unknown")}'
  return f'{words} ({file.decode(errors="replace")})' if file else words


@dataclasses.dataclass(frozen=True)
class ContextClip(grain.transforms.Map):
  """The examples of `procedural.context_clips`, whose single actor does not move.

  `video` has frames of `side` pixels, and the map `slices` slices of `map_side` rows
  and columns. The object that tells the class becomes `object_boxes` (1, 4).
  """

  slices: int = 4
  map_side: int = 8
  max_actors: int = 1

  def map(self, example: Example) -> Example:
    def choose(available: int, fps: float) -> np.ndarray:
      del fps
      return np.arange(available)

    clip = video.chosen_frames(example, choose, video.FPS)

    def in_cells(name: str) -> np.ndarray:
      top, left, bottom, right = np.asarray(example[name], np.float32).tolist()
      return np.float32([left, top, right, bottom]) * np.float32(self.map_side)

    boxes_AS4 = np.tile(in_cells('actor')[None, None], (1, self.slices, 1))
    label_A = np.array([example['label']], np.int32)
    return (
      example
      | {'video': clip}
      | rows_of(boxes_AS4, label_A, self.max_actors, example)
      | {
        'object_boxes': in_cells('object')[None],
        'object_mask': np.array([True]),
        'acts': np.arange(self.max_actors) < 1,
      }
    )
