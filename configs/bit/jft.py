"""BiT-L: ResNet-152x4 pre-trained on 300M labelled images, arXiv:1912.11370.

    python -m big_vision_like.train --config=configs/bit/jft.py \
        --workdir=runs/bit_l_R152x4

The recipe of BiT-M (i21k.py) for 40 epochs; the learning rate is multiplied by 0.1
after 10, 23, 30 and 37 epochs. The authors used 9.9k TPUv3-core-days.

Expected top-1 on ImageNet after transfer with the BiT-HyperRule
(hyperrule.py:imagenet,R152x4,l): 87.54 %.

JFT is not public: prepare your own data under the name `jft`, as described in
configs/vit/jft.py.
"""

import ml_collections as mlc

from big_vision_like import optim
from big_vision_like.data import benchmarks
from big_vision_like.data.transforms import image
from big_vision_like.evals import classification
from big_vision_like.models import bit
from big_vision_like.spec import epochs, spec
from big_vision_like.tasks import classification as tasks


def get_config(variant: str = 'R152x4') -> mlc.ConfigDict:
  images = benchmarks.JFT
  c = mlc.ConfigDict(dict(seed=0, log_every=50, checkpoint_every=1000))
  c.keep_every = 50_000
  c.total_steps = epochs(40)
  c.train_data = images.train_input(
    'train',
    [spec(image.InceptionCrop, size=224), spec(image.Flip)],
    batch_size=4096,
    seed=c.get_ref('seed'),
    workers=32,
  )
  c.task = spec(
    tasks.Classification,
    model=spec(
      bit.BiT,
      num_classes=images.num_classes,
      **bit.variant(variant),
      head_bias=-10.0,
      dtype='bfloat16',
    ),
    loss_type='sigmoid',
    optimizer=spec(
      optim.momentum,
      rate=spec(
        optim.staircase,
        peak_value=0.03 / 256 * 4096,
        warmup_steps=5000,
        boundaries=[epochs(10), epochs(23), epochs(30), epochs(37)],
      ),
      decay=0.9,
      weight_decay=1e-3,
    ),
  )
  c.evals = dict(
    val=spec(
      classification.Accuracy,
      data=images.eval_input(
        'val',
        [spec(image.ResizeSmall, size=256), spec(image.CentralCrop, size=224)],
        batch_size=4096,
        workers=32,
      ),
      every=5000,
    )
  )
  return c
