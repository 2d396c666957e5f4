"""Evaluation of action detection: video mAP, and whether attention finds objects.

Axes: N clips or pairs, A actors, C classes, L layers, G graphs, t h w feature map, O
objects.
"""

import collections
import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh

from big_vision_like.data.sources.action_clips import ActionClips
from big_vision_like.errors import UserError, plural
from big_vision_like.evals import evaluator
from big_vision_like.evals.evaluator import Arrays, Predict, Results
from big_vision_like.ops import tubes
from big_vision_like.viz import actors as drawing
from big_vision_like.viz.detection import stacked


@dataclasses.dataclass(kw_only=True)
class ActorAccuracy(evaluator.Evaluator):
  """The share of actors whose likeliest class is theirs, over all actors."""

  needs = ('box_labels', 'box_mask')

  def reports(self) -> Mapping[str, str]:
    return {'accuracy': 'max'}

  def measure(self, outputs: Arrays, batch: Arrays) -> Arrays:
    """Returns how many actors of each clip are right, and how many there are."""
    mask_NA = batch['box_mask'].astype(bool)
    right_NA = outputs['logits'].argmax(axis=-1) == batch['box_labels']
    return {'right': (right_NA & mask_NA).sum(axis=1), 'actors': mask_NA.sum(axis=1)}

  def run(self, predict: Predict, state: Any, mesh: Mesh | None = None) -> Results:
    right = actors = 0
    for part in self.rows(self.measure, predict, state, mesh):
      right += int(part.values['right'].sum())
      actors += int(part.values['actors'].sum())
    if not actors:
      raise UserError(f'{self.data.source.title}: no clip has an actor.')
    return Results({'accuracy': right / actors})


@dataclasses.dataclass(kw_only=True)
class VideoMAP(evaluator.Evaluator):
  """Video mAP of tubes on trimmed actions, by the rules of arXiv:2107.13648.

  The source of the data is an `ActionClips` of several clips of each action. The
  probabilities of a tube are the means over its clips; `ops.tubes` has the rest of the
  protocol. `mAP_0.5` and so on, one for each of `thresholds`, are means over classes
  that have ground truth, in [0, 1], and `tube_accuracy` is the share of tubes with the
  right label, background included. The text `classes` lists AP at the first threshold.
  `names` are the names of the classes, of which 0 is the background.
  """

  needs = ('box_mask',)

  num_classes: int
  thresholds: Sequence[float] = (0.5, 0.3)
  nms_threshold: float = 0.2
  names: Sequence[str] = ()

  def __post_init__(self) -> None:
    if not isinstance(self.data.source, ActionClips):
      raise UserError(
        f'data.source is {type(self.data.source).__name__}: video mAP needs an'
        ' ActionClips, the clips of each action'
      )
    if self.names and len(self.names) != self.num_classes:
      raise UserError(
        f'`names` has {len(self.names)} names, but num_classes={self.num_classes}'
      )

  def reports(self) -> Mapping[str, str]:
    return {r'mAP_.*|tube_accuracy': 'max'}

  def measure(self, outputs: Arrays, batch: Arrays) -> Arrays:
    """Returns the probabilities of the actors of each clip, and which there are."""
    return {
      'probs': jax.nn.softmax(outputs['logits'].astype(jnp.float32), axis=-1),
      'there': batch['box_mask'].astype(bool),
    }

  def run(self, predict: Predict, state: Any, mesh: Mesh | None = None) -> Results:
    return self.results(self.joined(self.measure, predict, state, mesh))

  def results(self, rows: evaluator.Rows) -> Results:
    """Returns the results for the probabilities of all clips."""
    instances, right = self.instances(rows)
    scalars, lines = {}, []
    for threshold in self.thresholds:
      ap_C = tubes.video_average_precision(
        instances, self.num_classes, threshold, self.nms_threshold
      )
      known_C = np.isfinite(ap_C)
      if not known_C.any():
        raise UserError(f'{self.data.source.title}: no action has key boxes.')
      scalars[f'mAP_{threshold:g}'] = float(ap_C[known_C].mean())
      if not lines:
        lines = [self.line(c + 1, ap) for c, ap in enumerate(ap_C.tolist())]
    return Results(scalars | {'tube_accuracy': right}, texts={'classes': lines})

  def line(self, label: int, ap: float) -> str:
    """Returns the text about the AP of a class."""
    name = self.names[label] if self.names else label
    return f'{name}: ' + (f'{100 * ap:.2f} %' if np.isfinite(ap) else 'no truth')

  def instances(self, rows: evaluator.Rows) -> tuple[list[tubes.Instance], float]:
    """Returns actions with tubes, scores and truth, and the share of right tubes."""
    clips: ActionClips = self.data.source
    by_action: dict[int, list[int]] = collections.defaultdict(list)
    for row, index in enumerate(rows.index_N.tolist()):
      by_action[int(clips.places[index, 0])].append(row)
    found, right, count = [], 0, 0
    for action, own in sorted(by_action.items()):
      record = clips.source[action]
      instance = tubes.of_record(record)
      number = len(instance.tubes)
      probs_NAC = rows.values['probs'][own]
      there_NA = rows.values['there'][own]
      if not (there_NA[:, :number].all() and not there_NA[:, number:].any()):
        raise UserError(
          f'the clips of action {action} do not have the {plural(number, "actor")} of'
          f' {clips.title}: evaluate with data.transforms.actors.ActorClip'
        )
      scores_AC = probs_NAC[:, :number].mean(axis=0)
      if number:
        right += int((scores_AC.argmax(axis=1) == record['labels']).sum())
        count += number
      found.append(dataclasses.replace(instance, scores=scores_AC))
    return found, right / max(count, 1)


