import json
import re
import struct
import types

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from tensorboardX.proto import event_pb2

from big_vision_like.devices import chips
from big_vision_like.run import metrics


def records(workdir) -> list[dict]:
  lines = (workdir / 'metrics.jsonl').read_text().splitlines()
  return [json.loads(line) for line in lines]


def events(workdir) -> list:
  """Returns the content of TensorBoard's files; a record is length, crc, data, crc."""
  found = []
  for path in sorted((workdir / 'tensorboard').glob('events.*')):
    content, start = path.read_bytes(), 0
    while start < len(content):
      (length,) = struct.unpack('<Q', content[start : start + 8])
      event = event_pb2.Event()
      event.ParseFromString(content[start + 12 : start + 12 + length])
      found.append(event)
      start += 12 + length + 4
  return found


def values(workdir) -> list[tuple]:
  return [(event, v) for event in events(workdir) for v in event.summary.value]


def opened(workdir, start_step=0, **options):
  options = {'total_steps': 100, 'batch_size': 8, **options}
  return metrics.Metrics(workdir, start_step=start_step, **options)


def test_written_records(tmp_path, capsys):
  with opened(tmp_path) as log:
    log.write(1, 'info', {'compile_seconds': 2})
    log.train(5, {'loss': np.float32(0.5), 'rate': jnp.float32(0.25)})
    log.evaluation(5, 'val', {'top1': 0.75}, seconds=1.25)
  info, train, evaluation, times = records(tmp_path)
  assert info == {'step': 1, 'kind': 'info', 'compile_seconds': 2.0}
  train_seconds = train.pop('seconds')
  assert train_seconds > 0 and train.pop('examples_per_second') > 0
  assert train.pop('input_wait') == train.pop('input_cpu') == 0.0
  assert train == {'step': 5, 'kind': 'train', 'loss': 0.5, 'rate': 0.25}
  assert evaluation == {'step': 5, 'kind': 'eval', 'val/top1': 0.75}
  assert times.pop('seconds') > train_seconds
  assert times == {'step': 5, 'kind': 'info', 'evaluation_seconds': 1.25}
  assert metrics.read(tmp_path) == records(tmp_path)

  printed = capsys.readouterr().out.splitlines()
  assert printed[0].startswith('step   5/100    5 %  loss 0.5000  ')
  assert printed[1] == 'val       top1 0.75  (1.2 s)'

  board = [(e.step, v.tag, v.simple_value) for e, v in values(tmp_path)]
  assert (5, 'train/loss', 0.5) in board
  assert (5, 'val/top1', 0.75) in board
  assert (1, 'info/compile_seconds', 2.0) in board


def test_a_terminal_gets_a_bar_with_values_of_the_host(tmp_path, monkeypatch, capsys):
  told, now = [], [100.0]

  class Bar:
    def __init__(self, total):
      told.append(('total', total))

    def start(self):
      told.append('start')

    def stop(self, step):
      told.append(('stop', step))

    def is_due(self):
      return True

    def update(self, step, scalars, left):
      rate = scalars.get('examples_per_second')
      told.append((step, scalars.get('loss'), rate, left))

    def busy(self, text):
      told.append(text)

  monkeypatch.setattr(metrics.progress, 'is_live', lambda: True)
  monkeypatch.setattr(metrics.progress, 'Bar', Bar)
  monkeypatch.setattr(metrics.time, 'perf_counter', lambda: now[0])
  with opened(tmp_path) as log:
    log.measure(1)
    log.tick(1)  # no step is done yet
    now[0] += 10.0
    log.tick(6)
    now[0] += 10.0
    log.train(10, {'loss': 0.5}, done=11)
    now[0] += 1.0
    log.tick(12)  # too early for a new rate
    now[0] += 4.0
    log.tick(13)
    log.busy('evaluating val')
    log.finish(14)
  assert told[:6] == [
    ('total', 100),
    'start',
    (1, None, None, None),
    (6, None, 4.0, 188.0),
    (11, 0.5, 4.0, 178.0),
    (12, 0.5, 4.0, 176.0),
  ]
  step, loss, rate, left = told[6]
  assert (step, loss) == (13, 0.5)
  assert (rate, left) == (pytest.approx(3.2), pytest.approx(217.5))
  assert told[7:9] == ['evaluating val', ('stop', 14)]
  assert not [x for x in capsys.readouterr().out.splitlines() if x.startswith('step')]


def test_lines_are_there_at_once(tmp_path):
  with opened(tmp_path) as log:
    log.write(1, 'train', {'loss': 1.0})
    assert records(tmp_path) == [{'step': 1, 'kind': 'train', 'loss': 1.0}]


def test_values_that_are_not_finite_survive(tmp_path):
  with opened(tmp_path) as log:
    log.write(1, 'train', {'loss': float('nan'), 'norm': float('inf')})
  (record,) = metrics.read(tmp_path)
  assert np.isnan(record['loss']) and record['norm'] == np.inf


def write_three(tmp_path):
  with opened(tmp_path) as log:
    for step in (5, 7, 10):
      log.write(step, 'train', {'loss': step})


