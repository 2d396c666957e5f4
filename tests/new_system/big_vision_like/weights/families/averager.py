"""Published Averagers (made up)."""

from collections.abc import Mapping
from functools import partial
from typing import Any

import numpy as np

from big_vision_like.inference import hub_json
from big_vision_like.inference.classes import Preprocessing
from big_vision_like.models import averager
from big_vision_like.weights import family, tree

NAMES = {
  'stem.weight': 'embed/kernel',
  'stem.bias': 'embed/bias',
  'fc.weight': 'head/kernel',
  'fc.bias': 'head/bias',
}


def from_somebody(arrays: Mapping[str, np.ndarray], source: str = '') -> tree.Tree:
  """Returns our parameters from somebody's state dict."""
  del source
  return tree.unflatten({ours: arrays[name].T for name, ours in NAMES.items()})


def to_somebody(params: tree.Tree) -> dict[str, np.ndarray]:
  """Returns somebody's state dict from our parameters."""
  flat = tree.flatten(params)
  return {name: np.ascontiguousarray(flat[ours].T) for name, ours in NAMES.items()}


def describe(variables: tree.Tree, source: str) -> dict[str, Any]:
  """Returns the arguments of `Averager`, inferred from the shapes of its parameters."""
  width, num_classes = variables['params']['head']['kernel'].shape
  return dict(width=width, num_classes=num_classes)


def as_published(
  name: str, size: tuple[int, int] | None, channels: int
) -> Preprocessing:
  """Returns somebody's preprocessing of images."""
  return Preprocessing((16, 16), mean=(0.5,) * channels, std=(0.5,) * channels)


FAMILY = family.Family(
  name='averager',
  model=averager.Averager,
  describe=describe,
  images=partial(hub_json.classifier_images, published=as_published),
  stem=('embed',),
  sources=(
    family.Source(
      name='somebody Averager',
      suffixes=family.TORCH,
      differences=partial(tree.differences, known=NAMES.keys()),
      read=family.of_params(from_somebody),
      writes={'published': family.to_params(to_somebody)},
      config=family.no_config,
    ),
  ),
)
