"""Images with what a teacher predicted for them, one stored record for each image.

`tools/pseudo_label.py` writes a folder: `teacher.json` says which images and which
teacher, and array_record files have a tf.train.Example for each image, in the order of
the source, with `index`, `id`, `label` (the most probable class), `confidence` (its
probability; -1 for an image that cannot be read) and `probabilities`.
"""

import dataclasses
import functools
import pathlib
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from big_vision_like import files
from big_vision_like.data.sources import array_records, protos, shards
from big_vision_like.data.sources.base import Example, Source, as_source, digest
from big_vision_like.errors import UserError, listed, plural
from big_vision_like.ops import pseudo_labels

FACTS, FORMAT = 'teacher.json', 1
UNREADABLE = -1.0  # the confidence of an image that cannot be read


def shard(folder: str | pathlib.Path, number: int, count: int) -> pathlib.Path:
  """Returns the path of a file of records."""
  name = f'labels-{number:05d}-of-{count:05d}.array_record'
  return pathlib.Path(folder).expanduser() / name


def features(classes: int) -> Any:
  """Returns TFDS's description of a record."""
  import tensorflow_datasets as tfds

  return tfds.features.FeaturesDict(
    {
      'index': np.int64,
      'id': tfds.features.Text(),
      'label': np.int64,
      'confidence': np.float32,
      'probabilities': tfds.features.Tensor(shape=(classes,), dtype=np.float32),
    }
  )


@dataclasses.dataclass(frozen=True)
class PseudoLabelled(Source):
  """Images of a source with a teacher's predictions, of confident ones as many copies.

  `labels` is a folder that `tools/pseudo_label.py` wrote for the source; one of other
  images is refused. Examples have those features of the source that are not `label`,
  and `probabilities` float32 (classes,) and `label`, both the teacher's.

  `min_confidence`, `per_class` and `seed` choose images and their copies as
  `ops.pseudo_labels.choose` does: 0.3 and 130,000 are Noisy Student's. A class without
  a confident image is reported: the labelled images still teach it.

  `classes` is how many the teacher has, for plans made before there are labels.
  """

  source: Source
  labels: str
  classes: int | None = None
  min_confidence: float = 0.3
  per_class: int | None = None
  seed: int = 0

  def __post_init__(self) -> None:
    object.__setattr__(self, 'source', as_source(self.source))
    if not 0 <= self.min_confidence <= 1:
      raise UserError(f'min_confidence={self.min_confidence} is not in [0, 1]')
    if self.per_class is not None and self.per_class < 1:
      raise UserError(f'per_class={self.per_class} is less than 1')

  @property
  def folder(self) -> pathlib.Path:
    """Returns the folder of the records."""
    return pathlib.Path(self.labels).expanduser()

  @functools.cached_property
  def facts(self) -> Mapping[str, Any]:
    """Reads teacher.json; raises unless the labels are of the source's images."""
    path = self.folder / FACTS
    if not path.is_file():
      raise UserError(
        f'{self.labels} holds no pseudo labels: write them with tools/pseudo_label.py'
        ' --weights=TEACHER and this --config'
      )
    facts = files.read_fields(path)
    for name in ('classes', 'label_names', 'shards', 'source', 'teacher'):
      if name not in facts:
        raise UserError(f'{path} lacks {name!r}: delete the folder and predict again')
    theirs = facts['source']
    if theirs.get('fingerprint') != self.source.fingerprint():
      ours = self.source.identity()
      raise UserError(
        f'the pseudo labels in {self.labels} are of other images: of'
        f' {_described(theirs)}, and the source is {_described(ours)}: predict these in'
        ' another folder'
      )
    if self.classes not in (None, facts['classes']):
      raise UserError(
        f'the pseudo labels in {self.labels} are of {facts["classes"]} classes, not of'
        f' classes={self.classes}'
      )
    return facts

  @functools.cached_property
  def predictions(self) -> array_records.ArrayRecord:
    """Returns the records, one for each image of the source."""
    count = self.facts['shards']
    paths = [shard(self.folder, number, count) for number in range(count)]
    missing = [path.name for path in paths if not path.is_file()]
    if missing:
      raise UserError(
        f'{len(missing)} of the {plural(count, "file")} of pseudo labels in'
        f' {self.labels} are missing ({listed(missing, 1)}): rerun'
        ' tools/pseudo_label.py, which writes the rest'
      )
    found = array_records.ArrayRecord([str(path) for path in paths])
    if len(found) != len(self.source):
      raise UserError(
        f'{self.labels} has {plural(len(found), "pseudo label")} and the source'
        f' {plural(len(self.source), "image")}: delete the folder and predict again'
      )
    return found

  @functools.cached_property
  def told(self) -> Mapping[str, np.ndarray]:
    """Reads `label` and `confidence` of every image, (N,), once, and keeps them."""
    read = functools.partial(_labels_of, classes=self.facts['classes'])
    return shards.index('pseudo label', self.predictions.files, read)

  @functools.cached_property
  def choice(self) -> pseudo_labels.Choice:
    """Chooses which images are used, and how often."""
    chosen = pseudo_labels.choose(
      self.told['label'],
      self.told['confidence'],
      self.facts['classes'],
      min_confidence=self.min_confidence,
      per_class=self.per_class,
      seed=self.seed,
    )
    if not chosen.copies_N.any():
      best = self.told['confidence'].max()
      raise UserError(
        f'no pseudo label in {self.labels} has a confidence of'
        f' min_confidence={self.min_confidence:g}, the highest is {best:.2f}: lower it,'
        ' or train a better teacher'
      )
    return chosen

  @functools.cached_property
  def indices(self) -> np.ndarray:
    """Returns where in the source the image of each example is."""
    return np.repeat(np.arange(len(self.source)), self.choice.copies_N)

  def remarks(self) -> list[str]:
    """Returns how many images were chosen, and which classes have none."""
    copies_N, _, available_K = self.choice
    used = np.count_nonzero(copies_N)
    found = [
      f'pseudo labels of {self.facts["teacher"]}: {used:,} of {len(copies_N):,} images'
      f' are used, {len(self):,} with copies'
    ]
    names = self.label_names or range(len(available_K))
    absent = [str(names[label]) for label in np.flatnonzero(available_K == 0)]
    if absent:
      found.append(
        f'no image is of {listed(absent, 5)} with a confidence of'
        f' {self.min_confidence:g}, so the labelled images alone teach'
        f' {"this class" if len(absent) == 1 else "these classes"}: lower'
        ' min_confidence, or train a better teacher'
      )
    if unreadable := np.count_nonzero(self.told['confidence'] == UNREADABLE):
      found.append(f'{plural(unreadable, "image")} could not be read by the teacher')
    return [*self.source.remarks(), *found]

  @property
  def inner(self) -> dict[str, Source]:
    """Returns the source of the images."""
    return {'source': self.source}

  @property
  def features(self) -> Mapping[str, Any]:
    """Returns those of the source but its labels."""
    return {k: x for k, x in self.source.features.items() if k != 'label'}

  @property
  def label_names(self) -> Sequence[str] | None:
    """Returns names of the teacher's classes, as far as it knows them."""
    return self.facts['label_names'] or None

  @property
  def files(self) -> Sequence[str]:
    """Lists the files of the records."""
    return self.predictions.files

  def fingerprint(self) -> str:
    """Returns a digest of images, records and choice."""
    chosen = self.min_confidence, self.per_class, self.seed
    return digest('PseudoLabelled', self.source, self.predictions, *chosen)

  def planned(self) -> Source:
    """Returns itself, or a stand-in where images or labels are not there yet."""
    there = self.source.planned()
    if there is self.source and (self.folder / FACTS).is_file():
      return self
    return MadeUp(there, self.classes)

  def __len__(self) -> int:
    return len(self.indices)

  def __getitem__(self, index: int) -> Example:
    place = int(self.indices[index])
    predicted = self.predictions[place]
    return self.source[place] | {
      'label': np.int32(predicted['label']),
      'probabilities': predicted['probabilities'],
    }


