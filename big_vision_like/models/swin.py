"""Swin Transformer, arXiv:2103.14030.

Tokens attend to each other within square windows. Every second block shifts the windows
by half of their size. Between stages, each group of 2x2 tokens is merged into one token
of twice the width.

The two successive blocks of equation 3, one with regular windows and one with shifted
windows, form a pair. Pairs are named `block_0`, `block_1`, ..., their blocks `window`
and `shifted`. The last pair of a stage of odd depth has `window` only.

Axes: B batch, H W image, h w map of tokens (u v merged, r s of positions), I channels
of the image, C channels or classes, N tokens (of a map or a window), D width, L depth,
P pairs of blocks, R windows of all images, T relative positions, K size of a head, G
heads.
"""

import functools
import itertools
import math
import re
from collections.abc import Mapping, Sequence
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from big_vision_like.errors import UserError, check_one_of, shape_text
from big_vision_like.layers import attention, transformer
from big_vision_like.ops import attention as attention_ops
from big_vision_like.ops import positions, precision, resampling, sharding, windows

LAYER_NORM_EPSILON = 1e-5
# Width of the first stage, depths, heads: section 3.3; C24 is from the published code.
SIZES = {
  'T': (96, (2, 2, 6, 2), (3, 6, 12, 24)),
  'S': (96, (2, 2, 18, 2), (3, 6, 12, 24)),
  'B': (128, (2, 2, 18, 2), (4, 8, 16, 32)),
  'L': (192, (2, 2, 18, 2), (6, 12, 24, 48)),
  'C24': (96, (2, 2, 6, 2), (4, 8, 16, 32)),
}
# The rows of table 4: no positions, absolute positions at the stem, absolute positions
# and the bias of windows, the bias alone (as published), and the bias without products
# of queries and keys.
POSITIONS = ('none', 'absolute', 'both', 'relative', 'without_content')
PADDINGS = ('none', 'windows', 'dense')
# As published; the published code truncates at 100 standard deviations.
NORMAL = nn.initializers.normal(0.02)
# The search for image sizes that fit covers sizes up to this many patches away.
NEAR = 128


def variant(name: str) -> dict[str, Any]:
  """Returns the arguments of `Swin` for names such as 'T', 'B/12' or 'C24/8'.

  The number after the slash is the window, 7 by default.
  """
  match = re.fullmatch(r'(\w+)(?:/(\d+))?', name)
  if match is None or match[1] not in SIZES:
    known = ', '.join(SIZES)
    raise UserError(
      f'unknown Swin variant {name!r}: write SIZE or SIZE/WINDOW, where SIZE is one of'
      f' {known}'
    )
  width, depths, num_heads = SIZES[match[1]]
  return dict(
    width=width, depths=depths, num_heads=num_heads, window=int(match[2] or 7)
  )


