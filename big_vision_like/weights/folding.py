"""Folding of another image normalization into the layer that reads the image.

Axes: P Q patch, C channels, D width.
"""

from collections.abc import Mapping, Sequence

import numpy as np

from big_vision_like.errors import UserError
from big_vision_like.weights import tree


def fold(
  params: Mapping[str, object],
  stem: Sequence[str],
  before: tuple[Sequence[float], Sequence[float]],
  after: tuple[Sequence[float], Sequence[float]],
) -> tree.Tree:
  """Returns parameters that compute with `after` what `params` compute with `before`.

  Both are mean and deviation of values in [0, 1], one per channel. The first existing
  module in `stem` reads the image x = (p - mean) / std. Its kernel is multiplied by
  std_after / std_before, and its bias is increased by the kernel applied to
  (mean_after - mean_before) / std_before. Raises a `UserError` for a layer without a
  bias, as in ResNets, where it also pads the normalized image with zeros.
  """
  flat = tree.flatten(params)
  module = next((name for name in stem if f'{name}/kernel' in flat), None)
  if module is None:
    raise UserError(
      'a normalization is folded into the layer that reads the image, but these weights'
      ' read it through a norm: normalize images as the weights expect, without'
      ' --fold-normalization'
    )
  if f'{module}/bias' not in flat:
    raise UserError(
      f'a normalization is folded into the bias of the first layer, but {module} has'
      ' none: normalize images as the weights expect, without --fold-normalization'
    )
  kernel_PQCD = np.asarray(flat[f'{module}/kernel'], np.float64)
  channels = kernel_PQCD.shape[2]
  (mean_C, std_C), (mean_to_C, std_to_C) = (
    [np.broadcast_to(np.asarray(x, np.float64), channels) for x in pair]
    for pair in (before, after)
  )
  shift_C = (mean_to_C - mean_C) / std_C
  bias_D = flat[f'{module}/bias'] + np.einsum('PQCD,C->D', kernel_PQCD, shift_C)
  scale_C1 = (std_to_C / std_C)[:, None]
  flat[f'{module}/kernel'] = (kernel_PQCD * scale_C1[None, None]).astype(np.float32)
  flat[f'{module}/bias'] = bias_D.astype(np.float32)
  return tree.unflatten(flat)
