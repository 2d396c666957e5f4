"""XLA flags for many devices by platform, all in one place.

    eval "$(python3 tools/launch/xla_flags.py tpu)"

Prints the `export` lines that run.sh evaluates on every worker. Flags that are already
in the environment are appended, so that they take precedence. A flag that the installed
XLA does not know ends the process at once; the tests try every one of these.
"""

import argparse

# name: (value, purpose)
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
    'joins all-gathers of parameters by fsdp in the same way',
  ),
  'xla_gpu_reduce_scatter_combine_threshold_bytes': (
    '134217728',
    'joins reduce-scatters of gradients by fsdp in the same way',
  ),
}

# libtpu hides latency by default. Many published lists have asynchronous collective
# fusion, which is omitted here on purpose: on v5e it is the default, and for v4, v5p
# and v6e libtpu 0.0.52 refuses to compile with it.
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
    'overlaps all-reduces of gradients between slices with the backward pass',
  ),
  'xla_tpu_data_parallel_opt_different_sized_ops': (
    'true',
    'overlaps them also if the gradients differ in size',
  ),
}

FLAGS = {'gpu': ('XLA_FLAGS', GPU), 'tpu': ('LIBTPU_INIT_ARGS', TPU), 'cpu': ('', {})}


def text(platform: str) -> str:
  """Returns the flags of a platform as the value of its variable: '--a=1 --b=2'."""
  return ' '.join(
    f'--{name}={value}' for name, (value, _) in FLAGS[platform][1].items()
  )


def exports(platform: str) -> str:
  """Returns the lines for a shell to evaluate."""
  variable, flags = FLAGS[platform]
  if not flags:
    return ''
  lines = [f'export {variable}="{text(platform)} ${{{variable}:-}}"']
  if platform == 'gpu':
    lines.append('export NCCL_DEBUG="${NCCL_DEBUG:-WARN}"')  # reports errors
  return '\n'.join(lines)


def main() -> None:
  """Prints the lines for the platform on the command line."""
  parser = argparse.ArgumentParser(
    description=__doc__,
    formatter_class=argparse.RawDescriptionHelpFormatter,
    allow_abbrev=False,
  )
  parser.add_argument('platform', choices=FLAGS, help='what the workers have')
  print(exports(parser.parse_args().platform))


if __name__ == '__main__':
  main()
