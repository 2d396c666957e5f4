"""Flags of XLA for many devices, by platform: the one place for them.

    eval "$(python3 tools/launch/xla_flags.py tpu)"

prints the `export` lines that run.sh evaluates on every worker. What the environment
already holds goes after them, and so before them in effect. A name that the installed
XLA does not know ends the process at once; the tests try every one of these.
"""

import sys

# name: (value, what for)
GPU = {
  'xla_gpu_enable_latency_hiding_scheduler': (
    'true',
    'starts collectives early and does other work while they run',
  ),
  'xla_gpu_triton_gemm_any': (
    'true',
    'lets the autotuner choose Triton for every product that it can express',
  ),
  'xla_gpu_all_reduce_combine_threshold_bytes': (
    '134217728',
    'joins the gradients of several layers, 128 MiB at most, into one all-reduce',
  ),
  'xla_gpu_all_gather_combine_threshold_bytes': (
    '134217728',
    'the same for the parameters that fsdp gathers',
  ),
  'xla_gpu_reduce_scatter_combine_threshold_bytes': (
    '134217728',
    'the same for the gradients that fsdp scatters',
  ),
}

# libtpu hides latency by default. Asynchronous collective fusion, which many published
# lists have, is left out on purpose: on v5e it is the default, and for v4, v5p and v6e
# libtpu 0.0.52 refuses to compile with it.
TPU = {
  'xla_tpu_enable_latency_hiding_scheduler': (
    'true',
    'starts collectives early and does other work while they run; the default',
  ),
  'xla_tpu_overlap_compute_collective_tc': (
    'true',
    'lets collectives and the tensor core work at the same time; the default',
  ),
  'xla_enable_async_all_gather': (
    'true',
    'gathers in the background; changes programs for v4, elsewhere the default',
  ),
  'xla_tpu_enable_data_parallel_all_reduce_opt': (
    'true',
    'all-reduces of gradients between slices overlap with the backward pass',
  ),
  'xla_tpu_data_parallel_opt_different_sized_ops': (
    'true',
    'the same where the gradients differ in size',
  ),
}

FLAGS = {'gpu': ('XLA_FLAGS', GPU), 'tpu': ('LIBTPU_INIT_ARGS', TPU), 'cpu': ('', {})}


def text(platform: str) -> str:
  """'--a=1 --b=2': the flags of 'gpu' or 'tpu', as their variable takes them."""
  return ' '.join(
    f'--{name}={value}' for name, (value, _) in FLAGS[platform][1].items()
  )


def exports(platform: str) -> str:
  """The lines for a shell to evaluate."""
  variable, flags = FLAGS[platform]
  if not flags:
    return ''
  lines = [f'export {variable}="{text(platform)} ${{{variable}:-}}"']
  if platform == 'gpu':
    lines.append('export NCCL_DEBUG="${NCCL_DEBUG:-WARN}"')  # says what went wrong
  return '\n'.join(lines)


def main() -> int:
  """Prints the lines for the platform named on the command line."""
  if len(sys.argv) != 2 or sys.argv[1] not in FLAGS:
    print(f'usage: xla_flags.py {"|".join(FLAGS)}', file=sys.stderr)
    return 2
  print(exports(sys.argv[1]))
  return 0


if __name__ == '__main__':
  raise SystemExit(main())
