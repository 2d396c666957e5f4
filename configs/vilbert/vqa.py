"""ViLBERT fine-tuned on VQA v2, arXiv:1908.02265 section 3.2 and table 1.

    python tools/build_answers.py data/vqa/v2_mscoco_train2014_annotations.json \
        data/vqa/v2_mscoco_val2014_annotations.json --out vocabularies/vqa_answers.txt
    python -m big_vision_like.train --config=configs/vilbert/vqa.py --workdir=runs/vqa

The regions are stored as `coco_regions` (docs/language_tasks.md), and the weights those
of a run of `configs/vilbert/cc.py`. Binary cross-entropies with the scores of 3,129
answers, batch 256, 20 epochs; the learning rate is 4e-5, and 1e-4 for the head, after a
linear warm-up of 10 % of the steps, and drops by a factor of 10 at epochs 12 and 16.
Trained on the training and validation questions without `minval`, 3,000 questions of
the latter.

Expected on test-dev: 70.55 %, on test-std 70.92 % (`python tools/paper_tables.py
1908.02265`); `minval` measures the accuracy on its 3,000 questions. The test server
alone has the answers of the test. The paper trains on 8 GPUs; the time is not
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


def get_config() -> mlc.ConfigDict:
  data = language_vision.vqa_v2()
  c = mlc.ConfigDict(dict(seed=0, total_steps=epochs(20), log_every=50))
  c.checkpoint_every = epochs(1)
  c.train_data = data.train_input(256, seed=c.get_ref('seed'), workers=16)
  c.init_from = spec(
    init_from.InitFrom,
    weights=spec(init_from.from_run, workdir='runs/vilbert_cc'),
    leave_out=('heads_.*',),
    allow_missing=('heads_.*',),
  )
  head = spec(pairs.NormedAnswers, num_outputs=language_vision.VQA_ANSWERS)
  c.task = spec(
    answering.Answering,
    model=spec(vilbert.ViLBERT, **vilbert.variant('6'), heads=dict(vqa=head)),
    head='vqa',
    loss_type='sigmoid',
    optimizer=spec(
      optim.bert_adam,
      rate=spec(
        optim.multi_step,
        peak_value=4e-5,
        drops=[epochs(12), epochs(16)],
        warmup_steps=epochs(2),
      ),
      rate_rules=(('heads_vqa/.*', 2.5),),
    ),
  )
  minval = data.eval_input('minval', 256, workers=16)
  c.evals = dict(minval=spec(evals.AnswerScore, data=minval, every=epochs(1)))
  return c
