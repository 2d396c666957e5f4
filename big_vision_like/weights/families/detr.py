"""Published DETRs, arXiv:2005.12872, with frozen norms in their backbones.

Backbones have no `frozen_stages`, so that gradients reach the image; training sets its
own.
"""

import dataclasses
import re
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

from big_vision_like.data.sources import coco_classes
from big_vision_like.errors import UserError
from big_vision_like.inference import hub_json
from big_vision_like.inference.objects import DetectionPreprocessing
from big_vision_like.models import detr as models
from big_vision_like.models import resnet as resnet_models
from big_vision_like.weights import detr, detr_names, family, tree
from big_vision_like.weights.beside import Beside
from big_vision_like.weights.families import resnet


def describe(variables: tree.Tree, source: str) -> dict[str, Any]:
  """Returns the arguments of our `DETR`; its backbone's are a nested dict.

  `num_classes` excludes DETR's final "no object" class.
  """
  found = detr_names.architecture(tree.flatten(variables), source)
  return found | {'num_classes': len(variables['params']['class_head']['bias']) - 1}


def build(backbone: Mapping[str, Any], **arguments: Any) -> models.DETR:
  """Makes the model with its backbone."""
  return models.DETR(backbone=resnet_models.ResNet(**backbone), **arguments)


def check(model: models.DETR, source: str) -> None:
  """Raises for a model that no other library can hold."""
  if tuple(model.positions_at) != models.DETR.positions_at:
    raise UserError(f'no other code has positions_at={model.positions_at}')
  if not model.queries_attend:
    raise UserError('no other code has queries_attend=False')
  resnet.check_frozen(model.backbone, source)


def images(
  metadata: Mapping[str, Any],
  name: str,
  size: tuple[int, int] | None,
  num_classes: int,
  channels: int = 3,
) -> DetectionPreprocessing:
  """Returns preprocessing from files, else as published: single images, no padding.

  Classes are COCO's ids: 91 of things, or 250 with stuff.
  """
  if own := hub_json.written(metadata, DetectionPreprocessing):
    return hub_json.fitting(own, num_classes, channels)
  if 'preprocessor_config.json' in metadata:
    found = hub_json.detector_from_transformers(metadata['preprocessor_config.json'])
  else:
    found = DetectionPreprocessing(800, 1333, source='as published with DETR')
    channels = found.channels
  names = hub_json.label_names(metadata.get('config.json', {}))
  if not names and num_classes in (91, 250):
    names = coco_classes.class_names(num_classes)
  things = 91 if num_classes == 250 else None
  found = dataclasses.replace(found, label_names=names, num_things=things)
  return hub_json.fitting(found, num_classes, channels)


def read(
  arrays: Mapping[str, Any], beside: Beside, reader: Callable[..., tree.Tree]
) -> family.Read:
  """Reads arrays, with heads and dilation from config.json or the file's name."""
  config, assumed = beside.config, ()
  resnet.check_plain(config.get('backbone_config') or {}, beside)
  told = config.get('encoder_attention_heads')
  if config.get('decoder_attention_heads', told) != told:
    raise UserError(
      f'{beside.path}: config.json has {told!r} heads in the encoder and'
      f' {config["decoder_attention_heads"]!r} in the decoder, but our DETR has the'
      ' same number in both'
    )
  activation = config.get('activation_function', 'relu')
  if activation != 'relu':
    raise UserError(
      f'{beside.path}: config.json: our DETR has relu, not {activation!r}'
    )
  heads = beside.num_heads or told
  if not heads:
    heads = 8
    assumed += ('num_heads=8: as in published DETRs; the file does not record it',)
  dilated = config.get('dilation')
  if dilated is None and re.search(r'dc5|detr-r(esnet-)?\d', beside.name):
    dilated = 'dc5' in beside.name  # as in published names
  if dilated is None:
    assumed += (
      'backbone.dilated=False: the file does not record it; names of DETRs with a'
      ' dilated last stage contain dc5',
    )
  variables = reader(arrays, heads, str(beside.path))
  return family.Read(variables, {'backbone/dilated': bool(dilated)}, assumed)


def to_transformers(weights: Any) -> dict[str, Any]:
  """Returns arrays with timm's backbone if dilated, which transformers' never is."""
  dilated = weights.architecture['backbone']['dilated']
  backbone = 'timm' if dilated else 'transformers'
  return detr.to_transformers(weights.variables, backbone)


def any_size(weights: Any, images: Any, asked: Any, grid: Any) -> tuple[Any, Any]:
  """Returns weights and images unchanged; raises if a size is requested."""
  if asked:
    raise UserError('--image-size: a DETR takes images of any size')
  return weights, images


FAMILY = family.Family(
  name='detr',
  model=models.DETR,
  sources=(
    family.Source(
      name='transformers DETR',
      suffixes=family.TORCH,
      differences=detr.transformers_differences,
      read=partial(read, reader=detr.from_transformers),
      writes={'transformers': to_transformers},
      config=hub_json.transformers_folder(
        lambda w, _: detr.config(w.architecture, w.num_classes, w.channels)
      ),
      fit=any_size,
    ),
    family.Source(
      name='facebookresearch DETR',
      suffixes=family.TORCH,
      differences=detr.facebook_differences,
      read=partial(read, reader=detr.from_facebook),
      writes={'published': lambda weights: detr.to_facebook(weights.variables)},
      config=family.no_config,
      fit=any_size,
    ),
  ),
  describe=describe,
  untold=('backbone/dilated',),
  build=build,
  images=images,
  stem=('backbone/conv_root',),
  check=check,
)
