"""Tests of a run's folder: what may change on resuming. Real runs: train_test."""

import fcntl
import json
import pathlib
import subprocess
import sys

import ml_collections as mlc
import numpy as np
import pictures
import pytest

from big_vision_like.data.input import pipeline
from big_vision_like.data.sources import folders
from big_vision_like.errors import UserError
from big_vision_like.run import checkpoint, overwrite, workdir
from big_vision_like.spec import override as spec_override
from big_vision_like.spec import spec
from big_vision_like.tasks.task import State

FRUIT = ('apple', 'banana')


def config_of(train: pathlib.Path, val: pathlib.Path) -> mlc.ConfigDict:
  def read(kind, path):
    source = spec(folders.Folder, path=str(path))
    return spec(kind, source=source, transforms=[], batch_size=2, workers=0)

  config = mlc.ConfigDict(dict(total_steps=3, log_every=5, task=dict(a=1)))
  config.train_data = read(pipeline.TrainInput, train)
  config.evals = dict(val=dict(data=read(pipeline.EvalInput, val), every=2))
  config.frozen = dict(teacher=dict(path='teacher.npz'))
  return config


def identities(config: mlc.ConfigDict) -> dict:
  paths = config.train_data.source.path, config.evals.val.data.source.path
  train, val = (folders.Folder(path) for path in paths)
  data = pipeline.TrainInput(source=train, batch_size=2)
  evaluator = {'data': pipeline.EvalInput(source=val, batch_size=2)}
  frozen = {'teacher': {'w': 'float32[3] 12ab'}}
  return workdir.identities(data, {'val': evaluator}, frozen)


@pytest.fixture
def begun(tmp_path):
  """Returns a run with a checkpoint: folder, config, and the identity of its data."""
  config = config_of(
    pictures.write_classes(tmp_path / 'train', FRUIT),
    pictures.write_classes(tmp_path / 'val', FRUIT, 2),
  )
  data = identities(config)
  save(tmp_path / 'run', config, data)
  return tmp_path / 'run', config, data


def save(folder: pathlib.Path, config: mlc.ConfigDict, data: dict) -> None:
  state = State(step=np.int32(2), params={'w': np.ones(3, np.float32)}, opt_state=())
  with checkpoint.Checkpoints(folder) as checkpoints:
    checkpoints.data = data
    checkpoints.save(2, state, {'step': 2}, 1.0, wait=True)
  workdir.record(folder, config, 0, workdir.Changes())


def test_identities_of_data(begun):
  _, _, data = begun
  assert list(data) == [
    'config.train_data.source',
    'config.evals.val.data.source',
    'config.frozen.teacher',
  ]
  assert data['config.train_data.source']['examples'] == 6


def test_a_folder_is_claimed_by_its_first_checkpoint(tmp_path):
  config = mlc.ConfigDict(dict(total_steps=3, task=dict(a=1)))
  workdir.record(tmp_path, config, 0, workdir.Changes())
  config.task.a = 2
  assert workdir.claim(tmp_path, config, {}) == workdir.Changes()


def test_a_run_that_has_lost_its_config_is_not_taken_over(begun):
  folder, config, data = begun
  (folder / 'config.json').unlink()
  with pytest.raises(UserError, match='checkpoints but no config.json .*restore'):
    workdir.claim(folder, config, data)
  assert workdir.claim(folder, config, data, ['config']).accepted == ('config',)
  (folder / 'config.json').write_text('null')
  with pytest.raises(UserError, match='holds a NoneType, not fields by name'):
    workdir.claim(folder, config, data, ['config'])


def test_damaged_notes_of_changes_are_left_out(tmp_path, capsys):
  good = '{"step": 3, "time": "now", "config": ["a: 1 -> 2"], "data": []}'
  (tmp_path / 'changes.jsonl').write_text(f'null\n{good}\n{{"step": 4}}\n{good[:9]}')
  assert [entry['step'] for entry in workdir.read_changes(tmp_path)] == [3]
  assert 'changes.jsonl: left out 3 unreadable lines' in capsys.readouterr().err


