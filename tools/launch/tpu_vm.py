"""Trains on a TPU VM, a pod or several slices, and restarts after any failure.

    python tools/launch/tpu_vm.py NAME --zone=us-west4-a -- \\
        python -m big_vision_like.train --config=configs/... \\
        --workdir=/mnt/bucket/runs/x --multi-process

Copies this repository to every worker, installs it and runs the command on all of them
through `gcloud`. With --accelerator-type it also requests the machines as a queued
resource, and again after they were preempted; several --slices require this. If the
image has an older Python: --setup='sudo apt-get install -qy python3.11-venv'
--python=python3.11. Ctrl-C leaves the workers running; --stop makes them save and end.
"""

import argparse
import functools
import pathlib
import shlex
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence

REPOSITORY = pathlib.Path(__file__).resolve().parents[2]
FOLDER = 'big_vision_like'
PID_FILE = '/tmp/big_vision_like.pid'
ARCHIVE = 'big_vision_like.tar.gz'
# States of a queued resource that never become ACTIVE again.
LOST = ('SUSPENDED', 'SUSPENDING', 'FAILED')

Command = list[str]


def gcloud(args: argparse.Namespace, *words: str) -> Command:
  """Returns `gcloud compute tpus ...` with the zone and project of the command line."""
  project = [f'--project={args.project}'] if args.project else []
  return ['gcloud', 'compute', 'tpus', *words, f'--zone={args.zone}', *project]


def on_workers(args: argparse.Namespace, verb: str, *words: str) -> Command:
  """Returns `ssh` or `scp` for all workers of all slices at the same time."""
  # By default gcloud has batches of 64 workers, which would wait for each other.
  at_once = ['--worker=all', '--batch-size=all']
  if args.slices > 1:
    return gcloud(args, 'queued-resources', verb, *words, '--node=all', *at_once)
  return gcloud(args, 'tpu-vm', verb, *words, *at_once)


def ask_for_machines(args: argparse.Namespace) -> Command:
  """Returns the request of a queued resource with a node for each slice."""
  nodes = [f'--node-id={args.name}']
  if args.slices > 1:
    nodes = [f'--node-count={args.slices}', f'--node-prefix={args.name}']
  return gcloud(
    args,
    'queued-resources',
    'create',
    args.name,
    *nodes,
    f'--accelerator-type={args.accelerator_type}',
    f'--runtime-version={args.runtime_version}',
    *(['--spot'] if args.spot else []),
  )


def give_up_machines(args: argparse.Namespace) -> Command:
  """Returns the command that deletes a preempted queued resource."""
  words = ('queued-resources', 'delete', args.name, '--force', '--quiet')
  return gcloud(args, *words)


def copy(args: argparse.Namespace, archive: str) -> Command:
  """Returns the command that copies the repository to every worker."""
  return on_workers(args, 'scp', archive, f'{args.name}:{ARCHIVE}')


def install(args: argparse.Namespace) -> Command:
  """Returns the command that unpacks and installs the repository with JAX for TPUs."""
  steps = [
    f'mkdir -p {FOLDER}',
    f'tar -xzf {ARCHIVE} -C {FOLDER}',
    f'cd {FOLDER}',
    *([args.setup] if args.setup else []),
    f'{{ test -x .venv/bin/python || {args.python} -m venv .venv; }}',
    ".venv/bin/pip install --quiet --editable '.[tpu]'",
  ]
  return on_workers(args, 'ssh', args.name, f'--command={" && ".join(steps)}')


def start(args: argparse.Namespace) -> Command:
  """Returns the command that starts training on all workers, after earlier attempts."""
  variables = [f'RUN_PID_FILE={PID_FILE}', *args.env]
  steps = [
    f'cd {FOLDER}',
    'source .venv/bin/activate',
    f'env {shlex.join(variables)} tools/launch/run.sh tpu {shlex.join(args.command)}',
  ]
  return on_workers(args, 'ssh', args.name, f'--command={" && ".join(steps)}')


def stop(args: argparse.Namespace) -> Command:
  """Returns the command that sends SIGTERM to every worker, to save and end."""
  return on_workers(args, 'ssh', args.name, f'--command=kill -TERM $(cat {PID_FILE})')


def pack(path: pathlib.Path) -> None:
  """Writes an archive of all files of the repository that git does not ignore."""
  listed = subprocess.run(
    ['git', 'ls-files', '-z', '--cached', '--others', '--exclude-standard'],
    cwd=REPOSITORY,
    check=True,
    capture_output=True,
  )
  names = sorted({n for n in listed.stdout.decode().split('\0') if n})
  there = '\0'.join(n for n in names if (REPOSITORY / n).exists())
  subprocess.run(
    ['tar', '-czf', str(path), '--null', '--files-from=-'],
    cwd=REPOSITORY,
    check=True,
    input=there.encode(),
  )


def state_of_machines(args: argparse.Namespace) -> str | None:
  """Returns the state of the queued resource, or None if there is none."""
  words = ('queued-resources', 'describe', args.name, '--format=value(state.state)')
  found = subprocess.run(gcloud(args, *words), capture_output=True, text=True)
  return found.stdout.strip() if found.returncode == 0 else None


