import ml_dtypes
import numpy as np
import pytest
from random_weights import assert_same

from big_vision_like.weights import tree


def block(i):
  return {'norm': {'scale': np.full(3, i)}, 'kernel': np.full((2, 3), -i)}


def test_flatten_and_unflatten_are_inverse():
  nested = {'a': {'b': 1, 'c': {'d': 2}}, 'e': 3}
  flat = {'a/b': 1, 'a/c/d': 2, 'e': 3}
  assert tree.flatten(nested) == flat
  assert tree.unflatten(flat) == nested


@pytest.mark.parametrize('flat', [{'a': 1, 'a/b': 2}, {'a/b': 2, 'a': 1}])
def test_a_name_is_an_array_or_a_parent(flat):
  with pytest.raises(ValueError, match='a'):
    tree.unflatten(flat)


def test_stacking_and_unstacking_are_inverse():
  unrolled = {
    'head': {'bias': np.arange(2)},
    # 11 blocks: as text, block_10 comes before block_2
    'encoder': {'norm': np.ones(3)} | {f'block_{i}': block(i) for i in range(11)},
    'decoder': {'block_0': block(5)},
  }
  scanned = tree.stack_blocks(unrolled)
  assert set(scanned['encoder']) == {'norm', 'blocks'}
  np.testing.assert_array_equal(
    scanned['encoder']['blocks']['norm']['scale'][:, 0], np.arange(11)
  )
  assert scanned['decoder']['blocks']['kernel'].shape == (1, 2, 3)
  assert_same(tree.unstack_blocks(scanned), unrolled)
  assert_same(tree.stack_blocks(tree.unstack_blocks(scanned)), scanned)


@pytest.mark.parametrize(
  'broken, words',
  [
    ({'block_0': block(0), 'block_2': block(2)}, r'\[0, 2\]'),
    ({'block_0': block(0), 'block_1': {'kernel': np.ones(3)}}, 'missing norm/scale'),
    ({'block_0': block(0), 'blocks': block(1)}, 'either'),
  ],
)
def test_blocks_that_do_not_stack(broken, words):
  with pytest.raises(ValueError, match=words):
    tree.stack_blocks({'encoder': broken})


def test_blocks_of_different_depth_do_not_unstack():
  with pytest.raises(ValueError, match='leading axis'):
    tree.unstack_blocks({'blocks': {'a': np.ones((2, 3)), 'b': np.ones((3, 3))}})


def test_as_float32_reads_bfloat16_from_its_two_bytes():
  numbers = np.array([1.0, -2.5, 3e38, 0.0], ml_dtypes.bfloat16)
  for array in (numbers, numbers.view('V2')):
    got = tree.as_float32('a', array)
    assert got.dtype == np.float32
    np.testing.assert_array_equal(got, numbers.astype(np.float32))
  assert tree.as_float32('a', np.ones(2, np.float16)).dtype == np.float32


def test_as_float32_refuses_integers():
  with pytest.raises(ValueError, match="'step' holds int64"):
    tree.as_float32('step', np.ones(2, np.int64))
