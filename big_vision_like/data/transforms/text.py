"""Transforms of pairs of texts, source and target, to token ids."""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

import grain
import numpy as np

from big_vision_like.data import vocabulary
from big_vision_like.errors import UserError

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
        ' such examples out, as data.packing does.'
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
