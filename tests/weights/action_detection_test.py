"""I3Ds and context graphs in the names of the published code."""

import battery
import jax
import numpy as np
import pytest
import safetensors.numpy
import torch_archives

from big_vision_like.errors import UserError
from big_vision_like.models import context_graph, i3d
from big_vision_like.run import init_from
from big_vision_like.weights import acgcn_names, i3d_names, published, tree

SMALL = dict(width=3, layers=2, graphs=2, divisor=64)


def variables(model, *inputs):
  return jax.device_get(battery.variables(model, *inputs))


@pytest.fixture(scope='module')
def weights():
  """Weights of each kind, described from random variables."""
  video, boxes, mask = battery.images(1, 8, 32, 32, 3), *empty()
  found = {
    'i3d': variables(i3d.I3D(num_classes=4, divisor=64), video),
    'context_graph': variables(
      context_graph.published(11, **SMALL), video, boxes, mask
    ),
  }
  return {
    name: published.describe(family=name, **arrays) for name, arrays in found.items()
  }


def empty():
  return np.zeros((1, 1, 2, 4), np.float32), np.ones((1, 1), bool)


@pytest.mark.parametrize('kind', ['i3d', 'context_graph'])
@pytest.mark.parametrize('suffix', ['.safetensors', '.pt'])
def test_names_there_and_back(kind, suffix, weights, tmp_path):
  source = weights[kind].family.sources[0]
  arrays, path = source.writes['published'](weights[kind]), tmp_path / f'a{suffix}'
  if suffix == '.pt':
    counts = {
      name.replace('running_mean', 'num_batches_tracked'): np.array(7)
      for name in arrays
      if name.endswith('running_mean')
    }
    torch_archives.save(path, {'epoch': 3, 'model_state_dict': {**arrays, **counts}})
  else:
    safetensors.numpy.save_file(arrays, path)
  again = published.read(path)
  assert again.source == source.name
  assert again.architecture == weights[kind].architecture
  assert again.num_classes == weights[kind].num_classes
  want, have = (tree.flatten(x.variables) for x in (weights[kind], again))
  assert want.keys() == have.keys()
  for name, array in want.items():
    np.testing.assert_array_equal(have[name], array, err_msg=name)
  assert again.images('a').mean == (0.5,) * 3


def test_published_names():
  assert i3d_names.MIXED == i3d.MIXED and i3d_names.ENDPOINTS == i3d.ENDPOINTS
  names = i3d_names.table(['logits.'])
  assert len(names) == 57 * 5 + 2
  assert 'Mixed_4f.b1b.conv3d.weight' in names and 'logits.conv3d.bias' in names
  model = context_graph.published(11, **SMALL)
  shapes = jax.eval_shape(
    model.init, jax.random.key(0), battery.images(1, 8, 32, 32, 3), *empty()
  )
  flat = {k: np.zeros(x.shape, np.float32) for k, x in tree.flatten(shapes).items()}
  state = acgcn_names.written(flat)
  assert state['gcn_layers.1.context_emb.1.weight'].shape[2:] == (1, 1, 1)
  assert state['gcn_layers.0.actor_emb.0.weight'].shape[0] == 3
  assert {'linear.weight', 'mixed_5c.b3b.bn.bias'} <= state.keys()
  assert 'backbone.Conv3d_1a_7x7.conv3d.weight' in state


def test_shapes_that_do_not_fit_are_named(weights, tmp_path):
  arrays = acgcn_names.written(tree.flatten(weights['context_graph'].variables))
  path = tmp_path / 'a.safetensors'
  wrong = arrays | {'linear.bias': np.zeros(12, np.float32)}
  safetensors.numpy.save_file(wrong, path)
  with pytest.raises(UserError, match=r'params/head/kernel \(6, 11\) is not \(6, 12\)'):
    published.read(path)
  wrong = arrays | {'gcn_layers.0.actor_emb.1.bias': np.zeros(5, np.float32)}
  safetensors.numpy.save_file(wrong, path)
  with pytest.raises(UserError, match='actor_emb.0.bias and the same of other graphs'):
    published.read(path)
  wrong = {k: v for k, v in arrays.items() if k != 'gcn_layers.0.actor_emb.1.bias'}
  safetensors.numpy.save_file(wrong, path)
  with pytest.raises(UserError, match='gcn_layers.0.actor_emb.1.bias'):
    published.read(path)


def test_a_context_graph_starts_from_an_i3d(weights, tmp_path):
  path = tmp_path / 'rgb_imagenet.safetensors'
  safetensors.numpy.save_file(
    i3d_names.written(tree.flatten(weights['i3d'].variables)), path
  )
  fields = dict(path=str(path))
  rename = (
    (r'(mixed_5[bc]/.*)', r'actor/\1'),
    (r'((?:conv|mixed)_[1-4].*)', r'backbone/\1'),
  )
  start = init_from.InitFrom(
    weights=init_from.from_file(**fields),
    rename=rename,
    allow_missing=('graph/.*', 'head/.*'),
  )
  before = weights['context_graph'].variables
  found = start.fit(before, {})
  for part, name in ('actor', 'mixed_5b'), ('backbone', 'mixed_4f'):
    for kind in 'params', 'batch_stats':
      want = tree.flatten(weights['i3d'].variables[kind][name])
      have = tree.flatten(found[kind][part][name])
      for leaf, array in want.items():
        np.testing.assert_array_equal(have[leaf], array)
