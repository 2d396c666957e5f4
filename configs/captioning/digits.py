"""Captions of two or three handwritten digits: "three seven one" (arXiv:1502.03044).

    python tools/prepare_data.py digit_rows
    python -m big_vision_like.train --config=configs/captioning/digits.py:soft \
        --workdir=runs/digit_captions

Digits are at random places of 16x32 pixels, and test images have unseen scans. A
convolutional encoder makes a map of 4x8 cells. The argument is the decoder: `soft`
(72,047 parameters) or `hard`, an LSTM of 64 units with soft or hard attention, or
`transformer` (81,568), one block of width 64 that attends to the cells. 1,500 steps of
batch 64.

Expected share of test captions without a mistake, found by greedy search: 98.1, 96.9
and 92.8 %; share of words at which the largest weight of attention is in the columns of
the word's digit: 92.0, 93.6 and 91.2 % (seed 0, see docs/lab/captioning.md). Takes
about 100 seconds of CPU time.
"""

import ml_collections as mlc
import optax

from big_vision_like import optim
from big_vision_like.data.input import pipeline
from big_vision_like.data.procedural import digit_rows
from big_vision_like.data.sources import tfds
from big_vision_like.data.text import words
from big_vision_like.data.transforms import captions, image
from big_vision_like.evals import captions as evals
from big_vision_like.models import captioning, transformer, visual_transformer
from big_vision_like.spec import arguments, spec
from big_vision_like.tasks import captioning as tasks

DECODERS = ('soft', 'hard', 'transformer')
ARGUMENTS = DECODERS
LENGTH = digit_rows.MOST + 1  # words and the end


def get_config(argument: str = ARGUMENTS[0]) -> mlc.ConfigDict:
  name = arguments(argument, decoder=DECODERS).decoder
  c = mlc.ConfigDict(dict(seed=0, total_steps=1_500, log_every=50, keep_last=1))
  vocabulary = spec(words.Words, words=tuple(digit_rows.NAMES))
  ids = len(words.SPECIAL) + len(digit_rows.NAMES)

  def transforms() -> list[mlc.ConfigDict]:
    return [
      spec(image.Decode, channels=1),
      spec(captions.Encode, vocabulary=vocabulary, length=LENGTH, truncate=True),
    ]

  c.train_data = spec(
    pipeline.TrainInput,
    source=spec(tfds.Tfds, name='digit_rows', split='train', examples=20_000),
    transforms=transforms(),
    batch_size=64,
    seed=c.get_ref('seed'),
  )
  c.task = spec(
    tasks.Captioning,
    model=spec(
      captioning.Captioner,
      encoder=spec(
        visual_transformer.Convolutions,
        channels=(32, 32, 32, 32),
        strides=(1, 2, 1, 2),
      ),
      decoder=decoder(name, ids),
      read='stage4',
      posemb='sincos2d',
    ),
    optimizer=spec(
      optim.adamw,
      rate=spec(
        optax.warmup_cosine_decay_schedule,
        init_value=0.0,
        peak_value=3e-3,
        warmup_steps=100,
        decay_steps=c.get_ref('total_steps'),
      ),
      clip_norm=1.0,
    ),
    doubly=0.0 if name == 'transformer' else 0.1,
    length=LENGTH,
    mean=0.5,
    std=0.5,
  )
  test = spec(
    pipeline.EvalInput,
    source=spec(tfds.Tfds, name='digit_rows', split='test', examples=1_000),
    transforms=transforms(),
    batch_size=200,
  )
  c.evals = dict(
    greedy=spec(
      evals.CaptionScores,
      data=test,
      vocabulary=vocabulary,
      predict='greedy',
      every=500,
    ),
    beam=spec(evals.CaptionScores, data=test, vocabulary=vocabulary),
    places=spec(evals.AttentionPlaces, data=test, every=500),
  )
  return c


def decoder(name: str, ids: int) -> mlc.ConfigDict:
  """Returns the decoder for the config's argument."""
  if name == 'transformer':
    return spec(
      captioning.TransformerDecoder,
      transformer=spec(
        transformer.Transformer,
        vocab_size=ids,
        width=64,
        depth=1,
        num_heads=1,
        mlp_dim=128,
        dropout=0.0,
        norm='pre',
        final_norm=True,
      ),
    )
  return spec(
    captioning.RecurrentDecoder,
    vocab_size=ids,
    word_width=32,
    units=64,
    attention_width=32,
    gate='vector',
    dropout=0.0,
    hard=name == 'hard',
  )
