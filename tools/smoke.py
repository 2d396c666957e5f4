"""Every config in small: a few steps with a restart, and every evaluator.

    python tools/smoke.py [CONFIG[:ARGUMENT] ...]

Without names all of configs/, with all their ARGUMENTS. The real loop runs a config to
step 1, is interrupted and saves; started again it restores that and goes to step 2, or
until each of several tasks had a step. A config passes if its loss and learning rates
are finite, what is restored is what was saved, to the bit, every evaluator finds finite
scalars (`keep_best` among them), and there is a checkpoint of the last step. Each
config gets a line, and so does what fails at the end, where the exit status is 1 if
anything did.

Nothing has to be prepared: data sets of TFDS, and in COCO's format, are made up (see
`data/sources/fake.py`), also those that are there, so that it is the same everywhere;
vocabularies are learnt from that, and weights of `init_from` left out. Schedules are
those of the whole run.

Configs are shrunk by the names of arguments, those left at their defaults too, in all
recorded calls. So a new model is covered if it names its sizes as others do; a new name
goes into `AT_MOST` or, where no bound does, into `small`.
"""

import argparse
import contextlib
import dataclasses
import inspect
import io
import itertools
import math
import multiprocessing
import os
import pathlib
import re
import tempfile
import time
import traceback
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent import futures
from typing import Any

import grain
import jax
import ml_collections as mlc
import numpy as np

from big_vision_like import cli, errors, files, optim, spec, train
from big_vision_like.data.prepare import tokenizer
from big_vision_like.data.sources import coco, fake, tfds
from big_vision_like.data.text import vocabulary
from big_vision_like.data.transforms import boxes
from big_vision_like.errors import UserError
from big_vision_like.models import resnet
from big_vision_like.run import checkpoint, experiment, init_from, metrics
from big_vision_like.tasks.task import State

CONFIGS = pathlib.Path(__file__).parent.parent / 'configs'
# Programs that run once or twice on tiny arrays: half the time to compile them.
QUICK = '--xla_backend_optimization_level=0 --xla_llvm_disable_expensive_passes=true'

# Of the four labels that are made up there are SHOTS examples each, and the last batch
# of an evaluation is not full.
SHOTS, BATCH = 5, 8
WIDTH = 32
AT_MOST = {
  'accumulate': 2,
  'batch_size': BATCH,
  'decoder_depth': 2,
  'depth': 2,
  'encoder_depth': 2,
  'every': 0,  # evaluators run at the end alone
  'examples': SHOTS * fake.LABELS,
  'extra_length': 4,
  'hidden': WIDTH,
  'iterations': 2,
  'max_length': 64,
  'mlp_dim': 2 * WIDTH,
  'num_classes': 1000,
  'num_heads': 2,
  'pictures': 1,
  'registers': 2,
  'rep_size': WIDTH,
  'root': WIDTH // 2,
  'slot_size': WIDTH // 2,
  'source_length': 64,
  'target_length': 64,
  'vocab_size': 128,
  'workers': 0,
}
# Room for the objects of made-up pictures.
ROOM = dict.fromkeys(('max_boxes', 'max_segments', 'num_queries'), fake.THINGS[1])
UNITS = (2, 1)
# Of ResNets of which more than the last stage is read.
STAGES = (2, 1, 1, 1)
# Of convolutions at the size of pictures: channels, kernel, and any stride.
CONV = (8, 3, math.inf)
# Patches of larger pictures than this are cut to PATCH, and their sizes (in order) to
# this, this and STRIDE more, ...; STRIDE is what ResNets divide sides by.
SIDE, STRIDE, PATCH = 64, 32, 8
# Sides that boxes go with are divided by this, where images are resized.
LESS = 8
RESIZES = {boxes.ResizeShort, boxes.RandomResizeShort}
# Of what went wrong, so many characters are told.
LENGTH = 500
# Parts of models in rules for parameters, which a model that is less deep has not.
NUMBERED = re.compile(r'block_(?P<from_0>\d+)|(?:unit|stage)(?P<from_1>\d+)')


@dataclasses.dataclass(frozen=True)
class Row:
  """How a config did; `problem` is empty where all is well."""

  name: str
  seconds: float
  problem: str
  notes: Sequence[str] = ()

  def __str__(self) -> str:
    how = f'FAILED: {self.problem}' if self.problem else '; '.join(('ok', *self.notes))
    return f'{self.seconds:5.1f} s  {self.name}  {how}'


def all_configs() -> list[str]:
  """Every file of configs/ with every argument that it names."""
  names = []
  for file in sorted(CONFIGS.glob('*/*.py')):
    file = os.path.relpath(file)
    try:
      names += spec.variants(file)
    except Exception:  # a file that cannot be read fails in its own row
      names.append(file)
  return names


