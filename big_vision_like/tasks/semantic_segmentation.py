"""Semantic segmentation: the class of each pixel.

Axes: B batch, N images and mirrored images, H W images or label maps, h w logits of the
model, u v a window, C channels, D classes, K L windows along the sides, R S rows and
columns of a window.
"""

import dataclasses
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from big_vision_like.errors import UserError, check_one_of
from big_vision_like.ops import boxes, images, label_maps, precision, resampling
from big_vision_like.ops.label_maps import Scores
from big_vision_like.tasks import task
from big_vision_like.tasks.task import Arrays, Frozen, Loss, State


@dataclasses.dataclass(frozen=True, kw_only=True)
class Segmentation(task.GradientTask):
  """Segmentation by the cross-entropy of pixels; 255 marks pixels without a label.

  Batches hold `image` (B, H, W, C), uint8 or normalized, which is valid in the first
  `size` (B, 2) rows and columns (by default all), and `label_map` (B, H, W). The rest
  of the images is zero after normalization.

  The model returns `logits` (B, h, w, D), which are resized to the label maps, and may
  return `auxiliary_logits`, whose loss has the weight `auxiliary_weight`. `average` is
  over 'valid' pixels, or over 'all' (see `ops.label_maps.cross_entropy`).
  """

  predicts = 'label_maps'

  auxiliary_weight: float = 0.4
  average: str = 'valid'
  mean: float | Sequence[float] = (0.485, 0.456, 0.406)
  std: float | Sequence[float] = (0.229, 0.224, 0.225)

  def __post_init__(self) -> None:
    check_one_of(label_maps.AVERAGES, average=self.average)

  @property
  def images(self) -> images.Normalization:
    return images.Normalization(self.mean, self.std)

  def check(self, batch: dict) -> None:
    check_labels(batch, self.num_classes)

  def model_inputs(self, batch: Arrays) -> tuple[jax.Array, ...]:
    return (self.padded(batch['image'], boxes.valid_size(batch)),)

  def padded(self, image_BHWC: jax.Array, size_B2: jax.Array) -> jax.Array:
    """Returns normalized images that are zero outside of their sizes."""
    image_BHWC = images.normalize(image_BHWC, self.mean, self.std)
    return boxes.only_valid(image_BHWC, size_B2)[0]

  def prepare(self, batch: Arrays, key: jax.Array, frozen: Frozen = None) -> Arrays:
    """Replaces images by what the model sees."""
    (image_BHWC,) = self.model_inputs(batch)
    return batch | {'image': image_BHWC}

  def loss(self, params: Any, mutable: Any, batch: Arrays, key: jax.Array) -> Loss:
    outputs, mutable = self.trained(params, mutable, (batch['image'],), dropout=key)
    label_BHW = batch['label_map']
    losses, scalars = [], {}
    for name, weight in ('', 1.0), ('auxiliary_', self.auxiliary_weight):
      if f'{name}logits' not in outputs:
        continue
      logits_BHWD = at_labels(outputs[f'{name}logits'], label_BHW)
      loss, count = label_maps.cross_entropy(logits_BHWD, label_BHW, self.average)
      losses.append(weight * loss)
      scalars[f'loss_{name or "main_"}'.removesuffix('_')] = loss
      if not name:
        scalars['aAcc'] = label_maps.accuracy(logits_BHWD, label_BHW)
        scalars['weight'] = count
    return sum(losses), (mutable, scalars)

  def predict(
    self,
    state: State,
    batch: Arrays,
    key: jax.Array,
    scales: Sequence[float] = (1.0,),
    flip: bool = False,
    window: int | None = None,
    stride: int | None = None,
  ) -> Arrays:
    """Returns `logits` (B, h, w, D) of the images, and their `found_map` (B, H, W).

    The map has the most likely class of each pixel of the picture of `original_size`
    (B, 2), by default `size`, at the top left of an area of the shape of `truth_map`,
    by default of `image`. Logits are resized to the image, and then to the picture.

    Probabilities are averaged over images of all `scales`: for a scale other than 1,
    batches hold images and sizes with its name, such as `image_0.5` and `size_0.5`.
    They are averaged over mirrored images with `flip`. With `window`, the model sees
    square windows that are `stride` pixels apart, and logits of pixels are averaged
    over windows.
    """
    del key  # nothing is random in evaluation
    shape = batch.get('truth_map', batch['image'][..., 0]).shape[1:]
    original_B2 = batch.get('original_size', boxes.valid_size(batch))

    def apply(image_BHWC: jax.Array) -> jax.Array:
      return self.model.apply(state.variables, image_BHWC)['logits']

    parts = []
    for scale in scales:
      image_BHWC, size_B2 = view(batch, scale)
      image_BHWC = self.padded(image_BHWC, size_B2)
      views = [image_BHWC]
      if flip:
        views.append(mirror(image_BHWC, size_B2[:, 1]))
      # Both go through the model as one batch, next to each other on their device.
      image_NHWC = jnp.stack(views, axis=1).reshape(-1, *image_BHWC.shape[1:])
      if window is None:
        scores = apply(image_NHWC)
      else:
        size_N2 = jnp.repeat(size_B2, len(views), axis=0)
        scores = windowed(apply, image_NHWC, size_N2, window, stride or window)
      scores = scores.reshape(-1, len(views), *scores.shape[1:])
      parts += [
        to_picture(
          scores[:, i],
          image_BHWC.shape[1:3],
          size_B2,
          original_B2,
          shape,
          mirrored=i > 0,
        )
        for i in range(len(views))
      ]
    logits_BhwD = apply(*self.model_inputs(batch))
    return {'logits': logits_BhwD, 'found_map': label_maps.best_classes(parts)}


