"""Predicts pseudo labels for the unlabelled images of a config with a teacher.

    python tools/pseudo_label.py --weights=runs/teacher \\
        --config=configs/noisy_student/digits.py:student

The config's training data contain a `pseudo_labels.PseudoLabelled`: its `source` has
the images, and its `labels` is the folder to write. --weights is the teacher: a run
directory, a weights file, or a folder with one. Images are resized and normalized as
the teacher expects, and are not augmented.

Each image gets one record: id, class, confidence and probabilities. Rerun the command
to resume: complete files are not written again. With the flags of several processes,
all of them read and predict, and the first one writes.

At the end the command prints which images the config would choose, and how many copies
of them. --all prints this for each class.
"""

from big_vision_like.devices import signals

if __name__ == '__main__':
  signals.catch()  # the imports below take seconds

import argparse
from collections.abc import Sequence
from typing import Any

import jax
import ml_collections as mlc
import numpy as np

from big_vision_like import cli, errors, spec
from big_vision_like.data.sources import pseudo_labels as sources
from big_vision_like.devices import mesh as meshes
from big_vision_like.devices import processes
from big_vision_like.devices.processes import say
from big_vision_like.errors import UserError, listed
from big_vision_like.inference import loading, pseudo_labels
from big_vision_like.inference.classes import Preprocessing
from big_vision_like.run import labels


def source_of(config: mlc.ConfigDict) -> sources.PseudoLabelled:
  """Returns the pseudo-labelled images that a config trains on."""
  found = {
    path: node
    for path, node in spec.calls(config.train_data, 'config.train_data')
    if spec.symbol(node, path) is sources.PseudoLabelled
  }
  if not found:
    raise UserError(
      'the training data of the config have no pseudo_labels.PseudoLabelled to name'
      ' the images to predict and the folder to write'
    )
  if len(found) > 1:
    raise UserError(
      f'the training data of the config have several PseudoLabelled ({listed(found)}):'
      ' predict each with its own config'
    )
  [(path, node)] = found.items()
  return spec.build(spec.in_steps(node), path)


def teacher_of(args: argparse.Namespace) -> pseudo_labels.Teacher:
  """Loads the teacher that the command line names."""
  model, variables, preprocess = loading.load(args.weights, args.image_size, args.step)
  if not isinstance(preprocess, Preprocessing) or not model.num_classes:
    raise UserError(
      f'--weights={args.weights}: a {type(model).__name__} without classes cannot label'
      ' images'
    )
  name = args.weights if args.step is None else f'{args.weights}, step {args.step}'
  return pseudo_labels.Teacher(name, model, jax.device_get(variables), preprocess)


def check_classes(config: mlc.ConfigDict, teacher: pseudo_labels.Teacher) -> None:
  """Raises unless the teacher has the classes of the config's labels."""
  wanted = config.task.model.get('num_classes') if 'model' in config.task else None
  if wanted not in (None, teacher.model.num_classes):
    raise UserError(
      f'the teacher {teacher.name} has {teacher.model.num_classes} classes and the'
      f' model of the config {wanted}: a teacher must have the classes of its student'
    )
  inputs = config.train_data.get('inputs', {})
  theirs = dict(enumerate(teacher.preprocess.label_names))
  if 'labelled' in inputs and theirs:
    node = spec.in_steps(inputs['labelled'])
    data = spec.build(node, 'config.train_data.inputs.labelled')
    ours = labels.vocabulary(data).get('label', {})
    if ours and (told := labels.unlike(ours, theirs, f'the teacher {teacher.name}')):
      raise UserError(f'train_data.inputs.labelled: {told}')


def tell(source: sources.PseudoLabelled, whole: bool) -> None:
  """Prints how many images are chosen, in total or for each class."""
  copies_N, threshold_K, available_K = source.choice
  for text in source.remarks():
    say('chosen', text)
  if not whole:
    return
  count = len(available_K)
  predicted_K = np.bincount(source.told['label'], minlength=count)
  used_K = np.bincount(source.told['label'], weights=copies_N, minlength=count).astype(
    int
  )
  names: Any = source.label_names or range(count)
  print(f'{"class":<20}{"predicted":>10}{"threshold":>10}{"available":>10}{"used":>10}')
  for label in range(count):
    print(
      f'{names[label]!s:<20}{predicted_K[label]:>10,}{threshold_K[label]:>10.2f}'
      f'{available_K[label]:>10,}{used_K[label]:>10,}'
    )


@errors.told_plainly
@processes.stopping_together
def main(argv: Sequence[str] | None = None) -> None:
  """Predicts missing labels, and prints what the config would choose of them."""
  parser = errors.parser(__doc__, allow_abbrev=False)
  parser.add_argument(
    '--weights', required=True, help='teacher: a run, or a weights file'
  )
  parser.add_argument(
    '--step', type=int, help="step of the run's checkpoint; default: the newest"
  )
  parser.add_argument(
    '--image-size', type=int, help='side of images; default: the size of the teacher'
  )
  parser.add_argument(
    '--batch-size', type=int, default=256, help='batch of all processes (%(default)s)'
  )
  parser.add_argument(
    '--per-file', type=int, default=8192, help='images per file (%(default)s)'
  )
  parser.add_argument(
    '--workers', type=int, default=0, help='processes that decode (%(default)s)'
  )
  parser.add_argument(
    '--threads', type=int, default=2, help='threads that decode (%(default)s)'
  )
  parser.add_argument('--all', action='store_true', help='print a line for each class')
  processes.add_flags(parser)
  args, config = cli.parse(parser, argv)
  if args.per_file < 1:
    raise UserError(f'--per-file={args.per_file} is less than 1')
  processes.start(args)
  with processes.together():
    source, teacher = source_of(config), teacher_of(args)
    check_classes(config, teacher)
  say('teacher', f'{teacher.name}, {type(teacher.model).__name__}')
  say(
    'images', f'{len(source.source):,} of {source.source.title}, {teacher.preprocess}'
  )
  reading = pseudo_labels.Reading(args.batch_size, args.workers, args.threads)
  pseudo_labels.predict(
    teacher,
    source.source,
    source.labels,
    meshes.make_mesh(),
    reading,
    args.per_file,
  )
  if jax.process_index() == 0:
    tell(source, args.all)


if __name__ == '__main__':
  raise SystemExit(main())
