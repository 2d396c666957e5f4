import jax.numpy as jnp
import numpy as np

from big_vision_like.ops import bits


def test_the_most_significant_bit_is_first():
  found = bits.to_bits(jnp.array([[0, 5], [9, 12]]), 4)
  assert found.shape == (2, 2, 4) and found.dtype == jnp.float32
  assert found[0, 1].tolist() == [0, 1, 0, 1] and found[1, 0].tolist() == [1, 0, 0, 1]


def test_numbers_are_found_again():
  numbers = jnp.arange(1024)
  np.testing.assert_array_equal(bits.from_bits(bits.to_bits(numbers, 10)), numbers)
  assert bits.from_bits(jnp.array([True, False, True])) == 5
