"""The JSON files of timm and transformers that accompany weights, read and written."""

import dataclasses
import functools
import re
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from big_vision_like.data.transforms import image as transforms
from big_vision_like.errors import UserError, prefixed, shape_text
from big_vision_like.inference import imagenet_numbers
from big_vision_like.inference.classes import EFFICIENTNET, Preprocessing
from big_vision_like.inference.clips import ClipPreprocessing
from big_vision_like.inference.label_maps import SegmentationPreprocessing
from big_vision_like.inference.objects import DetectionPreprocessing
from big_vision_like.inference.preprocessing import (
  IMAGENET_MEAN,
  IMAGENET_STD,
  Prepare,
)
from big_vision_like.weights import fields
from big_vision_like.weights.fields import FLAG, NULL, POSITIVE, SIDE, TEXT

_TIMM_FILE, _PROCESSOR_FILE = "timm's config.json", 'preprocessor_config.json'
# Names of kernels by Pillow's numbers, which transformers writes; timm writes names.
# Both libraries resize with Pillow.
_RESAMPLE = ('nearest', 'lanczos', 'bilinear', 'bicubic', 'box', 'hamming')
Files = dict[str, dict[str, Any]]
_MEAN, _STD = fields.list_of(fields.MEAN), fields.list_of(fields.STD)
_SIZE = fields.either(
  SIDE,
  fields.fields_of(('shortest_edge',), SIDE),
  fields.fields_of(('height', 'width'), SIDE),
)
_TIMM: fields.Table = {
  'input_size': fields.list_of(SIDE, 3),
  'mean': fields.either(fields.MEAN, _MEAN),
  'std': fields.either(fields.STD, _STD),
  'interpolation': TEXT,
  'crop_pct': POSITIVE,
  'crop_mode': fields.either(TEXT, NULL),
}
_TIMM_NAMES: fields.Table = {
  'label_names': fields.list_of(TEXT),
  'label_descriptions': fields.either(
    fields.list_of(TEXT),
    fields.Kind(
      lambda x: isinstance(x, Mapping) and all(map(TEXT.fits, x.values())),
      'a text for each name',
    ),
  ),
}
_PROCESSOR: fields.Table = {
  **dict.fromkeys(('do_resize', 'do_center_crop', 'do_rescale', 'do_normalize'), FLAG),
  'size': _SIZE,
  'crop_size': _SIZE,
  'max_size': SIDE,
  'crop_pct': POSITIVE,
  'image_mean': _MEAN,
  'image_std': _STD,
  'resample': fields.whole(0),
  'rescale_factor': POSITIVE,
}
# Image fields that our writer stores for every kind of preprocessing.
_OWN: fields.Table = {
  'interpolation': TEXT,
  'rounding': fields.list_of(TEXT, 2),
  'mean': _MEAN,
  'std': _STD,
  'label_names': fields.list_of(TEXT),
  'scores': TEXT,
  'source': TEXT,
}
_PAIR = fields.list_of(SIDE, 2)
_OWN_CLASSES: fields.Table = {
  'size': _PAIR,
  'resize': fields.either(fields.one_of('squash', EFFICIENTNET), SIDE, _PAIR),
  **_OWN,
}
_OWN_OBJECTS: fields.Table = {
  'short': fields.either(SIDE, NULL),
  'longest': fields.either(SIDE, NULL),
  'size': fields.either(_PAIR, NULL),
  'shapes': fields.list_of(_PAIR),
  'num_things': fields.either(fields.whole(0), NULL),
  'multiple': fields.whole(1),
  **_OWN,
}
_OWN_LABEL_MAPS: fields.Table = {
  'shortest': fields.either(SIDE, NULL),
  'longest': fields.either(SIDE, NULL),
  'multiple': SIDE,
  'size': fields.either(_PAIR, NULL),
  **_OWN,
}
_OWN_CLIPS: fields.Table = {
  'frames': fields.whole(1),
  'stride': fields.whole(0),
  'size': _PAIR,
  'crops': FLAG,
  'bgr': FLAG,
  **_OWN,
}
_OWN_TABLES = {
  ClipPreprocessing: _OWN_CLIPS,
  Preprocessing: _OWN_CLASSES,
  DetectionPreprocessing: _OWN_OBJECTS,
  SegmentationPreprocessing: _OWN_LABEL_MAPS,
}


