"""Prints the table of docs/scaling.md: published recipes compiled for TPU slices.

    python tools/scaling_table.py [ROW ...]

Rows take a minute or two on two cores, those with Swin-B, UniT and Noisy Student L2 10
to 30 minutes; they need libtpu (`pip install '.[tpu]'`).
"""

from collections.abc import Sequence

import jax

from big_vision_like import cli, errors, plan
from big_vision_like.devices import chips

# Tasks of UniT, those without texts first.
UNIT = (
  *('detection_coco', 'detection_visual_genome', 'visual_entailment', 'vqa2'),
  *('glue_qnli', 'glue_mnli_mismatched', 'glue_qqp', 'glue_sst2'),
)
# Config, slice, overrides. Batch sizes are published; slices and meshes fit them.
ROWS = {
  'B/16': ('vit/i21k.py:B/16', 'v5e:16x16', ()),
  'L/16': ('vit/i21k.py:L/16', 'v5e:16x16', ('mesh.data=64', 'mesh.fsdp=4')),
  'H/14': ('vit/jft.py:H/14', 'v5e:16x16', ('mesh.data=16', 'mesh.fsdp=16')),
  'DeiT-B': ('deit/i1k.py:B/16', 'v5e:4x4', ()),
  'Swin-B': ('swin/i1k.py:B', 'v5e:4x4', ()),
  'UPerNet Swin-B': ('swin/ade20k.py:B', 'v5e:4x4', ()),
  'Cascade Swin-B': ('swin/coco.py:cascade_B_3x', 'v5e:4x4', ()),
  'UniT': (
    'unit/published.py:all8_shared',
    'v5e:8x8',
    tuple(
      f'task.tasks.{name}.model.{part}=True'
      for part, names in (('scan', UNIT), ('text.scan', UNIT[2:]))
      for name in names
    ),
  ),
  'Noisy Student L2': (
    'noisy_student/i1k.py:L2,iter3',
    'v4:8x8x8',
    ('task.accumulate=2',),
  ),
  'g/14': ('vit/scaling.py:g/14', 'v4:8x8x8', ('mesh.data=64', 'mesh.fsdp=8')),
  'G/14': ('vit/scaling.py:G/14', 'v4:8x8x8', ('mesh.data=64', 'mesh.fsdp=8')),
}

COLUMNS = (
  'config',
  'slice',
  'batch',
  'mesh',
  'GiB a chip',
  'ms a step',
  'MFU %',
  'examples/s a chip',
  'chip-hours',
  'compiled in s',
)


def cells(config: str, made: plan.Plan) -> list[str]:
  """Returns the cells of the row of a plan, one for each column."""
  mesh = ' '.join(f'{axis}={n}' for axis, n in made.mesh.items() if n > 1)
  memory = f'{made.needed / chips.GIB:.1f} of {made.chip.hbm_bytes / chips.GIB:.1f}'
  start = [f'`{config}`', made.topology, f'{made.batch_size:,}', mesh, memory]
  if not made.fits:
    return [*start, 'does not fit', '', '', '', f'{made.compile_seconds:.0f}']
  speed = made.batch_size / made.mean_seconds / made.chips
  hours = made.total_steps * made.mean_seconds / 3600 * made.chips
  return [
    *start,
    f'{1e3 * made.mean_seconds:,.0f}',
    f'{100 * made.mfu:.0f}',
    f'{speed:,.0f}',
    f'{hours:,.0f}',
    f'{made.compile_seconds:.0f}',
  ]


@errors.told_plainly
def main(argv: Sequence[str] | None = None) -> None:
  """Prints the requested rows, each as soon as it is computed."""
  cli.set_up_jax()
  jax.config.update('jax_platforms', 'cpu')
  parser = errors.parser(__doc__)
  parser.add_argument('rows', nargs='*', help=f'{", ".join(ROWS)}; default: all')
  args = parser.parse_args(argv)
  for name in args.rows:
    if name not in ROWS:
      raise errors.UserError(f'no row {name!r}: choose from {", ".join(ROWS)}')
  print(f'| {" | ".join(COLUMNS)} |\n|{"---|" * len(COLUMNS)}', flush=True)
  for name in args.rows or ROWS:
    config, topology, overrides = ROWS[name]
    made = plan.plan(f'configs/{config}', topology, overrides=overrides)
    print(f'| {" | ".join(cells(config, made))} |', flush=True)


if __name__ == '__main__':
  raise SystemExit(main())
