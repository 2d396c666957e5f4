from battery import Case, images
from big_vision_like.layers import fpn
from big_vision_like.models import resnet, semantic_fpn, swin, upernet, vt_fpn

MAPS = dict(maps=(1, 2, 3, 4), padding='dense')
LARGE = (images(1, 64, 64, 3),)


def small_swin() -> swin.Swin:
  sizes = dict(width=8, depths=(1, 1), num_heads=(1, 2), window=2, mlp_ratio=2.0)
  return swin.Swin(**sizes, maps=(1, 2), padding='dense')


def small_resnet() -> resnet.ResNet:
  return resnet.ResNet((1, 1, 1, 1), bottleneck=False, root=4, channels=(4, 8, 12, 16))


# The softmax over keys cancels a constant added to all of them.
CANCELLED = ('.*key/bias',)
CASES = {
  'upernet': Case(
    upernet.UPerNet(small_swin(), num_classes=5, channels=6, auxiliary_channels=7),
    (images(4, 14, 24, 3),),
    ('logits', 'auxiliary_logits'),
  ),
  'upernet_swin_t': Case(
    upernet.UPerNet(swin.Swin(**swin.variant('T'), **MAPS), num_classes=150), LARGE, ()
  ),
  'semantic_fpn': Case(
    semantic_fpn.SemanticFPN(
      small_resnet(), fpn.FPN(6, extra=0), num_classes=5, channels=8
    ),
    (images(4, 32, 40, 3),),
  ),
  'vt_fpn_r50': Case(
    semantic_fpn.SemanticFPN(
      resnet.ResNet(**resnet.variant('R50')), vt_fpn.TokenPyramid(), num_classes=54
    ),
    LARGE,
    (),
  ),
}
