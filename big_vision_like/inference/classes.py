"""Preprocessing of images for classification, and of runs that classify.

Axes: B batch, H W image, C channels or classes.
"""

import dataclasses
from collections.abc import Sequence
from typing import Any

import grain
import ml_collections as mlc
import numpy as np

from big_vision_like import spec
from big_vision_like.data.transforms import image as transforms
from big_vision_like.errors import UserError, check_one_of, shape_text
from big_vision_like.inference import clips, loading
from big_vision_like.inference.imagenet_words import in_words
from big_vision_like.inference.preprocessing import (
  SIZING,
  Prepare,
  decoded,
  normalization,
  softmax,
)
from big_vision_like.ops import images
from big_vision_like.run import provenance
from big_vision_like.tasks import classification
from big_vision_like.weights import beside

SCORES = ('softmax', 'sigmoid')
# `resize` of `EfficientNetCentralCrop`.
EFFICIENTNET = 'efficientnet'


@dataclasses.dataclass(frozen=True)
class Preprocessing(Prepare):
  """Preprocessing from a picture to the float32 (H, W, C) that a model takes.

  `size` is height and width. `resize` is the way to get there. 'squash' resizes
  directly, ignoring the aspect ratio. A number of pixels for the shorter side, or a
  height and width, resizes to that and then takes the central crop. 'efficientnet'
  takes the central crop before resizing, see `EfficientNetCentralCrop`.
  `interpolation` is one of `data.transforms.image.METHODS`. `rounding` defines how the
  longer side and the position of the crop become whole numbers, see `ResizeSmall` and
  `CentralCrop`. `scores` is the function applied to the class logits: 'softmax' or
  'sigmoid'.
  """

  size: tuple[int, int]
  resize: str | int | tuple[int, int] = 'squash'
  interpolation: str = 'bilinear'
  rounding: tuple[str, str] = ('nearest', 'down')
  mean: tuple[float, ...] = (0.5, 0.5, 0.5)
  std: tuple[float, ...] = (0.5, 0.5, 0.5)
  label_names: tuple[str, ...] = ()
  scores: str = 'softmax'
  source: str = ''

  def __post_init__(self) -> None:
    super().__post_init__()
    if len(self.size) != 2 or min(self.size) < 1:
      raise UserError(f'size={self.size} is not a positive height and width')
    check_one_of(SCORES, scores=self.scores)
    self.transforms  # noqa: B018 - checks the other fields

  @property
  def transforms(self) -> tuple[grain.transforms.Map, ...]:
    """The transforms after decoding, as in a config."""
    size, method = _side(self.size), self.interpolation
    if self.resize == 'squash':
      return (transforms.Resize(size, method),)
    if self.resize == EFFICIENTNET:
      if not isinstance(size, int):
        raise UserError(
          f'size={self.size} is not square, but the central crop of EfficientNet is'
        )
      return (transforms.EfficientNetCentralCrop(size, method),)
    longer, place = self.rounding
    if isinstance(self.resize, int):
      first = transforms.ResizeSmall(self.resize, method, longer)
    else:
      first = transforms.Resize(_side(self.resize), method)
    return first, transforms.CentralCrop(size, place)

  def replaced(self, nodes: Sequence[mlc.ConfigDict]) -> list[mlc.ConfigDict]:
    """Replaces the transforms that size images among recorded ones of a config."""
    decode, *rest = nodes
    sizing = [spec.symbol(node) in SIZING for node in rest]
    place = sizing.index(True) if True in sizing else 0
    kept = [n for n, sizes in zip(rest, sizing, strict=True) if not sizes]
    decode = spec.spec(spec.symbol(decode), channels=self.channels)
    ours = [spec.spec(type(x), **dataclasses.asdict(x)) for x in self.transforms]
    return [decode, *kept[:place], *ours, *kept[place:]]

  def sized(self, image: Any) -> np.ndarray:
    """Resizes and crops a picture for the model: uint8 (H, W, C).

    It may be a path, the bytes of a file, a PIL image or uint8 (H, W, C). Grey and
    alpha are converted to the channels that the model takes.
    """
    example = {'image': decoded(image, self.channels)}
    for step in self.transforms:
      example = step.map(example)
    return example['image']

  def normalized(self, image_BHWC: np.ndarray) -> np.ndarray:
    """Normalizes uint8 images (B, H, W, C) with `mean` and `std`."""
    return np.asarray(images.normalize(image_BHWC, self.mean, self.std))

  def __call__(self, image: Any) -> np.ndarray:
    """Prepares a picture, as `sized` takes it: float32 (H, W, C)."""
    return self.normalized(self.sized(image)[None])[0]

  def batch(self, pictures: Sequence[Any]) -> np.ndarray:
    """Prepares several pictures: float32 (B, H, W, C)."""
    return self.normalized(np.stack([self.sized(picture) for picture in pictures]))

  def top(self, logits_C: np.ndarray, k: int = 5) -> list[tuple[str, float]]:
    """Returns names and scores in [0, 1] of an image's best classes, best first.

    Names that are WordNet numbers of ImageNet-1k have words in front.
    """
    logits_C = np.asarray(logits_C, np.float64)
    if logits_C.ndim != 1:
      raise UserError(f'top() takes the logits of one image, not {logits_C.shape}')
    if self.scores == 'sigmoid':
      score_C = 0.5 * (1.0 + np.tanh(logits_C / 2))
    else:
      score_C = softmax(logits_C)
    best = np.argsort(-logits_C, kind='stable')[:k]
    return [(in_words(self.name(label)), float(score_C[label])) for label in best]

  def with_size(self, size: int | Sequence[int]) -> 'Preprocessing':
    """Returns preprocessing for another size, with the crop scaled in proportion."""
    new = (size, size) if isinstance(size, int) else tuple(size)
    resize = self.resize
    if isinstance(resize, int):
      resize = round(resize * min(new) / min(self.size))
    elif not isinstance(resize, str):
      resize = tuple(
        round(side * n / o) for side, n, o in zip(resize, new, self.size, strict=True)
      )
    return dataclasses.replace(self, size=new, resize=resize)

  def __str__(self) -> str:
    how = self.resize
    if how == 'squash':
      how = 'whatever the aspect ratio'
    elif how == EFFICIENTNET:
      how = f'resized from a central crop of {self.size[0]}/{self.size[0] + 32}'
    else:
      side = 'shorter side' if isinstance(how, int) else 'resized'
      how = f'central crop of {side} {how if isinstance(how, int) else shape_text(how)}'
    return f'{shape_text(self.size)}, {how}, {self.interpolation}; {self.normalization}'


