"""The captioners' own properties; the battery has what all models share."""

import functools

import battery
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import shapes

from big_vision_like.errors import UserError
from big_vision_like.models import captioning, transformer, vgg, vit
from big_vision_like.ops import search

V = 11
SIZES = dict(word_width=6, units=10, attention_width=7, dropout=0.0)
IMAGES = battery.images(3, 8, 12, 2)
IDS = np.array([[1, 4, 5, 6, 7], [1, 5, 3, 0, 0], [1, 9, 0, 0, 0]], np.int32)


def recurrent(name, **options):
  given = captioning.variant(name) | SIZES | options
  return captioning.RecurrentDecoder(vocab_size=V, **given)


def of_transformer(**options):
  sizes = dict(vocab_size=V, width=12, depth=2, num_heads=2, mlp_dim=8, dropout=0.0)
  return captioning.TransformerDecoder(transformer.Transformer(**sizes | options))


def captioner(decoder, **options):
  encoder = vgg.VGG((1, 1), channels=(4, 8))
  given = dict(read='stage2', posemb='sincos2d') | options
  return captioning.Captioner(encoder, decoder, **given)


DECODERS = {
  'tutorial': recurrent('tutorial'),
  'authors': recurrent('authors'),
  'hard': recurrent('authors', hard=True),
  'transformer': of_transformer(),
}


@functools.cache
def made(name):
  model = captioner(DECODERS[name])
  return model, battery.variables(model, IMAGES, IDS)


@functools.cache
def outputs_of(name):
  model, variables = made(name)
  return jax.jit(model.apply)(variables, IMAGES, IDS)


@pytest.mark.parametrize('name', ['tutorial', 'authors', 'hard'])
def test_attention_sums_to_one_at_words_and_is_zero_at_padding(name):
  outputs = outputs_of(name)
  for field in ('attention', 'seen'):
    np.testing.assert_allclose(outputs[field].sum(axis=-1), IDS != 0, atol=1e-6)
  assert not outputs['logits'][IDS == 0].any() and outputs['logits'][IDS != 0].all()
  one = np.sort(outputs['seen'], axis=-1)[..., -1][IDS != 0]
  assert (one == 1).all() == (name == 'hard')


@pytest.mark.parametrize('name', ['tutorial', 'authors'])
def test_permuting_cells_permutes_attention_only(name, key):
  decoder = DECODERS[name]
  cells = battery.images(3, 1, 6, 8)[:, 0]
  variables = battery.variables(decoder, cells, IDS)
  order = np.array([3, 0, 5, 1, 4, 2])
  apply = jax.jit(decoder.apply)
  first = apply(variables, cells, IDS)
  second = apply(variables, cells[:, order], IDS)
  np.testing.assert_allclose(first['logits'], second['logits'], atol=1e-6)
  np.testing.assert_allclose(
    first['attention'][..., order], second['attention'], atol=1e-6
  )
  assert not np.allclose(first['attention'], second['attention'], atol=1e-3)


@pytest.mark.parametrize('name', ['tutorial', 'authors'])
def test_padded_steps_do_not_change_the_state(name):
  model, variables = made(name)
  # A hole in the middle of a row: words after it go on from the state before it.
  whole, holed = np.array([[1, 4, 5, 6]] * 3), np.array([[1, 4, 0, 0, 5, 6]] * 3)
  apply = jax.jit(model.apply)
  want, have = (apply(variables, IMAGES, ids)['logits'] for ids in (whole, holed))
  np.testing.assert_allclose(have[:, [0, 1, 4, 5]], want, atol=1e-6)
  longer = np.pad(IDS, ((0, 0), (0, 3)))
  have = apply(variables, IMAGES, longer)['logits']
  np.testing.assert_allclose(have[:, :5], outputs_of(name)['logits'], atol=1e-6)


def test_words_are_scanned_by_one_loop():
  model, variables = made('authors')
  sizes = []
  for length in (4, 40):
    ids = np.ones((3, length), np.int32)
    program = jax.make_jaxpr(model.apply)(variables, IMAGES, ids)
    sizes.append(str(program).count('\n'))
    assert str(program).count('scan[') == 1
  assert sizes[0] == sizes[1]


@pytest.mark.parametrize('name', DECODERS)
def test_searching_word_by_word_gives_the_logits_of_the_whole_caption(name):
  model, variables = made(name)
  length = IDS.shape[1]
  step, cache = model.searching(variables, IMAGES, 1, length)
  want, step = outputs_of(name)['logits'], jax.jit(step)
  for index in range(length):
    logits, cache = step(jnp.asarray(IDS[:, index]), jnp.int32(index), cache)
    live = IDS[:, index] != 0
    np.testing.assert_allclose(logits[live], want[live, index], atol=1e-5)
  assert step._cache_size() == 1


