"""Inputs of data sets with label maps, as parts of configs."""

import copy
import dataclasses
from collections.abc import Mapping, Sequence

import ml_collections as mlc

from big_vision_like.data import benchmarks
from big_vision_like.data.procedural import label_scenes
from big_vision_like.data.sources import label_map_classes, tfds
from big_vision_like.data.sources import label_maps as sources
from big_vision_like.data.sources.label_map_classes import Classes
from big_vision_like.data.transforms import image, label_maps, labels
from big_vision_like.spec import spec

# The scales of multi-scale tests (arXiv:2103.14030, published code).
SCALES = (0.5, 0.75, 1.0, 1.25, 1.5, 1.75)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Segmentation(benchmarks.Pictures):
  """Images with label maps: ADE20K, Cityscapes, COCO-Stuff, LIP, or drawn scenes.

  For training, `augmentation` is applied, and images are padded to one of `shapes`. For
  evaluation, images are resized by `label_maps.Views` with the arguments `views`, if
  there are any, and padded to one of `eval_shapes`. Label maps for evaluation keep
  their original size, up to `truth_size`.

  Training batches have `image` uint8 (B, H, W, 3), `label_map` uint8 (B, H, W) and
  `size` int32 (B, 2). Batches for evaluation have `truth_map` of `truth_size` and
  `original_size` instead of `label_map`, and with `scales` further images.
  """

  classes: Classes
  shapes: Sequence[tuple[int, int]]
  eval_shapes: Sequence[tuple[int, int]]
  truth_size: tuple[int, int]
  augmentation: Sequence[mlc.ConfigDict] = ()
  views: Mapping[str, int] | None = None
  scales: Sequence[float] = (1.0,)

  def _transforms(self, train: bool) -> list[mlc.ConfigDict]:
    own = [
      spec(label_maps.Labels, values=self.classes.values, ignored=self.classes.ignored)
    ]
    names = ['image', 'size']
    if train:
      own += [*self.augmentation, spec(label_maps.Pad, sizes=self.shapes)]
      names.append('label_map')
    else:
      own.append(spec(label_maps.Truth, size=self.truth_size))
      if self.views is not None:
        own.append(spec(label_maps.Views, **self.views, scales=self.scales))
      own.append(spec(label_maps.Pad, sizes=self.eval_shapes, scales=self.scales))
      names += ['truth_map', 'original_size']
      for scale in self.scales:
        names += [f'image_{scale:g}', f'size_{scale:g}'] if scale != 1 else []
    parts = [spec(image.Decode), *own, spec(labels.Keep, names=names)]
    return [copy.deepcopy(part.copy_and_resolve_references()) for part in parts]

  def at_scales(self, scales: Sequence[float] = SCALES) -> 'Segmentation':
    """Returns the same data with images of several scales for evaluation."""
    return dataclasses.replace(self, scales=tuple(scales))


def augmentation(
  size: int, longest: int, shortest: int, most: float = 0.75
) -> list[mlc.ConfigDict]:
  """Returns mmsegmentation's augmentation: random scale, crop, flip and colours."""
  return [
    spec(label_maps.RandomResize, longest=longest, shortest=shortest),
    spec(label_maps.RandomCrop, size=size, most=most),
    spec(label_maps.Flip),
    spec(label_maps.PhotometricDistortion),
  ]


def _folder(name: str, part: str, examples: int, images: str, maps: str, **endings):
  """Returns the source of a part of a data set in a folder of that name."""
  place = dict(images=f'data/{name}/{images}', maps=f'data/{name}/{maps}')
  where = {key: path.format(part) for key, path in place.items()}
  return spec(sources.LabelMaps, **where, examples=examples, **endings)


def _rounded(shortest: int, longest: int) -> list[tuple[int, int]]:
  """Returns all sizes of images whose sides are rounded to multiples of 32."""
  sides = range(shortest, longest + 1, 32)
  wide = [(shortest, side) for side in sides]
  return [*wide, *((side, shortest) for side in sides[1:])]


