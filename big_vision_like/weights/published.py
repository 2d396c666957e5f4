"""Published weights of any source: which it is, and what model they are of.

A file is taken by the reader whose names it has, all of them and no others; its shapes
tell the rest of the architecture. What they cannot tell (heads in PyTorch's layout,
positions that are computed, whether the last stage of DETR's backbone is dilated) comes
from JSON files beside the weights, else it is assumed and `Published.assumed` says so.
Norms of ResNets are frozen, which in evaluation is the same.
"""

import dataclasses
import json
import os
import pathlib
import re
from collections.abc import Callable, Collection, Mapping
from functools import partial
from typing import Any

import numpy as np

from big_vision_like.errors import UserError
from big_vision_like.weights import (
  bit,
  detr,
  detr_names,
  files,
  resnet_names,
  timm_bit,
  timm_vit,
  torchvision_resnet,
  transformers_bit,
  transformers_vit,
  tree,
  vision_transformer,
  vit_names,
)

# Heads of the published sizes that have not one for every 64 features.
_HEADS = {1152: 16, 1280: 16, 1408: 16, 1536: 16, 1664: 16, 1792: 16}
_EMBED_BIAS = ('patch_embed.proj.bias', 'patch_embeddings.projection.bias')
_TABLES = {
  'pos_embedding': 'learned',
  'pos_rows': 'learned2d',
  'relative_keys': 'relative',
}
# Our activation for theirs.
_ACTIVATIONS = {
  'gelu': 'gelu_exact',
  'gelu_tanh': 'gelu',
  'gelu_pytorch_tanh': 'gelu',
  'gelu_new': 'gelu',
  'relu': 'relu',
  'silu': 'silu',
  'swish': 'silu',
}
# What shapes do not tell: positions may be computed, or shared by all blocks.
_UNTOLD = ('posemb', 'posemb_at', 'activation', 'epsilon', 'dilated')
_TORCH = ('.safetensors', *files.TORCH)
_METADATA = ('config.json', 'preprocessor_config.json')
_IN_FOLDERS = ('model.safetensors', 'pytorch_model.bin')


@dataclasses.dataclass(frozen=True)
class Published:
  """Weights of one file, as our model takes them.

  `family` is 'vit', 'bit', 'bit_v1', 'resnet' or 'detr'; `architecture` are the
  arguments of `vit.ViT`, `bit.BiT`, `bit.BiTv1`, `resnet.ResNet` or `detr.DETR` but for
  `num_classes`, which is 0 without a head, and does not count DETR's class of no
  object. Its `backbone` is a dict of arguments of `ResNet`, without `frozen_stages`, so
  that gradients reach the image; training says for itself. `constants` are the
  variables of that collection, of frozen norms. `metadata` are the JSON files beside
  the weights by file name, as they are.
  """

  params: tree.Tree
  family: str
  architecture: dict[str, Any]
  num_classes: int
  source: str = ''
  assumed: tuple[str, ...] = ()
  metadata: dict[str, Any] = dataclasses.field(default_factory=dict)
  constants: tree.Tree = dataclasses.field(default_factory=dict)

  @property
  def channels(self) -> int:
    """Of the images."""
    trunk = self.params.get('backbone', self.params.get('resnet', self.params))
    return trunk.get('conv_root', self.params.get('embed'))['kernel'].shape[2]

  @property
  def variables(self) -> tree.Tree:
    """What the model is applied to."""
    constants = {'constants': self.constants} if self.constants else {}
    return {'params': self.params, **constants}


@dataclasses.dataclass(frozen=True)
class _Reader:
  source: str
  suffixes: tuple[str, ...]
  family: str
  differences: Callable[[Collection[str]], tree.Differences]
  read: Callable[..., tree.Tree]


