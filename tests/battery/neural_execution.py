import numpy as np

from battery import Case
from big_vision_like.models import neural_execution as models

RNG = np.random.default_rng(0)
NUMBERS = RNG.integers(0, 64, (4, 3, 5)).astype(np.int32)
# The first slot of each state is visible.
HIDDEN = (RNG.random((4, 3, 5)) < 0.4) & (np.arange(5) > 0)
POINTER = RNG.integers(0, 5, (4, 3)).astype(np.int32)
INPUTS = NUMBERS, HIDDEN
# A softmax cancels a number that is added to all scores.
CANCELLED = ('score/last_bias',)
SMALL = dict(bits=6, width=8, depth=2, hidden=12)
OUTPUTS = ('logits', 'pointer')


def engine(bits: int, width: int, mask: bool, **options: bool) -> models.Engine:
  """Returns an engine of published size."""
  masker = models.MaskNetwork() if mask else None
  return models.Engine(models.Subroutine(bits, width, **options), masker)


CASES = {
  'neural_execution': Case(
    models.Subroutine(**SMALL), (*INPUTS, NUMBERS[..., 0]), OUTPUTS
  ),
  'neural_execution_adder': Case(
    models.Subroutine(**SMALL, positions=True), INPUTS, OUTPUTS
  ),
  'neural_execution_select': Case(
    engine(10, 16, mask=True), (*INPUTS, POINTER), outputs=()
  ),
  'neural_execution_add': Case(
    engine(9, 24, mask=False, positions=True), INPUTS, outputs=()
  ),
}
