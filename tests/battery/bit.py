from battery import Case, images
from big_vision_like.models import bit

INPUTS = (images(4, 16, 32, 3),)

CASES = {
  'bit': Case(bit.BiT(num_classes=5, depths=(1, 1)), INPUTS),
  'bit_v1': Case(bit.BiTv1(num_classes=5, depths=(1, 1)), INPUTS, ()),
  'bit_r50x1': Case(
    bit.BiT(num_classes=1000, **bit.variant('R50x1')), (images(1, 224, 224, 3),), ()
  ),
}
