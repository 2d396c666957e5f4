"""Worker processes that make batches and end with the main process, however it ends.

`Workers` passes elements in anonymous memory, which the kernel frees once no process
holds it open, so killed processes leave nothing behind. Python's own queues and shared
memory have names in /dev/shm, which remain after a kill.
"""

import contextlib
import mmap
import os
import pickle
import signal
import socket
import struct
import subprocess
import sys
import threading
import time
import traceback
import weakref
from collections.abc import Callable, Iterator, Sequence
from typing import Any, BinaryIO

import cloudpickle
import grain

from big_vision_like.devices import malloc
from big_vision_like.errors import UserError

# Alignment of arrays in bytes; JAX uses aligned arrays on a CPU without a copy.
ALIGNMENT = 64
# Trailer of a piece of memory: the offset at which its index starts.
END = struct.Struct('Q')
# Terminals and schedulers send these signals to all processes of a program. Workers
# block them, because the main process decides when its workers end.
BLOCKED = (signal.SIGINT, signal.SIGTERM)
CODE = """import sys
sys.path[:] = {path!r}
from big_vision_like.data.input import workers
workers.serve{arguments}
"""


class Workers(Iterator[Any]):
  """The elements of a data set in order, made by `count` processes that take turns.

  `place` names the input in messages.
  """

  def __init__(
    self, dataset: grain.MapDataset, options: grain.ReadOptions, count: int, place: str
  ):
    self._place, self._turn = place, 0
    self._cpu_seconds = [0.0] * count
    with _packed((dataset, options), cloudpickle.dumps) as job:
      self._processes = [_start(job, index, count) for index in range(count)]
    self._stop = weakref.finalize(self, _stop, self._processes)

  def __next__(self) -> Any:
    process, connection = self._processes[self._turn]
    kind, value, self._cpu_seconds[self._turn] = self._received(process, connection)
    self._turn = (self._turn + 1) % len(self._processes)
    if kind == 'error':
      raise value
    if kind == 'end':
      raise StopIteration
    return value

  @property
  def cpu_seconds(self) -> float:
    """CPU seconds of all workers since they made their first element."""
    return sum(self._cpu_seconds)

  def close(self) -> None:
    """Ends the processes."""
    self._stop()

  def _received(
    self, process: subprocess.Popen, connection: socket.socket
  ) -> tuple[str, Any, float]:
    with contextlib.suppress(ConnectionError):
      _, descriptors, *_ = socket.recv_fds(connection, 1, 1)
      if descriptors:
        with open(descriptors[0], 'rb') as memory:
          outcome = _unpacked(memory)
        connection.send(b'.')  # requests one more element
        return outcome
    code = process.wait()
    how = f'was killed by {signal.Signals(-code).name}' if code < 0 else 'crashed'
    raise UserError(
      f'a worker process of {self._place} {how}: is there enough memory for'
      f' {len(self._processes)} of them? Run the same command again, or set'
      f' {self._place}.workers lower.'
    )


def _start(
  job: BinaryIO, index: int, count: int
) -> tuple[subprocess.Popen, socket.socket]:
  """Starts a worker; returns its process and a connection to it."""
  connection, its_own = socket.socketpair()
  descriptors = (its_own.fileno(), job.fileno())
  code = CODE.format(path=sys.path, arguments=(*descriptors, index, count))
  before = signal.pthread_sigmask(signal.SIG_BLOCK, BLOCKED)  # the worker inherits it
  try:
    process = subprocess.Popen(
      [sys.executable, '-c', code], stdin=subprocess.DEVNULL, pass_fds=descriptors
    )
  finally:
    signal.pthread_sigmask(signal.SIG_SETMASK, before)
    its_own.close()
  connection.send(b'.')
  return process, connection


def _stop(processes: Sequence[tuple[subprocess.Popen, socket.socket]]) -> None:
  for process, _ in processes:
    process.kill()
  for process, connection in processes:
    process.wait()
    connection.close()


def serve(connection: int, job: int, index: int, count: int) -> None:
  """Makes every `count`-th element of a data set for the process that requests them.

  Keeps one element ready in memory, and one in transit.
  """
  program, asked = socket.socket(fileno=connection), threading.Semaphore(0)

  def follow() -> None:
    with contextlib.suppress(ConnectionError):
      while program.recv(1):
        asked.release()
    os._exit(0)  # the main process has ended, or needs no more elements

  follower = threading.Thread(target=follow, daemon=True)
  follower.start()
  malloc.keep_memory()
  for memory in _outcomes(job, index, count):
    asked.acquire()
    with memory, contextlib.suppress(ConnectionError):
      socket.send_fds(program, [b'.'], [memory.fileno()])
  follower.join()


def _outcomes(job: int, index: int, count: int) -> Iterator[BinaryIO]:
  """Yields elements, and finally the end of the data set or an error.

  Each comes with the CPU seconds that were spent before it was written.
  """
  started = time.process_time()
  try:
    with open(job, 'rb') as memory:
      dataset, options = _unpacked(memory)
    for element in dataset[index::count].to_iter_dataset(options):
      yield _packed(('element', element, time.process_time() - started))
    yield _packed(('end', None, time.process_time() - started))
  except Exception as error:  # any source or transform may raise any type
    spent = time.process_time() - started
    yield _packed(('error', _portable(error), spent), cloudpickle.dumps)


def _portable(error: Exception) -> Exception:
  """Returns an error that other processes can unpickle; a note has its traceback."""
  text = ''.join(traceback.format_exception(error))
  try:
    error = cloudpickle.loads(cloudpickle.dumps(error))
  except Exception:  # the attributes of the error may fail to pickle in any way
    error = RuntimeError(f'{type(error).__name__}: {error}')
  error.add_note(f'In a worker process:\n{text}')
  return error


def _packed(value: Any, dumps: Callable[..., bytes] = pickle.dumps) -> BinaryIO:
  """Writes a value to anonymous memory: its arrays, the rest of it, and an index."""
  arrays: list[pickle.PickleBuffer] = []
  data = dumps(value, protocol=5, buffer_callback=arrays.append)
  memory, spans = open(os.memfd_create('big_vision_like'), 'wb'), []
  for array in arrays:
    start = memory.seek(-(-memory.tell() // ALIGNMENT) * ALIGNMENT)
    memory.write(array.raw())
    spans.append((start, memory.tell()))
  start = memory.tell()
  memory.write(pickle.dumps((data, spans)) + END.pack(start))
  memory.flush()
  return memory


def _unpacked(memory: BinaryIO) -> Any:
  """Reads a value whose arrays stay in the memory; changes to them remain private."""
  view = memoryview(mmap.mmap(memory.fileno(), 0, access=mmap.ACCESS_COPY))
  (start,) = END.unpack(view[-END.size :])
  data, spans = pickle.loads(view[start:])
  return pickle.loads(data, buffers=[view[first:last] for first, last in spans])
