"""Recorded calls: `spec` records a call as plain data, `build` makes it.

A config is a `ConfigDict` of plain values, so it can be saved as JSON and overridden
from the command line. It is nevertheless written with the real classes and functions:
editors can jump to them, and a misspelt argument fails while the file loads.
"""

import ast
import contextlib
import dataclasses
import difflib
import importlib
import importlib.util
import inspect
import os
import pathlib
import pkgutil
import re
import sys
import types
import typing
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any

import ml_collections as mlc

from big_vision_like import files, upgrade
from big_vision_like.errors import UserError, nearest, type_text

# Length of an epoch where there is no training data and none is needed.
NOMINAL_EPOCH = 10**6
PACKAGE = pathlib.Path(__file__).parent


def spec(fn: Callable[..., Any], /, **kwargs) -> mlc.ConfigDict:
  """Records the call `fn(**kwargs)` as plain data; raises for unknown arguments."""
  path = f'{_public_module(fn)}:{fn.__qualname__}'
  check_names(fn, kwargs, path)
  # Not type-safe: a fork may replace epochs(2) by 100; overrides check types.
  return mlc.ConfigDict({'_fn': path, **kwargs}, type_safe=False)


def _public_module(fn: Callable[..., Any]) -> str:
  """Returns the outermost module that exports a symbol: optax, not optax._src.alias."""
  names = fn.__module__.split('.')
  outer = ('.'.join(names[:end]) for end in range(1, len(names)))
  return next(
    (x for x in outer if getattr(sys.modules.get(x), fn.__qualname__, None) is fn),
    fn.__module__,
  )


def epochs(count: float) -> mlc.ConfigDict:
  """Returns a duration in passes over the training data, for fields in steps."""
  return mlc.ConfigDict({'epochs': float(count)})


def examples(count: int) -> mlc.ConfigDict:
  """Returns a duration in training examples, for fields in steps."""
  return mlc.ConfigDict({'examples': count})


def build(
  node: Any, path: str = 'config', made: Mapping[str, Any] | None = None
) -> Any:
  """Makes the recorded calls, innermost first.

  `made` holds objects that exist already, by their config path. Raises a `UserError`
  that names the config path of unknown or missing arguments.
  """
  made = made or {}
  if path in made:
    return made[path]
  if isinstance(node, (list, tuple)):
    return type(node)(build(v, f'{path}[{i}]', made) for i, v in enumerate(node))
  if not isinstance(node, (dict, mlc.ConfigDict)):
    return node
  kwargs = {k: build(v, f'{path}.{k}', made) for k, v in node.items() if k != '_fn'}
  if '_fn' not in node:
    return kwargs
  fn = symbol(node, path)
  check_names(fn, kwargs, path, complete=True)
  if missing := sorted(getattr(fn, '__abstractmethods__', ())):
    raise UserError(f'{path}: {fn.__qualname__} does not define {", ".join(missing)}')
  try:
    return fn(**kwargs)
  except ValueError as error:
    told = _warmup_too_long(path, **kwargs) or error
    raise UserError(f'{path} ({fn.__qualname__}): {told}') from error


def _warmup_too_long(
  path: str, warmup_steps: Any = None, decay_steps: Any = None, **_: Any
) -> str | None:
  """Returns a sentence about a warm-up without steps to decay, which optax rejects."""
  if not isinstance(warmup_steps, int) or not isinstance(decay_steps, int):
    return None
  if warmup_steps < decay_steps:
    return None
  return (
    f'warmup_steps={warmup_steps:,} leaves none of the {decay_steps:,} steps (usually'
    f' total_steps) for the decay: lower {path}.warmup_steps or train longer.'
  )


def symbol(node: Mapping[str, Any], path: str = 'config') -> Callable[..., Any]:
  """Returns the function or class that a recorded call names."""
  called = node['_fn']
  module, _, name = called.partition(':')
  try:
    return getattr(importlib.import_module(module), name)
  except (ImportError, AttributeError) as error:
    gone = isinstance(error, AttributeError) or module.startswith(f'{error.name}')
    if gone and module.startswith(f'{PACKAGE.name}.'):
      raise UserError(
        f'{path}._fn: {called!r} no longer exists; the nearest name is'
        f' {_nearest_symbol(called)}'
      ) from error
    raise UserError(f'{path}._fn: cannot import {called!r} ({error}).') from error


