"""UPerNet with a Swin Transformer on ADE20K, as in arXiv:2103.14030 section 4.3.

    python -m big_vision_like.train --config=configs/swin/ade20k.py:T \
        --workdir=runs/upernet_swin_t

The data are the folders `images` and `annotations` of ADEChallengeData2016, under
data/ade20k, and the weights the published files of the classifiers, under weights.

160,000 steps of batch 16 with crops of 512 pixels; `B22k`, pre-trained on ImageNet-22k,
has crops of 640 pixels and windows of 12. AdamW, learning rate 6e-5 after a warm-up of
1,500 steps, then linear to 0; weight decay 0.01, stochastic depth 0.3, and an auxiliary
loss with weight 0.4. Losses are means over all pixels, ignored ones included, as in
mmsegmentation.

`val` is the published single-scale test on whole images. `ms` averages six scales and
mirrored images. Sides of images are rounded to multiples of 32 there, so that they have
few shapes and no padding; mmsegmentation does not round.

Expected mIoU of T, S, B and B22k: 44.51, 47.64, 48.13 and 50.04 % at a single scale,
45.81, 49.47, 49.72 and 51.66 % at several. `python tools/paper_tables.py 2103.14030`
prints them. The paper trains on 8 V100; the time is not published. Not trained here.
"""

import ml_collections as mlc

from big_vision_like import optim
from big_vision_like.data import segmentation
from big_vision_like.evals import mean_iou
from big_vision_like.models import swin, upernet
from big_vision_like.run import init_from
from big_vision_like.spec import arguments, spec
from big_vision_like.tasks import semantic_segmentation as tasks

# Variant of the backbone, size of crops, and published weights.
MODELS = {
  'T': ('T', 512, 'swin_tiny_patch4_window7_224'),
  'S': ('S', 512, 'swin_small_patch4_window7_224'),
  'B': ('B', 512, 'swin_base_patch4_window7_224'),
  'B22k': ('B/12', 640, 'swin_base_patch4_window12_384_22k'),
}
ARGUMENTS = ('T', 'B22k')
STEPS, WARMUP = 160_000, 1_500


def get_config(argument: str = ARGUMENTS[0]) -> mlc.ConfigDict:
  variant, size, weights = MODELS[arguments(argument, model=MODELS).model]
  data = segmentation.ade20k(size)
  names = data.classes.names
  c = mlc.ConfigDict(dict(seed=0, total_steps=STEPS, log_every=50))
  c.checkpoint_every = 2_000
  c.train_data = data.train_input(16, seed=c.get_ref('seed'), workers=16)
  c.init_from = spec(
    init_from.InitFrom,
    weights=spec(init_from.from_backbone, path=f'weights/{weights}.pth'),
    # Each stage has its own norm instead of the last one.
    leave_out=('backbone/norm/.*',),
    allow_missing=('(?!backbone/).*', r'backbone/norm\d/.*'),
  )
  c.task = spec(
    tasks.Segmentation,
    model=spec(
      upernet.UPerNet,
      backbone=spec(
        swin.Swin,
        **swin.variant(variant),
        maps=(1, 2, 3, 4),
        padding='dense',
        drop_path=0.3,
        scan=True,
        remat='dots',
        dtype='bfloat16',
      ),
      num_classes=len(names),
      dtype='bfloat16',
    ),
    average='all',
    optimizer=spec(
      optim.adamw,
      # The line reaches 6e-5 at step 0, as in mmcv, which multiplies it by the warm-up.
      rate=spec(
        optim.linear,
        peak_value=6e-5 * (1 - WARMUP / STEPS),
        warmup_steps=WARMUP,
        total_steps=c.get_ref('total_steps'),
      ),
      weight_decay=0.01,
    ),
  )
  scales = data.at_scales()
  evaluator = spec(
    mean_iou.MeanIoU,
    data=data.eval_input(16, workers=16),
    every=16_000,
    num_classes=len(names),
    names=names,
  )
  c.evals = dict(
    val=evaluator,
    ms=spec(
      mean_iou.MeanIoU,
      data=scales.eval_input(16, workers=16),
      predict_args=dict(scales=segmentation.SCALES, flip=True),
      num_classes=len(names),
      names=names,
    ),
  )
  return c
