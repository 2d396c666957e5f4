"""Inputs of published benchmarks, as parts of configs."""

import abc
import copy
import dataclasses
import statistics
from collections.abc import Mapping, Sequence

import ml_collections as mlc

from big_vision_like.data.input import packing, pipeline
from big_vision_like.data.sources import coco, coco_classes, tfds
from big_vision_like.data.text import vocabulary
from big_vision_like.data.transforms import (
  boxes,
  color,
  compose,
  image,
  instance_masks,
  labels,
  objects,
  text,
  timm_randaugment,
)
from big_vision_like.errors import UserError
from big_vision_like.spec import spec, symbol


@dataclasses.dataclass(frozen=True, kw_only=True)
class Images:
  """Labelled images of TFDS, with the splits that a protocol uses.

  `parts` maps names to splits with their numbers of examples (None: unknown). `train`
  has all training examples, `fit` the training examples while learning rates are chosen
  on `val`, and `test` the examples to report. `prepare` is applied between decoding and
  a config's own transforms. `crop` and `flip` tell whether labels are invariant to
  them. `size` is the size of images, where it matters.
  """

  name: str
  num_classes: int
  parts: Mapping[str, tuple[str, int | None]]
  group: str = ''
  prepare: Sequence[mlc.ConfigDict] = ()
  crop: bool = True
  flip: bool = True
  size: tuple[int, int] = (224, 224)

  def source(self, part: str) -> mlc.ConfigDict:
    """Returns the source of a part."""
    split, examples = self.parts[part]
    return spec(tfds.Tfds, name=self.name, split=split, examples=examples)

  def train_input(
    self,
    part: str,
    transforms: Sequence[mlc.ConfigDict],
    batch_size: int,
    seed: int = 0,
    workers: int = 8,
  ) -> mlc.ConfigDict:
    """Returns an input with shuffled batches of a part."""
    return spec(
      pipeline.TrainInput,
      source=self.source(part),
      transforms=self._transforms(transforms),
      batch_size=batch_size,
      seed=seed,
      workers=workers,
    )

  def eval_input(
    self,
    part: str,
    transforms: Sequence[mlc.ConfigDict],
    batch_size: int,
    workers: int = 8,
  ) -> mlc.ConfigDict:
    """Returns an input with every example of a part once."""
    return spec(
      pipeline.EvalInput,
      source=self.source(part),
      transforms=self._transforms(transforms),
      batch_size=batch_size,
      workers=workers,
    )

  def _transforms(self, own: Sequence[mlc.ConfigDict]) -> list[mlc.ConfigDict]:
    # Copies, since an override of one input of a config must not change another.
    first = [spec(image.Decode)]
    if own and not self.prepare and hasattr(symbol(own[0], 'transforms[0]'), 'box'):
      # The joint transform decodes less, with equal results.
      first, own = [spec(image.DecodeCrop, crop=own[0])], own[1:]
    check = spec(labels.InRange, classes=self.num_classes)
    parts = [*first, *self.prepare, *own, check, spec(labels.Keep)]
    return [part.copy_and_resolve_references() for part in parts]


def imagenet_real(
  transforms: Sequence[mlc.ConfigDict], batch_size: int, workers: int = 8
) -> mlc.ConfigDict:
  """Returns an input of ImageNet's validation images with labels of ImageNet-ReaL.

  These labels are all classes that fit an image (arXiv:2006.07159).
  """
  return spec(
    pipeline.EvalInput,
    source=spec(
      tfds.Tfds, name='imagenet2012_real', split='validation', examples=50_000
    ),
    transforms=[
      spec(image.Decode),
      *transforms,
      spec(labels.RealLabels),
      spec(labels.Keep, names=('image', 'labels')),
    ],
    batch_size=batch_size,
    workers=workers,
  )


