"""Tests of a report's section about the pixels that tokens of a T2T-ViT depend on."""

import types

import battery
import jax
import numpy as np

from big_vision_like.models import t2t_vit
from big_vision_like.report import tokens
from big_vision_like.report import vit as report_vit

SIZES = dict(num_classes=3, width=12, depth=1, num_heads=2, mlp_dim=5, token_dim=6)


def trained(silent):
  """Returns a model of 48x80 images; silent ones lack attention between soft splits."""
  model = t2t_vit.T2TViT(**SIZES)
  image_BHWC = np.random.default_rng(0).normal(size=(2, 48, 80, 3)).astype('float32')
  variables = battery.variables(model, image_BHWC[:1])
  if silent:
    for i in (1, 2):
      layer = variables['params']['tokens_to_token'][f'layer{i}']
      layer['out'] = jax.tree.map(np.zeros_like, layer['out'])
  return report_vit.Trained(
    model, variables, lambda image_BHWC: (image_BHWC,), lambda: image_BHWC
  )


def test_without_attention_a_token_sees_the_area_of_its_soft_splits():
  found = trained(silent=True)
  [map_PHW] = tokens.sight(found, found.images()[:1], [6])  # row 1, column 1
  [map_HW] = map_PHW
  rows, columns = (np.nonzero(map_HW.any(axis))[0] for axis in (1, 0))
  assert (rows.min(), rows.max()) == (columns.min(), columns.max()) == (2, 32)
  assert tokens.span() == (31, 14)
  own, split = tokens.shares(map_HW, 1, 1)
  assert 0.1 < own < 0.9
  np.testing.assert_allclose(split, 1.0, rtol=1e-5)


def test_with_attention_it_sees_everything():
  found = trained(silent=False)
  map_BPHW = tokens.sight(found, found.images(), [0, 6])
  assert map_BPHW.shape == (2, 2, 48, 80)
  assert (map_BPHW > 0).mean() > 0.99
  assert tokens.shares(map_BPHW[0, 1], 1, 1)[1] < 1.0


def test_the_section():
  found = trained(silent=False)
  content, caption = tokens.token_sight(types.SimpleNamespace(trained=found))
  assert content.count('<img') == 2 * 4
  assert 'tokens of the 3 x 5 grid' in caption and '31 x 31' in caption
  [section] = tokens.OF_MODELS[t2t_vit.T2TViT]
  assert section.show is tokens.token_sight
