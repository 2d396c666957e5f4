"""Loading weights into models: sources, renaming, resized tables, and a summary.

A config's `init_from` is one `InitFrom` or a list of them, each with weights of a run
or of a published file. Frozen networks are filled by `complete`, which requires every
array. Both fit arrays to a model the same way: `rename` maps their names, and tables
that depend on the image size are resized as the model declares in `resizes`.
"""

import dataclasses
import difflib
import pathlib
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import flax.linen as nn
import jax
import numpy as np

from big_vision_like import spec, upgrade
from big_vision_like.devices.processes import say
from big_vision_like.errors import UserError, listed, shape_text
from big_vision_like.files import read_json
from big_vision_like.ops import positions
from big_vision_like.ops.images import Normalization
from big_vision_like.ops.positions import Grid
from big_vision_like.run import checkpoint, labels, provenance
from big_vision_like.tasks.task import Network, State, zeros_of
from big_vision_like.weights import family, published
from big_vision_like.weights import tree as trees

Tree = dict[str, Any]
# Regular expressions of names, and functions of `ops.positions` that resize the arrays.
Resizes = Mapping[str, Callable[..., np.ndarray]]

# Most differences that an error lists.
MOST_LISTED = 40
ASSUMED = ' (assumed)'
# These infer the grid of their table from its number of positions if it is not given.
GUESSING = (positions.resize_grid, positions.keep_relative)
_KINDS = {'params': '', 'constants': ' (a constant)', 'batch_stats': ' (a statistic)'}


@dataclasses.dataclass(frozen=True)
class Weights:
  """Variables to start from, and the known facts about their images and model.

  `variables` are dicts by collection: params, constants (of frozen norms), batch_stats.
  `mean` and `std` are for image values in [0, 1], None if there are no images. `grid`
  is the (rows, columns) of tokens that learned positions are for, None if unknown.
  `tokens` is the number of tokens in that grid, if only this is known. `architecture`
  holds the known arguments of their model by flat name, and `assumed` describes those
  that no file records. `label_names` are the class names of a published file; the class
  names of a run are compared in `preflight`.
  """

  variables: Tree
  mean: float | Sequence[float] | None = None
  std: float | Sequence[float] | None = None
  grid: Grid | None = None
  tokens: int | None = None
  architecture: Mapping[str, Any] = dataclasses.field(default_factory=dict)
  assumed: Sequence[str] = ()
  label_names: Sequence[str] = ()

  @property
  def params(self) -> Tree:
    """The parameters only."""
    return self.variables['params']

  @property
  def constants(self) -> Tree:
    """The constants only; empty if there are none."""
    return self.variables.get('constants', {})


def from_run(
  workdir: str, step: int | None = None, ema: bool = True, network: str | None = None
) -> Weights:
  """Reads the weights of another run; its running average if it keeps one.

  `network` names one of the networks of its task; the default is the first.
  """
  step, saved = checkpoint.load(workdir, step)
  path = pathlib.Path(workdir) / 'config.json'
  config = upgrade.upgraded(read_json(path))
  task = spec.build(spec.in_steps(config['task']), 'config.task')
  networks = {n: each for n, each in task.networks().items() if not each.frozen}
  if network is not None and network not in networks:
    raise UserError(
      f'network={network!r} of {workdir} is none of {", ".join(networks)}'
    )
  network = network or next(iter(networks))
  chosen = networks[network]
  state = State(step=step, opt_state=None, **saved)
  variables = chosen.variables(state if ema else state.replace(ema=None))
  mean, std = chosen.images or (None, None)
  return Weights(
    variables,
    mean,
    std,
    grid=provenance.run_grid(config, chosen.module, workdir, network),
    tokens=provenance.table_grid(chosen.module, variables)[0],
    architecture=provenance.architecture(chosen.module),
  )


@dataclasses.dataclass(frozen=True)
class Untrained:
  """Random weights in place of trained ones, for trying out a config."""

  seed: int = 0


