"""Tests that every tool starts as a script in any folder and explains its options."""

import ast
import pathlib

from big_vision_like import commands

REPOSITORY = pathlib.Path(__file__).parents[2]
METHODS = ('.add_argument', '.add_parser')
# The program starts each tool as if alone: with the path, and with the modules of
# tools, that a new process has.
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
  found = commands.tools(REPOSITORY).values()
  return [command.file for command in found]


def adds_option(call: ast.Call) -> bool:
  """Returns whether a call adds an option to a parser, whose method may be `add`."""
  name = ast.unparse(call.func)
  option = bool(call.args) and ast.unparse(call.args[0]).startswith("'--")
  return name.endswith(METHODS) or (name == 'add' and option)


def test_a_folder_has_commands_or_modules():
  """Checks that a folder has only commands, or an `__init__` that says it has none."""
  files = [p for p in (REPOSITORY / 'tools').rglob('*.py') if p.name != '__init__.py']
  known, of_commands = set(scripts()), {path.parent for path in scripts()}
  for path in files:
    assert (path in known) == (path.parent in of_commands), path
    assert (path in known) == ("if __name__ == '__main__':" in path.read_text()), path
  for folder in {path.parent for path in files} - of_commands:
    told = ast.get_docstring(ast.parse((folder / '__init__.py').read_text()))
    assert told.endswith('is a command.'), folder


def test_every_option_has_help():
  places = [*(REPOSITORY / 'tools').rglob('*.py')]
  places += (REPOSITORY / 'big_vision_like').rglob('*.py')
  found = [
    f'{path.relative_to(REPOSITORY)}:{node.lineno}: {ast.unparse(node)}'
    for path in places
    for node in ast.walk(ast.parse(path.read_text()))
    if isinstance(node, ast.Call) and adds_option(node)
    if 'help' not in {keyword.arg for keyword in node.keywords}
  ]
  assert not found


def test_every_script_has_help(spawn):
  files = list(map(str, scripts()))
  assert len(files) > 15
  done = spawn('-c', PROGRAM, *files)
  assert done.returncode == 0, done.stderr
  assert done.stdout.splitlines() == [f'{file} 0 True' for file in files]