IMAGENET = Images(
  name='imagenet2012',
  num_classes=1000,
  parts=dict(
    train=('train', 1_281_167),
    fit=('train[:99%]', 1_268_355),
    val=('train[99%:]', 12_812),
    test=('validation', 50_000),
  ),
)
IMAGENET_V2 = Images(
  name='imagenet_v2/matched-frequency',
  num_classes=1000,
  parts=dict(test=('test', 10_000)),
)
# Not in TFDS's catalogue; users prepare it. The release of 2011 with 51,200 held-out
# examples, as in google-research/big_vision.
IMAGENET21K = Images(
  name='imagenet21k',
  num_classes=21_843,
  parts=dict(train=('full[51200:]', 14_145_922), val=('full[:51200]', 51_200)),
)
# Not public; users may substitute their own data.
JFT = Images(
  name='jft',
  num_classes=18_291,
  parts=dict(train=('train[51200:]', 302_948_800), val=('train[:51200]', 51_200)),
)


def _transfer(
  name: str, num_classes: int, percent: int, fit: int, val: int, test: int, **rest
) -> Images:
  """Returns images that fit on `percent` % of the training split during selection."""
  parts = dict(
    train=('train', fit + val),
    fit=(f'train[:{percent}%]', fit),
    val=(f'train[{percent}%:]', val),
    test=('test', test),
  )
  return Images(name=name, num_classes=num_classes, parts=parts, **rest)


# Data sets for fine-tuning in arXiv:2010.11929 and arXiv:1912.11370.
TRANSFER = {
  'imagenet': IMAGENET,
  'cifar10': _transfer('cifar10', 10, 98, 49_000, 1000, 10_000, size=(32, 32)),
  'cifar100': _transfer('cifar100', 100, 98, 49_000, 1000, 10_000, size=(32, 32)),
  'pets': _transfer('oxford_iiit_pet', 37, 90, 3312, 368, 3669),
  'flowers': _transfer('oxford_flowers102', 102, 90, 918, 102, 6149),
}


def _vtab(
  group: str,
  name: str,
  num_classes: int,
  val: str = 'validation[:200]',
  test: str = 'test',
  **rest,
) -> Images:
  """Returns a task of VTAB-1k: 800 examples to fit, 200 for selection, 1000 in all."""
  fit = 'train[:800]'
  parts = dict(fit=(fit, 800), val=(val, 200), train=(f'{fit}+{val}', 1000))
  parts['test'] = (test, None)
  return Images(name=name, num_classes=num_classes, parts=parts, group=group, **rest)


def _clevr(num_classes: int, label: type) -> Images:
  own = dict(prepare=[spec(label)], crop=False)
  val, test = 'train[63000:63200]', 'validation'
  return _vtab('structured', 'clevr:3.*.*', num_classes, val, test, **own)


def _dsprites(label: str, values: int) -> Images:
  prepare = [spec(labels.Binned, name=label, values=values), spec(image.Brighten)]
  own = dict(prepare=prepare, crop=False, flip=False, size=(64, 64))
  val, test = 'train[589824:590024]', 'train[663552:]'
  return _vtab('structured', 'dsprites:2.*.*', 16, val, test, **own)


def _smallnorb(num_classes: int, label: str, **rest) -> Images:
  own = dict(prepare=[spec(labels.Label, name=label)], size=(96, 96), **rest)
  val, test = 'test[:200]', 'test[50%:]'
  return _vtab('structured', 'smallnorb:2.*.*', num_classes, val, test, **own)


