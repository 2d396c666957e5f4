"""Preflight check of all data that a run will read.

    python -m big_vision_like.run.preflight --config=configs/vit/digits.py

Every input of a config is built and tried on a few examples before anything starts.
All problems are reported at once, below a table of all inputs.
"""

import contextlib
import functools
import io
import os
import pathlib
import re
import time
import traceback
import warnings
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent import futures
from typing import Any

import ml_collections as mlc
import numpy as np
from PIL import Image

from big_vision_like import cli, errors, spec
from big_vision_like.data.input import base, grouping, mixture, pipeline
from big_vision_like.data.sources.base import Source, counted, num_classes
from big_vision_like.data.transforms import compose, video_files
from big_vision_like.errors import (
  BadRecordError,
  Checked,
  UserError,
  listed,
  shape_text,
)
from big_vision_like.evals.evaluator import Evaluator
from big_vision_like.run import experiment, init_from, labels, learned
from big_vision_like.run.findings import Findings, Row, cut, short
from big_vision_like.run.labels import Known
from big_vision_like.tasks.task import Task

Example = dict[str, Any]

# Number of examples inspected per source; three of them are decoded.
SAMPLE = 64
# Features of an example that can be checked without decoding its image.
LABELS = ('label', 'labels', 'id')
# Names that models give to layers with one output per class.
HEADS = ('head', 'class_head')


def require(
  config: mlc.ConfigDict,
  training: bool = True,
  known: Mapping[str, Known] | None = None,
) -> dict[str, Any]:
  """Checks a config and reports the findings; returns its inputs by their places.

  Labels of these inputs are renumbered to match the training data or `known`.
  """
  found = check(config, training, known)
  found.report(whole=False)
  return found.made


def check(
  config: mlc.ConfigDict,
  training: bool = True,
  known: Mapping[str, Known] | None = None,
  thorough: bool = False,
) -> Findings:
  """Tries every input of a config; without `training`, only inputs of evaluators.

  The classes of evaluators are compared by name with the classes of the training data,
  or with `known`, the classes of a run by input name. `thorough` reads and decodes all
  examples.
  """
  started = time.perf_counter()
  found, plain = Findings(thorough=thorough), spec.in_steps(config)
  known = dict(known or {})
  task = None
  with contextlib.suppress(UserError):  # reported when the run itself builds it
    task = spec.build(plain['task'], 'config.task')
  if training:
    places = build_inputs(found, plain['train_data'], 'config.train_data')
    known |= agree(found, 'config.train_data')
    compare_runs(found, plain, known)
    for place in places:
      # A task with several inputs finds each batch under the name of its input.
      name = place.removeprefix('config.train_data.inputs.')
      with found.noting(short(place)):
        own = task and task.part('' if name == place else name)
        probe_input(found, place, own)
  for name, node in (plain.get('evals') or {}).items():
    before, evaluator = len(found.problems), None
    inputs = build_inputs(found, node, f'config.evals.{name}')
    if len(found.problems) == before:
      with found.noting(f'evals.{name}'):
        evaluator = spec.build(node, f'config.evals.{name}', found.made)
    own, needs = None, ()
    if evaluator is not None:
      needs = evaluator.needs
      with found.noting(f'evals.{name}.predict'):
        if task is not None and evaluator.task_labels:
          own = task.part(evaluator.predict.rpartition('.')[0])
      if fit_labels(found, evaluator, f'config.evals.{name}', inputs, known):
        evaluator = spec.build(node, f'config.evals.{name}', found.made)
      found.evals[name] = evaluator
    for place in inputs:
      unlike = any(short(place) in places for places in found.problems.values())
      probe_input(found, place, None if unlike else own, needs)
    collect_problems(found, evaluator, f'evals.{name}')
  if training and plain.get('keep_best') is not None:
    with found.noting('keep_best'):
      check_best(found, plain)
  found.seconds = time.perf_counter() - started
  return found


def check_best(found: Findings, plain: Mapping[str, Any]) -> None:
  """Raises if `keep_best` names a scalar that no evaluator reports."""
  keep_best = plain['keep_best']
  if not isinstance(keep_best, str):
    raise UserError(
      f"config.keep_best={keep_best!r} is not a text: name a scalar, as in 'val/top1'"
    )
  unbuilt = {*(plain.get('evals') or {})} - {*found.evals}
  if keep_best.partition('/')[0] not in unbuilt:
    experiment.best_is(keep_best, found.evals)


