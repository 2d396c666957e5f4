"""How pictures become what a model takes, as its weights say it.

Axes: B batch, H W image, C channels or classes, Q queries of a detector.
"""

import dataclasses
import importlib.util
import json
import os
import pathlib
import re
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import grain
import ml_collections as mlc
import numpy as np
from PIL import Image

from big_vision_like.data.sources import coco_classes
from big_vision_like.data.transforms import boxes
from big_vision_like.data.transforms import image as transforms
from big_vision_like.errors import UserError
from big_vision_like.ops import boxes as box_ops
from big_vision_like.ops import images
from big_vision_like.spec import spec

# What makes the size of an image what a model takes.
SIZING = (transforms.Resize, transforms.ResizeSmall, transforms.CentralCrop)
# Pillow's numbers of kernels, which transformers writes, and timm's names: both resize
# with Pillow.
_RESAMPLE = ('nearest', 'lanczos', 'bilinear', 'bicubic', 'box', 'hamming')
SCORES = ('softmax', 'sigmoid')
IMAGENET_MEAN, IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


@dataclasses.dataclass(frozen=True)
class Preprocessing:
  """From a picture to the float32 (H, W, C) that a model takes.

  `size` is height and width. `resize` says how images get there: 'squash' straight,
  whatever the aspect ratio; a number of pixels for the shorter side, or a height and
  width, and then the central crop. `interpolation` is one of
  `data.transforms.image.METHODS`; `rounding` says how the longer side and the place of
  the crop become whole numbers, see `ResizeSmall` and `CentralCrop`. `mean` and `std`
  are of values in [0, 1], one for each channel. Classes without a name in `label_names`
  are called by their number; `scores` ('softmax' or 'sigmoid') says what of their
  logits. `source` is who says all this.
  """

  size: tuple[int, int]
  resize: str | int | tuple[int, int] = 'squash'
  interpolation: str = 'bilinear'
  rounding: tuple[str, str] = ('nearest', 'down')
  mean: tuple[float, ...] = (0.5, 0.5, 0.5)
  std: tuple[float, ...] = (0.5, 0.5, 0.5)
  label_names: tuple[str, ...] = ()
  scores: str = 'softmax'
  source: str = ''

  def __post_init__(self) -> None:
    _check_normalization(self.mean, self.std)
    if len(self.size) != 2 or min(self.size) < 1:
      raise UserError(f'size={self.size} is not a positive height and width')
    if self.scores not in SCORES:
      raise UserError(f'scores={self.scores!r} is not one of {", ".join(SCORES)}')
    self.transforms  # noqa: B018 - they check the rest

  @property
  def channels(self) -> int:
    """1 (grey) or 3 (RGB)."""
    return len(self.mean)

  @property
  def transforms(self) -> tuple[grain.transforms.Map, ...]:
    """What comes after decoding, as in a config."""
    size, method = _side(self.size), self.interpolation
    if self.resize == 'squash':
      return (transforms.Resize(size, method),)
    longer, place = self.rounding
    if isinstance(self.resize, int):
      first = transforms.ResizeSmall(self.resize, method, longer)
    else:
      first = transforms.Resize(_side(self.resize), method)
    return first, transforms.CentralCrop(size, place)

  def specs(self) -> list[mlc.ConfigDict]:
    """`transforms`, for a config."""
    return [spec(type(step), **dataclasses.asdict(step)) for step in self.transforms]

  def sized(self, image: Any) -> np.ndarray:
    """A picture as the model sees it, but uint8 (H, W, C).

    It may be a path, the bytes of a file, a PIL image or uint8 (H, W, C), of which grey
    and alpha are made what the model takes.
    """
    example = {'image': decoded(image, self.channels)}
    for step in self.transforms:
      example = step.map(example)
    return example['image']

  def normalized(self, image_BHWC: np.ndarray) -> np.ndarray:
    """uint8 images (B, H, W, C) with the mean and deviation that the model knows."""
    return np.asarray(images.normalize(image_BHWC, self.mean, self.std))

  def __call__(self, image: Any) -> np.ndarray:
    """A picture, as `sized` takes it, to float32 (H, W, C)."""
    return self.normalized(self.sized(image)[None])[0]

  def batch(self, pictures: Sequence[Any]) -> np.ndarray:
    """Several pictures to float32 (B, H, W, C)."""
    return self.normalized(np.stack([self.sized(picture) for picture in pictures]))

  def top(self, logits_C: np.ndarray, k: int = 5) -> list[tuple[str, float]]:
    """The best classes of one image, the best first: name and score in [0, 1]."""
    logits_C = np.asarray(logits_C, np.float64)
    if logits_C.ndim != 1:
      raise UserError(f'top() takes the logits of one image, not {logits_C.shape}')
    if self.scores == 'sigmoid':
      score_C = 0.5 * (1.0 + np.tanh(logits_C / 2))
    else:
      score_C = _softmax(logits_C)
    best = np.argsort(-logits_C, kind='stable')[:k]
    return [(self.name(label), float(score_C[label])) for label in best]

  def name(self, label: int) -> str:
    """What a class is called."""
    return _name(self.label_names, label)

  def with_size(self, size: int | Sequence[int]) -> 'Preprocessing':
    """The same for images of another size, of which the crop is the same share."""
    new = (size, size) if isinstance(size, int) else tuple(size)
    resize = self.resize
    if isinstance(resize, int):
      resize = round(resize * min(new) / min(self.size))
    elif resize != 'squash':
      resize = tuple(
        round(side * n / o) for side, n, o in zip(resize, new, self.size, strict=True)
      )
    return dataclasses.replace(self, size=new, resize=resize)

  def to_json(self) -> dict[str, Any]:
    """As plain data, which `from_json` reads."""
    return json.loads(json.dumps(dataclasses.asdict(self)))

  def __str__(self) -> str:
    how = self.resize
    if how == 'squash':
      how = 'whatever the aspect ratio'
    else:
      side = 'shorter side' if isinstance(how, int) else 'resized'
      how = f'central crop of {side} {how if isinstance(how, int) else _x(how)}'
    return (
      f'{_x(self.size)}, {how}, {self.interpolation}; mean {_listed(self.mean)},'
      f' std {_listed(self.std)}'
    )


