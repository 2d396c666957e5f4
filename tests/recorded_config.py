"""The digits and a small model, with parameters sharded over two groups of devices."""

import ml_collections as mlc
import optax

from big_vision_like import optim
from big_vision_like.data.input import pipeline
from big_vision_like.data.sources import tfds
from big_vision_like.data.transforms import image
from big_vision_like.evals import classification
from big_vision_like.spec import spec
from tests import recorded


def get_config() -> mlc.ConfigDict:
  c = mlc.ConfigDict(dict(total_steps=80, log_every=1, checkpoint_every=5))
  c.mesh = dict(data=-1, fsdp=2)
  c.train_data = spec(
    pipeline.TrainInput,
    source=spec(tfds.Tfds, name='digits', split='train'),
    transforms=[
      spec(image.Decode, channels=1),
      spec(image.RandomAffine, rotate=10.0, shift=0.1),
    ],
    batch_size=32,
  )
  c.task = spec(
    recorded.Recorded,
    model=spec(recorded.Mlp),
    optimizer=spec(optim.adamw, rate=spec(optax.constant_schedule, value=1e-3)),
    ema=spec(optim.Ema, decay=0.9, warmup=True),
  )
  c.evals = dict(
    val=spec(
      classification.Accuracy,
      data=spec(
        pipeline.EvalInput,
        source=spec(tfds.Tfds, name='digits', split='test'),
        transforms=[spec(image.Decode, channels=1)],
        batch_size=128,
      ),
      every=40,
    )
  )
  return c
