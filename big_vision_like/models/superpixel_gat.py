"""Graph attention over superpixels, arXiv:2002.05544, and GAT, arXiv:1710.10903.

Nodes are superpixels, edges join neighbours. All models take nodes (B, N, F), edges int
(B, E, 2) as (source, target), `weight_BE`, how many times each edge occurs (0: not at
all), and a mask of nodes (B, N); they return `logits` (B, num_classes).

Axes: B graphs, N nodes, E edges, F features, D features of all heads, H heads, K
features of a head, C classes.
"""

from collections.abc import Sequence

import flax.linen as nn
import jax
import jax.numpy as jnp

from big_vision_like.errors import check_one_of
from big_vision_like.ops import graphs, precision

EPSILON = 1e-6  # added to the sum of exponentials, arXiv:2002.05544, published code


class EdgeAttention(nn.Module):
  """The layer of arXiv:2002.05544: attention over the edges into each node.

  The value of an edge is ReLU of a linear function of both nodes, its logit another
  linear function of both. See `ops.graphs.shares` for `normalizer`: only 'exact' is a
  softmax. Heads are concatenated. Returns (B, N, num_heads * width).
  """

  num_heads: int
  width: int
  normalizer: str = 'graph'
  dtype: str = 'float32'

  @nn.compact
  def __call__(self, x_BNF: jax.Array, edges: graphs.Edges) -> jax.Array:
    heads, width = self.num_heads, self.width
    init = nn.initializers.xavier_uniform(in_axis=-2, out_axis=-1, batch_axis=0)

    def linear(name: str, outputs: int) -> jax.Array:
      """Returns a linear function of both nodes of each edge, by head (B, E, H, K)."""
      inputs = x_BNF.shape[-1]
      kernel_HFK = self.param(f'{name}_kernel', init, (heads, 2 * inputs, outputs))
      bias_HK = self.param(f'{name}_bias', _uniform(2 * inputs), (heads, outputs))
      kernel_HFK = kernel_HFK.astype(self.dtype)
      # Of each node first: nodes are fewer than edges.
      both = []
      for start, of_nodes in ((0, edges.of_sources), (inputs, edges.of_targets)):
        part_HFK = kernel_HFK[:, start : start + inputs]
        y_BNHK = jnp.einsum('BNF,HFK->BNHK', x_BNF.astype(self.dtype), part_HFK)
        both.append(of_nodes(y_BNHK.reshape(*y_BNHK.shape[:2], heads * outputs)))
      y_BED = sum(both).reshape(*both[0].shape[:2], heads, outputs)
      return y_BED + bias_HK.astype(self.dtype)[None, None]

    value_BEHK = nn.relu(linear('value', width))
    logits_BEH = precision.at_least_float32(linear('logit', 1)[..., 0])
    share_BEH = graphs.shares(
      edges, logits_BEH, self.normalizer, 0.0 if self.normalizer == 'exact' else EPSILON
    )
    self.sow('intermediates', 'attention', share_BEH)
    y_BEHK = share_BEH[..., None].astype(value_BEHK.dtype) * value_BEHK
    return edges.into_targets(y_BEHK.reshape(*y_BEHK.shape[:2], heads * width))


class GraphAttention(nn.Module):
  """A layer of GAT (arXiv:1710.10903), or of GATv2 (arXiv:2105.14491) with `dynamic`.

  Logits are LeakyReLU of the sum of a score of the source and one of the target; with
  `dynamic`, scores of LeakyReLU of the sum of both nodes. Edges should have one loop
  for each node. Heads are concatenated, or averaged with `mean`.
  """

  num_heads: int
  width: int
  dynamic: bool = False
  mean: bool = False
  slope: float = 0.2
  dtype: str = 'float32'

  @nn.compact
  def __call__(self, x_BNF: jax.Array, edges: graphs.Edges) -> jax.Array:
    heads, width = self.num_heads, self.width

    def projected(name: str) -> jax.Array:
      dense = nn.Dense(
        heads * width,
        use_bias=self.dynamic,
        dtype=self.dtype,
        kernel_init=nn.initializers.xavier_uniform(),
        name=name,
      )
      return dense(x_BNF)

    def by_head(y: jax.Array) -> jax.Array:
      return y.reshape(*y.shape[:2], heads, width)

    def scored(name: str, y: jax.Array) -> jax.Array:
      init = nn.initializers.xavier_uniform()
      score_HK = self.param(name, init, (heads, width)).astype(self.dtype)
      return jnp.einsum('BNHK,HK->BNH', by_head(y), score_HK)

    source_BND = projected('source')
    from_BED = edges.of_sources(source_BND)
    if self.dynamic:
      both_BED = from_BED + edges.of_targets(projected('target'))
      logits_BEH = scored('score', nn.leaky_relu(both_BED, self.slope))
    else:
      from_BNH, to_BNH = (
        scored(f'{end}_score', source_BND) for end in ('source', 'target')
      )
      both_BEH = edges.of_sources(from_BNH) + edges.of_targets(to_BNH)
      logits_BEH = nn.leaky_relu(both_BEH, self.slope)
    share_BEH = graphs.shares(edges, precision.at_least_float32(logits_BEH), 'exact')
    self.sow('intermediates', 'attention', share_BEH)
    y_BEHK = by_head(from_BED) * share_BEH[..., None].astype(from_BED.dtype)
    y_BNHK = by_head(edges.into_targets(y_BEHK.reshape(from_BED.shape)))
    y_BND = y_BNHK.mean(axis=2) if self.mean else y_BNHK.reshape(source_BND.shape)
    bias_D = self.param('bias', nn.initializers.zeros, y_BND.shape[-1:])
    return y_BND + bias_D.astype(self.dtype)[None, None]


