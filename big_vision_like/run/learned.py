"""Facts that a run learned about its training data, stored with it in `learned.json`.

Programs that load a run read class names and image sizes from there, because the data
may have been renamed, moved or deleted since. Mean and deviation are in the config.

`inputs` has the facts of each training input, by name in a run with several tasks, and
under '' otherwise. `label_names` and `category_names` are in the order of the model's
labels, null for labels without a name. `category_ids` are the data set's own numbers of
these categories. `image_size` is the height and width of all training images, null if
they vary. `tokenizers` are fingerprints of the vocabularies that make ids of texts.
"""

import os
import pathlib
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from big_vision_like import files, spec, upgrade
from big_vision_like.data.input import pipeline
from big_vision_like.devices.processes import say
from big_vision_like.errors import UserError
from big_vision_like.run import labels
from big_vision_like.run.labels import Known, Vocabulary

Facts = dict[str, Any]

FILE = 'learned.json'
# Fields of names, and the labels of `labels.Vocabulary` that they name.
FIELDS = {'label_names': 'label', 'category_names': 'box_labels'}
FORMAT = 1


def of(run: Any) -> Facts:
  """Returns the facts about the training data of an `experiment.Experiment`.

  Names are known without reading examples; sizes come from the first batch.
  """
  inputs = {}
  for name, data in run.data.parts.items():
    batch = run.example[name] if name else run.example
    inputs[name] = of_input(data, batch)
  return {'format': FORMAT, 'inputs': inputs}


def of_input(data: pipeline.SingleInput, batch: Mapping[str, Any]) -> Facts:
  """Returns the facts about one input with the first batch `batch`."""
  names = labels.vocabulary(data)
  facts: Facts = {field: _listed(names.get(kind)) for field, kind in FIELDS.items()}
  facts['category_ids'] = _category_ids(data, facts['category_names'])
  size = None
  kind = next((name for name in ('image', 'video') if name in batch), None)
  if kind and 'size' not in batch and data.bucket is None:
    size = [int(side) for side in np.shape(batch[kind])[-3:-1]]
  facts['image_size'] = size
  facts['tokenizers'] = sorted(labels.tokenizers(data))
  return facts


def _listed(names: Mapping[int, str] | None) -> list[str | None] | None:
  """Returns names in the order of their labels, None for missing labels."""
  return names and [names.get(label) for label in range(max(names) + 1)]


def _category_ids(
  data: pipeline.SingleInput, names: Sequence[str | None] | None
) -> list[int | None] | None:
  """Returns the data set's own numbers of these categories, if it has any."""
  if names is None:
    return None
  for part in labels.parts_of(data).values():
    ids = getattr(part.source, 'category_ids', None)
    if ids is not None and {*part.names.get('box_labels', {}).values()} >= {*names}:
      own = dict(zip(part.source.category_names, map(int, ids), strict=True))
      return [own.get(name) for name in names]
  return None


def write(workdir: str | os.PathLike, facts: Facts) -> None:
  """Stores the facts in a run directory, atomically."""
  files.write_json(pathlib.Path(workdir) / FILE, facts)


def read(workdir: str | os.PathLike) -> Facts | None:
  """Returns the facts stored in a run directory; None for runs that stored none.

  Raises a `UserError` that names the problem in a damaged file.
  """
  path = pathlib.Path(workdir) / FILE
  if not path.exists():
    return None
  facts = files.read_fields(path)
  inputs = facts.get('inputs')
  if not isinstance(inputs, dict) or not all(_sound(f) for f in inputs.values()):
    raise UserError(
      f'{path} does not hold the facts of a run: restore it, or delete it to read class'
      ' names from the training data'
    )
  return facts


def _sound(facts: Any) -> bool:
  """Returns whether values of a file have the types that `of_input` writes."""
  if not isinstance(facts, dict):
    return False
  lists = [facts.get(field) or [] for field in (*FIELDS, 'tokenizers')]
  size = facts.get('image_size') or [1, 1]
  return (
    all(isinstance(x, list) for x in (*lists, size))
    and all(name is None or isinstance(name, str) for x in lists for name in x)
    and len(size) == 2
    and all(type(side) is int and side > 0 for side in size)
  )


def check(before: Facts | None, now: Facts) -> None:
  """Raises if the training data have other classes than the run so far."""
  for name, facts in before['inputs'].items() if before else ():
    new = now['inputs'].get(name, {})
    for field in FIELDS:
      old, ours = (_names(x.get(field)) for x in (facts, new))
      if old and ours and old != ours:
        place = f'train_data.inputs.{name}' if name else 'train_data'
        told = labels.difference(ours, old, 'the run so far')
        raise UserError(f'{place}: {told}; or continue with these: --accept=data')


def check_tokenizer(workdir: str | os.PathLike, tokenizer: Any) -> None:
  """Raises if a vocabulary is not among those that a run was trained with."""
  facts = read(workdir)
  for own in facts['inputs'].values() if facts else ():
    known = Known({}, f'the run {workdir}', tokenizers=own.get('tokenizers', ()))
    labels.check_tokenizers(tokenizer, known)


def vocabularies(facts: Facts) -> dict[str, Vocabulary]:
  """Returns the class names of each training input."""
  return {
    name: {kind: _names(own[f]) for f, kind in FIELDS.items() if own.get(f)}
    for name, own in facts['inputs'].items()
  }


def _names(listed: Sequence[str | None] | None) -> dict[int, str]:
  return {label: n for label, n in enumerate(listed or ()) if n is not None}


def image_size(facts: Facts, network: str = '') -> tuple[int, int] | None:
  """Returns height and width of a run's training images, if they have one size.

  With several inputs, uses the input of `network`, named as in `Task.networks`, or else
  the first that has a size.
  """
  inputs = facts['inputs']
  own = inputs.get(network.partition('.')[0], None)
  sizes = [f.get('image_size') for f in ([own] if own else inputs.values())]
  return next((tuple(size) for size in sizes if size), None)


def known(workdir: str | os.PathLike) -> dict[str, Known]:
  """Returns the classes of a run by input: stored ones, or the classes of the data.

  Reports a run that stored none: its classes come from data that may have changed, or
  are unknown.
  """
  facts = read(workdir)
  whose = f'the run {workdir}'
  if facts is None:
    found = _reread(pathlib.Path(workdir))
    return {name: Known(names, whose) for name, names in found.items()}
  return {
    name: Known(names, whose, tokenizers=facts['inputs'][name].get('tokenizers', ()))
    for name, names in vocabularies(facts).items()
  }


def _reread(workdir: pathlib.Path) -> dict[str, Vocabulary]:
  """Reads class names from the data that an old run was trained on, and reports it."""
  path = workdir / 'config.json'
  if not path.exists():
    return {}
  node = spec.in_steps(upgrade.upgraded(files.read_fields(path))['train_data'])
  why = f'{workdir} has no {FILE}'
  try:
    data = spec.build(node, 'config.train_data')
    for part in data.parts.values():
      len(part.source)  # raises if the data are missing
    found = labels.vocabularies(data)
  except (UserError, OSError) as error:
    say('names', f'class names are unknown: {why}, its data cannot be read: {error}')
    return {}
  if any(found.values()):
    say('names', f'class names come from data that may have changed since: {why}')
  return found
