"""Visual Transformers on ImageNet-1k, as in arXiv:2006.03677 (ICCV 2021).

    python -m big_vision_like.train --config=configs/visual_transformer/i1k.py:VT-R18 \
        --workdir=runs/vt_r18
    python -m big_vision_like.train --workdir=runs/vt_r18_advanced \
        --config=configs/visual_transformer/i1k.py:VT-R18,advanced

The argument is a model, VT-R18, VT-R34, VT-R50 or VT-R101, or a ResNet to compare with,
R18 or R34; and in any order

- advanced: the recipe of table 8 instead of the recipe of tables 2 to 7;
- changes of single parts: pooling or clustering, the tokenizer of the first module;
  no_recurrent, where all modules use the tokenizer of the first; graph or no_mixing;
  32tokens or 64tokens; no_projector; equations, with one head and no groups (not in the
  paper);
- pretrained: the backbone starts from a ResNet of torchvision, unlike in the paper;
- no_teacher: the advanced recipe from labels alone.

The recipe of tables 2 to 7 takes 90 epochs of batch 256: crops and flips, SGD with
momentum 0.9, a learning rate of 0.1 that is divided by 10 every 30 epochs, and a weight
decay of 4e-5. Top-1 is 69.9 % for R18, 72.0 % for VT-R18, 73.3 % for R34 and 74.8 % for
VT-R34.

`advanced` takes 400 epochs of batch 2,048: RMSProp with a learning rate that grows from
0.01 to 0.16 in 5 epochs and is then multiplied by 0.9875 after each epoch; AutoAugment;
label smoothing; stochastic depth (survival 0.9); dropout 0.2; and a running average of
decay 0.99985, which is evaluated. The loss is 0.8 times the cross-entropy with the
probabilities of a teacher plus 0.2 times the cross-entropy with labels. Top-1 is 73.8 %
for R18, 76.8 % for VT-R18, 77.7 % for R34, 79.9 % for VT-R34, 80.6 % for VT-R50 and
82.3 % for VT-R101. Hours are not published, and we have not trained these models.
`python tools/paper_tables.py 2006.03677` prints all tables.

The paper does not give some settings, which are chosen here: augmentation in the first
recipe (crops and flips as in PyTorch's example); smoothing 0.1; weight decay 1e-5;
decay, momentum and epsilon of RMSProp (as for EfficientNet); temperature 1; and the
rates of stochastic depth (growing to 0.1 in the backbone, 0.1 in all modules). The
paper's teacher, FBNetV3-G, is not available; RegNetY-16GF of DeiT
(weights/regnety_160-a5fe301d.pth) replaces it. To use another teacher, change
`task.teacher` and `frozen.teacher`. The paper only names the alternative parts of
tables 3 and 5; `layers/visual_tokens.py` describes ours.

Tokens are normalized where they are read (`projections.norm`, without parameters),
which is not in the paper. Without it, at a learning rate of 0.1, the loss of VT-R18 on
noise (batches of 32 at 64 pixels) overflows float32 after 24 steps.

VT-R18 and VT-R34 have the paper's number of parameters (11.6 and 21.8 million). VT-R50
and VT-R101 do not: 27.4 and 46.4 million here, 21.4 and 41.5 million in the paper.
"""

import types

import ml_collections as mlc
import optax

from big_vision_like import optim
from big_vision_like.data import benchmarks
from big_vision_like.data.transforms import autoaugment, image
from big_vision_like.errors import UserError
from big_vision_like.evals import classification
from big_vision_like.inference.preprocessing import IMAGENET_MEAN, IMAGENET_STD
from big_vision_like.layers.visual_tokens import GROUPED, Projections
from big_vision_like.models import regnet, resnet, visual_transformer
from big_vision_like.run import init_from
from big_vision_like.spec import arguments, epochs, spec
from big_vision_like.tasks import classification as tasks
from big_vision_like.tasks import distillation

ARGUMENTS = ('VT-R18', 'VT-R18,advanced')
MODELS = dict.fromkeys(
  (*(f'VT-{name}' for name in visual_transformer.SIZES), 'R18', 'R34')
)
FORMS = {'grouped': GROUPED, 'equations': {}}
TEACHERS = ('RegNetY-16GF', 'no_teacher')
# Files published by torchvision.
WEIGHTS = {
  'R18': 'resnet18-f37072fd.pth',
  'R34': 'resnet34-b627a593.pth',
  'R50': 'resnet50-0676ba61.pth',
  'R101': 'resnet101-63fe2227.pth',
}


