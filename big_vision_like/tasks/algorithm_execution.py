"""Training of engines on the steps of algorithms, and programs that call them.

Axes: B batch, S states of an algorithm, L slots, K bits, N nodes, T steps.
"""

import dataclasses
import functools
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from big_vision_like.errors import UserError
from big_vision_like.models import neural_execution
from big_vision_like.ops import bits as binary
from big_vision_like.ops import losses, programs
from big_vision_like.tasks import task
from big_vision_like.tasks.task import Arrays, Loss, Network, State

ADDER = 'adder'


@dataclasses.dataclass(frozen=True, kw_only=True)
class AlgorithmExecution(task.GradientTask):
  """Losses of numbers, pointers and masks of an engine (arXiv:2006.08084, section 4).

  Batches have `numbers` int (B, S, L), `hidden` bool (B, S, L), `target` int (B, S) and
  the `importance` (B, S) of losses. If they have a `pointer` int (B, S), it is learned
  too, and with `next_hidden` (B, S, L) the mask network is. The loss is the sum of
  binary cross-entropies, averaged over bits, and over slots for masks, and the
  cross-entropy of the pointer. States learn from the true mask and pointer.

  Programs (`selection_sort`, `merge_sort`, `dijkstra`, `prim`) run the engine freely.
  Dijkstra's algorithm needs an `adder` too, whose weights the config names under
  `frozen`. `end` is the end of lists, `infinity` the weight of no edge, and `padding`
  fills lists that are merged. Without `masks`, a control, all slots are always visible,
  and the decoder reads the previous number instead.
  """

  predicts = 'algorithms'

  model: neural_execution.Engine
  adder: neural_execution.Engine | None = None
  masks: bool = True
  end: int = 512
  infinity: int = 256
  padding: int = 257

  def __post_init__(self) -> None:
    if not self.masks and self.model.mask is not None:
      raise UserError('masks=False: set task.model.mask to None, it would not be used')

  def check(self, batch: dict) -> None:
    bits = self.model.bits
    for name in ('numbers', 'target', 'items', 'weight'):
      if name in batch:
        check_numbers(name, batch[name], bits)

  def model_inputs(self, batch: Arrays) -> tuple[jax.Array, ...]:
    if 'pointer' not in batch:
      return batch['numbers'], batch['hidden']
    if self.masks:
      return batch['numbers'], batch['hidden'], batch['pointer']
    visible_BSL = jnp.zeros(batch['hidden'].shape, bool)
    previous_BS = jnp.pad(batch['target'], ((0, 0), (1, 0)))[:, :-1]
    return batch['numbers'], visible_BSL, batch['pointer'], previous_BS

  def networks(self) -> Mapping[str, Network]:
    if self.adder is None:
      return super().networks()
    frozen = Network(
      self.adder,
      lambda batch: (batch['numbers'][:, :, :2], batch['hidden'][:, :, :2]),
      lambda state: state.frozen[ADDER],
      frozen=True,
    )
    return {**super().networks(), ADDER: frozen}

  def loss(self, params: Any, mutable: Any, batch: Arrays, key: jax.Array) -> Loss:
    inputs = self.model_inputs(batch)
    outputs, mutable = self.trained(params, mutable, inputs, dropout=key)
    importance_BS = batch['importance']

    def mean(each_BS: jax.Array) -> jax.Array:
      return (importance_BS * each_BS).mean()

    bits = self.model.bits
    target_BSK = binary.to_bits(batch['target'], bits)
    number_BS = losses.sigmoid_cross_entropy(outputs['logits'], target_BSK) / bits
    right_BS = found_numbers(outputs) == batch['target']
    scalars = {'loss_number': mean(number_BS), 'accuracy': right_BS.mean()}
    if 'pointer' in batch:
      slots = batch['hidden'].shape[-1]
      target_BSL = jax.nn.one_hot(batch['pointer'], slots)
      scalars['loss_pointer'] = mean(
        losses.pointer_cross_entropy(outputs['pointer'], target_BSL)
      )
    if 'mask_logits' in outputs:
      hidden_BSL = batch['next_hidden'].astype(jnp.float32)
      mask_BS = losses.sigmoid_cross_entropy(outputs['mask_logits'], hidden_BSL)
      scalars['loss_mask'] = mean(mask_BS) / hidden_BSL.shape[-1]
    total = sum(x for name, x in scalars.items() if name.startswith('loss_'))
    return total, (mutable, scalars)

  def predict(self, state: State, batch: Arrays, key: jax.Array) -> Arrays:
    """Returns the model's outputs for true states, and the `number` (B, S)."""
    del key  # nothing is random in evaluation
    outputs = self.model.apply(state.variables, *self.model_inputs(batch))
    return outputs | {'number': found_numbers(outputs)}

  def selection_sort(self, state: State, batch: Arrays, key: jax.Array) -> Arrays:
    """Returns `items` (B, L) `sorted` (B, L), and a trace of `ops.programs`."""
    del key
    items_BL = batch['items'].astype(jnp.int32)
    numbers_BL = jnp.pad(items_BL, ((0, 0), (0, 1)), constant_values=self.end)
    steps = items_BL.shape[1]
    trace = programs.selection_sort(*self._calls(state), numbers_BL, steps)
    return trace | {'numbers': numbers_BL}

  def merge_sort(self, state: State, batch: Arrays, key: jax.Array) -> Arrays:
    """Returns `items` (B, L) `sorted` (B, L), and the trace of the last merge."""
    del key
    items_BL = batch['items'].astype(jnp.int32)
    return programs.merge_sort(*self._calls(state), items_BL, self.end, self.padding)

  def dijkstra(self, state: State, batch: Arrays, key: jax.Array) -> Arrays:
    """Returns the `distance` (B, N) of nodes from node 0 in graphs, and a trace."""
    del key
    if self.adder is None:
      raise UserError("Dijkstra's algorithm needs an adder: set task.adder and frozen")
    select, masker = self._calls(state)
    add = functools.partial(execute, self.adder, state.frozen[ADDER])
    weight_BNN = batch['weight']
    start_B = jnp.zeros(len(weight_BNN), jnp.int32)
    limits = self.end, self.infinity
    return programs.dijkstra(select, add, masker, weight_BNN, start_B, *limits)

  def prim(self, state: State, batch: Arrays, key: jax.Array) -> Arrays:
    """Returns the `total` (B,) of spanning trees of graphs, and a trace."""
    del key
    weight_BNN = batch['weight']
    start_B = jnp.zeros(len(weight_BNN), jnp.int32)
    limits = self.end, self.infinity
    return programs.prim(*self._calls(state), weight_BNN, start_B, *limits)

  def _calls(self, state: State) -> tuple[programs.Subroutine, programs.Masker]:
    """Returns the engine's subroutine and its masks, for programs."""
    variables = state.variables
    if not self.masks:
      call = functools.partial(self.model.apply, variables, method='execute')
      return call, lambda hidden_BL, _: jnp.full(hidden_BL.shape, -1.0)
    if self.model.mask is None:
      raise UserError('programs need a mask network: set task.model.mask')
    masker = functools.partial(self.model.apply, variables, method='next_mask')
    return functools.partial(execute, self.model, variables), masker


def check_numbers(name: str, numbers: np.ndarray, bits: int) -> None:
  """Raises a `UserError` for numbers that do not fit into the bits of an engine."""
  for place in zip(*((numbers < 0) | (numbers >= 2**bits)).nonzero(), strict=True):
    raise UserError(
      f'{name} {numbers.shape} has {numbers[place]}: an engine of {bits} bits knows 0'
      f' to {2**bits - 1}; set task.model.subroutine.bits to match the data'
    )


def execute(
  engine: neural_execution.Engine,
  variables: Any,
  numbers_BSL: jax.Array,
  hidden_BSL: jax.Array,
  previous_BS: jax.Array,
) -> Arrays:
  """Calls an engine that does not read the previous number."""
  del previous_BS
  return engine.apply(variables, numbers_BSL, hidden_BSL, method='execute')


def found_numbers(outputs: Arrays) -> jax.Array:
  """Returns the numbers (B, S) of logits."""
  return binary.from_bits(outputs['logits'] > 0)
