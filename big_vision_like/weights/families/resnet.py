"""Published ResNets with batch norm, which is frozen in our models of them."""

import re
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

from big_vision_like.errors import UserError
from big_vision_like.inference import hub_json
from big_vision_like.inference.classes import Preprocessing
from big_vision_like.inference.preprocessing import IMAGENET_MEAN, IMAGENET_STD
from big_vision_like.models import resnet
from big_vision_like.weights import family, torchvision_resnet, tree
from big_vision_like.weights.beside import Beside


def describe(variables: tree.Tree, source: str) -> dict[str, Any]:
  """Returns the arguments of our `ResNet`, from the shapes of its variables."""
  found = torchvision_resnet.architecture(tree.flatten(variables), source)
  bias = variables['params'].get('head', {}).get('bias', ())
  return found | {'num_classes': len(bias)}


def check_plain(config: Mapping[str, Any], beside: Beside) -> None:
  """Raises for ResNets that have the same arrays but compute differently."""
  name = str(config.get('architecture', 'resnet'))
  strange = [
    field
    for field in ('downsample_in_first_stage', 'downsample_in_bottleneck')
    if config.get(field)
  ]
  if not re.fullmatch(r'(tv_|gluon_)?resnet\d*(_v1b)?', name) or strange:
    raise UserError(
      f'{beside.path}: config.json: {strange[0] if strange else repr(name)} makes other'
      ' ResNets than ours'
    )


def check_frozen(model: resnet.ResNet, source: str) -> None:
  """Raises for a model with norms that are not frozen and have other arrays."""
  if getattr(model, 'norm', None) != 'frozen':
    raise UserError(f"{source}: the norms of its ResNet are not norm='frozen'")


def as_torchvision(
  name: str, size: tuple[int, int] | None, channels: int
) -> Preprocessing:
  """Returns the preprocessing of torchvision in evaluation."""
  return Preprocessing(
    (224, 224),
    resize=256,
    interpolation='pillow_bilinear',
    rounding=('down', 'nearest'),
    mean=IMAGENET_MEAN,
    std=IMAGENET_STD,
    source='as published with torchvision',
  )


def read(
  arrays: Mapping[str, Any], beside: Beside, reader: Callable[..., tree.Tree]
) -> family.Read:
  """Reads arrays, unless a config.json describes a different network."""
  check_plain(beside.config, beside)
  return family.Read(reader(arrays, 'frozen', str(beside.path)))


FAMILY = family.Family(
  name='resnet',
  model=resnet.ResNet,
  sources=(
    family.Source(
      name='torchvision or timm ResNet',
      suffixes=family.TORCH,
      differences=torchvision_resnet.differences,
      read=partial(read, reader=torchvision_resnet.from_torchvision),
      writes={
        'timm': lambda x: torchvision_resnet.to_torchvision(x.variables, 'frozen')
      },
      config=family.no_config,
    ),
    family.Source(
      name='transformers ResNet',
      suffixes=family.TORCH,
      differences=torchvision_resnet.transformers_differences,
      read=partial(read, reader=torchvision_resnet.from_transformers),
      writes={
        'transformers': lambda x: torchvision_resnet.to_transformers(
          x.variables, 'frozen'
        )
      },
      config=hub_json.transformers_folder(
        lambda w, _: torchvision_resnet.config(
          w.architecture, w.num_classes, w.channels
        )
      ),
    ),
  ),
  describe=describe,
  untold=('dilated',),
  images=partial(hub_json.classifier_images, published=as_torchvision),
  stem=('conv_root',),
  check=check_frozen,
  backbone=True,
)