class Prepared(NamedTuple):
  """A picture as a detector takes it: float32 (H, W, C), zero beyond `size`.

  `size` and `original_size`, int32 (2,), are height and width before padding, and
  before resizing too.
  """

  image_HWC: np.ndarray
  size: np.ndarray
  original_size: np.ndarray


class Found(NamedTuple):
  """An object: its class by name and number, and its box in pixels of the picture.

  The box is left, top, right, bottom, and may reach beyond the picture a little;
  `query` is the one that found it.
  """

  name: str
  score: float
  box: tuple[float, float, float, float]
  label: int
  query: int


@dataclasses.dataclass(frozen=True)
class DetectionPreprocessing:
  """From a picture to the image and the size that a detector takes, and back.

  The shorter side becomes `short`, less where the longer would exceed `longest`, as
  `boxes.ResizeShort` does it; or pictures get `size`, height and width, whatever their
  aspect ratio; without both they keep theirs. Then zeros fill the smallest of `shapes`
  that there is room in, as by `boxes.Pad`; what is larger than all of them shrinks.
  Without `shapes` nothing is padded. Labels from `num_things` on are stuff, None: no
  label is. The rest is as in `Preprocessing`.
  """

  short: int | None = None
  longest: int | None = None
  size: tuple[int, int] | None = None
  shapes: tuple[tuple[int, int], ...] = ()
  mean: tuple[float, ...] = IMAGENET_MEAN
  std: tuple[float, ...] = IMAGENET_STD
  label_names: tuple[str, ...] = ()
  num_things: int | None = None
  source: str = ''

  def __post_init__(self) -> None:
    _check_normalization(self.mean, self.std)
    sides = [side for shape in (*self.shapes, self.size or ()) for side in shape]
    sides += [side for side in (self.short, self.longest) if side is not None]
    if min(sides, default=1) < 1:
      raise UserError(
        f'short={self.short}, longest={self.longest}, size={self.size} and'
        f' shapes={self.shapes} are not positive'
      )
    if self.size is not None and self.short is not None:
      raise UserError(f'size={self.size} and short={self.short}: give one of them')

  @property
  def channels(self) -> int:
    """1 (grey) or 3 (RGB)."""
    return len(self.mean)

  def size_of(self, height: int, width: int) -> tuple[int, int]:
    """Height and width that a picture is resized to."""
    if self.size is not None:
      height, width = self.size
    if self.short is not None:
      sides = boxes.short_side_size(height, width, self.short, self.longest)
      if not all(sides):
        raise UserError(
          f'a picture of {height}x{width} is too narrow: with its longer side at most'
          f' {self.longest} no pixel of the shorter is left'
        )
      height, width = sides
    if self.shapes and not any(h >= height and w >= width for h, w in self.shapes):
      scale = max(min(h / height, w / width) for h, w in self.shapes)
      height, width = (max(round(side * scale), 1) for side in (height, width))
    return height, width

  def sized(self, picture: Any) -> dict[str, np.ndarray]:
    """`image` uint8 (H, W, C), `size` and `original_size`, as evaluation has them.

    The picture is one that `decoded` takes.
    """
    image_HWC = decoded(picture, self.channels)
    original = image_HWC.shape[:2]
    size = self.size_of(*original)
    example = {'image': image_HWC, 'boxes': np.zeros((0, 4), np.float32)}
    image_HWC = boxes.resize(example, *size)['image']
    shape = size
    if self.shapes:
      shape = self.shapes[boxes.Pad(self.shapes, max_boxes=0).choose(size)]
    result = boxes.padded({'image': image_HWC}, *shape)
    return result | {'original_size': np.array(original, np.int32)}

  def normalized(self, example: Mapping[str, np.ndarray]) -> Prepared:
    """What `sized` gives, with the mean and deviation that the model knows."""
    height, width = example['size']
    valid_1HWC = example['image'][None, :height, :width]
    image_HWC = np.zeros(example['image'].shape, np.float32)
    image_HWC[:height, :width] = images.normalize(valid_1HWC, self.mean, self.std)[0]
    return Prepared(image_HWC, example['size'], example['original_size'])

  def __call__(self, picture: Any) -> Prepared:
    """A picture, as `sized` takes it, for `model.apply(variables, image, size)`."""
    return self.normalized(self.sized(picture))

  def objects(
    self,
    outputs: Mapping[str, Any],
    original_size: Sequence[int],
    threshold: float = 0.7,
  ) -> list[Found]:
    """What is found in one picture with a score above the threshold, the best first.

    `outputs` are the model's for a batch of that picture alone: `logits` (1, Q, C), the
    last class being no object, and `boxes` (1, Q, 4). Each query has its best class.
    """
    logits_BQC = np.asarray(outputs['logits'], np.float64)
    if len(logits_BQC) != 1:
      raise UserError(
        f'objects() takes the outputs for one picture, not for {len(logits_BQC)}'
      )
    scores_QC = _softmax(logits_BQC[0])[:, :-1]
    height, width = original_size
    corners_Q4 = box_ops.cxcywh_to_xyxy(np.asarray(outputs['boxes'][0], np.float64))
    corners_Q4 = corners_Q4 * np.array([width, height, width, height])
    label_Q, score_Q = scores_QC.argmax(axis=-1), scores_QC.max(axis=-1)
    best = [q for q in np.argsort(-score_Q, kind='stable') if score_Q[q] > threshold]
    return [
      Found(
        name=self.name(int(label_Q[q])),
        score=float(score_Q[q]),
        box=tuple(corners_Q4[q].tolist()),
        label=int(label_Q[q]),
        query=int(q),
      )
      for q in best
    ]

  def name(self, label: int) -> str:
    """What a class is called."""
    return _name(self.label_names, label)

  def with_size(self, size: int) -> 'DetectionPreprocessing':
    """The same with another shorter side, the longer in proportion; not padded."""
    if not isinstance(size, int):
      raise UserError(
        f'pictures to find objects in keep their aspect ratio: {size} is no size, give'
        ' one number, the shorter side'
      )
    if self.size is not None:
      sides = tuple(round(side * size / min(self.size)) for side in self.size)
      return dataclasses.replace(self, size=sides, shapes=())
    longest = self.longest
    if self.short and longest:
      longest = round(longest * size / self.short)
    return dataclasses.replace(self, short=size, longest=longest, shapes=())

  def to_json(self) -> dict[str, Any]:
    """As plain data, which `from_json` reads."""
    return json.loads(json.dumps(dataclasses.asdict(self)))

  def __str__(self) -> str:
    how = 'of their own size'
    if self.size is not None:
      how = f'{_x(self.size)}, whatever the aspect ratio'
    if self.short is not None:
      how = f'shorter side {self.short}'
      how += f', longer at most {self.longest}' if self.longest else ''
    if self.shapes:
      how += f', padded to {" or ".join(map(_x, self.shapes))}'
    return f'{how}; mean {_listed(self.mean)}, std {_listed(self.std)}'


