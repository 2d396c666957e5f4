"""Slot Attention finds objects without labels (arXiv:2006.15055, section 4.1).

    python tools/prepare_data.py tetrominoes
    python -m big_vision_like.train --config=configs/slot_attention/discovery.py \
        --workdir=runs/tetrominoes

`tetrominoes` (35x35 pixels, 4 slots), `multi_dsprites` (64x64, 6) and `solids`
(128x128, 7) are drawn here; `published_tetrominoes`, `published_multi_dsprites` and
`clevr` (with masks, at most 6 objects) are the paper's, read from their TFRecords
(docs/data.md). In the paper, foreground ARI is 99.5 % (Tetrominoes, one of five runs
left out), 91.3 % (Multi-dSprites) and 98.8 % (CLEVR6) after 500,000 steps on one GPU of
16 GB. Where there are scenes of up to 10 objects, objects are found in these too, with
11 slots, in 3 iterations (`more_3`) and in 5.

    discovery.py:tetrominoes,inputs     a control: softmax over inputs, not over slots
    discovery.py:tetrominoes,implicit   gradients of the last iteration alone
"""

import ml_collections as mlc

from big_vision_like import optim
from big_vision_like.data import benchmarks
from big_vision_like.evals import object_discovery as segmentation
from big_vision_like.models import slot_attention
from big_vision_like.spec import spec
from big_vision_like.tasks import object_discovery

# The model's layers, its slots, and where the paper has it: the column of table 1, mean
# and standard deviation of foreground ARI.
SETTINGS = {
  'tetrominoes': ('tetrominoes', 4, None),
  'multi_dsprites': ('multi_dsprites', 6, None),
  'solids': ('clevr', 7, None),
  'published_tetrominoes': ('tetrominoes', 4, ('Tetrominoes', 99.5, 0.2)),
  'published_multi_dsprites': ('multi_dsprites', 6, ('Multi-dSprites', 91.3, 0.3)),
  'clevr': ('clevr', 7, ('CLEVR6', 98.8, 0.3)),
}
# What is different in the model.
CHANGES = {
  '': {},
  'inputs': dict(over='inputs'),
  'implicit': dict(implicit=True),
}
ARGUMENTS = (*SETTINGS, 'tetrominoes,inputs', 'tetrominoes,implicit')


def get_config(arg: str = 'tetrominoes') -> mlc.ConfigDict:
  name, _, how = arg.partition(',')
  layers, num_slots, published = benchmarks.chosen(name, SETTINGS)
  scenes = benchmarks.DISCOVERY[name]
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
      **benchmarks.chosen(how, CHANGES, 'change'),
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
  if published is not None:
    column, value, spread = published
    c.reproduces = [
      dict(
        paper='2006.15055',
        table='1',
        row='Slot Attention',
        column=column,
        value=value,
        spread=spread,
        metric='test/ari_foreground',
      )
    ]
  return c
