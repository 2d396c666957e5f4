"""TimeSformer: schemes, parameters and operations, positions, and a start from a ViT.

Axes: B clips, T frames, H W pixels, C channels, R groups, M tokens of a group.
"""

import functools

import battery
import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import shapes

from big_vision_like import optim
from big_vision_like.cost import flops
from big_vision_like.errors import UserError
from big_vision_like.layers import transformer
from big_vision_like.models import timesformer, vit
from big_vision_like.run import init_from
from big_vision_like.weights import tree

SMALL = dict(num_classes=5, patch=4, width=24, depth=2, num_heads=3, mlp_dim=40)
CLIP = battery.images(2, 4, 8, 16, 3)
GRID = (4, 2, 4)  # of these clips


def made(attention='divided', **arguments):
  return timesformer.TimeSformer(**SMALL, attention=attention, **arguments)


@functools.cache
def ran(attention='divided'):
  """Returns a model with random variables away from its start, compiled."""
  model = made(attention)
  return jax.jit(model.apply), battery.variables(model, CLIP)


# Parameters with 400 classes and GMACs of a view, as measured on the published code.
PUBLISHED = {
  'base': ('divided', 8, 224, 121_566_352, 195.8),
  'HR': ('divided', 16, 448, 122_024_080, 1702.7),
  'L': ('divided', 96, 224, 121_633_936, 2379.9),
  'joint': ('joint', 8, 224, 86_112_400, 179.6),
  'space_only': ('space_only', 8, 224, 86_106_256, 140.5),
}


@pytest.mark.parametrize('name', PUBLISHED)
def test_published_parameters_and_operations(name):
  attention, frames, side, parameters, gmacs = PUBLISHED[name]
  model = timesformer.TimeSformer(
    num_classes=400, **timesformer.variant('B/16'), attention=attention, scan=True
  )
  clip = jax.ShapeDtypeStruct((1, frames, side, side, 3), jnp.float32)
  variables = jax.eval_shape(model.init, jax.random.key(0), clip)
  count = sum(x.size for x in jax.tree.leaves(variables['params']))
  assert count == parameters
  counted = flops.count(model.apply, variables, clip) / 2e9
  assert counted == pytest.approx(gmacs, rel=0.01)


# Of the paper, with the 174 classes of Something-Something.
@pytest.mark.parametrize(
  ('attention', 'parameters'),
  [
    ('space_only', 85_932_462),
    ('divided', 121_392_558),
    ('local_global', 121_392_558),
    ('axial', 156_846_510),
  ],
)
def test_parameters_in_the_paper(attention, parameters):
  model = timesformer.TimeSformer(
    num_classes=174, **timesformer.variant('B/16'), attention=attention, scan=True
  )
  clip = jax.ShapeDtypeStruct((1, 8, 224, 224, 3), jnp.float32)
  variables = jax.eval_shape(model.init, jax.random.key(0), clip)
  assert sum(x.size for x in jax.tree.leaves(variables)) == parameters


