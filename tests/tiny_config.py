"""A ViT of a few thousand parameters on the digits, with every option of a run."""

import ml_collections as mlc
import optax

from big_vision_like import optim
from big_vision_like.data.input import pipeline
from big_vision_like.data.sources import tfds
from big_vision_like.data.transforms import image
from big_vision_like.evals import classification
from big_vision_like.models import vit
from big_vision_like.ops.augmentation import Augment
from big_vision_like.spec import epochs, spec
from big_vision_like.tasks import classification as tasks


def get_config() -> mlc.ConfigDict:
  c = mlc.ConfigDict(dict(seed=0, total_steps=30, log_every=5, checkpoint_every=7))
  c.train_data = spec(
    pipeline.TrainInput,
    source=spec(tfds.Tfds, name='digits', split='train'),
    transforms=[
      spec(image.Decode, channels=1),
      spec(image.RandomAffine, rotate=10.0, shift=0.1),
    ],
    batch_size=32,
    seed=c.get_ref('seed'),
  )
  c.task = spec(
    tasks.Classification,
    model=spec(
      vit.ViT,
      num_classes=10,
      patch=2,
      width=16,
      depth=2,
      num_heads=2,
      mlp_dim=24,
      pool='token',
      dropout=0.1,
      drop_path=0.1,
    ),
    optimizer=spec(
      optim.adamw,
      rate=spec(
        optax.warmup_cosine_decay_schedule,
        init_value=0.0,
        peak_value=3e-3,
        warmup_steps=5,
        decay_steps=c.get_ref('total_steps'),
      ),
      weight_decay=0.05,
      clip_norm=1.0,
    ),
    augment=spec(Augment, mixup=0.2),
    ema=spec(optim.Ema, decay=0.99, warmup=True),
  )
  c.evals = dict(
    val=spec(
      classification.Accuracy,
      data=spec(
        pipeline.EvalInput,
        source=spec(tfds.Tfds, name='digits', split='test'),
        transforms=[spec(image.Decode, channels=1)],
        batch_size=128,
      ),
      every=epochs(0.5),
    )
  )
  return c
