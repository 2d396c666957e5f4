"""Published weights fine-tuned to classify your own images.

    python -m big_vision_like.train \
        --config=configs/vit/finetune.py:data/birds,weights/ViT-B_16.npz \
        --workdir=runs/birds

The argument is FOLDER,WEIGHTS. It may be followed by another side of images than the
weights have (`data/birds,weights/ViT-B_16.npz,384`), and by `plain`. WEIGHTS is any
classifier that docs/weights.md lists (ViT, BiT, DeiT, Swin, ResNet, ...) or the folder
of a run; the default is weights/ViT-B_16.npz. FOLDER holds a folder of images for each
class, or folders `train` and `val` (and maybe `test`) that hold such folders. Of images
that are not split, a fifth of each class is held out for validation, by a seed. The
config reads the model and its preprocessing from WEIGHTS and the classes from FOLDER,
and prints them. docs/finetuning.md describes the steps after training.

The recipe is AdamW with a learning rate of 1e-4, ten times higher for the new head, for
20 epochs of batch 32, but at least 200 steps. The rate warms up for a tenth of the
steps and then follows a cosine. Training crops cover a quarter of the image or more,
and half of them are mirrored. `plain` uses whole images without mirroring, for classes
that a crop or a mirror image changes, such as letters. On an accelerator, add
`--config.task.model.dtype=bfloat16`; to save memory, `--config.task.accumulate=4`.

There is no published number, since the images are yours.
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
  if argument == ARGUMENTS[0] and not os.path.exists(folder):  # only to plan a run
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
        f' {folder},FILE (docs/weights.md lists the published files)'
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
  """Returns the folder, the weights, the side of images, and whether `plain` is given.

  The side is None if the argument has none. Names of folders may contain commas.
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
  """Returns a ViT-B/16 for ImageNet's classes, used while the folder does not exist."""
  heads = ('head/.*',)
  model = spec(
    vit.ViT, num_classes=1000, **vit.variant('B/16'), scan=True, remat='dots'
  )
  weights = spec(init_from.from_file, path=WEIGHTS)
  return finetuning.Start(model, weights, Preprocessing((224, 224)), heads, heads)