_READERS = (
  _Reader(
    'vision_transformer or big_vision ViT',
    ('.npz',),
    'vit',
    vision_transformer.differences,
    vision_transformer.from_npz,
  ),
  _Reader(
    'big_transfer BiT',
    ('.npz',),
    'bit',
    bit.big_transfer_differences,
    bit.from_big_transfer,
  ),
  _Reader(
    'big_vision BiT',
    ('.npz',),
    'bit',
    bit.big_vision_v2_differences,
    bit.from_big_vision_v2,
  ),
  _Reader(
    'big_vision BiT v1',
    ('.npz',),
    'bit_v1',
    bit.big_vision_v1_differences,
    bit.from_big_vision_v1,
  ),
  _Reader('timm ViT', _TORCH, 'vit', timm_vit.differences, timm_vit.from_timm),
  *(
    _Reader(
      f'{library} BiT{" v1" if version == 1 else ""}',
      _TORCH,
      'bit_v1' if version == 1 else 'bit',
      partial(differences, version=version),
      partial(read, version=version),
    )
    for library, differences, read in (
      ('timm', timm_bit.differences, timm_bit.from_timm),
      (
        'transformers',
        transformers_bit.differences,
        transformers_bit.from_transformers,
      ),
    )
    for version in (2, 1)
  ),
  _Reader(
    'transformers ViT',
    _TORCH,
    'vit',
    transformers_vit.differences,
    transformers_vit.from_transformers,
  ),
  _Reader(
    'torchvision or timm ResNet',
    _TORCH,
    'resnet',
    torchvision_resnet.differences,
    partial(torchvision_resnet.from_torchvision, norm='frozen'),
  ),
  _Reader(
    'transformers ResNet',
    _TORCH,
    'resnet',
    torchvision_resnet.transformers_differences,
    partial(torchvision_resnet.from_transformers, norm='frozen'),
  ),
  _Reader(
    'facebookresearch DETR',
    _TORCH,
    'detr',
    detr.facebook_differences,
    detr.from_facebook,
  ),
  _Reader(
    'transformers DETR',
    _TORCH,
    'detr',
    detr.transformers_differences,
    detr.from_transformers,
  ),
)


def read(
  path: str | os.PathLike,
  num_heads: int | None = None,
  no_embed_class: bool | None = None,
) -> Published:
  """Reads an .npz, .safetensors or .pth file, or a folder with a model.safetensors.

  `num_heads` and `no_embed_class` (as in timm) are for files that do not tell. Raises a
  `UserError` that says why a file is not read; nothing in it is executed.
  """
  path = pathlib.Path(path)
  if path.is_dir():
    path = _in_folder(path)
  arrays = torchvision_resnet.without_counts(files.read(path))
  reader = _reader(arrays, path)
  files.check_finite(arrays, str(path))
  if numbers := [name for name, array in arrays.items() if not array.ndim]:
    raise UserError(f'{path}: single numbers, no arrays: {files.listed(numbers)}')
  metadata = _metadata(path)
  arguments, computed, assumed = {}, {}, ()
  ours = metadata.get(sidecar(path).name, {})
  if _is_ours(ours) and num_heads is None and reader.family in ('vit', 'detr'):
    num_heads = ours['architecture']['num_heads']
  if _is_ours(ours) and no_embed_class is None:
    no_embed_class = False  # as our writer has it
  if reader.source in ('timm ViT', 'transformers ViT'):
    computed, assumed = _computed(reader, metadata)
    width = next(a.size for name, a in arrays.items() if name.endswith(_EMBED_BIAS))
    arguments['num_heads'], told = _num_heads(width, num_heads, metadata)
    assumed += told
  if reader.source == 'timm ViT':
    _check_pooling(arrays, metadata, path)
  if reader.family == 'resnet':
    _check_resnet(metadata.get('config.json', {}), path)
  if reader.family == 'detr':
    arguments, computed, assumed = _detr(metadata, num_heads, path)
  # timm's may have no positions at all, where big_vision's are computed.
  without = 'none' if reader.source == 'timm ViT' else 'sincos2d'
  try:
    if reader.source == 'timm ViT':
      arguments['no_embed_class'] = _no_embed_class(
        arrays, no_embed_class, metadata, path
      )
    params = reader.read(arrays, source=str(path), **arguments)
    constants = {}
    if reader.family in ('resnet', 'detr'):  # by collection
      params, constants = params['params'], params['constants']
    described = describe(params, reader.family, str(path), without, constants)
  except UserError:
    raise
  except (ValueError, IndexError) as error:  # NumPy, of shapes
    raise UserError(f'{path}: shapes that do not fit: {error}') from error
  architecture = tree.unflatten(tree.flatten(described.architecture) | computed)
  assumed += described.assumed
  if _is_ours(ours):
    architecture = _same_model(ours['architecture'], architecture, sidecar(path))
    assumed = tuple(ours['assumed'])
  return dataclasses.replace(
    described,
    architecture=architecture,
    source=reader.source,
    assumed=assumed,
    metadata=metadata,
  )


