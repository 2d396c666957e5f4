"""Golden files of UniT: encodings, heads, losses and gradients of several tasks."""

from collections.abc import Mapping
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from big_vision_like.errors import UserError
from big_vision_like.models import bert, unit
from big_vision_like.ops import losses, positions
from big_vision_like.tasks import set_detection
from big_vision_like.weights import tree, unit_names
from tools.golden.common import (
  FLOAT,
  LOGITS,
  LOSS,
  TOKENS,
  Check,
  Fields,
  Results,
  captured,
  choice,
  fit_parameters,
  float_name,
  gradient_results,
  loss_and_gradients,
  select,
  widened,
)
from tools.golden.detection import LOSSES, matches

# Values of options that our UniT has; others belong to no published model.
FIXED = {
  'activation': 'relu',
  'layernorm_eps': 1e-5,
  'head_transform_layernorm_eps': 1e-12,
  'eos_coef': 0.1,
}
FIXED_BERT = {'layernorm_eps': 1e-12}
WEIGHTS = ('class', 'l1', 'giou', 'attributes')


class Maps(nn.Module):
  """A backbone whose images are its maps already."""

  def __call__(self, x_BhwI: jax.Array, train: bool = False) -> dict[str, jax.Array]:
    del train
    return {'stage1': x_BhwI}


def several(description: Fields, arrays: Fields) -> Results:
  """Computes all tasks of a file, their losses, and the gradients of their sum."""
  check_options(description)
  heads = description['nheads']
  state = select(arrays, 'param/')
  variables = unit_names.from_mmf(state, heads, description['bert']['heads'])
  params = widened(variables['params'])
  tasks = {
    task: kind for kind, own in description['num_queries'].items() for task in own
  }
  models = {task: made(description, params, task, kind) for task, kind in tasks.items()}
  inputs = {task: inputs_of(arrays, kind) for task, kind in tasks.items()}
  for task, model in models.items():
    fit_parameters(model, of_task(params, task, model), *inputs[task])

  def total(params: tree.Tree) -> tuple[jax.Array, dict[str, Any]]:
    found = {
      task: computed(
        description, arrays, model, of_task(params, task, model), inputs[task], task
      )
      for task, model in models.items()
    }
    return jnp.asarray(sum(loss for loss, _ in found.values())), {
      task: values for task, (_, values) in found.items()
    }

  _, found, gradients = loss_and_gradients(total, params)
  results: Results = {}
  for task, (outputs, modules, values, query_LBK) in found.items():
    results |= results_of(arrays, task, tasks[task], outputs, modules, values)
    if query_LBK is not None:
      objects = objects_of(arrays)
      results |= matches(f'output/{task}/match_{{}}', query_LBK[-1], objects)
      results = {swapped(name): value for name, value in results.items()}
  valid_Bhw = jnp.asarray(~arrays['input/feature_pad_mask'])
  position_BhwD = positions.masked_sine2d(valid_Bhw, description['encoder_hidden_dim'])
  results['output/position_sine'] = jnp.moveaxis(position_BhwD, -1, 1), FLOAT
  if select(arrays, 'grad/'):
    results |= gradient_results({'params': gradients}, unit_names.to_mmf)
  return results


def swapped(name: str) -> str:
  """Converts 'match_0_query', as in files of DETR, to 'match_query_0'."""
  for part in ('query', 'target'):
    if name.endswith(f'_{part}') and '/match_' in name:
      start, number = name.removesuffix(f'_{part}').rsplit('_', 1)
      return f'{start}_{part}_{number}'
  return name


def check_options(description: Fields) -> None:
  """Raises for options that our UniT does not have."""
  for fields, fixed in (description, FIXED), (description['bert'], FIXED_BERT):
    for name, value in fixed.items():
      if fields.get(name, value) != value:
        raise UserError(f'{name}={fields[name]!r} is not published')


def of_task(params: tree.Tree, task: str, model: unit.UniT) -> tree.Tree:
  """Returns the parameters of the model of one task."""
  found = {**params['shared'], **params[task]}
  unused = set()
  if model.backbone is None:
    unused |= {'input_proj', 'encoder', 'image_proj', 'image_position_proj'}
    unused |= {'image_task'}
  if model.text is None:
    unused |= {'text', 'text_proj', 'text_position_proj', 'text_task'}
  return {name: part for name, part in found.items() if name not in unused}


