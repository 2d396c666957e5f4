"""DETR fine-tuned on your own objects, from the weights published for COCO.

    python -m big_vision_like.train \
        --config=configs/detr/finetune.py:data/birds,weights/detr-r50-e632da11.pth \
        --workdir=runs/birds

The argument is FOLDER,WEIGHTS. FOLDER holds annotations in COCO's format for training
and validation: `train.json` and `val.json` with their images in `train` and `val`, or
the layout of COCO or Roboflow (`data/sources/coco_folder.py`). Classes are its
categories in the order of their ids. The number of classes comes from the folder, the
model and the normalization from the weights; all are printed.

WEIGHTS is a DETR of facebookresearch or transformers (docs/weights.md), R50 or R101,
dilated (DC5) or not, by default weights/detr-r50-e632da11.pth. The classification head
is newly initialized; all other parameters continue from the weights, with the learning
rates of coco.py: 50 epochs of batch 16, times 0.1 after 40. `keep_best` keeps the
checkpoint with the best AP. From random weights, DETR finds nothing for a hundred
epochs of a small folder.

Not trained here, so there is no number to expect. A step costs as much as one of
coco.py with 16 images; 1,000 images take 3,125 steps in all. If memory is short, use
`--config.task.accumulate=4`.
"""

import dataclasses
import os

import ml_collections as mlc

from big_vision_like import optim
from big_vision_like.data import benchmarks
from big_vision_like.data.sources import coco, coco_folder
from big_vision_like.evals import detection as evals
from big_vision_like.inference import finetuning
from big_vision_like.inference.objects import DetectionPreprocessing
from big_vision_like.models import detr, resnet
from big_vision_like.run import init_from
from big_vision_like.spec import epochs, spec
from big_vision_like.tasks import set_detection

ARGUMENTS = ('data/objects,weights/detr-r50-e632da11.pth',)
WEIGHTS = ARGUMENTS[0].split(',')[1]


def get_config(argument: str = ARGUMENTS[0]) -> mlc.ConfigDict:
  folder, weights = parsed(argument)
  if argument == ARGUMENTS[0] and not os.path.exists(folder):  # to be planned
    parts, start = placed(folder), planned()
  else:
    parts = coco_folder.parts_of(folder)
    sources = {part: coco.Coco(**own) for part, own in parts.items()}
    counts = {part: len(source) for part, source in sources.items()}
    classes = sources['train'].category_names
    finetuning.tell_data(counts, classes)
    start = finetuning.start(weights, len(classes))
    start.model.dropout = 0.1
    start.model.backbone.frozen_stages = 1
  recorded = {part: spec(coco.Coco, **own) for part, own in parts.items()}
  data = dataclasses.replace(benchmarks.DETECTION['coco'], parts=recorded, ids=None)
  c = mlc.ConfigDict(dict(seed=0, log_every=50, checkpoint_every=epochs(1)))
  c.total_steps, c.keep_best = epochs(50), 'val/AP'
  c.train_data = data.train_input(16, seed=c.get_ref('seed'))
  c.init_from = start.init_from
  c.task = spec(
    set_detection.Detection,
    model=start.model,
    mean=start.images.mean,
    std=start.images.std,
    optimizer=spec(
      optim.adamw,
      rate=spec(optim.step_decay, peak_value=1e-4, every=epochs(40)),
      weight_decay=1e-4,
      clip_norm=0.1,
      decay_rules=(('.*', 1.0),),
      rate_rules=(
        ('backbone/(conv_root|stage1/.*)/kernel', 0.0),
        ('backbone/.*', 0.1),
      ),
    ),
  )
  c.evals = dict(val=spec(evals.CocoAP, data=data.eval_input(16), every=epochs(1)))
  return c


def parsed(argument: str) -> tuple[str, str]:
  """Returns the folder and the weights; folders may have commas in their names."""
  if os.path.isdir(os.path.expanduser(argument)) or ',' not in argument:
    return argument, WEIGHTS
  folder, _, weights = argument.rpartition(',')
  return folder, weights


def placed(folder: str) -> dict[str, dict[str, str]]:
  """Returns where annotations and images are expected."""
  return {
    part: dict(annotations=f'{folder}/{part}.json', images=f'{folder}/{part}')
    for part in ('train', 'val')
  }


def planned() -> finetuning.Start:
  """Returns the DETR of COCO's classes, where no folder is there yet."""
  backbone = spec(
    resnet.ResNet, **resnet.variant('R50'), norm='frozen', frozen_stages=1
  )
  model = spec(detr.DETR, num_classes=80, backbone=backbone, dropout=0.1)
  weights = spec(init_from.from_file, path=WEIGHTS)
  heads = ('class_head/.*',)
  return finetuning.Start(model, weights, DetectionPreprocessing(), heads, heads)
