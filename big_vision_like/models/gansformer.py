"""GANsformer, arXiv:2103.01209: images from components that attend to regions.

A mapping network turns Gaussian latents into styles. The synthesis network grows a 4x4
map to the image; in every layer the pixels attend to the local components (simplex or
duplex attention), and one global component modulates the convolutions as in StyleGAN2
(arXiv:1912.04958). Without components it is StyleGAN2. The published code differs from
the paper: it adds the global component and self-attention among latents, and its
released models have no attention in the discriminator (`models/discriminator.py`).

Axes: B batch, K components (the global one last), k local components, L layers, Z width
of a latent, W width of a style, P width of positions, H W image, h w map, N pixels, C
channels.
"""

import dataclasses
import functools
from collections.abc import Mapping
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from flax.core import FrozenDict

from big_vision_like.errors import UserError, check_one_of
from big_vision_like.layers import synthesis
from big_vision_like.layers.synthesis import Mlp, SynthesisBlock
from big_vision_like.ops import modulation, precision

ARCHITECTURES = ('residual', 'skip')
STEMS = ('constant', 'latent')


class MappingNetwork(nn.Module):
  """Maps the global latent, and the local ones with shared parameters, to styles.

  In training it updates `batch_stats/average`, the running average of all styles, with
  which `Generator.truncated` draws less varied images.
  """

  components: int
  width: int
  layers: int = 8
  residual: bool = True
  attention: bool = True
  has_global: bool = True
  decay: float = 0.995
  dtype: str = 'float32'

  @nn.compact
  def __call__(
    self, z_BKZ: jax.Array, position_kP: jax.Array | None, train: bool = False
  ) -> jax.Array:
    """Returns styles (B, K, W), float32."""
    mlp = functools.partial(
      Mlp, self.width, self.layers, self.residual, dtype=self.dtype
    )
    # Local latents of an image are normalized together, the global one alone.
    parts = []
    if self.components:
      local_BkZ = modulation.rms_normalized(z_BKZ[:, : self.components], (1, 2))
      local = mlp(attention=self.attention, name='local')
      parts.append(local(local_BkZ, position_kP, train))
    if self.has_global:
      global_B1Z = modulation.rms_normalized(z_BKZ[:, self.components :], (1, 2))
      parts.append(mlp(name='global')(global_B1Z))
    w_BKW = precision.at_least_float32(jnp.concatenate(parts, axis=1))
    average_W = self.variable('batch_stats', 'average', jnp.zeros, (self.width,))
    if train and not self.is_initializing():
      mean_W = jax.lax.stop_gradient(w_BKW.mean(axis=(0, 1)))
      average_W.value = mean_W + self.decay * (average_W.value - mean_W)
    return w_BKW


class Generator(synthesis.StyleGenerator):
  """The generator: latents (B, K, latent_width) to images in about [-1, 1].

  `components` local components and, unless `has_global` is False, a global one.
  `mapping` has arguments of `MappingNetwork`, and `attention` of `BipartiteAttention`;
  maps of up to `attention_up_to` rows attend to components. `carry` starts the
  centroids of a layer from the assignments of the last one. `self_attention_at` is the
  resolution at which pixels attend to each other (SAGAN).
  """

  resolution: int
  components: int = 16
  latent_width: int = 32
  channels: int = 3
  channel_base: int = 32_768
  channel_max: int = 512
  has_global: bool = True
  style: bool = True
  architecture: str = 'residual'
  stem: str = 'constant'
  mapping: Mapping[str, Any] = dataclasses.field(default_factory=dict)
  attention: Mapping[str, Any] = dataclasses.field(default_factory=dict)
  attention_up_to: int = 128
  carry: bool = False
  self_attention_at: int = 0
  dtype: str = 'float32'

  # The largest arguments with which `tools/smoke.py` runs configs.
  tiny = dict(
    resolution=16, components=3, latent_width=8, channel_base=128, channel_max=16
  )

  def __post_init__(self) -> None:
    # Compiled programs depend on a module's hash, which dicts have not.
    self.mapping = FrozenDict(self.mapping)
    self.attention = FrozenDict(self.attention)
    super().__post_init__()
    check_one_of(ARCHITECTURES, architecture=self.architecture)
    check_one_of(STEMS, stem=self.stem)
    synthesis.resolutions(self.resolution)
    if self.latent_width % 4:
      raise UserError(
        f'latent_width={self.latent_width} is not divisible by 4: positions of pixels'
        ' have this width, as a sine and a cosine of rows and of columns'
      )
    if not self.components and not self.has_global:
      raise UserError('components=0 and has_global=False leave no latent')
    if not self.has_global and (self.style or self.stem == 'latent'):
      raise UserError(
        "has_global=False needs style=False and stem='constant': there is no global"
        ' latent from which convolutions or the first map could take a style'
      )

  def setup(self) -> None:
    own = dict(components=self.components, width=self.latent_width, dtype=self.dtype)
    settings = dict(attention=bool(self.components), has_global=self.has_global)
    self.mapping_network = MappingNetwork(**own, **{**settings, **self.mapping})
    self.blocks = [
      SynthesisBlock(
        features,
        side,
        side == self.resolution,
        self.channels,
        self._layer(side),
        self.architecture,
        self.stem,
        name=f'b{side}',
      )
      for side, features in self.widths.items()
    ]
    if self.components:
      shape = self.components, self.latent_width
      self.position = self.param('position', nn.initializers.uniform(1.0), shape)
    else:
      self.position = None

  @property
  def widths(self) -> dict[int, int]:
    """The number of channels of each resolution."""
    return synthesis.widths(self.resolution, self.channel_base, self.channel_max)

  def _layer(self, side: int) -> dict[str, Any]:
    attends = bool(self.components) and side <= self.attention_up_to
    return dict(
      style=self.style,
      attention=dict(self.attention) if attends else None,
      self_attention=side == self.self_attention_at,
      position_width=self.latent_width,
      dtype=self.dtype,
    )

  @property
  def num_latents(self) -> int:
    """The number of latents of an image."""
    return self.components + self.has_global

  @property
  def num_styles(self) -> int:
    """The number of styles of each component: one for each layer that is modulated."""
    sides, stem = len(synthesis.resolutions(self.resolution)), self.stem == 'latent'
    return 2 * sides + 1 + stem

  def styles(self, z_BKZ: jax.Array, train: bool = False) -> jax.Array:
    """Returns one style for each latent, (B, K, W)."""
    self.check_latents(z_BKZ)
    return self.mapping_network(z_BKZ, self.position, train)

  def synthesize(
    self, w_BKLW: jax.Array, noise: str = 'constant', train: bool = False
  ) -> dict[str, jax.Array]:
    """Returns `image`, and attention maps by layer (B, H, k, h, w).

    `attention` is the map of the last layer, the mean over heads: (B, k, h, w).
    """
    check_one_of(synthesis.NOISES, noise=noise)
    x, image, carried, first, maps = None, None, None, 0, {}
    for block in self.blocks:
      own = w_BKLW[:, :, first : first + block.num_styles + 1]
      first += block.num_styles
      told = self.position, noise, train, carried
      x, image, attended = block(x, image, own, *told)
      for name, found in attended.items():
        p_BHNk = found['attention']
        grid = *p_BHNk.swapaxes(-1, -2).shape[:3], block.side, block.side
        maps[f'attention_b{block.side}_{name}'] = p_BHNk.swapaxes(-1, -2).reshape(grid)
        carried = found['assignments'] if self.carry else None
    outputs = {'image': image, **maps}
    if maps:
      outputs['attention'] = maps[list(maps)[-1]].mean(axis=1)
    return outputs
