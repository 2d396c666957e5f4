"""DETR fine-tuned on your own objects, from the weights published for COCO.

    python -m big_vision_like.train --config=configs/detr/finetune.py:data/birds \
        --workdir=runs/birds --config.task.model.num_classes=3

The argument is a folder with `train.json` and `val.json`, in COCO's format, and their
images in `train` and `val`. For other places, set
`--config.train_data.source.annotations=...` and `.images=...`, and the same fields of
`--config.evals.val.data.source`. Classes are the categories in the order of their ids;
`num_classes` is their number (by default 80, as in COCO).

Weights come from facebookresearch/detr, stored as weights/detr-r50-e632da11.pth.
For R101 and DC5, set `init_from.weights.path` to the other file and change
`task.model.backbone`. The classification head is newly initialized; all other
parameters continue from the weights, with the learning rates of coco.py: 50 epochs of
batch 16, times 0.1 after 40. `keep_best` keeps the checkpoint with the best AP. From
random weights, DETR finds nothing for a hundred epochs of so few images.

Not trained here, so there is no number to expect. A step costs as much as one of
coco.py with 16 images; 1,000 images take 3,125 steps in all. If memory is short, use
`--config.task.accumulate=4`.
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
