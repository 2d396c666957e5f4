"""Losses as pure functions, in float32.

Axes: B batch, C classes, T tokens, P pixels, K objects, A classes of attributes, N
attributes of an object.
"""

import jax
import jax.numpy as jnp
import optax
from jax.scipy.special import xlogy

from big_vision_like.errors import UserError
from big_vision_like.ops import precision


def softmax_cross_entropy(logits_BC: jax.Array, target_BC: jax.Array) -> jax.Array:
  """Returns -sum_c target log softmax(logits): (B,)."""
  return optax.softmax_cross_entropy(precision.at_least_float32(logits_BC), target_BC)


def sigmoid_cross_entropy(logits_BC: jax.Array, target_BC: jax.Array) -> jax.Array:
  """Returns the sum of binary cross-entropies over classes: (B,)."""
  losses_BC = optax.sigmoid_binary_cross_entropy(
    precision.at_least_float32(logits_BC), target_BC
  )
  return losses_BC.sum(axis=-1)


def binarized_cross_entropy(logits_BC: jax.Array, target_BC: jax.Array) -> jax.Array:
  """Returns the mean of binary cross-entropies over classes: (B,).

  All targets above 0, such as both classes of a mixed image, count as 1, as in the
  published code of arXiv:2204.07118.
  """
  present_BC = (target_BC > 0).astype(jnp.float32)
  losses_BC = optax.sigmoid_binary_cross_entropy(
    precision.at_least_float32(logits_BC), present_BC
  )
  return losses_BC.mean(axis=-1)


def soft_distillation(
  logits_BC: jax.Array, teacher_BC: jax.Array, temperature: float
) -> jax.Array:
  """Returns t^2 KL(softmax(teacher / t) || softmax(logits / t)) over B * C elements.

  It is the mean over all elements: the published code of arXiv:2012.12877 divides by
  elements instead of examples.
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
  """Returns cross-entropies that weight easy pixels less (arXiv:1708.02002): (B, P).

  They are alpha_t (1 - p_t)^gamma (-log p_t), where p_t is the probability of the
  target (0 or 1), and alpha_t is `alpha` for targets of 1 and 1 - alpha for 0.
  """
  logits_BP, target_BP = map(precision.at_least_float32, (logits_BP, target_BP))
  sign_BP = 1.0 - 2.0 * target_BP
  # The probability of the wrong answer; computing 1 - sigmoid would lose digits.
  wrong_BP = jax.nn.sigmoid(sign_BP * logits_BP)
  alpha_BP = (1.0 - alpha) + (2.0 * alpha - 1.0) * target_BP
  return alpha_BP * wrong_BP**gamma * jax.nn.softplus(sign_BP * logits_BP)


def dice(logits_BP: jax.Array, target_BP: jax.Array) -> jax.Array:
  """Returns 1 - (2 sum(p t) + 1) / (sum(p) + sum(t) + 1), p = sigmoid(logits): (B,).

  This is arXiv:1606.04797 with the ones added, as for the masks of arXiv:2005.12872.
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
  """Returns the cross-entropy of label-smoothed targets (arXiv:1512.00567), (B, T).

  With e = `smoothing`, the label's class gets 1 - e. The rest depends on `form`:
  't2t': each other class gets e / (C - 1), and the target's entropy is subtracted, so
  that the best possible loss is 0 (tensor2tensor, Flax);
  'torch': each class, including the label's, gets e / C more;
  'annotated': each other class except 0, the padding, gets e / (C - 2), and the entropy
  is subtracted (The Annotated Transformer).
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


def attributes(logits_BKA: jax.Array, attribute_BKN: jax.Array) -> jax.Array:
  """Returns the loss of objects' attributes, float32; -1 is padding (arXiv:2102.10772).

  It is half the cross-entropy, averaged over the attributes of each object and over the
  objects with attributes. As in the published code, objects whose loss is 0 do not
  count.
  """
  log_BKA = jax.nn.log_softmax(precision.at_least_float32(logits_BKA))
  valid_BKN = attribute_BKN >= 0
  loss_BKN = -jnp.take_along_axis(log_BKA, jnp.maximum(attribute_BKN, 0), axis=-1)
  count_BK = jnp.maximum(valid_BKN.sum(axis=-1), 1)
  loss_BK = 0.5 * jnp.where(valid_BKN, loss_BKN, 0.0).sum(axis=-1) / count_BK
  return loss_BK.sum() / jnp.maximum((loss_BK != 0).sum(), 1)


def pointer_cross_entropy(p_BC: jax.Array, target_BC: jax.Array) -> jax.Array:
  """Returns -sum_c target log p for probabilities p, as Keras computes it: (B,).

  Probabilities are normalized again, and clipped to [1e-7, 1 - 1e-7].
  """
  p_BC = precision.at_least_float32(p_BC)
  p_BC = p_BC / p_BC.sum(axis=-1, keepdims=True)
  return -(target_BC * jnp.log(jnp.clip(p_BC, 1e-7, 1 - 1e-7))).sum(axis=-1)