def agree(found: Findings, place: str) -> dict[str, Known]:
  """Gives each class the same label in all parts of the training data.

  Returns the classes of each input by name, '' for a single input.
  """
  if place not in found.made:
    return {}
  data = found.made[place]
  with found.noting(short(place)):
    data = labels.agreeing(data, short(place), found.remark)
  found.made[place] = data
  known = {}
  for name, part in data.parts.items():
    own = f'{place}.inputs.{name}' if name else place
    found.made[own] = part
    known[name] = labels.known(part, short(own))
  return known


def compare_runs(
  found: Findings, plain: Mapping[str, Any], known: Mapping[str, Known]
) -> None:
  """Compares the config's classes with the classes of runs that provide networks.

  Classes of frozen networks must be equal; other heads can learn new ones.
  """
  data = found.made.get('config.train_data')
  if data is None or not data.together:
    return  # several tasks, each with its own classes
  ours = labels.of_part(known, '')
  nodes = dict(spec.calls({k: plain.get(k) for k in ('frozen', 'init_from')}, ''))
  for path, node in nodes.items():
    if spec.symbol(node) is not init_from.from_run:
      continue
    path, frozen = path.removeprefix('.'), path.startswith('.frozen')
    above = nodes.get(f'.{path}'.removesuffix('.weights'), {})
    left = spec.held(above, 'leave_out') if above and not frozen else ()
    if any(re.fullmatch(p, f'{h}/kernel') for p in left for h in HEADS):
      continue
    with found.noting(path):
      facts = learned.read(node['workdir'])
      theirs = learned.vocabularies(facts) if facts else {}
      names = next(iter(theirs.values()), {})
      for field in ours.names.keys() & names.keys():
        told = labels.unlike(ours.names[field], names[field], f'run {node["workdir"]}')
        if told and frozen:
          raise UserError(told)
        if told:
          found.remark('train_data', f'init_from with its head: {told}')


def fit_labels(
  found: Findings,
  evaluator: Evaluator,
  place: str,
  inputs: Sequence[str],
  known: Mapping[str, Known],
) -> bool:
  """Renumbers an evaluator's labels to match the training data or `known` classes.

  Returns whether an input has changed.
  """
  wanted, field = labels.wanted(evaluator, known)
  with found.noting(short(place)):
    labels.check_tokenizers(evaluator, wanted)
  changed = False
  for other in inputs if wanted else ():
    if evaluator.classes_of and other == f'{place}.{evaluator.classes_of}':
      continue
    before, name = found.made[other], short(other)

    def tell(part: str, text: str, name: str = name) -> None:
      found.remark(f'{name}.source.parts.{part}' if part else name, text)

    with found.noting(name):
      found.made[other] = labels.fitted(before, wanted, tell, field)
    changed |= found.made[other] is not before
  return changed


def build_inputs(found: Findings, node: Any, place: str) -> list[str]:
  """Builds the inputs below a node of a config.

  Returns the places of inputs with one source; other inputs are built from these.
  """
  inputs = {}
  for path, call in spec.calls(node, place):
    with found.noting(short(path)):
      symbol = spec.symbol(call, path)
      if isinstance(symbol, type) and issubclass(symbol, base.Input):
        inputs[path] = call
  parts = {
    path: [other for other in inputs if other.startswith(f'{path}.')] for path in inputs
  }
  for path in sorted(inputs, key=lambda path: len(parts[path])):
    if all(part in found.made for part in parts[path]):
      with found.noting(short(path)):
        found.made[path] = spec.build(inputs[path], path, found.made)
  return [path for path in inputs if path in found.made and not parts[path]]


