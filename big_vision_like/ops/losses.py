"""Losses as pure functions, in float32.

Axes: B batch, C classes, T tokens, P pixels.
"""

import jax
import jax.numpy as jnp
import optax
from jax.scipy.special import xlogy

from big_vision_like.errors import UserError
from big_vision_like.ops import precision


def softmax_cross_entropy(logits_BC: jax.Array, target_BC: jax.Array) -> jax.Array:
  """-sum_c target log softmax(logits): (B,)."""
  return optax.softmax_cross_entropy(precision.at_least_float32(logits_BC), target_BC)


def sigmoid_cross_entropy(logits_BC: jax.Array, target_BC: jax.Array) -> jax.Array:
  """One binary cross-entropy a class, summed over classes: (B,)."""
  losses_BC = optax.sigmoid_binary_cross_entropy(
    precision.at_least_float32(logits_BC), target_BC
  )
  return losses_BC.sum(axis=-1)


def binarized_cross_entropy(logits_BC: jax.Array, target_BC: jax.Array) -> jax.Array:
  """Returns the mean over classes of their binary cross-entropies: (B,).

  Of arXiv:2204.07118 as in its published code: all targets above 0, such as both of a
  mixed image, count as 1.
  """
  present_BC = (target_BC > 0).astype(jnp.float32)
  losses_BC = optax.sigmoid_binary_cross_entropy(
    precision.at_least_float32(logits_BC), present_BC
  )
  return losses_BC.mean(axis=-1)


def soft_distillation(
  logits_BC: jax.Array, teacher_BC: jax.Array, temperature: float
) -> jax.Array:
  """t^2 KL(softmax(teacher / t) || softmax(logits / t)), mean over all B * C elements.

  The published code of arXiv:2012.12877 divides by elements, not by examples.
  """
  student_BC, teacher_BC = (
    jax.nn.log_softmax(x.astype(jnp.float32) / temperature)
    for x in (logits_BC, teacher_BC)
  )
  divergence_BC = jnp.exp(teacher_BC) * (teacher_BC - student_BC)
  return temperature**2 * divergence_BC.mean()


def sigmoid_focal(
  logits_BP: jax.Array, target_BP: jax.Array, alpha: float = 0.25, gamma: float = 2.0
) -> jax.Array:
  """Binary cross-entropy that counts easy pixels less (arXiv:1708.02002): (B, P).

  alpha_t (1 - p_t)^gamma (-log p_t), p_t being the probability of the target (0 or 1)
  and alpha_t `alpha` for those that are 1, else 1 - alpha.
  """
  logits_BP, target_BP = map(precision.at_least_float32, (logits_BP, target_BP))
  sign_BP = 1.0 - 2.0 * target_BP
  # Of the wrong answer: of 1 - sigmoid little would be left by rounding.
  wrong_BP = jax.nn.sigmoid(sign_BP * logits_BP)
  alpha_BP = (1.0 - alpha) + (2.0 * alpha - 1.0) * target_BP
  return alpha_BP * wrong_BP**gamma * jax.nn.softplus(sign_BP * logits_BP)


def dice(logits_BP: jax.Array, target_BP: jax.Array) -> jax.Array:
  """1 - (2 sum(p t) + 1) / (sum(p) + sum(t) + 1), p = sigmoid(logits): (B,).

  Of arXiv:1606.04797 with one added, as for the masks of arXiv:2005.12872.
  """
  p_BP = jax.nn.sigmoid(precision.at_least_float32(logits_BP))
  target_BP = precision.at_least_float32(target_BP)
  both_B = (p_BP * target_BP).sum(axis=-1)
  either_B = p_BP.sum(axis=-1) + target_BP.sum(axis=-1)
  return 1.0 - (2.0 * both_B + 1.0) / (either_B + 1.0)


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
  logp_BTC = jax.nn.log_softmax(precision.at_least_float32(logits_BTC))
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
