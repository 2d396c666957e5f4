"""Constituency parsing of sentences of a drawn grammar, as in arXiv:1706.03762 6.3.

    python -m big_vision_like.train --config=configs/transformer/parsing.py \
        --workdir=runs/parsing

A Transformer of two blocks of width 64 reads a sentence of at most 20 words and writes
the brackets and tags of its tree, such as `(S (NP PRP )NP (VP VBP (NP DT NN )NP )VP .
)S`. Where a phrase belongs depends on words (`data/procedural/grammar.py`). Test
sentences do not occur in training. The scores are those of EVALB, from which a
prediction that is not a tree over the sentence gets no bracket. Expected F1, seed 0:
99.4 %, 95.7 % after 1,000 steps. Takes about 8 CPU minutes.
"""

import ml_collections as mlc

from big_vision_like import optim
from big_vision_like.data.input import pipeline
from big_vision_like.data.procedural import grammar
from big_vision_like.data.text import symbols
from big_vision_like.data.transforms import text
from big_vision_like.evals import brackets
from big_vision_like.models import transformer
from big_vision_like.spec import spec
from big_vision_like.tasks import seq2seq

VOCABULARY = spec(symbols.Symbols, symbols=grammar.VOCABULARY)
SIZE = len(symbols.SPECIAL) + len(grammar.VOCABULARY)
SOURCE_LENGTH, TARGET_LENGTH = grammar.MOST_WORDS + 1, grammar.MOST_SYMBOLS + 1


def get_config() -> mlc.ConfigDict:
  c = mlc.ConfigDict(dict(seed=0, total_steps=3000, log_every=100, keep_last=1))
  c.train_data = spec(
    pipeline.TrainInput,
    source=spec(grammar.Sentences, examples=100_000, split='train'),
    transforms=transforms(),
    batch_size=64,
    seed=c.get_ref('seed'),
  )
  c.task = spec(
    seq2seq.Seq2Seq,
    model=spec(
      transformer.Transformer,
      vocab_size=SIZE,
      width=64,
      depth=2,
      num_heads=4,
      mlp_dim=128,
      dropout=0.1,
    ),
    optimizer=spec(
      optim.adamw,
      rate=spec(optim.noam, width=64, warmup_steps=400),
      b2=0.98,
      eps=1e-9,
      decay_rules=[],
    ),
    label_smoothing=0.1,
    extra_length=TARGET_LENGTH - SOURCE_LENGTH,
  )
  test = spec(
    pipeline.EvalInput,
    source=spec(grammar.Sentences, examples=1_000, split='test'),
    transforms=transforms(),
    batch_size=200,
  )
  c.evals = dict(
    greedy=spec(
      brackets.Brackets, data=test, vocabulary=VOCABULARY, predict='greedy', every=500
    ),
    beam=spec(brackets.Brackets, data=test, vocabulary=VOCABULARY),
  )
  return c


def transforms() -> list[mlc.ConfigDict]:
  """Returns the transforms of sentences and trees to ids."""
  return [
    spec(text.Tokenize, vocabulary=VOCABULARY, source='words', target='tree'),
    spec(text.Pad, source_length=SOURCE_LENGTH, target_length=TARGET_LENGTH),
  ]
