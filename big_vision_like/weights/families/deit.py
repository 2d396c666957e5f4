"""Published DeiTs with a distillation token, arXiv:2012.12877.

Those without one are ViTs, in files and here.
"""

from functools import partial
from typing import Any

from big_vision_like.inference import hub_json
from big_vision_like.models import deit
from big_vision_like.weights import (
  deit_names,
  family,
  timm_deit,
  transformers_deit,
  tree,
)
from big_vision_like.weights.beside import Beside
from big_vision_like.weights.families import vit


def describe(variables: tree.Tree, source: str) -> dict[str, Any]:
  """Returns the arguments of our `DeiT`, by the shapes of its parameters."""
  flat = tree.flatten(variables['params'])
  deit_names.check_shapes(flat, source)
  exact = dict(activation='gelu_exact', distilled='dist' in flat)
  return vit.describe(variables, source) | exact


def from_timm(arrays: tree.Arrays, beside: Beside) -> family.Read:
  """Reads facebookresearch's and timm's, with what a config.json says of them."""
  heads, told, assumed = vit.told_of_timm('timm DeiT', arrays, beside)
  without = vit.no_embed_class(arrays, beside)
  params = timm_deit.from_distilled(arrays, heads, without, str(beside.path))
  return family.Read({'params': params}, told, assumed)


def from_transformers(arrays: tree.Arrays, beside: Beside) -> family.Read:
  """Reads transformers', with what config.json says of heads, GELU and epsilon."""
  heads, told, assumed = vit.told_of_transformers('transformers DeiT', arrays, beside)
  params = transformers_deit.from_transformers(arrays, heads, str(beside.path))
  return family.Read({'params': params}, told, assumed)


FAMILY = family.Family(
  name='deit',
  model=deit.DeiT,
  sources=(
    family.Source(
      name='facebookresearch or timm DeiT',
      suffixes=family.TORCH,
      differences=timm_deit.differences_distilled,
      read=from_timm,
      writes={'timm': family.to_params(timm_deit.to_timm)},
      config=hub_json.timm_folder(
        lambda w, size: timm_deit.config(
          w.architecture, w.num_classes, size, w.channels
        )
      ),
      fit=vit.with_positions,
    ),
    family.Source(
      name='transformers DeiT',
      suffixes=family.TORCH,
      differences=transformers_deit.differences,
      read=from_transformers,
      writes={'transformers': family.to_params(transformers_deit.to_transformers)},
      config=hub_json.transformers_folder(
        lambda w, size: transformers_deit.config(
          w.architecture, w.num_classes, size, w.channels
        )
      ),
      fit=vit.with_positions,
    ),
  ),
  describe=describe,
  untold=vit.FAMILY.untold,
  choices=vit.choices,
  images=partial(hub_json.classifier_images, published=vit.as_deit),
  stem=vit.FAMILY.stem,
)
