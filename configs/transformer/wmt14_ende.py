"""English to German, WMT 2014: the Transformer of arXiv:1706.03762 section 5.

    python tools/train_tokenizer.py wmt14_translate/de-en --features de en \
        --size 37000 --out vocabularies/wmt14_translate_de_en_37000.model
    python -m big_vision_like.train --config=configs/transformer/wmt14_ende.py:base \
        --workdir=runs/wmt14_ende_base
    python tools/average_checkpoints.py runs/wmt14_ende_base --last 5 \
        --out runs/wmt14_ende_base_average
    python -m big_vision_like.evaluate --workdir=runs/wmt14_ende_base_average

Published numbers: BLEU on newstest2014 (table 2), then BLEU and perplexity on
newstest2013 (table 3); hours on 8 P100.

    base  100,000 steps, last 5 checkpoints averaged, 12 hours: 27.3; 25.8 and 4.92
    big   300,000 steps, last 20 checkpoints averaged, 3.5 days: 28.4; 26.4 and 4.33

The published BLEU is computed on Moses tokens with split compounds. sacreBLEU, used
here with tokenize='intl', is lower. A step has 96 rows of 256 + 256 tokens, which is
about the paper's 25,000 + 25,000. Checkpoints are written about as often as the
paper's, which are 10 minutes apart. Not trained here.
"""

import ml_collections as mlc

from big_vision_like import optim
from big_vision_like.data import benchmarks
from big_vision_like.evals import sequences, translation
from big_vision_like.models import transformer
from big_vision_like.spec import arguments, spec
from big_vision_like.tasks import seq2seq

DATA = 'wmt14_translate/de-en'
# Steps, dropout, number of averaged checkpoints.
RECIPES = {'base': (100_000, 0.1, 5), 'big': (300_000, 0.3, 20)}


def get_config(argument: str = 'base') -> mlc.ConfigDict:
  size = arguments(argument, size=RECIPES).size
  steps, dropout, average = RECIPES[size]
  c = mlc.ConfigDict(dict(seed=0, total_steps=steps, log_every=100))
  c.checkpoint_every, c.keep_last = {'base': 1500, 'big': 600}[size], average
  words = benchmarks.sentence_pieces(DATA, 37_000)
  c.train_data = benchmarks.translation_train(
    DATA, 'en', 'de', words, batch_size=96, rows=520_000, seed=c.get_ref('seed')
  )
  sizes = transformer.variant(size)
  c.task = spec(
    seq2seq.Seq2Seq,
    model=spec(
      transformer.Transformer,
      vocab_size=37_000,
      **sizes,
      dropout=dropout,
      dtype='bfloat16',
    ),
    optimizer=spec(
      optim.adamw,
      rate=spec(optim.noam, width=sizes['width'], warmup_steps=4000),
      b2=0.98,
      eps=1e-9,
      decay_rules=[],
    ),
    label_smoothing=0.1,
    beams=4,
    alpha=0.6,
  )
  dev = benchmarks.translation_eval(DATA, 'validation', 'en', 'de', words, 64)
  test = benchmarks.translation_eval(DATA, 'test', 'en', 'de', words, 64)
  bleu = dict(vocabulary=words, target='de', tokenize='intl')
  c.evals = dict(
    newstest2013=spec(sequences.Perplexity, data=dev, every=5000),
    newstest2013_bleu=spec(translation.Bleu, data=dev, every=20_000, **bleu),
    newstest2014_bleu=spec(translation.Bleu, data=test, **bleu),
  )
  return c