def _nearest_symbol(called: str) -> str:
  """Returns the public symbol of the package with the most similar module and name."""
  known = []
  for file in sorted(PACKAGE.rglob('*.py')):
    module = '.'.join(file.relative_to(PACKAGE.parent).with_suffix('').parts)
    names = re.findall(r'^(?:class|def) ([a-zA-Z]\w*)', file.read_text(), re.MULTILINE)
    known += [f'{module}:{name}' for name in names]

  def likeness(path: str) -> float:
    pairs = zip(called.partition(':'), path.partition(':'), strict=True)
    return sum(difflib.SequenceMatcher(None, *pair).ratio() for pair in pairs)

  return max(known, key=likeness)


def calls(node: Any, path: str = 'config') -> Iterator[tuple[str, Mapping[str, Any]]]:
  """Yields every recorded call in `node` with its config path."""
  if isinstance(node, (list, tuple)):
    for i, value in enumerate(node):
      yield from calls(value, f'{path}[{i}]')
  elif isinstance(node, (dict, mlc.ConfigDict)):
    if '_fn' in node:
      yield path, node
    for key, value in node.items():
      yield from calls(value, f'{path}.{key}')


def leaves(node: Any, path: str = '') -> Iterator[tuple[str, Any]]:
  """Yields each value with its config path, such as `train_data.transforms[1].size`."""
  if isinstance(node, Mapping) and node:
    for key, value in node.items():
      yield from leaves(value, f'{path}.{key}' if path else key)
  elif isinstance(node, (list, tuple)) and node:
    for i, value in enumerate(node):
      yield from leaves(value, f'{path}[{i}]')
  else:
    yield path, node


def in_steps(
  node: Any, examples_per_epoch: int = NOMINAL_EPOCH, batch_size: int = 1
) -> Any:
  """Returns a plain copy of a config in which every duration is a number of steps.

  Durations are rounded to a whole number, at least 1 unless they are 0. Arguments
  declared `int | float` keep fractions, such as that of epochs(2.4).
  """
  if isinstance(node, (list, tuple)):
    return type(node)(in_steps(v, examples_per_epoch, batch_size) for v in node)
  if not isinstance(node, (dict, mlc.ConfigDict)):
    return node
  if (steps := _steps(node, examples_per_epoch, batch_size)) is not None:
    return max(1, round(steps)) if steps > 0 else 0
  plain = {k: in_steps(v, examples_per_epoch, batch_size) for k, v in node.items()}
  for name, value in node.items():
    exact = _steps(value, examples_per_epoch, batch_size)
    if exact is not None and _takes_fractions(node, name):
      plain[name] = exact
  return plain


def _steps(node: Any, examples_per_epoch: int, batch_size: int) -> float | None:
  """Returns a duration in steps; None for anything else."""
  if not isinstance(node, (dict, mlc.ConfigDict)):
    return None
  if set(node) == {'epochs'}:
    return node['epochs'] * examples_per_epoch / batch_size
  if set(node) == {'examples'}:
    return node['examples'] / batch_size
  return None


def _takes_fractions(node: Mapping[str, Any], name: str) -> bool:
  """Returns whether an argument of a recorded call is declared `int | float`."""
  if '_fn' not in node:
    return False
  parameter = inspect.signature(symbol(node)).parameters.get(name)
  return {int, float} <= set(typing.get_args(getattr(parameter, 'annotation', None)))


def check_names(
  fn: Callable[..., Any], kwargs: Mapping[str, Any], path: str, complete: bool = False
) -> None:
  """Raises if `fn` does not take these arguments or, with `complete`, needs more."""
  parameters = inspect.signature(fn).parameters
  if any(p.kind is p.VAR_KEYWORD for p in parameters.values()):
    return
  for name in kwargs:
    if name not in parameters:
      title = '' if path == 'config' else f' ({getattr(fn, "__qualname__", fn)})'
      raise UserError(
        f'{path}{title} has no field {name!r}; {_nearest(name, list(parameters))}'
      )
  if complete:
    required = [
      name
      for name, p in parameters.items()
      if p.default is p.empty and p.kind is not p.VAR_POSITIONAL
    ]
    missing = [n for n in required if n not in kwargs]
    if missing:
      title = '' if path == 'config' else f' ({fn.__qualname__})'
      raise UserError(f'{path}{title} needs {", ".join(missing)}.')


