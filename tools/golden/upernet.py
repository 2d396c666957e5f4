"""Golden files of UPerNets with a Swin, of transformers."""

import jax
import numpy as np

from big_vision_like.errors import UserError
from big_vision_like.models import swin, upernet
from big_vision_like.ops import label_maps
from big_vision_like.tasks import semantic_segmentation
from big_vision_like.weights import swin_names, tree
from big_vision_like.weights import upernet as names
from tools.golden.common import (
  LOSS,
  TOKENS,
  Check,
  Fields,
  Results,
  captured,
  fit_parameters,
  float_name,
  gradient_results,
  loss_and_gradients,
  select,
  widened,
)

LAYOUT, BACKBONE = names.TRANSFORMERS, swin_names.transformers('swin.')
# Fields of the config, and of the backbone's.
KNOWN = {
  *('hidden_size', 'pool_scales', 'num_labels', 'auxiliary_channels', 'swin'),
  *('aux_loss_weight', 'ignore_index', 'use_auxiliary_head', 'image_size'),
}
KNOWN_SWIN = {
  *('embed_dim', 'depths', 'num_heads', 'window_size', 'mlp_ratio', 'patch_size'),
  *('image_size', 'out_features', 'drop_path_rate'),
}


def segmenter(description: Fields, arrays: Fields) -> Results:
  """Computes maps, logits of both heads, the loss and, if asked for, gradients."""
  config = Fields(description['config'])
  model = made(config)
  state = select(arrays, 'param/')
  tree.check_names('its parameters', *LAYOUT.differences(state, BACKBONE))
  flat = LAYOUT.read(state)
  backbone = BACKBONE.read(names.backbone_of(state))
  flat |= {f'params/backbone/{name}': array for name, array in backbone.items()}
  variables = widened(tree.unflatten(flat))
  image_BHWC = arrays['input/image'].transpose(0, 2, 3, 1)
  fit_parameters(model, variables['params'], image_BHWC)
  label_BHW = arrays['input/labels']
  if (ignored := config.get('ignore_index', label_maps.IGNORED)) != label_maps.IGNORED:
    label_BHW = np.where(label_BHW == ignored, label_maps.IGNORED, label_BHW)
  weight = config.get('aux_loss_weight', 0.4)

  def loss(params: tree.Tree) -> tuple[jax.Array, tuple]:
    others = {'batch_stats': variables['batch_stats']}
    outputs, modules = captured(model, {'params': params} | others, image_BHWC)
    full_BHWC = semantic_segmentation.at_labels(outputs['logits'], label_BHW)
    value, _ = label_maps.cross_entropy(full_BHWC, label_BHW)
    if 'auxiliary_logits' in outputs:
      second_BHWC = semantic_segmentation.at_labels(
        outputs['auxiliary_logits'], label_BHW
      )
      value += weight * label_maps.cross_entropy(second_BHWC, label_BHW)[0]
    return value, (outputs, modules, full_BHWC)

  gradients = None
  if select(arrays, 'grad/'):
    value, others, gradients = loss_and_gradients(loss, variables['params'])
  else:
    value, others = jax.jit(loss)(variables['params'])
  outputs, modules, full_BHWC = others
  results: Results = {
    'output/loss': (value, LOSS),
    'output/logits_full': (channels_first(full_BHWC), TOKENS),
    'output/decode_head': (channels_first(outputs['logits']), TOKENS),
  }
  if 'auxiliary_logits' in outputs:
    results['output/auxiliary_head'] = (
      channels_first(outputs['auxiliary_logits']),
      TOKENS,
    )
  for i, x_BhwC in enumerate(upernet.stages(modules['backbone'])):
    results[f'output/backbone/{i}'] = (channels_first(x_BhwC), TOKENS)
  if gradients is not None:
    results |= gradient_results(gradients, renamed)
  return results


def made(config: Fields) -> upernet.UPerNet:
  """Returns the model of a config; refuses unsupported options."""
  sizes = Fields(config['swin'])
  unknown = (config.keys() - KNOWN) | (sizes.keys() - KNOWN_SWIN)
  if unknown:
    raise UserError(
      f'its config has options that our UPerNet does not have: {sorted(unknown)}'
    )
  second = config.get('use_auxiliary_head', True)
  return upernet.UPerNet(
    backbone=swin.Swin(
      width=sizes['embed_dim'],
      depths=tuple(sizes['depths']),
      num_heads=tuple(sizes['num_heads']),
      window=sizes['window_size'],
      patch=sizes.get('patch_size', 4),
      mlp_ratio=sizes.get('mlp_ratio', 4.0),
      maps=tuple(range(1, len(sizes['depths']) + 1)),
      padding='dense',
      dtype=float_name(),
    ),
    num_classes=config['num_labels'],
    channels=config['hidden_size'],
    pool_scales=tuple(config['pool_scales']),
    auxiliary_channels=config['auxiliary_channels'] if second else 0,
    dtype=float_name(),
  )


def renamed(params: tree.Tree) -> dict[str, np.ndarray]:
  """Returns parameters or gradients under the names of transformers."""
  flat = tree.flatten(params)
  own = {f'params/{name}': array for name, array in flat.items()}
  backbone = {
    name.removeprefix('backbone/'): array
    for name, array in flat.items()
    if name.startswith('backbone/')
  }
  found = BACKBONE.written(backbone)
  return LAYOUT.written(own) | {names.BACKBONE + k: v for k, v in found.items()}


def channels_first(x_BhwC: jax.Array) -> np.ndarray:
  """Converts maps to PyTorch's layout."""
  return np.asarray(x_BhwC).transpose(0, 3, 1, 2)


CHECKS = (Check(segmenter, 'UperNetForSemanticSegmentation'),)
