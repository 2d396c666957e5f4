"""RegNetY on ImageNet-1k, with the recipe of DeiT's teacher or the recipe of pycls.

    python -m big_vision_like.train --config=configs/regnet/i1k.py:16GF,deit \
        --workdir=runs/regnety_16gf_deit
    python -m big_vision_like.train --config=configs/regnet/i1k.py:16GF,pycls \
        --workdir=runs/regnety_16gf_pycls

`deit`: the recipe of DeiT (arXiv:2012.12877 table 9), with which its authors trained
the 16GF that teaches DeiT. Expected top-1: 82.9 %. 300 epochs of batch 1,024 at 224
pixels. Images are cropped, flipped, changed by RandAugment, erased, and mixed. Each
image occurs three times in a row, in epochs with as many rows as without repeats.
AdamW, learning rate 1e-3 (5e-4 for each 512 images), weight decay 0.05 of kernels,
label smoothing 0.1, drop path 0.1. The learning rate is constant in each epoch: 1e-6 in
the first two, linear until the fifth, then a cosine to 1e-5. The authors' code keeps a
running average that it does not evaluate; this config keeps none. Batch norm normalizes
over the whole batch. The number of devices over which the authors normalized separately
is not published, nor are their hours.

`pycls`: the recipe of facebookresearch/pycls (configs/dds_baselines/regnety), as in
arXiv:2003.13678. Expected top-1: 80.4 % for 16GF. 100 epochs of crops, flips and
changes of lighting. SGD with Nesterov momentum, learning rate 0.2 for each 256 images,
a cosine to 0 after 5 epochs of warm-up from a tenth, weight decay 5e-5 of all
parameters, as a part of the gradient. Batches are 1,024 up to 1.6GF, 512 up to 12GF,
then 256. Each eighth of a batch is normalized separately, as on 8 GPUs. On 8 V100, the
authors took 3.3 hours for 200MF, 50.8 for 16GF and 79.4 for 32GF. Three things differ
from pycls: the learning rate changes every step instead of every epoch; evaluation uses
running averages instead of the statistics of 8,192 images; the aspect ratios of crops
are drawn as in torchvision.

Other sizes: 200MF, 400MF, 600MF, 800MF, 1.6GF, 3.2GF, 4GF, 6.4GF, 8GF, 12GF, 32GF.
`python tools/paper_tables.py 2003.13678` prints the published numbers. Not trained
here.
"""

import ml_collections as mlc

from big_vision_like import optim
from big_vision_like.data import benchmarks
from big_vision_like.data.transforms import color, image
from big_vision_like.evals import classification
from big_vision_like.inference.preprocessing import IMAGENET_MEAN, IMAGENET_STD
from big_vision_like.models import regnet
from big_vision_like.ops.augmentation import Augment
from big_vision_like.spec import arguments, epochs, spec
from big_vision_like.tasks import classification as tasks

# Batch sizes of pycls.
BATCHES = dict.fromkeys(('200MF', '400MF', '600MF', '800MF', '1.6GF'), 1024)
BATCHES |= dict.fromkeys(('3.2GF', '4GF', '6.4GF', '8GF', '12GF'), 512)
BATCHES |= dict.fromkeys(('16GF', '32GF'), 256)
ARGUMENTS = ('16GF,deit', '16GF,pycls')


def get_config(argument: str = ARGUMENTS[0]) -> mlc.ConfigDict:
  arg = arguments(argument, size=BATCHES, recipe=('deit', 'pycls'))
  c = mlc.ConfigDict(dict(seed=0, log_every=50, checkpoint_every=1000))
  model = dict(num_classes=1000, **regnet.variant(f'Y-{arg.size}'))
  if arg.recipe == 'deit':
    deit(c, model)
  else:
    pycls(c, model, BATCHES[arg.size])
  method = 'pillow_bicubic' if arg.recipe == 'deit' else 'bilinear'
  c.evals = dict(
    test=spec(
      classification.Accuracy,
      data=benchmarks.IMAGENET.eval_input(
        'test',
        [
          spec(image.ResizeSmall, size=256, method=method, rounding='down'),
          spec(image.CentralCrop, size=224, rounding='nearest'),
        ],
        batch_size=1024,
        workers=32,
      ),
      every=epochs(5),
    )
  )
  return c


def deit(c: mlc.ConfigDict, model: dict) -> None:
  c.total_steps = epochs(300)
  c.train_data = benchmarks.IMAGENET.train_input(
    'train',
    benchmarks.deit_augmentation(224),
    batch_size=1024,
    seed=c.get_ref('seed'),
    workers=32,
  )
  c.train_data.repeats = 3
  c.task = spec(
    tasks.Classification,
    model=spec(regnet.RegNet, **model, drop_path=0.1, dtype='bfloat16'),
    mean=IMAGENET_MEAN,
    std=IMAGENET_STD,
    label_smoothing=0.1,
    augment=spec(Augment, erasing=0.25, mixup=0.8, cutmix=1.0, partner='reversed'),
    optimizer=spec(
      optim.adamw,
      rate=spec(
        optim.per_epoch_cosine,
        peak_value=5e-4 / 512 * 1024,
        total_steps=c.get_ref('total_steps'),
        epoch_steps=epochs(1),
        warmup_steps=epochs(5),
        warmup_value=1e-6,
        end_value=1e-5,
      ),
      weight_decay=0.05,
    ),
  )


def pycls(c: mlc.ConfigDict, model: dict, batch_size: int) -> None:
  c.total_steps = epochs(100)
  peak = 0.2 / 256 * batch_size
  c.train_data = benchmarks.IMAGENET.train_input(
    'train',
    [
      spec(image.RandomResizedCrop, size=224, method='bilinear'),
      spec(image.Flip),
      spec(color.Lighting),
    ],
    batch_size=batch_size,
    seed=c.get_ref('seed'),
    workers=32,
  )
  c.task = spec(
    tasks.Classification,
    model=spec(regnet.RegNet, **model, norm_groups=8),
    mean=IMAGENET_MEAN,
    std=IMAGENET_STD,
    optimizer=spec(
      optim.momentum,
      rate=spec(
        optim.per_step_cosine,
        peak_value=peak,
        total_steps=c.get_ref('total_steps'),
        warmup_steps=epochs(5),
        warmup_value=0.1 * peak,
      ),
      nesterov=True,
      l2=5e-5,
    ),
  )
