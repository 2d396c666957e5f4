"""BiT-M: ResNets pre-trained on ImageNet-21k, arXiv:1912.11370 section 3.1.

    python -m big_vision_like.train --config=configs/bit/i21k.py:R152x4 \
        --workdir=runs/bit_m_R152x4

90 epochs of batch 4,096 at 224 pixels, with random crops and flips. SGD with momentum,
learning rate 0.03 for each 256 images (0.48), times 0.1 after 30, 60 and 80 epochs,
warm-up of 5,000 steps, sigmoid loss summed over classes, head bias -10.

Expected top-1 of R152x4 on ImageNet after transfer with the BiT-HyperRule
(hyperrule.py): 85.39 % (table 2). The training time is unknown; `python -m
big_vision_like.plan` estimates it.

`R50x1,cosine` is the recipe of google-research/big_vision, with a cosine schedule and
gradient clipping; no result is published for it.

The paper adds 1e-4 times the weights to the gradients. Here weight decay bypasses the
momentum, which would multiply it by 10, so it is 1e-3 (multiplied by the learning
rate). It applies to the convolutions and the head.

You prepare the data yourself, as described in configs/vit/i21k.py.
"""

import ml_collections as mlc
import optax

from big_vision_like import optim
from big_vision_like.data import benchmarks
from big_vision_like.data.transforms import image
from big_vision_like.evals import classification
from big_vision_like.models import bit
from big_vision_like.spec import arguments, epochs, spec
from big_vision_like.tasks import classification as tasks

ARGUMENTS = ('R50x1', 'R50x1,cosine')


def get_config(argument: str = ARGUMENTS[0]) -> mlc.ConfigDict:
  arg = arguments(argument, model=str, cosine=False)
  images = benchmarks.IMAGENET21K
  c = mlc.ConfigDict(dict(seed=0, log_every=50, checkpoint_every=1000))
  c.keep_every = 50_000
  c.total_steps = epochs(90)
  c.train_data = images.train_input(
    'train',
    [spec(image.InceptionCrop, size=224), spec(image.Flip)],
    batch_size=4096,
    seed=c.get_ref('seed'),
    workers=32,
  )
  peak_value, warmup_steps = 0.03 / 256 * 4096, 5000
  steps = spec(
    optim.staircase,
    peak_value=peak_value,
    warmup_steps=warmup_steps,
    boundaries=[epochs(30), epochs(60), epochs(80)],
  )
  cosine = spec(
    optax.warmup_cosine_decay_schedule,
    init_value=0.0,
    peak_value=peak_value,
    warmup_steps=warmup_steps,
    decay_steps=c.get_ref('total_steps'),
  )
  paper = dict(rate=steps)
  big_vision = dict(rate=cosine, clip_norm=1.0, dtype='bfloat16')
  c.task = spec(
    tasks.Classification,
    model=spec(
      bit.BiT,
      num_classes=images.num_classes,
      **bit.variant(arg.model),
      head_bias=-10.0,
      dtype='bfloat16',
    ),
    loss_type='sigmoid',
    optimizer=spec(
      optim.momentum,
      decay=0.9,
      weight_decay=1e-3,
      **(big_vision if arg.cosine else paper),
    ),
  )
  c.evals = dict(
    val=spec(
      classification.Accuracy,
      data=images.eval_input(
        'val',
        [spec(image.ResizeSmall, size=256), spec(image.CentralCrop, size=224)],
        batch_size=4096,
        workers=32,
      ),
      every=5000,
    )
  )
  return c
