"""Golden files of Noisy Student: the loss of a step, the choice of pseudo labels."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from big_vision_like.ops import pseudo_labels
from big_vision_like.tasks import self_training
from tools.golden.common import EXACT, FLOAT, Check, Fields, Results, float_name


class Given(nn.Module):
  """A model whose logits are its image: (B, 1, 1, C) to (B, C)."""

  num_classes: int

  @nn.compact
  def __call__(self, image_BhwC: jax.Array, train: bool = False) -> dict:
    return {'logits': image_BhwC[:, 0, 0]}


def loss(description: Fields, arrays: Fields) -> Results:
  """Computes the losses of `tasks.self_training`, with soft and hard pseudo labels."""
  config = Fields(description['config'])
  teacher_UC = jnp.asarray(arrays['input/teacher_logits'], float_name())
  logits_BC = jnp.asarray(arrays['input/student_logits'], float_name())
  rows = config['n_labelled']
  labelled, unlabelled = (
    {'image': part[:, None, None]} for part in (logits_BC[:rows], logits_BC[rows:])
  )
  labelled['label'] = arrays['input/labels']
  unlabelled['probabilities'] = jax.nn.softmax(teacher_UC)
  batch = {'labelled': labelled, 'unlabelled': unlabelled}
  results: Results = {}
  for kind in self_training.KINDS:
    task = self_training.SelfTraining(
      model=Given(config['num_classes']),
      optimizer=None,
      kind=kind,
      temperature=config['teacher_softmax_temp'],
      label_smoothing=config['label_smoothing'],
    )

    def value(batch: dict, task=task) -> tuple[jax.Array, dict]:
      prepared = task.prepare(batch, jax.random.key(0))
      total, (_, scalars) = task.loss({}, {}, prepared, jax.random.key(0))
      return total, scalars

    total, scalars = jax.jit(value)(batch)
    own = {
      'output/lab_loss': scalars['loss_labels'],
      f'output/unl_loss_{kind}': scalars['loss_pseudo'],
      f'output/data_loss_{kind}': total,
    }
    results |= {name: (x, FLOAT) for name, x in own.items() if name in arrays}
  return results


def choice(description: Fields, arrays: Fields) -> Results:
  """Computes predicted classes, thresholds, available images and copies of each image.

  The reference uses its own random numbers for the fraction of the number of copies.
  If all our numbers are the exact number rounded down or up, as they must be, the
  file's numbers are checked against the same two numbers instead.
  """
  config, probability_NK = description['config'], arrays['input/probabilities']
  label_N = probability_NK.argmax(axis=-1)
  found = pseudo_labels.choose(
    label_N,
    probability_NK.max(axis=-1),
    probability_NK.shape[-1],
    min_confidence=config['min_threshold'],
    per_class=config['num_image_per_class'],
  )
  wanted_K = config['num_image_per_class'] / np.maximum(found.available_K, 1)
  reached_N = found.copies_N > 0
  reached_N |= probability_NK.max(axis=-1) >= found.threshold_K[label_N]
  low_N = np.floor(wanted_K)[label_N] * reached_N
  high_N = np.ceil(wanted_K)[label_N] * reached_N
  copies_N = found.copies_N
  if ((low_N <= copies_N) & (copies_N <= high_N)).all():
    copies_N = np.clip(arrays['output/copies'], low_N, high_N)
  return {
    'output/predicted_class': (label_N, EXACT),
    'output/threshold': (found.threshold_K.astype(np.float32), EXACT),
    'output/available': (found.available_K.astype(np.float32), EXACT),
    'output/copies': (copies_N, EXACT),
  }


CHECKS = (
  Check(loss, 'noisystudent main.model_fn'),
  Check(choice, 'noisystudent filter_unlabel.py'),
)
