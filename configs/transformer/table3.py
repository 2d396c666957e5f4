"""Variations of the base Transformer, arXiv:1706.03762 table 3, on newstest2013.

    python -m big_vision_like.train --config=configs/transformer/table3.py:h=1 \
        --workdir=runs/table3_h=1

Each row is `base` of wmt14_ende.py (perplexity 4.92, BLEU 25.8, 65 M parameters) with
one change, on the vocabulary that wmt14_ende.py trains. Published perplexity, BLEU and,
where it differs, millions of parameters:

    h=1 5.29 24.9     h=4 5.00 25.5     h=16 4.91 25.8     h=32 5.01 25.4
    dk=16 5.16 25.1 58                  dk=32 5.01 25.4 60
    N=2 6.11 23.7 36  N=4 5.19 25.3 50  N=8 4.88 25.5 80
    d=256 5.75 24.5 28                  d=1024 4.66 26.0 168
    dff=1024 5.12 25.4 53               dff=4096 4.75 26.2 90
    drop=0.0 5.77 24.6                  drop=0.2 4.95 25.5
    smooth=0.0 4.67 25.3                smooth=0.2 5.47 25.7
    learned 4.92 25.7 (positions)

`base` took the authors 12 hours on 8 P100. Not trained here.
"""

import ml_collections as mlc

from big_vision_like import optim
from big_vision_like.data import benchmarks
from big_vision_like.evals import sequences, translation
from big_vision_like.models import transformer
from big_vision_like.spec import arguments, spec
from big_vision_like.tasks import seq2seq

DATA = 'wmt14_translate/de-en'
BASE = dict(**transformer.variant('base'), dropout=0.1)
# Name of the row: (arguments of the model, label smoothing).
ROWS = {
  'base': ({}, 0.1),
  **{f'h={h}': (dict(num_heads=h), 0.1) for h in (1, 4, 16, 32)},
  **{f'dk={k}': (dict(attention_args=dict(size=k)), 0.1) for k in (16, 32)},
  **{f'N={n}': (dict(depth=n), 0.1) for n in (2, 4, 8)},
  # Eight heads of size d / 8.
  **{f'd={d}': (dict(width=d), 0.1) for d in (256, 1024)},
  **{f'dff={d}': (dict(mlp_dim=d), 0.1) for d in (1024, 4096)},
  **{f'drop={p}': (dict(dropout=p), 0.1) for p in (0.0, 0.2)},
  **{f'smooth={e}': ({}, e) for e in (0.0, 0.2)},
  'learned': (dict(positions='learned'), 0.1),
}


def get_config(argument: str = 'base') -> mlc.ConfigDict:
  changes, smoothing = ROWS[arguments(argument, row=ROWS).row]
  c = mlc.ConfigDict(dict(seed=0, total_steps=100_000, log_every=100))
  c.checkpoint_every, c.keep_last = 1500, 5
  words = benchmarks.sentence_pieces(DATA, 37_000)
  c.train_data = benchmarks.translation_train(
    DATA, 'en', 'de', words, batch_size=96, rows=520_000, seed=c.get_ref('seed')
  )
  sizes = BASE | changes
  c.task = spec(
    seq2seq.Seq2Seq,
    model=spec(transformer.Transformer, vocab_size=37_000, dtype='bfloat16', **sizes),
    optimizer=spec(
      optim.adamw,
      rate=spec(optim.noam, width=sizes['width'], warmup_steps=4000),
      b2=0.98,
      eps=1e-9,
      decay_rules=[],
    ),
    label_smoothing=smoothing,
  )
  dev = benchmarks.translation_eval(DATA, 'validation', 'en', 'de', words, 64)
  c.evals = dict(
    newstest2013=spec(sequences.Perplexity, data=dev, every=5000),
    newstest2013_bleu=spec(
      translation.Bleu, data=dev, vocabulary=words, target='de', tokenize='intl'
    ),
  )
  return c