def shrink(
  config: mlc.ConfigDict, words: pathlib.Path
) -> tuple[mlc.ConfigDict, list[str]]:
  """A config that trains two steps in seconds, and what in it is not the config's."""
  plain = in_steps(config)
  result = shrunk(plain, small_sides(plain), words)
  data = spec.build(result['train_data'], 'config.train_data')
  steps = next(n for n in itertools.count(2) if covers(data, n))
  result |= dict(total_steps=steps, log_every=1, checkpoint_every=0, mesh={})
  names = [
    node['name']
    for path, node in spec.calls(result)
    if spec.symbol(node, path) is fake.Fake
  ]
  notes = [f'made up: {", ".join(sorted(set(names)))}'] if names else []
  if result.get('init_from') is not None:
    result['init_from'] = None
    notes.append('init_from left out')
  if result.get('frozen'):
    untrained = dict(spec.spec(init_from.Untrained))
    result['frozen'] = dict.fromkeys(result['frozen'], untrained)
    notes.append('frozen networks untrained')
  return mlc.ConfigDict(result), notes


def in_steps(config: mlc.ConfigDict) -> dict[str, Any]:
  """Plain copy of a config with durations in steps of a nominal epoch."""
  batch_size = spec.held(config.train_data, 'batch_size') or BATCH
  return spec.in_steps(config, spec.NOMINAL_EPOCH, batch_size)


def covers(data: Any, steps: int) -> bool:
  """Whether so many steps have batches of all parts of an input."""
  return len(data.parts) == 1 or {n for n, _ in data.signatures(steps)} == {*data.parts}


def shrunk(node: Any, sides: Mapping[int, int], words: pathlib.Path) -> Any:
  """Plain copy of a node of a config, with all sizes in it small."""
  if isinstance(node, (list, tuple)):
    return type(node)(shrunk(value, sides, words) for value in node)
  if not isinstance(node, Mapping):
    return node
  node = {key: shrunk(value, sides, words) for key, value in node.items()}
  if '_fn' not in node:
    return node
  fn = spec.symbol(node)
  made_up = dict(examples=AT_MOST['examples'], classes=AT_MOST['num_classes'])
  if fn is tfds.Tfds:
    kept = {name: node[name] for name in ('name', 'split') if name in node}
    return dict(spec.spec(fake.Fake, **kept, **made_up))
  if fn is coco.Coco:
    name = 'coco/2017' if node.get('panoptic') is None else 'coco/2017_panoptic'
    return dict(spec.spec(fake.Fake, name=name, **made_up))
  if fn is vocabulary.SentencePiece:
    return node | {'path': learnt(words)}
  parameters = inspect.signature(fn).parameters
  values = {k: node.get(k, parameter.default) for k, parameter in parameters.items()}
  for name, value in values.items():
    if fn is boxes.Pad and name == 'sizes':
      less = each(largest(value), lambda side: sides.get(side, side))
    elif is_side(fn, name):
      less = each(value, lambda side: sides.get(side, side))
    elif name == 'depths' and fn is resnet.ResNet:
      less = type(value)(map(min, value, STAGES))
    elif name == 'grid' and 'decoder_convs' in values:
      less = small_grid(value, values['decoder_convs'], sides)
    else:
      less = small(name, value, pictures_shrink=bool(sides))
    if less != value:
      node[name] = less
  return node


def small(name: str, value: Any, pictures_shrink: bool) -> Any:
  """What becomes of an argument, whatever it is an argument of."""
  if name == 'predict_args' and isinstance(value, Mapping):
    return {k: small(k, v, pictures_shrink) for k, v in value.items()}
  if name.endswith('_rules'):
    return type(value)(rule for rule in value if matches_shallow(rule[0]))
  if name == 'shots':
    return tuple(shots for shots in value if shots <= SHOTS)
  if type(value) is int and name in AT_MOST:
    return min(value, AT_MOST[name])
  if type(value) is int and name in ROOM:
    return ROOM[name]
  if type(value) is int and name == 'width':
    # Less than 16 is a factor of the width, as ResNets have.
    return min(value, WIDTH) if value >= 16 else min(value, 1)
  if name == 'patch' and pictures_shrink:
    return each(value, lambda side: min(side, PATCH))
  if name == 'channels':
    return each(value, lambda channels: min(channels, WIDTH))
  if name.endswith('_convs'):
    return type(value)(tuple(map(min, conv, CONV)) for conv in value)
  if isinstance(value, (list, tuple)) and name in ('depths', 'resnet'):
    # Units of the first stages, in front of which nothing is halved and something is.
    return type(value)(map(min, value, UNITS))
  return value


