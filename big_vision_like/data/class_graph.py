"""Graphs of classes: files that carry names of classes, and graphs made from counts.

A file is `.npz` or `.json` with `names`, the C classes, `graph`, (C, C), its edges, and
the texts `kind` and `normalization`. Edges are finite and not negative. Background is
not in a file. `tools/build_class_graph.py` writes such files.

Axes: C classes, G classes of a file, A attributes.
"""

import collections
import dataclasses
import os
import pathlib
import sys
import zipfile
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from big_vision_like import files
from big_vision_like.data.sources import coco_json
from big_vision_like.errors import UserError, check_one_of, listed, plural

NORMALIZATIONS = ('none', 'symmetric', 'row')
FIELDS = ('names', 'graph', 'kind', 'normalization')
# The variable of models that holds a graph, by default.
AT = 'enhance/graph'


@dataclasses.dataclass(frozen=True, eq=False)
class ClassGraph:
  """Edges (C, C) between classes with these names, float32."""

  names: tuple[str, ...]
  edges: np.ndarray
  kind: str = ''
  normalization: str = 'none'

  def __post_init__(self) -> None:
    count, edges = len(self.names), np.asarray(self.edges, np.float32)
    object.__setattr__(self, 'edges', edges)
    if edges.shape != (count, count):
      raise UserError(
        f'a graph of {plural(count, "name")} has edges of shape {edges.shape}, not'
        f' {(count, count)}'
      )
    if twice := [
      n for n, times in collections.Counter(self.names).items() if times > 1
    ]:
      raise UserError(f'several classes of the graph are called {listed(twice, 3)}')
    if not np.isfinite(edges).all() or (edges < 0).any():
      raise UserError('edges of the graph are negative or not finite')

  def ordered(self, names: Sequence[str]) -> 'ClassGraph':
    """Returns the graph of these classes, in this order.

    Raises a `UserError` that lists classes which the graph lacks.
    """
    place = {name: number for number, name in enumerate(self.names)}
    if missing := [name for name in names if name not in place]:
      raise UserError(
        f'the graph lacks {len(missing):,} of the {len(names):,} classes of the data:'
        f' {listed(missing, 5)}; it has {listed(self.names, 5)}'
      )
    order = [place[name] for name in names]
    edges_CC = self.edges[order][:, order]
    return dataclasses.replace(self, names=tuple(names), edges=edges_CC)


def read(path: str | os.PathLike) -> ClassGraph:
  """Reads a file; raises a `UserError` that names the file and the problem."""
  path = pathlib.Path(path).expanduser()
  if not path.is_file():
    raise UserError(
      f'{path}, a graph of classes, does not exist: write it with'
      ' tools/build_class_graph.py'
    )
  if path.suffix == '.json':
    found = files.read_fields(path)
  elif zipfile.is_zipfile(path):
    with np.load(path, allow_pickle=False) as arrays:
      found = {name: arrays[name].tolist() for name in arrays if name in FIELDS}
  else:
    raise UserError(
      f'{path} is neither .json nor .npz, so it holds no graph of classes'
    )
  if missing := [name for name in FIELDS if name not in found]:
    raise UserError(f'{path} holds no graph of classes: it lacks {listed(missing)}')
  names, texts = found['names'], [found['kind'], found['normalization']]
  if not isinstance(names, list) or not all(
    isinstance(x, str) for x in [*names, *texts]
  ):
    raise UserError(f'{path}: `names` must be a list of texts, the others texts')
  try:
    edges = np.array(found['graph'], np.float32)
  except (TypeError, ValueError) as error:
    raise UserError(f'{path}: `graph` is not a matrix of numbers') from error
  try:
    return ClassGraph(tuple(names), edges, *texts)
  except UserError as error:
    raise UserError(f'{path}: {error}') from error


