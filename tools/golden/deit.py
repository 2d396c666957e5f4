"""Golden files of DeiT and DeiT III: models, and the loss of distillation."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from big_vision_like.models import deit
from big_vision_like.ops import losses
from big_vision_like.tasks import distillation
from big_vision_like.weights import timm_deit, tree
from tools.golden.common import (
  FLOAT,
  LAYER,
  LOGITS,
  LOSS,
  Check,
  Fields,
  Results,
  captured,
  fit_parameters,
  float_name,
  gradient_results,
  loss_and_gradients,
  select,
  two,
  widened,
)

# Prefix of the file's names of losses with smoothed labels instead of soft ones.
SMOOTHING = 'labelsmooth'


class Logits(nn.Module):
  """A model whose logits are its parameters, whatever the image."""

  num_classes: int

  @nn.compact
  def __call__(self, image_BHWC: jax.Array, train: bool = False) -> dict:
    shape, zeros = (len(image_BHWC), self.num_classes), nn.initializers.zeros
    names = {'class_logits': 'logits_cls', 'distilled_logits': 'logits_dist'}
    heads = {key: self.param(name, zeros, shape) for key, name in names.items()}
    return heads | {'logits': sum(heads.values()) / 2}


def distillation_loss(description: Fields, arrays: Fields) -> Results:
  """Computes losses of distillation and gradients, hard, soft and without teacher."""
  teacher_BC = arrays['input/teacher_logits']
  batch_size, classes = teacher_BC.shape
  model, config = Logits(classes), description['config']
  params = {
    name: jnp.asarray(arrays[f'input/{name}'], float_name())
    for name in ('logits_cls', 'logits_dist')
  }
  results: Results = {}
  for output in sorted(name for name in arrays if name.startswith('output/')):
    _, base, kind = output.split('/')
    none = kind == 'none'
    task = distillation.Distillation(
      model=model,
      teacher=model,
      optimizer=None,
      kind='hard' if none else kind,
      weight=0.0 if none else config['alpha'],
      temperature=config['tau'],
    )
    prepared = {
      'image': np.zeros((batch_size, 1, 1, 1), float_name()),
      'target': target_of(base, arrays, classes),
      'teacher_logits': teacher_BC,
    }

    def loss(params: dict, task=task, prepared=prepared) -> jax.Array:
      return task.loss(params, {}, prepared, jax.random.key(0))[0]

    value, grads = jax.jit(jax.value_and_grad(loss))(params)
    results[output] = (value, FLOAT)
    for name, grad in grads.items():
      if f'grad/{base}/{kind}/{name}' in arrays:
        results[f'grad/{base}/{kind}/{name}'] = (grad, FLOAT)
  return results


def target_of(base: str, arrays: Fields, classes: int) -> np.ndarray:
  """Returns the targets (B, C): the soft labels of the file, or its smoothed labels."""
  if not base.startswith(SMOOTHING):
    return arrays['input/soft_labels']
  smoothing = float(base.removeprefix(SMOOTHING))
  one_hot_BC = np.eye(classes, dtype=float_name())[arrays['input/labels']]
  return one_hot_BC * (1.0 - smoothing) + smoothing / classes


def distilled(description: Fields, arrays: Fields) -> Results:
  """Computes a DeiT with a distillation token: blocks, both heads, loss, gradients."""
  config, state = description['config'], select(arrays, 'param/')
  without = bool(config.get('no_embed_class', False))
  params = timm_deit.from_distilled(state, config['num_heads'], without)
  return model_results(deit.DeiT(**arguments(config)), params, description, arrays)


def scaled(description: Fields, arrays: Fields) -> Results:
  """Computes a DeiT III: blocks, logits, loss, gradients."""
  config, state = description['config'], select(arrays, 'param/')
  params = timm_deit.from_scaled(state, config['num_heads'])
  return model_results(deit.DeiT3(**arguments(config)), params, description, arrays)


def arguments(config: Fields) -> dict:
  """Returns the arguments of our model for the config of timm's."""
  width = config['embed_dim']
  return dict(
    num_classes=config['num_classes'],
    patch=two(config['patch_size']),
    width=width,
    depth=config['depth'],
    num_heads=config['num_heads'],
    mlp_dim=int(width * config.get('mlp_ratio', 4)),
    dtype=float_name(),
  )


def model_results(
  model: nn.Module, params: tree.Tree, description: Fields, arrays: Fields
) -> Results:
  """Returns outputs of modules, loss of the logits in evaluation, and gradients."""
  image_BHWC, params = arrays['input/image'], widened(params)
  fit_parameters(model, params, image_BHWC)
  has_loss = 'output/loss' in arrays
  label_B = arrays['input/label'] if has_loss else np.zeros(len(image_BHWC), int)
  target_BC = jax.nn.one_hot(label_B, model.num_classes)

  def loss(params: tree.Tree) -> tuple[jax.Array, tuple]:
    outputs, modules = captured(model, {'params': params}, image_BHWC)
    value = losses.softmax_cross_entropy(outputs['logits'], target_BC).mean()
    return value, (outputs, modules)

  value, (outputs, modules), gradients = loss_and_gradients(loss, params)
  patches_BhwD = modules['embed']
  patches_BND = patches_BhwD.reshape(len(patches_BhwD), -1, model.width)
  results: Results = {
    'output/logits': (outputs['logits'], LOGITS),
    'output/patch_embed': (patches_BND, LAYER),
    'output/norm': (outputs['tokens'], LAYER),
    'output/loss': (value, LOSS),
  }
  for i in range(model.depth):
    results[f'output/blocks.{i}'] = (modules[f'encoder/block_{i}'], LAYER)
  if 'dist' in params:
    train = jax.jit(model.apply, static_argnums=2)
    outputs = train({'params': params}, image_BHWC, True)
    results |= {
      'output/train/logits_cls': (outputs['class_logits'], LOGITS),
      'output/train/logits_dist': (outputs['distilled_logits'], LOGITS),
    }
  results |= gradient_results(gradients, timm_deit.to_timm)
  for name in select(arrays, 'grad/'):  # files of facebookresearch have other names
    if f'grad/{name}' not in results and 'gamma_' in name:
      [theirs] = timm_deit.as_timm({name: None})
      results[f'grad/{name}'] = results[f'grad/{theirs}']
  return results


CHECKS = (
  Check(distillation_loss, 'deit losses.DistillationLoss'),
  Check(distilled, 'deit DistilledVisionTransformer'),
  Check(scaled, 'deit models_v2.vit_models with Layer_scale_init_Block'),
)