def each(value: Any, change: Callable[[int], int]) -> Any:
  """A side, or height and width, or several, changed."""
  if isinstance(value, (list, tuple)):
    return type(value)(each(v, change) for v in value)
  return change(value) if type(value) is int else value


def largest(sizes: Sequence[Sequence[int]]) -> Sequence[Sequence[int]]:
  """The heights and widths that lie in no other."""
  return type(sizes)(
    size
    for size in sizes
    if not any(size != o and size[0] <= o[0] and size[1] <= o[1] for o in sizes)
  )


def small_grid(
  grid: Sequence[int], convs: Sequence[Sequence[int]], sides: Mapping[int, int]
) -> Sequence[int]:
  """What a decoder starts from that makes pictures as small as those it is given."""
  scale = math.prod(stride for _, _, stride in convs)
  return each(grid, lambda side: sides.get(side * scale, side * scale) // scale)


def matches_shallow(pattern: str) -> bool:
  """Whether a rule may match a parameter of a model that is not deep any more."""
  numbers = [
    int(match['from_0'] or 0) + int(match['from_1'] or 1)
    for match in NUMBERED.finditer(pattern)
  ]
  return max(numbers, default=1) <= AT_MOST['depth']


def is_side(fn: Callable[..., Any], name: str) -> bool:
  """Whether an argument is the size of a picture, or its height and width."""
  kinds = (grain.transforms.Map, grain.transforms.RandomMap)
  is_transform = isinstance(fn, type) and issubclass(fn, kinds)
  if fn is boxes.PanopticTruth:
    return False  # room for images as they are in the data
  if fn.__module__ == boxes.__name__ and name in ('sizes', 'longest', 'low', 'high'):
    return True
  return is_transform and (name == 'size' or name.endswith('_size'))


def small_sides(config: Any) -> dict[int, int]:
  """What becomes of each side of a picture that is too large."""
  calls = [(spec.symbol(node, path), node) for path, node in spec.calls(config)]
  values = [
    value for fn, node in calls for name, value in node.items() if is_side(fn, name)
  ]
  sides = {side for value in values for side in np.ravel(value).tolist() if side}
  fns = {fn for fn, _ in calls}
  if boxes.Pad in fns:
    large = fns & RESIZES and max(sides) > LESS * SIDE
    return {side: side // LESS for side in sides} if large else {}
  large = sorted(side for side in sides if side > SIDE)
  return {side: SIDE + STRIDE * i for i, side in enumerate(large)}


def check(name: str, workdir: pathlib.Path, words: pathlib.Path) -> list[str]:
  """Runs a config in small; returns notes, raises for whatever is wrong with it."""
  whole = spec.load(name, root=experiment.Settings)
  config, notes = shrink(whole, words)
  check_rates(whole)
  saved = train.train(config, workdir, drill=1)
  check_restored(workdir, saved)
  train.train(config, workdir)
  check_records(config, workdir)
  return notes


def check_rates(config: mlc.ConfigDict) -> None:
  """Learning rates of the whole run: the first, one in the middle, and the last."""
  plain = in_steps(config)
  total = plain['total_steps']
  for path, node in spec.calls(plain):
    if path.endswith('.rate'):
      steps = np.array([0, total // 2, total])
      rates = jax.jit(jax.vmap(spec.build(node, path)))(steps)
      for step, rate in zip(steps, np.asarray(rates), strict=True):
        if not np.isfinite(rate):
          raise UserError(f'{path} is {rate} at step {step:,} of {total:,}')


def check_restored(workdir: pathlib.Path, saved: State) -> None:
  """Compares what a checkpoint holds with what was in memory."""
  like = jax.tree.map(
    lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=x.sharding), saved.trained
  )
  with checkpoint.Checkpoints(workdir) as checkpoints:
    restored, *_ = checkpoints.restore(like)
  before = jax.tree_util.tree_leaves_with_path(saved.trained)
  for (keys, x), y in zip(before, jax.tree.leaves(restored), strict=True):
    if np.asarray(x).tobytes() != np.asarray(y).tobytes():
      raise UserError(f'{optim.path_of(keys)} is restored with other bits than saved')


def check_records(config: mlc.ConfigDict, workdir: pathlib.Path) -> None:
  """Looks through what the run has written."""
  last = config.total_steps
  if checkpoint.steps(workdir)[-1:] != [last]:
    there = checkpoint.steps(workdir)
    raise UserError(f'no checkpoint of step {last}, only of {there}')
  found = {'train': {}, 'eval': {}, 'info': {}}
  for record in metrics.read(workdir):
    found[record['kind']] |= {(record['step'], key): v for key, v in record.items()}
  for step in range(1, last + 1):
    loss = found['train'].get((step, 'loss'), math.nan)
    if not math.isfinite(loss):
      raise UserError(f'the loss is {loss} at step {step}')
  scalars = {key: v for (step, key), v in found['eval'].items() if '/' in key}
  for name in config.get('evals', {}):
    own = {key: v for key, v in scalars.items() if key.startswith(f'{name}/')}
    if not own:
      raise UserError(f'config.evals.{name} found no scalars')
    for key, value in own.items():
      if not math.isfinite(value):
        raise UserError(f'config.evals.{name} found that {key} is {value}')
  best = config.get('keep_best')
  if best is not None and best not in scalars:
    raise UserError(
      f'config.keep_best={best!r} is found by no evaluator, but {", ".join(scalars)}'
    )


def learnt(words: pathlib.Path) -> str:
  """The file of a vocabulary of what is made up, learnt when first needed."""
  if not words.exists():
    texts = itertools.starmap('{} {}'.format, itertools.product(fake.WORDS, repeat=2))
    files.write(words, tokenizer.train(texts, 100, 'bpe', 1.0))
  return str(words)


def attempts(names: Sequence[str], folder: pathlib.Path, jobs: int) -> Iterator[Row]:
  """A row of each config, in order, as soon as it is there."""
  if jobs == 1:
    set_up(folder)
    yield from (attempt(name, folder) for name in names)
    return
  start = multiprocessing.get_context('spawn')
  with futures.ProcessPoolExecutor(jobs, start, set_up, (folder,)) as pool:
    yield from pool.map(attempt, names, itertools.repeat(folder))


def set_up(folder: pathlib.Path) -> None:
  """Has programs compiled on the CPU, quickly, and once for both runs of a config."""
  os.environ.setdefault('XLA_FLAGS', QUICK)
  jax.config.update('jax_platforms', 'cpu')
  jax.config.update('jax_compilation_cache_dir', str(folder / 'compiled'))
  jax.config.update('jax_persistent_cache_min_compile_time_secs', 0)
  cli.set_up_jax()


def attempt(name: str, folder: pathlib.Path) -> Row:
  """Runs a config in small, in a folder of its own; the row says what went wrong."""
  started, notes, problem = time.perf_counter(), [], ''
  with tempfile.TemporaryDirectory(dir=folder) as own:
    try:
      with quiet():
        notes = check(name, pathlib.Path(own), folder / 'words.model')
    except UserError as error:
      problem = str(error)
    except Exception as error:  # whatever it is, the other configs are tried too
      problem = f'{type(error).__name__} {place(error)}: {error}'
  jax.clear_caches()
  seconds = time.perf_counter() - started
  return Row(name, seconds, ' '.join(problem.split())[:LENGTH], notes)


@contextlib.contextmanager
def quiet() -> Iterator[None]:
  """What a run tells of itself is not told here."""
  output = io.StringIO()
  with contextlib.redirect_stdout(output), contextlib.redirect_stderr(output):
    yield


def place(error: BaseException) -> str:
  """Where in our code, or in a config, an error comes from."""
  root = CONFIGS.parent
  frames = [
    f'{path.relative_to(root)}:{frame.lineno}'
    for frame in traceback.extract_tb(error.__traceback__)
    if (path := pathlib.Path(frame.filename)).is_relative_to(root / 'big_vision_like')
    or path.is_relative_to(CONFIGS)
  ]
  return f'at {frames[-1]}' if frames else ''


@errors.told_plainly
def main(argv: Sequence[str] | None = None) -> int:
  """Runs the configs and prints a row of each, then a summary."""
  parser = argparse.ArgumentParser(
    description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
  )
  parser.add_argument('configs', nargs='*', metavar='CONFIG[:ARGUMENT]')
  parser.add_argument(
    '--jobs', type=int, default=1, metavar='N', help='so many at a time; default: 1'
  )
  args = parser.parse_args(argv)
  names = args.configs or all_configs()
  started, rows = time.perf_counter(), []
  with tempfile.TemporaryDirectory(prefix='smoke-') as folder:
    for row in attempts(names, pathlib.Path(folder), args.jobs):
      rows.append(row)
      print(row, flush=True)
  failed = [row for row in rows if row.problem]
  took = metrics.duration(time.perf_counter() - started)
  print(f'\n{len(rows) - len(failed)} of {len(rows)} configs pass, in {took}')
  for row in failed:
    print(f'{row.name}: {row.problem}')
  return 1 if failed else 0


if __name__ == '__main__':
  raise SystemExit(main())
