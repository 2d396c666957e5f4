"""Published UPerNets with a Swin, arXiv:2103.14030 section 4.3.

Files are those of SwinTransformer's fork of mmsegmentation and those of transformers.
"""

import dataclasses
import re
from collections.abc import Collection, Mapping
from functools import partial
from typing import Any

from big_vision_like.data.sources import label_map_classes
from big_vision_like.errors import UserError
from big_vision_like.inference import hub_json
from big_vision_like.inference.label_maps import SegmentationPreprocessing
from big_vision_like.inference.preprocessing import IMAGENET_MEAN, IMAGENET_STD
from big_vision_like.models import swin as swin_models
from big_vision_like.models import upernet as models
from big_vision_like.weights import family, published, swin_names, tree
from big_vision_like.weights import upernet as names
from big_vision_like.weights.beside import Beside
from big_vision_like.weights.families import swin

POOL_SCALES = models.UPerNet.pool_scales
# Fields of transformers' config.json, and the values that our UPerNet has.
_FIXED = {
  'auxiliary_num_convs': 1,
  'auxiliary_concat_input': False,
  'auxiliary_in_index': 2,
}


def describe(variables: tree.Tree, source: str) -> dict[str, Any]:
  """Returns the arguments of our `UPerNet`; its backbone's are a nested dict."""
  backbone = swin.describe({'params': variables['params']['backbone']}, source)
  backbone.pop('num_classes')
  found = names.architecture(tree.flatten(variables), backbone, source)
  return found | {'backbone': backbone, 'pool_scales': POOL_SCALES}


def choices(told: Mapping[str, Any]) -> dict[str, Collection[Any]]:
  """Returns the possible values of arguments that shapes do not determine."""
  found = swin.choices(told['backbone'])
  return {f'backbone/{name}': values for name, values in found.items()}


def build(backbone: Mapping[str, Any], **arguments: Any) -> models.UPerNet:
  """Makes the model with its backbone."""
  return models.UPerNet(backbone=swin_models.Swin(**backbone), **arguments)


def check(model: models.UPerNet, source: str) -> None:
  """Raises for a model that no other library can hold."""
  if not isinstance(model.backbone, swin_models.Swin):
    kind = type(model.backbone).__name__
    raise UserError(
      f'{source}: UPerNets with a {kind} are not written, only with Swins'
    )


def images(
  metadata: Mapping[str, Any],
  name: str,
  size: tuple[int, int] | None,
  num_classes: int,
  channels: int = 3,
) -> SegmentationPreprocessing:
  """Returns preprocessing from files, else as published; 150 classes are ADE20K's.

  Names of published files end in the size of training crops, to which evaluation
  resizes the shorter side; it is 512 if the name does not.
  """
  if own := hub_json.written(metadata, SegmentationPreprocessing):
    return hub_json.fitting(own, num_classes, channels)
  if 'preprocessor_config.json' in metadata:
    found = hub_json.segmenter_from_transformers(metadata['preprocessor_config.json'])
  else:
    named = re.search(r'(\d{3})x\1(?!\d)', name)
    side = int(named[1]) if named else 512
    found = SegmentationPreprocessing(
      shortest=side,
      longest=4 * side,
      mean=IMAGENET_MEAN if channels == 3 else (0.5,) * channels,
      std=IMAGENET_STD if channels == 3 else (0.5,) * channels,
      source='as published with Swin',
    )
  labels = hub_json.label_names(metadata.get('config.json', {}))
  if not labels and num_classes == len(label_map_classes.ADE20K.names):
    labels = tuple(label_map_classes.ADE20K.names)
  return hub_json.fitting(
    dataclasses.replace(found, label_names=labels), num_classes, channels
  )


def read(arrays: tree.Arrays, beside: Beside, mmseg: bool = False) -> family.Read:
  """Reads arrays in the names of mmsegmentation or of transformers."""
  layout, of_swin = names.TRANSFORMERS, None
  config = beside.config
  if mmseg:
    layout, of_swin = names.MMSEG, swin_names.MICROSOFT
  for name, value in _FIXED.items():
    if config.get(name, value) != value:
      raise UserError(
        f'{beside.path}: config.json has {name}={config[name]!r}, but our UPerNet has'
        f' {value!r}'
      )
  inner = {'config.json': config.get('backbone_config') or {}}
  backbone = swin.read(
    names.backbone_of(arrays), dataclasses.replace(beside, metadata=inner), of_swin
  )
  flat = layout.read(arrays)
  inside = tree.flatten(backbone.variables['params'])
  flat |= {f'params/backbone/{name}': array for name, array in inside.items()}
  told = {f'backbone/{name}': value for name, value in backbone.told.items()}
  scales, assumed = config.get('pool_scales'), backbone.assumed
  pools = sum(name.endswith('.conv.weight') for name in arrays if '.psp_' in name)
  if scales is None:
    scales = POOL_SCALES
    if not beside.ours:
      assumed += (f'pool_scales={scales}: as in published models',)
  if len(scales) != pools or not all(type(scale) is int for scale in scales):
    raise UserError(
      f'{beside.path} has {pools} pooled grids, which pool_scales={scales!r} of'
      ' config.json must give'
    )
  told['pool_scales'] = tuple(scales)
  return family.Read(tree.unflatten(flat), told, assumed)