class Swin(nn.Module):
  """A Swin Transformer that maps images (B, H, W, C) to a dict of named arrays.

  Returns the `tokens` after the last norm and their mean, `features`. With
  `num_classes` > 0 there are also `logits`, float32. `maps` turns the model into a
  backbone for detection or segmentation: for each of these stages, counted from 1, it
  returns a map `stage1` (B, h, w, D) and so on, each with its own norm, and there is
  neither a last norm nor a head.

  Patches must divide the images, and windows the maps of all stages. Where a side of a
  map is shorter than `window`, windows shrink to that side. With `padding`, images may
  have any size: zeros complete the patches and, after the first norm of a block, the
  windows, which never shrink. With 'windows', windows are not shifted where a side of
  the map is no longer than a window, so images that need no padding have the same
  logits as with 'none'. With 'dense', windows are always shifted, as in the published
  code for detection and segmentation.

  `posemb` is one of `POSITIONS`. Absolute positions belong to the grid of the images
  or, if given, to `pos_grid`, from which they are resized to the grid of the images.
  `shifted=False` leaves all windows unshifted (both options are in table 4). Parameters
  are initialized at the scale of the published code.
  """

  width: int
  depths: Sequence[int]
  num_heads: Sequence[int]
  num_classes: int = 0
  window: int = 7
  patch: int = 4
  mlp_ratio: float = 4.0
  maps: Sequence[int] = ()
  padding: str = 'none'
  shifted: bool = True
  posemb: str = 'relative'
  pos_grid: tuple[int, int] | None = None
  activation: str = 'gelu_exact'
  epsilon: float = LAYER_NORM_EPSILON
  drop_path: float = 0.0
  scan: bool = False
  remat: str = 'none'
  dtype: str = 'float32'

  sharding_rules = transformer.SHARDING_RULES
  resizes = {
    '(.*/)?pos_embedding': functools.partial(
      positions.resize_grid, method='cubic_torch'
    ),
    '(.*/)?relative_bias': positions.resize_window,
  }
  # Two stages, so that grids of 16 and 24 tokens divide, or all those with maps, which
  # then have one block.
  tiny = dict(
    depths=lambda arguments, _: tuple(
      min(depth, 1 if arguments['maps'] else 2)
      for depth in arguments['depths'][: _stages(arguments)]
    ),
    width=16,
    num_heads=lambda arguments, _: (2,) * _stages(arguments),
    window=4,
  )

  @property
  def stride(self) -> tuple[int, int]:
    """The height and width in pixels of a token of the first stage."""
    return self.patch, self.patch

  def grid(self, image_size: tuple[int, int]) -> tuple[int, int]:
    """Returns rows and columns of the absolute positions for images of this size."""
    if self.pos_grid is not None:
      return tuple(self.pos_grid)
    rows, columns = (-(-side // self.patch) for side in image_size)
    return rows, columns

  def table_grid(
    self, variables: Mapping[str, Any]
  ) -> tuple[int | None, tuple[int, int] | None]:
    """Returns the number of absolute positions and the grid of the images.

    For a classifier without absolute positions, it is the grid for which the map of the
    last stage is one window, as in all published models.
    """
    params = variables['params']
    if 'pos_embedding' in params:
      return params['pos_embedding'].shape[1], self.pos_grid
    if self.padding != 'none' or self.posemb in ('none', 'absolute'):
      return None, None
    side = self.window * 2 ** (len(self.depths) - 1)
    return None, (side, side)

  def misfit(self, image_size: tuple[int, int]) -> str:
    """Returns why images of this size cannot be divided; '' if they can."""
    if self.padding != 'none':
      return ''
    if any(side % self.patch for side in image_size):
      return f'patches of {self.patch}x{self.patch} do not divide them'
    grid = tuple(side // self.patch for side in image_size)
    for stage in range(1, len(self.depths) + 1):
      window = min(self.window, *grid)
      if any(side % window for side in grid):
        return (
          f'windows of {window}x{window} do not divide the {shape_text(grid)} tokens of'
          f' stage {stage}'
        )
      if stage < len(self.depths) and any(side % 2 for side in grid):
        return f'2x2 do not divide the {shape_text(grid)} tokens of stage {stage}'
      grid = tuple(side // 2 for side in grid)
    return ''

  def nearest_sizes(self, image_size: tuple[int, int]) -> list[tuple[int, int]]:
    """Returns the nearest smaller and the nearest larger image size that divides."""
    ways = []
    for side in image_size:
      first = side // self.patch
      ways.append([n * self.patch for n in range(max(first - NEAR, 1), first + NEAR)])
    sizes = itertools.product(*ways)
    if len({*image_size}) == 1:
      sizes = ((side, side) for side in ways[0])
    far = lambda size: sum(abs(a - b) for a, b in zip(size, image_size, strict=True))  # noqa: E731
    found = {-1: [], 1: []}
    for size in sorted(sizes, key=far):
      signs = {np.sign(a - b) for a, b in zip(size, image_size, strict=True)} - {0}
      if len(signs) == 1 and not found[signs.copy().pop()] and not self.misfit(size):
        found[signs.pop()] = [size]
      if all(found.values()):
        break
    return found[-1] + found[1]

  def check(self, image_size: tuple[int, int]) -> None:
    """Raises a `UserError` that names the nearest sizes if images do not divide."""
    why = self.misfit(image_size)
    if not why:
      return
    near = ' or '.join(map(shape_text, self.nearest_sizes(image_size)))
    raise UserError(
      f'images of {shape_text(image_size)}: {why}; take images of'
      f' {near or "another size"}, another window than {self.window}, or'
      " padding='windows'"
    )

  def for_images(self, image_size: tuple[int, int]) -> 'Swin':
    """Returns the model for another image size, with another window if needed.

    If the current window does not divide the maps, the window becomes as large as the
    shorter side of the last stage's map. Raises if that does not divide them either.
    """
    if not self.misfit(image_size):
      return self
    window = min(image_size) // (self.patch * 2 ** (len(self.depths) - 1))
    other = self.clone(window=window) if window else self
    if other.misfit(image_size):
      self.check(image_size)
    return other

  @nn.compact
  def __call__(
    self, image_BHWI: jax.Array, train: bool = False
  ) -> dict[str, jax.Array]:
    self.check_arguments()
    self.check(image_BHWI.shape[1:3])
    x_BhwD = self.embedded(image_BHWI)
    depths, outputs = tuple(self.depths), {}
    rates = np.split(
      np.linspace(0.0, self.drop_path, sum(depths)), np.cumsum(depths)[:-1]
    )
    norm = functools.partial(nn.LayerNorm, epsilon=self.epsilon, dtype=self.dtype)
    for stage, (rates_L, num_heads) in enumerate(
      zip(rates, self.num_heads, strict=True), start=1
    ):
      width = x_BhwD.shape[-1]
      x_BhwD = Stage(
        block=dict(
          num_heads=num_heads,
          mlp_dim=int(width * self.mlp_ratio),
          window=self.window,
          padding=self.padding,
          posemb=self.posemb,
          stochastic_depth=self.drop_path > 0,
          activation=self.activation,
          epsilon=self.epsilon,
          dtype=self.dtype,
        ),
        shifted=self.shifted,
        scan=self.scan,
        remat=self.remat,
        name=f'stage{stage}',
      )(x_BhwD, rates_L, train)
      if stage in self.maps:
        outputs[f'stage{stage}'] = norm(name=f'norm{stage}')(x_BhwD)
      if stage < len(depths):
        x_BhwD = Merge(
          self.padding != 'none', self.epsilon, self.dtype, name=f'merge{stage}'
        )(x_BhwD)
    if self.maps:
      return outputs
    x_BhwD = norm(name='norm')(x_BhwD)
    tokens_BND = x_BhwD.reshape(len(x_BhwD), -1, x_BhwD.shape[-1])
    features_BD = tokens_BND.mean(axis=1)
    outputs = {'features': features_BD, 'tokens': tokens_BND}
    if self.num_classes:
      logits_BC = nn.Dense(
        self.num_classes, kernel_init=NORMAL, dtype=self.dtype, name='head'
      )(features_BD)
      outputs['logits'] = precision.at_least_float32(logits_BC)
    return outputs

  def check_arguments(self) -> None:
    """Raises a `UserError` for arguments that contradict each other."""
    check_one_of(POSITIONS, posemb=self.posemb)
    check_one_of(PADDINGS, padding=self.padding)
    check_one_of(('none', *transformer.REMAT_POLICIES), remat=self.remat)
    count = len(self.depths)
    if len(self.num_heads) != count:
      raise UserError(
        f'num_heads={tuple(self.num_heads)} and depths={tuple(self.depths)} are for'
        f' different numbers of stages, {len(self.num_heads)} and {count}'
      )
    if self.maps and self.num_classes:
      raise UserError(
        f'maps={tuple(self.maps)} makes a backbone, which has no head: num_classes='
        f'{self.num_classes} must be 0'
      )
    if not {*self.maps} <= {*range(1, count + 1)}:
      raise UserError(f'maps={tuple(self.maps)} must be stages from 1 to {count}')
    if self.scan and any(depth % 2 for depth in self.depths):
      raise UserError(
        f'scan=True loops over pairs of blocks: depths={tuple(self.depths)} must be'
        ' even'
      )

  def embedded(self, image_BHWI: jax.Array) -> jax.Array:
    """Returns normed patch embeddings, with absolute positions if any: (B, h, w, D)."""
    patch = self.patch, self.patch
    inputs = math.prod(patch) * image_BHWI.shape[-1]
    if self.padding != 'none':
      image_BHWI = windows.pad(
        image_BHWI, windows.whole(image_BHWI.shape[1:3], self.patch)
      )
    x_BhwD = nn.Conv(
      self.width,
      patch,
      strides=patch,
      padding='VALID',
      kernel_init=_uniform(inputs),
      bias_init=_uniform(inputs),
      dtype=self.dtype,
      name='embed',
    )(image_BHWI)
    x_BhwD = nn.LayerNorm(epsilon=self.epsilon, dtype=self.dtype, name='embed_norm')(
      x_BhwD
    )
    if self.posemb not in ('absolute', 'both'):
      return x_BhwD
    grid = x_BhwD.shape[1:3]
    own = grid if self.pos_grid is None else tuple(self.pos_grid)
    what = f'for a grid of {shape_text(own)}'
    pos_1ND = _table(self, 'pos_embedding', (1, math.prod(own), self.width), what)
    pos_1rsD = pos_1ND.reshape(1, *own, self.width)
    if own == grid:
      return x_BhwD + pos_1rsD.astype(x_BhwD.dtype)
    pos_1hwD = resampling.resize(pos_1rsD, grid, 'bicubic')
    return x_BhwD + pos_1hwD.astype(x_BhwD.dtype)


class Stage(nn.Module):
  """Pairs of blocks of one width; `block` holds the arguments of each `Block`.

  `scan` compiles one pair and loops over it: parameters are stacked under `blocks`
  instead of named `block_0`, ...
  """

  block: Mapping[str, Any]
  shifted: bool = True
  scan: bool = False
  remat: str = 'none'

  @nn.compact
  def __call__(
    self, x_BhwD: jax.Array, rates_L: np.ndarray, train: bool = False
  ) -> jax.Array:
    pair = functools.partial(Pair, self.block, self.shifted, self.remat, self.scan)
    if not self.scan:
      for i in range(0, len(rates_L), 2):
        x_BhwD = pair(name=f'block_{i // 2}')(
          x_BhwD, jnp.asarray(rates_L[i : i + 2], float), train
        )
      return x_BhwD

    def body(
      pair: nn.Module, x_BhwD: jax.Array, rates_2: jax.Array
    ) -> tuple[jax.Array, None]:
      return pair(x_BhwD, rates_2, train), None

    rates_P2 = jnp.asarray(rates_L.reshape(-1, 2), float)
    x_BhwD, _ = nn.scan(
      body,
      variable_axes={'params': 0, 'intermediates': 0},
      split_rngs={'params': True, 'dropout': True},
      in_axes=0,
      length=len(rates_P2),
    )(pair(name='blocks'), x_BhwD, rates_P2)
    return x_BhwD


class Pair(nn.Module):
  """Two successive blocks: one with regular windows, one with shifted windows."""

  block: Mapping[str, Any]
  shifted: bool = True
  remat: str = 'none'
  scan: bool = False

  @nn.compact
  def __call__(
    self, x_BhwD: jax.Array, rates_L: jax.Array, train: bool = False
  ) -> jax.Array:
    block_class = Block
    if self.remat != 'none':
      block_class = nn.remat(
        Block,
        policy=transformer.REMAT_POLICIES[self.remat],
        static_argnums=(3,),  # train
        prevent_cse=not self.scan,  # a loop body is not merged with its recomputation
      )
    shift = self.block['window'] // 2 if self.shifted else 0
    # The last pair of a stage of odd depth has no second block.
    for name, by, rate in zip(('window', 'shifted'), (0, shift), rates_L, strict=False):
      x_BhwD = block_class(**self.block, shift=by, name=name)(x_BhwD, rate, train)
    return x_BhwD


class Block(nn.Module):
  """Attention within windows and an MLP, both as pre-norm residual branches."""

  num_heads: int
  mlp_dim: int
  window: int
  shift: int
  padding: str = 'none'
  posemb: str = 'relative'
  stochastic_depth: bool = False
  activation: str = 'gelu_exact'
  epsilon: float = LAYER_NORM_EPSILON
  dtype: str = 'float32'

  @nn.compact
  def __call__(
    self, x_BhwD: jax.Array, drop_path: jax.Array, train: bool = False
  ) -> jax.Array:
    # With fsdp, batch and state are both sharded. This makes XLA gather the state.
    x_BhwD = sharding.constrain(x_BhwD, sharding.BATCH, None, None, None)
    mlp = transformer.Mlp(
      self.mlp_dim,
      dtype=self.dtype,
      activation=self.activation,
      kernel_init=NORMAL,
      bias_init=nn.initializers.zeros,
      name='mlp',
    )

    def mlp_branch(y_BhwD: jax.Array) -> jax.Array:
      y_BND = y_BhwD.reshape(len(y_BhwD), -1, y_BhwD.shape[-1])
      return mlp(y_BND).reshape(y_BhwD.shape)

    for number, branch in enumerate((self.attended, mlp_branch), start=1):
      norm = nn.LayerNorm(epsilon=self.epsilon, dtype=self.dtype, name=f'norm{number}')
      y_BhwD = branch(norm(x_BhwD))
      if train and self.stochastic_depth:
        y_BhwD = transformer.DropPath(name=f'drop_path{number}')(y_BhwD, drop_path)
      x_BhwD = x_BhwD + y_BhwD
    return x_BhwD

  def attended(self, y_BhwD: jax.Array) -> jax.Array:
    """Returns the output of attention within windows, (B, h, w, D)."""
    batch, *grid, _ = y_BhwD.shape
    window, shift = self.window, self.shift
    if self.padding == 'none':
      window = min(window, *grid)
    if self.padding != 'dense' and min(grid) <= window:
      shift = 0
    padded = windows.whole(grid, window)
    y_BhwD = windows.shifted(windows.pad(y_BhwD, padded), shift)
    y_RND = windows.partition(y_BhwD, window)
    mask_R1NN = bias_1GNN = None
    if shift:
      mask_R1NN = windows.of_all(windows.seen(padded, window, shift), batch)
    if self.posemb not in ('none', 'absolute'):
      shape = (2 * window - 1) ** 2, self.num_heads
      what = f'for windows of {window}x{window} tokens'
      table_TG = _table(self, 'relative_bias', shape, what)
      index_NN = positions.relative_index(window, window)
      bias_1GNN = positions.relative_bias(table_TG, index_NN)
    if self.posemb == 'without_content':
      y_RND = AttentionByPosition(self.num_heads, self.dtype, name='attention')(
        y_RND, bias_1GNN, mask_R1NN
      )
    else:
      y_RND = attention.MultiHeadAttention(
        self.num_heads, self.dtype, kernel_init=NORMAL, name='attention'
      )(y_RND, bias_BHNM=bias_1GNN, mask=mask_R1NN)
    y_BhwD = windows.shifted(windows.joined(y_RND, padded), -shift)
    return y_BhwD[:, : grid[0], : grid[1]]


class AttentionByPosition(nn.Module):
  """Attention whose logits are the position bias alone: the last row of table 4."""

  num_heads: int
  dtype: str = 'float32'

  @nn.compact
  def __call__(
    self, x_RND: jax.Array, bias_1GNN: jax.Array, mask_R1NN: jax.Array | None
  ) -> jax.Array:
    count, tokens, width = x_RND.shape
    value = attention.Projection(
      self.num_heads, width // self.num_heads, kernel_init=NORMAL, name='value'
    )
    [v_RNGK] = attention.project([(x_RND, value)], self.dtype)
    nothing_RNG1 = jnp.zeros((count, tokens, self.num_heads, 1), self.dtype)
    y_RNGK = attention_ops.attend(
      nothing_RNG1, nothing_RNG1, v_RNGK, bias_1GNN, mask_R1NN
    )
    return nn.DenseGeneral(
      width,
      axis=(-2, -1),
      kernel_init=NORMAL,
      dtype=self.dtype,
      dot_general=sharding.dot_general(sharding.TENSOR, None, None),
      name='out',
    )(y_RNGK)


class Merge(nn.Module):
  """A layer that merges 2x2 tokens into one: (B, h, w, D) to (B, u, v, 2 D).

  With `padded`, a row or column of zeros is appended to odd sides.
  """

  padded: bool = False
  epsilon: float = LAYER_NORM_EPSILON
  dtype: str = 'float32'

  @nn.compact
  def __call__(self, x_BhwD: jax.Array) -> jax.Array:
    width = x_BhwD.shape[-1]
    if self.padded:
      x_BhwD = windows.pad(x_BhwD, windows.whole(x_BhwD.shape[1:3], 2))
    x_BuvC = windows.neighbours(x_BhwD)
    x_BuvC = nn.LayerNorm(epsilon=self.epsilon, dtype=self.dtype, name='norm')(x_BuvC)
    return nn.Dense(
      2 * width,
      use_bias=False,
      kernel_init=NORMAL,
      dtype=self.dtype,
      dot_general=sharding.dot_general(None, None),
      name='reduction',
    )(x_BuvC)


def _table(module: nn.Module, name: str, shape: Sequence[int], what: str) -> jax.Array:
  """Returns a learned table; raises a `UserError` if the stored one differs in size."""
  if module.has_variable('params', name):
    have = module.get_variable('params', name).shape
    if have != tuple(shape):
      place = '/'.join((*module.path, name))
      raise UserError(
        f'the parameter {place} has shape {have}, but {what} it must be {tuple(shape)}:'
        ' resize it with init_from or load(..., image_size=...)'
      )
  return module.param(name, NORMAL, tuple(shape))


def _stages(arguments: Mapping[str, Any]) -> int:
  """Returns the number of stages of a tiny model."""
  return min(len(arguments['depths']), max(2, 2, *arguments['maps']))


def _uniform(inputs: int) -> nn.initializers.Initializer:
  """Returns PyTorch's initializer of convolutions: uniform in +-1 / sqrt(inputs)."""
  bound = 1 / math.sqrt(inputs)

  def init(key: jax.Array, shape: Sequence[int], dtype: Any = float) -> jax.Array:
    return jax.random.uniform(key, shape, dtype, -bound, bound)

  return init
