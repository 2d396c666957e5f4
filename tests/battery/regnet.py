from battery import Case, images
from big_vision_like.models import regnet

CASES = {
  'regnet': Case(
    regnet.RegNet(
      depths=(1, 2),
      widths=(8, 24),
      group_width=12,
      num_classes=5,
      squeeze=0.5,
      root=16,
    ),
    (images(4, 16, 32, 3),),
  ),
}
