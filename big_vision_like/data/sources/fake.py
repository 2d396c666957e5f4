"""Made-up examples with the features of a TFDS data set that is not available."""

import functools
import zlib
from typing import Any

import cv2
import numpy as np
import simplejpeg

from big_vision_like.data.sources import catalogue, coco_outlines, protos
from big_vision_like.data.sources.base import Source, digest
from big_vision_like.data.transforms import decoding
from big_vision_like.errors import UserError

WORDS = (
  'the a this every small old green round dog cat bear tree house boat road river'
  ' sees likes follows near under with and slowly today'
).split()
# Number of different labels, spread over their range; each has several examples.
LABELS = 4
# Minimum and maximum number of objects in an image, and of labels of one image.
THINGS, FEW = (3, 8), (0, 3)
# Ranges of the values of pictures that are not photographs, by the name of the feature:
# ids of entities (0 is the background), and classes that all data sets have.
IDS = {'segmentation': (0, 10), 'label_map': (1, 4)}
# Range of the sides of images without a fixed size.
SIDES = (72, 120)
# Number of classes of a data set that is not in a catalogue.
UNKNOWN_CLASSES = 1000


class Fake(Source):
  """`examples` made-up examples of a split, as `tfds.Tfds` returns them.

  Images stay encoded. Features come from TFDS's catalogue, which has them without the
  data. An unknown data set has `image`, `label` and `id`. Labels cycle through 4 values
  below `classes`, including the lowest and the highest. Examples depend on name, split
  and index. They come from `made_up(index)` if the module named after the data set has
  this function. With `outlines` they also have the boxes of `objects` as outlines, as
  `coco.Coco` has outlines.
  """

  def __init__(
    self,
    name: str,
    split: str = 'train',
    examples: int = 20,
    classes: int = UNKNOWN_CLASSES,
    outlines: bool = False,
  ):
    self.name, self.split, self.classes = name, split, classes
    self._examples, self._outlines = examples, outlines
    self._seed = zlib.crc32(f'{name} {split}'.encode())
    _check_split(name, split)

  @functools.cached_property
  def features(self) -> Any:
    """TFDS features of an example, with at most `classes` classes of `label`."""
    import tensorflow_datasets as tfds

    found = catalogued(self.name) or _labelled_images(self.classes)
    label = found['label'] if 'label' in found else None
    if not isinstance(label, tfds.features.ClassLabel) or (
      (label.num_classes or 0) <= self.classes
    ):
      return found
    fewer = tfds.features.ClassLabel(num_classes=self.classes)
    return tfds.features.FeaturesDict({**found, 'label': fewer})

  @property
  def title(self) -> str:
    """The name of the data set that the examples imitate."""
    return self.name

  def fingerprint(self) -> str:
    """Returns a digest of the arguments, which determine every example."""
    return digest('Fake', self.name, self.split, self._examples, self.classes)

  def __len__(self) -> int:
    return self._examples

  def __getitem__(self, index: int) -> dict[str, Any]:
    if not 0 <= index < self._examples:
      raise IndexError(f'example {index} of {self._examples}')
    own = catalogue.module(self.name.partition(':')[0].partition('/')[0])
    if hasattr(own, 'made_up'):  # fields that belong together
      example = own.made_up(index)
    else:
      rng = np.random.default_rng((self._seed, index))
      example = _value(self.features, self.name, rng, index, self.classes)
    if 'panoptic_image' in example:
      example['panoptic_image'] = _panoptic(example)
      if 'segmentation' in example:
        example['segmentation'] = _of_objects(example)
    # Serialized and parsed, so that values have the types that TFDS returns.
    record = self.features.serialize_example(example)
    decoders = protos.decoders(self.features)
    example = self.features.deserialize_example_np(record, decoders=decoders)
    if self._outlines:
      size = decoding.image_size(example['image'])
      example['outlines'] = coco_outlines.of_boxes(example['objects']['bbox'], *size)
    return example

  def __repr__(self) -> str:
    return f'Fake({self.name!r}, {self.split!r})'


def catalogued(name: str) -> Any:
  """Returns the features of a data set in TFDS's catalogue; None if it is not there."""
  import tensorflow_datasets as tfds

  family, _, kind = name.partition(':')[0].partition('/')
  own = catalogue.module(family)
  if hasattr(own, 'catalogued'):
    return own.catalogued(kind)
  catalogue.announce(name)
  try:
    return tfds.builder(name).info.features
  except Exception:  # TFDS raises several unrelated types; some need TensorFlow
    return None


