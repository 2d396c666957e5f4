"""ResNet-v1 with BiT's norms on ImageNet-1k, as google-research/big_vision trains it.

    python -m big_vision_like.train --config=configs/bit/v1_i1k.py:R50x1 \
        --workdir=runs/bit_v1_R50x1

The recipe of big_vision's configs/bit_i1k.py: 90 epochs of batch 4,096 at 224 pixels,
learning rate 0.1 for each 256 images (1.6) with a cosine schedule, warm-up of 1,000
steps, weight decay 1e-3 (multiplied by the learning rate), gradient clipping. R50x1
takes about 32 minutes on a TPU v3-128. No accuracy is published.
"""

import ml_collections as mlc
import optax

from big_vision_like import optim
from big_vision_like.data import benchmarks
from big_vision_like.data.transforms import image
from big_vision_like.evals import classification
from big_vision_like.models import bit
from big_vision_like.spec import epochs, spec
from big_vision_like.tasks import classification as tasks


def get_config(variant: str = 'R50x1') -> mlc.ConfigDict:
  c = mlc.ConfigDict(dict(seed=0, log_every=50, checkpoint_every=1000))
  c.total_steps = epochs(90)
  c.train_data = benchmarks.IMAGENET.train_input(
    'fit',
    [spec(image.InceptionCrop, size=224), spec(image.Flip)],
    batch_size=4096,
    seed=c.get_ref('seed'),
    workers=32,
  )
  c.task = spec(
    tasks.Classification,
    model=spec(bit.BiTv1, num_classes=1000, **bit.variant(variant), dtype='bfloat16'),
    optimizer=spec(
      optim.momentum,
      rate=spec(
        optax.warmup_cosine_decay_schedule,
        init_value=0.0,
        peak_value=0.1 / 256 * 4096,
        warmup_steps=1000,
        decay_steps=c.get_ref('total_steps'),
      ),
      decay=0.9,
      weight_decay=1e-3,
      clip_norm=1.0,
      dtype='bfloat16',
    ),
  )
  c.evals = {
    part: spec(
      classification.Accuracy,
      data=benchmarks.IMAGENET.eval_input(
        part,
        [spec(image.ResizeSmall, size=256), spec(image.CentralCrop, size=224)],
        batch_size=4096,
        workers=32,
      ),
      every=1000,
    )
    for part in ('val', 'test')
  }
  return c
