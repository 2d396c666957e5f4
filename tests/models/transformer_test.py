import battery
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import shapes

from big_vision_like import spec
from big_vision_like.errors import UserError
from big_vision_like.models import transformer
from big_vision_like.ops import positions

V = 11
SMALL = dict(vocab_size=V, width=8, depth=2, num_heads=2, mlp_dim=12, dropout=0.0)


def count(tree) -> int:
  return sum(x.size for x in jax.tree.leaves(tree))


def abstract_params(model):
  ids = jax.ShapeDtypeStruct((2, 3), jnp.int32)
  return jax.eval_shape(model.init, jax.random.key(0), ids, ids)['params']


def test_parameters_are_the_published_number():
  base = abstract_params(
    transformer.Transformer(vocab_size=37_000, **transformer.variant('base'))
  )
  assert count(base['encoder']['block_0']) == 3_152_384
  assert count(base['encoder']['block_0']['attention']) == 1_050_624
  assert count(base['encoder']['block_0']['mlp']) == 2_099_712
  assert count(base['decoder']['block_5']) == 4_204_032
  assert count(base['encoder']) + count(base['decoder']) == 44_138_496
  assert count(base) == 44_138_496 + 512 * 37_000 == 63_082_496
  of_torch = abstract_params(
    transformer.Transformer(
      vocab_size=1, **transformer.variant('base'), **transformer.STYLES['torch']
    )
  )
  assert count(of_torch) - 512 == 44_140_544  # torch.nn.Transformer()
  reversal = dict(SMALL, vocab_size=20, width=64, num_heads=4, mlp_dim=128)
  assert count(abstract_params(transformer.Transformer(**reversal))) == 168_704


@pytest.mark.parametrize(
  'row, millions',
  # arXiv:1706.03762 table 3, where `base` has 65: all rows except those with another
  # width, because the table's vocabulary seems to be larger than the 37,000 of the
  # text.
  [('dk=16', 58), ('dk=32', 60), ('N=2', 36), ('N=4', 50), ('N=8', 80)]
  + [('dff=1024', 53), ('dff=4096', 90)],
)
def test_rows_of_table_3_differ_from_the_base_as_published(row, millions):
  def size(row):
    config = spec.load(f'configs/transformer/table3.py:{row}')
    return count(abstract_params(spec.build(config.task.model))) / 1e6

  # Both published numbers are rounded.
  assert size(row) - size('base') == pytest.approx(millions - 65, abs=1.0)


@pytest.fixture(scope='module')
def ids():
  rng = np.random.default_rng(0)
  source, target = (
    rng.integers(3, V, size).astype(np.int32) for size in ((3, 6), (3, 5))
  )
  source[1, 4:], source[2] = 0, 0  # some padding, and a source of nothing but padding
  target[:, 0], target[0, 3:] = 1, 0
  return jnp.asarray(source), jnp.asarray(target)


@pytest.fixture(scope='module', params=['paper', 't2t', 'marian'])
def ready(request, ids):
  model = transformer.Transformer(**SMALL, **transformer.STYLES[request.param])
  return model, battery.variables(model, *ids), jax.jit(model.apply)


def test_later_targets_change_nothing_before_them(ready, ids):
  _, variables, apply = ready
  source, target = ids
  want = apply(variables, source, target)['logits']
  for t in range(1, target.shape[1]):
    changed = target.at[:, t].set(V - 1 - target[:, t] % 5)
    got = apply(variables, source, changed)['logits']
    np.testing.assert_array_equal(got[:, :t], want[:, :t])
    assert np.abs(got[1:, t] - want[1:, t]).max() > 1e-4


def test_padding_changes_nothing_and_nothing_is_not_nan(ready, ids):
  model, variables, apply = ready
  source, target = ids
  want = apply(variables, source, target)
  assert all(np.isfinite(x).all() for x in want.values())
  # Memory of padding does not matter: neither its values nor its length.
  memory = want['memory']

  @jax.jit
  def decode(memory):
    return model.apply(variables, target, memory, source, method='decode')

  garbage = jnp.where((source == 0)[..., None], 7.0, memory)
  np.testing.assert_array_equal(decode(garbage), decode(memory))
  longer = apply(variables, jnp.pad(source, ((0, 0), (0, 3))), target)
  np.testing.assert_allclose(longer['logits'], want['logits'], rtol=1e-5, atol=1e-5)


def test_a_padded_token_is_not_seen(ready, ids):
  """Checks that another padding id, with other vectors, gives bit-identical outputs."""
  model, variables, apply = ready
  source, target = ids
  other = model.clone(pad_id=2)
  renamed = [jnp.where(x == 0, 2, x) for x in (source, target)]
  want = apply(variables, source, target)
  got = jax.jit(other.apply)(variables, *renamed)
  real_S, real_T = source != 0, target != 0
  np.testing.assert_array_equal(got['memory'][real_S], want['memory'][real_S])
  np.testing.assert_array_equal(got['logits'][real_T], want['logits'][real_T])


