"""Golden files of vision transformers: models, positions and few-shot classifiers."""

import re

import jax
import jax.numpy as jnp
import numpy as np

from big_vision_like.errors import UserError
from big_vision_like.models import vit
from big_vision_like.ops import positions, ridge
from big_vision_like.weights import timm_vit, tree, vision_transformer
from tools.golden.common import (
  CUBIC,
  EXACT,
  FLOAT,
  LAYER,
  LOGITS,
  SCORES,
  Check,
  Fields,
  Results,
  Tolerance,
  choice,
  classified,
  dense,
  fit_parameters,
  float_name,
  gradient_results,
  select,
  two,
  widened,
)


def vit_jax(description: Fields, arrays: Fields) -> Results:
  """Computes a ViT of vision_transformer (JAX): modules, logits, loss, gradients."""
  config, trunk = description['config'], None
  if config.get('resnet'):
    trunk = tuple(config['resnet']['num_layers'])
    if config['resnet']['width_factor'] != 1:
      raise UserError('resnet.width_factor other than 1 is not a published hybrid')
  params = widened(vision_transformer.from_npz(select(arrays, 'param/')))
  model = vit.ViT(
    num_classes=config['num_classes'],
    patch=two(config['patch_size']),
    width=config['hidden_size'],
    depth=config['num_layers'],
    num_heads=config['num_heads'],
    mlp_dim=config['mlp_dim'],
    pool=choice(config, 'classifier', {'token': 'token', 'gap': 'gap'}),
    posemb='learned' if 'pos_embedding' in params else 'none',
    rep_size=config['representation_size'] or 0,
    resnet=trunk,
    dtype=float_name(),
  )
  outputs, modules, results, gradients = classified(description, arrays, model, params)
  results |= {
    f'output/{name}': (value, LAYER)
    for path, value in modules.items()
    if (name := vision_transformer.published_name(path)) is not None
  }
  results['output/Transformer/posembed_input'] = (modules['with_position'], LAYER)
  results['output/logits'] = (outputs['logits'], LOGITS)
  if 'pre_logits' not in modules:  # if there is such a layer, its output before tanh
    results['output/pre_logits'] = (outputs['features'], LAYER)
  return results | gradient_results(gradients, vision_transformer.to_npz)


def big_vision(description: Fields, arrays: Fields) -> Results:
  """Computes a ViT of big_vision: intermediates, logits, loss, gradients."""
  config = description['config']
  width = config['width']
  rep_size = config['rep_size']
  model = vit.ViT(
    num_classes=config['num_classes'],
    patch=two(config['patch_size']),
    width=width,
    depth=config['depth'],
    num_heads=config['num_heads'],
    mlp_dim=config['mlp_dim'] or 4 * width,
    pool=choice(config, 'pool_type', {'tok': 'token', 'gap': 'gap', 'map': 'map'}),
    posemb=choice(config, 'posemb', {'learn': 'learned', 'sincos2d': 'sincos2d'}),
    rep_size=width if rep_size is True else int(rep_size or 0),
    dtype=float_name(),
  )
  params = widened(vision_transformer.from_npz(select(arrays, 'param/')))
  outputs, modules, results, gradients = classified(description, arrays, model, params)
  num_tokens = int(model.pool == 'token')
  stem_BhwD = modules['embed']
  _, height, width, _ = stem_BhwD.shape
  patches_BGD = outputs['tokens'][:, num_tokens:]
  pre_logits_BhwR = patches_BGD.reshape(-1, height, width, model.width)
  if model.rep_size:
    pre_logits_BhwR = jnp.tanh(dense(params['pre_logits'], pre_logits_BhwR))
  values = {
    'stem': stem_BhwD,
    'with_posemb': modules['with_position'][:, num_tokens:],
    'encoded': outputs['tokens'],
    'head_input': outputs['features'],
    'pre_logits': outputs['pre_logits'],
    'pre_logits_2d': pre_logits_BhwR,
  }
  x_BND = modules['with_position']
  for i in range(model.depth):
    block = f'encoder/block_{i}'
    parts = {
      'sa': modules[f'{block}/attention'],
      '+sa': x_BND + modules[f'{block}/attention'],
      'mlp': modules[f'{block}/mlp'],
      '+mlp': modules[block],
    }
    values |= {f'encoder/block{i:02d}/{name}': value for name, value in parts.items()}
    x_BND = modules[block]
  values['encoder/pre_ln'] = x_BND
  results |= {f'output/{name}': (value, LAYER) for name, value in values.items()}
  if model.posemb == 'sincos2d':
    pos_1ND = positions.sincos2d(height, width, model.width)
    results['output/posemb_sincos_2d'] = (pos_1ND, FLOAT)
  results['output/logits'] = (outputs['logits'], LOGITS)
  results['output/logits_2d'] = (dense(params['head'], pre_logits_BhwR), LOGITS)
  return results | gradient_results(gradients, big_vision_gradients)


