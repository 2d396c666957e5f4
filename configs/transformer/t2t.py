"""English to German with the pre-norm Transformer of tensor2tensor (from base_v2 on).

    python -m big_vision_like.train --config=configs/transformer/t2t.py:base \
        --workdir=runs/t2t_base

`transformer_base` (v3) and `transformer_big` of tensor2tensor: norms in front, no
biases in attention, dropout inside attention and MLP too, twice the paper's rate after
8,000 steps of warm-up. It is what trains stably to BLEU 27 to 28 on newstest2014
(arXiv:1706.03762 table 2 has 27.3 and 28.4). A replica there has 4,096 tokens, `big`
2,048 (on 12 GB); a step here has about 25,000 + 25,000. Vocabulary and averaging as in
wmt14_ende.py.
"""

import ml_collections as mlc

from big_vision_like import optim
from big_vision_like.data import benchmarks
from big_vision_like.evals import sequences, translation
from big_vision_like.models import transformer
from big_vision_like.spec import arguments, spec
from big_vision_like.tasks import seq2seq

DATA = 'wmt14_translate/de-en'
# Steps, residual dropout, checkpoints averaged.
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
    bos_id=0,  # a vector of zeros
  )
  dev = benchmarks.translation_eval(DATA, 'validation', 'en', 'de', words, 64)
  test = benchmarks.translation_eval(DATA, 'test', 'en', 'de', words, 64)
  bleu = dict(vocabulary=words, target='de', tokenize='intl')
  c.evals = dict(
    newstest2013=spec(sequences.Perplexity, data=dev, every=5000),
    newstest2014_bleu=spec(translation.Bleu, data=test, **bleu),
  )
  return c
