"""Golden files of the Transformer of arXiv:1706.03762."""

import jax
import jax.numpy as jnp
import numpy as np

from big_vision_like import optim
from big_vision_like.models import transformer
from big_vision_like.ops import attention, losses, positions, search
from big_vision_like.tasks import seq2seq
from big_vision_like.weights import torch_transformer, tree
from tools.golden.common import (
  EXACT,
  FLOAT,
  LOGITS,
  NUMBER,
  TOKENS,
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


def encoder_decoder(description: Fields, arrays: Fields) -> Results:
  """Computes layers, attention, logits, losses, gradients and greedily found ids."""
  model = transformer.Transformer(
    vocab_size=description['vocab'],
    width=description['d_model'],
    depth=description['encoder_layers'],
    decoder_depth=description['decoder_layers'],
    num_heads=description['heads'],
    mlp_dim=description['d_ff'],
    dropout=0.0,
    norm='pre' if description['pre_norm'] else 'post',
    final_norm=description['final_norm'],
    epsilon=description['layernorm_eps'],
    pad_id=description['pad_id'],
    mlp_args=dict(activation=description['activation']),
    dtype=float_name(),
  )
  params = torch_transformer.from_torch(select(arrays, 'param/'), model.num_heads)
  params = widened(params)
  source_BS, target_BT = arrays['input/src'], arrays['input/tgt_out']
  inputs = source_BS, arrays['input/tgt_in']
  fit_parameters(model, params, *inputs)
  smoothing = description['label_smoothing']
  forms = {
    'smooth_v_minus_1': (smoothing, 't2t'),
    'smooth_uniform_v': (smoothing, 'torch'),
    'smooth_kl_v_minus_2': (smoothing, 'annotated'),
    'nll': (0.0, 't2t'),
  }
  counted_BT = target_BT != model.pad_id

  def all_losses(params: tree.Tree) -> tuple[jax.Array, tuple]:
    outputs, modules = captured(model, {'params': params}, *inputs)
    values = {}
    for name, form in forms.items():
      loss_BT = losses.smoothed_cross_entropy(outputs['logits'], target_BT, *form)
      values[name] = jnp.where(counted_BT, loss_BT, 0.0).sum() / counted_BT.sum()
    return values['smooth_v_minus_1'], (values, outputs, modules)

  _, (values, outputs, modules), gradients = loss_and_gradients(all_losses, params)
  results = {
    'output/memory': (outputs['memory'], TOKENS),
    'output/logits': (outputs['logits'], LOGITS),
    'output/encoder_layer0_attn_probs': (
      modules['encoder/block_0/attention/probs'],
      Tolerance(absolute=1e-5),
    ),
  }
  for stack, depth in ('encoder', model.depth), ('decoder', model.decoder_depth):
    for i in range(depth):
      results[f'output/{stack}_layer{i}'] = (modules[f'{stack}/block_{i}'], TOKENS)
  count = len(arrays.get('output/pos_encoding', ()))
  table_ND = positions.sinusoid(jnp.arange(count), model.width)
  results['output/pos_encoding'] = (table_ND, FLOAT)

  results |= {f'output/loss_{name}': (x, NUMBER) for name, x in values.items()}
  results |= gradient_results(gradients, torch_transformer.to_torch)
  if 'output/greedy8' in arrays:
    results['output/greedy8'] = (
      greedy_ids(model, description, params, source_BS, arrays['output/greedy8']),
      EXACT,
    )
  # One query of 64 numbers whose products with two keys are 112 and 96.
  q_64 = jnp.full(64, 2.0)
  k_M64 = jnp.stack([jnp.full(64, 112 / 128), jnp.full(64, 96 / 128)])
  p_1112 = attention.probabilities(q_64[None, None, None], k_M64[None, :, None])
  return results | {
    'output/illustrated_scores': (k_M64 @ q_64 / 8, FLOAT),
    'output/illustrated_softmax': (p_1112[0, 0, 0], FLOAT),
    'output/noam_lr_512_4000': (
      optim.noam(512, 4000)(np.array([1, 100, 4000, 100_000]) - 1),
      Tolerance(relative=1e-6),
    ),
  }


def greedy_ids(
  model: transformer.Transformer,
  description: Fields,
  params: tree.Tree,
  source_BS: np.ndarray,
  wanted_BN: np.ndarray,
) -> np.ndarray:
  """Returns BOS and the ids of greedy search, in as many tokens as wanted."""
  task = seq2seq.Seq2Seq(
    model=model,
    optimizer=optim.adamw(1e-3),
    bos_id=description['bos_id'],
    eos_id=description['eos_id'],
    extra_length=wanted_BN.shape[1] - 1 - source_BS.shape[1],
    never=(),
  )
  ids_BN = jax.jit(task.search_greedy)({'params': params}, source_BS)
  return np.pad(ids_BN, ((0, 0), (1, 0)), constant_values=task.bos_id)


def searched(description: Fields, arrays: Fields) -> Results:
  """Runs beam search on a table of logits; in the file, best sequences come last."""
  table_BIPV = jnp.asarray(arrays['input/logit_table'])
  beams, bos_id = description['beam_size'], description['bos_id']
  batch = len(table_BIPV)

  def step(token_b: jax.Array, index: jax.Array, cache: None) -> tuple[jax.Array, None]:
    example_b = jnp.repeat(jnp.arange(batch), beams)
    return table_BIPV[example_b, index, token_b], None

  ids_BKN, scores_BK = search.beam_search(
    step,
    None,
    jnp.full((batch,), bos_id),
    description['max_decode_len'] - 1,
    description['eos_id'],
    beams,
    description['alpha'],
  )
  sequences_BKN = jnp.pad(ids_BKN, ((0, 0), (0, 0), (1, 0)), constant_values=bos_id)
  return {
    'output/sequences': (sequences_BKN[:, ::-1], EXACT),
    'output/scores': (scores_BK[:, ::-1], Tolerance(absolute=1e-4)),
  }


CHECKS = (
  Check(
    encoder_decoder,
    'torch.nn.Transformer layers',
    fields=('encoder_layers', 'decoder_layers', 'pre_norm'),
  ),
  Check(
    searched,
    'flax examples/wmt decode.py',
    fields=('beam_size', 'alpha', 'max_decode_len'),
  ),
)
