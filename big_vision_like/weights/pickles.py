"""Pickles of plain containers and arrays, read without running anything in them.

A pickle is a program that calls functions by name. This module follows the few
instructions that plain data need, calls only stand-ins that the caller names, and
rejects anything else. Pickles of Python 2 are read, too; their strings become text of
the same bytes (latin-1).
"""

import codecs
import pickletools
from collections.abc import Callable, Iterator, Mapping
from typing import Any, BinaryIO, NamedTuple

import numpy as np

from big_vision_like.errors import UserError

MOST = 2_000_000  # most instructions of a pickle: training checkpoints have thousands
_ARGUMENTS = 16  # most arguments of a call
# Instructions with the value as argument: numbers, text and bytes of all lengths.
_VALUES = ('BININT', 'INT', 'LONG', 'BINFLOAT', 'FLOAT', 'BINUNICODE', 'UNICODE')
_VALUES += ('SHORT_BINUNICODE', 'BINSTRING', 'SHORT_BINSTRING', 'STRING')
_VALUES += ('BINBYTES', 'SHORT_BINBYTES')
_OPCODES = {opcode.code.encode('latin-1'): opcode for opcode in pickletools.opcodes}
_CORES = ('numpy.core.multiarray', 'numpy._core.multiarray')


class Named(NamedTuple):
  """A callable that a pickle names."""

  module: str
  name: str


def load(
  file: BinaryIO,
  found: Callable[[str, str], Named],
  callables: Mapping[Named, Callable[..., Any]],
  persistent: Callable[[Any], Any] | None = None,
  build: Callable[[Any, Any], None] | None = None,
  most: int = MOST,
) -> Any:
  """Interprets one pickle and returns its value.

  `found(module, name)` returns a callable's name or raises an error for those that are
  not allowed, and `callables` has the stand-ins to call. `persistent` resolves
  persistent ids. `build(target, state)` sets the state of an object, which is ignored
  without it. A pickle of more than `most` instructions is an error.
  """
  stack: list[Any] = []
  marks: list[int] = []  # start of each list of several items in the stack
  memo: dict[int, Any] = {}
  work = 0

  def popped(count: int | None = None) -> list[Any]:
    start = marks.pop() if count is None else len(stack) - count
    if start < (marks[-1] if marks else 0):
      raise IndexError('a pickle takes more than it has')
    items = stack[start:]
    del stack[start:]
    return items

  def named(module: Any, name: Any) -> Named:
    if not isinstance(module, str) or not isinstance(name, str):
      raise ValueError('it names a callable that is not text')
    return found(module, name)

  for opcode, argument in _instructions(file):
    work += 1
    if work > most:
      raise UserError(f'its pickle has over {most:,} instructions, which is too many')
    match opcode:
      case 'PROTO' | 'FRAME':
        pass
      case 'STOP':
        [value] = popped(1)
        return value
      case 'MARK':
        marks.append(len(stack))
      case 'NONE' | 'NEWTRUE' | 'NEWFALSE':
        stack.append({'NONE': None, 'NEWTRUE': True, 'NEWFALSE': False}[opcode])
      case 'EMPTY_DICT':
        stack.append({})
      case 'EMPTY_LIST':
        stack.append([])
      case 'EMPTY_TUPLE':
        stack.append(())
      case 'TUPLE1' | 'TUPLE2' | 'TUPLE3':
        stack.append(tuple(popped(int(opcode[-1]))))
      case 'TUPLE':
        stack.append(tuple(popped()))
      case 'LIST':
        stack.append(popped())
      case 'DICT':
        stack.append(put({}, popped()))
      case 'SETITEM' | 'SETITEMS':
        items = popped(2 if opcode == 'SETITEM' else None)
        put(stack[-1], items)
      case 'APPEND' | 'APPENDS':
        items = popped(1 if opcode == 'APPEND' else None)
        stack[-1].extend(items)
      case 'BUILD':
        [state] = popped(1)
        if build is not None:
          build(stack[-1], state)
      case 'POP':
        popped(1)
      case 'POP_MARK':
        popped()
      case 'DUP':
        stack.append(stack[-1])
      case 'PUT' | 'BINPUT' | 'LONG_BINPUT':
        memo[argument] = stack[-1]
      case 'MEMOIZE':
        memo[len(memo)] = stack[-1]
      case 'GET' | 'BINGET' | 'LONG_BINGET':
        stack.append(memo[argument])
      case 'GLOBAL':
        stack.append(named(*argument.split(' ', 1)))
      case 'STACK_GLOBAL':
        stack.append(named(*popped(2)))
      case 'REDUCE' | 'NEWOBJ':
        function, arguments = popped(2)
        # Other objects may take forever to compare or to pass.
        if not (isinstance(function, Named) and type(arguments) is tuple):
          raise ValueError('it calls something that is not a function')
        if len(arguments) > _ARGUMENTS:
          raise ValueError('it calls with too many arguments')
        # The same long list may occur in every call.
        work += sum(len(x) for x in arguments if isinstance(x, list | tuple))
        stack.append(callables[function](*arguments))
      case 'BINPERSID' if persistent is not None:
        stack.append(persistent(*popped(1)))
      case _ if opcode.startswith(_VALUES):
        stack.append(argument)
      case _:
        raise UserError(
          f'its pickle has an instruction that is not supported, {opcode}'
        )
  raise EOFError('a pickle without an end')