@pytest.mark.parametrize(
  'kind', ['time', 'space', 'local', 'global', 'width', 'height']
)
def test_groups_are_those_of_the_paper(kind):
  clip = (4, 4, 6)
  place_BThw3 = np.stack(np.indices(clip), axis=-1)[None]
  groups = timesformer.groups_of(kind, clip)
  place_RM3 = groups.split(place_BThw3)
  np.testing.assert_array_equal(groups.joined(place_RM3, clip), place_BThw3)

  def key(place):
    t, row, column = place
    return {
      'time': (row, column),
      'space': t,
      'local': (row // 2, column // 3),
      'global': (t % 2, row % 2, column % 2),
      'width': (t, row),
      'height': (t, column),
    }[kind]

  keys = [{key(place) for place in group} for group in place_RM3.tolist()]
  assert all(len(group) == 1 for group in keys)  # a group has one key, a key one group
  assert len(set.union(*keys)) == len(keys)


def test_divided_attention_is_linear_in_space_plus_time():
  """Counts products of queries and keys: N T (N + T), and a few for the class token."""

  def cost(frames, side):
    model = made(posemb='none', posemb_time='none').clone(depth=1)
    clip = jax.ShapeDtypeStruct((1, frames, side, side, 3), jnp.float32)
    variables = jax.eval_shape(model.init, jax.random.key(0), clip)
    total = flops.count(model.apply, variables, clip)
    tokens, width, places = frames * (side // 4) ** 2, 24, (side // 4) ** 2
    linear = 2 * tokens * (3 * 16 * width + 2 * 4 * width**2 + width**2)
    linear += 2 * (2 * (tokens + 1) * width * 40 + 4 * frames * width**2 + width * 5)
    return (total - linear) / (
      4 * width * (tokens * frames + frames * (places + 1) ** 2)
    )

  assert cost(8, 16) == pytest.approx(1, rel=1e-6)
  assert cost(32, 32) == pytest.approx(1, rel=1e-6)


@pytest.mark.parametrize('attention', ['divided', 'joint', 'axial'])
def test_order_matters_through_the_positions_in_time_only(attention):
  apply, variables = ran(attention)
  backwards = CLIP[:, ::-1]
  logits, other = (apply(variables, x)['logits'] for x in (CLIP, backwards))
  assert np.abs(logits - other).max() > 1e-2
  params = dict(variables['params'])
  params['time_embedding'] = jnp.zeros_like(params['time_embedding'])
  logits, other = (apply({'params': params}, x)['logits'] for x in (CLIP, backwards))
  np.testing.assert_allclose(logits, other, atol=1e-5)


def test_space_only_ignores_the_order():
  apply, variables = ran('space_only')
  assert 'time_embedding' not in variables['params']
  logits, other = (apply(variables, x)['logits'] for x in (CLIP, CLIP[:, [2, 0, 3, 1]]))
  np.testing.assert_allclose(logits, other, atol=1e-5)


def test_divided_starts_as_if_frames_were_images():
  """Checks that time adds nothing at the published start, and does with 'wide'."""
  clip, moved = CLIP, CLIP[:, [1, 2, 3, 0]]
  for initializers, same in (('reference', True), ('wide', False)):
    model = made(initializers=initializers).clone(depth=1)
    variables = jax.jit(model.init)(jax.random.key(0), clip)
    flat = tree.flatten(variables['params'])
    zero = [not np.any(x) for name, x in flat.items() if '_fc/kernel' in name]
    assert zero == [same]
    assert np.any(flat['time_embedding']) != same
    tokens, other = (
      jax.jit(model.apply)(variables, x)['features'] for x in (clip, moved)
    )
    assert np.allclose(tokens, other, atol=1e-5) == same


def test_a_start_from_a_vit_gives_the_features_of_the_vit():
  """Uses equal frames, as the attention over time adds nothing yet."""
  image_BHWC = CLIP[:, 0]
  image_model = vit.ViT(**SMALL, activation='gelu_exact')
  theirs = battery.variables(image_model, image_BHWC)
  want = jax.jit(image_model.apply)(theirs, image_BHWC)['features']
  model = made()
  ours = jax.jit(model.init)(jax.random.key(0), CLIP)
  told = dict(source_grid=GRID[1:], **timesformer.from_vit('divided'))
  source = init_from.InitFrom(theirs['params'], **told)
  filled = source.fit(ours, *init_from.tables_of(model, CLIP))
  flat, before = tree.flatten(filled['params']), tree.flatten(theirs['params'])
  for i in range(2):
    for copy, name in (('temporal_attention/key/bias', 'attention/key/bias'),):
      np.testing.assert_array_equal(
        flat[f'encoder/block_{i}/{copy}'], before[f'encoder/block_{i}/{name}']
      )
    np.testing.assert_array_equal(
      flat[f'encoder/block_{i}/temporal_norm/scale'],
      before[f'encoder/block_{i}/norm1/scale'],
    )
  still = np.broadcast_to(image_BHWC[:, None], CLIP.shape)
  got = jax.jit(model.apply)(filled, still)['features']
  np.testing.assert_allclose(got, want, atol=1e-4)


@pytest.mark.parametrize('attention', timesformer.SCHEMES)
def test_all_schemes_start_from_a_vit(attention):
  """Checks that each rule has an effect, and only time and `_fc` are left."""
  model = made(attention)
  theirs = battery.variables(vit.ViT(**SMALL), CLIP[:, 0])
  ours = jax.tree.map(lambda x: x + 1, battery.variables(model, CLIP))
  told = dict(source_grid=GRID[1:], **timesformer.from_vit(attention))
  source = init_from.InitFrom(theirs['params'], **told)
  filled = tree.flatten(source.fit(ours, *init_from.tables_of(model, CLIP))['params'])
  before = tree.flatten(ours['params'])
  same = {name for name, x in filled.items() if np.array_equal(x, before[name])}
  assert all('time' in name or '_fc' in name or 'head' in name for name in same)


@pytest.mark.parametrize('method', ['declared', 'raster'])
def test_a_start_from_other_frames_resizes_the_tables(method):
  small, large = CLIP[:, :2, :8, :8], battery.images(1, 4, 16, 16, 3)
  model = made()
  theirs, ours = battery.variables(model, small), battery.variables(model, large)
  source = init_from.InitFrom(
    theirs['params'], leave_out=(), resize=method, source_grid=(2, 2)
  )
  filled = source.fit(ours, *init_from.tables_of(model, large))['params']
  time = theirs['params']['time_embedding']
  np.testing.assert_array_equal(filled['time_embedding'], time[:, [0, 0, 1, 1]])
  table = theirs['params']['pos_embedding']
  if method == 'raster':  # as the published code: place j gets place floor(j / 4)
    want = np.concatenate([table[:, :1], np.repeat(table[:, 1:], 4, axis=1)], axis=1)
    np.testing.assert_array_equal(filled['pos_embedding'], want)
  else:  # corners stay in place
    np.testing.assert_allclose(
      filled['pos_embedding'][:, [1, 4, 13, 16]], table[:, 1:], atol=1e-6
    )


def test_stochastic_depth_drops_groups_not_clips():
  """Drops branches for a frame or a place of one clip, of 4 frames of 2 clips."""
  block = timesformer.SpaceTimeBlock(
    num_heads=1,
    mlp_dim=4,
    stochastic_depth=True,
    clip=GRID,
    kinds=('time', 'space'),
    fc_init=jax.nn.initializers.normal(1.0),
  )
  tokens = battery.images(2, 33, 6, 1)[..., 0]
  variables = battery.variables(block, tokens, jnp.float32(0.5), train=False)

  @jax.jit
  def kept(key):
    masks = {}

    def rows(next_fun, args, kwargs, context):
      y = next_fun(*args, **kwargs)
      if isinstance(context.module, transformer.DropPath):
        masks[context.module.name] = jnp.abs(y).sum(axis=(1, 2)) > 0
      return y

    with nn.intercept_methods(rows):
      block.apply(variables, tokens, 0.5, True, rngs={'dropout': key})
    return masks

  masks = kept(jax.random.key(0))
  sizes = {name: len(mask) for name, mask in masks.items()}
  assert sizes == {'temporal_drop_path': 2 * 8, 'drop_path1': 2 * 4, 'drop_path2': 2}
  assert 0 < masks['temporal_drop_path'].sum() < 16


def test_published_rates_and_steps():
  """Epochs 0, 10.99, 11 and 14, and Nesterov's momentum as in PyTorch."""
  rate = optim.multi_step(0.005, drops=(1100, 1400))
  got = [float(rate(step)) for step in (0, 1099, 1100, 1400)]
  np.testing.assert_allclose(got, [0.005, 0.005, 0.0005, 0.00005], rtol=1e-6)
  optimizer = optim.momentum(0.1, nesterov=True, l2=0.01)
  params = {'norm': {'scale': jnp.array([1.0, -2.0])}}
  state, buffer, want = optimizer.init(params), 0.0, np.array([1.0, -2.0])
  for step in range(5):
    grads = {'norm': {'scale': jnp.array([0.3, -0.1]) * (step + 1)}}
    updates, state = optimizer.update(grads, state, params)
    params = jax.tree.map(jnp.add, params, updates)
    g = np.array([0.3, -0.1]) * (step + 1) + 0.01 * want
    buffer = 0.9 * buffer + g
    want = want - 0.1 * (g + 0.9 * buffer)
  np.testing.assert_allclose(params['norm']['scale'], want, rtol=1e-5)


@pytest.mark.parametrize('attention', timesformer.SCHEMES)
def test_names_of_arrays_tell_their_axes(attention, key):
  model = timesformer.TimeSformer(
    **SMALL | dict(num_classes=2), attention=attention, scan=True, remat='full'
  )
  clip = jax.ShapeDtypeStruct((5, 8, 16, 24, 2), jnp.float32)

  def forward(clip):
    variables = model.init(key, clip)
    return model.apply(variables, clip, train=True, rngs={'dropout': key})

  with shapes.checked('big_vision_like/models', 'big_vision_like/layers') as seen:
    jax.eval_shape(forward, clip)
  assert {'video_BTHWC', 'image_FHWC', 'x_FMD', 'logits_BC'} <= seen.keys()


BAD = {
  'five axes': (made(), CLIP[0], r'takes clips \(batch, frames'),
  'no frames': (made(), CLIP[:, :0], r'takes clips .* not \(2, 0, 8, 16, 3\)'),
  'scheme': (made('diagonal'), CLIP, "attention='diagonal' is not one of divided"),
  'odd': (made('local_global'), CLIP[:, :3], '3 frames of 2x4 patches: take even'),
  'patches': (made(), CLIP[:, :, :6], '6x16 do not divide into patches of 4x4'),
  'pool': (made(pool='gap'), CLIP, "pool='gap': a TimeSformer must have pool='token'"),
  'start': (made(initializers='zero'), CLIP, "initializers='zero' is not one of"),
}


@pytest.mark.parametrize('name', BAD)
def test_what_does_not_fit_is_one_sentence(name):
  model, clip, message = BAD[name]
  with pytest.raises(UserError, match=message):
    jax.eval_shape(model.init, jax.random.key(0), clip)


def test_another_number_of_frames_is_refused_or_resized():
  apply, variables = ran()
  longer = battery.images(1, 6, 8, 16, 3)
  with pytest.raises(UserError, match='time_embedding is for 4 frames, but clips have'):
    apply(variables, longer)
  apply = jax.jit(made(pos_frames=4).apply)
  assert np.isfinite(apply(variables, longer)['logits']).all()
