"""Runs every config scaled down: a few steps with a restart, and every evaluator.

    python tools/smoke.py [CONFIG[:ARGUMENT] ...]

Without names, all of configs/ are tried, with all their ARGUMENTs. The real training
loop runs a config to step 1, is interrupted, and saves. Started again, it restores that
checkpoint and trains to step 2, or until each of several tasks has had a step. A config
passes if

- its loss and learning rates are finite,
- the restored state is bit-identical to the saved one,
- every evaluator returns finite scalars, `keep_best` among them, and
- there is a checkpoint of the last step.

Each config prints a line. Failures are repeated at the end, and the exit status is 1 if
anything failed.

Configs that are named all run. Many of the configs compile the same programs, or
programs with the same options. Without names, therefore, only a subset runs: together
these configs have every option of every task, model, optimizer and evaluator, apart
from a `dtype`. One config of each task and optimizer is interrupted. The remaining
configs are built, their data are read, and their step and predictions are traced.

Nothing has to be prepared. Data sets of TFDS and in COCO's format are replaced by
made-up ones (see `data/sources/fake.py`), even if they exist, so that results are the
same everywhere. Vocabularies are trained on made-up texts, and weights of `init_from`
are not loaded. Schedules have the length of the whole run.

Models, transforms, evaluators and tasks declare next to their arguments how small they
may be: `tiny = dict(depth=2, depths=(2, 1), convs=(8, 3, 2))` has an upper bound for
each argument, also for arguments left at their defaults. The bound of a sequence is one
number for all entries, or a sequence with a bound for each entry, which also truncates
the argument to its length. All entries of a sequence of sequences share one bound. A
bound may also be a function of all arguments, and of a function that shrinks the side
of a picture. An argument `size` of a transform is such a side; transforms with other
sides name them in `sides`. `AT_MOST` bounds arguments of these names in every class.
"""

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

import flax.linen as nn
import grain
import jax
import ml_collections as mlc
import numpy as np

from big_vision_like import cli, data, errors, files, optim, spec, train
from big_vision_like.data.input import bucket
from big_vision_like.data.prepare import tokenizer
from big_vision_like.data.sources import (
  coco,
  fake,
  own_images,
  pseudo_labels,
  tfds,
)
from big_vision_like.data.text import vocabulary
from big_vision_like.errors import UserError
from big_vision_like.run import (
  checkpoint,
  experiment,
  init_from,
  metrics,
  preflight,
  progress,
)
from big_vision_like.tasks.task import State

LONG_EPOCH = 3 * 10**7  # examples, so long that no warm-up in steps takes a whole run
CONFIGS = pathlib.Path(__file__).parent.parent / 'configs'

# The made-up data have four labels with SHOTS examples each. The last batch of an
# evaluation is not full.
SHOTS, BATCH, DEPTH = 5, 8, 2
AT_MOST = dict(
  accumulate=2,
  batch_size=BATCH,
  clips=2,
  every=0,  # evaluators only run at the end
  num_classes=1000,
  pictures=1,
  workers=0,
)
# Room for the objects of made-up pictures, and as many queries.
ROOM = ('max_boxes', 'max_segments', 'num_queries')
MOST_PARAMETERS = 2 * 10**6
# Larger sides of pictures become, in ascending order, SIDE, SIDE + STRIDE, and so on.
# ResNets need sides that STRIDE divides.
SIDE, STRIDE = 64, 32
LESS = 8  # sides of pictures with boxes are divided by this
# Programs do not depend on them, or can be traced as well with another: a `dtype`.
NO_OPTIONS = ('dtype', 'every', 'name', 'names', 'parent', 'pictures', 'rate')
LENGTH = 500  # characters printed of an error
# Blocks named in rules for parameters, which a shallower model may not have.
NUMBERED = re.compile(r'block_(?P<from_0>\d+)|(?:unit|stage)(?P<from_1>\d+)')


