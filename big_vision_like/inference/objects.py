"""Preprocessing of pictures for detection, and of runs that detect objects.

Axes: B batch, H W image, C channels or classes, Q queries of a detector.
"""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import ml_collections as mlc
import numpy as np

from big_vision_like import spec
from big_vision_like.data.sources import coco_classes
from big_vision_like.data.sources.base import fixed_size
from big_vision_like.data.transforms import boxes
from big_vision_like.errors import UserError, shape_text
from big_vision_like.evals import detection as detection_evals
from big_vision_like.evals import panoptic
from big_vision_like.inference import loading
from big_vision_like.inference.preprocessing import (
  IMAGENET_MEAN,
  IMAGENET_STD,
  SIZING,
  Prepare,
  decoded,
  normalization,
  softmax,
)
from big_vision_like.ops import boxes as box_ops
from big_vision_like.ops import images
from big_vision_like.run import learned

# Transforms that resize pictures randomly, or without keeping their aspect ratio.
RESHAPING = (
  *SIZING,
  boxes.RandomResizeShort,
  boxes.RandomSizeCrop,
  boxes.Either,
)
# Sides of padded images are multiples of this, if the config's do not fit.
MULTIPLE = 32


class Prepared(NamedTuple):
  """A picture as detector input: float32 (H, W, C), zero beyond `size`.

  `size` is its height and width before padding, and `original_size` before resizing.
  Both are int32 (2,).
  """

  image_HWC: np.ndarray
  size: np.ndarray
  original_size: np.ndarray


class Found(NamedTuple):
  """An object: its class by name and number, and its box in pixels of the picture.

  The box is left, top, right, bottom, and may extend slightly beyond the picture.
  `query` is the index of the query that found it.
  """

  name: str
  score: float
  box: tuple[float, float, float, float]
  label: int
  query: int


