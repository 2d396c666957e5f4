"""Published T2T-ViTs, arXiv:2101.11986, for ImageNet and fine-tuned on CIFAR."""

from functools import partial

from big_vision_like.errors import UserError
from big_vision_like.inference import hub_json
from big_vision_like.inference.classes import Preprocessing
from big_vision_like.inference.preprocessing import IMAGENET_MEAN, IMAGENET_STD
from big_vision_like.layers import transformer
from big_vision_like.models import t2t_vit as models
from big_vision_like.weights import family, t2t_vit, tree
from big_vision_like.weights.beside import Beside

CIFAR_MEAN, CIFAR_STD = (0.4914, 0.4822, 0.4465), (0.2023, 0.1994, 0.2010)
# Arguments of a model that files do not store, with the only value they may have.
NEEDED = dict(
  posemb='sinusoid', posemb_at='stem', pool='token', registers=0, rep_size=0
)


def read(arrays: tree.Arrays, beside: Beside) -> family.Read:
  """Reads a state dict, with its known or assumed number of heads."""
  heads, assumed = _num_heads(arrays, beside)
  variables = t2t_vit.read(arrays, heads, str(beside.path))
  return family.Read(variables, assumed=assumed)


def _num_heads(arrays: tree.Arrays, beside: Beside) -> tuple[int, tuple[str, ...]]:
  """Returns the number of heads, and the assumptions made for it."""
  if told := beside.num_heads or beside.config.get('num_heads'):
    return told, ()
  width = len(arrays['tokens_to_token.project.bias'])
  _, _, dense = t2t_vit.kinds(arrays)
  if 'resnext' in beside.path.stem.lower():
    return 32, ('num_heads=32: its name has resnext; the file does not record it',)
  heads = 8 if dense else max(width // 64, 1)
  what = 'dense T2T-ViTs' if dense else f'T2T-ViTs of width {width}'
  return heads, (
    f'num_heads={heads}: as in published {what}; the file does not record it',
  )


def check(model: models.T2TViT, source: str) -> None:
  """Raises if a model has features that files of the published code cannot store."""
  for name, needed in NEEDED.items():
    value = getattr(model, name)
    if value != needed:
      raise UserError(
        f'{source}: files of T2T-ViTs have no place for {name}={value!r}, only for'
        f' {needed!r}'
      )


def as_published(
  name: str, size: tuple[int, int] | None, channels: int
) -> Preprocessing:
  """Returns the preprocessing of the published code in evaluation.

  Files with CIFAR in their name use the whole image, enlarged. Other files use the
  central crop with a side of nine tenths of the shorter side.
  """
  size, source = size or (224, 224), 'as published by yitu-opensource/T2T-ViT'
  if channels != 3:
    return Preprocessing(size, mean=(0.5,) * channels, std=(0.5,) * channels)
  if 'cifar' in name.lower():
    return Preprocessing(size, mean=CIFAR_MEAN, std=CIFAR_STD, source=source)
  return Preprocessing(
    size,
    resize=int(min(size) / 0.9),
    interpolation='pillow_bicubic',
    rounding=('down', 'nearest'),
    mean=IMAGENET_MEAN,
    std=IMAGENET_STD,
    source=source,
  )


FAMILY = family.Family(
  name='t2t_vit',
  model=models.T2TViT,
  sources=(
    family.Source(
      name='yitu-opensource T2T-ViT',
      suffixes=family.TORCH,
      differences=t2t_vit.differences,
      read=read,
      writes={'published': lambda weights: t2t_vit.write(weights.variables)},
      config=family.no_config,
    ),
  ),
  describe=t2t_vit.architecture,
  untold=('activation', 'epsilon'),
  choices=lambda told: {'activation': {*transformer.ACTIVATIONS}},
  images=partial(hub_json.classifier_images, published=as_published),
  stem=(),
  channels=t2t_vit.channels,
  check=check,
)