# VTAB-1k, arXiv:1910.04867; splits of google-research/task_adaptation. Images are not
# cropped or flipped where that may change their label, in our interpretation of it.
VTAB = {
  'caltech101': _vtab('natural', 'caltech101:3.*.*', 102, 'train[2754:2954]'),
  'cifar100': _vtab(
    'natural', 'cifar100:3.*.*', 100, 'train[45000:45200]', size=(32, 32)
  ),
  'dtd': _vtab('natural', 'dtd:3.*.*', 47),
  'flowers102': _vtab('natural', 'oxford_flowers102:2.*.*', 102),
  # The paper's 3.*.* can no longer be prepared; the images and splits are the same.
  'pets': _vtab('natural', 'oxford_iiit_pet:4.*.*', 37, 'train[2944:3144]'),
  'sun397': _vtab('natural', 'sun397/tfds:4.*.*', 397),
  'svhn': _vtab(
    'natural', 'svhn_cropped:3.*.*', 10, 'train[65931:66131]', flip=False, size=(32, 32)
  ),
  'patch_camelyon': _vtab('specialised', 'patch_camelyon:2.*.*', 2, size=(96, 96)),
  'eurosat': _vtab(
    'specialised',
    'eurosat/rgb:2.*.*',
    10,
    'train[16200:16400]',
    'train[21600:]',
    size=(64, 64),
  ),
  'resisc45': _vtab(
    'specialised', 'resisc45:3.*.*', 45, 'train[18900:19100]', 'train[25200:]'
  ),
  'diabetic_retinopathy': _vtab(
    'specialised', 'diabetic_retinopathy_detection/btgraham-300:3.*.*', 5
  ),
  'clevr_count': _clevr(8, labels.ClevrCount),
  'clevr_dist': _clevr(6, labels.ClevrDistance),
  'dmlab': _vtab('structured', 'dmlab:2.0.1', 6, crop=False),
  'kitti_dist': _vtab(
    'structured', 'kitti:3.1.0', 4, prepare=[spec(labels.KittiDistance)], crop=False
  ),
  'dsprites_loc': _dsprites('label_x_position', 32),
  'dsprites_ori': _dsprites('label_orientation', 40),
  'smallnorb_azimuth': _smallnorb(18, 'label_azimuth', flip=False),
  'smallnorb_elevation': _smallnorb(9, 'label_elevation'),
}


def vtab_means(accuracies: Mapping[str, float]) -> dict[str, float]:
  """Returns means over each group of VTAB-1k tasks, and over all 19 tasks (`all`)."""
  missing, unknown = VTAB.keys() - accuracies, accuracies.keys() - VTAB
  if missing or unknown:
    raise UserError(
      'VTAB-1k is the mean over its 19 tasks:'
      f' missing {", ".join(sorted(missing)) or "none"};'
      f' unknown {", ".join(sorted(unknown)) or "none"}.'
    )
  groups: dict[str, list[float]] = {}
  for name, task in VTAB.items():
    groups.setdefault(task.group, []).append(accuracies[name])
  means = {group: statistics.fmean(found) for group, found in groups.items()}
  return means | {'all': statistics.fmean(accuracies.values())}


def _fewshot(
  name: str,
  num_classes: int,
  train: str = 'train',
  test: str = 'test',
  examples: tuple[int | None, int | None] = (None, None),
) -> Images:
  parts = dict(train=(train, examples[0]), test=(test, examples[1]))
  return Images(name=name, num_classes=num_classes, parts=parts)


# Linear probes of arXiv:2010.11929 section 4.1, as in google-research/big_vision.
FEWSHOT = {
  'caltech101': _fewshot('caltech101', 102),
  'cars196': _fewshot('cars196:2.1.0', 196),
  'cifar100': _fewshot('cifar100', 100),
  'dtd': _fewshot('dtd', 47),
  # At least 30 examples of each class.
  'imagenet': _fewshot('imagenet2012', 1000, 'train[:65000]', 'validation'),
  'oxford_iiit_pet': _fewshot('oxford_iiit_pet', 37),
  'uc_merced': _fewshot('uc_merced', 21, 'train[:1000]', 'train[1000:]', (1000, 1100)),
}


def sentence_pieces(data_set: str, size: int) -> mlc.ConfigDict:
  """Returns a vocabulary shared by both languages of a TFDS translation data set."""
  languages = data_set.rpartition('/')[2].split('-')
  name = data_set.replace('/', '_').replace('-', '_')
  return spec(
    vocabulary.SentencePiece,
    path=f'vocabularies/{name}_{size}.model',
    recipe=f'{data_set} --features {" ".join(languages)} --size {size}',
  )


