"""Preprocessing of models for texts and regions: there are no images to prepare.

Batches of such models come from the transforms of a config (docs/language_vision.md).
"""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

import ml_collections as mlc

from big_vision_like.errors import UserError
from big_vision_like.inference.preprocessing import Prepare

SENTENCE = (
  'the model takes token ids and features of regions, not images: make its batches with'
  ' the transforms of a config, as docs/language_vision.md shows'
)


@dataclasses.dataclass(frozen=True)
class WithoutImages(Prepare):
  """The preprocessing of weights that take no images: every use says so.

  `takes` is what the model takes, and `instead` the sentence of errors.
  """

  mean: tuple[float, ...] = ()
  std: tuple[float, ...] = ()
  label_names: tuple[str, ...] = ()
  source: str = 'texts'
  takes: str = 'token ids'
  instead: str = SENTENCE

  def __call__(self, picture: Any) -> Any:
    raise UserError(self.instead)

  def with_size(self, size: int | Sequence[int]) -> Prepare:
    raise UserError(self.instead)

  def replaced(self, nodes: Sequence[mlc.ConfigDict]) -> list[mlc.ConfigDict]:
    raise UserError(self.instead)

  def __str__(self) -> str:
    return f'none: the model takes {self.takes}'


def of_run(run: Any, image_size: tuple[int, int] | None = None) -> WithoutImages:
  """Returns the preprocessing of a run on texts, or on pairs of texts and regions."""
  return WithoutImages(source=f'run {run.workdir}')


def of_file(
  metadata: Mapping[str, Any],
  name: str,
  size: tuple[int, int] | None,
  num_classes: int,
  channels: int,
) -> WithoutImages:
  """Returns the preprocessing of a file of weights, as `Family.images` does."""
  return WithoutImages(source=name)
