"""Shows the networks a config builds: parameters, cost, and optimizer settings.

    python tools/explain.py --config=configs/vit/pretrain_glyphs.py

Prints shapes, parameters and operations by block, then weight decay, learning-rate
factor, mesh axes and bytes per device of every parameter. Nothing is trained.
"""

import collections
import re
from collections.abc import Sequence
from dataclasses import fields

import jax
import rich.box
import rich.console
import rich.table

from big_vision_like import cli, errors, optim
from big_vision_like.cost import flops
from big_vision_like.devices import mesh as meshes
from big_vision_like.errors import shape_text
from big_vision_like.ops import sharding
from big_vision_like.run import experiment
from big_vision_like.tasks import task
from big_vision_like.tasks.task import State
from big_vision_like.weights import tree as trees

# Names of the random streams that a model may draw from.
RNGS = ('dropout', 'slots', 'params', 'noise')


def blocks(
  run: experiment.Experiment,
  name: str,
  network: task.Network,
  console: rich.console.Console,
) -> None:
  """Prints each module of a network: output shape, parameters, forward operations."""
  model, batch = network.module, run.abstract_batch
  variables = network.variables(run.abstract_state)
  params = variables['params']

  def forward(variables, batch):
    return model.apply(
      variables,
      *network.inputs(batch),
      capture_intermediates=True,
      mutable=['intermediates'],
      rngs=dict.fromkeys(RNGS, jax.random.key(0)),
    )

  def plain(variables, batch):
    rngs = dict.fromkeys(RNGS, jax.random.key(0))
    return model.apply(variables, *network.inputs(batch), rngs=rngs)

  found = jax.eval_shape(forward, variables, batch)[1]['intermediates']
  operations = collections.Counter()
  for scope, number in flops.by_scope(jax.make_jaxpr(plain)(variables, batch)).items():
    # Scanned bodies and methods of a model add a part to the path: 'blocks.<lambda>'
    # before 'blocks', 'Transformer.encode' before 'encoder'.
    path = re.sub(r'[^/]*\.[^/]*(/|$)', '', scope.partition('/')[2])
    for prefix in _prefixes(path):
      operations[prefix] += number
  sizes = collections.Counter()
  for path, leaf in trees.flatten(params).items():
    for prefix in _prefixes(path):
      sizes[prefix] += leaf.size
  inputs = jax.eval_shape(network.inputs, batch)
  examples = sharding.num_rows(inputs)

  title = f'{type(model).__name__}, one example'
  if len(run.task.networks()) > 1:
    title = f'{name}: {title}{", frozen" if network.frozen else ""}'
  table = _table(title, 'module')
  for column in ('output', 'parameters', 'MFLOPs forward'):
    table.add_column(column, justify='right', no_wrap=True)
  for path in sorted(set(sizes) | set(operations), key=_natural):
    if path in trees.flatten(params) or (path not in sizes and path not in found):
      continue
    depth = path.count('/') + 1 if path else 0
    table.add_row(
      '  ' * depth + (path.rpartition('/')[2] or 'all'),
      _shape(found, path, examples),
      f'{sizes[path]:,}',
      f'{operations[path] / examples / 1e6:,.3f}' if operations[path] else '',
    )
  console.print(table)


def parameters(
  name: str, optimizer: optim.Optimizer, params: dict, console: rich.console.Console
) -> None:
  """Prints each parameter of an optimizer: shape, decay, any L2, rate factor, bytes."""
  numbers = {'decay': optimizer.decay_of(params)}
  if optimizer.l2:
    numbers['l2'] = optimizer.l2_of(params)
  numbers['rate x'] = optimizer.rate_factor_of(params)
  count = sum(leaf.size for leaf in jax.tree.leaves(params))
  title = f'{count:,} parameters'
  table = _table(f'{name}: {title}' if name else title, 'parameter')
  for column in ('shape', *numbers, 'axes', 'bytes/device'):
    table.add_column(column, justify='right', no_wrap=True)
  leaves = jax.tree_util.tree_leaves_with_path(params)
  columns = map(jax.tree.leaves, numbers.values())
  rows = [
    (optim.path_of(keys), leaf, *own)
    for (keys, leaf), *own in zip(leaves, *columns, strict=True)
  ]
  for path, leaf, *own in sorted(rows, key=lambda row: _natural(row[0])):
    axes, size = _axes(leaf.sharding.spec), meshes.bytes_per_device(leaf)
    shown = [f'{number:g}' for number in own]
    table.add_row(path, shape_text(leaf.shape), *shown, axes, f'{size:,}')
  console.print(table)


def memory(run: experiment.Experiment, console: rich.console.Console) -> None:
  """Prints the bytes of each part of the state, in total and on one device."""
  sizes = ' '.join(f'{axis}={size}' for axis, size in run.mesh.shape.items())
  table = _table(f'State on a mesh of {sizes}', 'part')
  for title in ('bytes', 'bytes per device', 'x an even split'):
    table.add_column(title, justify='right', no_wrap=True)
  parts = {f.name: getattr(run.abstract_state, f.name) for f in fields(State)}
  for name, tree in [*parts.items(), ('all', run.abstract_state)]:
    whole = sum(leaf.size * leaf.dtype.itemsize for leaf in jax.tree.leaves(tree))
    if whole:
      held = meshes.bytes_per_device(tree)
      table.add_row(
        name, f'{whole:,}', f'{held:,}', f'{held * run.mesh.size / whole:.2f}'
      )
  console.print(table)


def _axes(spec: jax.sharding.PartitionSpec) -> str:
  """Returns '-, fsdp+tensor' for a spec; '' for an array replicated on every device."""
  names = ['+'.join([a] if isinstance(a, str) else a or '-') for a in spec]
  return ', '.join(names)


def _table(title: str, first: str) -> rich.table.Table:
  table = rich.table.Table(title=title, title_justify='left', box=rich.box.SIMPLE)
  table.add_column(first, no_wrap=True)
  return table


def _prefixes(name: str) -> list[str]:
  parts = name.split('/')
  return [''] + ['/'.join(parts[: i + 1]) for i in range(len(parts))]


def _natural(name: str) -> list:
  return [int(s) if s.isdigit() else s for s in re.split(r'(\d+)', name)]


def _shape(found: dict, name: str, examples: int) -> str:
  node = found
  for part in name.split('/') if name else []:
    node = node.get(part, {})
  outputs = jax.tree.leaves(node.get('__call__', ()))
  if len(outputs) != 1:
    return ''
  shape = outputs[0].shape
  return shape_text(n for i, n in enumerate(shape) if not (n == examples and i < 2))


@errors.told_plainly
def main(argv: Sequence[str] | None = None) -> None:
  """Parses the command line and prints the tables."""
  parser = errors.parser(__doc__, allow_abbrev=False)
  _, config = cli.parse(parser, argv)
  run = experiment.make(config, planned_for=jax.devices())
  console = rich.console.Console()
  console.width = max(console.width, 120)  # better to wrap lines than to truncate cells
  for name, network in run.task.networks().items():
    blocks(run, name, network, console)
  params = run.abstract_state.params
  for name, optimizer in run.task.optimizers().items():
    parameters(name, optimizer, params[name] if name else params, console)
  memory(run, console)


if __name__ == '__main__':
  raise SystemExit(main())