def classifier_images(
  metadata: Mapping[str, Any],
  name: str,
  size: tuple[int, int] | None,
  num_classes: int,
  channels: int = 3,
  *,
  published: Callable[..., Preprocessing],
) -> Preprocessing:
  """Returns the preprocessing of a classifier, from the JSON files of its weights.

  Without such files, it is `published(name, size, channels)`, as known for the source.
  The other arguments are as in `weights.family.Family.images`.
  """
  if own := written(metadata, Preprocessing):
    return fitting(own, num_classes, channels)
  config = metadata.get('config.json', {})
  if 'preprocessor_config.json' in metadata:
    found = from_transformers(metadata['preprocessor_config.json'], config)
  elif config.get('pretrained_cfg') is not None:
    found = from_timm(config)
  else:
    found = published(name, size, channels)
  if found.source in (_TIMM_FILE, _PROCESSOR_FILE):
    found = fitting(found, num_classes, channels)
  if not found.label_names and num_classes == 1000:
    found = dataclasses.replace(found, label_names=imagenet_numbers.NUMBERS)
  # Models with more classes than these were pre-trained with independent labels.
  scores = 'sigmoid' if num_classes > 1000 else 'softmax'
  return dataclasses.replace(found, scores=scores)


def from_timm(config: Mapping[str, Any]) -> Preprocessing:
  """Reads the preprocessing of timm's config.json."""
  told, source = config['pretrained_cfg'], _TIMM_FILE
  fields.check(config, _TIMM_NAMES, source)
  fields.check(told, _TIMM_NAMES, f'{source}: pretrained_cfg')
  fields.check(told, _TIMM, f'{source}: pretrained_cfg', null=False)
  needed = ('input_size', 'mean', 'std', 'interpolation', 'crop_pct')
  fields.need(told, needed, f'{source}: pretrained_cfg')
  channels, *size = told['input_size']
  try:
    mean, std = (
      tuple(np.broadcast_to(told[k], channels).tolist()) for k in ('mean', 'std')
    )
  except ValueError as error:
    raise UserError(f'{source}: mean or std is not of {channels} channels') from error
  method = told['interpolation']
  mode, share = told.get('crop_mode') or 'center', told['crop_pct']
  resize = tuple(int(min(side / share, 2**31)) for side in size)
  if not all(map(SIDE.fits, resize)):
    raise UserError(
      f'{source}: pretrained_cfg lacks or misstates crop_pct: {share} of'
      f' {shape_text(size)} makes images of {shape_text(resize)}'
    )
  if mode not in ('center', 'squash'):
    raise UserError(f'{source}: crop_mode={mode!r} is neither center nor squash')
  if mode == 'center' and len({*size}) == 1:
    resize = resize[0]
  elif mode == 'center':
    raise UserError(
      f'{source}: central crops of {shape_text(size)} are not square: write'
      ' "crop_mode": "squash" there to resize whatever the aspect ratio'
    )
  elif resize == tuple(size):
    resize = 'squash'
  names = config.get('label_names') or told.get('label_names') or ()
  described = config.get('label_descriptions') or told.get('label_descriptions') or {}
  if isinstance(described, list):
    names, described = described, {}
  with prefixed(source):
    return Preprocessing(
      size=tuple(size),
      resize=resize,
      interpolation=_pillow(method),
      rounding=('down', 'nearest'),
      mean=mean,
      std=std,
      label_names=tuple(described.get(name, name) for name in names),
      source=source,
    )