def sidecar(path: str | os.PathLike) -> pathlib.Path:
  """The JSON file beside a file of weights that says what our writer knew of it."""
  return pathlib.Path(path).with_suffix('.json')


def told_sizes(metadata: Mapping[str, Any]) -> list[tuple[int, int]]:
  """Returns heights and widths that the JSON files beside weights tell.

  Those of our own writer come first, then those of the model, then the images'.
  """
  told = [
    content['preprocessing'].get('size')
    for content in metadata.values()
    if isinstance(content.get('preprocessing'), Mapping)
  ]
  config = metadata.get('config.json', {})
  told += [config.get('image_size'), _field(config, 'model_args', 'img_size')]
  shape = _field(config, 'pretrained_cfg', 'input_size')
  told.append(shape[1:] if isinstance(shape, list) else None)
  processor = metadata.get('preprocessor_config.json', {})
  told += [processor.get(name) for name in ('crop_size', 'size')]
  return [size for size in map(size_of, told) if size is not None]


def size_of(told: Any) -> tuple[int, int] | None:
  """Returns height and width, in whichever way they are written."""
  if isinstance(told, Mapping):
    told = told.get('height'), told.get('width')
  if isinstance(told, int):
    return told, told
  if isinstance(told, list | tuple) and len(told) == 2:
    return (told[0], told[1]) if all(isinstance(x, int) for x in told) else None
  return None


def describe(
  params: Mapping[str, Any],
  family: str,
  source: str = 'parameters',
  without: str = 'sincos2d',
  constants: Mapping[str, Any] | None = None,
) -> Published:
  """Parameters in our naming (unrolled or scanned) with what their shapes tell.

  `without` is the `posemb` of a ViT that holds no table of positions, `constants` are
  those of a ResNet's frozen norms. Raises a `UserError` that names shapes which do not
  fit each other.
  """
  params = tree.unstack_blocks(params)
  flat, constants = tree.flatten(params), dict(constants or {})
  num_classes, assumed = len(flat.get('head/bias', ())), ()
  if family == 'vit':
    architecture, assumed = _vit(flat, source, without)
  elif family == 'detr':
    flat = tree.flatten({'params': params, 'constants': constants})
    architecture = detr_names.architecture(flat, source)
    num_classes = len(params['class_head']['bias']) - 1
  elif family == 'resnet':
    flat = tree.flatten({'params': params, 'constants': constants})
    architecture = torchvision_resnet.architecture(flat, source)
  else:
    architecture = _bit(flat, family, source, num_classes)
  return Published(
    params, family, architecture, num_classes, assumed=assumed, constants=constants
  )


def _vit(
  flat: Mapping[str, np.ndarray], source: str, without: str
) -> tuple[dict[str, Any], tuple[str, ...]]:
  sizes, assumed = vit_names.check_shapes(flat, source), ()
  depth = vit_names.depth(flat)
  posemb, posemb_at = _positions(flat) or (without, 'stem')
  if posemb == 'sincos2d':
    assumed = ("posemb='sincos2d': the file has no positions, they are computed",)
  patch = sizes['P'], sizes['Q']
  trunk = 'resnet/conv_root/kernel' in flat
  architecture = dict(
    patch=patch[0] if patch[0] == patch[1] else patch,
    width=sizes['D'],
    depth=depth,
    num_heads=sizes['H'],
    mlp_dim=sizes['M'],
    pool='token' if 'cls' in flat else 'map' if 'map_head/probe' in flat else 'gap',
    posemb=posemb,
    posemb_at=posemb_at,
    resnet=tuple(resnet_names.depths(flat)) if trunk else None,
    registers=sizes.get('R', 0),
    rep_size=sizes['S'] if 'pre_logits/bias' in flat else 0,
    activation='gelu',
    epsilon=1e-6,
  )
  return architecture, assumed


def _positions(flat: Mapping[str, np.ndarray]) -> tuple[str, str] | None:
  """What kind of positions there are, and where they come in."""
  for name, posemb in _TABLES.items():
    if name in flat:
      # Relative positions are never at the stem.
      once = 'shared' if posemb == 'relative' else 'stem'
      return posemb, 'every' if len(flat[name]) > 1 else once
  return None


