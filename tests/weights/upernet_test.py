"""Tests of UPerNets with names of other libraries; `make parity` compares outputs."""

import battery
import jax
import numpy as np
import pytest
import safetensors.numpy

from big_vision_like.errors import UserError
from big_vision_like.models import swin, upernet
from big_vision_like.weights import published, tree
from big_vision_like.weights.families import upernet as family


@pytest.fixture(scope='module')
def weights():
  """Returns a small UPerNet with random variables, as read from a file."""
  backbone = swin.Swin(
    width=8,
    depths=(1, 2, 1, 1),
    num_heads=(1, 2, 2, 4),
    window=2,
    maps=(1, 2, 3, 4),
    padding='dense',
  )
  model = upernet.UPerNet(backbone, 150, channels=6, auxiliary_channels=5)
  found = jax.device_get(battery.variables(model, battery.images(1, 32, 32, 3)))
  return published.describe(family='upernet', **found)


def flat(weights):
  return tree.flatten(weights.variables)


@pytest.mark.parametrize('library', ['published', 'transformers'])
def test_names_round_trip(weights, library, tmp_path):
  source = next(s for s in family.FAMILY.sources if library in s.writes)
  path = tmp_path / 'upernet_swin_640x640.safetensors'
  safetensors.numpy.save_file(source.writes[library](weights), path)
  again = published.read(path)
  assert again.source == source.name and again.num_classes == 150
  assert 'pool_scales=(1, 2, 3, 6): as in published models' in again.assumed
  assert again.architecture == weights.architecture
  want, have = flat(weights), flat(again)
  assert want.keys() == have.keys()
  for name, array in want.items():
    np.testing.assert_array_equal(have[name], array, err_msg=name)
  images = again.images(path.stem)
  assert (images.shortest, images.longest) == (640, 2560)
  assert images.label_names[:2] == ('wall', 'building')


def test_shapes_that_do_not_fit_are_named(weights, tmp_path):
  state = family.to_mmseg(weights)
  path = tmp_path / 'a.safetensors'
  state['decode_head.fpn_convs.1.conv.weight'] = np.zeros((6, 7, 3, 3), np.float32)
  safetensors.numpy.save_file(state, path)
  with pytest.raises(UserError, match=r'output2/conv/kernel \(3, 3, 7, 6\) is not'):
    published.read(path)
  del state['decode_head.fpn_convs.1.conv.weight']
  safetensors.numpy.save_file(state, path)
  with pytest.raises(UserError, match='missing decode_head.fpn_convs.1.conv.weight'):
    published.read(path)


def test_other_backbones_are_not_written():
  model = battery.cases()['semantic_fpn'].model
  plain = upernet.UPerNet(model.backbone, 4)
  with pytest.raises(UserError, match='UPerNets with a ResNet are not written'):
    family.check(plain, 'runs/a')