def from_file(
  path: str,
  num_heads: int | None = None,
  no_embed_class: bool | None = None,
  source_grid: Grid | None = None,
) -> Weights:
  """Reads published weights, see `weights.published.read`.

  `source_grid` (rows, columns) is the grid of learned positions, if no file records it.
  """
  if checkpoint.steps(path):
    raise UserError(f'{path} is a run: read its weights with from_run')
  provenance.check_no_run(path)
  found = published.read(path, num_heads, no_embed_class)
  return dataclasses.replace(
    _with_images(found, path),
    grid=provenance.published_grid(found, source_grid),
    tokens=provenance.table_grid(found.model, found.variables)[0],
  )


def from_backbone(path: str, at: str = 'backbone') -> Weights:
  """Reads a published classifier without its head, as the part `at` of a model.

  The scales, offsets and statistics of frozen norms become constants, not parameters.
  """
  found = published.read(path)
  if not found.family.backbone:
    known = [x.model.__name__ for x in family.families().values() if x.backbone]
    raise UserError(f'{path} is a {found.source}: a backbone is a {" or ".join(known)}')
  params = {name: part for name, part in found.params.items() if name != 'head'}
  found = dataclasses.replace(found, params=params)
  variables = {kind: {at: part} for kind, part in found.variables.items()}
  weights = _with_images(found, path)
  theirs = {f'{at}/{name}': value for name, value in weights.architecture.items()}
  return dataclasses.replace(weights, variables=variables, architecture=theirs)


def with_classes(weights: Weights, rows: str | None) -> Weights:
  """Selects classes of a head: `rows` is a file with one class number per line.

  This way, a head of ImageNet-22k initializes one of ImageNet-1k. Without a file, all
  classes are kept.
  """
  if rows is None:
    return weights
  path, head = pathlib.Path(rows), weights.params.get('head', {})
  if not path.is_file():
    raise UserError(f'{path}, which should list classes of the weights, does not exist')
  if 'kernel' not in head:
    raise UserError(f'{path} lists classes of the weights, but these have no head')
  classes = head['kernel'].shape[-1]
  chosen = []
  for number, line in enumerate(path.read_text().split(), start=1):
    if not re.fullmatch(r'\d{1,9}', line) or int(line) >= classes:
      raise UserError(
        f'{path}: entry {number} is {line!r:.99}, not a class from 0 to {classes - 1}'
      )
    chosen.append(int(line))
  if not chosen:
    raise UserError(f'{path} lists no classes')
  picked = {name: np.asarray(array)[..., chosen] for name, array in head.items()}
  say('head', f'{len(chosen):,} of {classes:,} classes of the weights, from {path}')
  params = {**weights.params, 'head': picked}
  return dataclasses.replace(weights, variables={**weights.variables, 'params': params})


def _with_images(found: published.Published, path: str) -> Weights:
  for text in found.assumed:
    say('assumed', text)
  images = found.images(pathlib.Path(path).stem)
  return Weights(
    found.variables,
    images.mean or None,  # there are no images
    images.std or None,
    architecture=trees.flatten(found.architecture),
    assumed=found.assumed,
    label_names=getattr(images, 'label_names', ()),
  )


