from battery import Case, images
from big_vision_like.models import timesformer

SMALL = dict(num_classes=5, patch=8, width=24, depth=2, num_heads=3, mlp_dim=40)
CLIPS = (images(4, 2, 16, 32, 3),)
LARGE = (images(1, 8, 224, 224, 3),)

# The softmax over keys cancels a constant added to all of them.
CANCELLED = ('.*key/bias',)


def case(attention: str, **arguments: object) -> Case:
  return Case(timesformer.TimeSformer(**SMALL, attention=attention, **arguments), CLIPS)


CASES = {
  'timesformer_divided': case('divided'),
  'timesformer_joint': case('joint')._replace(outputs=()),  # its blocks are a ViT's
  # Which the test that reverses an example, frame by frame, cannot tell apart.
  'timesformer_space_only': case('space_only', posemb='none')._replace(outputs=()),
  'timesformer_axial': case('axial', pos_frames=4, pos_grid=(4, 4)),
  'timesformer_b16': Case(
    timesformer.TimeSformer(num_classes=400, **timesformer.variant('B/16')), LARGE, ()
  ),
}
