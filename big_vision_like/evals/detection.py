"""COCO's average precision of objects detected in images.

Axes: B images, K true objects of an image, Q predictions of an image, M side of a mask
of a region, h w mask logits.
"""

import contextlib
import dataclasses
import importlib.util
import io
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh

from big_vision_like import files
from big_vision_like.data.sources import coco_json
from big_vision_like.data.sources.coco_json import Entry, Truth
from big_vision_like.data.transforms import labels
from big_vision_like.errors import UserError, listed
from big_vision_like.evals import evaluator, instance_masks
from big_vision_like.evals.evaluator import Arrays, Predict, Results, Rows
from big_vision_like.ops import boxes as box_ops
from big_vision_like.viz import detection as drawing

if TYPE_CHECKING:
  from pycocotools.cocoeval import COCOeval

MASK = 'mask_'
STATS = tuple('AP AP50 AP75 APs APm APl AR1 AR10 AR100 ARs ARm ARl'.split())
NO_PYCOCOTOOLS = (
  'COCO AP needs the package pycocotools: install the extra `detection`:'
  " pip install -e '.[detection]'"
)


@dataclasses.dataclass(kw_only=True)
class CocoAP(evaluator.Evaluator):
  """COCO's average precision and recall of boxes, computed by pycocotools.

  The scalars are `AP` (mean over IoU 0.5 to 0.95), `AP50`, `AP75`, `APs`, `APm`, `APl`
  (areas below 32^2, between, above 96^2 pixels), and recalls `AR1`, `AR10`, `AR100`,
  `ARs`, `ARm`, `ARl`, all in [0, 1]. Scalars to which no object contributes are left
  out.
  `boxes` shows the first `pictures` images, with true boxes on the left, and on the
  right boxes predicted with a score of at least `shown`.

  All predictions of an image count. The prediction has `boxes_xyxy`, in pixels of the
  original image, `scores` and `labels`; rows with label -1 and score 0 are none. The
  category of a label is `categories[label]`
  (`coco_classes.IDS` for TFDS's labels). Without `categories`, it is the category with
  the name of the label's class in `annotations` or in the source of `data`. Without
  names, it is the label itself. `names` are names of labels, for pictures.

  The ground truth is the JSON file `annotations`, restricted to the images of `data`.
  Without it, batches have the ground truth: `boxes` (B, K, 4) of the resized image,
  `box_labels`, `box_mask`, and optionally `crowd` and `area` (of the original image; by
  default the area of the box). `size` and `original_size` (B, 2) are heights and widths
  before padding and before resizing.

  With `masks`, all scalars are also measured for masks, as `mask_AP` and so on. The
  prediction then also has `masks` (B, Q, M, M), probabilities within each box, or
  `mask_logits` (B, Q, h, w) of the padded image, as DETR has. The true masks are those
  of `annotations`, of the annotation file of the data's source, or of its records
  (`instance_masks.of_record`).

  `save` is a path for the predictions in COCO's
  result format; each evaluation overwrites it.
  """

  annotations: str | None = None
  categories: Sequence[int] | None = None
  names: Sequence[str] = ()
  save: str | None = None
  pictures: int = 4
  shown: float = 0.5
  masks: bool = False

  @property
  def needs(self) -> tuple[str, ...]:
    truth = ('boxes', 'box_labels', 'box_mask')
    return ('image_id',) if self._annotations else ('image_id', *truth)

  def reports(self) -> Mapping[str, str]:
    kinds = ('', MASK) if self.masks else ('',)
    return {f'{kind}{name}': 'max' for kind in kinds for name in STATS}

  def problems(self) -> list[str]:
    found = [] if importlib.util.find_spec('pycocotools') else [NO_PYCOCOTOOLS]
    if self.annotations:
      try:
        truth = coco_json.read_strictly(self.annotations)
      except UserError as error:
        return [*found, str(error)]
      found += self._misnamed(truth)
    return found

  @property
  def class_names(self) -> Mapping[int, str]:
    """The names of labels: `names`, or else the names in the data."""
    if self.names:
      return dict(enumerate(self.names))
    try:
      found = labels.class_names(self.data.source, self.data.transforms)
    except (UserError, OSError):  # the data are missing, or have no names
      return {}
    return found.get('box_labels', {})

  def _misnamed(self, truth: Truth) -> list[str]:
    """Returns a sentence if labels are assigned to categories with other names."""
    there, names = _names(truth), self.class_names
    if self.categories is not None:
      for label, category in enumerate(self.categories):
        own, theirs = names.get(label), there.get(category)
        if own != theirs and own in there.values() and theirs is not None:
          return [
            f'`categories` maps label {label}, {own!r}, to category {category}, which'
            f' is {theirs!r} in {self.annotations}: without `categories`, names are'
            ' matched'
          ]
      return []
    new = [name for name in there.values() if name not in names.values()]
    named = not all(name.isdecimal() for name in names.values())
    if not named or not new:
      return []
    missing = [name for name in names.values() if name not in there.values()]
    return [
      f'categories of {self.annotations} differ from the classes of labels; new are'
      f' {listed(new)}; missing are {listed(missing)}: names must be equal, or'
      ' `categories` must give the category of each label'
    ]

  def _by_name(self, truth: Truth | None) -> Mapping[int, int] | None:
    """Returns the category of each label by name; None if names are not needed.

    Labels of classes that the annotations do not have get negative numbers, which are
    not valid categories.
    """
    if self.categories is not None:
      return None
    there = _names(truth or {'categories': []}) or _own_ids(self.data.source)
    names = self.class_names
    if not names or not there or not {*there.values()} <= {*names.values()}:
      return None
    if len({*there.values()}) < len(there) or _agree(there, names):
      return None
    ids = {name: category for category, name in there.items()}
    return {label: ids.get(name, -1 - label) for label, name in names.items()}

  def run(self, predict: Predict, state: Any, mesh: Mesh | None = None) -> Results:
    # Read first, so that errors appear before hours of predictions.
    truth = self._truth()
    rows = self.rows(
      self.measure, predict, state, mesh, draw=drawn, pictures=self.pictures
    )
    collected = evaluator.join(map(self.encoded, rows))
    truth, found = self.entries(collected.values, truth)
    if self.save and jax.process_index() == 0:
      # Leaves out labels that are not categories of the data set.
      known = [entry for entry in found if entry['category_id'] >= 0]
      files.write_json(self.save, known, indent=None)
    ids, scalars = collected.values['image_id'].tolist(), {}
    for kind, iou_type in (('', 'bbox'), (MASK, 'segm')):
      if kind and not self.masks:
        continue
      stats = evaluated(truth, found, ids, iou_type).stats.tolist()
      # pycocotools returns -1 if no object has that size.
      scalars |= {
        f'{kind}{name}': value
        for name, value in zip(STATS, stats, strict=True)
        if value >= 0
      }
    shown = collected.drawn
    pictures = {'boxes': self._sheets(shown, truth, found)} if shown else {}
    return Results(scalars, pictures)

  def entries(
    self, rows: dict[str, np.ndarray], truth: Truth | None = None
  ) -> tuple[Truth, list[Entry]]:
    """Returns the ground truth and the predictions of images, in COCO's file format.

    `rows` is the output of `measure`. The ground truth is read or made unless it is
    given. Predictions are ordered by image, and keep their order within an image.
    """
    ids = rows['image_id'].tolist()
    if len(set(ids)) < len(ids):
      twice = next(i for i in ids if ids.count(i) > 1)
      raise UserError(
        f'several images of {self.data.source} have the `image_id` {twice}: each must'
        ' have its own.'
      )
    if truth is None:
      truth = self._truth()
    by_name = self._by_name(truth)
    found = list(self._predicted(rows, by_name))
    return truth or self._true(rows, found, by_name), found

  def measure(self, outputs: Arrays, batch: Arrays) -> Arrays:
    """Returns predictions of each image, and its ground truth without `annotations`."""
    ratio_B4 = ratios(batch)
    rows = {'image_id': batch['image_id']}
    rows |= {name: outputs[name] for name in ('scores', 'labels', 'boxes_xyxy')}
    if self.masks:
      rows |= self._masks(outputs, batch)
    if self._annotations is None:
      boxes_BK4 = batch['boxes'] * ratio_B4[:, None]
      crowd_BK = batch.get('crowd', jnp.zeros_like(batch['box_mask']))
      rows |= {
        'true_boxes': boxes_BK4,
        'true_labels': batch['box_labels'],
        'true': batch['box_mask'] | crowd_BK,
        'crowd': crowd_BK,
        'area': batch.get('area', box_ops.area(boxes_BK4)),
      }
    return rows

  def _masks(self, outputs: Arrays, batch: Arrays) -> Arrays:
    """Returns the predicted masks of a batch, and the sizes of its images."""
    names = [name for name in ('masks', 'mask_logits') if name in outputs]
    if not names:
      raise UserError(
        'masks=True needs a model that predicts masks, but its outputs are only'
        f' {", ".join(outputs)}'
      )
    size_B2 = box_ops.valid_size(batch)
    count, *padded, _ = batch['image'].shape
    return {
      names[0]: outputs[names[0]].astype(jnp.float32),
      'size': size_B2,
      'original_size': batch.get('original_size', size_B2),
      'padded': jnp.tile(jnp.array([padded]), (count, 1)),
    }

  def encoded(self, part: Rows) -> Rows:
    """Returns rows with masks as run lengths: `segmentation` and `true_segmentation`.

    Both are arrays of objects, (B, Q) and (B, K).
    """
    if not self.masks:
      return part
    values = dict(part.values)
    masks = values.pop('masks', None)
    logits = values.pop('mask_logits', None)
    sizes = [values[name] for name in ('padded', 'size', 'original_size')]
    found, true = [], []
    for row in range(len(part.index_N)):
      padded, size, original = (tuple(each[row].tolist()) for each in sizes)
      if masks is not None:
        own = instance_masks.of_regions(masks[row], values['boxes_xyxy'][row], original)
      else:
        own = instance_masks.of_logits(logits[row], padded, size, original)
      found.append(instance_masks.listed(own, values['scores'].shape[1]))
      if self._annotations is None:
        record = self.data.source[int(part.index_N[row])]
        own, _ = instance_masks.of_record(record)
        rows = values['true'].shape[1]
        if len(own) > rows:
          raise UserError(
            f'{self.data.source}: an image has {len(own)} objects, but batches only'
            f' {rows} rows: raise max_boxes'
          )
        true.append(instance_masks.listed(own, rows))
    if len(found):
      values['segmentation'] = np.stack(found)
      if true:
        values['true_segmentation'] = np.stack(true)
    return part._replace(values=values)

  def _truth(self) -> Truth | None:
    """Returns the contents of the annotation file, if there is one."""
    path = self._annotations
    return coco_json.read_strictly(path) if path else None

  @property
  def _annotations(self) -> str | None:
    """The annotation file; for masks, by default that of the data's source."""
    if self.annotations or not self.masks:
      return self.annotations
    return getattr(self.data.source, 'annotations', None)

  def _predicted(
    self, rows: dict[str, np.ndarray], by_name: Mapping[int, int] | None
  ) -> Iterable[Entry]:
    boxes_BQ4, scores_BQ = rows['boxes_xyxy'], rows['scores']
    finite_B = np.isfinite(boxes_BQ4).all(axis=(1, 2)) & np.isfinite(scores_BQ).all(1)
    if not finite_B.all():
      raise UserError(
        f'boxes or scores predicted for the image {rows["image_id"][~finite_B][0]} are'
        ' not finite: training has diverged.'
      )
    there_BQ = (rows['labels'] >= 0) | (scores_BQ > 0)
    category_N = self._category(rows['labels'][there_BQ], 'predicted', by_name)
    image_BQ = np.repeat(rows['image_id'][:, None], scores_BQ.shape[1], axis=1)
    columns = {}
    if 'segmentation' in rows:
      columns['segmentation'] = rows['segmentation'][there_BQ]
    return entries(
      image_id=image_BQ[there_BQ],
      category_id=category_N,
      bbox=xywh(boxes_BQ4[there_BQ]),
      score=scores_BQ[there_BQ].astype(np.float64),
      **columns,
    )

  def _true(
    self,
    rows: dict[str, np.ndarray],
    found: Sequence[Entry],
    by_name: Mapping[int, int] | None,
  ) -> Truth:
    """Returns the objects of batches in the format of COCO's JSON files.

    Categories are all true and predicted ones.
    """
    there_BK = rows['true']
    category_N = self._category(rows['true_labels'][there_BK], 'true', by_name)
    columns, size = {}, {}
    if 'true_segmentation' in rows:
      columns['segmentation'] = rows['true_segmentation'][there_BK]
      size = dict(height=rows['original_size'][:, 0], width=rows['original_size'][:, 1])
    annotations = entries(
      image_id=rows['image_id'][there_BK.nonzero()[0]],
      category_id=category_N,
      bbox=xywh(rows['true_boxes'][there_BK]),
      area=rows['area'][there_BK],
      iscrowd=rows['crowd'][there_BK].astype(int),
      **columns,
    )
    known = {*category_N.tolist(), *(e['category_id'] for e in found)}
    return {
      'images': list(entries(id=rows['image_id'], **size)),
      'categories': [{'id': category} for category in sorted(known)],
      'annotations': list(annotations),
    }

  def _category(
    self, labels: np.ndarray, kind: str, by_name: Mapping[int, int] | None
  ) -> np.ndarray:
    if by_name is not None:
      own = [by_name.get(label, -1 - label) for label in labels.ravel().tolist()]
      return np.array(own, np.int64).reshape(labels.shape)
    if self.categories is None:
      return labels
    ids = np.asarray(self.categories)
    wrong = labels[(labels < 0) | (labels >= len(ids))]
    if len(wrong):
      raise UserError(
        f'a {kind} label is {wrong[0]}, but `categories` has only {len(ids)} ids:'
        ' give one for each class of the model, in order.'
      )
    return ids[labels]

  def names_of(self, truth: Truth) -> dict[int, str]:
    """Returns the known names of categories by id."""
    own, category_of = self.class_names, self._by_name(truth)
    if category_of is None:
      category_of = dict(enumerate(self.categories or ()))
    own = {category_of.get(label, label): name for label, name in own.items()}
    return own | _names(truth) | (own if self.names else {})

  def _sheets(
    self,
    drawn: list[dict[str, np.ndarray]],
    truth: Truth,
    found: list[Entry],
  ) -> np.ndarray:
    names = self.names_of(truth)
    sheets = []
    for picture in drawn:
      height, width = picture['size']
      number = picture['image_id'].item()
      true = [e for e in truth['annotations'] if e['image_id'] == number]
      good = [e for e in found if e['image_id'] == number and e['score'] >= self.shown]
      sets = [
        drawing.of_entries(objects, names, picture['ratio']) for objects in (true, good)
      ]
      sheets.append(drawing.boxes_sheet(picture['image'][:height, :width], sets))
    return drawing.stacked(sheets)


