"""Tests of GANsformer, its baselines and discriminator alone (golden: check_golden)."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import shapes

from big_vision_like.errors import UserError
from big_vision_like.models import discriminator, gansformer, kgan
from big_vision_like.weights import tree

SMALL = dict(latent_width=8, channel_base=64, channel_max=12)


def variables_of(model, *shape):
  return jax.eval_shape(model.init, jax.random.key(0), jnp.zeros(shape))


def count(model, *shape):
  params = variables_of(model, *shape)['params']
  return sum(x.size for x in jax.tree.leaves(params))


@pytest.mark.parametrize(
  ('options', 'want'),
  [
    (dict(attention=dict(duplex=True)), 30_903_632),
    ({}, 30_729_552),
    (
      dict(
        components=8,
        latent_width=16,
        style=False,
        mapping=dict(attention=False),
        attention=dict(duplex=True),
      ),
      30_357_936,
    ),
    (
      dict(
        components=0,
        latent_width=512,
        architecture='skip',
        mapping=dict(residual=False),
      ),
      30_510_114,
    ),
  ],
  ids=['duplex', 'simplex', 'clevr', 'stylegan2'],
)
def test_generators_have_the_published_number_of_parameters(options, want):
  model = gansformer.Generator(256, **options)
  assert count(model, 1, model.num_latents, model.latent_width) == want


def test_the_discriminator_has_the_published_number_of_parameters():
  assert count(discriminator.Discriminator(256), 1, 256, 256, 3) == 28_864_129


@pytest.mark.parametrize(
  'model',
  [
    gansformer.Generator(
      16, components=3, attention=dict(duplex=True, num_heads=2, iterations=2), **SMALL
    ),
    gansformer.Generator(
      16,
      components=3,
      architecture='skip',
      stem='latent',
      carry=True,
      attention=dict(duplex=True),
      **SMALL,
    ),
    gansformer.Generator(
      16,
      components=3,
      self_attention_at=8,
      attention=dict(integration='both', gate_to=True, gate_from=True),
      **SMALL,
    ),
    gansformer.Generator(16, components=3, has_global=False, style=False, **SMALL),
    kgan.Generator(16, components=3, merge_at=8, **SMALL),
    kgan.Generator(16, components=3, merge_at=16, architecture='skip', **SMALL),
  ],
  ids=['duplex', 'carried', 'sagan', 'local', 'kgan', 'kgan_skip'],
)
def test_names_of_arrays_are_true(model):
  with shapes.checked('big_vision_like/models', 'big_vision_like/layers') as seen:
    variables = variables_of(model, 5, model.num_latents, 8)
    latents = jnp.zeros((5, model.num_latents, 8))
    outputs = jax.eval_shape(model.apply, variables, latents)
  assert outputs['image'].shape == (5, 16, 16, 3)
  assert outputs['attention'].shape[:2] == (5, 3)
  assert outputs['styles'].shape == latents.shape
  assert len(seen) > 20


def test_names_of_arrays_of_the_discriminator_are_true():
  model = discriminator.Discriminator(
    16, channel_base=64, channel_max=12, components=3, aggregator_width=20
  )
  with shapes.checked('big_vision_like/models', 'big_vision_like/layers'):
    variables = variables_of(model, 8, 16, 16, 3)
    outputs = jax.eval_shape(model.apply, variables, jnp.zeros((8, 16, 16, 3)))
  assert outputs['logit'].shape == (8,)
  names = tree.flatten(variables['params'])
  assert {'aggregators', 'score_fc/kernel', 'attention_16/query/kernel'} <= set(names)


@pytest.fixture(scope='module')
def tiny():
  """Returns a generator of 8x8 images, its variables and latents of four images."""
  model = gansformer.Generator(8, components=2, mapping=dict(layers=2), **SMALL)
  keys = jax.random.split(jax.random.key(0))
  latents = jax.random.normal(keys[0], (4, 3, 8))
  return model, jax.jit(model.init)(keys[1], latents), latents


def test_training_tracks_the_average_style_and_truncation_reaches_it(tiny):
  model, variables, latents = tiny
  styles = jax.jit(
    lambda: model.apply(
      variables,
      latents,
      True,
      method='styles',
      mutable=['batch_stats'],
      rngs={'dropout': jax.random.key(1)},
    )
  )
  w, changed = styles()
  average = changed['batch_stats']['mapping_network']['average']
  np.testing.assert_allclose(average, 0.005 * w.mean(axis=(0, 1)), rtol=1e-4)
  known = {**variables, **changed}
  apply = jax.jit(model.apply, static_argnames='noise')
  none = apply(known, latents, noise='none', psi=0.0)
  np.testing.assert_allclose(
    none['styles'], np.broadcast_to(average, w.shape), atol=1e-6
  )
  np.testing.assert_allclose(none['image'][0], none['image'][1], atol=1e-5)
  whole = apply(known, latents, noise='none', psi=1.0)
  assert np.abs(whole['image'][0] - whole['image'][1]).max() > 1e-3
  total = whole['attention'].sum(axis=1)
  np.testing.assert_allclose(total, np.ones((4, 8, 8)), rtol=1e-5)


def test_components_of_other_images_do_not_matter(tiny):
  model, variables, latents = tiny
  apply = jax.jit(model.apply)
  changed = latents.at[1].multiply(-1.0)
  one, other = apply(variables, latents), apply(variables, changed)
  np.testing.assert_allclose(one['image'][0], other['image'][0], atol=1e-6)
  assert np.abs(one['image'][1] - other['image'][1]).max() > 1e-3


def test_bad_arguments_are_named(tiny):
  make = gansformer.Generator
  for resolution, near in (48, 64), (2, 4), (100, 128):
    message = f'resolution={resolution} is not a power of two .* to {near}x{near}'
    with pytest.raises(UserError, match=message):
      make(resolution)
    with pytest.raises(UserError, match=message):
      discriminator.Discriminator(resolution)
  with pytest.raises(
    UserError, match='latent_width=30 is not divisible by 4: positions'
  ):
    make(32, latent_width=30)
  with pytest.raises(UserError, match="stem='dense' is not one of constant, latent"):
    make(32, stem='dense')
  with pytest.raises(UserError, match='has_global=False needs style=False'):
    make(32, has_global=False)
  with pytest.raises(UserError, match='leave no latent'):
    make(32, components=0, has_global=False)
  with pytest.raises(UserError, match='merge_at=12 is not a resolution'):
    kgan.Generator(16, merge_at=12)
  model, variables, latents = tiny
  with pytest.raises(
    UserError, match=r'latents of shape .* \(batch, 3 latents, 8 numb'
  ):
    model.apply(variables, latents[:, :2])
  with pytest.raises(UserError, match=r'images of shape 16x12x3 are not'):
    variables_of(discriminator.Discriminator(16), 2, 16, 12, 3)
