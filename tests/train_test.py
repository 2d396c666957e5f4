"""Tests of the loop as users run it: real processes, killed, stopped and misused."""

import json
import pathlib
import random
import re
import shutil
import signal
import subprocess
import types

import cv2
import jax
import numpy as np
import orbax.checkpoint as ocp
import pytest
import tiny_config

from big_vision_like import plan, spec, train
from big_vision_like.devices import mesh as meshes
from big_vision_like.errors import UserError
from big_vision_like.evals import classification
from big_vision_like.evals.evaluator import Results
from big_vision_like.run import checkpoint, experiment, init_from, metrics
from big_vision_like.run import workdir as workdirs
from big_vision_like.tasks.task import State

STEPS = 200
TRAIN = ('-m', 'big_vision_like.train', '--config=tests/tiny_config.py')
LONG = (*TRAIN, f'--config.total_steps={STEPS}', '--config.checkpoint_every=25')


def saved(workdir: pathlib.Path, step: int) -> dict[str, np.ndarray]:
  """Returns all leaves of a checkpoint's state, and the position of the input."""
  folder = (workdir / 'checkpoints' / str(step)).absolute()
  with ocp.Checkpointer(ocp.PyTreeCheckpointHandler()) as reader:
    like = reader.metadata(folder / 'state').item_metadata.tree
    kind = jax.tree.map(lambda _: ocp.RestoreArgs(restore_type=np.ndarray), like)
    tree = reader.restore(folder / 'state', ocp.args.PyTreeRestore(restore_args=kind))
  leaves = {
    jax.tree_util.keystr(keys): np.asarray(leaf)
    for keys, leaf in jax.tree_util.tree_leaves_with_path(tree)
  }
  progress = json.loads((folder / 'progress' / 'metadata').read_text())
  return leaves | {'position': np.asarray(progress['position']['step'])}


def assert_bit_equal(one: pathlib.Path, other: pathlib.Path, step: int) -> None:
  a, b = saved(one, step), saved(other, step)
  assert a.keys() == b.keys() and len(a) > 15
  assert any('ema' in name for name in a) and any('nu' in name for name in a)
  for name in a:
    np.testing.assert_array_equal(a[name], b[name], err_msg=name)


def started(
  command, workdir: pathlib.Path, until: int, *words: str
) -> subprocess.Popen:
  """Starts a run in the background; waits for step `until` and a checkpoint."""
  process = subprocess.Popen(
    **command(*LONG, f'--workdir={workdir}', *words),
    stdout=subprocess.PIPE,
    stderr=subprocess.STDOUT,
    text=True,
  )
  for line in process.stdout:
    there = line.startswith('step') and int(line.split('/')[0].split()[1]) >= until
    if there and (workdir / 'checkpoints' / '25').exists():
      return process
  raise AssertionError(f'ended with {process.wait()} before step {until}')


@pytest.fixture(scope='session')
def unbroken(spawn, tmp_path_factory) -> pathlib.Path:
  workdir = tmp_path_factory.mktemp('unbroken') / 'run'
  done = spawn(*LONG, f'--workdir={workdir}')
  assert done.returncode == 0, done.stderr
  assert 'compiled' not in done.stdout  # nothing compiles after the first steps
  return workdir


def test_killed_run_ends_bit_equal(command, spawn, unbroken, tmp_path):
  until = random.randrange(30, STEPS - 100, 5)
  with started(command, tmp_path / 'run', until) as process:
    process.send_signal(signal.SIGKILL)
  assert process.returncode == -signal.SIGKILL
  again = spawn(*LONG, f'--workdir={tmp_path / "run"}')
  assert again.returncode == 0, again.stderr
  assert 'resumed at step' in again.stdout
  assert_bit_equal(unbroken, tmp_path / 'run', STEPS)
  steps = [r['step'] for r in metrics.read(tmp_path / 'run') if r['kind'] == 'train']
  assert steps == list(range(5, STEPS + 1, 5))  # none twice, none lost