def probe_input(
  found: Findings,
  place: str,
  task: Task | None,
  needs: Sequence[str] = (),
) -> None:
  """Inspects each source of an input, through the input's own transforms.

  Batches must have the features in `needs`, and pass the check of `task` if given.
  """
  data, place = found.made[place], short(place)
  if not isinstance(data.source, mixture.Mixture):
    parts = {place: mixture.Part(source=data.source)}
  else:
    parts = {f'{place}.source.parts.{k}': p for k, p in data.source.parts.items()}
  examples = []
  for number, (where, part) in enumerate(parts.items()):
    row = Row(where, part.source, [*part.transforms, *data.transforms])
    found.rows.append(row)
    added: Example = {}
    if isinstance(data, pipeline.EvalInput):
      added['mask'] = np.True_
    if isinstance(data.source, mixture.Mixture):
      added['part'] = np.int32(number)
    collect_problems(found, (part, data.transforms), where)
    with found.noting(where):
      examples += probe_source(found, row, added, task, needs)
      for text in part.source.remarks():
        found.remark(where, text)
    if found.thorough and where not in sum(found.problems.values(), []):
      with found.noting(where):
        read_all(found, row, added)
    for path, source in inner_sources(part.source, where):
      found.rows.append(inner := Row(path, source))
      with found.noting(path):
        describe_source(inner)
  if len(parts) > 1 and examples:
    with found.noting(next(iter(parts))):
      pipeline.stack(examples)


def collect_problems(found: Findings, named: Any, place: str) -> None:
  """Records the problems reported by every object within a part of the config."""
  for _, part in labels.reachable(named):
    for sentence in part.problems() if isinstance(part, Checked) else ():
      told = found.problems.get(sentence, ())
      if not any(other.startswith(f'{place}.') for other in told):
        found.note(sentence, place)


def describe_source(row: Row) -> Example:
  """Describes a row's source in the row; returns its first record."""
  row.features = described(row.source.features)
  row.examples = len(row.source)
  row.left_out = counted(row.source.left_out)
  if not row.examples:
    raise UserError(f'{row.source} holds no examples.')
  row.first = 'unreadable'
  record = row.source[0]
  row.first = first_look(record)
  row.features = row.features or ', '.join(record)
  return record