def check_labels(batch: dict, classes: int) -> None:
  """Raises for the first label map of a host batch that cannot be learned from."""
  if 'label_map' not in batch:
    raise UserError(
      f'batches have no `label_map`, the class of each pixel: they have'
      f' {", ".join(batch)}'
    )
  label_BHW, shape = batch['label_map'], batch['image'].shape[:3]
  if label_BHW.shape != shape:
    raise UserError(
      f'`label_map` is {list(label_BHW.shape)}, but with images'
      f' {list(batch["image"].shape)} it must be {list(shape)}.'
    )
  wrong_BHW = (label_BHW != label_maps.IGNORED) & (
    (label_BHW < 0) | (label_BHW >= classes)
  )
  for i, y, x in np.argwhere(wrong_BHW)[:1]:
    name = next((name for name in ('id', 'image_id') if name in batch), None)
    which = f'row {i}' if name is None else f'the example with id {batch[name][i]}'
    raise UserError(
      f'the label map of {which} has label {label_BHW[i, y, x]} at row {y}, column {x},'
      f' which is out of range: the model has {classes} classes (0 to {classes - 1}),'
      f' and {label_maps.IGNORED} marks pixels without a label; set'
      ' task.model.num_classes to match the data.'
    )


def at_labels(logits_BhwD: jax.Array, label_BHW: jax.Array) -> jax.Array:
  """Returns logits (B, H, W, D), float32, resized to the size of label maps."""
  return resampling.resize(
    precision.at_least_float32(logits_BhwD), label_BHW.shape[1:], 'bilinear'
  )


def view(batch: Arrays, scale: float) -> tuple[jax.Array, jax.Array]:
  """Returns the images of a batch at a scale, and their sizes (B, 2)."""
  if scale == 1:
    return batch['image'], boxes.valid_size(batch)
  names = f'image_{scale:g}', f'size_{scale:g}'
  if names[0] not in batch:
    raise UserError(
      f'batches have no `{names[0]}`, which scales={scale:g} needs: add the scale to'
      ' `scales` of the transforms label_maps.Views and Pad; they have'
      f' {", ".join(batch)}'
    )
  return batch[names[0]], batch[names[1]]