def made(description: Fields, params: tree.Tree, task: str, kind: str) -> unit.UniT:
  """Returns the model of a task."""
  own, shared = params[task], params['shared']
  head = own['head']
  if kind == 'detection':
    attributes = head.get('attribute_head')
    made_head = unit.Objects(
      len(head['class_head']['bias']) - 1,
      0 if attributes is None else len(attributes['fc2']['bias']),
      description['decoder_hidden_dim'],
      float_name(),
    )
  else:
    made_head = unit.Labels(len(head['labels']['bias']), dtype=float_name())
  told = description['bert']
  text = bert.Bert(
    vocab_size=told['vocab'],
    width=told['hidden'],
    depth=told['layers'],
    num_heads=told['heads'],
    mlp_dim=told['intermediate'],
    max_length=told['max_positions'],
    num_types=len(shared['text']['embeddings']['token_type']['embedding']),
    pooler='pooler' in shared['text'],
    activation=choice(
      told, 'act', {'gelu (erf)': 'gelu_exact', 'gelu': 'gelu_exact', 'relu': 'relu'}
    ),
    dtype=float_name(),
  )
  tokens = 'image_task' in shared or 'text_task' in shared
  return unit.UniT(
    head=made_head,
    num_queries=description['num_queries'][kind][task],
    backbone=None if kind == 'glue' else Maps(),
    text=None if kind == 'detection' else text,
    task=description['task_idx'][task] if tokens else None,
    first_token_only=description['text_cls_only'].get(task, False),
    num_tasks=description['max_task_num'],
    width=description['encoder_hidden_dim'],
    decoder_width=description['decoder_hidden_dim'],
    encoder_depth=description['enc_layers'],
    decoder_depth=description['dec_layers'],
    num_heads=description['nheads'],
    mlp_dim=description['dim_feedforward'],
    norm='pre' if description['pre_norm'] else 'post',
    residual=description['residual_in_encoder'],
    project='image_proj' in shared,
    dtype=float_name(),
  )


def inputs_of(arrays: Fields, kind: str) -> tuple[np.ndarray, ...]:
  """Returns the inputs of the model of a task."""
  found: tuple[np.ndarray, ...] = ()
  if kind != 'glue':
    pad_Bhw = arrays['input/feature_pad_mask']
    height_B, width_B = (~pad_Bhw).any(axis=2).sum(axis=1), (~pad_Bhw).any(axis=1)
    size_B2 = np.stack([height_B, width_B.sum(axis=1)], axis=1).astype(np.int32)
    if not np.array_equal((~pad_Bhw).sum(axis=(1, 2)), size_B2.prod(axis=1)):
      raise UserError('its images are not at the top left of their maps')
    x_BhwI = arrays['input/features'].transpose(0, 2, 3, 1).astype(float_name())
    found += x_BhwI, size_B2
  if kind != 'detection':
    found += (
      arrays['input/input_ids'],
      arrays['input/segment_ids'],
      arrays['input/input_mask'] > 0,
    )
  return found


def objects_of(arrays: Fields) -> set_detection.Objects:
  """Returns the objects of all images."""
  label_BK, boxes_BK4, _, valid_BK = targets(arrays)
  return set_detection.Objects(*map(jax.device_put, (boxes_BK4, label_BK, valid_BK)))


def targets(arrays: Fields) -> tuple[np.ndarray, ...]:
  """Returns padded labels, boxes and attributes of objects, and which are valid."""
  count = len(arrays['input/features'])
  labels = [arrays[f'input/target_{i}/labels'] for i in range(count)]
  valid_BK = np.arange(max(map(len, labels)))[None] < [[len(x)] for x in labels]
  label_BK = np.zeros(valid_BK.shape, np.int32)
  boxes_BK4 = np.ones((*valid_BK.shape, 4), float_name())
  attributes = [arrays[f'input/target_{i}/attributes'] for i in range(count)]
  attribute_BKN = np.full((*valid_BK.shape, attributes[0].shape[1]), -1, np.int32)
  for i, own in enumerate(labels):
    label_BK[i, : len(own)] = own
    boxes_BK4[i, : len(own)] = arrays[f'input/target_{i}/boxes']
    attribute_BKN[i, : len(own)] = attributes[i]
  return label_BK, boxes_BK4, attribute_BKN, valid_BK


