"""BiTs transferred with the BiT-HyperRule, arXiv:1912.11370 section 3.3.

    python -m big_vision_like.train --config=configs/bit/hyperrule.py:cifar10,R50x1 \
        --workdir=runs/hyperrule_cifar10_R50x1

The argument is DATA,MODEL and then, in any order:

- s, m (the default) or l: the pre-training of the weights. BiT-S and BiT-M are
  published under gs://bit_models, stored as `weights/BiT-M-R50x1.npz` and so on; BiT-L
  is a run of jft.py in `runs/bit_l_R152x4`;
- 1-shot, 5-shot, ...: N examples of each class; another seed draws other examples;
- code: the resolution of google-research/big_transfer, 512 pixels cropped to 480. The
  paper uses that for R152x4 only, and 448 cropped to 384 for other models. Images of
  fewer than 96 x 96 pixels (CIFAR) are resized to 160 and cropped to 128 either way;
- tune: trains on the tuning part (98 % of CIFAR, 99 % of ImageNet, 90 % of Pets and
  Flowers) and evaluates on the rest. The rule itself needs no tuning.

DATA is imagenet, cifar10, cifar100, pets or flowers. Batch 512, learning rate 0.003,
momentum, no weight decay. The number of examples determines the steps (500, 10,000 or
20,000), when the learning rate falls, and mixup. Test images are resized to the size of
the crop, whatever their aspect ratio. With a batch of 128, the authors use a learning
rate of 0.001 for the same result.

Expected top-1 of BiT-M R152x4 on ImageNet: 85.39 % (table 2; the median of three runs).
`python tools/paper_tables.py 1912.11370` prints the others. The training time is
unknown; `python -m big_vision_like.plan` estimates it.
"""

import ml_collections as mlc

from big_vision_like import optim
from big_vision_like.data import benchmarks
from big_vision_like.data.sources import fewshot
from big_vision_like.data.transforms import image
from big_vision_like.evals import classification
from big_vision_like.models import bit
from big_vision_like.ops.augmentation import Augment
from big_vision_like.run import init_from
from big_vision_like.spec import arguments, spec
from big_vision_like.tasks import classification as tasks

ARGUMENTS = (
  'cifar10,R50x1',
  'pets,R50x1,s,5-shot',
  'cifar100,R101x3,tune',
  'imagenet,R50x1,code',
  'flowers,R152x4,l',
)


def get_config(argument: str = ARGUMENTS[0]) -> mlc.ConfigDict:
  arg = arguments(
    argument,
    data=benchmarks.TRANSFER,
    model=str,
    weights=('m', 's', 'l'),
    shot=int,
    code=False,
    tune=False,
  )
  images = benchmarks.TRANSFER[arg.data]
  part = 'fit' if arg.tune else 'train'
  examples = arg.shot * images.num_classes if arg.shot else images.parts[part][1]
  large = (512, 480) if arg.code or arg.model == 'R152x4' else (448, 384)
  resized, cropped = image.bit_sizes(*images.size, large)
  *_, total_steps = optim.hyperrule_steps(examples)
  c = mlc.ConfigDict(dict(seed=0, total_steps=total_steps, log_every=50))
  c.checkpoint_every = 1000
  c.init_from = spec(init_from.InitFrom, weights=pretrained(arg.model, arg.weights))
  c.train_data = images.train_input(
    part,
    [
      spec(image.Resize, size=resized),
      spec(image.RandomCrop, size=cropped),
      spec(image.Flip),
    ],
    batch_size=512,
    seed=c.get_ref('seed'),
  )
  if arg.shot:
    c.train_data.source = spec(
      fewshot.PerClass,
      source=c.train_data.source,
      count=arg.shot,
      classes=images.num_classes,
      seed=c.get_ref('seed'),
    )
  c.task = spec(
    tasks.Classification,
    model=spec(
      bit.BiT,
      num_classes=images.num_classes,
      **bit.variant(arg.model),
      dtype='bfloat16',
    ),
    optimizer=spec(
      optim.momentum,
      rate=spec(optim.hyperrule_rate, examples=examples, peak_value=0.003),
      decay=0.9,
    ),
    augment=spec(Augment, mixup=optim.hyperrule_mixup(examples), partner='reversed'),
  )
  squashed = [spec(image.Resize, size=cropped)]
  part = 'val' if arg.tune else 'test'
  c.evals = {
    part: spec(classification.Accuracy, data=images.eval_input(part, squashed, 512))
  }
  if arg.data == 'imagenet' and not arg.tune:
    c.evals.real = spec(
      classification.RealAccuracy, data=benchmarks.imagenet_real(squashed, 512)
    )
  return c


def pretrained(model: str, weights: str) -> mlc.ConfigDict:
  """Returns what reads the weights: a published file, or a run of jft.py."""
  if weights == 'l':
    return spec(init_from.from_run, workdir=f'runs/bit_l_{model}')
  path = f'weights/BiT-{weights.upper()}-{model}.npz'
  return spec(init_from.from_file, path=path)