@dataclasses.dataclass(frozen=True)
class InitFrom:
  r"""One source of weights for a new run, and how they are fitted to its model.

  `weights` come from a reader (`from_run`, `from_file`, `from_backbone`), or are a tree
  of parameters or of variables by collection.

  `rename` is a list of pairs of a regular expression and a template. Expressions must
  match the whole name of an array. Each matching rule makes one new name from its
  template, so one array may fill several. An array keeps its own name if no rule
  matches, or if a rule produces it. These two rules fill both attentions of a block
  from one:

      rename=[
        (r'(encoder/.*/attention/.*)', r'\1'),
        (r'encoder/(.*)/attention/(.*)', r'encoder/\1/temporal_attention/\2'),
      ]

  All other fields use the names after renaming, which are the model's. Arrays that
  match a regular expression in `leave_out` are not loaded, such as a head for other
  classes (the head of a DETR is `class_head`). Names that are missing from the weights,
  or that the model does not use, raise unless `allow_missing` or `allow_unused` matches
  them. Different shapes raise too, except for tables that the model resizes: as it
  declares, by another method of `ops.positions.resize`, or not at all (None).

  `source_grid` (rows, columns) is the grid of the weights' learned positions, if no run
  or file records it. `grid` is the grid of a model that does not define its own. Images
  normalized differently than for the weights raise unless `allow_other_normalization`.
  A model with a different activation raises unless `allow_other_activation`. All other
  differences from the model of the weights are reported.
  """

  weights: Weights | Tree
  leave_out: Sequence[str] = ('head/.*',)
  allow_missing: Sequence[str] = ()
  allow_unused: Sequence[str] = ()
  resize: str | None = 'declared'
  grid: Grid | None = None
  allow_other_normalization: bool = False
  rename: Sequence[tuple[str, str]] = ()
  source_grid: Grid | None = None
  allow_other_activation: bool = False

  def check(self, ours: Normalization | None, frozen: str = '') -> None:
    """Raises if a network's images are normalized differently than for the weights.

    `frozen` is the name of a network that is not trained. The task defines how its
    images are normalized.
    """
    if ours is None or self.allow_other_normalization:
      return
    if not isinstance(self.weights, Weights) or self.weights.mean is None:
      return
    theirs = self.weights.mean, self.weights.std
    if not all(map(_same_numbers, theirs, ours)):
      told = (
        f'the weights expect images normalized with mean={theirs[0]} and'
        f' std={theirs[1]}, but the task uses mean={ours.mean} and std={ours.std}: set'
      )
      if frozen:
        field = f'{frozen}_images of the task to spec(images.Normalization'
        raise UserError(f'{told} {field}, mean={theirs[0]}, std={theirs[1]})')
      raise UserError(
        f'init_from: {told} task.mean and task.std to theirs, or'
        ' init_from.allow_other_normalization=True'
      )

  def differences(self, model: nn.Module) -> dict[str, tuple[Any, Any]]:
    """Returns the arguments in which the weights' model differs from this model.

    Raises if the activation differs, because no array shows it.
    """
    if not isinstance(self.weights, Weights):
      return {}
    ours = provenance.architecture(model)
    found = provenance.differences(self.weights.architecture, ours)
    for name, (theirs, own) in found.items():
      if name.split('/')[-1] == 'activation' and not self.allow_other_activation:
        wanted = f'{name.replace("/", ".")}={theirs!r}'
        raise UserError(
          f'init_from: the weights need {wanted}{self._assumed("activation")}, but the'
          f' model has {own!r}: set task.model.{wanted}, or'
          ' init_from.allow_other_activation=True'
        )
    return found

  def remedy(self, model: nn.Module) -> str:
    """Returns a remedy if only the number of heads differs, '' if it does not.

    Another number of heads changes all attention shapes, which do not show the reason.
    """
    found = self.differences(model)
    if 'num_heads' not in found or 'width' in found:
      return ''
    theirs, ours = found['num_heads']
    advice, assumed = f'task.model.num_heads={theirs}', self._assumed('num_heads')
    if assumed:
      field = f'init_from.weights.num_heads={ours}'
      advice = f'{field} if that is what they have (--config.{field})'
    return f'the model has {ours} heads, the weights {theirs}{assumed}: set {advice}'

  def _assumed(self, name: str) -> str:
    """Returns a note in parentheses if an argument of the weights' model is assumed."""
    texts = [text for text in self.weights.assumed if text.startswith(f'{name}=')]
    return f' (assumed; {texts[0].partition(": ")[2]})' if texts else ''

  def fit(self, variables: Tree, resizes: Resizes, grid: Grid | None = None) -> Tree:
    """Returns a model's variables filled from the weights; prints a summary.

    `variables` are dicts by collection. `resizes` and `grid` belong to the model, see
    `tables_of`.
    """
    return fitted([self], variables, resizes, grid)

  def matched(
    self, variables: Tree, resizes: Resizes, grid: Grid | None = None
  ) -> 'Match':
    """Compares the weights with a model; neither prints nor raises the differences."""
    ours, theirs = _flat(variables), _flat(self._variables)
    if self.grid is not None and grid not in (None, tuple(self.grid)):
      raise UserError(
        f'init_from.grid={tuple(self.grid)}, but the images of this run make a grid of'
        f' {shape_text(grid)}: leave it out'
      )
    if grid is None and self.grid is not None:
      grid = tuple(self.grid)
    source_of = renamed(theirs, self.rename)
    arrays, resized, left_out, unused = {}, [], [], {}
    wrong_shapes, wrong_grids = {}, {}
    method = {} if self.resize == 'declared' else {'method': self.resize}
    grids = ''
    for name, source in source_of.items():
      loaded, shown = theirs[source].value, name
      if source != name:
        shown = f'{name} (from {source})'
      if _matches(self.leave_out, name):
        left_out.append(shown)
        continue
      if name not in ours:
        unused[name] = shown + _kind(theirs[source])
        continue
      value, taken = ours[name].value, loaded
      resize = next((r for p, r in resizes.items() if re.fullmatch(p, name)), None)
      if resize is not None and loaded.ndim == value.ndim:
        try:
          source_grid = self._source_grid(grid)
          taken = resize(loaded, value.shape, source_grid, grid, **method)
          if source_grid is not None or getattr(resize, 'func', resize) in GUESSING:
            grids = self._grids(source_grid, grid)
        except UserError as error:
          wrong_grids[name] = f'{shown}: {error}'
          continue
      if taken.shape != value.shape:
        shapes = f'{loaded.shape} in the weights, {value.shape} in the model'
        wrong_shapes[name] = f'shape of {shown}: {shapes}'
        continue
      if taken is not loaded and not np.array_equal(taken, loaded):
        resized.append(f'{shown} {loaded.shape} -> {value.shape}')
      arrays[name] = np.asarray(taken, value.dtype)
    return Match(arrays, resized, wrong_shapes, wrong_grids, left_out, unused, grids)

  def _source_grid(self, grid: Grid | None) -> Grid | None:
    """Returns the grid of the weights' positions for a model with this grid."""
    if not isinstance(self.weights, Weights):
      return provenance.chosen_grid(None, self.source_grid)
    known = provenance.chosen_grid(self.weights.grid, self.source_grid)
    if known is not None or grid is None or self.weights.tokens is None:
      return known
    return positions.infer_grid(self.weights.tokens, grid)

  def _grids(self, source_grid: Grid | None, grid: Grid | None) -> str:
    """Describes both grids of tables, and whether the weights' grid is assumed."""
    theirs = 'a square' if source_grid is None else shape_text(source_grid)
    known = isinstance(self.weights, Weights) and self.weights.grid is not None
    if not known and self.source_grid is None:
      theirs += ASSUMED
    return '' if grid is None else f'{theirs} -> {shape_text(grid)}'

  @property
  def _variables(self) -> Tree:
    if isinstance(self.weights, Weights):
      return self.weights.variables
    if isinstance(self.weights.get('params'), Mapping):
      return self.weights
    return {'params': self.weights}