def decoded(image: Any, channels: int = 3) -> np.ndarray:
  """A picture of any kind as uint8 (H, W, C), C being `channels`, 1 or 3.

  It may be a path, the bytes of a file, a PIL image or uint8 (H, W, C), of which grey
  and alpha are made what is asked for. UserError for what cannot be read.
  """
  name = 'the picture'
  if isinstance(image, str | os.PathLike):
    name = str(image)
    try:
      image = pathlib.Path(image).read_bytes()
    except OSError as error:
      raise UserError(f'{name} cannot be read: {error.strerror}') from error
  if isinstance(image, bytes):
    try:
      decode = transforms.Decode(channels)
      return decode.map({'image': image})['image']
    except UserError as error:
      raise UserError(f'{name} is not a readable JPEG, PNG or WebP') from error
  if not isinstance(image, Image.Image):
    if np.asarray(image).dtype != np.uint8 or not _is_picture(np.shape(image)):
      raise UserError(
        f'a picture is a path, bytes, a PIL image or a uint8 array (H, W, C), C 1 to'
        f' 4, not'
        f' {type(image).__name__} {getattr(image, "dtype", "")}'
        f' {getattr(image, "shape", "")}'.rstrip()
      )
    image = np.asarray(image)
    if image.ndim == 3 and image.shape[-1] == channels:
      return image
    if image.ndim == 3 and image.shape[-1] == 1:
      image = image[..., 0]
    image = Image.fromarray(image)
  mode = 'L' if channels == 1 else 'RGB'
  return np.asarray(image.convert(mode)).reshape(image.height, image.width, -1)


