"""Fixes imports of torchvision, whose compiled part may not fit torch's.

timm and transformers import it.
"""

import contextlib

import torch

torch.set_num_threads(1)  # more threads would wait for each other on shared cores

LIBRARY = torch.library.Library('torchvision', 'FRAGMENT')  # keeps the operators alive

with contextlib.suppress(ImportError):
  try:
    import torchvision  # noqa: F401
  except RuntimeError:  # operator torchvision::nms does not exist
    for name in ('nms', 'qnms'):
      LIBRARY.define(f'{name}(Tensor dets, Tensor scores, float threshold) -> Tensor')
    import torchvision  # noqa: F401
