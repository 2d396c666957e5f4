"""UniT on up to eight data sets, arXiv:2102.10772: the models of tables 1 to 3.

    python -m big_vision_like.train --config=configs/unit/published.py:all8_shared \
        --workdir=runs/unit_all8

Tasks are named as in mmf. `coco_single`, `vg_single`, `vqa2_single`, `snli_ve_single`,
`qnli_single`, `mnli_single`, `qqp_single` and `sst2_single` train one (150,000 steps);
`coco_vqa2_shared` and `vg_vqa2_shared` two (300,000), `coco_vg_vqa2_shared` and
`coco_vg_vqa2_separate` three (450,000), `all8_shared`, `all8_separate` and
`all8_shared_no_task_token` all (500,000). In models that end in `separate`, each task
has its own decoder. A second word `coco_init`, as in `all8_shared,coco_init`, starts
from the run of `coco_single` in runs/unit_coco_single; `zoo` starts from a model of
mmf's zoo with the same tasks, stored as weights/unit.pth.

Each step trains one task: of eight tasks in the shares of `SHARES`, of two or three
equally often. AdamW, learning rate 5e-5 (backbone: 1e-5), 2,000 steps of warm-up,
cosine decay to 0; weight decay 1e-4 of all parameters; gradients clipped to 0.1; batch
64. Runs on two or three tasks with a shared decoder skip parameters without a gradient,
as published. A dilated ResNet-50 starts from DETR-DC5, stored as
weights/detr-r50-dc5-f0fb7ef5.pth, and the text encoder from BERT, stored in
weights/bert-base-uncased.

Data (docs/unit.md): COCO 2017 and GLUE of TFDS; Visual Genome, converted, in
data/visual_genome; VQA v2 in data/vqa and SNLI-VE in data/snli_ve as read by
`data/sources`, with images of COCO 2017 and Flickr30k. VQA and Visual Genome are split
as COCO 2017 is.

Expected for `all8_shared,coco_init`: COCO AP 39.0 %, VG AP 3.29 %, VQA 66.97 %
(test-dev), SNLI-VE 73.16 %, QNLI 87.95 %, MNLI-mm 80.91 %, QQP 90.64 %, SST-2 89.29 %;
`python tools/paper_tables.py 2102.10772` prints the others. The paper trains on 64
GPUs, one image each. Not trained here.
"""

import ml_collections as mlc
import optax

from big_vision_like import optim
from big_vision_like.data import benchmarks, language_vision
from big_vision_like.data.input import alternating, pipeline
from big_vision_like.data.sources import (
  about_images,
  coco,
  coco_classes,
  glue,
  statements,
  tfds,
  vqa,
)
from big_vision_like.data.transforms import attributes, boxes, image, labels, questions
from big_vision_like.evals import answering, detection
from big_vision_like.evals import classification as evals
from big_vision_like.models import bert, resnet, unit
from big_vision_like.run import init_from
from big_vision_like.spec import arguments, spec
from big_vision_like.tasks import multi_task, set_detection
from big_vision_like.tasks import unit as tasks

# The share of steps of each task, if there are eight; fewer have equal shares.
SHARES = {
  'detection_coco': 0.20,
  'detection_visual_genome': 0.07,
  'visual_entailment': 0.12,
  'vqa2': 0.26,
  'glue_qnli': 0.10,
  'glue_mnli_mismatched': 0.10,
  'glue_qqp': 0.10,
  'glue_sst2': 0.05,
}
SHORT = {
  'coco': 'detection_coco',
  'vg': 'detection_visual_genome',
  'vqa2': 'vqa2',
  'snli_ve': 'visual_entailment',
  'qnli': 'glue_qnli',
  'mnli': 'glue_mnli_mismatched',
  'qqp': 'glue_qqp',
  'sst2': 'glue_sst2',
}
# Names of tasks, and steps.
MODELS = {f'{name}_single': ((task,), 150_000) for name, task in SHORT.items()} | {
  'coco_vqa2_shared': (('detection_coco', 'vqa2'), 300_000),
  'vg_vqa2_shared': (('detection_visual_genome', 'vqa2'), 300_000),
}
_THREE = ('detection_coco', 'detection_visual_genome', 'vqa2')
MODELS |= {f'coco_vg_vqa2_{x}': (_THREE, 450_000) for x in ('shared', 'separate')}
MODELS |= {
  f'all8_{x}': (tuple(SHARES), 500_000)
  for x in ('shared', 'separate', 'shared_no_task_token')
}
ARGUMENTS = ('vg_vqa2_shared',)
BATCH = 64
# Classes and attributes. Visual Genome has 1,600 classes and a background.
OBJECTS = {'detection_coco': (91, 0), 'detection_visual_genome': (1601, 401)}
# The texts of a task, the number of its tokens and of its classes.
TEXTS = {
  'visual_entailment': (('sentence',), 25, 3),
  'vqa2': (('question',), 25, 3129),
}
# The name of the data set, the split for evaluation, and the numbers of examples.
GLUE = {
  'glue_qnli': ('qnli', 'validation', 104_743, 5_463),
  'glue_mnli_mismatched': ('mnli', 'validation_mismatched', 392_702, 9_832),
  'glue_qqp': ('qqp', 'validation', 363_846, 40_430),
  'glue_sst2': ('sst2', 'validation', 67_349, 872),
}
TEXTS |= {
  name: (glue.TASKS[data[0]][0], 128, len(glue.TASKS[data[0]][1]))
  for name, data in GLUE.items()
}