def load(
  path: str, overrides: Sequence[str] = (), root: Callable[..., Any] | None = None
) -> mlc.ConfigDict:
  """Loads `file.py[:arg]` (its `get_config(arg)`) or a saved `config.json`.

  `overrides` are strings such as `task.model.depth=24`, applied in order; values
  derived from overridden fields follow. `root` is the callable whose arguments are the
  fields of the config itself.
  """
  name, arg = split_argument(path)
  file = pathlib.Path(name)
  if not file.is_file():
    close = _nearest_file(file)
    advice = f'; did you mean {str(close)!r}?' if close else '.'
    raise UserError(f'--config: no file {name!r}{advice}')
  if file.suffix == '.json':
    config = mlc.ConfigDict(upgrade.upgraded(files.read_fields(file)))
  else:
    module = _module(file)
    if not hasattr(module, 'get_config'):
      raise UserError(f'--config: {name} defines no get_config.')
    if arg and not _has_parameters(module):
      raise UserError(f'--config: {name} takes no argument, but got {arg!r}.')
    config = module.get_config(arg) if arg else module.get_config()
    if not isinstance(config, mlc.ConfigDict):
      kind = type_text(type(config))
      raise UserError(
        f'--config: get_config of {name} returns {kind}, not a ConfigDict'
      )
  for text in overrides:
    override(config, text, root)
  if root is not None:
    check_names(root, dict(config.items()), 'config', complete=True)
  for where, node in calls(config):
    kwargs = {k: v for k, v in node.items() if k != '_fn'}
    check_names(symbol(node, where), kwargs, where)
  return config


def split_argument(path: str) -> tuple[str, str]:
  """Splits FILE:ARGUMENT, where the path of the file may contain colons."""
  ends = [i for i, letter in enumerate(path + ':') if letter == ':']
  end = next((i for i in ends if pathlib.Path(path[:i]).is_file()), ends[0])
  return path[:end], path[end + 1 :]


def takes_argument(path: str) -> bool:
  """Returns whether a config `FILE.py` can be loaded as `FILE.py:ARG`."""
  file = pathlib.Path(path)
  return file.suffix == '.py' and file.is_file() and _has_parameters(_module(file))


def _has_parameters(module: types.ModuleType) -> bool:
  return bool(inspect.signature(module.get_config).parameters)


def _nearest_file(file: pathlib.Path) -> pathlib.Path | None:
  """Returns the existing file with the most similar folders and name, or None."""
  found = pathlib.Path(file.anchor)
  for part in file.parts[bool(file.anchor) :]:
    if not (found / part).exists():
      with contextlib.suppress(OSError):
        part = next(iter(nearest(part, os.listdir(found))), part)
    found /= part
  return found if found.is_file() else None


def name_of(path: str) -> str:
  """Returns the name under which a run saves a config `FILE.py[:ARG]`.

  The name is the path from the top of the repository, whatever the working directory; a
  file elsewhere is named without its folders. A default argument is written out.
  """
  name, arg = split_argument(path)
  file, top = pathlib.Path(name).resolve(), PACKAGE.resolve().parent
  place = file.relative_to(top) if file.is_relative_to(top) else file.name
  arg = arg or variants(file)[0].partition(':')[2]
  return ':'.join(filter(None, (str(place), arg)))


def arguments(text: str, /, **fields: Any) -> types.SimpleNamespace:
  """Parses the argument of a config, words separated by commas, into declared fields.

  Fields without a default come first, in order: a mapping accepts one of its keys,
  `str` any word. The other fields come in any order: a tuple accepts one of its words
  and defaults to the first; `int` accepts N-NAME and defaults to None; False becomes
  True if it is named. Raises a `UserError` for unknown, missing or conflicting words.
  """
  needed = [k for k, kind in fields.items() if kind is str or isinstance(kind, Mapping)]
  free = [name for name in fields if name not in needed]
  found: dict[str, Any] = {}
  for i, word in enumerate(text.split(',') if text else []):
    names = needed[i : i + 1] or free
    name = next((name for name in names if _takes(name, fields[name], word)), None)
    if name is None:
      listed = [c for n in names for c in _choices(n, fields[n]) if c]
      if not names:
        raise UserError(f'{word!r} is one word too many in {text!r}')
      close = nearest(word, listed)
      advice = f'; did you mean {close[0]!r}?' if close else ''
      raise UserError(
        f'no {" or ".join(names)} {word!r}: take one of {", ".join(listed)}{advice}'
      )
    if name in found:
      raise UserError(f'{text!r} has both {found[name]} and {word}: take one')
    found[name] = word
  for name, kind in fields.items():
    if name in needed and name not in found:
      usage = ','.join(needed) + ''.join(f'[,{other}]' for other in free)
      raise UserError(f'{text!r} has no {name}: write {usage.upper()}')
    if kind is int:
      found[name] = int(found[name].partition('-')[0]) if name in found else None
    elif kind is False:
      found[name] = name in found
    elif isinstance(kind, tuple):
      found.setdefault(name, kind[0])
  return types.SimpleNamespace(**found)


