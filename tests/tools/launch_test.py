"""Tests of the launchers: their output, and restarts after failures."""

import os
import pathlib
import shlex
import signal
import subprocess
import sys
import tarfile
import time

import pytest
import yaml

LAUNCH = pathlib.Path(__file__).parents[2] / 'tools' / 'launch'
TRAIN = ['python', '-m', 'big_vision_like.train', '--workdir=/x y', '--multi-process']


def call(*words, **environment):
  return subprocess.run(
    list(map(str, words)),
    env=os.environ | {k: str(v) for k, v in environment.items()},
    cwd=LAUNCH.parents[1],
    capture_output=True,
    text=True,
    timeout=120,
  )


def python(name, *words, **environment):
  return call(sys.executable, LAUNCH / name, *words, **environment)


def fake(folder, name, script):
  """Writes an executable of this name, for PATH."""
  path = folder / name
  path.write_text(f'#!/usr/bin/env bash\n{script}\n')
  path.chmod(0o755)
  return f'{folder}:{os.environ["PATH"]}'


def test_the_installed_xla_knows_the_gpu_flags():
  flags = python('xla_flags.py', 'gpu').stdout
  assert 'latency_hiding' in flags and 'NCCL_DEBUG' in flags
  program = f'{flags}\n{shlex.quote(sys.executable)} -c "import jax; jax.devices()"'
  done = call('bash', '-c', program, JAX_PLATFORMS='cpu', XLA_FLAGS='')
  assert done.returncode == 0, done.stderr
  unknown = call('bash', '-c', program, XLA_FLAGS='--xla_gpu_no_such_flag=1')
  assert unknown.returncode != 0 and 'no_such_flag' in unknown.stderr


def test_the_installed_libtpu_compiles_with_the_tpu_flags():
  pytest.importorskip('libtpu')
  flags = python('xla_flags.py', 'tpu').stdout
  compiles = """
import jax, numpy as np
from jax.experimental import topologies
from jax.sharding import Mesh, NamedSharding, PartitionSpec as P
for slice in ('v4:2x2x1', 'v5e:2x2', 'v5p:2x2x1', 'v6e:2x2'):
  devices = topologies.get_topology_desc(slice, 'tpu').devices
  split = NamedSharding(Mesh(np.array(devices), 'd'), P('d'))
  x = jax.ShapeDtypeStruct((256, 256), np.float32, sharding=split)
  jax.jit(lambda x: x @ x.T, out_shardings=split).lower(x).compile()
  print('compiled', slice)
"""
  done = call(
    'bash',
    '-c',
    f'{flags}\n{shlex.quote(sys.executable)} -c {shlex.quote(compiles)}',
    JAX_PLATFORMS='cpu',
    ALLOW_MULTIPLE_LIBTPU_LOAD=1,
    LIBTPU_INIT_ARGS='',
  )
  assert done.stdout.count('compiled') == 4, done.stderr[-2000:]


def test_run_sets_flags_and_keeps_those_of_the_environment():
  script = 'echo "$LIBTPU_INIT_ARGS"; exit 3'
  done = call(
    LAUNCH / 'run.sh', 'tpu', 'bash', '-c', script, LIBTPU_INIT_ARGS='--xla_mine=1'
  )
  assert done.returncode == 3
  ours, theirs = done.stdout.split()[0], done.stdout.split()[-1]
  assert ours.startswith('--xla_tpu_') and theirs == '--xla_mine=1'
  anew = call(LAUNCH / 'run.sh', 'cpu', 'echo', 'ran', '--overwrite')
  assert anew.returncode == 2 and anew.stdout == ''
  assert 'leave out --overwrite: a launcher reruns the command' in anew.stderr
  wrong = call(LAUNCH / 'run.sh', 'abacus', 'true')
  assert wrong.returncode == 2 and 'tpu' in wrong.stderr


def start(*words, **environment):
  """Returns a process that has printed its first line."""
  process = subprocess.Popen(
    [LAUNCH / 'run.sh', 'cpu', *words],
    env=os.environ | environment,
    stdout=subprocess.PIPE,
    text=True,
  )
  assert process.stdout.readline() == 'ready\n'
  return process


