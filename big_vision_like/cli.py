"""Command lines of programs and tools, and the set-up of JAX before they compute."""

import argparse
import logging
import os
import pathlib
import sys
import tempfile
from collections.abc import Sequence

import jax
import ml_collections as mlc

from big_vision_like import spec
from big_vision_like.devices import malloc
from big_vision_like.errors import UserError
from big_vision_like.run import checkpoint, experiment

# libtpu looks for the TPU that it is to drive, and says at length that there is none.
QUIET_LIBTPU = {
  'ALLOW_MULTIPLE_LIBTPU_LOAD': '1',
  'TPU_SKIP_MDS_QUERY': '1',
  'TPU_ACCELERATOR_TYPE': 'v5litepod-8',
  'TPU_WORKER_HOSTNAMES': 'localhost',
  'TPU_STDERR_LOG_LEVEL': '3',
  'TPU_MIN_LOG_LEVEL': '3',
}

# XLA_FLAGS with which programs that run a few times on tiny arrays take a third of the
# time, nearly all of which is compilation. Processes that load libtpu abort on them.
QUICK_COMPILATION = (
  '--xla_backend_optimization_level=0 --xla_llvm_disable_expensive_passes=true'
  ' --xla_cpu_use_fusion_emitters=false --xla_cpu_parallel_codegen_split_count=1'
)


def set_up_jax() -> None:
  """What a program does before it builds anything: quiet logs, a compilation cache.

  The cache may be shared by all processes of a run and by many runs.
  """
  devices = pathlib.Path('/dev')
  has_tpu = any([*devices.glob('accel*'), *devices.glob('vfio/[0-9]*')])
  if not has_tpu:
    for name, value in QUIET_LIBTPU.items():
      os.environ.setdefault(name, value)
  if not has_tpu and not any(devices.glob('nvidia[0-9]*')):
    malloc.keep_memory()
    if not jax.config.jax_platforms and not (devices / 'kfd').exists():
      # Else libtpu is loaded where it is installed, and a profile crashes in it.
      jax.config.update('jax_platforms', 'cpu')
  # Orbax and TFDS chat through absl; what goes wrong there is raised, and told once.
  logging.getLogger('absl').setLevel(logging.CRITICAL)
  checkpoint.keep_quiet()
  if jax.config.jax_compilation_cache_dir is None:
    try:
      cache = pathlib.Path.home() / '.cache' / 'big_vision_like' / 'compiled'
      cache.mkdir(parents=True, exist_ok=True)
      tempfile.TemporaryFile(dir=cache).close()
    except (OSError, RuntimeError):  # no home, or one that cannot be written to
      print('no cache of compiled programs: there is no home for it', file=sys.stderr)
      return
    jax.config.update('jax_compilation_cache_dir', str(cache))


def parse(
  parser: argparse.ArgumentParser, argv: Sequence[str] | None = None
) -> tuple[argparse.Namespace, mlc.ConfigDict]:
  """Parses `--config`, `--workdir`, `--config.FIELD=VALUE` and the parser's own flags.

  Without --config the one saved in the workdir is used.
  """
  set_up_jax()
  parser.add_argument('--config', help='a config file, FILE.py[:ARGUMENT]')
  parser.add_argument('--workdir', help='the folder of the run')
  parser.epilog = 'Any field of the config: --config.task.model.depth=24'
  args, rest = parser.parse_known_args(argv)
  args.overrides = []
  for text in collect_pairs(rest):
    if not text.startswith('--config.'):
      raise UserError(f'unknown argument {text!r}; see --help.')
    args.overrides.append(text.removeprefix('--config.'))
  if '://' in (args.workdir or ''):
    raise UserError(
      f'--workdir={args.workdir} is not a folder: mount the bucket (gcsfuse does it for'
      ' gs://) and give the path.'
    )
  if args.config is None and args.workdir is not None:
    config = pathlib.Path(args.workdir) / 'config.json'
    if not config.is_file():
      what = 'holds no run' if config.parent.is_dir() else 'is not there'
      raise UserError(
        f'--workdir={args.workdir} {what}: name the folder of one, or a --config'
      )
    args.config = str(config)
  if args.config is None:
    raise UserError('name a config: --config=configs/vit/pretrain_glyphs.py')
  config = spec.load(args.config, args.overrides, root=experiment.Settings)
  if not args.config.endswith('.json'):  # which has the name that was saved
    config.name = spec.name_of(args.config)
  return args, config


def collect_pairs(words: Sequence[str]) -> list[str]:
  """Joins `--config.a 3` to `--config.a=3`."""
  joined: list[str] = []
  for word in words:
    if joined and not word.startswith('--') and '=' not in joined[-1]:
      joined[-1] += f'={word}'
    else:
      joined.append(word)
  return joined