def test_resuming_drops_records_after_the_checkpoint(tmp_path):
  write_three(tmp_path)
  with opened(tmp_path, start_step=7) as log:
    assert [r['step'] for r in records(tmp_path)] == [5, 7]
    log.write(10, 'train', {'loss': 11})
  assert [r['step'] for r in records(tmp_path)] == [5, 7, 10]
  assert [r['loss'] for r in records(tmp_path)] == [5, 7, 11]


def test_tensorboard_forgets_the_same_steps_on_resuming(tmp_path):
  write_three(tmp_path)
  with opened(tmp_path, start_step=7):
    pass
  start = event_pb2.SessionLog.START
  purged = [e.step for e in events(tmp_path) if e.session_log.status == start]
  # TensorBoard hides earlier events from this step on; step 7 itself was kept.
  assert purged == [8]


def test_starting_again_drops_everything(tmp_path):
  write_three(tmp_path)
  with opened(tmp_path, start_step=0):
    assert records(tmp_path) == []


def test_a_last_line_cut_short_is_left_out(tmp_path, capsys):
  write_three(tmp_path)
  path = tmp_path / 'metrics.jsonl'
  path.write_text(path.read_text()[:-9])
  assert [r['step'] for r in metrics.read(tmp_path)] == [5, 7]
  assert 'metrics.jsonl: left out an unreadable line' in capsys.readouterr().err
  with opened(tmp_path, start_step=7) as log:
    log.write(8, 'train', {'loss': 8})
  assert [r['step'] for r in records(tmp_path)] == [5, 7, 8]


def test_damaged_lines_are_left_out_and_counted(tmp_path, capsys):
  write_three(tmp_path)
  path = tmp_path / 'metrics.jsonl'
  lines = path.read_bytes().splitlines(keepends=True)
  bad = [
    b'null',
    b'[]',
    b'{}',
    b'\xff\x00',
    b'{"step": 5, "kind": "eval", "top1": "x"}',
  ]
  path.write_bytes(b''.join([lines[0], *(line + b'\n' for line in bad), *lines[1:]]))
  assert len(metrics.read(tmp_path)) == len(lines)
  assert "left out 5 unreadable lines: 'null'" in capsys.readouterr().err
  with opened(tmp_path, start_step=7):
    pass
  assert [r['step'] for r in records(tmp_path)] == [5, 7]


def test_a_run_without_metrics_has_none(tmp_path):
  assert metrics.read(tmp_path) == [] and metrics.last_evaluation(tmp_path) == {}


def test_the_last_evaluation_covers_all_evaluators(tmp_path):
  with opened(tmp_path) as log:
    log.evaluation(3, 'val', {'top1': 0.1, 'old': 1.0}, 0.0)
    log.evaluation(6, 'val', {'top1': 0.2}, 0.0)
    log.evaluation(6, 'test', {'top1': 0.3}, 0.0)
    log.write(7, 'train', {'loss': 1})
  found = {'step': 6, 'val/top1': 0.2, 'test/top1': 0.3}
  assert metrics.last_evaluation(tmp_path) == found


def test_seconds_continue_after_an_interruption(tmp_path):
  with opened(tmp_path, start_step=3, seconds=100.0) as log:
    assert 100.0 < log.seconds < 110.0


# Throughput


@pytest.fixture
def clock(monkeypatch):
  """Returns a clock that only tests advance."""
  now = [1000.0]
  monkeypatch.setattr(metrics.time, 'perf_counter', lambda: now[0])
  return now


def test_throughput_leaves_out_evaluation(tmp_path, clock, capsys):
  with opened(tmp_path, total_steps=100, batch_size=8) as log:
    log.measure(0)
    clock[0] += 7.0
    log.pause(2.0)
    log.train(10, {'loss': 1.0})
    clock[0] += 4.0
    log.train(20, {'loss': 1.0})
  first, second = records(tmp_path)
  assert first['examples_per_second'] == 10 * 8 / 5.0
  assert second['examples_per_second'] == 10 * 8 / 4.0
  assert second['seconds'] == 11.0
  assert 'mfu' not in second  # the peak of a CPU is unknown
  assert capsys.readouterr().out.endswith('20 examples/s  ETA 0:32\n')


def test_time_spent_waiting_for_the_input(tmp_path, clock, capsys):
  with opened(tmp_path) as log:
    log.measure(0)
    for step, seconds in ((10, 2.0), (20, 0.0)):
      with log.waiting():
        clock[0] += seconds
      clock[0] += 8.0
      log.train(step, {'loss': 1.0})
  assert [r['input_wait'] for r in records(tmp_path)] == [0.2, 0.0]
  first, second = capsys.readouterr().out.splitlines()
  assert '20 % waiting for input' in first and 'input' not in second