@dataclasses.dataclass(kw_only=True)
class ObjectRecall(evaluator.Evaluator):
  """The share of annotated objects that actors attend to, by arXiv:2107.13648.

  In each layer and graph, the softmax of an actor's attention is taken over the cells
  of one `slice` of the map alone, the one of the clip's centre. An object is found if
  its box has more mass than a threshold in any layer and graph. `recall` is the mean
  over 100 thresholds from 0 to 1, `recall_0.5` that of one half, and `mass` the mean of
  the largest masses. Only actors that act count (`acts`). The prediction is `attend`;
  the picture `attention` shows what actors of the first clips attend to.
  """

  needs = ('object_boxes', 'object_mask', 'acts')

  predict: str = 'attend'
  slice: int = 3
  pictures: int = 4

  def reports(self) -> Mapping[str, str]:
    return {'recall.*|mass': 'max'}

  def measure(self, outputs: Arrays, batch: Arrays) -> Arrays:
    """Returns the attention of each clip in the slice, and boxes of objects."""
    attention_NALGthw = outputs['attention']
    slices = attention_NALGthw.shape[4]
    if not 0 <= self.slice < slices:
      raise UserError(
        f'slice={self.slice} is not one of the {slices} slices of the feature map'
      )
    return {
      'attention': attention_NALGthw[:, :, :, :, self.slice].astype(jnp.float32),
      'boxes': batch['object_boxes'],
      'there': batch['object_mask'].astype(bool),
      'acts': batch['acts'].astype(bool) & batch['box_mask'].astype(bool),
    }

  def draw(self, outputs: Arrays, batch: Arrays) -> Arrays:
    """Returns the arrays that a picture is drawn from."""
    kept = {name: batch[name] for name in ('video', 'boxes', 'box_mask')}
    return kept | {name: outputs[name] for name in ('attention', 'logits')}

  def run(self, predict: Predict, state: Any, mesh: Mesh | None = None) -> Results:
    masses: list[float] = []
    sheets: list[np.ndarray] = []
    rows = self.rows(
      self.measure, predict, state, mesh, draw=self.draw, pictures=self.pictures
    )
    for part in rows:
      masses += largest_masses(part.values)
      sheets += [drawing.sheet(row) for row in part.drawn]
    if not masses:
      raise UserError(
        f'{self.data.source.title}: no clip has both an annotated object and an actor'
        ' who acts, so there is no recall.'
      )
    curve = tubes.recall_curve(np.array(masses))
    steps = np.linspace(0.0, 1.0, len(curve))
    lines = [
      f'{100 * step:.0f} %: {100 * recall:.1f} %'
      for step, recall in list(zip(steps, curve, strict=True))[::11]
    ]
    scalars = {
      'recall': float(curve.mean()),
      'recall_0.5': float((np.array(masses) > 0.5).mean()),
      'mass': float(np.mean(masses)),
    }
    pictures = {'attention': stacked(sheets)} if sheets else {}
    return Results(scalars, pictures, {'recall_by_mass': lines})


def largest_masses(values: Mapping[str, np.ndarray]) -> list[float]:
  """Returns the largest mass over layers and graphs of each actor and object."""
  found = []
  for row, actor in np.argwhere(values['acts']):
    attention_LGhw = values['attention'][row, actor]
    maps_Nhw = attention_LGhw.reshape(-1, *attention_LGhw.shape[2:])
    for box_4 in values['boxes'][row][values['there'][row]]:
      found.append(max(tubes.mass_within(map_hw, box_4) for map_hw in maps_Nhw))
  return found
