"""Several processes as one run: they start together, agree, and stop together.

A single process passes through all of this unchanged; no other module asks for their
number.
"""

import argparse
import contextlib
import ctypes
import functools
import os
import signal
import sys
import threading
import traceback
from collections.abc import Callable, Iterator

import jax
import numpy as np
from jax.experimental import multihost_utils

from big_vision_like.devices import meeting, signals
from big_vision_like.errors import UserError

START_SECONDS = 300.0  # how long processes wait for each other at the start
HEARTBEAT_SECONDS = 60.0  # a process silent for this long is considered dead
JOIN_SECONDS = 30.0  # how long processes that have met may take to join JAX's service
GOODBYE_SECONDS = 10.0  # how long a failing process waits for others that fail too

AGAIN = 'Rerun the same command in every process: it resumes from the last save.'

# JAX's own variables that correspond to our flags.
VARIABLES = {
  'coordinator': 'JAX_COORDINATOR_ADDRESS',
  'num_processes': 'JAX_NUM_PROCESSES',
  'process_id': 'JAX_PROCESS_ID',
}
# Variables that launchers set for tasks they start together, and only for those.
LAUNCHERS = {'srun': 'SLURM_STEP_NUM_TASKS', 'mpirun': 'OMPI_COMM_WORLD_SIZE'}

# Names by which failed collectives, and the service that joins processes, appear in
# errors of any type. The second list applies to JAX's own errors only, since storage
# can be unavailable too.
PEER_WORDS = ('Gloo', 'gloo', 'NCCL', 'oordination service', 'CoordinationService')
SERVICE_WORDS = ('coordination', 'UNAVAILABLE', 'heartbeat', 'Barrier')


def say(title: str, text: str) -> None:
  """Prints one line with a title column; with several processes, only process 0."""
  if not jax.distributed.is_initialized() or jax.process_index() == 0:
    print(f'{title:<9} {text}', flush=True)


def add_flags(parser: argparse.ArgumentParser) -> None:
  """Adds the flags that `start` reads."""
  group = parser.add_argument_group('several processes', 'the same command in each')
  group.add_argument(
    '--coordinator', metavar='HOST:PORT', help='host of process 0, and any free port'
  )
  group.add_argument('--num-processes', type=int, metavar='N', help='their number')
  group.add_argument('--process-id', type=int, metavar='I', help='0 to N - 1')
  group.add_argument(
    '--multi-process',
    action='store_true',
    help='get these three from the TPU pod, SLURM, Open MPI or Kubernetes',
  )
  group.add_argument(
    '--start-seconds',
    type=float,
    default=START_SECONDS,
    help='seconds to wait for the other processes (%(default)g)',
  )
  group.add_argument(
    '--heartbeat-seconds',
    type=float,
    default=HEARTBEAT_SECONDS,
    help='seconds without a heartbeat before a process counts as dead (%(default)g)',
  )


def start(args: argparse.Namespace) -> None:
  """Joins the other processes of the run; must be called before JAX looks for devices.

  By default a process runs alone. Several processes are configured by `--coordinator`,
  `--num-processes` and `--process-id`, by the JAX variables that stand for these flags,
  or by `--multi-process`, which lets JAX ask the cluster. A cluster is never joined
  without such a flag: a shell within one has all its variables and no other processes.
  Raises if a launcher started several tasks together without these flags, as they would
  all train in one folder.

  All processes fail within `--start-seconds` if one never joins, and at once if one
  dies after joining. Process 0 writes the compilation cache and all processes read it;
  machines without a shared home compile every time.
  """
  place = _place(args)
  if place is None and not args.multi_process:
    return
  _Aborted.install(
    f'error: not all processes of this run joined within {args.start_seconds:g} s.'
    f' {meeting.START}'
  )
  seconds = args.start_seconds
  if place is not None:
    address, index = place['coordinator_address'], place['process_id']
    meeting.meet(address, index, place['num_processes'], seconds, say)
    seconds = min(seconds, JOIN_SECONDS)
    _Aborted.sentence = (
      f'process {index}: error: another process of this run died during startup.'
      f' {meeting.START}'
    )
  try:
    jax.distributed.initialize(
      **(place or {}),
      cluster_detection_method='deactivate' if place else None,
      initialization_timeout=max(1, round(seconds)),
      heartbeat_timeout_seconds=round(args.heartbeat_seconds),
      shutdown_timeout_seconds=round(args.heartbeat_seconds),
    )
  except (ValueError, RuntimeError) as error:
    found = f'at {place["coordinator_address"]}' if place else 'by --multi-process'
    raise UserError(
      f'several processes could not be joined {found}: {" ".join(str(error).split())}'
      ' (Give --coordinator=HOST:PORT, --num-processes=N and --process-id=I, with a'
      ' free port.)'
    ) from error
  _Aborted.sentence = (
    f'process {jax.process_index()}: error: another process of this run died or cannot'
    f' be reached, so this one stops. {AGAIN}'
  )


