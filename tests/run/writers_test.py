"""Tests that writers get the scalars of metrics.jsonl; a stand-in replaces W&B."""

import json
import sys
import types

import pytest

from big_vision_like.errors import UserError
from big_vision_like.run import metrics, progress, writers
from big_vision_like.spec import spec


def test_a_training_tells_its_writers_all(run, tmp_path):
  node = {'_fn': 'recording_writer:Recording', 'path': f'{tmp_path}/calls'}
  words = (
    *('-m', 'big_vision_like.train', '--config=tests/tiny_config.py'),
    *(f'--workdir={tmp_path}/run', f'--config.writers.own={node}'),
    *('--config.total_steps=8', '--config.log_every=2', '--config.evals.val.every=4'),
  )
  stopped = run(*words, '--drill=preempt@4')
  assert stopped.returncode == 0, stopped.stderr
  done = run(*words)
  assert done.returncode == 0, done.stderr
  calls = [json.loads(line) for line in (tmp_path / 'calls').read_text().splitlines()]
  # Writers start at step 0 and at the saved step, and finish without failure.
  assert [call for call in calls if call[0] != 'write'] == [
    ['start', f'{tmp_path}/run', 0, 0],
    ['finish', False],
    ['start', f'{tmp_path}/run', 0, 4],
    ['finish', False],
  ]
  written = [(step, scalars) for name, step, *scalars in calls if name == 'write']
  lines = metrics.read(tmp_path / 'run')
  assert len(written) == len(lines) > 8
  for (step, [scalars]), line in zip(written, lines, strict=True):
    kind = line['kind']
    named = {k: v for k, v in line.items() if k not in ('step', 'kind')}
    prefix = '' if kind == 'eval' else f'{kind}/'
    assert scalars == {f'{prefix}{k}': v for k, v in named.items()}
    assert step == line['step']


@pytest.fixture
def wandb(monkeypatch):
  """Returns a stand-in for the module, which records its calls in `calls`."""
  calls = []

  class Run:
    def define_metric(self, *args, **kwargs):
      calls.append(('define_metric', args, kwargs))

    def log(self, scalars):
      calls.append(('log', scalars))

    def finish(self, exit_code):
      calls.append(('finish', exit_code))

  def init(**kwargs):
    calls.append(('init', kwargs))
    return Run()

  module = types.ModuleType('wandb')
  module.__spec__ = types.SimpleNamespace(name='wandb')
  module.init, module.calls = init, calls
  monkeypatch.setitem(sys.modules, 'wandb', module)
  return module


def test_weights_and_biases(wandb, tmp_path):
  workdir, config = tmp_path / 'digits', {'seed': 3}
  workdir.mkdir()
  [made] = writers.build({'wandb': spec(writers.WandB, project='vit', tags=['a'])})
  with writers.started([made], workdir, config, 0):
    made.write(5, {'train/loss': 1.5})
  name, first = wandb.calls[0]
  assert name == 'init' and (first['project'], first['config']) == ('vit', config)
  assert (first['name'], first['dir'], first['tags']) == ('digits', str(workdir), ['a'])
  assert wandb.calls[3:] == [('log', {'step': 5, 'train/loss': 1.5}), ('finish', 0)]
  # Resumed training continues the same W&B run; an error marks it as failed.
  wandb.calls.clear()
  with pytest.raises(KeyError), writers.started([made], workdir, config, 5):
    raise KeyError
  name, again = wandb.calls[0]
  assert again['id'] == first['id'] and again['resume'] == 'allow'
  assert wandb.calls[-1] == ('finish', 1)


def test_missing_packages_are_reported_before_a_run(monkeypatch):
  monkeypatch.setitem(sys.modules, 'wandb', None)
  monkeypatch.setattr(writers.importlib.util, 'find_spec', lambda name: None)
  with pytest.raises(UserError, match=r"config.writers.a .*pip install '.\[wandb\]'"):
    writers.build({'a': spec(writers.WandB, project='vit')})


@pytest.mark.parametrize('node', [3, spec(progress.duration, seconds=1.0)])
def test_only_writers_are_taken(node):
  with pytest.raises(UserError, match='config.writers.a is not a Writer'):
    writers.build({'a': node})