class SuperpixelGAT(nn.Module):
  """The network of arXiv:2002.05544: attention layers, sum over nodes, an MLP.

  `form` is how edges are computed (`ops.graphs.FORMS`). `hidden` are the layers of the
  MLP before the last one. Layers have no activation between them: it is within edges.
  """

  num_classes: int
  widths: Sequence[int] = (32, 64, 64)
  num_heads: int = 2
  hidden: Sequence[int] = (32,)
  normalizer: str = 'graph'
  form: str = 'incidence'
  dtype: str = 'float32'

  tiny = dict(widths=(8, 8), num_heads=2, hidden=8)

  def __post_init__(self) -> None:
    check_one_of(graphs.FORMS, form=self.form)
    check_one_of(graphs.NORMALIZERS, normalizer=self.normalizer)
    super().__post_init__()

  @nn.compact
  def __call__(
    self,
    nodes_BNF: jax.Array,
    edges_BE2: jax.Array,
    weight_BE: jax.Array,
    mask_BN: jax.Array,
    train: bool = False,
  ) -> dict[str, jax.Array]:
    del train
    edges = graphs.FORMS[self.form](edges_BE2, weight_BE, nodes_BNF.shape[1])
    x_BND = nodes_BNF.astype(self.dtype)
    for i, width in enumerate(self.widths):
      layer = EdgeAttention(
        self.num_heads, width, self.normalizer, self.dtype, name=f'attention{i}'
      )
      x_BND = layer(x_BND, edges)
    x_BD = jnp.where(mask_BN[..., None], x_BND, 0.0).sum(axis=1)
    for i, width in enumerate((*self.hidden, self.num_classes)):
      dense = nn.Dense(width, dtype=self.dtype, name=f'dense{i}')
      x_BD = dense(nn.relu(x_BD) if i else x_BD)
    return {'logits': precision.at_least_float32(x_BD)}


class GAT(nn.Module):
  """The GAT of BDI-UFRGS/superpixel-graphs: layers with ReLU, mean and maximum, linear.

  Arguments are those of `SuperpixelGAT`; loops that the edges have are replaced by one
  of each node.
  """

  num_classes: int
  widths: Sequence[int] = (32, 64)
  num_heads: int = 4
  form: str = 'incidence'
  dtype: str = 'float32'

  tiny = dict(widths=(8, 8), num_heads=2)

  @nn.compact
  def __call__(
    self,
    nodes_BNF: jax.Array,
    edges_BE2: jax.Array,
    weight_BE: jax.Array,
    mask_BN: jax.Array,
    train: bool = False,
  ) -> dict[str, jax.Array]:
    del train
    edges_BE2, weight_BE = with_loops(edges_BE2, weight_BE, mask_BN)
    edges = graphs.FORMS[self.form](edges_BE2, weight_BE, nodes_BNF.shape[1])
    x_BND = nodes_BNF.astype(self.dtype)
    for i, width in enumerate(self.widths):
      layer = GraphAttention(
        self.num_heads, width, dtype=self.dtype, name=f'attention{i}'
      )
      x_BND = nn.relu(layer(x_BND, edges))
    mask_BN1 = mask_BN[..., None]
    sum_BD = jnp.where(mask_BN1, x_BND, 0.0).sum(axis=1)
    mean_BD = sum_BD / jnp.maximum(mask_BN.sum(axis=1, keepdims=True), 1)
    # After ReLU, zero is never above the maximum of nodes.
    most_BD = jnp.where(mask_BN1, x_BND, 0.0).max(axis=1)
    pooled_BD = jnp.concatenate([mean_BD.astype(self.dtype), most_BD], axis=-1)
    logits_BC = nn.Dense(self.num_classes, dtype=self.dtype, name='head')(pooled_BD)
    return {'logits': precision.at_least_float32(logits_BC)}


def with_loops(
  edges_BE2: jax.Array, weight_BE: jax.Array, mask_BN: jax.Array
) -> tuple[jax.Array, jax.Array]:
  """Returns edges without their loops, then one loop of each node; each counts once."""
  batch, nodes = mask_BN.shape
  loop_BE = edges_BE2[..., 0] == edges_BE2[..., 1]
  there_BE = (weight_BE > 0) & ~loop_BE
  loops_N2 = jnp.arange(nodes, dtype=edges_BE2.dtype)[:, None].repeat(2, axis=1)
  loops_BN2 = jnp.broadcast_to(loops_N2[None], (batch, nodes, 2))
  return (
    jnp.concatenate([edges_BE2, loops_BN2], axis=1),
    jnp.concatenate([there_BE, mask_BN], axis=1).astype(jnp.float32),
  )


def _uniform(inputs: int) -> nn.initializers.Initializer:
  """Returns PyTorch's initial values of biases, uniform up to 1 / sqrt(inputs)."""
  bound = inputs**-0.5

  def init(key: jax.Array, shape: Sequence[int], dtype: str = 'float32') -> jax.Array:
    return jax.random.uniform(key, shape, dtype, -bound, bound)

  return init
