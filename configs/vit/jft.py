"""ViT pre-trained on 300M labelled images, as on JFT in arXiv:2010.11929 (table 3).

    python -m big_vision_like.train --config=configs/vit/jft.py:H/14 \
        --workdir=runs/jft_h14

Batch 4,096. Adam with weight decay 0.1 (multiplied by the learning rate), linear
schedule to zero, sigmoid loss summed over classes, no dropout, no gradient clipping.
The authors used 2.5k TPUv3-core-days for H/14 and 0.68k for L/16.

To fine-tune the result, use transfer.py, transfer_hires.py (expected top-1 of H/14 on
ImageNet: 88.55 %) or vtab.py.

`L/16,7` and `R50+L/16,14` train for other numbers of epochs. `R50x1`, `R50x2`,
`R101x1`, `R152x1` and `R152x2` are the ResNets of table 6, with group norm and weight
standardization (BiT), trained in the same way. The paper's R200x3 is missing, since its
learning rate is not published.

JFT is not public: prepare your own data under the name `jft`, or pass another name as
`--config.train_data.source.name`. They need a split `train`, of which the first 51,200
examples are held out. Set `num_classes` and `examples` to the numbers of your data.
"""

import ml_collections as mlc

from big_vision_like import optim
from big_vision_like.data import benchmarks
from big_vision_like.data.transforms import image
from big_vision_like.evals import classification
from big_vision_like.models import bit, vit
from big_vision_like.spec import arguments, epochs, spec
from big_vision_like.tasks import classification as tasks

# Epochs and learning rate, from table 3.
RECIPES = {
  'B/32': (7, 8e-4),
  'B/16': (7, 8e-4),
  'L/32': (7, 6e-4),
  'L/16': (14, 4e-4),
  'H/14': (14, 3e-4),
  'R50+B/32': (7, 8e-4),
  'R50+B/16': (7, 8e-4),
  'R50+L/32': (7, 2e-4),
  'R50+L/16': (7, 4e-4),
  'R50x1': (7, 1e-3),
  'R50x2': (7, 1e-3),
  'R101x1': (7, 8e-4),
  'R152x1': (7, 6e-4),
  'R152x2': (7, 6e-4),
}
EPOCHS = ('published', '7', '14')
ARGUMENTS = ('H/14', 'L/16', 'L/16,7', 'R50+B/16', 'R50+L/16,14', 'R152x2,14')


def get_config(argument: str = ARGUMENTS[0]) -> mlc.ConfigDict:
  arg = arguments(argument, model=RECIPES, epochs=EPOCHS)
  num_epochs, rate = RECIPES[arg.model]
  if arg.epochs != 'published':
    num_epochs = int(arg.epochs)
  c = mlc.ConfigDict(dict(seed=0, log_every=50, checkpoint_every=1000))
  c.keep_every = 50_000
  c.total_steps = epochs(num_epochs)
  c.train_data = benchmarks.JFT.train_input(
    'train',
    [spec(image.InceptionCrop, size=224), spec(image.Flip)],
    batch_size=4096,
    seed=c.get_ref('seed'),
    workers=32,
  )
  c.task = spec(
    tasks.Classification,
    model=network(arg.model),
    loss_type='sigmoid',
    optimizer=spec(
      optim.adamw,
      rate=spec(
        optim.linear,
        peak_value=rate,
        warmup_steps=10_000,
        total_steps=c.get_ref('total_steps'),
      ),
      weight_decay=0.1,
    ),
  )
  c.evals = dict(
    val=spec(
      classification.Accuracy,
      data=benchmarks.JFT.eval_input(
        'val',
        [spec(image.ResizeSmall, size=256), spec(image.CentralCrop, size=224)],
        batch_size=4096,
        workers=32,
      ),
      every=5000,
    )
  )
  return c


def network(name: str) -> mlc.ConfigDict:
  """Returns a ViT, or a ResNet of BiT for names such as 'R152x2'."""
  shared = dict(
    num_classes=benchmarks.JFT.num_classes, head_bias=-10.0, dtype='bfloat16'
  )
  if 'x' in name:
    return spec(bit.BiT, **bit.variant(name), **shared)
  sizes = vit.variant(name)
  return spec(
    vit.ViT, **sizes, rep_size=sizes['width'], scan=True, remat='dots', **shared
  )
