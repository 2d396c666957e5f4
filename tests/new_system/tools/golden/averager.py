"""Golden files of the Averager (made up)."""

from big_vision_like.weights.families.averager import from_somebody

from big_vision_like.models import averager
from tools.golden.common import (
  LOGITS,
  Check,
  Fields,
  Results,
  fit_parameters,
  select,
)


def logits(description: Fields, arrays: Fields) -> Results:
  """Returns the logits."""
  params, image_BHWC = from_somebody(select(arrays, 'param/')), arrays['input/image']
  model = averager.Averager(description['classes'], description['width'])
  fit_parameters(model, params, image_BHWC)
  outputs = model.apply({'params': params}, image_BHWC)
  return {'output/logits': (outputs['logits'], LOGITS)}


CHECKS = (Check(logits, 'somebody averager.py'),)
