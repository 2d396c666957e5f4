"""Noisy Student on SVHN, with pseudo labels for its `extra` images, arXiv:1911.04252.

    CONFIG=configs/noisy_student/svhn.py
    python -m big_vision_like.train --config=$CONFIG:teacher --workdir=runs/svhn_teacher
    python tools/pseudo_label.py --weights=runs/svhn_teacher --config=$CONFIG:student
    python -m big_vision_like.train --config=$CONFIG:student --workdir=runs/svhn_student

`student` is the authors' script: EfficientNet-B0 for images of 32x32, 109,474 steps
(202 epochs) of 128 labelled and 640 pseudo-labelled images, 53,113 a class. RandAugment
of magnitude 5 and a hole of 16x16 pixels, no flips; L2 1e-4; the base learning rate
falls from 0.016 to 2e-4. `teacher` is the same without pseudo labels: our reading of
the supervised run, whose settings are not published.

Expected test accuracy: `teacher` 97.9 %, `student` 98.6 ± 0.1 %. The training time is
unknown; `python -m big_vision_like.plan` estimates it.
"""

import math

import ml_collections as mlc

from big_vision_like import optim
from big_vision_like.data.input import joined, pipeline
from big_vision_like.data.sources import pseudo_labels, tfds
from big_vision_like.data.transforms import image, labels, randaugment
from big_vision_like.evals import classification
from big_vision_like.models import efficientnet
from big_vision_like.spec import arguments, epochs, spec
from big_vision_like.tasks import classification as tasks
from big_vision_like.tasks import self_training

ARGUMENTS = ('student', 'teacher')
# The last 4,000 training images are for validation.
TRAIN, EXAMPLES = 'train[:69257]', 69_257
BATCH, STEPS, RATIO = 128, 109_474, 5
# Number of falls by 3 %, after which the rate is 0.0125 times its peak.
FALLS = math.log(2e-4 / 0.016) / math.log(0.97)
NOISE = [
  spec(randaugment.RandAugment, magnitude=5, translate=4.0, cutout=4),
  spec(randaugment.RandAugment, layers=1, magnitude=10, names=('Cutout',), cutout=8),
]


def get_config(argument: str = ARGUMENTS[0]) -> mlc.ConfigDict:
  arg = arguments(argument, role=('student', 'teacher'))
  c = mlc.ConfigDict(dict(seed=0, total_steps=STEPS, checkpoint_every=5000))
  labelled = spec(
    pipeline.TrainInput,
    source=source(TRAIN, EXAMPLES),
    transforms=[spec(image.Decode), *NOISE, spec(labels.Keep)],
    batch_size=BATCH,
    seed=c.get_ref('seed'),
    workers=8,
  )
  options = dict(
    model=spec(
      efficientnet.EfficientNet,
      num_classes=10,
      **efficientnet.variant('B0'),
      **efficientnet.SMALL_IMAGES,
      dropout=0.2,
      drop_path=0.2,
      dtype='bfloat16',
    ),
    optimizer=spec(
      optim.rmsprop_tf,
      rate=spec(
        optim.exponential_staircase,
        peak_value=0.016 * BATCH / 256,
        warmup_steps=epochs(5),
        decay_steps=epochs((STEPS * BATCH / EXAMPLES - 5) / FALLS),
      ),
      l2=1e-4,
      l2_rules=[('.*/norm/.*', 0.0), ('.*', 1.0)],
    ),
    label_smoothing=0.1,
    ema=spec(optim.Ema, decay=0.9999, warmup=True, first_step=1),
    mean=(0.4376821, 0.4437697, 0.47280442),
    std=(0.19803012, 0.20101562, 0.19703614),
  )
  if arg.role == 'teacher':
    c.train_data, c.task = labelled, spec(tasks.Classification, **options)
  else:
    c.task = spec(self_training.SelfTraining, **options)
    unlabelled = spec(
      pipeline.TrainInput,
      source=spec(
        pseudo_labels.PseudoLabelled,
        source=source('extra', 531_131),
        labels='pseudo_labels/svhn',
        classes=10,
        min_confidence=0.3,
        per_class=53_113,
        seed=c.get_ref('seed'),
      ),
      transforms=[
        spec(image.Decode),
        *NOISE,
        spec(labels.Keep, names=('image', 'probabilities')),
      ],
      batch_size=RATIO * BATCH,
      seed=c.get_ref('seed'),
      workers=16,
    )
    inputs = dict(labelled=labelled, unlabelled=unlabelled)
    c.train_data = spec(joined.Joined, inputs=inputs, epoch_of='labelled')
  c.evals = {
    name: spec(
      classification.Accuracy,
      data=spec(
        pipeline.EvalInput,
        source=source(split, examples),
        transforms=[spec(image.Decode), spec(labels.Keep)],
        batch_size=1024,
        workers=8,
      ),
      every=5000,
    )
    for name, split, examples in (
      ('val', 'train[69257:]', 4000),
      ('test', 'test', 26_032),
    )
  }
  return c


def source(split: str, examples: int) -> mlc.ConfigDict:
  return spec(tfds.Tfds, name='svhn_cropped:3.*.*', split=split, examples=examples)