@pytest.mark.parametrize('name', ['tutorial', 'transformer'])
def test_beams_are_those_of_images_alone_and_compiled_once(name):
  model, variables = made(name)
  beams, length = 3, 6

  @jax.jit
  def found(variables, images):
    step, cache = model.searching(variables, images, beams, length)
    first = jnp.ones(len(images), jnp.int32)
    return search.beam_search(
      step, cache, first, length, 2, beams, 0.0, transformer.reorder, (0,)
    )

  ids, scores = found(variables, IMAGES)
  turned, turned_scores = found(variables, IMAGES[::-1])
  np.testing.assert_array_equal(turned[::-1], ids)
  np.testing.assert_allclose(turned_scores[::-1], scores, atol=1e-5)
  assert found._cache_size() == 1
  # The score of a beam is the log probability of its words.
  best = ids[:, 0]
  read = np.pad(best, ((0, 0), (1, 0)), constant_values=1)[:, :-1]
  logp = jax.nn.log_softmax(model.apply(variables, IMAGES, read)['logits'])
  picked = jnp.take_along_axis(logp, best[..., None], axis=-1)[..., 0]
  total = jnp.where(best != 0, picked, 0).sum(axis=1)
  np.testing.assert_allclose(total, scores[:, 0], atol=1e-4)


def test_hard_attention_draws_locations_by_their_weight(key):
  decoder = recurrent('authors', hard=True, expected=0.25)
  cells = np.repeat(battery.images(1, 1, 4, 8)[0], 4000, axis=0)
  ids = np.ones((4000, 1), np.int32)
  variables = battery.variables(decoder, cells, ids)
  rngs = {captioning.LOCATIONS: key}
  apply = jax.jit(functools.partial(decoder.apply, train=True))
  outputs = apply(variables, cells, ids, rngs=rngs)
  drawn = np.asarray(outputs['drawn'])
  assert abs(drawn.mean() - 0.75) < 0.03
  seen, attention = np.asarray(outputs['seen'])[:, 0], np.asarray(outputs['attention'])
  np.testing.assert_allclose(seen[drawn].mean(axis=0), attention[0, 0], atol=0.03)
  assert set(np.unique(seen[drawn])) == {0.0, 1.0}
  np.testing.assert_array_equal(seen[~drawn], attention[~drawn, 0])


def test_no_gradient_flows_through_drawn_locations(key):
  decoder = recurrent('tutorial', hard=True, expected=0.0)
  cells = battery.images(3, 1, 6, 8)[:, 0]
  variables = battery.variables(decoder, cells, IDS)

  def loss(variables):
    rngs = {captioning.LOCATIONS: key}
    return decoder.apply(variables, cells, IDS, train=True, rngs=rngs)['logits'].sum()

  gradients = jax.jit(jax.grad(loss))(variables)['params']
  assert not any(np.any(x) for x in jax.tree.leaves(gradients['attention']))
  assert np.any(gradients['of_context']['kernel'])


@pytest.mark.parametrize('name', DECODERS)
def test_attention_is_returned_on_the_map_of_the_encoder(name):
  model, variables = made(name)
  attention = jax.jit(model.looking)(variables, IMAGES, IDS)
  assert attention.shape == (3, 5, 4, 6)
  live = attention.sum(axis=(2, 3))[IDS != 0]
  np.testing.assert_allclose(live, 1, atol=1e-5)


def test_scanned_blocks_return_the_same_attention():
  from big_vision_like.weights import tree

  _, variables = made('transformer')
  scanned = captioner(of_transformer(scan=True))
  params = {'params': tree.stack_blocks(jax.device_get(variables['params']))}
  model, _ = made('transformer')
  np.testing.assert_allclose(
    jax.jit(scanned.looking)(params, IMAGES, IDS),
    jax.jit(model.looking)(variables, IMAGES, IDS),
    atol=1e-6,
  )