def _described(identity: Mapping[str, Any]) -> str:
  """Returns which data an identity is of, for people who compare two of them."""
  name = f'{identity.get("title")} {identity.get("split")}'.rstrip()
  digits = str(identity.get('fingerprint'))[:8]
  return f'{name} ({plural(identity.get("examples", 0), "example")}, {digits})'


def _labels_of(path: str, classes: int) -> dict[str, np.ndarray]:
  """Reads labels and confidences of the records of a file."""
  own, described = array_records.opened(path).read_all(), features(classes)
  parsed = [protos.parsed(record, described, f'a record of {path}') for record in own]
  return {
    'label': np.array([record['label'] for record in parsed], np.int32),
    'confidence': np.array([record['confidence'] for record in parsed], np.float32),
  }


@dataclasses.dataclass(frozen=True)
class MadeUp(Source):
  """What stands in for pseudo labels that nobody has predicted yet, in a plan."""

  source: Source
  classes: int | None

  def __len__(self) -> int:
    return len(self.source)

  def __getitem__(self, index: int) -> Example:
    if self.classes is None:
      raise UserError(
        'there are no pseudo labels yet: say how many classes they will have, with the'
        ' `classes` of PseudoLabelled'
      )
    rng = np.random.default_rng(index)
    share_C = rng.gamma(0.1, size=self.classes).astype(np.float32) + np.float32(1e-6)
    label = np.int32(share_C.argmax())
    added = {'label': label, 'probabilities': share_C / share_C.sum()}
    return self.source[index] | added

  @property
  def inner(self) -> dict[str, Source]:
    """Returns the source of the images."""
    return {'source': self.source}

  @property
  def features(self) -> Mapping[str, Any]:
    """Returns those of the source but its labels."""
    return {k: x for k, x in self.source.features.items() if k != 'label'}

  @property
  def label_names(self) -> None:
    """Nobody knows them."""

  def fingerprint(self) -> str:
    """Returns a digest of the source and the number of classes."""
    return digest('MadeUp', self.source, self.classes)
