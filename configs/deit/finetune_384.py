"""DeiT fine-tuned on ImageNet-1k at 384 pixels, as in arXiv:2012.12877.

    python -m big_vision_like.train --config=configs/deit/finetune_384.py:B/16 \
        --workdir=runs/deit_b16_384

30 epochs of batch 512 from a run of i1k.py: AdamW, constant learning rate 5e-6 after
its warm-up, weight decay 1e-8, and the augmentation of i1k.py. Positions are resized
bicubically; the positions of the class token and of the distillation token are kept.

Expected top-1 of B/16: 83.1 % (82.9 % in the authors' README); distilled 84.5 %, or
85.2 % after 1,000 epochs at 224 pixels. The authors took 20 hours on 8 V100 for B/16
(from memory). Not trained here.

The argument is SIZE and, in any order, distilled_hard or distilled_soft (starts from
such a run and keeps its teacher), class_token_only, and 1000epochs (the length of the
run it starts from). To start from another run:

    --config.init_from.weights.workdir=RUN

To start from a published file such as deit_base_patch16_224-b5f2ef4d.pth, copy this
config and write `weights=spec(init_from.from_file, path=FILE)`.
"""

import ml_collections as mlc

from big_vision_like import optim
from big_vision_like.data import benchmarks
from big_vision_like.evals import classification, heads
from big_vision_like.inference.preprocessing import IMAGENET_MEAN, IMAGENET_STD
from big_vision_like.models import deit, regnet
from big_vision_like.ops.augmentation import Augment
from big_vision_like.run import init_from
from big_vision_like.spec import arguments, epochs, spec
from big_vision_like.tasks import classification as tasks
from big_vision_like.tasks import distillation

ARGUMENTS = ('B/16', 'B/16,distilled_hard,1000epochs')
SIZES = ('Ti/16', 'S/16', 'B/16')
SIDE, BATCH = 384, 512


def get_config(argument: str = ARGUMENTS[0]) -> mlc.ConfigDict:
  arg = arguments(
    argument,
    size=dict.fromkeys(SIZES),
    kind=('labels', 'distilled_hard', 'distilled_soft'),
    length=('300epochs', '1000epochs'),
    class_token_only=False,
  )
  learns_from_teacher = arg.kind != 'labels'
  has_token = learns_from_teacher and not arg.class_token_only
  c = mlc.ConfigDict(dict(seed=0, log_every=50, checkpoint_every=1000))
  c.total_steps = epochs(30)
  c.init_from = spec(
    init_from.InitFrom,
    weights=spec(init_from.from_run, workdir=f'runs/{run_of(arg)}'),
    leave_out=[],
  )
  c.train_data = benchmarks.IMAGENET.train_input(
    'train',
    benchmarks.deit_augmentation(SIDE),
    batch_size=BATCH,
    seed=c.get_ref('seed'),
    workers=32,
  )
  c.train_data.repeats = 3
  common = dict(
    model=spec(
      deit.DeiT,
      num_classes=1000,
      **deit.variant(arg.size),
      distilled=has_token,
      drop_path=0.1,
      scan=True,
      remat='dots',
      dtype='bfloat16',
    ),
    mean=IMAGENET_MEAN,
    std=IMAGENET_STD,
    label_smoothing=0.1,
    augment=spec(Augment, erasing=0.25, mixup=0.8, cutmix=1.0, partner='reversed'),
    optimizer=spec(
      optim.adamw,
      rate=spec(
        optim.per_epoch_cosine,
        peak_value=5e-6 / 512 * BATCH,
        total_steps=c.get_ref('total_steps'),
        epoch_steps=epochs(1),
        warmup_steps=epochs(5),
        warmup_value=1e-6,
        end_value=5e-6,
      ),
      weight_decay=1e-8,
      decay_rules=spec(optim.decay_weights, exempt=['cls', 'pos_embedding']),
    ),
  )
  if learns_from_teacher:
    soft = dict(kind='soft', weight=0.1, temperature=3.0)
    c.task = spec(
      distillation.Distillation,
      teacher=spec(regnet.RegNet, num_classes=1000, **regnet.variant('Y-16GF')),
      **(soft if arg.kind == 'distilled_soft' else dict(kind='hard', weight=0.5)),
      **common,
    )
    c.frozen = dict(
      teacher=spec(init_from.from_file, path='weights/regnety_160-a5fe301d.pth')
    )
  else:
    c.task = spec(tasks.Classification, **common)
  seen = benchmarks.torch_crop(SIDE)
  accuracy = heads.HeadsAccuracy if has_token else classification.Accuracy
  data = benchmarks.IMAGENET.eval_input('test', seen, BATCH, workers=32)
  c.evals = dict(
    test=spec(accuracy, data=data, every=epochs(5)),
    real=spec(
      classification.RealAccuracy, data=benchmarks.imagenet_real(seen, BATCH, 32)
    ),
    v2=spec(
      classification.Accuracy,
      data=benchmarks.IMAGENET_V2.eval_input('test', seen, BATCH, workers=32),
    ),
  )
  return c


def run_of(arg: object) -> str:
  """Returns the name of the run of i1k.py to start from."""
  parts = [f'deit_{arg.size.lower().replace("/", "")}']
  if arg.kind != 'labels':
    parts.append(arg.kind)
  if arg.class_token_only:
    parts.append('class_token_only')
  if arg.length != '300epochs':
    parts.append(arg.length)
  return '_'.join(parts)
