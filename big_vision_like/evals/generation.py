"""Distances of generated images from the data, in the features of a network.

Axes: B batch, N real images, M generated images, D features, C classes.
"""

import contextlib
import dataclasses
import sys
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import jax
import numpy as np
from jax.experimental import multihost_utils
from jax.sharding import Mesh

from big_vision_like.data.input import cache
from big_vision_like.data.sources.base import digest
from big_vision_like.evals import features, samples
from big_vision_like.evals.evaluator import Arrays, Predict, Results
from big_vision_like.ops import distances, sharding
from big_vision_like.ops.distances import Moments


@dataclasses.dataclass(kw_only=True)
class Featured(samples.Samples):
  """An evaluator of generated and real images by the features of `network`.

  Real images are all of `data`. With a `ratio` below 1, only the rows with content are
  compared (`samples.content`). Moments or features of real images are stored in the
  cache (`data.input.cache`) for the network, the source and its transforms.
  """

  network: features.FeatureNetwork
  ratio: float = 1.0

  def measure(self, outputs: Arrays, variables: Any) -> Arrays:
    return self.seen(outputs['image'], variables)

  def seen(self, image: jax.Array, variables: Any) -> Arrays:
    """Returns the network's outputs for images, without padding."""
    shown = samples.content(samples.to_uint8(image), self.ratio)
    return self.network.outputs(variables, shown)

  def on_devices(self, mesh: Mesh | None) -> Any:
    """Returns the network's variables on all devices of the mesh."""
    if getattr(self, '_on', None) != [mesh]:
      self._on = [mesh]
      place = None if mesh is None else sharding.replicated(mesh)
      self._variables = jax.device_put(self.network.variables, place)
    return self._variables

  def real_features(self, variables: Any, mesh: Mesh | None) -> Iterator[np.ndarray]:
    """Yields the features (..., D) of all real images, batch by batch."""

    def measure(outputs: Arrays, batch: Arrays) -> Arrays:
      del batch
      return {'features': outputs['features']}

    def predict(variables: Any, batch: Arrays, key: jax.Array) -> Arrays:
      del key
      return self.seen(batch['image'], variables)

    for part in self.rows(measure, predict, variables, mesh):
      yield part.values['features']

  def kept(
    self, kind: str, make: Callable[[], dict[str, np.ndarray]]
  ) -> dict[str, np.ndarray]:
    """Returns the arrays that `make` computes from real images, or their cached copy.

    All processes compute together unless the cache of each has the same arrays.
    """
    if kind not in (known := self.__dict__.setdefault('_kept', {})):
      data = digest(self.data.source, self.data.transforms)
      facts = [kind, data, self.network.fingerprint(), self.ratio]
      file = cache.file('generation', facts)
      found = cache.read(file)
      if not alike(found):
        found = make()
        with contextlib.suppress(OSError):  # others may have computed it elsewhere
          file.unlink(missing_ok=True)
        cache.arrays(file, lambda: found)
      known[kind] = found
    return known[kind]


def alike(found: Mapping[str, np.ndarray] | None) -> bool:
  """Returns whether every process has found the same arrays, bit by bit."""
  if jax.process_count() == 1:
    return found is not None
  here = digest(None if found is None else dict(found))
  every = multihost_utils.process_allgather(np.frombuffer(here.encode(), np.uint8))
  return found is not None and bool((every == every[:1]).all())


