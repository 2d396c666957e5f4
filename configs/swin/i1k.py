"""Swin Transformer trained on ImageNet-1k from scratch, as in arXiv:2103.14030.

    python -m big_vision_like.train --config=configs/swin/i1k.py:T \
        --workdir=runs/swin_i1k_t

300 epochs of batch 1,024 at 224 pixels. AdamW with weight decay 0.05, learning rate
1e-3 after a warm-up of 20 epochs, then a cosine to 1e-5, gradients clipped to a norm of
5 (as in the published code; 1 in the paper), RandAugment, mixup, CutMix, random
erasing, no average of the weights. C24, a variant of the published code with 4 heads in
the first stage, is trained at 256 pixels with windows of 8.

Expected top-1 of T, S and B at the end: 81.3, 83.0 and 83.5 % (81.2, 83.2 and 83.5 % in
the README of the published code, which also has 81.6 % for C24). A second word selects
a row of table 4: `T,unshifted` 80.2 %, or other positions: `T,none` 80.1 %,
`T,absolute` 80.5 %, `T,both` 81.3 %, `T,without_content` 79.3 %. `python
tools/paper_tables.py 2103.14030` prints them all. The training time is unknown; `python
-m big_vision_like.plan` estimates it.
"""

import ml_collections as mlc
import optax

from big_vision_like import optim
from big_vision_like.data import benchmarks
from big_vision_like.evals import classification
from big_vision_like.inference.preprocessing import IMAGENET_MEAN, IMAGENET_STD
from big_vision_like.models import swin
from big_vision_like.ops.augmentation import Augment
from big_vision_like.spec import arguments, epochs, spec
from big_vision_like.tasks import classification as tasks

ARGUMENTS = ('T', 'T,without_content')
# Drop path by model.
MODELS = {'T': 0.2, 'S': 0.3, 'B': 0.5, 'C24': 0.2}
POSITIONS = ('relative', *(p for p in swin.POSITIONS if p != 'relative'))


def get_config(argument: str = ARGUMENTS[0]) -> mlc.ConfigDict:
  arg = arguments(argument, model=MODELS, posemb=POSITIONS, unshifted=False)
  name, size = ('C24/8', 256) if arg.model == 'C24' else (arg.model, 224)
  c = mlc.ConfigDict(dict(seed=0, total_steps=epochs(300), log_every=50))
  c.checkpoint_every = 1000
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
      **swin.variant(name),
      posemb=arg.posemb,
      shifted=not arg.unshifted,
      drop_path=MODELS[arg.model],
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
        init_value=1e-6,
        peak_value=1e-3,
        warmup_steps=epochs(20),
        decay_steps=c.get_ref('total_steps'),
        end_value=1e-5,
      ),
      weight_decay=0.05,
      clip_norm=5.0,
    ),
  )
  c.evals = dict(
    test=spec(
      classification.Accuracy,
      data=benchmarks.IMAGENET.eval_input(
        'test',
        benchmarks.torch_crop(size),
        batch_size=1024,
        workers=32,
      ),
      every=epochs(5),
    )
  )
  return c
