"""Prints a Kubernetes JobSet that trains on TPU slices of GKE or on GPU nodes.

    python tools/launch/jobset.py tpu --name=vit --image=IMAGE \\
        --accelerator=tpu-v5-lite-podslice --topology=4x4 --slices=2 -- \\
        python -m big_vision_like.train --config=configs/... \\
        --workdir=/mnt/bucket/runs/x --multi-process | kubectl apply -f -

    python tools/launch/jobset.py gpu --name=vit --image=IMAGE --nodes=4 --gpus=8 -- \\
        python -m big_vision_like.train ... --multi-process | kubectl apply -f -

The image must have this repository installed, as its working directory. The cluster
needs JobSet 0.6. If one worker fails, all of them restart and resume from the last
checkpoint. Being stopped (a drained or preempted node) does not count as a failure.
"""

import argparse
import math
import re
import sys
from collections.abc import Sequence

import yaml

# By GKE label of an accelerator: dimensions of topologies, most chips of a slice.
ACCELERATORS = {
  'tpu-v4-podslice': (3, 4096),
  'tpu-v5-lite-podslice': (2, 256),
  'tpu-v5p-slice': (3, 8960),
  'tpu-v6e-slice': (2, 256),
  'tpu7x': (3, 9216),
}
FLAT = ('1x1', '2x2', '2x4', '4x4', '4x8', '8x8', '8x16', '16x16')
SMALL_CUBES = ('2x2x1', '2x2x2', '2x2x4', '2x4x4')
COORDINATOR_PORT = 8476  # the default of JAX
TPU_PORTS = (8471, 8080, 8431)  # of libtpu: of workers, between slices, of metrics
STOPPED = 75  # exit status of run.sh after SIGTERM, with everything saved
MULTI_PROCESS = '--multi-process'


def chips_of(accelerator: str, topology: str) -> int:
  """Returns the number of chips of a slice; `ValueError` if there is no such slice."""
  if accelerator not in ACCELERATORS:
    known = ', '.join(ACCELERATORS)
    raise ValueError(f'--accelerator={accelerator} is not one of {known}')
  dimensions, most = ACCELERATORS[accelerator]
  if not re.fullmatch(r'[1-9]\d*(x[1-9]\d*)*', topology):
    raise ValueError(f'--topology={topology}: write 4x4 or 4x4x4')
  sizes = [int(n) for n in topology.split('x')]
  if len(sizes) != dimensions:
    example = '4x4' if dimensions == 2 else '4x4x4'
    raise ValueError(
      f'--topology={topology}: {accelerator} has {dimensions} dimensions: {example}'
    )
  if dimensions == 2 and topology not in FLAT:
    raise ValueError(
      f'--topology={topology} of {accelerator} is not one of {", ".join(FLAT)}'
    )
  in_cubes = all(n % 4 == 0 for n in sizes) and sizes == sorted(sizes)
  if dimensions == 3 and topology not in SMALL_CUBES and not in_cubes:
    raise ValueError(
      f'--topology={topology} of {accelerator} must be one of {", ".join(SMALL_CUBES)},'
      ' or multiples of 4 in ascending order, for example 4x4x8'
    )
  chips = math.prod(sizes)
  if chips > most:
    raise ValueError(f'--topology={topology}: {accelerator} has at most {most} chips')
  return chips


def nodes_of(accelerator: str, topology: str, chips_per_node: int | None) -> int:
  """Returns the number of machines of a slice; `chips_per_node` is 4 by default."""
  chips = chips_of(accelerator, topology)
  each = min(4, chips) if chips_per_node is None else chips_per_node
  if each not in (1, 4, 8):
    raise ValueError(f'--chips-per-node={each}: machines have 1, 4 or 8 chips')
  if each == 8 and topology != '2x4':
    raise ValueError('--chips-per-node=8 requires --topology=2x4')
  if each == 1 and topology != '1x1':
    raise ValueError('--chips-per-node=1 requires --topology=1x1')
  if chips % each:
    raise ValueError(
      f'--topology={topology} has {chips} chips, not a multiple of {each} per node'
    )
  return chips // each