@pytest.mark.parametrize('status, told', [(0, 75), (5, 5)])
def test_run_tells_stopped_from_done(status, told):
  saves = (
    f'trap "echo saved; exit {status}" TERM; echo ready; while :; do sleep 0.1; done'
  )
  process = start('bash', '-c', saves)
  process.send_signal(signal.SIGTERM)
  out, _ = process.communicate(timeout=20)
  assert (out, process.returncode) == ('saved\n', told)
  assert call(LAUNCH / 'run.sh', 'cpu', 'true').returncode == 0


def test_run_stops_processes_of_an_earlier_attempt(tmp_path):
  pid_file = str(tmp_path / 'pid')
  old = start('bash', '-c', 'echo ready; exec sleep 60', RUN_PID_FILE=pid_file)
  new = start('bash', '-c', 'echo ready', RUN_PID_FILE=pid_file)
  with old, new:
    assert new.wait(timeout=20) == 0
    assert old.wait(timeout=20) == 75


def test_tpu_vm_prints_its_commands():
  done = python(
    'tpu_vm.py', 'pod', '--zone=us-west4-a', '--project=p', '--dry-run', '--', *TRAIN
  )
  copies, installs, runs = map(shlex.split, done.stdout.splitlines())
  for words in (copies, installs, runs):
    assert words[:4] == ['gcloud', 'compute', 'tpus', 'tpu-vm']
    # All workers in one command: they wait for each other.
    assert {'--worker=all', '--batch-size=all', '--zone=us-west4-a', '--project=p'} < (
      set(words)
    )
  assert copies[4] == 'scp' and installs[4:6] == runs[4:6] == ['ssh', 'pod']
  command = next(w for w in runs if w.startswith('--command=')).removeprefix(
    '--command='
  )
  words = shlex.split(command)
  assert words[words.index('tools/launch/run.sh') :][1:] == ['tpu', *TRAIN]


def test_tpu_vm_asks_for_slices():
  words = [
    'pods',
    '--zone=z',
    '--slices=2',
    '--spot',
    '--accelerator-type=v5litepod-16',
  ]
  done = python(
    'tpu_vm.py', *words, '--runtime-version=v2', '--dry-run', '--', 'python', 'x'
  )
  asks, *others = done.stdout.splitlines()
  assert asks == (
    'gcloud compute tpus queued-resources create pods --node-count=2'
    ' --node-prefix=pods --accelerator-type=v5litepod-16 --runtime-version=v2 --spot'
    ' --zone=z'
  )
  assert all('queued-resources' in w and '--node=all' in w for w in others)
  refused = python('tpu_vm.py', 'pods', '--zone=z', '--slices=2', '--', 'python')
  assert refused.returncode == 2 and 'joined on creation' in refused.stderr


FAKE_GCLOUD = """
echo "$*" >>"$LOG"
case "$*" in
  *" describe "*) cat "$STATE" 2>/dev/null ;;
  *" create "*) echo ACTIVE >"$STATE" ;;
  *" delete "*) rm "$STATE" ;;
  *run.sh*) (($(grep -c run.sh "$LOG") > FAILURES)) ;;
esac
"""


@pytest.mark.parametrize('failures, status, runs', [(2, 0, 3), (9, 1, 4)])
def test_tpu_vm_restarts_after_failures(tmp_path, failures, status, runs):
  done = python(
    *('tpu_vm.py', 'pod', '--zone=z', '--tries=4', '--wait=0.01', '--', *TRAIN),
    PATH=fake(tmp_path, 'gcloud', FAKE_GCLOUD),
    LOG=tmp_path / 'log',
    STATE=tmp_path / 'state',
    FAILURES=failures,
  )
  assert done.returncode == status, done.stderr
  assert (tmp_path / 'log').read_text().count('run.sh') == runs
  assert ('giving up' in done.stderr) == bool(status)


def test_tpu_vm_replaces_machines_that_were_preempted(tmp_path):
  (tmp_path / 'state').write_text('SUSPENDED')
  machines = ['--accelerator-type=v5litepod-16', '--runtime-version=v2']
  done = python(
    *('tpu_vm.py', 'pod', '--zone=z', *machines, '--wait=0.01', '--', *TRAIN),
    PATH=fake(tmp_path, 'gcloud', FAKE_GCLOUD),
    LOG=tmp_path / 'log',
    STATE=tmp_path / 'state',
    FAILURES=0,
  )
  assert done.returncode == 0, done.stderr
  said = (tmp_path / 'log').read_text().splitlines()
  verbs = [line.split()[3] for line in said]
  assert verbs == [
    *('describe', 'delete', 'describe', 'create', 'describe', 'scp', 'ssh', 'ssh')
  ]


