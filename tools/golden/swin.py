"""Golden files of Swin Transformers: classifiers and backbones."""

import re
from collections.abc import Mapping, Sequence

import jax
import numpy as np

from big_vision_like.errors import UserError
from big_vision_like.models import swin
from big_vision_like.ops import losses, positions, windows
from big_vision_like.weights import swin_names, tree
from tools.golden.common import (
  LAYER,
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

NAMES = swin_names.MICROSOFT
LOSS_NAME = 'mean of -sum(target*log_softmax)'
# Drop rates have no effect in evaluation; the size of images is read from the input.
KNOWN = {
  *('embed_dim', 'depths', 'num_heads', 'num_classes', 'window_size', 'patch_size'),
  *('mlp_ratio', 'out_indices', 'ape', 'qkv_bias', 'patch_norm', 'img_size'),
  *('in_chans', 'pretrain_img_size', 'drop_path_rate', 'drop_rate', 'attn_drop_rate'),
}


def classifier(description: Fields, arrays: Fields) -> Results:
  """Computes microsoft's Swin: modules, buffers, logits, loss, gradients."""
  choice(description, 'loss', {LOSS_NAME: LOSS_NAME})
  model, params = made(description['config'], arrays)
  image_BHWC = channels_last(arrays['input/image'])
  fit_parameters(model, params, image_BHWC)
  target_BC = arrays['input/soft_target']
  check_buffers(select(arrays, 'buffer/'), model, image_BHWC.shape[1:3])

  def loss(params: tree.Tree) -> tuple[jax.Array, tuple]:
    outputs, modules = captured(model, {'params': params}, image_BHWC)
    value = losses.softmax_cross_entropy(outputs['logits'], target_BC).mean()
    return value, (outputs, modules)

  value, (outputs, modules), gradients = loss_and_gradients(loss, params)
  results = {'output/loss': (value, LOSS), 'output/logits': (outputs['logits'], LOGITS)}
  results['output/norm'] = (outputs['tokens'], TOKENS)
  ours = {'patch_embed': 'embed_norm'}
  for stage, depth in enumerate(model.depths):
    ours[f'layers.{stage}.downsample'] = f'merge{stage + 1}'
    for block in range(depth):
      name = f'layers.{stage}.blocks.{block}'
      part = ('window', 'shifted')[block % 2]
      ours[name] = f'stage{stage + 1}/block_{block // 2}/{part}'
  for name, path in ours.items():
    if path in modules:
      tokens = modules[path].reshape(len(image_BHWC), -1, modules[path].shape[-1])
      results[f'output/{name}'] = (tokens, LAYER)
  if select(arrays, 'grad/'):
    results |= gradient_results(gradients, lambda x: NAMES.written(tree.flatten(x)))
  return results


def backbone(description: Fields, arrays: Fields) -> Results:
  """Computes the Swin of detection and segmentation: maps for several image sizes."""
  model, params = made(description['config'], arrays)
  results, apply = {}, jax.jit(model.apply)
  for name, image in select(arrays, 'input/').items():
    size = name.removesuffix('/image')
    image_BHWC = channels_last(image)
    fit_parameters(model, params, image_BHWC)
    for stage, x_BhwD in apply({'params': params}, image_BHWC).items():
      number = int(stage.removeprefix('stage')) - 1
      x_BDhw = x_BhwD.transpose(0, 3, 1, 2)
      results[f'output/{size}/stage{number}'] = (x_BDhw, TOKENS)
  return results


def made(config: Fields, arrays: Fields) -> tuple[swin.Swin, tree.Tree]:
  """Returns the model and the parameters of a file; refuses unsupported options."""
  if unknown := config.keys() - KNOWN:
    raise UserError(
      f'its config has options that our Swin does not have: {sorted(unknown)}'
    )
  for name in ('qkv_bias', 'patch_norm'):
    if not config.get(name, True):
      raise UserError(f'{name}=False is not published, and our Swin does not have it')
  flat = NAMES.read(select(arrays, 'param/'))
  flat, pos_grid = swin_names.flat_positions(flat)
  maps = tuple(stage + 1 for stage in config.get('out_indices', ()))
  model = swin.Swin(
    width=config['embed_dim'],
    depths=tuple(config['depths']),
    num_heads=tuple(config['num_heads']),
    num_classes=config.get('num_classes', 0),
    window=config['window_size'],
    patch=config.get('patch_size', 4),
    mlp_ratio=config.get('mlp_ratio', 4.0),
    maps=maps,
    padding='dense' if maps else 'none',
    posemb='both' if config.get('ape') else 'relative',
    pos_grid=pos_grid,
    dtype=float_name(),
  )
  return model, widened(tree.unflatten(flat))


def check_buffers(
  buffers: Mapping[str, np.ndarray], model: swin.Swin, image_size: Sequence[int]
) -> None:
  """Raises unless buffers equal ours: indices of relative positions, and masks."""
  for name, buffer in buffers.items():
    found = re.fullmatch(r'layers\.(\d+)\.blocks\.(\d+)\.(attn.*)', name)
    if found is None:
      raise UserError(f'there is no check of buffer/{name}')
    grid = tuple(side // model.patch // 2 ** int(found[1]) for side in image_size)
    side = min(model.window, *grid)
    if found[3] == 'attn_mask':
      ours = np.float32(-100) * ~windows.seen(grid, side, model.window // 2)
    else:
      ours = positions.relative_index(side, side)
    if not np.array_equal(buffer, ours):
      raise UserError(f'buffer/{name} differs from ours')


def channels_last(image_BCHW: np.ndarray) -> np.ndarray:
  """Converts images from PyTorch's layout to ours."""
  return image_BCHW.transpose(0, 2, 3, 1)


CHECKS = (
  Check(classifier, 'microsoft/Swin-Transformer'),
  Check(backbone, 'Swin-Transformer-Semantic-Segmentation'),
)
