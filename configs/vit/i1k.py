"""ViT trained on ImageNet-1k from scratch, as in arXiv:2010.11929 (table 3).

    python -m big_vision_like.train --config=configs/vit/i1k.py:B/16 \
        --workdir=runs/i1k_b16

300 epochs of batch 4,096 at 224 pixels. Adam with weight decay 0.3 (multiplied by the
learning rate), learning rate 3e-3 with a cosine schedule to zero, dropout 0.1, sigmoid
loss summed over classes, head bias -6.9.

Expected top-1 of B/16 at the end: 74.79 %, reported by the authors
(google-research/vision_transformer issue 62). `python tools/paper_tables.py 2010.11929
--table=upstream` prints the other models, and `--table=5` the accuracy after
fine-tuning at 384 pixels with transfer.py:imagenet,B/16,i1k. The training time is
unknown; `python -m big_vision_like.plan` estimates it.
"""

import ml_collections as mlc
import optax

from big_vision_like import optim
from big_vision_like.data import benchmarks
from big_vision_like.data.transforms import image
from big_vision_like.evals import classification
from big_vision_like.models import vit
from big_vision_like.spec import epochs, spec
from big_vision_like.tasks import classification as tasks

ARGUMENTS = ('B/16', 'L/32')


def get_config(variant: str = 'B/16') -> mlc.ConfigDict:
  sizes = vit.variant(variant)
  c = mlc.ConfigDict(dict(seed=0, log_every=50, checkpoint_every=1000))
  c.total_steps = epochs(300)
  c.train_data = benchmarks.IMAGENET.train_input(
    'fit',
    [spec(image.InceptionCrop, size=224), spec(image.Flip)],
    batch_size=4096,
    seed=c.get_ref('seed'),
    workers=32,
  )
  c.task = spec(
    tasks.Classification,
    model=spec(
      vit.ViT,
      num_classes=1000,
      **sizes,
      rep_size=sizes['width'],
      head_bias=-6.9,
      dropout=0.1,
      scan=True,
      remat='dots',
      dtype='bfloat16',
    ),
    loss_type='sigmoid',
    optimizer=spec(
      optim.adamw,
      rate=spec(
        optax.warmup_cosine_decay_schedule,
        init_value=0.0,
        peak_value=3e-3,
        warmup_steps=10_000,
        decay_steps=c.get_ref('total_steps'),
      ),
      weight_decay=0.3,
      clip_norm=1.0,
    ),
  )
  c.evals = {
    part: spec(
      classification.Accuracy,
      data=benchmarks.IMAGENET.eval_input(
        part,
        [spec(image.ResizeSmall, size=256), spec(image.CentralCrop, size=224)],
        batch_size=4096,
        workers=32,
      ),
      every=2500,
    )
    for part in ('val', 'test')
  }
  return c
