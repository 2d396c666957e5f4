"""Golden files of RegNetY: maps, logits in both modes, statistics, loss, gradients."""

import jax

from big_vision_like.models import regnet
from big_vision_like.ops import losses
from big_vision_like.weights import torch_regnet, tree
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

OUTPUT = Tolerance(absolute=1e-4)
GRADIENT = Tolerance(relative=1e-4)


def timm(description: Fields, arrays: Fields) -> Results:
  """Computes a RegNetY of timm, given the numbers of its design rule."""
  config = description['config']
  numbers = (config[name] for name in ('depth', 'w0', 'wa', 'wm', 'group_size'))
  model = regnet.RegNet(
    **regnet.sizes(*numbers),
    num_classes=config['num_classes'],
    squeeze=config['se_ratio'],
    root=config['stem_width'],
    dtype=float_name(),
  )
  variables = widened(torch_regnet.read(select(arrays, 'param/')))
  image_BHWC = arrays['input/image']
  params, others = variables['params'], {'batch_stats': variables['batch_stats']}
  fit_parameters(model, params, image_BHWC)

  def mean_loss(params: tree.Tree, train: bool) -> tuple[jax.Array, tuple]:
    outputs, changed = model.apply(
      {'params': params} | others, image_BHWC, train=train, mutable=['batch_stats']
    )
    label_BC = jax.nn.one_hot(arrays['input/label'], model.num_classes)
    loss_B = losses.softmax_cross_entropy(outputs['logits'], label_BC)
    return loss_B.mean(), (outputs, changed)

  loss, (outputs, _), gradients = loss_and_gradients(
    lambda params: mean_loss(params, train=False), params
  )
  trained, changed = jax.jit(lambda params: mean_loss(params, train=True)[1])(params)
  results: Results = {
    'output/logits': (outputs['logits'], OUTPUT),
    'output/stem': (outputs['root'], OUTPUT),
    'output/loss': (loss, LOSS),
    'output/train/logits': (trained['logits'], OUTPUT),
  }
  for i in range(len(model.depths)):
    results[f'output/s{i + 1}'] = (outputs[f'stage{i + 1}'], OUTPUT)
  updated = torch_regnet.write(jax.device_get({'params': params} | changed))
  results |= {
    f'output/train/updated/{name}': (array, OUTPUT)
    for name, array in updated.items()
    if 'running' in name
  }
  return results | gradient_results(
    {'params': gradients} | others, torch_regnet.write, GRADIENT
  )


CHECKS = (Check(timm, 'timm 1.0.31 models/regnet.py'),)
