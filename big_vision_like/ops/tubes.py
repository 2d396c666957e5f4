"""Tubes, the boxes of a person over time: labels, suppression and video mAP.

The protocol is that of arXiv:2107.13648 (published code) for action detection on DALY.
Arrays are NumPy's, on the host. Boxes are xyxy, frames are numbers of a video.

Axes: F frames of a tube, K key frames, N tubes, C classes without background, D classes
with background, P predictions, h w a map.
"""

import dataclasses
from collections.abc import Sequence

import numpy as np

from big_vision_like.ops import boxes

BACKGROUND = 0
LABEL_IOU = 0.5  # a tube has the label of an instance that overlaps it by more


@dataclasses.dataclass(frozen=True)
class Tube:
  """A person's box in each of some frames."""

  frames_F: np.ndarray
  boxes_F4: np.ndarray

  def at(self, frames_K: np.ndarray) -> np.ndarray:
    """Returns the boxes of these frames (K, 4); zeros where the tube has none."""
    found_KF = np.asarray(frames_K)[:, None] == self.frames_F[None]
    box_K4 = np.asarray(self.boxes_F4, np.float64)[found_KF.argmax(axis=1)]
    return np.where(found_KF.any(axis=1)[:, None], box_K4, 0.0)


@dataclasses.dataclass(frozen=True)
class Instance:
  """An annotated action: its time bounds (inclusive), and boxes of key frames.

  `label` counts from 1. `tubes` are those of all persons within the bounds, and
  `scores` (N, D) the mean probabilities of each over its clips. Instances that are
  `skipped` (reflections, ambiguous ones) give no label to tubes.
  """

  video: str
  number: int
  label: int
  bounds: tuple[int, int]
  key_frames: np.ndarray
  key_boxes: np.ndarray
  tubes: Sequence[Tube] = ()
  scores: np.ndarray | None = None
  skipped: bool = False

  def within(self, bounds: tuple[int, int]) -> np.ndarray:
    """Returns which key frames are within bounds, which belong to them."""
    return (self.key_frames >= bounds[0]) & (self.key_frames <= bounds[1])


def overlap(tube: Tube, frames_K: np.ndarray, boxes_K4: np.ndarray) -> float:
  """Returns the mean IoU of a tube and key boxes; 0 where the tube has no box."""
  if not len(frames_K):
    return 0.0
  return float(boxes.iou(tube.at(frames_K), np.asarray(boxes_K4, np.float64)).mean())


def tube_overlap(one: Tube, other: Tube) -> float:
  """Returns the mean IoU of two tubes over the frames of either."""
  frames_F = np.union1d(one.frames_F, other.frames_F)
  return float(boxes.iou(one.at(frames_F), other.at(frames_F)).mean())


def label_of(tube: Tube, instances: Sequence[Instance]) -> int:
  """Returns the label of a tube, from all instances of its video.

  It is the label of the instance with the largest mean IoU over its key frames within
  the frames of the tube, if that is above 0.5, else the background.
  """
  best, label = LABEL_IOU, BACKGROUND
  bounds = int(tube.frames_F.min()), int(tube.frames_F.max())
  for instance in instances:
    inside_K = instance.within(bounds)
    if instance.skipped or not inside_K.any():
      continue
    found = overlap(tube, instance.key_frames[inside_K], instance.key_boxes[inside_K])
    if found > best:
      best, label = found, instance.label
  return label


def suppressed(
  tubes: Sequence[Tube], scores_N: np.ndarray, threshold: float
) -> list[int]:
  """Returns the tubes to keep, by descending score.

  Each kept tube removes those whose mean IoU with it is at least `threshold`. A tube
  without area overlaps none, not even itself, and is kept once.
  """
  left = np.argsort(-np.asarray(scores_N), kind='stable').tolist()
  kept = []
  while left:
    first, *rest = left
    kept.append(first)
    left = [i for i in rest if tube_overlap(tubes[first], tubes[i]) < threshold]
  return kept


