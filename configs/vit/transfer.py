"""ViTs fine-tuned on ImageNet, CIFAR, Pets and Flowers, as in arXiv:2010.11929.

    python -m big_vision_like.train --config=configs/vit/transfer.py:cifar10,B/16 \
        --workdir=runs/transfer_cifar10_b16

The argument is DATA,MODEL and then, in any order, what pre-trained the weights and
`tune`. DATA is imagenet, cifar10, cifar100, pets or flowers. Weights are of

- i21k (the default): ImageNet-21k, published under gs://vit_models/imagenet21k, here
  `weights/ViT-B_16.npz` and so on;
- augreg: the same of arXiv:2106.10270, the recommended files under
  gs://vit_models/augreg, here `weights/augreg/B_16.npz` and so on, with the crops of
  google-research/big_vision;
- i1k, jft: a run of i1k.py or jft.py, here `runs/i1k_b16` and so on.

Any other goes by `--config.init_from...`. Images have 384 pixels; with patches of 14,
which do not divide them, 378. 500 steps on Pets and Flowers, 10,000 on CIFAR, 20,000 on
ImageNet, of 512 images; momentum 0.9, clipping, no decay, cosine. On 8 V100 the
authors' code took 7 hours with B/16 and 25 with L/16 on CIFAR, 18 and 59 on ImageNet;
17 minutes with B/16 for the 98.59 of CIFAR-10 after `--config.total_steps=500
--config.task.optimizer.rate.warmup_steps=50`.

`tune` trains on what the paper keeps for it (98 % of CIFAR, 99 % of ImageNet, 90 % of
Pets and Flowers) and evaluates the rest. Its grid of rates (RATES), then three seeds:

    python tools/sweep.py configs/vit/transfer.py:cifar10,B/16 --seeds=0,1,2 \
        --over=task.optimizer.rate.peak_value=0.001,0.003,0.01,0.03 \
        --out=runs/sweeps/cifar10_b16

Top-1 (table 2, L/16 from ImageNet-21k): CIFAR-10 99.15, CIFAR-100 93.25, Pets 94.67,
Flowers 99.61. TABLE_5 has all models; ImageNet in table 2 is transfer_hires.py.
"""

import ml_collections as mlc
import optax

from big_vision_like import optim
from big_vision_like.data import benchmarks
from big_vision_like.data.transforms import image
from big_vision_like.errors import UserError
from big_vision_like.evals import classification
from big_vision_like.models import vit
from big_vision_like.run import init_from
from big_vision_like.spec import spec
from big_vision_like.tasks import classification as tasks

ARGUMENTS = (
  'cifar10,B/16',
  'cifar10,B/16,tune',
  'imagenet,L/16',
  'imagenet,B/32,augreg,tune',
  'cifar100,B/32,augreg',
  'cifar100,R50+B/16',
  'pets,H/14,jft',
  'flowers,L/32,i1k',
)
# The rates tried (table 4).
RATES = {
  'imagenet': (0.003, 0.01, 0.03, 0.06),
  'cifar10': (0.001, 0.003, 0.01, 0.03),
  'cifar100': (0.001, 0.003, 0.01, 0.03),
  'pets': (0.001, 0.003, 0.01, 0.03),
  'flowers': (0.001, 0.003, 0.01, 0.03),
}
# Steps, those of the warm-up, a rate to begin with, name in the tables.
DATA = {
  'imagenet': (20_000, 500, 0.03, 'ImageNet'),
  'cifar10': (10_000, 500, 0.03, 'CIFAR-10'),
  'cifar100': (10_000, 500, 0.03, 'CIFAR-100'),
  'pets': (500, 100, 0.003, 'Oxford-IIIT Pets'),
  'flowers': (500, 100, 0.003, 'Oxford Flowers-102'),
}
# The rates and crops of big_vision for AugReg's B/32.
AUGREG = {
  'imagenet': (0.03, 'inception'),
  'cifar10': (0.003, 'small'),
  'cifar100': (0.01, 'small'),
  'pets': (0.003, 'inception'),
  'flowers': (0.003, 'inception'),
}
# As in google-research/vision_transformer; none in AugReg.
DROPOUT = {'L/16': 0.1, 'H/14': 0.1, 'R50+B/16': 0.1, 'R50+L/32': 0.1}

