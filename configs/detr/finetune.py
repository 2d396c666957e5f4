"""DETR fine-tuned on objects of your own, from the weights published for COCO.

    python -m big_vision_like.train --config=configs/detr/finetune.py:data/birds \
        --workdir=runs/birds --config.task.model.num_classes=3

The argument is a folder with `train.json` and `val.json`, in COCO's format, and their
images in `train` and `val`; other places go by
`--config.train_data.source.annotations=...`, `.images=...`, and the same of
`--config.evals.val.data.source`. Classes are categories in the order of their ids;
`num_classes` says how many there are (80, as COCO's, unless told).

Weights are facebookresearch/detr's, here weights/detr-r50-e632da11.pth; for R101 and
DC5 name the other file in `init_from.weights.path`, and change `task.model.backbone`.
The head of the classes starts anew, all else goes on with the rates of coco.py: 50
epochs of batch 16, a tenth after 40. `keep_best` is by AP. From random weights DETR
finds nothing for a hundred epochs of so few images.

Not trained here. A step is that of coco.py with fewer images: for 1,000 images, 3,125
in all. Where memory is short: `--config.task.accumulate=4`.
"""

import dataclasses

import ml_collections as mlc

from big_vision_like import optim
from big_vision_like.data import benchmarks
from big_vision_like.data.sources import coco
from big_vision_like.evals import detection as evals
from big_vision_like.models import detr, resnet
from big_vision_like.run import init_from
from big_vision_like.spec import epochs, spec
from big_vision_like.tasks import set_detection


def get_config(folder: str = 'data/objects') -> mlc.ConfigDict:
  parts = {
    part: spec(
      coco.Coco, annotations=f'{folder}/{part}.json', images=f'{folder}/{part}'
    )
    for part in ('train', 'val')
  }
  data = dataclasses.replace(benchmarks.DETECTION['coco'], parts=parts, ids=None)
  c = mlc.ConfigDict(dict(seed=0, log_every=50, checkpoint_every=epochs(1)))
  c.total_steps, c.keep_best = epochs(50), 'val/AP'
  c.train_data = data.train_input(16, seed=c.get_ref('seed'))
  c.init_from = spec(
    init_from.InitFrom,
    weights=spec(init_from.from_file, path='weights/detr-r50-e632da11.pth'),
    leave_out=('class_head/.*',),
  )
  c.task = spec(
    set_detection.Detection,
    model=spec(
      detr.DETR,
      num_classes=80,
      backbone=spec(
        resnet.ResNet, **resnet.variant('R50'), norm='frozen', frozen_stages=1
      ),
      dropout=0.1,
    ),
    optimizer=spec(
      optim.adamw,
      rate=spec(optim.step_decay, peak_value=1e-4, every=epochs(40)),
      weight_decay=1e-4,
      clip_norm=0.1,
      decay_rules=(('.*', 1.0),),
      rate_rules=(
        ('backbone/(conv_root|stage1/.*)/kernel', 0.0),
        ('backbone/.*', 0.1),
      ),
    ),
  )
  c.evals = dict(val=spec(evals.CocoAP, data=data.eval_input(16), every=epochs(1)))
  return c
