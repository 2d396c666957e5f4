import contextlib
import socket
from concurrent import futures

import pytest

from big_vision_like.devices import meeting
from big_vision_like.errors import UserError


@pytest.fixture
def port() -> int:
  with socket.create_server(('127.0.0.1', 0)) as probe:
    return probe.getsockname()[1]


@pytest.fixture
def meet(port):
  """Yields a function that starts processes, here threads; it returns their futures."""
  pool = futures.ThreadPoolExecutor(8)

  def start(*indices, count=3, seconds=20.0, say=lambda *_: None):
    address = f'127.0.0.1:{port}'
    return [
      pool.submit(meeting.meet, address, index, count, seconds, say)
      for index in indices
    ]

  yield start
  pool.shutdown()


def connected(port: int, hello: bytes) -> socket.socket:
  """Returns a connection that has sent these bytes."""
  while True:
    with contextlib.suppress(ConnectionRefusedError):
      connection = socket.create_connection(('127.0.0.1', port))
      break
  connection.sendall(hello)
  return connection


def sentences(calls: list[futures.Future]) -> list[str]:
  errors = [call.exception(20) for call in calls]
  assert all(isinstance(error, UserError) for error in errors), errors
  return [str(error) for error in errors]


def test_all_start_once_all_have_arrived(meet, port):
  calls = meet(2, 0)
  assert futures.wait(calls, 0.3).done == set()
  for call in [*calls, *meet(1)]:
    assert call.result(20) is None
  socket.create_server(('', port)).close()  # JAX's service takes this port next
  assert [call.result(20) for call in meet(0, 1, count=2)] == [None, None]


def test_a_process_that_arrives_and_dies_is_reported_at_once(meet, port, monkeypatch):
  monkeypatch.setattr(meeting, 'GOODBYE_SECONDS', 0.2)
  calls = meet(0, count=4)
  with connected(port, b'2 of 4') as other:
    assert other.recv(1) == meeting.COME
    with connected(port, b'1 of 4') as dying:
      assert dying.recv(1) == meeting.COME
    (told,) = sentences(calls)
    assert other.recv(1000).decode() == told
  assert told == (
    'process 1 of 4 died during startup. Start the same command in every process, at'
    ' about the same time.'
  )


def test_the_message_of_process_0_is_reported(meet, port):
  with socket.create_server(('127.0.0.1', port)) as server:
    calls = meet(1)
    connection, _ = server.accept()
    with connection:
      connection.recv(64)  # otherwise closing resets the connection
      connection.sendall(meeting.COME + b'process 2 of 3 died')
  assert sentences(calls) == ['process 2 of 3 died']


def test_process_0_dies(meet, port):
  with socket.create_server(('127.0.0.1', port)) as server:
    calls = meet(1, 2)
    for _ in calls:
      connection, _ = server.accept()
      with connection:
        connection.sendall(meeting.COME)
  told = 'process 0 of 3 died during startup. '
  assert all(sentence.startswith(told) for sentence in sentences(calls))


def test_absent_processes_are_named(meet, monkeypatch):
  said = []
  monkeypatch.setattr(meeting, 'NOTICE_SECONDS', 0.1)
  calls = meet(0, 2, count=5, seconds=1.5, say=lambda *words: said.append(words))
  told = 'processes 1, 3, 4 of 5 did not join within 1.5 s. Start the same command in'
  assert all(sentence.startswith(told) for sentence in sentences(calls))
  assert any(text.endswith('3, 4 of 5, up to 1.5 s') for _, text in said), said
  (told,) = sentences(meet(1, seconds=0.1))
  assert 'process 1 of 3 could not reach the coordinator at 127.0.0.1:' in told


@pytest.mark.parametrize(
  'hello, told',
  [
    (b'1 of 4', 'started as number 1 of 4, process 0 as one of 3: give all the same'),
    (b'0 of 3', 'started as number 0 of 3, process 0 as one of 3'),
    (b'2 of 3', 'two processes were started with --process-id=2: give each its own.'),
  ],
)
def test_processes_of_another_run(meet, port, hello, told, monkeypatch):
  monkeypatch.setattr(meeting, 'GOODBYE_SECONDS', 0.2)
  calls = meet(0)
  with connected(port, b'2 of 3') as other, connected(port, hello) as wrong:
    (sentence,) = sentences(calls)
    assert told in sentence
    assert sentence in other.recv(1000).decode()
    assert sentence in wrong.recv(1000).decode()


def test_strangers_are_ignored(meet, port):
  calls = meet(0)
  hellos = (b'', b'GET / HTTP/1.1\r\n', b'\xff\x00 of 3', b'1 of ' + b'9' * 9000)
  with contextlib.ExitStack() as strangers:
    for hello in hellos:
      strangers.enter_context(connected(port, hello))
    calls += meet(1, 2)
    assert [call.result(20) for call in calls] == [None] * 3


def test_a_port_that_is_taken(port):
  with (
    socket.create_server(('', port)),
    pytest.raises(UserError, match='cannot listen'),
  ):
    meeting.meet(f'127.0.0.1:{port}', 0, 2, 1.0)
