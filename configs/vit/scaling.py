"""ViT-g and ViT-G on three billion images, as in arXiv:2106.04560 section 3.

    python -m big_vision_like.train --config=configs/vit/scaling.py:G/14 \
        --workdir=runs/jft3b_G14

A million steps of batch 16,384: Adafactor, attention pooling, a weight decay of the
head a hundred times as strong as elsewhere, and a reciprocal square root schedule with
a cooldown. This is the released configuration (google-research/big_vision,
scaling_laws/train_vit_g.py). No accuracy is listed here. On a TPU v4:8x8x8, plans
expect 63,430 chip-hours for g/14 and 105,706 for G/14 (docs/scaling.md).

JFT-3B is not public: prepare your own data under the name `jft3b`, or pass another name
as `--config.train_data.source.name`. They need a split `train`, of which the first
51,200 examples are held out. Set `num_classes` and `examples` to the numbers of your
data.
"""

import ml_collections as mlc

from big_vision_like import optim
from big_vision_like.data.input import pipeline
from big_vision_like.data.sources import tfds
from big_vision_like.data.transforms import image, labels
from big_vision_like.evals import classification
from big_vision_like.models import vit
from big_vision_like.spec import spec
from big_vision_like.tasks import classification as tasks

HELD_OUT = 51_200
ARGUMENTS = ('g/14', 'G/14')


def get_config(variant: str = 'g/14') -> mlc.ConfigDict:
  c = mlc.ConfigDict(dict(seed=0, log_every=50, checkpoint_every=1000))
  c.keep_every = 50_000
  c.total_steps = 1_000_000
  c.train_data = spec(
    pipeline.TrainInput,
    source=spec(
      tfds.Tfds, name='jft3b', split=f'train[{HELD_OUT}:]', examples=3_000_000_000
    ),
    transforms=[
      spec(image.DecodeCrop, crop=spec(image.InceptionCrop, size=224)),
      spec(image.Flip),
      spec(labels.Keep),
    ],
    batch_size=16_384,
    seed=c.get_ref('seed'),
    workers=32,
  )
  c.task = spec(
    tasks.Classification,
    model=spec(
      vit.ViT,
      num_classes=29_593,
      **vit.variant(variant),
      pool='map',
      head_bias=-10.0,
      scan=True,
      remat='dots',
      dtype='bfloat16',
    ),
    loss_type='sigmoid',
    optimizer=spec(
      optim.adafactor,
      rate=spec(
        optim.rsqrt,
        peak_value=8e-4,
        warmup_steps=10_000,
        timescale=10_000,
        total_steps=c.get_ref('total_steps'),
        cooldown_steps=50_000,
      ),
      weight_decay=0.03,
      decay_rules=[('head/kernel', 100.0), ('.*kernel', 1.0)],
      clip_norm=1.0,
    ),
  )
  c.evals = dict(
    val=spec(
      classification.Accuracy,
      data=spec(
        pipeline.EvalInput,
        source=spec(
          tfds.Tfds, name='jft3b', split=f'train[:{HELD_OUT}]', examples=HELD_OUT
        ),
        transforms=[
          spec(image.Decode),
          spec(image.ResizeSmall, size=256),
          spec(image.CentralCrop, size=224),
          spec(labels.Keep),
        ],
        batch_size=4096,
        workers=32,
      ),
      every=5000,
    )
  )
  return c
