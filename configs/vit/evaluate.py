"""Published ViT weights, evaluated without training.

    python -m big_vision_like.evaluate --config=configs/vit/evaluate.py:imagenet \
        --weights=weights/augreg/B_16_imagenet2012_384.npz

The argument is the data set: imagenet (with ImageNet-ReaL), cifar10, cifar100, pets or
flowers. Weights may be Google's, timm's or transformers'. They determine the model, and
how images are prepared: size, crop, mean and standard deviation.
`--preprocessing=config` uses images of 384 pixels in [-1, 1] instead.
`--workdir=FOLDER` saves the results.

Expected top-1 on ImageNet: 85.49 % for the file above (a recommended checkpoint of
AugReg, arXiv:2106.10270, from gs://vit_models/augreg). `python tools/paper_tables.py
2106.10270` prints the numbers of the other files and, in its table `timm`, of timm's
weights with ReaL. ImageNet takes minutes on an accelerator and hours on CPUs.
"""

import ml_collections as mlc

from big_vision_like import optim
from big_vision_like.data import benchmarks
from big_vision_like.data.transforms import image
from big_vision_like.evals import classification
from big_vision_like.models import vit
from big_vision_like.spec import arguments, spec
from big_vision_like.tasks import classification as tasks

ARGUMENTS = ('imagenet', 'cifar10', 'pets')


def get_config(argument: str = ARGUMENTS[0]) -> mlc.ConfigDict:
  arg = arguments(argument, data=benchmarks.TRANSFER)
  images = benchmarks.TRANSFER[arg.data]
  squashed = [spec(image.Resize, size=384)]
  c = mlc.ConfigDict(dict(total_steps=1))
  c.train_data = images.train_input('train', squashed, batch_size=256)
  c.task = spec(
    tasks.Classification,
    model=spec(vit.ViT, num_classes=images.num_classes, **vit.variant('B/16')),
    optimizer=spec(optim.momentum, rate=0.0),  # nothing is trained
  )
  test = images.eval_input('test', squashed, batch_size=256)
  c.evals = dict(test=spec(classification.Accuracy, data=test))
  if arg.data == 'imagenet':
    c.evals.real = spec(
      classification.RealAccuracy, data=benchmarks.imagenet_real(squashed, 256)
    )
  return c
