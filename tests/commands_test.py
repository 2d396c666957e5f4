"""Tests of `bvl`, which finds every program and tool and runs it as `python` would."""

import pathlib
import shutil
import subprocess
import sys

import pytest

import big_vision_like
from big_vision_like import commands

REPOSITORY = pathlib.Path(__file__).parent.parent


def bvl(*words: str, root: pathlib.Path = REPOSITORY) -> subprocess.CompletedProcess:
  """Runs `python -m big_vision_like` with the package in a folder."""
  return subprocess.run(
    [sys.executable, '-m', 'big_vision_like', *words],
    cwd=root,
    env={'PYTHONPATH': str(root), 'JAX_PLATFORMS': 'cpu', 'HOME': '/nonexistent'},
    capture_output=True,
    text=True,
    timeout=120,
  )


def test_every_command_has_a_line_in_the_help(capsys):
  known = commands.programs() | commands.tools(REPOSITORY)
  named = {name for group in commands.GROUPS.values() for name in group}
  assert named <= known.keys()
  assert commands.main(['--help']) == 0
  lines = capsys.readouterr().out.splitlines()
  assert max(map(len, lines)) <= 80
  for name in known:
    assert sum(line.startswith(f'  {name}  ') for line in lines) == 1, name


def test_a_new_tool_is_listed_with_its_docstring(tmp_path):
  (tmp_path / 'tools' / 'more').mkdir(parents=True)
  (tmp_path / 'tools' / 'more' / 'new_one.py').write_text(
    '"""Counts leaves.\n\nSlowly."""\n\n\ndef main():\n  pass\n'
  )
  (tmp_path / 'tools' / 'library.py').write_text('"""Has no main."""\n')
  found = commands.tools(tmp_path)
  assert list(found) == ['more new-one']
  told = commands.help_text(found)
  assert told.endswith('Others\n  more new-one  Counts leaves.')


def test_help_imports_no_jax():
  program = (
    'import sys\nfrom big_vision_like import commands\n'
    'commands.main(["--help"])\n'
    'print([n for n in ("jax", "numpy") if n in sys.modules])'
  )
  done = subprocess.run(
    [sys.executable, '-c', program], cwd=REPOSITORY, capture_output=True, text=True
  )
  assert done.stdout.endswith('\n[]\n'), done.stderr


@pytest.mark.parametrize(
  'words, message',
  [
    (['pedict'], "there is no command 'pedict': did you mean 'predict'?"),
    (['benchmark', 'stepp'], "did you mean 'benchmark step'?"),
    (['show_inputs'], "did you mean 'show-input'?"),
    (['launch'], 'launch must be followed by one of: jobset, tpu-vm, xla-flags'),
    (['launch', '--help'], 'launch must be followed by one of: jobset,'),
    (['qqqqqq'], "there is no command 'qqqqqq'. `bvl --help` lists them all."),
  ],
)
def test_unknown_commands(words, message, capsys):
  assert commands.main(words) == 1
  told = capsys.readouterr()
  assert message in told.err and not told.out


def test_a_closed_output_pipe():
  program = (
    'import os, sys\nfrom big_vision_like import commands\n'
    'reading, writing = os.pipe()\nos.close(reading)\nos.dup2(writing, 1)\n'
    'sys.stdout.reconfigure(write_through=True)\n'
    'sys.exit(commands.main(["--help"]))'
  )
  done = subprocess.run(
    [sys.executable, '-c', program], cwd=REPOSITORY, capture_output=True, text=True
  )
  assert (done.returncode, done.stderr) == (128 + 13, '')


def test_version(capsys):
  assert commands.main(['--version']) == 0
  assert capsys.readouterr().out == f'big_vision_like {big_vision_like.__version__}\n'


def test_tools_and_programs_run_with_their_words_and_status():
  done = bvl('launch', 'xla-flags', 'gpu')
  script = subprocess.run(
    [sys.executable, 'tools/launch/xla_flags.py', 'gpu'],
    cwd=REPOSITORY,
    capture_output=True,
    text=True,
  )
  assert (done.stdout, done.returncode) == (script.stdout, script.returncode)
  done = bvl('preflight', '--workdir=gone')
  assert done.returncode == 1 and '--workdir=gone does not exist' in done.stderr
  done = bvl('predict', '--help')
  assert done.returncode == 0 and done.stdout.startswith('usage: bvl predict ')


def test_without_a_checkout_only_programs_run(tmp_path):
  shutil.copytree(REPOSITORY / 'big_vision_like', tmp_path / 'big_vision_like')
  done = bvl(root=tmp_path)
  assert done.returncode == 0
  assert '  train  ' in done.stdout and '  predict  ' not in done.stdout
  assert 'Tools and configs are files of a checkout' in done.stdout
  done = bvl('predict', 'cat.jpg', root=tmp_path)
  assert done.returncode == 1
  assert done.stderr.startswith('error: predict is a tool of a checkout, and ')
