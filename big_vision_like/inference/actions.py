"""Preprocessing of videos with given actors, and of runs that detect their actions.

Axes: A actors, F frames of an action, T frames of a clip, S slices of the feature map,
H W image, C channels.
"""

import dataclasses
import json
import os
import pathlib
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import ml_collections as mlc
import numpy as np

from big_vision_like import spec
from big_vision_like.data.transforms import actors, decoding, video
from big_vision_like.errors import UserError, shape_text
from big_vision_like.inference import loading
from big_vision_like.inference.preprocessing import Prepare, normalization
from big_vision_like.ops import images

HALF = (0.5,) * 3
CLIPS = (actors.ActorClip, actors.RandomActorClip)
EXAMPLE = '{"video": "a.mp4", "actors": [{"boxes": [[12, 5, 20, 80, 190]]}]}'


class Prepared(NamedTuple):
  """A clip, uint8 (T, H, W, C), boxes of actors in cells (A, S, 4), and names."""

  video_THWC: np.ndarray
  boxes_AS4: np.ndarray
  names: tuple[str, ...]


@dataclasses.dataclass(frozen=True)
class ActorPreprocessing(Prepare):
  """Preprocessing to model inputs from a JSON file, which names a video and its actors.

  The file has `video`, a path relative to it, and `actors`, each with `boxes`, rows of
  a frame's number and left, top, right, bottom in pixels, and optionally a `name`.
  Boxes of frames between are interpolated. `centre` is the frame around which the clip
  of `frames` frames is; it is the middle of all boxes if not given. Other fields are
  those of `actors.ActorClip`.

      clip = preprocess('drinking.json')
      inputs = preprocess.normalized(clip.video_THWC)[None], clip.boxes_AS4[None]
      mask = np.ones((1, len(clip.boxes_AS4)), bool)
      logits = model.apply(variables, *inputs, mask)['logits']
  """

  frames: int = 32
  size: tuple[int, int] = (224, 224)
  per_slice: int = 4
  map_side: int = 14
  mean: tuple[float, ...] = HALF
  std: tuple[float, ...] = HALF
  label_names: tuple[str, ...] = ()
  source: str = ''

  def __call__(self, picture: Any) -> Prepared:
    """Returns the clip and the actors of a JSON file or of its content."""
    content, folder = picture, pathlib.Path()
    if not isinstance(picture, Mapping):
      content, folder = _read(picture), pathlib.Path(picture).parent
    rows, names = _tracks(content)
    frames = _video(folder / str(content.get('video', '')))
    example = {'video': frames, 'id': content['video']}
    first = min(int(row[0, 0]) for row in rows)
    last = max(int(row[-1, 0]) for row in rows)

    def choose(available: int, fps: float) -> np.ndarray:
      del fps
      if last >= available:
        raise UserError(
          f'{content["video"]} has {available} frames, but a box is for frame {last}'
        )
      return np.array([first])

    height, width = video.chosen_frames(example, choose, video.FPS).shape[1:3]
    frames_F = np.arange(first, last + 1)
    boxes_AF4 = np.stack([_interpolated(row, frames_F) for row in rows])
    scale_4 = np.array([width, height, width, height])
    made = actors.ActorClip(
      len(rows), self.frames, self.size[0], self.per_slice, self.map_side, 0
    ).map(
      example
      | {
        'frames': np.array([first, last]),
        'boxes': boxes_AF4 / scale_4[None, None],
        'labels': np.zeros(len(rows), np.int32),
        'centre': int(content.get('centre', (first + last) // 2)),
      }
    )
    return Prepared(made['video'], made['boxes'], names)

  def normalized(self, video_THWC: np.ndarray) -> np.ndarray:
    """Normalizes uint8 clips with `mean` and `std`."""
    return np.asarray(images.normalize(video_THWC, self.mean, self.std))

  def with_size(self, size: int | Sequence[int]) -> 'ActorPreprocessing':
    """Returns preprocessing for square frames of another size."""
    new = (size, size) if isinstance(size, int) else tuple(size)
    return dataclasses.replace(self, size=new)

  def replaced(self, nodes: Sequence[mlc.ConfigDict]) -> list[mlc.ConfigDict]:
    """Gives the transforms that make clips the sizes of the weights."""
    own = dict(frames=self.frames, size=self.size[0], map_side=self.map_side)
    return [
      mlc.ConfigDict({**node, **own}) if spec.symbol(node) in CLIPS else node
      for node in nodes
    ]

  def __str__(self) -> str:
    return f'{self.frames} frames of {shape_text(self.size)}; {self.normalization}'


def of_run(
  run: loading.LoadedRun, image_size: tuple[int, int] | None = None
) -> ActorPreprocessing:
  """Returns the preprocessing that a run uses in evaluation."""
  for _, node in spec.calls(run.config.get('evals', {})):
    for step in node.get('transforms') or ():
      if spec.symbol(step) is actors.ActorClip:
        told = {
          name: spec.held(step, name)
          for name in ('frames', 'size', 'per_slice', 'map_side')
        }
        mean, std = normalization(run.network, 3)
        return ActorPreprocessing(
          **told | {'size': (told['size'],) * 2},
          mean=mean,
          std=std,
          label_names=_names(run.config),
          source=f'{run.workdir}, step {int(run.state.step):,}',
        )
  raise UserError(
    f'{run.workdir}: no evaluator of the config makes clips with ActorClip, so the'
    ' frames that the model expects are unknown'
  )


def _names(config: Mapping[str, Any]) -> tuple[str, ...]:
  """Returns the names of classes that an evaluator of a config has."""
  nodes = config.get('evals', {}).values()
  return tuple(next(filter(None, (node.get('names') for node in nodes)), ()))


def _read(path: str | os.PathLike) -> Mapping[str, Any]:
  try:
    content = json.loads(pathlib.Path(path).read_text())
  except OSError as error:
    raise UserError(f'{path} cannot be read: {error.strerror}') from error
  except ValueError as error:
    raise UserError(
      f'{path} is not JSON ({error}): write the actors of a video as {EXAMPLE}'
    ) from error
  if not isinstance(content, Mapping):
    raise UserError(f'{path} is not a JSON object such as {EXAMPLE}')
  return content


def _tracks(content: Mapping[str, Any]) -> tuple[list[np.ndarray], tuple[str, ...]]:
  """Returns the rows of each actor, by frame, and the names of actors."""
  given = content.get('actors')
  if not isinstance(given, list) or not given or 'video' not in content:
    raise UserError(f'a clip needs `video` and at least one of `actors`, as {EXAMPLE}')
  rows, names = [], []
  for number, actor in enumerate(given, start=1):
    name = str(actor.get('name', f'actor {number}')) if isinstance(actor, dict) else ''
    try:
      found = np.array(actor['boxes'], np.float64).reshape(-1, 5)
    except (KeyError, TypeError, ValueError):
      found = np.zeros((0, 5))
    if not len(found) or not np.isfinite(found).all() or (found[:, 0] < 0).any():
      raise UserError(
        f'{name or f"actor {number}"}: `boxes` must be rows of frame, left, top, right,'
        f' bottom, as {EXAMPLE}'
      )
    rows.append(found[np.argsort(found[:, 0], kind='stable')])
    names.append(name)
  return rows, tuple(names)


def _interpolated(rows: np.ndarray, frames_F: np.ndarray) -> np.ndarray:
  """Returns a box for each frame, between those given: (F, 4)."""
  sides = [np.interp(frames_F, rows[:, 0], rows[:, side]) for side in range(1, 5)]
  return np.stack(sides, axis=-1)


def _video(path: pathlib.Path) -> bytes | list[bytes]:
  """Returns the bytes of a video file, or the frames in a folder, ordered by name."""
  try:
    if path.is_dir():
      files = sorted(x for x in path.iterdir() if x.name.endswith(decoding.SUFFIXES))
      return [file.read_bytes() for file in files]
    return path.read_bytes()
  except OSError as error:
    raise UserError(f'the video {path} cannot be read: {error.strerror}') from error
