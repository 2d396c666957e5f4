"""Published two-stage detectors: torchvision's, and mmdetection's with a Swin."""

import re
from collections.abc import Mapping
from typing import Any

import numpy as np

from big_vision_like.data.sources import coco_classes
from big_vision_like.errors import UserError
from big_vision_like.inference import hub_json
from big_vision_like.inference.objects import DetectionPreprocessing
from big_vision_like.models import rcnn as models
from big_vision_like.models import resnet as resnet_models
from big_vision_like.models import swin as swin_models
from big_vision_like.weights import family, rcnn, torchvision_resnet, tree
from big_vision_like.weights.beside import Beside
from big_vision_like.weights.families import swin

# The units of deltas, by the number of heads.
STDS = {1: models.STDS, 3: models.CASCADE_STDS}
# Sides of images are multiples of this.
MULTIPLE = 32
# How the libraries sample regions and round anchors, and how many regions they take for
# training and evaluation.
_TORCHVISION = dict(
  samples=2, aligned=False, rpn=dict(rounded=True, proposals=(2000, 1000))
)
_MMDETECTION = dict(samples=0, aligned=True, rpn=dict(rounded=False))
# torchvision's published files were trained with an epsilon of 0 in frozen norms.
_WITHOUT_EPSILON = re.compile(r'(faster|mask)rcnn_resnet50_fpn_coco')


def describe(variables: tree.Tree, source: str) -> dict[str, Any]:
  """Returns the arguments of our `RCNN`; those of its backbone and RPN are dicts."""
  flat = tree.flatten(variables)
  params = variables['params']
  heads = rcnn.heads_of(flat)
  if 'constants' in variables and variables['constants']:
    backbone = torchvision_resnet.architecture(flat, source, 'backbone/')
  else:
    backbone = swin.describe({'params': params['backbone']}, source)
    del backbone['num_classes']
  classes = len(params['box_heads_0']['classify']['bias']) - 1
  agnostic = len(params['box_heads_0']['move']['bias']) == 4
  channels = len(params['pyramid']['output1']['bias'])
  hidden = len(params['features_0'][f'fc{heads.fcs}']['bias'])
  if heads.count not in STDS:
    raise UserError(f'{source}: {heads.count} heads are neither one nor a cascade of 3')
  found = dict(
    num_classes=classes,
    channels=channels,
    heads=heads.count,
    convs=heads.convs,
    fcs=heads.fcs,
    hidden=hidden,
    agnostic=agnostic,
    shared=False,
    masks=heads.masks,
    samples=models.RCNN.samples,
    aligned=models.RCNN.aligned,
    rpn=dict(
      channels=channels,
      rounded=models.RPN.rounded,
      proposals=models.RPN.proposals,
    ),
    backbone=backbone,
  )
  check_shapes(params, found, source)
  return found


def check_shapes(params: tree.Tree, told: Mapping[str, Any], source: str) -> None:
  """Raises a `UserError` for shapes of heads that do not fit the others."""
  channels, hidden, classes = (told[n] for n in ('channels', 'hidden', 'num_classes'))
  groups = 1 if told['agnostic'] else classes
  for head in range(told['heads']):
    want = {
      f'box_heads_{head}/classify/kernel': (hidden, classes + 1),
      f'box_heads_{head}/move/kernel': (hidden, 4 * groups),
      f'features_{head}/fc1/kernel': (models.BOX_BINS**2 * channels, hidden),
    }
    if told['masks']:
      want[f'mask_heads_{head}/predict/kernel'] = (1, 1, channels, classes)
      want[f'mask_heads_{head}/double/kernel'] = (channels, 2, 2, channels)
    flat = tree.flatten(params)
    for name, shape in want.items():
      if np.shape(flat[name]) != shape:
        raise UserError(
          f'{source}: {name} has shape {np.shape(flat[name])}, not {shape}'
        )