def _labelled_images(classes: int) -> Any:
  import tensorflow_datasets as tfds

  return tfds.features.FeaturesDict(
    {
      'id': np.int64,
      'image': tfds.features.Image(shape=(None, None, 3)),
      'label': tfds.features.ClassLabel(num_classes=classes),
    }
  )


def _check_split(name: str, split: str) -> None:
  import tensorflow_datasets as tfds

  try:
    tfds.core.ReadInstruction.from_spec(split)
  except ValueError as error:
    raise UserError(f'{name} has no split {split!r}: TFDS cannot parse it') from error


def _value(
  feature: Any, name: str, rng: np.random.Generator, index: int, classes: int
) -> Any:
  """Returns a made-up value of a feature, in the form that TFDS builders provide."""
  from tensorflow_datasets import features

  def inner(feature: Any, name: str, index: int = index) -> Any:
    return _value(feature, name, rng, index, classes)

  match feature:
    case features.FeaturesDict():
      return {key: inner(part, f'{name}.{key}') for key, part in feature.items()}
    case features.Sequence():
      things = isinstance(feature.feature, features.FeaturesDict)
      low, high = THINGS if things else FEW
      fixed = feature.shape[0] if isinstance(feature.shape, tuple) else None
      count = int(rng.integers(low, high + 1)) if fixed is None else fixed
      return [inner(feature.feature, name, index + i) for i in range(count)]
    case features.ClassLabel():
      top = min(feature.num_classes or classes, classes) - 1
      return top * (index % LABELS) // (LABELS - 1)
    case features.Text():
      return ' '.join(rng.choice(WORDS, size=rng.integers(2, 7)))
    case features.Image() if feature.np_dtype == np.uint8:
      return _picture(feature.shape, rng, IDS.get(name.rpartition('.')[2]))
    case features.BBoxFeature():
      (top, bottom), (left, right) = np.sort(rng.uniform(0, 1, (2, 2)))
      return features.BBox(ymin=top, xmin=left, ymax=bottom, xmax=right)
    case features.Tensor():
      return _numbers(feature, rng, index)
  raise UserError(
    f'values of {name} (feature {type(feature).__name__}) cannot be made up yet:'
    ' extend data/sources/fake.py'
  )


def _numbers(feature: Any, rng: np.random.Generator, index: int) -> Any:
  """Returns numbers below 10, or words; integer scalars are the index, as for ids."""
  dtype = np.dtype(feature.np_dtype)
  shape = [FEW[1] if side is None else side for side in feature.shape]
  if dtype.kind in 'OSU':
    return rng.choice(WORDS, shape)
  if dtype.kind in 'iu' and not shape:
    return dtype.type(index)
  if dtype.kind == 'b':
    return np.asarray(rng.uniform(0, 1, shape) < 0.5)
  return np.asarray(rng.uniform(0, 10, shape)).astype(dtype)


def _picture(
  shape: tuple[int | None, int | None, int],
  rng: np.random.Generator,
  ids: tuple[int, int] | None,
) -> bytes:
  """Returns an image of blurred coloured patches as JPEG, or PNG without 3 channels.

  With `ids`, returns sharp patches with values of this range.
  """
  height, width = (int(rng.integers(*SIDES)) if n is None else n for n in shape[:2])
  method = cv2.INTER_NEAREST if ids else cv2.INTER_LINEAR
  patches = rng.integers(*(ids or (0, 256)), (4, 5, shape[2])).astype(np.uint8)
  image = cv2.resize(patches, (width, height), interpolation=method)
  if shape[2] == 3:
    return simplejpeg.encode_jpeg(image)
  return cv2.imencode('.png', image)[1].tobytes()


def _of_objects(example: dict[str, Any]) -> bytes:
  """Returns the PNG `segmentation` with numbers of the example's objects only."""
  encoded = np.frombuffer(example['segmentation'], np.uint8)
  ids_HW = cv2.imdecode(encoded, cv2.IMREAD_UNCHANGED)
  ids_HW %= len(example['objects']) + 1
  return cv2.imencode('.png', ids_HW)[1].tobytes()


def _panoptic(example: dict[str, Any]) -> bytes:
  """Returns a PNG with the segments of an example side by side."""
  names = [segment['id'] for segment in example['panoptic_objects']]
  height, width = decoding.image_size(example['image'])
  row = np.array(names)[np.arange(width) * len(names) // width]
  bgr = np.stack([row >> shift & 255 for shift in (16, 8, 0)], axis=-1)
  return cv2.imencode('.png', np.tile(bgr.astype(np.uint8), (height, 1, 1)))[
    1
  ].tobytes()
