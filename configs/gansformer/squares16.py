"""GANsformer on drawn squares of 16x16 pixels, on a CPU: attention finds objects.

    python tools/prepare_data.py squares
    python -m big_vision_like.train --config=configs/gansformer/squares16.py \
        --workdir=runs/gan_squares16

Images show one to three flat coloured squares on grey. Two components of width 8, up to
32 channels, batches of 32. The argument is `duplex` or `simplex`. The evaluator
compares, in 1,000 generated images, the component of greatest attention in the last
layer with the foreground, which differs from grey.

The goal, an adjusted Rand index above 0.3, is not reached: 0.08 with seed 0 (chance is
about 0; 0.04 to 0.09 along the way). Takes about 9 CPU minutes (75 CPU seconds to
compile, 0.1 a step).
"""

import ml_collections as mlc

from big_vision_like import optim
from big_vision_like.data import generation as data
from big_vision_like.evals import attention_segments
from big_vision_like.models import discriminator, gansformer
from big_vision_like.spec import arguments, spec
from big_vision_like.tasks import adversarial

ARGUMENTS = ('duplex', 'simplex')


def get_config(argument: str = ARGUMENTS[0]) -> mlc.ConfigDict:
  kind = arguments(argument, attention=ARGUMENTS).attention
  c = mlc.ConfigDict(dict(seed=0, total_steps=4_000, log_every=50, keep_last=1))
  images = data.squares16()
  c.train_data = images.train_input(batch_size=32, seed=c.get_ref('seed'), workers=0)
  size = dict(resolution=16, channel_base=256, channel_max=32)
  c.task = spec(
    adversarial.Adversarial,
    generator=spec(
      gansformer.Generator,
      components=2,
      latent_width=8,
      mapping=dict(layers=4),
      attention=dict(duplex=kind == 'duplex'),
      **size,
    ),
    discriminator=spec(discriminator.Discriminator, **size),
    generator_optimizer=spec(adversarial.lazy_adam, rate=0.002, every=4),
    discriminator_optimizer=spec(adversarial.lazy_adam, rate=0.002, every=16),
    ema=spec(optim.Ema, half_life=1_000, collections=('params',)),
    r1=1.0,
    mixing=0.0,
  )
  c.evals = dict(
    val=spec(
      attention_segments.AttentionSegments,
      data=images.eval_input(batch_size=200, part='train', workers=0),
      samples=1_000,
      every=500,
    )
  )
  return c