@dataclasses.dataclass(frozen=True)
class Row:
  """The result of a config; `problem` is empty if it passed."""

  name: str
  seconds: float
  problem: str
  notes: Sequence[str] = ()

  def __str__(self) -> str:
    how = f'FAILED: {self.problem}' if self.problem else '; '.join(('ok', *self.notes))
    return f'{self.seconds:5.1f} s  {self.name}  {how}'


def all_configs() -> list[str]:
  """Returns every file of configs/ with every argument that it names."""
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
  """Returns a config that trains two steps in seconds, and notes on replacements."""
  plain = in_steps(config)
  sides = small_sides(plain)
  result = shrunk(plain, lambda side: sides.get(side, side), words)
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
  """Returns a plain copy of a config with durations in steps of a long epoch."""
  batch_size = spec.held(config.train_data, 'batch_size') or BATCH
  return spec.in_steps(config, LONG_EPOCH, batch_size)


def covers(data: Any, steps: int) -> bool:
  """Returns whether this number of steps has batches of all parts of an input."""
  return data.together or {n for n, _ in data.signatures(steps)} == {*data.parts}


def shrunk(
  node: Any, small_side: Callable[[int], int], words: pathlib.Path, key: str = ''
) -> Any:
  """Returns a plain copy of a node of a config with all sizes in it reduced."""
  if isinstance(node, (list, tuple)):
    if key.endswith('_rules'):
      node = [rule for rule in node if matches_shallow(rule[0])]
    return type(node)(shrunk(value, small_side, words) for value in node)
  if not isinstance(node, Mapping):
    return node
  node = {k: shrunk(value, small_side, words, k) for k, value in node.items()}
  if '_fn' not in node:
    return node
  fn = spec.symbol(node)
  made_up = dict(examples=SHOTS * fake.LABELS, classes=AT_MOST['num_classes'])
  if fn is tfds.Tfds:
    kept = {name: node[name] for name in ('name', 'split') if name in node}
    return dict(spec.spec(fake.Fake, **kept, **made_up))
  if fn is own_images.OwnImages:
    classes = len(node.get('classes') or ()) or made_up['classes']
    return dict(
      spec.spec(fake.Fake, name='imagenet2012', **made_up | {'classes': classes})
    )
  if fn is coco.Coco:
    name = 'coco/2017' if node.get('panoptic') is None else 'coco/2017_panoptic'
    outlines = bool(node.get('outlines'))
    return dict(spec.spec(fake.Fake, name=name, outlines=outlines, **made_up))
  if fn is pseudo_labels.PseudoLabelled:
    own = {name: node.get(name) for name in ('source', 'classes')}
    return dict(spec.spec(pseudo_labels.MadeUp, **own))
  if fn is vocabulary.SentencePiece:
    return node | {'path': learnt(words)}
  if hasattr(fn, 'stand_in'):  # a replacement of files that may be missing
    return dict(fn.stand_in(node))
  if not isinstance(fn, type):
    return node  # schedules and optimizers stay those of the whole run
  arguments = arguments_of(node)
  bounds = AT_MOST | getattr(fn, 'tiny', {})
  for name, value in arguments.items():
    bound = bounds.get(name)
    less = bound(arguments, small_side) if callable(bound) else bounded(value, bound)
    if name in ROOM and value:
      less = fake.THINGS[1]
    if name in sides_of(fn):
      less = each(less, small_side)
    if less != value:
      node[name] = less
  return node


def bounded(value: Any, bound: Any) -> Any:
  """Returns an argument cut to a bound of `tiny`; values that are not sizes stay."""
  if isinstance(value, Mapping) and isinstance(bound, Mapping):
    return {k: bounded(v, bound.get(k)) for k, v in value.items()}
  if isinstance(value, (list, tuple)) and bound is not None:
    if isinstance(bound, int) or any(isinstance(v, (list, tuple)) for v in value):
      return type(value)(bounded(v, bound) for v in value)
    return type(value)(map(min, value, bound))
  return min(value, bound) if is_number(value) and is_number(bound) else value


def is_number(value: Any) -> bool:
  return isinstance(value, (int, float)) and not isinstance(value, bool)


