"""DETR for panoptic segmentation of COCO 2017, arXiv:2005.12872 sections 3.4 and 4.4.

    python tools/prepare_data.py coco/2017_panoptic
    python tools/prepare_data.py coco/2017
    python -m big_vision_like.train --config=configs/detr/panoptic.py:stage1_r50 \
        --workdir=runs/detr_panoptic_r50
    python -m big_vision_like.train --config=configs/detr/panoptic.py:stage2_r50 \
        --workdir=runs/detr_panoptic_r50_masks

Stage 1 learns boxes of things and stuff, as coco.py does, for 300 epochs of batch 16;
the learning rate falls after 200. Its backbone starts from torchvision's
weights/resnet50-0676ba61.pth or weights/resnet101-63fe2227.pth. Stage 2 learns masks
for 25 epochs (the rate falls after 15), with all other parameters frozen. The losses of
boxes then teach nothing, and only the losses of the last layer are computed. There are
250 classes, as in the published weights: COCO's own ids.

Queries with a score above 0.85 become segments. Box AP counts only things, as annotated
in coco/2017. AP of their masks is measured on COCO's own files, which have outlines:
data/coco/annotations/instances_val2017.json and data/coco/val2017.

Expected PQ of r50 on the validation images: 43.4 %; `python tools/paper_tables.py
2005.12872 --table=5` prints the others. The authors had 8 to 16 V100, and trained DC5
with one image on each device. The training time is unknown; `python -m
big_vision_like.plan` estimates it. Not trained here.
"""

import dataclasses

import ml_collections as mlc

from big_vision_like import optim
from big_vision_like.data import benchmarks
from big_vision_like.data.sources import coco_classes
from big_vision_like.evals import detection as evals
from big_vision_like.evals import panoptic
from big_vision_like.models import detr, resnet
from big_vision_like.run import init_from
from big_vision_like.spec import arguments, epochs, spec
from big_vision_like.tasks import set_detection

# Backbone, its weights, and whether its last stage is dilated.
R50, R101 = ('R50', 'resnet50-0676ba61.pth'), ('R101', 'resnet101-63fe2227.pth')
MODELS = {
  'r50': (*R50, False),
  'r50_dc5': (*R50, True),
  'r101': (*R101, False),
}
# Epochs, and epoch after which the learning rate falls.
STAGES = {'stage1': (300, 200), 'stage2': (25, 15)}
RECIPES = {f'{stage}_{model}': (stage, model) for stage in STAGES for model in MODELS}
ARGUMENTS = ('stage1_r50', 'stage1_r101', 'stage2_r50_dc5')
# Ids of things go up to 90, ids of stuff up to 200.
NUM_CLASSES, NUM_THINGS = 250, 91
# Parameters that the second stage adds and trains.
MASKS = 'mask_(attention|head)/.*'


def get_config(argument: str = ARGUMENTS[0]) -> mlc.ConfigDict:
  stage, model = RECIPES[arguments(argument, recipe=RECIPES).recipe]
  length, drop = STAGES[stage]
  backbone, weights, dilated = MODELS[model]
  if stage == 'stage1':
    start = spec(init_from.from_backbone, path=f'weights/{weights}')
    missing = '(?!backbone/).*'
    rules = (('backbone/(conv_root|stage1/.*)/kernel', 0.0), ('backbone/.*', 0.1))
  else:
    start = spec(init_from.from_run, workdir=f'runs/detr_panoptic_{model}')
    missing = MASKS
    rules = ((MASKS, 1.0), ('.*', 0.0))
  masks = stage == 'stage2'
  things = benchmarks.DETECTION['coco']
  data = dataclasses.replace(benchmarks.PANOPTIC['coco'], masks=masks)
  c = mlc.ConfigDict(dict(seed=0, log_every=50, checkpoint_every=epochs(1)))
  c.total_steps = epochs(length)
  c.train_data = data.train_input(16, seed=c.get_ref('seed'), workers=32)
  c.init_from = spec(
    init_from.InitFrom, weights=start, leave_out=(), allow_missing=(missing,)
  )
  c.task = spec(
    set_detection.Detection,
    model=spec(
      detr.DETR,
      num_classes=NUM_CLASSES,
      backbone=spec(
        resnet.ResNet,
        **resnet.variant(backbone),
        norm='frozen',
        dilated=dilated,
        frozen_stages=1,
      ),
      dropout=0.1,
      masks=masks,
    ),
    auxiliary=not masks,
    optimizer=spec(
      optim.adamw,
      rate=spec(optim.step_decay, peak_value=1e-4, every=epochs(drop)),
      weight_decay=1e-4,
      clip_norm=0.1,
      decay_rules=(('.*', 1.0),),
      rate_rules=rules,
    ),
  )
  c.evals = dict(
    val=spec(
      evals.CocoAP,
      data=things.eval_input(16),
      every=epochs(5),
      names=coco_classes.class_names(NUM_THINGS),
    )
  )
  if masks:
    c.evals.panoptic = spec(
      panoptic.PanopticQuality,
      data=data.eval_input(16),
      num_things=NUM_THINGS,
      threshold=0.85,
      every=epochs(5),
    )
    c.evals.masks = spec(
      evals.CocoAP,
      data=benchmarks.INSTANCES['coco'].eval_input(16),
      every=epochs(5),
      names=coco_classes.class_names(NUM_THINGS),
      masks=True,
    )
  return c
