"""Labels by name: the classes of all inputs are compared before the first step.

The same number may mean different classes in different data sets. Where class names are
known, they map the labels of an evaluator's data to the classes of the training data,
or of the run or weights under evaluation. A subset of those classes gets their numbers;
unknown classes raise. Names are compared exactly.

Names are numbers, WordNet synsets or words. Only the number of classes is compared if
the names are of different kinds (synsets on one side and words on the other), or if one
side numbers its classes instead of naming them.
"""

import contextlib
import dataclasses
import difflib
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from big_vision_like.data.input import base, mixture, pipeline
from big_vision_like.data.sources.base import Identified, Source
from big_vision_like.data.transforms import compose, labels
from big_vision_like.data.transforms.labels import Names
from big_vision_like.errors import UserError, listed
from big_vision_like.evals.evaluator import Evaluator

# Class names of `label` and of `box_labels`.
Vocabulary = Mapping[str, Names]

# Most names that a message lists.
NAMED = 5
SYNSET = re.compile(r'n\d{8}')
# Smallest share of classes that two wordings of one vocabulary must have in common.
ALIKE = 0.9
# Smallest similarity at which a name is suggested for another one.
LIKE = 0.75


class Known(NamedTuple):
  """The classes that labels must mean, and the name of their owner, for messages.

  `reworded` is for published weights: two lists of equal length are then the same
  classes if nearly all of them share a synonym (`tench, Tinca tinca`). `tokenizers` are
  fingerprints of the text vocabularies.
  """

  names: Vocabulary
  whose: str
  reworded: bool = False
  tokenizers: Sequence[str] = ()


class Part(NamedTuple):
  """A source of an input, with all transforms of its examples."""

  source: Source
  transforms: Sequence[Any]

  @property
  def names(self) -> Vocabulary:
    """The names of its classes after the transforms, as far as known."""
    found: dict[str, Names] = {}
    # Missing data are reported when they are tried.
    with contextlib.suppress(UserError, OSError):
      found = labels.class_names(self.source, self.transforms)
    if 'label' in found and self.relabelled:
      found.pop('label')
    return found

  @property
  def relabelled(self) -> bool:
    """Whether a transform from outside this package changes the labels.

    Only such transforms are tried, on one example; this package's declare it.
    """
    ours = labels.__name__.partition('.')[0]
    if all(type(t).__module__.startswith(f'{ours}.') for t in self.transforms):
      return False
    rng = np.random.default_rng(0)
    with contextlib.suppress(Exception):  # problems are reported when all is tried
      example = self.source[0]
      for transform in self.transforms:
        after = compose.applied([transform], example, rng)
        made = after.get('label') is not example.get('label')
        if made and not isinstance(transform, labels.Relabeling):
          return True
        example = after
    return False


def parts_of(data: pipeline.SingleInput) -> dict[str, Part]:
  """Returns the parts of a mixture by name, or a single source under ''."""
  if not isinstance(data.source, mixture.Mixture):
    return {'': Part(data.source, data.transforms)}
  return {
    name: Part(part.source, [*part.transforms, *data.transforms])
    for name, part in data.source.parts.items()
  }


def vocabulary(data: pipeline.SingleInput) -> Vocabulary:
  """Returns the class names of an input, from its part with the most classes."""
  found: dict[str, Names] = {}
  for part in parts_of(data).values():
    for field, names in part.names.items():
      found[field] = max(found.get(field, {}), names, key=len)
  return found


def vocabularies(data: base.Input) -> dict[str, Vocabulary]:
  """Returns the class names of each input by its name; '' for a single one."""
  return {name: vocabulary(part) for name, part in data.parts.items()}


def reachable(
  node: Any, place: str = '', whole: type | tuple[type, ...] = ()
) -> Iterator[tuple[str, Any]]:
  """Yields an object of a config and everything in its fields, with their places.

  Objects of the types `whole` are not entered.
  """
  yield place, node
  inside: list[tuple[str, Any]] = []
  if isinstance(node, whole):
    pass
  elif isinstance(node, Mapping):
    inside = [(f'{place}.{key}', value) for key, value in node.items()]
  elif isinstance(node, (list, tuple)):
    inside = [(f'{place}[{i}]', value) for i, value in enumerate(node)]
  elif dataclasses.is_dataclass(node) and not isinstance(node, type):
    names = [field.name for field in dataclasses.fields(node)]
    inside = [(f'{place}.{name}', getattr(node, name)) for name in names]
  for where, value in inside:
    yield from reachable(value, where, whole)


def tokenizers(node: Any) -> dict[str, Any]:
  """Returns the tokenizers in an object of a config, by fingerprint."""
  found = {}
  for _, part in reachable(node):
    if isinstance(part, Identified) and not isinstance(part, Source):
      with contextlib.suppress(UserError, OSError):  # missing files raise elsewhere
        found[part.fingerprint()] = part
  return found


