"""Tests of small sweeps: real trainings of four steps on the digits."""

import json
import pathlib
import re
import shutil
import sys

import pytest

from big_vision_like.data import benchmarks
from big_vision_like.errors import UserError
from big_vision_like.run import metrics
from tools import sweep

# Trains on 64 digits; the variant for tuning measures on digits that are not tested.
CONFIG = """
from big_vision_like import spec
from big_vision_like.errors import UserError

def get_config(arg=''):
  if arg not in ('', 'tune'):
    raise UserError(f'what is {arg!r}?')
  c = spec.load('tests/tiny_config.py')
  c.total_steps, c.train_data.source.split = 4, 'train[:64]'
  source = c.evals.val.data.source
  if arg == 'tune':
    source.split = 'train[64:192]'
  else:
    source.split = 'test[:128]'
    c.evals.test = c.evals.val
    del c.evals.val
  return c
"""
RATE = 'task.optimizer.rate.peak_value'


@pytest.fixture
def config(tmp_path):
  path = tmp_path / 'digits.py'
  path.write_text(CONFIG)
  return str(path)


def command(config, **changes):
  plain = dict(configs=[config], over=[], seeds=['0'], overrides=[])
  return plain | dict(metric='val/top1', test='test/top1') | changes


def test_a_sweep_tunes_reports_resumes_and_survives_a_crash(
  config, run, tmp_path, monkeypatch, capsys
):
  out = tmp_path / 'out'
  # With the first rate, the loss is not finite, and that run fails.
  over = f'{RATE}=1e30,0.01'
  fixed = ['keep_last=1', 'task.optimizer.rate.warmup_steps=1']
  words = ('tools/sweep.py', config, f'--over={over}', '--seeds=3', f'--out={out}')
  done = run(*words, *(f'--config.{text}' for text in fixed))
  assert done.returncode == 1, done.stderr
  assert 'error: 1 of 3 runs failed' in done.stderr
  assert re.search(r'failed: .*/tune/.*1e30,seed=3: .*not finite at step', done.stderr)
  assert re.search(r'\[1/3\].*peak_value=1e30 seed=3  FAILED .*not finite', done.stdout)
  saved = json.loads((out / 'results.json').read_text())
  [result] = saved['results']
  assert result['chosen'] == {RATE: '0.01'} and result['validation'] > 0
  assert result['test'] == [result['mean']] and result['std'] is None
  [final] = out.glob('*/final/*/config.json')
  plain = json.loads(final.read_text())
  assert plain['task']['optimizer']['rate']['peak_value'] == 0.01
  assert (plain['seed'], plain['keep_last'], list(plain['evals'])) == (3, 1, ['test'])
  assert metrics.last_evaluation(final.parent)['test/top1'] == result['mean']
  table = (out / 'results.md').read_text()
  assert f'peak_value=0.01 | {result["validation"]:.4f} | {result["mean"]:.4f}' in table

  # Finished runs are read, failed ones are tried again.
  trained = []
  monkeypatch.setattr(sweep, 'train', lambda run: trained.append(run) or 'once more')
  same = command(config, over=[over], seeds=['3'], overrides=fixed)
  again = sweep.Sweep(same, out)
  again.check()
  again.do(config)
  assert [run.values[RATE] for run in trained] == ['1e30']
  assert again.results == [result] and list(again.failed.values()) == ['once more']
  assert capsys.readouterr().out.count('(read)') == 2
  # A run whose folder was removed is run again.
  shutil.rmtree(final.parent)
  sweep.Sweep(same, out).do(config)
  assert [run.folder for run in trained[2:]] == [final.parent]

  with pytest.raises(UserError, match='to another sweep .metric: val/top1 -> val/loss'):
    sweep.Sweep(same | {'metric': 'val/loss'}, out)
  changed = json.loads((out / 'results.json').read_text())
  changed['command']['metric'] = 'val/top9'
  (out / 'results.json').write_text(json.dumps(changed))
  with pytest.raises(UserError, match="tune.* has no 'val/top9', only val/loss"):
    sweep.Sweep(changed['command'], out).do(config)
  with pytest.raises(UserError, match='belongs to a run with another config'):
    path = pathlib.Path(config)
    path.write_text(path.read_text().replace('[:64]', '[:65]'))
    sweep.Sweep(changed['command'], out).check()


@pytest.mark.parametrize(
  ('changes', 'sentence'),
  [
    (
      dict(over=['task.optimizer.rate.peak_valu=1']),
      "'peak_valu'; did you mean 'peak_value'",
    ),
    (dict(over=[f'{RATE}=fast']), f'{RATE} takes a float'),
    (dict(overrides=['total_step=1']), "did you mean 'total_steps'"),
    (dict(test='real/top1'), "no evaluator for 'real/top1': it has test"),
    (dict(metric='test/top1', over=[f'{RATE}=1']), "for 'test/top1': it has val"),
    (
      dict(metric='val/top9', over=[f'{RATE}=1']),
      "--metric='val/top9' is reported by no evaluator; there are val/top1",
    ),
    (dict(over=[f'{RATE}=1,,2']), 'write FIELD=VALUE,VALUE'),
    (dict(over=[f'{RATE}=1', f'{RATE}=2']), f'--over names {RATE} twice'),
  ],
)
def test_mistakes_are_reported_before_anything_runs(
  config, changes, sentence, tmp_path, data_dir
):
  with pytest.raises(UserError, match=sentence):
    sweep.Sweep(command(config, **changes), tmp_path / 'out').check()
  assert not (tmp_path / 'out').exists()


