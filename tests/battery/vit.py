from battery import Case, images
from big_vision_like.models import vit

SMALL = dict(num_classes=5, width=24, depth=2, num_heads=3, mlp_dim=40)
RGB = (images(4, 16, 32, 3),)
LARGE = (images(1, 224, 224, 3),)

# The softmax over keys cancels a constant added to all of them.
CANCELLED = ('.*key/bias',)

CASES = {
  'vit_token': Case(vit.ViT(**SMALL, patch=8, rep_size=7), RGB),
  'vit_gap_sincos2d': Case(
    vit.ViT(**SMALL, patch=(4, 8), pool='gap', posemb='sincos2d'), RGB
  ),
  'vit_map': Case(vit.ViT(**SMALL, patch=8, pool='map'), (images(4, 16, 32, 1),)),
  'vit_no_position': Case(vit.ViT(**SMALL, patch=8, posemb='none'), RGB),
  'vit_relative': Case(
    vit.ViT(**SMALL, patch=8, posemb='relative', posemb_at='every', registers=2), RGB
  ),
  'vit_hybrid': Case(vit.ViT(**SMALL, patch=1, resnet=(1,)), RGB),
  'vit_b16': Case(vit.ViT(num_classes=1000, **vit.variant('B/16')), LARGE, ()),
  'vit_r50_b16': Case(vit.ViT(num_classes=1000, **vit.variant('R50+B/16')), LARGE, ()),
}
