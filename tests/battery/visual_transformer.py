from battery import Case, images
from big_vision_like.layers.visual_tokens import GROUPED, Projections
from big_vision_like.models import resnet, visual_transformer

SMALL = dict(num_classes=5, num_tokens=6, width=16)
RGB = (images(4, 12, 16, 3),)


def small(**arguments) -> visual_transformer.VisualTransformer:
  backbone = visual_transformer.Convolutions((4, 8), (1, 2))
  return visual_transformer.VisualTransformer(backbone, **SMALL | arguments)


def whole(name: str) -> visual_transformer.VisualTransformer:
  return visual_transformer.VisualTransformer(
    resnet.ResNet(**resnet.trunk(name)),
    num_classes=1000,
    projections=Projections(**GROUPED),
    **visual_transformer.variant(name),
  )


CASES = {
  'vt_equations': Case(small(), RGB),
  'vt_grouped': Case(
    small(
      depth=3,
      map_width=12,
      projections=Projections(4, 2, 2, use_bias=True, inner=True, norm=True),
    ),
    RGB,
  ),
  'vt_r18': Case(whole('R18'), (images(1, 224, 224, 3),), ()),
}
