"""Losses as pure functions, in float32.  Axes: B batch, C classes, T tokens."""

import jax
import jax.numpy as jnp
import optax
from jax.scipy.special import xlogy

from big_vision_like.errors import UserError


def softmax_cross_entropy(logits_BC: jax.Array, target_BC: jax.Array) -> jax.Array:
  """-sum_c target log softmax(logits): (B,)."""
  return optax.softmax_cross_entropy(logits_BC.astype(jnp.float32), target_BC)


def sigmoid_cross_entropy(logits_BC: jax.Array, target_BC: jax.Array) -> jax.Array:
  """One binary cross-entropy a class, summed over classes: (B,)."""
  losses_BC = optax.sigmoid_binary_cross_entropy(
    logits_BC.astype(jnp.float32), target_BC
  )
  return losses_BC.sum(axis=-1)


SMOOTHINGS = ('t2t', 'torch', 'annotated')


def smoothed_cross_entropy(
  logits_BTC: jax.Array, label_BT: jax.Array, smoothing: float, form: str = 't2t'
) -> jax.Array:
  """Cross-entropy of label-smoothed targets (arXiv:1512.00567), (B, T).

  With e = `smoothing`, the label's class gets 1 - e and, by `form`,
  't2t': each other class e / (C - 1), less the entropy of that target, so that the best
  model reaches 0 (tensor2tensor, Flax);
  'torch': each class, the label's too, e / C more;
  'annotated': each other class but 0, the padding, e / (C - 2), less the entropy (The
  Annotated Transformer).
  """
  if form not in SMOOTHINGS:
    raise UserError(f'smoothing form {form!r} is not one of {", ".join(SMOOTHINGS)}')
  classes = logits_BTC.shape[-1]
  logp_BTC = jax.nn.log_softmax(logits_BTC.astype(jnp.float32))
  label_BT1 = label_BT[..., None]
  true_BT = jnp.take_along_axis(logp_BTC, label_BT1, axis=-1)[..., 0]
  if not smoothing:
    return -true_BT
  others_BT = logp_BTC.sum(axis=-1) - true_BT
  if form == 'torch':
    return -(1.0 - smoothing) * true_BT - smoothing / classes * (others_BT + true_BT)
  count = classes - 1
  if form == 'annotated':
    count, others_BT = classes - 2, others_BT - logp_BTC[..., 0]
  each = smoothing / count
  entropy = -xlogy(1.0 - smoothing, 1.0 - smoothing) - count * xlogy(each, each)
  return -(1.0 - smoothing) * true_BT - each * others_BT - entropy
