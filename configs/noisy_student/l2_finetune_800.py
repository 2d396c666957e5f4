"""EfficientNet-L2 of Noisy Student fine-tuned at 800 pixels, arXiv:1911.04252.

    python -m big_vision_like.train --config=configs/noisy_student/l2_finetune_800.py \
        --workdir=runs/ns_l2_800

1.5 epochs of batch 2,048 on labelled images without augmentation (the evaluation crop).
Starts from the running average of `i1k.py:L2,iter3`, in runs/ns_l2_iter3, at the last
learning rate of its schedule, with shallow layers frozen. Which layers is not
published; here they are the stem and the first five stages.

Expected top-1: 88.4 %, from 88.2 % at 475 pixels. The training time is unknown; `python
-m big_vision_like.plan` estimates it.
"""

import ml_collections as mlc
import optax

from big_vision_like import optim
from big_vision_like.data import benchmarks
from big_vision_like.data.transforms import image
from big_vision_like.evals import classification
from big_vision_like.inference.preprocessing import IMAGENET_MEAN, IMAGENET_STD
from big_vision_like.models import efficientnet
from big_vision_like.run import init_from
from big_vision_like.spec import epochs, spec
from big_vision_like.tasks import classification as tasks

SHALLOW = '(stem|stage[1-5])/.*'
# The last of 350 epochs of a rate that starts at 0.128 and falls 3 % every 2.4 epochs.
LAST_RATE = 0.128 * 0.97 ** int(350 / 2.4)


def get_config() -> mlc.ConfigDict:
  c = mlc.ConfigDict(dict(seed=0, log_every=50, checkpoint_every=200))
  c.total_steps = epochs(1.5)
  clean = [spec(image.EfficientNetCentralCrop, size=800)]
  c.train_data = benchmarks.IMAGENET.train_input(
    'train', clean, batch_size=2048, seed=c.get_ref('seed'), workers=32
  )
  size = efficientnet.size_of('L2')
  c.task = spec(
    tasks.Classification,
    model=spec(
      efficientnet.EfficientNet,
      num_classes=1000,
      **efficientnet.variant('L2'),
      dropout=size.dropout,
      drop_path=0.2,
      norm_groups=8,
      remat='full',
      dtype='bfloat16',
    ),
    optimizer=spec(
      optim.rmsprop_tf,
      rate=[
        (SHALLOW, None),
        ('.*', spec(optax.constant_schedule, value=LAST_RATE)),
      ],
      l2=1e-5,
      l2_rules=[('.*/norm/.*', 0.0), ('.*', 1.0)],
    ),
    label_smoothing=0.1,
    ema=spec(optim.Ema, decay=0.9999, warmup=True, first_step=1),
    mean=IMAGENET_MEAN,
    std=IMAGENET_STD,
  )
  c.init_from = spec(
    init_from.InitFrom,
    weights=spec(init_from.from_run, workdir='runs/ns_l2_iter3'),
    leave_out=(),
  )
  c.evals = dict(
    test=spec(
      classification.Accuracy,
      data=benchmarks.IMAGENET.eval_input('test', clean, 1024, workers=32),
    ),
    real=spec(
      classification.RealAccuracy,
      data=benchmarks.imagenet_real(clean, 1024, workers=32),
    ),
  )
  return c
