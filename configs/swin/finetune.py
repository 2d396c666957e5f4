"""Swin Transformer fine-tuned on ImageNet-1k, as in arXiv:2103.14030.

    python -m big_vision_like.train --config=configs/swin/finetune.py:B,384 \
        --workdir=runs/swin_finetune_b384

The argument is MODEL,SIZE[,i1k]. Weights are pre-trained on ImageNet-22k, or with `i1k`
on ImageNet-1k. Images of 224, 256, 320 or 384 pixels have windows of 7, 8, 10 or 12
tokens; the bias of a smaller window is resized. 30 epochs of batch 1,024: AdamW with
weight decay 1e-8, learning rate 4e-5 after a warm-up of 5 epochs, then a cosine to
4e-7, and the augmentation of i1k.py. This is the published code; the paper has a
constant learning rate.

Weights come from github.com/microsoft/Swin-Transformer, stored as
`weights/swin_base_patch4_window7_224_22k.pth` and so on. The head of ImageNet-1k starts
from 1,000 of the 21,841 rows of the head of ImageNet-22k: `weights/map22kto1k.txt`, a
file of the published code, lists their indices. To start with a random head instead:

    --config.init_from.weights.rows=None "--config.init_from.leave_out=('head/.*',)"

Expected top-1 of `B,224`, `B,384`, `L,224` and `L,384`: 85.2, 86.4, 86.3 and 87.3 %; of
`B,384,i1k`: 84.5 %. `python tools/paper_tables.py 2103.14030` prints the others. The
training time is unknown; `python -m big_vision_like.plan` estimates it.
"""

import ml_collections as mlc
import optax

from big_vision_like import optim
from big_vision_like.data import benchmarks
from big_vision_like.data.transforms import image
from big_vision_like.evals import classification
from big_vision_like.inference.preprocessing import IMAGENET_MEAN, IMAGENET_STD
from big_vision_like.models import swin
from big_vision_like.ops.augmentation import Augment
from big_vision_like.run import init_from
from big_vision_like.spec import arguments, epochs, spec
from big_vision_like.tasks import classification as tasks

ARGUMENTS = ('B,384', 'T,256,i1k')
# Names in published files, and drop path by the pre-training of the weights.
MODELS = {
  'T': ('tiny', dict(i22k=0.1, i1k=0.2)),
  'S': ('small', dict(i22k=0.2, i1k=0.3)),
  'B': ('base', dict(i22k=0.2, i1k=0.5)),
  'L': ('large', dict(i22k=0.2)),
}
SIZES = {'224': 224, '256': 256, '320': 320, '384': 384}


def get_config(argument: str = ARGUMENTS[0]) -> mlc.ConfigDict:
  arg = arguments(argument, model=MODELS, size=SIZES, weights=('i22k', 'i1k'))
  (name, drop_path), size = MODELS[arg.model], SIZES[arg.size]
  c = mlc.ConfigDict(dict(seed=0, total_steps=epochs(30), log_every=50))
  c.checkpoint_every = 1000
  c.init_from = spec(
    init_from.InitFrom, weights=pretrained(name, arg.weights), leave_out=()
  )
  c.train_data = benchmarks.IMAGENET.train_input(
    'train',
    benchmarks.deit_augmentation(size),
    batch_size=1024,
    seed=c.get_ref('seed'),
    workers=32,
  )
  c.task = spec(
    tasks.Classification,
    model=spec(
      swin.Swin,
      num_classes=1000,
      **swin.variant(f'{arg.model}/{size // 32}'),
      drop_path=drop_path[arg.weights],
      scan=True,
      remat='dots',
      dtype='bfloat16',
    ),
    label_smoothing=0.1,
    augment=spec(Augment, erasing=0.25, mixup=0.8, cutmix=1.0, partner='reversed'),
    mean=IMAGENET_MEAN,
    std=IMAGENET_STD,
    optimizer=spec(
      optim.adamw,
      rate=spec(
        optax.warmup_cosine_decay_schedule,
        init_value=4e-8,
        peak_value=4e-5,
        warmup_steps=epochs(5),
        decay_steps=c.get_ref('total_steps'),
        end_value=4e-7,
      ),
      weight_decay=1e-8,
      clip_norm=5.0,
    ),
  )
  c.evals = dict(
    test=spec(
      classification.Accuracy,
      data=benchmarks.IMAGENET.eval_input(
        'test', eval_transforms(size), batch_size=1024, workers=32
      ),
      every=epochs(1),
    )
  )
  return c


def pretrained(name: str, weights: str) -> mlc.ConfigDict:
  """Returns what reads the weights, with a head for ImageNet-1k either way."""
  stem = f'weights/swin_{name}_patch4_window7_224'
  if weights == 'i1k':
    return spec(init_from.from_file, path=f'{stem}.pth')
  return spec(
    init_from.with_classes,
    weights=spec(init_from.from_file, path=f'{stem}_22k.pth'),
    rows='weights/map22kto1k.txt',
  )


def eval_transforms(size: int) -> list[mlc.ConfigDict]:
  """Returns the central crop; at 384 pixels a resize of the whole image."""
  if size == 384:
    return [spec(image.Resize, size=size, method='pillow_bicubic')]
  return benchmarks.torch_crop(size)