def _instructions(file: BinaryIO) -> Iterator[tuple[str, Any]]:
  """Yields the names and arguments of a pickle's instructions."""
  while code := file.read(1):
    if code not in _OPCODES:
      raise ValueError(f'it has an unknown instruction {code!r}')
    opcode = _OPCODES[code]
    if opcode.name == 'STRING':  # pickletools allows only ASCII
      text = file.readline().strip()[1:-1]
      yield opcode.name, codecs.escape_decode(text)[0].decode('latin-1')
    else:
      yield opcode.name, opcode.arg.reader(file) if opcode.arg else None


def put(target: Any, items: list[Any]) -> Any:
  """Puts alternating names and values into a dict, each name once; returns it.

  Names that are neither text nor numbers may take forever to hash. As no state dict has
  such names, they are replaced by other objects.
  """
  if not isinstance(target, dict):
    raise ValueError('names for something that is not a dict')
  for name, value in zip(items[::2], items[1::2], strict=True):
    name = name if isinstance(name, str | int | float | None) else object()
    if name in target:
      raise ValueError('a name occurs twice')
    target[name] = value
  return target


# Plain data with NumPy arrays


class _Array:
  """An array or a type of numbers that a pickle makes in two steps."""

  value: Any = None


def load_plain(file: BinaryIO, most: int = MOST) -> Any:
  """Returns the dicts, lists, tuples, numbers, text and NumPy arrays of a pickle.

  Arrays hold numbers or booleans. Raises `UserError` for anything else, and one of
  `archives.DAMAGE` for a damaged file.
  """
  return _resolved(load(file, _found, _CALLABLES, build=_build, most=most), {})


def _found(module: str, name: str) -> Named:
  if (module, name) not in _CALLABLES and (module, name) != ('numpy', 'ndarray'):
    raise UserError(
      f'it holds a {module}.{name}, which is not read since it may run code: only plain'
      ' containers and NumPy arrays are'
    )
  return Named(module, name)


def _dtype(text: Any, *_: Any) -> _Array:
  if not isinstance(text, str) or np.dtype(text).kind not in 'biuf':
    raise UserError(f'it holds an array of {text!r:.40}, and only numbers are read')
  made = _Array()
  made.value = np.dtype(text)
  return made


def _scalar(dtype: _Array, data: str | bytes) -> Any:
  return np.frombuffer(_bytes(data), dtype.value)[0].item()


def _bytes(data: str | bytes) -> bytes:
  return data.encode('latin-1') if isinstance(data, str) else data


_CALLABLES: dict[tuple[str, str], Callable[..., Any]] = {
  ('numpy', 'dtype'): _dtype,
  ('_codecs', 'encode'): lambda text, encoding: text.encode('latin-1'),
  ('__builtin__', 'bytes'): lambda: b'',
  ('collections', 'OrderedDict'): lambda pairs=(): put(
    {}, [x for name, value in pairs for x in (name, value)]
  ),
  **{(core, '_reconstruct'): lambda *_: _Array() for core in _CORES},
  **{(core, 'scalar'): _scalar for core in _CORES},
}


def _build(target: Any, state: Any) -> None:
  """Sets the byte order of a type, or the numbers of an array."""
  if not isinstance(target, _Array):
    raise UserError('it sets the state of an object, and only plain data are read')
  if target.value is not None:
    target.value = target.value.newbyteorder(state[1])
    return
  _, shape, dtype, in_columns, data = state
  numbers = (
    np.frombuffer(_bytes(data), dtype.value) if data else np.zeros(0, dtype.value)
  )
  target.value = numbers.reshape(shape, order='F' if in_columns else 'C')


def _resolved(value: Any, done: dict[int, Any]) -> Any:
  """Replaces arrays made in two steps by their values, each container once."""
  if id(value) in done:
    return done[id(value)]
  match value:
    case _Array():
      return value.value
    case dict():
      new = {key: _resolved(inner, done) for key, inner in value.items()}
    case list() | tuple() if not isinstance(value, Named):
      new = type(value)([_resolved(inner, done) for inner in value])
    case Named():
      raise UserError(f'it holds the function {value.module}.{value.name}')
    case _:
      return value
  done[id(value)] = new
  return new
