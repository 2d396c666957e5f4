"""A published TimeSformer, fine-tuned on your own videos.

    python -m big_vision_like.train --config=configs/timesformer/finetune.py:12 \
        --workdir=runs/my_videos

The argument is the number of classes. Videos, or folders of their frames, are
data/videos/train/CLASS/NAME.mp4 and data/videos/val/CLASS/NAME.mp4. Weights are the
folder weights/timesformer-base-finetuned-k400 of transformers; set
--config.init_from.weights.path to another one, or to a published .pyth file. A clip has
8 frames, 32/30 s apart: for videos of less than 8 seconds, lower `stride` of the first
transforms.

10 epochs of batch 16, SGD with Nesterov momentum, learning rate 0.005 / 4 as for batch
64 in arXiv:2102.05095, a cosine to zero. The expected accuracy depends on the videos.
"""

import ml_collections as mlc
import optax

from big_vision_like import optim
from big_vision_like.data.input import pipeline
from big_vision_like.data.sources import videos
from big_vision_like.data.transforms import image, video
from big_vision_like.errors import UserError
from big_vision_like.evals import classification
from big_vision_like.inference import clips
from big_vision_like.models import timesformer
from big_vision_like.run import init_from
from big_vision_like.spec import epochs, spec
from big_vision_like.tasks import classification as tasks

ARGUMENTS = ('12',)
SIZE, CLIP = 224, dict(frames=8, stride=32)


def get_config(argument: str = ARGUMENTS[0]) -> mlc.ConfigDict:
  if not argument.isdecimal() or not int(argument):
    raise UserError(f'{argument!r} is not a number of classes, such as 12')
  c = mlc.ConfigDict(dict(seed=0, total_steps=epochs(10), log_every=10))
  c.train_data = spec(
    pipeline.TrainInput,
    source=spec(videos.VideoFolder, path='data/videos/train'),
    transforms=[
      spec(video.RandomClip, **CLIP),
      spec(video.EachFrameAlike, transform=spec(video.ScaleAndCrop, size=SIZE)),
      spec(video.EachFrameAlike, transform=spec(image.Flip)),
    ],
    batch_size=16,
    seed=c.get_ref('seed'),
    workers=4,
  )
  c.task = spec(
    tasks.Classification,
    model=spec(
      timesformer.TimeSformer,
      num_classes=int(argument),
      **timesformer.variant('B/16'),
      scan=True,
      remat='full',
      dtype='bfloat16',
    ),
    inputs=('video',),
    mean=clips.MEAN,
    std=clips.STD,
    optimizer=spec(
      optim.momentum,
      rate=spec(
        optax.cosine_decay_schedule,
        init_value=0.005 / 4,
        decay_steps=c.get_ref('total_steps'),
      ),
      nesterov=True,
      l2=1e-4,
    ),
  )
  path = 'weights/timesformer-base-finetuned-k400'
  c.init_from = spec(init_from.InitFrom, weights=spec(init_from.from_file, path=path))
  c.evals = dict(
    test=spec(
      classification.VideoAccuracy,
      data=spec(
        pipeline.EvalInput,
        source=spec(videos.VideoFolder, path='data/videos/val'),
        transforms=[
          spec(video.UniformClips, **CLIP),
          spec(video.ThreeCrops, size=SIZE),
        ],
        batch_size=16,
        workers=4,
      ),
      every=epochs(1),
    )
  )
  return c
