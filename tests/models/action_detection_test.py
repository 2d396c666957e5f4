"""I3D and actors with a context graph."""

import collections
import functools
import math
import pathlib

import battery
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import shapes

from big_vision_like.cost import flops
from big_vision_like.errors import UserError
from big_vision_like.models import context_graph, i3d
from big_vision_like.ops import convolution

CASES = battery.cases()
GOLDEN = pathlib.Path(__file__).parent.parent / 'golden' / 'params'


def counted(name):
  """Returns the parameters of each part of a golden tree, which the battery checks."""
  found = collections.Counter()
  lines = (GOLDEN / f'{name}.txt').read_text().splitlines()
  for line in lines[:-1]:
    path, shape = line.split()
    found[path.split('/')[0]] += math.prod(map(int, shape.split('x')))
  return found


def test_numbers_of_parameters_are_the_published_ones():
  found = counted('i3d')
  assert found.total() == 12_697_264
  assert (found['mixed_5b'], found['mixed_5c']) == (1_974_272, 2_784_736)
  found = counted('actors_published')
  assert found.total() == 14_201_643
  assert (found['backbone'], found['graph']) == (7_528_256, 1_908_736)
  assert counted('actors_published_baseline').total() == 12_298_539


def test_endpoints_of_i3d():
  video_BTHWI = jax.ShapeDtypeStruct((1, 32, 224, 224, 3), jnp.float32)

  def maps(**options):
    model = i3d.I3D(divisor=64, **options)
    outputs, _ = jax.eval_shape(
      lambda x: model.init_with_output(jax.random.key(0), x), video_BTHWI
    )
    return {name: x.shape for name, x in outputs.items()}

  found = maps(num_classes=3)
  assert {*found} == {*i3d.ENDPOINTS, 'logits', 'features'}
  assert found['mixed_4f'][:4] == (1, 8, 14, 14)
  assert found['mixed_5c'][:4] == (1, 4, 7, 7) and found['logits'] == (1, 3)
  assert {*maps(endpoint='conv_2b')} == {'conv_1a', 'conv_2b'}
  with pytest.raises(UserError, match="endpoint='mixed_6a' is not one of conv_1a"):
    maps(endpoint='mixed_6a')
  with pytest.raises(UserError, match='no classifier: use num_classes=0'):
    maps(endpoint='mixed_4f', num_classes=3)


@pytest.mark.parametrize(
  ('size', 'kernel', 'stride', 'padding'),
  [
    ((5, 6, 7), (3, 3, 3), (1, 1, 1), 'SAME'),
    ((7, 9, 8), (7, 7, 7), (2, 2, 2), 'SAME'),
    ((4, 5, 6), (1, 1, 1), (1, 1, 1), 'SAME'),
    ((4, 5, 6), (1, 1, 1), (2, 2, 2), 'VALID'),
    ((4, 8, 8), (1, 5, 5), (1, 2, 2), ((0, 0), (2, 2), (2, 2))),
  ],
)
def test_convolutions_of_videos_are_those_of_xla(size, kernel, stride, padding):
  rng = np.random.default_rng(0)
  x_BthwI = jnp.asarray(rng.normal(size=(2, *size, 3)), jnp.float32)
  kernel_krsIO = jnp.asarray(rng.normal(size=(*kernel, 3, 4)), jnp.float32)

  def both(convolve):
    run = functools.partial(
      convolve,
      window_strides=stride,
      padding=padding,
      dimension_numbers=convolution.VIDEO_LAYOUT,
    )
    y, transposed = jax.vjp(run, x_BthwI, kernel_krsIO)
    return y, *transposed(jnp.cos(jnp.arange(y.size)).reshape(y.shape))

  ours, theirs = map(both, (convolution.convolve, jax.lax.conv_general_dilated))
  for our, their in zip(ours, theirs, strict=True):
    assert our.shape == their.shape
    np.testing.assert_allclose(our, their, atol=2e-5 * np.abs(their).max())


def test_operations_of_videos_are_those_of_xla():
  x_BthwI, kernel_krsIO = jnp.zeros((1, 4, 5, 6, 2)), jnp.zeros((3, 3, 3, 2, 5))
  run = functools.partial(
    convolution.convolve,
    window_strides=(1, 1, 1),
    padding='SAME',
    dimension_numbers=convolution.VIDEO_LAYOUT,
  )
  found = flops.count(run, x_BthwI, kernel_krsIO)
  general = functools.partial(
    jax.lax.conv_general_dilated,
    window_strides=(1, 1, 1),
    padding='SAME',
    dimension_numbers=convolution.VIDEO_LAYOUT,
  )
  assert found == flops.count(general, x_BthwI, kernel_krsIO) > 0


@functools.cache
def model_and_variables(name):
  case = CASES[name]
  return case.model, battery.variables(case.model, *case.inputs)


@pytest.fixture(params=['actors', 'actors_graph'])
def made(request):
  model, variables = model_and_variables(request.param)
  return jax.jit(model.apply), variables, CASES[request.param].inputs