def get_config(argument: str = ARGUMENTS[0]) -> mlc.ConfigDict:
  told = arguments(argument, model=MODELS, init=('', 'coco_init', 'zoo'))
  names, steps = MODELS[told.model]
  separate = told.model.endswith('separate')
  c = mlc.ConfigDict(dict(seed=0, total_steps=steps, log_every=50))
  c.checkpoint_every = 5000
  shares = SHARES if len(names) == len(SHARES) else dict.fromkeys(names, 1 / len(names))
  c.train_data = spec(
    alternating.Alternating,
    inputs={
      name: train_input(name, number, workers=8) for number, name in enumerate(names)
    },
    shares=dict(shares),
    seed=c.get_ref('seed'),
  )
  c.init_from = published()
  if told.init == 'coco_init':
    c.init_from = coco_run(names, separate)
  elif told.init == 'zoo':
    weights = spec(init_from.from_file, path='weights/unit.pth')
    c.init_from = spec(init_from.InitFrom, weights=weights)
  skips = len(names) in (2, 3) and not separate
  optimizer = optim.skipping_adamw if skips else optim.adamw
  c.task = spec(
    multi_task.MultiTask,
    tasks={name: part(name, 'no_task_token' not in told.model) for name in names},
    own=unit.OWN_DECODER if separate else unit.OWN,
    optimizer=spec(
      optimizer,
      rate=spec(
        optax.warmup_cosine_decay_schedule,
        init_value=0.0,
        peak_value=5e-5,
        warmup_steps=2000,
        decay_steps=c.get_ref('total_steps'),
      ),
      weight_decay=1e-4,
      clip_norm=0.1,
      decay_rules=(('.*', 1.0),),
      rate_rules=(
        ('shared/backbone/(conv_root|stage1/.*)/kernel', 0.0),
        ('shared/backbone/.*', 0.2),
      ),
    ),
  )
  c.evals = {name: evaluator(name) for name in names}
  return c


def part(name: str, task_token: bool) -> mlc.ConfigDict:
  """Returns the task of one name."""
  seen, read = not name.startswith('glue'), name in TEXTS
  if read:
    head = spec(unit.Labels, num_classes=TEXTS[name][2])
  else:
    classes, count = OBJECTS[name]
    head = spec(unit.Objects, num_classes=classes, num_attributes=count)
  backbone = spec(
    resnet.ResNet,
    **resnet.variant('R50'),
    norm='frozen',
    dilated=True,
    frozen_stages=1,
  )
  model = spec(
    unit.UniT,
    head=head,
    num_queries=25 if read else 100,
    backbone=backbone if seen else None,
    text=spec(bert.Bert, **bert.variant('base')) if read else None,
    task=unit.ROWS[name] if task_token else None,
    first_token_only=name not in unit.WHOLE_TEXTS,
  )
  if not read:
    return spec(set_detection.Detection, model=model, optimizer=None)
  loss_type = 'sigmoid' if name == 'vqa2' else 'softmax'
  return spec(
    tasks.TextClassification, model=model, loss_type=loss_type, optimizer=None
  )


def published() -> list[mlc.ConfigDict]:
  """Returns the backbone of DETR-DC5 and the encoder of BERT, as starting weights."""
  return [
    spec(
      init_from.InitFrom,
      weights=spec(init_from.from_file, path='weights/detr-r50-dc5-f0fb7ef5.pth'),
      rename=[('(backbone/.*)', r'shared/\1')],
      allow_unused=('(?!shared/).*',),
      allow_missing=('(?!shared/(backbone|text)/).*',),
    ),
    spec(
      init_from.InitFrom,
      weights=spec(init_from.from_file, path='weights/bert-base-uncased'),
      rename=[('((embeddings|encoder|pooler)/.*)', r'shared/text/\1')],
      allow_unused=('(?!shared/).*',),
    ),
  ]


def coco_run(names: tuple[str, ...], separate: bool) -> list[mlc.ConfigDict]:
  """Returns the weights of a run on COCO alone, and the encoder of BERT."""
  rename = [(r'(queries|head/.*)', r'detection_coco/\1')]
  shared = r'((?!queries$|head/|decoder/).*)' if separate else r'((?!queries$|head/).*)'
  rename.append((shared, r'shared/\1'))
  if separate:
    rename += [(r'(decoder/.*)', rf'{name}/\1') for name in names]
  run = spec(
    init_from.InitFrom,
    weights=spec(init_from.from_run, workdir='runs/unit_coco_single'),
    rename=rename,
    allow_unused=('detection_coco/.*',),
    allow_missing=('.*',),
  )
  if not any(name in TEXTS for name in names):
    return [run]
  return [run, published()[1]]


