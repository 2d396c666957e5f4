"""Sections of a report on a run of clips, on a run that is made up."""

import types

import battery
import jax.numpy as jnp
import numpy as np
import pytest

from big_vision_like.data.input import pipeline
from big_vision_like.errors import UserError
from big_vision_like.evals import classification
from big_vision_like.models import timesformer
from big_vision_like.report import compose
from big_vision_like.report import images as report_images
from big_vision_like.report import timesformer as report
from big_vision_like.tasks import classification as tasks
from big_vision_like.tasks.task import State

CLIP = battery.images(1, 2, 16, 16, 3)


@pytest.fixture(scope='module', params=['divided', 'space_only'])
def source(request):
  model = timesformer.TimeSformer(
    num_classes=3,
    patch=8,
    width=8,
    depth=1,
    num_heads=2,
    mlp_dim=8,
    attention=request.param,
  )
  variables = battery.variables(model, CLIP)
  task = tasks.Classification(model=model, optimizer=None, inputs=('video',))
  rng = np.random.default_rng(0)
  examples = [
    {
      'video': rng.integers(0, 256, (3, 2, 16, 16, 3), np.uint8),
      'label': np.int32(i % 3),
    }
    for i in range(5)
  ]
  data = pipeline.EvalInput(source=examples, batch_size=5)
  made = classification.VideoAccuracy(data=data)
  state = State(step=jnp.int32(1), opt_state=None, params=variables['params'])
  run = types.SimpleNamespace(
    network=task.networks()['model'],
    task=task,
    state=state,
    variables=variables,
    params=variables['params'],
  )
  name = f'{tasks.Classification.__module__}:{tasks.Classification.__name__}'
  config = {'task': {'_fn': name, 'inputs': ['video']}}
  log = types.SimpleNamespace(config=config)
  found = report_images.Source(log, run, '', 4, '')
  found.known = {}  # no names of classes
  found.spread_of = lambda kind, what: ('test', made)
  return found


def test_attention_is_shown_and_played(source):
  sections = compose.sections_of_model(source)
  assert [section.heading for section in sections] == [
    'Attention in space and time',
    'Positions in time',
  ]
  content, caption = sections[0].show(source)
  assert content.count('data:image/gif;base64,') == 4
  assert content.count('data:image/png;base64,') == 4
  assert 'Clips of test.' in caption


def test_positions_in_time(source):
  if source.run.network.module.attention == 'space_only':
    with pytest.raises(UserError, match='no positions in time'):
      report.positions_in_time(source)
  else:
    content, caption = report.positions_in_time(source)
    assert 'data:image/png' in content and '2 frames' in caption


def test_clips_are_shown_as_rows_of_frames(source):
  found = report_images.predict(source)
  assert found.image_BHWC.shape == (4, 16, 2 * 16, 3)
  headings = [s.heading for s in source.sections if s.fits(source)]
  assert 'Predictions' in headings and 'Attention rollout' not in headings
