"""Golden files of EfficientNet: maps, losses, moving statistics and gradients."""

from typing import Any

import jax
import jax.numpy as jnp

from big_vision_like.errors import UserError
from big_vision_like.models import efficientnet as models
from big_vision_like.ops import losses
from big_vision_like.tasks import classification
from big_vision_like.weights import efficientnet, tree
from tools.golden.common import (
  LOSS,
  Check,
  Fields,
  Results,
  Tolerance,
  captured,
  fit_parameters,
  float_name,
  loss_and_gradients,
  select,
  widened,
)

MAP = Tolerance(absolute=1e-4)
STATISTIC = Tolerance(absolute=1e-5)
GRADIENT = Tolerance(relative=1e-3)
SMOOTHING, DECAY = 0.1, 1e-5  # from tensorflow/tpu, as files do not have them


def tensorflow(description: Fields, arrays: Fields) -> Results:
  """Computes EfficientNet of tensorflow/tpu: B0 with other factors, in both modes."""
  config = description['config']
  for name in ('dropout', 'stochastic_depth'):
    if config.get(name) and 'output/train/logits' in arrays:
      raise UserError(
        f'{name}={config[name]} in training drops other values at random than ours'
      )
  model = models.EfficientNet(
    num_classes=config['num_classes'],
    **models.scaled(config['width_coefficient'], config['depth_coefficient']),
    dtype=float_name(),
  )
  read, _ = efficientnet.from_tensorflow(select(arrays, 'param/'))
  variables, image_BHWC = widened(read), arrays['input/image_normalised']
  fit_parameters(model, variables['params'], image_BHWC)
  label_B = jnp.asarray(arrays['input/label'])
  target_BC = classification.smoothed(label_B, model.num_classes, SMOOTHING)
  statistics = {'batch_stats': variables['batch_stats']}

  def cross_entropy(logits_BC: jax.Array) -> jax.Array:
    return losses.softmax_cross_entropy(logits_BC, target_BC).mean()

  def train_loss(params: tree.Tree) -> tuple[jax.Array, Any]:
    outputs, changed = model.apply(
      {'params': params} | statistics, image_BHWC, train=True, mutable=['batch_stats']
    )
    loss = cross_entropy(outputs['logits']) + decay(params)
    return loss, (outputs['logits'], changed)

  run = jax.jit(lambda variables: captured(model, variables, image_BHWC))
  outputs, modules = run(variables)
  loss, penalty = cross_entropy(outputs['logits']), decay(variables['params'])
  results: Results = {
    'output/eval/logits': (outputs['logits'], MAP),
    'output/eval/stem': (outputs['stem'], MAP),
    'output/eval/global_pool': (outputs['features'], MAP),
    f'output/eval/loss_xent_ls{SMOOTHING}': (loss, LOSS),
    'output/eval/l2_term': (penalty, LOSS),
    'output/eval/loss_total': (loss + penalty, LOSS),
  }
  units = [(i, j) for i, depth in enumerate(model.depths) for j in range(depth)]
  for number, (i, j) in enumerate(units):
    unit = modules[f'stage{i + 1}/unit{j + 1}']
    results[f'output/eval/block_{number}'] = (unit, MAP)
  loss, (logits_BC, changed), gradients = loss_and_gradients(
    train_loss, variables['params']
  )
  results['output/train/logits'] = (logits_BC, MAP)
  results['output/train/loss_total'] = (loss, LOSS)
  root = common_root(arrays)
  named = efficientnet.to_tensorflow({'params': gradients}, root)
  results |= {f'grad/train/{name}': (x, GRADIENT) for name, x in named.items()}
  named = efficientnet.to_tensorflow(changed, root)
  updated = {f'output/train/updated/{name}': x for name, x in named.items()}
  return results | {name: (x, STATISTIC) for name, x in updated.items()}


def decay(params: tree.Tree) -> jax.Array:
  """Returns half the sum of squares of all parameters but norms', times the decay."""
  kept = [
    array for name, array in tree.flatten(params).items() if '/norm/' not in f'/{name}'
  ]
  return DECAY * sum(0.5 * jnp.square(array).sum() for array in kept)


def common_root(arrays: Fields) -> str:
  """Returns the common first part of all names, such as 'efficientnet-b0/'."""
  return f'{next(iter(select(arrays, "param/"))).split("/")[0]}/'


CHECKS = (Check(tensorflow, 'models/official/efficientnet'),)
