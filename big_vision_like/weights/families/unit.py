"""Published UniTs, arXiv:2102.10772: files of mmf's zoo with one or several tasks.

Files record neither heads nor whether the backbone is dilated; all published models
have 8 heads, those of BERT in the text encoder, and a dilated backbone. Tasks have the
names of mmf.
"""

from collections.abc import Mapping
from typing import Any

import numpy as np

from big_vision_like.data.sources import coco_classes
from big_vision_like.errors import UserError
from big_vision_like.inference import hub_json, pairs
from big_vision_like.inference.objects import DetectionPreprocessing
from big_vision_like.inference.preprocessing import Prepare
from big_vision_like.models import bert as bert_models
from big_vision_like.models import resnet as resnet_models
from big_vision_like.models import unit as models
from big_vision_like.weights import (
  family,
  shapes,
  torchvision_resnet,
  tree,
  unit_names,
)
from big_vision_like.weights.beside import Beside
from big_vision_like.weights.families import bert
from big_vision_like.weights.families.detr import any_size

BACKBONE = 'shared/backbone/'
NUM_HEADS = 8


def read(arrays: tree.Arrays, beside: Beside) -> family.Read:
  """Reads a state dict of mmf; arrays that it holds twice are read once."""
  heads = beside.num_heads or NUM_HEADS
  assumed: tuple[str, ...] = ()
  if not beside.num_heads:
    assumed = (f'num_heads={heads}: as in published UniTs; the file has none',)
  text_heads = heads
  if any(name.startswith(unit_names.BERT) for name in arrays):
    text_heads, guessed = bert.heads_of(bert.width_of(arrays), beside)
    assumed += tuple(f'text.{text}' for text in guessed)
  variables = unit_names.from_mmf(arrays, heads, text_heads, str(beside.path))
  if 'backbone' not in variables['params']['shared']:
    return family.Read(variables, {}, assumed)
  assumed += ('backbone.dilated=True: as in published UniTs; no file records it',)
  return family.Read(variables, {'backbone/dilated': True}, assumed)


def describe(variables: tree.Tree, source: str) -> dict[str, Any]:
  """Returns the arguments of `build`; sizes of tasks are tuples in their order."""
  flat = tree.flatten(variables)
  parts = unit_names.parts_of_ours(flat)
  params, shared = variables['params'], variables['params']['shared']
  names = tuple(sorted(parts.tasks, key=[*models.ROWS, *sorted(parts.tasks)].index))
  decoder = (params[names[0]] if parts.separate else shared)['decoder']
  first = decoder['block_0']
  found = dict(
    tasks=names,
    queries=tuple(len(params[name]['queries']) for name in names),
    outputs=tuple(_outputs(params[name]['head']) for name in names),
    attributes=tuple(_attributes(params[name]['head']) for name in names),
    separate=parts.separate,
    project=parts.projections,
    num_tasks=_rows(shared),
    width=shared['input_proj']['bias'].size if 'input_proj' in shared else 0,
    decoder_width=params[names[0]]['queries'].shape[1],
    encoder_depth=parts.depths['encoder'],
    decoder_depth=parts.depths['decoder'],
    num_heads=first['attention']['query']['kernel'].shape[1],
    mlp_dim=first['mlp']['fc1']['bias'].size,
    norm='pre' if parts.encoder_norm else 'post',
  )
  found['width'] = found['width'] or found['decoder_width']
  if parts.resnet is not None:
    found['backbone'] = torchvision_resnet.architecture(flat, source, BACKBONE)
  if parts.text_depth:
    text = bert.encoder(shared['text'], 'embeddings', 'encoder')
    found['text'] = text | {'pooler': parts.pooler}
  if found['num_tasks'] and (unknown := set(names) - models.ROWS.keys()):
    raise UserError(
      f'{source}: the token of the task {min(unknown)!r} is in an unknown row: the'
      f' published tasks are {", ".join(models.ROWS)}'
    )
  model = build(0, **found)
  shapes.check(model, (inputs(model),), params, source)
  return found | {'num_classes': model.num_classes}


