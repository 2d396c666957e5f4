"""Tests of progress lines, and of the live bar in a pseudo-terminal."""

import fcntl
import os
import pty
import re
import struct
import subprocess
import sys
import termios

import pytest

from big_vision_like.run import progress


@pytest.mark.parametrize(
  'arguments, line',
  [
    (
      (200, 1500, {'loss': 1.23456, 'top1': 0.5, 'rate': 0.1}, None),
      'step   200/1,500   13 %  loss 1.2346  top1 0.5000  lr 0.1',
    ),
    (
      (1500, 1500, {'loss': 0.1, 'examples_per_second': 12345.6, 'mfu': 0.4567}, 0.0),
      'step 1,500/1,500  100 %  loss 0.1000  12,346 examples/s  MFU 45.7 %  ETA 0:00',
    ),
    ((0, 10, {}, 3725.0), 'step  0/10    0 %  ETA 1:02:05'),
    (
      (0, 10, {'input_share': 0.25}, None),
      'step  0/10    0 %  input takes 25 % of the CPU',
    ),
    # Shares too small to matter are not shown.
    ((0, 10, {'input_share': 0.04}, None), 'step  0/10    0 %'),
  ],
)
def test_progress_line(arguments, line):
  assert progress.line(*arguments) == line


@pytest.mark.parametrize(
  'seconds, text',
  [
    (0, '0:00'),
    (9.4, '0:09'),
    (59.6, '1:00'),
    (245, '4:05'),
    (3599.4, '59:59'),
    (3723, '1:02:03'),
    (100 * 3600, '100:00:00'),
  ],
)
def test_duration(seconds, text):
  assert progress.duration(seconds) == text


@pytest.mark.parametrize(
  ('width', 'text'),
  [
    (70, 'step  3/10   30 %  loss 1.0000  lr 0.01  50 examples/s  ETA 0:09'),
    (60, 'step  3/10   30 %  loss 1.0000  50 examples/s  ETA 0:09'),
    (40, 'step  3/10   30 %  loss 1.0000  ETA 0:09'),
    (30, 'step  3/10   30 %  ETA 0:09'),
    (20, 'step  3/10   30 %'),
    (6, 'step  '),
  ],
)
def test_narrow_terminals_lose_the_least_important_parts(width, text):
  scalars = {'loss': 1.0, 'rate': 0.01, 'examples_per_second': 50.0}
  made = progress.parts(3, 10, scalars, 9.0)
  assert progress.fitted(made, width) == text


PROGRAM = """
import sys
from big_vision_like.run import progress
bar = progress.Bar(1000)
bar.start()
print('before')
bar.update(500, {'loss': 1.5, 'rate': 0.25}, 61.0)
print('a line of [the log] ' + 100 * 'x')
print('an error', file=sys.stderr)
bar.busy('evaluating val')
bar.update(1000, {'loss': 0.5}, 0.0)
bar.stop()
print('after')
"""


def screen(width: int, **environment: str) -> str:
  """Returns what the program writes to a terminal of a width."""
  ours, theirs = pty.openpty()
  fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack('HHHH', 24, width, 0, 0))
  env = {k: v for k, v in os.environ.items() if k not in ('COLUMNS', 'LINES')}
  process = subprocess.Popen(
    [sys.executable, '-c', PROGRAM],
    stdin=theirs,
    stdout=theirs,
    stderr=theirs,
    env=env | {'TERM': 'xterm'} | environment,
  )
  os.close(theirs)
  written = b''
  while True:
    try:
      part = os.read(ours, 4096)
    except OSError:  # the program has ended
      break
    if not part:
      break
    written += part
  os.close(ours)
  assert process.wait() == 0
  return written.decode()


@pytest.mark.parametrize('width', [100, 37])
def test_the_bar_fits_and_other_lines_are_whole(width):
  text = screen(width)
  lines = [re.sub(r'\x1b\[[\d;?]*[a-zA-Z]', '', x) for x in re.split(r'[\r\n]+', text)]
  drawn = [x for x in lines if 'step' in x and '%' in x]
  *bars, last = drawn
  assert len(bars) >= 2 and all(len(bar) < width for bar in bars)
  assert any('step   500/1,000   50 %' in bar for bar in bars)
  assert ('lr 0.25  ETA 1:01' in text) == (width == 100)
  assert last == 'step 1,000/1,000  100 %  loss 0.5000'
  assert 'a line of [the log] ' + 100 * 'x' in lines and 'an error' in lines
  assert [x for x in lines if x in ('before', 'after')] == ['before', 'after']
  assert '\x1b[?25l' not in text  # the cursor is never hidden
  assert text.endswith('after\r\n')


def test_other_outputs_get_no_bar(capsys):
  assert not progress.is_live()
