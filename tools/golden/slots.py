"""Golden files of Slot Attention, and of its evaluation metrics."""

import math
from collections.abc import Callable

import flax.linen as nn
import jax
import jax.numpy as jnp

from big_vision_like.evals import clevr_sets
from big_vision_like.evals import object_discovery as segmentation
from big_vision_like.models import slot_attention
from big_vision_like.tasks import object_discovery
from big_vision_like.tasks import set_prediction as tasks
from big_vision_like.weights import slot_attention as weights
from big_vision_like.weights import tree
from tools.golden.common import (
  LOSS,
  NUMBER,
  Check,
  Fields,
  Results,
  Tolerance,
  captured,
  fit_parameters,
  float_name,
  gradient_results,
  loss_and_gradients,
  select,
  widened,
)

OUTPUT = Tolerance(absolute=1e-4)
GRADIENT = Tolerance(relative=1e-3)


def module(description: Fields, arrays: Fields) -> Results:
  """Computes Slot Attention after each number of iterations that the file has."""
  model = slot_attention.SlotAttention(
    num_slots=description['num_slots'],
    size=description['slot_size'],
    hidden=description['mlp_hidden'],
  )
  named = select(arrays, 'param/')
  params = weights.from_keras({f'slot_attention/{k}': v for k, v in named.items()})
  params, inputs = widened(params['attention']), arrays['input/inputs']
  fit_parameters(model, params, inputs)
  apply = jax.jit(model.apply, static_argnames='iterations')
  results = {}
  for name in select(arrays, 'output/slots_iter'):
    outputs = apply(
      {'params': params},
      inputs,
      iterations=int(name),
      noise_BSD=arrays['input/slot_noise'],
    )
    results[f'output/slots_iter{name}'] = (outputs['slots'], OUTPUT)
  return results


def convs(width: int, strides: tuple[int, ...]) -> list[slot_attention.Conv]:
  return [(width, 5, stride) for stride in strides]


def autoencoder(description: Fields, arrays: Fields) -> Results:
  """Computes the auto-encoder: features, slots, pictures, error and its gradients."""
  width = description['width']
  model = slot_attention.AutoEncoder(
    num_slots=description['num_slots'],
    iterations=description['num_iterations'],
    slot_size=width,
    hidden=description['mlp_hidden'],
    encoder_convs=convs(width, (1, 1, 1, 1)),
    grid=tuple(description['decoder_initial_size']),
    decoder_convs=convs(width, (2, 2, 2, 2, 1)),
    dtype=float_name(),
  )
  image_BHWC = jnp.asarray(arrays['input/image'])

  def error(outputs: dict[str, jax.Array]) -> jax.Array:
    return object_discovery.squared_error(image_BHWC, outputs['reconstruction']).mean()

  outputs, loss, results = compared(model, arrays, error)
  return results | {
    'output/recon_combined': (outputs['reconstruction'], OUTPUT),
    'output/recons': (outputs['contents'], OUTPUT),
    'output/masks': (outputs['masks'][..., None], OUTPUT),
    'loss/mse': (loss, LOSS),
  }


def classifier(description: Fields, arrays: Fields) -> Results:
  """Computes the set classifier: predictions, costs of all pairs, loss, gradients."""
  width = description['width']
  target_BOP = jnp.asarray(arrays['input/target'])
  model = slot_attention.SetClassifier(
    num_slots=description['num_slots'],
    num_properties=target_BOP.shape[-1],
    iterations=description['num_iterations'],
    slot_size=width,
    hidden=description['mlp_hidden'],
    encoder_convs=convs(width, (1, 2, 2, 1)),
    dtype=float_name(),
  )

  def error(outputs: dict[str, jax.Array]) -> jax.Array:
    return tasks.hungarian_huber(outputs['predictions'], target_BOP).mean()

  outputs, loss, results = compared(model, arrays, error)
  cost_BOS = tasks.pairwise_huber(outputs['predictions'], target_BOP)
  return results | {
    'output/predictions': (outputs['predictions'], OUTPUT),
    'output/pairwise_cost_target_by_pred': (cost_BOS, OUTPUT),
    'loss/hungarian_huber': (loss, LOSS),
  }


def compared(
  model: nn.Module,
  arrays: Fields,
  error: Callable[[dict[str, jax.Array]], jax.Array],
) -> tuple[dict[str, jax.Array], jax.Array, Results]:
  """Returns outputs and loss, and as results features, slots and gradients."""
  params = widened(weights.from_keras(select(arrays, 'param/')))
  image_BHWC, noise_BSD = arrays['input/image'], arrays['input/slot_noise']
  fit_parameters(model, params, image_BHWC)

  def run(params: tree.Tree) -> tuple[jax.Array, tuple[dict, dict]]:
    variables = {'params': params}
    outputs, modules = captured(model, variables, image_BHWC, noise_BSD=noise_BSD)
    return error(outputs), (outputs, modules['encoder'])

  loss, (outputs, features_BhwF), gradients = loss_and_gradients(run, params)
  batch, *_, width = features_BhwF.shape
  results = {
    'output/encoder_features': (features_BhwF.reshape(batch, -1, width), OUTPUT),
    'output/slots': (outputs['slots'], OUTPUT),
  }
  results |= gradient_results(gradients, weights.to_keras, GRADIENT)
  return outputs, loss, results


def metrics(description: Fields, arrays: Fields) -> Results:
  """Computes adjusted Rand indices and average precisions."""
  ids_BHW = jnp.asarray(arrays['input/true_ids']).astype(jnp.uint8)
  found_BHW = arrays['input/pred_probs'].argmax(axis=-1)
  counts_BSK = segmentation.overlaps(ids_BHW, found_BHW, description['pred_groups'])
  precisions = clevr_sets.average_precisions(
    arrays['input/clevr_pred'],
    arrays['input/clevr_target'],
    thresholds=(math.inf, 1.0, 0.5, 0.25, 0.125),
  )
  return {
    'output/ari': (segmentation.adjusted_rand_index(counts_BSK), NUMBER),
    'output/ari_foreground': (
      segmentation.adjusted_rand_index(counts_BSK[..., 1:]),
      NUMBER,
    ),
    'output/ap_inf_1_0.5_0.25_0.125': (precisions, NUMBER),
  }


MODEL = 'google-research slot_attention/model.py'
CHECKS = (
  Check(
    module, f'{MODEL}, SlotAttention', fields=('num_inputs', 'slot_size', 'mlp_hidden')
  ),
  Check(
    classifier,
    f'{MODEL}, SlotAttentionClassifier',
    fields=('decoder_initial_size', 'classifier_grid', 'num_targets'),
  ),
  Check(
    autoencoder,
    f'{MODEL}, SlotAttentionAutoEncoder',
    fields=('decoder_initial_size', 'classifier_grid'),
  ),
  Check(
    metrics,
    'google-research slot_attention/utils.py, deepmind multi_object_datasets ARI',
    fields=('groups', 'pred_groups', 'pred_slots'),
  ),
)