def test_tpu_vm_packs_the_repository(tmp_path):
  keep = 'case "$*" in *" scp "*) cp "$5" "$KEPT" ;; esac'
  done = python(
    *('tpu_vm.py', 'pod', '--zone=z', '--', *TRAIN),
    PATH=fake(tmp_path, 'gcloud', keep),
    KEPT=tmp_path / 'kept.tar.gz',
  )
  assert done.returncode == 0, done.stderr
  with tarfile.open(tmp_path / 'kept.tar.gz') as archive:
    names = archive.getnames()
  assert {'pyproject.toml', 'tools/launch/run.sh', 'big_vision_like/train.py'} <= (
    set(names)
  )
  assert not any('.venv' in name or '__pycache__' in name for name in names)


def manifest(*words):
  done = python('jobset.py', *words)
  assert done.returncode == 0, done.stderr
  return yaml.safe_load(done.stdout)


def pod_of(jobset):
  (job,) = jobset['spec']['replicatedJobs']
  pod = job['template']['spec']['template']['spec']
  return job, pod, pod['containers'][0]


def test_jobset_of_two_tpu_slices():
  jobset = manifest(
    *('tpu', '--name=vit', '--image=i', '--accelerator=tpu-v5-lite-podslice'),
    *('--topology=4x4', '--slices=2', '--env=A=b=c', '--spot', '--', *TRAIN),
  )
  assert (jobset['apiVersion'], jobset['kind']) == (
    'jobset.x-k8s.io/v1alpha2',
    'JobSet',
  )
  job, pod, container = pod_of(jobset)
  spec = job['template']['spec']
  assert job['replicas'] == 2
  assert spec['parallelism'] == spec['completions'] == 4
  assert (spec['completionMode'], spec['backoffLimit']) == ('Indexed', 0)
  assert pod['nodeSelector'] == {
    'cloud.google.com/gke-spot': 'true',
    'cloud.google.com/gke-tpu-accelerator': 'tpu-v5-lite-podslice',
    'cloud.google.com/gke-tpu-topology': '4x4',
  }
  assert pod['terminationGracePeriodSeconds'] == 300
  assert container['resources']['limits'] == {'google.com/tpu': 4}
  assert container['command'] == ['bash', 'tools/launch/run.sh', 'tpu', *TRAIN]
  assert container['env'] == [{'name': 'A', 'value': 'b=c'}]
  # The status of run.sh after a stop is not counted as a failure.
  codes = [r.get('onExitCodes') for r in spec['podFailurePolicy']['rules']]
  assert codes[0]['values'] == [75]
  (rule,) = jobset['spec']['failurePolicy']['rules']
  assert rule['action'] == 'RestartJobSetAndIgnoreMaxRestarts'


def test_jobset_of_gpu_nodes():
  jobset = manifest(
    *('gpu', '--name=vit', '--image=i', '--nodes=4', '--gpus=8'),
    *('--volume=runs:/runs', '--', *TRAIN),
  )
  job, pod, container = pod_of(jobset)
  assert job['replicas'] == 1 and job['template']['spec']['parallelism'] == 4
  assert container['resources']['limits'] == {'nvidia.com/gpu': 8}
  assert container['command'][-3:] == [
    f'--coordinator=vit-{job["name"]}-0-0.vit:8476',
    '--num-processes=4',
    '--process-id=$(JOB_COMPLETION_INDEX)',
  ]
  assert '--multi-process' not in container['command']
  assert {m['mountPath'] for m in container['volumeMounts']} == {'/dev/shm', '/runs'}
  assert jobset['metadata']['annotations'] == {}


V5E = '--accelerator=tpu-v5-lite-podslice'
V5P = '--accelerator=tpu-v5p-slice'


