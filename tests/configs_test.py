"""Tests that every config loads, and that each file's default starts and steps.

Shapes of the start and the step are checked without computing them;
`make test-configs` runs all of them with small sizes.
"""

import pathlib

import jax
import pytest

from big_vision_like import spec
from big_vision_like.devices import mesh as meshes
from big_vision_like.errors import UserError
from big_vision_like.run import experiment

FOLDER = pathlib.Path(__file__).parent.parent / 'configs'
FILES = sorted(FOLDER.glob('*/*.py'))
# A folder of the user's images cannot be counted before it exists. The published batch
# of action detection is for a single device.
OVERRIDES = {
  'finetune': ['train_data.source.examples=100'],
  'daly': ['train_data.batch_size=8'],
}


@pytest.mark.parametrize('file', FILES, ids=lambda p: f'{p.parent.name}/{p.stem}')
def test_config(file, data_dir):
  assert file.read_text().startswith('"""')  # says what it reproduces
  overrides = OVERRIDES.get(file.stem, ())
  config, first, *_ = (
    spec.load(name, overrides, root=experiment.Settings)
    for name in (str(file), *spec.variants(file))
  )
  assert first.to_json() == config.to_json()  # equals the default
  run = experiment.make(config, planned_for=jax.devices())
  for name, part in run.data.parts.items():
    example = {k: v[None] for k, v in part.example().items()}
    if (task := run.task.part(name)) is not None:  # None: check the whole batch
      task.check(example)
  state, several = run.abstract_state, len(run.data.parts) > 1
  # Takes the largest of several shapes, of each of several tasks.
  signatures = [None]
  if several:
    signatures = {each[:1]: each for each in sorted(run.data.signatures(64))}.values()
  for signature in signatures:
    batch = run.abstract_batch_of(signature)
    after, scalars = jax.eval_shape(run.step, state, batch)
    assert jax.tree.structure(after) == jax.tree.structure(state)
    leaves = zip(jax.tree.leaves(state), jax.tree.leaves(after), strict=True)
    for before, now in leaves:
      assert (before.shape, before.dtype) == (now.shape, now.dtype)
    assert scalars['loss'].shape == ()


@pytest.mark.parametrize(
  ('name', 'sentence'),
  [
    ('vit/transfer.py:pets,B/16,jft,tune,i1k', 'has both jft and i1k: take one'),
    ('vit/jft.py:S/16', 'no model .S/16.: take one of B/32, B/16, '),
    ('slot_attention/discovery.py:clevr,implict', 'no change .implict.: take one'),
    ('detr/coco.py:r34', 'no model .r34.: take one of r50, .*, encoder_0, '),
    ('detr/panoptic.py:r50', 'no recipe .r50.: take one of stage1_r50, '),
    ('bit/hyperrule.py:pets,R50x1,1-shot,5-shot', 'has both 1-shot and 5-shot'),
  ],
)
def test_arguments_that_are_unknown_or_contradict_each_other_are_refused(
  name, sentence
):
  with pytest.raises(UserError, match=sentence):
    spec.load(str(FOLDER / name), root=experiment.Settings)


def test_dropout_of_transfer_is_that_of_the_original_code():
  # google-research/vision_transformer vit_jax/configs/models.py.
  known = {'B/16': 0.0, 'L/16': 0.1, 'L/32': 0.0, 'H/14': 0.1, 'R50+L/32': 0.1}
  for model, dropout in known.items():
    for name in (f'transfer.py:pets,{model}', f'vtab.py:dtd,{model}'):
      config = spec.load(str(FOLDER / 'vit' / name), root=experiment.Settings)
      assert config.task.model.dropout == dropout, name
  config = spec.load(str(FOLDER / 'vit' / 'transfer.py:pets,L/16,augreg'))
  assert config.task.model.dropout == 0.0


@pytest.mark.parametrize('name', ['i21k.py:L/16', 'scaling.py:g/14'])
def test_eight_devices_share_the_state_of_a_recipe(name):
  overrides = ['mesh.data=1', 'mesh.fsdp=8']
  config = spec.load(str(FOLDER / 'vit' / name), overrides, root=experiment.Settings)
  state = experiment.make(config, planned_for=jax.devices()).abstract_state
  total = sum(x.size * x.dtype.itemsize for x in jax.tree.leaves(state))
  assert total / 8 <= meshes.bytes_per_device(state) <= 1.1 * total / 8
