"""ViTs and hybrids with more augmentation or regularisation, arXiv:2106.10270.

    python -m big_vision_like.train --config=configs/vit/augreg.py:B/16,i21k \
        --workdir=runs/augreg_b16_i21k

The argument is MODEL,DATA[,AUGMENTATION[,REGULARISATION]], the paper's whole grid:

- MODEL: Ti/16, S/32, S/16, B/32, B/16, L/16, R+Ti/16, R26+S/32 or R50+L/32;
- DATA: i21k (ImageNet-21k, which you prepare as i21k.py describes) or i1k
  (ImageNet-1k);
- AUGMENTATION: none, light1, light2, medium1, medium2, strong1 or strong2, a magnitude
  of RandAugment and an alpha of mixup. The default is the setting of
  google-research/big_vision for the model (for a hybrid, for the ViT of its size);
- REGULARISATION: wd0.1 or wd0.03, the weight decay (multiplied by the learning rate);
  wd0.1-drop or wd0.03-drop add dropout 0.1 and stochastic depth 0.1 (the rate of the
  last block; earlier blocks have lower rates).

300 epochs of batch 4,096 at 224 pixels, learning rate 1e-3 with a cosine schedule;
`--config.total_steps.epochs=30.0` is the paper's short run on ImageNet-21k. Class token
and sigmoid loss; on ImageNet-1k with the tanh layer before the head, as in big_vision.

Expected top-1 of the best B/16, fine-tuned on ImageNet at 384 pixels
(transfer.py:imagenet,B/16,augreg): 85.49 %. `python tools/paper_tables.py 2106.10270`
prints the other models. The training time is unknown; `python -m big_vision_like.plan`
estimates it.
"""

import ml_collections as mlc
import optax

from big_vision_like import optim
from big_vision_like.data import benchmarks
from big_vision_like.data.transforms import image, randaugment
from big_vision_like.evals import classification
from big_vision_like.models import vit
from big_vision_like.ops.augmentation import Augment
from big_vision_like.spec import arguments, epochs, spec
from big_vision_like.tasks import classification as tasks

ARGUMENTS = (
  'B/16,i21k',
  'S/16,i1k',
  'B/32,i1k,strong2,wd0.03-drop',
  'R+Ti/16,i1k,none',
  'R50+L/32,i21k,medium1,wd0.03',
)
# Default augmentation of each model on ImageNet-21k and on ImageNet-1k.
MODELS = {
  'Ti/16': ('none', 'light1'),
  'S/32': ('none', 'medium1'),
  'S/16': ('light1', 'medium2'),
  'B/32': ('light2', 'medium2'),
  'B/16': ('light2', 'medium2'),
  'L/16': ('medium2', 'medium2'),
  'R+Ti/16': ('none', 'light1'),
  'R26+S/32': ('none', 'medium1'),
  'R50+L/32': ('medium2', 'medium2'),
}
# Images, training part, head bias, whether there is a tanh layer, evaluated parts.
DATA = {
  'i21k': (benchmarks.IMAGENET21K, 'train', -10.0, False, ('val',)),
  'i1k': (benchmarks.IMAGENET, 'fit', -6.9, True, ('val', 'test')),
}
# Magnitude of RandAugment (None: not used; 0 still changes images), alpha of mixup.
AUGMENTATIONS = {
  'none': (None, 0.0),
  'light1': (0, 0.0),
  'light2': (10, 0.2),
  'medium1': (15, 0.2),
  'medium2': (15, 0.5),
  'strong1': (20, 0.5),
  'strong2': (20, 0.8),
}
# Weight decay; rate of dropout and of stochastic depth.
REGULARISATIONS = {
  'wd0.1': (0.1, 0.0),
  'wd0.03': (0.03, 0.0),
  'wd0.1-drop': (0.1, 0.1),
  'wd0.03-drop': (0.03, 0.1),
}


def get_config(argument: str = ARGUMENTS[0]) -> mlc.ConfigDict:
  arg = arguments(
    argument,
    model=MODELS,
    data=DATA,
    augmentation=('', *AUGMENTATIONS),
    regularisation=tuple(REGULARISATIONS),
  )
  images, part, head_bias, with_rep, evaluated = DATA[arg.data]
  default = MODELS[arg.model][list(DATA).index(arg.data)]
  magnitude, mixup = AUGMENTATIONS[arg.augmentation or default]
  weight_decay, drop = REGULARISATIONS[arg.regularisation]
  sizes = vit.variant(arg.model)
  c = mlc.ConfigDict(dict(seed=0, log_every=50, checkpoint_every=1000))
  c.keep_every = 50_000
  c.total_steps = epochs(300)
  transforms = [spec(image.InceptionCrop, size=224), spec(image.Flip)]
  if magnitude is not None:
    transforms.append(spec(randaugment.RandAugment, layers=2, magnitude=magnitude))
  c.train_data = images.train_input(
    part, transforms, batch_size=4096, seed=c.get_ref('seed'), workers=32
  )
  c.task = spec(
    tasks.Classification,
    model=spec(
      vit.ViT,
      num_classes=images.num_classes,
      **sizes,
      rep_size=sizes['width'] if with_rep else 0,
      head_bias=head_bias,
      dropout=drop,
      drop_path=drop,
      scan=True,
      remat='dots',
      dtype='bfloat16',
    ),
    loss_type='sigmoid',
    optimizer=spec(
      optim.adamw,
      rate=spec(
        optax.warmup_cosine_decay_schedule,
        init_value=0.0,
        peak_value=1e-3,
        warmup_steps=10_000,
        decay_steps=c.get_ref('total_steps'),
      ),
      weight_decay=weight_decay,
      clip_norm=1.0,
      mu_dtype='bfloat16',
    ),
    augment=spec(Augment, mixup=mixup),
  )
  c.evals = {
    name: spec(
      classification.Accuracy,
      data=images.eval_input(
        name,
        [spec(image.ResizeSmall, size=256), spec(image.CentralCrop, size=224)],
        batch_size=4096,
        workers=32,
      ),
      every=5000,
    )
    for name in evaluated
  }
  return c