def from_json(content: Mapping[str, Any]) -> Preprocessing | DetectionPreprocessing:
  """What `to_json` wrote."""
  kind = DetectionPreprocessing if 'short' in content else Preprocessing
  try:
    return kind(**{name: _tuples(value) for name, value in content.items()})
  except TypeError as error:
    raise UserError(f'preprocessing: {error}') from error


def of_weights(
  metadata: Mapping[str, Any],
  name: str,
  size: tuple[int, int] | None,
  num_classes: int,
  channels: int = 3,
  family: str = 'vit',
) -> Preprocessing | DetectionPreprocessing:
  """What the JSON files beside published weights say, else what is known of the source.

  `size` is that of images that the positions are for, where there are such; `family` is
  that of `weights.published.Published`. Google's ViTs and BiTs take [-1, 1] of images
  resized whatever their aspect ratio.
  """
  for content in metadata.values():
    if 'preprocessing' in content:  # our own writer's
      return from_json(content['preprocessing'])
  if family == 'detr':
    return of_detector(metadata, num_classes)
  config = metadata.get('config.json', {})
  if 'preprocessor_config.json' in metadata:
    found = from_transformers(metadata['preprocessor_config.json'], config)
  elif 'pretrained_cfg' in config:
    found = from_timm(config)
  elif family == 'resnet':
    found = Preprocessing(
      (224, 224),
      resize=256,
      interpolation='pillow_bilinear',
      rounding=('down', 'nearest'),
      mean=IMAGENET_MEAN,
      std=IMAGENET_STD,
      source='as published with torchvision',
    )
  else:
    size = size or (size_by_name(name),) * 2
    half = (0.5,) * channels
    found = Preprocessing(size, mean=half, std=half, source='as published by Google')
  if not found.label_names and num_classes == 1000:
    found = dataclasses.replace(found, label_names=imagenet_names())
  # More classes than these were pre-trained as so many questions of yes or no.
  scores = 'sigmoid' if num_classes > 1000 else 'softmax'
  return dataclasses.replace(found, scores=scores)


def of_detector(
  metadata: Mapping[str, Any], num_classes: int
) -> DetectionPreprocessing:
  """The same of a DETR's, by default as published: each picture alone, not padded.

  Their classes are COCO's ids: 91 of things, or 250 of stuff too.
  """
  config = metadata.get('config.json', {})
  if 'preprocessor_config.json' in metadata:
    found = detector_from_transformers(metadata['preprocessor_config.json'])
  else:
    found = DetectionPreprocessing(800, 1333, source='as published with DETR')
  names = _transformers_names(config)
  if not names and num_classes in (91, 250):
    names = coco_classes.class_names(num_classes)
  return dataclasses.replace(
    found, label_names=names, num_things=91 if num_classes == 250 else None
  )


