"""BERT, arXiv:1810.04805: an encoder of texts, pretrained by filling in masked words.

The encoder is that of the Transformer (norms after the residual sums) with learned
positions, types of tokens (the first or the second text), and exact GELUs. The first
token, [CLS], stands for the whole text.

Axes: B batch, T tokens, P vectors before them, D width, V vocabulary, C classes.
"""

from collections.abc import Sequence

import flax.linen as nn
import jax
import jax.numpy as jnp

from big_vision_like.errors import UserError, check_one_of
from big_vision_like.layers import bert as layers
from big_vision_like.layers import transformer
from big_vision_like.ops import masks, precision

# Width, depth, heads, hidden width of the MLP: section 3.
SIZES = {'base': (768, 12, 12, 3072), 'large': (1024, 24, 16, 4096)}
HEADS = ('words', 'next_text')


def variant(name: str) -> dict[str, int]:
  """Returns the arguments of `Bert` for 'base' or 'large', with lower-case words."""
  if name not in SIZES:
    raise UserError(f'unknown BERT {name!r}: choose one of {", ".join(SIZES)}')
  width, depth, num_heads, mlp_dim = SIZES[name]
  return dict(
    vocab_size=30522, width=width, depth=depth, num_heads=num_heads, mlp_dim=mlp_dim
  )


class Bert(nn.Module):
  """BERT maps word pieces (B, T) to named arrays.

  `token_types_BT` are 0 (the default) for the first text and 1 for the second.
  `token_mask_BT` is False at padding, which no token attends to. Returns `text`
  (B, T, D) and `pooled_text` (B, D), made from the first token (without `pooler` there
  is none), and logits of the `heads`: `words` (B, T, V) for masked words, `next_text`
  (B, 2), whose class 0 is a second text that follows the first.

  Embeddings and matrices of the encoder start with the deviation `init_std`. That of
  the paper is small for narrow models, which learn sooner with 1 / sqrt(width).

  `before_BPD` are vectors without positions before the embedded text, to which its
  tokens attend. Outputs do not include them.
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
  init_std: float = 0.02
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
    before_BPD: jax.Array | None = None,
  ) -> dict[str, jax.Array]:
    for head in self.heads:
      check_one_of(HEADS, heads=head)
    normal = nn.initializers.normal(self.init_std)
    embeddings = layers.Embeddings(
      self.vocab_size,
      self.width,
      self.max_length,
      self.num_types,
      dropout=self.dropout,
      dtype=self.dtype,
      normal=normal,
      name='embeddings',
    )
    x_BTD = embeddings(tokens_BT, token_types_BT, train=train)
    count = 0
    if before_BPD is not None:
      count = before_BPD.shape[1]
      x_BTD = jnp.concatenate([before_BPD.astype(x_BTD.dtype), x_BTD], axis=1)
      if token_mask_BT is not None:
        token_mask_BT = jnp.pad(token_mask_BT, [(0, 0), (count, 0)], constant_values=1)
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
      epsilon=layers.EPSILON,
      block_args=layers.block_args(self.activation, self.attention_dropout, normal),
      name='encoder',
    )(x_BTD, train, transformer.Context(mask=mask))[:, count:]
    outputs = {'text': x_BTD}
    if self.pooler:
      pooled_BD = layers.Dense(self.width, dtype=self.dtype, name='pooler')(x_BTD[:, 0])
      outputs['pooled_text'] = nn.tanh(pooled_BD)
    if 'words' in self.heads:
      outputs['words'] = layers.WordsHead(self.activation, self.dtype, name='words')(
        x_BTD, embeddings.word.embedding
      )
    if 'next_text' in self.heads:
      if not self.pooler:
        raise UserError("the head 'next_text' needs pooler=True")
      logits_BC = layers.Dense(2, dtype=self.dtype, name='next_text')(
        outputs['pooled_text']
      )
      outputs['next_text'] = precision.at_least_float32(logits_BC)
    return outputs
