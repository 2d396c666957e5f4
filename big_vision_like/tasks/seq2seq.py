"""Sequence-to-sequence learning.

Axes: B batch, S source tokens, T target tokens, N found tokens, K beams, V vocabulary.
"""

import dataclasses
import functools
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp

from big_vision_like.errors import UserError, check_one_of
from big_vision_like.models import transformer
from big_vision_like.ops import losses, search
from big_vision_like.tasks import task
from big_vision_like.tasks.task import Arrays, Loss, State

PACKED = ('source_segment', 'target_segment', 'source_position', 'target_position')


@dataclasses.dataclass(frozen=True, kw_only=True)
class Seq2Seq(task.GradientTask):
  """Sequence-to-sequence training by cross-entropy, with greedy and beam search.

  Batches hold int `source` (B, S) and `target` (B, T): ids that end with EOS and are
  padded with 0; packed batches also hold segments and positions (see `input.packing`).
  The decoder reads the target shifted right, after BOS. `smoothing_form` is an argument
  of `losses.smoothed_cross_entropy`. Found targets have at most `extra_length` more
  tokens than the source's row, and none of the ids in `never` (padding).
  """

  predicts = 'sequences'
  tiny = dict(extra_length=4)

  label_smoothing: float = 0.1
  smoothing_form: str = 't2t'
  bos_id: int = 1
  eos_id: int = 2
  beams: int = 4
  alpha: float = 0.6
  extra_length: int = 50
  never: Sequence[int] = (0,)

  def __post_init__(self) -> None:
    check_one_of(losses.SMOOTHINGS, smoothing_form=self.smoothing_form)

  def check(self, batch: dict) -> None:
    vocabulary, pad_id = self.model.vocab_size, self.model.pad_id
    for name in 'source', 'target':
      ids = batch[name]
      for row, column in zip(*((ids < 0) | (ids >= vocabulary)).nonzero(), strict=True):
        raise UserError(
          f'{name} {ids.shape} has the token id {ids[row, column]} in row {row}: the'
          f' model knows 0 to {vocabulary - 1}; set task.model.vocab_size to match the'
          ' data'
        )
    for row in (batch['source'] == pad_id).all(axis=1).nonzero()[0]:
      which = f' (id {batch["id"][row]})' if 'id' in batch else ''
      raise UserError(
        f'the source in row {row} of {batch["source"].shape}{which} is empty: leave'
        ' such pairs out of the data'
      )

  def model_inputs(self, batch: Arrays) -> tuple[jax.Array, ...]:
    target_BT = batch['target']
    shifted_BT = jnp.pad(target_BT, ((0, 0), (1, 0)))[:, :-1]
    if 'target_segment' not in batch:
      first_1T = jnp.arange(target_BT.shape[1])[None] == 0
      return batch['source'], jnp.where(first_1T, self.bos_id, shifted_BT)
    first_BT = (batch['target_position'] == 0) & (batch['target_segment'] != 0)
    inputs_BT = jnp.where(first_BT, self.bos_id, shifted_BT)
    return batch['source'], inputs_BT, *(batch[name] for name in PACKED)

  def loss(self, params: Any, mutable: Any, batch: Arrays, key: jax.Array) -> Loss:
    inputs = self.model_inputs(batch)
    outputs, mutable = self.trained(params, mutable, inputs, dropout=key)
    logits_BTV, target_BT = outputs['logits'], batch['target']
    counted_BT = target_BT != self.model.pad_id
    tokens = counted_BT.sum(dtype=jnp.float32)

    def mean(values_BT: jax.Array) -> jax.Array:
      return jnp.where(counted_BT, values_BT, 0.0).sum() / jnp.maximum(tokens, 1.0)

    loss_BT = losses.smoothed_cross_entropy(
      logits_BTV, target_BT, self.label_smoothing, self.smoothing_form
    )
    hits_BT = logits_BTV.argmax(axis=-1) == target_BT
    return mean(loss_BT), (mutable, {'accuracy': mean(hits_BT), 'weight': tokens})

  def predict(self, state: State, batch: Arrays, key: jax.Array) -> Arrays:
    """Returns target `logits` (B, T, V), and `nll` and `tokens` (B,)."""
    del key  # nothing is random in evaluation
    outputs = self.model.apply(state.variables, *self.model_inputs(batch))
    counted_BT = batch['target'] != self.model.pad_id
    nll_BT = losses.smoothed_cross_entropy(outputs['logits'], batch['target'], 0.0)
    return outputs | {
      'nll': jnp.where(counted_BT, nll_BT, 0.0).sum(axis=1),
      'tokens': counted_BT.sum(axis=1),
    }

  def greedy(self, state: State, batch: Arrays, key: jax.Array) -> Arrays:
    """Returns `ids` (B, N) found by greedy search."""
    del key
    return {'ids': self.search_greedy(state.variables, one_source(batch))}

  def translate(self, state: State, batch: Arrays, key: jax.Array) -> Arrays:
    """Returns the best target `ids` (B, N) and all `beams` (B, K, N), best first.

    `scores` (B, K) are the scores of the beams.
    """
    del key
    beams_BKN, scores_BK = self.search_beams(state.variables, one_source(batch))
    return {'ids': beams_BKN[:, 0], 'beams': beams_BKN, 'scores': scores_BK}

  def search_greedy(self, variables: Any, source_BS: jax.Array) -> jax.Array:
    """Runs greedy search: returns ids (B, N)."""
    step, cache, first_B, length = self._start(variables, source_BS, beams=1)
    return search.greedy(step, cache, first_B, length, self.eos_id, self.never)

  def search_beams(
    self, variables: Any, source_BS: jax.Array
  ) -> tuple[jax.Array, jax.Array]:
    """Runs beam search: returns ids (B, K, N), best first, and scores (B, K)."""
    step, cache, first_B, length = self._start(variables, source_BS, self.beams)
    return search.beam_search(
      step,
      cache,
      first_B,
      length,
      self.eos_id,
      self.beams,
      self.alpha,
      transformer.reorder,
      self.never,
    )

  def _start(
    self, variables: Any, source_BS: jax.Array, beams: int
  ) -> tuple[Callable[..., Any], Any, jax.Array, int]:
    """Returns a search's step, the decoder's cache, BOS and the maximum length."""
    batch, length = len(source_BS), source_BS.shape[1] + self.extra_length
    if self.model.positions == 'learned':
      length = min(length, self.model.max_length)
    memory_BSD = self.model.apply(variables, source_BS, method='encode')
    # A call without tokens makes the cache, with keys and values of the source only.
    _, start = self.model.apply(
      variables,
      jnp.zeros((batch * beams, 0), jnp.int32),
      memory_BSD,
      source_BS,
      cache_length=length,
      method='decode',
      mutable=['cache'],
    )
    next_logits = functools.partial(
      self.model.apply, method='next_logits', mutable=['cache']
    )

    def step(token_b: jax.Array, index: jax.Array, cache: Any) -> tuple[jax.Array, Any]:
      logits_bV, changed = next_logits(
        {**variables, 'cache': cache}, token_b, index, memory_BSD, source_BS, length
      )
      return logits_bV, changed['cache']

    return step, start['cache'], jnp.full((batch,), self.bos_id), length


def one_source(batch: Arrays) -> jax.Array:
  """Returns the sources (B, S) to search targets for, one per row."""
  if 'source_segment' in batch:
    raise UserError('packed rows hold several sources: a search needs one in each row')
  return batch['source']
