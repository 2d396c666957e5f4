"""Clips of a moving square, whose class is the order of their frames.

    python tools/prepare_data.py moving_squares/plain
    python -m big_vision_like.train --config=configs/timesformer/moving_squares.py \
        --workdir=runs/moving_squares

A square crosses a frame of 16x16 pixels in four steps, to the left, right, up or down
(`data/procedural/moving_squares.py`). Played backwards, a clip has the opposite class,
and a model that ignores the order of frames cannot exceed 50 %. Two blocks of width 48,
from random weights with large positions (`initializers='wide'`; with `reference`, which
is for pretrained weights, it does not learn), 300 steps of batch 32. The argument is
one of the attention schemes of arXiv:2102.05095. `backwards` is the accuracy on clips
played backwards, with their own class.

Expected top-1 of 1,000 test clips: 100 % for `divided` and `joint` after 150 steps, 25
% for `space_only` (docs/lab/timesformer.md). A run takes about a minute on two CPU
cores.
"""

import ml_collections as mlc
import optax

from big_vision_like import optim
from big_vision_like.data.input import pipeline
from big_vision_like.data.sources import tfds
from big_vision_like.data.transforms import reversal, video
from big_vision_like.evals import classification
from big_vision_like.models import timesformer
from big_vision_like.spec import arguments, spec
from big_vision_like.tasks import classification as tasks

ARGUMENTS = ('divided', 'space_only,reference')
DATA = 'moving_squares/plain'
# The classes are left, right, up and down.
OPPOSITE = (1, 0, 3, 2)


def get_config(argument: str = ARGUMENTS[0]) -> mlc.ConfigDict:
  arg = arguments(argument, attention=timesformer.SCHEMES, start=('wide', 'reference'))
  c = mlc.ConfigDict(dict(seed=0, total_steps=300, log_every=10, keep_last=1))
  clip = spec(video.UniformClips, frames=4, stride=1)
  c.train_data = spec(
    pipeline.TrainInput,
    source=spec(tfds.Tfds, name=DATA, split='train', examples=12_000),
    transforms=[clip],
    batch_size=32,
    seed=c.get_ref('seed'),
  )
  c.task = spec(
    tasks.Classification,
    model=spec(
      timesformer.TimeSformer,
      num_classes=4,
      patch=4,
      width=48,
      depth=2,
      num_heads=4,
      mlp_dim=96,
      attention=arg.attention,
      initializers=arg.start,
      drop_path=0.0,
    ),
    inputs=('video',),
    mean=0.05,
    std=0.25,
    optimizer=spec(
      optim.adamw,
      rate=spec(
        optax.warmup_cosine_decay_schedule,
        init_value=0.0,
        peak_value=2e-3,
        warmup_steps=30,
        decay_steps=c.get_ref('total_steps'),
      ),
      weight_decay=1e-4,
    ),
  )
  c.evals = dict(
    test=tested([clip]),
    backwards=tested([clip, spec(reversal.Reversed, classes=OPPOSITE)]),
  )
  return c


def tested(transforms: list[mlc.ConfigDict]) -> mlc.ConfigDict:
  """Returns an evaluator of the test clips."""
  return spec(
    classification.Accuracy,
    data=spec(
      pipeline.EvalInput,
      source=spec(tfds.Tfds, name=DATA, split='test', examples=1_000),
      transforms=transforms,
      batch_size=248,
    ),
    every=50,
  )