@pytest.mark.parametrize(
  ('number', 'name'), [(signal.SIGTERM, 'SIGTERM'), (signal.SIGINT, 'Ctrl-C')]
)
def test_a_signal_saves_and_the_same_command_resumes(
  command, spawn, unbroken, tmp_path, number, name
):
  with started(command, tmp_path / 'run', 40) as process:
    process.send_signal(number)
    output = process.stdout.read()
  assert process.returncode == 0
  assert f'stopped   on {name} at step' in output
  again = spawn(*LONG, f'--workdir={tmp_path / "run"}')
  assert again.returncode == 0, again.stderr
  stopped_at = output.split(f'{name} at step ')[1].split(', saved')[0]
  assert f'resumed at step {stopped_at})' in again.stdout
  assert_bit_equal(unbroken, tmp_path / 'run', STEPS)


def test_damaged_checkpoint_falls_back_to_the_good_one(spawn, unbroken, tmp_path):
  workdir = tmp_path / 'run'
  shutil.copytree(unbroken, workdir)
  kept = sorted(int(p.name) for p in (workdir / 'checkpoints').iterdir())
  newest = workdir / 'checkpoints' / str(kept[-1])
  largest = max(newest.rglob('*'), key=lambda p: p.stat().st_size * p.is_file())
  largest.write_bytes(largest.read_bytes()[:100])
  again = spawn(*LONG, f'--workdir={workdir}')
  assert again.returncode == 0, again.stderr
  assert f'checkpoint {STEPS} is unreadable' in again.stdout
  assert f'previous good checkpoint, step {kept[-2]}' in again.stdout
  assert (workdir / f'unreadable-{STEPS}').is_dir()
  assert_bit_equal(unbroken, workdir, STEPS)


def test_half_written_checkpoint_is_ignored(spawn, unbroken, tmp_path):
  workdir = tmp_path / 'run'
  shutil.copytree(unbroken, workdir)
  checkpoints = workdir / 'checkpoints'
  kept = sorted(int(p.name) for p in checkpoints.iterdir())
  unfinished = checkpoints / f'{STEPS}.orbax-checkpoint-tmp'
  (checkpoints / str(STEPS)).rename(unfinished)
  again = spawn(*LONG, f'--workdir={workdir}')
  assert again.returncode == 0, again.stderr
  assert f'resumed at step {kept[-2]}' in again.stdout
  assert not unfinished.exists()
  assert_bit_equal(unbroken, workdir, STEPS)


def test_disk_too_small_for_a_checkpoint(spawn, unbroken, tmp_path):
  full = spawn(
    '-c',
    'import shutil, sys; from big_vision_like import train;'
    'shutil.disk_usage = lambda _: type("Usage", (), {"free": 1000});'
    f'sys.exit(train.main({[*LONG[2:], f"--workdir={tmp_path}/run"]}))',
  )
  assert full.returncode == 1
  assert full.stderr.count('\n') == 1 and full.stderr.startswith('error: saving')
  assert 'MB needed' in full.stderr and 'Free space' in full.stderr
  again = spawn(*LONG, f'--workdir={tmp_path / "run"}')
  assert again.returncode == 0, again.stderr
  assert_bit_equal(unbroken, tmp_path / 'run', STEPS)


def test_disk_that_fills_up_while_writing(command, spawn, unbroken, tmp_path):
  limit = 'import resource as r; r.setrlimit(r.RLIMIT_FSIZE, (30_000, 30_000));'
  main = 'import sys; from big_vision_like import train;'
  words = [*LONG[2:], f'--workdir={tmp_path}/run']
  full = spawn(
    '-c',
    f'{limit} {main} sys.exit(train.main({words}))',
    JAX_ENABLE_COMPILATION_CACHE='false',
  )
  assert full.returncode == 1
  (told,) = full.stderr.splitlines()
  assert 'saving a checkpoint' in told and 'File too large' in told
  again = spawn(*LONG, f'--workdir={tmp_path / "run"}')
  assert again.returncode == 0, again.stderr
  assert_bit_equal(unbroken, tmp_path / 'run', STEPS)


