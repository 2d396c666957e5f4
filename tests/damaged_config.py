"""A ViT on a folder of pictures, FOLDER/CLASS/FILE, some of which may be damaged."""

import os

import ml_collections as mlc

from big_vision_like import optim
from big_vision_like.data.input import pipeline
from big_vision_like.data.sources import folders
from big_vision_like.data.transforms import image, labels
from big_vision_like.models import vit
from big_vision_like.spec import spec
from big_vision_like.tasks import classification


def get_config() -> mlc.ConfigDict:
  c = mlc.ConfigDict(dict(seed=0, total_steps=12, log_every=6, checkpoint_every=6))
  c.train_data = spec(
    pipeline.TrainInput,
    source=spec(folders.Folder, path=os.environ['PICTURES']),
    transforms=[
      spec(image.DecodeCrop, crop=spec(image.InceptionCrop, size=8)),
      spec(labels.InRange, classes=2),
      spec(labels.Keep),
    ],
    batch_size=8,
    workers=1,
    bad_share=0.1,
  )
  c.task = spec(
    classification.Classification,
    model=spec(
      vit.ViT,
      num_classes=2,
      patch=4,
      width=8,
      depth=1,
      num_heads=2,
      mlp_dim=8,
    ),
    optimizer=spec(optim.adamw, rate=1e-3),
  )
  return c