def get_config(argument: str = ARGUMENTS[0]) -> mlc.ConfigDict:
  arg = arguments(
    argument,
    model=MODELS,
    recipe=('base', 'advanced'),
    form=tuple(FORMS),
    tokenizer=visual_transformer.TOKENIZERS,
    mixing=('transformer', 'graph', 'no_mixing'),
    tokens=('16tokens', '32tokens', '64tokens'),
    teacher=TEACHERS,
    no_recurrent=False,
    no_projector=False,
    pretrained=False,
  )
  if arg.recipe == 'base' and arg.teacher == 'no_teacher':
    raise UserError(f'{argument!r}: only the advanced recipe has a teacher')
  advanced = arg.recipe == 'advanced'
  batch_size = 2048 if advanced else 256
  c = mlc.ConfigDict(dict(seed=0, log_every=50, checkpoint_every=1000))
  c.total_steps = epochs(400 if advanced else 90)
  c.train_data = benchmarks.IMAGENET.train_input(
    'train',
    [
      spec(image.RandomResizedCrop, size=224, method='pillow_bilinear'),
      spec(image.Flip),
      *([spec(autoaugment.AutoAugment)] if advanced else []),
    ],
    batch_size=batch_size,
    seed=c.get_ref('seed'),
    workers=32,
  )
  dropout = dict(dropout=0.2, drop_path=0.1) if advanced else {}
  common = dict(
    model=network(argument, arg, dropout), mean=IMAGENET_MEAN, std=IMAGENET_STD
  )
  if not advanced:
    rate = spec(optim.step_decay, peak_value=0.1, every=epochs(30))
    common['optimizer'] = spec(optim.momentum, rate=rate, l2=4e-5)
  else:
    common |= advanced_recipe()
  if advanced and arg.teacher != 'no_teacher':
    size = arg.teacher.removeprefix('RegNet')
    c.task = spec(
      distillation.Distillation,
      teacher=spec(regnet.RegNet, num_classes=1000, **regnet.variant(size)),
      kind='soft',
      weight=0.8,
      **common,
    )
    path = 'weights/regnety_160-a5fe301d.pth'
    c.frozen = dict(teacher=spec(init_from.from_file, path=path))
  else:
    c.task = spec(tasks.Classification, **common)
  if arg.pretrained:
    c.init_from = backbone_of(arg.model.removeprefix('VT-'))
  c.evals = dict(
    test=spec(
      classification.Accuracy,
      data=benchmarks.IMAGENET.eval_input(
        'test',
        [
          spec(image.ResizeSmall, size=256, method='pillow_bilinear', rounding='down'),
          spec(image.CentralCrop, size=224, rounding='nearest'),
        ],
        batch_size=batch_size,
        workers=32,
      ),
      every=epochs(5),
    )
  )
  return c


def network(argument: str, arg: types.SimpleNamespace, rates: dict) -> mlc.ConfigDict:
  """Returns a Visual Transformer, or a ResNet to compare it with."""
  name = arg.model.removeprefix('VT-')
  if arg.model == name:
    left = set(argument.split(',')) - {name, 'advanced', *TEACHERS}
    if left:
      raise UserError(f'{argument!r}: a ResNet has no {", ".join(sorted(left))}')
    sizes = resnet.variant(name)
    return spec(resnet.ResNet, num_classes=1000, **sizes, **rates, dtype='bfloat16')
  return spec(
    visual_transformer.VisualTransformer,
    backbone=spec(
      resnet.ResNet,
      **resnet.trunk(name),
      drop_path=rates.get('drop_path', 0.0),
      dtype='bfloat16',
    ),
    num_classes=1000,
    **visual_transformer.variant(name),
    num_tokens=int(arg.tokens.removesuffix('tokens')),
    projections=spec(Projections, **FORMS[arg.form], norm=True),
    tokenizer=arg.tokenizer,
    recurrent=not arg.no_recurrent,
    mixing='none' if arg.mixing == 'no_mixing' else arg.mixing,
    projectors='none' if arg.no_projector else 'between',
    **rates,
    dtype='bfloat16',
  )


def advanced_recipe() -> dict[str, mlc.ConfigDict | float]:
  """Returns the task's arguments for table 8, without the teacher."""
  rate = spec(
    optax.warmup_exponential_decay_schedule,
    init_value=0.01,
    peak_value=0.16,
    warmup_steps=epochs(5),
    transition_steps=epochs(1),
    decay_rate=0.9875,
    staircase=True,
  )
  return dict(
    label_smoothing=0.1,
    optimizer=spec(
      optim.rmsprop_tf, rate=rate, decay=0.9, momentum=0.9, eps=1e-3, l2=1e-5
    ),
    ema=spec(optim.Ema, decay=0.99985),
  )


def backbone_of(name: str) -> mlc.ConfigDict:
  """Returns the `init_from` that loads a published ResNet up to its last stage."""
  return spec(
    init_from.InitFrom,
    weights=spec(init_from.from_backbone, path=f'weights/{WEIGHTS[name]}'),
    allow_unused=['backbone/stage4/.*'],
    allow_missing=[r'module\d+/.*'],
  )
