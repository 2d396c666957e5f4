"""Pretraining on pairs of texts and images by filling in masks and telling pairs apart.

Sources: arXiv:1908.02265 section 3.1 and its published code; arXiv:1909.11740 (masks in
one modality at a time).

Axes: B batch, T tokens, R regions, N regions without the global one, F features, C
classes of the detector, V vocabulary.
"""

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from typing import Any, ClassVar

import flax.core
import jax
import jax.numpy as jnp

from big_vision_like.errors import UserError, check_one_of, listed
from big_vision_like.ops import pretraining
from big_vision_like.tasks import task
from big_vision_like.tasks.task import Arrays, Frozen, Loss, State

INPUTS = (
  *('tokens', 'token_types', 'token_mask'),
  *('regions', 'locations', 'region_mask'),
)
MASKED = ('both', 'either')
FILLED = ('all', 'aligned')
MODALITIES = ('', 'text', 'image')


def words(outputs: Arrays, batch: Arrays, key: jax.Array) -> jax.Array:
  """Returns the loss of masked words."""
  return pretraining.masked_words(
    outputs['words'], batch['words'], batch['masked_words']
  )


def regions_kl(outputs: Arrays, batch: Arrays, key: jax.Array) -> jax.Array:
  """Returns the KL divergence between a detector's classes and predicted ones."""
  return pretraining.masked_regions_kl(
    outputs['regions'][:, 1:], batch['region_targets'][:, 1:], batch['masked_regions']
  )


def regions_mse(outputs: Arrays, batch: Arrays, key: jax.Array) -> jax.Array:
  """Returns the mean squared error of predicted features of regions."""
  return pretraining.masked_regions_mse(
    outputs['regions'][:, 1:], batch['features'], batch['masked_regions']
  )


def regions_nce(outputs: Arrays, batch: Arrays, key: jax.Array) -> jax.Array:
  """Returns the loss of finding the features of regions among those of others."""
  return pretraining.masked_regions_nce(
    outputs['regions'][:, 1:], batch['features'], batch['masked_regions'], key
  )


def alignment(outputs: Arrays, batch: Arrays, key: jax.Array) -> jax.Array:
  """Returns the loss of telling whether text and image belong together."""
  return pretraining.alignment(outputs['alignment'], batch['aligned'])


def contrastive(outputs: Arrays, batch: Arrays, key: jax.Array) -> jax.Array:
  """Returns the loss of finding the text of an image in the batch, and the reverse."""
  return pretraining.contrastive(
    outputs['pooled_text'], outputs['pooled_image'], batch['aligned']
  )


# Each loss, and the outputs of the model that it reads.
LOSSES: dict[str, tuple[Callable[..., jax.Array], tuple[str, ...]]] = {
  'words': (words, ('words',)),
  'regions_kl': (regions_kl, ('regions',)),
  'regions_mse': (regions_mse, ('regions',)),
  'regions_nce': (regions_nce, ('regions',)),
  'alignment': (alignment, ('alignment',)),
  'contrastive': (contrastive, ('pooled_text', 'pooled_image')),
}


