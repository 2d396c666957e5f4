"""Slot Attention on small scenes, for two CPU cores: objects bind within minutes.

    python tools/prepare_data.py tetrominoes/7
    python -m big_vision_like.train --config=configs/slot_attention/small.py \
        --workdir=runs/slots

`tetrominoes` are the scenes of Tetrominoes with one pixel for each cell, 7x7. 64,644
parameters, 30,000 steps of batch 16. Expected foreground ARI on the test scenes: 93.4,
93.6 and 93.0 % (seeds 0, 1, 2), after about 10 minutes of CPU time. Controls:

- `small.py:tetrominoes,inputs`, softmax over inputs instead of slots: 58 %;
- `small.py:tetrominoes,through`, gradients through all iterations, which binds later.

`small.py:blocks` has 8x8 pixels with squares that never touch.
"""

import ml_collections as mlc
import optax

from big_vision_like import optim
from big_vision_like.data import benchmarks
from big_vision_like.evals import object_discovery as segmentation
from big_vision_like.models import slot_attention
from big_vision_like.spec import arguments, spec
from big_vision_like.tasks import object_discovery

ARGUMENTS = ('tetrominoes', 'tetrominoes,inputs', 'tetrominoes,through', 'blocks')
# Changed arguments of the model, by the second word of the argument.
CHANGES = {
  '': dict(implicit=True),
  'inputs': dict(implicit=True, over='inputs'),
  'through': dict(implicit=False),
}
SCENES = {'tetrominoes': ('tetrominoes_7', 7), 'blocks': ('blocks', 8)}


def get_config(argument: str = ARGUMENTS[0]) -> mlc.ConfigDict:
  arg = arguments(argument, data=SCENES, change=tuple(CHANGES))
  name, side = SCENES[arg.data]
  scenes = benchmarks.DISCOVERY[name]
  c = mlc.ConfigDict(dict(seed=0, total_steps=30_000, log_every=500))
  c.checkpoint_every, c.keep_last = 5_000, 1
  c.train_data = scenes.train_input(batch_size=16, workers=0)
  c.train_data.seed = c.get_ref('seed')
  c.task = spec(
    object_discovery.ObjectDiscovery,
    model=spec(
      slot_attention.AutoEncoder,
      num_slots=4,
      slot_size=32,
      hidden=64,
      encoder_convs=3 * ((32, 3, 1),),
      grid=(side, side),
      decoder_convs=3 * ((32, 3, 1),),
      **CHANGES[arg.change],
    ),
    optimizer=spec(
      optim.adamw,
      rate=spec(
        optax.warmup_cosine_decay_schedule,
        init_value=0.0,
        peak_value=2e-3,
        warmup_steps=1_000,
        decay_steps=c.get_ref('total_steps'),
      ),
    ),
  )
  c.evals = dict(
    val=spec(
      segmentation.Segmentation,
      data=scenes.eval_input(64, part='val', workers=0),
      every=5_000,
    ),
    test=spec(
      segmentation.Segmentation, data=scenes.eval_input(64, part='test', workers=0)
    ),
  )
  return c
