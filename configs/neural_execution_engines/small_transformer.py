"""A plain Transformer that sorts, the baseline of execution engines (arXiv:2006.08084).

    python -m big_vision_like.train --workdir=runs/nee_transformer \
        --config=configs/neural_execution_engines/small_transformer.py

Numbers from 0 to 255 are independent tokens; lists of four to eight are learned, with
their order as target, and lists of 8 to 100 are tested. Greedy search; `tokens` is the
share of numbers at their place.
"""

import ml_collections as mlc
import optax

from big_vision_like import optim
from big_vision_like.data.input import pipeline
from big_vision_like.data.procedural import sequences
from big_vision_like.evals import sequences as evals
from big_vision_like.models import transformer
from big_vision_like.spec import spec
from big_vision_like.tasks import seq2seq

LENGTHS = (8, 25, 50, 100)
VOCABULARY = sequences.FIRST_SYMBOL + 256


def get_config(argument: str = '') -> mlc.ConfigDict:
  del argument
  c = mlc.ConfigDict(dict(seed=0, total_steps=2500, log_every=100, keep_last=1))
  c.checkpoint_every = 1000
  c.task = spec(
    seq2seq.Seq2Seq,
    model=spec(
      transformer.Transformer,
      vocab_size=VOCABULARY,
      width=64,
      depth=2,
      num_heads=4,
      mlp_dim=128,
      dropout=0.0,
    ),
    optimizer=spec(
      optim.adamw,
      rate=spec(
        optax.warmup_cosine_decay_schedule,
        init_value=0.0,
        peak_value=3e-3,
        warmup_steps=300,
        decay_steps=c.get_ref('total_steps'),
      ),
      b2=0.98,
      eps=1e-9,
    ),
    label_smoothing=0.0,
    extra_length=1,
  )
  c.train_data = spec(
    pipeline.TrainInput,
    source=_lists('train', 4, 8, 1_000_000),
    batch_size=256,
    seed=c.get_ref('seed'),
  )
  c.evals = {
    f'length_{length}': spec(
      evals.ExactMatch,
      data=spec(
        pipeline.EvalInput, source=_lists('test', length, length, 48), batch_size=24
      ),
      every=0,
    )
    for length in LENGTHS
  }
  return c


def _lists(split: str, shortest: int, longest: int, examples: int) -> mlc.ConfigDict:
  return spec(
    sequences.Reverse,
    target='sort',
    vocab_size=VOCABULARY,
    min_length=shortest,
    max_length=longest,
    examples=examples,
    split=split,
  )
