"""A training run with all parts that a kill can hit, for `tools/benchmark/kills.py`."""

import ml_collections as mlc
import optax

from big_vision_like import optim
from big_vision_like.data.input import pipeline
from big_vision_like.evals import classification
from big_vision_like.spec import spec
from big_vision_like.tasks import classification as tasks
from tools.faults import run_parts


def get_config() -> mlc.ConfigDict:
  """Returns a run of sixty steps, saved every four and evaluated every twenty."""
  c = mlc.ConfigDict(dict(seed=0, total_steps=60, log_every=5, checkpoint_every=4))
  c.train_data = spec(
    pipeline.TrainInput,
    source=spec(run_parts.Noisy),
    transforms=[spec(run_parts.Shake)],
    batch_size=8,
    seed=c.get_ref('seed'),
  )
  c.task = spec(
    tasks.Classification,
    model=spec(run_parts.Mlp),
    optimizer=spec(optim.adamw, rate=spec(optax.constant_schedule, value=1e-3)),
    ema=spec(optim.Ema, decay=0.9, warmup=True),
  )
  data = spec(pipeline.EvalInput, source=spec(run_parts.Noisy, examples=20))
  data.batch_size = 8
  c.evals = dict(val=spec(classification.Accuracy, data=data, every=20))
  return c
