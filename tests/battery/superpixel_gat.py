import numpy as np

from battery import Case
from big_vision_like.models import superpixel_gat

RNG = np.random.default_rng(0)
# A ring of nodes with loops; the last node is padding.
RING_E2 = np.stack([np.r_[0:6, 0:6], np.r_[1:6, 0, 0:6]], axis=1).astype(np.int32)
INPUTS = (
  RNG.normal(size=(4, 7, 3)).astype(np.float32),
  np.tile(RING_E2[None], (4, 1, 1)),
  np.tile(np.repeat([1.0, 2.0], 6)[None].astype(np.float32), (4, 1)),
  np.tile(np.arange(7)[None] < 6, (4, 1)),
)
# A softmax cancels a number that is added to all logits of a node.
CANCELLED = ('attention.*/logit_bias',)
CASES = {
  'superpixel_gat': Case(
    superpixel_gat.SuperpixelGAT(
      5, widths=(6, 4), hidden=(8,), normalizer='exact', form='segments'
    ),
    INPUTS,
  ),
  'gat': Case(superpixel_gat.GAT(5, widths=(6, 4), num_heads=2), INPUTS),
}
