"""k-GAN (arXiv:1810.10340) as a baseline of arXiv:2103.01209: images are blended.

Extends `gansformer`. Each latent draws a map of its own up to `merge_at`; the maps are
averaged there by a softmax over latents of a learned score, and the mean map becomes
the image.

Axes: B batch, K latents, L layers, Z W widths of latents and styles, n B times K, h w
map, C channels.
"""

import dataclasses
from collections.abc import Mapping
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from flax.core import FrozenDict

from big_vision_like.errors import UserError, check_one_of
from big_vision_like.layers import equalized, synthesis
from big_vision_like.models import gansformer


class Generator(synthesis.StyleGenerator):
  """The generator of k-GAN: latents (B, components, latent_width) to images."""

  resolution: int
  components: int = 8
  latent_width: int = 64
  channels: int = 3
  channel_base: int = 32_768
  channel_max: int = 512
  merge_at: int = 32
  architecture: str = 'residual'
  mapping: Mapping[str, Any] = dataclasses.field(default_factory=dict)
  dtype: str = 'float32'

  tiny = dict(gansformer.Generator.tiny, merge_at=8)

  def __post_init__(self) -> None:
    self.mapping = FrozenDict(self.mapping)  # can be hashed
    super().__post_init__()
    check_one_of(gansformer.ARCHITECTURES, architecture=self.architecture)
    if self.merge_at not in synthesis.resolutions(self.resolution):
      raise UserError(
        f'merge_at={self.merge_at} is not a resolution of the generator: 4, 8, ...,'
        f' {self.resolution}'
      )

  def setup(self) -> None:
    self.mapping_network = gansformer.MappingNetwork(
      components=0,
      width=self.latent_width,
      dtype=self.dtype,
      **{'attention': False, **self.mapping},
    )
    layer = dict(style=True, position_width=self.latent_width, dtype=self.dtype)
    widths = synthesis.widths(self.resolution, self.channel_base, self.channel_max)
    self.blocks = [
      synthesis.SynthesisBlock(
        features,
        side,
        side == self.resolution,
        self.channels,
        layer,
        self.architecture,
        name=f'b{side}',
      )
      for side, features in widths.items()
    ]
    start = synthesis.START
    shape = self.components, start, start, widths[start]
    self.const = self.param('const', nn.initializers.normal(1.0), shape)
    self.score = equalized.Conv(
      1, 1, use_bias=False, activate=False, dtype=self.dtype, name='score'
    )

  @property
  def num_latents(self) -> int:
    """The number of latents of an image."""
    return self.components

  @property
  def num_styles(self) -> int:
    """The number of styles of each latent: one for each layer that is modulated."""
    return 2 * len(synthesis.resolutions(self.resolution)) + 1

  def styles(self, z_BKZ: jax.Array, train: bool = False) -> jax.Array:
    """Returns one style for each latent, (B, K, W)."""
    self.check_latents(z_BKZ)
    batch, count, width = z_BKZ.shape
    z_n1Z = z_BKZ.reshape(batch * count, 1, width)
    return self.mapping_network(z_n1Z, None, train).reshape(batch, count, -1)

  def synthesize(
    self, w_BKLW: jax.Array, noise: str = 'constant', train: bool = False
  ) -> dict[str, jax.Array]:
    """Returns `image`, and as `attention` (B, K, h, w) the share of each latent."""
    check_one_of(synthesis.NOISES, noise=noise)
    batch, count, layers, width = w_BKLW.shape
    w_n1LW = w_BKLW.reshape(batch * count, 1, layers, width)
    const_K44C = self.const.astype(self.dtype)
    x = jnp.tile(const_K44C, (batch, 1, 1, 1))
    image, first, outputs = None, 0, {}
    for block in self.blocks:
      own = w_n1LW[:, :, first : first + block.num_styles + 1]
      first += block.num_styles
      x, image, _ = block(x, image, own, None, noise, train)
      if block.side == self.merge_at:
        share_BKhw1 = self._shares(x, count)
        x = (x.reshape(*share_BKhw1.shape[:-1], -1) * share_BKhw1).sum(axis=1)
        if image is not None:
          shape = *share_BKhw1.shape[:-1], self.channels
          image = (image.reshape(shape) * share_BKhw1).sum(axis=1)
        mean_BK = share_BKhw1.mean(axis=(2, 3, 4))
        w_n1LW = (w_BKLW * mean_BK[..., None, None]).sum(axis=1, keepdims=True)
        outputs['attention'] = share_BKhw1[..., 0]
    return {'image': image, **outputs}

  def _shares(self, x_nhwC: jax.Array, count: int) -> jax.Array:
    """Returns the share of each latent in each pixel, (B, K, h, w, 1)."""
    score_nhw1 = self.score(x_nhwC)
    return nn.softmax(score_nhw1.reshape(-1, count, *score_nhw1.shape[1:]), axis=1)
