"""Operations on graphs: features of edges from their nodes, and sums over edges.

A graph is a list of directed edges, each from a source to a target. Nodes and edges are
padded: an edge with weight 0 does not exist. The weight is the number of times that an
edge occurs. Three forms give equal results:

- `Segments` gathers and scatters, the fastest on CPUs, and its memory grows only with
  the number of edges;
- `Incidence` uses products with matrices of zeros and ones, for accelerators on which
  scattering is slow;
- `Dense` has an edge between each two nodes, for small graphs.

Axes: B graphs, N nodes, E edges, D features, H heads, S T sources and targets.
"""

import functools
from collections.abc import Callable

import flax.struct
import jax
import jax.numpy as jnp

from big_vision_like.errors import UserError, check_one_of

NORMALIZERS = ('exact', 'graph', 'batch')


@flax.struct.dataclass
class Incidence:
  """Edges as matrices that are 1 where a node is the source, or target, of an edge."""

  source_BEN: jax.Array
  target_BEN: jax.Array
  weight_BE: jax.Array

  def of_sources(self, x_BND: jax.Array) -> jax.Array:
    """Returns the features of the source of each edge (B, E, D)."""
    return _product('BEN,BND->BED', self.source_BEN, x_BND)

  def of_targets(self, x_BND: jax.Array) -> jax.Array:
    """Returns the features of the target of each edge (B, E, D)."""
    return _product('BEN,BND->BED', self.target_BEN, x_BND)

  def into_targets(self, x_BED: jax.Array) -> jax.Array:
    """Returns the sum over the edges into each node (B, N, D)."""
    return _product('BEN,BED->BND', self.target_BEN, x_BED)

  def mixed(self, x_BND: jax.Array) -> jax.Array:
    """Returns the sum of the sources of each node, times the weights of edges."""
    return _mixed(self, x_BND)

  def largest(self, x_BED: jax.Array) -> jax.Array:
    """Returns the maximum over the edges into each node (B, N, D); -inf without any."""
    into_BEN1 = self.target_BEN[..., None] > 0
    return jnp.where(into_BEN1, x_BED[:, :, None], -jnp.inf).max(axis=1)


@flax.struct.dataclass
class Segments:
  """Edges as indices of nodes, which gather and scatter."""

  source_BE: jax.Array
  target_BE: jax.Array
  weight_BE: jax.Array
  nodes: int = flax.struct.field(pytree_node=False)

  def of_sources(self, x_BND: jax.Array) -> jax.Array:
    """Returns the features of the source of each edge (B, E, D)."""
    return jnp.take_along_axis(x_BND, self.source_BE[..., None], axis=1)

  def of_targets(self, x_BND: jax.Array) -> jax.Array:
    """Returns the features of the target of each edge (B, E, D)."""
    return jnp.take_along_axis(x_BND, self.target_BE[..., None], axis=1)

  def into_targets(self, x_BED: jax.Array) -> jax.Array:
    """Returns the sum over the edges into each node (B, N, D)."""
    return self._reduced(jax.ops.segment_sum, x_BED)

  def mixed(self, x_BND: jax.Array) -> jax.Array:
    """Returns the sum of the sources of each node, times the weights of edges."""
    return _mixed(self, x_BND)

  def largest(self, x_BED: jax.Array) -> jax.Array:
    """Returns the maximum over the edges into each node (B, N, D); -inf without any."""
    there_BE1 = self.weight_BE[..., None] > 0
    return self._reduced(jax.ops.segment_max, jnp.where(there_BE1, x_BED, -jnp.inf))

  def _reduced(self, reduce: Callable[..., jax.Array], x_BED: jax.Array) -> jax.Array:
    one = functools.partial(reduce, num_segments=self.nodes)
    return jax.vmap(one)(x_BED, self.target_BE)


@flax.struct.dataclass
class Dense:
  """An edge from each node to each other, in the order of targets, then sources."""

  weight_BE: jax.Array
  nodes: int = flax.struct.field(pytree_node=False)

  def of_sources(self, x_BND: jax.Array) -> jax.Array:
    """Returns the features of the source of each edge (B, E, D)."""
    return self._flat(jnp.broadcast_to(x_BND[:, None], self._shape(x_BND)))

  def of_targets(self, x_BND: jax.Array) -> jax.Array:
    """Returns the features of the target of each edge (B, E, D)."""
    return self._flat(jnp.broadcast_to(x_BND[:, :, None], self._shape(x_BND)))

  def into_targets(self, x_BED: jax.Array) -> jax.Array:
    """Returns the sum over the edges into each node (B, N, D)."""
    return self._square(x_BED).sum(axis=2)

  def mixed(self, x_BND: jax.Array) -> jax.Array:
    """Returns the sum of the sources of each node, times the weights of edges."""
    # A product of matrices, without an array of all edges.
    weight_BTS = self.weight_BE.reshape(-1, self.nodes, self.nodes)
    return weight_BTS.astype(x_BND.dtype) @ x_BND

  def largest(self, x_BED: jax.Array) -> jax.Array:
    """Returns the maximum over the edges into each node (B, N, D); -inf without any."""
    there_BE1 = self.weight_BE[..., None] > 0
    return self._square(jnp.where(there_BE1, x_BED, -jnp.inf)).max(axis=2)

  def _shape(self, x_BND: jax.Array) -> tuple[int, ...]:
    return (x_BND.shape[0], self.nodes, self.nodes, x_BND.shape[2])

  def _flat(self, x_BTSD: jax.Array) -> jax.Array:
    return x_BTSD.reshape(len(x_BTSD), -1, x_BTSD.shape[-1])

  def _square(self, x_BED: jax.Array) -> jax.Array:
    return x_BED.reshape(len(x_BED), self.nodes, self.nodes, x_BED.shape[-1])