def _bit(
  flat: Mapping[str, np.ndarray], family: str, source: str, num_classes: int
) -> dict[str, Any]:
  version = 1 if family == 'bit_v1' else 2
  depths, root = resnet_names.depths(flat), flat['resnet/conv_root/kernel'].shape
  want = resnet_names.bit(depths, version, root[-1], root[-2])
  features, _ = want['head/kernel']
  want |= {'head/kernel': (features, num_classes), 'head/bias': (num_classes,)}
  wrong = resnet_names.wrong_shapes(flat, want)
  if wrong:
    raise UserError(f'{source}: shapes that do not fit: {files.listed(wrong)}')
  width = root[-1] / 64
  return dict(depths=tuple(depths), width=int(width) if width.is_integer() else width)


def _in_folder(folder: pathlib.Path) -> pathlib.Path:
  for name in _IN_FOLDERS:
    if (folder / name).is_file():
      return folder / name
  raise UserError(f'{folder} has no model.safetensors: name a file of weights')


def _reader(names: Collection[str], path: pathlib.Path) -> _Reader:
  """The reader whose names these are; a `UserError` with what differs from the next."""
  nearest, differs = None, ()
  for reader in _READERS:
    if path.suffix not in reader.suffixes:
      continue
    unknown, missing = reader.differences(names)
    if not unknown and not missing:
      return reader
    # The nearest knows most of the names, and misses fewest others.
    if not differs or (len(unknown), len(missing)) < tuple(map(len, differs)):
      nearest, differs = reader, (sorted(unknown), sorted(missing))
  known = ', '.join(r.source for r in _READERS if path.suffix in r.suffixes)
  unknown, missing = differs
  most = max(5, 10 - len(missing))  # of both kinds some
  lines = [f'unknown {name}' for name in unknown[:most]]
  lines += [f'missing {name}' for name in missing[: 10 - len(lines)]]
  listed = '\n  '.join(lines)
  raise UserError(
    f'{path} has the weights of another architecture: of those that are read ({known})'
    f' it is nearest to {nearest.source}, but differs in {len(unknown) + len(missing)}'
    f' names, the first of them:\n  {listed}'
  )


def _metadata(path: pathlib.Path) -> dict[str, Any]:
  """The JSON files beside the weights, and those that our writer put into one."""
  names = (sidecar(path).name,)
  if path.suffix in _TORCH:
    names += _METADATA
  found = {}
  for name in names:
    file = path.with_name(name)
    if not file.is_file():
      continue
    try:
      content = json.loads(file.read_text(encoding='utf-8'))
    except ValueError as error:
      raise UserError(f'{file} is not JSON: {error}') from error
    if not isinstance(content, dict):
      raise UserError(f'{file} holds a {type(content).__name__}, not fields by name')
    found[name] = content
    if _is_ours(content):
      found |= content['metadata']
  return found


def _is_ours(content: Mapping[str, Any]) -> bool:
  """Whether a JSON file beside weights is that of our writer."""
  return {'family', 'architecture', 'assumed', 'metadata'} <= content.keys()