def write(path: str | os.PathLike, graph: ClassGraph) -> None:
  """Writes a graph as .npz or .json."""
  path = pathlib.Path(path).expanduser()
  texts = {'kind': graph.kind, 'normalization': graph.normalization}
  if path.suffix == '.json':
    own = {'names': list(graph.names), 'graph': graph.edges.tolist()}
    files.write_json(path, texts | own, indent=None)
  elif path.suffix == '.npz':
    own = {'names': np.array(graph.names), 'graph': graph.edges}
    files.write_npz(path, own | {name: np.array(text) for name, text in texts.items()})
  else:
    raise UserError(f'{path}: a graph of classes is written as .npz or .json')


def weights(
  path: str,
  names: Sequence[str] | None = None,
  annotations: str | None = None,
  at: str = AT,
) -> dict[str, Any]:
  """Returns a graph as variables to start from, for `init_from`.

  The classes of the data are `names`, or the categories of a COCO-style file
  `annotations`, in the order of their ids as in `coco.Coco`. The graph is reordered to
  them by name, and classes that it has beyond them are left out and reported. `at` is
  the path of the variable.
  """
  if (names is None) == (annotations is None):
    raise UserError('give either `names` or `annotations`, the classes of the data')
  if annotations is not None:
    names = categories(annotations)
  graph = read(path)
  try:
    found = graph.ordered(names)
  except UserError as error:
    raise UserError(f'{path}: {error}') from error
  if len(graph.names) > len(names):
    more = [name for name in graph.names if name not in {*names}]
    _tell(f'{path}: classes left out of the graph: {listed(more)}')
  elif graph.names != found.names:
    _tell(f'{path}: the graph was reordered to the classes of the data, by name')
  return variables(found, at)


def of_groups(
  groups: Sequence[Sequence[str]],
  names: Sequence[str],
  weight: float = 1.0,
  at: str = AT,
) -> dict[str, Any]:
  """Returns variables like `weights`, with edges between all classes of a group.

  `weight` is the weight of each edge.
  """
  listed_names = [name for group in groups for name in group]
  member_GC = np.array([[name in group for name in listed_names] for group in groups])
  edges_GG = (member_GC.T.astype(int) @ member_GC.astype(int)) > 0
  graph = ClassGraph(tuple(listed_names), weight * edges_GG)
  return variables(graph.ordered(names), at)


def variables(graph: ClassGraph, at: str = AT) -> dict[str, Any]:
  """Returns the variables of a model with this graph; background, last, has no edge."""
  tree: Any = np.pad(graph.edges, (0, 1))
  for name in reversed(at.split('/')):
    tree = {name: tree}
  return {'params': {}, 'constants': tree}


def categories(annotations: str) -> list[str]:
  """Returns the names of categories of a COCO-style file, in the order of labels."""
  found = coco_json.read_strictly(annotations)['categories']
  return [entry['name'] for entry in sorted(found, key=lambda entry: entry['id'])]


# Graphs from counts


def relation(
  triples: Sequence[tuple[str, str, str]],
  names: Sequence[str],
  normalization: str,
  most_relations: int | None = None,
) -> ClassGraph:
  """Returns the graph of how often classes are related, in either direction.

  `triples` are subject, relation and object; those of other classes are ignored, and,
  with `most_relations`, those whose relation is not among the most frequent. See
  `of_counts`.
  """
  place = {name: number for number, name in enumerate(names)}
  known = [t for t in triples if t[0] in place and t[2] in place]
  if most_relations is not None:
    kept = frequent([verb for _, verb, _ in known], most_relations)
    known = [t for t in known if t[1] in {*kept}]
  counts_CC = np.zeros((len(names),) * 2)
  for subject, _, other in known:
    counts_CC[place[subject], place[other]] += 1
  return of_counts(counts_CC + counts_CC.T, names, 'relation', normalization)


def cooccurrence(
  images: Sequence[Sequence[str]], names: Sequence[str], normalization: str
) -> ClassGraph:
  """Returns the graph of how many images show both classes; see `of_counts`.

  `images` has the classes of the objects of each image.
  """
  place = {name: number for number, name in enumerate(names)}
  counts_CC = np.zeros((len(names),) * 2)
  for classes in images:
    own = sorted({place[name] for name in classes if name in place})
    counts_CC[np.ix_(own, own)] += 1
  np.fill_diagonal(counts_CC, 0)
  return of_counts(counts_CC, names, 'co-occurrence', normalization)


