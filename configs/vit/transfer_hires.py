"""ViT-L/16 and H/14 fine-tuned on ImageNet at 512 and 518 pixels, arXiv:2010.11929.

    python -m big_vision_like.train --config=configs/vit/transfer_hires.py:L/16 \
        --workdir=runs/transfer_hires_l16

The ImageNet rows of table 2. As transfer.py:imagenet, with more pixels and with the
average of the weights (Polyak, 0.9999) evaluated. Top-1 and top-1 of ReaL, three runs:

    L/16        85.30 +- 0.02    88.62 +- 0.05    of ImageNet-21k, weights/ViT-L_16.npz
    L/16,jft    87.76 +- 0.03    90.54 +- 0.03    of a run of jft.py, runs/jft_l16
    H/14,jft    88.55 +- 0.04    90.72 +- 0.05    runs/jft_h14

The argument is MODEL[,jft][,tune]; `tune` trains on 99 % and evaluates the rest. The
rates tried are 0.003, 0.01, 0.03 and 0.06:

    python tools/sweep.py configs/vit/transfer_hires.py:L/16 --seeds=0,1,2 \
        --over=task.optimizer.rate.peak_value=0.003,0.01,0.03,0.06 \
        --out=runs/sweeps/hires_l16
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

ARGUMENTS = ('L/16', 'L/16,tune', 'H/14,jft')
SIZES = {'L/16': 512, 'H/14': 518}
# Column of table 2, then top-1 and ReaL, each with its standard deviation.
TABLE_2 = {
  ('H/14', 'jft'): ('Ours-JFT (ViT-H/14)', (88.55, 0.04), (90.72, 0.05)),
  ('L/16', 'jft'): ('Ours-JFT (ViT-L/16)', (87.76, 0.03), (90.54, 0.03)),
  ('L/16', 'i21k'): ('Ours-I21K (ViT-L/16)', (85.30, 0.02), (88.62, 0.05)),
}


def get_config(argument: str = ARGUMENTS[0]) -> mlc.ConfigDict:
  model, *words = argument.split(',')
  if model not in SIZES or not {*words} <= {'jft', 'tune'}:
    raise UserError(f'{argument!r} is not MODEL[,jft][,tune] with MODEL L/16 or H/14')
  size, tune = SIZES[model], 'tune' in words
  weights = 'jft' if 'jft' in words else 'i21k'
  c = mlc.ConfigDict(dict(seed=0, total_steps=20_000, log_every=50))
  c.checkpoint_every = 1000
  name = model.replace('/', '_')
  c.init_from = spec(
    init_from.InitFrom,
    weights=spec(init_from.from_file, path=f'weights/ViT-{name}.npz')
    if weights == 'i21k'
    else spec(init_from.from_run, workdir=f'runs/jft_{name.lower().replace("_", "")}'),
    leave_out=['head/.*', 'pre_logits/.*'],
  )
  images = benchmarks.IMAGENET
  c.train_data = images.train_input(
    'fit' if tune else 'train',
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
      **vit.variant(model),
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
  part = 'val' if tune else 'test'
  c.evals = {
    part: spec(classification.Accuracy, data=images.eval_input(part, squashed, 512))
  }
  if not tune:
    c.evals.real = spec(
      classification.RealAccuracy, data=benchmarks.imagenet_real(squashed, 512)
    )
  if (model, weights) in TABLE_2 and not tune:
    column, top1, real = TABLE_2[model, weights]
    c.reproduces = [
      dict(
        paper='2010.11929',
        table='2',
        row=row,
        column=column,
        value=value,
        spread=spread,
        metric=metric,
      )
      for row, (value, spread), metric in (
        ('ImageNet', top1, 'test/top1'),
        ('ImageNet ReaL', real, 'real/top1'),
      )
    ]
  return c
