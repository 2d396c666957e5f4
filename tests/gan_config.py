"""The small GAN of tests/gan.py on the digits."""

import ml_collections as mlc
import optax

from big_vision_like import optim
from big_vision_like.data.input import pipeline
from big_vision_like.data.sources import tfds
from big_vision_like.data.transforms import image
from big_vision_like.spec import spec
from tests import gan


def get_config() -> mlc.ConfigDict:
  c = mlc.ConfigDict(dict(seed=0, total_steps=400, log_every=20, checkpoint_every=100))
  c.keep_best = 'val/distance'

  def digits(split: str) -> dict:
    source = spec(tfds.Tfds, name='digits', split=split)
    return dict(source=source, transforms=[spec(image.Decode, channels=1)])

  c.train_data = spec(pipeline.TrainInput, batch_size=32, **digits('train'))
  rate = spec(optax.constant_schedule, value=1e-3)
  c.task = spec(
    gan.Gan,
    generator=spec(gan.Generator),
    discriminator=spec(gan.Discriminator),
    generator_optimizer=spec(optim.adamw, rate=rate, b1=0.5),
    discriminator_optimizer=spec(
      optim.adamw, rate=rate.copy_and_resolve_references(), b1=0.5, weight_decay=1e-4
    ),
    ema=spec(optim.Ema, half_life=1_000),
  )
  data = spec(pipeline.EvalInput, batch_size=64, **digits('test'))
  c.evals = dict(val=spec(gan.Moments, data=data, every=100))
  return c