@pytest.mark.parametrize(
  'field, value',
  [
    ('log_every', 7),
    ('keep_last', 9),
    ('checkpoint_every', 1),
    ('mesh', dict(data=2, fsdp=4)),
    ('sharding', [('head/kernel', ('fsdp',))]),
    ('name', 'configs/vit/plain.py:90'),
    ('train_data.workers', 2),
    ('train_data.threads', 1),
    ('evals.val.every', 3),
    ('evals', {}),
    ('frozen.teacher.path', 'elsewhere/teacher.npz'),
  ],
)
def test_settings_without_effect_may_change_and_are_noted(begun, field, value):
  folder, config, _ = begun
  with config.unlocked():
    config.update_from_flattened_dict({field: value})
  data = identities(config) if 'val' in config.evals else {}
  data = {k: v for k, v in begun[2].items() if k in data or 'evals' not in k}
  changes = workdir.claim(folder, config, data)
  assert changes.config and all(
    line.startswith(f'config.{field}') for line in changes.config
  )
  assert not changes.data and not changes.accepted
  workdir.record(folder, config, 2, changes)
  (line,) = (folder / 'changes.jsonl').read_text().splitlines()
  assert json.loads(line)['config'] == list(changes.config)
  assert json.loads((folder / 'config.json').read_text()) == json.loads(
    config.to_json()
  )
  assert workdir.claim(folder, config, data) == workdir.Changes()


@pytest.mark.parametrize(
  'field, value',
  [
    ('task.a', 2),
    ('total_steps', 5),
    ('train_data.batch_size', 3),
    ('train_data.seed', 1),
    ('seed', 1),
    ('init_from', dict(path='x')),
  ],
)
def test_settings_that_change_training_are_refused_or_accepted(begun, field, value):
  folder, config, data = begun
  with config.unlocked():
    config.update_from_flattened_dict({field: value})
  what = 'of another length.*at step 2' if field == 'total_steps' else 'another config'
  with pytest.raises(UserError, match=rf'(?s){what}:\n  config.{field}.*: '):
    workdir.claim(folder, config, data, total_steps=config.total_steps)
  with pytest.raises(UserError, match='--accept=config'):
    workdir.claim(folder, config, data, accept=['data'])
  changes = workdir.claim(folder, config, data, accept=['config'])
  assert changes.accepted == ('config',)


@pytest.fixture
def finished(begun):
  """Returns a run of two epochs of one step, with a field that follows its length."""
  folder, config, data = begun
  config.task.decay = config.get_ref('total_steps')
  spec_override(config, 'total_steps=epochs(2)')
  workdir.record(folder, config, 0, workdir.Changes())
  (folder / 'metrics.jsonl').write_text('{"step": 1, "kind": "info", "total_steps": 2}')
  return folder, config, data


def test_a_finished_run_may_be_extended(finished):
  folder, config, data = finished
  spec_override(config, 'total_steps=epochs(4)')
  changes = workdir.claim(folder, config, data, total_steps=4)
  assert changes.extended and not changes.accepted
  assert changes.config == (
    'config.task.decay.epochs: 2.0 -> 4.0',
    'config.total_steps.epochs: 2.0 -> 4.0',
  )
  assert dict(config.total_steps) == dict(config.task.decay) == {'epochs': 4.0}
  spec_override(config, 'total_steps=5')
  changes = workdir.claim(folder, config, data, total_steps=5)
  assert changes.extended and len(changes.config) == 4
  # A fixed schedule does not prevent extension, but another change does.
  spec_override(config, 'task.decay=epochs(2)')
  assert workdir.claim(folder, config, data, total_steps=5).extended
  spec_override(config, 'task.a=2')
  with pytest.raises(UserError, match='another config'):
    workdir.claim(folder, config, data, total_steps=5)


def test_a_finished_run_is_not_shortened(finished):
  folder, config, data = finished
  spec_override(config, 'total_steps=1')
  with pytest.raises(UserError, match='of another length, which is at step 2'):
    workdir.claim(folder, config, data, total_steps=1)


def test_data_may_move_but_not_change(begun, tmp_path):
  folder, config, _ = begun
  (tmp_path / 'train').rename(tmp_path / 'moved')
  config.train_data.source.path = str(tmp_path / 'moved')
  changes = workdir.claim(folder, config, identities(config))
  assert len(changes.config) == 1 and 'source.path' in changes.config[0]
  with pytest.raises(UserError, match='another config'):  # the data are unknown
    workdir.claim(folder, config)
  pictures.write_classes(tmp_path / 'moved', FRUIT, 4)
  with pytest.raises(
    UserError, match=r'on other data:\n  config.train_data.source: .*examples 6 -> 8'
  ):
    workdir.claim(folder, config, identities(config))
  changes = workdir.claim(folder, config, identities(config), accept=['data'])
  assert changes.accepted == ('data',) and 'files 6 -> 8' in changes.data[0]


def test_data_of_an_evaluator_change_with_its_config_only(begun, tmp_path):
  folder, config, _ = begun
  pictures.write_classes(tmp_path / 'val', FRUIT, 3)
  with pytest.raises(UserError, match=r'config.evals.val.data.source: .*4 -> 6'):
    workdir.claim(folder, config, identities(config))
  config.evals.val.data.source.path = str(
    pictures.write_classes(tmp_path / 'other', FRUIT, 5)
  )
  assert not workdir.claim(folder, config, identities(config)).data