def computed(
  description: Fields,
  arrays: Fields,
  model: unit.UniT,
  params: tree.Tree,
  inputs: tuple[np.ndarray, ...],
  task: str,
) -> tuple[jax.Array, tuple]:
  """Returns the loss of a task, and outputs, those of modules, losses and matches."""
  outputs, modules = captured(model, {'params': params}, *inputs)
  if isinstance(model.head, unit.Labels):
    logits_BC = outputs['logits']
    if model.backbone is not None:
      target_BC = arrays['input/vqa_target'].astype(float_name())
      loss = losses.sigmoid_cross_entropy(logits_BC, target_BC).mean()
    else:
      target_BC = jax.nn.one_hot(arrays['input/glue_target'], logits_BC.shape[1])
      loss = losses.softmax_cross_entropy(logits_BC, target_BC).mean()
    return loss, (outputs, modules, {'loss': loss}, None)
  matcher = description['matcher']
  costs = dict(l1=matcher['bbox'], giou=matcher['giou']) | {'class': matcher['cls']}
  label_BK, _, attribute_BKN, valid_BK = targets(arrays)
  objects = objects_of(arrays)
  found, query_LBK = set_detection.set_losses(
    outputs['layer_logits'],
    outputs['layer_boxes'],
    objects,
    jnp.asarray(valid_BK.sum(), float),
    costs,
    description['eos_coef'],
  )
  if model.num_attributes:
    found['attributes'] = jnp.stack(
      [
        losses.attributes(
          model.apply(
            {'params': params},
            jnp.take_along_axis(x_BQD, query_BK[..., None].clip(0), axis=1),
            label_BK,
            method='attributes',
          ),
          attribute_BKN,
        )
        for x_BQD, query_BK in zip(outputs['layer_features'], query_LBK, strict=True)
      ]
    )
  total = sum(
    set_detection.WEIGHTS[name] * loss_L.sum() for name, loss_L in found.items()
  )
  values = {'total_loss': total} | named(found, outputs, objects, query_LBK)
  return total, (outputs, modules, values, query_LBK)


def named(
  found: Mapping[str, jax.Array],
  outputs: Mapping[str, jax.Array],
  objects: set_detection.Objects,
  query_LBK: jax.Array,
) -> dict[str, jax.Array]:
  """Returns the losses of all layers under their names."""
  theirs = LOSSES | {'attributes': 'loss_attr'}
  values = {}
  layers = len(query_LBK)
  for i in range(layers):
    suffix = '' if i == layers - 1 else f'_{i}'
    for name, loss_L in found.items():
      values[f'loss/{theirs[name]}{suffix}'] = loss_L[i]
    errors = set_detection.errors(outputs['layer_logits'][i], objects, query_LBK[i])
    values[f'loss/cardinality_error{suffix}'] = errors['cardinality_error']
  return values


def results_of(
  arrays: Fields,
  task: str,
  kind: str,
  outputs: Mapping[str, jax.Array],
  modules: Mapping[str, Any],
  values: Mapping[str, jax.Array],
) -> Results:
  """Returns the results of a task under their names, as far as the file has them."""
  results: Results = {f'{task}/{name}': (x, LOSS) for name, x in values.items()}
  results[f'{task}/hidden_states'] = outputs['layer_features'], TOKENS
  results[f'{task}/memory'] = outputs['memory'], TOKENS
  if kind == 'detection':
    results[f'{task}/pred_logits'] = outputs['layer_logits'], LOGITS
    results[f'{task}/pred_boxes'] = outputs['layer_boxes'], LOGITS
    if 'attributes' in outputs:
      results[f'{task}/attr_logits'] = outputs['attributes'], LOGITS
  else:
    results[f'{task}/logits'] = outputs['logits'], LOGITS
    results[f'{task}/bert_hidden'] = modules['text']['text'], TOKENS
    results[f'{task}/text_src'] = modules['text_proj'], TOKENS
    results[f'{task}/text_pos'] = modules['text_position_proj'][0], TOKENS
  if kind != 'glue':
    x_BhwD = modules['input_proj']
    results['input_proj'] = jnp.moveaxis(x_BhwD, -1, 1), TOKENS
  results = {f'output/{name}': value for name, value in results.items()}
  return {name: value for name, value in results.items() if name in arrays}


CHECKS = (
  Check(
    several,
    'facebookresearch/mmf UniT',
    fields=('encoder_hidden_dim', 'decoder_hidden_dim', 'task_idx'),
  ),
)
