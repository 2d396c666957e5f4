"""German to English on WMT 2017: the `wmt` example of google/flax.

    python tools/train_tokenizer.py wmt17_translate/de-en --features de en \
        --size 32000 --out vocabularies/wmt17_translate_de_en_32000.model
    python -m big_vision_like.train --config=configs/transformer/flax_wmt17.py \
        --workdir=runs/flax_wmt17

100,000 steps of 32 packed rows of 256 tokens on each of 8 devices.

Expected BLEU on WMT 2014, from the example's README: 32.87 after 13 h 18 min on a TPU
v3-8, 32.45 after 3 h 1 min on a v3-32. It translates in the direction of the data set's
name, so the numbers do not compare with the 28.4 of arXiv:1706.03762. Not trained here.
"""

import ml_collections as mlc

from big_vision_like import optim
from big_vision_like.data import benchmarks
from big_vision_like.evals import sequences, translation
from big_vision_like.models import transformer
from big_vision_like.spec import spec
from big_vision_like.tasks import seq2seq


def get_config() -> mlc.ConfigDict:
  c = mlc.ConfigDict(dict(seed=0, total_steps=100_000, log_every=1000))
  c.checkpoint_every = 10_000
  words = benchmarks.sentence_pieces('wmt17_translate/de-en', 32_000)
  c.train_data = benchmarks.translation_train(
    'wmt17_translate/de-en',
    'de',
    'en',
    words,
    batch_size=256,
    rows=680_000,
    seed=c.get_ref('seed'),
  )
  c.task = spec(
    seq2seq.Seq2Seq,
    model=spec(
      transformer.Transformer,
      vocab_size=32_000,
      **transformer.variant('big'),
      **transformer.STYLES['flax'],
      dropout=0.1,
      dtype='bfloat16',
    ),
    optimizer=spec(
      optim.adamw,
      rate=spec(
        optim.rsqrt,
        peak_value=0.002,
        warmup_steps=1000,
        timescale=1000,
        total_steps=c.get_ref('total_steps'),
      ),
      b2=0.98,
      eps=1e-9,
      decay_rules=[],
    ),
    label_smoothing=0.1,
    bos_id=0,
  )
  test = benchmarks.translation_eval(
    'wmt14_translate/de-en', 'test', 'de', 'en', words, 64
  )
  c.evals = dict(
    newstest2014=spec(sequences.Perplexity, data=test, every=1000),
    newstest2014_bleu=spec(
      translation.Bleu, data=test, vocabulary=words, target='en', every=20_000
    ),
  )
  return c