@pytest.mark.parametrize(
  'words, said',
  [
    (['tpu', '--accelerator=tpu-v9', '--topology=4x4'], 'is not one of tpu-v4'),
    (['tpu', V5E, '--topology=4x4x4'], 'has 2 dimensions: 4x4'),
    (['tpu', V5E, '--topology=4x6'], 'is not one of 1x1, 2x2'),
    (['tpu', V5E, '--topology=big'], 'write 4x4 or 4x4x4'),
    (['tpu', V5P, '--topology=4x4x6'], 'multiples of 4'),
    (['tpu', V5P, '--topology=16x32x32'], 'at most 8960 chips'),
    (['tpu', V5E, '--topology=4x4', '--chips-per-node=8'], 'requires --topology=2x4'),
    (['tpu', V5E, '--topology=4x4', '--chips-per-node=3'], '1, 4 or 8 chips'),
    (['tpu', V5E, '--topology=2x2', '--slices=2'], 'choose a larger topology'),
    (['tpu', V5E, '--topology=4x4', '--name=Vit_B'], 'lowercase letters'),
    (['tpu', V5E, '--topology=4x4', '--env=A'], 'write NAME=VALUE'),
    (['gpu', '--nodes=0', '--gpus=8'], '--nodes must be 1 or more'),
    (['gpu', '--nodes=2', '--gpus=8', '--volume=runs'], 'write CLAIM:/path'),
  ],
)
def test_jobset_reports_mistakes(words, said, capsys, monkeypatch):
  monkeypatch.syspath_prepend(str(LAUNCH))
  import jobset

  assert jobset.main([words[0], '--name=n', '--image=i', *words[1:], '--', *TRAIN]) == 1
  out, err = capsys.readouterr()
  assert out == '' and err.startswith('error: ') and said in err


@pytest.mark.parametrize(
  'accelerator, topology, each, nodes',
  [
    ('tpu-v5-lite-podslice', '1x1', None, 1),
    ('tpu-v6e-slice', '2x4', 8, 1),
    ('tpu-v6e-slice', '2x4', None, 2),
    ('tpu-v5-lite-podslice', '16x16', None, 64),
    ('tpu-v4-podslice', '2x2x1', None, 1),
    ('tpu-v5p-slice', '4x8x8', None, 64),
  ],
)
def test_nodes_of_a_slice(accelerator, topology, each, nodes, monkeypatch):
  monkeypatch.syspath_prepend(str(LAUNCH))
  import jobset

  assert jobset.nodes_of(accelerator, topology, each) == nodes


def slurm(tmp_path, srun, state='RUNNING', **environment):
  """Runs the batch script with stand-ins for SLURM's commands."""
  log = tmp_path / 'log'
  fake(tmp_path, 'srun', f'echo "srun $*" >>{log}\n{srun}')
  fake(tmp_path, 'squeue', f'echo {state}')
  path = fake(tmp_path, 'scontrol', f'echo "scontrol $*" >>{log}')
  done = call(
    *('bash', LAUNCH / 'slurm.sh', *TRAIN),
    PATH=path,
    SLURM_JOB_ID=7,
    RETRY_SECONDS=0,
    **environment,
  )
  return done, log.read_text().splitlines()


def test_slurm_restarts_after_failures(tmp_path):
  count = f'(($(wc -l <{tmp_path}/log) > 2))'
  done, log = slurm(tmp_path, count)
  assert done.returncode == 0, done.stderr
  assert (
    log
    == [f'srun --gpu-bind=none --wait=120 tools/launch/run.sh gpu {" ".join(TRAIN)}']
    * 3
  )


def test_slurm_gives_up_in_the_end(tmp_path):
  done, log = slurm(tmp_path, 'exit 9', MAX_TRIES='2')
  assert done.returncode == 9 and len(log) == 2
  assert 'giving up after 2 attempts' in done.stderr


def test_slurm_requeues_a_stopped_job_unless_it_was_cancelled(tmp_path):
  done, log = slurm(tmp_path, 'exit 75')
  assert done.returncode == 0 and log[1:] == ['scontrol requeue 7']
  (tmp_path / 'log').unlink()
  done, log = slurm(tmp_path, 'exit 75', state='COMPLETING')
  assert done.returncode == 75 and len(log) == 1


def test_slurm_script_survives_sigterm_to_requeue(tmp_path):
  log = tmp_path / 'log'
  fake(tmp_path, 'srun', f'echo ready >{log}; sleep 1; exit 75')
  fake(tmp_path, 'squeue', 'echo RUNNING')
  path = fake(tmp_path, 'scontrol', f'echo "scontrol $*" >>{log}')
  process = subprocess.Popen(
    ['bash', LAUNCH / 'slurm.sh', 'true'],
    env=os.environ | {'PATH': path, 'SLURM_JOB_ID': '7'},
  )
  while not log.exists():
    time.sleep(0.02)
  process.send_signal(signal.SIGTERM)
  assert process.wait(timeout=20) == 0
  assert 'scontrol requeue 7' in log.read_text()