def test_configs_need_a_variant_for_tuning_only_where_there_is_something_to_tune(
  tmp_path,
):
  made = sweep.Sweep(command('tests/tiny_config.py', test='val/top1'), tmp_path)
  made.check()
  assert made.total == 1 and made.tuning('tests/tiny_config.py') == []


def test_the_best_is_the_first_of_equals_and_tests_are_never_looked_at(
  config, tmp_path, monkeypatch, data_dir
):
  over = [f'{RATE}=0.1,0.2,0.3', 'total_steps=1,2']
  made = sweep.Sweep(command(config, over=over, seeds=['5', '6']), tmp_path)
  assert made.total == 8
  asked = []

  def value(run):
    asked.append((run.config, run.seed, run.scalar))
    return {'0.1': 0.5, '0.2': 0.7, '0.3': 0.7}[run.values[RATE]]

  monkeypatch.setattr(made, 'value', value)
  made.do(config)
  assert asked[:6] == [(f'{config}:tune', '5', 'val/top1')] * 6
  assert asked[6:] == [(config, seed, 'test/top1') for seed in '56']
  assert made.results[0]['chosen'] == {RATE: '0.2', 'total_steps': '1'}
  assert made.results[0]['mean'] == 0.7 and made.results[0]['std'] == 0.0


def test_trainings_are_not_in_the_group_that_gets_ctrl_c(tmp_path, monkeypatch):
  program = 'import os; print(os.getpgrp() == os.getpid()); exit(3)'
  monkeypatch.setattr(sweep.Run, 'command', lambda _: [sys.executable, '-c', program])
  run = sweep.Run('a.py', (), {}, '0', tmp_path / 'run', 'val/top1')
  assert sweep.train(run) == 'True'


def test_values_may_be_tuples():
  assert sweep.read_values('a.b=1,(2, 3),[4,5],x') == (
    'a.b',
    ['1', '(2, 3)', '[4,5]', 'x'],
  )


def test_means_over_vtab_are_taken_for_each_seed():
  results = [
    {'config': f'configs/vit/vtab.py:{task},B/16', 'test': [0.5, 0.01 * i]}
    for i, task in enumerate(benchmarks.VTAB)
  ]
  rows = {row['config'].split()[-1]: row for row in sweep.groups(results)}
  assert rows['natural']['test'] == pytest.approx([0.5, 0.03])
  assert rows['all']['test'] == pytest.approx([0.5, 0.09])
  assert rows['all']['mean'] == pytest.approx(0.295)
  assert rows['all']['std'] == pytest.approx(0.41 / 2**0.5)
  assert rows['all']['config'] == 'configs/vit/vtab.py: B/16 all'
  results[3]['test'] = [0.5]  # a run failed, so there is no mean
  assert sweep.groups(results) == []
  assert sweep.groups(results[1:]) == []


OWN = """
from big_vision_like import spec

def get_config(SIGNATURE):
  CHECK
  return spec.load('tests/tiny_config.py', ['total_steps=4', 'evals.val.every=2'])
"""


@pytest.mark.parametrize(
  ('signature', 'check', 'argument'),
  [
    ('', '', ''),
    ("size='small'", "assert size in ('small', 'large')", ''),
    ("size='small'", "{'small': 1, 'large': 2}[size]", ':large'),
  ],
)
def test_any_config_is_its_own_variant(tmp_path, signature, check, argument, data_dir):
  file = tmp_path / 'own.py'
  file.write_text(OWN.replace('SIGNATURE', signature).replace('CHECK', check))
  own = f'{file}{argument}'
  made = sweep.Sweep(command(own, over=[f'{RATE}=1e-3,1e-2'], test=None), tmp_path)
  made.check()
  assert [run.config for run in made.tuning(own)] == [own] * 2
  assert made.command['test'] == 'val/top1'
  chooses, warning, reports = made.rules()
  assert chooses == (
    'chooses',
    f'the values with the highest val/top1 of {own}, seed 0',
  )
  assert warning[0] == 'warning' and 'results are optimistic' in warning[1]
  assert reports == ('reports', 'val/top1 with seed 0')


def test_the_evaluator_knows_that_a_lower_loss_is_better(
  tmp_path, monkeypatch, data_dir
):
  file = tmp_path / 'own.py'
  file.write_text(OWN.replace('SIGNATURE', '').replace('CHECK', ''))
  over = [f'{RATE}=0.1,0.2,0.3']
  own = command(str(file), over=over, metric='val/loss', test=None, seeds=['1', '2'])
  made = sweep.Sweep(own, tmp_path / 'out')
  made.check()
  assert [title for title, _ in made.rules()] == ['chooses', 'warning', 'reports']
  assert 'with the lowest val/loss' in made.rules()[0][1]
  losses = {'0.1': 0.9, '0.2': 0.4, '0.3': 0.7}
  monkeypatch.setattr(made, 'value', lambda run: losses[run.values[RATE]])
  made.do(str(file))
  [result] = made.results
  assert result['chosen'] == {RATE: '0.2'} and result['validation'] == 0.4
  assert result['test'] == [0.4, 0.4]


def test_the_variant_for_tuning_measures_on_other_data(config, tmp_path, data_dir):
  made = sweep.Sweep(command(config, over=[f'{RATE}=1'], seeds=['1', '2']), tmp_path)
  assert made.rules() == [
    ('chooses', f'the values with the highest val/top1 of {config}:tune, seed 1'),
    ('reports', 'test/top1 with seeds 1, 2'),
  ]
