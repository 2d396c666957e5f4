"""Writes docs/models.md: every config with its model, size, published number, hardware.

    python tools/models_table.py                       # all configs, about ten minutes
    python tools/models_table.py configs/swin/i1k.py   # after these files changed

The page has the arguments that a file lists in its ARGUMENTS, and those that reproduce
a number in configs/papers. Parameters are counted from shapes, without data or weights.
If files are named, only their configs are counted; the page keeps the numbers of other
files. Sentences about hardware and time are taken from the file's docstring. Prepare
the data sets of `make train` first: configs that train on them need the number of
examples.
"""

import ast
import collections
import dataclasses
import functools
import json
import pathlib
import re
import sys
from collections.abc import Mapping, Sequence

import jax

from big_vision_like import cli, errors, files, spec
from big_vision_like.devices.processes import say
from big_vision_like.errors import UserError, shape_text
from big_vision_like.run import experiment

# Finds the other modules of tools if this file is run as a script.
sys.path.insert(0, str(pathlib.Path(__file__).parents[1]))

from tools.papers import cells as paper_cells
from tools.papers.cells import CONFIGS, Cell

PAGE = CONFIGS.parent / 'docs' / 'models.md'
COLUMNS = ('argument', 'model', 'image', 'parameters', 'published')
RULE = '|---|---|---:|---:|---|'
MOST = 3  # number of published numbers shown for a config
HARDWARE = re.compile(
  r'\b(TPU\w*|v\d[ep]?-\d+|[VAPTK]\d{2,3}|GPUs?|CPU|cores?)\b.*'
  r'\b(minutes?|hours?|days?|seconds?|h|\d+ (x )?[VAP]100)\b'
  r'|\b(minutes?|hours?|days?|seconds?|took|had)\b.*'
  r'\b(TPU\w*|v\d[ep]?-\d+|[VAPTK]\d{2,3}|GPUs?|CPU|cores?)\b'
)
LONGEST = 250  # characters of a sentence about hardware
# The number of examples of your own data is unknown until the data exist.
OVERRIDES = {'finetune': ('train_data.source.examples=100',)}


@dataclasses.dataclass(frozen=True)
class Size:
  """A config's models, image size and number of parameters, as text."""

  model: str
  image: str
  parameters: str


UNKNOWN = Size('', '', 'depend on data or weights')


def arguments(file: pathlib.Path) -> list[str]:
  """Returns the arguments of a config file, ARGUMENTS first; '' is no argument."""
  name = _name(file)
  own = [text[len(str(file)) :] for text in spec.variants(file)]
  other = [c.removeprefix(name) for c in published() if c.partition(':')[0] == name]
  return [text.removeprefix(':') for text in dict.fromkeys([*own, *sorted(other)])]


@functools.cache
def published() -> Mapping[str, list[Cell]]:
  """Returns the published numbers, by the config that reproduces them."""
  found = collections.defaultdict(list)
  for cell in paper_cells.read('cells', Cell):
    if cell.config:
      found[cell.config].append(cell)
  return found


def published_text(cells: Sequence[Cell]) -> str:
  """Returns text such as 'top1 81.3 % (2103.14030, tables 1, 4)'; at most `MOST`."""
  places = collections.defaultdict(list)
  for cell in cells:
    private = f' on {cell.private}' if cell.private else ''
    unit = {'fraction': ''}.get(cell.unit, f' {cell.unit}')
    what = f'{cell.metric.rpartition("/")[2]} {cell.text}{unit}{private}'.strip()
    places[what, cell.paper].append(cell.table)
  parts = []
  for (what, paper), tables in list(places.items())[:MOST]:
    where = 'table' if len(tables) == 1 else 'tables'
    parts.append(f'{what} ({paper}, {where} {", ".join(dict.fromkeys(tables))})')
  more = [f'{len(places) - MOST} more'] if len(places) > MOST else []
  return '; '.join(parts + more)


def hardware(docstring: str) -> list[str]:
  """Returns the sentences of a docstring about hardware and the time taken on it."""
  # Leaves out commands, which are indented, and the title, which is the first line.
  text = re.sub(r'^ {4}.*\n', '', docstring.partition('\n')[2], flags=re.MULTILINE)
  sentences = re.split(r'(?<=[.;])\s+|\n\n+', text)
  plain = [' '.join(sentence.split()).rstrip(';.') for sentence in sentences]
  told = [s for s in plain if HARDWARE.search(s) and len(s) <= LONGEST]
  return [f'{s[0].upper()}{s[1:]}.' for s in told]


@functools.cache
def _size(task: str, data: str, name: str) -> Size:
  """Returns the size for a task and data; `name` is a config that has them."""
  overrides = OVERRIDES.get(pathlib.Path(name.partition(':')[0]).stem, ())
  config = spec.load(str(CONFIGS.parent / name), overrides, root=experiment.Settings)
  run = experiment.make(config, planned_for=jax.devices()[:1])
  networks = run.task.networks().values()
  trained = [n for n in networks if not n.frozen] or list(networks)
  count = sum(leaf.size for leaf in jax.tree.leaves(run.abstract_state.params))
  return Size(
    model=' + '.join(dict.fromkeys(type(n.module).__name__ for n in trained)),
    image=_image(run),
    parameters=f'{count:,}',
  )


