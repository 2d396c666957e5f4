"""Noisy Student on ImageNet-1k with pseudo-labelled images, arXiv:1911.04252.

    CONFIG=configs/noisy_student/i1k.py:B0
    python tools/pseudo_label.py --weights=TEACHER --config=$CONFIG --batch-size=4096
    python -m big_vision_like.train --config=$CONFIG --workdir=runs/ns_b0

A student learns from 1.28 million labelled images and from 130 million pseudo-labelled
ones, 130,000 a class. The student is trained with noise: RandAugment of the magnitude
in `SIZES`, dropout and drop path. The teacher,
`configs/efficientnet/i1k.py:B7,randaugment` or a published file, predicts without
noise. B0 to B7 use the settings of the authors' scripts: labelled batches of 4,096, for
350 epochs (B5 to B7) or 700 (B0 to B4). The paper quotes batches of 2,048 and magnitude
27 for all. docs/self_training.md describes the whole loop.

`L2,iter1`, `L2,iter2` and `L2,iter3` are the paper's iterations: labelled batches of
2,048 and 14, 14 and 28 times as many pseudo-labelled images, at 475 pixels. Each takes
its pseudo labels from the model of the previous one. The authors used 2,048 TPUv3 cores
for 6 days (12.3k core-days). `l2_finetune_800.py` continues from the last.

The pseudo-labelled images are from JFT, which is private. To use others:

    --config.train_data.inputs.unlabelled.source.source.name=YOURS

Expected top-1 with JFT: B0 78.8, B1 81.5, B2 82.4, B3 84.1, B4 85.3, B5 86.1, B6 86.4,
B7 86.9, L2 at 475 pixels 88.2 %; `python tools/paper_tables.py 1911.04252` prints them.
"""

import ml_collections as mlc

from big_vision_like import optim
from big_vision_like.data import benchmarks
from big_vision_like.data.input import joined, pipeline
from big_vision_like.data.sources import pseudo_labels
from big_vision_like.data.transforms import image, labels, randaugment
from big_vision_like.evals import classification
from big_vision_like.inference.preprocessing import IMAGENET_MEAN, IMAGENET_STD
from big_vision_like.models import efficientnet
from big_vision_like.spec import arguments, epochs, spec
from big_vision_like.tasks import self_training

ARGUMENTS = ('B0', 'L2,iter3')
# By size: pseudo-labelled images for each labelled one, length in units of 350 epochs,
# and RandAugment's magnitude (None: crops and flips only).
SIZES = {
  'B0': (1, 2, None),
  'B1': (3, 2, None),
  'B2': (3, 2, 6),
  'B3': (3, 2, 12),
  'B4': (3, 2, 15),
  'B5': (3, 1, 18),
  'B6': (3, 1, 24),
  'B7': (3, 1, 27),
  'L2': (14, 1, 27),
}
ITERATIONS = ('iter1', 'iter2', 'iter3')


def get_config(argument: str = ARGUMENTS[0]) -> mlc.ConfigDict:
  arg = arguments(argument, size=SIZES, iteration=ITERATIONS)
  ratio, times, magnitude = SIZES[arg.size]
  large = arg.size == 'L2'
  if large and arg.iteration == 'iter3':
    ratio = 28
  size, batch = efficientnet.size_of(arg.size), 2048 if large else 4096
  c = mlc.ConfigDict(dict(seed=0, log_every=50, checkpoint_every=1000))
  c.total_steps = epochs(350 * times)
  noise = [spec(image.Flip)]
  if magnitude is not None:
    names = randaugment.WITHOUT_CUTOUT
    noise += [spec(randaugment.RandAugment, magnitude=magnitude, names=names)]
  crop = spec(image.EfficientNetCrop, size=size.resolution)
  c.train_data = spec(
    joined.Joined,
    inputs=dict(
      labelled=benchmarks.IMAGENET.train_input(
        'train', [crop, *noise], batch, seed=c.get_ref('seed'), workers=32
      ),
      unlabelled=spec(
        pipeline.TrainInput,
        source=spec(
          pseudo_labels.PseudoLabelled,
          source=benchmarks.JFT.source('train'),
          labels=f'pseudo_labels/{arg.iteration}',
          classes=1000,
          min_confidence=0.3,
          per_class=130_000,
          seed=c.get_ref('seed'),
        ),
        transforms=[
          spec(image.DecodeCrop, crop=crop),
          *noise,
          spec(labels.Keep, names=('image', 'probabilities')),
        ],
        batch_size=ratio * batch,
        seed=c.get_ref('seed'),
        workers=64,
      ),
    ),
    epoch_of='labelled',
  )
  c.task = spec(
    self_training.SelfTraining,
    model=spec(
      efficientnet.EfficientNet,
      num_classes=1000,
      **efficientnet.variant(arg.size),
      dropout=size.dropout,
      drop_path=0.2,
      norm_groups=8,
      remat='full' if large else 'none',
      dtype='bfloat16',
    ),
    optimizer=spec(
      optim.rmsprop_tf,
      rate=spec(
        optim.exponential_staircase,
        peak_value=0.016 * batch / 256,
        warmup_steps=epochs(5),
        decay_steps=epochs(2.4 * times),
      ),
      l2=1e-5,
      l2_rules=[('.*/norm/.*', 0.0), ('.*', 1.0)],
    ),
    ema=spec(optim.Ema, decay=0.9999, warmup=True, first_step=1),
    mean=IMAGENET_MEAN,
    std=IMAGENET_STD,
  )
  clean = [spec(image.EfficientNetCentralCrop, size=size.resolution)]
  c.evals = dict(
    test=spec(
      classification.Accuracy,
      data=benchmarks.IMAGENET.eval_input('test', clean, 1024, workers=32),
      every=epochs(10),
    ),
    real=spec(
      classification.RealAccuracy,
      data=benchmarks.imagenet_real(clean, 1024, workers=32),
    ),
  )
  return c
