import numpy as np

from battery import Case, tokens
from big_vision_like.models import bert

SMALL = dict(
  vocab_size=23, width=16, depth=2, num_heads=2, mlp_dim=20, max_length=9, num_types=3
)
TYPES = np.array([[0, 0, 1, 1, 2]] * 4, np.int32)
SEEN = np.array([[1, 1, 1, 1, 1], [1, 1, 1, 1, 0], [1, 1, 1, 0, 0], [1] * 5], bool)

# The softmax over keys cancels a constant added to all of them.
CANCELLED = ('.*key/bias',)

CASES = {
  'bert': Case(
    bert.Bert(**SMALL, heads=bert.HEADS, dropout=0.0, attention_dropout=0.0),
    (tokens(4, 5, vocab_size=23), TYPES, SEEN),
    ('words', 'next_text'),
  ),
  'bert_base': Case(
    bert.Bert(**bert.variant('base'), heads=bert.HEADS),
    (tokens(1, 5, vocab_size=23),),
    (),
  ),
}