def probe_source(
  found: Findings, row: Row, added: Example, task: Task | None, needs: Sequence[str]
) -> list[Example]:
  """Puts examples spread over a source through the transforms; returns a few."""
  record = describe_source(row) | added
  first, makers = traced(row.transforms, record)
  texts = [name for name, value in first.items() if pipeline.is_text(value)]
  for name in texts:
    if name in (*needs, *pipeline.PICTURES, *getattr(task, 'inputs', ())):
      raise UserError(no_batch(name, first[name]))
  if texts:
    found.remark(row.place, f'texts left out: {", ".join(texts)}')
  for need in needs:
    if need not in first:
      raise UserError(lacking(need, 'the evaluator', first))
  # Bad records are replaced in training; evaluation stops at them.
  leniently = functools.partial(
    contextlib.suppress, *([] if 'mask' in added else [BadRecordError])
  )
  records = read(row.source, spread(row.source)[1:], leniently)
  check_objects(found, row, [record, *records])
  tried, sample = [first], []
  for other in records[len(records) // 2 :: max(1, len(records) // 2)]:
    with leniently():
      tried.append(through(row.transforms, other | added))
  tried = grouping.alike(row.transforms, tried)
  batch = check_numbers(pipeline.stack([dict(example) for example in tried]))
  # Without images, transforms are fast. With images, only those that make labels run,
  # so that no further images are decoded.
  pictures = not {*pipeline.PICTURES}.isdisjoint(first)
  for other in records if makers is not None else ():
    with leniently():
      sample.append(through(makers if pictures else row.transforms, other | added))
  if task is not None:
    names = [n for n in (LABELS if pictures else batch) if n in batch]
    whole = pipeline.stack([{n: e[n] for n in names} for e in [first, *sample]])
    batch = widened(batch, len(sample) + 1) | whole
    own = {name: first[name] for name in texts}
    check_batch(task, row.source, batch, makers == [], own)
  return tried


def check_objects(found: Findings, row: Row, records: Sequence[Example]) -> None:
  """Raises if objects are needed and no image has any."""
  if not any(getattr(step, 'makes', '') == 'box_labels' for step in row.transforms):
    return
  count = row.source.num_objects
  if count is None:
    real = [
      ~np.asarray(objects.get('is_crowd', np.zeros(len(objects['label']))), bool)
      for record in records
      for name, objects in record.items()
      if name in ('objects', 'panoptic_objects') and 'label' in objects
    ]
    count = int(sum(each.sum() for each in real))
    if not count and len(records) < len(row.source):
      found.remark(row.place, f'no objects in {len(records)} of the images')
      return
  if not count:
    raise UserError(
      f'none of {len(row.source):,} images has an object that is not a crowd: there is'
      ' nothing to find'
    )


def read_all(found: Findings, row: Row, added: Example) -> None:
  """Reads and decodes all examples of a source; reports the unusable ones."""

  def reason(index: int) -> str | None:
    try:
      through(row.transforms, row.source[index] | added)
    except BadRecordError as error:
      return f'{index} ({error})'
    return None

  with futures.ThreadPoolExecutor(os.cpu_count()) as pool:
    bad = [text for text in pool.map(reason, range(len(row.source))) if text]
  if not bad:
    found.remark(row.place, 'all examples decoded')
    return
  text = (
    f'{len(bad):,} of {len(row.source):,} examples cannot be used: {listed(bad, 3)}'
  )
  if 'mask' in added:
    raise UserError(text)
  found.remark(row.place, f'{text}; others replace them')


def lacking(name: str, who: str, there: Iterable[str]) -> str:
  """Returns a sentence about a feature that `who` needs and examples lack."""
  return f'examples have no {name!r}, which {who} needs; they have {", ".join(there)}.'


def no_batch(name: str, value: Any) -> str:
  """Returns a sentence about a needed value that cannot be in a batch."""
  if isinstance(value, bytes) or name in pipeline.PICTURES:
    return (
      f'{name!r} are bytes, which no batch can hold: decode them, for example with'
      ' image.Decode as the first transform.'
    )
  return f'{name!r} are texts, which no batch can hold: make them numbers.'


def check_batch(
  task: Task,
  source: Source,
  batch: base.Batch,
  stored: bool,
  texts: Mapping[str, Any],
) -> None:
  """Has the task check a batch, and compares class counts if labels are as `stored`.

  `texts` are the texts of an example, which batches lack.
  """
  feature = source.features['label'] if 'label' in source.features else None
  theirs = num_classes(feature) if stored else None
  ours = task.num_classes
  if theirs and ours and theirs > ours:
    raise UserError(
      f'the data have {theirs} classes, so labels from {ours} on are out of range:'
      f' the model has {ours} classes (0 to {ours - 1}); set task.model.num_classes to'
      f' {theirs}.'
    )
  try:
    task.check(batch)
  except KeyError as error:
    if error.args[0] in texts:
      raise UserError(no_batch(error.args[0], texts[error.args[0]])) from error
    raise UserError(lacking(error.args[0], type(task).__name__, batch)) from error


def traced(
  transforms: Sequence[Any], record: Example
) -> tuple[Example, list[Any] | None]:
  """Returns a transformed record, and the transforms that make its LABELS features.

  Returns None instead of these transforms if they need the decoded image.
  """
  rng, makers, example = np.random.default_rng(0), [], record
  for transform in transforms:
    after = applied(transform, example, rng)
    if any(n in after and after[n] is not example.get(n) for n in LABELS):
      makers.append(transform)
    example = after
  try:
    through(makers, record)
  except UserError:
    makers = None
  return example, makers


def through(transforms: Sequence[Any], record: Example) -> Example:
  """Applies all transforms to a record, with the same random numbers every time."""
  rng = np.random.default_rng(0)
  return functools.reduce(lambda e, t: applied(t, e, rng), transforms, record)


def applied(transform: Any, example: Example, rng: np.random.Generator) -> Example:
  """Applies one transform to an example; converts any error to a `UserError`."""
  try:
    return compose.applied([transform], example, rng)
  except UserError:
    raise
  except Exception as error:  # its author did not expect such examples
    name = type(transform).__name__
    if isinstance(error, KeyError) and error.args[:1] in [('image',), ('label',)]:
      raise UserError(lacking(error.args[0], name, example)) from error
    frame = traceback.extract_tb(error.__traceback__)[-1]
    have = ', '.join(f'{k} ({type(v).__name__})' for k, v in example.items())
    where = f'{pathlib.Path(frame.filename).name}:{frame.lineno}'
    reason = cut(' '.join(str(error).split()), 200)
    raise UserError(
      f'{name} cannot take an example of {have}:'
      f' {type(error).__name__} at {where}: {reason}'
    ) from error


def spread(source: Source) -> list[int]:
  """Returns indices spread over a source, or over its first group if it has groups."""
  count = len(source) if source.groups is None else int(source.groups[1])
  return np.unique(np.linspace(0, count - 1, SAMPLE).astype(int)).tolist()


def read(source: Source, indices: Sequence[int], leniently: Any) -> list[Example]:
  """Reads records by index, skipping bad ones where `leniently` allows it."""
  with contextlib.suppress(BadRecordError):
    return source.__getitems__(indices)
  records = []
  for index in indices:
    with leniently():
      records.append(source[index])
  return records


def check_numbers(batch: base.Batch) -> base.Batch:
  """Returns a batch of numbers; raises a `UserError` for anything else."""
  for name, values in batch.items():
    if isinstance(values, Mapping):
      check_numbers(values)
    elif values.dtype.kind == 'O':
      raise UserError(
        f'{name!r} are objects, which no batch can hold: leave them out with'
        ' labels.Keep(names=...) as the last transform.'
      )
  return batch


def widened(batch: base.Batch, size: int) -> base.Batch:
  """Broadcasts the first row of a batch to `size` rows, without using memory."""
  return base.nested(lambda x: np.broadcast_to(x[0], (size, *x.shape[1:])), batch)


def inner_sources(source: Source, place: str) -> Iterator[tuple[str, Source]]:
  """Yields the sources that a source is made of, recursively, with their places."""
  for name, inner in source.inner.items():
    yield f'{place}.source.{name}', inner
    yield from inner_sources(inner, f'{place}.source.{name}')


def described(features: Mapping[str, Any]) -> str:
  """Formats the names of features as 'image, label of 10, id'."""
  return ', '.join(
    f'{name} of {num_classes(feature):,}' if num_classes(feature) else name
    for name, feature in features.items()
  )


def first_look(record: Example) -> str:
  """Describes an example, mainly by its image: 'JPEG 500x375'."""
  for name, value in record.items():
    if isinstance(value, os.PathLike):  # a video
      with contextlib.suppress(errors.UserError):
        height, width = video_files.frame_size(value)
        return f'{pathlib.Path(value).suffix[1:].upper()} {width}x{height}'
      return 'unreadable'
    several = isinstance(value, Sequence) and not isinstance(value, (bytes, str))
    frames = value if several else [value]
    if len(frames) and isinstance(frames[0], bytes):
      # Pillow raises and warns about many things for damaged or huge images; decoding
      # has one sentence for them.
      with contextlib.suppress(Exception), warnings.catch_warnings():
        warnings.simplefilter('ignore')
        picture = Image.open(io.BytesIO(frames[0]))
        grey = ' grey' if picture.mode in ('1', 'L', 'I', 'I;16') else ''
        count = f'{len(frames)} x ' if len(frames) > 1 else ''
        return f'{count}{picture.format} {picture.width}x{picture.height}{grey}'
    if name in ('image', 'video'):
      return shape_text(np.shape(value)) if np.ndim(value) else 'unreadable'
  for value in record.values():
    if isinstance(value, (bytes, str)):
      text = value if isinstance(value, str) else value.decode(errors='replace')
      return repr(cut(text, 24))
  return ', '.join(
    f'{name} {shape_text(np.shape(value))}' if np.ndim(value) else name
    for name, value in record.items()
  )


@errors.told_plainly
def main(argv: Sequence[str] | None = None) -> None:
  """Prints the table; the exit status is 1 if something is wrong."""
  parser = errors.parser(
    prog='python -m big_vision_like.run.preflight',
    description='Tries all data that a config reads, without starting a run.',
    allow_abbrev=False,
  )
  parser.add_argument(
    '--evaluators', action='store_true', help='skip the training data'
  )
  parser.add_argument(
    '--thorough', action='store_true', help='read and decode all examples'
  )
  args, config = cli.parse(parser, argv)
  check(config, training=not args.evaluators, thorough=args.thorough).report()


if __name__ == '__main__':
  raise SystemExit(main())
