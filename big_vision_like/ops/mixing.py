"""Mixing examples of a batch, on the device.  Axes: B batch, H W image, C channels.

Images are (B, H, W, C), or clips (B, T, H, W, C), whose frames are mixed alike.

The partner of an example is the one before it ('rolled': how the ViTs of
arXiv:2106.10270 were trained), or the one as far from the batch's other end
('reversed': BiT, arXiv:1912.11370, and timm).
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
  """Mixup (arXiv:1710.09412) with one weight for the batch, from Beta(alpha, alpha).

  With 'rolled' partners the weight is at least 1/2. With 'reversed' ones it stays as
  drawn: two examples are each other's partner, so it would make no difference.
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
  """`share` of each image and `weight` of each target, the rest from the partner.

  Both 0 to 1; `share` is one number, or one for each pixel (1, H, W, 1).
  """
  other = PARTNERS[partner]
  return (
    share * image_BHWC + (1.0 - share) * other(image_BHWC),
    weight * target_BC + (1.0 - weight) * other(target_BC),
  )


def cutmix_share(
  weight: jax.Array, row: jax.Array, column: jax.Array, height: int, width: int
) -> tuple[jax.Array, jax.Array]:
  """Where images stay, and the weight of their targets, in CutMix (arXiv:1905.04899).

  A box of 1 - `weight` of the image about the pixel (row, column), cut at the borders,
  comes from the partner. Returns 0 in the box and 1 around it, (1, H, W, 1), and the
  share of the image around it.
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
  """CutMix (arXiv:1905.04899) with one box for the batch, anywhere in the image.

  Its share of the image is drawn from Beta(alpha, alpha).
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
  """One of both for the whole batch, CutMix with probability `switch`, as in timm.

  Weights are drawn from Beta(alpha, alpha) of either, the box's centre uniformly.
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