def _names(truth: Truth) -> dict[int, str]:
  """Returns the names of categories by id."""
  return {e['id']: e['name'] for e in truth['categories'] if 'name' in e}


def _own_ids(source: Any) -> dict[int, str]:
  """Returns the names of a source's categories by its own ids; empty without ids."""
  ids = getattr(source, 'category_ids', ())
  return dict(zip(ids, source.category_names, strict=True)) if len(ids) else {}


def _agree(there: Mapping[int, str], names: Mapping[int, str]) -> bool:
  """Returns whether each category's id is also the label with the same name."""
  return all(names.get(category) == name for category, name in there.items())


def drawn(outputs: Arrays, batch: Arrays) -> Arrays:
  """Returns the arrays that sheets are drawn from."""
  del outputs
  named = {name: batch[name] for name in ('image', 'image_id')}
  return named | {'size': box_ops.valid_size(batch), 'ratio': ratios(batch)}


def ratios(batch: Arrays) -> jax.Array:
  """Returns factors that scale left, top, right, bottom to original images, (B, 4)."""
  size_B2 = box_ops.valid_size(batch)
  original_B2 = batch.get('original_size', size_B2)
  return (box_ops.corner_scale(original_B2) / box_ops.corner_scale(size_B2))[:, 0]


def evaluated(
  truth: Truth,
  found: list[Entry],
  image_ids: Sequence[int],
  iou_type: str = 'bbox',
) -> 'COCOeval':
  """Runs pycocotools' evaluation of some images silently; `stats` has the results.

  `truth` has `images`, `annotations` and `categories` as in COCO's JSON files; a
  missing `area` defaults to the area of the box. `found` has entries in COCO's result
  format; among equal scores the first ranks higher. With `iou_type` 'segm' both have
  `segmentation`, run-length encoded. Raises UserError if an image is not in the
  annotations, or if no image has an object that is not a crowd.
  """
  try:
    from pycocotools import coco, cocoeval, mask
  except ImportError as error:
    raise UserError(NO_PYCOCOTOOLS) from error

  wanted = set(image_ids)
  unknown = wanted - {e['id'] for e in truth['images']}
  if unknown:
    raise UserError(
      f'the image with `image_id` {min(unknown)} is not in the annotations: they'
      ' are for other images, or `image_id` is not their id.'
    )
  objects = [e for e in truth['annotations'] if e['image_id'] in wanted]
  if all(e.get('iscrowd') for e in objects):
    raise UserError(
      f'none of {len(wanted)} images shows an object: there is no precision to measure.'
    )

  def indexed(annotations: list[Entry]) -> coco.COCO:
    made = coco.COCO()
    complete = []
    # pycocotools treats a match with the id 0 as no match, so ids start at 1.
    for number, entry in enumerate(annotations, start=1):
      if 'area' not in entry:
        area = entry['bbox'][2] * entry['bbox'][3]
        if iou_type == 'segm':
          area = float(mask.area(entry['segmentation']))
        entry = {'area': area} | entry
      complete.append({'iscrowd': 0} | entry | {'id': number})
    made.dataset = {**truth, 'annotations': complete}
    made.createIndex()
    return made

  with contextlib.redirect_stdout(io.StringIO()):
    measured = cocoeval.COCOeval(indexed(objects), indexed(found), iou_type)
    measured.params.imgIds = sorted(wanted)
    measured.evaluate()
    measured.accumulate()
    measured.summarize()
  return measured