def test_finished_run_says_so(run, unbroken):
  before = (unbroken / 'metrics.jsonl').read_text()
  again = run(*LONG, f'--workdir={unbroken}')
  assert again.returncode == 0
  assert f'is already at step {STEPS} of {STEPS}' in again.stdout
  assert (unbroken / 'metrics.jsonl').read_text() == before


def test_folder_of_another_config_is_refused(run, unbroken):
  before = (unbroken / 'config.json').read_text()
  other = run(*LONG, f'--workdir={unbroken}', '--config.task.augment.mixup=0.5')
  assert other.returncode == 1
  assert 'config.task.augment.mixup: 0.2 -> 0.5' in other.stderr
  assert (unbroken / 'config.json').read_text() == before


def test_a_finished_run_is_extended(run, unbroken, tmp_path):
  shutil.copytree(unbroken, tmp_path / 'run')
  longer = (f'--workdir={tmp_path / "run"}', f'--config.total_steps={STEPS + 3}')
  # A saved config does not store that its schedule follows total_steps.
  refused = run('-m', 'big_vision_like.train', *longer)
  assert refused.returncode == 1
  assert f'from {STEPS} to {STEPS + 3} steps: the learning rate is 0' in refused.stderr
  assert f'decay_steps={STEPS + 3} --accept=config' in refused.stderr
  again = run(*LONG, *longer)
  assert again.returncode == 0, again.stderr
  assert f'changed   config.total_steps: {STEPS} -> {STEPS + 3}' in again.stdout
  assert re.search(
    rf'extended  from {STEPS} to {STEPS + 3} steps; the learning rate is [\d.e-]+ at'
    rf' step {STEPS + 1}, [\d.e-]+ before, [\d.e-]+ at the end\n',
    again.stdout,
  )
  assert checkpoint.steps(tmp_path / 'run')[-1] == STEPS + 3
  (line,) = (tmp_path / 'run' / 'changes.jsonl').read_text().splitlines()
  change = json.loads(line)
  assert change['extended'] and change['step'] == STEPS and change['accepted'] == []
  steps = [r['step'] for r in metrics.read(tmp_path / 'run') if r['kind'] == 'train']
  assert steps[-2:] == [STEPS, STEPS + 3]
  rates = [r['rate'] for r in metrics.read(tmp_path / 'run') if 'rate' in r]
  assert rates[-1] > 0  # the cosine's last step but one
  done = run('-m', 'big_vision_like.train', longer[0])
  assert f'is already at step {STEPS + 3} of {STEPS + 3}' in done.stdout


def test_an_extended_run_is_bit_equal_to_a_longer_one(spawn, tmp_path):
  """Checks a schedule that does not depend on the length."""
  for name, total in (('long', 9), ('extended', 5), ('extended', 9)):
    words = ('--config.task.optimizer.rate=1e-3', f'--config.total_steps={total}')
    done = spawn(*TRAIN, *words, f'--workdir={tmp_path / name}')
    assert done.returncode == 0, done.stderr
  assert 'the learning rate is 0.001 at step 6, 0.001 before' in done.stdout
  assert_bit_equal(tmp_path / 'long', tmp_path / 'extended', 9)


def test_overwriting_starts_over(run, spawn, unbroken, tmp_path):
  workdir = tmp_path / 'run'
  shutil.copytree(unbroken, workdir)
  (workdir / 'notes.txt').write_text('mine')
  words = (*TRAIN, f'--workdir={workdir}', '--overwrite', '--config.total_steps=6')
  # Mistakes are found before anything is removed.
  wrong = run(*words, '--config.init_from.weights.workdir=nowhere')
  assert wrong.returncode == 1 and checkpoint.steps(workdir)[-1] == STEPS
  both = run(*words, '--accept=config')
  assert '--overwrite starts over and --accept resumes' in both.stderr
  assert checkpoint.steps(workdir)[-1] == STEPS
  with workdirs.owned(workdir):
    owned = spawn(*words)
  assert owned.returncode == 1 and 'is in use by process' in owned.stderr
  assert checkpoint.steps(workdir)[-1] == STEPS
  done = run(*words)
  assert done.returncode == 0, done.stderr
  assert re.search(r'removed   the run in .*: .*checkpoints/, config.json', done.stdout)
  assert 'kept notes.txt, not written by training' in done.stdout
  assert f'{workdir} (new)' in done.stdout
  assert checkpoint.steps(workdir) == [6]
  assert metrics.read(workdir)[-1]['step'] == 6
  assert (workdir / 'notes.txt').read_text() == 'mine'