@dataclasses.dataclass(frozen=True)
class Match:
  """The arrays of one source that fit a model, and the differences.

  `arrays` are keyed by the model's names. `wrong_shapes`, `wrong_grids` (tables that
  cannot be resized) and `unused` (not in the model) describe differences, by name.
  `grids` describes the grids of the weights and of the model.
  """

  arrays: Mapping[str, np.ndarray]
  resized: Sequence[str]
  wrong_shapes: Mapping[str, str]
  wrong_grids: Mapping[str, str]
  left_out: Sequence[str]
  unused: Mapping[str, str]
  grids: str

  def tell(self, title: str, variables: Tree) -> None:
    """Prints which of the model's variables are loaded, resized and left out."""
    parts = []
    for collection in sorted(variables, key=lambda name: name != 'params'):
      flat = _flat({collection: variables[collection]})
      taken = flat.keys() & self.arrays
      if not flat:
        continue
      words = {'params': 'parameters', 'batch_stats': 'statistics'}
      part = f'{len(taken)} of {len(flat)} {words.get(collection, collection)}'
      if collection == 'params':
        part += f' ({sum(flat[name].value.size for name in taken):,} values)'
      parts.append(part)
    say('init', f'{title}loaded {" and ".join(parts)}')
    if self.resized:
      say('', f'resized: {listed(self.resized)}')
    if self.grids and (self.resized or ASSUMED in self.grids):
      say('', f'grid of tokens: {self.grids}')
    left_out = [*self.left_out, *self.unused.values()]
    if left_out:
      say('', f'left out of the weights: {listed(left_out)}')