def size_by_name(name: str) -> int:
  """The size of images where no parameter tells, by the name of a published file.

  Distilled BiTs name it (`R50x1_160`). Those fine-tuned on ImageNet or VTAB have seen
  384 pixels, R152x4 480: the sizes of arXiv:1912.11370 section 3.3, where its code has
  480 for all. All others were pre-trained on 224.
  """
  named = re.search(r'[-_](\d{3})$', name)
  if named:
    return int(named[1])
  if 'ILSVRC2012' in name or re.search(r'-run\d+-', name):
    return 480 if 'R152x4' in name else 384
  return 224


def from_timm(config: Mapping[str, Any]) -> Preprocessing:
  """Of timm's config.json."""
  told, source = config['pretrained_cfg'], "timm's config.json"
  try:
    channels, *size = told['input_size']
    mean, std = (_channels(told[k], channels) for k in ('mean', 'std'))
    method = told['interpolation']
    mode, share = told.get('crop_mode') or 'center', told['crop_pct']
    resize = tuple(int(side / share) for side in size)
  except (KeyError, TypeError, ValueError, ZeroDivisionError) as error:
    raise UserError(f'{source}: pretrained_cfg lacks or misstates {error}') from error
  if mode not in ('center', 'squash'):
    raise UserError(f'{source}: crop_mode={mode!r} is neither center nor squash')
  if mode == 'center' and len({*size}) == 1:
    resize = resize[0]
  elif mode == 'center':
    raise UserError(f'{source}: central crops of {_x(size)} are not square')
  elif resize == tuple(size):
    resize = 'squash'
  names = config.get('label_names') or told.get('label_names') or ()
  described = config.get('label_descriptions') or told.get('label_descriptions') or {}
  if isinstance(described, list):
    names, described = described, {}
  return Preprocessing(
    size=tuple(size),
    resize=resize,
    interpolation=_pillow(method, source),
    rounding=('down', 'nearest'),
    mean=mean,
    std=std,
    label_names=tuple(described.get(name, name) for name in names),
    source=source,
  )


def from_transformers(
  processor: Mapping[str, Any], config: Mapping[str, Any]
) -> Preprocessing:
  """Of preprocessor_config.json, and the names of classes in config.json."""
  source = 'preprocessor_config.json'
  _check_processor(processor, source)
  try:
    resize = _transformers_size(processor['size'])
    mean, std = (tuple(processor[f'image_{k}']) for k in ('mean', 'std'))
    size = resize
    if processor.get('do_center_crop'):
      size = _transformers_size(processor['crop_size'])
      size = (size, size) if isinstance(size, int) else size
  except (KeyError, TypeError) as error:
    raise UserError(f'{source} lacks or misstates {error}') from error
  if isinstance(size, int):
    if 'shortest_edge' in processor['size']:
      raise UserError(f'{source}: a shortest edge of {size} and no crop is no size')
  if processor.get('do_normalize') is False:
    mean, std = (0.0,) * len(mean), (1.0,) * len(std)
  method = processor.get('resample', 2)  # bilinear, as its ViTs have it
  if method not in range(len(_RESAMPLE)):
    raise UserError(f'{source}: resample={method!r} is no kernel of Pillow')
  return Preprocessing(
    size=size,
    resize='squash' if resize == size else resize,
    interpolation=_pillow(_RESAMPLE[method], source),
    rounding=('down', 'down'),
    mean=mean,
    std=std,
    label_names=_transformers_names(config),
    source=source,
  )


def detector_from_transformers(processor: Mapping[str, Any]) -> DetectionPreprocessing:
  """Of the preprocessor_config.json of a DETR."""
  source = 'preprocessor_config.json'
  _check_processor(processor, source)
  size = processor.get('size')
  if isinstance(size, int):  # as first published
    size = {'shortest_edge': size, 'longest_edge': processor.get('max_size')}
  if not isinstance(size, dict) or not isinstance(size.get('shortest_edge'), int):
    raise UserError(f'{source}: size={size!r} is not that of a shorter side')
  if processor.get('resample', 2) != _RESAMPLE.index('bilinear'):
    raise UserError(
      f'{source}: resample={processor["resample"]!r}: pictures to find objects in are'
      ' resized bilinearly (2) here'
    )
  mean = tuple(processor.get('image_mean', IMAGENET_MEAN))
  std = tuple(processor.get('image_std', IMAGENET_STD))
  if processor.get('do_normalize') is False:
    mean, std = (0.0,) * len(mean), (1.0,) * len(std)
  return DetectionPreprocessing(
    size['shortest_edge'], size.get('longest_edge'), mean=mean, std=std, source=source
  )


