"""Golden files of DETR: the whole model, and its mask head."""

import jax
import jax.numpy as jnp
import numpy as np

from big_vision_like import optim
from big_vision_like.models import detr, resnet
from big_vision_like.ops import positions, resampling
from big_vision_like.tasks import set_detection
from big_vision_like.tasks.task import State
from big_vision_like.weights import detr as weights
from big_vision_like.weights import tree
from tools.golden.common import (
  EXACT,
  FLOAT,
  Check,
  Fields,
  Results,
  Tolerance,
  captured,
  float_name,
  gradient_results,
  loss_and_gradients,
  select,
  widened,
)
from tools.golden.detection import LOSSES, matches, padded

OUTPUT = Tolerance(absolute=1e-4)
PIXELS = Tolerance(relative=1e-4)
MASKS = Tolerance(absolute=2e-5)
LOSS = Tolerance(relative=1e-5)
GRADIENT = Tolerance(relative=1e-4)


def channels_last(array: np.ndarray) -> jax.Array:
  return jnp.moveaxis(jnp.asarray(array), 1, -1)


def channels_first(array: jax.Array) -> jax.Array:
  return jnp.moveaxis(array, -1, 1)


def model_of(description: Fields) -> detr.DETR:
  return detr.DETR(
    num_classes=description['num_classes'],
    backbone=resnet.ResNet(
      depths=description['blocks'],
      root=description['stem_channels'],
      channels=description['planes'],
      norm='frozen',
      dilated=description['dc5'],
      frozen_stages=1,
      dtype=float_name(),
    ),
    num_queries=description['num_queries'],
    width=description['hidden_dim'],
    encoder_depth=description['enc_layers'],
    decoder_depth=description['dec_layers'],
    num_heads=description['nheads'],
    mlp_dim=description['dim_feedforward'],
    dropout=0.0,
    norm='pre' if description['pre_norm'] else 'post',
    positions=description['position_embedding'],
    dtype=float_name(),
  )


def whole(description: Fields, arrays: Fields) -> Results:
  """Computes maps, positions, memory, layers, matches, losses, gradients and boxes."""
  model = model_of(description)
  variables = weights.from_facebook(select(arrays, 'param/'), model.num_heads)
  variables = widened(variables)
  constants = variables['constants']
  image_BHWC = channels_last(arrays['input/image'])
  size_B2 = jnp.asarray(description['image_sizes_hw'], jnp.int32)
  objects = padded(description['num_targets'], arrays)

  def run(params: tree.Tree) -> tuple[jax.Array, tuple]:
    variables = {'params': params, 'constants': constants}
    outputs, modules = captured(model, variables, image_BHWC, size_B2)
    found, query_LBK = set_detection.set_losses(
      outputs['layer_logits'],
      outputs['layer_boxes'],
      objects,
      objects.valid_BK.sum(dtype=float),
      set_detection.COSTS,
      no_object_weight=0.1,
    )
    total = sum(
      set_detection.WEIGHTS[name] * loss_L.sum() for name, loss_L in found.items()
    )
    return total, (modules, outputs, found, query_LBK)

  total, (modules, outputs, found, query_LBK), gradients = loss_and_gradients(
    run, variables['params']
  )
  last_BhwC = modules['backbone'][f'stage{len(description["blocks"])}']
  valid_Bhw = detr.valid_cells(size_B2, image_BHWC.shape[1:3], last_BhwC.shape[1:3])
  results = {
    'output/backbone_layer4': (channels_first(last_BhwC), OUTPUT),
    'output/mask_downsampled': (~valid_Bhw, EXACT),
    'output/pos': (
      channels_first(positions_of(model, variables['params'], valid_Bhw)),
      FLOAT,
    ),
    'output/memory': (channels_first(outputs['memory']), OUTPUT),
    'output/hs': (modules['decoder'], OUTPUT),
    'loss/total': (total, LOSS),
  }
  layers = len(query_LBK)
  for i, query_BK in enumerate(np.asarray(query_LBK)):
    last = i == layers - 1
    prefix, suffix = ('', '') if last else (f'aux{i}_', f'_{i}')
    logits_BQC = outputs['layer_logits'][i]
    results[f'output/{prefix}pred_logits'] = (logits_BQC, OUTPUT)
    results[f'output/{prefix}pred_boxes'] = (outputs['layer_boxes'][i], OUTPUT)
    for name, theirs in LOSSES.items():
      results[f'loss/{theirs}{suffix}'] = (found[name][i], LOSS)
    for name, error in set_detection.errors(logits_BQC, objects, query_BK).items():
      results[f'loss/{name}{suffix}'] = (error, LOSS)
    layer = 'final' if last else f'aux{i}'
    results |= matches(f'output/match_{layer}_{{}}', query_BK, objects)
  results |= gradient_results({'params': gradients}, weights.to_facebook, GRADIENT)
  return results | detections(model, variables, description, arrays)


