from battery import Case, images
from big_vision_like.models import detr, resnet

# The softmax over keys cancels a constant added to all of them.
CANCELLED = ('.*key/bias',)

CASES = {
  # Queries enter at the input: otherwise all start alike, and the first layer compares
  # zeros.
  'detr': Case(
    detr.DETR(
      num_classes=5,
      backbone=resnet.ResNet(depths=(1, 1), root=4, channels=(4, 6), norm='frozen'),
      num_queries=7,
      width=24,
      encoder_depth=2,
      decoder_depth=2,
      num_heads=3,
      mlp_dim=40,
      positions_at=('attention', 'attention', 'input'),
    ),
    (images(4, 16, 32, 3),),
    ('logits', 'boxes'),
  ),
  'detr_r50': Case(
    detr.DETR(
      num_classes=91,
      backbone=resnet.ResNet(**resnet.variant('R50'), norm='frozen', frozen_stages=1),
    ),
    (images(1, 64, 64, 3),),
    (),
  ),
}
