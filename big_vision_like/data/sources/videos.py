"""Sources of videos with a class each: lists, Something-Something, folders of classes.

A video is a file, or a folder of its frames as images in the order of their numbers.
Files are opened, and frames are read, only when a transform decodes them.
"""

import abc
import collections
import csv
import dataclasses
import functools
import os
import pathlib
import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import cv2
import numpy as np
import simplejpeg

from big_vision_like import files as storage
from big_vision_like.data.sources import classes, folders, shards
from big_vision_like.data.sources.base import Example, Source, digest
from big_vision_like.data.transforms import decoding
from big_vision_like.errors import BadRecordError, UserError, listed, plural
from big_vision_like.spec import spec

# Suffixes of video files, the usual ones first.
SUFFIXES = tuple(
  '.mp4 .webm .avi .mkv .mov .m4v .mpg .mpeg .wmv .flv .3gp .ogv .ts'.split()
)
NAMED = 3  # videos that a message names
# Columns of the lists of Kinetics and HowTo100M, and the names of their videos.
KINETICS = '{youtube_id}_{time_start:0>6}_{time_end:0>6}'
HOWTO100M = '{video_id}'


class Frames(Sequence):
  """The frames of a video in a folder, as encoded images that are read when needed."""

  def __init__(self, folder: str | os.PathLike, names: Sequence[str] | None = None):
    self.folder = pathlib.Path(folder)
    self.names = frame_names(self.folder) if names is None else names

  def __len__(self) -> int:
    return len(self.names)

  def __getitem__(self, index: int) -> bytes:
    path = self.folder / self.names[index]
    try:
      return path.read_bytes()
    except OSError as error:
      raise BadRecordError(f'{path} cannot be read: {error.strerror}') from error


def frame_names(folder: str | os.PathLike) -> list[str]:
  """Returns the names of the images in a folder, in the order of their last numbers."""
  try:
    names = [x for x in os.listdir(folder) if x.lower().endswith(decoding.SUFFIXES)]
  except OSError as error:
    raise BadRecordError(f'{folder} cannot be read: {error.strerror}') from error
  return sorted(names, key=_number)


def _number(name: str) -> tuple[int, str]:
  numbers = re.findall(r'\d+', name.rpartition('.')[0])
  return int(numbers[-1]) if numbers else -1, name


def opened(path: str | os.PathLike) -> pathlib.Path | Frames:
  """Returns the video of a file or of a folder of frames, for `transforms.video`."""
  return Frames(path) if os.path.isdir(path) else pathlib.Path(path)


class Stored(NamedTuple):
  """The videos below a folder, by relative path, and the number of other files.

  `frames` has the number of frames of each folder of frames.
  """

  paths: list[str]
  frames: Mapping[str, int]
  left_out: Mapping[str, int]

  def by_stem(self) -> dict[str, str]:
    """Returns the paths by name without suffix; raises `UserError` if one repeats."""
    found: dict[str, str] = {}
    for path in self.paths:
      stem = stem_of(path)
      if stem in found:
        raise UserError(
          f'there are two videos named {stem!r}, {found[stem]} and {path}: list videos'
          ' by their path, or remove one'
        )
      found[stem] = path
    return found


def stem_of(path: str) -> str:
  """Returns the name of a video without its folder and its suffix."""
  name = path.rstrip('/').rpartition('/')[2]
  stem, dot, suffix = name.rpartition('.')
  return stem if dot and f'.{suffix.lower()}' in SUFFIXES else name


def stored(root: str) -> Stored:
  """Finds the video files and folders of frames below a folder, sorted by path."""
  top = os.path.expanduser(root)
  if not os.path.isdir(top):
    raise UserError(f'there is no folder {root}')
  paths, counts, left_out = [], {}, collections.Counter[str]()
  seen = set[str]()  # links may form circles
  for place, inner, names in os.walk(top, followlinks=True):
    inner[:], names = (
      [x for x in every if x[0] != '.' and x not in folders.JUNK]
      for every in (inner, names)
    )
    inside, real = os.path.relpath(place, top), os.path.realpath(place)
    if real in seen:
      inner.clear()
      left_out['links to a folder that is read already'] += 1
      continue
    seen.add(real)
    frames = [x for x in names if x.lower().endswith(decoding.SUFFIXES)]
    if frames and inside != os.curdir:
      paths.append(inside)
      counts[inside] = len(frames)
    elif frames:
      left_out['images outside of folders of frames'] += len(frames)
    for name in names:
      if name.lower().endswith(SUFFIXES):
        paths.append(name if inside == os.curdir else os.path.join(inside, name))
      elif not name.lower().endswith(decoding.SUFFIXES):
        left_out[shards.kind(name)] += 1
  return Stored(sorted(paths), counts, dict(left_out))


