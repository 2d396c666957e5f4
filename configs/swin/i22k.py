"""Swin Transformer pre-trained on ImageNet-22k, as in arXiv:2103.14030.

    python -m big_vision_like.train --config=configs/swin/i22k.py:B \
        --workdir=runs/swin_i22k_b

90 epochs of batch 4,096 at 224 pixels, 21,841 classes. AdamW with weight decay 0.05,
learning rate 1e-3 after a warm-up of 5 epochs, then a cosine to 1e-5, gradients clipped
to a norm of 5, and the augmentation of i1k.py. This is the published code; the paper
has a weight decay of 0.01 and a linear schedule.

No accuracy on ImageNet-22k itself is published. Expected top-1 on ImageNet-1k after
finetune.py:B,224 and finetune.py:L,384: 85.2 and 87.3 %. The training time is unknown;
`python -m big_vision_like.plan` estimates it.

You prepare the data yourself, under the name `imagenet21k` with a split `full`. Its
first 51,200 examples are held out.
"""

import dataclasses

import ml_collections as mlc
import optax

from big_vision_like import optim
from big_vision_like.data import benchmarks
from big_vision_like.evals import classification
from big_vision_like.inference.preprocessing import IMAGENET_MEAN, IMAGENET_STD
from big_vision_like.models import swin
from big_vision_like.ops.augmentation import Augment
from big_vision_like.spec import arguments, epochs, spec
from big_vision_like.tasks import classification as tasks

ARGUMENTS = ('B',)
# Drop path by model.
MODELS = {'T': 0.1, 'S': 0.2, 'B': 0.2, 'L': 0.2}
# Two classes fewer than in other configs with the same images.
IMAGENET22K = dataclasses.replace(benchmarks.IMAGENET21K, num_classes=21_841)


def get_config(argument: str = ARGUMENTS[0]) -> mlc.ConfigDict:
  arg = arguments(argument, model=MODELS)
  c = mlc.ConfigDict(dict(seed=0, total_steps=epochs(90), log_every=50))
  c.checkpoint_every, c.keep_every = 1000, 50_000
  c.train_data = IMAGENET22K.train_input(
    'train',
    benchmarks.deit_augmentation(224),
    batch_size=4096,
    seed=c.get_ref('seed'),
    workers=32,
  )
  c.task = spec(
    tasks.Classification,
    model=spec(
      swin.Swin,
      num_classes=IMAGENET22K.num_classes,
      **swin.variant(arg.model),
      drop_path=MODELS[arg.model],
      scan=True,
      remat='dots',
      dtype='bfloat16',
    ),
    label_smoothing=0.1,
    augment=spec(Augment, erasing=0.25, mixup=0.8, cutmix=1.0, partner='reversed'),
    mean=IMAGENET_MEAN,
    std=IMAGENET_STD,
    optimizer=spec(
      optim.adamw,
      rate=spec(
        optax.warmup_cosine_decay_schedule,
        init_value=1e-6,
        peak_value=1e-3,
        warmup_steps=epochs(5),
        decay_steps=c.get_ref('total_steps'),
        end_value=1e-5,
      ),
      weight_decay=0.05,
      clip_norm=5.0,
    ),
  )
  c.evals = dict(
    val=spec(
      classification.Accuracy,
      data=IMAGENET22K.eval_input(
        'val',
        benchmarks.torch_crop(224),
        batch_size=4096,
        workers=32,
      ),
      every=5000,
    )
  )
  return c
