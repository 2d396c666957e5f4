from battery import Case, images
from big_vision_like.layers.visual_tokens import GROUPED, Projections
from big_vision_like.models import resnet, visual_transformer

# Maps have many channels and few pixels. With the small random weights of the battery,
# tokens that are means of many pixels would be nearly equal, and the layers that relate
# them would get no gradient.
SMALL = dict(num_classes=5, num_tokens=3)


def small(channels: int, **arguments) -> visual_transformer.VisualTransformer:
  backbone = visual_transformer.Convolutions((channels // 2, channels), (1, 2))
  return visual_transformer.VisualTransformer(backbone, **SMALL | arguments)


def whole(name: str) -> visual_transformer.VisualTransformer:
  return visual_transformer.VisualTransformer(
    resnet.ResNet(**resnet.trunk(name)),
    num_classes=1000,
    projections=Projections(**GROUPED),
    **visual_transformer.variant(name),
  )


# The softmax over keys, or over pixels, cancels a constant added to all of them.
CANCELLED = ('.*key/bias', '.*filter/bias')

CASES = {
  'vt_equations': Case(small(64, width=32), (images(4, 6, 8, 3),)),
  'vt_grouped': Case(
    small(
      96,
      width=64,
      map_width=64,
      projections=Projections(2, 2, 2, use_bias=True, inner=True),
    ),
    (images(4, 4, 6, 3),),
  ),
  'vt_r18': Case(whole('R18'), (images(1, 224, 224, 3),), ()),
}
