"""The command `bvl` (`python -m big_vision_like`), which runs all programs and tools.

Programs are modules of the package. Tools are the files in tools/ that define `main`.
People edit tools/ and configs/, so these belong to a checkout and not to the installed
package. A new tool needs no entry in this file: the help lists it under 'Others'.
"""

import pathlib
import re
import runpy
import sys
from collections.abc import Iterator, Mapping, Sequence
from typing import NamedTuple

from big_vision_like import __version__, errors
from big_vision_like.errors import UserError

PACKAGE = pathlib.Path(__file__).parent
CHECKOUT = PACKAGE.parent

PROGRAMS = {
  'train': 'train',
  'evaluate': 'evaluate',
  'plan': 'plan',
  'preflight': 'run.preflight',
}
# Groups of commands in the help, with one line for each command. Lines must fit into a
# terminal of 80 columns. Other commands follow in the last group, with the first line
# of their docstring.
GROUPS = {
  'Train and evaluate': {
    'train': 'train a config; run it again to resume',
    'evaluate': "run a config's evaluators on a checkpoint or on weights",
    'sweep': 'tune on validation data, then run with several seeds',
    'pseudo-label': 'label images with a teacher, for self-training',
    'average-checkpoints': "average the parameters of a run's last checkpoints",
    'demo': 'pretrain, transfer and report, in minutes',
  },
  'Before a run': {
    'explain': 'show what a config builds, and every parameter',
    'show-input': 'show the batches that the model sees, and their timing',
    'preflight': 'check all data that a config reads',
    'plan': 'predict memory, speed and cost on a TPU slice',
  },
  'Look at results': {
    'runs': 'list the runs in a folder with their last results',
    'report': 'write a page about runs or weights',
    'predict': 'classify images, or detect the objects in them',
    'translate': 'translate text line by line',
    'ask': 'answer questions about a picture with a run of tasks',
    'generate': 'generate images: samples, attention, interpolation',
    'extract-triples': 'find entities and relations in texts, as triples',
    'paper-tables': 'print published tables alongside our results',
  },
  'Data and weights': {
    'prepare-data': 'convert data sets to the format that training reads',
    'train-tokenizer': 'train a vocabulary of word pieces',
    'count-words': 'write the vocabulary of captions',
    'write-trees': 'write the words and symbols of trees, for a vocabulary',
    'convert-weights': 'convert weights between formats of several libraries',
    'build-class-graph': 'write a graph of classes from triples or annotations',
    'convert-visual-genome': "convert Visual Genome to COCO's format",
    'convert-regions': 'convert stored features of image regions',
    'build-answers': 'build the answers that models of VQA choose from',
  },
  'Many devices': {
    'launch tpu-vm': 'train on a TPU VM, a pod or several slices',
    'launch jobset': 'print a Kubernetes JobSet for TPUs or GPUs',
    'launch xla-flags': 'print XLA flags for many devices',
  },
  'Develop': {
    'smoke': 'run every config scaled down, with a restart',
    'check-golden': 'compare with outputs of original implementations',
    'models-table': 'write docs/models.md, the list of all configs',
    'readme-figures': 'train small models, draw the pictures of the README',
    'scaling-table': 'write the table of docs/scaling.md',
  },
  'Measure': {
    'benchmark step': 'measure training and prediction speed of a config',
    'benchmark inputs': 'measure the input pipeline on ImageNet-like JPEGs',
    'benchmark attention': 'measure the cost of attention, its cache and stacks',
    'benchmark classifiers': 'compare the speed of classifiers with timm',
    'benchmark detr': 'compare the speed of a DETR with transformers',
    'benchmark bert': 'compare the speed of BERT with transformers',
    'benchmark videos': 'measure the decoding of clips from video files',
    'benchmark graphs': 'measure attention over graphs in three forms',
    'benchmark gan': 'compare the speed of a GANsformer with PyTorch code',
    'benchmark sorting': 'measure sorts of many numbers by execution engines',
    'benchmark matching': 'measure the cost of matching targets to queries',
    'benchmark checkpoints': 'measure the cost of checksums in checkpoints',
    'benchmark kills': 'kill and resume training runs, compare the results',
    'benchmark faults': 'damage files and runs, count the outcomes',
  },
}
OTHERS = 'Others'


