"""Command lines of programs and tools, and the set-up of JAX before they run."""

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

# Without these, libtpu searches for a TPU to drive and logs at length if it finds none.
QUIET_LIBTPU = {
  'ALLOW_MULTIPLE_LIBTPU_LOAD': '1',
  'TPU_SKIP_MDS_QUERY': '1',
  'TPU_ACCELERATOR_TYPE': 'v5litepod-8',
  'TPU_WORKER_HOSTNAMES': 'localhost',
  'TPU_STDERR_LOG_LEVEL': '3',
  'TPU_MIN_LOG_LEVEL': '3',
}

# XLA_FLAGS that cut the time of programs which run a few steps on tiny arrays to a
# third; nearly all of it is compilation. Processes that load libtpu abort on them.
QUICK_COMPILATION = (
  '--xla_backend_optimization_level=0 --xla_llvm_disable_expensive_passes=true'
  ' --xla_cpu_use_fusion_emitters=false --xla_cpu_parallel_codegen_split_count=1'
)


def set_up_jax() -> None:
  """Configures JAX before anything is built: quiet logs and a compilation cache.

  Processes of a run, and any number of runs, may share the cache.
  """
  devices = pathlib.Path('/dev')
  has_tpu = any([*devices.glob('accel*'), *devices.glob('vfio/[0-9]*')])
  if not has_tpu:
    for name, value in QUIET_LIBTPU.items():
      os.environ.setdefault(name, value)
  if not has_tpu and not any(devices.glob('nvidia[0-9]*')):
    malloc.keep_memory()
    if not jax.config.jax_platforms and not (devices / 'kfd').exists():
      # Otherwise JAX loads libtpu if installed, and taking a profile crashes in it.
      jax.config.update('jax_platforms', 'cpu')
  # Orbax and TFDS log through absl. Their errors are raised, and so reported once.
  logging.getLogger('absl').setLevel(logging.CRITICAL)
  checkpoint.keep_quiet()
  if jax.config.jax_compilation_cache_dir is None:
    try:
      cache = pathlib.Path.home() / '.cache' / 'big_vision_like' / 'compiled'
      cache.mkdir(parents=True, exist_ok=True)
      tempfile.TemporaryFile(dir=cache).close()
    except (OSError, RuntimeError):  # no home directory, or it is not writable
      print('no compilation cache: there is no writable home folder', file=sys.stderr)
      return
    jax.config.update('jax_compilation_cache_dir', str(cache))


def parse(
  parser: argparse.ArgumentParser, argv: Sequence[str] | None = None
) -> tuple[argparse.Namespace, mlc.ConfigDict]:
  """Parses `--config`, `--workdir`, `--config.FIELD=VALUE` and the parser's own flags.

  Without `--config` it loads the config saved in the workdir.
  """
  set_up_jax()
  parser.add_argument('--config', help='a config file, FILE.py[:ARGUMENT]')
  parser.add_argument('--workdir', help='the folder of the run')
  parser.epilog = 'Any field of the config can be set: --config.task.model.depth=24'
  args, rest = parser.parse_known_args(argv)
  args.overrides = []
  for text in collect_pairs(rest):
    if not text.startswith('--config.'):
      raise UserError(f'unknown argument {text!r}; see --help.')
    args.overrides.append(text.removeprefix('--config.'))
  if '://' in (args.workdir or ''):
    raise UserError(
      f'--workdir={args.workdir} is not a folder: mount the bucket (with gcsfuse for'
      ' gs://) and give the path.'
    )
  if args.config is None and args.workdir is not None:
    config = pathlib.Path(args.workdir) / 'config.json'
    if not config.is_file():
      what = 'contains no run' if config.parent.is_dir() else 'does not exist'
      raise UserError(
        f'--workdir={args.workdir} {what}: give the folder of a run, or a --config'
      )
    args.config = str(config)
  if args.config is None:
    raise UserError('no --config: give one, such as configs/vit/pretrain_glyphs.py')
  config = spec.load(args.config, args.overrides, root=experiment.Settings)
  if not args.config.endswith('.json'):  # a saved config has its name already
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
