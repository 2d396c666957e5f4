"""Golden checks of memory networks over triples.  Axes: B batch, F facts, C classes."""

import jax
import jax.numpy as jnp

from big_vision_like.models import memory_network as models
from big_vision_like.ops import losses
from big_vision_like.weights import memory_network as names
from big_vision_like.weights import tree
from tools.golden.common import (
  Check,
  Fields,
  Results,
  Tolerance,
  fit_parameters,
  float_name,
  loss_and_gradients,
  select,
  widened,
)

OUTPUT = Tolerance(absolute=1e-5)
LOSS = Tolerance(relative=1e-5)
GRADIENT = Tolerance(relative=1e-4)
# Absolute tolerance as a share of the largest gradient in a file.
ROUNDING = 1e-7


def memory_network(description: Fields, arrays: Fields) -> Results:
  """Computes probabilities, attention, the summed loss and its gradients."""
  flat, hops = names.from_published(select(arrays, 'param/'))
  params = widened(tree.unflatten(flat))
  model = models.MemoryNetwork(
    num_classes=len(arrays['param/to_answer']),
    vocab_size=description['vocab'],
    width=description['dim'],
    hops=hops,
    dtype=float_name(),
  )
  inputs = arrays['input/facts'], arrays['input/query']
  fit_parameters(model, params, *inputs)

  def loss(params: tree.Tree) -> tuple[jax.Array, tuple]:
    outputs, sown = model.apply({'params': params}, *inputs, mutable='intermediates')
    target_BC = jax.nn.one_hot(arrays['input/answer'], model.num_classes)
    loss_B = losses.softmax_cross_entropy(outputs['logits'], target_BC)
    return loss_B.sum(), (outputs['logits'], sown['intermediates']['attention'])

  value, (logits_BC, attention), gradients = loss_and_gradients(loss, params)
  results: Results = {
    'output/probs': (jax.nn.softmax(logits_BC), OUTPUT),
    'output/loss_sum': (value, LOSS),
    'output/position_weights': (
      models.position_weights(inputs[1].shape[-1], model.width),
      OUTPUT,
    ),
  }
  for hop, weight_BF in enumerate(attention):
    results[f'output/attention_hop_{hop}'] = (weight_BF, OUTPUT)
  found = names.to_published(tree.flatten(gradients))
  largest = max(float(jnp.abs(x).max()) for x in found.values())
  tolerance = GRADIENT._replace(absolute=ROUNDING * largest)
  for name, array in found.items():
    golden = arrays[f'grad/{name}']
    if names.TABLE.fullmatch(name):
      # The published code has gradients of nil too, and sets its vector to zero later.
      array = jnp.asarray(array).at[:, 0].set(golden[:, 0])
    results[f'grad/{name}'] = (array, tolerance)
  return results


CHECKS = (
  Check(
    memory_network, 'memory network over triples', fields=('hops', 'words', 'memory')
  ),
)