class Command(NamedTuple):
  """A program (a module of the package) or a tool (a file), with a summary."""

  summary: str = ''
  module: str = ''
  file: pathlib.Path | None = None

  def run(self) -> None:
    """Runs the command as `python` itself would, with the arguments in `sys.argv`."""
    if self.file is None:
      runpy.run_module(self.module, run_name='__main__', alter_sys=True)
    else:
      runpy.run_path(str(self.file), run_name='__main__')


def programs() -> dict[str, Command]:
  """Returns the programs of the package, by name."""
  return {
    name: Command(module=f'{__package__}.{module}') for name, module in PROGRAMS.items()
  }


def tools(checkout: pathlib.Path) -> dict[str, Command]:
  """Returns the tools of a checkout, by names such as 'benchmark step'."""
  return dict(_tools(checkout / 'tools'))


def _tools(folder: pathlib.Path) -> Iterator[tuple[str, Command]]:
  for path in sorted(folder.rglob('*.py')):
    text = path.read_text(encoding='utf-8')
    if re.search(r'^def main\(', text, re.MULTILINE):
      # Only the first line of the docstring is read: parsing takes much longer.
      first = re.match(r'"""(.*?)\s*("""|\n)', text)
      parts = path.relative_to(folder).with_suffix('').parts
      name = ' '.join(parts).replace('_', '-')
      yield name, Command(first[1] if first else '', file=path)


def is_checkout(folder: pathlib.Path) -> bool:
  """Returns whether a folder is a checkout, which has tools and configs."""
  return (folder / 'tools').is_dir() and (folder / 'configs').is_dir()


def help_text(commands: Mapping[str, Command]) -> str:
  """Returns the help: all commands in groups, with a line about each."""
  known = {name for group in GROUPS.values() for name in group}
  others = {name: c.summary for name, c in commands.items() if name not in known}
  width = max(map(len, commands))
  lines = [
    'usage: bvl COMMAND ...      bvl COMMAND --help      bvl --version',
    '',
    'Each is also `python -m big_vision_like COMMAND`; `bvl show-input` is the file',
    'tools/show_input.py, and so on.',
  ]
  for title, group in (GROUPS | {OTHERS: others}).items():
    here = [f'  {n:<{width}}  {line}' for n, line in group.items() if n in commands]
    lines += ['', title, *here] if here else []
  return '\n'.join(lines)


def chosen(words: Sequence[str], commands: Mapping[str, Command]) -> tuple[str, int]:
  """Returns the command named by the first words, and the number of these words."""
  for count in (2, 1):
    name = ' '.join(words[:count])
    if len(words) >= count and name in commands:
      return name, count
  folder = sorted(name for name in commands if name.startswith(f'{words[0]} '))
  name = ' '.join(words[:2]) if folder else words[0]
  if name in {name for names in GROUPS.values() for name in names}:
    raise UserError(
      f'{name} is a tool of a checkout, and {PACKAGE} is not in one: clone the'
      ' repository and install it with `pip install --editable .`'
    )
  if folder and (len(words) == 1 or words[1].startswith('-')):
    raise UserError(f'{words[0]} must be followed by one of: {_ends(folder)}')
  near = errors.nearest(name, commands)
  advice = f': did you mean {near[0]!r}?' if near else '.'
  raise UserError(f'there is no command {name!r}{advice} `bvl --help` lists them all.')


def _ends(names: Sequence[str]) -> str:
  return ', '.join(name.partition(' ')[2] for name in names)


@errors.told_plainly
def main(argv: Sequence[str] | None = None) -> None:
  """Prints the help, or runs the command named by the first words."""
  words = sys.argv[1:] if argv is None else list(argv)
  known = programs() | (tools(CHECKOUT) if is_checkout(CHECKOUT) else {})
  if not words or words[0] in ('-h', '--help', 'help'):
    print(help_text(known))
    if not is_checkout(CHECKOUT):
      print(f'\nTools and configs are files of a checkout; {PACKAGE} is not in one.')
  elif words[0] == '--version':
    print(f'big_vision_like {__version__}')
  else:
    name, count = chosen(words, known)
    errors.program = f'bvl {name}'
    sys.argv = [f'bvl {name}', *words[count:]]
    known[name].run()
