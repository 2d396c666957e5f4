"""Tests of `runs.py list`, on folders of runs."""

import contextlib
import json
import pathlib
import re

import pytest

from big_vision_like.run import workdir
from tools import runs


def write_run(
  folder: pathlib.Path, step: int, total: object = 100, **results: float
) -> pathlib.Path:
  """Writes the folder of a run of `step` steps, with empty checkpoints."""
  (folder / 'checkpoints' / str(step)).mkdir(parents=True)
  config = {'name': 'configs/vit/digits.py:rope', 'total_steps': total}
  (folder / 'config.json').write_text(json.dumps(config))
  records = [{'step': 1, 'kind': 'info', 'total_steps': 100.0}]
  records += [{'step': step, 'kind': 'train', 'loss': 1.0}]
  if results:
    named = {f'test/{name}': value for name, value in results.items()}
    records += [{'step': step, 'kind': 'eval', **named}]
  lines = ''.join(json.dumps(record) + '\n' for record in records)
  (folder / 'metrics.jsonl').write_text(lines)
  return folder


@pytest.fixture
def folder(tmp_path):
  write_run(tmp_path / 'best', 100, top1=0.9)
  write_run(tmp_path / 'sweep' / 'a', 60, {'epochs': 3}, top1=0.5)
  write_run(tmp_path / 'sweep' / 'b', 100, {'epochs': 3}, top1=0.7)
  (tmp_path / 'weights').mkdir()
  (tmp_path / 'weights' / 'config.json').write_text('{}')  # not a run
  return tmp_path


@pytest.fixture
def listed(capsys):
  def call(*words):
    status = runs.main(['list', *map(str, words)])
    told = capsys.readouterr()
    return status, told.out, told.err

  return call


def test_runs_are_listed_with_step_state_and_results(listed, folder):
  status, out, err = listed(folder)
  assert (status, err) == (0, '')
  rows = [re.split(r' {2,}', line.strip()) for line in out.splitlines()[2:]]
  name, stopped, finished = 'vit/digits.py:rope', 'stopped', 'finished'
  assert [row[:5] for row in rows] == [
    ['best', name, finished, '100 of 100', 'test/top1 0.9'],
    ['sweep/a', name, stopped, '60 of 100', 'test/top1 0.5'],
    ['sweep/b', name, finished, '100 of 100', 'test/top1 0.7'],
  ]


def test_a_table_by_one_result(listed, folder):
  write_run(folder / 'none', 50)
  _, out, _ = listed(folder, '--sort=test/top1', '--metric=test/top1,test/loss')
  assert [line.split()[0] for line in out.splitlines()[2:]] == (
    ['best', 'sweep/b', 'sweep/a', 'none']
  )
  assert re.search(r'sweep/a .* 60 of 100 +0.5 ', out)
  _, out, _ = listed(folder, '--state=finished')
  assert [line.split()[0] for line in out.splitlines()[2:]] == ['best', 'sweep/b']


def test_running_and_failed(listed, folder):
  with workdir.owned(folder / 'sweep' / 'a'):
    _, out, _ = listed(folder, '--state=running')
    assert out.splitlines()[2].split()[0] == 'sweep/a'
  assert 'no running run in or below' in listed(folder, '--state=running')[1]
  with contextlib.suppress(OverflowError), workdir.owned(folder / 'sweep' / 'a'):
    raise OverflowError('too\nmuch')
  _, out, _ = listed(folder, '--state=failed')
  assert out.splitlines()[-1] == (
    f'failed    {folder}/sweep/a: OverflowError: too'  # only the first line
  )
  with workdir.owned(folder / 'sweep' / 'a'):  # no error from now on
    pass
  assert 'no failed run' in listed(folder, '--state=failed')[1]


def test_a_run_that_never_wrote_a_config_is_listed_if_it_failed(listed, tmp_path):
  with contextlib.suppress(ValueError), workdir.owned(tmp_path / 'new'):
    raise ValueError('no memory')
  _, out, _ = listed(tmp_path)
  assert re.search(r'new +failed +0 ', out) and 'ValueError: no memory' in out


def test_json(listed, folder):
  write_run(folder / 'sweep' / 'c', 100, loss=float('nan'))
  first, *_, last = json.loads(listed(folder, '--json')[1])
  assert first['results'] == {'test/top1': 0.9} and first['results_step'] == 100
  assert (first['step'], first['total_steps'], first['state']) == (100, 100, 'finished')
  assert last['results'] == {'test/loss': None}
  assert re.fullmatch(r'\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\+00:00', first['updated'])


@pytest.mark.parametrize(
  'words, message',
  [
    (['gone'], 'error: gone is not a folder: name one that has runs below it'),
    (['TOP', '--sort=test/top2'], 'no run has the result test/top2; did you mean test'),
  ],
)
def test_bad_words(words, message, listed, folder):
  status, _, err = listed(*[word.replace('TOP', str(folder)) for word in words])
  assert status == 1 and message in err


def test_a_damaged_config_does_not_hide_the_others(listed, folder):
  (folder / 'best' / 'config.json').write_text('{')
  status, out, err = listed(folder)
  assert status == 0 and 'sweep/a' in out and 'best' not in out
  assert re.match(r'left out  .*best/config.json is not JSON', err)


def test_ages():
  ages = [runs.age(seconds) for seconds in (-1, 59, 60, 7_199, 86_400 * 3)]
  assert ages == ['0 s ago', '59 s ago', '1 min ago', '1 h ago', '3 d ago']
