"""Published DeiT IIIs, arXiv:2204.07118."""

from functools import partial
from typing import Any

from big_vision_like.errors import UserError
from big_vision_like.inference import hub_json
from big_vision_like.models import deit
from big_vision_like.weights import deit_names, family, timm_deit, timm_vit, tree
from big_vision_like.weights.beside import Beside, told_sizes
from big_vision_like.weights.families import vit


def describe(variables: tree.Tree, source: str) -> dict[str, Any]:
  """Returns the arguments of our `DeiT3`, from the shapes of its parameters."""
  flat = tree.flatten(variables['params'])
  deit_names.check_shapes(flat, source)
  return vit.describe(variables, source) | dict(activation='gelu_exact')


def from_timm(arrays: tree.Arrays, beside: Beside) -> family.Read:
  """Reads files of facebookresearch and timm, with the facts in a config.json."""
  arrays = timm_deit.as_timm(arrays)
  heads, told, assumed = vit.told_of_timm('timm DeiT III', arrays, beside)
  counted = timm_vit.positions_without_class(arrays, told_sizes(beside.metadata))
  told_so = beside.config.get('model_args', {}).get('no_embed_class')
  if told_so is False or counted is False:
    raise UserError(
      f'{beside.path}: its class token has a position, unlike in a DeiT III: no other'
      ' ViTs with layer scale are read'
    )
  params = timm_deit.from_scaled(arrays, heads, str(beside.path))
  return family.Read({'params': params}, told, assumed)


FAMILY = family.Family(
  name='deit3',
  model=deit.DeiT3,
  sources=(
    family.Source(
      name='facebookresearch or timm DeiT III',
      suffixes=family.TORCH,
      differences=timm_deit.differences_scaled,
      read=from_timm,
      writes={'timm': family.to_params(timm_deit.to_timm)},
      config=hub_json.timm_folder(
        lambda w, size: timm_deit.scaled_config(
          w.architecture, w.num_classes, size, w.channels
        )
      ),
      fit=vit.with_positions,
    ),
  ),
  describe=describe,
  untold=vit.FAMILY.untold,
  choices=vit.choices,
  images=partial(hub_json.classifier_images, published=partial(vit.as_deit, share=1.0)),
  stem=vit.FAMILY.stem,
  features=vit.FAMILY.features,
)