def test_colons_in_the_path_of_a_run(run, unbroken, tmp_path):
  shutil.copytree(unbroken, tmp_path / 'run:2')
  done = run('-m', 'big_vision_like.evaluate', f'--workdir={tmp_path / "run:2"}')
  assert done.returncode == 0, done.stderr
  assert f'is already at step {STEPS}' in (
    run('-m', 'big_vision_like.train', f'--workdir={tmp_path / "run:2"}').stdout
  )


def test_evaluate_matches_training(run, unbroken):
  done = run('-m', 'big_vision_like.evaluate', f'--workdir={unbroken}')
  assert done.returncode == 0, done.stderr
  found = json.loads((unbroken / f'evaluation-{STEPS}.json').read_text())
  last = [r for r in metrics.read(unbroken) if r['kind'] == 'eval'][-1]
  assert found['val/top1'] == pytest.approx(last['val/top1'], abs=1e-6)
  assert found['val/loss'] == pytest.approx(last['val/loss'], rel=1e-5)


def test_checkpoints_of_a_removed_model_are_kept(spawn, unbroken, tmp_path):
  workdir = tmp_path / 'run'
  shutil.copytree(unbroken, workdir)
  change = ('--config.task.model.width=32', f'--workdir={workdir}')
  config = json.loads((workdir / 'config.json').read_text())
  config['task']['model']['width'] = 32  # as if the model file had been changed
  (workdir / 'config.json').write_text(json.dumps(config))
  again = spawn(*LONG, *change)
  assert again.returncode == 1
  assert 'can be read' in again.stderr and 'Has the model' in again.stderr
  assert (workdir / 'checkpoints' / str(STEPS)).is_dir()


def test_start_from_another_run_with_another_head(unbroken, tmp_path, capsys):
  config = spec.load('tests/tiny_config.py')
  config.task.model.num_classes, config.total_steps = 12, 9
  weights = spec.spec(init_from.from_run, workdir=str(unbroken))
  config.init_from = spec.spec(init_from.InitFrom, weights=weights)
  train.train(config, tmp_path / 'run')
  assert 'newly initialized: head/bias, head/kernel' in capsys.readouterr().out


# Teachers

DISTILL = ('-m', 'big_vision_like.train', '--config=tests/distillation_config.py')


def test_killed_distillation_ends_bit_equal(command, spawn, unbroken, tmp_path):
  """Checks that the teacher is not in checkpoints, but is loaded again on restart."""
  teacher = dict(TEACHER=str(unbroken))
  whole = spawn(*DISTILL, f'--workdir={tmp_path / "whole"}', **teacher)
  assert whole.returncode == 0, whole.stderr
  words = (*DISTILL, f'--workdir={tmp_path / "run"}')
  with subprocess.Popen(
    **command(*words, **teacher), stdout=subprocess.PIPE, text=True
  ) as process:
    for line in process.stdout:
      if line.startswith('step') and (tmp_path / 'run/checkpoints/10').exists():
        process.send_signal(signal.SIGKILL)
        break
  again = spawn(*words, **teacher)
  assert again.returncode == 0, again.stderr
  assert 'resumed at step' in again.stdout
  assert_bit_equal(tmp_path / 'whole', tmp_path / 'run', 40)
  assert not any('frozen' in name for name in saved(tmp_path / 'run', 40))