def test_pairs_in_one_row_do_not_see_each_other(ready):
  _, variables, apply = ready
  rng = np.random.default_rng(1)
  pairs = [(rng.integers(3, V, n), rng.integers(3, V, m)) for n, m in ((4, 3), (3, 5))]

  def rows(parts, size):
    """Returns ids, segments and positions of sequences packed in rows of this size."""
    count = sum(map(len, parts))
    row = (
      np.concatenate(parts),
      *(
        np.concatenate([make(n, part) for n, part in enumerate(parts, 1)])
        for make in (
          lambda n, part: np.full(len(part), n),
          lambda n, part: np.arange(len(part)),
        )
      ),
    )
    return [jnp.asarray(np.pad(x, (0, size - count)), jnp.int32)[None] for x in row]

  source = rows([s for s, _ in pairs], 9)
  target = rows([t for _, t in pairs], 9)
  packed = apply(
    variables, source[0], target[0], source[1], target[1], source[2], target[2]
  )['logits']
  alone = [
    apply(variables, *(jnp.asarray(x, jnp.int32)[None] for x in pair))['logits']
    for pair in pairs
  ]
  np.testing.assert_allclose(packed[:, :3], alone[0], rtol=1e-4, atol=1e-5)
  np.testing.assert_allclose(packed[:, 3:8], alone[1], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize('scan', [False, True])
def test_step_by_step_is_the_whole_and_compiles_once(scan, ids):
  source, target = ids
  source, target = source[:2], target[:2].at[0, 3:].set(5)
  model = transformer.Transformer(**SMALL, scan=scan)
  variables = battery.variables(model, source, target)
  outputs = jax.jit(model.apply)(variables, source, target)
  want, memory = outputs['logits'], outputs['memory']
  _, cache = jax.jit(
    lambda: model.apply(
      variables,
      target[:, :0],
      memory,
      source,
      cache_length=8,
      method='decode',
      mutable=['cache'],
    )
  )()

  @jax.jit
  def step(cache, token, index):
    return model.apply(
      {**variables, **cache},
      token,
      index,
      memory,
      source,
      8,
      method='next_logits',
      mutable=['cache'],
    )

  for t in range(target.shape[1]):
    logits, cache = step(cache, target[:, t], jnp.int32(t))
    np.testing.assert_allclose(logits, want[:, t], rtol=1e-5, atol=1e-5)
  assert step._cache_size() == 1


@pytest.mark.parametrize(
  'options, words',
  [
    (dict(positions='learned', max_length=4), r'5 tokens .* longer than the 4 learned'),
    (dict(positions='rotary'), "layout='rotary' is not one of"),
    (dict(embedding_scale='sqrt'), "embedding_scale='sqrt' is not one of"),
    (dict(num_heads=3), 'width 8 is not divisible by 3 heads'),
  ],
)
def test_invalid_options_are_reported(options, words):
  model = transformer.Transformer(**SMALL | options)
  source = jax.ShapeDtypeStruct((2, 3), jnp.int32)
  target = jax.ShapeDtypeStruct((2, 5), jnp.int32)
  with pytest.raises(UserError, match=words):
    jax.eval_shape(model.init, jax.random.key(0), source, target)


def test_an_empty_source_is_reported(ids):
  model = transformer.Transformer(**SMALL)
  with pytest.raises(UserError, match=r'source of shape \(3, 0\) is not'):
    jax.eval_shape(model.init, jax.random.key(0), ids[0][:, :0], ids[1])


def test_unknown_sizes_are_reported():
  with pytest.raises(
    UserError, match="unknown Transformer 'huge': choose one of base, big"
  ):
    transformer.variant('huge')


@pytest.mark.parametrize('style', transformer.STYLES)
def test_styles_have_their_own_parameters(style):
  model = transformer.Transformer(**SMALL, **transformer.STYLES[style])
  params = abstract_params(model)
  biased = 'bias' in params['encoder']['block_0']['attention']['query']
  assert biased == (style not in ('t2t', 'flax'))
  assert ('norm' in params['encoder']) == (style in ('t2t', 'flax', 'torch'))
  assert ('target_space' in params) == (style == 't2t')
  assert ('logits_bias' in params) == (style == 'marian')
  logits = jax.eval_shape(
    lambda: model.init_with_output(
      {'params': jax.random.key(0), 'dropout': jax.random.key(0)},
      jnp.ones((2, 3), jnp.int32),
      jnp.ones((2, 4), jnp.int32),
      train=True,
    )
  )[0]['logits']
  assert logits.shape == (2, 4, V) and logits.dtype == jnp.float32


@pytest.mark.parametrize('style', ['paper', 'flax'])
def test_tokens_start_with_unit_variance(style):
  wide = dict(SMALL, vocab_size=500, width=64)
  model = transformer.Transformer(**wide, **transformer.STYLES[style])
  tokens = jnp.arange(500)[None]
  inputs = tokens, jnp.zeros_like(tokens)
  x, params = model.init_with_output(jax.random.key(0), *inputs, method='embed')
  at_zero = positions.sinusoid(jnp.zeros((1, 1)), 64, model.positions)
  assert np.std(x - at_zero) == pytest.approx(1.0, rel=0.05)
  # The logits of a token whose embedding equals the features: sqrt(D) if the paper
  # scales.
  features = params['params']['embedding'][None]
  features /= jnp.linalg.norm(features, axis=-1, keepdims=True) / 8
  logits = model.apply(params, features, method='logits')[0]
  own = np.diag(logits).mean()
  assert own == pytest.approx(8.0, rel=0.05)


def test_array_names_tell_the_axes(key):
  model = transformer.Transformer(
    **SMALL, **transformer.STYLES['t2t'], logits_bias=True
  )
  source = jax.ShapeDtypeStruct((3, 6), jnp.int32)
  target = jax.ShapeDtypeStruct((3, 5), jnp.int32)
  with shapes.checked('big_vision_like/models', 'big_vision_like/layers') as seen:
    jax.eval_shape(model.init, key, source, target)
  assert {'x_BSD', 'memory_BSD', 'features_BTD', 'logits_BTV', 'x_BTD'} <= seen.keys()
