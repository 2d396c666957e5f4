"""BiT-S: ResNets pre-trained on ImageNet-1k, arXiv:1912.11370 section 3.1.

    python -m big_vision_like.train --config=configs/bit/i1k.py:R50x1 \
        --workdir=runs/bit_s_R50x1

90 epochs of batch 4,096 at 224 pixels, with random crops and flips. SGD with momentum,
learning rate 0.03 for each 256 images (0.48), times 0.1 after 30, 60 and 80 epochs,
warm-up of 5,000 steps.

Expected top-1 of R152x4 on ImageNet after transfer with the BiT-HyperRule
(hyperrule.py:imagenet,R152x4,s): 81.30 % (table 2). The training time is unknown;
`python -m big_vision_like.plan` estimates it.

The paper adds 1e-4 times the weights to the gradients. Here weight decay bypasses the
momentum, which would multiply it by 10, so it is 1e-3 (multiplied by the learning
rate). It applies to the convolutions and the head.
"""

import ml_collections as mlc

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
    'train',
    [spec(image.InceptionCrop, size=224), spec(image.Flip)],
    batch_size=4096,
    seed=c.get_ref('seed'),
    workers=32,
  )
  c.task = spec(
    tasks.Classification,
    model=spec(bit.BiT, num_classes=1000, **bit.variant(variant), dtype='bfloat16'),
    optimizer=spec(
      optim.momentum,
      rate=spec(
        optim.staircase,
        peak_value=0.03 / 256 * 4096,
        warmup_steps=5000,
        boundaries=[epochs(30), epochs(60), epochs(80)],
      ),
      decay=0.9,
      weight_decay=1e-3,
    ),
  )
  c.evals = dict(
    test=spec(
      classification.Accuracy,
      data=benchmarks.IMAGENET.eval_input(
        'test',
        [spec(image.ResizeSmall, size=256), spec(image.CentralCrop, size=224)],
        batch_size=4096,
        workers=32,
      ),
      every=2500,
    )
  )
  return c
