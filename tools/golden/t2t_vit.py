"""Golden files of T2T-ViT: soft splits, layers, blocks, logits, loss, gradients."""

import itertools

import jax
import jax.numpy as jnp

from big_vision_like.errors import UserError
from big_vision_like.models import t2t_vit
from big_vision_like.ops import losses
from big_vision_like.weights import t2t_vit as weights
from big_vision_like.weights import tree
from tools.golden.common import (
  LOSS,
  Check,
  Fields,
  Results,
  Tolerance,
  captured,
  choice,
  fit_parameters,
  float_name,
  gradient_results,
  loss_and_gradients,
  select,
  widened,
)

OUTPUT = Tolerance(absolute=1e-5)
BACKBONES = {
  'T2T_ViT': 'plain',
  'T2T_ViT_SE': 'se',
  'T2T_ViT_Ghost': 'ghost',
  'T2T_ViT_Dense': 'plain',
}


def classifier(description: Fields, arrays: Fields) -> Results:
  """Computes a T2T-ViT with any backbone in evaluation."""
  config = description['config']
  width, groups = config['embed_dim'], tuple(config.get('block_config', ()))
  backbone = choice(description, 'model', BACKBONES)
  if (description['model'] == 'T2T_ViT_Dense') != bool(groups):
    raise UserError(f'{description["model"]} with block_config={groups}')
  state = select(arrays, 'param/')
  model = t2t_vit.T2TViT(
    num_classes=config['num_classes'],
    tokens=choice(config, 'tokens_type', {name: name for name in t2t_vit.TOKENS}),
    token_dim=config.get('token_dim', 64),
    width=width,
    depth=sum(groups) if groups else config['depth'],
    num_heads=config['num_heads'],
    mlp_dim=int(width * config['mlp_ratio']),
    backbone=backbone,
    groups=groups,
    growth=config.get('growth_rate', 64),
    dtype=float_name(),
  )
  image_BHWC = arrays['input/image']
  if description.get('image_layout') == 'NCHW':
    image_BHWC = image_BHWC.transpose(0, 2, 3, 1)
  variables = widened(weights.read(state, config['num_heads']))
  params, constants = variables['params'], variables['constants']
  fit_parameters(model, params, image_BHWC)

  def mean_loss(params: tree.Tree) -> tuple[jax.Array, tuple]:
    outputs, modules = captured(
      model, {'params': params, 'constants': constants}, image_BHWC
    )
    loss_B = losses.softmax_cross_entropy(
      outputs['logits'], arrays['input/soft_target']
    )
    return loss_B.mean(), (outputs, modules)

  loss, (outputs, modules), gradients = loss_and_gradients(mean_loss, params)
  results: Results = {
    'output/t2t/project': (joined(modules['tokens_to_token/project']), OUTPUT),
    'output/norm': (outputs['tokens'], OUTPUT),
    'output/logits': (outputs['logits'], OUTPUT),
    'output/loss': (loss, LOSS),
  }
  for i in range(3):
    split = modules[f'tokens_to_token/split{i}']
    results[f'output/t2t/soft_split{i}'] = (joined(split), OUTPUT)
  for i in (1, 2):
    layer = modules[f'tokens_to_token/layer{i}']
    results[f'output/t2t/attention{i}'] = (layer, OUTPUT)
  for name, block in blocks(modules).items():
    results[f'output/{name}'] = (block, OUTPUT)
  return results | gradient_results(
    {'params': gradients, 'constants': constants}, weights.write
  )


def joined(map_BhwC: jax.Array) -> jax.Array:
  """Returns a map as tokens in raster order."""
  return map_BhwC.reshape(len(map_BhwC), -1, map_BhwC.shape[-1])


def blocks(modules: dict[str, jax.Array]) -> dict[str, jax.Array]:
  """Returns the outputs of blocks, and of transitions, by the reference's names."""
  found, x_BND = {}, modules['with_position']
  for i in itertools.count():
    if f'encoder/block_{i}' in modules:
      x_BND = modules[f'encoder/block_{i}']
    elif f'encoder/growth{i}' in modules:
      x_BND = jnp.concatenate([x_BND, modules[f'encoder/growth{i}']], axis=-1)
    elif f'encoder/transition{i}' in modules:
      x_BND = jax.nn.gelu(modules[f'encoder/transition{i}'], approximate=False)
    else:
      return found
    found[f'block{i}'] = x_BND


CHECKS = (Check(classifier, 'yitu-opensource/T2T-ViT'),)