def transformers_differences(found: Collection[str]) -> tree.Differences:
  """Returns names unknown in a file of transformers' UPerNet, and names missing."""
  layout = swin.layout_of(names.without_prefix(found))
  return names.TRANSFORMERS.differences(found, layout)


def mmseg_differences(found: Collection[str]) -> tree.Differences:
  """Returns names unknown in a file of mmsegmentation's UPerNet, and names missing."""
  return names.MMSEG.differences(found, swin_names.MICROSOFT)


def backbone_of(weights: published.Published) -> published.Published:
  """Returns the weights of the backbone alone."""
  found = published.describe(params=weights.params['backbone'], family='swin')
  return dataclasses.replace(found, architecture=weights.architecture['backbone'])


def written(
  weights: published.Published, heads: names.Layout, backbone: family.Arrays
) -> family.Arrays:
  """Returns the arrays of a library, given those of the backbone without prefix."""
  variables = {name: tree.unstack_blocks(x) for name, x in weights.variables.items()}
  own = heads.written(tree.flatten(variables))
  return own | {names.BACKBONE + name: array for name, array in backbone.items()}


def to_transformers(weights: published.Published) -> family.Arrays:
  """Returns the arrays of transformers 5."""
  backbone = swin.to_transformers(backbone_of(weights))
  return written(weights, names.TRANSFORMERS, backbone)


def to_mmseg(weights: published.Published) -> family.Arrays:
  """Returns the arrays of mmsegmentation, whose files do not record pool_scales."""
  scales = weights.architecture['pool_scales']
  if tuple(scales) != POOL_SCALES:
    raise UserError(
      f'pool_scales={scales}: published files do not record them; write --to'
      ' transformers'
    )
  backbone = swin.written(
    backbone_of(weights),
    swin_names.MICROSOFT,
    'mmsegmentation',
    swin_models.POSITIONS[:-1],
  )
  return written(weights, names.MMSEG, backbone)


def transformers_config(
  weights: published.Published, image_size: tuple[int, int] | None
) -> dict[str, Any]:
  """Returns transformers' config.json for a model.safetensors."""
  told = weights.architecture
  backbone = swin.transformers_config(backbone_of(weights), image_size or (512, 512))
  second = told['auxiliary_channels']
  widths = [told['backbone']['width'] * 2 ** (i - 1) for i in told['backbone']['maps']]
  if second and len(widths) - 2 != _FIXED['auxiliary_in_index']:
    raise UserError(
      f'transformers has an auxiliary head on the third map, but there are'
      f' {len(widths)} maps: write a .safetensors file'
    )
  return {
    'architectures': ['UperNetForSemanticSegmentation'],
    'model_type': 'upernet',
    'backbone_config': backbone,
    'hidden_size': told['channels'],
    'pool_scales': list(told['pool_scales']),
    'use_auxiliary_head': bool(second),
    **(
      {'auxiliary_channels': second, 'auxiliary_in_channels': widths[-2]}
      if second
      else {}
    ),
    **_FIXED,
    'num_labels': weights.num_classes,
  }


FAMILY = family.Family(
  name='upernet',
  model=models.UPerNet,
  sources=(
    family.Source(
      name='transformers UPerNet',
      suffixes=family.TORCH,
      differences=transformers_differences,
      read=read,
      writes={'transformers': to_transformers},
      config=hub_json.transformers_folder(transformers_config),
    ),
    family.Source(
      name='mmsegmentation UPerNet',
      suffixes=family.TORCH,
      differences=mmseg_differences,
      read=partial(read, mmseg=True),
      writes={'published': to_mmseg},
      config=family.no_config,
    ),
  ),
  describe=describe,
  untold=(*(f'backbone/{name}' for name in swin.UNTOLD), 'pool_scales'),
  choices=choices,
  build=build,
  images=images,
  stem=('backbone/embed',),
  check=check,
)