@dataclasses.dataclass(frozen=True)
class MadeUp(Source):
  """Made-up videos of JPEG frames, in place of missing ones: for plans and trials."""

  examples: int | None
  frames: int = 300
  size: tuple[int, int] = (256, 340)

  tiny = dict(examples=20, frames=12, size=(24, 32))

  def __len__(self) -> int:
    if self.examples is None:
      raise UserError(
        'the data are not there: give the number of videos with'
        ' --config.train_data.source.examples=N'
      )
    return self.examples

  def __getitem__(self, index: int) -> Example:
    if not 0 <= index < len(self):
      raise IndexError(f'example {index} of {len(self)}')
    frame = _drawn(tuple(self.size), index % 8)
    return {'video': [frame] * self.frames, 'label': 0, 'file': b'', 'id': index}


@functools.cache
def _drawn(size: tuple[int, int], seed: int) -> bytes:
  """Returns a JPEG of blurred patches."""
  rng = np.random.default_rng(seed)
  patches = rng.integers(0, 256, (12, 16, 3)).astype(np.float32)
  image = cv2.resize(patches, size[::-1], interpolation=cv2.INTER_LINEAR)
  return simplejpeg.encode_jpeg(image.astype(np.uint8), quality=90)


class Listing(NamedTuple):
  """The paths of videos, their labels, the names of classes, and unused items.

  `frames` has the number of frames of a folder of frames, and 0 for a file.
  """

  paths: list[str]
  labels: list[int]
  frames: list[int]
  names: Sequence[str] | None
  left_out: Mapping[str, int]


class Videos(Source):
  """Videos with a label each; subclasses are dataclasses that define `listing`.

  Examples have `video`, the path of a file or the `Frames` of a folder, `label`, `file`
  (the path relative to the folder, UTF-8) and `id`, the index.
  """

  path: str
  examples: int | None = None

  @staticmethod
  def stand_in(node: Mapping[str, Any]) -> Mapping[str, Any]:
    """Returns the recorded call of a source that needs no files, for trials."""
    del node
    return spec(MadeUp, **MadeUp.tiny)

  @property
  @abc.abstractmethod
  def listing(self) -> Listing:
    """The videos and labels; a cached property. Raises `UserError` if unusable."""

  @property
  def label_names(self) -> Sequence[str] | None:
    """The names of the classes, in order; None if there are no names."""
    return self.listing.names

  @property
  def left_out(self) -> Mapping[str, int]:
    """The number of unused files and listed videos, by kind."""
    return self.listing.left_out

  @functools.cached_property
  def features(self) -> Any:
    """TFDS features of an example, without its video."""
    import tensorflow_datasets as tfds

    names = self.label_names
    return tfds.features.FeaturesDict(
      {
        'label': np.int64
        if names is None
        else tfds.features.ClassLabel(names=list(names)),
        'file': tfds.features.Text(),
        'id': np.int64,
      }
    )

  @property
  def files(self) -> list[str]:
    """The paths of all video files, without folders of frames."""
    root, found = os.path.expanduser(self.path), self.listing
    pairs = zip(found.paths, found.frames, strict=True)
    return [os.path.join(root, path) for path, frames in pairs if not frames]

  @property
  def title(self) -> str:
    """The kind of source and the name of the folder."""
    return f'{type(self).__name__} {os.path.basename(os.path.abspath(self.path))}'

  def fingerprint(self) -> str:
    """Returns a digest of names and labels, and of sizes or numbers of frames."""
    found = self.listing
    content = found.paths, found.labels, found.names, found.frames
    return digest(type(self).__qualname__, *content, self.file_sizes)

  def problems(self) -> list[str]:
    """Returns why the videos cannot be used, or an empty list."""
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
    return len(self.listing.paths)

  def __getitem__(self, index: int) -> Example:
    if not 0 <= index < len(self):
      raise IndexError(f'example {index} of {len(self)}')
    name = self.listing.paths[index]
    return {
      'video': opened(os.path.join(os.path.expanduser(self.path), name)),
      'label': self.listing.labels[index],
      'file': os.fsencode(name),
      'id': index,
    }

  def __getstate__(self) -> dict[str, Any]:
    # Workers receive the paths and labels; they make `features` again.
    own = ('features', 'file_sizes')
    return {k: v for k, v in self.__dict__.items() if k not in own}


