"""Retrieval of images by captions, and of captions by images.

Axes: B captions of a batch, N all captions, I images, K images of a chunk, R regions, F
features.
"""

import dataclasses
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh

from big_vision_like.data.input import pipeline
from big_vision_like.errors import UserError, plural
from big_vision_like.evals import evaluator
from big_vision_like.evals.evaluator import Arrays, Predict, Results
from big_vision_like.ops import sharding

TOP = (1, 5, 10)
IMAGE = ('regions', 'locations', 'region_mask')


@dataclasses.dataclass(kw_only=True)
class Retrieval(evaluator.Evaluator):
  """Recall among the first 1, 5 and 10, both ways, when all pairs are scored.

  `r1`, `r5` and `r10` are the shares of captions whose image is among the first images;
  `captions_r1` and so on are the shares of images with at least one of their captions
  among the first captions. An item that has the same score as a wrong one is ranked
  after it, so equal scores never help: a model that gives all pairs one score finds
  nothing.

  Batches of `data` have captions and `image_number` (B,), the index of their image in
  `images`. The prediction has `score` (B,) for pairs. `chunk` images are scored at a
  time with each batch of captions.
  """

  needs = ('image_number',)
  tiny = dict(chunk=8)

  images: pipeline.EvalInput
  chunk: int = 50
  predict: str = 'match'

  def reports(self) -> Mapping[str, str]:
    return {r'(captions_)?r(1|5|10)': 'max'}

  def run(self, predict: Predict, state: Any, mesh: Mesh | None = None) -> Results:
    scores_NI, image_N = self.scores(predict, state, mesh)
    return Results(recalls(scores_NI, image_N))

  def scores(
    self, predict: Predict, state: Any, mesh: Mesh | None = None
  ) -> tuple[np.ndarray, np.ndarray]:
    """Returns the scores of all pairs (N, I), and the image of each caption (N,)."""
    arrays, count = self.images_of()
    chunk = min(self.chunk, count)
    # Chunks are filled with the first image; its scores there are not used.
    places = np.pad(np.arange(count), (0, -count % chunk)).reshape(-1, chunk)
    chunks = {name: values[places] for name, values in arrays.items()}
    # Sent to the devices once, not with every batch of captions.
    place = None if mesh is None else sharding.replicated(mesh)
    chunks = jax.device_put(chunks, place)
    if getattr(self, '_scored_with', None) is not predict:
      # The same function each time, so that it is compiled once.
      self._scored_with, self._scored = predict, _by_chunks(predict)
    found = self.joined(_measured, self._scored, (state, chunks), mesh).values
    image_N = found['image_number']
    if image_N.min() < 0 or image_N.max() >= count:
      raise UserError(
        f'{self.data.source} has a caption of the image {image_N.max()}, but there are'
        f' {plural(count, "image")} to retrieve'
      )
    scores_NI = found['scores'][:, :count]
    if not np.isfinite(scores_NI).all():
      raise UserError('some scores of pairs are not finite numbers')
    return scores_NI, image_N

  def images_of(self) -> tuple[dict[str, np.ndarray], int]:
    """Returns the arrays of all images (I, ...), and the number of images."""
    index, real = self.images.order
    batches = list(self.images.epoch())
    order = np.argsort(np.where(real, index, len(index)), kind='stable')
    count = int(real.sum())
    arrays = {
      name: np.concatenate([batch[name] for batch in batches])[order[:count]]
      for name in IMAGE
    }
    return arrays, count


def _by_chunks(predict: Predict) -> Predict:
  """Returns a prediction of `scores` (B, I) of captions and images in chunks."""

  def scored(state: Any, batch: Arrays, key: jax.Array) -> Arrays:
    state, images = state
    texts = {name: x for name, x in batch.items() if name not in IMAGE}
    count = len(batch['tokens'])

    def of_chunk(chunk: Arrays) -> jax.Array:
      size = len(chunk['regions'])
      pairs = {name: jnp.repeat(x, size, axis=0) for name, x in texts.items()}
      for name, values in chunk.items():
        pairs[name] = jnp.concatenate([values] * count)
      return predict(state, pairs, key)['score'].reshape(count, size)

    scores_CBK = jax.lax.map(of_chunk, images)
    return {'scores': scores_CBK.swapaxes(0, 1).reshape(count, -1)}

  return scored


def _measured(outputs: Arrays, batch: Arrays) -> Arrays:
  return {'scores': outputs['scores'], 'image_number': batch['image_number']}


def recalls(scores_NI: np.ndarray, image_N: np.ndarray) -> dict[str, float]:
  """Returns recalls both ways from the scores of captions (N) and images (I).

  `image_N` has the image of each caption. Images without captions count as wrong
  candidates only.
  """
  own_N = scores_NI[np.arange(len(image_N)), image_N]
  # The number of candidates before the right one, those with equal scores included.
  before_N = (scores_NI >= own_N[:, None]).sum(axis=1) - 1
  found = {f'r{top}': float((before_N < top).mean()) for top in TOP}
  before_I = []
  for image in np.unique(image_N):
    own = image_N == image
    others_N, best = scores_NI[~own, image], scores_NI[own, image].max()
    before_I.append((others_N >= best).sum())
  for top in TOP:
    found[f'captions_r{top}'] = float((np.array(before_I) < top).mean())
  return found
