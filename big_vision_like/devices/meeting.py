"""The meeting of the processes of a run, before any of them joins JAX's service.

In JAX's service, the processes that have joined wait as long for a dead process as for
a late one. In this meeting each process holds a connection to process 0, which the
system closes when a process dies. The meeting uses the port that JAX's service uses
afterwards.
"""

import contextlib
import os
import re
import socket
import time
from collections.abc import Callable
from multiprocessing.connection import wait

from big_vision_like.errors import UserError, listed

NOTICE_SECONDS = 10.0  # before the missing processes are reported
CONNECT_SECONDS = 5.0  # before a process without a connection tries again
GOODBYE_SECONDS = 5.0  # how long process 0 waits for others to leave
START = 'Start the same command in every process, at about the same time.'
COME, GO = b'.', 'go'  # process 0's replies: to each process, and to all at the end

Say = Callable[[str, str], None]


def meet(
  address: str, index: int, count: int, seconds: float, say: Say = lambda *_: None
) -> None:
  """Returns once all `count` processes have come to HOST:PORT, where process 0 runs.

  Raises a `UserError` in all of them if one dies, was started for another run, or does
  not come within `seconds`.
  """
  host, _, port = address.rpartition(':')
  if index:
    _visit(host.strip('[]'), int(port), index, count, seconds, say)
  else:
    _host(int(port), count, seconds, say)


def _host(port: int, count: int, seconds: float, say: Say) -> None:
  """Waits for all others, as process 0."""
  come: dict[int, socket.socket] = {}
  answer = ''
  with contextlib.ExitStack() as open_sockets:
    server = open_sockets.enter_context(_server(port))
    try:
      _receive(server, open_sockets, come, count, seconds, say)
      answer = GO
    except UserError as error:
      answer = str(error)
      raise
    finally:
      for connection in come.values():
        with contextlib.suppress(OSError):
          connection.sendall(answer.encode())
          connection.shutdown(socket.SHUT_WR)
          connection.recv(1)  # others close first, which leaves the port free


def _server(port: int) -> socket.socket:
  try:
    if socket.has_dualstack_ipv6():
      family = socket.AF_INET6
      return socket.create_server(('', port), family=family, dualstack_ipv6=True)
    return socket.create_server(('', port))
  except OSError as error:
    raise UserError(
      f'process 0 cannot listen at port {port} ({os.strerror(error.errno)}): use'
      ' another one for --coordinator, in every process.'
    ) from error


def _receive(
  server: socket.socket,
  open_sockets: contextlib.ExitStack,
  come: dict[int, socket.socket],
  count: int,
  seconds: float,
  say: Say,
) -> None:
  """Fills `come` with the connections of all other processes, by their index."""
  started, noticed = time.monotonic(), False
  unknown: list[socket.socket] = []
  while True:
    patience = 0.2 if len(come) < count - 1 else 0
    found = wait([server, *unknown, *come.values()], patience)
    for index, connection in come.items():
      if connection in found:  # processes that joined say nothing more unless they die
        raise UserError(f'process {index} of {count} died during startup. {START}')
    for connection in [*unknown]:
      if connection in found:
        unknown.remove(connection)
        _welcome(connection, come, count)
    if server in found:
      unknown.append(open_sockets.enter_context(server.accept()[0]))
    missing = [index for index in range(1, count) if index not in come]
    if not missing and not found:
      return
    noun = f'process{"es" * (len(missing) > 1)} {listed(missing)} of {count}'
    waited = time.monotonic() - started
    if missing and waited > seconds:
      raise UserError(f'{noun} did not join within {seconds:g} s. {START}')
    if missing and waited > NOTICE_SECONDS and not noticed:
      say('start', f'waiting for {noun}, up to {seconds:g} s')
      noticed = True


def _welcome(
  connection: socket.socket, come: dict[int, socket.socket], count: int
) -> None:
  """Adds a connection to `come`, unless it belongs to some other program."""
  connection.settimeout(GOODBYE_SECONDS)
  said = None
  with contextlib.suppress(OSError):
    said = re.fullmatch(rb'(\d{1,9}) of (\d{1,9})', connection.recv(64))
    connection.sendall(COME if said else b'')
  if not said:
    connection.close()
    return
  index, others, text = int(said[1]), int(said[2]), ''
  if others != count or not 0 < index < count:
    text = (
      f'one process was started as number {index} of {others}, process 0 as one of'
      f' {count}: give all the same --num-processes.'
    )
  elif index in come:
    text = f'two processes were started with --process-id={index}: give each its own.'
  if text:
    with contextlib.suppress(OSError):
      connection.sendall(text.encode())
    raise UserError(text)
  come[index] = connection


def _visit(
  host: str, port: int, index: int, count: int, seconds: float, say: Say
) -> None:
  """Waits for all others, as a process with an index above 0."""
  with _connected(host, port, index, count, seconds, say) as connection:
    connection.settimeout(seconds + 10)  # process 0 waits for `seconds`
    try:
      answer = connection.makefile().read()
    except OSError:
      answer = ''
  if answer != GO:
    raise UserError(answer or f'process 0 of {count} died during startup. {START}')


def _connected(
  host: str, port: int, index: int, count: int, seconds: float, say: Say
) -> socket.socket:
  """Returns a connection to process 0, which has acknowledged this process."""
  started, noticed = time.monotonic(), False
  while True:
    try:
      connection = socket.create_connection((host, port), timeout=CONNECT_SECONDS)
      with contextlib.ExitStack() as unless_come:
        unless_come.enter_context(connection)
        connection.sendall(f'{index} of {count}'.encode())
        connection.settimeout(seconds)
        if connection.recv(1) == COME:
          unless_come.pop_all()
          return connection
      raise ConnectionError('something else answers there')
    except (OSError, UnicodeError) as error:  # UnicodeError: not the name of a host
      waited = time.monotonic() - started
      if waited > seconds:
        why = getattr(error, 'strerror', None) or error
        raise UserError(
          f'process {index} of {count} could not reach the coordinator at'
          f' {host}:{port} within {seconds:g} s ({why}): is process 0 running there,'
          ' and is the port open?'
        ) from error
    if waited > NOTICE_SECONDS and not noticed:
      say('start', f'waiting for process 0 at {host}:{port}, up to {seconds:g} s')
      noticed = True
    time.sleep(0.1)
