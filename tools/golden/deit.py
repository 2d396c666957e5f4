"""Golden files of DeiT's training."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from big_vision_like.tasks import distillation
from tools.golden.common import FLOAT, Check, Fields, Results, float_name

# How the file names what the student learns from besides the teacher.
SMOOTHING = 'labelsmooth'


class Logits(nn.Module):
  """Logits of a student that are its parameters, whatever the image."""

  num_classes: int

  @nn.compact
  def __call__(self, image_BHWC: jax.Array, train: bool = False) -> dict:
    shape, zeros = (len(image_BHWC), self.num_classes), nn.initializers.zeros
    names = {'logits': 'logits_cls', 'distilled_logits': 'logits_dist'}
    return {key: self.param(name, zeros, shape) for key, name in names.items()}


def distillation_loss(description: Fields, arrays: Fields) -> Results:
  """Losses of `tasks.distillation` and their gradients, hard, soft and without."""
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
  """Returns the targets (B, C): soft ones of the file, or its smoothed labels."""
  if not base.startswith(SMOOTHING):
    return arrays['input/soft_labels']
  smoothing = float(base.removeprefix(SMOOTHING))
  one_hot_BC = np.eye(classes, dtype=float_name())[arrays['input/labels']]
  return one_hot_BC * (1.0 - smoothing) + smoothing / classes


CHECKS = (Check(distillation_loss, 'deit losses.DistillationLoss'),)
