"""DALY: daily actions in long videos, with tubes of persons (arXiv:1605.05197).

The annotations, `daly1.1.0.pkl`, and the tubes of a person detector and tracker,
`humantubes_DALY.pkl`, are read as published, without running anything in them. Labels
of tubes and the split of training videos are those of arXiv:2107.13648, from the
published code.

Axes: A tubes (actors), F frames of an instance, K boxes on key frames, O objects.
"""

import collections
import dataclasses
import functools
import os
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from big_vision_like.data.sources import shards, videos
from big_vision_like.data.sources.base import Example, Source, digest
from big_vision_like.data.transforms import decoding, video_files
from big_vision_like.errors import UserError, check_one_of, listed
from big_vision_like.spec import spec
from big_vision_like.weights import archives, pickles

ACTIONS = (
  *('Background', 'ApplyingMakeUpOnLips', 'BrushingTeeth', 'CleaningFloor'),
  *('CleaningWindows', 'Drinking', 'FoldingTextile', 'Ironing', 'Phoning'),
  *('PlayingHarmonica', 'TakingPhotosOrVideos'),
)
SPLITS = ('train', 'val', 'trainval', 'test')
# Instructions of the largest published pickle, with room: the tubes of 3.6k instances.
MOST = 20_000_000
# Tubes have the label of an instance that they overlap by more than this.
OVERLAP = 0.5
# The share of training videos of each class that validate, 10 of 31, and the seed.
HELD_OUT, SPLIT_SEED = 3, 86723
# The number of test clips of an instance, and the seed of their centres.
CENTRES, CENTRE_SEED = 10, 1001
# Videos whose tubes are stored in another order of actions than the annotations.
ORDERS = {
  'TnXBUmIYmyI.mp4': ('FoldingTextile', 'CleaningFloor'),
  'sjgkGNQyOWg.mp4': ('TakingPhotosOrVideos', 'CleaningWindows', 'CleaningFloor'),
}


class Instance(NamedTuple):
  """An annotated action of a person: its class, key frames, and objects on them.

  Boxes are left, top, right, bottom in [0, 1]; frames count from 0.
  """

  action: str
  times: tuple[float, float]
  frames_K: np.ndarray
  boxes_K4: np.ndarray
  objects: Sequence[np.ndarray]  # per key frame: box, class, occluded, hallucinated


class Tubes(NamedTuple):
  """The tubes of an instance: their first and last frame, and boxes in [0, 1]."""

  first: int
  last: int
  boxes_AF4: np.ndarray