def wait_for_machines(args: argparse.Namespace) -> int:
  """Requests machines unless there are some, and waits until they are ready."""
  while (state := state_of_machines(args)) != 'ACTIVE':
    say(f'machines: {state or "not requested"}')
    status = 0
    if state in LOST:
      status = run(give_up_machines(args))
    elif state is None:
      status = run(ask_for_machines(args))
    if status:
      return status
    time.sleep(args.wait)
  return 0


def attempt(args: argparse.Namespace, archive: str) -> int:
  """Takes all steps once; returns the status of the first failure, or 0."""
  if args.accelerator_type and (status := wait_for_machines(args)):
    return status
  for command in (copy(args, archive), install(args), start(args)):
    if status := run(command):
      return status
  return 0


def retry(once: Callable[[], int], tries: int, wait: float, healthy: float) -> int:
  """Calls `once` until it returns 0 or fails `tries` times in a row.

  Waits `wait` seconds after a failure, and twice as long after each further one. A
  failure after more than `healthy` seconds starts the count again.
  """
  failures = 0
  while True:
    started = time.monotonic()
    status = once()
    if status == 0:
      return 0
    if time.monotonic() - started >= healthy:
      failures = 0
    failures += 1
    if failures >= tries:
      say(f'status {status}: failed {failures} times in a row, giving up')
      return status
    pause = min(wait * 2 ** (failures - 1), 600.0)
    say(f'status {status}: attempt {failures + 1} of {tries} in {pause:g} s')
    time.sleep(pause)


def run(command: Command) -> int:
  """Runs a command without capturing its output; returns its status."""
  say(shlex.join(command))
  return subprocess.run(command).returncode


def say(text: str) -> None:
  print(f'tpu_vm: {text}', file=sys.stderr, flush=True)


def parse(argv: Sequence[str] | None) -> argparse.Namespace:
  """Parses options before '--', and the command to run after it."""
  words = list(sys.argv[1:] if argv is None else argv)
  cut = words.index('--') if '--' in words else len(words)
  parser = argparse.ArgumentParser(
    description=__doc__,
    formatter_class=argparse.RawDescriptionHelpFormatter,
    allow_abbrev=False,
  )
  parser.add_argument('name', help='name of the TPU VM or of the queued resource')
  parser.add_argument('--zone', required=True, help='zone of the machines: us-west4-a')
  parser.add_argument('--project', help="Google Cloud project; default: gcloud's own")
  parser.add_argument(
    '--slices', type=int, default=1, help='number of slices; default: %(default)s'
  )
  parser.add_argument(
    '--accelerator-type', help='type of machines to request: v5litepod-16'
  )
  parser.add_argument(
    '--runtime-version', help='image of the machines: v2-alpha-tpuv5-lite'
  )
  parser.add_argument(
    '--spot', action='store_true', help='request preemptible machines'
  )
  parser.add_argument(
    '--python', default='python3', help='Python of the workers, 3.11 or later'
  )
  parser.add_argument('--setup', help='command to run on workers before installing')
  parser.add_argument(
    '--env',
    action='append',
    default=[],
    metavar='NAME=VALUE',
    help='environment variable of the command; may be repeated',
  )
  parser.add_argument('--tries', type=int, default=10, help='most failures in a row')
  parser.add_argument(
    '--wait', type=float, default=15.0, help='seconds before a retry, doubled each time'
  )
  parser.add_argument(
    '--healthy',
    type=float,
    default=1800.0,
    metavar='SECONDS',
    help='runs of this length reset --tries; default: %(default)g',
  )
  parser.add_argument('--dry-run', action='store_true', help='only print the commands')
  parser.add_argument(
    '--stop', action='store_true', help='make the workers save and end'
  )
  args = parser.parse_args(words[:cut])
  args.command = words[cut + 1 :]
  if not args.command and not args.stop:
    parser.error('add the command to run after --')
  if args.accelerator_type and not args.runtime_version:
    parser.error('--accelerator-type requires --runtime-version, the image of the VMs')
  if args.slices > 1 and not (args.accelerator_type or args.stop):
    parser.error('--slices requires --accelerator-type: slices are joined on creation')
  if bad := [v for v in args.env if '=' not in v]:
    parser.error(f'--env={bad[0]}: write NAME=VALUE')
  return args


def main(argv: Sequence[str] | None = None) -> int:
  """Parses the command line, then prints, stops or runs."""
  args = parse(argv)
  if args.dry_run:
    commands = [copy(args, ARCHIVE), install(args), start(args)]
    if args.accelerator_type:
      commands.insert(0, ask_for_machines(args))
    for command in [stop(args)] if args.stop else commands:
      print(shlex.join(command))
    return 0
  if args.stop:
    return run(stop(args))
  with tempfile.TemporaryDirectory() as folder:
    archive = pathlib.Path(folder) / ARCHIVE
    pack(archive)
    try:
      once = functools.partial(attempt, args, str(archive))
      return retry(once, args.tries, args.wait, args.healthy)
    except KeyboardInterrupt:
      say('the workers keep running; rerun the command with --stop to end them')
      return 130


if __name__ == '__main__':
  raise SystemExit(main())
