"""DETR on COCO 2017, arXiv:2005.12872: the models of table 1, and tables 2 to 4.

    python tools/prepare_data.py coco/2017
    python -m big_vision_like.train --config=configs/detr/coco.py:r50 \
        --workdir=runs/detr_r50

`r50`, `r50_dc5` (a dilated last stage), `r101` and `r101_dc5` are trained for 500
epochs, `r50_300` and `r50_150` for fewer. The ablations change one thing of `r50_300`:

    encoder_0, _3, _12   number of encoder layers, instead of 6 (table 2)
    positions_none       no positions of cells (table 3)
    positions_input      sines, added at the input only (table 3)
    positions_learned    learned positions (table 3)
    positions_decoder    sines, in the decoder only (table 3)
    losses_l1, _giou     only this cost and loss of boxes (table 4)

Batch 64 (`r50_150`: 16). Backbones start from torchvision's IMAGENET1K_V1, stored as
weights/resnet50-0676ba61.pth and weights/resnet101-63fe2227.pth; their norms, root and
first stage are frozen. AdamW, learning rate 1e-4 (backbone: 1e-5), times 0.1 after 400
epochs (200 of 300, 100 of 150); weight decay 1e-4 of all parameters, biases included;
gradients clipped to 0.1; float32. The result does not depend on the number of
devices. Two things differ from the authors' 16 machines: the classification loss is
averaged over the whole batch, and images are padded to one of eight shapes
(docs/boxes.md), not to the largest image of a device.

Expected AP of r50 on the validation images: 42.0 %; `python tools/paper_tables.py
2005.12872` prints the others. On 8 V100, the authors' code takes 28 minutes for an
epoch of r50, and three days for r50_150. They trained and evaluated DC5 with one image
on each device. Not trained here.
"""

import ml_collections as mlc

from big_vision_like import optim
from big_vision_like.data import benchmarks
from big_vision_like.data.sources import coco_classes
from big_vision_like.evals import detection as evals
from big_vision_like.models import detr, resnet
from big_vision_like.run import init_from
from big_vision_like.spec import arguments, epochs, spec
from big_vision_like.tasks import set_detection

# Backbone, whether its last stage is dilated, epochs, epoch of the fall, batch size.
MODELS = {
  'r50': ('R50', False, 500, 400, 64),
  'r50_dc5': ('R50', True, 500, 400, 64),
  'r101': ('R101', False, 500, 400, 64),
  'r101_dc5': ('R101', True, 500, 400, 64),
  'r50_300': ('R50', False, 300, 200, 64),
  'r50_150': ('R50', False, 150, 100, 16),
}
# Changes of `r50_300`: arguments of the model, and factors of costs and losses.
CHANGES = {
  'encoder_0': (dict(encoder_depth=0), {}),
  'encoder_3': (dict(encoder_depth=3), {}),
  'encoder_12': (dict(encoder_depth=12), {}),
  'positions_none': (dict(positions_at=('none', 'none', 'input')), {}),
  'positions_input': (dict(positions_at=('input', 'input', 'input')), {}),
  'positions_learned': (dict(positions='learned'), {}),
  'positions_decoder': (dict(positions_at=('none', 'attention', 'attention')), {}),
  'losses_l1': ({}, dict(giou=0.0)),
  'losses_giou': ({}, dict(l1=0.0)),
}
ARGUMENTS = (
  'r50',
  'r101_dc5',
  'encoder_0',
  'positions_input',
  'positions_learned',
  'losses_giou',
)
WEIGHTS = {'R50': 'resnet50-0676ba61.pth', 'R101': 'resnet101-63fe2227.pth'}


def get_config(argument: str = ARGUMENTS[0]) -> mlc.ConfigDict:
  name = arguments(argument, model=MODELS | CHANGES).model
  in_model, factors = CHANGES.get(name, ({}, {}))
  backbone, dilated, length, drop, batch_size = MODELS.get(name, MODELS['r50_300'])
  data = benchmarks.DETECTION['coco']
  c = mlc.ConfigDict(dict(seed=0, log_every=50, checkpoint_every=epochs(1)))
  c.total_steps = epochs(length)
  c.train_data = data.train_input(batch_size, seed=c.get_ref('seed'), workers=32)
  c.init_from = spec(
    init_from.InitFrom,
    weights=spec(init_from.from_backbone, path=f'weights/{WEIGHTS[backbone]}'),
    leave_out=(),
    allow_missing=('(?!backbone/).*',),
  )
  c.task = spec(
    set_detection.Detection,
    model=spec(
      detr.DETR,
      num_classes=91,
      backbone=spec(
        resnet.ResNet,
        **resnet.variant(backbone),
        norm='frozen',
        dilated=dilated,
        frozen_stages=1,
      ),
      dropout=0.1,
      **in_model,
    ),
    costs=dict(factors),
    weights=dict(factors),
    optimizer=spec(
      optim.adamw,
      rate=spec(optim.step_decay, peak_value=1e-4, every=epochs(drop)),
      weight_decay=1e-4,
      clip_norm=0.1,
      decay_rules=(('.*', 1.0),),
      rate_rules=(
        ('backbone/(conv_root|stage1/.*)/kernel', 0.0),
        ('backbone/.*', 0.1),
      ),
    ),
  )
  c.evals = dict(
    val=spec(
      evals.CocoAP,
      data=data.eval_input(64),
      every=epochs(10),
      names=coco_classes.class_names(91),
    )
  )
  return c