def of_run(
  run: loading.LoadedRun, image_size: tuple[int, int] | None = None
) -> Preprocessing | clips.ClipPreprocessing:
  """Returns the preprocessing that a classification run uses in evaluation.

  `image_size` is the height and width of its images, if no transform determines it.
  """
  if 'video' in run.task.inputs:
    return clips.of_run(run, image_size)
  node = loading.encoded_images(run.config)
  decode, *rest = [spec.build(n, 'transforms') for n in node['transforms']]
  size, resize, method, rounding = sizing(rest)
  if size is None:
    size = image_size or provenance.run_size(run.config, run.workdir)
    size = size or provenance.first_size(node)
  mean, std = normalization(run.network, decode.channels)
  by_class = spec.held(run.config['task'], 'loss_type') in classification.BY_CLASS
  return Preprocessing(
    size=size,
    resize=resize,
    interpolation=method,
    rounding=rounding,
    mean=mean,
    std=std,
    label_names=loading.trained_names(run, 'label_names'),
    scores='sigmoid' if by_class else 'softmax',
    source=f'{run.workdir}, step {int(run.state.step):,}',
  )


def sizing(
  steps: Sequence[Any],
) -> tuple[tuple[int, int] | None, str | int | tuple[int, int], str, tuple[str, str]]:
  """Returns `size`, `resize`, `interpolation` and `rounding` of these transforms.

  Other transforms belong to the data set or to training, and are ignored. `size` is
  None if no transform sizes images.
  """
  found = [step for step in steps if isinstance(step, SIZING)]
  kinds, rounding = [type(step) for step in found], Preprocessing.rounding
  if not kinds:
    return None, 'squash', 'bilinear', rounding
  first, last = found[0], found[-1]
  size = beside.size_of(last.size)
  if kinds == [transforms.Resize]:
    return size, 'squash', first.method, rounding
  if kinds == [transforms.EfficientNetCentralCrop]:
    return size, EFFICIENTNET, first.method, rounding
  if kinds == [transforms.Resize, transforms.CentralCrop]:
    whole = beside.size_of(first.size)
    return size, whole, first.method, (rounding[0], last.rounding)
  if kinds == [transforms.ResizeSmall, transforms.CentralCrop]:
    return size, first.size, first.method, (first.rounding, last.rounding)
  names = ', '.join(kind.__name__ for kind in kinds)
  raise UserError(
    'images of one size require EfficientNetCentralCrop, Resize, or Resize or'
    f' ResizeSmall with CentralCrop, not {names}'
  )


def _side(size: Sequence[int]) -> int | tuple[int, int]:
  """Returns one number for a square, as configs write it."""
  return size[0] if size[0] == size[1] else tuple(size)
