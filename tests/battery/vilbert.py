import numpy as np
from flax.core import FrozenDict

from battery import Case, tokens
from big_vision_like.layers import pairs
from big_vision_like.models import vilbert, visual_bert

# A connection before the first and one before the last block of each stream.
SMALL = dict(
  vocab_size=23,
  width=16,
  depth=3,
  num_heads=2,
  mlp_dim=20,
  image_width=24,
  image_depth=2,
  image_heads=3,
  image_mlp_dim=28,
  joint_width=32,
  joint_heads=4,
  text_places=(0, 2),
  image_places=(0, 1),
  max_length=9,
)
STREAM = dict(vocab_size=23, width=16, depth=2, num_heads=2, mlp_dim=20, max_length=9)
PRETRAINING = dict(
  words=pairs.Words(), regions=pairs.Regions(7), alignment=pairs.Classes(2)
)
HEADS = PRETRAINING | dict(
  answers=pairs.Answers(5),
  normed_answers=pairs.NormedAnswers(5),
  region_scores=pairs.RegionScores(),
  word_scores=pairs.WordScores(),
)
NO_DROPOUT = dict(dropout=0.0, attention_dropout=0.0)

# The softmax over keys cancels a constant added to all of them.
CANCELLED = ('.*key/bias',)


def inputs(
  batch: int = 4, length: int = 5, regions: int = 6, width: int = 11
) -> tuple[np.ndarray, ...]:
  """Returns random inputs; the second example has padding in both modalities."""
  rng = np.random.default_rng((batch, length, regions))
  seen, seen_regions = np.ones((batch, length), bool), np.ones((batch, regions), bool)
  seen[1, 3:] = seen_regions[1, 4:] = False
  return (
    tokens(batch, length, vocab_size=23),
    rng.integers(0, 2, (batch, length)).astype(np.int32),
    seen,
    rng.normal(size=(batch, regions, width)).astype(np.float32),
    rng.uniform(size=(batch, regions, 5)).astype(np.float32),
    seen_regions,
  )


CASES = {
  'vilbert': Case(
    vilbert.ViLBERT(**SMALL, heads=FrozenDict(HEADS), fusion='sum', **NO_DROPOUT),
    inputs(),
    tuple(HEADS),
  ),
  'visual_bert': Case(
    visual_bert.VisualBert(
      **STREAM, heads=FrozenDict(PRETRAINING), locations=True, **NO_DROPOUT
    ),
    inputs(),
    tuple(PRETRAINING),
  ),
  'vilbert_6': Case(
    vilbert.ViLBERT(
      **vilbert.variant('6'), heads=PRETRAINING | {'regions': pairs.Regions()}
    ),
    inputs(width=2048),
    (),
  ),
}