def fill(
  sources: InitFrom | Sequence[InitFrom],
  variables: Tree,
  task: Any,
  batch: Mapping[str, Any],
) -> Tree:
  """Returns the initial variables of a task's model, filled from a config's sources.

  `sources` is what `init_from` builds. `batch` holds the shapes and types of a batch.
  Prints a summary of each source.
  """
  sources = list(sources) if isinstance(sources, list | tuple) else [sources]
  for source in sources:
    if not isinstance(source, InitFrom):
      raise UserError(
        f'config.init_from is {type(source).__name__}, not an InitFrom or a list of'
        ' them'
      )
    source.check(task.images)
  networks = [each for each in task.networks().values() if not each.frozen]
  resizes, grid = tables_of_network(networks[0], batch)
  if len(networks) > 1:  # their names follow the name of a part of the parameters
    every = [tables_of(network.module)[0] for network in networks]
    resizes = {f'[^/]+/{p}': resize for each in every for p, resize in each.items()}
    return fitted(sources, variables, resizes, grid)
  model = networks[0].module
  remedy = ' '.join(filter(None, (source.remedy(model) for source in sources)))
  result = fitted(sources, variables, resizes, grid, remedy)
  for source in sources:
    for text in source.weights.assumed if isinstance(source.weights, Weights) else ():
      say('', f'assumed: {text}')
    if found := source.differences(model):
      texts = [
        f'{k} {ours!r}, not {theirs!r} (to match:'
        f' --config.task.model.{k.replace("/", ".")}={theirs!r})'
        for k, (theirs, ours) in found.items()
      ]
      say('', f'different from the model of the weights: {"; ".join(texts)}')
  return result


def complete_network(
  source: Any,
  network: Network,
  variables: Tree,
  batch: Any,
  name: str = 'teacher',
  classes: labels.Names | None = None,
) -> Tree:
  """Returns variables of a frozen network, see `complete`; `batch` holds shapes.

  Unlike a trained network, a frozen one cannot learn other classes, positions or
  images. Raises if published weights name other `classes` than the data, if images make
  a different grid than the positions are for (an `InitFrom` around the weights allows
  this), and if images are normalized differently. `name` is the network's name.
  """
  if isinstance(source, Untrained):
    key, inputs = jax.random.key(source.seed), network.inputs(zeros_of(batch))
    return jax.device_get(jax.jit(network.module.init)(key, *inputs))
  advice = ''
  if not isinstance(source, InitFrom):
    source = InitFrom(source, resize=None)
    advice = (
      '; give it images of the size that it was trained with, or resize positions with'
      ' spec(init_from.InitFrom, weights=...) around these weights'
    )
  source.check(network.images, frozen=name.rpartition('.')[2])
  theirs = dict(enumerate(getattr(source.weights, 'label_names', ())))
  if classes and theirs:
    if told := labels.unlike(classes, theirs, 'the weights', reworded=True):
      raise UserError(told)
  remedy = source.remedy(network.module)
  tables = tables_of_network(network, batch)
  return complete(source, variables, *tables, remedy=remedy, advice=advice)


def tables_of_network(network: Network, batch: Any) -> tuple[Resizes, Grid | None]:
  """Returns `tables_of` a network, for a batch of these shapes."""
  has_grid = hasattr(network.module, 'grid')
  inputs = jax.eval_shape(network.inputs, batch) if has_grid else ()
  return tables_of(network.module, *inputs)


