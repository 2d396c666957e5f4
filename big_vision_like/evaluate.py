"""A config's evaluators on a checkpoint: `python -m big_vision_like.evaluate`.

`--workdir=runs/x` uses the saved config and the newest checkpoint; `--step` another
one, `--config` and overrides other evaluators.

`--weights=FILE --config=configs/vit/evaluate.py:imagenet` evaluates weights without a
run. The model is theirs, and so is what happens to images, whatever the config says;
`--preprocessing=config` keeps the config's. Where objects are found, as with
`--weights=detr-r50-e632da11.pth --config=configs/detr/coco.py:r50`, a config that does
not resize images stays as it is in that.
"""

import argparse
import dataclasses
import json
import pathlib
import time
from collections.abc import Sequence

import flax.linen as nn
import jax
import ml_collections as mlc

from big_vision_like import cli, errors, spec
from big_vision_like.data.transforms import boxes
from big_vision_like.devices import mesh as meshes
from big_vision_like.devices import processes
from big_vision_like.devices.processes import say
from big_vision_like.evals.evaluator import Evaluator, Results
from big_vision_like.inference import loading, preprocessing
from big_vision_like.inference.loading import load_run
from big_vision_like.inference.preprocessing import (
  DetectionPreprocessing,
  Preprocessing,
)
from big_vision_like.run import experiment, preflight, provenance
from big_vision_like.run.metrics import listed
from big_vision_like.tasks.task import State, Task
from big_vision_like.weights import tree

# Of a model: what is not of its weights, but where and in what numbers it computes.
COMPUTES = ('parent', 'name', 'scan', 'remat', 'dtype')
# Sides of padded images are multiples of this, where the config's do not fit.
MULTIPLE = 32


def measure(
  evaluator: Evaluator, task: Task, state: State, mesh: jax.sharding.Mesh
) -> tuple[Results, float]:
  """Runs an evaluator: what it finds, and the seconds it took."""
  started = time.perf_counter()
  found = evaluator.run(evaluator.prediction(task), state, mesh)
  return found, time.perf_counter() - started


def with_model(config: mlc.ConfigDict, model: nn.Module, source: str) -> mlc.ConfigDict:
  """The config with a model of weights, which must be of the same kind and classes.

  Where and in what numbers it computes (`scan`, `remat`, `dtype`) stays.
  """
  if 'model' not in config.task:
    task = spec.symbol(config.task).__name__
    raise errors.UserError(f'{source} is one model, but {task} has no field `model`')
  node = config.task.model
  kind, classes = spec.symbol(node), spec.held(node, 'num_classes')
  theirs, ours = (
    f'{type(model).__name__} of {model.num_classes} classes',
    f'{kind.__name__} of {classes} classes',
  )
  if kind is not type(model) or classes != model.num_classes:
    raise errors.UserError(
      f'{source} is a {theirs}, the config has a {ours}: take a config for such a model'
    )
  masks = spec.held(node, 'masks')
  if masks and not model.masks:
    raise errors.UserError(
      f'{source} is a {theirs} without masks, the config has them: set'
      ' config.task.model.masks=False, and evaluators that need none'
    )
  config = config.copy_and_resolve_references()
  config.task.model = _like(model, node)
  if masks is not None:
    config.task.model.masks = masks
  return config


def _like(model: nn.Module, node: mlc.ConfigDict) -> mlc.ConfigDict:
  """A recorded call that makes such a model, and computes as that of `node`."""
  arguments = {k: v for k, v in node.items() if k in COMPUTES}
  for field in dataclasses.fields(model):
    if field.name in COMPUTES:
      continue
    value = getattr(model, field.name)
    if isinstance(value, nn.Module):
      before = node[field.name]
      same = spec.symbol(before) is type(value)
      value = _like(value, before if same else mlc.ConfigDict())
    arguments[field.name] = value
  return spec.spec(type(model), **arguments)


def with_preprocessing(
  config: mlc.ConfigDict, preprocess: Preprocessing | DetectionPreprocessing
) -> mlc.ConfigDict:
  """The config with evaluators whose images are sized and normalised like this."""
  sized = _resized if isinstance(preprocess, DetectionPreprocessing) else _sized
  config = config.copy_and_resolve_references()
  for _, node in spec.calls(config.evals):
    if provenance.decodes(node):
      node['transforms'] = sized(node['transforms'], preprocess)
  for name, values in (('mean', preprocess.mean), ('std', preprocess.std)):
    if spec.held(config.task, name) is None:
      task = spec.symbol(config.task).__name__
      raise errors.UserError(f'{task} does not normalise images: it has no {name}')
    with config.task.ignore_type():  # one number, or one for each channel
      config.task[name] = values
  return config


def _sized(
  nodes: Sequence[mlc.ConfigDict], preprocess: Preprocessing
) -> list[mlc.ConfigDict]:
  """Transforms of a config, with others that size images."""
  decode, *rest = nodes
  sizing = [spec.symbol(node) in preprocessing.SIZING for node in rest]
  place = sizing.index(True) if True in sizing else 0
  kept = [n for n, sizes in zip(rest, sizing, strict=True) if not sizes]
  decode = spec.spec(spec.symbol(decode), channels=preprocess.channels)
  return [decode, *kept[:place], *preprocess.specs(), *kept[place:]]


