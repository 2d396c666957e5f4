"""BERT, arXiv:1810.04805: an encoder of texts, pretrained by filling in masked words.

The encoder is that of the Transformer (norms after the residual sums) with learned
positions, types of tokens (the first or the second text), and exact GELUs. The first
token, [CLS], stands for the whole text.

Axes: B batch, T tokens, D width, V vocabulary, C classes.
"""

import functools
from collections.abc import Sequence
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from big_vision_like.errors import UserError, check_one_of
from big_vision_like.layers import transformer
from big_vision_like.ops import masks, precision

EPSILON = 1e-12
# Width, depth, heads, hidden width of the MLP: section 3.
SIZES = {'base': (768, 12, 12, 3072), 'large': (1024, 24, 16, 4096)}
# As published; the published TensorFlow code truncates at two standard deviations.
NORMAL = nn.initializers.normal(0.02)
HEADS = ('words', 'next_text')

Dense = functools.partial(nn.Dense, kernel_init=NORMAL)


def variant(name: str) -> dict[str, int]:
  """Returns the arguments of `Bert` for 'base' or 'large', with lower-case words."""
  if name not in SIZES:
    raise UserError(f'unknown BERT {name!r}: choose one of {", ".join(SIZES)}')
  width, depth, num_heads, mlp_dim = SIZES[name]
  return dict(
    vocab_size=30522, width=width, depth=depth, num_heads=num_heads, mlp_dim=mlp_dim
  )


def block_args(
  activation: str = 'gelu_exact', attention_dropout: float = 0.1
) -> dict[str, Any]:
  """Returns the arguments of `transformer.Block` with which it is a block of BERT."""
  init = dict(kernel_init=NORMAL)
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

  def setup(self) -> None:
    embed = functools.partial(
      nn.Embed, features=self.width, embedding_init=NORMAL, dtype=self.dtype
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


class Bert(nn.Module):
  """BERT maps word pieces (B, T) to named arrays.

  `token_types_BT` are 0 (the default) for the first text and 1 for the second.
  `token_mask_BT` is False at padding, which no token attends to. Returns `text`
  (B, T, D) and `pooled_text` (B, D), made from the first token (without `pooler` there
  is none), and logits of the `heads`: `words` (B, T, V) for masked words, `next_text`
  (B, 2), whose class 0 is a second text that follows the first.
  """

  vocab_size: int
  width: int
  depth: int
  num_heads: int
  mlp_dim: int
  max_length: int = 512
  num_types: int = 2
  pooler: bool = True
  heads: Sequence[str] = ()
  activation: str = 'gelu_exact'
  dropout: float = 0.1
  attention_dropout: float = 0.1
  scan: bool = False
  remat: str = 'none'
  dtype: str = 'float32'

  sharding_rules = transformer.SHARDING_RULES
  tiny = dict(vocab_size=128, width=32, depth=2, num_heads=2, mlp_dim=64)

  @nn.compact
  def __call__(
    self,
    tokens_BT: jax.Array,
    token_types_BT: jax.Array | None = None,
    token_mask_BT: jax.Array | None = None,
    train: bool = False,
  ) -> dict[str, jax.Array]:
    for head in self.heads:
      check_one_of(HEADS, heads=head)
    embeddings = Embeddings(
      self.vocab_size,
      self.width,
      self.max_length,
      self.num_types,
      dropout=self.dropout,
      dtype=self.dtype,
      name='embeddings',
    )
    x_BTD = embeddings(tokens_BT, token_types_BT, train=train)
    mask = None if token_mask_BT is None else masks.padding(token_mask_BT)
    x_BTD = transformer.Stack(
      depth=self.depth,
      num_heads=self.num_heads,
      mlp_dim=self.mlp_dim,
      dropout=self.dropout,
      scan=self.scan,
      remat=self.remat,
      dtype=self.dtype,
      norm='post',
      final_norm=False,
      epsilon=EPSILON,
      block_args=block_args(self.activation, self.attention_dropout),
      name='encoder',
    )(x_BTD, train, transformer.Context(mask=mask))
    outputs = {'text': x_BTD}
    if self.pooler:
      pooled_BD = Dense(self.width, dtype=self.dtype, name='pooler')(x_BTD[:, 0])
      outputs['pooled_text'] = nn.tanh(pooled_BD)
    if 'words' in self.heads:
      outputs['words'] = WordsHead(self.activation, self.dtype, name='words')(
        x_BTD, embeddings.word.embedding
      )
    if 'next_text' in self.heads:
      if not self.pooler:
        raise UserError("the head 'next_text' needs pooler=True")
      logits_BC = Dense(2, dtype=self.dtype, name='next_text')(outputs['pooled_text'])
      outputs['next_text'] = precision.at_least_float32(logits_BC)
    return outputs
