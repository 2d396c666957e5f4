"""Axes: B graphs, N nodes, E edges, F features, C classes."""

import functools

import jax
import numpy as np
import pytest

from big_vision_like.errors import UserError
from big_vision_like.models import superpixel_gat as models
from big_vision_like.ops import graphs
from big_vision_like.weights import superpixel_gat as names
from big_vision_like.weights import tree

RNG = np.random.default_rng(0)
NETWORKS = {
  'sicgat': models.SuperpixelGAT(5, widths=(6, 4), num_heads=2, hidden=(8,)),
  'gat': models.GAT(5, widths=(6, 4), num_heads=2),
}


def inputs(nodes=9, edges=20, counts=(9, 6)):
  """Returns random graphs padded to a number of nodes and edges, with loops."""
  rng = np.random.default_rng(1)
  nodes_BNF = np.zeros((len(counts), nodes, 3), np.float32)
  edges_BE2 = np.zeros((len(counts), edges, 2), np.int32)
  weight_BE = np.zeros((len(counts), edges), np.float32)
  for graph, count in enumerate(counts):
    nodes_BNF[graph, :count] = rng.normal(size=(count, 3))
    pairs = np.stack(np.divmod(rng.permutation(count * count)[:10], count), axis=1)
    pairs = pairs[pairs[:, 0] != pairs[:, 1]]
    own = np.concatenate([pairs, np.arange(count)[:, None].repeat(2, axis=1)])
    edges_BE2[graph, : len(own)] = own
    weight_BE[graph, : len(own)] = [1.0] * len(pairs) + [2.0] * count
  mask_BN = np.arange(nodes)[None] < np.array(counts)[:, None]
  return nodes_BNF, edges_BE2, weight_BE, mask_BN


@functools.cache
def variables(name):
  found = jax.jit(NETWORKS[name].init)(jax.random.key(0), *inputs())
  return {'params': found['params']}


def logits(name, arrays, **changes):
  model = NETWORKS[name].clone(**changes)
  return np.asarray(jax.jit(model.apply)(variables(name), *arrays)['logits'])


@pytest.mark.parametrize('form', graphs.FORMS)
@pytest.mark.parametrize('name', NETWORKS)
def test_padding_and_form_change_nothing(name, form):
  few, many = inputs(), inputs(nodes=16, edges=40)
  np.testing.assert_allclose(
    logits(name, few), logits(name, many, form=form), atol=1e-5
  )


@pytest.mark.parametrize('name', NETWORKS)
def test_the_order_of_nodes_changes_nothing(name):
  nodes_BNF, edges_BE2, weight_BE, mask_BN = inputs()
  order_N = np.random.default_rng(2).permutation(nodes_BNF.shape[1])
  moved = (
    nodes_BNF[:, order_N],
    np.argsort(order_N)[edges_BE2].astype(np.int32),
    weight_BE,
    mask_BN[:, order_N],
  )
  np.testing.assert_allclose(logits(name, inputs()), logits(name, moved), atol=1e-5)


@pytest.mark.parametrize('normalizer', ['exact', 'graph'])
def test_graphs_do_not_see_each_other(normalizer):
  one = tuple(array[:1] for array in inputs())
  np.testing.assert_allclose(
    logits('sicgat', inputs(), normalizer=normalizer)[:1],
    logits('sicgat', one, normalizer=normalizer),
    atol=1e-5,
  )


@pytest.mark.parametrize('name', NETWORKS)
@pytest.mark.parametrize('normalizer', graphs.NORMALIZERS)
def test_one_node_and_isolated_nodes(name, normalizer):
  nodes_BNF, edges_BE2, weight_BE, mask_BN = inputs(counts=(1, 6))
  weight_BE[1] = 0
  model = NETWORKS[name]
  if name == 'sicgat':
    model = model.clone(normalizer=normalizer)

  def loss(params, nodes_BNF):
    outputs = model.apply({'params': params}, nodes_BNF, edges_BE2, weight_BE, mask_BN)
    return (outputs['logits'] ** 2).sum()

  gradient = jax.jit(jax.value_and_grad(loss, argnums=(0, 1)))
  value, (of_params, of_nodes_BNF) = gradient(variables(name)['params'], nodes_BNF)
  assert all(np.isfinite(x).all() for x in jax.tree.leaves([value, of_params]))
  assert np.isfinite(of_nodes_BNF).all()
  assert not np.asarray(of_nodes_BNF)[~mask_BN].any()


@pytest.mark.parametrize(('heads', 'count'), [(1, 15_251), (2, 55_100), (4, 209_678)])
def test_parameters_are_as_many_as_published(heads, count):
  model = models.SuperpixelGAT(10, num_heads=heads)
  shapes = jax.eval_shape(model.init, jax.random.key(0), *inputs())
  assert sum(x.size for x in jax.tree.leaves(shapes['params'])) == count


def test_published_names_both_ways():
  for name, there, back in (
    ('sicgat', names.to_published, names.from_published),
    ('gat', names.to_geometric_gat, names.from_geometric_gat),
  ):
    flat = tree.flatten(variables(name)['params'])
    again = back(there(flat))
    assert again.keys() == flat.keys()
    for key, array in flat.items():
      np.testing.assert_array_equal(array, again[key])


def test_files_with_one_head_and_missing_heads():
  model = models.SuperpixelGAT(5, widths=(6,), num_heads=1)
  params = jax.jit(model.init)(jax.random.key(0), *inputs())['params']
  flat = tree.flatten(params)
  state = names.to_published(flat, single=True)
  assert 'GAT_layers.0.f.weight' in state
  np.testing.assert_array_equal(
    names.from_published(state)['attention0/value_kernel'],
    flat['attention0/value_kernel'],
  )
  both = names.to_published(tree.flatten(variables('sicgat')['params']))
  part = {k: v for k, v in both.items() if 'GAT_heads.0.' not in k}
  with pytest.raises(UserError, match=r'heads \[1\]: some are missing'):
    names.from_published(part)
  with pytest.raises(UserError, match="no array 'GAT_layers.0.g.weight'"):
    names.from_published({'GAT_layers.0.g.weight': np.zeros(3)})