def each(value: Any, change: Callable[[int], int]) -> Any:
  """Applies a function to a side, to height and width, or to several of these."""
  if isinstance(value, (list, tuple)):
    return type(value)(each(v, change) for v in value)
  return change(value) if type(value) is int else value


def matches_shallow(pattern: str) -> bool:
  """Returns whether a rule may match a parameter of a model with two blocks."""
  numbers = [
    int(match['from_0'] or 0) + int(match['from_1'] or 1)
    for match in NUMBERED.finditer(pattern)
  ]
  return max(numbers, default=1) <= DEPTH


def sides_of(fn: Callable[..., Any]) -> Sequence[str]:
  """Returns the names of a transform's arguments that are sides of pictures."""
  kinds = (grain.transforms.Map, grain.transforms.RandomMap)
  is_transform = isinstance(fn, type) and issubclass(fn, kinds)
  return getattr(fn, 'sides', ('size',)) if is_transform else ()


def small_sides(config: Any) -> dict[int, int]:
  """Returns the replacement of each side of a picture that is too large."""
  sides, pads = set(), False
  for path, node in spec.calls(config):
    fn = spec.symbol(node, path)
    named = sides_of(fn)
    pads |= bool(named) and issubclass(fn, bucket.Bucket)
    values = (value for name, value in node.items() if name in named)
    sides |= {side for value in values for side in np.ravel(value).tolist() if side}
  if pads:  # sides keep their proportions
    large = max(sides) > LESS * SIDE
    return {side: side // LESS for side in sides} if large else {}
  large = sorted(side for side in sides if side > SIDE)
  return {side: SIDE + STRIDE * i for i, side in enumerate(large)}


@dataclasses.dataclass(frozen=True)
class Plan:
  """The way a config is tried: it runs, or is only traced if another is `like` it."""

  name: str
  like: str = ''
  restarts: bool = True


def plans(names: Sequence[str], words: pathlib.Path) -> list[Plan]:
  """Returns how to try each config, so that every option is in a config that runs."""
  options, kinds, made = {}, {}, {}
  for name in names:
    with contextlib.suppress(Exception), quiet():  # `check` raises it again for the row
      config, _ = shrink(spec.load(name, root=experiment.Settings), words)
      kinds[name] = kind_of(config)
      options[name] = options_of(config)
  done, runs = set(), []
  while left := [name for name in options if name not in made]:
    name = max(left, key=lambda name: len(options[name] - done))
    if options[name] <= done:
      like = max(runs, key=lambda other: len(options[other] & options[name]))
      made[name] = Plan(name, like)
    else:
      made[name] = Plan(name, restarts=kinds[name] not in map(kinds.get, runs))
      runs.append(name)
      done |= options[name]
  return [made.get(name, Plan(name)) for name in names]


def kind_of(config: mlc.ConfigDict) -> tuple[str, ...]:
  """Returns the classes of a config's task and optimizers."""
  calls = spec.calls(config.task, 'task')
  return tuple(
    node['_fn'] for path, node in calls if path == 'task' or path.endswith('optimizer')
  )


def options_of(config: mlc.ConfigDict) -> set[str]:
  """Returns the options that determine the programs of a shrunk config, as texts.

  They are the arguments of the task, of its parts, and of the evaluators, each combined
  with the class of the task, and the arrays of a batch.
  """
  batch = spec.build(config.train_data, 'config.train_data').abstract()
  arrays = jax.tree_util.tree_leaves_with_path(batch)
  found = {f'{path} {x.dtype} {x.ndim}' for path, x in arrays}
  for path, node in spec.calls([config.task, *config.get('evals', {}).values()]):
    if not node['_fn'].startswith(f'{data.__name__}.') and '.rate' not in path:
      arguments = arguments_of(node).items()
      own = {f'{k}={described(v)}' for k, v in arguments if k not in NO_OPTIONS}
      found |= {f'{node["_fn"]} {one}' for one in own}
  return {f'{config.task["_fn"]} {one}' for one in found}


def described(value: Any) -> Any:
  """Returns an argument with numbers replaced by signs, and calls by their names."""
  if isinstance(value, (list, tuple)):
    return [described(v) for v in value]
  if isinstance(value, (Mapping, mlc.ConfigDict)):
    return value.get('_fn') or {k: described(v) for k, v in value.items()}
  return float(np.sign(value)) if is_number(value) else value


def arguments_of(node: Mapping[str, Any]) -> dict[str, Any]:
  """Returns the arguments of a recorded call, defaults included."""
  parameters = inspect.signature(spec.symbol(node)).parameters
  return {k: node.get(k, parameter.default) for k, parameter in parameters.items()}


def check(plan: Plan, workdir: pathlib.Path, words: pathlib.Path) -> list[str]:
  """Tries a config scaled down; returns notes, raises if anything is wrong with it."""
  whole = spec.load(plan.name, root=experiment.Settings)
  config, notes = shrink(whole, words)
  check_rates(whole)
  if plan.like:
    check_traced(config)
    return [*notes, f'traced, most like {plan.like}']
  check_size(config)
  if plan.restarts:
    saved = train.train(config, workdir, drill=1)
    check_restored(workdir, saved)
  train.train(config, workdir)
  check_records(config, workdir)
  return notes


def check_size(config: mlc.ConfigDict) -> None:
  """Raises if a shrunk model is large, because some class has no or a large `tiny`."""
  state = experiment.make(config, planned_for=jax.devices()).abstract_state
  count = sum(leaf.size for leaf in jax.tree.leaves(state.params))
  if count > MOST_PARAMETERS:
    fns = [spec.symbol(node, path) for path, node in spec.calls(config.task, 'task')]
    bare = [
      f'{fn.__module__.replace(".", "/")}.py: {fn.__name__} declares no `tiny`'
      for fn in fns
      if isinstance(fn, type) and issubclass(fn, nn.Module) and not hasattr(fn, 'tiny')
    ]
    why = ', '.join(bare) or 'the `tiny` of the model has too few or large bounds'
    raise UserError(f'{why}; the scaled-down model has {count:,} parameters')


def check_traced(config: mlc.ConfigDict) -> None:
  """Builds everything and traces the step and the predictions of evaluators."""
  run = experiment.make(config, inputs=preflight.require(config))
  run.task.check(run.example)
  state, several = run.abstract_state, len(run.data.parts) > 1
  for signature in run.data.signatures(config.total_steps) if several else [None]:
    after, _ = jax.eval_shape(run.step, state, run.abstract_batch_of(signature))
    for x, y in zip(jax.tree.leaves(state), jax.tree.leaves(after), strict=True):
      if (x.shape, x.dtype) != (y.shape, y.dtype):
        raise UserError(f'a step changes the shape {x.shape} in the state to {y.shape}')
  for name, evaluator in run.evaluators.items():
    with errors.prefixed(f'config.evals.{name}'):
      batch = evaluator.data.abstract()
      jax.eval_shape(evaluator.prediction(run.task), state, batch, run.key)


def check_rates(config: mlc.ConfigDict) -> None:
  """Checks the first, the middle and the last learning rate of the whole run."""
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
  """Compares a restored checkpoint with the state that was saved, bit by bit."""
  like = jax.tree.map(
    lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=x.sharding), saved.trained
  )
  with checkpoint.Checkpoints(workdir) as checkpoints:
    restored, *_ = checkpoints.restore(like)
  before = jax.tree_util.tree_leaves_with_path(saved.trained)
  for (keys, x), y in zip(before, jax.tree.leaves(restored), strict=True):
    if np.asarray(x).tobytes() != np.asarray(y).tobytes():
      raise UserError(
        f'{optim.path_of(keys)} is not restored bit by bit as it was saved'
      )


