"""Transforms of stored image regions to the rows that language-vision models take.

Examples have `boxes` (N, 4) in pixels, `features` (N, F), the `size` of the image, and
perhaps `classes` (N, K), see `data.sources.region_features`. Without `size`, boxes are
fractions of the image. Row 0 of the results represents the whole image, as in ViLBERT
(arXiv:1908.02265): its features are the mean of all regions, and its location is 0, 0,
1, 1, 1.

Axes: N regions, R rows, F features, K classes; 4 is left, top, right, bottom; 5 is the
same as fractions, and the fraction of the area.
"""

import dataclasses
from typing import Any

import grain
import numpy as np

from big_vision_like.errors import BadRecordError, UserError, plural

Example = dict[str, Any]
# The location of the whole image.
WHOLE = (0.0, 0.0, 1.0, 1.0, 1.0)
# Arrays of regions, which `Regions` replaces.
STORED = ('boxes', 'features', 'classes', 'size')


@dataclasses.dataclass(frozen=True)
class Regions(grain.transforms.Map):
  """Padding of regions to `rows` rows, with the whole image in row 0.

  Results are `regions` float32 (R, F), `locations` float32 (R, 5), `region_mask` bool
  (R,) and, with `targets`, `region_targets` float32 (R, K), which are the class
  distributions of the detector. Rows of padding are zeros. If examples have
  `num_detected`, only the last `num_detected` regions contribute to the mean. Features
  of another width than `width`, if given, are an error. More than `rows` - 1 regions
  are an error, unless `truncate` keeps the first ones. An image without regions is a
  bad record. `suffix` is added to the names of stored and of new arrays, for examples
  with several images.
  """

  rows: int
  targets: bool = False
  truncate: bool = False
  width: int | None = None
  suffix: str = ''

  tiny = dict(rows=12, width=16)

  def map(self, example: Example) -> Example:
    stored = {name: example.get(name + self.suffix) for name in STORED}
    names = [name + self.suffix for name in (*STORED, 'num_detected')]
    kept = {name: x for name, x in example.items() if name not in names}
    image = f'the image of the example with id {example.get("id", "unknown")}'
    features_NF, boxes_N4 = stored['features'], stored['boxes']
    if features_NF is None or boxes_N4 is None:
      raise UserError(
        f'examples have no regions; they have {", ".join(example)}: give them regions'
        ' with `language.WithRegions`'
      )
    count, width = features_NF.shape
    if not count:
      raise BadRecordError(f'{image} has no regions')
    if self.width not in (None, width):
      raise UserError(
        f'{image} has features of width {width}, but the config has width={self.width}'
      )
    if count >= self.rows and not self.truncate:
      raise UserError(
        f'{image} has {plural(count, "region")}, which with the whole image are more'
        f' than rows={self.rows}: raise `rows`, or set truncate=True'
      )
    # Without detections, the mean is that of the true boxes.
    detected = example.get(f'num_detected{self.suffix}', count) or count
    mean_F = features_NF[count - detected :].mean(axis=0)
    rows = min(count, self.rows - 1)
    regions_RF = np.zeros((self.rows, width), np.float32)
    locations_R5 = np.zeros((self.rows, 5), np.float32)
    regions_RF[0], regions_RF[1 : rows + 1] = mean_F, features_NF[:rows]
    locations_R5[0] = WHOLE
    locations_R5[1 : rows + 1] = locations(boxes_N4[:rows], stored['size'])
    made = {
      'regions': regions_RF,
      'locations': locations_R5,
      'region_mask': np.arange(self.rows) <= rows,
    }
    if self.targets:
      made['region_targets'] = self._targets(stored['classes'], rows, image)
    return kept | {f'{name}{self.suffix}': x for name, x in made.items()}

  def _targets(self, classes_NK: Any, rows: int, image: str) -> np.ndarray:
    if classes_NK is None:
      raise UserError(
        f'{image} is stored without class distributions, which are the targets of'
        ' masked regions: convert features with cls_prob'
      )
    targets_RK = np.zeros((self.rows, classes_NK.shape[1]), np.float32)
    targets_RK[1 : rows + 1] = classes_NK[:rows]
    return targets_RK


@dataclasses.dataclass(frozen=True)
class OverlapTargets(grain.transforms.Map):
  """Targets of a referring expression, `target` float32 (R,); comes before `Regions`.

  The target of a row is its IoU with the true `box` (4,) in pixels, or 0 if that is
  below `least`. Row 0 is the whole image, and rows of padding are 0. As in the
  published code, sides of boxes are counted in whole pixels: one more than the
  difference.
  """

  rows: int
  least: float = 0.5

  tiny = dict(rows=12)

  def map(self, example: Example) -> Example:
    height, width = np.asarray(example['size']).tolist()
    whole_14 = np.array([[0, 0, width, height]], np.float32)
    boxes_R4 = np.concatenate([whole_14, example['boxes']])[: self.rows]
    overlap_R = overlaps(boxes_R4, np.asarray(example['box'], np.float32))
    overlap_R[overlap_R < self.least] = 0
    rest = {name: x for name, x in example.items() if name != 'box'}
    return rest | {'target': np.pad(overlap_R, (0, self.rows - len(overlap_R)))}


@dataclasses.dataclass(frozen=True)
class Blank(grain.transforms.Map):
  """Features of zeros, for a model that must do without the image; before `Regions`."""

  def map(self, example: Example) -> Example:
    return example | {'features': np.zeros_like(example['features'])}


def locations(boxes_N4: np.ndarray, size: Any) -> np.ndarray:
  """Returns boxes in pixels as fractions of the image, and of its area: (N, 5).

  Without a size, boxes are fractions already.
  """
  height, width = (1, 1) if size is None else np.asarray(size).tolist()
  shares_N4 = boxes_N4 / np.array([[width, height, width, height]], np.float32)
  area_N1 = ((shares_N4[:, 2:] - shares_N4[:, :2]).prod(axis=1))[:, None]
  return np.concatenate([shares_N4, area_N1], axis=1).astype(np.float32)


def overlaps(boxes_N4: np.ndarray, box_4: np.ndarray) -> np.ndarray:
  """Returns the IoU (N,) of boxes with one box, sides counted in whole pixels."""
  low_N2 = np.maximum(boxes_N4[:, :2], box_4[None, :2])
  high_N2 = np.minimum(boxes_N4[:, 2:], box_4[None, 2:])
  both_N = np.maximum(high_N2 - low_N2 + 1, 0).prod(axis=1)
  either_N = _areas(boxes_N4) + _areas(box_4[None]) - both_N
  return (both_N / either_N).astype(np.float32)


def _areas(boxes_N4: np.ndarray) -> np.ndarray:
  return (boxes_N4[:, 2:] - boxes_N4[:, :2] + 1).prod(axis=1)
