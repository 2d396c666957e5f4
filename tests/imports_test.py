import ast
import pathlib

import pytest

REPOSITORY = pathlib.Path(__file__).parent.parent
PACKAGE = REPOSITORY / 'big_vision_like'
TOOLS = REPOSITORY / 'tools'

# The parts of our package that each folder, or file at its top, may import besides
# itself and BY_ALL: folders, or single modules. The programs at the top, and `cli`,
# which they share, may import everything.
MAY_IMPORT = {
  'errors': set(),
  'files': set(),
  'upgrade': set(),
  'spec': {'upgrade'},
  'optim': set(),
  'ops': set(),
  'layers': {'ops'},
  'models': {'layers', 'ops'},
  'tasks': {'models', 'ops', 'optim'},
  'data': {'ops', 'spec', 'devices.malloc', 'weights.archives', 'weights.pickles'},
  'evals': {'ops', 'data', 'viz'},
  'weights': {'ops.crc32c'},
  # Families are found by scanning: nothing else imports them.
  'weights.families': {
    *('weights', 'models', 'layers', 'inference', 'run', 'ops', 'data'),
  },
  'viz': set(),
  'devices': {'ops', 'optim'},
  'cost': {'devices', 'ops'},
}
MAY_IMPORT['run'] = {
  *('ops', 'models', 'tasks', 'optim', 'data', 'evals', 'weights', 'devices'),
  *('spec', 'upgrade', 'cli'),
}
MAY_IMPORT['inference'] = MAY_IMPORT['run'] - {'cli'} | {'run', 'viz'}
MAY_IMPORT['report'] = MAY_IMPORT['inference'] | {'inference', 'layers'}
BY_ALL = ('errors', 'files')
NEVER = {'configs', 'tools', 'tests', 'tensorflow', 'torch', 'torchvision'}
# These import TensorFlow.
NEVER_MODULES = {'clu', 'clu.metric_writers', 'flax.training.checkpoints'}


def imported_modules(source: str) -> set[str]:
  """Returns all imported modules of the source; `from a import b` gives a.b."""
  names = set()
  for node in ast.walk(ast.parse(source)):
    if isinstance(node, ast.Import):
      names |= {alias.name for alias in node.names}
    elif isinstance(node, ast.ImportFrom):
      assert node.level == 0, 'relative imports are not used here'
      names |= {f'{node.module}.{alias.name}' for alias in node.names}
  return names


def violations(path: str, source: str) -> list[str]:
  """Returns the imports that the file at `path` in the package must not have."""
  folder = path.split('/')[0].removesuffix('.py')
  inner = path.rpartition('/')[0].replace('/', '.')
  folder = inner if inner in MAY_IMPORT else folder
  found = []
  for module in sorted(imported_modules(source)):
    top, *rest = module.split('.')
    if top in NEVER or any(f'{module}.'.startswith(f'{n}.') for n in NEVER_MODULES):
      found.append(module)
    if top != 'big_vision_like' or folder not in MAY_IMPORT or rest[0] in BY_ALL:
      continue
    if not {rest[0], '.'.join(rest[:2])} & {folder, *MAY_IMPORT[folder]}:
      found.append(module)
    if rest[:2] == ['weights', 'families'] and folder != 'weights.families':
      found.append(module)
    if folder == rest[0] == 'models' and not extends(source, rest[1]):
      found.append(module)
  return found


def extends(source: str, model: str) -> bool:
  """Returns whether the docstring of a model file says that it extends another one."""
  return f'Extends `{model}`.' in (ast.get_docstring(ast.parse(source)) or '')


def files() -> list[str]:
  return sorted(p.relative_to(PACKAGE).as_posix() for p in PACKAGE.rglob('*.py'))


@pytest.mark.parametrize('path', files())
def test_imports_have_one_direction(path):
  assert violations(path, (PACKAGE / path).read_text()) == []


def bare_names(folder: pathlib.Path) -> set[str]:
  """Returns names by which a script in a folder of tools could import its siblings."""
  return {
    path.stem
    for path in folder.iterdir()
    if path.suffix == '.py' or (path / '__init__.py').exists()
  }


@pytest.mark.parametrize(
  'path',
  [p.relative_to(REPOSITORY).as_posix() for p in sorted(TOOLS.rglob('*.py'))],
)
def test_no_tool_imports_a_sibling_by_its_bare_name(path):
  file = REPOSITORY / path
  names = {name.partition('.')[0] for name in imported_modules(file.read_text())}
  assert names & bare_names(file.parent) == set()


