"""Mask and Cascade Mask R-CNN with Swin backbones on COCO 2017, arXiv:2103.14030.

    python -m big_vision_like.train --config=configs/swin/coco.py:mask_T_1x \
        --workdir=runs/swin_mask_T_1x

`mask_T_1x`, `mask_T_3x`, `mask_S_3x`, `cascade_T_1x`, `cascade_T_3x`, `cascade_S_3x`
and `cascade_B_3x`, after the published code for detection. 1x is 12 epochs of batch 16,
3x 36 epochs; the learning rate falls after 8 and 11, or 27 and 33. AdamW with 1e-4,
linear warm-up over 500 steps from a
thousandth, weight decay 0.05 except of norms and positions, no
clipping. Images are flipped, resized to shorter sides of 480 to 800, and half of them
cropped before, as in DETR; they are padded to one of eight shapes, not to the largest
image of a device. Backbones start from the published classifiers, such as
weights/swin_tiny_patch4_window7_224.pth. Backbone and heads compute in bfloat16, where
the published code has float16.

COCO is read from its own files, with outlines: data/coco/annotations/
instances_train2017.json and instances_val2017.json (cocodataset.org), images in
data/coco/train2017 and data/coco/val2017. Masks are learned from grids of 112x112 cells
over each box (`transforms.instance_masks`).

Expected AP of boxes and of masks on the validation images: mask_T_1x 43.7 and 39.8 %;
`python tools/paper_tables.py 2103.14030` prints the others. Hours of training are not
published. Not trained here.
"""

import ml_collections as mlc

from big_vision_like import optim
from big_vision_like.data import benchmarks
from big_vision_like.data.sources import coco_classes
from big_vision_like.evals import detection as evals
from big_vision_like.models import rcnn, swin
from big_vision_like.run import init_from
from big_vision_like.spec import arguments, epochs, spec
from big_vision_like.tasks import two_stage_detection

# Epochs, and those after which the learning rate falls.
LENGTHS = {'1x': (12, (8, 11)), '3x': (36, (27, 33))}
# Kind of heads, size of the Swin, length, and rate of its stochastic depth.
MODELS = {
  'mask_T_1x': ('mask', 'T', '1x', 0.1),
  'mask_T_3x': ('mask', 'T', '3x', 0.2),
  'mask_S_3x': ('mask', 'S', '3x', 0.2),
  'cascade_T_1x': ('cascade', 'T', '1x', 0.0),
  'cascade_T_3x': ('cascade', 'T', '3x', 0.2),
  'cascade_S_3x': ('cascade', 'S', '3x', 0.2),
  'cascade_B_3x': ('cascade', 'B', '3x', 0.3),
}
# Arguments of the model, of its proposing network, and of the task.
HEADS = {
  'mask': ({}, {}, {}),
  'cascade': (
    dict(stds=rcnn.CASCADE_STDS, convs=4, fcs=1),
    dict(proposals=(2000, 1000)),
    dict(
      head_weights=(1.0, 0.5, 0.25),
      ious=(0.5, 0.6, 0.7),
      proposal_beta=1 / 9,
      box_loss='giou',
      weights=dict(box=10.0),
    ),
  ),
}
WEIGHTS = {
  'T': 'swin_tiny_patch4_window7_224.pth',
  'S': 'swin_small_patch4_window7_224.pth',
  'B': 'swin_base_patch4_window7_224.pth',
}
ARGUMENTS = ('cascade_T_1x',)
# Names without weight decay; biases have it, as in the published code.
UNDECAYED = 'backbone/(.*/)?(relative_bias|pos_embedding|(embed_)?norm[0-9]*/.*)'


def get_config(argument: str = ARGUMENTS[0]) -> mlc.ConfigDict:
  kind, size, length, drop_path = MODELS[arguments(argument, model=MODELS).model]
  in_model, in_rpn, in_task = HEADS[kind]
  last, drops = LENGTHS[length]
  data = benchmarks.INSTANCES['coco']
  c = mlc.ConfigDict(dict(seed=0, log_every=50, checkpoint_every=epochs(1)))
  c.total_steps = epochs(last)
  c.train_data = data.train_input(16, seed=c.get_ref('seed'), workers=32)
  c.init_from = spec(
    init_from.InitFrom,
    weights=spec(init_from.from_backbone, path=f'weights/{WEIGHTS[size]}'),
    leave_out=(),
    allow_missing=('(?!backbone/).*', 'backbone/norm[1-4]/.*'),
    allow_unused=('backbone/norm/.*',),
  )
  c.task = spec(
    two_stage_detection.TwoStageDetection,
    model=spec(
      rcnn.RCNN,
      num_classes=80,
      backbone=spec(
        swin.Swin,
        **swin.variant(size),
        maps=(1, 2, 3, 4),
        padding='dense',
        drop_path=drop_path,
        remat='dots',
        dtype='bfloat16',
      ),
      rpn=spec(rcnn.RPN, **in_rpn, dtype='bfloat16'),
      masks=True,
      dtype='bfloat16',
      **in_model,
    ),
    optimizer=spec(
      optim.adamw,
      rate=spec(
        optim.multi_step,
        peak_value=1e-4,
        drops=[epochs(drop) for drop in drops],
        warmup_steps=500,
        start=1e-3,
      ),
      weight_decay=0.05,
      decay_rules=((UNDECAYED, 0.0), ('.*', 1.0)),
    ),
    **in_task,
  )
  c.evals = dict(
    val=spec(
      evals.CocoAP,
      data=data.eval_input(16),
      every=epochs(1),
      names=tuple(coco_classes.class_names(91)[i] for i in coco_classes.IDS),
      masks=True,
    )
  )
  return c
