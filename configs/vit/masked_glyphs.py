"""Masked patch prediction (arXiv:2010.11929 B.1.2) on drawn characters, without labels.

    python tools/prepare_data.py glyphs digits
    python -m big_vision_like.train --config=configs/vit/masked_glyphs.py \
        --workdir=runs/masked_glyphs

The ViT of pretrain_glyphs.py, with patches of 4x4, sees half of the 64 patches of a
character and predicts the mean grey level of the others, one of 8. `digits` is a linear
probe on scanned digits that pretraining never sees.
"""

import ml_collections as mlc
import optax

from big_vision_like import optim
from big_vision_like.data.input import pipeline
from big_vision_like.data.sources import tfds
from big_vision_like.data.transforms import image
from big_vision_like.evals import fewshot, pretraining
from big_vision_like.models import masked_vit
from big_vision_like.spec import spec
from big_vision_like.tasks import masked_patches


def get_config() -> mlc.ConfigDict:
  c = mlc.ConfigDict(dict(seed=0, total_steps=2600, log_every=100, keep_last=1))
  c.train_data = spec(
    pipeline.TrainInput,
    source=spec(tfds.Tfds, name='glyphs/32', split='train'),
    transforms=[spec(image.Decode, channels=1)],
    batch_size=128,
    seed=c.get_ref('seed'),
  )
  c.task = spec(
    masked_patches.MaskedPatches,
    model=spec(
      masked_vit.MaskedViT,
      num_classes=8,
      patch=4,
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
        peak_value=2e-3,
        warmup_steps=100,
        decay_steps=c.get_ref('total_steps'),
      ),
      weight_decay=0.05,
      clip_norm=1.0,
    ),
  )
  c.evals = dict(
    val=spec(
      pretraining.Filling,
      data=spec(
        pipeline.EvalInput,
        source=spec(tfds.Tfds, name='glyphs/32', split='test'),
        transforms=[spec(image.Decode, channels=1)],
        batch_size=256,
      ),
      every=500,
    ),
    digits=spec(fewshot.FewShot, train=digits('train'), data=digits('test'), every=500),
  )
  return c


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
