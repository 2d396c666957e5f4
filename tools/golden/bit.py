"""Golden files of BiT: maps, logits, loss and gradients under the reference's names."""

from collections.abc import Callable

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from big_vision_like.models import bit as models
from big_vision_like.ops import losses
from big_vision_like.weights import bit, tree
from tools.golden.common import (
  LOSS,
  Check,
  Fields,
  Results,
  Tolerance,
  fit_parameters,
  float_name,
  gradient_results,
  loss_and_gradients,
  select,
  widened,
)

# Activations reach tens after a few units.
MAP = Tolerance(absolute=1e-4, relative=1e-4)
LOGITS = Tolerance(absolute=1e-4)
GRADIENT = Tolerance(relative=1e-3)


def big_transfer(description: Fields, arrays: Fields) -> Results:
  """Computes a BiT of google-research/big_transfer, with the maps of all stages."""
  config = description['config']
  model = models.BiT(
    num_classes=config['num_classes'],
    depths=config['block_units'],
    width=config['width_factor'],
    dtype=float_name(),
  )
  params = widened(bit.BIG_TRANSFER.read(select(arrays, 'param/')))
  label_BC = jax.nn.one_hot(arrays['input/label'], model.num_classes)
  return compared(model, params, arrays, label_BC, bit.BIG_TRANSFER.write)


def big_vision_v1(description: Fields, arrays: Fields) -> Results:
  """Computes the ResNet-v1 of google-research/big_vision."""
  config = description['config']
  model = models.BiTv1(
    num_classes=config['num_classes'],
    depths=config['depth'],
    width=config['width'],
    dtype=float_name(),
  )
  params = widened(bit.BIG_VISION_V1.read(select(arrays, 'param/')))
  label_BC = jnp.asarray(arrays['input/labels_onehot'])
  return compared(model, params, arrays, label_BC, bit.BIG_VISION_V1.write)


def compared(
  model: nn.Module,
  params: tree.Tree,
  arrays: Fields,
  label_BC: jax.Array,
  rename: Callable[[tree.Tree], dict[str, np.ndarray]],
) -> Results:
  image_BHWC = arrays['input/image']
  fit_parameters(model, params, image_BHWC)

  def mean_loss(params: tree.Tree) -> tuple[jax.Array, dict[str, jax.Array]]:
    outputs = model.apply({'params': params}, image_BHWC)
    loss_B = losses.softmax_cross_entropy(outputs['logits'], label_BC)
    return loss_B.mean(), outputs

  loss, outputs, gradients = loss_and_gradients(mean_loss, params)
  results: Results = {
    'output/logits': (outputs['logits'], LOGITS),
    'output/pre_logits': (outputs['pre_logits'], MAP),
    'output/loss': (loss, LOSS),
    'output/root': (outputs['root'], MAP),
  }
  for i in range(len(model.depths)):
    # They are called blocks by big_transfer, and stages by big_vision.
    results[f'output/block{i + 1}'] = (outputs[f'stage{i + 1}'], MAP)
    results[f'output/stage{i + 1}'] = (outputs[f'stage{i + 1}'], MAP)
  return results | gradient_results(gradients, rename, GRADIENT)


CHECKS = (
  Check(big_transfer, 'bit_pytorch/models.py'),
  Check(big_vision_v1, 'big_vision models/bit.py'),
)