def tables_of(
  model: nn.Module, *inputs: jax.ShapeDtypeStruct
) -> tuple[Resizes, Grid | None]:
  """Returns how a model's tables are resized, and its grid for inputs of these shapes.

  The first input is images (..., H, W, C).
  """
  grid = None
  if inputs and hasattr(model, 'grid'):
    height, width = inputs[0].shape[-3:-1]
    grid = model.grid((height, width))
  return getattr(model, 'resizes', {}), grid


def complete(
  source: InitFrom | Weights | Tree,
  variables: Tree,
  resizes: Resizes,
  grid: Grid | None = None,
  what: str = 'the weights',
  remedy: str = '',
  advice: str = '',
) -> Tree:
  """Returns variables loaded entirely from the weights, as frozen networks need.

  Only the shapes and types of `variables` matter; they may be `jax.ShapeDtypeStruct`s.
  Raises one `UserError` that names everything missing, unused or of another shape.
  `what` starts its message, `remedy` gives the reason for different shapes, if known,
  and `advice` is appended if grids differ. An `InitFrom` may rename; its `leave_out`
  and allowances are ignored.
  """
  strict = dict(leave_out=(), allow_missing=(), allow_unused=())
  if not isinstance(source, InitFrom):
    source = InitFrom(source)
  source = dataclasses.replace(source, **strict)
  variables = jax.tree.map(_array, variables)
  matches = [source.matched(variables, resizes, grid)]
  problems = _problems([source], matches, variables, remedy)
  if problems:
    advice = advice if matches[0].wrong_grids else ''
    raise UserError(f'{what} do not fit the model:{_listed(problems)}{advice}')
  if ASSUMED in matches[0].grids:
    say('assumed', f'grid of tokens: {matches[0].grids}')
  if matches[0].resized:
    say('resized', listed(matches[0].resized))
  return _merged(variables, matches)


def fitted(
  sources: Sequence[InitFrom],
  variables: Tree,
  resizes: Resizes,
  grid: Grid | None = None,
  remedy: str = '',
) -> Tree:
  """Returns a model's variables filled from the sources; prints a summary.

  Sources must not fill the same array twice. Arrays that no source fills keep their
  values, and must match `leave_out` or `allow_missing` of one of the sources. `remedy`
  gives the reason for different shapes, if known.
  """
  matches = [source.matched(variables, resizes, grid) for source in sources]
  problems = _problems(sources, matches, variables, remedy)
  if problems:
    advice = ''
    known = sum(len(match.wrong_grids) for match in matches) + (remedy in problems)
    if len(problems) > known:
      advice = (
        '\nName what may differ in init_from.leave_out, allow_missing or allow_unused'
        ' (regular expressions), or rename arrays with init_from.rename.'
      )
    raise UserError(f'init_from does not fit the model:{_listed(problems)}{advice}')
  for i, match in enumerate(matches):
    match.tell(f'source {i + 1}: ' if len(matches) > 1 else '', variables)
  fresh = _flat(variables).keys() - set().union(*(match.arrays for match in matches))
  if fresh:
    say('', f'newly initialized: {listed(sorted(fresh))}')
  return _merged(variables, matches)


def renamed(
  names: Iterable[str], rules: Sequence[tuple[str, str]] = ()
) -> dict[str, str]:
  """Returns a dict from each name that the rules make to its name in the weights.

  See `InitFrom`. The order of the rules does not matter. Raises for a rule that matches
  nothing, a rule that is not a regular expression and a template, and two names that
  become the same one.
  """
  names, rules = list(names), [tuple(rule) for rule in rules]
  source_of, useful = {}, set()
  for name in names:
    targets = []
    for rule in rules:
      try:
        regex, template = rule
        match = re.fullmatch(regex, name)
        targets += [match.expand(template)] if match else []
      except (re.error, IndexError, TypeError, ValueError) as error:
        raise UserError(
          f'init_from.rename: {rule} is not a regular expression and a template'
          f' ({error})'
        ) from error
      if match:
        useful.add(rule)
    for target in targets or [name]:
      if source_of.setdefault(target, name) != name:
        raise UserError(
          f'init_from.rename: {source_of[target]} and {name} of the weights both become'
          f' {target}'
        )
  for rule in rules:
    if rule not in useful:
      near = difflib.get_close_matches(rule[0], names, n=3, cutoff=0.0)
      raise UserError(
        f'init_from.rename: {rule[0]!r} matches no name of the weights; the nearest'
        f' are {", ".join(near)}'
      )
  return source_of


