"""Axes: B batch, N regions, C classes, F X E features, h w a map."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import shapes

from big_vision_like.models import rcnn, reasoning_rcnn, resnet

RNG = np.random.default_rng(0)
CLASSES, FEATURES, WIDTH = 6, 10, 7
MODEL = reasoning_rcnn.Reasoning(WIDTH, 5)
LEVELS = [
  RNG.normal(size=(2, *size, 4)).astype(np.float32)
  for size in ((16, 24), (8, 12), (4, 6), (2, 3), (1, 2))
]


def normal(*shape):
  return RNG.normal(size=shape).astype(np.float32)


INPUTS = dict(
  x_BNF=normal(2, 3, FEATURES),
  kernel_FC=normal(FEATURES, CLASSES),
  bias_C=normal(CLASSES),
  logits_BNC=2 * normal(2, 3, CLASSES),
)


def edges():
  found = RNG.uniform(size=(CLASSES, CLASSES)).astype(np.float32)
  found = (found + found.T) / 2
  found[-1], found[:, -1] = 0.0, 0.0  # edges of background
  return found


@functools.cache
def variables():
  made = jax.jit(MODEL.init)(jax.random.key(0), LEVELS, **INPUTS)
  made['params']['propagate']['bias'] = normal(WIDTH)
  return {'params': made['params'], 'constants': {'graph': edges()}}


def run(graph=None, **changes):
  with_graph = variables() | ({} if graph is None else {'constants': {'graph': graph}})
  return MODEL.apply(with_graph, LEVELS, **INPUTS | changes, mutable=['intermediates'])


def test_without_edges_each_region_gets_the_same_row():
  """Checks that the features are softmax(scores) times a constant row."""
  found_BNE, _ = run(graph=np.zeros((CLASSES, CLASSES), np.float32))
  row_E = jax.nn.relu(variables()['params']['propagate']['bias'])
  np.testing.assert_allclose(
    found_BNE, jnp.broadcast_to(row_E, found_BNE.shape), atol=1e-6
  )


def test_attention_is_a_share_of_classes_by_image():
  found_BNE, seen = run()
  attention_BC = seen['intermediates']['class_attention'][0]
  assert found_BNE.shape == (2, 3, WIDTH) and attention_BC.shape == (2, CLASSES)
  np.testing.assert_allclose(attention_BC.sum(-1), 1.0, atol=1e-6)
  assert np.abs(attention_BC[0] - attention_BC[1]).max() > 1e-3


def test_relabelled_classes_give_the_same_features():
  found_BNE, seen = run()
  order = np.array([3, 0, 4, 1, 2, 5])
  graph = variables()['constants']['graph']
  again_BNE, again = run(
    graph=graph[order][:, order],
    kernel_FC=INPUTS['kernel_FC'][:, order],
    bias_C=INPUTS['bias_C'][order],
    logits_BNC=INPUTS['logits_BNC'][..., order],
  )
  np.testing.assert_allclose(again_BNE, found_BNE, rtol=1e-5, atol=1e-5)
  for name in ('class_attention', 'graph_embedding'):
    np.testing.assert_allclose(
      again['intermediates'][name][0],
      seen['intermediates'][name][0][:, order],
      rtol=1e-5,
      atol=1e-5,
    )
  # The graph matters: if only its rows are relabelled, features change.
  other_BNE, _ = run(graph=graph[order])
  assert np.abs(other_BNE - found_BNE).max() > 1e-2


def test_the_pool_has_no_gradient_and_scores_have_one():
  def total(inputs):
    return run(**inputs)[0].sum()

  found = jax.grad(total)(
    {name: INPUTS[name] for name in ('kernel_FC', 'bias_C', 'logits_BNC')}
  )
  assert not np.any(found['kernel_FC']) and not np.any(found['bias_C'])
  assert np.abs(found['logits_BNC']).max() > 1e-3


def test_array_names_match_their_axes():
  with shapes.checked('big_vision_like/models/reasoning_rcnn.py') as seen:
    jax.eval_shape(lambda: run())
  assert {'attention_BC', 'embedding_BCE', 'mixed_1CE', 'x_BuvR'} <= seen.keys()


def detector(**changes):
  arguments = dict(
    num_classes=3,
    backbone=resnet.ResNet(
      (1, 1, 1, 1), bottleneck=False, root=4, channels=(4, 6, 8, 10), norm='frozen'
    ),
    rpn=rcnn.RPN(channels=12, candidates=(30, 20), proposals=(24, 16)),
    channels=12,
    hidden=14,
    detections=9,
    stds=rcnn.CASCADE_STDS[:2],
    shared=True,
    agnostic=True,
  )
  return rcnn.RCNN(**arguments | changes)


IMAGE = normal(2, 64, 96, 3)


@functools.cache
def learnt(stale):
  """Returns the logits of both heads, where the second gets other regions."""
  made = detector(enhance=reasoning_rcnn.Reasoning(WIDTH, 5), stale=stale)
  start = jax.jit(made.init)(jax.random.key(1), IMAGE)
  # Larger logits give regions different class probabilities.
  for head in ('box_heads_0', 'box_heads_1'):
    start['params'][head]['classify']['kernel'] *= 30
  start['constants']['enhance']['graph'] = jnp.eye(4)
  first_BN4 = jnp.asarray([[[4.0, 4, 30, 40], [0, 0, 9, 9]]] * 2)

  def sample(head, boxes_BN4):
    chosen_BN4 = first_BN4 if head == 0 else first_BN4[:, ::-1]
    return chosen_BN4, chosen_BN4

  return made, start, learn(made, start, sample)


def learn(made, start, sample):
  @jax.jit
  def run(start):
    return made.apply(
      start, IMAGE, jnp.int32([[64, 96]] * 2), sample, method=rcnn.RCNN.learn
    )

  return run(start)


def test_it_plugs_into_the_shared_detector():
  made, start, outputs = learnt(False)
  params = start['params']
  assert params['box_heads_1']['classify']['kernel'].shape == (14 + WIDTH, 4)
  assert 'features_1' not in params
  assert start['constants']['enhance']['graph'].shape == (4, 4)
  assert [x.shape for x in outputs['logits']] == [(2, 2, 4)] * 2
  found = jax.eval_shape(made.apply, start, IMAGE)
  assert found['boxes_xyxy'].shape == (2, 9, 4)


def test_scores_belong_to_the_regions_in_use():
  """Checks regions in another order for the second head; only `stale` confuses them."""
  _, _, fresh = learnt(False)
  _, _, stale = learnt(True)
  np.testing.assert_array_equal(fresh['logits'][0], stale['logits'][0])
  difference = np.abs(fresh['logits'][1] - stale['logits'][1])
  assert difference.max() > 1e-3

  def one(stale):  # identical regions in both heads would make no difference
    made, start, _ = learnt(stale)
    boxes_BN4 = jnp.asarray([[[4.0, 4, 30, 40]]] * 2)
    found = learn(made, start, lambda head, _: (boxes_BN4, boxes_BN4))
    return found['logits'][1]

  np.testing.assert_allclose(one(False), one(True), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize('classes, added', [(80, 940_929), (445, 1_034_369)])
def test_parameters_of_the_published_sizes(classes, added):
  """Counts the parameters of reasoning, including inputs of the wider second head."""
  made = functools.partial(
    rcnn.RCNN,
    num_classes=classes,
    backbone=resnet.ResNet(**resnet.variant('R101'), norm='frozen'),
    rpn=rcnn.RPN(candidates=(9, 9), proposals=(9, 9)),
    stds=rcnn.CASCADE_STDS[:2],
    shared=True,
    agnostic=True,
    detections=1,
  )
  image = jax.ShapeDtypeStruct((1, 64, 64, 3), np.float32)

  def count(model):
    params = jax.eval_shape(model.init, jax.random.key(0), image)['params']
    return sum(x.size for x in jax.tree.leaves(params))

  assert count(made(enhance=reasoning_rcnn.Reasoning())) - count(made()) == added
