"""Attention of a vision transformer (arXiv:2010.11929, section 4.5).

Tokens are ordered as registers, if any, then leading tokens (of the class, of
distillation), if any, then patches. `num_prefix` counts the tokens before the patches.
The rollout of a model is

  probs_LBHNN = stack_attention(intermediates)
  leading = len(model.leading)
  output_BN = output_weights(intermediates, model.pool, model.registers, leading)
  rollout_BP = rollout(probs_LBHNN, output_BN, num_prefix=model.registers + leading)

Axes: L layers, B images, H heads, N tokens, M tokens attended to, P patch tokens, h w
patch grid.
"""

import re
from collections.abc import Mapping
from typing import Any

import numpy as np

from big_vision_like.errors import UserError


def stack_attention(
  intermediates: Mapping[str, Any], stack: str = 'encoder', module: str = 'attention'
) -> np.ndarray:
  """Returns the sown attention probabilities of all blocks, (L, B, H, N, M) float32.

  `intermediates` is the collection of that name, of a model with a `stack` of blocks.
  Blocks are unrolled (`block_0`, `block_1`, ...: one (B, H, N, M) each) or scanned
  (`blocks`: one (L, B, H, N, M)). Their `module` attends from N queries to M keys,
  which are the same in self-attention. Raises a `UserError` if a block has not sown
  `probs` there.
  """

  def sown(block: str) -> np.ndarray:
    attention = blocks[block].get(module, {})
    if 'probs' not in attention:
      raise UserError(f'{stack}/{block} has no sown `{module}/probs`')
    return np.asarray(attention['probs'][-1], np.float32)

  blocks = intermediates.get(stack, {})
  if 'blocks' in blocks:
    return sown('blocks')
  numbers = sorted(int(m[1]) for k in blocks if (m := re.fullmatch(r'block_(\d+)', k)))
  if not numbers:
    raise UserError(f'the model has no `{stack}` of blocks with sown attention')
  return np.stack([sown(f'block_{number}') for number in numbers])


def output_weights(
  intermediates: Mapping[str, Any], pool: str, registers: int = 0, leading: int = 1
) -> np.ndarray:
  """Returns the weights with which the output reads the last tokens, (B, N).

  `pool` 'token' weights the `leading` tokens equally, 'gap' all tokens but registers
  equally, and 'map' by the attention that `map_head` has sown, averaged over heads. The
  model must have sown `with_position`, its tokens without registers.
  """
  batch, tokens, _ = intermediates['with_position'][-1].shape
  output_BN = np.zeros((batch, registers + tokens))
  if pool == 'token':
    output_BN[:, registers : registers + leading] = 1.0 / leading
  elif pool == 'gap':
    output_BN[:, registers:] = 1.0 / tokens
  elif pool == 'map':
    probs_BH1N = intermediates['map_head']['attention']['probs'][-1]
    output_BN[:, registers:] = np.asarray(probs_BH1N, np.float32).mean(axis=(1, 2))
  else:
    raise UserError(f"pool={pool!r} is not one of 'token', 'gap', 'map'")
  return output_BN


def rollout(
  probs_LBHNN: np.ndarray, output_BN: np.ndarray, num_prefix: int
) -> np.ndarray:
  """Computes attention rollout (arXiv:2005.00928): the share of patches in the output.

  Heads are averaged, the identity (the residual path) is added, rows are normalised,
  and the layers are multiplied. Returns (B, P): the mean of the rows, weighted by
  `output_BN` (see `output_weights`), without the entries of the first `num_prefix`
  tokens. With a class token this is its row (figure 6). Entries are >= 0 and sum to 1
  minus the share of the omitted tokens.
  """
  check_square(probs_LBHNN)
  mixed_LBNN = probs_LBHNN.mean(axis=2, dtype=np.float64)
  mixed_LBNN = mixed_LBNN + np.eye(mixed_LBNN.shape[-1])
  mixed_LBNN /= mixed_LBNN.sum(axis=-1, keepdims=True)
  # Multiply from the output back, one vector at a time.
  flow_BN = output_BN
  for layer_BNN in mixed_LBNN[::-1]:
    flow_BN = np.einsum('BN,BNM->BM', flow_BN, layer_BNN)
  return flow_BN[:, num_prefix:]


def attention_distance(
  probs_LBHNN: np.ndarray,
  grid: tuple[int, int],
  patch: float | tuple[float, float],
  num_prefix: int,
) -> np.ndarray:
  """Computes the mean attention distance of heads in pixels, (L, H) (figures 7, 11).

  The distance between two patches is Euclidean, with `patch` pixels (or rows and
  columns of pixels) per grid step. Each query patch averages it, weighted by its
  attention; then queries and images are averaged (figure 7 right). The rows and columns
  of the first `num_prefix` tokens are dropped without normalising the rest again, as in
  the authors' code (google-research/vision_transformer#162), so that attention to the
  class token counts as distance 0. Raises a `UserError` if `grid` (rows, columns) does
  not match the number of patch tokens.
  """
  check_square(probs_LBHNN)
  probs_LBHPP = probs_LBHNN[..., num_prefix:, num_prefix:]
  height, width = grid
  if probs_LBHPP.shape[-1] != height * width:
    raise UserError(
      f'attention over {probs_LBHPP.shape[-1]} patch tokens does not fit a grid of '
      f'{height} x {width}; check the grid and num_prefix={num_prefix}'
    )
  places_P2 = np.indices(grid).reshape(2, -1).T * np.broadcast_to(patch, (1, 2))
  distance_PP = np.linalg.norm(places_P2[:, None] - places_P2[None], axis=-1)
  reach_LBHP = np.einsum('LBHPQ,PQ->LBHP', probs_LBHPP, distance_PP)
  return reach_LBHP.mean(axis=(1, 3))


def check_square(probs_LBHNN: np.ndarray) -> None:
  """Raises a `UserError` unless the array is (L, B, H, N, N)."""
  shape = probs_LBHNN.shape
  if len(shape) != 5 or shape[-1] != shape[-2]:
    raise UserError(
      f'attention probabilities must be (layers, images, heads, N, N), not {shape}'
    )