def to_timm(own: Preprocessing) -> dict[str, Any]:
  """What timm's `pretrained_cfg` says of it."""
  mode, share = 'squash', 1.0
  if own.resize != 'squash':
    sides = {own.resize} if isinstance(own.resize, int) else {*own.resize}
    if len(sides) > 1 or len({*own.size}) > 1:
      raise UserError(f'timm crops squares of squares only, not {own}')
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


def to_transformers(own: Preprocessing) -> dict[str, Any]:
  """The preprocessor_config.json that says so."""
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


def imagenet_names() -> tuple[str, ...]:
  """ImageNet-1k's classes as TFDS names them, by their numbers in WordNet."""
  [folder] = importlib.util.find_spec('tensorflow_datasets').submodule_search_locations
  file = pathlib.Path(folder) / 'datasets' / 'imagenet2012' / 'labels.txt'
  return read_names(file) if file.is_file() else ()


def read_names(path: str | os.PathLike) -> tuple[str, ...]:
  """Names of classes, one a line."""
  try:
    return tuple(pathlib.Path(path).read_text(encoding='utf-8').splitlines())
  except (OSError, UnicodeDecodeError) as error:
    raise UserError(f'{path} is not a text file of names: {error}') from error


def _check_processor(processor: Mapping[str, Any], source: str) -> None:
  if processor.get('do_resize') is False:
    raise UserError(f'{source}: do_resize is false, so it says no size')
  scale = processor.get('rescale_factor') or 1 / 255
  if processor.get('do_rescale') is False or abs(scale * 255 - 1) > 1e-6:
    raise UserError(f'{source}: pixels are not scaled to [0, 1]')


def _transformers_names(config: Mapping[str, Any]) -> tuple[str, ...]:
  """Of the classes in config.json; none where they are numbers."""
  names = config.get('id2label') or {}
  if all(re.fullmatch(r'LABEL_\d+', name) for name in names.values()):
    return ()
  try:
    return tuple(names[k] for k in sorted(names, key=int))
  except ValueError as error:
    raise UserError(f'config.json: id2label is not by number: {error}') from error


def _transformers_size(told: int | Mapping[str, int]) -> int | tuple[int, int]:
  """A number of pixels for the shorter side, or height and width."""
  if isinstance(told, int):
    return told, told
  if 'shortest_edge' in told:
    return told['shortest_edge']
  return told['height'], told['width']


def _is_picture(shape: Sequence[int]) -> bool:
  """Whether it is that of pixels: grey or in colours, with alpha or without."""
  return len(shape) in (2, 3) and 0 not in shape and (*shape, 1)[2] <= 4


def _check_normalization(mean: Sequence[float], std: Sequence[float]) -> None:
  if len(mean) != len(std) or not all(std):
    raise UserError(
      f'mean={mean} and std={std} are not one for each channel, std not 0'
    )


def _softmax(logits: np.ndarray) -> np.ndarray:
  odds = np.exp(logits - logits.max(axis=-1, keepdims=True, initial=-np.inf))
  return odds / odds.sum(axis=-1, keepdims=True)


def _name(label_names: Sequence[str], label: int) -> str:
  return label_names[label] if label < len(label_names) else str(label)


def _tuples(value: Any) -> Any:
  """Lists of JSON, and those in them, as tuples."""
  return tuple(map(_tuples, value)) if isinstance(value, list) else value


def _pillow(kernel: str, source: str) -> str:
  """Our name of what timm and transformers do: they resize with Pillow."""
  name = f'pillow_{kernel}'
  if name not in transforms.METHODS:
    raise UserError(
      f'{source}: interpolation {kernel!r}: of {", ".join(transforms.METHODS)} none'
      ' does that'
    )
  return name


def _kernel(own: Preprocessing) -> str:
  """Pillow's kernel that is next to ours: a box takes means of areas."""
  name = own.interpolation.removeprefix('pillow_')
  return 'box' if name == 'area' else name


def _channels(values: Sequence[float], channels: int) -> tuple[float, ...]:
  return tuple(np.broadcast_to(values, channels).tolist())


def _side(size: Sequence[int]) -> int | tuple[int, int]:
  """One number for a square, as configs write it."""
  return size[0] if size[0] == size[1] else tuple(size)


def _x(size: Sequence[int]) -> str:
  return f'{size[0]}x{size[1]}'


def _listed(values: Sequence[float]) -> str:
  """One number where all are the same."""
  values = values[:1] if len({*values}) == 1 else values
  return ' '.join(f'{value:g}' for value in values)
