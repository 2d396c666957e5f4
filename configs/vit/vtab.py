"""ViTs on VTAB-1k (arXiv:1910.04867), 19 tasks, as in arXiv:2010.11929 (table 9).

    python -m big_vision_like.train --config=configs/vit/vtab.py:dtd,L/16 \
        --workdir=runs/vtab_dtd_l16

The argument is TASK,MODEL[,jft][,tune]. TASK is a key of benchmarks.VTAB: caltech101,
cifar100, dtd, flowers102, pets, sun397, svhn (natural); patch_camelyon, eurosat,
resisc45, diabetic_retinopathy (specialised); clevr_count, clevr_dist, dmlab,
kitti_dist, dsprites_loc, dsprites_ori, smallnorb_azimuth, smallnorb_elevation
(structured). By default, weights are the published ones for ImageNet-21k, stored as
`weights/ViT-L_16.npz` and so on; with `jft`, they come from a run of jft.py in
`runs/jft_l16`.

2,500 steps of batch 512 on 1,000 examples, at 384 pixels (378 with patches of 14, which
do not divide 384), learning rate 0.01. Accuracy is measured on the whole test set.
`tune` trains on 800 of the examples and evaluates on the other 200. Random crops and
flips are left out where they may change the label. For the means by group:

    python tools/sweep.py --seeds=0,1,2 --out=runs/sweeps/vtab_l16 \
        configs/vit/vtab.py:{caltech101,cifar100,...,smallnorb_elevation},L/16

with all 19 names between the braces. Expected mean over all tasks: 72.72 % for L/16.
`python tools/paper_tables.py 2010.11929 --table=9` prints the number of each task. The
training time is unknown; `python -m big_vision_like.plan` estimates it.
"""

import ml_collections as mlc
import optax

from big_vision_like import optim
from big_vision_like.data import benchmarks
from big_vision_like.data.transforms import image
from big_vision_like.evals import classification
from big_vision_like.models import vit
from big_vision_like.run import init_from
from big_vision_like.spec import arguments, spec
from big_vision_like.tasks import classification as tasks

ARGUMENTS = (
  'caltech101,L/16',
  'dtd,B/16,tune',
  'clevr_count,H/14,jft',
  'clevr_dist,L/16',
  'kitti_dist,L/16,tune',
  'dsprites_ori,B/32',
  'smallnorb_azimuth,L/16',
)
# As in google-research/vision_transformer.
DROPOUT = {'L/16': 0.1, 'H/14': 0.1, 'R50+B/16': 0.1, 'R50+L/32': 0.1}


def get_config(argument: str = ARGUMENTS[0]) -> mlc.ConfigDict:
  arg = arguments(argument, task=benchmarks.VTAB, model=str, jft=False, tune=False)
  task = benchmarks.VTAB[arg.task]
  c = mlc.ConfigDict(dict(seed=0, total_steps=2500, log_every=50))
  c.init_from = spec(
    init_from.InitFrom,
    weights=pretrained(arg.model, arg.jft),
    leave_out=['head/.*', 'pre_logits/.*'],
  )
  size = 378 if arg.model.endswith('/14') else 384
  squashed = [spec(image.Resize, size=size)]
  seen = squashed
  if task.crop:
    seen = [spec(image.Resize, size=448), spec(image.RandomCrop, size=size)]
  c.train_data = task.train_input(
    'fit' if arg.tune else 'train',
    [*seen, spec(image.Flip)] if task.flip else seen,
    batch_size=512,
    seed=c.get_ref('seed'),
  )
  c.task = spec(
    tasks.Classification,
    model=spec(
      vit.ViT,
      num_classes=task.num_classes,
      **vit.variant(arg.model),
      dropout=DROPOUT.get(arg.model, 0.0),
      scan=True,
      remat='dots',
      dtype='bfloat16',
    ),
    optimizer=spec(
      optim.momentum,
      rate=spec(
        optax.warmup_cosine_decay_schedule,
        init_value=0.0,
        peak_value=0.01,
        warmup_steps=500,
        decay_steps=c.get_ref('total_steps'),
      ),
      decay=0.9,
      dtype='bfloat16',
      clip_norm=1.0,
    ),
  )
  part = 'val' if arg.tune else 'test'
  data = task.eval_input(part, squashed, batch_size=512)
  c.evals = {part: spec(classification.Accuracy, data=data)}
  return c


def pretrained(model: str, jft: bool) -> mlc.ConfigDict:
  """Returns what reads the weights: a published file, or a run of this repository."""
  if jft:
    name = model.lower().replace('/', '').replace('+', '_')
    return spec(init_from.from_run, workdir=f'runs/jft_{name}')
  resnet, plus, body = model.replace('/', '_').rpartition('+')
  return spec(init_from.from_file, path=f'weights/{resnet}{plus}ViT-{body}.npz')
