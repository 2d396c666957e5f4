"""Tests of Slot Attention alone; the golden files have its numbers."""

import functools

import battery
import hypothesis
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import shapes
from hypothesis import strategies as st

from big_vision_like.errors import UserError
from big_vision_like.models import slot_attention
from big_vision_like.weights import slot_attention as weights
from big_vision_like.weights import tree as trees

LAYERS = dict(
  encoder_convs=((6, 3, 1), (6, 3, 2)), grid=(3, 5), decoder_convs=((7, 3, 2),)
)
SMALL = slot_attention.AutoEncoder(num_slots=4, slot_size=8, hidden=9, **LAYERS)
IMAGE = jax.random.uniform(jax.random.key(1), (2, 6, 10, 3), minval=-1.0)
TOKENS = jax.random.normal(jax.random.key(2), (2, 11, 5))
NOISE = jax.random.normal(jax.random.key(3), (2, 4, 8))


def count(model, *shape):
  params = jax.eval_shape(model.init, jax.random.key(0), jnp.zeros((1, *shape)))
  return sum(leaf.size for leaf in jax.tree.leaves(params))


def test_published_parameter_counts():
  encoder = slot_attention.AutoEncoder(num_slots=7, **slot_attention.variant('clevr'))
  assert count(encoder, 128, 128, 3) == 890_308
  classifier = slot_attention.SetClassifier(num_slots=10, num_properties=19)
  assert count(classifier, 128, 128, 3) == 380_755


@pytest.mark.parametrize('name', slot_attention.VARIANTS)
def test_variants_make_images_of_their_data(name):
  sizes = {'clevr': 128, 'tetrominoes': 35, 'multi_dsprites': 64}
  model = slot_attention.AutoEncoder(num_slots=2, **slot_attention.variant(name))
  assert model.image_shape == (sizes[name], sizes[name], 3)


def test_variant_unknown():
  with pytest.raises(UserError, match="'coco' is not one of clevr, tetrominoes, multi"):
    slot_attention.variant('coco')


@pytest.fixture(scope='module')
def module():
  """Returns the module alone, jitted, with parameters away from their start."""
  model = slot_attention.SlotAttention(num_slots=4, size=8, hidden=9)
  apply = functools.partial(
    jax.jit(model.apply, static_argnames=('num_slots', 'iterations')),
    battery.variables(model, TOKENS),
  )
  return lambda tokens, noise, **kwargs: apply(tokens, noise_BSD=noise, **kwargs)


@hypothesis.given(st.permutations(range(4)), st.permutations(range(11)))
@hypothesis.settings(max_examples=20, deadline=None)
def test_slots_follow_their_noise_and_do_not_see_the_order_of_inputs(
  module, slots, tokens
):
  one = module(TOKENS, NOISE)
  other = module(TOKENS[:, np.array(tokens)], NOISE[:, np.array(slots)])
  for name in 'slots', 'iterates':
    np.testing.assert_allclose(
      one[name][..., slots, :], other[name], atol=1e-5, err_msg=name
    )
  expected = one['attention'][:, :, slots][..., tokens]
  np.testing.assert_allclose(expected, other['attention'], atol=1e-5)


def test_slots_differ_by_noise_alone(module):
  same = module(TOKENS, jnp.broadcast_to(NOISE[:, :1], NOISE.shape))['slots']
  np.testing.assert_allclose(same, jnp.broadcast_to(same[:, :1], same.shape), atol=1e-5)
  assert np.abs(np.diff(module(TOKENS, NOISE)['slots'], axis=1)).min() > 1e-5


@pytest.mark.parametrize(('slots', 'iterations'), [(1, 1), (4, 2), (7, 5)])
def test_any_number_of_slots_and_iterations(module, slots, iterations):
  noise = jax.random.normal(jax.random.key(5), (2, slots, 8))
  outputs = module(TOKENS, noise, num_slots=slots, iterations=iterations)
  assert outputs['slots'].shape == (2, slots, 8)
  assert outputs['iterates'].shape == (2, iterations, slots, 8)
  assert outputs['attention'].shape == (2, iterations, slots, 11)
  np.testing.assert_allclose(outputs['attention'].sum(axis=2), 1.0, atol=1e-5)
  np.testing.assert_array_equal(outputs['slots'], outputs['iterates'][:, -1])
  # The first iterations match those of shorter runs.
  shorter = module(TOKENS, noise, num_slots=slots, iterations=1)
  np.testing.assert_allclose(
    shorter['slots'], outputs['iterates'][:, 0], rtol=1e-5, atol=1e-5
  )


