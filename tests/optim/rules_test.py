import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from descent import GRADS, assert_close, descend, flat, parameters

from big_vision_like import optim
from big_vision_like.errors import UserError
from big_vision_like.models import vit


def test_kernels_alone_are_decayed_by_default():
  factors = flat(optim.adamw(0.1, weight_decay=0.5).decay_of(parameters()))
  assert factors == {
    'embed/kernel': 0.5,
    'embed/bias': 0.0,
    'encoder/block_0/kernel': 0.5,
    'encoder/block_0/norm/scale': 0.0,
    'encoder/block_1/kernel': 0.5,
    'encoder/block_1/norm/scale': 0.0,
    'encoder/norm/scale': 0.0,
    'head/kernel': 0.5,
    'head/bias': 0.0,
  }


def test_the_first_rule_that_matches_the_whole_path_counts():
  rules = [('head/kernel', 3.0), ('.*kernel', 1.0), ('head/.*', 7.0)]
  factors = flat(optim.factors(parameters(), rules, default=0.25))
  assert factors['head/kernel'] == 3.0
  assert factors['encoder/block_0/kernel'] == 1.0
  assert factors['head/bias'] == 7.0
  assert factors['embed/bias'] == 0.25


def test_decay_rules_change_the_update():
  rules = [('head/kernel', 10.0), ('.*kernel', 1.0)]
  zero = jax.tree.map(jnp.zeros_like, parameters())
  optimizer = optim.momentum(0.1, weight_decay=0.2, decay_rules=rules)
  got = flat(descend(optimizer, grads=[zero]))
  for name, before in flat(parameters()).items():
    factor = 10.0 if name == 'head/kernel' else 1.0 if 'kernel' in name else 0.0
    np.testing.assert_allclose(got[name], before * (1 - 0.02 * factor), rtol=1e-6)


def test_rate_rules_multiply_the_whole_update():
  optimizer = optim.adamw(0.1, weight_decay=0.2, rate_rules=[('encoder/.*', 0.25)])
  plain = flat(descend(optim.adamw(0.1, weight_decay=0.2), grads=GRADS[:1]))
  got = flat(descend(optimizer, grads=GRADS[:1]))
  for name, before in flat(parameters()).items():
    factor = 0.25 if name.startswith('encoder/') else 1.0
    np.testing.assert_allclose(
      got[name] - before, factor * (plain[name] - before), rtol=1e-4, atol=1e-6
    )


def test_a_rate_of_zero_freezes():
  optimizer = optim.adamw(0.1, weight_decay=0.2, rate_rules=[('embed/.*', 0.0)])
  got = descend(optimizer)
  assert_close(got['embed'], parameters()['embed'], rtol=0)
  assert not np.allclose(got['head']['bias'], parameters()['head']['bias'])


@pytest.mark.parametrize(
  'optimizer',
  [
    optim.adamw(0.1, rate_rules=[('encoder/.*', 0.5), ('heads/.*', 1.0)]),
    optim.adamw(0.1, weight_decay=0.1, decay_rules=[('heads/.*', 1.0)]),
  ],
)
def test_a_rule_that_matches_nothing_is_named(optimizer):
  with pytest.raises(UserError, match=re.escape("'heads/.*' matches no parameter")):
    optimizer.init(parameters())


@pytest.mark.parametrize('pattern', ['kernel', 'head', 'head/.'])
def test_a_rule_matches_whole_paths_only(pattern):
  with pytest.raises(UserError, match=f"'{pattern}' matches no parameter"):
    optim.factors(parameters(), [(pattern, 1.0)], 0.0)


def test_a_rule_shadowed_by_an_earlier_one_is_not_an_error():
  rules = [('.*', 2.0), ('.*bias', 1.0)]
  assert set(flat(optim.factors(parameters(), rules, 0.0)).values()) == {2.0}


def test_layer_decay():
  params = parameters() | {'cls': jnp.zeros((1, 1, 3)), 'pos_embedding': jnp.zeros(3)}
  optimizer = optim.adamw(0.1, rate_rules=optim.layer_decay(0.5, depth=2))
  factors = flat(optimizer.rate_factor_of(params))
  assert factors == {
    'embed/kernel': 0.125,
    'embed/bias': 0.125,
    'cls': 0.125,
    'pos_embedding': 0.125,
    'encoder/block_0/kernel': 0.25,
    'encoder/block_0/norm/scale': 0.25,
    'encoder/block_1/kernel': 0.5,
    'encoder/block_1/norm/scale': 0.5,
    'encoder/norm/scale': 1.0,
    'head/kernel': 1.0,
    'head/bias': 1.0,
  }


@pytest.mark.parametrize('scan', [False, True])
def test_only_weights_decay(scan):
  model = vit.ViT(
    num_classes=3,
    patch=4,
    width=8,
    depth=2,
    num_heads=2,
    mlp_dim=12,
    pool='token',
    scan=scan,
  )
  image_BHWC = jnp.zeros((1, 8, 8, 3))
  params = jax.eval_shape(model.init, jax.random.key(0), image_BHWC)['params']

  def decay_of(*exempt):
    rules = optim.decay_weights(exempt)
    optimizer = optim.adamw(0.1, weight_decay=0.5, decay_rules=rules)
    return flat(optimizer.decay_of(params))

  kernels = {name for name in flat(params) if name.endswith('kernel')}
  assert any(name.endswith('query/bias') for name in flat(params))
  decay = decay_of('cls', 'pos_embedding')
  assert {name for name, own in decay.items() if own == 0.5} == kernels
  assert {own for name, own in decay.items() if name not in kernels} == {0.0}
  decayed = {name for name, own in decay_of().items() if own}
  assert decayed == {*kernels, 'cls', 'pos_embedding'}
  with pytest.raises(UserError, match="'clss' matches no parameter"):
    decay_of('clss')
