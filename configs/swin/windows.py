"""A task that a Swin Transformer can only solve with shifted windows.

    python -m big_vision_like.train --config=configs/swin/windows.py \
        --workdir=runs/swin_windows

Two patches of 4x4 pixels are on either side of a border between windows; the model says
whether their colours are equal (`data/procedural/window_pairs.py`). Four blocks of
width 32 with windows of 4x4 tokens, 600 steps of batch 64. Expected: `shifted` answers
all 1,000 test images correctly after 200 steps; `unshifted`, where no attention reaches
from one patch to the other, stays at chance. Takes 1 minute each on two CPU cores.
"""

import ml_collections as mlc
import optax

from big_vision_like import optim
from big_vision_like.data.input import pipeline
from big_vision_like.data.procedural import window_pairs
from big_vision_like.data.transforms import image
from big_vision_like.evals import classification
from big_vision_like.models import swin
from big_vision_like.spec import spec
from big_vision_like.tasks import classification as tasks

ARGUMENTS = ('shifted',)


def get_config(argument: str = ARGUMENTS[0]) -> mlc.ConfigDict:
  c = mlc.ConfigDict(dict(seed=0, total_steps=600, log_every=50, keep_last=1))
  c.train_data = spec(
    pipeline.TrainInput,
    source=spec(window_pairs.WindowPairs, examples=100_000, split='train'),
    transforms=[spec(image.Decode)],
    batch_size=64,
    seed=c.get_ref('seed'),
  )
  c.task = spec(
    tasks.Classification,
    model=spec(
      swin.Swin,
      num_classes=2,
      width=32,
      depths=(4,),
      num_heads=(2,),
      window=4,
      mlp_ratio=2.0,
      shifted=argument == 'shifted',
    ),
    optimizer=spec(
      optim.adamw,
      rate=spec(
        optax.warmup_cosine_decay_schedule,
        init_value=0.0,
        peak_value=2e-3,
        warmup_steps=50,
        decay_steps=c.get_ref('total_steps'),
      ),
      weight_decay=0.01,
    ),
    std=1 / 6,
  )
  c.evals = dict(
    test=spec(
      classification.Accuracy,
      data=spec(
        pipeline.EvalInput,
        source=spec(window_pairs.WindowPairs, examples=1_000, split='test'),
        transforms=[spec(image.Decode)],
        batch_size=256,
      ),
      every=100,
    )
  )
  return c
