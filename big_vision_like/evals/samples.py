"""Evaluation of generated images, of which there are as many as a protocol needs.

Axes: B batch, H W image, C channels, N samples.
"""

import abc
import dataclasses
import functools
import math
from collections.abc import Iterator
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh

from big_vision_like.errors import UserError
from big_vision_like.evals import evaluator
from big_vision_like.evals.evaluator import Arrays, Predict
from big_vision_like.ops import sharding
from big_vision_like.viz import generation


@dataclasses.dataclass(kw_only=True)
class Samples(evaluator.Evaluator):
  """An evaluator of `samples` generated images.

  The prediction draws one image for each row of a batch; of `data`, it gets the first
  batch again and again, with another key each time. Keys are equal in every evaluation.
  The first `pictures` samples are shown.
  """

  needs = ('image',)
  tiny: ClassVar[dict[str, Any]] = dict(samples=16)

  predict: str = 'generate'
  samples: int = 50_000
  pictures: int = 32

  def __post_init__(self) -> None:
    if self.samples < 2:
      raise UserError(f'samples={self.samples}: at least 2 are needed')

  @abc.abstractmethod
  def measure(self, outputs: Arrays, variables: Any) -> Arrays:
    """Returns measurements of a batch of generated images, one row for each.

    `variables` are those that `drawn` was called with.
    """

  def shown(self, outputs: Arrays) -> Arrays:
    """Returns the arrays to draw pictures from: `image` uint8 (B, H, W, C)."""
    return {'image': to_uint8(outputs['image'])}

  def drawn(
    self, predict: Predict, state: Any, mesh: Mesh | None = None, variables: Any = None
  ) -> Iterator[tuple[Arrays, Arrays]]:
    """Yields the results of `measure` for batches of samples, and of `shown`.

    `shown` has the first `pictures` rows of the first batch; later it is empty.
    """
    batch = next(iter(evaluator.batches(self.data, mesh)))
    program, left = self._sampler(predict, mesh), self.samples
    for number in range(math.ceil(self.samples / self.data.batch_size)):
      found = program(state, variables, batch, np.uint32(number))
      values, shown = jax.device_get(found if number == 0 else (found[0], {}))
      yield {name: x_B[:left] for name, x_B in values.items()}, shown
      left -= self.data.batch_size

  def sheet(self, shown: Arrays) -> dict[str, np.ndarray]:
    """Returns a sheet of samples as a picture by name; empty without samples."""
    images_NHWC = shown['image'][: self.samples]
    return {'samples': generation.grid(images_NHWC)[None]} if len(images_NHWC) else {}

  def _sampler(self, predict: Predict, mesh: Mesh | None) -> Any:
    """Returns the compiled program of `drawn`; reuses it for equal arguments."""
    if getattr(self, '_sampler_for', None) != (predict, mesh):
      self._sampler_for = predict, mesh
      step = functools.partial(_sampled, self, predict, mesh)
      out = None if mesh is None else sharding.replicated(mesh)
      self._sampler_program = jax.jit(step, out_shardings=out)
    return self._sampler_program


def _sampled(
  own: Samples,
  predict: Predict,
  mesh: Mesh | None,
  state: Any,
  variables: Any,
  batch: Arrays,
  number: jax.Array,
) -> tuple[Arrays, Arrays]:
  with sharding.on_mesh(mesh):
    outputs = predict(state, batch, jax.random.fold_in(jax.random.key(0), number))
    if 'image' not in outputs:
      raise UserError(
        f'predict={own.predict!r} returns no `image`: name a prediction of the task'
        ' that generates images'
      )
    shown = {k: x[: own.pictures] for k, x in own.shown(outputs).items()}
    return own.measure(outputs, variables), shown


def to_uint8(image_BHWC: jax.Array) -> jax.Array:
  """Returns images in [-1, 1] as uint8 is stored, as StyleGAN's metrics see them.

  Each value stands for an interval of equal length; values outside are clipped. uint8
  is returned unchanged.
  """
  if image_BHWC.dtype == jnp.uint8:
    return image_BHWC
  return jnp.clip(image_BHWC * 127.5 + 128.0, 0.0, 255.0).astype(jnp.uint8)


def content(image_BHWC: jax.Array, ratio: float) -> jax.Array:
  """Returns the rows of square images that show content of height / width `ratio`.

  They are those of dorarad/gansformer's `crop_tensor`, with one row of the padding.
  """
  if ratio == 1.0:
    return image_BHWC
  width = image_BHWC.shape[2]
  start = math.floor((1 - ratio) * width / 2)
  return image_BHWC[:, start : math.ceil((1 + ratio) * width / 2) + 1]
