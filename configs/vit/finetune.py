"""Published weights fine-tuned to classify your own images.

    python -m big_vision_like.train \
        --config=configs/vit/finetune.py:data/birds,weights/ViT-B_16.npz \
        --workdir=runs/birds

The argument is FOLDER,WEIGHTS and, if wanted, the side of images where it differs from
the weights' (`data/birds,weights/ViT-B_16.npz,384`) and `plain`. WEIGHTS may be any
classifier that docs/weights.md lists (ViT, BiT, DeiT, Swin, ResNet, ...), or the folder
of a run; without them weights/ViT-B_16.npz is taken. FOLDER holds a folder of images
for each class, or `train` and `val` (and maybe `test`) with such folders; otherwise a
fifth of each class is held out for validation, by a seed. The model, its images and the
classes are read from both, and printed. docs/finetuning.md describes the steps after
training.

AdamW with a rate of 1e-4, ten times that for the new head, for 20 epochs of batch 32,
but at least 200 steps; a cosine after a warm-up of a tenth. Training crops have a
quarter of the image or more, and half of them are mirrored; `plain` takes whole images
as they are, for data whose class a crop or a mirror changes, such as letters. On an
accelerator add `--config.task.model.dtype=bfloat16`; where memory is short,
`--config.task.accumulate=4`.

No published number: the images are yours.
"""

import math
import os
import re

import ml_collections as mlc
import optax

from big_vision_like import optim
from big_vision_like.data.input import pipeline
from big_vision_like.data.sources import own_images
from big_vision_like.errors import UserError
from big_vision_like.evals import classification
from big_vision_like.inference import finetuning
from big_vision_like.inference.classes import Preprocessing
from big_vision_like.models import vit
from big_vision_like.run import init_from
from big_vision_like.spec import epochs, spec
from big_vision_like.tasks import classification as tasks

ARGUMENTS = ('data/images,weights/ViT-B_16.npz',)
WEIGHTS = ARGUMENTS[0].split(',')[1]
BATCH, EPOCHS, LEAST_STEPS = 32, 20, 200


def get_config(argument: str = ARGUMENTS[0]) -> mlc.ConfigDict:
  folder, weights, size, plain = parsed(argument)
  if argument == ARGUMENTS[0] and not os.path.exists(folder):  # to be planned
    parts = {part: dict(path=folder, part=part) for part in ('train', 'val')}
    start, rounds, num_classes = planned(), EPOCHS, 1000
  else:
    parts = own_images.parts_of(folder)
    counts = {part: own_images.count(**own) for part, own in parts.items()}
    classes = parts['train']['classes']
    finetuning.tell_data(counts, classes)
    if weights == WEIGHTS and not os.path.exists(weights):
      raise UserError(
        f'{weights} does not exist: name other weights after the folder, as in'
        f' {folder},FILE (docs/weights.md lists which can be used)'
      )
    num_classes = len(classes)
    start = finetuning.start(weights, num_classes, size, scan=True, remat='dots')
    rounds = max(EPOCHS, math.ceil(LEAST_STEPS * BATCH / counts['train']))
  c = mlc.ConfigDict(dict(seed=0, total_steps=epochs(rounds), log_every=20))
  c.checkpoint_every, c.keep_best = epochs(rounds / 10), 'val/top1'
  c.init_from = start.init_from
  c.train_data = spec(
    pipeline.TrainInput,
    source=spec(own_images.OwnImages, **parts['train']),
    transforms=start.eval_transforms() if plain else start.train_transforms(),
    batch_size=BATCH,
    seed=c.get_ref('seed'),
    threads=8,
  )
  c.task = spec(
    tasks.Classification,
    model=start.model,
    mean=start.images.mean,
    std=start.images.std,
    optimizer=spec(
      optim.adamw,
      rate=spec(
        optax.warmup_cosine_decay_schedule,
        init_value=0.0,
        peak_value=1e-4,
        warmup_steps=epochs(rounds / 10),
        decay_steps=c.get_ref('total_steps'),
      ),
      weight_decay=0.05,
      clip_norm=1.0,
      rate_rules=[(head, 10.0) for head in start.heads],
    ),
  )
  c.evals = {
    part: spec(
      classification.Accuracy,
      data=spec(
        pipeline.EvalInput,
        source=spec(own_images.OwnImages, **own),
        transforms=start.eval_transforms(),
        batch_size=BATCH,
        threads=8,
      ),
      every=epochs(rounds / 10) if part == 'val' else 0,
    )
    for part, own in parts.items()
    if part != 'train'
  }
  return c


def parsed(argument: str) -> tuple[str, str, int | None, bool]:
  """Returns the folder, the weights, the side of images (None: theirs), and `plain`.

  Folders may have commas in their names.
  """
  size, plain = None, False
  while found := re.fullmatch(r'(.+),([1-9]\d*|plain)', argument):
    argument, word = found.groups()
    plain = plain or word == 'plain'
    size = size if word == 'plain' else int(word)
  if os.path.isdir(os.path.expanduser(argument)) or ',' not in argument:
    return argument, WEIGHTS, size, plain
  folder, _, weights = argument.rpartition(',')
  return folder, weights, size, plain


def planned() -> finetuning.Start:
  """Returns a ViT-B/16 of ImageNet's classes, where no folder is there yet."""
  heads = ('head/.*',)
  model = spec(
    vit.ViT, num_classes=1000, **vit.variant('B/16'), scan=True, remat='dots'
  )
  weights = spec(init_from.from_file, path=WEIGHTS)
  return finetuning.Start(model, weights, Preprocessing((224, 224)), heads, heads)
