"""UPerNet, arXiv:1807.10221: semantic segmentation from the maps of a backbone.

The last map is pooled to several grids (pyramid pooling, arXiv:1612.01105). Coarser
maps are then added to finer ones, and all of them are fused at the size of the finest.
This is the network with which Swin (arXiv:2103.14030) is evaluated on ADE20K; details
follow mmsegmentation 0.11.

Axes: B batch, H W image, h w finest map, u v another map, f g last map, r sides of a
pooled map, I input channels, D channels of the decoder, A channels of the auxiliary
head, C classes.
"""

import functools
from collections.abc import Mapping, Sequence

import flax.linen as nn
import jax
import jax.numpy as jnp

from big_vision_like.errors import UserError
from big_vision_like.layers import convolution, fpn, transformer
from big_vision_like.layers.convolution import ConvNorm
from big_vision_like.ops import precision, resampling

# Initializer of classifiers in mmsegmentation.
NORMAL = nn.initializers.normal(0.01)


class UPerNet(nn.Module):
  """A segmentation model from images (B, H, W, I) to a dict of named arrays.

  `logits` (B, h, w, C) have the size of the finest map of the backbone, and `features`
  (B, h, w, D) are the fused maps before dropout. With `auxiliary_channels` > 0, a head
  on the map before the last adds `auxiliary_logits` (B, u, v, C). Logits are float32.

  `backbone` is a module that returns maps by name, `stage1` and so on, fine to coarse,
  such as a `swin.Swin` with `maps` or a `resnet.ResNet`; it needs at least two.
  `channels` is the width of the decoder, and `pool_scales` are the sides of the grids
  that the last map is pooled to. In training, `dropout` drops whole channels of the
  maps that classifiers read.
  """

  backbone: nn.Module
  num_classes: int
  channels: int = 512
  pool_scales: Sequence[int] = (1, 2, 3, 6)
  auxiliary_channels: int = 256
  dropout: float = 0.1
  dtype: str = 'float32'

  sharding_rules = transformer.SHARDING_RULES
  tiny = dict(channels=16, auxiliary_channels=8)

  @nn.compact
  def __call__(
    self, image_BHWI: jax.Array, train: bool = False
  ) -> dict[str, jax.Array]:
    maps = stages(self.backbone(image_BHWI, train))
    features_BhwD = Decoder(
      self.channels, tuple(self.pool_scales), self.dtype, name='decoder'
    )(maps, train)
    classify = dict(
      num_classes=self.num_classes, dropout=self.dropout, dtype=self.dtype
    )
    logits_BhwC = Classifier(**classify, name='classifier')(features_BhwD, train)
    outputs = {'logits': logits_BhwC, 'features': features_BhwD}
    if self.auxiliary_channels:
      x_BuvA = ConvNorm(
        self.auxiliary_channels, 3, dtype=self.dtype, name='auxiliary_conv'
      )(maps[-2].astype(self.dtype), train)
      outputs['auxiliary_logits'] = Classifier(**classify, name='auxiliary_classifier')(
        x_BuvA, train
      )
    return outputs


class Decoder(nn.Module):
  """Fusion of maps, fine to coarse, to one map (B, h, w, D) of the finest size."""

  channels: int
  pool_scales: Sequence[int]
  dtype: str = 'float32'

  @nn.compact
  def __call__(self, maps: Sequence[jax.Array], train: bool = False) -> jax.Array:
    def conv(name: str, size: int, x_BuvI: jax.Array) -> jax.Array:
      layer = ConvNorm(self.channels, size, dtype=self.dtype, name=name)
      return layer(x_BuvI, train)

    *finer, last_BfgI = (x.astype(self.dtype) for x in maps)
    pooled = [last_BfgI]
    for number, scale in enumerate(self.pool_scales, start=1):
      y_BrrD = conv(f'pool{number}', 1, resampling.adaptive_average(last_BfgI, scale))
      pooled.append(resampling.resize(y_BrrD, last_BfgI.shape[1:3], 'bilinear'))
    x_BuvD = conv('bottleneck', 3, jnp.concatenate(pooled, axis=-1))
    laterals = [conv(f'lateral{i}', 1, x) for i, x in enumerate(finer, start=1)]
    resize = functools.partial(resampling.resize, method='bilinear')
    *finer, x_BuvD = fpn.top_down([*laterals, x_BuvD], resize)
    found = [conv(f'output{i}', 3, x) for i, x in enumerate(finer, start=1)]
    found.append(x_BuvD)  # without a further convolution
    size = found[0].shape[1:3]
    return conv('fusion', 3, jnp.concatenate([resize(x, size) for x in found], axis=-1))


class Classifier(nn.Module):
  """A dropout of whole channels and a 1x1 convolution to logits, float32."""

  num_classes: int
  dropout: float = 0.0
  kernel_init: nn.initializers.Initializer = NORMAL
  dtype: str = 'float32'

  @nn.compact
  def __call__(self, x_BhwD: jax.Array, train: bool = False) -> jax.Array:
    x_BhwD = nn.Dropout(self.dropout, broadcast_dims=(1, 2), deterministic=not train)(
      x_BhwD
    )
    logits_BhwC = convolution.conv(
      'conv',
      self.num_classes,
      1,
      use_bias=True,
      kernel_init=self.kernel_init,
      dtype=self.dtype,
    )(x_BhwD)
    return precision.at_least_float32(logits_BhwC)


def stages(maps: Mapping[str, jax.Array]) -> list[jax.Array]:
  """Returns the maps of a backbone, fine to coarse; raises for fewer than two."""
  found = [maps[name] for name in sorted(maps) if name.startswith('stage')]
  if len(found) < 2:
    raise UserError(
      f'the backbone returns {", ".join(maps)}: UPerNet needs the maps of at least two'
      ' stages, such as maps=(1, 2, 3, 4) of a Swin'
    )
  return found
