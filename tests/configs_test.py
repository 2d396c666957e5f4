"""Every config builds; its start and its step have the shapes they should."""

import pathlib

import jax
import pytest

from big_vision_like import experiment, spec
from big_vision_like import mesh as meshes

FOLDER = pathlib.Path(__file__).parent.parent / 'configs'
CONFIGS = [
  name for file in sorted(FOLDER.glob('*/*.py')) for name in spec.variants(file)
]


@pytest.mark.parametrize('name', CONFIGS, ids=lambda name: name[len(f'{FOLDER}/') :])
def test_config(name, data_dir):
  config = spec.load(name, root=experiment.Settings)
  assert spec.load(name).to_json() == config.to_json()  # the same every time
  run = experiment.make(config, planned_for=jax.devices())
  run.task.check({k: v[None] for k, v in run.data.example().items()})
  state = run.abstract_state
  after, scalars = jax.eval_shape(run.step, state, run.abstract_batch)
  assert jax.tree.structure(after) == jax.tree.structure(state)
  for before, now in zip(jax.tree.leaves(state), jax.tree.leaves(after), strict=True):
    assert (before.shape, before.dtype) == (now.shape, now.dtype)
  assert scalars['loss'].shape == ()


@pytest.mark.parametrize('file', sorted(FOLDER.glob('*/*.py')), ids=lambda p: p.stem)
def test_a_config_says_what_it_reproduces_and_how(file):
  assert file.read_text().startswith('"""')
  config = spec.load(str(file), root=experiment.Settings)
  first, *_ = spec.variants(file)  # the default
  assert spec.load(first).to_json() == config.to_json()


@pytest.mark.parametrize('name', ['i21k.py:L/16', 'scaling.py:g/14'])
def test_eight_devices_share_the_state_of_a_recipe(name):
  overrides = ['mesh.data=1', 'mesh.fsdp=8']
  config = spec.load(str(FOLDER / 'vit' / name), overrides, root=experiment.Settings)
  state = experiment.make(config, planned_for=jax.devices()).abstract_state
  total = sum(x.size * x.dtype.itemsize for x in jax.tree.leaves(state))
  assert total / 8 <= meshes.bytes_per_device(state) <= 1.1 * total / 8
