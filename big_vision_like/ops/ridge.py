"""Few-shot linear classification by ridge regression, solved in closed form.

This is the protocol of big_vision's few-shot evaluator (arXiv:2010.11929, section 4.1).
Axes: N few-shot examples, M test examples, D features, E = D + 1 with the constant
feature, K = min(N, E), C classes.
"""

import jax
import jax.numpy as jnp
import numpy as np

from big_vision_like.ops import precision

CONSTANT = 100.0  # the bias feature; large, so that l2 hardly shrinks the bias


def ridge_scores(
  x_train_ND: jax.Array,
  y_train_N: jax.Array,
  x_test_MD: jax.Array,
  num_classes: int,
  l2: float = 1024.0,
) -> jax.Array:
  """Returns class scores (M, C) of the test examples, float32.

  Features are standardised with the mean and standard deviation (+1e-5) of the few-shot
  set. Targets are +1 for the example's class (integers in [0, C)) and -1 elsewhere.
  `l2` is not scaled with N. It solves the smaller of the two equivalent systems.
  """
  x_train_ND = precision.at_least_float32(jnp.asarray(x_train_ND))
  x_test_MD = precision.at_least_float32(jnp.asarray(x_test_MD))
  mean_1D = x_train_ND.mean(axis=0, keepdims=True)
  std_1D = x_train_ND.std(axis=0, keepdims=True) + 1e-5
  a_NE = _append_constant((x_train_ND - mean_1D) / std_1D)
  a_ME = _append_constant((x_test_MD - mean_1D) / std_1D)
  y_NC = 2.0 * jax.nn.one_hot(y_train_N, num_classes) - 1.0
  # By eigendecomposition, as published: with a small l2 its float32 rounding changes
  # scores by 1e-3. Accelerators multiply at lower precision by default.
  with jax.default_matmul_precision('highest'):
    if a_NE.shape[0] >= a_NE.shape[1]:
      eigenvalues_K, vectors_KK = jnp.linalg.eigh(a_NE.T @ a_NE)
      left_EK, right_KC = vectors_KK, vectors_KK.T @ (a_NE.T @ y_NC)
    else:
      eigenvalues_K, vectors_KK = jnp.linalg.eigh(a_NE @ a_NE.T)
      left_EK, right_KC = a_NE.T @ vectors_KK, vectors_KK.T @ y_NC
    w_EC = (left_EK / (eigenvalues_K + l2)[None, :]) @ right_KC
    return a_ME @ w_EC


def fewshot_indices(labels: np.ndarray, shots: int, seed: int) -> np.ndarray:
  """Draws `shots` examples of every class and returns their indices, ordered by class.

  It draws all examples of a class that has fewer, as published. One generator (NumPy's
  default_rng(seed)) permutes the examples of one class after the other, and the first
  `shots` of each are taken; the 1-shot set of a seed is thus part of its 5-shot set.
  """
  labels = np.asarray(labels)
  if labels.ndim != 1 or labels.size == 0:
    raise ValueError(f'Labels must be a non-empty vector, got shape {labels.shape}.')
  if shots < 1:
    raise ValueError(f'shots must be at least 1, got {shots}.')
  rng = np.random.default_rng(seed)
  drawn = []
  for label in np.unique(labels):
    indices = rng.permutation(np.flatnonzero(labels == label))
    drawn.append(indices[:shots])
  return np.concatenate(drawn)


def rare_classes(labels: np.ndarray, shots: int) -> dict[int, int]:
  """Returns the number of examples of each class that has fewer than `shots`."""
  found = zip(*np.unique(labels, return_counts=True), strict=True)
  return {int(label): int(count) for label, count in found if count < shots}


def _append_constant(x_ND: jax.Array) -> jax.Array:
  return jnp.pad(x_ND, ((0, 0), (0, 1)), constant_values=CONSTANT)
