"""Images from a trained generator: by latents, between them, and with parts swapped.

Axes: B images, K components (the global one last, if there is one), W width of a style,
H W image, C channels, k local components, h w grid of attention, T steps.
"""

import dataclasses
import functools
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from big_vision_like.errors import UserError
from big_vision_like.tasks.task import State, Task

METHODS = ('styles', 'truncated', 'for_layers', 'synthesize')


def fits(task: Task) -> bool:
  """Returns whether a task's generator has styles of components to change."""
  network = task.networks().get('generator')
  return network is not None and has_styles(network.module)


def has_styles(module: nn.Module) -> bool:
  """Returns whether a module is a generator with styles of components."""
  return all(hasattr(module, name) for name in METHODS)


def of_run(task: Task, state: State) -> 'Synthesis':
  """Returns the generator of a run, with its averaged weights.

  Raises a `UserError` if the task has no generator with styles of components.
  """
  if not fits(task):
    raise UserError(
      f'{type(task).__name__} has no generator with styles, which would be interpolated'
      ' and swapped'
    )
  network = task.networks()['generator']
  return Synthesis(network.module, network.variables(state))


@dataclasses.dataclass(frozen=True)
class Synthesis:
  """A generator, its variables (those of predictions), and constant noise."""

  module: nn.Module
  variables: Any

  @functools.cached_property
  def _styles(self) -> Any:
    return jax.jit(functools.partial(self.module.apply, method='styles'))

  @functools.cached_property
  def _images(self) -> Any:
    def made(variables: Any, w_BKW: jax.Array, psi: jax.Array) -> dict[str, jax.Array]:
      module = self.module.bind(variables)
      w_BKLW = module.for_layers(module.truncated(w_BKW, psi))
      outputs = module.synthesize(w_BKLW, noise='constant')
      found = {'image': jnp.clip(outputs['image'], -1.0, 1.0)}
      if 'attention' in outputs:
        found['attention'] = outputs['attention']
      return found

    return jax.jit(made)

  def styles(self, images: int, seed: int = 0) -> np.ndarray:
    """Returns the styles (B, K, W) of random latents; image i depends on (seed, i)."""
    shape = self.module.num_latents, self.module.latent_width
    key = jax.random.key(seed)
    latents = [
      jax.random.normal(jax.random.fold_in(key, i), shape) for i in range(images)
    ]
    return np.asarray(self._styles(self.variables, jnp.stack(latents)))

  def images(self, w_BKW: np.ndarray, psi: float = 1.0) -> dict[str, np.ndarray]:
    """Returns `image` (B, H, W, C) in [-1, 1], and `attention` (B, k, h, w) if any.

    `psi` moves styles towards their average, which 0 reaches.
    """
    return jax.device_get(self._images(self.variables, w_BKW, jnp.float32(psi)))

  def by_truncation(self, w_BKW: np.ndarray, values: tuple[float, ...]) -> np.ndarray:
    """Returns the images (P, B, H, W, C) of each value of psi."""
    return np.stack([self.images(w_BKW, psi)['image'] for psi in values])

  def interpolated(self, w_BKW: np.ndarray, steps: int) -> np.ndarray:
    """Returns a loop through images (T, H, W, C), `steps` from each to the next."""
    found = []
    for own_KW, next_KW in zip(w_BKW, np.roll(w_BKW, -1, axis=0), strict=True):
      share_T11 = np.arange(steps, dtype=np.float32)[:, None, None] / steps
      found.append(self.images(own_KW + share_T11 * (next_KW - own_KW))['image'])
    return np.concatenate(found)

  def swapped(self, own_KW: np.ndarray, other_KW: np.ndarray) -> np.ndarray:
    """Returns an image with each component of another, one after the other.

    They are (K, H, W, C); image i has the style of the other's component i.
    """
    w_KKW = np.stack([own_KW] * len(own_KW))
    for number, style_W in enumerate(other_KW):
      w_KKW[number, number] = style_W
    return self.images(w_KKW)['image']
