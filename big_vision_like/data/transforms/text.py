"""Transforms of pairs of source and target texts to token ids."""

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
  """Tokenization of two text features to `source` and `target`: int32 ids, then EOS.

  Other features except `id` and `mask` are removed. Sequences are truncated to
  `max_length` tokens, including EOS, if it is given.
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
        ' out such examples, as data.input.packing does.'
      )
    kept = {name: example[name] for name in ('id', 'mask') if name in example}
    return kept | {
      'source': np.array(source, np.int32),
      'target': np.array(target, np.int32),
    }

  def encode(self, examples: Sequence[Example]) -> tuple[Ids, Ids]:
    """Returns the ids of sources and targets; an empty text becomes just EOS."""
    texts = [text_of(e, name) for name in (self.source, self.target) for e in examples]
    cut = None if self.max_length is None else self.max_length - 1
    end = [self.vocabulary.eos_id]
    ids = [found[:cut] + end for found in self.vocabulary.encode_all(texts)]
    return ids[: len(examples)], ids[len(examples) :]


def text_of(example: Mapping[str, Any], name: str) -> str:
  """Returns the text of a feature, which TFDS stores as bytes."""
  if name not in example:
    raise UserError(f'examples have no text {name!r}; they have {", ".join(example)}.')
  text = example[name]
  if isinstance(text, bytes):
    return text.decode(errors='replace')
  if not isinstance(text, str):
    raise UserError(f'{name!r} is not a text, but {type(text).__name__}.')
  return text


@dataclasses.dataclass(frozen=True)
class Pad(grain.transforms.Map):
  """Padding of `source` and `target` to fixed lengths, with zeros after EOS.

  A longer sequence is an error. With `truncate`, tokens before its EOS are removed.
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
          f' {len(ids)} tokens with EOS: more than {name}_length={length}; raise the'
          ' length, or set truncate.'
        )
      ids = np.concatenate([ids[: length - 1], ids[-1:]])
    return np.pad(ids, (0, length - len(ids)))


@dataclasses.dataclass(frozen=True)
class Buckets(bucket.Bucket):
  """Padding of sequences of ids to one of several lengths, with zeros after EOS.

  `lengths` has one length per name in `names` for each shape, and lengths must not
  decrease from shape to shape: [(32, 32), (64, 64)]. Each batch has one shape (see
  `input.grouping`). Records of the source have ids, with optional trailing zeros, or
  texts that `tokenize` converts to ids; the same transform must then come before this
  one. A pair longer than the last shape is a bad record. Only examples that replace a
  bad record may be truncated, before their EOS.
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
          f'lengths={tuple(shape)} must have one number for each of'
          f' {", ".join(self.names)}'
        )
    if any(np.diff(np.array(self.lengths), axis=0).ravel() < 0):
      raise UserError(
        f'lengths={[tuple(shape) for shape in self.lengths]} must ascend: each shape'
        ' must hold everything that the previous one holds'
      )

  @property
  def shapes(self) -> Sequence[Sequence[int]]:
    """The numbers of tokens that sequences are padded to."""
    return self.lengths

  @property
  def measured_by(self) -> Any:
    """The names of the sequences and a digest of the vocabulary."""
    return [type(self).__qualname__, list(self.names), digest(self.tokenize)]

  def measure(self, record: Example) -> bucket.Size:
    """Returns the numbers of tokens of a record, including EOS."""
    if self.tokenize is not None:
      return tuple(len(ids) for (ids,) in self.tokenize.encode([record]))
    return self.size(record)

  def size(self, example: Example) -> bucket.Size:
    """Returns the numbers of tokens without trailing zeros."""
    return tuple(len(self._ids(example, name)) for name in self.names)

  def choose(self, size: bucket.Size) -> int:
    """Returns the index of the `lengths` that hold sequences, or the last index."""
    found = bucket.smallest(self.lengths, size)
    return len(self.lengths) - 1 if found is None else found

  def map(self, example: Example) -> Example:
    size = self.size(example)
    shape = self.lengths[self.choose(size)]
    if (np.array(size) > shape).any():
      raise BadRecordError(
        f'the example with id {example.get("id", "unknown")} has {shape_text(size)}'
        f' tokens in {", ".join(self.names)}, more than {shape_text(shape)}: add a'
        ' larger shape to `lengths`, or truncate with Tokenize(max_length=...)'
      )
    return self.fit(example, shape)

  def fit(self, example: Example, shape: bucket.Size) -> Example:
    """Pads an example's sequences to other lengths; truncates longer sequences."""
    made = {}
    for name, length in zip(self.names, shape, strict=True):
      ids = self._ids(example, name)
      if len(ids) > length:
        ids = np.concatenate([ids[: length - 1], ids[-1:]])
      made[name] = np.pad(ids, (0, length - len(ids)))
    return example | made

  def content(self, sizes_BK: np.ndarray, shape: bucket.Size) -> np.ndarray:
    """Returns the number of tokens of all sequences that are not padding."""
    return np.minimum(sizes_BK, shape).sum(axis=1)

  def elements(self, shape: bucket.Size) -> int:
    """Returns the number of tokens in the sequences of a shape."""
    return sum(shape)

  def _ids(self, example: Example, name: str) -> np.ndarray:
    if name not in example:
      raise UserError(
        f'examples have no ids {name!r}; they have {", ".join(example)}: give Buckets'
        ' the transform `tokenize` that makes them.'
      )
    return np.trim_zeros(np.asarray(example[name]), 'b')
