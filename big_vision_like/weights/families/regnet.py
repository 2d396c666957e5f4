"""Published RegNets: DeiT's teacher, and the RegNets of timm and transformers."""

import re
from collections.abc import Mapping
from functools import partial
from typing import Any

from big_vision_like.errors import UserError, prefixed
from big_vision_like.inference import hub_json
from big_vision_like.models import regnet
from big_vision_like.weights import family, torch_regnet, tree
from big_vision_like.weights.beside import Beside
from big_vision_like.weights.families import vit


def describe(variables: tree.Tree, source: str) -> dict[str, Any]:
  """Returns the arguments of our `RegNet`, from the shapes of its variables."""
  told = torch_regnet.architecture(tree.flatten(variables), source)
  with prefixed(source):
    regnet.RegNet(**told).check()
  return told


def read(
  arrays: Mapping[str, Any], beside: Beside, of: torch_regnet.Names
) -> family.Read:
  """Reads arrays, unless a config.json describes a different network."""
  config = beside.config
  name = str(config.get('architecture', 'regnety'))
  others = dict(downsample_in_first_stage=True, hidden_act='relu')
  strange = [f'{k}={config[k]!r}' for k, x in others.items() if config.get(k, x) != x]
  if not re.match(r'regnet[xy](_\d+)?(_tv)?(\.|$)', name):
    strange.append(repr(name))
  if strange:
    raise UserError(
      f'{beside.path}: config.json: {strange[0]} makes other RegNets than ours'
    )
  return family.Read(torch_regnet.read(arrays, of, str(beside.path)))


def timm_config(
  told: Mapping[str, Any], num_classes: int, channels: int
) -> dict[str, Any]:
  """Returns the config.json for such a file, for timm.create_model."""
  common = dict(squeeze=0.25, root=32)
  name = next((x for x in regnet.SIZES if regnet.variant(x) | common == told), None)
  if name is None:
    raise UserError(
      f'timm has no RegNet with stages of {told["depths"]} units, widths'
      f' {told["widths"]} and group_width={told["group_width"]}, only'
      f' {", ".join(regnet.SIZES)}: write a .safetensors file without config.json, or a'
      ' folder of transformers'
    )
  number, unit = re.fullmatch(r'Y-([\d.]+)(MF|GF)', name).groups()
  # In tenths of a GF: regnety_160.
  tenths = round(float(number) * (10 if unit == 'GF' else 0.01))
  return {
    'architecture': f'regnety_{tenths:03d}',
    'num_classes': num_classes,
    'num_features': told['widths'][-1],
    'model_args': {'in_chans': channels},
    'pretrained_cfg': dict(
      num_classes=num_classes,
      pool_size=[7, 7],
      first_conv='stem.conv',
      classifier='head.fc',
    ),
  }


FAMILY = family.Family(
  name='regnet',
  model=regnet.RegNet,
  sources=(
    family.Source(
      name='timm RegNet',
      suffixes=family.TORCH,
      differences=partial(torch_regnet.differences, of=torch_regnet.TIMM),
      read=partial(read, of=torch_regnet.TIMM),
      writes={'timm': lambda x: torch_regnet.write(x.variables, torch_regnet.TIMM)},
      config=hub_json.timm_folder(
        lambda w, _: timm_config(w.architecture, w.num_classes, w.channels)
      ),
    ),
    family.Source(
      name='transformers RegNet',
      suffixes=family.TORCH,
      differences=partial(torch_regnet.differences, of=torch_regnet.TRANSFORMERS),
      read=partial(read, of=torch_regnet.TRANSFORMERS),
      writes={
        'transformers': lambda x: torch_regnet.write(
          x.variables, torch_regnet.TRANSFORMERS
        )
      },
      config=hub_json.transformers_folder(
        lambda w, _: torch_regnet.config(w.architecture, w.num_classes, w.channels)
      ),
    ),
  ),
  describe=describe,
  images=partial(hub_json.classifier_images, published=vit.as_deit),
  stem=('root/conv',),
)