@dataclasses.dataclass(frozen=True)
class DetectionPreprocessing(Prepare):
  """Preprocessing from a picture to a detector's image and size, and postprocessing.

  The shorter side becomes `short`, or less if the longer would exceed `longest`, as in
  `boxes.ResizeShort`. With `size`, pictures get this height and width, ignoring their
  aspect ratio. Without both, they keep their size. Then zeros pad images to the
  smallest of `shapes` that fits, as in `boxes.Pad`; larger images shrink first. Without
  `shapes` they pad sides to multiples of `multiple`. Labels from `num_things` on are
  stuff; None means that no label is.
  """

  short: int | None = None
  longest: int | None = None
  size: tuple[int, int] | None = None
  shapes: tuple[tuple[int, int], ...] = ()
  mean: tuple[float, ...] = IMAGENET_MEAN
  std: tuple[float, ...] = IMAGENET_STD
  label_names: tuple[str, ...] = ()
  num_things: int | None = None
  multiple: int = 1
  source: str = ''

  def __post_init__(self) -> None:
    super().__post_init__()
    sides = [side for shape in (*self.shapes, self.size or ()) for side in shape]
    sides += [side for side in (self.short, self.longest) if side is not None]
    if self.multiple < 1:
      raise UserError(f'multiple={self.multiple} is not positive')
    if min(sides, default=1) < 1:
      raise UserError(
        f'short={self.short}, longest={self.longest}, size={self.size} and'
        f' shapes={self.shapes} are not positive'
      )
    if self.size is not None and self.short is not None:
      raise UserError(f'size={self.size} and short={self.short}: give one of them')

  def size_of(self, height: int, width: int) -> tuple[int, int]:
    """Returns the height and width that a picture is resized to."""
    if self.size is not None:
      height, width = self.size
    if self.short is not None:
      sides = boxes.short_side_size(height, width, self.short, self.longest)
      if not all(sides):
        raise UserError(
          f'a picture of {height}x{width} is too narrow: with its longer side at most'
          f' {self.longest}, no pixel of the shorter is left'
        )
      height, width = sides
    if self.shapes and not any(h >= height and w >= width for h, w in self.shapes):
      scale = max(min(h / height, w / width) for h, w in self.shapes)
      height, width = (max(round(side * scale), 1) for side in (height, width))
    return height, width

  def sized(self, picture: Any) -> dict[str, np.ndarray]:
    """Returns `image` uint8 (H, W, C), `size` and `original_size`, as in evaluation.

    The picture is any that `decoded` takes.
    """
    image_HWC = decoded(picture, self.channels)
    original = image_HWC.shape[:2]
    size = self.size_of(*original)
    example = {'image': image_HWC, 'boxes': np.zeros((0, 4), np.float32)}
    image_HWC = boxes.resize(example, *size)['image']
    shape = tuple(-(-side // self.multiple) * self.multiple for side in size)
    if self.shapes:
      shape = self.shapes[boxes.Pad(self.shapes, max_boxes=0).choose(size)]
    result = boxes.padded({'image': image_HWC}, *shape)
    return result | {'original_size': np.array(original, np.int32)}

  def normalized(self, example: Mapping[str, np.ndarray]) -> Prepared:
    """Normalizes the result of `sized` with `mean` and `std`."""
    height, width = example['size']
    valid_1HWC = example['image'][None, :height, :width]
    image_HWC = np.zeros(example['image'].shape, np.float32)
    image_HWC[:height, :width] = images.normalize(valid_1HWC, self.mean, self.std)[0]
    return Prepared(image_HWC, example['size'], example['original_size'])

  def __call__(self, picture: Any) -> Prepared:
    """Prepares a picture for `model.apply(variables, image, size)`."""
    return self.normalized(self.sized(picture))

  def objects(
    self,
    outputs: Mapping[str, Any],
    original_size: Sequence[int],
    threshold: float = 0.7,
  ) -> list[Found]:
    """Returns the objects in a picture that score above the threshold, best first.

    `outputs` are the model's for a batch with only that picture: `boxes` (1, Q, 4), and
    `logits` (1, Q, C), with "no object" as the last class, or `scores` and `labels`
    (1, Q), negative for no object. Each query gives its best class.
    """
    if len(outputs['boxes']) != 1:
      raise UserError(
        f'objects() takes the outputs for one picture, not for {len(outputs["boxes"])}'
      )
    if 'scores' in outputs:
      label_Q, score_Q = (np.asarray(outputs[n][0]) for n in ('labels', 'scores'))
      score_Q = np.where(label_Q < 0, -np.inf, score_Q)
    else:
      scores_QC = softmax(np.asarray(outputs['logits'][0], np.float64))[:, :-1]
      label_Q, score_Q = scores_QC.argmax(axis=-1), scores_QC.max(axis=-1)
    height, width = original_size
    corners_Q4 = box_ops.cxcywh_to_xyxy(np.asarray(outputs['boxes'][0], np.float64))
    corners_Q4 = corners_Q4 * np.array([width, height, width, height])
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

  def with_size(self, size: int) -> 'DetectionPreprocessing':
    """Returns preprocessing for another shorter side, without padding."""
    if not isinstance(size, int):
      raise UserError(
        f'pictures for detection keep their aspect ratio: instead of {size} give'
        ' one number, the shorter side'
      )
    if self.size is not None:
      sides = tuple(round(side * size / min(self.size)) for side in self.size)
      return dataclasses.replace(self, size=sides, shapes=())
    longest = self.longest
    if self.short and longest:
      longest = round(longest * size / self.short)
    return dataclasses.replace(self, short=size, longest=longest, shapes=())

  def replaced(self, nodes: Sequence[mlc.ConfigDict]) -> list[mlc.ConfigDict]:
    """Replaces resizing and padding among recorded transforms of a config.

    If they already resize to the same sizes, all are kept.
    """
    sides = self.short, self.longest
    before = [node for node in nodes if spec.symbol(node) is boxes.ResizeShort]
    told = {(node['size'], spec.held(node, 'longest')) for node in before}
    if self.short is None or told <= {sides}:
      return list(nodes)
    padded = self.shapes
    if not padded:
      if self.longest is None:
        raise UserError(
          f'the weights need shorter sides of {self.short} pixels and no longest'
          " one, but batches need shapes: --preprocessing=config keeps the config's"
        )
      low, high = (-(-side // MULTIPLE) * MULTIPLE for side in sides)
      padded = ((low, high), (high, low))
    made = []
    for node in nodes:
      if spec.symbol(node) is boxes.ResizeShort:
        node = spec.spec(boxes.ResizeShort, size=sides[0], longest=sides[1])
      elif spec.symbol(node) is boxes.Pad:
        node = spec.spec(boxes.Pad, sizes=padded, max_boxes=node['max_boxes'])
      made.append(node)
    return made

  def __str__(self) -> str:
    how = 'of their own size'
    if self.size is not None:
      how = f'{shape_text(self.size)}, whatever the aspect ratio'
    if self.short is not None:
      how = f'shorter side {self.short}'
      how += f', longer at most {self.longest}' if self.longest else ''
    if self.multiple > 1:
      how += f', padded to multiples of {self.multiple}'
    if self.shapes:
      how += f', padded to {" or ".join(map(shape_text, self.shapes))}'
    return f'{how}; {self.normalization}'


def of_run(
  run: loading.LoadedRun, image_size: tuple[int, int] | None = None
) -> DetectionPreprocessing:
  """Returns the preprocessing that a detection run uses in evaluation.

  `image_size` is ignored: images for detection have sizes of their own.
  """
  node = loading.encoded_images(run.config)
  decode, *rest = [spec.build(n, 'transforms') for n in node['transforms']]
  sized = sizing(rest)
  if sized.keys() == {'shapes'} and sized['shapes'] == (_shape(node['source']),):
    # Training did not pad, so prediction must not.
    sized = {'size': sized['shapes'][0]}
  mean, std = normalization(run.network, decode.channels)
  things = [
    node['num_things']
    for _, node in spec.calls(run.config.get('evals', {}))
    if spec.symbol(node) is panoptic.PanopticQuality
  ]
  return DetectionPreprocessing(
    **sized,
    mean=mean,
    std=std,
    label_names=_object_names(run, rest),
    num_things=things[0] if things else None,
    source=f'{run.workdir}, step {int(run.state.step):,}',
  )


def sizing(steps: Sequence[Any]) -> dict[str, Any]:
  """Returns `short`, `longest` and `shapes` of these transforms."""
  found: dict[str, Any] = {}
  for step in steps:
    if isinstance(step, RESHAPING):
      raise UserError(
        'pictures for detection are resized by ResizeShort and padded by Pad, not'
        f' by {type(step).__name__}: use a config whose evaluators do so'
      )
    if isinstance(step, boxes.ResizeShort):
      found |= {'short': step.size, 'longest': step.longest}
    if isinstance(step, boxes.Pad):
      found['shapes'] = tuple(tuple(shape) for shape in step.sizes)
  return found


def _object_names(run: loading.LoadedRun, steps: Sequence[Any]) -> tuple[str, ...]:
  """Returns class names: of evaluators, else of the data, else COCO's by its ids."""
  for _, node in spec.calls(run.config.get('evals', {})):
    if spec.symbol(node) is detection_evals.CocoAP and spec.held(node, 'names'):
      return tuple(node['names'])
  if learned.read(run.workdir) is not None:
    return loading.trained_names(run, 'category_names')
  kinds = boxes.Objects, boxes.Panoptic
  ids = [tuple(step.ids) for step in steps if isinstance(step, kinds) and step.ids]
  if ids and ids[0] in (coco_classes.IDS, coco_classes.PANOPTIC_IDS):
    return coco_classes.class_names(run.task.num_classes)
  return () if ids else loading.trained_names(run, 'category_names')


def _shape(node: Mapping[str, Any]) -> tuple[int, int] | None:
  """Returns height and width of all images, if the data set has one size."""
  try:
    return fixed_size(spec.build(node, 'source').features)
  except UserError:
    return None
