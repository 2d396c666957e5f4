import importlib.util

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import shapes

from big_vision_like.models import bit, vit
from big_vision_like.ops import (
  attention,
  erasing,
  images,
  losses,
  mixing,
  positions,
  ridge,
)

OURS = ('big_vision_like/models', 'big_vision_like/layers', 'big_vision_like/ops')

# All sizes differ, but the two that share the letter C: channels and classes.
BATCH, HEIGHT, WIDTH, CHANNELS = 5, 12, 20, 2
SIZES = dict(
  num_classes=CHANNELS, patch=(4, 5), width=24, depth=3, num_heads=3, mlp_dim=14
)


@pytest.mark.parametrize(
  'options',
  [
    dict(),
    dict(pool='gap', posemb='sincos2d', rep_size=7),
    dict(pool='map', posemb='none', dtype='bfloat16'),
    dict(posemb='sincos2d', scan=True, remat='full'),
    dict(pool='gap', dropout=0.1, drop_path=0.1, remat='dots'),
    dict(pool='map', dropout=0.1, drop_path=0.1, scan=True),
    dict(posemb='relative', posemb_at='every', registers=4, scan=True),
    dict(posemb='learned2d', posemb_at='every'),
    dict(posemb='learned', posemb_at='shared', registers=4),
    dict(resnet=(1, 2), patch=1),
  ],
  ids=lambda options: '-'.join(map(str, options.values())),
)
def test_vit(options, key):
  model = vit.ViT(**SIZES | options)
  image = jax.ShapeDtypeStruct((BATCH, HEIGHT, WIDTH, CHANNELS), jnp.float32)

  def forward(image):
    variables = model.init(key, image)
    model.apply(variables, image, train=True, rngs={'dropout': key})
    return model.apply(variables, image, mutable=['intermediates'])

  with shapes.checked(*OURS) as seen:
    outputs, _ = jax.eval_shape(forward, image)
  assert outputs['logits'].shape == (BATCH, CHANNELS)
  expected = {'image_BHWC', 'x_BhwD', 'tokens_BND', 'features_BD', 'logits_BC'}
  expected |= {'q_BNHK', 'y_BNTHK', 'p_BHNM', 'rates_L', 'x_BNF'}
  if model.pool == 'token':
    expected |= {'token_11D', 'learned_1PD', 'learned_BPD'}
  if model.pool == 'map':
    expected |= {'probe_11D', 'x_B1D', 'y_B1D', 'key_BMI'}
  if model.posemb == 'relative':
    expected |= {'keys_LRHK', 'logits_BHNR'}
  elif model.posemb != 'none':
    expected |= {'pos_LND'}
  if model.resnet:
    expected |= {'map_BfgI', 'kernel_HWIO', 'shortcut_BuvO', 'y_BuvO'}
  assert expected <= seen.keys()


@pytest.mark.parametrize('model_class', [bit.BiT, bit.BiTv1])
def test_bit(model_class, key):
  model = model_class(num_classes=7, depths=(2, 1))
  image = jax.ShapeDtypeStruct((BATCH, 24, 40, 7), jnp.float32)
  with shapes.checked(*OURS) as seen:
    jax.eval_shape(model.init, key, image)
  assert {'x_BhwI', 'shortcut_BuvO', 'features_BD', 'logits_BC'} <= seen.keys()


def test_ops(key):
  def all_of_them(q, k, v, bias, mask, image, logits):
    attention.attend(q, k, v, bias, mask)
    mixing.mixup(key, images.normalize(image), logits, alpha=0.2)
    mixing.mixup_or_cutmix(key, images.normalize(image), logits, 0.8, 1.0)
    mixing.cutmix(key, images.normalize(image), logits, alpha=1.0)
    erasing.erase(key, images.normalize(images.flip(key, image)), 0.25)
    losses.softmax_cross_entropy(logits, logits)
    losses.sigmoid_cross_entropy(logits, logits)

  def array(*shape, dtype=jnp.float32):
    return jax.ShapeDtypeStruct(shape, dtype)

  with shapes.checked(*OURS) as seen:
    jax.eval_shape(
      all_of_them,
      array(5, 6, 2, 4),
      array(5, 7, 2, 4),
      array(5, 7, 2, 3),
      array(5, 2, 6, 7),
      array(5, 2, 6, 7, dtype=bool),
      array(5, 8, 9, 3, dtype=jnp.uint8),
      array(5, 3),
    )
    positions.resize(np.zeros((1, 7, 4), np.float32), (2, 3), (5, 8), num_prefix=1)
    rng = np.random.default_rng(0)
    for count in (6, 12):  # fewer and more examples than features
      train, test = rng.normal(size=(count, 8)), rng.normal(size=(5, 8))
      ridge.ridge_scores(train, np.arange(count) % 3, test, num_classes=3)
  assert {'turned_B', 'h_BA', 'box_BHW', 'share_1HW1'} <= seen.keys()
  assert {'v_BMGV', 'mask_BHNM', 'losses_BC', 'grid_LhwD', 'a_NE'} <= seen.keys()


PLANTED = """
def {name}(x_BND):
  {line}
  return x_BND
"""


@pytest.mark.parametrize(
  'line, words',
  [
    ('y_BN = x_BND * 2', r'planted\.py:4: y_BN has shape \(2, 3, 4\)'),
    ('y_BDN = x_BND * 2', r'y_BDN has shape \(2, 3, 4\), but D is 4 in x_BND'),
    ('y_1ND = x_BND * 2', r'y_1ND has shape \(2, 3, 4\)'),
    ('x_BND = x_BND.mean(axis=1)', r'x_BND has shape \(2, 4\)'),
    ('z_B2 = x_BND[:, 0, :3]', r'z_B2 has shape \(2, 3\)'),
    ('y_BND = x_BND * 2', None),
    ('y_BD, first_1 = x_BND[:, 0], x_BND[0, 0, :1]', None),
  ],
)
def test_a_wrong_suffix_is_caught(line, words, tmp_path):
  path = tmp_path / 'planted.py'
  path.write_text(PLANTED.format(name='call', line=line))
  module_spec = importlib.util.spec_from_file_location('planted', path)
  planted = importlib.util.module_from_spec(module_spec)
  module_spec.loader.exec_module(planted)
  array = np.zeros((2, 3, 4))
  if words is None:
    with shapes.checked(str(tmp_path)) as seen:
      planted.call(array)
    assert seen['x_BND'] > 1
    return
  with pytest.raises(AssertionError, match=words):
    with shapes.checked(str(tmp_path)):
      planted.call(array)
  with shapes.checked('big_vision_like/ops') as seen:
    planted.call(array)  # other folders are left alone
  assert not seen


def test_a_lie_planted_in_the_encoder_is_caught(tmp_path, key):
  source = (shapes.ROOT / 'big_vision_like/layers/transformer.py').read_text()
  assert source.count('x_BNF') > 1
  path = tmp_path / 'transformer.py'
  path.write_text(source.replace('x_BNF', 'x_BFN'))
  module_spec = importlib.util.spec_from_file_location('planted', path)
  planted = importlib.util.module_from_spec(module_spec)
  module_spec.loader.exec_module(planted)
  encoder = planted.Stack(depth=2, num_heads=2, mlp_dim=14)
  x = jax.ShapeDtypeStruct((5, 7, 8), jnp.float32)
  with pytest.raises(AssertionError, match=r'x_BFN has shape \(5, 7, 14\), but N is 7'):
    with shapes.checked(str(tmp_path)):
      jax.eval_shape(encoder.init, key, x)