def tpu(args: argparse.Namespace) -> dict:
  """Returns the JobSet of one or more TPU slices; GKE numbers the workers for JAX."""
  nodes = nodes_of(args.accelerator, args.topology, args.chips_per_node)
  if nodes == 1 and args.slices > 1:
    raise ValueError(
      f'--slices={args.slices} of {args.topology}: GKE only joins slices of several'
      ' nodes; choose a larger topology'
    )
  if nodes > 1 and MULTI_PROCESS not in args.command:
    raise ValueError(
      f'the command has no {MULTI_PROCESS}, without which nodes do not join'
    )
  chips = chips_of(args.accelerator, args.topology) // nodes
  pod = pod_of(args, 'tpu', {'google.com/tpu': chips}, args.command, TPU_PORTS)
  pod['nodeSelector'] |= {
    'cloud.google.com/gke-tpu-accelerator': args.accelerator,
    'cloud.google.com/gke-tpu-topology': args.topology,
  }
  return jobset_of(args, pod, name='slice', replicas=args.slices, nodes=nodes)


def gpu(args: argparse.Namespace) -> dict:
  """Returns the JobSet of GPU nodes: one process each, the first is the coordinator."""
  if MULTI_PROCESS not in args.command:
    raise ValueError(
      f'the command has no {MULTI_PROCESS}, without which nodes do not join'
    )
  # JobSet's headless service names every pod SET-JOB-REPLICA-INDEX.SET.
  where = [
    f'--coordinator={args.name}-worker-0-0.{args.name}:{COORDINATOR_PORT}',
    f'--num-processes={args.nodes}',
    '--process-id=$(JOB_COMPLETION_INDEX)',
  ]
  at = args.command.index(MULTI_PROCESS)
  command = args.command[:at] + where + args.command[at + 1 :]
  limits = {'nvidia.com/gpu': args.gpus}
  pod = pod_of(args, 'gpu', limits, command, (COORDINATOR_PORT,))
  pod['tolerations'].append({'key': 'nvidia.com/gpu', 'operator': 'Exists'})
  if args.accelerator:
    pod['nodeSelector']['cloud.google.com/gke-accelerator'] = args.accelerator
  return jobset_of(args, pod, name='worker', replicas=1, nodes=args.nodes)


def pod_of(
  args: argparse.Namespace,
  platform: str,
  limits: dict[str, int],
  command: Sequence[str],
  ports: Sequence[int],
) -> dict:
  """Returns the parts that both kinds of pod have in common."""
  # Input workers and NCCL use shared memory, whose default is 64 MiB.
  volumes = [{'name': 'shm', 'emptyDir': {'medium': 'Memory'}}]
  mounts = [{'name': 'shm', 'mountPath': '/dev/shm'}]
  for i, text in enumerate(args.volume):
    claim, _, path = text.partition(':')
    if not claim or not path.startswith('/'):
      raise ValueError(f'--volume={text}: write CLAIM:/path')
    name = f'volume-{i}'
    volumes.append({'name': name, 'persistentVolumeClaim': {'claimName': claim}})
    mounts.append({'name': name, 'mountPath': path})
  if bad := [text for text in args.env if '=' not in text]:
    raise ValueError(f'--env={bad[0]}: write NAME=VALUE')
  container = {
    'name': 'train',
    'image': args.image,
    'command': ['bash', 'tools/launch/run.sh', platform, *command],
    'env': [
      dict(zip(('name', 'value'), e.split('=', 1), strict=True)) for e in args.env
    ],
    'ports': [{'containerPort': port} for port in ports],
    'resources': {'limits': limits},
    'volumeMounts': mounts,
  }
  spot = {'cloud.google.com/gke-spot': 'true'} if args.spot else {}
  pod = {
    'restartPolicy': 'Never',  # the whole set restarts instead
    'terminationGracePeriodSeconds': args.grace,  # time to save after SIGTERM
    'nodeSelector': spot,
    'tolerations': [{'key': key, 'operator': 'Exists'} for key in spot],
    'containers': [container],
    'volumes': volumes,
  }
  if args.service_account:
    pod['serviceAccountName'] = args.service_account
  return pod


