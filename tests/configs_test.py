"""Every config builds; its start and its step have the shapes they should."""

import pathlib

import jax
import pytest

from big_vision_like import experiment, spec

CONFIGS = sorted(pathlib.Path(__file__).parent.parent.glob('configs/*/*.py'))


@pytest.mark.parametrize('path', CONFIGS, ids=lambda p: f'{p.parent.name}/{p.stem}')
def test_config(path, data_dir):
  config = spec.load(str(path), root=experiment.Settings)
  assert spec.load(str(path)).to_json() == config.to_json()  # the same every time
  run = experiment.make(config, planned_for=jax.devices())
  run.task.check({k: v[None] for k, v in run.data.example().items()})
  state = run.abstract_state
  after, scalars = jax.eval_shape(run.step, state, run.abstract_batch)
  assert jax.tree.structure(after) == jax.tree.structure(state)
  for before, now in zip(jax.tree.leaves(state), jax.tree.leaves(after), strict=True):
    assert (before.shape, before.dtype) == (now.shape, now.dtype)
  assert scalars['loss'].shape == ()
  assert path.read_text().startswith('"""')  # says what it reproduces, and how