def from_transformers(
  processor: Mapping[str, Any], config: Mapping[str, Any]
) -> Preprocessing:
  """Reads preprocessor_config.json, and the class names of config.json."""
  source = _PROCESSOR_FILE
  _check_processor(processor, source)
  fields.need(processor, ('size', 'image_mean', 'image_std'), source)
  resize = _transformers_size(processor['size'])
  mean, std = (tuple(processor[f'image_{k}']) for k in ('mean', 'std'))
  size = resize
  if processor.get('do_center_crop'):
    fields.need(processor, ('crop_size',), source)
    size = _transformers_size(processor['crop_size'])
    size = (size, size) if isinstance(size, int) else size
  kind = processor.get('image_processor_type', processor.get('feature_extractor_type'))
  if str(kind).startswith('ConvNext'):
    resize, size = _convnext_sizes(processor)
  if isinstance(size, int):
    if 'shortest_edge' in processor['size']:
      raise UserError(
        f'{source}: a shortest edge of {size} without a crop does not determine a size'
      )
  if not processor.get('do_normalize', True):
    mean, std = (0.0,) * len(mean), (1.0,) * len(std)
  method = processor.get('resample', 2)  # bilinear, as in transformers' ViTs
  if method not in range(len(_RESAMPLE)):
    raise UserError(f'{source}: resample={method!r} is not a kernel of Pillow')
  names = label_names(config)
  with prefixed(source):
    return Preprocessing(
      size=size,
      resize='squash' if resize == size else resize,
      interpolation=_pillow(_RESAMPLE[method]),
      rounding=('down', 'down'),
      mean=mean,
      std=std,
      label_names=names,
      source=source,
    )


def detector_from_transformers(processor: Mapping[str, Any]) -> DetectionPreprocessing:
  """Reads the preprocessor_config.json of a DETR."""
  source = _PROCESSOR_FILE
  _check_processor(processor, source)
  size = processor.get('size')
  if isinstance(size, int):  # the original format
    size = {'shortest_edge': size, 'longest_edge': processor.get('max_size')}
  if not isinstance(size, dict) or not isinstance(size.get('shortest_edge'), int):
    raise UserError(f'{source}: size={size!r} does not give a shorter side')
  if processor.get('resample', 2) != _RESAMPLE.index('bilinear'):
    raise UserError(
      f'{source}: resample={processor["resample"]!r}: images for detection are'
      ' resized bilinearly (2) in this package'
    )
  mean = tuple(processor.get('image_mean') or IMAGENET_MEAN)
  std = tuple(processor.get('image_std') or IMAGENET_STD)
  if not processor.get('do_normalize', True):
    mean, std = (0.0,) * len(mean), (1.0,) * len(std)
  longest = size.get('longest_edge')
  fields.check({'longest_edge': longest}, {'longest_edge': SIDE}, f'{source}: size')
  with prefixed(source):
    return DetectionPreprocessing(
      size['shortest_edge'], longest, mean=mean, std=std, source=source
    )


def segmenter_from_transformers(
  processor: Mapping[str, Any],
) -> SegmentationPreprocessing:
  """Reads the preprocessor_config.json of a UPerNet."""
  source = _PROCESSOR_FILE
  _check_processor(processor, source)
  fields.need(processor, ('size', 'image_mean', 'image_std'), source)
  size = _transformers_size(processor['size'])
  mean, std = (tuple(processor[f'image_{k}']) for k in ('mean', 'std'))
  if not processor.get('do_normalize', True):
    mean, std = (0.0,) * len(mean), (1.0,) * len(std)
  with prefixed(source):
    if isinstance(size, int):
      return SegmentationPreprocessing(
        shortest=size, longest=4 * size, mean=mean, std=std, source=source
      )
    return SegmentationPreprocessing(size=size, mean=mean, std=std, source=source)


def to_timm(own: Preprocessing) -> dict[str, Any]:
  """Returns the fields of timm's `pretrained_cfg` for this preprocessing."""
  mode, share = 'squash', 1.0
  if own.resize == EFFICIENTNET:  # the same share, cropped after resizing
    mode, share = 'center', own.size[0] / (own.size[0] + 32)
  elif own.resize != 'squash':
    sides = {own.resize} if isinstance(own.resize, int) else {*own.resize}
    if len(sides) > 1 or len({*own.size}) > 1:
      raise UserError(f'timm only takes square crops of square images, not {own}')
    [side] = sides
    mode = 'center' if isinstance(own.resize, int) else 'squash'
    share = own.size[0] / side
    while int(own.size[0] / share) < side:  # timm rounds down
      share = float(np.nextafter(share, 0))
  return dict(
    input_size=[own.channels, *own.size],
    mean=list(own.mean),
    std=list(own.std),
    interpolation=_kernel(own),
    crop_pct=share,
    crop_mode=mode,
  )


