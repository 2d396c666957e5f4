"""Reasoning-RCNN: features of related classes for regions.  Extends `rcnn`.

Between two heads of a cascade, the classifier of the first is a pool of class vectors.
These are weighted by attention to the image, propagated over a fixed graph of classes,
and each region gets a mixture of them by its own class probabilities (Xu et al., CVPR
2019, section 3; the code follows chanyn/Reasoning-RCNN).

Axes: B batch, H W image, N regions, h w maps, u v a smaller map, P Q bins of a region,
C channels, or classes (background, last, among them), F features of a region, X = F +
1, E added features, R channels of the image descriptor.
"""

from collections.abc import Sequence

import flax.linen as nn
import jax
import jax.numpy as jnp

from big_vision_like.layers import convolution, fpn
from big_vision_like.models import rcnn
from big_vision_like.ops import graphs, precision, roi

# Levels of the pyramid that describe the image, and the one whose size they get.
LEVELS = slice(1, 5)
SIZE_OF = 2


class Reasoning(nn.Module):
  """Returns `width` further features of each region (B, N, E): `RCNN.enhance`.

  `graph` in the collection `constants` has the edges (C, C) between classes, in the
  order of the classifier. A new model has none; `data.class_graph` reads them from a
  file, as weights to start from. The classifier gets no gradient as the pool, but does
  from the regions' class probabilities.

  Sows `image_descriptor` (B, X), `class_attention` (B, C), which sums to 1, and
  `graph_embedding` (B, C, E). All but the convolution is float32.
  """

  width: int = 256
  reduced: int = 64
  dtype: str = 'float32'

  tiny = dict(width=16, reduced=8)

  @nn.compact
  def __call__(
    self,
    levels: Sequence[jax.Array],
    x_BNF: jax.Array,
    kernel_FC: jax.Array,
    bias_C: jax.Array,
    logits_BNC: jax.Array,
  ) -> jax.Array:
    del x_BNF  # only class probabilities select what a region gets
    pool_XC = jnp.concatenate([kernel_FC, bias_C[None]])
    pool_CX = jax.lax.stop_gradient(precision.at_least_float32(pool_XC)).T
    classes, inputs = pool_CX.shape
    edges_CC = self.variable(
      'constants', 'graph', jnp.zeros, (classes, classes), jnp.float32
    ).value
    image_BX = self.described(levels, inputs)
    attention_BC = jax.nn.softmax(image_BX @ pool_CX.T)
    embedding_BCE = Propagation(self.width, name='propagate')(
      edges_CC, pool_CX, attention_BC
    )
    self.sow('intermediates', 'image_descriptor', image_BX)
    self.sow('intermediates', 'class_attention', attention_BC)
    self.sow('intermediates', 'graph_embedding', embedding_BCE)
    share_BNC = jax.nn.softmax(precision.at_least_float32(logits_BNC))
    return jnp.einsum('BNC,BCE->BNE', share_BNC, embedding_BCE)

  def described(self, levels: Sequence[jax.Array], features: int) -> jax.Array:
    """Returns a vector of each image, (B, X), from levels in one size."""
    size = levels[SIZE_OF].shape[1:3]
    x_BhwC = jnp.concatenate([fpn.nearest(x, size) for x in levels[LEVELS]], axis=-1)
    reduce = convolution.conv(
      'reduce', self.reduced, 3, 2, use_bias=True, dtype=self.dtype
    )
    x_BuvR = precision.at_least_float32(nn.relu(reduce(x_BhwC)))
    x_BR = x_BuvR.mean(axis=(1, 2))
    # Small at first: with a large descriptor, attention chooses one class for all
    # images, and then has no gradient.
    describe = nn.Dense(
      features, kernel_init=nn.initializers.normal(0.01), name='describe'
    )
    return nn.relu(describe(x_BR))


class Propagation(nn.Module):
  """Class vectors mixed over a graph and weighted, (B, C, E): relu(a (G M) W + b)."""

  features: int

  @nn.compact
  def __call__(
    self, edges_CC: jax.Array, pool_CX: jax.Array, attention_BC: jax.Array
  ) -> jax.Array:
    kernel_XE = self.param(
      'kernel',
      nn.initializers.lecun_normal(),
      (pool_CX.shape[1], self.features),
    )
    bias_E = self.param('bias', nn.initializers.zeros, (self.features,))
    # Attention weights rows, so the product is the same for all images.
    edges = graphs.Dense(edges_CC.reshape(1, -1), len(edges_CC))
    mixed_1CE = edges.mixed((pool_CX @ kernel_XE)[None])
    return nn.relu(attention_BC[..., None] * mixed_1CE + bias_E[None, None])


class GivenRegions(nn.Module):
  """Class logits of regions that are given, (B, H, W, 3) and (B, N, 4) to (B, N, C).

  It compares heads without proposals or a pyramid. Regions are pooled from a map that
  sees 4x4 pixels at each of its points, so that features of a region show little else
  than the region. Two heads with a common layer follow, the second with `enhance` if
  there is one, which also gets four coarser maps. Returns `logits`, the mean of both
  heads, and `first` and `second`; background is the last class.
  """

  num_classes: int
  channels: int = 32
  hidden: int = 64
  enhance: nn.Module | None = None

  tiny = dict(channels=8, hidden=16)

  @nn.compact
  def __call__(
    self, image_BHWC: jax.Array, boxes_BN4: jax.Array, train: bool = False
  ) -> dict[str, jax.Array]:
    del train
    x_BhwC = nn.Conv(self.channels, (4, 4), (4, 4), 'VALID', name='embed')(image_BHWC)
    levels = [nn.relu(x_BhwC)]
    for i in range(1, LEVELS.stop):
      conv = convolution.conv(f'conv{i}', self.channels, 3, 2, use_bias=True)
      levels.append(nn.relu(conv(levels[-1])))
    pooled_BNPQC = roi.align(levels[:1], boxes_BN4, rcnn.STRIDES[:1], rcnn.BOX_BINS, 1)
    features = rcnn.BoxFeatures(self.channels, 0, 1, self.hidden, name='features')
    x_BNF = features(pooled_BNPQC)
    heads = [
      rcnn.BoxHead(self.num_classes + 1, 1, name=f'head{i + 1}') for i in range(2)
    ]
    first_BNC, _ = heads[0](x_BNF)
    if self.enhance is not None:
      classifier = heads[0].classifier()
      more_BNE = self.enhance(levels, x_BNF, *classifier, first_BNC)
      x_BNF = jnp.concatenate([x_BNF, more_BNE], axis=-1)
    second_BNC, _ = heads[1](x_BNF)
    return {
      'logits': (first_BNC + second_BNC) / 2,
      'first': first_BNC,
      'second': second_BNC,
    }