def positions_of(
  model: detr.DETR, params: tree.Tree, valid_Bhw: jax.Array
) -> jax.Array:
  """Returns the position embeddings of all cells: (B, h, w, D)."""
  if model.positions == 'sine':
    return positions.masked_sine2d(valid_Bhw, model.width)
  height, width = valid_Bhw.shape[1:]
  grid_1ND = positions.grid2d(
    params['pos_rows'][:height], params['pos_columns'][:width]
  )
  grid_1hwD = grid_1ND.reshape(1, height, width, model.width)
  return jnp.broadcast_to(grid_1hwD, (*valid_Bhw.shape, model.width))


def detections(
  model: detr.DETR, variables: tree.Tree, description: Fields, arrays: Fields
) -> Results:
  """Computes the detections of the task, in pixels of the original images."""
  task = set_detection.Detection(model=model, optimizer=optim.adamw(1e-4))
  state = State(
    step=jnp.zeros((), jnp.int32),
    params=variables['params'],
    opt_state=(),
    mutable={'constants': variables['constants']},
  )
  batch = {
    'image': channels_last(arrays['input/image']),
    'size': jnp.asarray(description['image_sizes_hw'], jnp.int32),
    'original_size': jnp.asarray(description['orig_sizes_hw'], jnp.int32),
  }
  found = jax.jit(task.predict)(state, batch, jax.random.key(0))
  results = {}
  for i in range(len(batch['image'])):
    results[f'output/post{i}_scores'] = (found['scores'][i], OUTPUT)
    results[f'output/post{i}_labels'] = (found['labels'][i], EXACT)
    results[f'output/post{i}_boxes'] = (found['boxes_xyxy'][i], PIXELS)
  return results


def mask_head(description: Fields, arrays: Fields) -> Results:
  """Computes attention of queries, their masks, and the masks' losses and gradients."""
  heads, width = description['nheads'], description['hidden_dim']
  params = weights.masks_from_facebook(select(arrays, 'param/'), heads)
  params = widened(params)
  attention = detr.MaskAttention(heads, float_name())
  head = detr.MaskHead(width, float_name())
  x_BhwD, memory_BhwD = (
    channels_last(arrays[f'input/{name}']) for name in ('src_proj', 'memory')
  )
  finer = [channels_last(arrays[f'input/fpn{i}']) for i in range(3)]
  valid_Bhw = jnp.asarray(~arrays['input/mask'])
  image_N, query_N = arrays['input/matched_bq'].T
  target_NHW = arrays['input/target_masks']
  count, *height_width = target_NHW.shape
  # Each object has a row in its image. Other rows are padding, with masks that must not
  # affect the losses.
  row_N = np.arange(count)
  query_BN = np.full((len(x_BhwD), count), -1)
  masks_BNHW = np.ones((*query_BN.shape, *height_width), target_NHW.dtype)
  query_BN[image_N, row_N], masks_BNHW[image_N, row_N] = query_N, target_NHW
  objects = set_detection.Objects(None, None, jnp.asarray(query_BN >= 0))

  def run(params: tree.Tree) -> tuple[jax.Array, dict[str, jax.Array]]:
    attention_BQShw = attention.apply(
      {'params': params['mask_attention']}, arrays['input/hs'], memory_BhwD, valid_Bhw
    )
    logits_BQuv = head.apply(
      {'params': params['mask_head']}, x_BhwD, attention_BQShw, finer
    )
    logits_NHW = resampling.resize(
      logits_BQuv[image_N, query_N][..., None], height_width, 'bilinear'
    )[..., 0]
    found = set_detection.mask_losses(
      logits_BQuv, masks_BNHW, objects, query_BN, jnp.asarray(count, float)
    )
    return found['focal'] + found['dice'], {
      'output/bbox_attention': attention_BQShw,
      'output/pred_masks': logits_BQuv,
      'output/upsampled': logits_NHW,
      'loss/mask_focal': found['focal'],
      'loss/dice': found['dice'],
    }

  _, values, gradients = loss_and_gradients(run, params)
  results = {
    name: (value, LOSS if name.startswith('loss/') else MASKS)
    for name, value in values.items()
  }
  named = weights.to_facebook({'params': gradients})
  return results | {
    f'grad/{name.removeprefix("detr.")}': (array, GRADIENT)
    for name, array in named.items()
  }


CHECKS = (
  Check(
    whole,
    'facebookresearch/detr DETR and SetCriterion',
    fields=('dc5', 'pre_norm', 'stem_channels'),
  ),
  Check(
    mask_head,
    'facebookresearch/detr MHAttentionMap and MaskHeadSmallConv',
    fields=('fpn_dims', 'target_hw'),
  ),
)