def test_the_bare_names_of_tools_are_known():
  assert {'report', 'golden', 'benchmark'} <= bare_names(TOOLS)
  assert {'step', 'parts'} <= bare_names(TOOLS / 'benchmark')


def our_imports() -> dict[str, set[str]]:
  """Returns, for each module of the package, the modules of ours that it imports."""
  sources = {
    '.'.join(path.relative_to(REPOSITORY).with_suffix('').parts): path.read_text()
    for path in PACKAGE.rglob('*.py')
  }
  found = {}
  for module, source in sources.items():
    names = imported_modules(source)
    # `from a.b import c` imports the module a.b.c, or an object of the module a.b.
    names = {name if name in sources else name.rpartition('.')[0] for name in names}
    found[module] = names & sources.keys()
  return found


def cycle(imports: dict[str, set[str]]) -> list[str]:
  """Returns modules that import each other in a circle, or nothing."""
  done: set[str] = set()

  def search(module: str, path: list[str]) -> list[str]:
    if module in path:
      return path[path.index(module) :]
    if module not in done:
      for other in sorted(imports[module]):
        if found := search(other, [*path, module]):
          return found
      done.add(module)
    return []

  return next(filter(None, (search(module, []) for module in imports)), [])


def test_no_module_imports_itself_through_others():
  assert cycle(our_imports()) == []


def test_a_planted_cycle_is_caught():
  assert cycle({'a': {'b', 'd'}, 'b': {'c'}, 'c': {'b'}, 'd': set()}) == ['b', 'c']


def test_every_folder_has_a_rule():
  folders = {path.split('/')[0] for path in files() if '/' in path}
  assert folders and folders <= MAY_IMPORT.keys()


@pytest.mark.parametrize(
  'path, line, allowed',
  [
    ('ops/a.py', 'from big_vision_like.layers import attention', False),
    ('ops/a.py', 'from big_vision_like.ops import b', True),
    ('ops/a.py', 'from big_vision_like.errors import UserError', True),
    ('layers/a.py', 'import big_vision_like.models.vit', False),
    ('layers/a.py', 'from big_vision_like import models', False),
    (
      'models/unit.py',
      '"""UniT. Extends `detr`."""\nfrom big_vision_like.models import detr',
      True,
    ),
    ('models/swin.py', 'from big_vision_like.models import vit', False),
    ('data/a.py', 'def f():\n  from big_vision_like.models import vit', False),
    ('weights/a.py', 'from big_vision_like.ops import positions', False),
    ('data/a.py', 'from big_vision_like.devices import malloc', True),
    ('data/a.py', 'from big_vision_like.devices import mesh', False),
    ('weights/a.py', 'from big_vision_like.weights.families import vit', False),
    ('weights/families/a.py', 'from big_vision_like.models import vit', True),
    ('models/a.py', 'from big_vision_like.weights import tree', False),
    ('run/a.py', 'from big_vision_like.inference import loading', False),
    ('run/a.py', 'from big_vision_like import train', False),
    ('report/a.py', 'from big_vision_like import evaluate', False),
    ('optim/a.py', 'from big_vision_like.tasks import task', False),
    ('train.py', 'from big_vision_like.tasks import task', True),
    ('train.py', 'from configs.vit import pretrain', False),
    ('train.py', 'def f():\n  import tensorflow as tf', False),
    ('train.py', 'import tensorflow_datasets as tfds', True),
    ('train.py', 'from torch.utils import data', False),
    ('train.py', 'from clu import metric_writers', False),
    ('train.py', 'from flax.training import checkpoints', False),
  ],
)
def test_a_planted_import_is_caught(path, line, allowed):
  assert (violations(path, line) == []) == allowed


@pytest.mark.parametrize('name', ['tensorflow', 'torch'])
def test_training_loads_no_other_framework(name, spawn, tmp_path):
  # An importable stand-in also catches libraries that import the framework if they can.
  (tmp_path / name).mkdir()
  (tmp_path / name / '__init__.py').write_text('class Tensor:\n  pass\n')
  program = (
    'import sys, big_vision_like.train\n'
    'from big_vision_like.data.input import pipeline\n'
    'from big_vision_like.data.sources import tfds\n'
    'source = tfds.Tfds("digits")\n'
    'assert len(next(iter(pipeline.TrainInput(source=source, batch_size=4)))) == 3\n'
    f'print([n for n in sys.modules if n.split(".")[0] == "{name}"])\n'
  )
  done = spawn('-c', program, PYTHONPATH=str(tmp_path))
  assert (done.stdout, done.returncode) == ('[]\n', 0), done.stderr
