"""Reasoning over classes tells objects apart that look alike.

    python tools/prepare_data.py twins
    python -m big_vision_like.train --config=configs/reasoning_rcnn/twins.py:reasoning \
        --workdir=runs/reasoning_twins

Drawn images of 64x64 pixels show objects of four contexts; six of the twelve classes
look like a class of another context (`data/procedural/twins.py`). Regions are the true
boxes, and their features show little else than the region. `plain` has two heads on
these features; `reasoning` adds what Reasoning-RCNN (Xu et al., CVPR 2019) adds to the
second, with edges between all classes of a context as its graph; `unlinked` is the same
without edges. 1,500 steps of batch 32.

Expected accuracy on twins, seeds 0, 1, 2: `reasoning` 85.9, 85.2 and 84.5 %, `plain`
49.1, 51.2 and 50.1 %; on other classes 100 %. With the context known, a model can be
right for 90 %. Takes half a minute on two CPU cores.
"""

import ml_collections as mlc
import optax

from big_vision_like import optim
from big_vision_like.data import benchmarks, class_graph
from big_vision_like.data.procedural import twins
from big_vision_like.data.sources import tfds
from big_vision_like.evals import region_classification as evals
from big_vision_like.models import reasoning_rcnn
from big_vision_like.run import init_from
from big_vision_like.spec import arguments, spec
from big_vision_like.tasks import region_classification as tasks

HEADS = ('plain', 'reasoning', 'unlinked')
ARGUMENTS = ('reasoning',)


def get_config(argument: str = ARGUMENTS[0]) -> mlc.ConfigDict:
  heads = arguments(argument, heads=HEADS).heads
  size = (twins.SIDE, twins.SIDE)
  data = benchmarks.Detection(
    parts=dict(
      train=spec(tfds.Tfds, name='twins', split='train', examples=20_000),
      val=spec(tfds.Tfds, name='twins', split='validation', examples=1_000),
    ),
    shapes=(size,),
    eval_shapes=(size,),
    max_boxes=6,
  )
  c = mlc.ConfigDict(dict(seed=0, total_steps=1_500, log_every=50, keep_last=1))
  c.train_data = data.train_input(32, workers=0)
  c.train_data.seed = c.get_ref('seed')
  enhance, rate_rules = None, ()
  if heads != 'plain':
    enhance = spec(reasoning_rcnn.Reasoning, width=32, reduced=64)
    # Descriptors of images must grow slowly, or attention to classes saturates.
    rate_rules = (('enhance/(reduce|describe)/.*', 0.003),)
  if heads == 'reasoning':
    c.init_from = spec(
      init_from.InitFrom,
      # Attention to classes sums to 1; their number as weight makes up for it.
      weights=spec(
        class_graph.of_groups,
        groups=twins.GROUPS,
        names=twins.NAMES,
        weight=float(len(twins.NAMES)),
      ),
      allow_missing=('.*',),
    )
  c.task = spec(
    tasks.RegionClassification,
    model=spec(
      reasoning_rcnn.GivenRegions, num_classes=len(twins.NAMES), enhance=enhance
    ),
    optimizer=spec(
      optim.adamw,
      rate=spec(
        optax.warmup_cosine_decay_schedule,
        init_value=0.0,
        peak_value=3e-3,
        warmup_steps=100,
        decay_steps=c.get_ref('total_steps'),
      ),
      rate_rules=rate_rules,
      weight_decay=1e-4,
      clip_norm=1.0,
    ),
    # The background becomes 0, so that descriptors of images depend on objects.
    mean=0.075,
    std=0.2,
  )
  c.evals = dict(
    val=spec(
      evals.RegionAccuracy,
      data=data.eval_input(200, workers=0),
      every=300,
      groups=dict(twins=twins.TWINS, others=twins.OTHERS),
    )
  )
  return c
