"""The interface of networks whose features compare generated with real images."""

import abc
from typing import Any

import jax

from big_vision_like.data.sources.base import Identified
from big_vision_like.errors import Checked


class FeatureNetwork(Identified, Checked):
  """A trained network that turns uint8 images (B, H, W, C) into features.

  It resizes and normalizes images itself. `variables` are its weights, read when they
  are first needed; `fingerprint` identifies them. `run.features` has implementations.
  """

  @property
  @abc.abstractmethod
  def variables(self) -> Any:
    """The weights, a pytree of arrays."""

  @abc.abstractmethod
  def outputs(self, variables: Any, image_BHWC: jax.Array) -> dict[str, jax.Array]:
    """Returns `features` (B, D), and `logits` (B, classes) if the network has classes.

    It is jitted, and `variables` are those of the network on the devices.
    """
