"""A small ViT pre-trained on drawn characters of 62 classes, as in `make train`.

    python tools/prepare_data.py glyphs digits
    python -m big_vision_like.train --config=configs/vit/pretrain_glyphs.py \
        --workdir=runs/pretrain_glyphs

313,118 parameters (4 layers, width 96, patches of 8x8 in images of 32x32), 2,600 steps
of batch 128. Expected top-1: 96.2 % of 4,960 test characters, seed 0. Linear probes on
handwritten digits are evaluated along the way. Takes about 2 minutes on two CPU cores.
"""

import ml_collections as mlc
import optax

from big_vision_like import optim
from big_vision_like.data.input import pipeline
from big_vision_like.data.sources import tfds
from big_vision_like.data.transforms import image
from big_vision_like.evals import classification, fewshot
from big_vision_like.models import vit
from big_vision_like.spec import epochs, spec
from big_vision_like.tasks import classification as tasks


def get_config() -> mlc.ConfigDict:
  c = mlc.ConfigDict(dict(seed=0, total_steps=2600, log_every=100, keep_last=1))
  c.checkpoint_every = 500
  c.train_data = spec(
    pipeline.TrainInput,
    source=spec(tfds.Tfds, name='glyphs/32', split='train'),
    transforms=[spec(image.Decode, channels=1)],
    batch_size=128,
    seed=c.get_ref('seed'),
  )
  c.task = spec(
    tasks.Classification,
    model=spec(
      vit.ViT,
      num_classes=62,
      patch=8,
      width=96,
      depth=4,
      num_heads=4,
      mlp_dim=192,
      pool='gap',
    ),
    optimizer=spec(
      optim.adamw,
      rate=spec(
        optax.warmup_cosine_decay_schedule,
        init_value=0.0,
        peak_value=3e-3,
        warmup_steps=100,
        decay_steps=c.get_ref('total_steps'),
      ),
      weight_decay=0.05,
      clip_norm=1.0,
    ),
  )
  c.evals = dict(
    val=spec(classification.Accuracy, data=glyphs_test(), every=epochs(1)),
    digits=spec(
      fewshot.FewShot, train=digits('train'), data=digits('test'), every=epochs(1)
    ),
  )
  return c


def glyphs_test() -> mlc.ConfigDict:
  return spec(
    pipeline.EvalInput,
    source=spec(tfds.Tfds, name='glyphs/32', split='test'),
    transforms=[spec(image.Decode, channels=1)],
    batch_size=256,
  )


def digits(split: str) -> mlc.ConfigDict:
  """Returns real handwritten digits, 8x8 scans resized to the size of the glyphs."""
  return spec(
    pipeline.EvalInput,
    source=spec(tfds.Tfds, name='digits', split=split),
    transforms=[
      spec(image.Decode, channels=1),
      spec(image.Resize, size=32, method='bicubic'),
    ],
    batch_size=256,
  )
