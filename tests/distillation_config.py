"""The digits, learned from the labels and from the last state of another run."""

import os

import ml_collections as mlc
import optax

from big_vision_like import optim
from big_vision_like.models import vit
from big_vision_like.ops.augmentation import Augment
from big_vision_like.run import init_from
from big_vision_like.spec import spec
from big_vision_like.tasks import distillation
from tests import tiny_config


def get_config() -> mlc.ConfigDict:
  c = tiny_config.get_config()
  c.total_steps, c.log_every, c.checkpoint_every = 40, 5, 10
  teacher = c.task.model
  c.task = spec(
    distillation.Distillation,
    model=spec(
      vit.ViT, num_classes=10, patch=4, width=8, depth=1, num_heads=2, mlp_dim=16
    ),
    teacher=teacher,
    optimizer=spec(optim.adamw, rate=spec(optax.constant_schedule, value=1e-3)),
    augment=spec(Augment, mixup=0.2),
    ema=spec(optim.Ema, decay=0.9),
  )
  c.frozen = dict(
    teacher=spec(init_from.from_run, workdir=os.environ.get('TEACHER', 'teacher'))
  )
  return c