@dataclasses.dataclass(frozen=True)
class _Array:
  """An array and its collection."""

  collection: str
  value: np.ndarray


def _kind(array: _Array) -> str:
  return _KINDS.get(array.collection, f' (in {array.collection})')


def _flat(variables: Tree) -> dict[str, _Array]:
  """Returns the arrays of all collections by name, with blocks unstacked."""
  flat: dict[str, _Array] = {}
  for collection, nested in variables.items():
    for name, value in trees.flatten(trees.unstack_blocks(nested)).items():
      if name in flat:
        raise UserError(f'{name} is in both {flat[name].collection} and {collection}')
      flat[name] = _Array(collection, value)
  return flat


def _problems(
  sources: Sequence[InitFrom],
  matches: Sequence[Match],
  variables: Tree,
  remedy: str = '',
) -> list[str]:
  """Returns all problems that keep the sources from filling the variables.

  `remedy` replaces the problems of all attention shapes.
  """
  problems, seen, filled_by = [], set(), {}
  if remedy and any(match.wrong_shapes for match in matches):
    problems.append(remedy)
  for i, (source, match) in enumerate(zip(sources, matches, strict=True), start=1):
    title = f'source {i}: ' if len(sources) > 1 else ''
    wrong = {**match.wrong_grids, **match.wrong_shapes}
    problems += [
      title + text
      for name, text in wrong.items()
      if not (remedy and name in match.wrong_shapes and '/attention/' in name)
    ]
    problems += [
      f'{title}not in the model: {text}'
      for name, text in match.unused.items()
      if not _matches(source.allow_unused, name)
    ]
    problems += [
      f'{title}{name} is filled by source {filled_by[name]} already'
      for name in match.arrays
      if name in filled_by
    ]
    filled_by = dict.fromkeys(match.arrays, i) | filled_by
    seen |= {*match.arrays, *wrong}
  fine = [p for source in sources for p in (*source.leave_out, *source.allow_missing)]
  problems += [
    f'not in the weights: {name}{_kind(array)}'
    for name, array in _flat(variables).items()
    if name not in seen and not _matches(fine, name)
  ]
  return problems


def _merged(variables: Tree, matches: Sequence[Match]) -> Tree:
  """Returns the variables with the arrays of all matches, blocks stacked as before."""
  result = {}
  for collection, nested in variables.items():
    flat = {name: array.value for name, array in _flat({collection: nested}).items()}
    for match in matches:
      flat |= {name: match.arrays[name] for name in flat.keys() & match.arrays}
    filled = trees.unflatten(flat)
    stacked = any(re.search(r'(^|/)blocks/', name) for name in trees.flatten(nested))
    result[collection] = trees.stack_blocks(filled) if stacked else filled
  return result


def _listed(problems: Sequence[str]) -> str:
  """Formats one problem on the same line, several on lines of their own."""
  if len(problems) == 1:
    return f' {problems[0]}'
  more = len(problems) - MOST_LISTED
  lines = [*problems[:MOST_LISTED], *([f'and {more} more'] if more > 0 else [])]
  return ''.join(f'\n  {line}' for line in lines)


def _array(value: Any) -> np.ndarray:
  """Converts to an array; a `ShapeDtypeStruct` becomes one that takes no memory."""
  if isinstance(value, jax.ShapeDtypeStruct):
    return np.broadcast_to(np.zeros((), value.dtype), value.shape)
  return np.asarray(value)


def _matches(patterns: Sequence[str], name: str) -> bool:
  return any(re.fullmatch(pattern, name) for pattern in patterns)


def _same_numbers(a: Any, b: Any) -> bool:
  """Returns whether two numbers, or lists with one number per channel, are equal."""
  a, b = np.atleast_1d(a), np.atleast_1d(b)
  return (a.size == b.size or 1 in (a.size, b.size)) and not np.any(a != b)
