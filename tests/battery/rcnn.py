from battery import Case, images
from big_vision_like.models import rcnn, resnet, swin

# Selections give some parameters no gradient, so only the parameter trees are compared.
CASES = {
  'mask_rcnn_r50': Case(
    rcnn.RCNN(
      num_classes=80,
      backbone=resnet.ResNet(**resnet.variant('R50'), norm='frozen', frozen_stages=1),
      rpn=rcnn.RPN(),
      masks=True,
    ),
    (images(1, 64, 64, 3),),
    (),
  ),
  'cascade_swin_t': Case(
    rcnn.RCNN(
      num_classes=80,
      backbone=swin.Swin(**swin.variant('T'), maps=(1, 2, 3, 4), padding='dense'),
      rpn=rcnn.RPN(),
      stds=rcnn.CASCADE_STDS,
      convs=4,
      fcs=1,
      masks=True,
    ),
    (images(1, 64, 64, 3),),
    (),
  ),
}