def check_records(config: mlc.ConfigDict, workdir: pathlib.Path) -> None:
  """Checks the checkpoints, losses and scalars that the run has written."""
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
      raise UserError(f'config.evals.{name} returned no scalars')
    for key, value in own.items():
      if not math.isfinite(value):
        raise UserError(f'config.evals.{name} returned {key}={value}')
  best = config.get('keep_best')
  if best is not None and best not in scalars:
    raise UserError(
      f'config.keep_best={best!r} is not returned by any evaluator; there are'
      f' {", ".join(scalars)}'
    )


def learnt(words: pathlib.Path) -> str:
  """Returns the path of a vocabulary of made-up texts, trained on the first call."""
  if not words.exists():
    texts = itertools.starmap('{} {}'.format, itertools.product(fake.WORDS, repeat=2))
    files.write(words, tokenizer.train(texts, 100, 'bpe', 1.0))
  return str(words)


def attempts(tried: Sequence[Plan], folder: pathlib.Path, jobs: int) -> Iterator[Row]:
  """Yields the row of each config, in order, as soon as it is available."""
  if jobs == 1:
    set_up(folder)
    yield from (attempt(plan, folder) for plan in tried)
    return
  start = multiprocessing.get_context('spawn')
  with futures.ProcessPoolExecutor(jobs, start, set_up, (folder,)) as pool:
    longest_first = sorted(tried, key=lambda plan: plan.like)
    rows = {plan.name: pool.submit(attempt, plan, folder) for plan in longest_first}
    yield from (rows[plan.name].result() for plan in tried)