def published_npz(description: Fields, arrays: Fields) -> Results:
  """Converts a file with the names of gs://vit_models: the new tree, and logits."""
  config = description['config']
  params = widened(vision_transformer.from_npz(select(arrays, 'published/')))
  model = vit.ViT(
    num_classes=config['num_classes'],
    patch=two(config['patch']),
    width=config['width'],
    depth=config['depth'],
    num_heads=config['num_heads'],
    mlp_dim=config['mlp_dim'],
    pool='token' if 'cls' in params else 'gap',
    rep_size=config['rep_size'] or 0,
    dtype=float_name(),
  )
  outputs, *_ = classified(description, arrays, model, params)
  converted = vision_transformer.to_big_vision(params)
  results = {f'converted/{name}': (value, EXACT) for name, value in converted.items()}
  return results | {'output/logits': (outputs['logits'], LOGITS)}


def timm(description: Fields, arrays: Fields) -> Results:
  """Computes ViTs of timm, several to a file: tokens, features, logits."""
  pools = {'token': 'token', 'avg': 'gap', 'map': 'map'}
  results = {}
  for config in description['config']:
    case = config['case']
    state = select(arrays, f'param/{case}/')
    params = timm_vit.from_timm(state, config['num_heads'], config['no_embed_class'])
    params = widened(params)
    model = vit.ViT(
      num_classes=config['num_classes'],
      patch=two(config['patch_size']),
      width=config['embed_dim'],
      depth=config['depth'],
      num_heads=config['num_heads'],
      mlp_dim=int(config['embed_dim'] * config['mlp_ratio']),
      pool=choice(config, 'global_pool', pools),
      dtype=float_name(),
    )
    fit_parameters(model, params, arrays[f'input/{case}/image'])
    outputs = jax.jit(model.apply)({'params': params}, arrays[f'input/{case}/image'])
    results |= {
      f'output/{case}/tokens': (outputs['tokens'], LAYER),
      f'output/{case}/pre_logits': (outputs['features'], LAYER),
      f'output/{case}/logits': (outputs['logits'], LOGITS),
    }
  return results


def resized_positions(description: Fields, arrays: Fields) -> Results:
  """Resizes position embeddings with aligned corners."""
  return resize_cases(description, arrays, 'linear', FLOAT)


def cubic_positions(description: Fields, arrays: Fields) -> Results:
  """Resizes position embeddings by torch's bicubic interpolation."""
  return resize_cases(description, arrays, 'cubic_torch', CUBIC)


def fewshot(description: Fields, arrays: Fields) -> Results:
  """Computes closed-form few-shot classifiers, and draws their examples."""
  results = {}
  for config in description['config']:
    case = config['case']
    data = Fields(select(arrays, f'input/{case}/'))
    x_train_ND, y_train_N = data['x_train'], data['y_train']
    scores_MC = ridge.ridge_scores(
      x_train_ND, y_train_N, data['x_test'], config['classes'], config['l2_reg']
    )
    predicted_M = np.asarray(scores_MC).argmax(axis=1)
    accuracy = np.mean(predicted_M == data['y_test'])
    results |= {
      f'output/{case}/scores': (scores_MC, SCORES),
      f'output/{case}/pred': (predicted_M, EXACT),
      f'output/{case}/accuracy': (accuracy, FLOAT),
    }
    for name in select(arrays, f'output/{case}/'):
      if match := re.fullmatch(r'indices_seed(\d+)_(\d+)shot', name):
        seed, shots = int(match[1]), int(match[2])
        drawn = ridge.fewshot_indices(y_train_N, shots, seed)
        results[f'output/{case}/{name}'] = (drawn, EXACT)
  return results


def big_vision_gradients(gradients: tree.Tree) -> dict[str, np.ndarray]:
  """Returns gradients in the layout of big_vision, both by block and stacked."""
  if 'cls' in gradients and 'pos_embedding' in gradients:
    pos_1ND = np.array(gradients['pos_embedding'])
    pos_1ND[:, 0] = 0.0  # to_big_vision would add it to the class token's gradient
    gradients = {**gradients, 'pos_embedding': pos_1ND}
  stacked = vision_transformer.to_big_vision(gradients, scan=True)
  return vision_transformer.to_big_vision(gradients) | stacked


def resize_cases(
  description: Fields, arrays: Fields, method: str, tolerance: Tolerance
) -> Results:
  """Resizes position embeddings, several to a file."""
  results = {}
  for config in description['config']:
    case = config['case']
    key = 'extra_tokens' if 'extra_tokens' in config else 'has_class_token'
    resized_1ND = positions.resize(
      arrays[f'input/posemb_{case}'],
      two(config['grid_from']),
      two(config['grid_to']),
      num_prefix=int(config[key]),
      method=method,
    )
    results[f'output/posemb_{case}'] = (resized_1ND, tolerance)
  return results


CHECKS = (
  Check(vit_jax, 'vision_transformer vit_jax/models_vit.py'),
  Check(big_vision, 'big_vision models/vit.py _Model'),
  Check(published_npz, 'gs://vit_models'),
  Check(timm, 'timm/models/vision_transformer.py'),
  Check(resized_positions, 'checkpoint.interpolate_posembed'),
  Check(cubic_positions, 'deit main.py --finetune'),
  Check(fewshot, 'evaluators/fewshot_lsr.py'),
)