def translation_train(
  data_set: str,
  source: str,
  target: str,
  words: mlc.ConfigDict,
  batch_size: int,
  length: int = 256,
  rows: int | None = None,
  seed: int = 0,
) -> mlc.ConfigDict:
  """Returns an input with rows of `length` source and target tokens of whole pairs.

  `source` and `target` are languages of the TFDS data set, and `words` is their
  vocabulary. Longer sentence pairs are left out. `rows` is the approximate number of
  rows, for plans.
  """
  return spec(
    pipeline.TrainInput,
    source=spec(
      packing.Packed,
      source=spec(tfds.Tfds, name=data_set, split='train'),
      tokenize=spec(text.Tokenize, vocabulary=words, source=source, target=target),
      source_length=length,
      target_length=length,
      rows=rows,
    ),
    batch_size=batch_size,
    workers=4,
    seed=seed,
  )


def translation_eval(
  data_set: str,
  split: str,
  source: str,
  target: str,
  words: mlc.ConfigDict,
  batch_size: int,
  length: int = 256,
) -> mlc.ConfigDict:
  """Returns an input with one sentence pair per row, truncated to `length` tokens."""
  return spec(
    pipeline.EvalInput,
    source=spec(tfds.Tfds, name=data_set, split=split),
    transforms=[
      spec(text.Tokenize, vocabulary=words, source=source, target=target),
      spec(text.Pad, source_length=length, target_length=length, truncate=True),
    ],
    batch_size=batch_size,
  )


def deit_augmentation(size: int = 224) -> list[mlc.ConfigDict]:
  """Returns the host's part of the augmentation of DeiT and Swin.

  See arXiv:2012.12877 table 9. A task does the rest, with `label_smoothing=0.1`,
  `augment=spec(Augment, erasing=0.25, mixup=0.8, cutmix=1.0, partner='reversed')` and
  ImageNet's mean and deviation.
  """
  return [
    spec(image.RandomResizedCrop, size=size),
    spec(image.Flip),
    spec(timm_randaugment.RandAugment),
  ]


def torch_crop(size: int, share: float = 0.875) -> list[mlc.ConfigDict]:
  """Returns the central crop on which DeiT and Swin are evaluated, as in timm.

  Its side is `share` of the shorter side of the image.
  """
  resized = int(size / share)
  return [
    spec(image.ResizeSmall, size=resized, method='pillow_bicubic', rounding='down'),
    spec(image.CentralCrop, size=size, rounding='nearest'),
  ]


def three_augment(
  size: int = 224, simple_crop: bool = False, jitter: float = 0.3
) -> list[mlc.ConfigDict]:
  """Returns 3-Augment of DeiT III (arXiv:2204.07118 section 3.2).

  Images become grey, solarised or blurred, and then get colour jitter. With
  `simple_crop`, as for ImageNet-21k, the crop shows nearly all of the image.
  """
  crop = [spec(image.RandomResizedCrop, size=size)]
  if simple_crop:
    crop = [
      spec(image.ResizeSmall, size=size, method='pillow_bicubic', rounding='down'),
      spec(image.ReflectPad, size=4),
      spec(image.RandomCrop, size=size),
    ]
  changes = [spec(color.Grayscale), spec(color.Solarize), spec(color.GaussianBlur)]
  return [
    *crop,
    spec(image.Flip),
    spec(compose.OneOf, transforms=changes),
    spec(color.ColorJitter, brightness=jitter, contrast=jitter, saturation=jitter),
  ]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Pictures(abc.ABC):
  """Images in parts, each a source, with inputs whose transforms subclasses define."""

  parts: Mapping[str, mlc.ConfigDict]

  @abc.abstractmethod
  def _transforms(self, train: bool) -> list[mlc.ConfigDict]:
    """Returns the transforms for training or for evaluation."""

  def source(self, part: str) -> mlc.ConfigDict:
    """Returns the source of a part."""
    if part not in self.parts:
      raise UserError(f'no part {part!r}: choose one of {", ".join(self.parts)}')
    return self.parts[part].copy_and_resolve_references()

  def train_input(
    self, batch_size: int, part: str = 'train', seed: int = 0, workers: int = 8
  ) -> mlc.ConfigDict:
    """Returns an input with shuffled batches of a part."""
    return spec(
      pipeline.TrainInput,
      source=self.source(part),
      transforms=self._transforms(train=True),
      batch_size=batch_size,
      seed=seed,
      workers=workers,
    )

  def eval_input(
    self, batch_size: int, part: str = 'val', workers: int = 8
  ) -> mlc.ConfigDict:
    """Returns an input with every example of a part once."""
    return spec(
      pipeline.EvalInput,
      source=self.source(part),
      transforms=self._transforms(train=False),
      batch_size=batch_size,
      workers=workers,
    )


