"""Reasoning-RCNN of chanyn/Reasoning-RCNN: two heads on a ResNet, with reasoning."""

from collections.abc import Mapping
from typing import Any

import numpy as np

from big_vision_like.errors import UserError
from big_vision_like.models import rcnn as models
from big_vision_like.models import reasoning_rcnn as reasoning
from big_vision_like.models import resnet
from big_vision_like.weights import family, reasoning_rcnn, torchvision_resnet, tree
from big_vision_like.weights.beside import Beside
from big_vision_like.weights.families import rcnn

# Arguments of the published configs that no shape shows.
PUBLISHED = dict(samples=2, aligned=False)
RPN = dict(rounded=True, overlap=0.6, candidates=(2000, 2000), proposals=(2000, 2000))


def describe(variables: tree.Tree, source: str) -> dict[str, Any]:
  """Returns the arguments of `build`; those of parts of the model are dicts."""
  params = variables['params']
  flat = tree.flatten(params)
  lacking = {'enhance/propagate/kernel', 'box_heads_1/move/bias'} - flat.keys()
  if lacking or 'box_heads_2/move/bias' in flat:
    raise UserError(f'{source}: these are not two heads with reasoning in between')
  classes = flat['box_heads_0/classify/bias'].size
  channels, hidden = flat['pyramid/output1/bias'].size, flat['features_0/fc2/bias'].size
  reduced, width = (
    flat['enhance/reduce/kernel'].shape[-1],
    (flat['enhance/propagate/bias'].size),
  )
  groups = flat['box_heads_0/move/bias'].size // 4
  if groups not in (1, classes - 1):
    raise UserError(
      f'{source}: {groups} boxes of a region belong neither to {classes - 1} classes'
      ' nor to all'
    )
  want = {
    'features_0/fc1/kernel': (models.BOX_BINS**2 * channels, hidden),
    'enhance/reduce/kernel': (3, 3, 4 * channels, reduced),
    'enhance/describe/kernel': (reduced, hidden + 1),
    'enhance/propagate/kernel': (hidden + 1, width),
  }
  for head, inputs in enumerate((hidden, hidden + width)):
    want[f'box_heads_{head}/classify/kernel'] = (inputs, classes)
    want[f'box_heads_{head}/move/kernel'] = (inputs, 4 * groups)
  for name, shape in want.items():
    if np.shape(flat[name]) != shape:
      raise UserError(f'{source}: {name} has shape {np.shape(flat[name])}, not {shape}')
  return dict(
    num_classes=classes - 1,
    channels=channels,
    stds=models.CASCADE_STDS[:2],
    hidden=hidden,
    agnostic=groups == 1,
    shared=True,
    enhance=dict(width=width, reduced=reduced),
    rpn=dict(channels=channels, **RPN),
    backbone=torchvision_resnet.architecture(
      tree.flatten(variables), source, 'backbone/'
    ),
    **PUBLISHED,
  )


def build(
  backbone: Mapping[str, Any],
  rpn: Mapping[str, Any],
  enhance: Mapping[str, Any],
  **arguments: Any,
) -> models.RCNN:
  """Makes the model with its parts."""
  return models.RCNN(
    backbone=resnet.ResNet(**backbone),
    rpn=models.RPN(**rpn),
    enhance=reasoning.Reasoning(**enhance),
    **arguments,
  )


def read(arrays: tree.Arrays, beside: Beside) -> family.Read:
  """Reads arrays of the published code."""
  return family.Read(
    reasoning_rcnn.from_published(arrays, str(beside.path)),
    assumed=('2 samples in each bin of a region, as in the published config',),
  )


FAMILY = family.Family(
  name='reasoning_rcnn',
  model=models.RCNN,
  sources=(
    family.Source(
      name='Reasoning-RCNN',
      suffixes=family.TORCH,
      differences=reasoning_rcnn.differences,
      read=read,
      fit=rcnn.any_size,
    ),
  ),
  describe=describe,
  build=build,
  images=rcnn.images,
  stem=('backbone/conv_root',),
)
