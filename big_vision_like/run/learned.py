"""Facts that a run learned about its training data, stored with it in `learned.json`.

What loads a run reads the names of classes and the size of images there, as the data
may have been renamed, moved or deleted since. Mean and deviation are in the config.

`inputs` has the facts of each training input: of a run with several tasks under their
names, of others under ''. `label_names` and `category_names` are in the order of the
labels that the model has, null for labels without a name; `category_ids` are the data
set's own numbers of these categories. `image_size` is the height and width of all
images that the run trains on, null where they have several. `tokenizers` are
fingerprints of the vocabularies that make ids of texts.
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
# Fields of names, and what `labels.Vocabulary` calls the labels that have them.
FIELDS = {'label_names': 'label', 'category_names': 'box_labels'}
FORMAT = 1


def of(run: Any) -> Facts:
  """Returns the facts about the training data of an `experiment.Experiment`.

  Names are known without reading examples; sizes are those of the first batch.
  """
  inputs = {}
  for name, data in run.data.parts.items():
    batch = run.example[name] if name else run.example
    inputs[name] = of_input(data, batch)
  return {'format': FORMAT, 'inputs': inputs}


def of_input(data: pipeline.SingleInput, batch: Mapping[str, Any]) -> Facts:
  """Returns the facts about one input, of which `batch` is the first."""
  names = labels.vocabulary(data)
  facts: Facts = {field: _listed(names.get(kind)) for field, kind in FIELDS.items()}
  facts['category_ids'] = _category_ids(data, facts['category_names'])
  size = None
  if 'image' in batch and 'size' not in batch and data.bucket is None:
    size = [int(side) for side in np.shape(batch['image'])[1:3]]
  facts['image_size'] = size
  facts['tokenizers'] = sorted(labels.tokenizers(data))
  return facts


def _listed(names: Mapping[int, str] | None) -> list[str | None] | None:
  """Returns names in the order of their labels, None in the gaps."""
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
  """Stores the facts in the folder of a run, the whole file or none."""
  files.write_json(pathlib.Path(workdir) / FILE, facts)


def read(workdir: str | os.PathLike) -> Facts | None:
  """Returns the facts in the folder of a run; None of runs from before there were any.

  Raises a `UserError` that names what is wrong in a damaged file.
  """
  path = pathlib.Path(workdir) / FILE
  if not path.exists():
    return None
  facts = files.read_fields(path)
  inputs = facts.get('inputs')
  if not isinstance(inputs, dict) or not all(_sound(f) for f in inputs.values()):
    raise UserError(
      f'{path} does not hold the facts of a run: restore it, or delete it to read names'
      ' of classes from the training data'
    )
  return facts


def _sound(facts: Any) -> bool:
  """Returns whether values of a file are what `of_input` writes."""
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
  """Raises where the training data have other classes than those of the run so far."""
  for name, facts in before['inputs'].items() if before else ():
    new = now['inputs'].get(name, {})
    for field in FIELDS:
      old, ours = (_names(x.get(field)) for x in (facts, new))
      if old and ours and old != ours:
        place = f'train_data.inputs.{name}' if name else 'train_data'
        told = labels.difference(ours, old, 'the run so far')
        raise UserError(f'{place}: {told}; or train on with these: --accept=data')


def check_tokenizer(workdir: str | os.PathLike, tokenizer: Any) -> None:
  """Raises where a vocabulary is not one that a run was trained with."""
  facts = read(workdir)
  for own in facts['inputs'].values() if facts else ():
    known = Known({}, f'the run {workdir}', tokenizers=own.get('tokenizers', ()))
    labels.check_tokenizers(tokenizer, known)


def vocabularies(facts: Facts) -> dict[str, Vocabulary]:
  """Returns the names of classes of each training input."""
  return {
    name: {kind: _names(own[f]) for f, kind in FIELDS.items() if own.get(f)}
    for name, own in facts['inputs'].items()
  }


def _names(listed: Sequence[str | None] | None) -> dict[int, str]:
  return {label: n for label, n in enumerate(listed or ()) if n is not None}


def image_size(facts: Facts, network: str = '') -> tuple[int, int] | None:
  """Returns height and width of the images that a run trains on, if they have one size.

  Of several inputs that of `network`, named as `Task.networks` does, or the first.
  """
  inputs = facts['inputs']
  own = inputs.get(network.partition('.')[0], None)
  sizes = [f.get('image_size') for f in ([own] if own else inputs.values())]
  return next((tuple(size) for size in sizes if size), None)


def known(workdir: str | os.PathLike) -> dict[str, Known]:
  """Returns the classes of a run by its inputs: the stored ones, or those of the data.

  Tells where the run has stored none, so that they come from data which may have
  changed, or are not known at all.
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
  """Reads names of classes from the data that an old run was trained on; tells so."""
  path = workdir / 'config.json'
  if not path.exists():
    return {}
  node = spec.in_steps(upgrade.upgraded(files.read_fields(path))['train_data'])
  why = f'{workdir} has no {FILE}'
  try:
    data = spec.build(node, 'config.train_data')
    for part in data.parts.values():
      len(part.source)  # raises where the data are not there
    found = labels.vocabularies(data)
  except (UserError, OSError) as error:
    say('names', f'of classes are unknown: {why}, and its data cannot be read: {error}')
    return {}
  if any(found.values()):
    say('names', f'of classes are read from data that may have changed since: {why}')
  return found
