"""ViT for masked patch prediction, arXiv:2010.11929 section 4.6 and appendix B.1.2.

Extends `vit`. Embeddings of patches are replaced by a learned mask or by those of other
patches, and the head predicts the mean color of each patch.

Axes: B batch, H W image, h w grid, C channels or classes, N patches, M tokens, D width,
R size of the representation.
"""

import flax.linen as nn
import jax
import jax.numpy as jnp

from big_vision_like.models import vit

# In `source_BN`, the patch that is replaced by the mask.
MASK = -1


def variant(name: str) -> dict[str, object]:
  """Returns the arguments of `MaskedViT` for a name such as 'B/16'."""
  return vit.variant(name)


class MaskedViT(vit.ViT):
  """A ViT whose `logits` (B, N, C) are those of the mean color of each patch.

  `source_BN` has the index of the patch whose embedding each patch gets: its own, or
  another one, or `MASK`. Without it, patches are unchanged. The other outputs are those
  of a ViT, so features can be probed, and a ViT can be fine-tuned from the parameters
  without `head` and `mask`.
  """

  @nn.compact
  def __call__(
    self,
    image_BHWC: jax.Array,
    source_BN: jax.Array | None = None,
    train: bool = False,
  ) -> dict[str, jax.Array]:
    x_BhwD = self.embedded(image_BHWC, train)
    mask_D = self.param('mask', nn.initializers.normal(0.02), (self.width,))
    if source_BN is not None:
      x_BhwD = replaced(x_BhwD, source_BN, mask_D)
    x_BMD, each = self.with_positions(x_BhwD)
    return self.finished(self.encoded(x_BMD, train, each))

  def classified(
    self, pre_logits_BR: jax.Array, tokens_BMD: jax.Array
  ) -> dict[str, jax.Array]:
    return {'logits': self.head('head', tokens_BMD[:, len(self.leading) :])}


def replaced(x_BhwD: jax.Array, source_BN: jax.Array, mask_D: jax.Array) -> jax.Array:
  """Returns embeddings in which each patch is replaced by its source."""
  x_BND = x_BhwD.reshape(len(x_BhwD), -1, x_BhwD.shape[-1])
  found_BND = jnp.take_along_axis(x_BND, jnp.maximum(source_BN, 0)[..., None], axis=1)
  masked_BN1 = (source_BN == MASK)[..., None]
  mixed_BND = jnp.where(masked_BN1, mask_D.astype(x_BND.dtype), found_BND)
  return mixed_BND.reshape(x_BhwD.shape)
