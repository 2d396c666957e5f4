"""Published BiTs, arXiv:1912.11370, with norms before convolutions (version 2)."""

import re
from collections.abc import Mapping
from functools import partial
from typing import Any

from big_vision_like.errors import UserError
from big_vision_like.inference import classes, hub_json
from big_vision_like.models import bit as models
from big_vision_like.weights import (
  bit,
  family,
  files,
  resnet_names,
  timm_bit,
  transformers_bit,
  tree,
)


def describe(variables: tree.Tree, source: str, version: int) -> dict[str, Any]:
  """Returns the arguments of our `BiT` or `BiTv1`, from shapes of its parameters."""
  flat = tree.flatten(variables['params'])
  num_classes = len(flat.get('head/bias', ()))
  depths, root = resnet_names.depths(flat), flat['resnet/conv_root/kernel'].shape
  want = resnet_names.bit(depths, version, root[-1], root[-2])
  features, _ = want['head/kernel']
  want |= {'head/kernel': (features, num_classes), 'head/bias': (num_classes,)}
  wrong = resnet_names.wrong_shapes(flat, want)
  if wrong:
    raise UserError(f'{source}: shapes that do not fit: {files.listed(wrong)}')
  width = root[-1] / 64
  return dict(
    depths=tuple(depths),
    width=int(width) if width.is_integer() else width,
    num_classes=num_classes,
  )


def features(told: Mapping[str, Any]) -> int:
  """Returns the number of channels of the last map."""
  return int(64 * told['width']) * 2 ** (len(told['depths']) + 1)


def as_google(
  name: str, size: tuple[int, int] | None, channels: int
) -> classes.Preprocessing:
  """Returns Google's preprocessing for ViTs and BiTs: squashed images in [-1, 1]."""
  half = (0.5,) * channels
  size = size or (size_by_name(name),) * 2
  return classes.Preprocessing(
    size, mean=half, std=half, source='as published by Google'
  )


def size_by_name(name: str) -> int:
  """Returns the image size from the name of a file, as no parameter shows it.

  Names of distilled BiTs end in it (`R50x1_160`). BiTs fine-tuned on ImageNet or VTAB
  saw 384 pixels, and R152x4 480. These are the sizes of arXiv:1912.11370 section 3.3;
  its code uses 480 for all. All others were pre-trained on 224.
  """
  named = re.search(r'[-_](\d{3})$', name)
  if named:
    return int(named[1])
  if 'ILSVRC2012' in name or re.search(r'-run\d+-', name):
    return 480 if 'R152x4' in name else 384
  return 224


def torch_sources(version: int, timm_config: Any) -> tuple[family.Source, ...]:
  """Returns the sources of timm and transformers for one version."""
  end, arguments = ' v1' if version == 1 else '', {'version': version}
  return (
    family.Source(
      name=f'timm BiT{end}',
      suffixes=family.TORCH,
      differences=partial(timm_bit.differences, **arguments),
      read=family.of_params(timm_bit.from_timm, **arguments),
      writes={'timm': family.to_params(timm_bit.to_timm, **arguments)},
      config=timm_config,
    ),
    family.Source(
      name=f'transformers BiT{end}',
      suffixes=family.TORCH,
      differences=partial(transformers_bit.differences, **arguments),
      read=family.of_params(transformers_bit.from_transformers, **arguments),
      writes={
        'transformers': family.to_params(transformers_bit.to_transformers, **arguments)
      },
      config=hub_json.transformers_folder(
        lambda w, _: transformers_bit.config(
          **w.architecture,
          version=version,
          num_classes=w.num_classes,
          channels=w.channels,
        )
      ),
    ),
  )


FAMILY = family.Family(
  name='bit',
  model=models.BiT,
  sources=(
    family.Source(
      name='big_transfer BiT',
      suffixes=family.NPZ,
      differences=bit.BIG_TRANSFER.differences,
      read=family.of_params(bit.BIG_TRANSFER.read),
      writes={'published': family.to_params(bit.BIG_TRANSFER.write)},
    ),
    family.Source(
      name='big_vision BiT',
      suffixes=family.NPZ,
      differences=bit.BIG_VISION_V2.differences,
      read=family.of_params(bit.BIG_VISION_V2.read),
      writes={'big_vision': family.to_params(bit.BIG_VISION_V2.write)},
    ),
    *torch_sources(
      2,
      hub_json.timm_folder(
        lambda w, _: timm_bit.config(
          **w.architecture, num_classes=w.num_classes, channels=w.channels
        )
      ),
    ),
  ),
  describe=partial(describe, version=2),
  images=partial(hub_json.classifier_images, published=as_google),
  stem=('resnet/conv_root',),
  features=features,
)