def test_cpu_time_that_the_input_takes_from_the_step(
  tmp_path, clock, capsys, monkeypatch
):
  monkeypatch.setattr(metrics.os, 'cpu_count', lambda: 4)
  with opened(tmp_path) as log:
    log.input_cpu(100.0)  # before the clock starts
    log.measure(0)
    for step, seconds in ((10, 112.0), (20, 113.0)):
      clock[0] += 10.0
      log.input_cpu(seconds)
      log.train(step, {'loss': 1.0})
  assert [r['input_cpu'] for r in records(tmp_path)] == [1.2, 0.1]
  first, second = capsys.readouterr().out.splitlines()
  assert 'input takes 30 % of the CPU' in first and 'input' not in second


def test_replaced_records_are_written_down(tmp_path, capsys):
  with opened(tmp_path) as log:
    log.bad_records(1, [])
    assert not (tmp_path / 'bad_records.txt').exists()
    log.bad_records(2, ['record 7:\nbroken\n'])
    log.bad_records(4, [f'record {i}: broken' for i in range(20)])
    log.train(5, {'loss': 1.0})
  assert records(tmp_path)[0]['bad_records'] == 21
  lines = (tmp_path / 'bad_records.txt').read_text().splitlines()
  assert lines[0] == 'step 2: record 7: broken' and len(lines) == 21
  printed = capsys.readouterr().out.splitlines()[:-1]
  assert printed[0] == 'replaced  record 7: broken'
  assert len(printed) == metrics.BAD_RECORDS_PRINTED + 1
  assert printed[-1] == f'replaced  others are in {tmp_path}/bad_records.txt'
  with (tmp_path / 'bad_records.txt').open('a') as file:
    file.write('step 2: cut sho')
  opened(tmp_path, start_step=3).__exit__()  # as if a run resumed from step 3
  assert (tmp_path / 'bad_records.txt').read_text() == 'step 2: record 7: broken\n'


def test_model_flops_utilisation(tmp_path, clock, monkeypatch):
  chip = types.SimpleNamespace(peak_flops=100.0)
  monkeypatch.setattr(chips, 'of', lambda device: chip)
  with opened(tmp_path) as log:
    log.work(1, 10**6)  # before the clock starts
    log.measure(1)
    for step in range(2, 13):
      log.work(step, (40 if step % 2 else 20) * jax.device_count())
    clock[0] += 5.0
    log.train(10, {'loss': 1.0}, done=11)
    clock[0] += 1.0
    log.train(12, {'loss': 1.0})
  first, last = (record['mfu'] for record in records(tmp_path))
  assert first == pytest.approx((5 * 20 + 5 * 40) / 5 / 100)
  assert last == pytest.approx(20 / 100)


def test_throughput_counts_finished_steps(tmp_path, clock):
  with opened(tmp_path, total_steps=100, batch_size=8) as log:
    log.measure(0)
    clock[0] += 6.0
    log.train(10, {'loss': 1.0}, done=12)
    clock[0] += 4.0
    log.train(19, {'loss': 1.0}, done=20)
    log.train(20, {'loss': 1.0}, done=20)
  rates = [r['examples_per_second'] for r in records(tmp_path)]
  assert rates == [12 * 8 / 6.0, 8 * 8 / 4.0, 8 * 8 / 4.0]


def test_unread_scalars_are_fetched_in_order(monkeypatch):
  unread = metrics.Unread(ahead=2)
  waited = []
  monkeypatch.setattr(metrics.jax, 'block_until_ready', waited.append)
  for step in range(1, 6):
    unread.add(step, f'before {step}', {'loss': jnp.float32(step)}, None)
    assert unread.wait() == step - 2
  assert [int(scalars['loss']) for scalars in waited] == [1, 2, 3]
  taken = unread.take(3)
  assert [(step, position) for step, position, _, _ in taken] == [
    (1, 'before 1'),
    (2, 'before 2'),
    (3, 'before 3'),
  ]
  assert all(isinstance(scalars['loss'], np.ndarray) for _, _, scalars, _ in taken)
  assert [step for step, *_ in unread.take(99)] == [4, 5]
  assert unread.take(99) == []


# Compilation


def test_unexpected_compilations_are_reported(tmp_path, capsys):
  @jax.jit
  def double(x):
    return x * 2

  three, four, five = (np.zeros(n, np.float32) for n in (3, 4, 5))
  with opened(tmp_path) as log:
    double(three)
    with metrics.compilations_told(log, 7, {'image': jnp.asarray(four)}):
      double(three)
      assert capsys.readouterr().out == ''
      double(four)
      line = capsys.readouterr().out
    double(five)
    assert capsys.readouterr().out == ''  # the listener was removed
  expected = r'compiled  .*double.* again at step 7 in \S+ s for image float32\[4\]\n'
  assert re.fullmatch(expected, line)
  (record,) = records(tmp_path)
  assert record['step'] == 7 and record['kind'] == 'info'
  assert record['recompile_seconds'] > 0


def test_pictures(tmp_path):
  with opened(tmp_path) as log:
    log.pictures(3, 'images', np.zeros((4, 8, 8, 1), np.uint8))
    log.pictures(3, 'colour', np.zeros((4, 8, 8, 3), np.uint8))
  tags = {(e.step, v.tag) for e, v in values(tmp_path)}
  assert tags == {(3, 'colour'), (3, 'images')}
