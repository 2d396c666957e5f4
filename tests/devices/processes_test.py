"""Tests with several real processes: equal results, faults, other numbers of them."""

import argparse
import collections
import dataclasses
import json
import os
import pathlib
import re
import signal
import socket
import subprocess
import time

import jax
import numpy as np
import pytest
import train_test

from big_vision_like.devices import processes
from big_vision_like.errors import UserError
from big_vision_like.run import metrics

TRAIN = ('-m', 'big_vision_like.train', '--config=tests/recorded_config.py')
STEPS = 80
EXAMPLES = 1347  # per epoch, in batches of 32


@dataclasses.dataclass
class Done:
  """The exit status and the output of one process."""

  returncode: int
  stdout: str
  stderr: str

  @property
  def sentences(self) -> list[str]:
    """Returns lines that the process itself printed, not those of Gloo or JAX's C++."""
    text = self.stdout + self.stderr
    return [line for line in text.splitlines() if re.match(r'process \d|[a-z]', line)]

  @property
  def start(self) -> int:
    found = re.search(r'\(resumed at step ([\d,]+)\)', self.stdout)
    return int(found[1].replace(',', '')) if found else 0


@pytest.fixture(scope='session')
def launch(command):
  """Returns a function that runs a command in several processes, each with options."""

  def start(words, count, devices, own=(), **environment) -> list[Done]:
    with socket.socket() as probe:
      probe.bind(('127.0.0.1', 0))
      port = probe.getsockname()[1]
    several = (f'--coordinator=127.0.0.1:{port}', f'--num-processes={count}')
    several += ('--heartbeat-seconds=6', '--start-seconds=60')
    started = []
    for index in range(count):
      flags = (*several, f'--process-id={index}') if count > 1 else ()
      more, variables = dict(own).get(index, ((), {}))
      made = command(*words, *flags, *more, devices=devices, **environment, **variables)
      pipes = dict(stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
      started.append(subprocess.Popen(**made, **pipes))
    try:
      outputs = [process.communicate(timeout=120) for process in started]
    finally:
      for process in started:
        process.kill()
    return [Done(p.returncode, *o) for p, o in zip(started, outputs, strict=True)]

  return start


@pytest.fixture(scope='session')
def train(launch):
  """Returns a function that trains in a folder; it returns outputs and ids by step."""

  def call(folder: pathlib.Path, count, devices, *words, own=()):
    folder.mkdir(exist_ok=True)
    for path in folder.glob('ids-*'):
      path.unlink()
    words = (*TRAIN, f'--workdir={folder / "run"}', *words)
    done = launch(words, count, devices, own, RECORD_TO=str(folder))
    ids = collections.defaultdict(list)
    for path in sorted(folder.glob('ids-*')):
      _, *lines = path.read_text().splitlines()
      for step, line in enumerate(lines, done[0].start + 1):
        ids[step] += json.loads(line)
    return done, dict(ids)

  return call


@pytest.fixture(scope='session')
def alone(train, tmp_path_factory):
  """Returns the folder of a run in one process with four devices, and ids by step."""
  folder = tmp_path_factory.mktemp('alone')
  (done,), ids = train(folder, 1, 4)
  assert done.returncode == 0, done.stderr
  return folder / 'run', ids


@pytest.fixture(scope='session')
def pair(train, tmp_path_factory):
  """Returns the same run in two processes with two devices each, and their outputs."""
  folder = tmp_path_factory.mktemp('pair')
  done, ids = train(folder, 2, 2)
  assert [d.returncode for d in done] == [0, 0], done
  return folder / 'run', ids, done


def losses(workdir: pathlib.Path) -> dict[int, float]:
  records = [r for r in metrics.read(workdir) if r['kind'] == 'train']
  assert [r['step'] for r in records] == list(range(1, STEPS + 1))  # each step once
  return {r['step']: r['loss'] for r in records}


def assert_same_losses(one: pathlib.Path, other: pathlib.Path) -> None:
  a, b = losses(one), losses(other)
  np.testing.assert_allclose(list(a.values()), list(b.values()), rtol=2e-4)


def assert_same_examples(seen: dict, wanted: dict) -> None:
  """Checks that every step has the same examples, each of them once per epoch."""
  assert {k: sorted(v) for k, v in seen.items()} == {
    k: sorted(v) for k, v in wanted.items()
  }
  stream = [i for step in range(1, STEPS + 1) for i in sorted(seen[step])]
  first = stream[: EXAMPLES // 32 * 32]
  assert len(set(first)) == len(first)


def test_two_processes_train_as_one(alone, pair):
  workdir, ids, _ = pair
  assert sorted(ids) == list(range(1, STEPS + 1))
  assert_same_examples(ids, alone[1])
  assert_same_losses(workdir, alone[0])
  found, expected = (
    [r for r in metrics.read(w) if r['kind'] == 'eval'] for w in (workdir, alone[0])
  )
  assert [r['step'] for r in found] == [40, 80]
  for a, b in zip(found, expected, strict=True):
    assert round(a['val/top1'] * 450, 3) == round(b['val/top1'] * 450, 3)
    assert a['val/loss'] == pytest.approx(b['val/loss'], rel=1e-4)


def test_only_the_first_process_speaks(pair):
  workdir, _, (first, second) = pair
  assert 'devices   4 x cpu in 2 processes, mesh data=2 fsdp=2 tensor=1' in first.stdout
  assert second.sentences == []
  assert len(list((workdir / 'tensorboard').iterdir())) == 1


def test_evaluation_in_two_processes(launch, pair):
  workdir, _, _ = pair
  words = ('-m', 'big_vision_like.evaluate', f'--workdir={workdir}')
  done = launch(words, 2, 2)
  assert [d.returncode for d in done] == [0, 0], done
  assert done[1].sentences == []
  found = json.loads((workdir / f'evaluation-{STEPS}.json').read_text())
  last = [r for r in metrics.read(workdir) if r['kind'] == 'eval'][-1]
  assert found['val/top1'] == last['val/top1']


def test_killed_and_preempted_processes_lose_nothing(train, pair, tmp_path):
  started = time.monotonic()
  (first, second), ids = train(tmp_path, 2, 2, own={1: ((), {'DIE_AT': '23'})})
  assert second.returncode == -signal.SIGKILL
  assert first.returncode == 1
  sentence = first.stderr.splitlines()[-1]
  assert sentence.startswith('process 0: error: another process of this run died')
  assert 'Rerun the same command' in sentence
  assert time.monotonic() - started < 60

  # The other processes are connected to process 0.
  (first, second), more = train(tmp_path, 2, 2, own={0: ((), {'DIE_AT': '20'})})
  assert first.start in (15, 20)
  assert first.returncode == -signal.SIGKILL
  assert second.returncode == 1
  assert 'process 1: error: another process of this run died' in second.stderr
  ids |= more

  slow = {'SECONDS_PER_STEP': '0.1'}
  own = {0: ((), slow), 1: (('--drill=preempt@45',), slow)}
  (first, second), more = train(tmp_path, 2, 2, own=own)
  assert first.start in (25, 30, 35)
  assert [first.returncode, second.returncode] == [0, 0], (first, second)
  stopped_at = int(re.search(r'on SIGTERM at step (\d+), saved', first.stdout)[1])
  assert 45 <= stopped_at < STEPS
  ids |= more

  (first, second), more = train(tmp_path, 2, 2, '--drill=preempt@45')
  assert [first.returncode, second.returncode] == [0, 0], (first, second)
  assert first.start == stopped_at and 'drill' not in first.stdout
  train_test.assert_bit_equal(pair[0], tmp_path / 'run', STEPS)
  assert_same_examples(ids | more, pair[1])
  losses(tmp_path / 'run')


def test_other_numbers_of_devices_and_processes(train, alone, tmp_path):
  (done,), ids = train(tmp_path, 1, 4, '--drill=preempt@20')
  assert 'drill     at step 20' in done.stdout and done.returncode == 0
  assert 'on SIGTERM at step 20, saved' in done.stdout
  (done,), more = train(tmp_path, 1, 2, '--drill=preempt@33')
  assert done.start == 20 and done.returncode == 0, done
  ids |= more
  (first, second), more = train(tmp_path, 2, 4)
  assert first.start == 33 and first.returncode == second.returncode == 0, first
  assert_same_examples(ids | more, alone[1])
  assert_same_losses(tmp_path / 'run', alone[0])


def test_several_tasks_resume_in_another_number_of_processes(launch, tmp_path):
  """Checks bit-identical results: two devices always add the same two numbers."""
  words = ('-m', 'big_vision_like.train', '--config=configs/multi_task/digits.py')
  words += ('--config.total_steps=24', '--config.log_every=1')
  words += ('--config.task.optimizer.rate.warmup_steps=4',)
  words += tuple(
    f'--config.task.tasks.{name}.model.{field}'
    for name in ('digit', 'parity')
    for field in ('depth=1', 'width=8', 'num_heads=1', 'mlp_dim=8')
  )
  (whole,) = launch((*words, f'--workdir={tmp_path / "whole"}'), 1, 2)
  assert whole.returncode == 0, whole.stderr
  assert whole.stdout.count('compiled') == 1  # the step of the second task
  parts = (*words, f'--workdir={tmp_path / "parts"}')
  (first,) = launch((*parts, '--drill=preempt@9'), 1, 2)
  assert first.returncode == 0 and 'at step 9, saved' in first.stdout, first
  pair = launch(parts, 2, 1)
  assert [done.returncode for done in pair] == [0, 0], pair
  assert pair[0].start == 9 and pair[1].sentences == []
  a, b = (train_test.saved(tmp_path / name, 24) for name in ('whole', 'parts'))
  assert a.keys() == b.keys() and a['position'] == 24
  for name in a:
    np.testing.assert_array_equal(a[name], b[name], err_msg=name)
  records = [
    {
      r['step']: sorted(k for k in r if '/' in k)
      for r in metrics.read(tmp_path / name)
      if r['kind'] == 'train'
    }
    for name in ('whole', 'parts')
  ]
  assert records[0] == records[1] and len(records[0]) == 24
  tasks = [names[0].split('/')[0] for names in records[0].values()]
  assert 2 <= tasks.count('parity') <= 10 and tasks.count('digit') >= 14


def test_copies_that_drift_apart_are_never_saved(train, tmp_path):
  drift = {'DRIFT_AT': '12'}
  words = ('--config.check_replicas_every=4', '--config.checkpoint_every=10')
  done, _ = train(tmp_path, 2, 2, *words, own={0: ((), drift), 1: ((), drift)})
  for index, process in enumerate(done):
    assert process.returncode == 1
    (told,) = [line for line in process.sentences if 'error' in line]
    assert told.startswith(f'process {index}: error: copies of the state drifted apart')
    assert re.search(r'device \d+ of process 1 deviates from 3 others', told)
    assert 'head/bias' in told and 'by step 12' in told and 'step 10 is kept' in told
  assert [p.name for p in (tmp_path / 'run' / 'checkpoints').iterdir()] == ['10']


def test_an_error_in_one_process_stops_all(train, tmp_path):
  started = time.monotonic()
  done, _ = train(tmp_path, 2, 2, own={1: ((), {'FAIL_AT': '12'})})
  assert [process.returncode for process in done] == [1, 1]
  assert 'process 1: error: this example is broken' in done[1].stderr
  assert 'process 0: error: another process of this run died' in done[0].stderr
  assert time.monotonic() - started < 60


def test_a_process_killed_while_others_start_is_reported(command, tmp_path):
  with socket.socket() as probe:
    probe.bind(('127.0.0.1', 0))
    port = probe.getsockname()[1]
  words = (*train_test.TRAIN, f'--workdir={tmp_path}/run', '--num-processes=3')
  words += (f'--coordinator=127.0.0.1:{port}',)
  pipes = dict(stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
  first, second = (
    subprocess.Popen(**command(*words, f'--process-id={index}'), **pipes)
    for index in (0, 1)
  )
  try:
    while not established(second.pid):
      time.sleep(0.1)
    second.kill()
    second.communicate()
    out, err = first.communicate(timeout=20)  # not 300 s, as for the third
  finally:
    first.kill()
  assert first.returncode == 1
  assert err.startswith('error: process 1 of 3 died during startup. Start the same')
  assert err.count('\n') == 1 and not (tmp_path / 'run').exists()


def established(process: int) -> bool:
  """Returns whether a process has an established TCP connection."""
  try:
    links = [
      os.readlink(link) for link in pathlib.Path(f'/proc/{process}/fd').iterdir()
    ]
    lines = pathlib.Path(f'/proc/{process}/net/tcp').read_text().splitlines()[1:]
  except OSError:
    return False
  fields = [line.split() for line in lines]
  own = {link[len('socket:[') : -1] for link in links if link.startswith('socket:[')}
  return any(field[3] == '01' and field[9] in own for field in fields)


def test_coordinator_that_is_not_there(spawn, tmp_path):
  words = ('--coordinator=127.0.0.1:9', '--num-processes=2', '--start-seconds=1')
  done = spawn(*train_test.TRAIN, f'--workdir={tmp_path}/run', *words, '--process-id=1')
  assert done.returncode == 1
  assert done.stderr.count('\n') == 1
  assert 'process 1 of 2 could not reach the coordinator at 127.0.0.1:9' in done.stderr
  assert not (tmp_path / 'run').exists()


@pytest.mark.parametrize(
  'words, variables, sentence',
  [
    (['--num-processes=2'], {}, '--coordinator and --process-id must be given too'),
    (['--coordinator=a:1', '--num-processes=2', '--process-id=2'], {}, '0 to 1'),
    (['--coordinator=a', '--num-processes=2', '--process-id=1'], {}, 'not HOST:PORT'),
    (
      ['--coordinator=a:70000', '--num-processes=2', '--process-id=1'],
      {},
      'not HOST:P',
    ),
    (['--coordinator=a:1', '--multi-process'], {}, 'give one or the'),
    ([], {'JAX_PROCESS_ID': '1'}, '--coordinator and --num-processes must be given'),
    ([], {'SLURM_STEP_NUM_TASKS': '4'}, 'srun started 4 processes: add --multi-pro'),
    ([], {'OMPI_COMM_WORLD_SIZE': '2'}, 'mpirun started 2 processes'),
    (['--multi-process'], {}, 'could not be joined by --multi-process'),
  ],
)
def test_inconsistent_flags_are_one_sentence(words, variables, sentence, monkeypatch):
  for name, value in variables.items():
    monkeypatch.setenv(name, value)
  # Otherwise JAX would continue and look for a cluster.
  monkeypatch.setattr(processes._Aborted, 'install', lambda sentence: None)
  monkeypatch.setattr(
    processes.jax.distributed, 'initialize', lambda **_: _none_detected()
  )
  with pytest.raises(UserError, match=re.escape(sentence)):
    processes.start(parsed(words))


def _none_detected() -> None:
  raise ValueError('coordinator_address should be defined.')


@pytest.mark.parametrize(
  'words, variables',
  [
    ([], {}),
    ([], {'SLURM_STEP_NUM_TASKS': '1', 'SLURM_NTASKS': '8', 'SLURM_PROCID': '0'}),
    (['--num-processes=1'], {'SLURM_STEP_NUM_TASKS': '8'}),
    (['--num-processes=1'], {'JAX_COORDINATOR_ADDRESS': 'a:1'}),
  ],
)
def test_one_process_unless_requested_otherwise(words, variables, monkeypatch):
  for name, value in variables.items():
    monkeypatch.setenv(name, value)
  monkeypatch.delattr(processes.jax.distributed, 'initialize')
  processes.start(parsed(words))


def parsed(words: list[str]) -> argparse.Namespace:
  parser = argparse.ArgumentParser()
  processes.add_flags(parser)
  return parser.parse_args(words)


@pytest.mark.parametrize('text', ['', 'preempt', 'preempt@', 'preempt@0', 'kill@7'])
def test_a_drill_is_preempt_at_a_step(text):
  assert processes.drill_step('preempt@7') == 7
  assert processes.drill_step(None) is None
  with pytest.raises(UserError, match='use preempt@STEP'):
    processes.drill_step(text)


def test_sigterm_is_seen_and_given_back():
  before = signal.getsignal(signal.SIGTERM)
  with processes.preemption(drill=3) as preempted:
    assert [preempted(step) for step in (1, 2, 3, 4)] == [False, False, True, True]
  assert signal.getsignal(signal.SIGTERM) is before
  with processes.preemption(drill=3) as preempted:
    assert not preempted(4)  # an earlier start of the run has passed this step


def caused(error: Exception, cause: Exception) -> Exception:
  error.__cause__ = cause
  return error


GLOO = 'UNKNOWN: Gloo AllGather failed: [pair.cc:547] Connection closed by peer'
UNAVAILABLE = 'UNAVAILABLE: failed to connect to all addresses'


@pytest.mark.parametrize(
  'error, lost',
  [
    (jax.errors.JaxRuntimeError(GLOO), True),
    (ValueError(GLOO), True),  # raised where a result is fetched, as during a save
    (caused(UserError('saving failed'), ValueError(GLOO)), True),
    (ExceptionGroup('both', [OSError('full'), ValueError(GLOO)]), True),
    (jax.errors.JaxRuntimeError('INTERNAL: Barrier failed because: task is set'), True),
    (jax.errors.JaxRuntimeError(UNAVAILABLE), True),
    (RuntimeError('the coordination service detected a fatal error'), True),
    (ValueError(UNAVAILABLE), False),  # an error of storage
    (OSError('No space left on device'), False),
    (jax.errors.JaxRuntimeError('RESOURCE_EXHAUSTED: out of memory'), False),
    (UserError('labels.json has the names Gloo and NCCL'), False),
    (None, False),
  ],
)
def test_errors_of_lost_processes(error, lost, monkeypatch):
  assert not processes.lost_connection(error)  # a single process cannot lose others
  monkeypatch.setattr(processes.jax.distributed, 'is_initialized', lambda: True)
  assert processes.lost_connection(error) == lost


def test_together_passes_errors_on():
  with processes.together():
    pass
  with pytest.raises(OSError, match='disk'), processes.together():
    raise OSError('disk')
  assert processes.gather('one text') == ['one text']
