"""Answers about a picture, and its objects, by one run of several tasks (UniT).

Axes: Q queries, 4 is left, top, right, bottom.
"""

import functools
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import jax
import numpy as np

from big_vision_like import spec
from big_vision_like.data.transforms import attributes, compose
from big_vision_like.errors import UserError, listed
from big_vision_like.inference.loading import LoadedRun
from big_vision_like.run import learned
from big_vision_like.tasks import multi_task, set_detection, unit
from big_vision_like.tasks.task import GradientTask

MOST = 3  # most answers for a task


class Row(NamedTuple):
  """A result of a task: a class, its score, and the box of an object in pixels."""

  task: str
  name: str
  score: float
  box: tuple[float, ...] = ()


class Asker:
  """The tasks of a run, each with the preprocessing of its evaluator.

  A program is compiled for each task when it is first used.
  """

  def __init__(self, run: LoadedRun):
    if not isinstance(run.task, multi_task.MultiTask):
      raise UserError(
        f'{run.workdir} is not a run of several tasks: use tools/predict.py'
      )
    self.run = run
    self.names = learned.known(run.workdir)
    self.transforms: dict[str, Sequence[Any]] = {}
    for key, node in run.config.evals.items():
      name = node.get('predict', '').partition('.')[0]
      if name in run.task.tasks:
        place = f'config.evals.{key}.data.transforms'
        self.transforms[name] = spec.build(node['data']['transforms'], place)

  def ask(self, texts: Sequence[str], picture: bytes | None = None) -> list[Row]:
    """Returns the likeliest answers of each task that takes such texts and a picture.

    Tasks on one text or two get as many.
    """
    rows = []
    for name, task in self._tasks(unit.TextClassification):
      wanted = self._texts(name)
      if len(wanted) == len(texts) and (task.images is None) == (picture is None):
        given = dict(zip(wanted, texts, strict=True))
        logits_C = self._outputs(name, picture, given)['logits'][0]
        if task.loss_type == 'softmax':
          score_C = np.asarray(jax.nn.softmax(logits_C))
        else:
          score_C = np.asarray(jax.nn.sigmoid(logits_C))
        best = np.argsort(-score_C, kind='stable')[:MOST].tolist()
        named = self._names(name, 'label')
        rows += [Row(name, named.get(i, str(i)), float(score_C[i])) for i in best]
    if not rows:
      kind = 'texts' if picture is None else 'texts about a picture'
      raise UserError(
        f'{self.run.workdir} has no task on {len(texts)} {kind}; its tasks are'
        f' {listed(self.run.task.tasks)}'
      )
    return rows

  def find(self, picture: bytes, threshold: float = 0.7) -> list[Row]:
    """Returns the objects that each task of detection finds, the surest first."""
    rows = []
    for name, _ in self._tasks(set_detection.Detection):
      outputs = self._outputs(name, picture, {})
      named = self._names(name, 'box_labels')
      scores_Q = np.asarray(outputs['scores'][0])
      for q in np.argsort(-scores_Q, kind='stable').tolist():
        if scores_Q[q] > threshold:
          label = int(outputs['labels'][0, q])
          box = tuple(np.asarray(outputs['boxes_xyxy'][0, q]).tolist())
          rows.append(Row(name, named.get(label, str(label)), float(scores_Q[q]), box))
    return rows

  def _tasks(self, kind: type) -> list[tuple[str, GradientTask]]:
    """Returns the tasks of a kind that have an evaluator."""
    found = self.run.task.tasks.items()
    return [(n, t) for n, t in found if n in self.transforms and isinstance(t, kind)]

  def _texts(self, name: str) -> Sequence[str]:
    """Returns the features with the texts of a task."""
    for transform in self.transforms[name]:
      if isinstance(transform, attributes.TextPair):
        return transform.texts
    raise UserError(f'evals of {name!r} have no TextPair, which names the texts')

  def _names(self, name: str, field: str) -> Mapping[int, str]:
    """Returns the names of the classes of a task."""
    for key, known in self.names.items():
      if key.rpartition('.')[-1] == name:
        return known.names.get(field, {})
    return {}

  def _outputs(
    self, name: str, picture: bytes | None, texts: Mapping[str, str]
  ) -> dict[str, Any]:
    objects = dict.fromkeys(('bbox', 'label', 'is_crowd', 'area', 'id'), ())
    example = {
      'id': 0,
      'label': 0,
      'labels': (),
      'scores': (),
      'objects': _Empty(objects),
      **texts,
    }
    if picture is not None:
      example['image'] = picture
    example = compose.applied(self.transforms[name], example, np.random.default_rng(0))
    batch = {key: np.asarray(x)[None] for key, x in example.items()}
    return self._compiled(name)(self.run.state, batch, jax.random.key(0))

  @functools.cache  # noqa: B019 - lives as long as the program
  def _compiled(self, name: str) -> Any:
    return jax.jit(self.run.task.prediction(f'{name}.predict'))


class _Empty(dict):
  """The objects of a picture without annotations: any field is an empty list."""

  def __contains__(self, name: object) -> bool:
    return True

  def __missing__(self, name: str) -> tuple[()]:
    return ()

  def __or__(self, other: Mapping[str, Any]) -> '_Empty':
    return _Empty({**self, **other})