Edges = Incidence | Segments | Dense


def incidence(edges_BE2: jax.Array, weight_BE: jax.Array, nodes: int) -> Incidence:
  """Returns edges (source, target), int (B, E, 2), as matrices."""
  there_BE1 = (weight_BE > 0)[..., None]
  source_BEN, target_BEN = (
    jnp.where(there_BE1, jax.nn.one_hot(edges_BE2[..., i], nodes), 0.0) for i in (0, 1)
  )
  return Incidence(source_BEN, target_BEN, weight_BE)


def segments(edges_BE2: jax.Array, weight_BE: jax.Array, nodes: int) -> Segments:
  """Returns edges (source, target), int (B, E, 2), as indices."""
  there_BE1 = (weight_BE > 0)[..., None]
  edges_BE2 = jnp.where(there_BE1, edges_BE2, 0)
  return Segments(edges_BE2[..., 0], edges_BE2[..., 1], weight_BE, nodes)


def dense(edges_BE2: jax.Array, weight_BE: jax.Array, nodes: int) -> Dense:
  """Returns edges (source, target), int (B, E, 2), as all pairs of nodes.

  Edges that occur several times in the list become one edge with the sum of weights.
  """
  listed = incidence(edges_BE2, weight_BE, nodes)
  weight_BTS = jnp.einsum(
    'BET,BES,BE->BTS',
    listed.target_BEN,
    listed.source_BEN,
    weight_BE,
    precision=jax.lax.Precision.HIGHEST,
  )
  return Dense(weight_BTS.reshape(len(weight_BTS), -1), nodes)


# Functions that arrange edges, by the name of their form.
FORMS = {'incidence': incidence, 'segments': segments, 'dense': dense}


def shares(
  edges: Edges, logits_BEH: jax.Array, normalizer: str, epsilon: float = 0.0
) -> jax.Array:
  """Returns softmax weights of the edges into each node (B, E, H).

  Each edge counts `weight` times. `epsilon` is added to the sum that divides. The
  maximum that is subtracted from logits first is that of the edges into each node with
  the normalizer 'exact', of all edges of a graph with 'graph', and of the whole batch
  with 'batch', as in the published code of arXiv:2002.05544. With an epsilon, these
  differ: nodes whose logits are far below the maximum get weights near 0. Without an
  epsilon, the sum of such nodes could underflow, so 'graph' and 'batch' need one.
  Weights of edges that do not exist are 0.
  """
  check_one_of(NORMALIZERS, normalizer=normalizer)
  if normalizer != 'exact' and not epsilon > 0:
    raise UserError(f'normalizer={normalizer!r} needs an epsilon above 0')
  there_BE1 = edges.weight_BE[..., None] > 0
  if normalizer == 'exact':
    largest_BNH = edges.largest(logits_BEH)
    most_BEH = edges.of_targets(jnp.where(jnp.isfinite(largest_BNH), largest_BNH, 0.0))
  else:
    axes = (1,) if normalizer == 'graph' else (0, 1)
    known_BEH = jnp.where(there_BE1, logits_BEH, -jnp.inf)
    most_BEH = known_BEH.max(axis=axes, keepdims=True)
    most_BEH = jnp.where(jnp.isfinite(most_BEH), most_BEH, 0.0)
  # Where there is no edge, a large logit would make the gradient infinite.
  above_BEH = jnp.where(there_BE1, logits_BEH - most_BEH, 0.0)
  exponential_BEH = jnp.exp(above_BEH) * edges.weight_BE[..., None]
  total_BNH = edges.into_targets(exponential_BEH) + epsilon
  total_BEH = edges.of_targets(jnp.where(total_BNH > 0, total_BNH, 1.0))
  return exponential_BEH / jnp.where(there_BE1, total_BEH, 1.0)


def _mixed(edges: Incidence | Segments, x_BND: jax.Array) -> jax.Array:
  weight_BE1 = edges.weight_BE[..., None].astype(x_BND.dtype)
  return edges.into_targets(weight_BE1 * edges.of_sources(x_BND))


def _product(equation: str, matrix: jax.Array, x: jax.Array) -> jax.Array:
  """Returns a product with zeros and ones, exact at any precision of products."""
  precise = jax.lax.Precision.HIGHEST
  return jnp.einsum(equation, matrix.astype(x.dtype), x, precision=precise)
