import numpy as np

from battery import Case, tokens
from big_vision_like.models import bert, relations

FIRST_BW = np.array([[1, 2, 4, 0]] * 4, np.int32)
WORDS_BW = np.array([[1, 1, 1, 0]] * 4, bool)
SEEN_BT = np.array([[1] * 6, [1] * 6, [1, 1, 1, 1, 1, 0], [1] * 6], bool)
SPANS_BN2 = np.array([[[0, 1], [2, 2], [0, 0]]] * 4, np.int32)
KINDS_BN = np.array([[0, 1, 1]] * 4, np.int32)
THERE_BN = np.array([[1, 1, 0]] * 4, bool)

# The softmax over keys cancels a constant added to all of them.
CANCELLED = ('.*key/bias',)

CASES = {
  'relations': Case(
    relations.Relations(
      bert.Bert(
        vocab_size=23,
        width=16,
        depth=2,
        num_heads=2,
        mlp_dim=20,
        max_length=9,
        pooler=False,
        dropout=0.0,
        attention_dropout=0.0,
      ),
      num_kinds=2,
      num_relations=3,
      max_entities=3,
      pair_width=10,
      dropout=0.0,
    ),
    (
      tokens(4, 6, vocab_size=23),
      SEEN_BT,
      FIRST_BW,
      WORDS_BW,
      SPANS_BN2,
      KINDS_BN,
    ),
    ('tags', 'relations'),
  )
}