def _place(args: argparse.Namespace) -> dict[str, str | int] | None:
  """Returns arguments of `jax.distributed.initialize`; None if nothing is given."""
  given = {name: getattr(args, name) for name in VARIABLES}
  if given['num_processes'] == 1:
    return None
  if args.multi_process:
    if any(value is not None for value in given.values()):
      raise UserError(
        '--multi-process asks the cluster for the values of --coordinator,'
        ' --num-processes and --process-id: give one or the other.'
      )
    return None
  for name, variable in VARIABLES.items():
    if given[name] is None:
      given[name] = os.environ.get(variable)
  missing = [name for name, value in given.items() if value is None]
  if len(missing) == len(given):
    for launcher, variable in LAUNCHERS.items():
      if int(os.environ.get(variable, 1)) > 1:
        raise UserError(
          f'{launcher} started {os.environ[variable]} processes: add --multi-process to'
          ' train in them as one run, or --num-processes=1 for a run in each.'
        )
    return None
  if missing:
    flags = ' and '.join('--' + name.replace('_', '-') for name in missing)
    raise UserError(
      f'{flags} must be given too: a run in several processes takes --coordinator,'
      ' --num-processes and --process-id; --num-processes=1 runs alone.'
    )
  try:
    count, index = int(given['num_processes']), int(given['process_id'])
  except ValueError as error:
    raise UserError(
      f'JAX_NUM_PROCESSES={given["num_processes"]} and'
      f' JAX_PROCESS_ID={given["process_id"]} must be whole numbers.'
    ) from error
  if not 0 <= index < count:
    raise UserError(f'--process-id={index} is not one of 0 to {count - 1}.')
  if count == 1:
    return None
  host, _, port = given['coordinator'].rpartition(':')
  if not (host and port.isdecimal() and 0 < int(port) < 2**16):
    raise UserError(
      f'--coordinator={given["coordinator"]} is not HOST:PORT, like 10.0.0.1:1234.'
    )
  return dict(
    coordinator_address=given['coordinator'], num_processes=count, process_id=index
  )


class _Aborted:
  """The handler that prints a sentence when JAX's C++ aborts this process.

  JAX aborts when other processes are lost, and offers no other notification:
  collectives on accelerators wait forever.
  """

  sentence = ''
  _handler = None  # the C library holds a pointer to it

  @classmethod
  def install(cls, sentence: str) -> None:
    cls.sentence = sentence

    @ctypes.CFUNCTYPE(None, ctypes.c_int)
    def handler(_: int) -> None:
      print(cls.sentence, file=sys.stderr, flush=True)
      signals.end(1)

    cls._handler = handler
    ctypes.CDLL(None).signal(signal.SIGABRT, handler)


def stopping_together(main: Callable[..., int | None]) -> Callable[..., int]:
  """Wraps a `main`: a process that fails never waits for the other processes.

  Others notice its end from closed connections, or within `HEARTBEAT_SECONDS`.
  """

  @functools.wraps(main)
  def wrapped(*args, **kwargs) -> int:
    try:
      return main(*args, **kwargs) or 0
    except BaseException as error:
      if not jax.distributed.is_initialized():
        raise
      lost = lost_connection(error)
      if lost:
        text = f'{_Aborted.sentence} ({" ".join(str(error).split())[:200]})'
      elif isinstance(error, UserError):
        text = f'process {jax.process_index()}: error: {error}'
      else:
        text = f'process {jax.process_index()}: error:\n{traceback.format_exc()}'
      print(text, file=sys.stderr, flush=True)
      _leave(GOODBYE_SECONDS * (not lost))

  return wrapped