@functools.singledispatch
def to_transformers(own: Preprocessing) -> dict[str, Any]:
  """Returns the preprocessor_config.json for this preprocessing."""
  if own.resize == EFFICIENTNET:
    raise UserError(
      'transformers has no central crop before resizing: write a .safetensors file'
    )
  crop = own.resize != 'squash'
  resized = own.resize if crop else own.size
  size = {'shortest_edge': resized}
  if not isinstance(resized, int):
    size = {'height': resized[0], 'width': resized[1]}
  return dict(
    image_processor_type='BitImageProcessor' if crop else 'ViTImageProcessor',
    do_resize=True,
    size=size,
    resample=_RESAMPLE.index(_kernel(own)),
    do_center_crop=crop,
    **({'crop_size': {'height': own.size[0], 'width': own.size[1]}} if crop else {}),
    do_rescale=True,
    do_normalize=True,
    image_mean=list(own.mean),
    image_std=list(own.std),
  )


@to_transformers.register
def _(own: DetectionPreprocessing) -> dict[str, Any]:
  if own.short is None:
    raise UserError(
      'transformers resizes by the shorter side: write a .safetensors file'
    )
  longest = {'longest_edge': own.longest} if own.longest else {}
  return dict(
    image_processor_type='DetrImageProcessor',
    do_resize=True,
    size={'shortest_edge': own.short, **longest},
    resample=2,
    do_rescale=True,
    do_normalize=True,
    image_mean=list(own.mean),
    image_std=list(own.std),
    do_pad=True,
  )


@to_transformers.register
def _(own: SegmentationPreprocessing) -> dict[str, Any]:
  if own.shortest is None and own.size is None:
    raise UserError('transformers resizes pictures: write a .safetensors file')
  size = {'shortest_edge': own.shortest}
  if own.size is not None:
    size = {'height': own.size[0], 'width': own.size[1]}
  return dict(
    image_processor_type='SegformerImageProcessor',
    do_resize=True,
    size=size,
    resample=2,
    do_rescale=True,
    do_normalize=True,
    image_mean=list(own.mean),
    image_std=list(own.std),
  )


@to_transformers.register
def _(own: ClipPreprocessing) -> dict[str, Any]:
  if not own.crops:
    raise UserError('transformers crops frames: write a .safetensors file')
  height, width = own.size
  return dict(
    image_processor_type='VideoMAEImageProcessor',
    do_resize=True,
    size={'shortest_edge': height},
    resample=2,
    do_center_crop=True,
    crop_size={'height': height, 'width': width},
    do_rescale=True,
    do_normalize=True,
    image_mean=list(own.mean),
    image_std=list(own.std),
  )


def timm_folder(config: Callable[[Any, Any], dict[str, Any]]) -> Callable[..., Files]:
  """Makes `weights.family.Source.config` for timm: a folder's JSON files by name.

  `config(weights, image_size)` returns the model part of config.json. Image and class
  fields that timm stored with the weights are kept.
  """

  def files(weights: Any, images: Preprocessing) -> Files:
    made, before = config(weights, images.size), weights.metadata.get('config.json', {})
    told = before.get('pretrained_cfg')
    size = {'input_size': [images.channels, *images.size]}
    made['pretrained_cfg'] |= to_timm(images) if told is None else told | size
    if 'label_names' in before:
      kept = ('label_names', 'label_descriptions')
      made |= {k: before[k] for k in kept if k in before}
    elif images.label_names:
      made['label_names'] = list(images.label_names)
    return {'config.json': made}

  return files


