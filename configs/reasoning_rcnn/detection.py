"""Reasoning-RCNN and its baseline on COCO 2017, Visual Genome and ADE20K.

    python -m big_vision_like.train \
        --config=configs/reasoning_rcnn/detection.py:coco,fpn \
        --workdir=runs/reasoning_coco_fpn
    python tools/build_class_graph.py relation \
        data/visual_genome/relationships.json --normalize symmetric --most 200 \
        --classes data/coco/annotations/instances_train2017.json \
        --out graphs/coco_relation.npz
    python -m big_vision_like.train \
        --config=configs/reasoning_rcnn/detection.py:coco,reasoning \
        --workdir=runs/reasoning_coco_reasoning

`fpn` is the baseline, Faster R-CNN with a pyramid and a ResNet-101. `reasoning` starts
from it and adds a second head, whose regions get features of related classes (Xu et
al., CVPR 2019).

Two shared dense layers; SGD with 0.02 for batches of 16, momentum 0.9, weight decay
1e-4, gradients clipped to 35; 12 epochs, the rate falls after 8 and 11, with a warm-up
over 500 steps from a third. The first head accepts regions with an IoU of 0.5, the
second of 0.6 and with half of the weight; boxes of all classes are alike. Images have a
shorter side of 800 and at most 1333 pixels, in evaluation at most 800, on COCO 1333.
The norms of the backbone are frozen; it starts from weights/resnet101-63fe2227.pth of
torchvision. Regions get the scores that the first head has for them;
`task.model.stale=True` takes those of the regions that the first head was trained on,
as the published code does. All data sets are in COCO's format:

- `coco`: data/coco/annotations/instances_train2017.json and instances_val2017.json
  (cocodataset.org), images in data/coco/train2017 and val2017. Relations are those of
  Visual Genome between classes of the same name.
- `vg1000` and `vg3000`, Visual Genome with 1,000 and 3,000 classes: `python
  tools/convert_visual_genome.py data/visual_genome --classes 1000 --test 5000` writes
  train_1000.json and val_1000.json; images are in data/visual_genome/VG_100K and
  VG_100K_2. The authors' split is not known.
- `ade`: data/ade/train.json and val.json, boxes of 445 classes of ADE20K's objects
  (arXiv:1608.05442), with file names relative to data/ade/images. Which classes the
  authors use is not documented, so no program makes these files.

Expected AP of `coco,reasoning` on COCO's test-dev images: 43.2 %, 15 % more than the
baseline; numbers of validation images are not published. `vg1000`: baseline 7.1 %,
`reasoning` 8.2 %; `vg3000`: 3.7 and 4.3 %; `ade`: 10.9 and 15.0 %; these are from
memory. 8 GPUs; hours are not published. Not trained here.
"""

from typing import NamedTuple

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


class Data(NamedTuple):
  """A data set: its classes, files, and images in evaluation.

  Of each part, `files` has the annotations, the folder of images and their number.
  """

  classes: int
  files: dict[str, tuple[str, str, int]]
  max_boxes: int = 200
  longest: int = 800
  eval_shapes: tuple[tuple[int, int], ...] = (
    (544, 800),
    (608, 800),
    (800, 608),
    (800, 800),
  )


def visual_genome(classes: int) -> Data:
  """Returns Visual Genome with its most frequent classes."""
  folder = 'data/visual_genome'
  files = {
    'train': (f'{folder}/train_{classes}.json', folder, 103_077),
    'val': (f'{folder}/val_{classes}.json', folder, 5_000),
  }
  return Data(classes, files)


COCO = {
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
ADE = {
  'train': ('data/ade/train.json', 'data/ade/images', 20_210),
  'val': ('data/ade/val.json', 'data/ade/images', 2_000),
}
DATA = {
  'coco': Data(
    80, COCO, 100, 1333, ((800, 1088), (800, 1344), (1088, 800), (1344, 800))
  ),
  'vg1000': visual_genome(1_000),
  'vg3000': visual_genome(3_000),
  'ade': Data(445, ADE),
}
# Arguments of the model, and of the task.
HEADS = {
  'fpn': (dict(), dict()),
  'reasoning': (
    dict(stds=rcnn.CASCADE_STDS[:2], agnostic=True, shared=True),
    dict(head_weights=(1.0, 0.5), ious=(0.5, 0.6)),
  ),
}
ARGUMENTS = ('coco,reasoning', 'vg1000,reasoning', 'ade,reasoning')
EPOCHS, DROPS = 12, (8, 11)


def get_config(argument: str = ARGUMENTS[0]) -> mlc.ConfigDict:
  arg = arguments(argument, data=DATA, heads=HEADS)
  heads, chosen = arg.heads, DATA[arg.data]
  in_model, in_task = HEADS[heads]
  enhance = spec(reasoning_rcnn.Reasoning, dtype='bfloat16')
  data = benchmarks.Detection(
    parts={
      part: spec(coco.Coco, annotations=annotations, images=images, examples=examples)
      for part, (annotations, images, examples) in chosen.files.items()
    },
    shapes=benchmarks.DETR_SHAPES,
    eval_shapes=chosen.eval_shapes,
    max_boxes=chosen.max_boxes,
    augmentation=[
      spec(boxes.Flip),
      spec(boxes.ResizeShort, size=800, longest=1333),
    ],
    resizing=[spec(boxes.ResizeShort, size=800, longest=chosen.longest)],
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
        weights=spec(init_from.from_run, workdir=f'runs/reasoning_{arg.data}_fpn'),
        leave_out=('box_heads_0/move/.*',),
        allow_missing=('enhance/.*', 'box_heads_./.*'),
      ),
      spec(
        init_from.InitFrom,
        weights=spec(
          class_graph.weights,
          path=f'graphs/{arg.data}_relation.npz',
          annotations=chosen.files['train'][0],
        ),
        allow_missing=('.*',),
      ),
    ]
  c.task = spec(
    two_stage_detection.TwoStageDetection,
    model=spec(
      rcnn.RCNN,
      num_classes=chosen.classes,
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
