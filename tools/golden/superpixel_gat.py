"""Golden checks of attention over graphs of superpixels.

Files list the nodes and edges of all graphs one after the other.

Axes: B graphs, N nodes, E edges, D features, H heads, C classes.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from big_vision_like.data.transforms import superpixels as transforms
from big_vision_like.models import superpixel_gat as models
from big_vision_like.ops import graphs, losses
from big_vision_like.weights import superpixel_gat as names
from big_vision_like.weights import tree
from tools.golden.common import (
  Check,
  Fields,
  Results,
  Tolerance,
  captured,
  float_name,
  loss_and_gradients,
  select,
  widened,
)

OUTPUT = Tolerance(absolute=1e-5)
ATTENTION = Tolerance(absolute=1e-6)
FEATURES = Tolerance(absolute=1e-4)
# With published weights, logits are in the thousands.
PUBLISHED = Tolerance(absolute=1e-4, relative=1e-6)
EXACT = Tolerance(relative=1e-4)
GRADIENT = Tolerance(relative=1e-4)
# Absolute tolerance as a share of the largest gradient in a file.
ROUNDING = 1e-6


def padded(
  counts: Sequence[int],
  nodes_ND: np.ndarray,
  source_E: np.ndarray,
  target_E: np.ndarray,
) -> tuple[tuple[np.ndarray, ...], np.ndarray]:
  """Returns the inputs of a model, and for each edge its row among those of all graphs.

  `counts` are the nodes of each graph.
  """
  start_B = np.cumsum([0, *counts])
  graph_E = np.searchsorted(start_B, source_E, side='right') - 1
  batch, most = len(counts), max(counts)
  edges_of = [np.flatnonzero(graph_E == graph) for graph in range(batch)]
  rows = max(map(len, edges_of))
  nodes_BND = np.zeros((batch, most, nodes_ND.shape[1]), nodes_ND.dtype)
  edges_BE2 = np.zeros((batch, rows, 2), np.int32)
  weight_BE = np.zeros((batch, rows), np.float32)
  place_E = np.zeros(len(source_E), np.int64)
  for graph, own in enumerate(edges_of):
    first, last = start_B[graph : graph + 2]
    nodes_BND[graph, : last - first] = nodes_ND[first:last]
    pair_E2 = np.stack([source_E[own], target_E[own]], axis=1) - first
    edges_BE2[graph, : len(own)], weight_BE[graph, : len(own)] = pair_E2, 1.0
    place_E[own] = graph * rows + np.arange(len(own))
  mask_BN = np.arange(most)[None] < np.array(counts)[:, None]
  return (nodes_BND, edges_BE2, weight_BE, mask_BN), place_E


def listed(x_BND: jax.Array, mask_BN: np.ndarray) -> jax.Array:
  """Returns the rows of all real nodes, one graph after the other."""
  return x_BND.reshape(-1, x_BND.shape[-1])[np.flatnonzero(mask_BN)]


def network(description: Fields, arrays: Fields) -> Results:
  """Computes the network of the paper with all normalizers, the loss and gradients."""
  state = select(arrays, 'param/')
  params = widened(tree.unflatten(names.from_published(state)))
  single = not any('GAT_heads' in name for name in state)
  model = models.SuperpixelGAT(
    num_classes=description['num_classes'],
    widths=tuple(description['hidden']),
    num_heads=description['num_heads'][0],
    hidden=tuple(description['mlp']),
    normalizer='batch',
    dtype=float_name(),
  )
  inputs, _ = padded(
    description['nodes'], arrays['input/h'], arrays['input/src'], arrays['input/tgt']
  )
  mask_BN = inputs[-1]

  def loss(params: tree.Tree) -> tuple[jax.Array, tuple]:
    outputs, modules = captured(model, {'params': params}, *inputs)
    target_BC = jax.nn.one_hot(arrays['input/labels'], model.num_classes)
    mean = losses.softmax_cross_entropy(outputs['logits'], target_BC).mean()
    return mean, (outputs['logits'], modules)

  value, (logits_BC, modules), gradients = loss_and_gradients(loss, params)
  published = 'published' in description['parameters']
  tolerance = PUBLISHED if published else OUTPUT
  results: Results = {
    'output/loss': (value, tolerance),
    'output/logits': (logits_BC, tolerance),
    'output/mlp0_linear': (modules['dense0'], tolerance),
  }
  for layer in range(len(model.widths)):
    x_BND = modules[f'attention{layer}']
    results[f'output/gat{layer}'] = (listed(x_BND, mask_BN), tolerance)
  pooled_BD = jnp.where(mask_BN[..., None], x_BND, 0.0).sum(axis=1)
  results['output/pooled_sum'] = (pooled_BD, tolerance)
  others = {'each_graph_alone': 'graph', 'exact_softmax': 'exact'}
  for name, normalizer in others.items():
    apply = jax.jit(model.clone(normalizer=normalizer).apply)
    other_BC = apply({'params': params}, *inputs)['logits']
    exact = published and normalizer == 'exact'
    results[f'output/logits_{name}'] = (other_BC, EXACT if exact else tolerance)
  return results | graded(names.to_published(tree.flatten(gradients), single))


def layer(description: Fields, arrays: Fields) -> Results:
  """Computes a GATConv or a GATv2Conv with its attention and gradients."""
  config = description['config']
  dynamic = 'GATv2' in description['reference']
  flat = names.from_geometric(select(arrays, 'param/'), dynamic)
  model = models.GraphAttention(
    num_heads=config['heads'],
    width=config['out_channels'],
    dynamic=dynamic,
    mean=not config['concat'],
    slope=config['negative_slope'],
    dtype=float_name(),
  )
  used_2E = arrays['output/edge_index_used']
  (nodes_BND, edges_BE2, weight_BE, mask_BN), place_E = padded(
    description['nodes'], arrays['input/h'], *used_2E
  )
  edges = graphs.incidence(edges_BE2, weight_BE, nodes_BND.shape[1])
  weight_ND = arrays['input/cotangent']

  def loss(both: tuple[tree.Tree, jax.Array]) -> tuple[jax.Array, tuple]:
    params, nodes_BND = both
    y_BND, sown = model.apply(
      {'params': params}, nodes_BND, edges, mutable='intermediates'
    )
    y_ND = listed(y_BND, mask_BN)
    return (y_ND * weight_ND).sum(), (y_ND, sown['intermediates']['attention'][0])

  params = widened(tree.unflatten(flat))
  _, (y_ND, share_BEH), (gradients, of_nodes_BND) = loss_and_gradients(
    loss, (params, widened(nodes_BND))
  )
  alpha_EH = share_BEH.reshape(-1, share_BEH.shape[-1])[place_E]
  found = names.to_geometric(tree.flatten(gradients), dynamic)
  return {
    'output/y': (y_ND, OUTPUT),
    'output/alpha': (alpha_EH, ATTENTION),
    'output/edge_index_used': (looped(arrays['input/edge_index'], len(y_ND)), OUTPUT),
  } | graded(found | {'h': listed(of_nodes_BND, mask_BN)})


def looped(edges_2E: np.ndarray, nodes: int) -> np.ndarray:
  """Returns edges without loops, then one loop of each node, as `models.with_loops`."""
  edges_1E2 = edges_2E.T[None]
  weight_1E = np.ones(edges_1E2.shape[:2], np.float32)
  mask_1N = np.ones((1, nodes), bool)
  found_1E2, kept_1E = models.with_loops(edges_1E2, weight_1E, mask_1N)
  return np.asarray(found_1E2)[np.asarray(kept_1E) > 0].T


def geometric_gat(description: Fields, arrays: Fields) -> Results:
  """Computes the GAT of BDI-UFRGS with its loss and gradients."""
  flat = names.from_geometric_gat(select(arrays, 'param/'))
  params = widened(tree.unflatten(flat))
  scores = [flat[f'attention{i}/source_score'] for i in range(description['layers'])]
  model = models.GAT(
    num_classes=description['num_classes'],
    widths=tuple(score_HK.shape[1] for score_HK in scores),
    num_heads=description['heads'],
    dtype=float_name(),
  )
  inputs, _ = padded(
    description['nodes'], arrays['input/h'], *arrays['input/edge_index']
  )

  def loss(params: tree.Tree) -> tuple[jax.Array, tuple]:
    outputs, modules = captured(model, {'params': params}, *inputs)
    target_BC = jax.nn.one_hot(arrays['input/labels'], model.num_classes)
    mean = losses.softmax_cross_entropy(outputs['logits'], target_BC).mean()
    return mean, (outputs['logits'], modules)

  value, (logits_BC, modules), gradients = loss_and_gradients(loss, params)
  results: Results = {
    'output/loss': (value, OUTPUT),
    'output/logits': (logits_BC, OUTPUT),
  }
  for i in range(description['layers']):
    x_BND = modules[f'attention{i}']  # before ReLU
    results[f'output/conv{i}'] = (listed(x_BND, inputs[-1]), OUTPUT)
  return results | graded(names.to_geometric_gat(tree.flatten(gradients)))


def graded(found: Mapping[str, Any]) -> Results:
  """Returns gradients as results, with their tolerance."""
  largest = max(float(np.abs(x).max()) for x in found.values())
  tolerance = GRADIENT._replace(absolute=ROUNDING * largest)
  return {f'grad/{name}': (x, tolerance) for name, x in found.items()}


def superpixels(description: Fields, arrays: Fields) -> Results:
  """Computes graphs of given superpixels, and the superpixels of grey images."""
  del description
  results: Results = {}
  count = sum(name.startswith('input/image') for name in arrays)
  for i in range(count):
    image_HWC, label_HW = arrays[f'input/image{i}'], arrays[f'input/segments{i}']
    nodes_NF, pairs_E2 = transforms.graph(image_HWC, label_HW)
    edges_E2, weight_E = transforms.directed(pairs_E2, len(nodes_NF))
    weight_NN = np.zeros((len(nodes_NF),) * 2, np.int32)
    weight_NN[edges_E2[:, 1], edges_E2[:, 0]] = weight_E
    results |= {
      f'output/features{i}': (nodes_NF, FEATURES),
      f'output/multiplicity{i}': (weight_NN, ATTENTION),
    }
    if f'output/edges{i}' in arrays:
      # The published order of edges is that of a set: only their numbers are the same.
      golden_E2 = arrays[f'output/edges{i}']
      each_E2 = edges_E2.repeat(weight_E.astype(int), axis=0)
      same = len(golden_E2) == len(each_E2) and bool(
        (in_order(golden_E2) == in_order(each_E2)).all()
      )
      results[f'output/edges{i}'] = (golden_E2 if same else each_E2, ATTENTION)
  return results


def in_order(edges_E2: np.ndarray) -> np.ndarray:
  """Returns edges sorted by source, then target."""
  return edges_E2[np.lexsort(edges_E2.T[::-1])]


CHECKS: tuple[Check, ...] = tuple(
  Check(function, reference)
  for function, reference in (
    (network, 'model.GAT_MNIST'),
    (layer, 'pytorch_geometric'),
    (geometric_gat, 'BDI-UFRGS/superpixel-graphs'),
    (superpixels, 'get_graph_from_image'),
  )
)