def known(data: pipeline.SingleInput, whose: str) -> Known:
  """Returns the classes of an input, with the fingerprints of its tokenizers."""
  return Known(vocabulary(data), whose, tokenizers=tuple(tokenizers(data)))


def check_tokenizers(node: Any, known: Known | None) -> None:
  """Raises if texts in an object of a config get other ids than the known ones."""
  if known is None or not known.tokenizers:
    return
  for fingerprint, own in tokenizers(node).items():
    if fingerprint not in known.tokenizers:
      raise UserError(
        f'{getattr(own, "path", own)} is not the vocabulary of {known.whose}: the same'
        ' ids mean other words; use the same file'
      )


def fitted(
  data: pipeline.SingleInput,
  known: Known,
  told: Callable[[str, str], None],
  field: str | None = None,
) -> pipeline.SingleInput:
  """Returns an input with labels renumbered to match the classes in `known`.

  `told(part, sentence)` is called with what people should know about each part. `field`
  limits the comparison to 'label' or 'box_labels'; the default is both. Raises a
  `UserError` for classes that are not in `known`.
  """
  for name, part in parts_of(data).items():
    for kind in ('label', 'box_labels') if field is None else (field,):
      theirs = known.names.get(kind, {})
      # Objects have labels only if a transform makes them.
      made = [t.makes for t in part.transforms if isinstance(t, labels.Relabeling)]
      if kind == 'box_labels' and kind not in made:
        continue
      names = part.names.get(kind, {})
      if not names and not theirs:
        continue
      try:
        to, sentence = compared(names, theirs, known)
      except UserError:
        if not any(isinstance(t, labels.Mapped) for t in part.transforms):
          raise
        to, sentence = None, 'other classes, mapped by the config'
      if sentence:
        told(name, sentence)
      if to is not None:
        data = _with_labels(data, name, labels.ByName(to, dict(theirs), kind))
  return data


def compared(
  names: Names, theirs: Names, known: Known
) -> tuple[dict[int, int] | None, str]:
  """Returns a dict from labels to the matching labels of `theirs`, None if all match.

  Also returns a sentence for people, empty if all names are equal.
  """
  if not names or not theirs:
    counted = _counted(names or theirs)
    return None, '' if counted else 'classes are compared only by number'
  if all(theirs.get(label) == name for label, name in names.items()):
    whole = len(names) == len(theirs)
    return None, '' if whole else f'{len(names):,} of {len(theirs):,} classes'
  new = [name for name in names.values() if name not in theirs.values()]
  if new:
    if not _comparable(names, theirs) or (known.reworded and _reworded(names, theirs)):
      if len(names) == len(theirs):
        return None, f'{len(names):,} classes, compared by number'
      raise UserError(
        f'there are {len(names):,} classes ({_some(names.values())}), but'
        f' {len(theirs):,} ({_some(theirs.values())}) in {known.whose}: names of'
        ' different kinds cannot be matched; use the same names, or number'
        ' labels with labels.Mapped(classes=...)'
      )
    raise UserError(difference(names, theirs, known.whose))
  places: dict[str, list[int]] = {}
  for label, name in theirs.items():
    places.setdefault(name, []).append(label)
  for name in names.values():
    if len(places[name]) > 1 or list(names.values()).count(name) > 1:
      raise UserError(
        f'several classes are called {name!r}: they cannot be distinguished by name;'
        f' use the classes of {known.whose} in the same order'
      )
  to = {label: places[name][0] for label, name in names.items()}
  return to, f'{len(names):,} of {len(theirs):,} classes, mapped by name'


def unlike(names: Names, theirs: Names, whose: str, reworded: bool = False) -> str:
  """Returns the difference to the classes of `whose` as text; empty if none.

  With `reworded`, classes are the same if nearly all have a synonym in common.
  """
  if names == theirs or not _comparable(names, theirs):
    return ''
  if reworded and _reworded(names, theirs):
    return ''
  return difference(names, theirs, whose)


def _comparable(names: Names, theirs: Names) -> bool:
  """Returns whether both sides name their classes, with names of one kind."""
  if {*names.values()} & {*theirs.values()} or (_numbers(names) and _numbers(theirs)):
    return True
  for side in names, theirs:
    if _counted(side):
      return False
  return _synsets(names) == _synsets(theirs)


def _counted(names: Names) -> bool:
  """Returns whether names are just the label numbers, so that classes are unnamed."""
  return all(name == str(label) for label, name in names.items())


def _numbers(names: Names) -> bool:
  return all(name.isdecimal() for name in names.values())


def _synsets(names: Names) -> bool:
  return all(map(SYNSET.fullmatch, names.values()))


