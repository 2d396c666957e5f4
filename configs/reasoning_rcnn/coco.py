"""Reasoning-RCNN and its baseline on COCO 2017.

    python -m big_vision_like.train --config=configs/reasoning_rcnn/coco.py:fpn \
        --workdir=runs/reasoning_coco_fpn
    python tools/build_class_graph.py relation \
        data/visual_genome/relationships.json --normalize symmetric --most 200 \
        --classes data/coco/annotations/instances_train2017.json \
        --out graphs/coco_relation.npz
    python -m big_vision_like.train \
        --config=configs/reasoning_rcnn/coco.py:reasoning \
        --workdir=runs/reasoning_coco_reasoning

`fpn` is the baseline, Faster R-CNN with a pyramid and a ResNet-101. `reasoning` starts
from it and adds a second head, whose regions get features of related classes (Xu et
al., CVPR 2019).

Two shared dense layers; SGD with 0.02 for batches of 16, momentum 0.9, weight decay
1e-4, gradients clipped to 35; 12 epochs, the rate falls after 8 and 11, with a warm-up
over 500 steps from a third. The first head accepts regions with an IoU of 0.5, the
second of 0.6 and with half of the weight; boxes of all classes are alike. Images have a
shorter side of 800 and at most 1333 pixels. The norms of the backbone are frozen; it
starts from weights/resnet101-63fe2227.pth of torchvision. Regions get the scores that
the first head has for them; `task.model.stale=True` takes those of the regions that the
first head was trained on, as the published code does.

COCO is read from its own files: data/coco/annotations/instances_train2017.json and
instances_val2017.json (cocodataset.org), images in data/coco/train2017 and val2017.
Relations are those of Visual Genome between classes of the same name.

Expected AP of `reasoning` on COCO's test-dev images: 43.2 %, 15 % more than the
baseline; numbers of validation images are not published. 8 GPUs; hours are not
published. Not trained here.
"""

import ml_collections as mlc

from big_vision_like import optim
from big_vision_like.data import benchmarks, class_graph
from big_vision_like.data.sources import coco
from big_vision_like.data.transforms import boxes
from big_vision_like.evals import detection as evals
from big_vision_like.models import rcnn, reasoning_rcnn, resnet
from big_vision_like.run import init_from
from big_vision_like.spec import arguments, epochs, spec
from big_vision_like.tasks import two_stage_detection

FILES = {
  'train': (
    'data/coco/annotations/instances_train2017.json',
    'data/coco/train2017',
    118_287,
  ),
  'val': (
    'data/coco/annotations/instances_val2017.json',
    'data/coco/val2017',
    5_000,
  ),
}
# Arguments of the model, and of the task.
HEADS = {
  'fpn': (dict(), dict()),
  'reasoning': (
    dict(stds=rcnn.CASCADE_STDS[:2], agnostic=True, shared=True),
    dict(head_weights=(1.0, 0.5), ious=(0.5, 0.6)),
  ),
}
ARGUMENTS = ('reasoning',)
EPOCHS, DROPS = 12, (8, 11)


def get_config(argument: str = ARGUMENTS[0]) -> mlc.ConfigDict:
  heads = arguments(argument, heads=HEADS).heads
  in_model, in_task = HEADS[heads]
  enhance = spec(reasoning_rcnn.Reasoning, dtype='bfloat16')
  data = benchmarks.Detection(
    parts={
      part: spec(coco.Coco, annotations=annotations, images=images, examples=examples)
      for part, (annotations, images, examples) in FILES.items()
    },
    shapes=benchmarks.DETR_SHAPES,
    eval_shapes=((800, 1088), (800, 1344), (1088, 800), (1344, 800)),
    max_boxes=100,
    augmentation=[
      spec(boxes.Flip),
      spec(boxes.ResizeShort, size=800, longest=1333),
    ],
    resizing=[spec(boxes.ResizeShort, size=800, longest=1333)],
  )
  c = mlc.ConfigDict(dict(seed=0, log_every=50, checkpoint_every=epochs(1)))
  c.total_steps = epochs(EPOCHS)
  c.train_data = data.train_input(16, seed=c.get_ref('seed'), workers=32)
  if heads == 'fpn':
    c.init_from = spec(
      init_from.InitFrom,
      weights=spec(init_from.from_backbone, path='weights/resnet101-63fe2227.pth'),
      leave_out=(),
      allow_missing=('(?!backbone/).*',),
    )
  else:
    c.init_from = [
      spec(
        init_from.InitFrom,
        weights=spec(init_from.from_run, workdir='runs/reasoning_coco_fpn'),
        leave_out=('box_heads_0/move/.*',),
        allow_missing=('enhance/.*', 'box_heads_./.*'),
      ),
      spec(
        init_from.InitFrom,
        weights=spec(
          class_graph.weights,
          path='graphs/coco_relation.npz',
          annotations=FILES['train'][0],
        ),
        allow_missing=('.*',),
      ),
    ]
  c.task = spec(
    two_stage_detection.TwoStageDetection,
    model=spec(
      rcnn.RCNN,
      num_classes=80,
      backbone=spec(
        resnet.ResNet,
        **resnet.variant('R101'),
        norm='frozen',
        frozen_stages=1,
        dtype='bfloat16',
      ),
      rpn=spec(
        rcnn.RPN,
        candidates=(2000, 2000),
        proposals=(2000, 2000),
        overlap=0.6,
        dtype='bfloat16',
      ),
      samples=2,
      enhance=enhance if heads == 'reasoning' else None,
      dtype='bfloat16',
      **in_model,
    ),
    proposal_beta=1 / 9,
    box_beta=1.0,
    optimizer=spec(
      optim.momentum,
      rate=spec(
        optim.multi_step,
        peak_value=0.02,
        warmup_steps=500,
        drops=[epochs(drop) for drop in DROPS],
        start=1 / 3,
      ),
      decay=0.9,
      l2=1e-4,
      clip_norm=35.0,
    ),
    **in_task,
  )
  c.evals = dict(val=spec(evals.CocoAP, data=data.eval_input(16), every=epochs(1)))
  return c
