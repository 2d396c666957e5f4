"""Graphs with integer weights, their shortest paths and minimum spanning trees.

Weights are 0 where there is no edge. Axes: N nodes, S states, L slots.
"""

import dataclasses
from collections.abc import Callable
from typing import Any

import numpy as np

from big_vision_like.data.procedural import number_lists
from big_vision_like.data.procedural.number_lists import END, INFINITY, LARGEST
from big_vision_like.errors import UserError, check_one_of

ALGORITHMS = ('dijkstra', 'prim')
# Most edges of a node of a regular graph, and new edges of a node of a grown graph.
MOST_EDGES = 8
# Share of graphs with weights in a narrow band, and its widths.
NARROW, BAND = {'dijkstra': 0.5, 'prim': 0.8}, (1, 5)


def checked(weight_NN: np.ndarray) -> np.ndarray:
  """Returns the weights of a graph as int32; `UserError` if there are wrong ones."""
  weight_NN = np.asarray(weight_NN)
  if weight_NN.ndim != 2 or weight_NN.shape[0] != weight_NN.shape[1]:
    raise UserError(f'weights of a graph are (nodes, nodes), not {weight_NN.shape}')
  if weight_NN.dtype.kind not in 'iu':
    raise UserError(f'weights of a graph are integers, not {weight_NN.dtype}')
  for what, wrong_NN in (
    (f'must be from 1 to {LARGEST}, or 0 for no edge', weight_NN < 0),
    (f'must be at most {LARGEST}', weight_NN > LARGEST),
    ('differs in the other direction', weight_NN != weight_NN.T),
  ):
    for a, b in zip(*wrong_NN.nonzero(), strict=True):
      raise UserError(f'the weight {weight_NN[a, b]} of the edge {a}-{b} {what}')
  return weight_NN.astype(np.int32)


def visits(weight_NN: np.ndarray, start: int, algorithm: str) -> dict[str, np.ndarray]:
  """Runs Dijkstra's or Prim's algorithm until all nodes are visited.

  Returns `node` (N,), the node visited in each step, before each step the `value` of
  all nodes (N, N), a distance or the weight of an edge to the tree, and `through`
  (N, N), the other values that the step compares them with. Nodes that cannot be
  reached come last, with infinite values (256).
  """
  check_one_of(ALGORITHMS, algorithm=algorithm)
  count = len(weight_NN)
  edge_NN = np.where(weight_NN == 0, INFINITY, weight_NN)
  value_N, visited_N = np.full(count, INFINITY), np.zeros(count, bool)
  value_N[start] = 0
  found: dict[str, list] = {'node': [], 'value': [], 'through': []}
  for _ in range(count):
    node = int(np.where(visited_N, END, value_N).argmin())
    visited_N[node] = True
    if algorithm == 'dijkstra':
      through_N = np.minimum(value_N[node] + edge_NN[node], INFINITY)
    else:
      through_N = np.where(visited_N, INFINITY, edge_NN[node])
    for name, x in zip(found, (node, value_N, through_N), strict=True):
      found[name].append(x)
    value_N = np.minimum(value_N, through_N)
  return {name: np.array(xs) for name, xs in found.items()} | {'last': value_N}


@dataclasses.dataclass(frozen=True, kw_only=True)
class WeightedGraphs(number_lists.Generated):
  """Random graphs: `weight` int32 (N, N), `distance` (N,), `total`, and `id`.

  Distances are those from node 0 (256 if there is no path), the total is that of the
  edges of a minimum spanning tree, or of one tree for each part. In turn, graphs are
  regular, small worlds (Newman, Watts and Strogatz), grown by preferential attachment
  (Barabasi and Albert), and uniformly random (Erdos and Renyi). Weights for 'dijkstra'
  are up to 256 / N, so that distances are small, and up to 255 for 'prim'. Regular
  graphs and grown ones have at most 8 edges, or new edges, of a node.
  """

  tiny = dict(examples=20, nodes=6)

  nodes: int
  algorithm: str = 'dijkstra'

  def __post_init__(self) -> None:
    super().__post_init__()
    check_one_of(ALGORITHMS, algorithm=self.algorithm)
    if not 4 <= self.nodes <= LARGEST:
      raise UserError(f'nodes={self.nodes} must be from 4 to {LARGEST}')

  def __getitem__(self, index: int) -> dict[str, Any]:
    rng = self.rng(index)
    kind = KINDS[index % len(KINDS)]
    weight_NN = weighted(rng, kind(rng, self.nodes), self.algorithm)
    tree = visits(weight_NN, 0, 'prim')['last']
    return {
      'weight': weight_NN,
      'distance': visits(weight_NN, 0, 'dijkstra')['last'].astype(np.int32),
      'total': np.int32(tree[tree < INFINITY].sum()),
      'id': np.int64(index),
    }


