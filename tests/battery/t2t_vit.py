from battery import Case, images
from big_vision_like.models import t2t_vit

# Attention between soft splits is narrow: with the battery's large random weights, the
# features of wide queries and keys vanish.
SMALL = dict(num_classes=5, width=24, depth=2, num_heads=3, mlp_dim=72, token_dim=4)
RGB = (images(4, 32, 48, 3),)
LARGE = (images(1, 224, 224, 3),)


def whole(name: str) -> t2t_vit.T2TViT:
  return t2t_vit.T2TViT(num_classes=1000, **t2t_vit.variant(name))


CASES = {
  't2t_performer': Case(t2t_vit.T2TViT(**SMALL), RGB),
  't2t_transformer': Case(t2t_vit.T2TViT(**SMALL, tokens='transformer'), RGB),
  't2t_se': Case(t2t_vit.T2TViT(**SMALL, backbone='se'), RGB, ()),
  't2t_ghost': Case(t2t_vit.T2TViT(**SMALL, backbone='ghost'), RGB),
  't2t_vit_14': Case(whole('14'), LARGE, ()),
  't2t_vit_dense': Case(whole('dense'), LARGE, ()),
}