@dataclasses.dataclass(frozen=True, kw_only=True)
class MultimodalPretraining(task.GradientTask):
  """Pretraining by a weighted sum of named losses.

  Batches have the inputs of `models.vilbert`, `aligned` (B,), whether text and image
  belong together, and for 'regions_kl' `region_targets` (B, R, C), the class
  distributions of the detector. `losses` gives the weight of each loss in `LOSSES`; the
  model needs heads of these names ('regions' for all losses of regions).

  In each step 15 % of the words and of the regions (`word_share`, `region_share`) are
  masked. Of these words, 80 % become `mask_id`, 10 % a random word of the vocabulary,
  and 10 % stay; `never_masked` are [PAD], [CLS] and [SEP]. Of the regions, the features
  of 90 % become zeros. The global region becomes the sum of all features, after
  masking, divided by the number of regions. With `masked='either'`, an example has
  masks in its text or in its image. With `filled='aligned'`, masks of pairs that do not
  belong together do not count (`--objective 1` of the code of arXiv:1912.02315).

  `drop_text` and `drop_image` are the shares of examples in which only the first token,
  or only an empty global region, is visible.
  """

  predicts = 'pairs'
  inputs: ClassVar[Sequence[str]] = INPUTS

  losses: Mapping[str, float] = flax.core.FrozenDict(
    {'words': 1.0, 'regions_kl': 1.0, 'alignment': 1.0}
  )
  word_share: float = 0.15
  region_share: float = 0.15
  masked: str = 'both'
  filled: str = 'all'
  drop_text: float = 0.0
  drop_image: float = 0.0
  mask_id: int = 103
  never_masked: Sequence[int] = (0, 101, 102)

  def __post_init__(self) -> None:
    check_one_of(LOSSES, **{f'losses ({name})': name for name in self.losses})
    check_one_of(MASKED, masked=self.masked)
    check_one_of(FILLED, filled=self.filled)
    if not any(weight > 0 for weight in self.losses.values()):
      raise UserError('losses are all without weight: nothing would be trained')
    for name in ('word_share', 'region_share', 'drop_text', 'drop_image'):
      if not 0.0 <= getattr(self, name) <= 1.0:
        raise UserError(f'{name}={getattr(self, name)} is not a share from 0 to 1')
    places = getattr(self.model, 'text_places', None)
    if 'contrastive' in self.losses and (places is None or len(places)):
      raise UserError(
        'the loss contrastive compares texts and images that have not seen each other:'
        ' give it a ViLBERT with text_places=() and image_places=()'
      )
    if not 0 <= self.mask_id < self.model.vocab_size:
      raise UserError(
        f'mask_id={self.mask_id} is not a token of a model with'
        f' vocab_size={self.model.vocab_size}'
      )

  def check(self, batch: dict) -> None:
    needed = [*self.inputs, 'aligned']
    if 'regions_kl' in self.losses:
      needed.append('region_targets')
    if missing := [name for name in needed if name not in batch]:
      raise UserError(
        f'batches have no {listed(missing)}, which pretraining takes; they have'
        f' {listed(batch)}'
      )
    check_inputs(batch, self.model.vocab_size)

  def model_inputs(self, batch: Arrays) -> tuple[jax.Array, ...]:
    return tuple(batch[name] for name in self.inputs)

  def prepare(self, batch: Arrays, key: jax.Array, frozen: Frozen = None) -> Arrays:
    """Returns the batch with dropped modalities and with masks, and their targets.

    `words` (B, T) and `features` (B, N, F) are what was there before, `masked_words`
    and `masked_regions` whether it counts.
    """
    batch = {k: batch[k] for k in (*INPUTS, 'aligned', 'region_targets') if k in batch}
    drop_key, either_key, words_key, regions_key = jax.random.split(key, 4)
    count = len(batch['tokens'])
    for name, share, own in zip(
      ('text', 'image'),
      (self.drop_text, self.drop_image),
      jax.random.split(drop_key),
      strict=True,
    ):
      batch |= without(name, batch, jax.random.bernoulli(own, share, (count,)))
    in_words_B = in_regions_B = jnp.ones(count, bool)
    if self.masked == 'either':
      in_words_B = jax.random.bernoulli(either_key, 0.5, (count,))
      in_regions_B = ~in_words_B
    found = self._mask_words(batch, in_words_B, words_key)
    found |= self._mask_regions(batch, in_regions_B, regions_key)
    if self.filled == 'aligned':
      aligned_B = batch['aligned'].astype(bool)
      for name in ('masked_words', 'masked_regions'):
        found[name] &= aligned_B[:, None]
    return batch | found

  def _mask_words(
    self, batch: Arrays, chosen_B: jax.Array, key: jax.Array
  ) -> dict[str, jax.Array]:
    share_key, kind_key, random_key = jax.random.split(key, 3)
    tokens_BT = batch['tokens']
    word_BT = batch['token_mask'] & chosen_B[:, None]
    for special in self.never_masked:
      word_BT &= tokens_BT != special
    drawn_BT = jax.random.bernoulli(share_key, self.word_share, tokens_BT.shape)
    masked_BT = drawn_BT & word_BT
    kind_BT = jax.random.uniform(kind_key, tokens_BT.shape)
    random_BT = jax.random.randint(
      random_key, tokens_BT.shape, 0, self.model.vocab_size, tokens_BT.dtype
    )
    new_BT = jnp.where(kind_BT < 0.8, self.mask_id, random_BT)
    new_BT = jnp.where(masked_BT & (kind_BT < 0.9), new_BT, tokens_BT)
    return {'tokens': new_BT, 'words': tokens_BT, 'masked_words': masked_BT}

  def _mask_regions(
    self, batch: Arrays, chosen_B: jax.Array, key: jax.Array
  ) -> dict[str, jax.Array]:
    share_key, kind_key = jax.random.split(key)
    features_BNF = batch['regions'][:, 1:]
    real_BN = batch['region_mask'][:, 1:]
    drawn_BN = jax.random.bernoulli(share_key, self.region_share, real_BN.shape)
    masked_BN = drawn_BN & real_BN & chosen_B[:, None]
    zero_BN = masked_BN & jax.random.bernoulli(kind_key, 0.9, real_BN.shape)
    kept_BNF = jnp.where((real_BN & ~zero_BN)[..., None], features_BNF, 0.0)
    number_B = jnp.maximum(real_BN.sum(axis=1), 1)
    whole_BF = kept_BNF.sum(axis=1) / number_B[:, None]
    regions_BRF = jnp.concatenate([whole_BF[:, None], kept_BNF], axis=1)
    return {
      'regions': regions_BRF.astype(batch['regions'].dtype),
      'features': features_BNF,
      'masked_regions': masked_BN,
    }

  def loss(self, params: Any, mutable: Any, batch: Arrays, key: jax.Array) -> Loss:
    dropout_key, loss_key = jax.random.split(key)
    outputs, mutable = self.trained(
      params, mutable, self.model_inputs(batch), dropout=dropout_key
    )
    values = self.values(outputs, batch, loss_key)
    scalars = {f'loss_{name}': value for name, value in values.items()}
    total = sum(self.losses[name] * value for name, value in values.items())
    return total, (mutable, scalars | accuracies(outputs, batch))

  def values(self, outputs: Arrays, batch: Arrays, key: jax.Array) -> Arrays:
    """Returns each loss, without its weight, for a prepared batch."""
    found = {}
    for name in self.losses:
      function, needed = LOSSES[name]
      if missing := [output for output in needed if output not in outputs]:
        raise UserError(
          f'the loss {name} needs the output {missing[0]!r} of the model, which has'
          f' {listed(outputs)}: add a head of this name'
        )
      found[name] = function(outputs, batch, key)
    return found

  def predict(
    self, state: State, batch: Arrays, key: jax.Array, hidden: str = ''
  ) -> Arrays:
    """Returns the model's outputs, and `logits` (B, 2) of pairs: class 0 is aligned.

    `hidden` is a modality, 'text' or 'image', that the model has to do without.
    """
    del key  # nothing is random in evaluation
    check_one_of(MODALITIES, hidden=hidden)
    if hidden:
      batch = batch | without(hidden, batch, jnp.ones(len(batch['tokens']), bool))
    outputs = self.model.apply(state.variables, *self.model_inputs(batch))
    if 'alignment' not in outputs:
      return outputs
    return outputs | {'logits': outputs['alignment']}

  def match(self, state: State, batch: Arrays, key: jax.Array) -> Arrays:
    """Returns how well text and image match, `score` (B,), for zero-shot retrieval.

    It is the difference of the logits of aligned and not, which ranks pairs as the
    probability does.
    """
    logits_B2 = self.predict(state, batch, key)['logits']
    return {'score': logits_B2[:, 0] - logits_B2[:, 1]}

  def fill(self, state: State, batch: Arrays, key: jax.Array) -> Arrays:
    """Masks examples as in training and fills in the masks.

    Returns counts (B,): `words`, `right_words`, `regions`, `right_regions`, where a
    region is right if its most probable class is that of the detector.
    """
    batch = self.prepare(batch, key)
    outputs = self.model.apply(state.variables, *self.model_inputs(batch))
    return counts(outputs, batch)