@dataclasses.dataclass(frozen=True, kw_only=True)
class Scenes(Pictures):
  """Images of several objects, for object discovery or set prediction.

  `parts` maps names to sources: `train`, `val` for selection, and `test`, which is
  reported. Batches for evaluation have `names`: `image`, and `segmentation` or
  `targets` (see `transforms.objects`). Batches for training have no `segmentation`,
  because no task learns from it. `transforms` are applied last, after decoding.
  """

  transforms: Sequence[mlc.ConfigDict] = ()
  names: Sequence[str] = ('image', 'segmentation')

  def _transforms(self, train: bool) -> list[mlc.ConfigDict]:
    names = [n for n in self.names if not (train and n == 'segmentation')]
    made = {'segmentation': objects.DecodeSegmentation, 'targets': objects.ClevrTargets}
    first = [spec(image.Decode), *(spec(made[n]) for n in names if n in made)]
    own = [part.copy_and_resolve_references() for part in self.transforms]
    return [*first, spec(labels.Keep, names=names), *own]


def _parts(name: str, **splits: tuple[str, int | None]) -> dict[str, mlc.ConfigDict]:
  """Returns sources for splits of a TFDS data set, with their numbers of examples."""
  return {
    part: spec(tfds.Tfds, name=name, split=split, examples=examples)
    for part, (split, examples) in splits.items()
  }


def _scenes(
  name: str,
  train: int | None,
  rest: int = 320,
  transforms: Sequence[mlc.ConfigDict] = (),
  **others: mlc.ConfigDict,
) -> Scenes:
  own = dict(train=('train', train), val=('validation', rest), test=('test', rest))
  return Scenes(parts=_parts(name, **own) | others, transforms=transforms)


# Data sets for object discovery. The first are drawn, as similar to the published sets
# as is known; the `multi_object` sets are the published ones. Numbers of examples are
# from arXiv:2006.15055 section 4.1. Scenes have at most six objects, and in the part
# `more` up to ten.
DISCOVERY = {
  'tetrominoes': _scenes('tetrominoes', 60_000),
  'tetrominoes_7': _scenes('tetrominoes/7', 60_000),
  'multi_dsprites': _scenes('multi_dsprites', 60_000),
  'solids': _scenes(
    'solids/discovery',
    35_000,
    **_parts('solids/discovery', more=('crowded', 320)),
  ),
  'blocks': _scenes('tetrominoes/blocks', 20_000, 256),
  'published_tetrominoes': _scenes('multi_object/tetrominoes', 60_000),
  'published_multi_dsprites': _scenes(
    'multi_object/multi_dsprites_colored_on_grayscale', 60_000
  ),
  'clevr': _scenes(
    'multi_object/clevr6_with_masks',
    None,
    transforms=[spec(objects.Resize, size=128, crop=(29, 64, 192, 192))],
    **_parts('multi_object/clevr_with_masks', more=('test', 320)),
  ),
}


def _properties(name: str, train: int, test: int, size: int | None = None) -> Scenes:
  """Returns scenes, the first 512 held out, as in google-research/slot_attention."""
  return Scenes(
    parts=_parts(
      name,
      train=('train[512:]', train - 512),
      val=('train[:512]', 512),
      test=('validation', test),
    ),
    transforms=[] if size is None else [spec(objects.Resize, size=size)],
    names=('image', 'targets'),
  )