def precisions(measured: 'COCOeval') -> np.ndarray:
  """Returns precision at IoU 0.5 to 0.95, recall 0 to 1, by category, (10, 101, C).

  Covers objects of all sizes. Categories are in the order of `measured.params.catIds`;
  a category without objects is NaN. The mean over all other values is AP.
  """
  precision_TRC = measured.eval['precision'][:, :, :, 0, -1]
  return np.where(precision_TRC < 0, np.nan, precision_TRC)


def agreement(
  measured: 'COCOeval', image_ids: Sequence[int], shown: float = 0.5
) -> dict[str, np.ndarray]:
  """Counts right, wrong and missed objects of each image, (B,).

  Uses the predictions with a score of at least `shown`. A prediction is `right` if it
  matches an object of its class, with an IoU of at least 0.5, that no prediction with a
  higher score matches; otherwise it is `wrong`. Objects without a prediction are
  `missed`. Crowds and predictions on them are ignored. `quality` in [0, 1] is panoptic
  quality (arXiv:1801.00868) of a single image with all classes pooled: the sum of the
  IoUs of right predictions over right + (wrong + missed) / 2; NaN if all are 0.
  """
  counts = {i: np.zeros(4) for i in image_ids}  # right, wrong, missed, sum of IoUs
  for each in measured.evalImgs:
    # Only all sizes; None if a category is neither true nor predicted.
    if each is None or each['aRng'] != measured.params.areaRng[0]:
      continue
    counted = (np.array(each['dtScores']) >= shown) & ~each['dtIgnore'][0].astype(bool)
    object_D = each['dtMatches'][0].astype(int)
    right = np.flatnonzero(counted & (object_D > 0))
    if len(right):
      iou_DG = measured.ious[each['image_id'], each['category_id']]
      # `ious` has objects in the order of their ids.
      column_D = np.searchsorted(np.sort(each['gtIds']), object_D)
      iou = iou_DG[right, column_D[right]].sum()
    else:
      iou = 0.0
    real = len(each['gtIds']) - np.sum(each['gtIgnore'])
    wrong, missed = counted.sum() - len(right), real - len(right)
    counts[each['image_id']] += len(right), wrong, missed, iou
  right_B, wrong_B, missed_B, iou_B = np.array([counts[i] for i in image_ids]).T
  whole_B = right_B + (wrong_B + missed_B) / 2
  quality_B = np.divide(
    iou_B, whole_B, out=np.full_like(iou_B, np.nan), where=whole_B > 0
  )
  found = {'right': right_B, 'wrong': wrong_B, 'missed': missed_B}
  return {name: count_B.astype(int) for name, count_B in found.items()} | {
    'quality': quality_B
  }


def xywh(boxes: np.ndarray) -> np.ndarray:
  """Converts xyxy boxes to left, top, width, height, float64 (..., 4)."""
  boxes = boxes.astype(np.float64)
  return np.concatenate([boxes[..., :2], boxes[..., 2:] - boxes[..., :2]], axis=-1)


def entries(**columns: np.ndarray) -> Iterable[Entry]:
  """Yields a dict of plain values for each row of equally long arrays."""
  lists = [column.tolist() for column in columns.values()]
  return (dict(zip(columns, row, strict=True)) for row in zip(*lists, strict=True))
