"""Algorithms on your own numbers and graphs, executed by the engine of a run.

    from big_vision_like.inference import algorithms
    algorithms.Algorithms('runs/nee_sort').sort([7, 3, 200])

Axes: B = 1, L slots, N nodes.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import jax
import numpy as np

from big_vision_like.data.procedural import number_lists, weighted_graphs
from big_vision_like.errors import UserError
from big_vision_like.inference import loading
from big_vision_like.inference.pairs import WithoutImages
from big_vision_like.tasks import algorithm_execution

SENTENCE = (
  'the model takes numbers, not images: use inference.algorithms, as docs/algorithms.md'
  ' shows'
)


class Algorithms:
  """The programs of a run of `tasks.algorithm_execution`, compiled for each shape."""

  def __init__(self, workdir: str):
    run = loading.load_run(workdir)
    if not isinstance(run.task, algorithm_execution.AlgorithmExecution):
      raise UserError(
        f'{workdir} is a run of {type(run.task).__name__}, not of engines'
      )
    self.task, self.state = run.task, run.state
    if self.task.adder is not None:
      slots_111 = np.zeros((1, 1, 2), np.int32)
      batch = {'numbers': slots_111, 'hidden': slots_111 > 0}
      self.state = self.state.replace(frozen=loading.frozen(run, batch))
    self._programs: dict[str, Any] = {}

  def _run(self, name: str, **batch: np.ndarray) -> dict[str, np.ndarray]:
    """Runs a program on one example."""
    if name not in self._programs:
      self._programs[name] = jax.jit(self.task.prediction(name))
    found = self._programs[name](self.state, batch, jax.random.key(0))
    return {key: np.asarray(x[0]) for key, x in found.items()}

  def sort(self, items: Sequence[int], program: str = 'selection_sort') -> list[int]:
    """Returns integers from 0 to 255 sorted, by 'selection_sort' or 'merge_sort'."""
    items_BL = checked_numbers(items)[None]
    return self._run(program, items=items_BL)['sorted'].tolist()

  def distances(self, weights: Any) -> list[int | None]:
    """Returns the lengths of shortest paths from node 0; None without a path.

    `weights` (N, N) are integers from 1 to 255, or 0 where there is no edge.
    """
    weight_BNN = weighted_graphs.checked(weights)[None]
    found_N = self._run('dijkstra', weight=weight_BNN)['distance']
    return [x if x < self.task.infinity else None for x in found_N.tolist()]

  def spanning_tree(self, weights: Any) -> list[tuple[int, int]]:
    """Returns nodes in the order in which a tree from node 0 grows, with edge weights.

    A node that begins the tree of another part of the graph has the weight 0.
    """
    weight_BNN = weighted_graphs.checked(weights)[None]
    found = self._run('prim', weight=weight_BNN)
    pairs = zip(found['node'].tolist(), found['edges'].tolist(), strict=True)
    infinity = self.task.infinity
    return [(node, x if x < infinity else 0) for node, x in pairs if node >= 0]


def checked_numbers(items: Sequence[int]) -> np.ndarray:
  """Returns a list of numbers, int32 (L,); `UserError` for other than 0 to 255."""
  items_L = np.asarray(items)
  if items_L.ndim != 1 or not len(items_L) or items_L.dtype.kind not in 'iu':
    raise UserError(f'{items!r:.99} is not a list of integers')
  for item in items_L[(items_L < 0) | (items_L > number_lists.LARGEST)].tolist():
    raise UserError(f'{item} is out of range: engines sort numbers from 0 to 255')
  return items_L.astype(np.int32)


def of_run(run: Any, image_size: tuple[int, int] | None = None) -> WithoutImages:
  """Returns the preprocessing of a run on numbers: there is none."""
  return _without(f'run {run.workdir}')


def of_file(
  metadata: Mapping[str, Any],
  name: str,
  size: tuple[int, int] | None,
  num_classes: int,
  channels: int,
) -> WithoutImages:
  """Returns the preprocessing of a file of weights, as `Family.images` does."""
  return _without(name)


def _without(source: str) -> WithoutImages:
  return WithoutImages(source=source, takes='numbers', instead=SENTENCE)