ROWS = (
  'ImageNet',
  'ImageNet ReaL',
  'CIFAR-10',
  'CIFAR-100',
  'Oxford Flowers-102',
  'Oxford-IIIT Pets',
)
TABLE_5 = {
  'i1k': {
    'B/16': (77.91, 83.57, 98.13, 87.13, 89.49, 93.81),
    'B/32': (73.38, 79.56, 97.77, 86.31, 85.43, 92.04),
    'L/16': (76.53, 82.19, 97.86, 86.35, 89.66, 93.64),
    'L/32': (71.16, 77.83, 97.94, 87.07, 86.36, 91.35),
  },
  'i21k': {
    'B/16': (83.97, 88.35, 98.95, 91.67, 99.38, 94.43),
    'B/32': (81.28, 86.63, 98.79, 91.97, 99.11, 93.02),
    'L/16': (85.15, 88.40, 99.16, 93.44, 99.61, 94.73),
    'L/32': (80.99, 85.65, 99.13, 93.04, 99.19, 93.09),
    'H/14': (85.13, 88.70, 99.27, 93.82, 99.51, 94.82),
  },
  'jft': {
    'B/16': (84.15,),
    'B/32': (80.73,),
    'L/16': (87.12,),
    'L/32': (84.37,),
    'H/14': (88.04,),
  },
}
# All but ImageNet, which was tuned at a higher resolution: mean and standard deviation.
TABLE_2 = {
  ('H/14', 'jft'): (
    'Ours-JFT (ViT-H/14)',
    {
      'CIFAR-10': (99.50, 0.06),
      'CIFAR-100': (94.55, 0.04),
      'Oxford-IIIT Pets': (97.56, 0.03),
      'Oxford Flowers-102': (99.68, 0.02),
    },
  ),
  ('L/16', 'jft'): (
    'Ours-JFT (ViT-L/16)',
    {
      'CIFAR-10': (99.42, 0.03),
      'CIFAR-100': (93.90, 0.05),
      'Oxford-IIIT Pets': (97.32, 0.11),
      'Oxford Flowers-102': (99.74, 0.00),
    },
  ),
  ('L/16', 'i21k'): (
    'Ours-I21K (ViT-L/16)',
    {
      'CIFAR-10': (99.15, 0.03),
      'CIFAR-100': (93.25, 0.05),
      'Oxford-IIIT Pets': (94.67, 0.15),
      'Oxford Flowers-102': (99.61, 0.02),
    },
  ),
}
# AugReg's recommended checkpoints on ImageNet at 384 pixels, and B/32 on all.
AUGREG_IMAGENET = {
  'L/16': 85.59,
  'B/16': 85.49,
  'S/16': 83.73,
  'R50+L/32': 85.99,
  'R26+S/32': 83.85,
  'Ti/16': 78.22,
  'B/32': 83.59,
  'S/32': 79.58,
  'R+Ti/16': 75.40,
}
AUGREG_B32 = {
  'ImageNet': 83.27,
  'CIFAR-10': 98.55,
  'CIFAR-100': 91.35,
  'Oxford-IIIT Pets': 93.78,
  'Oxford Flowers-102': 99.43,
}


def get_config(argument: str = ARGUMENTS[0]) -> mlc.ConfigDict:
  data, model, weights, tune = parse(argument)
  images = benchmarks.chosen(data, benchmarks.TRANSFER)
  steps, warmup, rate, _ = DATA[data]
  size = 378 if model.endswith('/14') else 384
  crop, dropout = 'squash', DROPOUT.get(model, 0.0)
  if weights == 'augreg':
    rate, crop = AUGREG[data]
    dropout = 0.0
  c = mlc.ConfigDict(dict(seed=0, total_steps=steps, log_every=50))
  c.checkpoint_every = 1000
  c.init_from = spec(
    init_from.InitFrom,
    weights=pretrained(model, weights),
    leave_out=['head/.*', 'pre_logits/.*'],
  )
  c.train_data = images.train_input(
    'fit' if tune else 'train',
    train_transforms(crop, size),
    batch_size=512,
    seed=c.get_ref('seed'),
  )
  c.task = spec(
    tasks.Classification,
    model=spec(
      vit.ViT,
      num_classes=images.num_classes,
      **vit.variant(model),
      dropout=dropout,
      scan=True,
      remat='dots',
      dtype='bfloat16',
    ),
    optimizer=spec(
      optim.momentum,
      rate=spec(
        optax.warmup_cosine_decay_schedule,
        init_value=0.0,
        peak_value=rate,
        warmup_steps=warmup,
        decay_steps=c.get_ref('total_steps'),
      ),
      decay=0.9,
      dtype='bfloat16',
      clip_norm=1.0,
    ),
  )
  part = 'val' if tune else 'test'
  seen = eval_transforms(crop, size)
  c.evals = {
    part: spec(classification.Accuracy, data=images.eval_input(part, seen, 512))
  }
  if data == 'imagenet' and not tune:
    c.evals.real = spec(
      classification.RealAccuracy, data=benchmarks.imagenet_real(seen, 512)
    )
  c.reproduces = [] if tune else cells(data, model, weights)
  return c