def lost_connection(error: BaseException | None) -> bool:
  """Returns whether an error shows that another process of this run is gone.

  Collectives and JAX's service raise such errors, possibly as the cause of another
  error or in a group. A process that runs alone has no others to lose.
  """
  return jax.distributed.is_initialized() and _is_lost_connection(error)


def _is_lost_connection(error: BaseException | None) -> bool:
  if error is None:
    return False
  # A failed collective is a ValueError where its result is fetched. `UserError` is one
  # too, but it describes a failure, which is its cause.
  if not isinstance(error, UserError):
    words = PEER_WORDS
    if isinstance(error, jax.errors.JaxRuntimeError):
      words += SERVICE_WORDS
    if any(word in str(error) for word in words):
      return True
  inner = getattr(error, 'exceptions', ())  # of an `ExceptionGroup`
  return any(map(_is_lost_connection, (error.__cause__, *inner)))


def _leave(seconds: float) -> None:
  """Ends this process: at once when all fail, otherwise after this many seconds.

  Python's own exit handlers may wait for processes that are gone.
  """

  def say_goodbye() -> None:
    with contextlib.suppress(Exception):
      jax.distributed.shutdown()

  _Aborted.sentence = f'process {jax.process_index()} has stopped, as reported above.'
  goodbye = threading.Thread(target=say_goodbye, daemon=True)
  goodbye.start()
  goodbye.join(seconds)
  signals.end(1)


@contextlib.contextmanager
def together() -> Iterator[None]:
  """Raises in all processes what one raises inside, so that none waits for another.

  Use it for work that every process does at the same point, without collectives.
  """
  trouble = None
  try:
    yield
  except Exception as error:  # reraised below, once all others know
    trouble = error
  kind = '' if isinstance(trouble, UserError) else f'{type(trouble).__name__}: '
  texts = gather(f'{kind}{trouble}' if trouble else '')
  if trouble is not None:
    raise trouble
  for index, text in enumerate(texts):
    if text:
      raise UserError(f'process {index} says: {text}')


def gather(text: str, size: int = 2000) -> list[str]:
  """Sends a short text from each process to all; returns them in process order."""
  padded = text.encode()[:size].ljust(size, b'\0')
  rows = multihost_utils.process_allgather(np.frombuffer(padded, np.uint8))
  rows = np.asarray(rows).reshape(-1, size)
  return [row.tobytes().rstrip(b'\0').decode(errors='ignore') for row in rows]


@contextlib.contextmanager
def preemption(drill: int | None = None) -> Iterator[Callable[[int], bool]]:
  """Yields a function of the step: whether to save and stop now, for all processes.

  It returns True once one process has received SIGTERM, as preempted machines do, or
  Ctrl-C. Inside, neither signal ends a process. At step `drill`, this process sends
  SIGTERM to itself.
  """
  several = jax.distributed.is_initialized()  # then JAX agrees on the step
  with signals.saving(elsewhere=several):

    def preempted(step: int) -> bool:
      if step == drill:
        say('drill', f'at step {step:,}: SIGTERM to this process, as if preempted')
        signal.raise_signal(signal.SIGTERM)
      if several:
        return multihost_utils.reached_preemption_sync_point(step)
      return signals.received() is not None

    yield preempted


def drill_step(text: str | None) -> int | None:
  """Returns the step of `--drill=preempt@STEP`."""
  if text is None:
    return None
  kind, _, step = text.partition('@')
  if kind != 'preempt' or not step.isdigit() or int(step) < 1:
    raise UserError(f'--drill={text} is not a drill: use preempt@STEP, STEP from 1 on.')
  return int(step)
