"""timm and transformers import torchvision, whose compiled part may not fit torch's."""

import contextlib

import torch

torch.set_num_threads(1)  # more wait for each other where cores are shared

LIBRARY = torch.library.Library('torchvision', 'FRAGMENT')  # operators last as long

with contextlib.suppress(ImportError):
  try:
    import torchvision  # noqa: F401
  except RuntimeError:  # operator torchvision::nms does not exist
    for name in ('nms', 'qnms'):
      LIBRARY.define(f'{name}(Tensor dets, Tensor scores, float threshold) -> Tensor')
    import torchvision  # noqa: F401
