from flax.core import FrozenDict

from battery import Case, images, tokens
from big_vision_like.models import captioning, transformer, vgg

SMALL = dict(word_width=6, units=10, attention_width=7, dropout=0.0)
INPUTS = (images(4, 16, 32, 3), tokens(4, 5, vocab_size=11))
LARGE = (images(1, 224, 224, 3), tokens(1, 9, vocab_size=10_000))


def encoder() -> vgg.VGG:
  return vgg.VGG((1, 1), channels=(4, 8))


def recurrent(name: str, **sizes: int) -> captioning.RecurrentDecoder:
  given = captioning.variant(name) | sizes
  # Modules with dicts cannot be hashed.
  given |= {k: FrozenDict(x) for k, x in given.items() if isinstance(x, dict)}
  return captioning.RecurrentDecoder(**given)


# The softmax over cells or keys cancels a constant added to all of them.
CANCELLED = ('.*attention/score/bias', '.*key/bias')
CASES = {
  'captioning_tutorial': Case(
    captioning.Captioner(
      encoder(), recurrent('tutorial', vocab_size=11, **SMALL), read='stage2', side=3
    ),
    INPUTS,
  ),
  'captioning_authors': Case(
    captioning.Captioner(
      encoder(),
      # Wide enough for cells of different images to have different scores.
      recurrent('authors', vocab_size=11, **SMALL | dict(attention_width=60)),
      read='stage2',
      side=3,
    ),
    INPUTS,
  ),
  'captioning_transformer': Case(
    captioning.Captioner(
      encoder(),
      captioning.TransformerDecoder(
        transformer.Transformer(
          vocab_size=11, width=12, depth=1, num_heads=2, mlp_dim=8, dropout=0.0
        )
      ),
      read='stage2',
      posemb='sincos2d',
    ),
    INPUTS,
  ),
  'captioning_authors_coco': Case(
    captioning.Captioner(
      vgg.VGG(**vgg.variant('VGG19')),
      recurrent('authors', vocab_size=10_000),
      read='stage5',
    ),
    LARGE,
    (),
  ),
  'vgg': Case(
    vgg.VGG((1, 2), channels=(4, 8), hidden=9, num_classes=5, dropout=0.0),
    (images(4, 16, 32, 3),),
  ),
}