def jobset_of(
  args: argparse.Namespace, pod: dict, name: str, replicas: int, nodes: int
) -> dict:
  """Returns the set: `replicas` jobs (slices) of `nodes` pods each."""
  if not re.fullmatch(r'[a-z]([a-z0-9-]{0,38}[a-z0-9])?', args.name):
    raise ValueError(
      f'--name={args.name}: at most 40 lowercase letters, digits and -, a letter first'
    )
  stopped = [
    {'onExitCodes': {'containerName': 'train', 'operator': 'In', 'values': [STOPPED]}},
    {'onPodConditions': [{'type': 'DisruptionTarget', 'status': 'True'}]},
  ]
  job = {
    'completionMode': 'Indexed',
    'parallelism': nodes,
    'completions': nodes,
    'backoffLimit': 0,
    'podFailurePolicy': {'rules': [{'action': 'FailJob', **rule} for rule in stopped]},
    'template': {'spec': pod},
  }
  uncounted = {
    'name': 'stopped',
    'action': 'RestartJobSetAndIgnoreMaxRestarts',
    'onJobFailureReasons': ['PodFailurePolicy'],
  }
  # One slice per node pool, so that pods of two slices never share one.
  exclusive = 'alpha.jobset.sigs.k8s.io/exclusive-topology'
  annotations = {exclusive: 'cloud.google.com/gke-nodepool'} if name == 'slice' else {}
  return {
    'apiVersion': 'jobset.x-k8s.io/v1alpha2',
    'kind': 'JobSet',
    'metadata': {'name': args.name, 'annotations': annotations},
    'spec': {
      'failurePolicy': {'maxRestarts': args.max_restarts, 'rules': [uncounted]},
      'network': {'enableDNSHostnames': True, 'publishNotReadyAddresses': True},
      'replicatedJobs': [
        {'name': name, 'replicas': replicas, 'template': {'spec': job}}
      ],
    },
  }


def parse(argv: Sequence[str] | None) -> argparse.Namespace:
  """Parses options before '--', and the command to run after it."""
  words = list(sys.argv[1:] if argv is None else argv)
  cut = words.index('--') if '--' in words else len(words)
  both = argparse.ArgumentParser(add_help=False)
  both.add_argument('--name', required=True, help='name of the JobSet')
  both.add_argument('--image', required=True, help='container image with the code')
  both.add_argument(
    '--max-restarts',
    type=int,
    default=10,
    help='failures before the JobSet fails; default: %(default)s',
  )
  both.add_argument(
    '--grace', type=int, default=300, help='seconds to save after SIGTERM'
  )
  both.add_argument('--spot', action='store_true', help='use preemptible nodes')
  both.add_argument(
    '--env',
    action='append',
    default=[],
    metavar='NAME=VALUE',
    help='environment variable; may be repeated',
  )
  both.add_argument(
    '--volume',
    action='append',
    default=[],
    metavar='CLAIM:/PATH',
    help='persistent volume claim to mount; may be repeated',
  )
  both.add_argument('--service-account', help='account with access to the bucket')
  parser = argparse.ArgumentParser(
    description=__doc__,
    formatter_class=argparse.RawDescriptionHelpFormatter,
    allow_abbrev=False,
  )
  kinds = parser.add_subparsers(required=True)
  on_tpu = kinds.add_parser(
    'tpu', help='slices of TPUs', parents=[both], allow_abbrev=False
  )
  on_tpu.set_defaults(make=tpu)
  on_tpu.add_argument('--accelerator', required=True, help=', '.join(ACCELERATORS))
  on_tpu.add_argument(
    '--topology', required=True, help='topology of a slice: 4x4, 4x4x4'
  )
  on_tpu.add_argument(
    '--slices', type=int, default=1, help='number of slices; default: %(default)s'
  )
  on_tpu.add_argument(
    '--chips-per-node', type=int, help='default: 4; 8 for a 2x4 in one node'
  )
  on_gpu = kinds.add_parser(
    'gpu', help='nodes with GPUs', parents=[both], allow_abbrev=False
  )
  on_gpu.set_defaults(make=gpu)
  on_gpu.add_argument('--nodes', type=int, required=True, help='number of nodes')
  on_gpu.add_argument('--gpus', type=int, required=True, help='GPUs per node')
  on_gpu.add_argument('--accelerator', help='GKE label: nvidia-h100-80gb')
  args = parser.parse_args(words[:cut])
  args.command = words[cut + 1 :]
  return args


def main(argv: Sequence[str] | None = None) -> int:
  """Prints the manifest, or the error in the arguments."""
  args = parse(argv)
  try:
    for option in ('slices', 'nodes', 'gpus', 'grace'):
      if getattr(args, option, 1) < 1:
        raise ValueError(f'--{option} must be 1 or more')
    if not args.command:
      raise ValueError('add the command to run after --')
    manifest = args.make(args)
  except ValueError as error:
    print(f'error: {error}', file=sys.stderr)
    return 1
  yaml.safe_dump(manifest, sys.stdout, sort_keys=False)
  return 0


if __name__ == '__main__':
  raise SystemExit(main())
