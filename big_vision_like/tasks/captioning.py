"""Captioning: a text about an image, word by word.

Axes: B batch, H W image, C channels, h w map of the model, N = h * w cells, T words, V
vocabulary, L found words, K beams.
"""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from big_vision_like.errors import UserError
from big_vision_like.models import captioning, transformer
from big_vision_like.ops import images, losses, precision, search
from big_vision_like.tasks import task
from big_vision_like.tasks.task import Arrays, Frozen, Loss, State

# The collection of the moving average of the mean cost of a word.
BASELINE = 'baseline'
# Keeps logarithms of probabilities finite.
TINY = 1e-20


@dataclasses.dataclass(frozen=True, kw_only=True)
class Captioning(task.GradientTask):
  """Captioning by the cross-entropy of words, with greedy and beam search.

  Batches hold `image` (B, H, W, C), uint8 or normalized, and int `target` (B, T): ids
  of words that end with EOS and are padded with 0. The decoder reads the target after
  BOS, without its last word.

  `doubly` is the weight of the doubly stochastic term (arXiv:1502.03044 equation 14).
  For hard attention, drawn locations are trained by REINFORCE as in the authors' code:
  the cost of a word minus a moving average of the mean cost (factor `baseline_decay`)
  times the log probability of its location, weighted by `reinforce`; `entropy` is the
  weight of the attention's entropy, a bonus.

  Found captions have at most `length` words with EOS, and none of the ids in `never`.
  Beam search divides log probabilities by ((5 + n) / 6)^alpha.
  """

  predicts = 'captions'
  tiny = dict(length=6)

  label_smoothing: float = 0.0
  doubly: float = 0.0
  reinforce: float = 0.1
  entropy: float = 0.002
  baseline_decay: float = 0.9
  bos_id: int = 1
  eos_id: int = 2
  beams: int = 3
  alpha: float = 0.0
  length: int = 50
  never: Sequence[int] = (0,)
  mean: float | Sequence[float] = (0.485, 0.456, 0.406)
  std: float | Sequence[float] = (0.229, 0.224, 0.225)

  def __post_init__(self) -> None:
    if self.length < 1 or self.beams < 1:
      raise UserError(f'length={self.length} and beams={self.beams} must be positive')
    if min(self.doubly, self.reinforce, self.entropy) < 0:
      raise UserError(
        f'doubly={self.doubly}, reinforce={self.reinforce} and entropy={self.entropy}'
        ' are weights of losses: they must not be negative'
      )
    if self.doubly and not self.recurrent:
      raise UserError(
        f'doubly={self.doubly} is for a RecurrentDecoder: a'
        f' {type(self.model.decoder).__name__} has several attentions; leave it at 0'
      )

  @property
  def images(self) -> images.Normalization:
    return images.Normalization(self.mean, self.std)

  @property
  def num_classes(self) -> None:
    """None: labels of images are not words."""
    return None

  def networks(self) -> Mapping[str, task.Network]:
    return {
      'model': task.Network(self.model, self.model_inputs, self._variables, self.images)
    }

  @property
  def recurrent(self) -> bool:
    """Whether the decoder returns its attention to the cells."""
    return isinstance(self.model.decoder, captioning.RecurrentDecoder)

  @property
  def hard(self) -> bool:
    """Whether locations are drawn in training."""
    return self.recurrent and self.model.decoder.hard

  def check(self, batch: dict) -> None:
    for name in ('image', 'target'):
      if name not in batch:
        raise UserError(
          f'batches have no {name!r}, only {", ".join(batch)}: captions become'
          ' `target` by a transform of data.transforms.captions'
        )
    ids, vocabulary = batch['target'], self.model.vocab_size
    for row, column in zip(*((ids < 0) | (ids >= vocabulary)).nonzero(), strict=True):
      raise UserError(
        f'target {ids.shape} has the word id {ids[row, column]} in row {row}: the model'
        f' knows 0 to {vocabulary - 1}; set vocab_size of task.model.decoder to the'
        ' size of the vocabulary'
      )
    for row in (ids[:, 0] == 0).nonzero()[0]:
      which = f' (id {batch["id"][row]})' if 'id' in batch else ''
      raise UserError(
        f'the caption in row {row} of {ids.shape}{which} is empty: leave such captions'
        ' out of the data'
      )
    last = np.take_along_axis(ids, (ids != 0).sum(axis=1, keepdims=True) - 1, axis=1)
    for row in (last[:, 0] != self.eos_id).nonzero()[0]:
      raise UserError(
        f'the caption in row {row} of {ids.shape} ends with the id {last[row, 0]}, not'
        f' with eos_id={self.eos_id}: set eos_id and bos_id of the task to the ids of'
        ' <end> and <start> in the vocabulary'
      )

  def words_read(self, target_BT: jax.Array) -> jax.Array:
    """Returns the words that the decoder reads to predict the target, (B, T)."""
    shifted_BT = jnp.pad(target_BT, ((0, 0), (1, 0)))[:, :-1]
    first_1T = jnp.arange(target_BT.shape[1])[None] == 0
    read_BT = jnp.where(first_1T, self.bos_id, shifted_BT)
    return jnp.where(target_BT != 0, read_BT, 0)

  def model_inputs(self, batch: Arrays) -> tuple[jax.Array, ...]:
    return self.normalized(batch), self.words_read(batch['target'])

  def normalized(self, batch: Arrays) -> jax.Array:
    """Returns the images as the model sees them."""
    return images.normalize(batch['image'], self.mean, self.std)

  def prepare(self, batch: Arrays, key: jax.Array, frozen: Frozen = None) -> Arrays:
    """Normalizes images."""
    del key, frozen
    return batch | {'image': self.normalized(batch)}

  def init_variables(self, key: jax.Array, batch: Arrays) -> tuple[Any, Any]:
    """Adds the baseline of REINFORCE to the model's variables."""
    params, mutable = super().init_variables(key, batch)
    if self.hard:
      mutable = {**mutable, BASELINE: {'cost': jnp.zeros(())}}
    return params, mutable

  def loss(self, params: Any, mutable: Any, batch: Arrays, key: jax.Array) -> Loss:
    own = {name: x for name, x in mutable.items() if name != BASELINE}
    rngs = {'dropout': key, captioning.LOCATIONS: jax.random.fold_in(key, 1)}
    inputs = self.model_inputs(batch)
    outputs, own = self.trained(params, own, inputs, **rngs)
    target_BT = batch['target']
    loss, cost_BT = word_loss(outputs['logits'], target_BT, self.label_smoothing)
    counted_BT = target_BT != 0
    hits_BT = (outputs['logits'].argmax(axis=-1) == target_BT) & counted_BT
    scalars = {
      'cross_entropy': loss,
      'accuracy': hits_BT.sum() / counted_BT.sum(),
      'weight': counted_BT.sum(dtype=jnp.float32),
    }
    if self.doubly:
      scalars['doubly_stochastic'] = doubly_stochastic(outputs['attention'])
      loss += self.doubly * scalars['doubly_stochastic']
    if self.hard:
      baseline = mutable[BASELINE]['cost']
      gain, entropy = location_loss(outputs, cost_BT - baseline, counted_BT)
      loss += self.reinforce * gain - self.entropy * entropy
      new = jax.lax.stop_gradient(jnp.where(counted_BT, cost_BT, 0.0).sum())
      new /= jnp.maximum(counted_BT.sum(), 1)
      decay = self.baseline_decay
      own = {**own, BASELINE: {'cost': decay * baseline + (1 - decay) * new}}
      scalars |= {'entropy': entropy, 'baseline': baseline}
    return loss, (own, scalars)

  def predict(self, state: State, batch: Arrays, key: jax.Array) -> Arrays:
    """Returns `logits` (B, T, V) of given captions, and `nll` and `tokens` (B,)."""
    del key  # nothing is random in evaluation
    outputs = self.model.apply(self._variables(state), *self.model_inputs(batch))
    _, cost_BT = word_loss(outputs['logits'], batch['target'])
    return outputs | {
      'nll': cost_BT.sum(axis=1),
      'tokens': (batch['target'] != 0).sum(axis=1),
    }

  def greedy(self, state: State, batch: Arrays, key: jax.Array) -> Arrays:
    """Returns the `ids` (B, L) of captions found by greedy search."""
    del key
    return {'ids': self.search_greedy(self._variables(state), self.normalized(batch))}

  def caption(
    self, state: State, batch: Arrays, key: jax.Array, beams: int | None = None
  ) -> Arrays:
    """Returns the best `ids` (B, L) and all `beams` (B, K, L), best first.

    `scores` (B, K) are the scores of the beams; `beams` replaces the task's number.
    """
    del key
    beams_BKL, scores_BK = self.search_beams(
      self._variables(state), self.normalized(batch), beams or self.beams
    )
    return {'ids': beams_BKL[:, 0], 'beams': beams_BKL, 'scores': scores_BK}

  def look(self, state: State, batch: Arrays, key: jax.Array) -> Arrays:
    """Returns `ids` of greedy search, and their `attention` to the map (B, L, h, w)."""
    found = self.greedy(state, batch, key)
    attention_BLhw = self.model.looking(
      self._variables(state), self.normalized(batch), self.words_read(found['ids'])
    )
    return found | {'attention': attention_BLhw}

  def search_greedy(self, variables: Any, image_BHWC: jax.Array) -> jax.Array:
    """Runs greedy search on normalized images: returns ids (B, L)."""
    step, cache = self.model.searching(variables, image_BHWC, 1, self.length)
    first_B = jnp.full(len(image_BHWC), self.bos_id)
    return search.greedy(step, cache, first_B, self.length, self.eos_id, self.never)

  def search_beams(
    self, variables: Any, image_BHWC: jax.Array, beams: int
  ) -> tuple[jax.Array, jax.Array]:
    """Runs beam search: returns ids (B, K, L), best first, and scores (B, K)."""
    step, cache = self.model.searching(variables, image_BHWC, beams, self.length)
    return search.beam_search(
      step,
      cache,
      jnp.full(len(image_BHWC), self.bos_id),
      self.length,
      self.eos_id,
      beams,
      self.alpha,
      transformer.reorder,
      self.never,
    )

  def _variables(self, state: State) -> Any:
    """Returns the model's own variables."""
    return {name: x for name, x in state.variables.items() if name != BASELINE}