def transformers_folder(
  config: Callable[[Any, Any], dict[str, Any]],
) -> Callable[..., Files]:
  """Makes `Source.config` for transformers, as `timm_folder` does for timm."""

  def files(weights: Any, images: Prepare) -> Files:
    made, before = config(weights, images.size), weights.metadata.get('config.json', {})
    own = {str(i): name for i, name in enumerate(images.label_names)}
    told = before if 'id2label' in before else {'id2label': own}
    names = told['id2label'] or {}
    if names or told is before:
      numbers = told.get('label2id') or {name: int(i) for i, name in names.items()}
      made = {k: v for k, v in made.items() if k != 'num_labels'}
      made |= {'id2label': names, 'label2id': numbers}
    processor = weights.metadata.get('preprocessor_config.json', {})
    processor = processor | to_transformers(images)
    return {'config.json': made, 'preprocessor_config.json': processor}

  return files


def _check_processor(processor: Mapping[str, Any], source: str) -> None:
  fields.check(processor, _PROCESSOR, source)
  if not processor.get('do_resize', True):
    raise UserError(f'{source}: do_resize is false, so there is no size')
  scale = processor.get('rescale_factor') or 1 / 255
  if not processor.get('do_rescale', True) or abs(scale * 255 - 1) > 1e-6:
    raise UserError(f'{source}: pixels are not scaled to [0, 1]')


def written(metadata: Mapping[str, Any], kind: type[Prepare]) -> Any:
  """Returns the preprocessing of this kind that our writer stored, None if none."""
  for name, content in metadata.items():
    told = content.get('preprocessing', {})
    fields.check(told, _OWN_TABLES[kind], f'{name}: preprocessing', null=False)
  with prefixed('preprocessing'):
    return kind.written(metadata)


def fitting(images: Any, num_classes: int, channels: int) -> Any:
  """Checks preprocessing from files against the channels and classes of weights.

  Returns it, without names if the weights have no head.
  """
  if images.channels != channels:
    raise UserError(
      f'{images.source}: its mean is for {images.channels} channels, but the weights'
      f' take {channels}'
    )
  count = len(images.label_names)
  if count and num_classes and count != num_classes:
    raise UserError(
      f'{images.source}: the files of the weights name {count} classes, but the weights'
      f' have {num_classes}'
    )
  return images if num_classes else dataclasses.replace(images, label_names=())


def label_names(config: Mapping[str, Any]) -> tuple[str, ...]:
  """Reads the class names in config.json; none if they are numbers."""
  fields.check(config, {'id2label': fields.LABELS}, 'config.json')
  names = config.get('id2label') or {}
  if all(re.fullmatch(r'LABEL_\d+', name) for name in names.values()):
    return ()
  return tuple(names[k] for k in sorted(names, key=int))


def _transformers_size(told: int | Mapping[str, int]) -> int | tuple[int, int]:
  """Returns the pixels of the shorter side, or height and width."""
  if isinstance(told, int):
    return told, told
  if 'shortest_edge' in told:
    return told['shortest_edge']
  return told['height'], told['width']


def _convnext_sizes(
  processor: Mapping[str, Any],
) -> tuple[int | tuple[int, int], tuple[int, int]]:
  """Returns `resize` and `size` of the processor of ConvNeXTs, ResNets and RegNets.

  It crops images below 384 pixels; `crop_pct` is the share it keeps.
  """
  side = processor['size']
  side = side if isinstance(side, int) else side.get('shortest_edge')
  if side is None:
    raise UserError(f'{_PROCESSOR_FILE}: size={processor["size"]} has no shortest_edge')
  if side >= 384:
    return (side, side), (side, side)
  share = processor.get('crop_pct') or 224 / 256
  resize = int(min(side / share, 2**31))
  if share > 1 or not SIDE.fits(resize):
    raise UserError(f'{_PROCESSOR_FILE}: crop_pct={share} of {side} pixels is invalid')
  return resize, (side, side)


def _pillow(kernel: str) -> str:
  """Returns our name of a Pillow kernel; both libraries resize with Pillow."""
  name = f'pillow_{kernel}'
  if name not in transforms.METHODS:
    raise UserError(
      f'interpolation {kernel!r} is not supported; supported are'
      f' {", ".join(transforms.METHODS)}'
    )
  return name


def _kernel(own: Preprocessing) -> str:
  """Returns the Pillow kernel nearest to ours: a box takes means of areas."""
  name = own.interpolation.removeprefix('pillow_').removeprefix('tf1_')
  return 'box' if name == 'area' else name
