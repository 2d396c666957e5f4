"""English to German with the pre-norm Transformer of tensor2tensor (base_v2 and later).

    python tools/train_tokenizer.py wmt14_translate/de-en --features de en \
        --size 32768 --out vocabularies/wmt14_translate_de_en_32768.model
    python -m big_vision_like.train --config=configs/transformer/t2t.py:base \
        --workdir=runs/t2t_base

The argument is `base` or `big`: `transformer_base` (v3) and `transformer_big` of
tensor2tensor. They have pre-norm blocks, attention without biases, dropout inside
attention and MLP too, and twice the paper's learning rate after a warm-up of 8,000
steps. `base` trains for 250,000 steps and averages 5 checkpoints, `big` for 300,000 and
averages 20, with tools/average_checkpoints.py as in wmt14_ende.py.

Expected BLEU on newstest2014: 27 to 28 (arXiv:1706.03762 table 2 has 27.3 and 28.4);
this variant trains stably to it. A replica of tensor2tensor has 4,096 tokens, or 2,048
for `big` (on 12 GB); a step here has about 25,000 + 25,000. The training time is
unknown; `python -m big_vision_like.plan` estimates it. Not trained here.
"""

import ml_collections as mlc

from big_vision_like import optim
from big_vision_like.data import benchmarks
from big_vision_like.evals import sequences, translation
from big_vision_like.models import transformer
from big_vision_like.spec import arguments, spec
from big_vision_like.tasks import seq2seq

DATA = 'wmt14_translate/de-en'
# Steps, residual dropout, number of averaged checkpoints.
RECIPES = {'base': (250_000, 0.1, 5), 'big': (300_000, 0.3, 20)}


def get_config(argument: str = 'base') -> mlc.ConfigDict:
  size = arguments(argument, size=RECIPES).size
  steps, dropout, average = RECIPES[size]
  c = mlc.ConfigDict(dict(seed=0, total_steps=steps, log_every=100))
  c.checkpoint_every, c.keep_last = 1500, average
  words = benchmarks.sentence_pieces(DATA, 32_768)
  c.train_data = benchmarks.translation_train(
    DATA, 'en', 'de', words, batch_size=96, rows=530_000, seed=c.get_ref('seed')
  )
  sizes = transformer.variant(size)
  c.task = spec(
    seq2seq.Seq2Seq,
    model=spec(
      transformer.Transformer,
      vocab_size=32_768,
      **sizes,
      **transformer.STYLES['t2t'],
      dropout=dropout,
      dtype='bfloat16',
    ),
    optimizer=spec(
      optim.adamw,
      rate=spec(optim.noam, width=sizes['width'], warmup_steps=8000, factor=2.0),
      b2=0.997,
      eps=1e-9,
      decay_rules=[],
    ),
    label_smoothing=0.1,
    bos_id=0,  # its embedding is a vector of zeros
  )
  dev = benchmarks.translation_eval(DATA, 'validation', 'en', 'de', words, 64)
  test = benchmarks.translation_eval(DATA, 'test', 'en', 'de', words, 64)
  bleu = dict(vocabulary=words, target='de', tokenize='intl')
  c.evals = dict(
    newstest2013=spec(sequences.Perplexity, data=dev, every=5000),
    newstest2014_bleu=spec(translation.Bleu, data=test, **bleu),
  )
  return c
