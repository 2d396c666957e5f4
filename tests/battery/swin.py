from battery import Case, images
from big_vision_like.models import swin

# Windows have 2 x 2 tokens; the map of the second stage is one window high.
SMALL = dict(width=8, depths=(2, 2), num_heads=(2, 4), window=2, mlp_ratio=2.0)
RGB = (images(4, 16, 32, 3),)
LARGE = (images(1, 224, 224, 3),)

# The softmax over keys cancels a constant added to all of them.
CANCELLED = ('.*key/bias',)

CASES = {
  'swin': Case(swin.Swin(num_classes=5, **SMALL), RGB),
  'swin_both': Case(
    swin.Swin(num_classes=5, **SMALL, posemb='both', padding='windows'),
    (images(4, 18, 27, 1),),
  ),
  'swin_without_content': Case(
    swin.Swin(num_classes=5, **SMALL, posemb='without_content'), RGB
  ),
  'swin_backbone': Case(swin.Swin(**SMALL, maps=(1, 2), padding='dense'), RGB, ()),
  'swin_t': Case(swin.Swin(num_classes=1000, **swin.variant('T')), LARGE, ()),
}