@pytest.mark.parametrize('mesh', [{}, {'fsdp': 4}, {'tensor': 2}])
def test_a_teacher_is_there_on_every_mesh(
  mesh, data_dir, unbroken, tmp_path, monkeypatch
):
  """Checks the first start and a restart; a plan does not need the teacher's file."""
  monkeypatch.setenv('TEACHER', str(unbroken))
  config = spec.load('tests/distillation_config.py', root=experiment.Settings)
  config.mesh, config.keep_best = mesh, 'val/top1'
  run = experiment.make(config)
  wanted = init_from.from_run(str(unbroken)).variables
  with run.checkpoints(tmp_path) as checkpoints:
    state, position, _ = run.start(checkpoints, run.frozen())
    assert position is None
    checkpoints.save(0, state, {'step': 0}, 1.0, wait=True)
    again, position, _ = run.start(checkpoints, run.frozen())
  assert position == {'step': 0}
  for found in (state, again):
    teacher = found.frozen['teacher']
    jax.tree.map(np.testing.assert_array_equal, jax.device_get(teacher), wanted)
    jax.tree.map(lambda x, s: x.sharding == s or 1 / 0, found, run.shardings)
  jax.tree.map(np.testing.assert_array_equal, again.params, state.params)
  if not mesh:
    monkeypatch.setenv('TEACHER', 'nowhere')
    made = plan.plan('tests/distillation_config.py', 'cpu:2')
    size = sum(x.nbytes for x in jax.tree.leaves(wanted))
    assert made.frozen == size and made.optimizer < 4 * made.parameters


@pytest.mark.parametrize(
  'change, sentence',
  [
    (
      'frozen={}',
      "config.frozen.teacher is missing: the weights of the frozen network 'teacher'",
    ),
    (
      'task.teacher.num_classes=7',
      'the teacher has 7 classes and the model 10: a teacher must know the classes of',
    ),
    (
      'task.teacher.width=24',
      r'config.frozen.teacher: the weights do not fit the model:(.|\n)*'
      r'shape of cls: \(1, 1, 16\) in the weights, \(1, 1, 24\) in the model',
    ),
    (
      'frozen.teacher.workdir="nowhere"',
      'config.frozen.teacher.*nowhere holds no chec',
    ),
    (
      'keep_best=val/top9',
      "config.keep_best='val/top9' is reported by no evaluator; th",
    ),
    (
      'evals.val.predict=generate',
      "config.evals.val.predict: Distillation has no prediction 'generate'; it has",
    ),
    (
      'evals.val.predict_args={"beams": 3}',
      "predict: Distillation.predict takes no argument 'beams'; besides state, batch",
    ),
  ],
)
def test_mistakes_are_reported_before_the_first_step(
  data_dir, unbroken, tmp_path, change, sentence, monkeypatch, capsys
):
  monkeypatch.setenv('TEACHER', str(unbroken))
  config = spec.load('tests/distillation_config.py', root=experiment.Settings)
  if change == 'frozen={}':
    config.frozen = {}
  else:
    spec.override(config, change, experiment.Settings)
  with pytest.raises(UserError, match=sentence):
    train.train(config, tmp_path / 'run')
  assert 'step' not in capsys.readouterr().out


def test_loss_that_is_not_finite_leaves_a_capsule_to_replay(run, tmp_path):
  words = (f'--workdir={tmp_path / "run"}', '--config.checkpoint_every=1')
  rate = '--config.task.optimizer.rate.peak_value=1e30'
  broken = run(*TRAIN, *words, rate, '--config.task.optimizer.clip_norm=None')
  assert broken.returncode == 1
  assert ' not finite at step' in broken.stderr
  assert 'Traceback' not in broken.stderr
  replay = broken.stderr.strip().split('python ')[-1].split()
  step = int(replay[-1].removeprefix('--replay='))
  kept = [int(p.name) for p in (tmp_path / 'run' / 'checkpoints').iterdir()]
  assert max(kept) < step
  again = run(*replay)
  assert again.returncode == 0, again.stderr
  assert f'the batch of step {step} is the same' in again.stdout
  assert 'first:' in again.stdout