@dataclasses.dataclass(kw_only=True)
class Fid(Featured):
  """Frechet distance from the data, and the Inception Score (arXiv:1706.08500).

  `fid` is the distance of Gaussians fitted to the features of `samples` generated and
  of all real images; with `run.features.Inception` and 50,000 samples it is FID-50k. If
  the network has classes, there are also `inception_score` and its deviation over
  `splits` parts of the samples (arXiv:1606.03498), and with `confident` the share of
  samples whose most probable class has a higher probability.

  The distance is biased upwards. With fewer samples or real images than features, a
  warning tells how far perfect samples would be, and so does the scalar `fid_perfect`.
  """

  splits: int = 10
  confident: float | None = None

  def reports(self) -> Mapping[str, str]:
    return {'fid': 'min', 'inception_score': 'max', 'confident': 'max'}

  def run(self, predict: Predict, state: Any, mesh: Mesh | None = None) -> Results:
    variables = self.on_devices(mesh)
    real = self.real(variables, mesh)
    parts, shown, logits = [], {}, []
    for values, own in self.drawn(predict, state, mesh, variables):
      parts.append(values['features'])
      logits += [values['logits']] if 'logits' in values else []
      shown = shown or own
    generated = distances.moments(parts)
    scalars = {'fid': distances.frechet(real, generated)}
    texts = self.bias(real, generated, scalars)
    if logits:
      scalars |= self.by_class(np.concatenate(logits))
    return Results(scalars, self.sheet(shown), texts)

  def real(self, variables: Any, mesh: Mesh | None) -> Moments:
    """Returns the moments of real images."""

    def make() -> dict[str, np.ndarray]:
      found = distances.moments(self.real_features(variables, mesh))
      return {name: np.asarray(x) for name, x in found._asdict().items()}

    return Moments(**self.kept('moments', make))

  def by_class(self, logits_MC: np.ndarray) -> dict[str, float]:
    """Returns the scalars that depend on class probabilities."""
    logits_MC = logits_MC.astype(np.float64)
    logits_MC -= logits_MC.max(axis=1, keepdims=True)
    share_MC = np.exp(logits_MC)
    share_MC /= share_MC.sum(axis=1, keepdims=True)
    mean, deviation = distances.inception_score(share_MC, self.splits)
    found = {'inception_score': mean, 'inception_score_std': deviation}
    if self.confident is not None:
      found['confident'] = float((share_MC.max(axis=1) > self.confident).mean())
    return found

  def bias(
    self, real: Moments, generated: Moments, scalars: dict[str, float]
  ) -> dict[str, list[str]]:
    """Adds `fid_perfect` and returns a warning if there are too few images."""
    width, fewest = len(real.mean_D), min(int(real.count), generated.count)
    if fewest > width:
      return {}
    if not hasattr(self, '_perfect'):
      self._perfect = distances.frechet_of_perfect(real, generated.count)
      self._warning = (
        f'{generated.count:,} samples and {int(real.count):,} real images have fewer'
        f' examples than features ({width:,}): even perfect samples would have a FID of'
        f' about {self._perfect:.3g}; take more, or a network with fewer features'
      )
      if jax.process_index() == 0:
        print(f'warning: {self._warning}', file=sys.stderr, flush=True)
    scalars['fid_perfect'] = self._perfect
    return {'too few samples': [self._warning]}


@dataclasses.dataclass(kw_only=True)
class PrecisionRecall(Featured):
  """Improved precision and recall of generated images (arXiv:1904.06991).

  Balls around features reach to the `neighbours`-th nearest other one. `precision` is
  the share of samples within the balls of real images, `recall` that of real images
  within the balls of samples. Of real images, the first `most` count. Published values
  are for the second fully connected layer of VGG16 (`run.features.Vgg16`) and features
  rounded to 16 bits; here they have 32.
  """

  neighbours: int = 3
  most: int = 50_000

  def reports(self) -> Mapping[str, str]:
    return {'precision': 'max', 'recall': 'max'}

  def run(self, predict: Predict, state: Any, mesh: Mesh | None = None) -> Results:
    variables = self.on_devices(mesh)

    def make() -> dict[str, np.ndarray]:
      parts, count = [], 0
      for part_ND in self.real_features(variables, mesh):
        parts.append(part_ND)
        count += len(part_ND)
        if count >= self.most:
          break
      return {'features': np.concatenate(parts)[: self.most]}

    real_ND = self.kept(f'features {self.most}', make)['features']
    drawn = self.drawn(predict, state, mesh, variables)
    parts = [values['features'] for values, _ in drawn]
    found = distances.precision_recall(real_ND, np.concatenate(parts), self.neighbours)
    return Results(dict(zip(('precision', 'recall'), found, strict=True)))