def test_tokens_of_a_vision_transformer_are_cells(key):
  encoder = vit.ViT(num_classes=0, patch=4, width=8, depth=1, num_heads=2, mlp_dim=8)
  model = captioning.Captioner(encoder, recurrent('tutorial'))
  variables = battery.variables(model, IMAGES, IDS)
  cells = jax.jit(functools.partial(model.apply, method='encode'))(variables, IMAGES)
  own = {'params': variables['params']['encoder']}
  tokens = jax.jit(encoder.apply)(own, IMAGES)['tokens']
  assert tokens.shape == (3, 1 + 2 * 3, 8)  # with a class token
  np.testing.assert_allclose(cells.reshape(3, 6, 8), tokens[:, 1:], atol=1e-6)


# (V, cell width, word width, units) of the authors' COCO model and of the tutorial's.
@pytest.mark.parametrize(
  ('name', 'vocabulary', 'cell', 'count'),
  [
    # Embedding; first state; attention; gate; LSTM; output.
    (
      'authors',
      10_000,
      512,
      10_000 * 512
      + (512 * 512 + 512)
      + 2 * (512 * 1800 + 1800)
      + (512 * 512 + 512) * 2
      + 1800 * 512
      + (512 + 1)
      + (1800 + 1)
      + 4 * 1800 * (512 + 512 + 1800 + 1)
      + (1800 * 512 + 512)
      + (512 * 512 + 512)
      + (512 * 10_000 + 10_000),
    ),
    (
      'tutorial',
      9_490,
      2048,
      9_490 * 512
      + 2 * (2048 * 512 + 512)
      + (2048 * 512 + 512)
      + (512 * 512 + 512)
      + (512 + 1)
      + (512 * 2048 + 2048)
      + 4 * 512 * (512 + 2048 + 512 + 1)
      + (512 * 9_490 + 9_490),
    ),
  ],
)
def test_published_sizes(name, vocabulary, cell, count):
  decoder = captioning.RecurrentDecoder(
    vocab_size=vocabulary, **captioning.variant(name)
  )
  inputs = jnp.zeros((1, 196, cell)), jnp.ones((1, 3), jnp.int32)
  variables = jax.eval_shape(decoder.init, jax.random.key(0), *inputs)
  assert sum(x.size for x in jax.tree.leaves(variables)) == count


@pytest.mark.parametrize(
  ('depth', 'count'), [(11, 132_863_336), (16, 138_357_544), (19, 143_667_240)]
)
def test_published_vggs(depth, count):
  model = vgg.VGG(**vgg.variant(f'VGG{depth}'), num_classes=1000)
  image = jnp.zeros((1, 224, 224, 3))
  variables = jax.eval_shape(model.init, jax.random.key(0), image)
  assert sum(x.size for x in jax.tree.leaves(variables)) == count
  outputs = jax.eval_shape(model.apply, variables, image)
  assert outputs['stage5'].shape == (1, 14, 14, 512)


@pytest.mark.parametrize('name', DECODERS)
def test_array_names(name, key):
  model = captioner(DECODERS[name])
  rngs = {'dropout': key, captioning.LOCATIONS: key}
  # The Transformer calls the rows of its decoder B, also if images have several beams.
  beams = 1 if name == 'transformer' else 2

  def forward(images, ids):
    variables = model.init(key, images, ids)
    model.looking(variables, images, ids)
    step, cache = model.searching(variables, images, beams, 7)
    step(jnp.ones(3 * beams, jnp.int32), jnp.int32(0), cache)
    return model.apply(variables, images, ids, train=True, rngs=rngs)

  with shapes.checked('big_vision_like/models') as seen:
    jax.eval_shape(forward, IMAGES, IDS)
  assert {'cells_BhwD', 'cells_BND', 'ids_BT', 'image_BHWC'} <= set(seen)


@pytest.mark.parametrize(
  ('make', 'words'),
  [
    (lambda: captioner(DECODERS['tutorial'], read='maps'), "read='maps' is not an"),
    (lambda: captioner(DECODERS['tutorial'], posemb='rows'), "posemb='rows' is not"),
    (lambda: captioner(recurrent('tutorial', gate='none')), "gate='none' is not one"),
    (lambda: captioner(recurrent('tutorial', output='x')), "output='x' is not one of"),
    (
      lambda: captioner(recurrent('tutorial', attention_args=dict(activation='gelu'))),
      "activation='gelu' is not one of relu, tanh",
    ),
    (lambda: recurrent('papers'), "decoder='papers' is not one of tutorial, authors"),
    (lambda: vgg.VGG(**vgg.variant('VGG12')), "unknown VGG 'VGG12'"),
  ],
)
def test_wrong_arguments(make, words, key):
  with pytest.raises(UserError, match=words):
    jax.eval_shape(make().init, key, IMAGES, IDS)
