"""The discriminator of StyleGAN2 (arXiv:1912.04958), with aggregators if asked.

With `components`, learned aggregators attend to the pixels before the convolutions of
every block, and each gets a score of its own (arXiv:2103.01209, figure 3, and its
TensorFlow code).

Axes: B batch, h w map, u v the same after downsampling, C channels, F features, N
pixels or their features, I channels with the deviation, k aggregators, A width of
aggregators, S features and scores.
"""

import flax.linen as nn
import jax
import jax.numpy as jnp

from big_vision_like.errors import UserError, shape_text
from big_vision_like.layers import equalized, synthesis
from big_vision_like.layers.bipartite import BipartiteAttention
from big_vision_like.ops import modulation, precision


class Block(nn.Module):
  """A residual block that halves the map."""

  width: int
  features: int
  dtype: str = 'float32'

  @nn.compact
  def __call__(self, x_BhwC: jax.Array) -> jax.Array:
    half, dtype = synthesis.HALF, self.dtype
    skip = equalized.Conv(
      self.features,
      1,
      'down',
      use_bias=False,
      activate=False,
      gain=half,
      dtype=dtype,
      name='skip',
    )
    y_BhwC = equalized.Conv(self.width, dtype=dtype, name='conv0')(x_BhwC)
    conv1 = equalized.Conv(
      self.features, 3, 'down', gain=half, dtype=dtype, name='conv1'
    )
    return skip(x_BhwC) + conv1(y_BhwC)


class Discriminator(nn.Module):
  """Images (B, resolution, resolution, channels) to one logit each: real or not.

  `deviation_group` is the number of examples over which the deviation is measured; 1
  gives a constant. `components` aggregators of `aggregator_width` read maps of up to
  `attention_up_to` rows; 0 is the published default.
  """

  resolution: int
  channels: int = 3
  channel_base: int = 32_768
  channel_max: int = 512
  deviation_group: int = 4
  components: int = 0
  aggregator_width: int = 32
  attention_up_to: int = 128
  dropout: float = 0.12
  dtype: str = 'float32'

  # The largest arguments with which `tools/smoke.py` runs configs.
  tiny = dict(resolution=16, channel_base=128, channel_max=16)

  def __post_init__(self) -> None:
    super().__post_init__()
    synthesis.resolutions(self.resolution)

  @nn.compact
  def __call__(
    self, image_BHWC: jax.Array, train: bool = False
  ) -> dict[str, jax.Array]:
    """Returns `logit` (B,), float32."""
    want = self.resolution, self.resolution, self.channels
    if image_BHWC.shape[1:] != want:
      raise UserError(
        f'images of shape {shape_text(image_BHWC.shape[1:])} are not'
        f' {shape_text(want)}: pad or resize them to a square of the resolution'
      )
    widths = synthesis.widths(self.resolution, self.channel_base, self.channel_max)
    sides = list(reversed(widths))
    aggregators_BkA = position_kA = None
    if self.components:
      shape = self.components, self.aggregator_width
      init = nn.initializers.uniform(1.0)
      aggregators_kA = self.param('aggregators', init, shape)
      position_kA = self.param('position', init, shape)
      aggregators_BkA = jnp.broadcast_to(
        aggregators_kA[None], (len(image_BHWC), *shape)
      ).astype(self.dtype)
    from_rgb = equalized.Conv(
      widths[self.resolution], 1, dtype=self.dtype, name='from_rgb'
    )
    x = from_rgb(image_BHWC)
    for side, after in zip(sides, sides[1:], strict=False):
      if self.components and side <= self.attention_up_to:
        aggregators_BkA = self._aggregate(side, aggregators_BkA, x, position_kA, train)
      x = Block(widths[side], widths[after], self.dtype, name=f'b{side}')(x)
    scores_BS = self._features(x)
    if self.components:
      own_Bk = self._scores(aggregators_BkA)
      scores_BS = jnp.concatenate([scores_BS, own_Bk], axis=-1)
    logit_B1 = equalized.Dense(1, dtype=self.dtype, name='out')(scores_BS)
    return {'logit': precision.at_least_float32(logit_B1)[:, 0]}

  def _features(self, x_BhwC: jax.Array) -> jax.Array:
    """Returns the features of the last map, (B, F)."""
    width = x_BhwC.shape[-1]
    told_BhwI = modulation.with_deviation(x_BhwC, self.deviation_group)
    conv = equalized.Conv(width, dtype=self.dtype, name='conv')
    x_BN = conv(told_BhwI).reshape(len(x_BhwC), -1)
    fc = equalized.Dense(width, dtype=self.dtype, name='fc')
    return equalized.leaky(fc(x_BN))

  def _aggregate(
    self,
    side: int,
    aggregators_BkA: jax.Array,
    x_BhwC: jax.Array,
    position_kA: jax.Array,
    train: bool,
  ) -> jax.Array:
    layer = BipartiteAttention(
      self.aggregator_width,
      integration='add',
      norm='none',
      dropout=self.dropout,
      dtype=self.dtype,
      name=f'attention_{side}',
    )
    where_NA = synthesis.grid_positions(side, self.aggregator_width)
    x_BNC = x_BhwC.reshape(len(x_BhwC), -1, x_BhwC.shape[-1])
    found = layer(aggregators_BkA, x_BNC, position_kA, where_NA, train)
    return found['elements']

  def _scores(self, aggregators_BkA: jax.Array) -> jax.Array:
    """Returns one score for each aggregator, (B, k)."""
    x = modulation.with_deviation(aggregators_BkA[:, :, None], self.deviation_group)
    fc = equalized.Dense(self.aggregator_width, dtype=self.dtype, name='score_fc')
    out = equalized.Dense(1, dtype=self.dtype, name='score_out')
    return out(equalized.leaky(fc(x[:, :, 0])))[..., 0]
