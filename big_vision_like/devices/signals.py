"""SIGTERM and Ctrl-C: the first one stops a training cleanly, the second immediately.

Before the first step there is nothing to save, so the first signal also ends the
program, as in programs that do not train. A thread receives the signals, because the
main thread may wait minutes for a compiler.
"""

import contextlib
import os
import signal
import sys
import threading
from collections.abc import Iterator
from typing import NoReturn

NAMES = {signal.SIGTERM: 'SIGTERM', signal.SIGINT: 'Ctrl-C'}


class Interrupted(BaseException):
  """A signal to stop, received inside `interrupting`."""


class _Heard:
  """The signals received so far; the system has one handler for the whole process."""

  first: int | None = None
  count = 0
  saves = False  # the program checks `first` and saves before it ends
  elsewhere = False  # JAX handles SIGTERM, so that several processes stop together
  raises = False
  wakeup = -1  # file descriptor to which the system writes signal numbers
  listener: threading.Thread | None = None


def received() -> str | None:
  """Returns the name of the signal that asks this process to stop; None if none."""
  return None if _Heard.first is None else NAMES[_Heard.first]


def catch() -> None:
  """Installs the handlers that stop this process cleanly; only in the main thread."""
  if _Heard.wakeup >= 0 or threading.current_thread() is not threading.main_thread():
    return
  reading, _Heard.wakeup = os.pipe()
  os.set_blocking(_Heard.wakeup, False)
  for number in NAMES:
    signal.signal(number, _in_main_thread)
  signal.set_wakeup_fd(_Heard.wakeup, warn_on_full_buffer=False)
  _Heard.listener = threading.Thread(target=_listen, args=(reading,), daemon=True)
  _Heard.listener.start()


@contextlib.contextmanager
def caught() -> Iterator[None]:
  """Installs the handlers for a block, and restores the previous ones afterwards."""
  outermost = _Heard.wakeup < 0
  before = {number: signal.getsignal(number) for number in NAMES}
  catch()
  try:
    yield
  finally:
    if outermost and _Heard.wakeup >= 0:
      signal.set_wakeup_fd(-1)
      os.close(_Heard.wakeup)  # ends the thread once it has read all signals
      _Heard.listener.join()
      _Heard.wakeup, _Heard.first, _Heard.count = -1, None, 0
      _Heard.saves = _Heard.elsewhere = False
      for number, handler in before.items():
        signal.signal(number, handler)


@contextlib.contextmanager
def saving(elsewhere: bool = False) -> Iterator[None]:
  """Leaves the first signal to the block, which checks `received` and saves.

  This lasts until the end of the outermost `caught`. With `elsewhere`, JAX handles
  SIGTERM, and Ctrl-C is forwarded to it as SIGTERM.
  """
  with caught():
    _Heard.saves, _Heard.elsewhere = True, elsewhere
    yield


@contextlib.contextmanager
def interrupting() -> Iterator[None]:
  """Raises `Interrupted` in the block on the first signal, including an earlier one."""
  _Heard.raises = True
  try:
    if _Heard.first is not None:
      raise Interrupted
    yield
  finally:
    _Heard.raises = False


def _in_main_thread(number: int, _) -> None:
  _Heard.first = _Heard.first or number
  if _Heard.raises:
    _Heard.raises = False
    raise Interrupted


def _listen(reading: int) -> None:
  with open(reading, 'rb', buffering=0) as numbers:
    while number := numbers.read(1):
      _hear(number[0])


def _hear(number: int) -> None:
  _Heard.count += 1
  name = NAMES.get(number, 'a signal')
  if _Heard.count > 1:
    print(f'{"stopped":<10}at once, by a second signal ({name})', flush=True)
    end(128 + number)
  _Heard.first = _Heard.first or number
  if not _Heard.saves:
    print(f'{"stopped":<10}on {name}; there was nothing to save', flush=True)
    end(128 + number)
  if _Heard.elsewhere and number != signal.SIGTERM:
    os.kill(os.getpid(), signal.SIGTERM)


def end(status: int) -> NoReturn:
  """Ends this process immediately, without Python's exit handlers."""
  sys.stdout.flush()
  # While a bar is at the bottom of a terminal, rich has replaced the standard output.
  terminal = getattr(sys.stdout, 'rich_proxied_file', None)
  if terminal is not None:
    print(file=terminal, flush=True)  # the shell's prompt belongs below the bar
  os._exit(status)
