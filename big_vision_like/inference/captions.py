"""Preprocessing of pictures for captioning, and of runs that write captions.

Axes: B batch, H W image, C channels.
"""

import dataclasses
from collections.abc import Sequence
from typing import Any

import ml_collections as mlc
import numpy as np

from big_vision_like import spec
from big_vision_like.data.text import words
from big_vision_like.errors import UserError
from big_vision_like.inference import classes, loading
from big_vision_like.inference.preprocessing import Prepare
from big_vision_like.run import learned


@dataclasses.dataclass(frozen=True)
class CaptionPreprocessing(Prepare):
  """Preprocessing from a picture to an image, and from ids to a caption.

  Sizes and normalization are those of `classes.Preprocessing`. `label_names` has the
  word of each id. Captions start with `bos_id` and end with `eos_id`; a search finds at
  most `length` words, and its scores are divided by ((5 + n) / 6)^alpha.

      image = preprocess('dog.jpg')
      step, cache = model.searching(variables, image[None], beams=3, length=50)
  """

  size: tuple[int, int]
  resize: str | int | tuple[int, int] = 'squash'
  interpolation: str = 'bilinear'
  rounding: tuple[str, str] = ('nearest', 'down')
  mean: tuple[float, ...] = (0.5, 0.5, 0.5)
  std: tuple[float, ...] = (0.5, 0.5, 0.5)
  label_names: tuple[str, ...] = ()
  bos_id: int = 1
  eos_id: int = 2
  length: int = 50
  alpha: float = 0.0
  source: str = ''

  def __post_init__(self) -> None:
    super().__post_init__()
    self.images  # noqa: B018 - checks the other fields

  @property
  def images(self) -> classes.Preprocessing:
    """The preprocessing of images."""
    own = ('size', 'resize', 'interpolation', 'rounding', 'mean', 'std', 'source')
    return classes.Preprocessing(**{name: getattr(self, name) for name in own})

  def __call__(self, picture: Any) -> np.ndarray:
    """Prepares a picture for a model: float32 (H, W, C)."""
    return self.images(picture)

  def words(self, ids: Sequence[int]) -> list[str]:
    """Returns the words of ids before the end."""
    kept = []
    for i in ids:
      if i == self.eos_id:
        break
      if i not in (0, self.bos_id):
        kept.append(self.name(int(i)))
    return kept

  def with_size(self, size: int | Sequence[int]) -> 'CaptionPreprocessing':
    """Returns preprocessing for images of another size."""
    new = self.images.with_size(size)
    return dataclasses.replace(self, size=new.size, resize=new.resize)

  def replaced(self, nodes: Sequence[mlc.ConfigDict]) -> list[mlc.ConfigDict]:
    """Replaces the transforms that size images among recorded ones of a config."""
    return self.images.replaced(nodes)

  def __str__(self) -> str:
    return str(self.images)


def of_run(
  run: loading.LoadedRun, image_size: tuple[int, int] | None = None
) -> CaptionPreprocessing:
  """Returns the preprocessing that a captioning run uses in evaluation.

  `image_size` is the height and width of its images, if no transform determines it.
  """
  images, vocabulary = classes.of_run(run, image_size), vocabulary_of(run)
  order = sorted(vocabulary.ids, key=vocabulary.ids.__getitem__)
  return CaptionPreprocessing(
    size=images.size,
    resize=images.resize,
    interpolation=images.interpolation,
    rounding=images.rounding,
    mean=images.mean,
    std=images.std,
    label_names=tuple(order),
    bos_id=run.task.bos_id,
    eos_id=run.task.eos_id,
    length=run.task.length,
    alpha=run.task.alpha,
    source=images.source,
  )


def vocabulary_of(run: loading.LoadedRun) -> words.Words:
  """Returns the first vocabulary of a run's config; it must be that of the run."""
  for path, node in spec.calls(run.config):
    if spec.symbol(node, path) is words.Words:
      found = spec.build(node, path)
      learned.check_tokenizer(run.workdir, found)
      return found
  raise UserError(
    f'the config of {run.workdir} names no vocabulary (data.text.words.Words), so the'
    ' ids of words cannot be read'
  )
