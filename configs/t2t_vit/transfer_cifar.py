"""T2T-ViT fine-tuned on CIFAR, arXiv:2101.11986 table 5.

    python -m big_vision_like.train --workdir=runs/t2t_vit_14_cifar10 \
        --config=configs/t2t_vit/transfer_cifar.py:cifar10,14

The argument is DATA (cifar10, cifar100) and MODEL (14, 19). Starts from the weights for
ImageNet-1k that the authors released (weights/81.5_T2T_ViT_14.pth.tar and so on).

60 epochs of batch 64 at 224 pixels. SGD with momentum 0.9 and weight decay 5e-4;
learning rate 0.05 for the new head and 5e-4 for the rest, each with a cosine to 2e-4,
constant in each epoch. Images are enlarged, shifted by up to 28 pixels and flipped;
drop path 0.1. As published, class token and final norm are not trained.

Expected top-1 of 14: 97.5 % on CIFAR-10 and 88.4 % on CIFAR-100 (98.3 and 88.4 % in the
authors' README); of 19: 98.3 and 89.0 %. The authors report the best epoch. Hours are
not published. Not trained here.
"""

import ml_collections as mlc

from big_vision_like import optim
from big_vision_like.data import benchmarks
from big_vision_like.data.transforms import image
from big_vision_like.evals import classification
from big_vision_like.models import t2t_vit
from big_vision_like.run import init_from
from big_vision_like.spec import arguments, epochs, spec
from big_vision_like.tasks import classification as tasks
from big_vision_like.weights.families.t2t_vit import CIFAR_MEAN, CIFAR_STD

ARGUMENTS = ('cifar10,14',)
DATA = ('cifar10', 'cifar100')
WEIGHTS = {'14': '81.5_T2T_ViT_14.pth.tar', '19': '81.9_T2T_ViT_19.pth.tar'}
FROZEN = '(cls|encoder/norm/.*)'
BATCH, SIDE = 64, 224


def get_config(argument: str = ARGUMENTS[0]) -> mlc.ConfigDict:
  arg = arguments(argument, data=dict.fromkeys(DATA), model=WEIGHTS)
  data = benchmarks.TRANSFER[arg.data]
  c = mlc.ConfigDict(dict(seed=0, log_every=50, checkpoint_every=1000))
  c.total_steps = epochs(60)
  weights = spec(init_from.from_file, path=f'weights/{WEIGHTS[arg.model]}')
  c.init_from = spec(
    init_from.InitFrom, weights=weights, allow_other_normalization=True
  )
  seen = spec(image.Resize, size=SIDE, method='bilinear')
  c.train_data = data.train_input(
    'train',
    [
      seen,
      spec(image.ZeroPad, size=28),
      spec(image.RandomCrop, size=SIDE),
      spec(image.Flip),
    ],
    batch_size=BATCH,
    seed=c.get_ref('seed'),
  )
  c.task = spec(
    tasks.Classification,
    model=spec(
      t2t_vit.T2TViT,
      num_classes=data.num_classes,
      **t2t_vit.variant(arg.model),
      drop_path=0.1,
      scan=True,
      remat='dots',
      dtype='bfloat16',
    ),
    mean=CIFAR_MEAN,
    std=CIFAR_STD,
    optimizer=spec(
      optim.momentum,
      rate=[
        ('head/.*', rate(c, 0.05)),
        (FROZEN, None),
        ('.*', rate(c, 5e-4)),
      ],
      decay=0.9,
      l2=5e-4,
      l2_rules=[(FROZEN, 0.0), ('.*', 1.0)],
    ),
  )
  c.evals = dict(
    test=spec(
      classification.Accuracy,
      data=data.eval_input('test', [seen], batch_size=BATCH),
      every=epochs(1),
    )
  )
  return c


def rate(c: mlc.ConfigDict, peak_value: float) -> mlc.ConfigDict:
  """Returns a cosine per epoch from `peak_value` to the last rate that all share."""
  return spec(
    optim.per_epoch_cosine,
    peak_value=peak_value,
    total_steps=c.get_ref('total_steps'),
    epoch_steps=epochs(1),
    end_value=2e-4,
    late=False,
  )
