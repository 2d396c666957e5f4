"""VT-FPN and semantic FPN on Look Into Person, arXiv:2006.03677 table 10.

    python -m big_vision_like.train \
        --config=configs/visual_transformer/lip.py:R50,vt_fpn --workdir=runs/vt_fpn_lip

The data are LIP's folders train_images, train_segmentations, val_images and
val_segmentations, under data/lip. `fpn` is the baseline, a semantic FPN. Backbones
start from torchvision's IMAGENET1K_V1 in weights.

Batch 96 at 473x473 pixels, SGD with momentum 0.9, learning rate 0.01, weight decay
5e-4, batch norm over the whole batch. The paper gives neither schedule nor
augmentation: the linear decay over 47,600 steps (150 epochs), the scales of 0.5 to 2
and the flips that exchange left and right parts are our choice, as is the normalization
of tokens.

Expected mIoU of R50: 47.39 % (vt_fpn), 47.04 % (fpn); of R101: 47.58 and 47.35 %.
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
  arg = arguments(argument, backbone=WEIGHTS, pyramid=PYRAMIDS)
  data = segmentation.LIP
  names = data.classes.names
  c = mlc.ConfigDict(dict(seed=0, total_steps=47_600, log_every=50))
  c.checkpoint_every = 1_000
  c.train_data = data.train_input(96, seed=c.get_ref('seed'), workers=16)
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
        optim.linear,
        peak_value=0.01,
        warmup_steps=0,
        total_steps=c.get_ref('total_steps'),
      ),
      l2=5e-4,
    ),
  )
  c.evals = dict(
    val=spec(
      mean_iou.MeanIoU,
      data=data.eval_input(32, workers=16),
      every=5_000,
      num_classes=len(names),
      names=names,
    )
  )
  return c
