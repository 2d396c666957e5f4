import ast
import pathlib

import pytest

REPOSITORY = pathlib.Path(__file__).parent.parent
PACKAGE = REPOSITORY / 'big_vision_like'

# What each folder may import of ours besides itself and `errors`; files at the top of
# the package may import everything.
MAY_IMPORT = {
  'ops': set(),
  'layers': {'ops'},
  'models': {'layers', 'ops', 'weights'},
  'tasks': {'models', 'ops', 'optim'},
  'data': {'ops', 'spec', 'malloc'},
  'evals': {'ops', 'data', 'viz'},
  'weights': set(),
  'viz': set(),
}
# Models that extend another one: (who, whom).
EXTENSIONS = {('deit', 'vit'), ('unit', 'detr')}
NEVER = {'configs', 'tools', 'tests', 'tensorflow', 'torch', 'torchvision'}
# These import TensorFlow.
NEVER_MODULES = {'clu', 'clu.metric_writers', 'flax.training.checkpoints'}


def imported_modules(source: str) -> set[str]:
  """Every module that the source imports at any level; `from a import b` gives a.b."""
  names = set()
  for node in ast.walk(ast.parse(source)):
    if isinstance(node, ast.Import):
      names |= {alias.name for alias in node.names}
    elif isinstance(node, ast.ImportFrom):
      assert node.level == 0, 'relative imports are not used here'
      names |= {f'{node.module}.{alias.name}' for alias in node.names}
  return names


def violations(path: str, source: str) -> list[str]:
  """What a file of the package, at `path` within it, may not import."""
  folder = path.split('/')[0] if '/' in path else None
  found = []
  for module in sorted(imported_modules(source)):
    top, *rest = module.split('.')
    if top in NEVER or any(f'{module}.'.startswith(f'{n}.') for n in NEVER_MODULES):
      found.append(module)
    if top != 'big_vision_like' or folder is None or rest[0] == 'errors':
      continue
    if rest[0] != folder and rest[0] not in MAY_IMPORT[folder]:
      found.append(module)
    if folder == rest[0] == 'models':
      if (pathlib.Path(path).stem, rest[1]) not in EXTENSIONS:
        found.append(module)
  return found


def files() -> list[str]:
  return sorted(p.relative_to(PACKAGE).as_posix() for p in PACKAGE.rglob('*.py'))


@pytest.mark.parametrize('path', files())
def test_imports_go_one_way(path):
  assert violations(path, (PACKAGE / path).read_text()) == []


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
    ('models/unit.py', 'from big_vision_like.models import detr', True),
    ('models/swin.py', 'from big_vision_like.models import vit', False),
    ('data/a.py', 'def f():\n  from big_vision_like.models import vit', False),
    ('weights/a.py', 'from big_vision_like.ops import positions', False),
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
def test_training_loads_no_other_framework(name, run, tmp_path):
  # An importable stand-in, so that libraries that use it where they find it tell too.
  (tmp_path / name).mkdir()
  (tmp_path / name / '__init__.py').write_text('class Tensor:\n  pass\n')
  program = (
    'import sys, big_vision_like.train\n'
    'from big_vision_like.data import pipeline, sources\n'
    'source = sources.Tfds("digits")\n'
    'assert len(next(iter(pipeline.TrainInput(source=source, batch_size=4)))) == 3\n'
    f'print([n for n in sys.modules if n.split(".")[0] == "{name}"])\n'
  )
  done = run('-c', program, PYTHONPATH=str(tmp_path))
  assert (done.stdout, done.returncode) == ('[]\n', 0), done.stderr
