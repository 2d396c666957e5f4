import re

import pytest
import random_weights
from random_weights import assert_same

from big_vision_like.errors import UserError
from big_vision_like.weights import bit, tree

FORMATS = {
  'big_transfer': ('bit', bit.BIG_TRANSFER.write, bit.BIG_TRANSFER.read),
  'bit_paper': ('bit', bit.BIG_VISION_V2.write, bit.BIG_VISION_V2.read),
  'bit': ('bit_v1', bit.BIG_VISION_V1.write, bit.BIG_VISION_V1.read),
}
# Names and shapes in the published files.
NAMES = {
  'big_transfer': {
    'resnet/root_block/standardized_conv2d/kernel': (7, 7, 3, 64),
    'resnet/block1/unit01/a/proj/standardized_conv2d/kernel': (1, 1, 64, 256),
    'resnet/block1/unit01/a/standardized_conv2d/kernel': (1, 1, 64, 64),
    'resnet/block1/unit02/a/group_norm/gamma': (256,),
    'resnet/block2/unit01/b/standardized_conv2d/kernel': (3, 3, 128, 128),
    'resnet/block2/unit01/c/group_norm/beta': (128,),
    'resnet/group_norm/gamma': (512,),
    'resnet/head/conv2d/kernel': (1, 1, 512, 5),
    'resnet/head/conv2d/bias': (5,),
  },
  'bit_paper': {
    'root_block/conv_root/kernel': (7, 7, 3, 64),
    'block1/unit01/conv_proj/kernel': (1, 1, 64, 256),
    'block1/unit02/gn1/scale': (1, 1, 1, 256),
    'block2/unit01/conv2/kernel': (3, 3, 128, 128),
    'norm-pre-head/bias': (1, 1, 1, 512),
    'head/kernel': (512, 5),
  },
  'bit': {
    'conv_root/kernel': (7, 7, 3, 64),
    'gn_root/scale': (64,),
    'block1/unit1/gn_proj/bias': (256,),
    'block1/unit2/conv3/kernel': (1, 1, 64, 256),
    'head/bias': (5,),
  },
}


@pytest.mark.parametrize('name', FORMATS)
def test_round_trip(name):
  family, write, read = FORMATS[name]
  params = random_weights.small_bit(family)
  written = write(params)
  for theirs, shape in NAMES[name].items():
    assert written[theirs].shape == shape
  assert len(written) == len(tree.flatten(params))
  assert_same(read(written), params)
  del params['head']
  written = write(params)
  assert not any('head/' in theirs.replace('pre-head', '') for theirs in written)
  assert_same(read(written), params)


def test_numbered_convolutions():
  params = random_weights.small_bit()
  count = iter(range(100))
  numbered = {
    re.sub('standardized_conv2d', lambda m: f'{m[0]}_{next(count)}', name): array
    for name, array in bit.BIG_TRANSFER.write(params).items()
  }
  assert 'resnet/block1/unit01/a/standardized_conv2d_1/kernel' in numbered
  assert bit.BIG_TRANSFER.differences(numbered) == (set(), set())
  assert_same(bit.BIG_TRANSFER.read(numbered), params)


def test_old_group_norms_and_params_in_front():
  params = random_weights.small_bit('bit_v1')
  old = {
    f'params/{name}': array[None, None, None] if '/gn' in f'/{name}' else array
    for name, array in bit.BIG_VISION_V1.write(params).items()
  }
  assert old['params/gn_root/scale'].shape == (1, 1, 1, 64)
  assert_same(bit.BIG_VISION_V1.read(old), params)


@pytest.mark.parametrize(
  'name, unit',
  [
    ('big_transfer', 'resnet/block1/unit01/'),
    ('bit_paper', 'block1/unit01/'),
    ('bit', 'block1/unit1/'),
  ],
)
def test_a_missing_unit_is_named(name, unit):
  family, write, read = FORMATS[name]
  flat = write(random_weights.small_bit(family))
  for theirs in [n for n in flat if n.startswith(unit)]:
    del flat[theirs]
  with pytest.raises(UserError, match=f'my.npz: missing {unit}'):
    read(flat, source='my.npz')


def test_versions_do_not_mix():
  with pytest.raises(UserError, match='unknown resnet/norm_root.*missing resnet/norm/'):
    bit.BIG_TRANSFER.write(random_weights.small_bit('bit_v1'))
