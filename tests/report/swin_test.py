import re
import types

import battery
import jax
import numpy as np
import pytest

from big_vision_like.errors import UserError
from big_vision_like.models import swin
from big_vision_like.report import compose
from big_vision_like.report import swin as report_swin
from big_vision_like.report import vit as report_vit
from big_vision_like.weights import tree

IMAGES = battery.images(4, 16, 32, 3)
SIZES = dict(width=8, depths=(2,), num_heads=(2,), window=2, mlp_ratio=2.0)


def source_of(**arguments):
  model = swin.Swin(num_classes=2, **SIZES | arguments)
  variables = battery.variables(model.clone(scan=False), IMAGES)
  if model.scan:
    variables = {'params': tree.stack_blocks(variables['params'])}
  trained = report_vit.Trained(
    model=model,
    variables=variables,
    inputs=lambda image_BHWC: (image_BHWC,),
    images=lambda: IMAGES,
  )
  run = types.SimpleNamespace(network=types.SimpleNamespace(module=model))
  return types.SimpleNamespace(trained=trained, run=run)


@pytest.mark.parametrize('scan', [False, True])
def test_only_shifted_windows_see_the_neighbour(scan):
  source = source_of(scan=scan)
  [section] = compose.sections_of_model(source)
  content, caption = section.show(source)
  assert content.count('not shifted') == content.count('shifted by 1') > 0
  assert 'red frame' in caption
  shares = re.findall('>([0-9.]+)\u00a0% from the neighbour', content)
  still, moved = np.array(shares, float).reshape(-1, 2).T
  assert not still.any() and (moved > 0).all()


def test_models_without_recorded_attention_are_reported():
  source = source_of(posemb='without_content')
  with pytest.raises(UserError, match='without_content'):
    report_swin.attention_across(source)


def test_other_models_have_no_such_section():
  run = types.SimpleNamespace(network=types.SimpleNamespace(module=object()))
  assert not compose.sections_of_model(types.SimpleNamespace(run=run))
  assert not compose.sections_of_model(types.SimpleNamespace(run=None))


def test_maps_that_are_padded_are_cut_like_the_model():
  model = swin.Swin(**SIZES, padding='dense')
  cut = report_swin.cut(model, (18, 30), 'shifted')
  assert (cut.grid, cut.window, cut.shift) == ((6, 8), 2, 1)
  source = source_of(padding='windows', window=3)
  sown = jax.eval_shape(source.trained.collect, source.trained.variables, IMAGES)
  probs = sown['stage1']['block_0']['shifted']['attention']['probs'][0]
  grid, window, _ = report_swin.cut(source.trained.model, (16, 32), 'shifted')
  assert len(probs.shape) and probs.shape[0] == 4 * grid[0] * grid[1] // window**2