def build(
  backbone: Mapping[str, Any], rpn: Mapping[str, Any], heads: int, **arguments: Any
) -> models.RCNN:
  """Makes the model with its backbone and its proposing network."""
  kind = swin_models.Swin if 'window' in backbone else resnet_models.ResNet
  return models.RCNN(
    backbone=kind(**backbone), rpn=models.RPN(**rpn), stds=STDS[heads], **arguments
  )


def images(
  metadata: Mapping[str, Any],
  name: str,
  size: tuple[int, int] | None,
  num_classes: int,
  channels: int = 3,
) -> DetectionPreprocessing:
  """Returns preprocessing from files, else as published.

  Classes are COCO's 80, or its ids from 1 to 90 (torchvision).
  """
  if own := hub_json.written(metadata, DetectionPreprocessing):
    return hub_json.fitting(own, num_classes, channels)
  names = ()
  if num_classes == 90:
    names = tuple(coco_classes.class_names(91)[1:])
  elif num_classes == 80:
    every = coco_classes.class_names(91)
    names = tuple(every[i] for i in coco_classes.IDS)
  found = DetectionPreprocessing(
    800,
    1333,
    multiple=MULTIPLE,
    label_names=names,
    source='as published with two-stage detectors',
  )
  return hub_json.fitting(found, num_classes, channels)


def read_torchvision(arrays: tree.Arrays, beside: Beside) -> family.Read:
  """Reads arrays of torchvision; norms of its published files have no epsilon."""
  variables = rcnn.from_torchvision(arrays, str(beside.path))
  assumed = ()
  if _WITHOUT_EPSILON.search(beside.name):
    flat = tree.flatten(variables)
    for name in flat:
      if name.startswith('constants/') and name.endswith('/var'):
        flat[name] = flat[name] - np.float32(resnet_models.EPSILON)
    variables = tree.unflatten(flat)
    assumed = ('an epsilon of 0 in frozen norms, as in torchvision for this file',)
  return family.Read(variables, tree.flatten(_TORCHVISION), assumed)


def read_mmdetection(arrays: tree.Arrays, beside: Beside) -> family.Read:
  """Reads arrays of mmdetection."""
  variables = rcnn.from_mmdetection(arrays, str(beside.path))
  return family.Read(variables, tree.flatten(_MMDETECTION))


def to_mmdetection(weights: Any) -> dict[str, np.ndarray]:
  """Returns mmdetection's arrays; raises for models that it does not have."""
  told = weights.architecture
  if 'window' not in told['backbone']:
    raise UserError('only detectors with a Swin are written as mmdetection has them')
  if told['samples'] or not told['aligned'] or told['rpn']['rounded']:
    raise UserError('mmdetection samples regions with samples=0 and aligned=True')
  return rcnn.to_mmdetection(weights.variables)


def any_size(weights: Any, images: Any, asked: Any, grid: Any) -> tuple[Any, Any]:
  """Returns weights and images unchanged; raises if a size is requested."""
  if asked:
    raise UserError('--image-size: a detector takes images of any size')
  return weights, images


def check(model: models.RCNN, source: str) -> None:
  """Raises for a model that no other library can hold."""
  if model.enhance is not None or model.shared:
    raise UserError(f'{source}: no other code has heads like these')


FAMILY = family.Family(
  name='rcnn',
  model=models.RCNN,
  sources=(
    family.Source(
      name='torchvision R-CNN',
      suffixes=family.TORCH,
      differences=rcnn.torchvision_differences,
      read=read_torchvision,
      fit=any_size,
    ),
    family.Source(
      name='mmdetection R-CNN with Swin',
      suffixes=family.TORCH,
      differences=rcnn.mmdetection_differences,
      read=read_mmdetection,
      writes={'published': to_mmdetection},
      config=family.no_config,
      fit=any_size,
    ),
  ),
  describe=describe,
  untold=('samples', 'aligned', 'rpn/rounded', 'rpn/proposals'),
  build=build,
  images=images,
  stem=('backbone/conv_root', 'backbone/embed'),
  check=check,
)
