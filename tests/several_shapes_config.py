"""A tiny DETR on a stand-in for COCO, with batches of three shapes."""

import ml_collections as mlc

from big_vision_like import optim
from big_vision_like.data.input import pipeline
from big_vision_like.data.sources import planned
from big_vision_like.data.transforms import boxes, image, labels
from big_vision_like.models import detr, resnet
from big_vision_like.spec import spec
from big_vision_like.tasks import set_detection

SHAPES = ((32, 48), (48, 32), (48, 48))


def get_config() -> mlc.ConfigDict:
  c = mlc.ConfigDict(dict(total_steps=100))
  c.train_data = spec(
    pipeline.TrainInput,
    source=spec(planned.Pictures, name='coco/2017', examples=300),
    batch_size=8,
    transforms=[
      spec(image.Decode),
      spec(boxes.Objects),
      spec(labels.Keep, names=('image', 'boxes', 'box_labels', 'dropped')),
      spec(boxes.RandomResizeShort, sizes=(24, 32), longest=48),
      spec(boxes.Pad, sizes=SHAPES, max_boxes=9),
    ],
  )
  backbone = spec(
    resnet.ResNet, depths=(1,), bottleneck=False, root=8, channels=(8,), norm='frozen'
  )
  sizes = dict(width=16, encoder_depth=0, decoder_depth=1, num_heads=2, mlp_dim=16)
  c.task = spec(
    set_detection.Detection,
    model=spec(detr.DETR, num_classes=80, backbone=backbone, num_queries=9, **sizes),
    optimizer=spec(optim.momentum, rate=0.1),
  )
  return c
