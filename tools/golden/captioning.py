"""Golden files of Show, Attend and Tell, arXiv:1502.03044, in the tutorial's form."""

from collections.abc import Mapping

import jax
import jax.numpy as jnp
import numpy as np

from big_vision_like.errors import UserError
from big_vision_like.models import captioning
from big_vision_like.tasks import captioning as tasks
from big_vision_like.weights import captioning as names
from big_vision_like.weights import tree
from tools.golden.common import (
  LAYER,
  NUMBER,
  Check,
  Fields,
  Results,
  choice,
  float_name,
  gradient_results,
  loss_and_gradients,
  select,
  widened,
)

GATES = 'i,f,g,o'


def attend_and_tell(description: Fields, arrays: Fields) -> Results:
  """Computes logits, attention, both losses and gradients from cells and captions."""
  choice(description, 'lstm_gate_order', {GATES: GATES})
  weight = doubly_weight(description['loss'])
  decoder = captioning.RecurrentDecoder(
    vocab_size=description['vocab'],
    word_width=description['embed_dim'],
    units=description['decoder_dim'],
    attention_width=description['attention_dim'],
    gate='vector',
    dropout=0.0,
    dtype=float_name(),
  )
  flat = names.decoder_from_torch(select(arrays, 'param/'))
  params = widened(tree.unflatten(flat))
  cells_BhwD = np.asarray(arrays['input/features'], float_name())
  target_BT, input_BT = split(description, arrays)

  def loss(given: tree.Tree) -> tuple[jax.Array, tuple]:
    outputs = decoder.apply(
      {'params': given['params']}, captioning.flat(given['cells']), input_BT
    )
    cross_entropy = tasks.word_loss(outputs['logits'], target_BT)[0]
    doubly = tasks.doubly_stochastic(outputs['attention'])
    return cross_entropy + weight * doubly, (outputs, cross_entropy, doubly)

  _, (outputs, cross_entropy, doubly), gradients = loss_and_gradients(
    loss, {'params': params, 'cells': cells_BhwD}
  )
  results = {
    'output/logits': (outputs['logits'], NUMBER),
    'output/alphas': (outputs['attention'], NUMBER),
    'output/cross_entropy': (cross_entropy, NUMBER),
    'output/doubly_stochastic': (doubly, NUMBER),
  }
  results |= gradient_results(gradients['params'], both_biases)
  return results | {'grad/features': (gradients['cells'], LAYER)}


def both_biases(gradients: tree.Tree) -> dict[str, np.ndarray]:
  """Returns gradients by the reference's names; its two biases have the same."""
  found = names.decoder_to_torch(tree.flatten(gradients))
  return found | {'decode_step.bias_hh': found['decode_step.bias_ih']}


def split(description: Fields, arrays: Fields) -> tuple[jax.Array, jax.Array]:
  """Returns the words to predict and the words read, padded with zeros, (B, T) each."""
  ids: Mapping[str, int] = description['ids']
  caption_BT, length_B = arrays['input/captions'], arrays['input/lengths']
  if ids['pad'] != 0:
    raise UserError(f'padding has the id {ids["pad"]}, but ours is always 0')
  steps = int(length_B.max()) - 1
  live_BT = jnp.arange(steps)[None] < length_B[:, None] - 1
  target_BT = jnp.where(live_BT, caption_BT[:, 1 : steps + 1], 0)
  return target_BT, jnp.where(live_BT, caption_BT[:, :steps], 0)


def doubly_weight(text: str) -> float:
  """Returns the weight of the doubly stochastic term in a description of the loss."""
  start, _, rest = text.partition(' + ')
  number, _, term = rest.partition(' * ')
  try:
    weight = float(number)
  except ValueError:
    weight = None
  if not start.startswith('cross_entropy') or 'alpha' not in term or weight is None:
    raise UserError(f'the loss {text!r} is not cross_entropy + NUMBER * alpha term')
  return weight


CHECKS = (
  Check(
    attend_and_tell,
    'Show, Attend and Tell',
    fields=('attention_dim', 'embed_dim', 'decoder_dim', 'lstm_gate_order'),
  ),
)
