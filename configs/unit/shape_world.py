"""A small UniT on six tasks about drawn shapes: detection, questions, statements, text.

    python tools/prepare_data.py shape_world/objects shape_world/questions \
        shape_world/statements shape_world/paraphrases shape_world/sentences
    python -m big_vision_like.train --config=configs/unit/shape_world.py:all \
        --workdir=runs/shape_world

The tasks share the image encoder, the text encoder and the decoder; each has its own
queries and head. `objects` has a class for each pair of colour and shape; in
`attributes`, colours are attributes of three classes of shapes. The name of a task as
the argument trains it alone, with as many steps as it has in `all`: `:objects`,
`:attributes`, `:questions`, `:statements`, `:paraphrases`, `:sentences`. `separate`
gives each task its own decoder, and `no_task_token` removes the tokens of tasks.

Pictures have 32x32 pixels (`data/procedural/shape_world.py`). 7,000 steps of batch 16
for tasks with images and 32 for texts, meant for two CPU cores. An earlier setting
(docs/lab/unit.md) reached an AP50 of 70 % for objects, 70 % of questions, 73 % of
paraphrases and all sentences; this one is not measured yet.
"""

import ml_collections as mlc
import optax

from big_vision_like import optim
from big_vision_like.data.input import alternating, pipeline
from big_vision_like.data.procedural import shape_world
from big_vision_like.data.sources import tfds
from big_vision_like.data.text import wordpiece
from big_vision_like.data.transforms import attributes, boxes, image, labels
from big_vision_like.evals import classification as evals
from big_vision_like.evals import detection
from big_vision_like.models import bert, resnet, unit
from big_vision_like.spec import arguments, spec
from big_vision_like.tasks import multi_task, set_detection
from big_vision_like.tasks import unit as tasks

STEPS = 7000
SHARES = dict(
  objects=0.22,
  attributes=0.08,
  questions=0.3,
  statements=0.12,
  paraphrases=0.18,
  sentences=0.1,
)
ALL = ('all', 'separate', 'no_task_token')
ARGUMENTS = ('questions', 'sentences')
WIDTH = 96
# The texts of a task, its tokens, its classes, and whether it has images.
TEXTS = {
  'questions': (('question',), 8, len(shape_world.ANSWERS), True),
  'statements': (('sentence',), 8, len(shape_world.TRUTHS), True),
  'paraphrases': (('sentence1', 'sentence2'), 22, 2, False),
  'sentences': (('sentence',), 12, 2, False),
}
# Classes and attributes of objects.
OBJECTS = {
  'objects': (len(shape_world.CLASSES), 0),
  'attributes': (len(shape_world.SHAPES), len(shape_world.COLORS)),
}


def get_config(argument: str = ARGUMENTS[0]) -> mlc.ConfigDict:
  which = arguments(argument, tasks=(*ALL, *SHARES)).tasks
  names = tuple(SHARES) if which in ALL else (which,)
  c = mlc.ConfigDict(dict(seed=0, log_every=100, keep_last=1))
  c.total_steps = STEPS if which in ALL else round(STEPS * SHARES[which])
  c.checkpoint_every = 1000
  c.train_data = spec(
    alternating.Alternating,
    inputs={
      name: spec(
        pipeline.TrainInput,
        source=source(name, 'train'),
        transforms=transforms(name),
        batch_size=16 if sees(name) else 32,
        seed=number,
      )
      for number, name in enumerate(names)
    },
    shares={name: SHARES[name] for name in names} if len(names) > 1 else None,
    seed=c.get_ref('seed'),
  )
  c.task = spec(
    multi_task.MultiTask,
    tasks={name: part(name, which != 'no_task_token') for name in names},
    own=unit.OWN_DECODER if which == 'separate' else unit.OWN,
    optimizer=spec(
      optim.skipping_adamw,
      rate=spec(
        optax.warmup_cosine_decay_schedule,
        init_value=0.0,
        peak_value=5e-4,
        warmup_steps=200,
        decay_steps=c.get_ref('total_steps'),
      ),
      weight_decay=1e-4,
      clip_norm=0.1,
    ),
  )
  c.evals = {name: evaluator(name, c.get_ref('total_steps')) for name in names}
  return c


