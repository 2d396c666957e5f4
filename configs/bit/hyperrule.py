"""BiTs transferred by one rule for all data, arXiv:1912.11370 section 3.3.

    python -m big_vision_like.train --config=configs/bit/hyperrule.py:cifar10,R50x1 \
        --workdir=runs/hyperrule_cifar10_R50x1

The argument is DATA,MODEL and then, in any order:

- s, m (the default) or l: what pre-trained the weights. BiT-S and BiT-M are published
  under gs://bit_models, here `weights/BiT-M-R50x1.npz` and so on; BiT-L is a run of
  jft.py, here `runs/bit_l_R152x4`;
- 1-shot, 5-shot, ...: so many examples of each class, others for another seed;
- code: the resolution of google-research/big_transfer, 512 pixels cropped to 480. The
  paper has that for R152x4 alone, for others 448 cropped to 384. Images of fewer than
  96 x 96 pixels (CIFAR) take 160 cropped to 128 either way;
- tune: trains on what is kept for it (98 % of CIFAR, 99 % of ImageNet, 90 % of Pets and
  Flowers) and evaluates the rest. The rule itself needs no tuning.

DATA is imagenet, cifar10, cifar100, pets or flowers. Batch 512, rate 0.003, momentum,
no decay; steps (500, 10,000 or 20,000), falls of the rate and mixup by the number of
examples. Test images are squashed to the size of the crop. With a smaller batch of 128
the authors take a rate of 0.001 to the same end.

Top-1 of BiT-M R152x4: ImageNet 85.39, CIFAR-10 98.91, CIFAR-100 92.17, Pets 94.46,
Flowers 99.30 (table 2; the median of three runs). R50x1 by the authors' code: ImageNet
80.68, from 5 examples of each class 50.64; CIFAR-10 from 5 of each 82 to 83.
"""

import re

import ml_collections as mlc

from big_vision_like import optim
from big_vision_like.data import benchmarks
from big_vision_like.data.sources import fewshot
from big_vision_like.data.transforms import image
from big_vision_like.errors import UserError
from big_vision_like.evals import classification
from big_vision_like.models import bit
from big_vision_like.ops.augmentation import Augment
from big_vision_like.run import init_from
from big_vision_like.spec import spec
from big_vision_like.tasks import classification as tasks

ARGUMENTS = (
  'cifar10,R50x1',
  'pets,R50x1,s,5-shot',
  'cifar100,R101x3,tune',
  'imagenet,R50x1,code',
  'flowers,R152x4,l',
)
NAMES = {
  'imagenet': 'ImageNet',
  'cifar10': 'CIFAR-10',
  'cifar100': 'CIFAR-100',
  'pets': 'Oxford-IIIT Pets',
  'flowers': 'Oxford Flowers-102',
}
# R152x4 by what pre-trained it: tables 1 (BiT-L) and 2, mean and standard deviation.
R152X4 = {
  's': {
    'imagenet': (81.30, None),
    'cifar10': (97.51, None),
    'cifar100': (86.21, None),
    'pets': (93.97, None),
    'flowers': (89.89, None),
  },
  'm': {
    'imagenet': (85.39, None),
    'cifar10': (98.91, None),
    'cifar100': (92.17, None),
    'pets': (94.46, None),
    'flowers': (99.30, None),
  },
  'l': {
    'imagenet': (87.54, 0.02),
    'cifar10': (99.37, 0.06),
    'cifar100': (93.51, 0.08),
    'pets': (96.62, 0.23),
    'flowers': (99.63, 0.03),
  },
}
# BiT-M by the authors' code in JAX, medians. At its resolution, by examples of a class.
IMAGENET = {
  'R50x1': {1: 18.36, 5: 50.64, None: 80.68},
  'R152x2': {1: 24.5, 5: 64.5, None: 85.15},
  'R101x3': {1: 25.55, 5: 64.18},
}
CIFAR_R50X1 = {
  'cifar10': {1: 54.1, 5: 82.4},
  'cifar100': {1: 35.2, 5: 64.8},
}