def _num_heads(
  width: int, asked: int | None, metadata: Mapping[str, Any]
) -> tuple[int, tuple[str, ...]]:
  """How many heads, and what was assumed for it."""
  config = metadata.get('config.json', {})
  told = config.get('num_attention_heads') or _model_args(metadata).get('num_heads')
  if told and not isinstance(told, int):
    raise UserError(f'config.json: {told!r} is no number of heads')
  if asked or told:
    return asked or told, ()
  heads = _HEADS.get(width) or max(width // 64, 1)
  return heads, (
    f'num_heads={heads}: neither the file nor a config.json tells, published ViTs of'
    f' width {width} have as many',
  )


def _model_args(metadata: Mapping[str, Any]) -> dict[str, Any]:
  told = metadata.get('config.json', {}).get('model_args') or {}
  if not isinstance(told, dict):
    raise UserError(f'config.json: model_args={told!r} are no arguments by name')
  return told


def _field(content: Mapping[str, Any], group: str, name: str) -> Any:
  found = content.get(group)
  return found.get(name) if isinstance(found, Mapping) else None


def _computed(
  reader: _Reader, metadata: Mapping[str, Any]
) -> tuple[dict[str, Any], tuple[str, ...]]:
  """What the code that the weights come from computes, and what was assumed of it."""
  if reader.source == 'timm ViT':
    told, epsilon = _model_args(metadata).get('act_layer'), 1e-6
  else:
    config = metadata.get('config.json', {})
    told, epsilon = config.get('hidden_act'), config.get('layer_norm_eps', 1e-12)
  if (told or 'gelu') not in _ACTIVATIONS:
    raise UserError(f'config.json: the activation {told!r} is not one of our ViT')
  activation = _ACTIVATIONS[told or 'gelu']
  assumed: tuple[str, ...] = ()
  if told is None:
    assumed = (f'activation={activation!r}: that of {reader.source}s unless told',)
  return {'activation': activation, 'epsilon': epsilon}, assumed


def _detr(
  metadata: Mapping[str, Any], heads: int | None, path: pathlib.Path
) -> tuple[dict[str, Any], dict[str, Any], tuple[str, ...]]:
  """How a DETR is read, what shapes do not tell of it, and what was assumed."""
  config, assumed = metadata.get('config.json', {}), ()
  _check_resnet(config.get('backbone_config') or {}, path)
  told = config.get('encoder_attention_heads')
  if config.get('decoder_attention_heads', told) != told:
    raise UserError(
      f'{path}: config.json has {told!r} heads in the encoder and'
      f' {config["decoder_attention_heads"]!r} in the decoder, our DETR has as many'
    )
  activation = config.get('activation_function', 'relu')
  if activation != 'relu':
    raise UserError(f'{path}: config.json: our DETR has relu, not {activation!r}')
  if told and not isinstance(told, int):
    raise UserError(f'config.json: {told!r} is no number of heads')
  heads = heads or told
  if not heads:
    heads = 8
    assumed += ('num_heads=8: the file does not tell, published DETRs have as many',)
  dilated, name = config.get('dilation'), path.name
  if name in _IN_FOLDERS:
    name = path.absolute().parent.name
  if dilated is None and re.search(r'dc5|detr-r(esnet-)?\d', name):
    dilated = 'dc5' in name  # as they are published
  if dilated is None:
    dilated = False
    assumed += (
      'backbone.dilated=False: the file does not tell, the names of those with a'
      ' dilated last stage have dc5 in them',
    )
  return {'num_heads': heads}, {'backbone/dilated': bool(dilated)}, assumed


def _check_resnet(config: Mapping[str, Any], path: pathlib.Path) -> None:
  """That it is a plain one: others have the same arrays and compute otherwise."""
  name = str(config.get('architecture', 'resnet'))
  strange = [
    field
    for field in ('downsample_in_first_stage', 'downsample_in_bottleneck')
    if config.get(field)
  ]
  if not re.fullmatch(r'(tv_|gluon_)?resnet\d*(_v1b)?', name) or strange:
    raise UserError(
      f'{path}: config.json: {strange[0] if strange else repr(name)} makes other'
      ' ResNets than ours'
    )


def _check_pooling(
  arrays: Mapping[str, np.ndarray], metadata: Mapping[str, Any], path: pathlib.Path
) -> None:
  pool = 'map' if 'attn_pool.latent' in arrays else 'avg'
  pool = 'token' if 'cls_token' in arrays else pool
  told = metadata.get('config.json', {}).get('global_pool', pool)
  if told != pool:
    raise UserError(
      f'{path}: config.json says global_pool={told!r}, our ViT with these arrays pools'
      f' by {pool!r}'
    )


def _no_embed_class(
  arrays: Mapping[str, np.ndarray],
  asked: bool | None,
  metadata: Mapping[str, Any],
  path: pathlib.Path,
) -> bool:
  told = _model_args(metadata).get('no_embed_class')
  counted = timm_vit.positions_without_class(arrays, told_sizes(metadata))
  for answer in (asked, told, counted):
    if answer is not None:
      return answer
  raise UserError(
    f'{path}: {arrays["pos_embed"].shape[1]} positions may or may not include those of'
    ' class token and registers: say with no_embed_class, as in timm, or in model_args'
    ' of a config.json beside it'
  )


def _same_model(
  told: Mapping[str, Any], found: Mapping[str, Any], file: pathlib.Path
) -> dict[str, Any]:
  """The architecture of our writer, which the shapes do not contradict."""
  told = {
    k: tuple(v) if isinstance(v, list) else v for k, v in tree.flatten(told).items()
  }
  for name, value in tree.flatten(found).items():
    if name.split('/')[-1] not in _UNTOLD and told.get(name) != value:
      raise UserError(
        f'{file}: {name} is {told.get(name)}, but {value} in the weights beside it'
      )
  return tree.unflatten(told)
