"""TimeSformer on long videos of HowTo100M, section 4.6 of arXiv:2102.05095.

    python -m big_vision_like.train --config=configs/timesformer/howto100m.py:96 \
        --workdir=runs/timesformer_howto100m_96

The classes are 1,059 tasks. The argument is the number of frames of a clip, 8, 32, 64
or 96, each 32/30 s apart, so that one clip covers 8.5, 34.1, 68.3 or 102.4 seconds. The
test cuts the whole video into consecutive clips, up to 48, 12, 6 or 4, and sums the
logits of the clips in three crops. Training starts from TimeSformer-base on K400
(runs/timesformer_k400); its positions in time are resized. The recipe is that of
Kinetics: 15 epochs of batch 64.

Videos are listed in data/howto100m/train.csv and test.csv, tables with the columns
`video_id` and `task_id`. Expected top-1: 56.8, 61.2, 62.2 and 62.6 %. The number of
videos is an assumption. Not trained here.
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

ARGUMENTS = ('8',)
# Clips that cover a video, by their number of frames.
CLIPS = {'8': 48, '32': 12, '64': 6, '96': 4}
CLASSES, TRAIN, TEST = 1059, 85_000, 35_000


def get_config(argument: str = ARGUMENTS[0]) -> mlc.ConfigDict:
  arg = arguments(argument, frames=CLIPS)
  clip = dict(frames=int(arg.frames), stride=32)
  c = mlc.ConfigDict(dict(seed=0, total_steps=epochs(15), log_every=50))
  c.checkpoint_every = 1000
  c.train_data = spec(
    pipeline.TrainInput,
    source=listed('train', TRAIN),
    transforms=[
      spec(video.RandomClip, **clip),
      spec(video.EachFrameAlike, transform=spec(video.ScaleAndCrop, size=224)),
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
      num_classes=CLASSES,
      **timesformer.variant('B/16'),
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
  c.init_from = spec(
    init_from.InitFrom,
    weights=spec(init_from.from_run, workdir='runs/timesformer_k400'),
  )
  c.evals = dict(
    test=spec(
      classification.VideoAccuracy,
      data=spec(
        pipeline.EvalInput,
        source=listed('test', TEST),
        transforms=[
          spec(video.CoveringClips, **clip, clips=CLIPS[arg.frames]),
          spec(video.ThreeCrops, size=224),
        ],
        batch_size=16,
        workers=32,
      ),
      every=epochs(5),
    )
  )
  return c


def listed(part: str, examples: int) -> mlc.ConfigDict:
  """Returns the source of the videos that a table lists."""
  return spec(
    videos.VideoList,
    path='data/howto100m',
    file=f'data/howto100m/{part}.csv',
    name=videos.HOWTO100M,
    label='task_id',
    tolerated=0.2,
    examples=examples,
  )
