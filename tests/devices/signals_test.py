"""Tests of signals in separate processes, which imitate a training run."""

import signal
import subprocess
import sys

import pytest

BEGIN = """
import sys, time
from big_vision_like.devices import signals
signals.catch()
"""


def told(program: str, *numbers: int) -> tuple[int, str]:
  """Returns status and output of a program that gets a signal after each line."""
  words = [sys.executable, '-c', BEGIN + program]
  with subprocess.Popen(words, stdout=subprocess.PIPE, text=True) as process:
    lines = []
    for number in numbers:
      lines.append(process.stdout.readline())
      process.send_signal(number)
    lines.append(process.stdout.read())
  return process.returncode, ''.join(lines)


@pytest.mark.parametrize('number', [signal.SIGINT, signal.SIGTERM])
def test_before_the_first_step_one_signal_ends_the_program(number):
  status, text = told("print('begun', flush=True)\ntime.sleep(60)", number)
  name = {signal.SIGINT: 'Ctrl-C', signal.SIGTERM: 'SIGTERM'}[number]
  assert status == 128 + number
  assert text == f'begun\nstopped   on {name}; there was nothing to save\n'


def test_the_loop_hears_of_the_first_and_the_second_ends_it():
  loop = """
with signals.saving():
  print('begun', flush=True)
  while not signals.received(): time.sleep(0.01)
  print('saving', signals.received(), flush=True)
  time.sleep(60)
"""
  status, text = told(loop, signal.SIGINT, signal.SIGTERM)
  assert status == 128 + signal.SIGTERM
  assert text.splitlines() == [
    'begun',
    'saving Ctrl-C',
    'stopped   at once, by a second signal (SIGTERM)',
  ]


@pytest.mark.parametrize('number', [signal.SIGINT, signal.SIGTERM])
def test_an_evaluation_is_interrupted(number):
  loop = """
with signals.saving():
  try:
    with signals.interrupting():
      print('begun', flush=True)
      time.sleep(60)
  except signals.Interrupted:
    print('saved')
  try:
    with signals.interrupting():
      print('never')
  except signals.Interrupted:
    print('not evaluated')
"""
  status, text = told(loop, number)
  assert (status, text) == (0, 'begun\nsaved\nnot evaluated\n')


def test_a_main_thread_that_waits_does_not_keep_signals_away():
  blocked = """
import hashlib
print('begun', flush=True)
hashlib.pbkdf2_hmac('sha256', b'', b'', 10**9)
"""
  status, text = told(blocked, signal.SIGINT)
  assert status == 128 + signal.SIGINT and 'nothing to save' in text
