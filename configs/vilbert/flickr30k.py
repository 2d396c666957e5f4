"""Retrieval of images by captions on Flickr30k, arXiv:1908.02265 table 1.

    python -m big_vision_like.train --config=configs/vilbert/flickr30k.py \
        --workdir=runs/flickr30k
    python -m big_vision_like.train --config=configs/vilbert/flickr30k.py:zero_shot \
        --workdir=runs/flickr30k_zero_shot

The regions are stored as `flickr30k_regions` (docs/language_tasks.md), and the weights
those of a run of `configs/vilbert/cc.py`. For each caption, the model chooses among
four pairs: the right one, another caption, another image, and the caption of one of the
100 images nearest to the right one. Batch 64, 20 epochs; the rate is 2e-5 (4e-5 in the
published command, 2e-5 in its settings) after a linear warm-up of 10 % of the steps,
and drops by a factor of 10 at epochs 12 and 16. `zero_shot` ranks by the head that
pretraining has for alignment, and trains nothing.

The test scores all 5,000 x 1,000 pairs of the test split of Karpathy. Expected R@1, R@5
and R@10 of images: 58.20, 84.90 and 91.52 %; `zero_shot` 31.86, 61.12 and 72.80 %
(`python tools/paper_tables.py 1908.02265`). The paper trains on 8 GPUs; the time is not
published. Not trained here.
"""

import ml_collections as mlc

from big_vision_like import optim
from big_vision_like.data import language_vision
from big_vision_like.evals import retrieval
from big_vision_like.layers import pairs
from big_vision_like.models import vilbert
from big_vision_like.run import init_from
from big_vision_like.spec import arguments, epochs, spec
from big_vision_like.tasks import answering

KINDS = ('tuned', 'zero_shot')
ARGUMENTS = ('tuned',)


def get_config(argument: str = ARGUMENTS[0]) -> mlc.ConfigDict:
  zero_shot = arguments(argument, kind=KINDS).kind == 'zero_shot'
  head = 'alignment' if zero_shot else 'options'
  heads = {head: spec(pairs.Classes, num_outputs=2 if zero_shot else 1)}
  c = mlc.ConfigDict(dict(seed=0, log_every=50, checkpoint_every=epochs(1)))
  c.total_steps = 1 if zero_shot else epochs(20)
  c.train_data = language_vision.retrieval_train(64, seed=c.get_ref('seed'), workers=16)
  c.init_from = spec(
    init_from.InitFrom,
    weights=spec(init_from.from_run, workdir='runs/vilbert_cc'),
    leave_out=('heads_(?!alignment).*',) if zero_shot else ('heads_.*',),
    allow_missing=() if zero_shot else ('heads_.*',),
  )
  rate = spec(
    optim.multi_step,
    peak_value=2e-5,
    drops=[epochs(12), epochs(16)],
    warmup_steps=epochs(2),
  )
  c.task = spec(
    answering.Answering,
    model=spec(vilbert.ViLBERT, **vilbert.variant('6'), heads=heads),
    head=head,
    loss_type='softmax',
    optimizer=spec(
      optim.bert_adam,
      rate=0.0 if zero_shot else rate,
    ),
  )
  c.evals = dict(
    test=spec(
      retrieval.Retrieval, **language_vision.retrieval_eval('test', 16, workers=8)
    )
  )
  return c
