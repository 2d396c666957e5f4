"""Every tool starts as a script, from any folder, and has a help text."""

import pathlib

REPOSITORY = pathlib.Path(__file__).parents[2]
# The program starts each tool as if it were the only one: with the path and the modules
# of tools that a new process has.
PROGRAM = """
import contextlib, io, runpy, sys
path = list(sys.path)
for file in sys.argv[1:]:
  sys.path[:] = [file.rpartition('/')[0], *path[1:]]
  for name in [n for n in sys.modules if n.split('.')[0] == 'tools']:
    del sys.modules[name]
  sys.argv, out = [file, '--help'], io.StringIO()
  try:
    with contextlib.redirect_stdout(out):
      runpy.run_path(file, run_name='__main__')
  except SystemExit as end:
    print(file, end.code, len(out.getvalue()) > 100)
"""


def scripts() -> list[pathlib.Path]:
  """Returns the files of tools/ that are commands."""
  return [
    path
    for path in sorted((REPOSITORY / 'tools').rglob('*.py'))
    if '  parser = ' in path.read_text()
  ]


def test_every_script_has_help(spawn):
  files = list(map(str, scripts()))
  assert len(files) > 15
  done = spawn('-c', PROGRAM, *files)
  assert done.returncode == 0, done.stderr
  assert done.stdout.splitlines() == [f'{file} 0 True' for file in files]
