from battery import Case, tokens
from big_vision_like.models import transformer

SMALL = dict(vocab_size=9, width=24, depth=2, num_heads=3, mlp_dim=40)
TEXTS = tokens(4, 6, vocab_size=9), tokens(4, 5, vocab_size=9)

# The softmax over keys cancels a constant added to all of them.
CANCELLED = ('.*key/bias',)

CASES = {
  'transformer': Case(transformer.Transformer(**SMALL), TEXTS),
  'transformer_t2t': Case(
    transformer.Transformer(**SMALL, **transformer.STYLES['t2t']), TEXTS, ()
  ),
  'transformer_base': Case(
    transformer.Transformer(vocab_size=37_000, **transformer.variant('base')), TEXTS, ()
  ),
}