# Data sets for set prediction; drawn images already have their final size.
PROPERTIES = {
  'clevr': _properties('clevr:3.1.0', 70_000, 15_000, size=128),
  'solids': _properties('solids/128', 70_000, 15_000),
  'solids_64': _properties('solids/64', 20_000, 1_000),
}


# Shorter sides of the images that DETR (arXiv:2005.12872) is trained on.
DETR_SIDES = tuple(range(480, 801, 32))
# Shapes of batches. With COCO's training set padded to these shapes, 23 % of the pixels
# are padding; with a single shape, 70 %. Longer sides are at most 1333, up to rounding.
DETR_SHAPES = ((576, 768), (672, 896), (768, 1024), (800, 1344))
DETR_SHAPES = (*DETR_SHAPES, *((width, height) for height, width in DETR_SHAPES))


def detr_augmentation() -> list[mlc.ConfigDict]:
  """Returns the flips, crops and scales of DETR's published code."""
  first, last = (
    spec(boxes.RandomResizeShort, sizes=DETR_SIDES, longest=1333) for _ in range(2)
  )
  smaller = spec(boxes.RandomResizeShort, sizes=(400, 500, 600))
  crop = spec(boxes.RandomSizeCrop, low=384, high=600)
  return [
    spec(boxes.Flip),
    spec(boxes.Either, first=[first], second=[smaller, crop, last]),
  ]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Detection(Pictures):
  """Images for object detection: COCO, `scenes`, or your own.

  `parts` maps names to sources with the features of TFDS's `coco/2017`, or with
  `panoptic` of `coco/2017_panoptic`; objects are then things and stuff, with masks.
  `ids` maps labels to new ones; None keeps them. `augmentation` is for training,
  `resizing` for evaluation. Images are then padded to `shapes` or `eval_shapes` (see
  `boxes.Pad`), and objects to `max_boxes`.

  Batches have `image` uint8 (B, H, W, 3), `size` int32 (B, 2), `boxes` float32
  (B, max_boxes, 4), `box_labels` int32, `box_mask` bool (objects that are not crowds),
  `dropped` int32 (B,), and with `panoptic` uint8 `segment_map` (B, H, W): the box of
  each pixel, counted from 1. H and W are one of the shapes. Batches for evaluation have
  no `segment_map`. With `box_masks`, batches for training have uint8 `box_masks`
  (B, max_boxes, N, N), grids of N = `box_masks` cells over each box, made of the
  records' `outlines`, or with `drawn` of `segmentation` (`transforms.instance_masks`).

  Batches for evaluation add `crowd` bool and `area` float32 (B, max_boxes), `image_id`
  int32 (B,), `original_size` int32 (B, 2), and with `panoptic` the ground truth of
  `boxes.PanopticTruth`, in maps of `truth_size`; their boxes include crowds. Without
  `masks` there are no maps, only the boxes of things and stuff.
  """

  shapes: Sequence[tuple[int, int]]
  eval_shapes: Sequence[tuple[int, int]]
  max_boxes: int
  augmentation: Sequence[mlc.ConfigDict] = ()
  resizing: Sequence[mlc.ConfigDict] = ()
  ids: Sequence[int] | None = None
  panoptic: bool = False
  masks: bool = True
  truth_size: tuple[int, int] = (640, 640)
  box_masks: int = 0
  drawn: bool = False

  def _transforms(self, train: bool) -> list[mlc.ConfigDict]:
    own, shapes, crowds = self.resizing, self.eval_shapes, not train
    if train:
      own, shapes = self.augmentation, self.shapes
    names = ['image', 'boxes', 'box_labels', 'dropped']
    names += ['crowd', 'area', 'image_id', 'original_size'] if crowds else []
    prepare = [spec(boxes.Objects, crowds=crowds, ids=self.ids)]
    if self.panoptic:
      prepare = [spec(boxes.Panoptic, crowds=crowds, ids=self.ids)]
    if self.panoptic and self.masks and crowds:
      room = dict(size=self.truth_size, max_segments=self.max_boxes)
      prepare.append(spec(boxes.PanopticTruth, **room))
      names += ['panoptic', 'segments']
    elif self.panoptic and self.masks:
      names.append('segment_map')
    grids = []
    if self.box_masks and train:
      first = instance_masks.SegmentMap if self.drawn else instance_masks.Placed
      prepare.insert(0, spec(first))
      names += ['segment_map'] if self.drawn else ['outlines', 'placement']
      names.append('original_size')
      grids = [spec(instance_masks.BoxMasks, cells=self.box_masks)]
    pad = spec(boxes.Pad, sizes=shapes, max_boxes=self.max_boxes)
    keep = spec(labels.Keep, names=names)
    parts = [spec(image.Decode), *prepare, keep, *own, *grids, pad]
    # A deep copy also covers lists of recorded calls.
    return [copy.deepcopy(part.copy_and_resolve_references()) for part in parts]