def _resized(
  nodes: Sequence[mlc.ConfigDict], preprocess: DetectionPreprocessing
) -> list[mlc.ConfigDict]:
  """Transforms of a config, with others that resize and pad images, if any resize.

  Where they resize to the same sizes they are all kept.
  """
  sides = preprocess.short, preprocess.longest
  before = [node for node in nodes if spec.symbol(node) is boxes.ResizeShort]
  told = {(node['size'], spec.held(node, 'longest')) for node in before}
  if preprocess.short is None or told <= {sides}:
    return list(nodes)
  padded = preprocess.shapes
  if not padded:
    if preprocess.longest is None:
      raise errors.UserError(
        f'the weights want shorter sides of {preprocess.short} pixels and no longest'
        " one, but batches need shapes: --preprocessing=config keeps the config's"
      )
    low, high = (-(-side // MULTIPLE) * MULTIPLE for side in sides)
    padded = ((low, high), (high, low))
  made = []
  for node in nodes:
    if spec.symbol(node) is boxes.ResizeShort:
      node = spec.spec(boxes.ResizeShort, size=sides[0], longest=sides[1])
    elif spec.symbol(node) is boxes.Pad:
      node = spec.spec(boxes.Pad, sizes=padded, max_boxes=node['max_boxes'])
    made.append(node)
  return made


def _resizes(config: mlc.ConfigDict) -> bool:
  """Whether an evaluator resizes images to find objects in."""
  nodes = [node for _, node in spec.calls(config.evals)]
  return any(spec.symbol(node) is boxes.ResizeShort for node in nodes)


def load_weights(
  args: argparse.Namespace, config: mlc.ConfigDict
) -> tuple[mlc.ConfigDict, State]:
  """The config as weights want it, and their state; says what was replaced."""
  model, variables, preprocess = loading.load(args.weights, args.image_size, args.step)
  config = with_model(config, model, args.weights)
  say('weights', f'{args.weights}, {type(model).__name__}')
  finds = isinstance(preprocess, DetectionPreprocessing)
  unsized = finds and (preprocess.short is None or not _resizes(config))
  if args.preprocessing == 'config':
    say('images', 'as the config has them, not as the weights do (--preprocessing)')
    say('', f'theirs: {preprocess} ({preprocess.source})')
  elif unsized:
    if args.image_size is not None:
      raise errors.UserError(
        '--image-size: evaluators of the config do not resize images, so there is no'
        ' size to change'
      )
    say('images', 'of the sizes that the config gives them')
    say(
      '',
      f'normalised as the weights have them: mean {preprocess.mean}, std'
      f' {preprocess.std} ({preprocess.source})',
    )
    config = with_preprocessing(config, preprocess)
  else:
    say('images', f'as the weights have them, not the config: {preprocess}')
    say('', f"({preprocess.source}); --preprocessing=config keeps the config's")
    config = with_preprocessing(config, preprocess)
  params = tree.unstack_blocks(jax.device_get(variables.pop('params')))
  if spec.held(config.task.model, 'scan'):
    params = tree.stack_blocks(params)
  step = jax.numpy.int32(0)
  return config, State(step=step, params=params, opt_state=None, mutable=variables)


@errors.told_plainly
@processes.stopping_together
def main(argv: Sequence[str] | None = None) -> None:
  """Prints what every evaluator finds; writes `evaluation-STEP.json` in the workdir."""
  parser = argparse.ArgumentParser(
    prog='python -m big_vision_like.evaluate',
    description=__doc__,
    allow_abbrev=False,
    formatter_class=argparse.RawDescriptionHelpFormatter,
  )
  parser.add_argument('--step', type=int, help='the checkpoint; default the newest')
  parser.add_argument('--weights', help='a file of weights, or a folder with one')
  parser.add_argument(
    '--preprocessing',
    choices=('weights', 'config'),
    default='weights',
    help='with --weights, whose sizes and normalisation of images (%(default)s)',
  )
  parser.add_argument(
    '--image-size', type=int, help='with --weights, of other images than they say'
  )
  processes.add_flags(parser)
  args, config = cli.parse(parser, argv)
  if args.workdir is None and args.weights is None:
    raise errors.UserError('name the folder of a run: --workdir=runs/NAME')
  if args.image_size is not None and args.weights is None:
    raise errors.UserError('--image-size is for --weights: a run has its own')
  processes.start(args)
  if args.weights is not None:
    config, state = load_weights(args, config)
  with processes.together():
    inputs = preflight.require(config, training=False)
    made = experiment.make(config, training=False, inputs=inputs)
  if args.weights is None:
    state = load_run(args.workdir, args.step, config).state
    say('run', f'{args.workdir}, step {int(state.step):,}')
  if not made.evaluators:
    raise errors.UserError('the config has no evaluators (config.evals is empty).')
  step = int(state.step)
  state = meshes.put_tree(state, made.lay_out(state))
  results = {}
  for name, evaluator in made.evaluators.items():
    found, seconds = measure(evaluator, made.task, state, made.mesh)
    say(name, f'{listed(found.scalars)}  ({seconds:.1f} s)')
    results |= {f'{name}/{key}': value for key, value in found.scalars.items()}
  if jax.process_index() == 0 and args.workdir is not None:
    path = pathlib.Path(args.workdir) / f'evaluation-{step}.json'
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(results, indent=2) + '\n')


if __name__ == '__main__':
  raise SystemExit(main())
