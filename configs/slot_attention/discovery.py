"""Slot Attention that discovers objects without labels (arXiv:2006.15055, section 4.1).

    python tools/prepare_data.py tetrominoes
    python -m big_vision_like.train --config=configs/slot_attention/discovery.py \
        --workdir=runs/tetrominoes

The argument is DATA[,CHANGE]. `tetrominoes` (35x35 pixels, 4 slots), `multi_dsprites`
(64x64, 6) and `solids` (128x128, 7) are drawn by this repository.
`published_tetrominoes`, `published_multi_dsprites` and `clevr` (with masks, at most 6
objects) are the paper's, read from their TFRecord files (docs/scenes.md). Where a data
set has scenes of up to 10 objects, these are evaluated too, with 11 slots, in 3
iterations (`more_3`) and in 5.

    discovery.py:tetrominoes,inputs     control: softmax over inputs, not over slots
    discovery.py:tetrominoes,implicit   gradients of the last iteration only

Expected foreground ARI on CLEVR6: 98.8 %, after 500,000 steps on one GPU of 16 GB;
`python tools/paper_tables.py 2006.15055 --table=1` prints the others. The training time
is unknown; `python -m big_vision_like.plan` estimates it. Not trained here.
"""

import ml_collections as mlc

from big_vision_like import optim
from big_vision_like.data import benchmarks
from big_vision_like.evals import object_discovery as segmentation
from big_vision_like.models import slot_attention
from big_vision_like.spec import arguments, spec
from big_vision_like.tasks import object_discovery

# Layers of the model, and number of slots.
SETTINGS = {
  'tetrominoes': ('tetrominoes', 4),
  'multi_dsprites': ('multi_dsprites', 6),
  'solids': ('clevr', 7),
  'published_tetrominoes': ('tetrominoes', 4),
  'published_multi_dsprites': ('multi_dsprites', 6),
  'clevr': ('clevr', 7),
}
# Changed arguments of the model.
CHANGES = {
  '': {},
  'inputs': dict(over='inputs'),
  'implicit': dict(implicit=True),
}
ARGUMENTS = (*SETTINGS, 'tetrominoes,inputs', 'tetrominoes,implicit')


def get_config(argument: str = ARGUMENTS[0]) -> mlc.ConfigDict:
  arg = arguments(argument, data=SETTINGS, change=tuple(CHANGES))
  layers, num_slots = SETTINGS[arg.data]
  scenes = benchmarks.DISCOVERY[arg.data]
  c = mlc.ConfigDict(dict(seed=0, total_steps=500_000, log_every=500))
  c.checkpoint_every, c.keep_last = 10_000, 2
  c.train_data = scenes.train_input(batch_size=64)
  c.train_data.seed = c.get_ref('seed')
  c.task = spec(
    object_discovery.ObjectDiscovery,
    model=spec(
      slot_attention.AutoEncoder,
      num_slots=num_slots,
      iterations=3,
      **slot_attention.variant(layers),
      **CHANGES[arg.change],
    ),
    optimizer=spec(
      optim.adamw,
      rate=spec(optim.halving, peak_value=4e-4, warmup_steps=10_000, half_life=100_000),
    ),
  )
  test = dict(every=25_000)
  c.evals = dict(
    val=spec(segmentation.Segmentation, data=scenes.eval_input(32, part='val'), **test),
    test=spec(segmentation.Segmentation, data=scenes.eval_input(32, part='test')),
  )
  if 'more' in scenes.parts:
    more = scenes.eval_input(16, part='more')
    for iterations in 3, 5:
      c.evals[f'more_{iterations}'] = spec(
        segmentation.Segmentation,
        data=more.copy_and_resolve_references(),
        predict_args=dict(num_slots=11, iterations=iterations),
      )
  return c