def _takes(name: str, kind: Any, word: str) -> bool:
  if kind is int:
    return re.fullmatch(rf'[1-9]\d*-{name}', word) is not None
  return kind is str or word in _choices(name, kind)


def _choices(name: str, kind: Any) -> Iterable[str]:
  return [name] if kind is False else [f'N-{name}'] if kind is int else kind


def declared(package: types.ModuleType, attribute: str) -> dict[Any, type]:
  """Returns the classes of a package that set an attribute, by its value.

  Raises a `UserError` for two classes with the same value, and for a class that lacks
  an attribute which its base declares.
  """
  found: dict[Any, type] = {}
  for info in pkgutil.iter_modules(package.__path__, f'{package.__name__}.'):
    for kind in vars(importlib.import_module(info.name)).values():
      if not isinstance(kind, type) or kind.__module__ != info.name:
        continue
      place, value = f'{info.name}.{kind.__name__}', getattr(kind, attribute, None)
      if value is not None:
        other = found.setdefault(value, kind)
        if other is not kind:
          place = f'{other.__module__}.{other.__name__} and {place}'
          raise UserError(f'{place} both have {attribute}={value!r}')
      elif any(attribute in inspect.get_annotations(b) for b in kind.__mro__[1:]):
        raise UserError(f'{place} has no `{attribute}`')
  return found


def variants(path: str | pathlib.Path) -> list[str]:
  """Returns `FILE.py:ARG` for each of a config file's ARGUMENTS, or just the file."""
  arguments = getattr(_module(pathlib.Path(path)), 'ARGUMENTS', ())
  return [f'{path}:{argument}' for argument in arguments] or [str(path)]


def _module(file: pathlib.Path) -> types.ModuleType:
  module_spec = importlib.util.spec_from_file_location(f'config_{file.stem}', file)
  if module_spec is None:
    raise UserError(f'--config: {file} is neither a .py file nor a saved config.json')
  module = importlib.util.module_from_spec(module_spec)
  try:
    module_spec.loader.exec_module(module)
  except SyntaxError as error:
    line = f' line {error.lineno}' if error.lineno else ''
    raise UserError(f'--config: {file}{line} is not Python: {error.msg}') from error
  except ImportError as error:
    raise UserError(f'--config: {file} cannot be imported: {error}') from error
  return module


def override(
  config: mlc.ConfigDict, text: str, root: Callable[..., Any] | None = None
) -> None:
  """Applies one override `a.b[1].c=value` to a config.

  The value is a Python literal, `epochs(3)` or `examples(500)`; anything else is a
  string.
  """
  path, equals, raw = text.partition('=')
  if not equals:
    raise UserError(f'--config.{text}: write --config.{text}=VALUE.')
  if not re.fullmatch(r'\w+(\.\w+|\[\d+\])*', path):
    raise UserError(f'--config.{text}: {path!r} is not a field such as model.depth.')
  value = _value(raw, path)
  *parents, last = [int(i) if i else k for k, i in re.findall(r'(\w+)|\[(\d+)\]', path)]
  node, where = config, 'config'
  if root is not None and parents and parents[0] not in config:
    if _is_free_group(root, parents[0], {}):
      with config.unlocked():
        config[parents[0]] = {}  # an optional group of fields, such as mesh
  for key in parents:
    _open_optional(node, key, where)
    node, where = _child(node, key, where), _join(where, key)
  if value is raw and not isinstance(held(node, last), str):
    value = {'true': True, 'false': False, 'none': None}.get(raw.lower(), raw)
  if isinstance(node, (list, tuple)):
    _child(node, last, where)
    if isinstance(node, tuple):
      raise UserError(f'{where} is a tuple: override all of it, not one entry.')
    _check_type(None, node[last], value, _join(where, last))
    node[last] = value
    return
  if not isinstance(node, (dict, mlc.ConfigDict)):
    raise UserError(f'{where} is {node!r}: it has no field {last!r}.')
  fn = symbol(node, where) if '_fn' in node else root if node is config else None
  fields = inspect.signature(fn).parameters if fn else {}
  if last in node:
    old = _widest(node, last, value, where)
    _check_type(fields.get(last), old, value, _join(where, last))
    if node is not config and _shares_root(config, node, last):
      with node.unlocked():
        del node[last]  # no longer shared with the root
  elif not (len(parents) == 1 and root and _is_free_group(root, parents[0], node)):
    if last not in fields:
      names = dict.fromkeys([*(k for k in node if k != '_fn'), *fields])
      raise UserError(f'{where} has no field {last!r}; {_nearest(last, list(names))}')
    _check_type(fields[last], None, value, _join(where, last))
  unlocked = getattr(node, 'unlocked', contextlib.nullcontext)
  ignore_type = getattr(node, 'ignore_type', contextlib.nullcontext)
  with unlocked(), ignore_type():
    node[last] = type(node[last])(value) if _widens(node.get(last), value) else value
  if _is_duration(value):
    try:
      list(calls(config))  # computes derived values
    except TypeError as error:
      raise UserError(
        f'{_join(where, last)} must be a number of steps, because other fields are'
        f' computed from it ({error}).'
      ) from error


