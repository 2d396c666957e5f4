"""Augmentation of whole batches on the device."""

import dataclasses

import jax

from big_vision_like.errors import UserError, check_one_of
from big_vision_like.ops import erasing, images, mixing


@dataclasses.dataclass(frozen=True, kw_only=True)
class Augment:
  """Flips, erasing and mixing of the images of a batch, in this order.

  `flip` mirrors images with probability 1/2. `erasing` is the probability that a box of
  an image is erased (`ops.erasing`). `mixup` is the alpha of arXiv:1710.09412, `cutmix`
  the alpha of arXiv:1905.04899; 0 disables either. With both, a batch gets CutMix with
  probability `switch`, otherwise mixup. `partner`, one of `ops.mixing.PARTNERS`,
  selects which examples are mixed.
  """

  flip: bool = False
  erasing: float = 0.0
  mixup: float = 0.0
  cutmix: float = 0.0
  switch: float = 0.5
  partner: str = 'rolled'

  def __post_init__(self) -> None:
    for name in ('erasing', 'switch'):
      if not 0 <= getattr(self, name) <= 1:
        raise UserError(f'{name}={getattr(self, name)} is not a probability, 0 to 1')
    check_one_of(mixing.PARTNERS, partner=self.partner)

  def __call__(
    self, key: jax.Array, image: jax.Array, target_BC: jax.Array
  ) -> tuple[jax.Array, jax.Array]:
    """Returns augmented images and their targets.

    `image` holds normalized float images or clips (B, ..., H, W, C); all frames of a
    clip are treated alike. `target_BC` holds class probabilities.
    """
    # The second key is reserved for the model's dropout.
    key_mixing, _, key_flip, key_erasing = jax.random.split(key, 4)
    if self.flip:
      image = images.flip(key_flip, image)
    if self.erasing:
      image = erasing.erase(key_erasing, image, self.erasing)
    if self.mixup and self.cutmix:
      return mixing.mixup_or_cutmix(
        key_mixing, image, target_BC, self.mixup, self.cutmix, self.switch, self.partner
      )
    if self.mixup:
      return mixing.mixup(key_mixing, image, target_BC, self.mixup, self.partner)
    if self.cutmix:
      return mixing.cutmix(key_mixing, image, target_BC, self.cutmix, self.partner)
    return image, target_BC