def present(
  wanted: Sequence[tuple[str, int]],
  names: Sequence[str] | None,
  there: Stored,
  where: str,
  tolerated: float,
) -> Listing:
  """Returns the listed videos that exist.

  `wanted` has paths, with or without suffix and folder, and labels. More than the share
  `tolerated` of missing videos is an error.
  """
  exact, stems = {*there.paths}, None
  paths, labels, missing = [], [], []
  for name, label in wanted:
    if name not in exact:
      stems = there.by_stem() if stems is None else stems
      name = stems.get(stem_of(name), name)
    if name in exact:
      paths.append(name)
      labels.append(label)
    else:
      missing.append(name)
  if not paths or len(missing) > tolerated * len(wanted):
    raise UserError(
      f'{where} lacks {len(missing):,} of {plural(len(wanted), "listed video")}'
      f' ({listed(missing, NAMED)}): add them, or raise `tolerated` ({tolerated:g}),'
      ' the share of videos that may be missing'
    )
  left_out = {
    'listed videos that are missing': len(missing),
    'videos that are not listed': len(exact - {*paths}),
    **there.left_out,
  }
  left_out = {what: count for what, count in left_out.items() if count}
  frames = [there.frames.get(path, 0) for path in paths]
  return Listing(paths, labels, frames, names, left_out)


@dataclasses.dataclass(frozen=True)
class VideoList(Videos):
  """Videos named in a list: Kinetics, HowTo100M, and lists of TimeSformer's code.

  `file` has one video per line. Without a `name`, a line is a path and the index of its
  class, separated by a comma or by white space. With a `name`, such as `KINETICS`, the
  file is a table (CSV) with a header: `name` makes the name of a video of a row's
  columns, and the column `label` has its class, a name or a number.

  Videos are found anywhere below `path` by their name without suffix, unless their
  path exists. `classes` are the names of the classes in order, or a file with one per
  line; without them, the sorted names in the table, or no names. Web videos vanish:
  `tolerated` is the largest share that may be missing. `examples` is the number of
  videos, for plans made before the data are available.
  """

  path: str
  file: str
  name: str | None = None
  label: str = 'label'
  classes: str | Sequence[str] | None = None
  tolerated: float = 0.0
  examples: int | None = None

  @functools.cached_property
  def listing(self) -> Listing:
    """The listed videos that exist."""
    names = self.classes
    if isinstance(names, str):
      names = classes.names_in(os.path.expanduser(names))
    rows = list(self._rows())
    if not rows:
      raise UserError(f'{self.file} lists no videos')
    given = [label for _, label in rows]
    if self.name is not None and names is None:
      numbers = all(re.fullmatch(r'\d+', label) for label in given)
      names = None if numbers else sorted({*given})
    positions = {name: number for number, name in enumerate(names or ())}
    wanted = [(name, self._position(label, positions)) for name, label in rows]
    there = stored(self.path)
    return present(wanted, names, there, self.path, self.tolerated)

  def _position(self, label: str, positions: Mapping[str, int]) -> int:
    """Returns the index of a class given as a name or a number."""
    if label in positions:
      return positions[label]
    unknown = positions and label.isdecimal() and int(label) >= len(positions)
    if unknown or not re.fullmatch(r'\d+', label):
      raise UserError(
        f'{self.file} has the label {label!r}, which is not the name or the index of a'
        ' class: correct the file, or `classes`'
      )
    return int(label)

  def _rows(self) -> Iterator[tuple[str, str]]:
    """Yields the name and the class of each video."""
    lines = _lines(self.file)
    if self.name is None:
      yield from self._pairs(lines)
      return
    for row in csv.DictReader(lines):
      try:
        yield self.name.format(**row), row[self.label]
      except (KeyError, TypeError, ValueError) as error:
        raise UserError(
          f'{self.file} has the columns {", ".join(map(str, row))}, not those of'
          f' name={self.name!r} and label={self.label!r}: name others'
        ) from error

  def _pairs(self, lines: Sequence[str]) -> Iterator[tuple[str, str]]:
    for number, line in enumerate(lines):
      if line.strip():
        # Paths may contain the separator: the class is the last field.
        fields = re.fullmatch(r'\s*"?(.+?)"?(?:\s*,\s*|\s+)([^\s,]+)\s*', line)
        if fields is None:
          raise UserError(
            f'{self.file} has {line.strip()!r:.60} in line {number + 1}, not a path and'
            ' a class: give `name` if it is a table with a header'
          )
        yield fields[1], fields[2]