def test_padding_changes_nothing_for_actors(made):
  apply, variables, (video, boxes_BAS4, mask_BA) = made
  logits_BAC = apply(variables, video, boxes_BAS4, mask_BA)['logits']
  more_BAS4 = np.pad(boxes_BAS4, ((0, 0), (0, 2), (0, 0), (0, 0)), constant_values=3)
  more_BA = np.pad(mask_BA, ((0, 0), (0, 2)))
  padded = apply(variables, video, more_BAS4, more_BA)['logits']
  np.testing.assert_allclose(logits_BAC, padded[:, :3], atol=1e-5)
  assert not padded[~more_BA].any()
  assert logits_BAC[mask_BA].any(axis=-1).all()


def test_permuting_actors_permutes_their_scores(made):
  apply, variables, (video, boxes_BAS4, mask_BA) = made
  order = [2, 0, 1]
  one = apply(variables, video, boxes_BAS4, mask_BA)['logits']
  other = apply(variables, video, boxes_BAS4[:, order], mask_BA[:, order])['logits']
  np.testing.assert_allclose(one[:, order], other, atol=1e-5)


def test_a_batch_is_its_clips_one_by_one(made):
  apply, variables, inputs = made
  together = apply(variables, *inputs)['logits']
  for i in range(len(inputs[0])):
    alone = apply(variables, *(x[i : i + 1] for x in inputs))['logits']
    np.testing.assert_allclose(together[i], alone[0], atol=1e-5)


def test_boxes_outside_of_the_map_have_no_features(made):
  apply, variables, (video, boxes_BAS4, mask_BA) = made
  outputs = apply(variables, video, boxes_BAS4 + 100, mask_BA)
  assert not outputs['features'].any()
  assert np.isfinite(outputs['logits']).all()


def test_statistics_of_norms_do_not_count_padding():
  actor = context_graph.InceptionActor(divisor=64)
  rng = np.random.default_rng(0)
  x_NSPPC = rng.normal(size=(3, 2, 3, 3, 5)).astype(np.float32)
  variables = battery.variables(actor, x_NSPPC, np.ones(3, bool))

  @jax.jit
  def train(x_NSPPC, mask_N):
    return actor.apply(variables, x_NSPPC, mask_N, train=True, mutable=['batch_stats'])

  y_ND, stats = train(x_NSPPC, np.ones(3, bool))
  more_NSPPC = np.concatenate([x_NSPPC, 9 + x_NSPPC[:2]])
  mask_N = np.arange(5) < 3
  padded_ND, padded_stats = train(more_NSPPC, mask_N)
  np.testing.assert_allclose(y_ND, padded_ND[:3], rtol=1e-4, atol=1e-5)
  for one, other in zip(*map(jax.tree.leaves, (stats, padded_stats)), strict=True):
    np.testing.assert_allclose(one, other, rtol=1e-4, atol=1e-6)
  _, kept = train(more_NSPPC, np.zeros(5, bool))
  before = jax.tree.leaves({'batch_stats': variables['batch_stats']})
  for one, other in zip(before, jax.tree.leaves(kept), strict=True):
    np.testing.assert_array_equal(one, other)


def test_attention_is_sown():
  model, variables = model_and_variables('actors_graph')
  video, boxes_BAS4, mask_BA = CASES['actors_graph'].inputs
  collect = jax.jit(functools.partial(model.apply, mutable=['intermediates']))
  _, state = collect(variables, video, boxes_BAS4, mask_BA)
  layers = state['intermediates']['graph']
  for layer in 'layer1', 'layer2':
    logits, probs = (np.asarray(layers[layer][name][0]) for name in ('logits', 'probs'))
    assert logits.shape == (4, 2, 3, 2, 6, 6)
    real = np.broadcast_to(mask_BA[:, None], (4, 2, 3))
    softmax = jax.nn.softmax(logits[real].reshape(real.sum(), -1))
    np.testing.assert_allclose(probs[real].reshape(softmax.shape), softmax, atol=1e-5)
    assert not logits[~real].any() and not probs[~real].any()


def test_array_names_are_true(key):
  video, boxes, mask = (
    jax.ShapeDtypeStruct(shape, dtype)
    for shape, dtype in (
      ((2, 8, 40, 56, 3), jnp.float32),
      ((2, 5, 2, 4), jnp.float32),
      ((2, 5), bool),
    )
  )
  model = context_graph.published(9, width=6, graphs=3, divisor=32, pool=4)
  init = functools.partial(model.init_with_output, train=True)
  with shapes.checked('big_vision_like/models', 'big_vision_like/layers') as seen:
    jax.eval_shape(init, {'params': key, 'dropout': key}, video, boxes, mask)
  assert {'features_BAD', 'logits_BAC', 'u_BAGK', 'place_BAS'} <= seen.keys()


def test_wrong_arguments_are_named():
  model, variables = model_and_variables('actors_graph')
  video, boxes_BAS4, mask_BA = CASES['actors_graph'].inputs
  with pytest.raises(UserError, match=r'they must be \[4, 3, 2, 4\]'):
    model.apply(variables, video, boxes_BAS4[:, :, :1], mask_BA)
  with pytest.raises(UserError, match="endpoint='last' is not a map of the backbone"):
    model.clone(endpoint='last').apply(variables, video, boxes_BAS4, mask_BA)
  for options, words in (
    (dict(merge='max'), "merge='max' is not one of concat, sum"),
    (dict(layers=0), 'needs at least one layer'),
  ):
    graph = context_graph.ContextGraph(**options)
    with pytest.raises(UserError, match=words):
      jax.eval_shape(
        model.clone(graph=graph).init, jax.random.key(0), video, boxes_BAS4, mask_BA
      )
