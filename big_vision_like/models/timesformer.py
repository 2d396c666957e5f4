"""TimeSformer, arXiv:2102.05095.

Extends `vit`. Extends `deit`. Each frame of a clip is split into patches. Learned
positions in the frame are added, then learned positions in time. The blocks attend over
space and time in one of these schemes (section 3 and figure 2 of the paper):

- 'divided' (T+S): over all frames at the same place, then over the frame;
- 'joint' (ST): over the whole clip at once;
- 'space_only' (S): over the frame; the tokens of all frames are averaged at the end;
- 'local_global' (L+G): over a quarter of the picture in all frames, then over every
  second frame, row and column of the clip;
- 'axial' (T+W+H): over time, then over the row, then over the column.

The published code has the first three. The last two follow the paper's text and its
numbers of parameters: each attention but the last has its own norm, projections and a
further Dense layer (`_fc`), as the attention over time has in 'divided'. Quarters do
not overlap, and tokens at places that are odd or even alike attend to each other.

In blocks with several attentions the class token takes part in the last one only, with
a copy in each group of tokens, and becomes the mean of its copies.

Axes: B batch, T frames, H W image, h w map of patches, C channels or classes, N tokens
of a clip, P patches of a frame, Q of a clip, R groups of M tokens that attend to each
other (G of K without the class token), F = B * T frames of all clips, D width.
"""

import functools
import math
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from big_vision_like.errors import UserError, check_one_of, plural, shape_text
from big_vision_like.layers import transformer
from big_vision_like.models import deit, vit
from big_vision_like.ops import positions

# The groups of tokens of each attention of a block, the last one with the class token.
SCHEMES = {
  'divided': ('time', 'space'),
  'local_global': ('local', 'global'),
  'axial': ('time', 'width', 'height'),
  'joint': (),
  'space_only': (),
}
# Names of parameters of all attentions but the last.
PREFIXES = {'time': 'temporal_', 'local': 'local_', 'width': 'width_'}


def variant(name: str) -> dict[str, Any]:
  """Returns the arguments of `TimeSformer` for a size of ViT, 'B/16' as published."""
  return vit.variant(name)


# As published, meant for parameters that start from a ViT: the attention over time adds
# nothing at first. The published code truncates at 100 standard deviations.
REFERENCE = deit.START._replace(positions=deit.NORMAL)
# Matrices of Xavier and large positions, with which small models learn from scratch.
XAVIER = nn.initializers.xavier_uniform()
WIDE = REFERENCE._replace(
  head=XAVIER,
  positions=nn.initializers.normal(1.0),
  attention={},
  mlp=dict(bias_init=nn.initializers.zeros),
)
STARTS = {'reference': REFERENCE, 'wide': WIDE}