def of_counts(
  counts_CC: np.ndarray, names: Sequence[str], kind: str, normalization: str
) -> ClassGraph:
  """Returns a graph of symmetric counts A.

  The degree of a class is its sum of counts plus 1, and replaces the diagonal of A, as
  in the published code of HKRM. 'symmetric' divides by the roots of both degrees, which
  gives edges in [0, 1] and a diagonal of 1.
  """
  degree_C = counts_CC.sum(axis=1) + 1
  edges_CC = np.where(np.eye(len(names), dtype=bool), degree_C[None], counts_CC)
  edges_CC = normalized(edges_CC, degree_C, normalization)
  return ClassGraph(tuple(names), edges_CC, kind, normalization)


def attribute(
  counts: Mapping[str, Mapping[str, int]],
  names: Sequence[str],
  normalization: str,
  most_attributes: int | None = None,
) -> ClassGraph:
  """Returns the graph of how similar the attributes of classes are.

  `counts` says how often objects of a class have an attribute. Edges are 1 minus the
  Jensen-Shannon divergence, to base 2, of the distributions of attributes: 1 for equal
  ones, 0 for ones without a common attribute. Classes without attributes have only an
  edge to themselves, of 1.
  """
  own = [counts.get(name, {}) for name in names]
  words: collections.Counter[str] = collections.Counter()
  for found in own:
    words.update(found)
  kept = sorted(words, key=lambda word: (-words[word], word))[:most_attributes]
  counts_CA = np.array([[found.get(word, 0) for word in kept] for found in own], float)
  counts_CA = counts_CA.reshape(len(names), len(kept))
  total_C1 = counts_CA.sum(axis=1, keepdims=True)
  share_CA = counts_CA / np.maximum(total_C1, 1)
  edges_CC = np.stack([1 - divergence(row_A[None], share_CA) for row_A in share_CA])
  empty_C = total_C1[:, 0] == 0
  edges_CC[empty_C], edges_CC[:, empty_C] = 0, 0
  np.fill_diagonal(edges_CC, 1)
  edges_CC = normalized(edges_CC.clip(0, 1), edges_CC.sum(axis=1), normalization)
  return ClassGraph(tuple(names), edges_CC, 'attribute', normalization)


def divergence(p_CA: np.ndarray, q_CA: np.ndarray) -> np.ndarray:
  """Returns the Jensen-Shannon divergences, to base 2, of rows, in [0, 1]."""
  mean_CA = (p_CA + q_CA) / 2

  def relative(x_CA: np.ndarray) -> np.ndarray:
    ratio_CA = x_CA / np.where(mean_CA > 0, mean_CA, 1)
    return (x_CA * np.log2(np.where(ratio_CA > 0, ratio_CA, 1))).sum(axis=-1)

  return (relative(p_CA) + relative(q_CA)) / 2


def normalized(
  edges_CC: np.ndarray, degree_C: np.ndarray, normalization: str
) -> np.ndarray:
  """Returns A, D^-1/2 A D^-1/2 with degrees D ('symmetric'), or rows that sum to 1."""
  check_one_of(NORMALIZATIONS, normalization=normalization)
  if normalization == 'symmetric':
    root_C = np.sqrt(degree_C)
    return edges_CC / root_C[:, None] / root_C[None]
  if normalization == 'row':
    return edges_CC / edges_CC.sum(axis=1, keepdims=True)
  return edges_CC


def frequent(words: Sequence[str], most: int | None) -> list[str]:
  """Returns the most frequent words, equally frequent ones in alphabetical order."""
  counts = collections.Counter(words)
  return sorted(counts, key=lambda word: (-counts[word], word))[:most]


def _tell(line: str) -> None:
  print(line, file=sys.stderr, flush=True)
