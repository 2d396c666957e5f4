import numpy as np

from battery import Case, images
from big_vision_like.models import masked_vit

SMALL = dict(num_classes=8, width=24, depth=2, num_heads=3, mlp_dim=40, patch=8)

# The softmax over keys cancels a constant added to all of them.
CANCELLED = ('.*key/bias',)

# Of 8 patches: itself, another one, or the mask (-1).
SOURCE = np.array([[0, -1, 2, 2, 4, -1, 6, 0]] * 4, np.int32)

CASES = {
  'masked_vit': Case(
    masked_vit.MaskedViT(**SMALL, pool='gap'), (images(4, 16, 32, 3), SOURCE)
  ),
  'masked_vit_b16': Case(
    masked_vit.MaskedViT(num_classes=512, **masked_vit.variant('B/16')),
    (images(1, 224, 224, 3),),
    (),
  ),
}