def part(name: str, task_token: bool) -> mlc.ConfigDict:
  """Returns the task of one name."""
  seen, read = sees(name), name in TEXTS
  if read:
    head = spec(unit.Labels, num_classes=TEXTS[name][2], dropout=0.0)
  else:
    classes, count = OBJECTS[name]
    head = spec(unit.Objects, num_classes=classes, num_attributes=count, width=WIDTH)
  model = spec(
    unit.UniT,
    head=head,
    num_queries=4 if read else 8,
    backbone=backbone() if seen else None,
    text=text_encoder() if read else None,
    task=list(SHARES).index(name) if task_token else None,
    first_token_only=name != 'questions',
    num_tasks=len(SHARES),
    width=64,
    decoder_width=WIDTH,
    encoder_depth=2,
    decoder_depth=2,
    num_heads=4,
    mlp_dim=128,
    dropout=0.0,
  )
  kind = tasks.TextClassification if read else set_detection.Detection
  return spec(kind, model=model, optimizer=None)


def sees(name: str) -> bool:
  """Returns whether a task is about images."""
  return name in OBJECTS or TEXTS[name][3]


def backbone() -> mlc.ConfigDict:
  return spec(
    resnet.ResNet,
    depths=(1, 1),
    bottleneck=False,
    root=32,
    channels=(32, 64),
  )


def text_encoder() -> mlc.ConfigDict:
  return spec(
    bert.Bert,
    vocab_size=len(wordpiece.SPECIAL) + len(shape_world.WORDS),
    width=64,
    depth=2,
    num_heads=4,
    mlp_dim=128,
    max_length=24,
    pooler=False,
    dropout=0.0,
    attention_dropout=0.0,
    init_std=0.125,
  )


def source(name: str, split: str) -> mlc.ConfigDict:
  data = 'objects' if name in OBJECTS else name
  count = 20_000 if split == 'train' else 1_000
  return spec(tfds.Tfds, name=f'shape_world/{data}', split=split, examples=count)


def transforms(name: str, train: bool = True) -> list[mlc.ConfigDict]:
  """Returns the transforms of a task's examples, for training or evaluation."""
  if name in TEXTS:
    texts, length, _, seen = TEXTS[name]
    words = spec(
      attributes.TextPair,
      vocabulary=spec(wordpiece.WordPiece, words=shape_world.WORDS),
      texts=texts,
      length=length,
    )
    kept = (*tasks.TEXT, 'label', *(('image',) if seen else ()))
    first = [spec(image.Decode)] if seen else []
    return [*first, words, spec(labels.Keep, names=kept)]
  kept = ['image', 'boxes', 'box_labels', 'dropped']
  if not train:
    kept += ['crowd', 'area', 'image_id', 'original_size']
  first = []
  if name == 'attributes':
    first = [spec(attributes.Attributes, name='color', most=1, label='shape')]
    kept.append('attributes')
  side = shape_world.SIDE
  return [
    spec(image.Decode),
    *first,
    spec(boxes.Objects, crowds=not train),
    spec(labels.Keep, names=tuple(kept)),
    spec(boxes.Pad, sizes=((side, side),), max_boxes=shape_world.MOST),
  ]


def evaluator(name: str, every: int) -> mlc.ConfigDict:
  data = spec(
    pipeline.EvalInput,
    source=source(name, 'validation'),
    transforms=transforms(name, train=False),
    batch_size=248,
  )
  own = dict(data=data, predict=f'{name}.predict', every=every)
  if name in TEXTS:
    return spec(evals.Accuracy, **own)
  names = shape_world.CLASSES if name == 'objects' else shape_world.SHAPES
  return spec(detection.CocoAP, names=names, **own)
