"""ViT-L/16 and H/14 fine-tuned on ImageNet at 512 and 518 pixels, arXiv:2010.11929.

    python -m big_vision_like.train --config=configs/vit/transfer_hires.py:L/16 \
        --workdir=runs/transfer_hires_l16

The ImageNet rows of table 2. The recipe of transfer.py:imagenet with larger images; the
running average of the weights (Polyak, decay 0.9999) is evaluated. Expected top-1 of
L/16: 85.30 %, the mean of three runs. `python tools/paper_tables.py 2010.11929
--table=2` prints the others. The training time is unknown; `python -m
big_vision_like.plan` estimates it.

The argument is MODEL[,jft][,tune]. By default, weights are the published ones for
ImageNet-21k, stored as `weights/ViT-L_16.npz`; with `jft`, they come from a run of
jft.py in `runs/jft_l16`. `tune` trains on 99 % of the training set and evaluates on the
rest. The paper tried learning rates of 0.003, 0.01, 0.03 and 0.06:

    python tools/sweep.py configs/vit/transfer_hires.py:L/16 --seeds=0,1,2 \
        --over=task.optimizer.rate.peak_value=0.003,0.01,0.03,0.06 \
        --out=runs/sweeps/hires_l16
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

ARGUMENTS = ('L/16', 'L/16,tune', 'H/14,jft')
SIZES = {'L/16': 512, 'H/14': 518}


def get_config(argument: str = ARGUMENTS[0]) -> mlc.ConfigDict:
  arg = arguments(argument, model=SIZES, jft=False, tune=False)
  size = SIZES[arg.model]
  c = mlc.ConfigDict(dict(seed=0, total_steps=20_000, log_every=50))
  c.checkpoint_every = 1000
  name = arg.model.replace('/', '_')
  c.init_from = spec(
    init_from.InitFrom,
    weights=spec(
      init_from.from_run, workdir=f'runs/jft_{name.lower().replace("_", "")}'
    )
    if arg.jft
    else spec(init_from.from_file, path=f'weights/ViT-{name}.npz'),
    leave_out=['head/.*', 'pre_logits/.*'],
  )
  images = benchmarks.IMAGENET
  c.train_data = images.train_input(
    'fit' if arg.tune else 'train',
    [spec(image.InceptionCrop, size=size), spec(image.Flip)],
    batch_size=512,
    seed=c.get_ref('seed'),
    workers=16,
  )
  c.task = spec(
    tasks.Classification,
    model=spec(
      vit.ViT,
      num_classes=1000,
      **vit.variant(arg.model),
      dropout=0.1,
      scan=True,
      remat='dots',
      dtype='bfloat16',
    ),
    optimizer=spec(
      optim.momentum,
      rate=spec(
        optax.warmup_cosine_decay_schedule,
        init_value=0.0,
        peak_value=0.03,
        warmup_steps=500,
        decay_steps=c.get_ref('total_steps'),
      ),
      decay=0.9,
      dtype='bfloat16',
      clip_norm=1.0,
    ),
    ema=spec(optim.Ema, decay=0.9999, warmup=True),
  )
  squashed = [spec(image.Resize, size=size)]
  part = 'val' if arg.tune else 'test'
  c.evals = {
    part: spec(classification.Accuracy, data=images.eval_input(part, squashed, 512))
  }
  if not arg.tune:
    c.evals.real = spec(
      classification.RealAccuracy, data=benchmarks.imagenet_real(squashed, 512)
    )
  return c
