"""Transforms of pairs of texts, source and target, to token ids."""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

import grain
import numpy as np

from big_vision_like.data.input import bucket
from big_vision_like.data.sources.base import digest
from big_vision_like.data.text import vocabulary
from big_vision_like.errors import BadRecordError, UserError, shape_text

Example = dict[str, Any]
Ids = list[list[int]]


@dataclasses.dataclass(frozen=True)
class Tokenize(grain.transforms.Map):
  """The texts of two features to `source` and `target`: int32 ids, then EOS.

  Of the rest of an example only `id` and `mask` stay. Sequences are cut to
  `max_length` tokens, EOS included, where that is given.
  """

  vocabulary: vocabulary.SentencePiece
  source: str
  target: str
  max_length: int | None = None

  def __post_init__(self) -> None:
    if self.max_length is not None and self.max_length < 2:
      raise UserError(
        f'max_length={self.max_length} leaves no room for a token and EOS'
      )

  def map(self, example: Example) -> Example:
    (source,), (target,) = self.encode([example])
    if len(source) == 1:
      name = example.get('id', 'unknown')
      raise UserError(
        f'the text {self.source!r} of the example with id {name}'
        f' is empty ({self.target!r} is {text_of(example, self.target)[:60]!r}): leave'
        ' such examples out, as data.input.packing does.'
      )
    kept = {name: example[name] for name in ('id', 'mask') if name in example}
    return kept | {
      'source': np.array(source, np.int32),
      'target': np.array(target, np.int32),
    }

  def encode(self, examples: Sequence[Example]) -> tuple[Ids, Ids]:
    """Ids of sources and targets, nothing but EOS where a text is empty."""
    texts = [text_of(e, name) for name in (self.source, self.target) for e in examples]
    cut = None if self.max_length is None else self.max_length - 1
    end = [self.vocabulary.eos_id]
    ids = [found[:cut] + end for found in self.vocabulary.encode_all(texts)]
    return ids[: len(examples)], ids[len(examples) :]


def text_of(example: Mapping[str, Any], name: str) -> str:
  """The text of a feature, which TFDS gives as bytes."""
  if name not in example:
    raise UserError(f'examples have no text {name!r}; they have {", ".join(example)}.')
  text = example[name]
  if isinstance(text, bytes):
    return text.decode(errors='replace')
  if not isinstance(text, str):
    raise UserError(f'{name!r} is no text but {type(text).__name__}.')
  return text


@dataclasses.dataclass(frozen=True)
class Pad(grain.transforms.Map):
  """`source` and `target` to fixed lengths, with zeros behind EOS.

  A longer sequence is an error, or is cut in front of its EOS (`truncate`).
  """

  source_length: int
  target_length: int
  truncate: bool = False

  tiny = dict(source_length=64, target_length=64)

  def map(self, example: Example) -> Example:
    return example | {
      'source': self._padded(example, 'source', self.source_length),
      'target': self._padded(example, 'target', self.target_length),
    }

  def _padded(self, example: Example, name: str, length: int) -> np.ndarray:
    ids = example[name]
    if len(ids) > length:
      if not self.truncate:
        raise UserError(
          f'the {name} of the example with id {example.get("id", "unknown")} has'
          f' {len(ids)} tokens with EOS: more than {name}_length={length}; raise it, or'
          ' set truncate.'
        )
      ids = np.concatenate([ids[: length - 1], ids[-1:]])
    return np.pad(ids, (0, length - len(ids)))


@dataclasses.dataclass(frozen=True)
class Buckets(bucket.Bucket):
  """Sequences of ids to one of several lengths, with zeros behind EOS.

  `lengths` has for each shape one length for each of `names`, and no length of a shape
  is less than that of the shape before: [(32, 32), (64, 64)]. Batches have one shape
  (see `input.grouping`). Records of the source have ids, zeros behind them allowed, or
  texts of which `tokenize` makes ids: then the same transform comes before this one. A
  pair that is longer than the last shape is a bad record. Only what takes the place of
  a bad record may be cut, in front of its EOS.
  """

  lengths: Sequence[Sequence[int]]
  names: Sequence[str] = ('source', 'target')
  tokenize: Tokenize | None = None

  noun = 'pair of sequences'
  resizers = '`tokenize`'

  def __post_init__(self) -> None:
    for shape in self.lengths:
      if len(shape) != len(self.names):
        raise UserError(
          f'lengths={tuple(shape)} must be one number for each of'
          f' {", ".join(self.names)}'
        )
    if any(np.diff(np.array(self.lengths), axis=0).ravel() < 0):
      raise UserError(
        f'lengths={[tuple(shape) for shape in self.lengths]} must grow: a shape holds'
        ' everything that the one before it holds'
      )

  @property
  def shapes(self) -> Sequence[Sequence[int]]:
    """Numbers of tokens that sequences are padded to."""
    return self.lengths

  @property
  def measured_by(self) -> Any:
    """Returns the names of the sequences and a digest of the vocabulary."""
    return [type(self).__qualname__, list(self.names), digest(self.tokenize)]

  def measure(self, record: Example) -> bucket.Size:
    """Returns the numbers of tokens of a record, EOS included."""
    if self.tokenize is not None:
      return tuple(len(ids) for (ids,) in self.tokenize.encode([record]))
    return self.size(record)

  def size(self, example: Example) -> bucket.Size:
    """Returns the numbers of tokens without the zeros behind them."""
    return tuple(len(self._ids(example, name)) for name in self.names)

  def choose(self, size: bucket.Size) -> int:
    """Returns which of `lengths` hold sequences; the last where none does."""
    found = bucket.smallest(self.lengths, size)
    return len(self.lengths) - 1 if found is None else found

  def map(self, example: Example) -> Example:
    size = self.size(example)
    shape = self.lengths[self.choose(size)]
    if (np.array(size) > shape).any():
      raise BadRecordError(
        f'the example with id {example.get("id", "unknown")} has {shape_text(size)}'
        f' tokens in {", ".join(self.names)}, more than {shape_text(shape)}: add a'
        ' larger shape to `lengths`, or cut with Tokenize(max_length=...)'
      )
    return self.fit(example, shape)

  def fit(self, example: Example, shape: bucket.Size) -> Example:
    """Returns an example with sequences of other lengths; cut where they are longer."""
    made = {}
    for name, length in zip(self.names, shape, strict=True):
      ids = self._ids(example, name)
      if len(ids) > length:
        ids = np.concatenate([ids[: length - 1], ids[-1:]])
      made[name] = np.pad(ids, (0, length - len(ids)))
    return example | made

  def content(self, sizes_BK: np.ndarray, shape: bucket.Size) -> np.ndarray:
    """Returns how many of the tokens of all sequences are no padding."""
    return np.minimum(sizes_BK, shape).sum(axis=1)

  def elements(self, shape: bucket.Size) -> int:
    """Returns how many tokens the sequences of a shape have."""
    return sum(shape)

  def _ids(self, example: Example, name: str) -> np.ndarray:
    if name not in example:
      raise UserError(
        f'examples have no ids {name!r}; they have {", ".join(example)}: give Buckets'
        ' the transform `tokenize` that makes them.'
      )
    return np.trim_zeros(np.asarray(example[name]), 'b')