def _drawn(name: str, size: tuple[int, int], factor: int = 1) -> Segmentation:
  """Returns drawn scenes of this size, enlarged for models with coarse maps."""
  names, (height, width) = label_scenes.NAMES[name], (factor * side for side in size)
  splits = dict(train=('train', 10_000), val=('validation', 500))
  sides = dict(longest=max(height, width), shortest=min(height, width))
  enlarged = [spec(label_maps.RandomResize, **sides, factors=(1.0, 1.0))]
  return Segmentation(
    parts={
      part: spec(tfds.Tfds, name=f'label_scenes/{name}', split=split, examples=examples)
      for part, (split, examples) in splits.items()
    },
    classes=Classes(names, tuple(range(1, len(names) + 1)), (0,)),
    shapes=((height, width),),
    eval_shapes=((height, width),),
    truth_size=size,
    augmentation=[*enlarged[: factor - 1], spec(label_maps.Flip)],
    views=sides if factor > 1 else None,
  )


def ade20k(size: int = 512) -> Segmentation:
  """Returns ADE20K (SceneParse150) for crops of this size; the shorter side of images.

  Folders are those of ADEChallengeData2016. For evaluation, sides of images are rounded
  to multiples of 32 so that they need no padding; mmsegmentation does not round.
  """
  longest = 4 * size
  return Segmentation(
    parts={
      'train': _folder('ade20k', 'training', 20_210, 'images/{}', 'annotations/{}'),
      'val': _folder('ade20k', 'validation', 2000, 'images/{}', 'annotations/{}'),
    },
    classes=label_map_classes.ADE20K,
    shapes=((size, size),),
    eval_shapes=_rounded(size, longest),
    truth_size=(2400, 2400),
    augmentation=augmentation(size, longest, size),
    views=dict(longest=longest, shortest=size, multiple=32),
  )


CITYSCAPES = Segmentation(
  parts={
    part: _folder(
      'cityscapes',
      part,
      count,
      'leftImg8bit/{}',
      'gtFine/{}',
      ending='_leftImg8bit.png',
      map_ending='_gtFine_labelIds.png',
    )
    for part, count in (('train', 2975), ('val', 500))
  },
  classes=label_map_classes.CITYSCAPES,
  shapes=((1024, 1024),),
  eval_shapes=((1024, 2048),),
  truth_size=(1024, 2048),
  augmentation=augmentation(1024, 2048, 1024),
)


def _coco(classes: Classes, maps: str) -> Segmentation:
  """Returns COCO 2017 at the sizes of detectron2, with label maps in this folder."""
  return Segmentation(
    parts={
      part: _folder('coco', f'{part}2017', count, '{}', maps)
      for part, count in (('train', 118_287), ('val', 5000))
    },
    classes=classes,
    shapes=benchmarks.DETR_SHAPES,
    eval_shapes=((800, 1088), (800, 1344), (1088, 800), (1344, 800)),
    truth_size=(640, 640),
    augmentation=[
      spec(label_maps.RandomResize, longest=1333, shortest=800, factors=(0.8, 1.0)),
      spec(label_maps.Flip),
    ],
    views=dict(longest=1333, shortest=800),
  )


COCO_STUFF = _coco(label_map_classes.COCO_STUFF, 'stuffthingmaps/{}')
# The 53 classes of stuff in COCO's panoptic annotations, and one of all things, in the
# maps that detectron2's prepare_panoptic_fpn.py writes.
COCO_STUFF_54 = _coco(label_map_classes.COCO_STUFF_54, 'panoptic_stuff_{}')
LIP = Segmentation(
  parts={
    part: _folder('lip', part, count, '{}_images', '{}_segmentations')
    for part, count in (('train', 30_462), ('val', 10_000))
  },
  classes=label_map_classes.LIP,
  shapes=((473, 473),),
  eval_shapes=((473, 473),),
  truth_size=(1024, 1024),
  augmentation=[
    spec(label_maps.RandomResize, longest=473, shortest=473),
    spec(label_maps.RandomCrop, size=473, most=1.0),
    spec(label_maps.Flip, pairs=label_map_classes.LIP_PAIRS),
  ],
  views=dict(longest=473, shortest=473),
)
# Simple scenes are doubled in size, for models whose maps have one cell per 4 pixels.
DRAWN = {
  'simple': _drawn('simple', (48, 48), factor=2),
  'hidden': _drawn('hidden', (96, 128)),
}