def test_another_teacher_is_refused(begun):
  folder, config, data = begun
  other = data | {'config.frozen.teacher': {'fingerprint': 'f00'}}
  with pytest.raises(UserError, match='config.frozen.teacher: other content'):
    workdir.claim(folder, config, other)


HOLDER = """
import pathlib, sys, time
from big_vision_like.run import workdir
with workdir.owned(pathlib.Path(sys.argv[1])):
  print('held', flush=True)
  time.sleep(100)
"""


def test_a_lock_has_one_owner_and_ends_with_it(tmp_path):
  words = [sys.executable, '-c', HOLDER, str(tmp_path / 'run')]
  with subprocess.Popen(words, stdout=subprocess.PIPE, text=True) as process:
    assert process.stdout.readline() == 'held\n'
    sentence = rf'in use by process {process.pid} on .* since .*: stop that run'
    with pytest.raises(UserError, match=sentence), workdir.owned(tmp_path / 'run'):
      pass
    process.kill()
  with workdir.owned(tmp_path / 'run'):
    pass


def test_unusable_folders_give_one_sentence(tmp_path):
  (tmp_path / 'file').write_text('')
  with pytest.raises(UserError, match='is a file'), workdir.owned(tmp_path / 'file'):
    pass
  below = tmp_path / 'file' / 'run'
  with pytest.raises(UserError, match='cannot be written to'), workdir.owned(below):
    pass


def test_looking_whether_a_folder_is_owned_keeps_no_training_out(tmp_path, monkeypatch):
  assert not workdir.is_owned(tmp_path)
  with workdir.owned(tmp_path):
    assert workdir.is_owned(tmp_path)
  assert not workdir.is_owned(tmp_path)
  # The shared lock of a reader is released a moment later, and training starts.
  with (tmp_path / 'lock').open() as looking:
    fcntl.flock(looking, fcntl.LOCK_SH)
    monkeypatch.setattr(workdir.time, 'sleep', lambda _: looking.close())
    with workdir.owned(tmp_path):
      assert looking.closed


def run_files(folder: pathlib.Path) -> list[str]:
  """Writes files of training and of users; returns those of training."""
  for name in ('capsule-3', 'unreadable-2.2', 'tensorboard', 'notes', 'checkpoints/7'):
    (folder / name).mkdir(parents=True, exist_ok=True)
    (folder / name / 'file').write_text('x')
  own = ['bad_records.txt', 'evaluation-2.json', 'learned.json', 'wandb_id.txt']
  own.append('metrics.jsonl')
  for name in [*own, 'train.log', 'my_config.json', 'lock']:
    (folder / name).write_text('x')
  dirs = ['capsule-3/', 'checkpoints/', 'tensorboard/', 'unreadable-2.2/']
  return sorted([*own, *dirs, 'config.json'])


def test_overwriting_removes_a_run_and_nothing_else(begun):
  folder = begun[0]
  own = run_files(folder)
  removed, kept = overwrite.remove_run(folder)
  assert removed == own
  assert kept == ['my_config.json', 'notes/', 'train.log']
  rest = sorted(path.name for path in folder.iterdir())
  assert rest == ['lock', 'my_config.json', 'notes', 'train.log']
  assert overwrite.remove_run(folder) == ([], kept)


@pytest.mark.parametrize('config', [None, '{"hidden_size": 768}', '{"task'])
def test_only_runs_are_overwritten(begun, config):
  folder = begun[0]
  run_files(folder)
  (folder / 'config.json').unlink()
  if config is not None:
    (folder / 'config.json').write_text(config)
  before = sorted(folder.rglob('*'))
  with pytest.raises(UserError, match='no config.json of a run, so they may belong'):
    overwrite.remove_run(folder)
  assert sorted(folder.rglob('*')) == before


def test_links_are_not_followed_when_overwriting(begun, tmp_path):
  folder = begun[0]
  (folder / 'checkpoints').rename(tmp_path / 'big_disk')
  (folder / 'checkpoints').symlink_to(tmp_path / 'big_disk')
  with pytest.raises(UserError, match='checkpoints is a link to .*big_disk: remove or'):
    overwrite.remove_run(folder)
  assert (tmp_path / 'big_disk' / '2').is_dir() and (folder / 'config.json').exists()


def test_failures_are_noted_and_forgotten(tmp_path):
  note = tmp_path / workdir.FAILURE
  with pytest.raises(UserError), workdir.owned(tmp_path):
    raise UserError('the loss is not finite')
  assert note.read_text() == 'the loss is not finite\n'
  with pytest.raises(KeyboardInterrupt), workdir.owned(tmp_path):
    raise KeyboardInterrupt
  assert not note.exists()
