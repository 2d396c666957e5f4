"""ViT pre-trained on 300M labelled images, as on JFT in arXiv:2010.11929 (table 3).

    python -m big_vision_like.train --config=configs/vit/jft.py:H/14 \
        --workdir=runs/jft_h14

Batch 4,096. Adam with weight decay 0.1 (multiplied by the learning rate), linear
schedule to zero, sigmoid loss summed over classes, no dropout, no gradient clipping.
The authors used 2.5k TPUv3-core-days for H/14 and 0.68k for L/16.

To fine-tune the result, use transfer.py, transfer_hires.py (expected top-1 of H/14 on
ImageNet: 88.55 %) or vtab.py.

JFT is not public: prepare your own data under the name `jft`, or pass another name as
`--config.train_data.source.name`. They need a split `train`, of which the first 51,200
examples are held out. Set `num_classes` and `examples` to the numbers of your data.
"""

import ml_collections as mlc

from big_vision_like import optim
from big_vision_like.data import benchmarks
from big_vision_like.data.transforms import image
from big_vision_like.evals import classification
from big_vision_like.models import vit
from big_vision_like.spec import arguments, epochs, spec
from big_vision_like.tasks import classification as tasks

# Epochs and learning rate, from table 3.
RECIPES = {
  'B/32': (7, 8e-4),
  'B/16': (7, 8e-4),
  'L/32': (7, 6e-4),
  'L/16': (14, 4e-4),
  'H/14': (14, 3e-4),
  'R50+B/16': (7, 8e-4),
  'R50+L/32': (7, 2e-4),
}
ARGUMENTS = ('H/14', 'L/16', 'R50+B/16')


def get_config(argument: str = ARGUMENTS[0]) -> mlc.ConfigDict:
  model = arguments(argument, model=RECIPES).model
  num_epochs, rate = RECIPES[model]
  sizes = vit.variant(model)
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
    model=spec(
      vit.ViT,
      num_classes=benchmarks.JFT.num_classes,
      **sizes,
      rep_size=sizes['width'],
      head_bias=-10.0,
      scan=True,
      remat='dots',
      dtype='bfloat16',
    ),
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