def _image(run: experiment.Experiment) -> str:
  """Returns the height and width of the images; the largest if they vary."""
  shapes = {
    tuple(x.shape[1:3])
    for keys, x in jax.tree_util.tree_leaves_with_path(run.abstract_batch)
    if keys[-1] == jax.tree_util.DictKey('image')
  }
  return ', '.join(map(shape_text, sorted(shapes)))


def size(name: str) -> Size:
  """Returns the size of a config, or `UNKNOWN` if it needs missing data or weights."""
  overrides = OVERRIDES.get(pathlib.Path(name.partition(':')[0]).stem, ())
  path = str(CONFIGS.parent / name)
  config = json.loads(spec.load(path, overrides, root=experiment.Settings).to_json())
  task = {k: v for k, v in config['task'].items() if k != 'optimizer'}
  try:
    return _size(json.dumps(task), json.dumps(config['train_data']), name)
  except UserError as error:
    say('unknown', f'{name}: {error}')
    return UNKNOWN


def known_sizes(text: str) -> dict[str, Size]:
  """Returns the sizes that a page contains, by config."""
  found, name = {}, ''
  for line in text.splitlines():
    if line.startswith('### ['):
      name = line.partition('[')[2].partition(']')[0]
    elif line.startswith('| ') and not line.startswith(f'| {COLUMNS[0]} '):
      argument, *cells = (cell.strip() for cell in line.split('|')[1:5])
      argument = argument.strip('`')
      found[f'{name}:{argument}' if argument else name] = Size(*cells)
  return found


def part(file: pathlib.Path, known: Mapping[str, Size]) -> list[str]:
  """Returns the lines about a config file: its title, hardware and configs.

  Parameters are counted for configs that are not in `known`.
  """
  docstring = ast.get_docstring(ast.parse(file.read_text(encoding='utf-8'))) or ''
  name = _name(file)
  lines = [f'### [{name}](../{name})', '', docstring.partition('\n')[0], '']
  if told := hardware(docstring):
    lines += [f'Hardware: {" ".join(told)}', '']
  lines += [f'| {" | ".join(COLUMNS)} |', RULE]
  for argument in arguments(file):
    config = f'{name}:{argument}' if argument else name
    found = known.get(config) or size(config)
    numbers = published_text(published().get(config, ()))
    shown = f'`{argument}`' if argument else ''
    cells = (shown, found.model, found.image, found.parameters, numbers)
    lines.append(f'| {" | ".join(cells)} |')
  return [*lines, '']


def page(known: Mapping[str, Size]) -> str:
  """Returns the whole page; counts parameters of configs that are not in `known`."""
  families = collections.defaultdict(list)
  for file in config_files():
    families[file.parent.name].append(file)
  lines = [
    '# Models and configs',
    '',
    'Written by `python tools/models_table.py`; edit the configs, not this page.',
    '',
    'Each line is a config: `--config=FILE:ARGUMENT`. Files take more arguments than',
    'these; their docstrings list them. Parameters are those that are trained, with',
    'the head. Published numbers are from `configs/papers/`, whose tables',
    '`python tools/paper_tables.py PAPER` prints with our results. Files without a',
    'line on hardware state none.',
    '',
  ]
  for family, members in families.items():
    lines += [f'## {family}', '']
    for file in members:
      lines += part(file, known)
    say('counted', f'configs/{family}')
  return '\n'.join(lines)


def config_files() -> list[pathlib.Path]:
  """Returns all config files."""
  return sorted(CONFIGS.glob('*/*.py'))


def _name(file: pathlib.Path) -> str:
  return file.relative_to(CONFIGS.parent).as_posix()


@errors.told_plainly
def main(argv: Sequence[str] | None = None) -> None:
  """Parses the command line and writes the page."""
  parser = errors.parser(__doc__, allow_abbrev=False)
  parser.add_argument(
    'files',
    nargs='*',
    type=pathlib.Path,
    help='config files to count again; default: all',
  )
  args = parser.parse_args(argv)
  cli.set_up_jax()
  named = [file.resolve() for file in args.files]
  for file in named:
    if file not in config_files():
      raise UserError(f'{file} is not a config file below {CONFIGS}')
  before = PAGE.read_text(encoding='utf-8') if PAGE.exists() and named else ''
  known = known_sizes(before)
  names = {_name(file) for file in named}
  kept = {k: v for k, v in known.items() if k.partition(':')[0] not in names}
  files.write(PAGE, page(kept))
  say('written', str(PAGE))


if __name__ == '__main__':
  raise SystemExit(main())
