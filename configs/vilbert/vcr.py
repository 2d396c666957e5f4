"""ViLBERT fine-tuned on VCR, arXiv:1908.02265 section 3.2 and table 1.

    python -m big_vision_like.train --config=configs/vilbert/vcr.py --workdir=runs/vcr

The regions are stored as `vcr_regions` and, at the given boxes, `vcr_given_regions`
(docs/language_tasks.md); the weights are those of a run of `configs/vilbert/cc.py`. One
model chooses answers (Q->A) and rationales (QA->R) among four options, in alternating
batches of 64, 20 epochs; the rate is 2e-5 after a linear warm-up of 10 % of the steps,
and drops by a factor of 10 at epochs 12 and 16. Each stage has its own sequences, of 60
and 80 word pieces. People are called by a fixed list of names, where the published code
draws names at random.

Expected on the test: Q->A 72.42 %, QA->R 74.47 %, Q->AR 54.04 % (`python
tools/paper_tables.py 1908.02265`); `val` measures all three on the validation set. The
paper trains on 8 GPUs; the time is not published. Not trained here.
"""

import ml_collections as mlc

from big_vision_like import optim
from big_vision_like.data import language_vision
from big_vision_like.data.input import alternating
from big_vision_like.data.sources import vcr
from big_vision_like.evals import answering as evals
from big_vision_like.layers import pairs
from big_vision_like.models import vilbert
from big_vision_like.run import init_from
from big_vision_like.spec import epochs, spec
from big_vision_like.tasks import answering, multi_task


def get_config() -> mlc.ConfigDict:
  stages = {stage: language_vision.vcr_stage(stage) for stage in vcr.STAGES}
  # An epoch of batches of one stage is half of the steps of both.
  c = mlc.ConfigDict(dict(seed=0, total_steps=epochs(40), log_every=50))
  c.checkpoint_every = epochs(1)
  c.train_data = spec(
    alternating.Alternating,
    inputs={
      stage: data.train_input(64, seed=number, workers=8)
      for number, (stage, data) in enumerate(stages.items())
    },
    shares=dict.fromkeys(stages, 0.5),
    epoch_of='answer',
    seed=c.get_ref('seed'),
  )
  c.init_from = spec(
    init_from.InitFrom,
    weights=spec(init_from.from_run, workdir='runs/vilbert_cc'),
    leave_out=('heads_.*',),
    rename=((r'(.*)', r'shared/\1'),),
    allow_missing=('.*heads_.*',),
  )
  one = spec(
    answering.Answering,
    model=spec(
      vilbert.ViLBERT,
      **vilbert.variant('6'),
      heads=dict(options=spec(pairs.Classes, num_outputs=1)),
    ),
    head='options',
    loss_type='softmax',
    optimizer=None,
  )
  c.task = spec(
    multi_task.MultiTask,
    tasks=dict.fromkeys(stages, one),
    own=(),
    optimizer=spec(
      optim.bert_adam,
      rate=spec(
        optim.multi_step,
        peak_value=2e-5,
        drops=[epochs(24), epochs(32)],
        warmup_steps=epochs(4),
      ),
    ),
  )
  c.evals = dict(
    val=spec(
      evals.Vcr,
      data=stages['answer'].eval_input('val', 64, workers=8),
      rationales=stages['rationale'].eval_input('val', 64, workers=8),
      predict='answer.predict',
      rationale_predict='rationale.predict',
      every=epochs(2),
    )
  )
  return c
