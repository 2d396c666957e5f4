"""Images with the predictions of a teacher, one stored record per image.

`tools/pseudo_label.py` writes a folder. Its `teacher.json` identifies the images and
the teacher. Its array_record files have a tf.train.Example for each image, in the order
of the source, with `index`, `id`, `label` (the most probable class), `confidence` (its
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
  """Returns the TFDS features of a record."""
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
  """Images of a source with a teacher's predictions, selected and copied by confidence.

  `labels` is a folder that `tools/pseudo_label.py` wrote for the source; a folder for
  other images is an error. Examples have the features of the source except `label`, and
  the teacher's `probabilities`, float32 (classes,), and `label`.

  `min_confidence`, `per_class` and `seed` choose images and their copies; see
  `ops.pseudo_labels.choose`. Noisy Student uses 0.3 and 130,000. A class without a
  confident image is reported; the labelled images still teach it.

  `classes` is the teacher's number of classes, for plans made before there are labels.
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
    """The folder of the records."""
    return pathlib.Path(self.labels).expanduser()

  @functools.cached_property
  def facts(self) -> Mapping[str, Any]:
    """The contents of teacher.json; raises if the labels are for other images."""
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
        f'the pseudo labels in {self.labels} are for other images: for'
        f' {_described(theirs)}, but the source is {_described(ours)}: write pseudo'
        ' labels for the source to another folder'
      )
    if self.classes not in (None, facts['classes']):
      raise UserError(
        f'the pseudo labels in {self.labels} have {facts["classes"]} classes, not'
        f' classes={self.classes}'
      )
    return facts

  @functools.cached_property
  def predictions(self) -> array_records.ArrayRecord:
    """The records, one for each image of the source."""
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
        f'{self.labels} has {plural(len(found), "pseudo label")}, but the source has'
        f' {plural(len(self.source), "image")}: delete the folder and predict again'
      )
    return found

  @functools.cached_property
  def told(self) -> Mapping[str, np.ndarray]:
    """The `label` and `confidence` of every image, (N,), read once and cached."""
    read = functools.partial(_labels_of, classes=self.facts['classes'])
    return shards.index('pseudo label', self.predictions.files, read)

  @functools.cached_property
  def choice(self) -> pseudo_labels.Choice:
    """The choice of images, with the number of copies of each."""
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
        f'no pseudo label in {self.labels} reaches'
        f' min_confidence={self.min_confidence:g}; the highest confidence is'
        f' {best:.2f}: lower min_confidence, or train a better teacher'
      )
    return chosen

  @functools.cached_property
  def indices(self) -> np.ndarray:
    """The index in the source of each example's image."""
    return np.repeat(np.arange(len(self.source)), self.choice.copies_N)

  def remarks(self) -> list[str]:
    """Returns remarks about the number of chosen images and classes without any."""
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
        f'no pseudo label of {listed(absent, 5)} has a confidence of at least'
        f' {self.min_confidence:g}, so only labelled images teach'
        f' {"this class" if len(absent) == 1 else "these classes"}: lower'
        ' min_confidence, or train a better teacher'
      )
    if unreadable := np.count_nonzero(self.told['confidence'] == UNREADABLE):
      found.append(f'{plural(unreadable, "image")} could not be read by the teacher')
    return [*self.source.remarks(), *found]

  @property
  def inner(self) -> dict[str, Source]:
    """The source of the images."""
    return {'source': self.source}

  @property
  def features(self) -> Mapping[str, Any]:
    """The features of the source without its label."""
    return {k: x for k, x in self.source.features.items() if k != 'label'}

  @property
  def label_names(self) -> Sequence[str] | None:
    """The names of the teacher's classes, if the teacher has them."""
    return self.facts['label_names'] or None

  @property
  def files(self) -> Sequence[str]:
    """The paths of the files of records."""
    return self.predictions.files

  def fingerprint(self) -> str:
    """Returns a digest of the images, the records and the arguments of the choice."""
    chosen = self.min_confidence, self.per_class, self.seed
    return digest('PseudoLabelled', self.source, self.predictions, *chosen)

  def planned(self) -> Source:
    """Returns this source, or a stand-in if images or labels are missing."""
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
  """Formats an identity of data for display, to compare two of them."""
  name = f'{identity.get("title")} {identity.get("split")}'.rstrip()
  digits = str(identity.get('fingerprint'))[:8]
  return f'{name} ({plural(identity.get("examples", 0), "example")}, {digits})'


def _labels_of(path: str, classes: int) -> dict[str, np.ndarray]:
  """Reads the labels and confidences in a file of records."""
  own, described = array_records.opened(path).read_all(), features(classes)
  parsed = [protos.parsed(record, described, f'a record of {path}') for record in own]
  return {
    'label': np.array([record['label'] for record in parsed], np.int32),
    'confidence': np.array([record['confidence'] for record in parsed], np.float32),
  }


@dataclasses.dataclass(frozen=True)
class MadeUp(Source):
  """A stand-in for pseudo labels that are not predicted yet, for planning."""

  source: Source
  classes: int | None

  def __len__(self) -> int:
    return len(self.source)

  def __getitem__(self, index: int) -> Example:
    if self.classes is None:
      raise UserError(
        'there are no pseudo labels yet: give the number of classes with `classes` of'
        ' PseudoLabelled'
      )
    rng = np.random.default_rng(index)
    share_C = rng.gamma(0.1, size=self.classes).astype(np.float32) + np.float32(1e-6)
    label = np.int32(share_C.argmax())
    added = {'label': label, 'probabilities': share_C / share_C.sum()}
    return self.source[index] | added

  @property
  def inner(self) -> dict[str, Source]:
    """The source of the images."""
    return {'source': self.source}

  @property
  def features(self) -> Mapping[str, Any]:
    """The features of the source without its label."""
    return {k: x for k, x in self.source.features.items() if k != 'label'}

  @property
  def label_names(self) -> None:
    """The names are unknown."""

  def fingerprint(self) -> str:
    """Returns a digest of the source and the number of classes."""
    return digest('MadeUp', self.source, self.classes)