def word_loss(
  logits_BTV: jax.Array, target_BT: jax.Array, smoothing: float = 0.0
) -> tuple[jax.Array, jax.Array]:
  """Returns the mean cross-entropy of words, and that of each, zero for padding."""
  counted_BT = target_BT != 0
  cost_BT = losses.smoothed_cross_entropy(logits_BTV, target_BT, smoothing, 'torch')
  cost_BT = jnp.where(counted_BT, cost_BT, 0.0)
  return cost_BT.sum() / jnp.maximum(counted_BT.sum(), 1), cost_BT


def doubly_stochastic(attention_BTN: jax.Array) -> jax.Array:
  """Returns the mean over images and cells of (1 - sum_t alpha)^2 (equation 14)."""
  return jnp.square(1.0 - attention_BTN.sum(axis=1)).mean()


def location_loss(
  outputs: Arrays, advantage_BT: jax.Array, counted_BT: jax.Array
) -> tuple[jax.Array, jax.Array]:
  """Returns the REINFORCE loss of drawn locations, and the entropy of attention.

  Both are means over words. `advantage_BT` is the cost of a word minus the baseline;
  no gradient flows through it (equation 11). Images without drawn locations count as
  zero in the first.
  """
  attention_BTN = precision.at_least_float32(outputs['attention'])
  log_BTN = jnp.log(jnp.maximum(attention_BTN, TINY))
  log_BT = (jax.lax.stop_gradient(outputs['seen']) * log_BTN).sum(axis=-1)
  words = jnp.maximum(counted_BT.sum(), 1)
  drawn_BT = counted_BT & outputs['drawn'][:, None]
  gain_BT = jax.lax.stop_gradient(advantage_BT) * log_BT
  entropy_BT = -(attention_BTN * log_BTN).sum(axis=-1)
  gain = jnp.where(drawn_BT, gain_BT, 0.0).sum() / words
  return gain, jnp.where(counted_BT, entropy_BT, 0.0).sum() / words