def parse(argument: str) -> tuple[str, str, str, bool]:
  """DATA,MODEL[,WEIGHTS][,tune]."""
  data, _, rest = argument.partition(',')
  model, *words = rest.split(',')
  for word in words:
    if word not in ('i21k', 'augreg', 'i1k', 'jft', 'tune'):
      raise UserError(
        f'no {word!r} in {argument!r}: after DATA,MODEL come i21k, augreg, i1k or jft,'
        ' and tune'
      )
  weights = [word for word in words if word != 'tune']
  if len(weights) > 1:
    raise UserError(f'{argument!r} has several weights: {", ".join(weights)}')
  return data, model, (weights or ['i21k'])[0], 'tune' in words


def pretrained(model: str, weights: str) -> mlc.ConfigDict:
  """What reads the weights: a published file, or a run of ours."""
  resnet, plus, body = model.replace('/', '_').rpartition('+')
  if weights == 'i21k':
    path = f'weights/{resnet}{plus}ViT-{body}.npz'
    return spec(init_from.from_file, path=path)
  if weights == 'augreg':
    path = f'weights/augreg/{model.replace("/", "_").replace("+", "_")}.npz'
    return spec(init_from.from_file, path=path)
  name = model.lower().replace('/', '').replace('+', '_')
  return spec(init_from.from_run, workdir=f'runs/{weights}_{name}')


def train_transforms(crop: str, size: int) -> list[mlc.ConfigDict]:
  """A random part of the image; `small` keeps the aspect ratio and most of it."""
  if crop == 'small':
    return [
      spec(image.ResizeSmall, size=448),
      spec(image.RandomCrop, size=size),
      spec(image.Flip),
    ]
  return [spec(image.InceptionCrop, size=size), spec(image.Flip)]


def eval_transforms(crop: str, size: int) -> list[mlc.ConfigDict]:
  """`squash`: all of the image, whatever its aspect ratio; else the middle."""
  if crop == 'squash':
    return [spec(image.Resize, size=size)]
  return [spec(image.ResizeSmall, size=448), spec(image.CentralCrop, size=size)]


def cells(data: str, model: str, weights: str) -> list[dict]:
  """The cells of published tables that a run reproduces."""
  name = DATA[data][3]
  found = []
  vit_paper = dict(paper='2010.11929', spread=None, metric='test/top1')
  pretraining = dict(i1k='ImageNet', i21k='ImageNet-21k', jft='JFT-300M').get(weights)
  row = dict(zip(ROWS, TABLE_5.get(weights, {}).get(model, ()), strict=False))
  for title, metric in ((name, 'test/top1'), ('ImageNet ReaL', 'real/top1')):
    if title in row and (title == name or data == 'imagenet'):
      found.append(
        vit_paper
        | dict(table='5', row=f'{pretraining}: {title}', column=f'ViT-{model}')
        | dict(value=row[title], metric=metric)
      )
  column, rows = TABLE_2.get((model, weights), ('', {}))
  if name in rows:
    value, spread = rows[name]
    found.append(
      vit_paper | dict(table='2', row=name, column=column, value=value, spread=spread)
    )
  augreg = dict(paper='2106.10270', spread=None, metric='test/top1')
  if weights == 'augreg' and data == 'imagenet' and model in AUGREG_IMAGENET:
    value = AUGREG_IMAGENET[model]
    found.append(
      augreg | dict(table='README', row=f'ViT-{model}', column=name, value=value)
    )
  if weights == 'augreg' and model == 'B/32':
    value = AUGREG_B32[name]
    found.append(
      augreg | dict(table='transfer', row=name, column='ViT-B/32', value=value)
    )
  return found
