from battery import Case, images
from big_vision_like.models import inception

CASES = {
  'inception': Case(inception.Inception(5, width=0.125), (images(4, 75, 79, 3),)),
}
