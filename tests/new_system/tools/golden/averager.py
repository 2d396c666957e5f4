"""Golden files of the Averager (made up)."""

from big_vision_like.weights.families.averager import from_somebody

from big_vision_like.models import averager
from tools.golden.common import LOGITS, Check, Fields, Results, forward, select


def logits(description: Fields, arrays: Fields) -> Results:
  """Returns the logits."""
  params = from_somebody(select(arrays, 'param/'))
  model = averager.Averager(description['classes'], description['width'])
  outputs, _ = forward(model, params, arrays['input/image'])
  return {'output/logits': (outputs['logits'], LOGITS)}


CHECKS = (Check(logits, 'somebody averager.py'),)