def test_softmax_over_inputs_is_the_control():
  model = slot_attention.SlotAttention(num_slots=4, size=8, over='inputs')
  apply = jax.jit(model.apply)
  outputs = apply(battery.variables(model, TOKENS), TOKENS, noise_BSD=NOISE)
  np.testing.assert_allclose(outputs['attention'].sum(axis=3), 1.0, atol=1e-5)


def test_implicit_differentiation_is_through_the_last_iteration():
  implicit = slot_attention.SlotAttention(num_slots=4, size=8, implicit=True)
  whole = implicit.clone(implicit=False)
  params = battery.variables(implicit, TOKENS)

  def total(model, params, noise):
    outputs = model.apply(params, TOKENS, noise_BSD=noise)
    return jnp.square(outputs['slots']).sum(), outputs

  gradient = jax.jit(jax.grad(total, argnums=(1, 2), has_aux=True), static_argnums=0)
  (grads, noise_grad), outputs = gradient(implicit, params, NOISE)
  (all_grads, all_noise_grad), same = gradient(whole, params, NOISE)
  # The two programs may add in different order.
  np.testing.assert_allclose(outputs['slots'], same['slots'], atol=1e-5)
  assert not np.any(noise_grad) and np.any(all_noise_grad)
  assert np.any(grads['params']['query']['kernel'])
  differ = grads['params']['query']['kernel'] - all_grads['params']['query']['kernel']
  assert np.abs(differ).max() > 1e-4


@pytest.fixture(scope='module')
def params():
  return battery.variables(SMALL, IMAGE)['params']


def test_auto_encoder_composes_its_slots(params):
  outputs = jax.jit(SMALL.apply)({'params': params}, IMAGE, noise_BSD=NOISE)
  assert outputs['attention'].shape == (2, 3, 4, 3, 5)
  np.testing.assert_allclose(outputs['masks'].sum(axis=1), 1.0, atol=1e-6)
  expected = np.einsum('BSHW,BSHWC->BHWC', outputs['masks'], outputs['contents'])
  np.testing.assert_allclose(outputs['reconstruction'], expected, atol=1e-6)
  decode = jax.jit(functools.partial(SMALL.apply, method='decode'))
  again = decode({'params': params}, outputs['slots'])
  np.testing.assert_allclose(again['masks'], outputs['masks'], atol=1e-6)


def test_stride_one_decoders_and_half_precision(params):
  model = SMALL.clone(grid=(6, 10), decoder_convs=((7, 1, 1),), dtype='bfloat16')
  apply = jax.jit(model.apply)
  outputs = apply(battery.variables(model, IMAGE), IMAGE, noise_BSD=NOISE)
  assert {x.dtype for x in jax.tree.leaves(outputs)} == {jnp.dtype('float32')}
  assert np.isfinite(outputs['reconstruction']).all()


BAD = {
  'images of another size': (
    dict(image_BHWC=IMAGE[:, :5]),
    r'images are \(5, 10, 3\), but the decoder makes \(6, 10, 3\) from grid=\(3, 5\)',
  ),
  'grey images': (dict(image_BHWC=IMAGE[..., :1]), r'images are \(6, 10, 1\)'),
  'no slots': (dict(num_slots=0), 'num_slots=0: there must be at least one'),
  'no iterations': (dict(iterations=0), 'iterations=0: there must be at least one'),
  'noise for other slots': (
    dict(num_slots=3),
    r'noise has shape \(2, 4, 8\), but slots have \(2, 3, 8\)',
  ),
}


@pytest.mark.parametrize('case', BAD)
def test_bad_input(params, case):
  arguments, message = BAD[case]
  with pytest.raises(UserError, match=message):
    SMALL.apply(
      {'params': params}, **dict(image_BHWC=IMAGE, noise_BSD=NOISE) | arguments
    )


def test_unknown_competition():
  model = slot_attention.SlotAttention(num_slots=4, over='pixels')
  with pytest.raises(UserError, match="over='pixels' is not one of slots, inputs"):
    model.init(jax.random.key(0), TOKENS)


def test_array_names_match_their_axes():
  classifier = slot_attention.SetClassifier(
    num_slots=4, num_properties=11, slot_size=8, hidden=9, encoder_convs=((6, 3, 2),)
  )
  with shapes.checked('big_vision_like'):
    for model in SMALL, classifier:
      jax.eval_shape(model.init, jax.random.key(0), jnp.zeros((5, 6, 10, 3)))


def test_names_of_keras_and_back(params):
  named = weights.to_keras(params)
  assert named['decoder_cnn/1/kernel'].shape == (3, 3, 4, 7)
  back = weights.from_keras(named)
  jax.tree.map(
    np.testing.assert_array_equal, trees.flatten(back), trees.flatten(params)
  )
  with pytest.raises(UserError, match='mlp/2/kernel'):
    weights.from_keras(named | {'mlp/2/kernel': np.zeros(1)}, source='file.npz')
