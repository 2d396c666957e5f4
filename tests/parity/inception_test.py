"""Tests of Inception against torchvision's, with the pools of pytorch-fid's copy.

Axes: B batch, H W image, C channels.
"""

import jax
import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torchvision.models import inception as theirs

from big_vision_like.models import inception
from big_vision_like.weights import published
from big_vision_like.weights.families import inception as family


def with_fid_pools(model):
  """Replaces the pools that differ: means without padding, a maximum in the last."""

  def mean(x, kernel_size, stride, padding):
    return F.avg_pool2d(x, kernel_size, stride, padding, count_include_pad=False)

  def maximum(x, kernel_size, stride, padding):
    return F.max_pool2d(x, kernel_size, stride, padding)

  class Pools:
    """Stands for `F` in a block's forward pass."""

    def __init__(self, pool):
      self.avg_pool2d, self.max_pool2d, self.relu = pool, F.max_pool2d, F.relu

  def wrap(block, pool):
    inner = block._forward

    def forward(x):
      functional, theirs.F = theirs.F, Pools(pool)
      try:
        return inner(x)
      finally:
        theirs.F = functional

    block._forward = forward

  for name in inception.BLOCKS:
    block = getattr(model, name.capitalize())
    wrap(block, maximum if name == 'mixed_7c' else mean)
  return model


@pytest.fixture(scope='module')
def model():
  torch.manual_seed(0)
  made = theirs.Inception3(1008, aux_logits=False, init_weights=False).eval()
  with torch.no_grad():
    for module in made.modules():
      if isinstance(module, torch.nn.BatchNorm2d):
        module.weight.uniform_(0.7, 1.3)
        module.bias.normal_(0, 0.2)
        module.running_mean.normal_(0, 0.2)
        module.running_var.uniform_(0.5, 1.5)
      elif isinstance(module, torch.nn.Conv2d):
        torch.nn.init.kaiming_normal_(module.weight)
  return with_fid_pools(made)


def test_features_and_logits(model, tmp_path):
  path = tmp_path / 'pt_inception.pth'
  torch.save(model.state_dict(), path)
  found = published.read(path)
  assert found.architecture == {'width': 1.0} and found.num_classes == 1008
  assert found.family.name == 'inception' and not found.assumed
  image = torch.rand(2, 3, 139, 107) * 2 - 1
  outputs = jax.jit(found.model.apply)(
    found.variables, image.permute(0, 2, 3, 1).numpy()
  )
  kept = {}
  for name in ('maxpool1', 'maxpool2', 'Mixed_6e', 'Mixed_7b', 'Mixed_7c', 'avgpool'):
    getattr(model, name).register_forward_hook(
      lambda module, inputs, output, name=name: kept.setdefault(name, output)
    )
  with torch.no_grad():
    want = model(image)
    unbiased = want - model.fc.bias
  pairs = {
    'pool1': kept['maxpool1'],
    'pool2': kept['maxpool2'],
    'mixed_6e': kept['Mixed_6e'],
    'mixed_7b': kept['Mixed_7b'],
    'mixed_7c': kept['Mixed_7c'],
    'pre_logits': kept['avgpool'][:, :, 0, 0],
    'logits': want,
    'logits_unbiased': unbiased,
  }
  for name, array in pairs.items():
    array = array.permute(0, 2, 3, 1) if array.ndim == 4 else array
    scale = float(array.abs().max())
    np.testing.assert_allclose(outputs[name], array, atol=1e-5 * scale, err_msg=name)


def test_means_at_the_border_count_pixels_of_the_map_only():
  torch.manual_seed(1)
  x = torch.rand(1, 1280, 5, 5)
  with torch.no_grad():
    want = F.avg_pool2d(x, 3, 1, 1)
    ours = inception.pooled(x.permute(0, 2, 3, 1).numpy(), 'mean')
    assert np.abs(ours - want.permute(0, 2, 3, 1).numpy()).max() > 0.1
    own = F.avg_pool2d(x, 3, 1, 1, count_include_pad=False)
  np.testing.assert_allclose(ours, own.permute(0, 2, 3, 1), atol=1e-6)


def test_the_writer_inverts_the_reader(model):
  state = {
    name: array.numpy()
    for name, array in model.state_dict().items()
    if not name.endswith('num_batches_tracked')
  }
  variables = family.names.from_pytorch_fid(state, family.places())
  again = family.names.to_pytorch_fid(variables, family.places())
  assert again.keys() == state.keys()
  for name, array in state.items():
    np.testing.assert_array_equal(again[name], array, err_msg=name)