def _coco(name: str, ids: Sequence[int], panoptic: bool = False) -> Detection:
  splits = dict(train=('train', 118_287), val=('validation', 5000))
  return Detection(
    parts=_parts(name, **splits),
    shapes=DETR_SHAPES,
    eval_shapes=((800, 1088), (800, 1344), (1088, 800), (1344, 800)),
    max_boxes=100,
    augmentation=detr_augmentation(),
    resizing=[spec(boxes.ResizeShort, size=800, longest=1333)],
    ids=ids,
    panoptic=panoptic,
  )


def _drawn(name: str, shape: tuple[int, int], max_boxes: int, **rest) -> Detection:
  splits = dict(train=('train', 10_000), val=('validation', 500))
  return Detection(
    parts=_parts(f'scenes/{name}', **splits),
    shapes=(shape,),
    eval_shapes=(shape,),
    max_boxes=max_boxes,
    **rest,
  )


# Data sets for detection. Classes of COCO are its own 91 ids.
DETECTION = {
  'coco': _coco('coco/2017', coco_classes.IDS),
  'scenes': _drawn('hidden', (96, 128), 10, augmentation=[spec(boxes.Flip)]),
  'scenes_simple': _drawn('simple', (48, 48), 3),
}


def _instances(annotations: str, images: str, examples: int) -> mlc.ConfigDict:
  return spec(
    coco.Coco,
    annotations=f'data/coco/annotations/{annotations}',
    images=f'data/coco/{images}',
    outlines=True,
    examples=examples,
  )


# Data sets for detection with masks, by two stages. COCO is read from its own files,
# because TFDS leaves the outlines out; label k is its k-th category of 80.
INSTANCES = {
  'coco': dataclasses.replace(
    _coco('coco/2017', ()),
    parts=dict(
      train=_instances('instances_train2017.json', 'train2017', 118_287),
      val=_instances('instances_val2017.json', 'val2017', 5000),
    ),
    ids=None,
    box_masks=112,
  ),
  # Doubled in size, because the smallest anchors have 32 pixels.
  'scenes_simple': _drawn(
    'simple',
    (96, 96),
    3,
    augmentation=[spec(boxes.ResizeShort, size=96)],
    resizing=[spec(boxes.ResizeShort, size=96)],
    box_masks=56,
    drawn=True,
  ),
}
# Data sets with stuff and masks. COCO has 201 classes, since its ids go up to 200.
PANOPTIC = {
  'coco': _coco('coco/2017_panoptic', coco_classes.PANOPTIC_IDS, panoptic=True),
  'scenes': _drawn(
    'hidden',
    (96, 128),
    12,
    augmentation=[spec(boxes.Flip)],
    panoptic=True,
    truth_size=(96, 128),
  ),
  # Doubled in size, for models whose maps have one cell per 16 pixels; without stuff.
  'scenes_simple': _drawn(
    'simple',
    (96, 96),
    3,
    augmentation=[spec(boxes.ResizeShort, size=96)],
    resizing=[spec(boxes.ResizeShort, size=96)],
    panoptic=True,
    truth_size=(48, 48),
  ),
}
