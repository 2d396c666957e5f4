"""Preprocessing of pictures for segmentation, and of runs that segment images.

Axes: B batch, H W image or picture, h w logits, C channels or classes.
"""

import dataclasses
import functools
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import ml_collections as mlc
import numpy as np

from big_vision_like import spec
from big_vision_like.data.transforms import label_maps as transforms
from big_vision_like.errors import UserError, shape_text
from big_vision_like.evals import mean_iou
from big_vision_like.inference import loading
from big_vision_like.inference.preprocessing import (
  IMAGENET_MEAN,
  IMAGENET_STD,
  Prepare,
  decoded,
  normalization,
)
from big_vision_like.ops import images, label_maps
from big_vision_like.tasks import semantic_segmentation


class Prepared(NamedTuple):
  """A picture as model input, float32 (H, W, C), and its height and width before."""

  image_HWC: np.ndarray
  original_size: np.ndarray


@dataclasses.dataclass(frozen=True)
class SegmentationPreprocessing(Prepare):
  """Preprocessing from a picture to an image, and from logits to a label map.

  The shorter side becomes `shortest`, or less if the longer would exceed `longest`;
  sides are rounded to multiples of `multiple`, as in `label_maps.Views`. With `size`,
  pictures get this height and width, ignoring their aspect ratio. Without all, they
  keep their size.

      image, original_size = preprocess('street.jpg')
      outputs = model.apply(variables, image[None])
      label_map = preprocess.label_map(outputs, image.shape[:2], original_size)
  """

  shortest: int | None = None
  longest: int | None = None
  multiple: int = 1
  size: tuple[int, int] | None = None
  mean: tuple[float, ...] = IMAGENET_MEAN
  std: tuple[float, ...] = IMAGENET_STD
  label_names: tuple[str, ...] = ()
  source: str = ''

  def __post_init__(self) -> None:
    super().__post_init__()
    sides = (self.shortest, self.longest, self.multiple, *(self.size or ()))
    if min((side for side in sides if side is not None), default=1) < 1:
      raise UserError(
        f'shortest={self.shortest}, longest={self.longest}, multiple={self.multiple}'
        f' and size={self.size} are not positive'
      )
    if (self.shortest is None) != (self.longest is None):
      raise UserError(
        f'shortest={self.shortest} and longest={self.longest}: give both or neither'
      )
    if self.size is not None and self.shortest is not None:
      raise UserError(
        f'size={self.size} and shortest={self.shortest}: give one of them'
      )

  def size_of(self, height: int, width: int) -> tuple[int, int]:
    """Returns the height and width that a picture is resized to."""
    if self.size is not None:
      return self.size
    if self.shortest is None:
      return height, width
    views = transforms.Views(self.longest, self.shortest, multiple=self.multiple)
    return views.size_after((height, width))

  def sized(self, picture: Any) -> np.ndarray:
    """Resizes a picture, any that `decoded` takes, for the model: uint8 (H, W, C)."""
    image_HWC = decoded(picture, self.channels)
    size = self.size_of(*image_HWC.shape[:2])
    return transforms.resize({'image': image_HWC}, *size)['image']

  def normalized(self, image_BHWC: np.ndarray) -> np.ndarray:
    """Normalizes uint8 images (B, H, W, C) with `mean` and `std`."""
    return np.asarray(images.normalize(image_BHWC, self.mean, self.std))

  def __call__(self, picture: Any) -> Prepared:
    """Prepares a picture for `model.apply(variables, image)`."""
    image_HWC = decoded(picture, self.channels)
    original_size = np.array(image_HWC.shape[:2], np.int32)
    return Prepared(self.normalized(self.sized(image_HWC)[None])[0], original_size)

  def label_map(
    self,
    outputs: Mapping[str, Any],
    image_size: Sequence[int],
    original_size: Sequence[int],
  ) -> np.ndarray:
    """Returns the most likely class of each pixel of a picture: int32 (H, W).

    `outputs` are the model's for a batch with only that picture. Logits are resized to
    the image, and then to the picture, as in mmsegmentation.
    """
    if len(outputs['logits']) != 1:
      raise UserError(
        f'label_map() takes the outputs for one picture, not for'
        f' {len(outputs["logits"])}'
      )
    sizes = tuple(image_size), tuple(map(int, original_size))
    return np.asarray(_label_map(outputs['logits'], *sizes))[0]

  def with_size(self, size: int | Sequence[int]) -> 'SegmentationPreprocessing':
    """Returns preprocessing for another shorter side, or for a height and width."""
    if not isinstance(size, int):
      return dataclasses.replace(self, size=tuple(size), shortest=None, longest=None)
    longest = 4 * size
    if self.shortest is not None:
      longest = round(self.longest * size / self.shortest)
    return dataclasses.replace(self, shortest=size, longest=longest, size=None)

  def replaced(self, nodes: Sequence[mlc.ConfigDict]) -> list[mlc.ConfigDict]:
    """Returns recorded transforms of a config if they resize as the weights expect."""
    own = self.shortest, self.longest
    views = [node for node in nodes if spec.symbol(node) is transforms.Views]
    told = {(node['shortest'], node['longest']) for node in views}
    if told == {own} or (not told and own == (None, None) and self.size is None):
      return list(nodes)
    raise UserError(
      f'the weights expect images with {self}, but batches of the config have other'
      " sizes: --preprocessing=config keeps the config's"
    )

  def __str__(self) -> str:
    how = 'of their own size'
    if self.size is not None:
      how = f'{shape_text(self.size)}, whatever the aspect ratio'
    if self.shortest is not None:
      how = f'shorter side {self.shortest}, longer at most {self.longest}'
      if self.multiple > 1:
        how += f', rounded to multiples of {self.multiple}'
    return f'{how}; {self.normalization}'


@functools.partial(jax.jit, static_argnums=(1, 2))
def _label_map(
  logits_BhwC: jax.Array, image_size: tuple[int, int], original_size: tuple[int, int]
) -> jax.Array:
  image_B2, original_B2 = (jnp.array([size]) for size in (image_size, original_size))
  part = semantic_segmentation.to_picture(
    logits_BhwC, image_size, image_B2, original_B2, original_size, mirrored=False
  )
  return label_maps.best_classes([part])


def of_run(
  run: loading.LoadedRun, image_size: tuple[int, int] | None = None
) -> SegmentationPreprocessing:
  """Returns the preprocessing that a segmentation run uses in evaluation.

  `image_size` is ignored: images for segmentation have sizes of their own.
  """
  node = loading.encoded_images(run.config)
  decode, *rest = [spec.build(n, 'transforms') for n in node['transforms']]
  sized = {}
  for step in rest:
    if isinstance(step, transforms.Views):
      sized = dict(shortest=step.shortest, longest=step.longest, multiple=step.multiple)
  mean, std = normalization(run.network, decode.channels)
  return SegmentationPreprocessing(
    **sized,
    mean=mean,
    std=std,
    label_names=_names(run),
    source=f'{run.workdir}, step {int(run.state.step):,}',
  )


def _names(run: loading.LoadedRun) -> tuple[str, ...]:
  """Returns the class names that an evaluator of the config has; empty if none has."""
  for _, node in spec.calls(run.config.get('evals', {})):
    if spec.symbol(node) is mean_iou.MeanIoU and spec.held(node, 'names'):
      return tuple(node['names'])
  return ()
