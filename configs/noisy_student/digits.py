"""Noisy Student on handwritten digits, of which 50 are labelled.

    RUN=configs/noisy_student/digits.py
    python -m big_vision_like.train --config=$RUN:teacher --workdir=runs/ns/teacher
    python tools/pseudo_label.py --weights=runs/ns/teacher --config=$RUN:student
    python -m big_vision_like.train --config=$RUN:student --workdir=runs/ns/student
    python tools/pseudo_label.py --weights=runs/ns/student --config=$RUN:second
    python -m big_vision_like.train --config=$RUN:second --workdir=runs/ns/second

A scaled-down version of arXiv:1911.04252, 300 steps each. A small EfficientNet learns
from 5 labels a class. A wider one then learns from these labels and from the first
one's predictions for the 1,297 other scans.

- `student,quiet` has no noise: no dropout, no drop path, no augmentation;
- `student,half` augments labelled scans only, as in the paper's ablation;
- `student,live` has the teacher predict in each step.

Expected top-1 on 450 test scans, mean of seeds 0, 1, 2: `teacher` 74.2 %, `student`
80.8 %, `student,half` 81.0 %, `student,quiet` 78.0 %. The commands above, run once:
75.1, 86.4 and 85.8 % (`second`). On two CPU cores a teacher takes 0:42 minutes and a
student 1:10 at most; alongside other programs a student took up to 12:45.
"""

import ml_collections as mlc
import optax

from big_vision_like import optim
from big_vision_like.data.input import joined, pipeline
from big_vision_like.data.sources import fewshot, pseudo_labels, tfds
from big_vision_like.data.transforms import compose, image, labels
from big_vision_like.evals import classification
from big_vision_like.models import efficientnet
from big_vision_like.run import init_from
from big_vision_like.spec import arguments, spec
from big_vision_like.tasks import classification as tasks
from big_vision_like.tasks import self_training

ARGUMENTS = ('teacher', 'student', 'student,live')
ROLES = ('teacher', 'student', 'second')
BATCH, RATIO = 32, 2
SIZED = [
  spec(image.Decode, channels=1),
  spec(image.Resize, size=16, method='bilinear'),
]
NOISE = [spec(image.RandomAffine, rotate=15.0, scale=0.15, shift=0.12)]


def get_config(argument: str = ARGUMENTS[0]) -> mlc.ConfigDict:
  arg = arguments(argument, role=ROLES, noise=('noisy', 'half', 'quiet'), live=False)
  noisy = arg.noise == 'noisy'
  c = mlc.ConfigDict(dict(seed=0, total_steps=300, log_every=50, keep_last=1))
  few = spec(
    fewshot.PerClass,
    source=spec(tfds.Tfds, name='digits', split='train'),
    count=5,
    seed=c.get_ref('seed'),
  )
  labelled = spec(
    pipeline.TrainInput,
    source=few,
    transforms=[*SIZED, *([] if arg.noise == 'quiet' else NOISE), spec(labels.Keep)],
    batch_size=BATCH,
    seed=c.get_ref('seed'),
  )
  optimizer = spec(
    optim.adamw,
    rate=spec(
      optax.cosine_decay_schedule,
      init_value=3e-3,
      decay_steps=c.get_ref('total_steps'),
    ),
    weight_decay=0.01,
  )
  if arg.role == 'teacher':
    c.train_data = labelled
    c.task = spec(
      tasks.Classification,
      model=model(0.35, dropout=0.2),
      optimizer=optimizer,
      label_smoothing=0.1,
    )
  else:
    unlabelled = spec(fewshot.Remaining, chosen=few)
    kept = ('image', 'teacher_image') if arg.live else ('image', 'probabilities')
    c.train_data = spec(
      joined.Joined,
      inputs=dict(
        labelled=labelled,
        unlabelled=spec(
          pipeline.TrainInput,
          source=unlabelled if arg.live else predicted(unlabelled, arg.role),
          transforms=[
            *([spec(compose.Beside, transforms=SIZED)] if arg.live else []),
            *SIZED,
            *(NOISE if noisy else []),
            spec(labels.Keep, names=kept),
          ],
          batch_size=RATIO * BATCH,
          seed=c.get_ref('seed'),
        ),
      ),
      epoch_of='labelled',
    )
    noise = dict(dropout=0.2, drop_path=0.2) if noisy else {}
    c.task = spec(
      self_training.SelfTraining,
      model=model(0.45, **noise),
      teacher=model(0.35) if arg.live else None,
      optimizer=optimizer,
    )
    if arg.live:
      c.frozen = dict(teacher=spec(init_from.from_run, workdir='runs/ns/teacher'))
  c.evals = dict(
    test=spec(
      classification.Accuracy,
      data=spec(
        pipeline.EvalInput,
        source=spec(tfds.Tfds, name='digits', split='test'),
        transforms=SIZED,
        batch_size=152,
      ),
    )
  )
  return c


def model(width: float, **options: float) -> mlc.ConfigDict:
  return spec(
    efficientnet.EfficientNet,
    num_classes=10,
    **efficientnet.scaled(width, 0.4),
    stem_stride=1,
    momentum=0.9,  # for 300 steps
    **options,
  )


def predicted(unlabelled: mlc.ConfigDict, role: str) -> mlc.ConfigDict:
  return spec(
    pseudo_labels.PseudoLabelled,
    source=unlabelled,
    labels=f'runs/ns/labels_for_{role}',
    classes=10,
    min_confidence=0.3,
    per_class=130,
  )
