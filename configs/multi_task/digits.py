"""Two tasks on one trunk: recognizing a digit, and whether it is odd.

    python -m big_vision_like.train --config=configs/multi_task/digits.py \
        --workdir=runs/digits_parity

A small ViT whose blocks learn from both tasks, with one head for each task. A quarter
of the steps train parity. Expected on the test scans, seed 0: 96.4 % of the digits and
98.9 % of the parities are correct. Takes 8 minutes on two CPU cores shared with other
programs.
"""

import ml_collections as mlc
import optax

from big_vision_like import optim
from big_vision_like.data.input import alternating, pipeline
from big_vision_like.data.sources import tfds
from big_vision_like.data.transforms import image, labels
from big_vision_like.evals import classification as evals
from big_vision_like.models import vit
from big_vision_like.spec import spec
from big_vision_like.tasks import classification, multi_task

TASKS = {'digit': 10, 'parity': 2}
SHARES = {'digit': 0.75, 'parity': 0.25}


def get_config() -> mlc.ConfigDict:
  c = mlc.ConfigDict(dict(seed=0, total_steps=4000, log_every=100, keep_last=1))
  c.train_data = spec(
    alternating.Alternating,
    inputs={
      name: spec(
        pipeline.TrainInput,
        source=spec(tfds.Tfds, name='digits', split='train'),
        transforms=[
          spec(image.Decode, channels=1),
          spec(image.RandomAffine, rotate=12.0, scale=0.12, shift=0.125),
          *labels_of(name),
        ],
        batch_size=64,
        seed=seed,
      )
      for seed, name in enumerate(TASKS)
    },
    shares=SHARES,
    seed=c.get_ref('seed'),
  )
  c.task = spec(
    multi_task.MultiTask,
    tasks={
      name: spec(classification.Classification, model=model(classes), optimizer=None)
      for name, classes in TASKS.items()
    },
    optimizer=spec(
      optim.adamw,
      rate=spec(
        optax.warmup_cosine_decay_schedule,
        init_value=0.0,
        peak_value=2e-3,
        warmup_steps=100,
        decay_steps=c.get_ref('total_steps'),
      ),
      weight_decay=0.05,
      clip_norm=1.0,
    ),
  )
  c.evals = {
    name: spec(
      evals.Accuracy,
      predict=f'{name}.predict',
      data=spec(
        pipeline.EvalInput,
        source=spec(tfds.Tfds, name='digits', split='test'),
        transforms=[spec(image.Decode, channels=1), *labels_of(name)],
        batch_size=128,
      ),
      every=1000,
    )
    for name in TASKS
  }
  return c


def model(classes: int) -> mlc.ConfigDict:
  return spec(
    vit.ViT,
    num_classes=classes,
    patch=2,
    width=48,
    depth=4,
    num_heads=4,
    mlp_dim=96,
    pool='gap',
  )


def labels_of(name: str) -> list[mlc.ConfigDict]:
  odd = [digit % 2 for digit in range(10)]
  return [spec(labels.Mapped, classes=odd)] if name == 'parity' else []
