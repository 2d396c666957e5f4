"""TimeSformer on Kinetics-400, Kinetics-600 and Diving-48, as in arXiv:2102.05095.

    python -m big_vision_like.train --config=configs/timesformer/kinetics.py:k400,base \
        --workdir=runs/timesformer_k400

The argument is DATA,MODEL[,ATTENTION][,POSITIONS][,i1k]. DATA is k400, k600 or
diving48; MODEL is

- base: 8 frames, 32/30 s apart, of 224 pixels;
- HR: 16 frames, 16/30 s apart, of 448 pixels;
- L: 96 frames, 4/30 s apart, of 224 pixels.

ATTENTION is one of the schemes of table 1, `divided` by default; POSITIONS are those of
table 4: `space_time` by default, `space` or `none`. `i1k` starts from our ViT-B/16
trained on ImageNet-1k (table 3), otherwise from Google's, trained on ImageNet-21k and
fine-tuned on ImageNet-1k (weights/ViT-B_16-224.npz).

15 epochs of batch 64, SGD with Nesterov momentum, learning rate 0.005, divided by 10 at
epochs 11 and 14, weight decay 1e-4 on all parameters, drop path 0.1. The published code
computes a batch in micro-steps of 8 clips, as `accumulate=8` does here; on more than
eight devices, lower it. It computes in float32: set --config.task.model.dtype=float32.

Videos are in data/k400 and listed in data/k400/train.csv and val.csv, tables with the
columns of Kinetics (those of Diving-48 have `video` and `label`). The test is one clip
from the start of each video in three crops, whose logits are summed.

Expected top-1 and top-5 on k400: base 77.9 and 93.2 %, HR 79.6 and 94.0 %, L 80.6 and
94.7 % in the README of the published code (78.0, 79.7 and 80.7 % in the paper); on k600
79.1, 81.8 and 82.2 %; on diving48 74.9, 78.0 and 81.0 %. `python tools/paper_tables.py
2102.05095` prints all. Base took 416 V100-hours (table 2). The recipe of Diving-48 is
not published in detail, and is assumed to be that of Kinetics. Not trained here.
"""

import ml_collections as mlc

from big_vision_like import optim
from big_vision_like.data.input import pipeline
from big_vision_like.data.sources import videos
from big_vision_like.data.transforms import image, video
from big_vision_like.evals import classification
from big_vision_like.inference import clips
from big_vision_like.models import timesformer
from big_vision_like.run import init_from
from big_vision_like.spec import arguments, epochs, spec
from big_vision_like.tasks import classification as tasks

ARGUMENTS = ('k400,base',)
# Classes, training and test videos, and the name of a video in the lists.
DATA = {
  'k400': (400, 240_000, 20_000, videos.KINETICS),
  'k600': (600, 366_000, 28_000, videos.KINETICS),
  'diving48': (48, 15_027, 1_970, '{video}'),
}
# Frames, 30ths of a second between them, pixels, shorter sides in training.
MODELS = {
  'base': (8, 32, 224, (256, 320)),
  'HR': (16, 16, 448, (448, 512)),
  'L': (96, 4, 224, (256, 320)),
}
SCHEMES = ('divided', *(s for s in timesformer.SCHEMES if s != 'divided'))
POSITIONS = {
  'space_time': {},
  'space': dict(posemb_time='none'),
  'none': dict(posemb='none', posemb_time='none'),
}


def get_config(argument: str = ARGUMENTS[0]) -> mlc.ConfigDict:
  arg = arguments(
    argument,
    data=DATA,
    model=MODELS,
    attention=SCHEMES,
    positions=tuple(POSITIONS),
    weights=('i21k', 'i1k'),
  )
  frames, stride, size, short_side = MODELS[arg.model]
  classes, train, test, name = DATA[arg.data]
  c = mlc.ConfigDict(dict(seed=0, total_steps=epochs(15), log_every=50))
  c.checkpoint_every = 1000
  c.train_data = spec(
    pipeline.TrainInput,
    source=listed(arg.data, 'train', name, train),
    transforms=[
      spec(video.RandomClip, frames=frames, stride=stride),
      spec(
        video.EachFrameAlike,
        transform=spec(video.ScaleAndCrop, size=size, short_side=short_side),
      ),
      spec(video.EachFrameAlike, transform=spec(image.Flip)),
    ],
    batch_size=64,
    seed=c.get_ref('seed'),
    workers=32,
  )
  c.task = spec(
    tasks.Classification,
    model=spec(
      timesformer.TimeSformer,
      num_classes=classes,
      **timesformer.variant('B/16'),
      attention=arg.attention,
      **POSITIONS[arg.positions],
      scan=True,
      remat='full',
      dtype='bfloat16',
    ),
    inputs=('video',),
    mean=clips.MEAN,
    std=clips.STD,
    accumulate=8,
    optimizer=spec(
      optim.momentum,
      rate=spec(optim.multi_step, peak_value=0.005, drops=(epochs(11), epochs(14))),
      nesterov=True,
      l2=1e-4,
    ),
  )
  weights = spec(init_from.from_file, path='weights/ViT-B_16-224.npz')
  if arg.weights == 'i1k':
    weights = spec(init_from.from_run, workdir='runs/i1k_b16')
  posemb = POSITIONS[arg.positions].get('posemb', 'learned')
  c.init_from = spec(
    init_from.InitFrom, weights=weights, **timesformer.from_vit(arg.attention, posemb)
  )
  c.evals = dict(
    test=spec(
      classification.VideoAccuracy,
      data=spec(
        pipeline.EvalInput,
        source=listed(arg.data, 'val', name, test),
        transforms=[
          spec(video.UniformClips, frames=frames, stride=stride),
          spec(video.ThreeCrops, size=size),
        ],
        batch_size=64,
        workers=32,
      ),
      every=epochs(1),
    )
  )
  return c


def listed(data: str, part: str, name: str, examples: int) -> mlc.ConfigDict:
  """Returns the source of the videos that a table lists."""
  return spec(
    videos.VideoList,
    path=f'data/{data}',
    file=f'data/{data}/{part}.csv',
    name=name,
    tolerated=0.2,
    examples=examples,
  )