def mirror(image_BHWC: jax.Array, width_B: jax.Array) -> jax.Array:
  """Mirrors the first `width_B` columns of images; the rest must be zero."""
  column_1W = jnp.arange(image_BHWC.shape[2])[None]
  # Columns beyond the width exchange places with each other.
  source_BW = (width_B[:, None] - 1 - column_1W) % image_BHWC.shape[2]
  return jnp.take_along_axis(image_BHWC, source_BW[:, None, :, None], axis=2)


def to_picture(
  scores_BhwD: jax.Array,
  image_size: tuple[int, int],
  size_B2: jax.Array,
  original_B2: jax.Array,
  shape: tuple[int, int],
  mirrored: bool,
) -> Scores:
  """Returns scores with weights from their grid to the picture, through the image.

  The grid covers the padded image. The picture has the size `original_B2`, at the top
  left of an area of the given shape.
  """
  weights = []
  for axis in range(2):
    image_side, side = image_size[axis], shape[axis]
    to_image = resampling.linear_matrix(scores_BhwD.shape[1 + axis], image_side)
    onward = label_maps.linear_weights(
      size_B2[:, axis],
      original_B2[:, axis],
      image_side,
      side,
      mirrored=mirrored and axis == 1,
    )
    weights.append(
      jnp.einsum(
        'BHW,Wv->BHv',
        onward,
        jnp.asarray(to_image, jnp.float32),
        precision=jax.lax.Precision.HIGHEST,
      )
    )
  return Scores(precision.at_least_float32(scores_BhwD), *weights)


def windowed(
  apply: Any, image_BHWC: jax.Array, size_B2: jax.Array, window: int, stride: int
) -> jax.Array:
  """Returns logits (B, H, W, D), means over the windows that see a pixel.

  `apply` maps windows to logits, which are resized to the windows.
  """
  batch, height, width, channels = image_BHWC.shape
  rows, columns = min(window, height), min(window, width)
  top_KB, use_KB = label_maps.window_starts(
    size_B2[:, 0], height, rows, min(stride, rows)
  )
  left_LB, used_LB = label_maps.window_starts(
    size_B2[:, 1], width, columns, min(stride, columns)
  )
  window_BuvC = jax.ShapeDtypeStruct((batch, rows, columns, channels), jnp.float32)
  classes = jax.eval_shape(apply, window_BuvC).shape[-1]

  def add(total: tuple, place: tuple) -> tuple[tuple, None]:
    scores_BHWD, count_BHW1 = total
    top_B, left_B, used_B = place
    rows_BR = top_B[:, None] + jnp.arange(rows)[None]
    columns_BS = left_B[:, None] + jnp.arange(columns)[None]
    which_B11 = jnp.arange(batch)[:, None, None]
    index = which_B11, rows_BR[:, :, None], columns_BS[:, None]
    logits_BuvD = resampling.resize(
      precision.at_least_float32(apply(image_BHWC[index])), (rows, columns), 'bilinear'
    )
    used_B111 = used_B[:, None, None, None].astype(jnp.float32)
    scores_BHWD = scores_BHWD.at[index].add(logits_BuvD * used_B111)
    count_BHW1 = count_BHW1.at[index].add(used_B111)
    return (scores_BHWD, count_BHW1), None

  def pairs(first_KB: jax.Array, second_LB: jax.Array) -> list[jax.Array]:
    """Returns both values for each pair of a row and a column of windows."""
    shape = len(first_KB), len(second_LB), batch
    both = first_KB[:, None], second_LB[None]
    return [jnp.broadcast_to(x, shape).reshape(-1, batch) for x in both]

  use, used = pairs(use_KB, used_LB)
  (scores_BHWD, count_BHW1), _ = jax.lax.scan(
    add,
    (
      jnp.zeros((batch, height, width, classes)),
      jnp.zeros((batch, height, width, 1)),
    ),
    (*pairs(top_KB, left_LB), use & used),
  )
  # No window covers the padding of images.
  return scores_BHWD / jnp.maximum(count_BHW1, 1.0)
