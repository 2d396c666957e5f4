"""ViT-B/16 pre-trained without labels by masked patch prediction, arXiv:2010.11929.

    python -m big_vision_like.train --config=configs/vit/masked_patches.py \
        --workdir=runs/masked_patches

The appendix B.1.2: 50 % of the patches are corrupted, of which 80 % become a learned
mask, 10 % another patch and 10 % stay; the model predicts the mean color of each, with
3 bits per channel. 1M steps of batch 4,096 on JFT (about 14 epochs), Adam with rate
2e-4, warm-up of 10,000 steps and a cosine schedule. Fine-tuned on ImageNet, the paper
reports 79.9 % top-1, 2 % above training from random weights; fewer than 100,000 steps
are almost as good. JFT is not public: see jft.py for other data. Not trained here.

To fine-tune the result, leave out its head and mask in a copy of transfer.py:

    c.init_from = spec(
      init_from.InitFrom,
      weights=spec(init_from.from_run, path='runs/masked_patches'),
      leave_out=('head/.*', 'mask'),
      allow_missing=('head/.*',),
    )
"""

import ml_collections as mlc
import optax

from big_vision_like import optim
from big_vision_like.data import benchmarks
from big_vision_like.data.transforms import image
from big_vision_like.evals import pretraining
from big_vision_like.models import masked_vit
from big_vision_like.spec import spec
from big_vision_like.tasks import masked_patches


def get_config() -> mlc.ConfigDict:
  c = mlc.ConfigDict(dict(seed=0, total_steps=1_000_000, log_every=50))
  c.checkpoint_every, c.keep_every = 1000, 100_000
  c.train_data = benchmarks.JFT.train_input(
    'train',
    [spec(image.InceptionCrop, size=224), spec(image.Flip)],
    batch_size=4096,
    seed=c.get_ref('seed'),
    workers=32,
  )
  c.task = spec(
    masked_patches.MaskedPatches,
    model=spec(
      masked_vit.MaskedViT,
      num_classes=512,
      **masked_vit.variant('B/16'),
      scan=True,
      remat='dots',
      dtype='bfloat16',
    ),
    optimizer=spec(
      optim.adamw,
      rate=spec(
        optax.warmup_cosine_decay_schedule,
        init_value=0.0,
        peak_value=2e-4,
        warmup_steps=10_000,
        decay_steps=c.get_ref('total_steps'),
      ),
      decay_rules=[],
    ),
  )
  c.evals = dict(
    val=spec(
      pretraining.Filling,
      data=benchmarks.JFT.eval_input(
        'val',
        [spec(image.ResizeSmall, size=256), spec(image.CentralCrop, size=224)],
        batch_size=4096,
        workers=32,
      ),
      every=5000,
    )
  )
  return c