def source(name: str, train: bool) -> mlc.ConfigDict:
  """Returns the source of a task with a text."""
  if name in GLUE:
    data, split, count, rest = GLUE[name]
    split, count = ('train', count) if train else (split, rest)
    return spec(tfds.Tfds, name=f'glue/{data}', split=split, examples=count)
  if name == 'visual_entailment':
    split, count = ('train', 529_527) if train else ('dev', 17_858)
    return spec(
      about_images.AboutImages,
      annotations=spec(
        statements.SnliVe,
        path=f'data/snli_ve/snli_ve_{split}.jsonl',
        examples=count,
        tolerated=0.1,
      ),
      images='data/flickr30k/images',
    )
  form, parts = 'data/vqa/v2_{}mscoco_{}2014_{}.json', language_vision.VQA_COUNTS
  return spec(
    about_images.AboutImages,
    annotations=spec(
      vqa.Vqa,
      questions=[form.format('OpenEnded_', x, 'questions') for x in parts],
      annotations=[form.format('', x, 'annotations') for x in parts],
      answers=spec(vqa.Answers, path='vocabularies/vqa_answers.txt'),
      examples=sum(parts.values()),
    ),
    images=f'data/coco/{"train" if train else "val"}2017',
    name='{:0>12}.jpg',
    tolerated=1.0,
  )


def text_transforms(name: str) -> list[mlc.ConfigDict]:
  """Returns the transforms of a task with a text."""
  texts, length, classes = TEXTS[name]
  words = spec(
    attributes.TextPair,
    vocabulary=language_vision.vocabulary(),
    texts=texts,
    length=length,
  )
  answer = 'target' if name == 'vqa2' else 'label'
  answers = [spec(questions.Answers, num_answers=classes)] if name == 'vqa2' else []
  if name in GLUE:
    return [words, spec(labels.Keep, names=(*tasks.TEXT, answer))]
  kept = (*tasks.TEXT, answer, 'image', 'size')
  return [
    spec(image.Decode),
    words,
    *answers,
    spec(attributes.NoObjects),
    spec(boxes.ResizeShort, size=800, longest=1333),
    spec(boxes.Pad, sizes=benchmarks.DETECTION['coco'].eval_shapes, max_boxes=1),
    spec(labels.Keep, names=kept),
  ]


def genome(train: bool) -> dict[str, mlc.ConfigDict]:
  """Returns the source and the transforms of Visual Genome."""
  part = 'train' if train else 'val'
  data = benchmarks.DETECTION['coco']
  own, shapes = (
    (data.augmentation, data.shapes) if train else (data.resizing, data.eval_shapes)
  )
  kept = ['image', 'boxes', 'box_labels', 'dropped', 'attributes']
  kept += [] if train else ['crowd', 'area', 'image_id', 'original_size']
  return dict(
    source=spec(
      about_images.WithAttributes,
      objects=spec(
        coco.Coco,
        annotations=f'data/visual_genome/{part}_1600.json',
        images='data/visual_genome',
      ),
      attributes='data/visual_genome/attributes_400.json',
      about=105_000 if train else 3_000,
    ),
    transforms=[
      spec(image.Decode),
      spec(attributes.Attributes, name='attributes'),
      spec(boxes.Objects, crowds=not train),
      spec(attributes.AtMost, max_boxes=100),
      spec(labels.Keep, names=tuple(kept)),
      *(part.copy_and_resolve_references() for part in own),
      spec(boxes.Pad, sizes=shapes, max_boxes=100),
    ],
  )


def train_input(name: str, seed: int, workers: int) -> mlc.ConfigDict:
  """Returns the training input of a task."""
  if name == 'detection_coco':
    return benchmarks.DETECTION['coco'].train_input(BATCH, seed=seed, workers=workers)
  own = (
    dict(source=source(name, True), transforms=text_transforms(name))
    if name in TEXTS
    else genome(True)
  )
  return spec(pipeline.TrainInput, **own, batch_size=BATCH, seed=seed, workers=workers)


def evaluator(name: str) -> mlc.ConfigDict:
  """Returns the evaluator of a task."""
  own = dict(predict=f'{name}.predict', every=25_000)
  if name == 'detection_coco':
    data = benchmarks.DETECTION['coco'].eval_input(BATCH)
    names = coco_classes.class_names(91)
    return spec(detection.CocoAP, data=data, names=names, **own)
  if name not in TEXTS:
    data = spec(pipeline.EvalInput, **genome(False), batch_size=BATCH, workers=8)
    return spec(detection.CocoAP, data=data, **own)
  data = spec(
    pipeline.EvalInput,
    source=source(name, False),
    transforms=text_transforms(name),
    batch_size=BATCH,
    workers=8,
  )
  kind = answering.AnswerScore if name == 'vqa2' else evals.Accuracy
  return spec(kind, data=data, **own)