def _value(raw: str, path: str) -> Any:
  """Returns the value of a text from the command line."""
  if duration := re.fullmatch(r'(epochs|examples)\((.*)\)', raw):
    kind, count = duration.groups()
    if not re.fullmatch(r'\d+(_\d+)*(\.\d*)?(e\d{1,2})?', count, re.ASCII):
      raise UserError(f'--config.{path}={raw}: write a number, as in {kind}(3).')
    return epochs(float(count)) if kind == 'epochs' else examples(int(float(count)))
  try:
    value = ast.literal_eval(raw)
  # The last three are for values nested too deeply or with keys that are lists.
  except (ValueError, SyntaxError, MemoryError, RecursionError, TypeError):
    return raw
  plain = (bool, int, float, str, list, tuple, dict, type(None))
  return value if isinstance(value, plain) else raw


def _is_duration(value: Any) -> bool:
  return isinstance(value, mlc.ConfigDict) and set(value) in ({'epochs'}, {'examples'})


def _open_optional(node: Any, key: int | str, where: str) -> None:
  """Records a call for an unset argument that may be an object of one of our classes.

  `task.ema.decay=0.99` then works without an `ema` in the config, because the argument
  `ema` is annotated as `optim.Ema | None`.
  """
  recorded = isinstance(node, (dict, mlc.ConfigDict)) and '_fn' in node
  if not recorded or node.get(key) is not None:
    return
  parameter = inspect.signature(symbol(node, where)).parameters.get(key)
  kinds = typing.get_args(getattr(parameter, 'annotation', None))
  classes = [k for k in kinds if isinstance(k, type) and dataclasses.is_dataclass(k)]
  if len(classes) == 1:
    unlocked = getattr(node, 'unlocked', contextlib.nullcontext)
    with unlocked():
      node[key] = spec(classes[0])


def held(node: Any, key: int | str) -> Any:
  """Returns the value of a field, set or by default; None if the field is unknown."""
  if isinstance(node, (list, tuple)):
    return node[key] if isinstance(key, int) and key < len(node) else None
  if isinstance(node, (dict, mlc.ConfigDict)) and key not in node and '_fn' in node:
    parameter = inspect.signature(symbol(node)).parameters.get(key)
    return parameter.default if parameter is not None else None
  return node.get(key) if isinstance(node, (dict, mlc.ConfigDict)) else None


def _child(node: Any, key: int | str, where: str) -> Any:
  try:
    return node[key]
  except (KeyError, IndexError, TypeError, AttributeError):
    pass
  if isinstance(node, (list, tuple)):
    raise UserError(f'{where} has {len(node)} entries, so there is no [{key}].')
  if isinstance(node, (dict, mlc.ConfigDict)):
    names = [k for k in node if k != '_fn']
    raise UserError(f'{where} has no field {key!r}; {_nearest(str(key), names)}')
  raise UserError(f'{where} is {node!r}: it has no field {key!r}.')


def _is_free_group(
  root: Callable[..., Any], name: str, node: Mapping[str, Any]
) -> bool:
  """Returns whether a config field, like mesh, is a dict of plain values (`node`)."""
  field = inspect.signature(root).parameters.get(name)
  plain = (bool, int, float, str, list, tuple, type(None), type)
  if field is None or isinstance(field.default, plain):
    return False
  return not any(map(_holds_fields, node.values()))


def _holds_fields(value: Any) -> bool:
  return isinstance(value, (dict, mlc.ConfigDict))


