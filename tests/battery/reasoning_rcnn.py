import numpy as np

from battery import Case, images
from big_vision_like.models import reasoning_rcnn

BOXES_BN4 = np.tile(
  np.float32([[[2, 2, 14, 18], [8, 4, 30, 28], [16, 16, 24, 31]]]), (4, 1, 1)
)
# Regions are given, so the layers that would move them have no gradient: only trees
# are compared.
CASES = {
  'reasoning_regions': Case(
    reasoning_rcnn.GivenRegions(
      num_classes=5,
      channels=4,
      hidden=8,
      enhance=reasoning_rcnn.Reasoning(width=6, reduced=4),
    ),
    (images(4, 32, 32, 3), BOXES_BN4),
    (),
  ),
}
