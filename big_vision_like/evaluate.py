"""The evaluators of a config, run on a checkpoint or on a file of weights.

    python -m big_vision_like.evaluate --workdir=runs/x

uses the config saved in the run and its newest checkpoint. `--step` selects another
checkpoint; `--config` and overrides select other evaluators.

    python -m big_vision_like.evaluate --weights=FILE --config=FILE.py

evaluates weights without a run, for example with configs/vit/evaluate.py:imagenet. The
model and the preprocessing of images come from the weights, whatever the config says;
`--preprocessing=config` keeps the preprocessing of the config. For detectors, as with
`--weights=detr-r50-e632da11.pth --config=configs/detr/coco.py:r50`, a config that does
not resize images still does not resize them.
"""

from big_vision_like.devices import signals

if __name__ == '__main__':
  signals.catch()  # early, because the imports below take seconds

import argparse
import pathlib
import time
from collections.abc import Sequence

import jax
import ml_collections as mlc

from big_vision_like import cli, errors, files, spec
from big_vision_like.devices import mesh as meshes
from big_vision_like.devices import processes
from big_vision_like.devices.processes import say
from big_vision_like.evals.evaluator import Evaluator, Results
from big_vision_like.inference import adapt, loading
from big_vision_like.inference.loading import load_run
from big_vision_like.inference.objects import DetectionPreprocessing
from big_vision_like.run import experiment, learned, preflight, provenance
from big_vision_like.run.labels import Known
from big_vision_like.run.metrics import listed
from big_vision_like.tasks.task import State, Task
from big_vision_like.weights import tree


def measure(
  evaluator: Evaluator, task: Task, state: State, mesh: jax.sharding.Mesh
) -> tuple[Results, float]:
  """Runs an evaluator; returns its results and the seconds it took."""
  started = time.perf_counter()
  found = evaluator.run(evaluator.prediction(task), state, mesh)
  return found, time.perf_counter() - started


def load_weights(
  args: argparse.Namespace, config: mlc.ConfigDict
) -> tuple[mlc.ConfigDict, State, Known]:
  """Returns a config for the weights, their state and classes; prints replacements."""
  model, variables, preprocess = loading.load(
    args.weights, args.image_size, args.step, args.source_grid
  )
  config = adapt.with_model(config, model, args.weights)
  say('weights', f'{args.weights}, {type(model).__name__}')
  finds = isinstance(preprocess, DetectionPreprocessing)
  unsized = finds and (preprocess.short is None or not adapt.resizes(config))
  if args.preprocessing == 'config':
    say('images', 'as in the config, not as the weights expect (--preprocessing)')
    say('', f'the weights expect: {preprocess} ({preprocess.source})')
  elif unsized:
    if args.image_size is not None:
      raise errors.UserError(
        '--image-size: evaluators of the config do not resize images, so there is no'
        ' size to change'
      )
    say('images', 'keep the sizes that the config gives them')
    say(
      '',
      f'normalised as the weights expect: mean {preprocess.mean}, std'
      f' {preprocess.std} ({preprocess.source})',
    )
    config = adapt.with_preprocessing(config, preprocess)
  else:
    say('images', f'as the weights expect, not as in the config: {preprocess}')
    say('', f"({preprocess.source}); --preprocessing=config keeps the config's")
    config = adapt.with_preprocessing(config, preprocess)
  if hasattr(model, 'grid'):
    provenance.check_evaluated(config, model, variables, model.grid(preprocess.size))
  params = tree.unstack_blocks(jax.device_get(variables.pop('params')))
  if spec.held(config.task.model, 'scan'):
    params = tree.stack_blocks(params)
  step = jax.numpy.int32(0)
  state = State(step=step, params=params, opt_state=None, mutable=variables)
  names = {'box_labels' if finds else 'label': dict(enumerate(preprocess.label_names))}
  return config, state, Known(names, str(args.weights), reworded=True)


@errors.told_plainly
@processes.stopping_together
def main(argv: Sequence[str] | None = None) -> None:
  """Prints all results; writes them to `evaluation-STEP.json` in the workdir."""
  parser = errors.parser(
    __doc__, prog='python -m big_vision_like.evaluate', allow_abbrev=False
  )
  parser.add_argument('--step', type=int, help='checkpoint (default: the newest)')
  parser.add_argument('--weights', help='a file of weights, or a folder with one')
  parser.add_argument(
    '--preprocessing',
    choices=('weights', 'config'),
    default='weights',
    help='with --weights, the source of image sizes and normalisation (%(default)s)',
  )
  parser.add_argument(
    '--image-size', type=int, help='with --weights, image size other than the default'
  )
  loading.add_source_grid(parser)
  processes.add_flags(parser)
  args, config = cli.parse(parser, argv)
  if args.workdir is None and args.weights is None:
    raise errors.UserError('name the folder of a run: --workdir=runs/NAME')
  if args.image_size is not None and args.weights is None:
    raise errors.UserError('--image-size needs --weights: a run has its own size')
  if args.source_grid is not None and args.weights is None:
    raise errors.UserError('--source-grid needs --weights: a run has its own grid')
  processes.start(args)
  if args.weights is not None:
    config, state, classes = load_weights(args, config)
    known = {'': classes}
  else:
    known = learned.known(args.workdir)
  with processes.together():
    inputs = preflight.require(config, training=False, known=known)
    made = experiment.make(config, training=False, inputs=inputs)
  if args.weights is None:
    run = load_run(args.workdir, args.step, config)
    state, model = run.state, run.network.module
    saved = spec.load(str(run.workdir / 'config.json'), root=experiment.Settings)
    if grid := provenance.run_grid(saved, model, run.workdir):
      provenance.check_evaluated(config, model, run.variables, grid)
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
    files.write_json(path, results)


if __name__ == '__main__':
  raise SystemExit(main())