@dataclasses.dataclass(frozen=True)
class MadeUp(Source):
  """Made-up instances in place of missing ones, for plans and trials.

  Each has two tubes, one of which performs its action with an object on a key frame.
  """

  examples: int | None
  frames: int = 100
  size: tuple[int, int] = (256, 340)

  tiny = dict(examples=20, frames=12, size=(24, 32))

  def __len__(self) -> int:
    return len(self._videos)

  @property
  def _videos(self) -> videos.MadeUp:
    return videos.MadeUp(self.examples, self.frames, self.size)

  @property
  def label_names(self) -> list[str]:
    """The names of the classes; the first is the background."""
    return list(ACTIONS)

  def __getitem__(self, index: int) -> Example:
    example, last = self._videos[index], self.frames - 1
    label = 1 + index % (len(ACTIONS) - 1)
    boxes_24 = np.array([[0.1, 0.1, 0.5, 0.9], [0.6, 0.2, 0.9, 0.9]], np.float32)
    boxes_AF4 = np.repeat(boxes_24[:, None], self.frames, axis=1)
    tracked = Tubes(0, last, boxes_AF4)
    object_17 = np.array([[0.3, 0.3, 0.4, 0.4, 0, 0, 0]], np.float32)
    key = np.array([last // 2])
    instance = Instance(ACTIONS[label], (0.0, 1.0), key, boxes_24[:1], [object_17])
    numbers = {name: number for number, name in enumerate(ACTIONS)}
    return {
      'video': example['video'],
      'frames': np.array([0, last], np.int64),
      'boxes': boxes_AF4,
      'labels': _labels(tracked, [instance], numbers),
      'label': label,
      **_keys([instance], 0, tracked, numbers),
      **_objects(instance),
      'centres': _centres(tracked, np.random.RandomState(index)),
      'size': np.array(self.size, np.int32),
      'file': b'%d.mp4' % index,
      'instance': 0,
      'id': index,
    }


@dataclasses.dataclass(frozen=True)
class Daly(Source):
  """Annotated instances of actions of a split, each with its tubes.

  `path` has the videos, as files ID.mp4, or as folders ID.mp4 of frames. `split` is
  'train', 'val' (a third of the published training videos), 'trainval' or 'test'.
  `validation` is a pickle with the names of the validation videos, as published with
  arXiv:2107.13648; without it they are drawn as there. `sizes` is a pickle of the width
  and height of each video; it is needed if frames were resized, since tubes are in
  pixels. Instances marked as reflections or as ambiguous are not used.

  An example has, with frames counted from 0 and boxes as left, top, right, bottom in
  [0, 1]:

  - `video`: the path of the file or its frames, for transforms of `video`
  - `frames` (2,) int64: the first and last frame of the instance
  - `boxes` (A, F, 4) float32: the box of each tube in each of its frames
  - `labels` (A,) int32: the class of each tube in `label_names`, 0 for background
  - `label` int: the class of the instance
  - `key_frames` (K,) int64, `key_boxes` (K, 4) float32, `key_labels` (K,) int32 and
    `key_instances` (K,) int32: annotated boxes of this and other instances of the video
    on key frames between its first and last frame; this instance has all of its boxes
  - `object_frames` (O,) int64, `object_boxes` (O, 4) float32, `object_labels` (O,)
    int32 (in `object_names`), `object_hidden` (O,) bool (occluded or hallucinated):
    annotated objects on this instance's key frames
  - `centres` (C,) int64: centre frames of the published test clips, at most 10
  - `size` (2,) int32: height and width; `file`: the name of the video, UTF-8
  - `instance` int: the number of the instance in its video; `id`: the index

  `excluded` actions are left out for the zero-shot experiment: training videos with any
  of them are not used, and classes are numbered without them; test videos are used if
  all of their actions are excluded, with the classes of all actions. `examples` is the
  number of instances, for plans made before the data are available.
  """

  path: str
  annotations: str
  tubes: str
  split: str = 'train'
  validation: str | None = None
  sizes: str | None = None
  excluded: Sequence[str] = ()
  examples: int | None = None

  @staticmethod
  def stand_in(node: Mapping[str, Any]) -> Mapping[str, Any]:
    """Returns the recorded call of a source that needs no files, for trials."""
    del node
    return spec(MadeUp, **MadeUp.tiny)

  def __post_init__(self) -> None:
    check_one_of(SPLITS, split=self.split)
    for action in self.excluded:
      check_one_of(ACTIONS[1:], excluded=action)

  @property
  def label_names(self) -> list[str]:
    """The names of the classes; the first is the background."""
    if self.split == 'test':
      return list(ACTIONS)
    return [name for name in ACTIONS if name not in self.excluded]

  @functools.cached_property
  def object_names(self) -> list[str]:
    """The names of the classes of objects, in order."""
    return list(self._annotated['objectList'])

  @functools.cached_property
  def _annotated(self) -> Mapping[str, Any]:
    """The content of the annotations."""
    content = _unpickled(self.annotations)
    needed = ('annot', 'splits', 'objectList')
    if not isinstance(content, dict) or not all(name in content for name in needed):
      raise UserError(
        f'{self.annotations} has no {listed(needed)}: name daly1.1.0.pkl of DALY'
      )
    return content

  @functools.cached_property
  def _records(self) -> list[dict[str, Any]]:
    """The examples, with `video` as a path relative to the folder."""
    try:
      return list(self._made())
    except (KeyError, IndexError, TypeError, ValueError, AttributeError) as error:
      if isinstance(error, UserError):
        raise
      raise UserError(
        f'{self.annotations} and {self.tubes} do not fit together'
        f' ({type(error).__name__}: {error}): copy both files of DALY again'
      ) from error

  @functools.cached_property
  def left_out(self) -> dict[str, int]:
    """The number of instances that are not used, by kind."""
    self._records  # noqa: B018 - counts them
    return {what: count for what, count in self._unused.items() if count}

  @functools.cached_property
  def _unused(self) -> collections.Counter[str]:
    return collections.Counter()

  def _names(self) -> list[str]:
    """Returns the videos of the split in the order of the annotations."""
    every, test = self._annotated['annot'], {*self._annotated['splits'][0]}
    if self.split == 'test':
      return [name for name in every if name in test]
    training = [name for name in every if name not in test]
    if self.split == 'trainval':
      return training
    if self.validation is not None:
      held = {*_unpickled(self.validation)}
      if unknown := sorted(held - {*training}):
        raise UserError(
          f'{self.validation} names {unknown[0]!r}, which is no training video of'
          f' {self.annotations}'
        )
    else:
      held = _held_out(training, every)
    return [name for name in training if (name in held) == (self.split == 'val')]

  def _chosen(self, name: str) -> bool:
    """Returns whether a video is used, given the actions in it."""
    found = {*self._annotated['annot'][name]['annot']}
    if not self.excluded:
      return True
    if self.split == 'test':
      return found <= {*self.excluded}
    return not found & {*self.excluded}

  def _made(self) -> Iterator[dict[str, Any]]:
    annotated = self._annotated['annot']
    tubes = _unpickled(self.tubes)[0]
    root = os.path.expanduser(self.path)
    if not os.path.isdir(root):
      raise UserError(f'there is no folder {self.path}')
    there = videos.stored(self.path).by_stem()
    names = [name for name in self._names() if self._chosen(name)]
    known = [name for name in names if videos.stem_of(name) in there]
    if not known:
      raise UserError(
        f'{self.path} has none of the {len(names):,} videos of {self.split!r}'
        f' ({listed(names, 3)}): it needs ID.mp4, or ID.mp4/ with the frames'
      )
    paths = [there[videos.stem_of(name)] for name in known]
    if self.sizes is None:
      sizes = shards.on_threads(lambda path: _size(os.path.join(root, path)), paths)
    else:
      given = _unpickled(self.sizes)
      sizes = [(int(given[name][1]), int(given[name][0])) for name in known]
    numbers = {name: number for number, name in enumerate(self.label_names)}
    rng = np.random.RandomState(CENTRE_SEED)
    for name in names:
      if name not in known:
        count = sum(map(len, annotated[name]['annot'].values()))
        self._unused['instances of videos that are missing'] += count
    for name, path, size in zip(known, paths, sizes, strict=True):
      instances = list(self._instances(name))
      if len(tubes[name]) < len(instances):
        raise UserError(
          f'{self.tubes} has {len(tubes[name])} instances of {name}, and'
          f' {self.annotations} {len(instances)}: copy both files of DALY again'
        )
      for number, instance in enumerate(instances):
        tracked = self._tracked(tubes[name][number], name, size)
        yield {
          'video': path,
          'frames': np.array([tracked.first, tracked.last], np.int64),
          'boxes': tracked.boxes_AF4,
          'labels': _labels(tracked, instances, numbers),
          'label': numbers.get(instance.action, 0),
          **_keys(instances, number, tracked, numbers),
          **_objects(instance),
          'centres': _centres(tracked, rng),
          'size': np.array(size, np.int32),
          'file': os.fsencode(name),
          'instance': number,
        }

  def _instances(self, name: str) -> Iterator[Instance]:
    """Yields the instances of a video in the order of its tubes."""
    by_action = self._annotated['annot'][name]['annot']
    for action in ORDERS.get(name, by_action):
      for entry in by_action[action]:
        if entry['flags']['isReflection'] or entry['flags']['isAmbiguous']:
          self._unused['reflections and ambiguous instances'] += 1
          continue
        keys = entry['keyframes']
        yield Instance(
          action,
          (float(entry['beginTime']), float(entry['endTime'])),
          np.array([key['frameNumber'] for key in keys], np.int64) - 1,
          np.array([key['boundingBox'][0] for key in keys], np.float32).reshape(-1, 4),
          [np.asarray(key['objects'], np.float32).reshape(-1, 7) for key in keys],
        )

  def _tracked(self, arrays: Sequence[Any], name: str, size: tuple[int, int]) -> Tubes:
    """Returns the tubes of an instance, with a box in each frame of the first tube."""
    rows = [np.asarray(rows_FX, np.float64) for rows_FX in arrays]
    first, last = (int(rows[0][i, 0]) for i in (0, -1))
    frames_F, boxes = np.arange(first, last + 1), []
    for rows_FX in rows:
      nearest_F = np.abs(frames_F[:, None] - rows_FX[None, :, 0]).argmin(1)
      if (rows_FX[nearest_F, 0] != frames_F).any():
        self._unused['tubes with missing frames, which get the nearest box'] += 1
      boxes.append(rows_FX[nearest_F, 1:5])
    boxes_AF4 = np.stack(boxes) / np.array([*size[::-1], *size[::-1]])[None, None]
    if boxes_AF4.max() > 1.05:
      raise UserError(
        f'the tubes of {name} are outside of its {size[1]}x{size[0]} pixels: if its'
        ' frames were resized, give `sizes`, a pickle of the original widths and'
        ' heights by video'
      )
    return Tubes(first - 1, last - 1, boxes_AF4.astype(np.float32))

  @property
  def features(self) -> Any:
    """TFDS features of the class of an instance."""
    import tensorflow_datasets as tfds

    return tfds.features.FeaturesDict(
      {'label': tfds.features.ClassLabel(names=self.label_names), 'id': np.int64}
    )

  @functools.cached_property
  def files(self) -> list[str]:
    """The paths of the annotations, the tubes and the videos that are files."""
    root = os.path.expanduser(self.path)
    names = dict.fromkeys(record['video'] for record in self._records)
    paths = [os.path.join(root, name) for name in names]
    others = [self.annotations, self.tubes, self.validation, self.sizes]
    return [
      *(path for path in paths if not os.path.isdir(path)),
      *(os.path.expanduser(path) for path in others if path is not None),
    ]

  @property
  def title(self) -> str:
    """The name of the data set."""
    return 'DALY'

  def fingerprint(self) -> str:
    """Returns a digest of all annotations and tubes used, and of the videos' sizes."""
    return digest('Daly', self.label_names, self._records, self.file_sizes)

  def problems(self) -> list[str]:
    """Returns why the files cannot be used, or an empty list."""
    try:
      len(self)
    except UserError as error:
      return [str(error)]
    return []

  def planned(self) -> Source:
    """Returns this source, or a stand-in for planning if its folder is missing."""
    if os.path.isdir(os.path.expanduser(self.path)):
      return self
    return MadeUp(self.examples)

  def __len__(self) -> int:
    return len(self._records)

  def __getitem__(self, index: int) -> Example:
    if not 0 <= index < len(self):
      raise IndexError(f'example {index} of {len(self)}')
    record = self._records[index]
    path = os.path.join(os.path.expanduser(self.path), record['video'])
    return record | {'video': videos.opened(path), 'id': index}

  def __getstate__(self) -> dict[str, Any]:
    # Workers receive the records, but not the annotations of other splits.
    own = ('file_sizes', '_annotated')
    return {k: v for k, v in self.__dict__.items() if k not in own}


def _unpickled(path: str) -> Any:
  """Returns the plain data of a pickle; a `UserError` names a file that is unusable."""
  try:
    with open(os.path.expanduser(path), 'rb') as file:
      return pickles.load_plain(file, MOST)
  except UserError as error:
    raise UserError(f'{path}: {error}') from error
  except FileNotFoundError as error:
    raise UserError(f'there is no file {path}') from error
  except archives.DAMAGE as error:
    raise UserError(f'{path} is not a whole pickle ({error}): copy it again') from error


def _held_out(names: Sequence[str], annotated: Mapping[str, Any]) -> set[str]:
  """Draws the validation videos as in the published code: 10 of 31 of each class."""
  by_class: dict[str, list[str]] = {action: [] for action in ACTIONS[1:]}
  for name in names:
    by_class[annotated[name]['suggestedClass']].append(name)
  rng, held = np.random.RandomState(SPLIT_SEED), set()
  for of_class in by_class.values():
    count = len(of_class)
    if count:
      places = rng.choice(count, size=count // HELD_OUT, replace=False)
      held |= {of_class[place] for place in places.tolist()}
  return held


def _size(path: str) -> tuple[int, int]:
  """Returns the height and width of a video."""
  opened = videos.opened(path)
  if isinstance(opened, videos.Frames):
    return decoding.image_size(opened[0])
  return video_files.frame_size(opened)


def _labels(
  tracked: Tubes, instances: Sequence[Instance], numbers: Mapping[str, int]
) -> np.ndarray:
  """Returns the class of each tube, int32 (A,): that of the most similar instance.

  A tube is compared with the boxes of an instance on the key frames that both have. It
  is background if the mean IoU with all instances is at most `OVERLAP`.
  """
  count = len(tracked.boxes_AF4)
  best_A, labels_A = np.full(count, OVERLAP), np.zeros(count, np.int32)
  for instance in instances:
    frames_K = instance.frames_K
    shared_K = (frames_K >= tracked.first) & (frames_K <= tracked.last)
    if shared_K.any():
      boxes_AK4 = tracked.boxes_AF4[:, frames_K[shared_K] - tracked.first]
      iou_A = iou(boxes_AK4, instance.boxes_K4[shared_K][None]).mean(-1)
      labels_A[iou_A > best_A] = numbers.get(instance.action, 0)
      best_A = np.maximum(best_A, iou_A)
  return labels_A


def iou(one: np.ndarray, other: np.ndarray) -> np.ndarray:
  """Returns the intersection over union of boxes (..., 4), paired by position."""
  low = np.maximum(one[..., :2], other[..., :2])
  high = np.minimum(one[..., 2:], other[..., 2:])
  both = np.clip(high - low, 0, None).prod(-1)
  areas = [(x[..., 2:] - x[..., :2]).prod(-1) for x in (one, other)]
  return both / (areas[0] + areas[1] - both + 1e-16)


def _keys(
  instances: Sequence[Instance],
  number: int,
  tracked: Tubes,
  numbers: Mapping[str, int],
) -> dict[str, np.ndarray]:
  """Returns the annotated boxes of an instance, and of others during it."""
  frames, boxes, labels, owners = [], [], [], []
  for owner, other in enumerate(instances):
    for frame, box_4 in zip(other.frames_K.tolist(), other.boxes_K4, strict=True):
      if owner == number or tracked.first <= frame <= tracked.last:
        frames.append(frame)
        boxes.append(box_4)
        labels.append(numbers.get(other.action, 0))
        owners.append(owner)
  return {
    'key_frames': np.array(frames, np.int64),
    'key_boxes': np.array(boxes, np.float32).reshape(-1, 4),
    'key_labels': np.array(labels, np.int32),
    'key_instances': np.array(owners, np.int32),
  }


def _objects(instance: Instance) -> dict[str, np.ndarray]:
  """Returns the annotated objects on the key frames of an instance."""
  counts = [len(rows_O7) for rows_O7 in instance.objects]
  rows_O7 = np.concatenate([np.zeros((0, 7), np.float32), *instance.objects])
  return {
    'object_frames': instance.frames_K.repeat(counts),
    'object_boxes': rows_O7[:, :4],
    'object_labels': rows_O7[:, 4].astype(np.int32),
    'object_hidden': (rows_O7[:, 5:] == 1).any(1),
  }


def _centres(tracked: Tubes, rng: np.random.RandomState) -> np.ndarray:
  """Draws the centre frames of test clips; all frames if there are not more."""
  frames_F = np.arange(tracked.first, tracked.last + 1)
  if len(frames_F) <= CENTRES:
    return frames_F
  return rng.choice(frames_F, size=CENTRES, replace=False)