def _reworded(names: Names, theirs: Names) -> bool:
  """Returns whether labels are equal and nearly all classes share a synonym."""
  if names.keys() != theirs.keys():
    return False

  def synonyms(name: str) -> set[str]:
    return {word.strip().lower().replace('_', ' ') for word in name.split(',')}

  alike = [bool(synonyms(names[k]) & synonyms(theirs[k])) for k in names]
  return sum(alike) >= ALIKE * len(alike)


def difference(names: Names, theirs: Names, whose: str) -> str:
  """Returns a sentence about the differences to the classes of `whose`."""
  ours, others = list(names.values()), list(theirs.values())
  new = [name for name in ours if name not in others]
  missing = [name for name in others if name not in ours]
  if not new + missing:
    return f'the classes are in another order than in {whose}: {_some(others)}'
  sentence = f'the classes are not those of {whose}'
  sentence += f'; new are {_some(new)}' if new else ''
  sentence += f'; missing are {_some(missing)}' if missing else ''
  lower = {name.strip().lower(): name for name in missing}
  close = [
    f'{name!r} may be {lower[like]!r}'
    for name in new[:NAMED]
    for like in difflib.get_close_matches(name.strip().lower(), lower, 1, LIKE)
  ]
  if close:
    sentence += f' ({", ".join(close)})'
  return (
    f'{sentence}. Names must be equal: rename them, or number labels with'
    ' labels.Mapped(classes=...)'
  )


def _some(names: Any) -> str:
  return listed(map(repr, names), NAMED)


def wanted(
  evaluator: Evaluator, known: Mapping[str, Known]
) -> tuple[Known | None, str | None]:
  """Returns the classes that an evaluator's inputs must have; None for any.

  `known` are the classes of a run or of its training data, by input name. Also returns
  the field to compare, None for all.
  """
  if evaluator.classes_of:
    data = getattr(evaluator, evaluator.classes_of)
    return Known(vocabulary(data), f'its {evaluator.classes_of} data'), 'label'
  field = None if evaluator.task_labels else 'box_labels'
  return of_part(known, evaluator.predict.rpartition('.')[0]), field


def of_part(known: Mapping[str, Known], name: str) -> Known | None:
  """Returns the classes of a task's part; '' is a whole task, with its first input."""
  first = None if name else next(iter(known.values()), None)
  return known.get(name, first)


def with_labels_of(evaluator: Evaluator, known: Mapping[str, Known]) -> Evaluator:
  """Returns an evaluator with labels renumbered to match the classes of a run."""
  classes, field = wanted(evaluator, known)
  if classes is None:
    return evaluator
  inputs = {
    name: value
    for name, value in vars(evaluator).items()
    if isinstance(value, pipeline.SingleInput) and name != evaluator.classes_of
  }
  fit = {n: fitted(data, classes, lambda *_: None, field) for n, data in inputs.items()}
  same = all(fit[name] is inputs[name] for name in inputs)
  return evaluator if same else dataclasses.replace(evaluator, **fit)


def _with_labels(
  data: pipeline.SingleInput, name: str, transform: labels.ByName
) -> pipeline.SingleInput:
  """Inserts a transform after those that make the labels of a part of an input.

  Shared transforms up to that point become transforms of each part.
  """
  place = _after_labels(data.transforms)
  first, rest = list(data.transforms[:place]), list(data.transforms[place:])
  if not name:
    return dataclasses.replace(data, transforms=[*first, transform, *rest])
  parts = {}
  for key, part in data.source.parts.items():
    steps = [*part.transforms, *first]
    if key == name:
      steps.insert(_after_labels(steps), transform)
    parts[key] = dataclasses.replace(part, transforms=steps)
  source = dataclasses.replace(data.source, parts=parts)
  return dataclasses.replace(data, source=source, transforms=rest)


def _after_labels(transforms: Sequence[Any]) -> int:
  """Returns the index after the last transform that makes labels."""
  made = [i for i, t in enumerate(transforms) if isinstance(t, labels.Relabeling)]
  return made[-1] + 1 if made else 0


def agreeing(
  data: base.Input, place: str, told: Callable[[str, str], None]
) -> base.Input:
  """Returns training data with the same label for a class in all parts of a mixture.

  `told(place, sentence)` is called with places of inputs and parts in the config.
  """
  if not isinstance(data, pipeline.SingleInput):
    inputs = {
      name: agreeing(part, f'{place}.inputs.{name}', told)
      for name, part in data.inputs.items()
    }
    same = all(inputs[name] is data.inputs[name] for name in inputs)
    return data if same else dataclasses.replace(data, inputs=inputs)
  if not isinstance(data.source, mixture.Mixture):
    return data

  def tell(part: str, sentence: str) -> None:
    told(f'{place}.source.parts.{part}', sentence)

  return fitted(data, Known(vocabulary(data), 'the other parts'), tell)
