"""Parts of BERT (arXiv:1810.04805) that models of texts and images share.

Axes: B batch, T tokens, D width, V vocabulary.
"""

import functools
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from big_vision_like.errors import UserError
from big_vision_like.layers import transformer
from big_vision_like.ops import precision

EPSILON = 1e-12
# As published; the published TensorFlow code truncates at two standard deviations.
NORMAL = nn.initializers.normal(0.02)

Dense = functools.partial(nn.Dense, kernel_init=NORMAL)


def block_args(
  activation: str = 'gelu_exact',
  attention_dropout: float = 0.1,
  normal: nn.initializers.Initializer = NORMAL,
) -> dict[str, Any]:
  """Returns the arguments of `transformer.Block` with which it is a block of BERT."""
  init = dict(kernel_init=normal)
  return dict(
    attention_args=dict(dropout=attention_dropout, **init),
    mlp_args=dict(
      activation=activation,
      hidden_dropout=0.0,
      bias_init=nn.initializers.zeros,
      **init,
    ),
  )


class Embeddings(nn.Module):
  """The embedding of word pieces: word, position and type, summed and normalized.

  With `num_tasks` a vector of the task is inserted after the first token, without
  position or type (arXiv:1912.02315).
  """

  vocab_size: int
  width: int
  max_length: int = 512
  num_types: int = 2
  num_tasks: int = 0
  dropout: float = 0.1
  dtype: str = 'float32'
  normal: nn.initializers.Initializer = NORMAL

  def setup(self) -> None:
    embed = functools.partial(
      nn.Embed, features=self.width, embedding_init=self.normal, dtype=self.dtype
    )
    self.word = embed(self.vocab_size)
    self.position = embed(self.max_length)
    self.token_type = embed(self.num_types)
    if self.num_tasks:
      self.task = embed(self.num_tasks)
    self.norm = nn.LayerNorm(epsilon=EPSILON, dtype=self.dtype)
    self.drop = nn.Dropout(self.dropout)

  def __call__(
    self,
    tokens_BT: jax.Array,
    types_BT: jax.Array | None = None,
    task_B: jax.Array | None = None,
    train: bool = False,
  ) -> jax.Array:
    x_BTD = self.added(tokens_BT, types_BT)
    if self.num_tasks:
      if task_B is None:
        raise UserError(
          f'a model with num_tasks={self.num_tasks} needs the array `task`, one number'
          ' for each example'
        )
      task_B1D = self.task(task_B)[:, None]
      x_BTD = jnp.concatenate([x_BTD[:, :1], task_B1D, x_BTD[:, 1:]], axis=1)
    return self.normed(x_BTD, train)

  def added(self, tokens_BT: jax.Array, types_BT: jax.Array | None) -> jax.Array:
    """Returns the sum of word, position and type for each token, (B, T, D)."""
    if tokens_BT.ndim != 2 or not 0 < tokens_BT.shape[1] <= self.max_length:
      raise UserError(
        f'tokens of shape {tokens_BT.shape} are not (batch, 1 to {self.max_length}'
        ' tokens): the model has no positions for more'
      )
    if types_BT is None:
      types_BT = jnp.zeros_like(tokens_BT)
    position_1T = jnp.arange(tokens_BT.shape[1])[None]
    return self.word(tokens_BT) + self.position(position_1T) + self.token_type(types_BT)

  def normed(self, x_BTD: jax.Array, train: bool = False) -> jax.Array:
    """Applies the norm and the dropout that follow the sum."""
    return self.drop(self.norm(x_BTD), deterministic=not train)


class WordsHead(nn.Module):
  """Logits of the vocabulary for each token, float32, with the matrix of embeddings."""

  activation: str = 'gelu_exact'
  dtype: str = 'float32'

  @nn.compact
  def __call__(self, x_BTD: jax.Array, embedding_VD: jax.Array) -> jax.Array:
    x_BTD = Dense(x_BTD.shape[-1], dtype=self.dtype, name='transform')(x_BTD)
    x_BTD = transformer.ACTIVATIONS[self.activation](x_BTD)
    x_BTD = nn.LayerNorm(epsilon=EPSILON, dtype=self.dtype, name='norm')(x_BTD)
    bias_V = self.param('bias', nn.initializers.zeros, embedding_VD.shape[:1])
    logits_BTV = jnp.einsum(
      'BTD,VD->BTV',
      x_BTD,
      embedding_VD.astype(self.dtype),
      preferred_element_type=precision.float_type(x_BTD),
    )
    return logits_BTV + bias_V[None, None]
