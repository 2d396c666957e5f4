"""Golden checks of Neural Execution Engines.

Axes: B batch, S states or steps, L slots, K bits, N rows of the mask network.
"""

from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from big_vision_like.models import neural_execution as models
from big_vision_like.ops import bits as binary
from big_vision_like.ops import losses, positions, programs
from big_vision_like.optim import schedules
from big_vision_like.weights import neural_execution as names
from big_vision_like.weights import tree
from tools.golden.common import (
  EXACT,
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
LOSS = Tolerance(absolute=1e-6)
RATE = Tolerance(relative=1e-6)
GRADIENT = Tolerance(relative=1e-4)
# Absolute tolerance as a share of the largest gradient in a file.
ROUNDING = 1e-6
# Logits of published weights are in the tens, mask logits in the hundreds.
PUBLISHED = Tolerance(absolute=2e-3)
# The steps of the golden learning rates.
RATE_STEPS = np.array([1, 100, 4000, 20_000]) - 1


def tiny(description: Fields, arrays: Fields) -> Results:
  """Computes a selector, an adder and a mask network with their gradients."""
  results: Results = {
    f'output/noam_lr_d{width}': (rates(width), RATE) for width in (24, 128)
  }
  for part in (selector, adder, mask):
    results |= part(description, arrays)
  return results


def rates(width: int) -> jax.Array:
  """Returns learning rates of the paper's schedule."""
  return jax.vmap(schedules.noam(width, 4000))(jnp.asarray(RATE_STEPS))


def subroutine(
  description: Mapping[str, Any], state: tree.Arrays, positions: bool
) -> tuple[models.Subroutine, tree.Tree]:
  """Returns a subroutine, whose layers are scanned, with its parameters."""
  params = names.from_published(state)
  params = widened(tree.stack_blocks(tree.unflatten(params)))
  bits, width = state['emb/kernel'].shape
  model = models.Subroutine(
    bits,
    width,
    depth=description['num_layers'],
    hidden=description['dff'],
    positions=positions,
    residual=description.get('res_ratio', 1.5),
    scan=True,
    dtype=float_name(),
  )
  numbers_111 = np.zeros((1, 1, 1), np.int32)
  fit_parameters(model, params, numbers_111, numbers_111 > 0)
  return model, params


def selector(description: Fields, arrays: Fields) -> Results:
  """Computes the model without positions: outputs, losses and gradients."""
  own = select(arrays, 'param/sort/')
  model, params = subroutine(description, own, positions=False)
  numbers_BSL = arrays['input/sort/numbers']
  hidden_BSL = arrays['input/sort/encoder_mask'][:, :, 0] > 0
  target_BSK = binary.to_bits(arrays['input/sort/target_numbers'], model.bits)[:, :, 0]
  target_BSL = arrays['input/sort/target_pointer']

  def loss(params: tree.Tree) -> tuple[jax.Array, tuple]:
    outputs = model.apply({'params': params}, numbers_BSL, hidden_BSL)
    number = losses.sigmoid_cross_entropy(outputs['logits'], target_BSK) / model.bits
    pointer = losses.pointer_cross_entropy(outputs['pointer'], target_BSL)
    both = number.mean(), pointer.mean()
    return sum(both), (outputs, both)

  _, (outputs, both), gradients = loss_and_gradients(loss, params)
  results: Results = {
    'output/sort/encoding_bits': (binary.to_bits(numbers_BSL, model.bits), EXACT),
    'output/sort/encoder': (outputs['encoded'], OUTPUT),
    'output/sort/logits': (outputs['logits'][:, :, None], OUTPUT),
    'output/sort/pointer': (outputs['pointer'], OUTPUT),
    'output/sort/loss_content': (both[0], LOSS),
    'output/sort/loss_pointer': (both[1], LOSS),
    'output/sort/decoded': (decoded(outputs['logits'])[..., None], EXACT),
  }
  attention = outputs['attention'].swapaxes(0, 1)
  for layer, p_BSL in enumerate(attention, start=1):
    place = f'output/sort/attention/decoder_layer{layer}'
    results[f'{place}_block1'] = (jnp.ones((*p_BSL.shape[:2], 1, 1)), OUTPUT)
    results[f'{place}_block2'] = (p_BSL[:, :, None], OUTPUT)
  return results | graded('sort', gradients)


def adder(description: Fields, arrays: Fields) -> Results:
  """Computes the model with positions: logits, the loss and gradients."""
  model, params = subroutine(description, select(arrays, 'param/add/'), positions=True)
  numbers_BSL = arrays['input/add/numbers']
  target_BSK = binary.to_bits(arrays['input/add/target_numbers'], model.bits)[:, :, 0]

  def loss(params: tree.Tree) -> tuple[jax.Array, jax.Array]:
    hidden_BSL = jnp.zeros(numbers_BSL.shape, bool)
    logits_BSK = model.apply({'params': params}, numbers_BSL, hidden_BSL)['logits']
    each_BS = losses.sigmoid_cross_entropy(logits_BSK, target_BSK)
    return each_BS.mean() / model.bits, logits_BSK

  value, logits_BSK, gradients = loss_and_gradients(loss, params)
  table_PD = positions.sinusoid(jnp.arange(3), model.width, 'halves')
  return {
    'output/add/pos_encoding': (table_PD, OUTPUT),
    'output/add/logits': (logits_BSK[:, :, None], OUTPUT),
    'output/add/loss': (value, LOSS),
  } | graded('add', gradients)


def mask(description: Fields, arrays: Fields) -> Results:
  """Computes the mask network: logits, the loss and gradients."""
  flat = names.mask_from_published(select(arrays, 'param/mask/'))
  params = widened(tree.unflatten(flat))
  model = models.MaskNetwork(description['mask_filters'], dtype=float_name())
  x_NL2, target_NL = arrays['input/mask/x_pm1'], arrays['input/mask/target']
  inputs = x_NL2[..., 0] > 0, x_NL2[..., 1].argmax(axis=-1)
  fit_parameters(model, params, *inputs)

  def loss(params: tree.Tree) -> tuple[jax.Array, jax.Array]:
    logits_NL = model.apply({'params': params}, *inputs)['logits']
    each_N = losses.sigmoid_cross_entropy(logits_NL, target_NL)
    return each_N.mean() / target_NL.shape[1], logits_NL

  value, logits_NL, gradients = loss_and_gradients(loss, params)
  return {
    'output/mask/logits': (logits_NL, OUTPUT),
    'output/mask/loss': (value, LOSS),
  } | graded('mask', gradients)


def decoded(logits_BSK: jax.Array) -> jax.Array:
  """Returns the numbers of logits of bits."""
  return binary.from_bits(logits_BSK > 0)


def graded(part: str, gradients: tree.Tree) -> Results:
  """Returns gradients in the published names, with their tolerance."""
  flat = tree.flatten(tree.unstack_blocks(gradients))
  found = names.to_published(flat)
  largest = max(float(np.abs(x).max()) for x in found.values())
  tolerance = GRADIENT._replace(absolute=ROUNDING * largest)
  return {f'grad/{part}/{name}': (x, tolerance) for name, x in found.items()}


def published(description: Fields, arrays: Fields) -> Results:
  """Computes a sort, sums, distances and a spanning tree with published weights."""
  engine, variables = published_engine(description, arrays)
  numbers_BL = arrays['input/sort_sequence']
  calls = dict(
    # The published code never tells the decoder the previous number.
    select=lambda *xs: engine.apply(variables, *xs[:2], method='execute'),
    masker=lambda *xs: engine.apply(variables, *xs, method='next_mask'),
  )
  sort = jax.jit(
    lambda x_BL: programs.selection_sort(**calls, numbers_BL=x_BL, steps=x_BL.shape[1])
  )
  trace = sort(numbers_BL)
  adder, params = subroutine(
    description['add'],
    select(arrays, 'param/add/'),
    positions=description['add']['use_pos'],
  )
  add_variables = {'params': {'subroutine': params}}
  add_engine = models.Engine(adder)

  def add(*xs: jax.Array) -> dict[str, jax.Array]:
    return add_engine.apply(add_variables, *xs[:2], method='execute')

  pairs_BS2 = arrays['input/add_pairs']
  sums = jax.jit(add)(pairs_BS2, jnp.zeros(pairs_BS2.shape, bool))
  graph_1NN = jnp.asarray(arrays['input/graph9'])[None]
  graph = dict(start_B=jnp.zeros(1, jnp.int32), end=description['end_token'])
  graph['infinity'] = description['inf']
  paths = jax.jit(lambda x: programs.dijkstra(add=add, weight_BNN=x, **calls, **graph))
  spanning = jax.jit(lambda x: programs.prim(weight_BNN=x, **calls, **graph))(graph_1NN)
  return {
    'output/sort_logits': (trace['logits'], PUBLISHED),
    'output/sort_pointer': (trace['pointer'], PUBLISHED),
    'output/sort_mask_logits': (trace['mask_logits'], PUBLISHED),
    'output/sort_decoded': (trace['sorted'], EXACT),
    'output/add_logits': (sums['logits'][:, :, None], PUBLISHED),
    'output/add_decoded': (sums['number'][..., None], EXACT),
    'output/graph9_dijkstra_from0': (paths(graph_1NN)['distance'][0], EXACT),
    'output/graph9_prim_weights': (spanning['edges'][0, 1:], EXACT),
    'output/graph9_prim_order': (spanning['node'][0, 1:], EXACT),
  }


def published_engine(
  description: Fields, arrays: Fields
) -> tuple[models.Engine, tree.Tree]:
  """Returns the selector with its mask network, and their variables."""
  own = description['sort']
  selector, params = subroutine(own, select(arrays, 'param/sort/'), own['use_pos'])
  flat = names.mask_from_published(select(arrays, 'param/mask/'))
  mask = models.MaskNetwork(description['mask']['filters'], dtype=float_name())
  params = {'subroutine': params, 'mask': widened(tree.unflatten(flat))}
  return models.Engine(selector, mask), {'params': params}


CHECKS: tuple[Check, ...] = (
  Check(tiny, 'Neural-Execution-Engines, tiny', fields=('make_sym', 'mask_filters')),
  Check(
    published,
    'Neural-Execution-Engines, published',
    fields=('sort', 'add', 'mask', 'end_token'),
  ),
)