@pytest.fixture
def damaged(tmp_path, monkeypatch) -> pathlib.Path:
  """Writes forty JPEGs in two classes; one is truncated, one is empty."""
  folder = tmp_path / 'pictures'
  for index in range(40):
    pixels = np.full((16, 20, 3), 6 * index, np.uint8)
    encoded = cv2.imencode('.jpg', pixels)[1].tobytes()
    encoded = {7: encoded[:-90], 31: b''}.get(index, encoded)
    file = folder / f'class{index % 2}' / f'{index:02}.jpg'
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_bytes(encoded)
  monkeypatch.setenv('PICTURES', str(folder))
  return folder


def test_bad_records_are_replaced_and_written_down(spawn, damaged, tmp_path):
  train = ('-m', 'big_vision_like.train', '--config=tests/damaged_config.py')
  workdir = tmp_path / 'run'
  done = spawn(*train, f'--workdir={workdir}')
  assert done.returncode == 0, done.stderr
  # 96 examples are a bit more than two epochs.
  lines = (workdir / 'bad_records.txt').read_text().splitlines()
  assert 4 <= len(lines) <= 8 and done.stdout.count('replaced  record ') == len(lines)
  assert {int(line.split(' record ')[1].split()[0]) for line in lines} == {23, 35}
  assert all(line.startswith('step ') and 'cannot be decoded' in line for line in lines)
  last = [r for r in metrics.read(workdir) if r['kind'] == 'train'][-1]
  assert last['bad_records'] == len(lines) and 0 <= last['input_wait'] < 1
  assert done.stderr == ''  # no message about shared memory

  again = spawn(
    *train, f'--workdir={tmp_path}/other', '--config.train_data.bad_share=0'
  )
  assert again.returncode == 1
  assert re.search(
    r'^error: \d+ of \d+ examples could not be used, more than train_data.bad_share=0'
    r' allows: repair the data, or raise bad_share.$',
    again.stderr,
    re.MULTILINE,
  ), again.stderr
  assert (tmp_path / 'other' / 'bad_records.txt').exists()


class Counting:
  """Batches that contain their number and have a position; each fourth may be wider."""

  cpu_seconds = 0.0

  def __init__(self, wide: int = 3):
    self.step, self.wide = 0, wide

  def __next__(self) -> dict[str, np.ndarray]:
    self.step += 1
    width = 3 if self.step % 4 else self.wide
    return {'x': np.full((8, width), self.step, np.float32)}

  def get_state(self) -> dict[str, int]:
    return {'step': self.step}

  def set_state(self, state: dict[str, int]) -> None:
    self.step = state['step']

  def news(self) -> list[str]:
    return []

  def close(self) -> None:
    pass


@pytest.fixture
def looped(tmp_path):
  """Returns a function that runs the loop; losses from step `bad_from` on are NaN."""

  def call(bad_from=0, wide=3, **settings) -> Counting:
    mesh = meshes.make_mesh()

    def step(state, batch):
      state = state.replace(step=state.step + 1)
      bad = (state.step >= bad_from) & (bad_from > 0)
      squares = (batch['x'] @ batch['x'].T).max()
      loss = jax.numpy.where(bad, jax.numpy.nan, batch['x'].mean())
      return state, {'loss': loss, 'squares': squares}

    state = State(step=np.int32(0), params={'w': np.ones(3, np.float32)}, opt_state=())
    shardings = meshes.state_shardings(mesh, state)
    state = meshes.put_tree(state, shardings)
    settings = dict(total_steps=23, log_every=10, checkpoint_every=0) | settings
    run = types.SimpleNamespace(
      settings=experiment.Settings(task=None, train_data=None, **settings),
      mesh=mesh,
      example={},
      evaluators={},
      task=types.SimpleNamespace(check=lambda batch: None),
      data=types.SimpleNamespace(batch_size=8),
      abstract_state=state,
      batches=Counting,
      compiled_step=jax.jit(step, donate_argnums=0),
    )
    batches = Counting(wide)
    call.batches = batches
    with (
      checkpoint.Checkpoints(tmp_path) as checkpoints,
      metrics.Metrics(tmp_path, 0, 23, 8) as log,
    ):
      session = train.Session(run, tmp_path, batches, checkpoints, log)
      train.loop(session, state, {}, lambda step: False)

  return call


