"""Transforms of captions to captions that do not belong to their image."""

import dataclasses
from collections.abc import Sequence
from typing import Any

import grain
import numpy as np

from big_vision_like.data.sources.base import Source
from big_vision_like.data.transforms import labels
from big_vision_like.errors import UserError

Example = dict[str, Any]


@dataclasses.dataclass(frozen=True)
class Mismatched(grain.transforms.RandomMap):
  """Replacement of a `share` of the captions; sets `aligned`, False if replaced.

  `captions` is the source of the examples. Of the replacements, the share `changed` has
  one word of the caption exchanged for another word of its group in `words`; all
  others, and captions without such a word, become the caption of a random example.
  """

  captions: Source
  share: float = 0.5
  changed: float = 0.0
  words: Sequence[Sequence[str]] = ()
  caption: str = 'caption'

  def __post_init__(self) -> None:
    if self.changed and not self.words:
      raise UserError(
        f'changed={self.changed} needs groups of words to exchange: give `words`'
      )

  def random_map(self, example: Example, rng: np.random.Generator) -> Example:
    own = as_text(labels.feature(example, self.caption))
    if rng.random() >= self.share:
      return example | {self.caption: own, 'aligned': np.bool_(True)}
    other = None
    if rng.random() < self.changed:
      other = one_word_changed(own, self.words, rng)
    if other is None:
      other = other_caption(self.captions, self.caption, own, rng)
    return example | {self.caption: other, 'aligned': np.bool_(False)}


@dataclasses.dataclass(frozen=True)
class FixedMismatch(grain.transforms.Map):
  """`Mismatched` for evaluation: the choices depend on the `id` of an example only."""

  mismatched: Mismatched
  seed: int = 0

  def map(self, example: Example) -> Example:
    rng = np.random.default_rng((self.seed, int(labels.feature(example, 'id'))))
    return self.mismatched.random_map(example, rng)


def other_caption(
  captions: Source, name: str, own: str, rng: np.random.Generator, most: int = 100
) -> str:
  """Returns the caption of a random example that differs from `own`."""
  # Sources with stored regions read the text alone.
  read = getattr(captions, 'text', captions.__getitem__)
  for _ in range(most):
    found = as_text(labels.feature(read(int(rng.integers(len(captions)))), name))
    if found != own:
      return found
  raise UserError(
    f'{captions}: {most} random captions are all {own[:60]!r}: pairs that do not belong'
    ' together need different captions'
  )


def one_word_changed(
  caption: str, groups: Sequence[Sequence[str]], rng: np.random.Generator
) -> str | None:
  """Returns a caption with one word exchanged; None without a word of the groups."""
  found = caption.split()
  places = [
    (place, [other for other in group if other != word])
    for place, word in enumerate(found)
    for group in groups
    if word in group and len(group) > 1
  ]
  if not places:
    return None
  place, others = places[rng.integers(len(places))]
  found[place] = others[rng.integers(len(others))]
  return ' '.join(found)


def as_text(value: Any) -> str:
  """Returns a text, which TFDS stores as bytes."""
  return value.decode(errors='replace') if isinstance(value, bytes) else str(value)