@dataclasses.dataclass(frozen=True, kw_only=True)
class GraphSteps(number_lists.Generated):
  """States of Dijkstra's or Prim's algorithm on small uniformly random graphs.

  The first `nodes` + 1 states select the next node from the values of all nodes and the
  end token, as many more the smaller one of two values, which are in the first slots;
  all other slots are hidden. In some pairs the second value is hidden too, as it is for
  nodes of a tree in Prim's algorithm. Fields are those of `number_lists.states`.
  """

  algorithm: str
  nodes: int = 8

  def __post_init__(self) -> None:
    super().__post_init__()
    check_one_of(ALGORITHMS, algorithm=self.algorithm)

  def __getitem__(self, index: int) -> dict[str, Any]:
    rng, slots = self.rng(index), self.nodes + 1
    weight_NN = weighted(rng, uniform(rng, self.nodes), self.algorithm)
    found = visits(weight_NN, int(rng.integers(self.nodes)), self.algorithm)
    value_SN = np.concatenate([found['value'], found['last'][None]])
    pad = ((0, 0), (0, 1))
    numbers_SL = np.pad(value_SN, pad, constant_values=END)
    pointer_S = np.append(found['node'], self.nodes)
    hidden_SL = np.zeros((slots, slots), bool)
    hidden_SL[1:] = np.cumsum(np.eye(slots, dtype=int)[pointer_S[:-1]], axis=0) > 0
    # Comparisons of this graph.
    step_S, node_S = rng.integers(self.nodes, size=(2, slots))
    pair_S2 = np.stack([found[k][step_S, node_S] for k in ('value', 'through')], axis=1)
    pairs_SL = np.full((slots, slots), END)
    pairs_SL[:, :2] = pair_S2
    hidden_pairs_SL = np.tile(np.arange(slots) > 1, (slots, 1))
    # A zero alone is a vector of zeros, which biases of zero leave unchanged: gradients
    # through the norms of all layers would overflow in the first step.
    hidden_pairs_SL[:, 1] = (rng.random(slots) < 0.25) & (pair_S2[:, 0] > 0)
    smaller_S = (pair_S2[:, 1] < pair_S2[:, 0]) & ~hidden_pairs_SL[:, 1]
    pointer_S = np.append(pointer_S, smaller_S)
    hidden_SL = np.concatenate([hidden_SL, hidden_pairs_SL])
    after_SL = hidden_SL | (np.eye(slots, dtype=bool)[pointer_S])
    numbers_SL = np.concatenate([numbers_SL, pairs_SL])
    one_more_SL = np.concatenate([hidden_SL, hidden_SL[:1]])
    example = number_lists.states(numbers_SL, one_more_SL, pointer_S, index)
    return example | {'next_hidden': after_SL}


def weighted(
  rng: np.random.Generator, edge_NN: np.ndarray, algorithm: str
) -> np.ndarray:
  """Returns random weights of edges, int32 (N, N)."""
  most = LARGEST if algorithm == 'prim' else (LARGEST + 1) // len(edge_NN)
  low, high = 1, most
  if rng.random() < NARROW[algorithm]:
    low = int(rng.integers(1, most + 1))
    high = min(low + int(rng.integers(BAND[0], BAND[1] + 1)), most)
  weight_NN = np.triu(rng.integers(low, high + 1, edge_NN.shape), 1)
  return ((weight_NN + weight_NN.T) * edge_NN).astype(np.int32)


def uniform(rng: np.random.Generator, nodes: int) -> np.ndarray:
  """Returns the edges of a graph that has each edge with the same probability."""
  upper_NN = np.triu(rng.random((nodes, nodes)) < rng.random(), 1)
  return upper_NN | upper_NN.T


def regular(rng: np.random.Generator, nodes: int) -> np.ndarray:
  """Returns the edges of a graph whose nodes all have the same number of edges.

  The ends of pairs of edges are exchanged at random, which always terminates.
  """
  degree = int(rng.integers(2, min(nodes, MOST_EDGES + 1)))
  if degree % 2 and nodes % 2:
    degree -= 1
  edge_NN = ring(nodes, degree)
  for attempt in range(4 * nodes * degree):
    if attempt % nodes == 0:
      ends_E2 = np.argwhere(np.triu(edge_NN))
    (a, b), (c, d) = ends_E2[rng.integers(len(ends_E2), size=2)]
    fits = edge_NN[a, b] and edge_NN[c, d] and len({a, b, c, d}) == 4
    if fits and not edge_NN[a, d] and not edge_NN[c, b]:
      for x, y, there in ((a, b, False), (c, d, False), (a, d, True), (c, b, True)):
        edge_NN[x, y] = edge_NN[y, x] = there
  order_N = rng.permutation(nodes)
  return edge_NN[order_N][:, order_N]


def ring(nodes: int, degree: int) -> np.ndarray:
  """Returns the edges of a ring whose nodes are joined to their nearest nodes."""
  ahead_NN = (np.arange(nodes)[None] - np.arange(nodes)[:, None]) % nodes
  near_NN = np.minimum(ahead_NN, nodes - ahead_NN)
  edge_NN = (near_NN > 0) & (near_NN <= degree // 2)
  return edge_NN | (near_NN * 2 == nodes) if degree % 2 else edge_NN


def small_world(rng: np.random.Generator, nodes: int) -> np.ndarray:
  """Returns the edges of a ring with random edges added (Newman, Watts, Strogatz)."""
  edge_NN = ring(nodes, int(rng.integers(2, min(nodes, MOST_EDGES + 1))) // 2 * 2)
  share = rng.random()
  for a in range(nodes):
    for _ in range(int(edge_NN[a].sum()) // 2):
      b = int(rng.integers(nodes))
      if rng.random() < share and a != b:
        edge_NN[a, b] = edge_NN[b, a] = True
  return edge_NN


def grown(rng: np.random.Generator, nodes: int) -> np.ndarray:
  """Returns the edges of a graph whose new nodes prefer those with many edges."""
  new = int(rng.integers(1, min(nodes, MOST_EDGES + 1)))
  edge_NN = np.zeros((nodes, nodes), bool)
  for a in range(1, nodes):
    share_N = edge_NN[:a].sum(axis=1) + 1e-9
    size = min(new, a)
    others = rng.choice(a, size, replace=False, p=share_N / share_N.sum())
    edge_NN[a, others] = edge_NN[others, a] = True
  return edge_NN


KINDS: tuple[Callable[[np.random.Generator, int], np.ndarray], ...]
KINDS = regular, small_world, grown, uniform