def without(name: str, batch: Arrays, hidden_B: jax.Array) -> Arrays:
  """Returns the arrays of a batch that change if a modality of examples is hidden."""
  if name == 'text':
    first_1T = jnp.arange(batch['token_mask'].shape[1])[None] == 0
    seen_BT = batch['token_mask'] & (first_1T | ~hidden_B[:, None])
    return {'token_mask': seen_BT}
  first_1R = jnp.arange(batch['region_mask'].shape[1])[None] == 0
  seen_BR = batch['region_mask'] & (first_1R | ~hidden_B[:, None])
  regions_BRF = jnp.where(hidden_B[:, None, None], 0.0, batch['regions'])
  return {'region_mask': seen_BR, 'regions': regions_BRF.astype(batch['regions'].dtype)}


def counts(outputs: Arrays, batch: Arrays) -> Arrays:
  """Returns numbers of masks and of right fillings of each example, (B,)."""
  found = {}
  if 'words' in outputs:
    masked_BT = batch['masked_words']
    right_BT = outputs['words'].argmax(axis=-1) == batch['words']
    found['words'] = masked_BT.sum(axis=1)
    found['right_words'] = (right_BT & masked_BT).sum(axis=1)
  if 'regions' in outputs and 'region_targets' in batch:
    masked_BN, target_BNC = batch['masked_regions'], batch['region_targets'][:, 1:]
    logits_BNC = outputs['regions'][:, 1:]
    right_BN = logits_BNC.argmax(axis=-1) == target_BNC.argmax(axis=-1)
    found['regions'] = masked_BN.sum(axis=1)
    found['right_regions'] = (right_BN & masked_BN).sum(axis=1)
  return found


