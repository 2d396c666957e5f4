"""ViLBERT, arXiv:1908.02265: two streams for text and image that attend to each other.

The text goes through a BERT, the regions of an image through a smaller Transformer.
Between some of their blocks there are connections, in which the queries of each stream
attend to the other stream. With `num_tasks` a token names the task (arXiv:1912.02315).

Inputs, by their names in batches:

  tokens         (B, T) int32     word pieces: [CLS] ... [SEP], then padding
  token_types    (B, T) int32     0, or 1 in a second text
  token_mask     (B, T) bool      False at padding
  regions        (B, R, F) float  features of a detector; row 0 is their mean
  locations      (B, R, 5) float  x1, y1, x2, y2 and area of boxes, as fractions of the
                                  image; row 0 is 0, 0, 1, 1, 1
  region_mask    (B, R) bool      False at padding
  task           (B,) int32       only with `num_tasks`

Outputs: `text` (B, T, D), `image` (B, R, E), `pooled_text` and `pooled_image` (B, P),
`fused` (B, P), and the logits of each head under its name in `heads`.

Axes: B batch, T tokens, R regions, F features, D width of the text, E width of the
image, P width of the pooled vectors.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import flax.core
import flax.linen as nn
import jax
import jax.numpy as jnp

from big_vision_like.errors import UserError, check_one_of, listed
from big_vision_like.layers import bert, pairs, transformer
from big_vision_like.ops import masks
from big_vision_like.ops.masks import Mask

FUSIONS = ('mul', 'sum')
# Width, depth, heads and hidden width of the text: section 3.1 and its published code.
TEXTS = {'': (768, 12, 12, 3072), 'large': (1024, 24, 16, 4096)}


def variant(name: str) -> dict[str, Any]:
  """Returns the arguments of `ViLBERT` with 2, 4, 6 or 8 connections (table 2).

  '6' is the model of the paper, '6,large' has the text stream of BERT-large.
  """
  count, _, text = name.partition(',')
  if count not in ('2', '4', '6', '8') or text not in TEXTS:
    raise UserError(
      f"unknown ViLBERT {name!r}: choose 2, 4, 6 or 8 connections, such as '6' or"
      " '6,large'"
    )
  width, depth, num_heads, mlp_dim = TEXTS[text]
  connections = int(count)
  return dict(
    vocab_size=30522,
    width=width,
    depth=depth,
    num_heads=num_heads,
    mlp_dim=mlp_dim,
    image_width=1024,
    image_depth=connections,
    image_heads=8,
    image_mlp_dim=1024,
    joint_width=1024,
    joint_heads=8,
    text_places=tuple(range(depth - connections, depth)),
    image_places=tuple(range(connections)),
  )


class Blocks(nn.Module):
  """The blocks of one stream, which run in parts, from one number to another."""

  depth: int
  num_heads: int
  mlp_dim: int
  dropout: float
  attention_dropout: float
  activation: str
  remat: str = 'none'
  dtype: str = 'float32'

  def setup(self) -> None:
    self.block = [
      block_class(self.remat)(
        self.num_heads,
        self.mlp_dim,
        self.dropout,
        dtype=self.dtype,
        norm='post',
        epsilon=bert.EPSILON,
        **bert.block_args(self.activation, self.attention_dropout),
      )
      for _ in range(self.depth)
    ]

  def __call__(
    self, x_BTD: jax.Array, mask: Mask, part: range, train: bool = False
  ) -> jax.Array:
    for i in part:
      x_BTD = self.block[i](
        x_BTD, jnp.zeros(()), train, None, transformer.Context(mask=mask)
      )
    return x_BTD


def block_class(remat: str) -> type[nn.Module]:
  """Returns the class of blocks, which recompute values in the backward pass or not."""
  check_one_of(('none', *transformer.REMAT_POLICIES), remat=remat)
  if remat == 'none':
    return transformer.Block
  return nn.remat(
    transformer.Block,
    policy=transformer.REMAT_POLICIES[remat],
    static_argnums=(3, 4),  # train, cache_length
  )


class Connection(nn.Module):
  """A pair of blocks in which text and image attend to each other (figure 2b).

  The queries of each stream attend to the keys and values of the other one, in
  `joint_heads` heads of together `joint_width` features.
  """

  joint_width: int
  joint_heads: int
  mlp_dim: int
  image_mlp_dim: int
  dropout: float
  attention_dropout: float
  activation: str
  image_activation: str
  remat: str = 'none'
  dtype: str = 'float32'

  @nn.compact
  def __call__(
    self,
    text_BTD: jax.Array,
    image_BRE: jax.Array,
    text_mask: Mask,
    image_mask: Mask,
    train: bool = False,
  ) -> tuple[jax.Array, jax.Array]:
    if self.joint_width % self.joint_heads:
      raise UserError(
        f'joint_width={self.joint_width} is not divisible by'
        f' joint_heads={self.joint_heads}'
      )
    size = self.joint_width // self.joint_heads

    def attended(
      name: str,
      x_BTD: jax.Array,
      memory: jax.Array,
      mask: Mask,
      mlp_dim: int,
      activation: str,
    ) -> jax.Array:
      args = bert.block_args(activation, self.attention_dropout)
      args['attention_args'] |= dict(size=size, value_size=size)
      block = block_class(self.remat)(
        self.joint_heads,
        mlp_dim,
        self.dropout,
        dtype=self.dtype,
        norm='post',
        epsilon=bert.EPSILON,
        self_attention=False,
        name=name,
        **args,
      )
      context = transformer.Context(memory_BMD=memory, memory_mask=mask)
      return block(x_BTD, jnp.zeros(()), train, None, context)

    return (
      attended('text', text_BTD, image_BRE, image_mask, self.mlp_dim, self.activation),
      attended(
        'image',
        image_BRE,
        text_BTD,
        text_mask,
        self.image_mlp_dim,
        self.image_activation,
      ),
    )


class RegionEmbeddings(nn.Module):
  """The embedding of regions: features and location, projected, summed, normalized."""

  width: int
  dropout: float = 0.1
  dtype: str = 'float32'

  @nn.compact
  def __call__(
    self, regions_BRF: jax.Array, locations_BR5: jax.Array, train: bool = False
  ) -> jax.Array:
    x_BRE = bert.Dense(self.width, dtype=self.dtype, name='features')(regions_BRF)
    x_BRE += bert.Dense(self.width, dtype=self.dtype, name='locations')(locations_BR5)
    x_BRE = nn.LayerNorm(epsilon=bert.EPSILON, dtype=self.dtype, name='norm')(x_BRE)
    return nn.Dropout(self.dropout, deterministic=not train)(x_BRE)


class ViLBERT(nn.Module):
  """ViLBERT maps texts and regions of images to named arrays (see above).

  `width`, `depth`, `num_heads` and `mlp_dim` are those of the text stream. Connection k
  precedes the blocks `text_places[k]` and `image_places[k]`, counted from 0; without
  places the streams are independent. `fusion` combines the pooled vectors: 'mul'
  (product) or 'sum'. `heads` are modules of `layers.pairs`.
  """

  vocab_size: int
  width: int
  depth: int
  num_heads: int
  mlp_dim: int
  image_width: int
  image_depth: int
  image_heads: int
  image_mlp_dim: int
  joint_width: int
  joint_heads: int
  text_places: Sequence[int]
  image_places: Sequence[int]
  heads: Mapping[str, nn.Module] = flax.core.FrozenDict()
  fusion: str = 'mul'
  num_tasks: int = 0
  max_length: int = 512
  num_types: int = 2
  activation: str = 'gelu_exact'
  image_activation: str = 'gelu_exact'
  dropout: float = 0.1
  attention_dropout: float = 0.1
  remat: str = 'none'
  dtype: str = 'float32'

  sharding_rules = transformer.SHARDING_RULES
  tiny = dict(
    vocab_size=128,
    width=32,
    depth=2,
    num_heads=2,
    mlp_dim=64,
    image_width=16,
    image_depth=1,
    image_heads=2,
    image_mlp_dim=24,
    joint_width=24,
    joint_heads=2,
    text_places=(1,),
    image_places=(0,),
  )

  @nn.compact
  def __call__(
    self,
    tokens_BT: jax.Array,
    token_types_BT: jax.Array,
    token_mask_BT: jax.Array,
    regions_BRF: jax.Array,
    locations_BR5: jax.Array,
    region_mask_BR: jax.Array,
    task_B: jax.Array | None = None,
    train: bool = False,
  ) -> dict[str, jax.Array]:
    check_one_of(FUSIONS, fusion=self.fusion)
    check_places(self.text_places, self.depth, 'text_places')
    check_places(self.image_places, self.image_depth, 'image_places')
    if len(self.text_places) != len(self.image_places):
      raise UserError(
        f'text_places={tuple(self.text_places)} and'
        f' image_places={tuple(self.image_places)} must name as many blocks'
      )
    embeddings = bert.Embeddings(
      self.vocab_size,
      self.width,
      self.max_length,
      self.num_types,
      self.num_tasks,
      self.dropout,
      self.dtype,
      name='text_embeddings',
    )
    text_BTD = embeddings(tokens_BT, token_types_BT, task_B, train)
    if self.num_tasks:  # the token of the task is visible
      token_mask_BT = jnp.concatenate([token_mask_BT[:, :1], token_mask_BT], axis=1)
    image_BRE = RegionEmbeddings(
      self.image_width, self.dropout, self.dtype, name='image_embeddings'
    )(regions_BRF, locations_BR5, train)
    text_mask, image_mask = map(masks.padding, (token_mask_BT, region_mask_BR))
    dropouts = self.dropout, self.attention_dropout
    text_blocks = Blocks(
      self.depth,
      self.num_heads,
      self.mlp_dim,
      *dropouts,
      self.activation,
      self.remat,
      self.dtype,
      name='text_encoder',
    )
    image_blocks = Blocks(
      self.image_depth,
      self.image_heads,
      self.image_mlp_dim,
      *dropouts,
      self.image_activation,
      self.remat,
      self.dtype,
      name='image_encoder',
    )
    text_done = image_done = 0
    places = zip(self.text_places, self.image_places, strict=True)
    for number, (text_next, image_next) in enumerate(places):
      text_part, image_part = range(text_done, text_next), range(image_done, image_next)
      text_BTD = text_blocks(text_BTD, text_mask, text_part, train)
      image_BRE = image_blocks(image_BRE, image_mask, image_part, train)
      text_done, image_done = text_next, image_next
      text_BTD, image_BRE = Connection(
        self.joint_width,
        self.joint_heads,
        self.mlp_dim,
        self.image_mlp_dim,
        *dropouts,
        self.activation,
        self.image_activation,
        self.remat,
        self.dtype,
        name=f'connection_{number}',
      )(text_BTD, image_BRE, text_mask, image_mask, train)
    text_part = range(text_done, self.depth)
    text_BTD = text_blocks(text_BTD, text_mask, text_part, train)
    image_part = range(image_done, self.image_depth)
    image_BRE = image_blocks(image_BRE, image_mask, image_part, train)

    pool = dict(features=self.joint_width, dtype=self.dtype)
    pooled_text_BP = nn.relu(bert.Dense(**pool, name='text_pooler')(text_BTD[:, 0]))
    pooled_image_BP = nn.relu(bert.Dense(**pool, name='image_pooler')(image_BRE[:, 0]))
    if self.fusion == 'mul':
      fused_BP = pooled_text_BP * pooled_image_BP
    else:
      fused_BP = pooled_text_BP + pooled_image_BP
    fused_BP = nn.Dropout(self.dropout, deterministic=not train)(fused_BP)
    encoded = pairs.Encoded(
      text_BTD, image_BRE, fused_BP, region_mask_BR, embeddings.word.embedding
    )
    return {
      'text': text_BTD,
      'image': image_BRE,
      'pooled_text': pooled_text_BP,
      'pooled_image': pooled_image_BP,
      'fused': fused_BP,
      **pairs.logits_of(self.heads, encoded, train),
    }


def check_places(places: Sequence[int], depth: int, name: str) -> None:
  """Raises for places of connections that are not ascending numbers of blocks."""
  ascending = list(places) == sorted({*places})
  if not ascending or any(not 0 <= place < depth for place in places):
    raise UserError(
      f'{name}={listed(places)} must be ascending numbers of blocks, 0 to {depth - 1}'
    )