def _widest(node: Mapping[str, Any], name: str, new: Any, where: str) -> Any:
  """Returns the current value of a field, converted as the annotation allows.

  A whole number in a float field becomes a float. If the annotation is a union (`int |
  tuple[int, int]`) that includes the type of `new`, `new` itself is returned.
  """
  value = node[name]
  if '_fn' not in node:
    return value
  parameter = inspect.signature(symbol(node, where)).parameters.get(name)
  kinds = getattr(parameter, 'annotation', None)
  if type(value) is int and kinds is float:
    return float(value)
  if isinstance(kinds, types.UnionType):
    known = [typing.get_origin(kind) or kind for kind in typing.get_args(kinds)]
    return new if type(new) in known else value
  return value


def _shares_root(config: mlc.ConfigDict, node: Any, name: str) -> bool:
  """Returns whether a field is a reference to a field at the top of the config."""
  if not isinstance(node, mlc.ConfigDict) or _unshared(node[name]):
    return False
  reference = node.get_ref(name)
  tops = (key for key, value in config.items() if not _unshared(value))
  return any(config.get_ref(key) is reference for key in tops)


def _unshared(value: Any) -> bool:
  return value is None or _holds_fields(value)


def _join(where: str, key: int | str) -> str:
  return f'{where}[{key}]' if isinstance(key, int) else f'{where}.{key}'


def _widens(old: Any, new: Any) -> bool:
  """Returns whether an int replaces a float, or a list a tuple."""
  return (type(old), type(new)) in [(float, int), (tuple, list)]


def _check_type(
  parameter: inspect.Parameter | None, old: Any, new: Any, where: str
) -> None:
  """Raises unless `new` may replace `old`, or fill a parameter (`old` is None)."""
  kinds = getattr(parameter, 'annotation', inspect.Parameter.empty)
  union = isinstance(kinds, types.UnionType)
  if old is None and parameter is not None:
    if union and new is not None and _check_union(kinds, new, where):
      return
    if isinstance(parameter.default, (bool, int, float, str, list, tuple)):
      old = parameter.default
    elif kinds in (int, float, str, bool):
      old = kinds()
  if new is None:
    number = isinstance(old, (int, float)) or _is_duration(old)
    if number and parameter is not None and not union and parameter.default is not None:
      raise UserError(f'{where} must have a value (now {_shown(old)}), not None.')
    return
  if old is None or type(old) is type(new) or _widens(old, new):
    return
  whole = type(old) is int or int in typing.get_args(kinds)
  if _is_duration(new) and (whole or _is_duration(old)):
    return
  if isinstance(old, (dict, mlc.ConfigDict)):
    if isinstance(new, int) and _is_duration(old):
      return  # a number of steps instead of epochs(...) or examples(...)
    raise UserError(f'{where} is a group of fields: override one of {_fields(old)}.')
  raise UserError(
    f'{where} takes {type_text(type(old))} (now {old!r}), not {_shown(new)}'
    f' of type {type(new).__name__}.'
  )


def _check_union(union: types.UnionType, new: Any, where: str) -> bool:
  """Returns whether a union has only plain types; raises if `new` fits none of them."""
  kinds = [typing.get_origin(kind) or kind for kind in typing.get_args(union)]
  plain = {bool: bool, int: int, float: (int, float), str: str, types.NoneType: ()}
  plain |= {list: list, tuple: (list, tuple), Sequence: (list, tuple), Mapping: dict}
  if not all(kind in plain for kind in kinds):
    return False
  fits = any(
    isinstance(new, plain[kind]) and (kind is bool or type(new) is not bool)
    for kind in kinds
  )
  if fits or (_is_duration(new) and int in kinds):
    return True
  names = ' or '.join(type_text(kind) for kind in kinds if kind is not types.NoneType)
  raise UserError(
    f'{where} takes {names}, not {_shown(new)} of type {type(new).__name__}.'
  )


def _shown(value: Any) -> str:
  """Returns a value as written on the command line, truncated if it is long."""
  if _is_duration(value):
    return ', '.join(f'{kind}({count:g})' for kind, count in value.items())
  text = repr(value)
  return text if len(text) < 200 else f'{text[:200]}...'


def _fields(node: Mapping[str, Any]) -> str:
  return ', '.join(k for k in node if k != '_fn')


def _nearest(name: str, names: Sequence[str]) -> str:
  for close in nearest(name, names):
    return f'did you mean {close!r}?'
  return f'it has {", ".join(names)}.' if names else 'it has none.'
