"""ViT pre-trained on ImageNet-21k, as in arXiv:2010.11929 (table 3).

    python -m big_vision_like.train --config=configs/vit/i21k.py:L/16 \
        --workdir=runs/i21k_l16

90 epochs of batch 4,096. Adam with weight decay 0.03 (multiplied by the learning rate),
learning rate from 1e-3 linearly to 1e-5, sigmoid loss summed over classes, head bias
-10, dropout 0.1, no gradient clipping (table 3 clips on ImageNet-1k only). Hybrids such
as R50+B/16 use the same settings.

Expected validation precision@1 of L/16 at the end: 49.90 %, reported by the authors
(google-research/vision_transformer issue 62), after 0.23k TPUv3-core-days. `python
tools/paper_tables.py 2010.11929 --table=upstream` prints the other models.

You prepare the data yourself, under the name `imagenet21k` with a split `full`. Its
first 51,200 examples are held out, as in google-research/big_vision.
"""

import ml_collections as mlc

from big_vision_like import optim
from big_vision_like.data import benchmarks
from big_vision_like.data.transforms import image
from big_vision_like.evals import classification
from big_vision_like.models import vit
from big_vision_like.spec import epochs, spec
from big_vision_like.tasks import classification as tasks

ARGUMENTS = ('B/16', 'L/16', 'R50+B/16')


def get_config(variant: str = 'B/16') -> mlc.ConfigDict:
  sizes = vit.variant(variant)
  c = mlc.ConfigDict(dict(seed=0, log_every=50, checkpoint_every=1000))
  c.keep_every = 50_000
  c.total_steps = epochs(90)
  c.train_data = benchmarks.IMAGENET21K.train_input(
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
      num_classes=benchmarks.IMAGENET21K.num_classes,
      **sizes,
      rep_size=sizes['width'],
      head_bias=-10.0,
      dropout=0.1,
      scan=True,
      remat='dots',
      dtype='bfloat16',
    ),
    loss_type='sigmoid',
    optimizer=spec(
      optim.adamw,
      rate=spec(
        optim.linear,
        peak_value=1e-3,
        warmup_steps=10_000,
        total_steps=c.get_ref('total_steps'),
        end_value=1e-5,
      ),
      weight_decay=0.03,
    ),
  )
  c.evals = dict(
    val=spec(
      classification.Accuracy,
      data=benchmarks.IMAGENET21K.eval_input(
        'val',
        [spec(image.ResizeSmall, size=256), spec(image.CentralCrop, size=224)],
        batch_size=4096,
        workers=32,
      ),
      every=5000,
    )
  )
  return c
