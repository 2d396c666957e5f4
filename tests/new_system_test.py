"""Tests that a new system only adds files: every tool finds those of a made-up one.

`new_system/` has its model, task, evaluator, weights, report, data, config, published
numbers, golden check and battery case; commands.py runs its user's commands. The files
are copied over a copy of the repository.
"""

import pathlib
import shutil
import subprocess

import pytest

REPOSITORY = pathlib.Path(__file__).parent.parent
COPIED = ('big_vision_like', 'configs', 'tools', 'tests/battery')


@pytest.fixture(scope='module')
def copy(tmp_path_factory) -> pathlib.Path:
  """Returns a copy of the repository to which only the new system's files are added."""
  folder = tmp_path_factory.mktemp('repository')
  for name in COPIED:
    shutil.copytree(REPOSITORY / name, folder / name)
  before = {path for path in folder.rglob('*') if path.is_file()}
  new = REPOSITORY / 'tests' / 'new_system'
  for path in new.rglob('*.*'):
    assert folder / path.relative_to(new) not in before, path  # no file is edited
  shutil.copytree(new, folder, dirs_exist_ok=True)
  return folder


@pytest.fixture(scope='module')
def done(copy, command) -> subprocess.CompletedProcess:
  """Runs the commands in that copy, and returns their output."""
  made = command('commands.py', PYTHONPATH=f'{copy}:{copy}/tests', TFDS_DATA_DIR='data')
  return subprocess.run(
    **made | dict(cwd=copy), capture_output=True, text=True, timeout=300
  )


def test_every_tool_finds_a_new_system(done, copy):
  assert done.returncode == 0, done.stdout + done.stderr
  printed = dict(
    part.split('\n', 1) for part in done.stdout.split('== ') if part.strip()
  )
  assert '1 of 1 within tolerance' in printed['tools.check_golden']
  assert '1 of 1 configs pass' in printed['tools.smoke']
  assert 'somebody Averager' in printed['tools.convert_weights']
  assert '258,024' in printed['tools.paper_tables']
  assert 'It averages into 4096 numbers.' in (copy / 'run' / 'report.html').read_text()


def test_its_run_appears_next_to_the_published_number(done, copy):
  table = (copy / 'tables' / '2611.00001.md').read_text()
  assert '| Averager | 0.25 |' in table
  assert 'reproduced' in table and '(1)' in table


def test_half_a_system_is_named(copy, command):
  """Checks that a file that declares only half gives one sentence with its name."""
  folder = copy / 'big_vision_like' / 'weights' / 'families'
  whole = (folder / 'averager.py').read_text()
  (folder / 'averager.py').write_text(whole.replace('  describe=describe,\n', ''))
  made = command(
    '-c',
    'from big_vision_like.errors import UserError\n'
    'from big_vision_like.weights import family\n'
    'try:\n  family.families()\nexcept UserError as error:\n  print(error)',
    PYTHONPATH=str(copy),
  )
  told = subprocess.run(**made | dict(cwd=copy), capture_output=True, text=True)
  (folder / 'averager.py').write_text(whole)
  assert told.stdout.startswith('big_vision_like/weights/families/averager.py: FAMILY')
  assert 'describe' in told.stdout and told.stdout.count('\n') == 1, told.stderr