class Groups(NamedTuple):
  """A partition of a clip: the number of groups along its frames, rows and columns.

  Groups are contiguous parts of each axis; with `strided` they are every n-th place.
  """

  frames: int
  rows: int
  columns: int
  strided: bool = False

  def split(self, x_BThwD: jax.Array) -> jax.Array:
    """Returns the tokens of each group, (R, M, D), group by group for each clip."""
    batch, *clip, width = x_BThwD.shape
    parts, order = self._parts(clip)
    split = x_BThwD.reshape(batch, *parts, width).transpose(0, *order, 7)
    return split.reshape(batch * math.prod(self[:3]), -1, width)

  def joined(self, x_RMD: jax.Array, clip: Sequence[int]) -> jax.Array:
    """Returns groups of clips with these frames, rows and columns: (B, T, h, w, D)."""
    parts, order = self._parts(clip)
    split = [parts[i - 1] for i in order]
    width = x_RMD.shape[-1]
    apart = x_RMD.reshape(-1, *split, width)
    whole = apart.transpose(0, *(1 + np.argsort(order)), 7)
    return whole.reshape(-1, *clip, width)

  def _parts(self, clip: Sequence[int]) -> tuple[list[int], list[int]]:
    """Returns the sizes of both parts of each axis, and the axes of groups first."""
    parts = []
    for size, groups in zip(clip, self[:3], strict=True):
      parts += [size // groups, groups] if self.strided else [groups, size // groups]
    outer, inner = [1, 3, 5], [2, 4, 6]
    return parts, inner + outer if self.strided else outer + inner


def groups_of(kind: str, clip: tuple[int, int, int]) -> Groups:
  """Returns the groups of one attention for a clip of these frames, rows and columns.

  Raises `UserError` if the clip does not divide into them.
  """
  frames, rows, columns = clip
  groups = {
    'time': Groups(1, rows, columns),
    'space': Groups(frames, 1, 1),
    'width': Groups(frames, rows, 1),
    'height': Groups(frames, 1, columns),
    'local': Groups(1, 2, 2),
    'global': Groups(2, 2, 2, strided=True),
  }[kind]
  if any(size % n for size, n in zip(clip, groups[:3], strict=True)):
    raise UserError(
      f"attention 'local_global' halves frames, rows and columns, but a clip has"
      f' {plural(frames, "frame")} of {shape_text((rows, columns))} patches: take even'
      ' numbers'
    )
  return groups


class SpaceTimeBlock(transformer.Block, kw_only=True):
  """A block that attends within several partitions of a clip, one after the other.

  `clip` is the number of frames, rows and columns of patches of the tokens, which
  follow the class token frame by frame. `kinds` are the partitions (`groups_of`).
  Stochastic depth drops the branch of a group, not of the whole clip. `fc_init`
  initializes the kernels of the Dense layers after all attentions but the last.
  """

  clip: tuple[int, int, int]
  kinds: Sequence[str]
  fc_init: Callable[..., jax.Array] = nn.initializers.zeros

  @nn.compact
  def __call__(
    self,
    x_BND: jax.Array,
    drop_path: jax.Array,
    train: bool = False,
    cache_length: int | None = None,
    context: transformer.Context = transformer.Context(),  # noqa: B008
  ) -> jax.Array:
    batch, count, width = x_BND.shape
    cls_B1D, rest_BQD = x_BND[:, :1], x_BND[:, 1:]
    x_BThwD = rest_BQD.reshape(batch, *self.clip, width)
    *extra, last = self.kinds
    for kind in extra:
      groups, prefix = groups_of(kind, self.clip), PREFIXES[kind]
      x_GKD = self.residual(
        groups.split(x_BThwD),
        functools.partial(self.attention_layer(f'{prefix}attention'), train=train),
        drop_path,
        train,
        prefix=prefix,
        after=nn.Dense(
          width, kernel_init=self.fc_init, dtype=self.dtype, name=f'{prefix}fc'
        ),
      )
      x_BThwD = groups.joined(x_GKD, self.clip)
    groups = groups_of(last, self.clip)
    copies = batch, math.prod(groups[:3]), width
    cls_RD = jnp.broadcast_to(cls_B1D, copies).reshape(-1, width)
    x_RMD = jnp.concatenate([cls_RD[:, None], groups.split(x_BThwD)], axis=1)
    attend = functools.partial(self.to_itself, context=context, train=train)
    x_RMD = self.residual(x_RMD, attend, drop_path, train, place='1')
    cls_BD = x_RMD[:, 0].reshape(copies).mean(axis=1)
    rest_BQD = groups.joined(x_RMD[:, 1:], self.clip).reshape(batch, count - 1, width)
    x_BND = jnp.concatenate([cls_BD[:, None], rest_BQD], axis=1)
    hidden = functools.partial(self.hidden, train=train)
    return self.residual(x_BND, hidden, drop_path, train, place='2')


class TimeSformer(vit.ViT, kw_only=True):
  """A ViT that maps clips (B, T, H, W, C) to named arrays, as `ViT` maps images.

  `tokens` are the class token and the patches, frame by frame; with 'space_only' they
  are means over frames. `attention` is one of `SCHEMES`. `posemb` ('learned' or 'none')
  and `posemb_time` are the positions in the frame and in time ('space_only' has none in
  time); table 4 of the paper compares them. `initializers` is 'reference' or 'wide'.

  Positions belong to the frames of the clips, or to `pos_frames` frames and patches of
  the grid `pos_grid` (rows, columns) if these are given. They are then resized to the
  clips by taking the nearest, as in the published code.
  """

  activation: str = 'gelu_exact'
  drop_path: float = 0.1
  attention: str = 'divided'
  posemb_time: str = 'learned'
  initializers: str = 'reference'
  pos_frames: int | None = None
  pos_grid: tuple[int, int] | None = None

  resizes = vit.ViT.resizes | {
    'time_embedding': functools.partial(positions.resize_time, method='nearest')
  }
  attends = False  # as a whole image does, which attention rollout shows

  @property
  def start(self) -> vit.Start:
    check_one_of(STARTS, initializers=self.initializers)
    return STARTS[self.initializers]

  def grid(self, image_size: tuple[int, int]) -> tuple[int, int]:
    """Returns rows and columns of the positions for frames of this size."""
    if self.pos_grid is not None:
      return tuple(self.pos_grid)
    return super().grid(image_size)

  def clip(self, shape: Sequence[int]) -> tuple[int, int, int]:
    """Returns the frames, rows and columns of patches of a clip (T, H, W, C)."""
    return (shape[0], *super().grid(shape[1:3]))

  @nn.compact
  def __call__(
    self, video_BTHWC: jax.Array, train: bool = False
  ) -> dict[str, jax.Array]:
    self._check(video_BTHWC.shape)
    batch, *shape = video_BTHWC.shape
    clip = self.clip(shape)
    image_FHWC = video_BTHWC.reshape(batch * shape[0], *shape[1:])
    x_FMD, _ = self.placed(image_FHWC, train)
    if self.attention == 'space_only':
      self.sow('intermediates', 'with_position', x_FMD)

      def averaged(x_FMD: jax.Array) -> jax.Array:
        return x_FMD.reshape(batch, shape[0], *x_FMD.shape[1:]).mean(axis=1)

      return self.finished(self.encoded(x_FMD, train, {}, before_norm=averaged))
    x_BTPD = x_FMD.reshape(batch, shape[0], *x_FMD.shape[1:])
    cls_B1D, x_BTPD = x_BTPD[:, 0, :1], x_BTPD[:, :, 1:]
    if self.posemb_time == 'learned':
      x_BTPD += self.time_table(shape[0]).astype(x_BTPD.dtype)[:, :, None]
    x_BND = x_BTPD.reshape(batch, math.prod(clip), self.width)
    x_BND = jnp.concatenate([cls_B1D, x_BND], axis=1)
    self.sow('intermediates', 'with_position', x_BND)
    if self.attention == 'joint':
      return self.finished(self.encoded(x_BND, train, {}))
    wide = self.initializers == 'wide'
    block = dict(
      clip=clip,
      kinds=SCHEMES[self.attention],
      fc_init=XAVIER if wide else nn.initializers.zeros,
    )
    options = dict(block_class=SpaceTimeBlock, block_args=self.block_args | block)
    return self.finished(self.encoded(x_BND, train, {}, **options))

  def position_table(self, layers: int, grid: tuple[int, int]) -> jax.Array:
    table_1MD = super().position_table(layers, self.pos_grid or grid)
    if self.pos_grid is None or tuple(self.pos_grid) == grid:
      return table_1MD
    rows, columns = (
      np.arange(new) * old // new for old, new in zip(self.pos_grid, grid, strict=True)
    )
    places = rows[:, None] * self.pos_grid[1] + columns[None, :]
    return table_1MD[:, np.concatenate([[0], 1 + places.ravel()])]

  def time_table(self, frames: int) -> jax.Array:
    """Returns the positions of the frames, (1, T, D)."""
    count, name = self.pos_frames or frames, 'time_embedding'
    if self.has_variable('params', name):
      have = self.get_variable('params', name).shape[1]
      if have != count:
        raise UserError(
          f'the parameter {name} is for {plural(have, "frame")}, but clips have'
          f' {frames}: resize it with init_from, or set pos_frames={have}'
        )
    wide = self.initializers == 'wide'
    init = self.start.positions if wide else nn.initializers.zeros
    table_1TD = self.param(name, init, (1, count, self.width))
    return table_1TD[:, np.arange(frames) * count // frames]

  def _check(self, shape: Sequence[int]) -> None:
    """Raises a `UserError` for clips and options that the model does not have."""
    check_one_of(SCHEMES, attention=self.attention)
    check_one_of(('learned', 'none'), posemb=self.posemb, posemb_time=self.posemb_time)
    if len(shape) != 5 or 0 in shape:
      raise UserError(
        f'a TimeSformer takes clips (batch, frames, height, width, channels), not'
        f' {tuple(shape)}'
      )
    fixed = dict(pool='token', posemb_at='stem', registers=0)
    for name, value in fixed.items():
      if getattr(self, name) != value:
        raise UserError(
          f'{name}={getattr(self, name)!r}: a TimeSformer must have {name}={value!r}'
        )


def from_vit(attention: str, posemb: str = 'learned') -> dict[str, Any]:
  """Returns arguments of `run.init_from.InitFrom` for weights of a ViT.

  The attention and the norm before it are copied to all attentions of a block, as in
  the published code; positions in time and the Dense layers (`_fc`) stay as they are
  initialized. The published code also computes the exact GELU and normalizes images
  differently than its ViT.
  """
  *extra, _ = SCHEMES[attention] or ('',)
  block, copies = r'(encoder/block_\d+)/', {'attention': 'attention', 'norm1': 'norm'}
  rename = [(f'({block}{part}/.*)', r'\1') for part in copies if extra]
  for kind in extra:
    rename += [
      (f'{block}{part}/(.*)', rf'\1/{PREFIXES[kind]}{copy}/\2')
      for part, copy in copies.items()
    ]
  unused = ['pre_logits/.*'] + ['pos_embedding'] * (posemb == 'none')
  return dict(
    rename=rename,
    allow_missing=['time_embedding', '.*_fc/.*'],
    allow_unused=unused,
    allow_other_activation=True,
    allow_other_normalization=True,
  )
