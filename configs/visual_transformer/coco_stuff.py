"""VT-FPN and semantic FPN on COCO, arXiv:2006.03677 table 9.

    python -m big_vision_like.train \
        --config=configs/visual_transformer/coco_stuff.py:R50,vt_fpn \
        --workdir=runs/vt_fpn_r50

The data are images of COCO 2017 under data/coco, and the label maps that detectron2's
prepare_panoptic_fpn.py writes, in panoptic_stuff_train2017 and panoptic_stuff_val2017:
53 classes of stuff, and one of all things. The paper says "COCO-stuff"; its numbers are
those of models with these 54 classes. `R50,vt_fpn,stuff171` has the 171 classes of
COCO-Stuff instead, with maps in stuffthingmaps.

`fpn` is the baseline, a semantic FPN. Backbones start from torchvision's IMAGENET1K_V1
in weights; those of the paper have their strides in other convolutions. Batch 32, SGD
with momentum 0.9, learning rate 0.04, weight decay 1e-4, batch norm over the whole
batch. The schedule is our reading of "1x" of detectron2 at this batch size: 45,000
steps, times 0.1 after 30,000 and 40,000, warm-up of 1,000. The normalization of tokens
(`norm`) is not in the paper.

Expected mIoU of R50: 41.00 % (vt_fpn), 40.78 % (fpn); of R101: 41.50 and 41.51 %.
`python tools/paper_tables.py 2006.03677` prints them. Training time is not published.
Not trained here.
"""

import ml_collections as mlc

from big_vision_like import optim
from big_vision_like.data import segmentation
from big_vision_like.evals import mean_iou
from big_vision_like.layers import fpn
from big_vision_like.layers.visual_tokens import Projections
from big_vision_like.models import resnet, semantic_fpn, vt_fpn
from big_vision_like.run import init_from
from big_vision_like.spec import arguments, spec
from big_vision_like.tasks import semantic_segmentation as tasks

WEIGHTS = {'R50': 'resnet50-0676ba61.pth', 'R101': 'resnet101-63fe2227.pth'}
PYRAMIDS = {
  'vt_fpn': spec(
    vt_fpn.TokenPyramid, projections=spec(Projections, norm=True), dtype='bfloat16'
  ),
  'fpn': spec(fpn.FPN, extra=0, dtype='bfloat16'),
}
ARGUMENTS = ('R50,vt_fpn',)


def get_config(argument: str = ARGUMENTS[0]) -> mlc.ConfigDict:
  arg = arguments(argument, backbone=WEIGHTS, pyramid=PYRAMIDS, stuff171=False)
  data = segmentation.COCO_STUFF if arg.stuff171 else segmentation.COCO_STUFF_54
  names = data.classes.names
  c = mlc.ConfigDict(dict(seed=0, total_steps=45_000, log_every=50))
  c.checkpoint_every = 1_000
  c.train_data = data.train_input(32, seed=c.get_ref('seed'), workers=16)
  c.init_from = spec(
    init_from.InitFrom,
    weights=spec(init_from.from_backbone, path=f'weights/{WEIGHTS[arg.backbone]}'),
    leave_out=(),
    allow_missing=('(?!backbone/).*',),
  )
  c.task = spec(
    tasks.Segmentation,
    model=spec(
      semantic_fpn.SemanticFPN,
      backbone=spec(resnet.ResNet, **resnet.variant(arg.backbone), dtype='bfloat16'),
      pyramid=PYRAMIDS[arg.pyramid].copy_and_resolve_references(),
      num_classes=len(names),
      dtype='bfloat16',
    ),
    optimizer=spec(
      optim.momentum,
      rate=spec(
        optim.staircase,
        peak_value=0.04,
        warmup_steps=1_000,
        boundaries=(30_000, 40_000),
      ),
      l2=1e-4,
    ),
  )
  c.evals = dict(
    val=spec(
      mean_iou.MeanIoU,
      data=data.eval_input(16, workers=16),
      every=5_000,
      num_classes=len(names),
      names=names,
    )
  )
  return c