def test_nothing_is_fetched_between_logs(looped, tmp_path, monkeypatch):
  fetched_at = set()
  kind = type(jax.numpy.zeros(1))
  value = kind._value.fget

  def counted(array: jax.Array) -> np.ndarray:
    if hasattr(looped, 'batches'):
      fetched_at.add(looped.batches.step)
    return value(array)

  monkeypatch.setattr(kind, '_value', property(counted))
  looped(check_replicas_every=5)
  # A step is logged once the devices have finished it, with two more in flight.
  assert fetched_at == {0, 12, 22, 23}
  records = [r for r in metrics.read(tmp_path) if r['kind'] == 'train']
  assert [(r['step'], r['loss']) for r in records] == [(10, 10), (20, 20), (23, 23)]
  assert all(r['examples_per_second'] > 0 for r in records)
  (info,) = [r for r in metrics.read(tmp_path) if 'save_seconds' in r]
  assert info['step'] == 23 and info['save_seconds'] > 0


def test_each_shape_compiles_once(looped, tmp_path, capsys, monkeypatch):
  work, paused, following = [], [], Counting.__next__
  monkeypatch.setattr(metrics.Metrics, 'work', lambda self, *step: work.append(step))
  monkeypatch.setattr(metrics.Metrics, 'pause', lambda self, x: paused.append(x))
  looped(wide=50)
  told = capsys.readouterr().out.splitlines()
  assert [x for x in told if x.startswith('compiling')] == [
    'compiling the training step for batches of 8',
    'compiling the training step for x float32[8, 50]',
  ]
  (line,) = lines = [x for x in told if x.startswith('compiled')]
  where = r'at step 4 for x float32\[8, 50\]; 8e-07 G per example and step'
  assert re.fullmatch(rf'compiled  in \d+\.\d s {where}', line)
  assert work == [(step, 2 * 8 * 8 * (3 if step % 4 else 50)) for step in range(2, 24)]
  compiled = [r for r in metrics.read(tmp_path) if 'compile_seconds' in r]
  assert [r['step'] for r in compiled] == [1, 4]
  assert paused == [compiled[1]['compile_seconds']]

  def forgetful(batches):
    if batches.step == 17:
      jax.clear_caches()
    return following(batches)

  monkeypatch.setattr(Counting, '__next__', forgetful)
  looped(wide=50)
  lines = [x for x in capsys.readouterr().out.splitlines() if x.startswith('compiled')]
  again = [x for x in lines if ' again at step 18 ' in x or ' again at step 20 ' in x]
  assert len(lines) == 3 and len(again) == 2


@pytest.mark.parametrize('every', [0, 9])
def test_first_bad_step_is_named_however_late_it_is_seen(looped, tmp_path, every):
  with pytest.raises(UserError, match='loss is not finite at step 13 .loss nan'):
    looped(bad_from=13, checkpoint_every=every)
  with np.load(tmp_path / 'capsule-13' / 'batch-0.npz') as saved:
    np.testing.assert_array_equal(saved['x'], np.full((8, 3), 13))
  assert [p.name for p in tmp_path.glob('capsule-*')] == ['capsule-13']
  kept = [p.name for p in (tmp_path / 'checkpoints').iterdir()]
  assert kept == (['9'] if every else [])


@pytest.fixture
def evaluated(data_dir, tmp_path, monkeypatch):
  """Returns a function that trains for 12 steps; every 3, `top1` gives the accuracy."""

  def call(top1, **settings) -> list[int]:
    config = tiny_config.get_config()
    config.update(dict(total_steps=12, checkpoint_every=5, log_every=0), **settings)
    config.evals.val.every = 3
    seen = []

    def evaluated(self, predict, state, mesh):
      seen.append(int(state.step))
      return Results({'top1': top1(int(state.step))})

    monkeypatch.setattr(classification.Accuracy, 'run', evaluated)
    try:
      train.train(config, tmp_path / 'run')
    finally:
      call.seen = seen
    return checkpoint.steps(tmp_path / 'run')

  return call