@dataclasses.dataclass(frozen=True)
class SomethingSomething(Videos):
  """Something-Something v2: `annotations` names videos and templates, `labels` classes.

  The published files are `something-something-v2-train.json` (or `train.json`), a list
  of {"id": "78687", "template": "Holding [something]"}, and
  `something-something-v2-labels.json`, {"Holding something": "0"}. Videos are
  `path`/ID.webm, or folders of frames `path`/ID/000001.jpg. `examples` is the number of
  videos, for plans made before the data are available.
  """

  path: str
  annotations: str
  labels: str
  tolerated: float = 0.0
  examples: int | None = None

  @functools.cached_property
  def listing(self) -> Listing:
    """The annotated videos that exist."""
    numbers = _json(self.labels, dict)
    try:
      by_number = {int(number): name for name, number in numbers.items()}
    except (TypeError, ValueError) as error:
      raise UserError(f'{self.labels} must map templates to numbers') from error
    if sorted(by_number) != [*range(len(numbers))]:
      raise UserError(f'{self.labels} must number the classes from 0, each once')
    wanted = []
    for entry in _json(self.annotations, list):
      try:
        name, template = str(entry['id']), entry['template']
        wanted.append((name, int(numbers[re.sub(r'[\[\]]', '', template)])))
      except KeyError as error:
        raise UserError(
          f'{self.annotations}: {entry!r:.80} has no {error}; it needs an `id`, and a'
          f' `template` that is in {self.labels}'
        ) from error
      except TypeError as error:
        raise UserError(f'{self.annotations}: {entry!r:.80} is no entry') from error
    names = [by_number[number] for number in sorted(by_number)]
    there = stored(self.path)
    return present(wanted, names, there, self.path, self.tolerated)


def _lines(path: str) -> list[str]:
  """Returns the lines of a text file; a `UserError` names a file that is unreadable."""
  try:
    return classes.text(storage.read_bytes(os.path.expanduser(path))).splitlines()
  except OSError as error:
    raise UserError(f'{path} cannot be read: {error.strerror}') from error
  except UnicodeDecodeError as error:
    raise UserError(f'{path} is not UTF-8: save it as UTF-8') from error


def _json(path: str, kind: type) -> Any:
  content = storage.read_json(os.path.expanduser(path))
  if not isinstance(content, kind) or not content:
    raise UserError(f'{path} must hold a {kind.__name__} that is not empty')
  return content


@dataclasses.dataclass(frozen=True)
class VideoFolder(Videos):
  """Videos below `path`/CLASS/, as files or as folders of frames, ordered by path.

  Classes are the names of the folders, sorted, or `classes` in the given order.
  `listed` is a file with the paths of the videos to use, such as UCF101's
  `trainlist01.txt`; a class after the path is ignored. `examples` is the number of
  videos, for plans made before the data are available.
  """

  path: str
  classes: Sequence[str] | None = None
  listed: str | None = None
  tolerated: float = 0.0
  examples: int | None = None

  @functools.cached_property
  def listing(self) -> Listing:
    """The videos of all classes."""
    names = folders.Folder(self.path, self.classes).label_names
    numbers = {name: number for number, name in enumerate(names)}
    there = stored(self.path)
    # A folder of a class that holds images has no videos, but would be one itself.
    inside = [path for path in there.paths if os.sep in path]
    others = len(there.paths) - len(inside)
    left_out = dict(there.left_out)
    if others:
      left_out['videos and images outside of videos in classes'] = others
    there = Stored(inside, there.frames, left_out)
    if self.listed is not None:
      lines = map(str.split, _lines(self.listed))
      wanted = [(words[0], 0) for words in lines if words]
      found = present(wanted, names, there, self.path, self.tolerated)
      inside, left_out = found.paths, found.left_out
    if not inside:
      raise UserError(
        f'{self.path} has no videos in folders of classes: it needs CLASS/VIDEO'
        f'{SUFFIXES[0]}, or CLASS/VIDEO/ with the frames as images'
      )
    labels = [numbers[path.split(os.sep)[0]] for path in inside]
    frames = [there.frames.get(path, 0) for path in inside]
    return Listing(inside, labels, frames, names, left_out)
