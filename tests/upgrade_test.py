"""Configs that earlier versions saved with their runs."""

import json

import pytest

from big_vision_like import checkpoint, experiment, init_from, spec, upgrade


@pytest.mark.parametrize('old, new', upgrade.MOVED.items())
def test_what_moved_is_found(old, new):
  assert upgrade.upgraded({'_fn': old}) == {'_fn': new}
  assert callable(spec.symbol({'_fn': new}))


def test_an_old_run_that_started_from_another_still_builds(tmp_path):
  config = spec.load('configs/vit/transfer_digits.py', root=experiment.Settings)
  saved = json.loads(config.to_json())
  saved['init_from'] = {
    '_fn': 'big_vision_like.checkpoint:InitFrom',
    'weights': {'_fn': 'big_vision_like.checkpoint:from_run', 'workdir': 'runs/a'},
    'leave_out': ['head/.*'],
    'resize': 'linear',
    'grid': None,
  }
  (tmp_path / 'config.json').write_text(json.dumps(saved))
  loaded = spec.load(str(tmp_path / 'config.json'), root=experiment.Settings)
  assert spec.symbol(loaded.init_from) is init_from.InitFrom
  assert spec.symbol(loaded.init_from.weights) is init_from.from_run
  built = spec.build(loaded.init_from.to_dict() | {'weights': {}})
  assert built == init_from.InitFrom({}, ['head/.*'], resize='linear')
  # The run goes on with its config in the names of today.
  checkpoint.claim(tmp_path, loaded)