def video_average_precision(
  instances: Sequence[Instance],
  num_classes: int,
  threshold: float,
  nms_threshold: float = 0.2,
) -> np.ndarray:
  """Returns the average precision (C,) of all classes but the background, 0 to 1.

  A tube has the class and the score of its largest probability. Tubes of one class
  within an instance are suppressed, and then compared with ground truth of the same
  instance: its own key boxes, and those within its bounds of each other instance of the
  video. A prediction is right if the ground truth that it overlaps most, by at least
  `threshold`, is of no better prediction. A class without ground truth is NaN.
  """
  truth: dict[tuple[int, int], list[tuple[np.ndarray, np.ndarray]]] = {}
  found: dict[int, list[tuple[float, int, Tube]]] = {}
  for place, instance in enumerate(instances):
    for other in instances:
      if other.video != instance.video:
        continue
      inside_K = other.within(instance.bounds)
      if other is instance:
        inside_K = np.ones_like(inside_K)
      if inside_K.any():
        boxes_K4 = other.key_boxes[inside_K]
        tube = other.key_frames[inside_K], boxes_K4
        truth.setdefault((place, other.label), []).append(tube)
    if instance.scores is None or not len(instance.tubes):
      continue
    class_N, score_N = instance.scores.argmax(axis=1), instance.scores.max(axis=1)
    for label in {*class_N.tolist()} - {BACKGROUND}:
      own = np.flatnonzero(class_N == label)
      tubes = [instance.tubes[i] for i in own]
      for i in suppressed(tubes, score_N[own], nms_threshold):
        found.setdefault(label, []).append((float(score_N[own[i]]), place, tubes[i]))
  ap_C = np.full(num_classes - 1, np.nan)
  for label in range(1, num_classes):
    own = {place: known for (place, of), known in truth.items() if of == label}
    if own:
      ap_C[label - 1] = _average_precision(found.get(label, []), own, threshold)
  return ap_C


def _average_precision(
  found: list[tuple[float, int, Tube]],
  truth: dict[int, list[tuple[np.ndarray, np.ndarray]]],
  threshold: float,
) -> float:
  """Returns the area under precision and recall of one class, by trapezoids."""
  found = sorted(found, key=lambda row: -row[0])
  covered: set[tuple[int, int]] = set()
  right_P = np.zeros(len(found))
  for i, (_, place, tube) in enumerate(found):
    overlaps = [overlap(tube, *known) for known in truth.get(place, [])]
    if not overlaps:
      continue
    best = int(np.argmax(overlaps))
    if overlaps[best] >= threshold and (place, best) not in covered:
      covered.add((place, best))
      right_P[i] = 1
  total_P = np.cumsum(right_P)
  precision = np.concatenate([[1.0], total_P / np.arange(1, len(found) + 1)])
  recall = np.concatenate([[0.0], total_P / sum(map(len, truth.values()))])
  return float((np.diff(recall) * (precision[1:] + precision[:-1]) / 2).sum())


def mass_within(logits_hw: np.ndarray, box_4: np.ndarray) -> float:
  """Returns the share of a slice's attention in a box, xyxy in cells.

  The softmax runs over the slice alone. Corners are rounded, half away from zero, and
  belong to the box; a box outside of the slice has no share.
  """
  height, width = logits_hw.shape
  weight_hw = np.exp(logits_hw - logits_hw.max())
  left, top, right, bottom = (
    int(np.sign(x) * np.floor(abs(x) + 0.5)) for x in np.asarray(box_4).tolist()
  )
  inside_hw = weight_hw[
    max(top, 0) : max(min(bottom + 1, height), 0),
    max(left, 0) : max(min(right + 1, width), 0),
  ]
  return float(inside_hw.sum() / weight_hw.sum())


def recall_curve(mass_N: np.ndarray, count: int = 100) -> np.ndarray:
  """Returns the share of objects with more mass than each of `count` thresholds."""
  thresholds = np.linspace(0.0, 1.0, count)
  return (np.asarray(mass_N)[None] > thresholds[:, None]).mean(axis=1)
