"""A small BiT on 8x8 handwritten digits (1,347 training images).

    python -m big_vision_like.train --config=configs/bit/digits.py \
        --workdir=runs/bit_digits

Two stages of one unit, 121,130 parameters, 900 steps of SGD at a learning rate of 0.1.
Expected top-1: about 99 % of the test scans. Takes 1 minute on two CPU cores.
"""

import ml_collections as mlc
import optax

from big_vision_like import optim
from big_vision_like.data.input import pipeline
from big_vision_like.data.sources import tfds
from big_vision_like.data.transforms import image
from big_vision_like.evals import classification
from big_vision_like.models import bit
from big_vision_like.spec import epochs, spec
from big_vision_like.tasks import classification as tasks


def get_config() -> mlc.ConfigDict:
  c = mlc.ConfigDict(dict(seed=0, total_steps=900, log_every=50, keep_last=1))
  c.train_data = spec(
    pipeline.TrainInput,
    source=spec(tfds.Tfds, name='digits', split='train'),
    transforms=[
      spec(image.Decode, channels=3),
      spec(image.RandomAffine, shift=0.125),
      spec(image.Resize, size=32, method='bilinear'),
    ],
    batch_size=64,
    seed=c.get_ref('seed'),
  )
  c.task = spec(
    tasks.Classification,
    model=spec(bit.BiT, num_classes=10, depths=(1, 1), width=0.5),
    optimizer=spec(
      optim.momentum,
      rate=spec(
        optax.warmup_cosine_decay_schedule,
        init_value=0.0,
        peak_value=0.1,
        warmup_steps=50,
        decay_steps=c.get_ref('total_steps'),
      ),
      clip_norm=1.0,
    ),
  )
  c.evals = dict(
    test=spec(
      classification.Accuracy,
      data=spec(
        pipeline.EvalInput,
        source=spec(tfds.Tfds, name='digits', split='test'),
        transforms=[
          spec(image.Decode, channels=3),
          spec(image.Resize, size=32, method='bilinear'),
        ],
        batch_size=256,
      ),
      every=epochs(10),
    )
  )
  return c