def set_up(folder: pathlib.Path) -> None:
  """Configures quick compilation on the CPU, cached for both runs of a config."""
  os.environ.setdefault('XLA_FLAGS', cli.QUICK_COMPILATION)
  jax.config.update('jax_platforms', 'cpu')
  jax.config.update('jax_compilation_cache_dir', str(folder / 'compiled'))
  jax.config.update('jax_persistent_cache_min_compile_time_secs', 0)
  cli.set_up_jax()


def attempt(plan: Plan, folder: pathlib.Path) -> Row:
  """Tries a config scaled down in a temporary folder; the row has its error, if any."""
  started, notes, problem = time.perf_counter(), [], ''
  with tempfile.TemporaryDirectory(dir=folder) as own:
    try:
      with quiet():
        notes = check(plan, pathlib.Path(own), folder / 'words.model')
    except UserError as error:
      problem = str(error)
    except Exception as error:  # the other configs are tried whatever it is
      problem = f'{type(error).__name__} {place(error)}: {error}'
  jax.clear_caches()
  seconds = time.perf_counter() - started
  return Row(plan.name, seconds, ' '.join(problem.split())[:LENGTH], notes)


@contextlib.contextmanager
def quiet() -> Iterator[None]:
  """Hides everything printed within the context."""
  output = io.StringIO()
  with contextlib.redirect_stdout(output), contextlib.redirect_stderr(output):
    yield


def place(error: BaseException) -> str:
  """Returns the line of this package, or of a config, that raised an error."""
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
  """Runs the configs and prints a row for each, then a summary."""
  parser = errors.parser(__doc__)
  parser.add_argument(
    'configs',
    nargs='*',
    metavar='CONFIG[:ARGUMENT]',
    help='configs to run; default: all',
  )
  parser.add_argument(
    '--jobs',
    type=int,
    default=1,
    metavar='N',
    help='configs to run at a time; default: 1',
  )
  args = parser.parse_args(argv)
  started, rows = time.perf_counter(), []
  with tempfile.TemporaryDirectory(prefix='smoke-') as name:
    folder = pathlib.Path(name)
    tried = [Plan(name) for name in args.configs]
    tried = tried or plans(all_configs(), folder / 'words.model')
    for row in attempts(tried, folder, args.jobs):
      rows.append(row)
      print(row, flush=True)
  failed = [row for row in rows if row.problem]
  took = progress.duration(time.perf_counter() - started)
  traced = sum(plan.like != '' for plan in tried)
  passed = f'{len(rows) - len(failed)} of {len(rows)} configs pass, in {took}'
  print(f'\n{passed}; {len(rows) - traced} ran, {traced} were traced')
  for row in failed:
    print(f'{row.name}: {row.problem}')
  return 1 if failed else 0


if __name__ == '__main__':
  raise SystemExit(main())
