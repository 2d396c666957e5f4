"""EfficientNets trained on ImageNet-1k, arXiv:1905.11946 (tensorflow/tpu).

    python -m big_vision_like.train --workdir=runs/efficientnet_b0_autoaugment \
        --config=configs/efficientnet/i1k.py:B0,autoaugment

The argument is MODEL[,AUGMENTATION]. MODEL is B0 to B8, or L2 (to try its shapes;
nobody has published an L2 trained this way). AUGMENTATION is `baseline` (crops and
flips), `autoaugment`, or `randaugment` (B5, B7 and B8, whose magnitudes are published).

350 epochs of batch 2,048 at the resolution of the model, with dropout and stochastic
depth. TensorFlow's RMSProp, learning rate 0.016 for each 256 images (0.128), warm-up of
5 epochs, times 0.97 every 2.4 epochs. The loss includes 1e-5 times half the squares of
all weights except norms; label smoothing 0.1. The running average of weights and of
batch norm statistics is evaluated. Each eighth of a batch is normalized separately, as
on 64 or more TPU cores.

Expected top-1 (README of tensorflow/tpu): 76.7 % for B0 and 83.1 % for B5; with
AutoAugment 77.1 % for B0 and 84.3 % for B7; with RandAugment 83.7 % for B5 and 84.7 %
for B7. `python tools/paper_tables.py 1905.11946` prints all. Hours are not published.
Not trained here. If memory is short, add `--config.task.model.remat=full`, which L2
already has.
"""

import ml_collections as mlc

from big_vision_like import optim
from big_vision_like.data import benchmarks
from big_vision_like.data.transforms import autoaugment, image, randaugment
from big_vision_like.errors import UserError
from big_vision_like.evals import classification
from big_vision_like.inference.preprocessing import IMAGENET_MEAN, IMAGENET_STD
from big_vision_like.models import efficientnet
from big_vision_like.spec import arguments, epochs, spec
from big_vision_like.tasks import classification as tasks

MODELS = {name: None for name in efficientnet.SIZES if name not in ('L0', 'L1')}
AUGMENTATIONS = ('baseline', 'autoaugment', 'randaugment')
# Magnitude of RandAugment with two operations, by model.
MAGNITUDES = {'B5': 17, 'B7': 28, 'B8': 28}
ARGUMENTS = ('B0,autoaugment', 'L2')
BATCH = 2048


def get_config(argument: str = ARGUMENTS[0]) -> mlc.ConfigDict:
  arg = arguments(argument, model=MODELS, augmentation=AUGMENTATIONS)
  size = efficientnet.size_of(arg.model)
  c = mlc.ConfigDict(dict(seed=0, log_every=50, checkpoint_every=1000))
  c.total_steps = epochs(350)
  c.train_data = benchmarks.IMAGENET.train_input(
    'train',
    [
      spec(image.EfficientNetCrop, size=size.resolution),
      spec(image.Flip),
      *augmented(arg.model, arg.augmentation),
    ],
    batch_size=BATCH,
    seed=c.get_ref('seed'),
    workers=32,
  )
  c.task = spec(
    tasks.Classification,
    model=spec(
      efficientnet.EfficientNet,
      num_classes=1000,
      **efficientnet.variant(arg.model),
      dropout=size.dropout,
      drop_path=0.2,
      norm_groups=8,
      remat='full' if arg.model == 'L2' else 'none',
      dtype='bfloat16',
    ),
    mean=IMAGENET_MEAN,
    std=IMAGENET_STD,
    label_smoothing=0.1,
    optimizer=spec(
      optim.rmsprop_tf,
      rate=spec(
        optim.exponential_staircase,
        peak_value=0.016 / 256 * BATCH,
        warmup_steps=epochs(5),
        decay_steps=epochs(2.4),
        factor=0.97,
      ),
      decay=0.9,
      momentum=0.9,
      eps=1e-3,
      l2=1e-5,
      l2_rules=[('.*/norm/.*', 0.0), ('.*', 1.0)],
    ),
    ema=spec(optim.Ema, decay=0.9999, warmup=True, first_step=1),
  )
  c.evals = dict(
    test=spec(
      classification.Accuracy,
      data=benchmarks.IMAGENET.eval_input(
        'test',
        [spec(image.EfficientNetCentralCrop, size=size.resolution)],
        batch_size=BATCH,
        workers=32,
      ),
      every=epochs(5),
    )
  )
  return c


def augmented(model: str, augmentation: str) -> list[mlc.ConfigDict]:
  """Returns the transforms that follow cropping and flipping."""
  if augmentation == 'baseline':
    return []
  if augmentation == 'autoaugment':
    return [spec(autoaugment.EfficientNetAutoAugment)]
  if model not in MAGNITUDES:
    raise UserError(
      f'no magnitude of RandAugment is published for {model}: use one of'
      f' {", ".join(MAGNITUDES)}, or autoaugment'
    )
  magnitude = MAGNITUDES[model]
  return [spec(randaugment.RandAugment, layers=2, magnitude=magnitude)]
