"""Mixing examples of a batch, on the device.  Axes: B batch, H W image, C channels.

Images are (B, H, W, C), or clips (B, T, H, W, C), whose frames are mixed alike.

The partner of an example is the previous example ('rolled', as in the training of ViTs
in arXiv:2106.10270) or the example at the same distance from the other end of the batch
('reversed', as in BiT, arXiv:1912.11370, and timm).
"""

from collections.abc import Callable

import jax
import jax.numpy as jnp

PARTNERS: dict[str, Callable[[jax.Array], jax.Array]] = {
  'rolled': lambda x: jnp.roll(x, 1, axis=0),
  'reversed': lambda x: jnp.flip(x, axis=0),
}


def mixup(
  key: jax.Array,
  image_BHWC: jax.Array,
  target_BC: jax.Array,
  alpha: float,
  partner: str = 'rolled',
) -> tuple[jax.Array, jax.Array]:
  """Applies mixup (arXiv:1710.09412) with one weight for the batch.

  The weight is drawn from Beta(alpha, alpha). It is at least 1/2 with 'rolled'
  partners. With 'reversed' partners it is used as drawn: two examples are each other's
  partner, so the minimum would make no difference.
  """
  weight = jax.random.beta(key, alpha, alpha)
  if partner == 'rolled':
    weight = jnp.maximum(weight, 1.0 - weight)
  return blend(image_BHWC, target_BC, weight, weight, partner)


def blend(
  image_BHWC: jax.Array,
  target_BC: jax.Array,
  share: jax.Array,
  weight: jax.Array,
  partner: str,
) -> tuple[jax.Array, jax.Array]:
  """Blends `share` of each image and `weight` of each target with the partner's rest.

  Both are in [0, 1]; `share` is one number, or one for each pixel (1, H, W, 1).
  """
  other = PARTNERS[partner]
  return (
    share * image_BHWC + (1.0 - share) * other(image_BHWC),
    weight * target_BC + (1.0 - weight) * other(target_BC),
  )


def cutmix_share(
  weight: jax.Array, row: jax.Array, column: jax.Array, height: int, width: int
) -> tuple[jax.Array, jax.Array]:
  """Returns CutMix's image mask and the weight of targets (arXiv:1905.04899).

  A box with a share of 1 - `weight` of the image, centred at the pixel (row, column)
  and clipped at the borders, comes from the partner. The mask (1, H, W, 1) is 0 in the
  box and 1 around it; the weight is the share of the image around the box.
  """

  def inside(centre: jax.Array, size: int) -> jax.Array:
    side = (size * jnp.sqrt(1.0 - weight)).astype(jnp.int32)
    place = jnp.arange(size)
    return (place >= centre - side // 2) & (place < centre + (side + 1) // 2)

  box_HW = inside(row, height)[:, None] & inside(column, width)[None, :]
  share_HW = 1.0 - box_HW.astype(jnp.float32)
  return share_HW[None, :, :, None], share_HW.mean()


def cutmix(
  key: jax.Array,
  image_BHWC: jax.Array,
  target_BC: jax.Array,
  alpha: float,
  partner: str = 'reversed',
) -> tuple[jax.Array, jax.Array]:
  """Applies CutMix (arXiv:1905.04899) with one box per batch, anywhere in the image.

  The share of the image around the box is drawn from Beta(alpha, alpha).
  """
  share, around = _drawn_cutmix(jax.random.split(key, 3), image_BHWC, alpha)
  return blend(image_BHWC, target_BC, share, around, partner)


def _drawn_cutmix(
  keys: jax.Array, image_BHWC: jax.Array, alpha: float
) -> tuple[jax.Array, jax.Array]:
  *leading, height, width, _ = image_BHWC.shape
  share_1HW1, around = cutmix_share(
    jax.random.beta(keys[0], alpha, alpha),
    jax.random.randint(keys[1], (), 0, height),
    jax.random.randint(keys[2], (), 0, width),
    height,
    width,
  )
  return share_1HW1.reshape(*[1] * len(leading), height, width, 1), around


def mixup_or_cutmix(
  key: jax.Array,
  image_BHWC: jax.Array,
  target_BC: jax.Array,
  mixup_alpha: float,
  cutmix_alpha: float,
  switch: float = 0.5,
  partner: str = 'reversed',
) -> tuple[jax.Array, jax.Array]:
  """Applies CutMix with probability `switch`, else mixup, to the batch, as in timm.

  Each weight is drawn from its own Beta(alpha, alpha), the box's centre uniformly.
  """
  keys = jax.random.split(key, 5)
  weight = jax.random.beta(keys[0], mixup_alpha, mixup_alpha)
  share, around = _drawn_cutmix(keys[1:4], image_BHWC, cutmix_alpha)
  cut = jax.random.bernoulli(keys[4], switch)
  return blend(
    image_BHWC,
    target_BC,
    jnp.where(cut, share, weight),
    jnp.where(cut, around, weight),
    partner,
  )