def accuracies(outputs: Arrays, batch: Arrays) -> Arrays:
  """Returns the shares of right fillings, and of pairs told right, in a batch."""
  total = {name: x.sum() for name, x in counts(outputs, batch).items()}
  found = {
    f'{name}_accuracy': total[f'right_{name}'] / jnp.maximum(total[name], 1)
    for name in ('words', 'regions')
    if name in total
  }
  if 'alignment' in outputs:
    told_B = outputs['alignment'].argmax(axis=-1) == 0
    found['alignment_accuracy'] = (told_B == batch['aligned'].astype(bool)).mean()
  return found


def check_inputs(batch: Mapping[str, Any], vocab_size: int) -> None:
  """Raises for texts and regions (NumPy) that no model can encode."""
  tokens_BT = batch['tokens']
  wrong_BT = (tokens_BT < 0) | (tokens_BT >= vocab_size)
  for row, column in zip(*wrong_BT.nonzero(), strict=True):
    raise UserError(
      f'tokens {tokens_BT.shape} have the id {tokens_BT[row, column]} in row {row}: the'
      f' model knows 0 to {vocab_size - 1}; set task.model.vocab_size to match the'
      ' vocabulary'
    )
  for name, what in (('token_mask', 'no token'), ('region_mask', 'no region')):
    for row in (~batch[name].astype(bool).any(axis=-1)).nonzero()[0]:
      which = f' (id {batch["id"][row]})' if 'id' in batch else ''
      raise UserError(
        f'{name} shows {what} in row {row}{which}: leave such examples out of the data'
      )
  if batch['regions'].shape[:2] != batch['locations'].shape[:2]:
    raise UserError(
      f'regions {batch["regions"].shape} and locations {batch["locations"].shape} are'
      ' not of the same regions'
    )
