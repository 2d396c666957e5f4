"""Slot Attention that predicts sets of objects (arXiv:2006.15055, section 4.2).

    python tools/prepare_data.py solids/128
    python -m big_vision_like.train \
        --config=configs/slot_attention/set_prediction.py:solids --workdir=runs/sets

The argument is `clevr`, TFDS's `clevr:3.1.0` (up to 10 objects, 128x128 pixels of the
whole image), or `solids`, drawn by this repository with the same size and properties.
`iterations_1` and `iterations_5` evaluate the test set with other numbers of
iterations, `slots_20` with twice as many slots.

Expected on `clevr`, trained by the authors on one GPU: AP 94.3 % within any distance;
`python tools/paper_tables.py 2006.15055 --table=sets` prints AP within other distances.
The training time is unknown; `python -m big_vision_like.plan` estimates it.
"""

import ml_collections as mlc

from big_vision_like import optim
from big_vision_like.data import benchmarks
from big_vision_like.evals import clevr_sets as evals
from big_vision_like.models import slot_attention
from big_vision_like.spec import arguments, spec
from big_vision_like.tasks import set_prediction

ARGUMENTS = ('clevr', 'solids')


def get_config(argument: str = ARGUMENTS[0]) -> mlc.ConfigDict:
  scenes = benchmarks.PROPERTIES[arguments(argument, data=benchmarks.PROPERTIES).data]
  c = mlc.ConfigDict(dict(seed=0, total_steps=150_000, log_every=250))
  c.checkpoint_every, c.keep_last = 5_000, 2
  c.train_data = scenes.train_input(batch_size=512)
  c.train_data.seed = c.get_ref('seed')
  c.task = spec(
    set_prediction.SetPrediction,
    model=spec(
      slot_attention.SetClassifier, num_slots=10, num_properties=19, iterations=3
    ),
    optimizer=spec(
      optim.adamw,
      rate=spec(optim.halving, peak_value=4e-4, warmup_steps=1_000, half_life=50_000),
    ),
  )

  def measured(part: str, **options) -> mlc.ConfigDict:
    data = scenes.eval_input(256, part=part)
    return spec(evals.AveragePrecision, data=data, **options)

  c.evals = dict(
    val=measured('val', every=10_000),
    test=measured('test'),
    iterations_1=measured('test', predict_args=dict(iterations=1)),
    iterations_5=measured('test', predict_args=dict(iterations=5)),
    slots_20=measured('test', predict_args=dict(num_slots=20)),
  )
  return c
