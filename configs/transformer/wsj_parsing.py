"""English constituency parsing: the Transformer of arXiv:1706.03762 section 6.3.

    python tools/write_trees.py 'data/wsj/{02..21}/*.mrg' --out data/wsj_parsing.txt
    python tools/train_tokenizer.py --text data/wsj_parsing.txt --size 16000 \
        --out vocabularies/wsj_parsing_16000.model
    python -m big_vision_like.train --config=configs/transformer/wsj_parsing.py:wsj \
        --workdir=runs/wsj_parsing

Published F1 on section 23 of the Wall Street Journal (table 4):

    wsj              sections 2 to 21, 40,000 sentences, 16,000 pieces: 91.3
    semi_supervised  and 17 million parsed sentences, 32,000 pieces: 92.7

Put the sections of the Penn Treebank (LDC99T42) into `data/wsj/00` to `24`, and for
`semi_supervised` the parsed sentences of the high-confidence and BerkleyParser corpora
into `data/parsed`. Four layers of width 1024; everything else is the base model, as the
paper says. The dropout of 0.2 and the warm-up of 16,000 steps are tensor2tensor's
(parsing_base), since the paper does not report those it chose on section 22. Search has
21 beams with alpha 0.3, and trees have up to 300 tokens more than the sentence. The
paper gives no number of steps or hours. Not trained here.
"""

import ml_collections as mlc

from big_vision_like import optim
from big_vision_like.data.input import packing, pipeline
from big_vision_like.data.sources import treebank
from big_vision_like.data.text import vocabulary
from big_vision_like.data.transforms import text
from big_vision_like.evals import brackets, sequences
from big_vision_like.models import transformer
from big_vision_like.spec import arguments, spec
from big_vision_like.tasks import seq2seq

WSJ = 'data/wsj/{02..21}/*.mrg'
# Files, size of the vocabulary, approximate number of rows.
SETTINGS = {
  'wsj': ((WSJ,), 16_000, 8_000),
  'semi_supervised': ((WSJ, 'data/parsed/*.mrg'), 32_000, 3_400_000),
}
SENTENCES = {'22': 1_700, '23': 2_416}


def get_config(argument: str = 'wsj') -> mlc.ConfigDict:
  setting = arguments(argument, setting=SETTINGS).setting
  patterns, size, rows = SETTINGS[setting]
  c = mlc.ConfigDict(dict(seed=0, total_steps=100_000, log_every=100))
  c.checkpoint_every = 1500
  pieces = spec(
    vocabulary.SentencePiece,
    path=f'vocabularies/{setting}_parsing_{size}.model',
    recipe=f'--text data/{setting}_parsing.txt --size {size}',
  )
  tokenize = spec(text.Tokenize, vocabulary=pieces, source='words', target='tree')
  c.train_data = spec(
    pipeline.TrainInput,
    source=spec(
      packing.Packed,
      source=spec(treebank.Treebank, patterns=patterns),
      tokenize=tokenize,
      source_length=256,
      target_length=512,
      rows=rows,
    ),
    batch_size=48,
    workers=4,
    seed=c.get_ref('seed'),
  )
  c.task = spec(
    seq2seq.Seq2Seq,
    model=spec(
      transformer.Transformer,
      vocab_size=size,
      width=1024,
      depth=4,
      num_heads=8,
      mlp_dim=2048,
      dropout=0.2,
      dtype='bfloat16',
    ),
    optimizer=spec(
      optim.adamw,
      rate=spec(optim.noam, width=1024, warmup_steps=16_000),
      b2=0.98,
      eps=1e-9,
      decay_rules=[],
    ),
    label_smoothing=0.1,
    beams=21,
    alpha=0.3,
    extra_length=300,
  )
  c.evals = dict(
    perplexity=spec(sequences.Perplexity, data=section('22', tokenize), every=2000),
    section22=spec(
      brackets.Brackets,
      data=section('22', tokenize),
      vocabulary=pieces,
      predict='greedy',
      every=10_000,
    ),
    section23=spec(brackets.Brackets, data=section('23', tokenize), vocabulary=pieces),
  )
  return c


def section(number: str, tokenize: mlc.ConfigDict) -> mlc.ConfigDict:
  """Returns the input of a section, one sentence per row."""
  return spec(
    pipeline.EvalInput,
    source=spec(
      treebank.Treebank,
      patterns=f'data/wsj/{number}/*.mrg',
      examples=SENTENCES[number],
    ),
    transforms=[
      tokenize,
      spec(text.Pad, source_length=256, target_length=512, truncate=True),
    ],
    batch_size=64,
  )
