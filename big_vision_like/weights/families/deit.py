"""Published DeiTs with a distillation token, arXiv:2012.12877.

DeiTs without one are ViTs, in files and in this package.
"""

import dataclasses
from functools import partial
from typing import Any

from big_vision_like.inference import hub_json
from big_vision_like.models import deit
from big_vision_like.weights import (
  deit_names,
  family,
  timm_deit,
  timm_vit,
  transformers_deit,
  transformers_vit,
  tree,
)
from big_vision_like.weights.beside import Beside
from big_vision_like.weights.families import vit
from big_vision_like.weights.published import Published


def describe(variables: tree.Tree, source: str) -> dict[str, Any]:
  """Returns the arguments of our `DeiT`, from the shapes of its parameters."""
  flat = tree.flatten(variables['params'])
  deit_names.check_shapes(flat, source)
  exact = dict(activation='gelu_exact', distilled='dist' in flat)
  return vit.describe(variables, source) | exact


def from_timm(arrays: tree.Arrays, beside: Beside) -> family.Read:
  """Reads files of facebookresearch and timm, with the facts in a config.json."""
  heads, told, assumed = vit.told_of_timm('timm DeiT', arrays, beside)
  without = vit.no_embed_class(arrays, beside)
  params = timm_deit.from_distilled(arrays, heads, without, str(beside.path))
  return family.Read({'params': params}, told, assumed)


def from_transformers(arrays: tree.Arrays, beside: Beside) -> family.Read:
  """Reads files of transformers, with heads, GELU and epsilon from config.json."""
  heads, told, assumed = vit.told_of_transformers('transformers DeiT', arrays, beside)
  params = transformers_deit.from_transformers(arrays, heads, str(beside.path))
  return family.Read({'params': params}, told, assumed)


def fit(
  weights: Published, images: Any, asked: Any, grid: Any
) -> tuple[Published, Any]:
  """Returns weights and images as they are written: a ViT's without the token."""
  if not weights.architecture['distilled']:
    rest = {k: v for k, v in weights.architecture.items() if k != 'distilled'}
    weights = dataclasses.replace(weights, family=vit.FAMILY, architecture=rest)
  return vit.with_positions(weights, images, asked, grid)


def to_timm(weights: Published) -> family.Arrays:
  """Returns timm's arrays for weights that `fit` returned."""
  module = timm_deit if 'distilled' in weights.architecture else timm_vit
  return module.to_timm(weights.params)


def to_transformers(weights: Published) -> family.Arrays:
  """Returns transformers' arrays for weights that `fit` returned."""
  distilled = 'distilled' in weights.architecture
  module = transformers_deit if distilled else transformers_vit
  return module.to_transformers(weights.params)


def timm_config(weights: Published, size: Any) -> dict[str, Any]:
  """Returns timm's config.json for weights that `fit` returned."""
  distilled = 'distilled' in weights.architecture
  config = timm_deit.distilled_config if distilled else timm_vit.config
  return config(weights.architecture, weights.num_classes, size, weights.channels)


def transformers_config(weights: Published, size: Any) -> dict[str, Any]:
  """Returns transformers' config.json for weights that `fit` returned."""
  distilled = 'distilled' in weights.architecture
  module = transformers_deit if distilled else transformers_vit
  return module.config(
    weights.architecture, weights.num_classes, size, weights.channels
  )


FAMILY = family.Family(
  name='deit',
  model=deit.DeiT,
  sources=(
    family.Source(
      name='facebookresearch or timm DeiT',
      suffixes=family.TORCH,
      differences=timm_deit.differences_distilled,
      read=from_timm,
      writes={'timm': to_timm},
      config=hub_json.timm_folder(timm_config),
      fit=fit,
    ),
    family.Source(
      name='transformers DeiT',
      suffixes=family.TORCH,
      differences=transformers_deit.differences,
      read=from_transformers,
      writes={'transformers': to_transformers},
      config=hub_json.transformers_folder(transformers_config),
      fit=fit,
    ),
  ),
  describe=describe,
  untold=vit.FAMILY.untold,
  choices=vit.choices,
  images=partial(hub_json.classifier_images, published=vit.as_deit),
  stem=vit.FAMILY.stem,
)
