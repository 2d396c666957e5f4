"""ViT-S/16 on ImageNet-1k in 90, 150 or 300 epochs, as in arXiv:2205.01580.

    python -m big_vision_like.train --config=configs/vit/plain.py:90 \
        --workdir=runs/plain_90

Batch 1,024. Adam with weight decay 0.1 (multiplied by the learning rate), learning rate
1e-3 with a cosine schedule, global average pooling, fixed sine-cosine positions,
RandAugment (2 operations of magnitude 10) and a little mixup. Expected top-1 after 90
epochs: 76.5 %, in 6 to 7 hours on a TPU v3-8.

The argument is EPOCHS[,CHANGE]. A change of table 1 takes one part of the recipe away:

    token       class token instead of average pooling
    learned     learned positions
    batch4096   batch 4,096
    linear      no tanh layer before the head
    plain       no RandAugment, no mixup

`python tools/paper_tables.py 2205.01580` prints the top-1 of each.
"""

import ml_collections as mlc
import optax

from big_vision_like import optim
from big_vision_like.data import benchmarks
from big_vision_like.data.transforms import image, randaugment
from big_vision_like.evals import classification
from big_vision_like.models import vit
from big_vision_like.ops.augmentation import Augment
from big_vision_like.spec import arguments, epochs, spec
from big_vision_like.tasks import classification as tasks

ARGUMENTS = ('90', '150', '300', '90,token', '90,plain')
EPOCHS = ('90', '150', '300')
CHANGES = ('none', 'token', 'learned', 'batch4096', 'linear', 'plain')


def get_config(argument: str = ARGUMENTS[0]) -> mlc.ConfigDict:
  arg = arguments(argument, epochs=EPOCHS, change=CHANGES)
  change = arg.change
  sizes = vit.variant('S/16')
  c = mlc.ConfigDict(dict(seed=0, log_every=50, checkpoint_every=1000))
  c.total_steps = epochs(int(arg.epochs))
  transforms = [spec(image.InceptionCrop, size=224), spec(image.Flip)]
  if change != 'plain':
    transforms.append(spec(randaugment.RandAugment, layers=2, magnitude=10))
  c.train_data = benchmarks.IMAGENET.train_input(
    'fit',
    transforms,
    batch_size=4096 if change == 'batch4096' else 1024,
    seed=c.get_ref('seed'),
    workers=32,
  )
  c.task = spec(
    tasks.Classification,
    model=spec(
      vit.ViT,
      num_classes=1000,
      **sizes,
      pool='token' if change == 'token' else 'gap',
      posemb='learned' if change == 'learned' else 'sincos2d',
      rep_size=0 if change == 'linear' else sizes['width'],
      dtype='bfloat16',
    ),
    optimizer=spec(
      optim.adamw,
      rate=spec(
        optax.warmup_cosine_decay_schedule,
        init_value=0.0,
        peak_value=1e-3,
        warmup_steps=10_000,
        decay_steps=c.get_ref('total_steps'),
      ),
      weight_decay=0.1,
      clip_norm=1.0,
      mu_dtype='bfloat16',
    ),
    augment=spec(Augment, mixup=0.0 if change == 'plain' else 0.2),
  )
  c.evals = {
    part: spec(
      classification.Accuracy,
      data=benchmarks.IMAGENET.eval_input(
        part,
        [spec(image.ResizeSmall, size=256), spec(image.CentralCrop, size=224)],
        batch_size=1024,
        workers=32,
      ),
      every=2500,
    )
    for part in ('val', 'test')
  }
  return c
