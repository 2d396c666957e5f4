"""Tubes, the boxes of a person over time: suppression and video mAP.

The protocol is that of arXiv:2107.13648 (published code) for action detection on DALY.
Arrays are NumPy's, on the host. Boxes are xyxy, frames are numbers of a video.

Axes: F frames of a tube, K key frames, N tubes, C classes without background, D classes
with background, P predictions, h w a map.
"""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from big_vision_like.ops import boxes

BACKGROUND = 0


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
class Truth:
  """The annotated boxes of an action on its key frames; `label` counts from 1."""

  label: int
  frames_K: np.ndarray
  boxes_K4: np.ndarray


@dataclasses.dataclass(frozen=True)
class Instance:
  """The tubes of all persons within the time bounds of an annotated action.

  `truth` has the action itself, and others of which key frames are within the bounds.
  `scores` (N, D) are the mean probabilities of each tube over its clips.
  """

  truth: Sequence[Truth]
  tubes: Sequence[Tube]
  scores: np.ndarray | None = None


def of_record(record: Mapping[str, Any]) -> Instance:
  """Returns the instance of a record of `sources.daly`, without scores."""
  first, last = np.asarray(record['frames']).tolist()
  frames_F = np.arange(first, last + 1)
  owner_K, frames_K = record['key_instances'], record['key_frames']
  truth = []
  for owner in np.unique(owner_K).tolist():
    own_K = owner_K == owner
    label = int(record['key_labels'][own_K][0])
    truth.append(Truth(label, frames_K[own_K], record['key_boxes'][own_K]))
  return Instance(truth, [Tube(frames_F, boxes_F4) for boxes_F4 in record['boxes']])


def overlap(tube: Tube, frames_K: np.ndarray, boxes_K4: np.ndarray) -> float:
  """Returns the mean IoU of a tube and key boxes; 0 where the tube has no box."""
  if not len(frames_K):
    return 0.0
  return float(boxes.iou(tube.at(frames_K), np.asarray(boxes_K4, np.float64)).mean())


def tube_overlap(one: Tube, other: Tube) -> float:
  """Returns the mean IoU of two tubes over the frames of either."""
  frames_F = np.union1d(one.frames_F, other.frames_F)
  return float(boxes.iou(one.at(frames_F), other.at(frames_F)).mean())


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
  within an instance are suppressed, and then compared with the `truth` of the same
  instance. A prediction is right if the truth that it overlaps most, by at least
  `threshold`, is not that of a better prediction. A class without truth is NaN.
  """
  truth: dict[tuple[int, int], list[Truth]] = {}
  found: dict[int, list[tuple[float, int, Tube]]] = {}
  for place, instance in enumerate(instances):
    for known in instance.truth:
      truth.setdefault((place, known.label), []).append(known)
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
  truth: dict[int, list[Truth]],
  threshold: float,
) -> float:
  """Returns the area under precision and recall of one class, by trapezoids."""
  found = sorted(found, key=lambda row: -row[0])
  covered: set[tuple[int, int]] = set()
  right_P = np.zeros(len(found))
  for i, (_, place, tube) in enumerate(found):
    overlaps = [
      overlap(tube, known.frames_K, known.boxes_K4) for known in truth.get(place, [])
    ]
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