def _outputs(head: Mapping[str, Any]) -> int:
  """Returns the number of classes, without "no object"."""
  if 'class_head' in head:
    return head['class_head']['bias'].size - 1
  return head['labels']['bias'].size


def _attributes(head: Mapping[str, Any]) -> int:
  if 'attribute_head' not in head:
    return 0
  return head['attribute_head']['fc2']['bias'].size


def _rows(shared: Mapping[str, Any]) -> int:
  """Returns the number of rows for tokens of tasks; 0 without tokens."""
  tables = [shared[name] for name in ('image_task', 'text_task') if name in shared]
  return len(tables[0]['embedding']) if tables else 0


def inputs(model: models.UniTs) -> dict[str, tuple[np.ndarray, ...]]:
  """Returns small inputs of each task."""
  image = np.zeros((1, 64, 64, 3), np.float32), np.full((1, 2), 64, np.int32)
  text = (np.zeros((1, 2), np.int32),) * 2 + (np.ones((1, 2), bool),)
  return {
    name: (() if one.backbone is None else image) + (() if one.text is None else text)
    for name, one in model.tasks.items()
  }


def build(
  num_classes: int,
  tasks: tuple[str, ...],
  queries: tuple[int, ...],
  outputs: tuple[int, ...],
  attributes: tuple[int, ...],
  num_tasks: int,
  separate: bool,
  backbone: Mapping[str, Any] | None = None,
  text: Mapping[str, Any] | None = None,
  **sizes: Any,
) -> models.UniTs:
  """Makes the models of all tasks; mmf's names tell what they take."""
  del num_classes
  found = {}
  each = zip(tasks, queries, outputs, attributes, strict=True)
  for name, num_queries, classes, count in each:
    detects = name.startswith('detection')
    head = models.Labels(classes)
    if detects:
      head = models.Objects(classes, count, sizes['decoder_width'])
    reads, sees = not detects, not name.startswith('glue')
    found[name] = models.UniT(
      head=head,
      num_queries=num_queries,
      backbone=resnet_models.ResNet(**backbone) if backbone and sees else None,
      text=bert_models.Bert(**text) if text and reads else None,
      task=models.ROWS[name] if num_tasks else None,
      num_tasks=num_tasks,
      first_token_only=name not in models.WHOLE_TEXTS,
      **sizes,
    )
  return models.UniTs(found, separate)


def images(
  metadata: Mapping[str, Any],
  name: str,
  size: tuple[int, int] | None,
  num_classes: int,
  channels: int = 3,
) -> Prepare:
  """Returns preprocessing from files, else as published; COCO's classes are its ids."""
  if not channels:
    return pairs.of_file(metadata, name, size, num_classes, channels)
  if own := hub_json.written(metadata, DetectionPreprocessing):
    return hub_json.fitting(own, num_classes, channels)
  names = coco_classes.class_names(91) if num_classes == 91 else ()
  found = DetectionPreprocessing(
    800, 1333, label_names=names, source='as published with UniT'
  )
  return hub_json.fitting(found, num_classes, channels)


def channels(params: tree.Tree) -> int:
  """Returns the number of image channels; 0 for tasks on texts only."""
  shared = params['shared']
  return (
    shared['backbone']['conv_root']['kernel'].shape[2] if 'backbone' in shared else 0
  )


FAMILY = family.Family(
  name='unit',
  model=models.UniTs,
  sources=(
    family.Source(
      name='mmf UniT',
      suffixes=family.TORCH,
      differences=unit_names.differences,
      read=read,
      writes={'published': lambda weights: unit_names.to_mmf(weights.variables)},
      config=family.no_config,
      fit=any_size,
    ),
  ),
  describe=describe,
  untold=('backbone/dilated',),
  build=build,
  images=images,
  stem=(),
  channels=channels,
)
