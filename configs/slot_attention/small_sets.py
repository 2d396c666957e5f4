"""Slot Attention that predicts sets of objects in small images, for a few CPU cores.

    python tools/prepare_data.py solids/64
    python -m big_vision_like.train --config=configs/slot_attention/small_sets.py \
        --workdir=runs/sets

20,000 drawn scenes of 3 to 10 solids, 64x64 pixels; 159,123 parameters, 4,000 steps of
batch 64. Expected AP on 1,000 held-out scenes, seed 0: 29.5 % within any distance, 3.5
% within 1. Properties are learned first, places last. Takes about 13 minutes, at five
steps a second on two CPU cores.
"""

import ml_collections as mlc
import optax

from big_vision_like import optim
from big_vision_like.data import benchmarks
from big_vision_like.evals import clevr_sets as evals
from big_vision_like.models import slot_attention
from big_vision_like.spec import spec
from big_vision_like.tasks import set_prediction


def get_config() -> mlc.ConfigDict:
  scenes = benchmarks.PROPERTIES['solids_64']
  c = mlc.ConfigDict(dict(seed=0, total_steps=4_000, log_every=100))
  c.checkpoint_every, c.keep_last = 1_000, 1
  c.train_data = scenes.train_input(batch_size=64, workers=0)
  c.train_data.seed = c.get_ref('seed')
  c.task = spec(
    set_prediction.SetPrediction,
    model=spec(
      slot_attention.SetClassifier,
      num_slots=10,
      num_properties=19,
      slot_size=64,
      hidden=128,
      encoder_convs=((32, 5, 2), (64, 5, 2), (64, 3, 1)),
    ),
    optimizer=spec(
      optim.adamw,
      rate=spec(
        optax.warmup_cosine_decay_schedule,
        init_value=0.0,
        peak_value=1e-3,
        warmup_steps=500,
        decay_steps=c.get_ref('total_steps'),
      ),
    ),
  )
  c.evals = dict(
    val=spec(
      evals.AveragePrecision,
      data=scenes.eval_input(256, part='val', workers=0),
      every=1_000,
    ),
    test=spec(
      evals.AveragePrecision, data=scenes.eval_input(256, part='test', workers=0)
    ),
  )
  return c
