from battery import Case, images
from big_vision_like.models import resnet

CASES = {
  'resnet': Case(
    resnet.ResNet(depths=(1, 1), num_classes=5, root=6, channels=(4, 6)),
    (images(4, 16, 32, 3),),
  ),
}