def get_config(argument: str = ARGUMENTS[0]) -> mlc.ConfigDict:
  data, model, words = parse(argument)
  images = benchmarks.chosen(data, benchmarks.TRANSFER)
  part = 'fit' if 'tune' in words else 'train'
  weights = next((word for word in words if word in R152X4), 'm')
  shots = next((int(word[: -len('-shot')]) for word in words if '-shot' in word), None)
  examples = images.parts[part][1] if shots is None else shots * images.num_classes
  large = (512, 480) if 'code' in words or model == 'R152x4' else (448, 384)
  resized, cropped = image.bit_sizes(*images.size, large)
  *_, total_steps = optim.hyperrule_steps(examples)
  c = mlc.ConfigDict(dict(seed=0, total_steps=total_steps, log_every=50))
  c.checkpoint_every = 1000
  c.init_from = spec(init_from.InitFrom, weights=pretrained(model, weights))
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
  if shots is not None:
    c.train_data.source = spec(
      fewshot.PerClass,
      source=c.train_data.source,
      count=shots,
      classes=images.num_classes,
      seed=c.get_ref('seed'),
    )
  c.task = spec(
    tasks.Classification,
    model=spec(
      bit.BiT, num_classes=images.num_classes, **bit.variant(model), dtype='bfloat16'
    ),
    optimizer=spec(
      optim.momentum,
      rate=spec(optim.hyperrule_rate, examples=examples, peak_value=0.003),
      decay=0.9,
    ),
    augment=spec(Augment, mixup=optim.hyperrule_mixup(examples), partner='reversed'),
  )
  squashed = [spec(image.Resize, size=cropped)]
  part = 'val' if 'tune' in words else 'test'
  c.evals = {
    part: spec(classification.Accuracy, data=images.eval_input(part, squashed, 512))
  }
  if data == 'imagenet' and 'tune' not in words:
    c.evals.real = spec(
      classification.RealAccuracy, data=benchmarks.imagenet_real(squashed, 512)
    )
  if 'tune' not in words:
    c.reproduces = cells(data, model, weights, shots, 'code' in words)
  return c


def parse(argument: str) -> tuple[str, str, list[str]]:
  """DATA,MODEL and the other words."""
  data, _, rest = argument.partition(',')
  model, *words = rest.split(',')
  for word in words:
    if not re.fullmatch(r's|m|l|code|tune|[1-9]\d*-shot', word):
      raise UserError(
        f'no {word!r} in {argument!r}: after DATA,MODEL come s, m or l, N-shot, code'
        ' and tune'
      )
  for kind in (r's|m|l', r'\d+-shot'):
    if len(same := [word for word in words if re.fullmatch(kind, word)]) > 1:
      raise UserError(f'{argument!r} has both {" and ".join(same)}: take one')
  return data, model, words


def pretrained(model: str, weights: str) -> mlc.ConfigDict:
  """What reads the weights: a published file, or a run of jft.py."""
  if weights == 'l':
    return spec(init_from.from_run, workdir=f'runs/bit_l_{model}')
  path = f'weights/BiT-{weights.upper()}-{model}.npz'
  return spec(init_from.from_file, path=path)


def cells(
  data: str, model: str, weights: str, shots: int | None, code: bool
) -> list[dict]:
  """The cells of published tables that a run reproduces."""
  paper = dict(paper='1912.11370', spread=None, metric='test/top1')
  if model == 'R152x4' and shots is None:
    value, spread = R152X4[weights][data]
    cell = dict(row=NAMES[data], column=f'BiT-{weights.upper()}', value=value)
    found = [paper | cell | dict(table='1' if weights == 'l' else '2', spread=spread)]
    if weights == 'l':
      theirs = dict(paper='2010.11929', table='2', column='BiT-L (ResNet152x4)')
      found.append(found[0] | theirs)
      if data == 'imagenet':
        real = dict(row='ImageNet ReaL', value=90.54, spread=None, metric='real/top1')
        found.append(found[1] | real)
    return found
  if weights != 'm':
    return []
  if data == 'imagenet' and code and shots in IMAGENET.get(model, {}):
    column = 'all' if shots is None else f'{shots}-shot'
    value = IMAGENET[model][shots]
    return [paper | dict(table='ImageNet', row=model, column=column, value=value)]
  if model == 'R50x1' and shots in CIFAR_R50X1.get(data, {}):
    row = f'R50x1: {NAMES[data]}, {shots}-shot'
    value = CIFAR_R50X1[data][shots]
    return [paper | dict(table='few-shot', row=row, column='JAX', value=value)]
  return []
