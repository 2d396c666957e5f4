from battery import Case, images

from big_vision_like.models import averager

CASES = {'averager': Case(averager.Averager(5, width=8), (images(4, 8, 8, 3),))}
