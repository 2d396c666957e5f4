from battery import Case, images
from big_vision_like.models.efficientnet import SMALL_IMAGES, EfficientNet, variant

CASES = {
  'efficientnet': Case(
    EfficientNet(
      num_classes=5,
      stem=12,
      channels=(12, 16, 16),
      depths=(2, 1, 2),
      top=20,
      **SMALL_IMAGES,
    ),
    (images(4, 16, 32, 3),),
  ),
  'efficientnet_b0': Case(
    EfficientNet(num_classes=1000, **variant('B0')), (images(1, 32, 32, 3),), ()
  ),
}
