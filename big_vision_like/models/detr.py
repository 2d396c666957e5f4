"""DETR, arXiv:2005.12872: detection as set prediction, and panoptic segmentation.

A convolutional backbone, a Transformer encoder for its last feature map, and a decoder
that turns each learned query into one object: a class, or "no object", and a box.

Axes: B batch, H W image, h w the backbone's last map, N = h * w, Q queries, D width, L
layers of the decoder, C classes (with none), S heads, K size of a head, I F features
of a map; u v a larger map, b = B * Q.
"""

import math
from collections.abc import Mapping, Sequence
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from big_vision_like.errors import UserError
from big_vision_like.layers import attention, transformer
from big_vision_like.ops import masks, positions, precision

EPSILON = 1e-5
# The number of rows and columns that learned positions cover.
MAX_CELLS = 50
PLACES = ('attention', 'input', 'none')

# PyTorch's initializer of matrices.
MATRIX = nn.initializers.variance_scaling(1 / 3, 'fan_in', 'uniform')


class DETR(nn.Module):
  """A detector that maps normalized images (B, H, W, C) to named arrays of objects.

  Returns `logits` (B, Q, C), whose last class is "no object", and `boxes` (B, Q, 4),
  cxcywh in [0, 1] of the picture. `layer_logits` (L, B, Q, C) and `layer_boxes` (L, B,
  Q, 4) hold the same for all decoder layers. `features` (B, Q, D) is the decoder's last
  output, `memory` (B, h, w, D) the encoder's. Logits and boxes are float32. With
  `masks` there are also `mask_logits` (B, Q, u, v) at the size of the backbone's first
  stage, and `mask_attention` (B, Q, heads, h, w) (section 3.4 and figure 8).

  `size_B2` holds the height and width (int32) of the pictures, which are at the top
  left of the images and padded with zeros; it defaults to the whole images.

  `num_classes` excludes the final "no object" class. `backbone` is a module that
  returns maps by name, `stage1` and so on, such as `resnet.ResNet`; the last one is
  used. `positions` is 'sine' or 'learned'. The three entries of `positions_at` say
  where positions are added in the encoder and to the decoder's keys, and where the
  learned queries are added: in each 'attention', once at the 'input', or 'none' (table
  3). With `queries_attend=False` queries do not attend to each other, as a control.
  """

  num_classes: int
  backbone: nn.Module
  num_queries: int = 100
  width: int = 256
  encoder_depth: int = 6
  decoder_depth: int = 6
  num_heads: int = 8
  mlp_dim: int = 2048
  dropout: float = 0.1
  norm: str = 'post'
  positions: str = 'sine'
  positions_at: tuple[str, str, str] = ('attention', 'attention', 'attention')
  queries_attend: bool = True
  masks: bool = False
  scan: bool = False
  remat: str = 'none'
  dtype: str = 'float32'

  sharding_rules = transformer.SHARDING_RULES
  tiny = dict(width=32, encoder_depth=2, decoder_depth=2, num_heads=2, mlp_dim=64)

  def setup(self) -> None:
    if self.positions not in ('sine', 'learned'):
      raise UserError(f"positions={self.positions!r} is not one of 'sine', 'learned'")
    if len(self.positions_at) != 3 or not set(self.positions_at) <= set(PLACES):
      raise UserError(
        f'positions_at={self.positions_at!r} must be three of {", ".join(PLACES)}'
      )
    self.input_proj = nn.Conv(self.width, (1, 1), kernel_init=MATRIX, dtype=self.dtype)
    self.queries = self.param(
      'queries', nn.initializers.normal(1.0), (self.num_queries, self.width)
    )
    if self.positions == 'learned':
      shape, start = (MAX_CELLS, self.width // 2), nn.initializers.uniform(1.0)
      self.pos_rows = self.param('pos_rows', start, shape)
      self.pos_columns = self.param('pos_columns', start, shape)
    stack = stack_args(
      num_heads=self.num_heads,
      mlp_dim=self.mlp_dim,
      dropout=self.dropout,
      scan=self.scan,
      remat=self.remat,
      dtype=self.dtype,
      norm=self.norm,
    )
    self.encoder = transformer.Stack(
      depth=self.encoder_depth, final_norm=self.norm == 'pre', **stack
    )
    self.decoder = transformer.Stack(depth=self.decoder_depth, every=True, **stack)
    self.class_head = dense(self.num_classes + 1, self.dtype)
    self.box_head = BoxHead(self.width, self.dtype)
    if self.masks:
      self.mask_attention = MaskAttention(self.num_heads, self.dtype)
      self.mask_head = MaskHead(self.width, self.dtype)

  def __call__(
    self, image_BHWC: jax.Array, size_B2: jax.Array | None = None, train: bool = False
  ) -> dict[str, jax.Array]:
    maps = self.backbone(image_BHWC, train)
    valid_Bhw = None
    if size_B2 is not None:
      valid_Bhw = valid_cells(size_B2, image_BHWC.shape[1:3], last_map(maps).shape[1:3])
    return self.detect(maps, valid_Bhw, train)

  def detect(
    self,
    maps: Mapping[str, jax.Array],
    valid_Bhw: jax.Array | None = None,
    train: bool = False,
  ) -> dict[str, jax.Array]:
    """Returns all outputs from the backbone's maps, with invalid cells masked out."""
    x_BhwD = self.input_proj(last_map(maps))
    batch, height, width = x_BhwD.shape[:3]
    mask = None
    if valid_Bhw is not None:
      mask = masks.padding(valid_Bhw.reshape(batch, -1))
    positions_of_cells = self._positions(height, width, valid_Bhw)
    encoder_at, keys_at, queries_at = self.positions_at

    x_BND = x_BhwD.reshape(batch, -1, self.width)
    x_BND, position = _place(x_BND, positions_of_cells, encoder_at)
    memory_BND = self.encoder(
      x_BND, train, transformer.Context(mask=mask, position_BND=position)
    )
    keys_BND, keys_position = _place(memory_BND, positions_of_cells, keys_at)
    x_BQD = jnp.zeros((batch, *self.queries.shape), memory_BND.dtype)
    x_BQD, position = _place(x_BQD, self.queries[None], queries_at)
    context = transformer.Context(
      mask=None if self.queries_attend else masks.window(0, 0),
      position_BND=position,
      memory_BMD=keys_BND,
      memory_mask=mask,
      memory_position_BMD=keys_position,
    )
    x_LBQD = self.decoder(x_BQD, train, context)

    logits_LBQC = precision.at_least_float32(self.class_head(x_LBQD))
    boxes_LBQ4 = nn.sigmoid(precision.at_least_float32(self.box_head(x_LBQD)))
    memory_BhwD = memory_BND.reshape(x_BhwD.shape)
    outputs = {
      'logits': logits_LBQC[-1],
      'boxes': boxes_LBQ4[-1],
      'layer_logits': logits_LBQC,
      'layer_boxes': boxes_LBQ4,
      'features': x_LBQD[-1],
      'memory': memory_BhwD,
    }
    if self.masks:
      attention_BQShw = self.mask_attention(x_LBQD[-1], memory_BhwD, valid_Bhw)
      outputs['mask_attention'] = attention_BQShw
      outputs['mask_logits'] = self.mask_head(x_BhwD, attention_BQShw, _finer(maps))
    return outputs

  def _positions(
    self, height: int, width: int, valid_Bhw: jax.Array | None
  ) -> jax.Array:
    """Returns positions of all cells, (B, N, D), or (1, N, D) if images share them."""
    if self.positions == 'learned':
      if max(height, width) > MAX_CELLS:
        raise UserError(
          f"positions='learned' cover {MAX_CELLS} rows and columns, but the"
          f" backbone's map is {height} x {width}: use smaller images or 'sine'"
        )
      return positions.grid2d(self.pos_rows[:height], self.pos_columns[:width])
    if valid_Bhw is None:
      valid_Bhw = jnp.ones((1, height, width), bool)
    position = positions.masked_sine2d(valid_Bhw, self.width)
    return position.reshape(len(position), -1, self.width)


class BoxHead(nn.Module):
  """An MLP of three layers, (..., D) to (..., 4), before the sigmoid."""

  hidden: int
  dtype: str = 'float32'

  @nn.compact
  def __call__(self, x_LBQD: jax.Array) -> jax.Array:
    for i, features in enumerate((self.hidden, self.hidden, 4), start=1):
      x_LBQD = nn.relu(x_LBQD) if i > 1 else x_LBQD
      x_LBQD = dense(features, self.dtype, name=f'fc{i}')(x_LBQD)
    return x_LBQD


class MaskAttention(nn.Module):
  """Attention weights of queries over cells in each head: (B, Q, heads, h, w), float32.

  The softmax runs over cells and heads jointly, as in the published code.
  """

  num_heads: int
  dtype: str = 'float32'

  @nn.compact
  def __call__(
    self,
    x_BQD: jax.Array,
    memory_BhwD: jax.Array,
    valid_Bhw: jax.Array | None = None,
  ) -> jax.Array:
    batch, queries, width = x_BQD.shape
    height_width, size = memory_BhwD.shape[1:3], width // self.num_heads
    q_BQSK, k_BNSK = attention.project(
      [
        (x_BQD, attention.Projection(self.num_heads, size, name='query')),
        (
          memory_BhwD.reshape(batch, -1, width),
          attention.Projection(self.num_heads, size, name='key'),
        ),
      ],
      self.dtype,
    )
    logits_BQSN = jnp.einsum(
      'BQSK,BNSK->BQSN',
      q_BQSK,
      k_BNSK,
      preferred_element_type=precision.float_type(q_BQSK, k_BNSK),
    )
    logits_BQSN *= 1 / math.sqrt(size)
    if valid_Bhw is not None:
      valid_B11N = valid_Bhw.reshape(batch, 1, 1, -1)
      logits_BQSN = jnp.where(valid_B11N, logits_BQSN, -jnp.inf)
    p_BQSN = jax.nn.softmax(logits_BQSN, axis=(-2, -1))
    return p_BQSN.reshape(batch, queries, self.num_heads, *height_width)


class MaskHead(nn.Module):
  """Mask logits from a map, the attention to it and finer maps: (B, Q, u, v), float32.

  The map is upsampled three times; each time one of the `finer` maps (coarse to fine)
  is added, so that masks have the size of the last of them.
  """

  width: int
  dtype: str = 'float32'

  @nn.compact
  def __call__(
    self,
    x_BhwD: jax.Array,
    attention_BQShw: jax.Array,
    finer: Sequence[jax.Array],
  ) -> jax.Array:
    batch, queries, heads = attention_BQShw.shape[:3]
    shape = batch, queries, *x_BhwD.shape[1:]
    attention_BQhwS = jnp.moveaxis(attention_BQShw, 2, -1).astype(x_BhwD.dtype)
    x_BQhwI = jnp.concatenate(
      [jnp.broadcast_to(x_BhwD[:, None], shape), attention_BQhwS], axis=-1
    )
    x_buvF = x_BQhwI.reshape(-1, *x_BQhwI.shape[2:])
    widths = [self.width + heads, *(self.width // 2**i for i in (1, 2, 3, 4))]
    for i, features in enumerate(widths, start=1):
      if i > 2:
        adapter = _conv(x_buvF.shape[-1], 1, self.dtype, f'adapter{i - 2}')
        x_buvF = _added(x_buvF, adapter(finer[i - 3]))
      x_buvF = _conv(features, 3, self.dtype, f'conv{i}')(x_buvF)
      groups = math.gcd(8, features)  # 8 at the published sizes
      norm = nn.GroupNorm(groups, epsilon=EPSILON, dtype=self.dtype, name=f'norm{i}')
      x_buvF = nn.relu(norm(x_buvF))
    x_buvF = _conv(1, 3, self.dtype, 'out')(x_buvF)
    logits_BQuv = x_buvF.reshape(batch, queries, *x_buvF.shape[1:3])
    return precision.at_least_float32(logits_BQuv)


def stack_args(*, dropout: float, **stack: Any) -> dict[str, Any]:
  """Returns the arguments of `transformer.Stack` for DETR's encoder and decoder."""
  return dict(
    dropout=dropout,
    epsilon=EPSILON,
    block_args=dict(
      attention_args=dict(dropout=dropout, init_parts=3),
      mlp_args=dict(activation='relu'),
    ),
    **stack,
  )


def valid_cells(
  size_B2: jax.Array, image_size: tuple[int, int], map_size: tuple[int, int]
) -> jax.Array:
  """Returns the cells of a map whose nearest pixel is in the picture: (B, h, w) bool.

  `size_B2` are height and width of pictures at the top left of images of `image_size`.
  """
  row_h, column_w = (
    jnp.asarray(_nearest(large, small), size_B2.dtype)
    for large, small in zip(image_size, map_size, strict=True)
  )
  rows_Bh = row_h[None] < size_B2[:, :1]
  columns_Bw = column_w[None] < size_B2[:, 1:]
  return rows_Bh[:, :, None] & columns_Bw[:, None, :]


def _nearest(size: int, new_size: int) -> np.ndarray:
  """Returns nearest indices to resample `size` to `new_size`; float32 as in PyTorch."""
  scale = np.float32(size) / np.float32(new_size)
  return np.floor(np.arange(new_size, dtype=np.float32) * scale).astype(int)


def _added(x_bhwF: jax.Array, fine_BuvF: jax.Array) -> jax.Array:
  """Resizes maps to a finer map (nearest) and adds it to all maps of its example."""
  row_u, column_v = map(_nearest, x_bhwF.shape[1:3], fine_BuvF.shape[1:3])
  x_buvF = x_bhwF[:, row_u][:, :, column_v]
  return x_buvF + jnp.repeat(fine_BuvF, len(x_bhwF) // len(fine_BuvF), axis=0)


def _place(
  x_BND: jax.Array, position: jax.Array, where: str
) -> tuple[jax.Array, jax.Array | None]:
  """Returns tokens with positions added to them, and positions for the attention."""
  if where == 'input':
    return x_BND + position.astype(x_BND.dtype), None
  return x_BND, position if where == 'attention' else None


def _stages(maps: Mapping[str, jax.Array]) -> list[jax.Array]:
  """Returns the backbone's maps, fine to coarse."""
  return [maps[name] for name in sorted(maps) if name.startswith('stage')]


def last_map(maps: Mapping[str, jax.Array]) -> jax.Array:
  """Returns the coarsest map of a backbone."""
  return _stages(maps)[-1]


def _finer(maps: Mapping[str, jax.Array]) -> list[jax.Array]:
  """Returns the three maps before the last, coarse to fine."""
  stages = _stages(maps)
  if len(stages) < 4:
    raise UserError(
      f'masks=True needs a backbone of four stages, but this one has {len(stages)}'
    )
  return stages[-2:-5:-1]


def dense(features: int, dtype: str, name: str | None = None) -> nn.Dense:
  """Returns a layer whose matrix starts as PyTorch's does."""
  return nn.Dense(features, kernel_init=MATRIX, dtype=dtype, name=name)


def _conv(features: int, size: int, dtype: str, name: str) -> nn.Conv:
  pad = size // 2
  return nn.Conv(
    features,
    (size, size),
    padding=((pad, pad), (pad, pad)),
    kernel_init=nn.initializers.lecun_uniform(),  # PyTorch's kaiming_uniform_(a=1)
    dtype=dtype,
    name=name,
  )
