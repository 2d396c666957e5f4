"""ViLBERT fine-tuned on RefCOCO+, arXiv:1908.02265 section 3.2 and table 1.

    python -m big_vision_like.train --config=configs/vilbert/refcoco.py \
        --workdir=runs/refcoco_plus

The regions are stored as `refcoco_plus_regions`, those of the true boxes as
`refcoco_plus_given_regions`, and the detections of MAttNet, on which the test is, as
`refcoco_plus_mattnet_regions` (docs/language_tasks.md); the weights are those of a run
of `configs/vilbert/cc.py`. The score of every region is trained with its overlap with
the true box, if that is at least 0.5, and 0 otherwise. Batch 256, 20 epochs; the rate
is 4e-5 after a linear warm-up of 10 % of the steps, and drops by a factor of 10 at
epochs 12 and 16.

Expected on val, testA and testB: 72.34, 78.52 and 62.61 % (`python
tools/paper_tables.py 1908.02265`). The paper trains on 8 GPUs; the time is not
published. Not trained here.
"""

import ml_collections as mlc

from big_vision_like import optim
from big_vision_like.data import language_vision
from big_vision_like.evals import answering as evals
from big_vision_like.layers import pairs
from big_vision_like.models import vilbert
from big_vision_like.run import init_from
from big_vision_like.spec import epochs, spec
from big_vision_like.tasks import answering

TESTS = ('val', 'testA', 'testB')


def get_config() -> mlc.ConfigDict:
  data = language_vision.refcoco_plus()
  c = mlc.ConfigDict(dict(seed=0, total_steps=epochs(20), log_every=50))
  c.checkpoint_every = epochs(1)
  c.train_data = data.train_input(256, seed=c.get_ref('seed'), workers=16)
  c.init_from = spec(
    init_from.InitFrom,
    weights=spec(init_from.from_run, workdir='runs/vilbert_cc'),
    leave_out=('heads_.*',),
    allow_missing=('heads_.*',),
  )
  c.task = spec(
    answering.Answering,
    model=spec(
      vilbert.ViLBERT,
      **vilbert.variant('6'),
      heads=dict(regions=spec(pairs.RegionScores)),
    ),
    head='regions',
    loss_type='sigmoid',
    optimizer=spec(
      optim.bert_adam,
      rate=spec(
        optim.multi_step,
        peak_value=4e-5,
        drops=[epochs(12), epochs(16)],
        warmup_steps=epochs(2),
      ),
    ),
  )
  c.evals = {
    split: spec(
      evals.RegionHits,
      data=data.eval_input(split, 256, workers=16),
      every=epochs(1) if split == 'val' else 0,
    )
    for split in TESTS
  }
  return c