def test_the_best_is_saved_when_it_is_found(evaluated, capsys):
  values = {3: 0.1, 6: 0.9, 9: 0.2, 12: 0.3}
  assert evaluated(values.get, keep_best='val/top1', keep_last=1) == [6, 12]
  told = capsys.readouterr().out
  assert 'the best checkpoint by val/top1 (higher is better)' in told
  assert 'best      val/top1 0.9 at step 6; checkpoint kept' in told


def test_a_failed_evaluation_loses_nothing(evaluated, tmp_path, capsys):
  def broken(step: int) -> float:
    if step == 6:
      raise UserError('a picture is cut short.')
    return 0.5

  with pytest.raises(UserError, match='evals.val failed at step 6, which is saved: a '):
    evaluated(broken)
  assert checkpoint.steps(tmp_path / 'run')[-1] == 6
  assert evaluated(lambda step: 0.5)[-1] == 12
  assert evaluated.seen == [6, 9, 12]  # the failed evaluation is repeated first
  steps = [r['step'] for r in metrics.read(tmp_path / 'run') if r['kind'] == 'eval']
  assert steps == [3, 6, 9, 12]


def test_a_run_may_continue_without_an_evaluation(evaluated, tmp_path, capsys):
  def broken(step: int) -> float:
    return 1 / (step - 6)

  assert evaluated(broken, on_failed_evaluation='continue')[-1] == 12
  assert evaluated.seen == [3, 6, 9, 12]
  out, err = capsys.readouterr()
  assert 'failed    evals.val failed at step 6, which is saved: division' in out
  assert 'ZeroDivisionError' in err  # helps the author of the evaluator
  (failed,) = [r for r in metrics.read(tmp_path / 'run') if 'val/failed' in r]
  assert failed['step'] == 6


@pytest.mark.parametrize('number', [signal.SIGTERM, signal.SIGINT])
def test_a_signal_interrupts_an_evaluation(evaluated, tmp_path, capsys, number):
  def interrupted(step: int) -> float:
    if step == 6:
      signal.raise_signal(number)
    return 0.5

  assert evaluated(interrupted)[-1] == 6
  assert 'at step 6, saved; rerun the command' in capsys.readouterr().out
  assert evaluated(interrupted)[-1] == 6
  assert 'at step 6, saved; rerun the command' in capsys.readouterr().out
  assert evaluated(lambda step: 0.5)[-1] == 12
  assert evaluated.seen == [6, 9, 12]


def test_missing_data_is_named_before_anything_starts(spawn, tmp_path):
  done = spawn(*TRAIN, f'--workdir={tmp_path / "run"}', TFDS_DATA_DIR=str(tmp_path))
  assert done.returncode == 1
  assert 'python tools/prepare_data.py digits' in done.stderr
  assert not (tmp_path / 'run').exists()


@pytest.mark.parametrize(
  ('words', 'devices', 'sentence'),
  [
    (['--config.task.modle.depth=3'], 1, "did you mean 'model'?"),
    (['--config.task.model.dept=3'], 1, "config.task.model has no field 'dept'"),
    (['--config.task.model.depth=deep'], 1, 'config.task.model.depth takes an int'),
    (['--config.totl_steps=3'], 1, "did you mean 'total_steps'?"),
    (['--config.train_data.batch_size=30'], 4, 'batch_size=30 does not divide over 4'),
    (['--config.mesh.fsdp=3'], 4, 'does not fit 4 devices'),
    (['--config.mesh.fdsp=2'], 4, "did you mean 'fsdp'?"),
    (['--config.task.model.num_classes=5'], 1, 'out of range: the model has 5 classes'),
    (['--config.task.model.patch=3'], 1, 'do not divide into patches'),
    (['--config.train_data.source.split=trian'], 1, "has no split 'trian'"),
  ],
)
def test_bad_input_is_one_sentence(run, tmp_path, words, devices, sentence):
  done = run(*TRAIN, f'--workdir={tmp_path / "run"}', *words, devices=devices)
  assert done.returncode == 1
  assert sentence in done.stderr
  assert 'Traceback' not in done.stderr
  assert not list((tmp_path / 'run').glob('checkpoints/*'))
