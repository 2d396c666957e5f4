from battery import Case, images
from big_vision_like.models import deit

SMALL = dict(num_classes=5, patch=8, width=24, depth=2, num_heads=3, mlp_dim=40)
RGB = (images(4, 16, 32, 3),)
LARGE = (images(1, 224, 224, 3),)

# The softmax over keys cancels a constant added to all of them.
CANCELLED = ('.*key/bias',)

CASES = {
  'deit': Case(deit.DeiT(**SMALL), RGB, ('logits', 'class_logits', 'distilled_logits')),
  'deit3': Case(deit.DeiT3(**SMALL), RGB),
  'deit_s16': Case(deit.DeiT(num_classes=1000, **deit.variant('S/16')), LARGE, ()),
  'deit3_s16': Case(deit.DeiT3(num_classes=1000, **deit.variant('S/16')), LARGE, ()),
}
