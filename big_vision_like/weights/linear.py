"""Layers as PyTorch keeps them: matrices (out, in), convolutions OIHW, heads joined."""

from collections.abc import Sequence

import numpy as np


def split(name: str, array: np.ndarray, count: int) -> list[np.ndarray]:
  """The arrays of `count` layers that lie in one, as query, key and value do."""
  if len(array) % count:
    raise ValueError(f'{name!r} of shape {array.shape} does not split into {count}.')
  return np.split(array, count)


def to_ours(
  module: str, leaf: str, array: np.ndarray, num_heads: int
) -> tuple[str, np.ndarray]:
  """Leaf name and array for one of our modules, from PyTorch's weight or bias."""
  if module.endswith(('/query', '/key', '/value')):
    if len(array) % num_heads:
      raise ValueError(f'Width {len(array)} does not divide into {num_heads} heads.')
    heads = (num_heads, len(array) // num_heads)
    if leaf == 'bias':
      return 'bias', array.reshape(heads)
    return 'kernel', array.T.reshape(-1, *heads)
  if leaf == 'bias':
    return 'bias', array
  if module.endswith('attention/out'):
    return 'kernel', array.T.reshape(num_heads, -1, len(array))
  if array.ndim == 4:
    return 'kernel', array.transpose(2, 3, 1, 0)
  return ('scale', array) if array.ndim == 1 else ('kernel', array.T)


def to_torch(name: str, array: np.ndarray) -> np.ndarray:
  """One of our arrays in PyTorch's axes."""
  module, _, leaf = name.rpartition('/')
  if module.endswith(('/query', '/key', '/value')):
    return array.reshape(-1) if leaf == 'bias' else array.reshape(len(array), -1).T
  if leaf != 'kernel':
    return array
  if module.endswith('attention/out'):
    return array.reshape(-1, array.shape[-1]).T
  return array.transpose(3, 2, 0, 1) if array.ndim == 4 else array.T


def leaves(module: str) -> Sequence[str]:
  """The leaves that one of our modules may have, by kind of module."""
  return ('scale', 'bias') if 'norm' in module.split('/')[-1] else ('kernel', 'bias')
