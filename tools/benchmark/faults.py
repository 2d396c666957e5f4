"""Damages files and runs in many ways, and counts the outcomes.

  python tools/benchmark/faults.py --count=200 --json=faults.json
  python tools/benchmark/faults.py --only='checkpoint' --show

Each damaged file is read in a separate process. Good outcomes are the same values
despite the damage, an error of one sentence, or other values if the format has no
checksums that could reveal it. Bad outcomes are other values despite checksums
(`silent`), a traceback, an error of more than a sentence (`noise`), more than 20
seconds (`hang`), the end of the process (`crash`), and more than 2 GB (`memory`). For
kills of whole runs see tools/benchmark/kills.py.
"""

import collections
import pathlib
import sys
from collections.abc import Sequence

# Other modules of tools, if this file is started as a script.
sys.path.insert(0, str(pathlib.Path(__file__).parents[2]))

from big_vision_like import cli, errors, files
from tools.faults import common


def table(counts: dict[str, collections.Counter[str]]) -> list[str]:
  """Returns the lines of a table of outcomes by kind."""
  total = sum(counts.values(), collections.Counter())
  rows = [*counts.items(), ('all', total)]
  width = max(len(name) for name, _ in rows)
  lines = [' '.join([f'{"":{width}}', f'{"tried":>6}', *common.OUTCOMES])]
  for name, found in rows:
    cells = [f'{found[outcome] or "-":>{len(outcome)}}' for outcome in common.OUTCOMES]
    lines.append(' '.join([f'{name:{width}}', f'{found.total():>6}', *cells]))
  return lines


@errors.told_plainly
def main(argv: Sequence[str] | None = None) -> int:
  """Prints a table of outcomes; returns 1 if any is bad, else 0."""
  parser = errors.parser(__doc__)
  parser.add_argument(
    '--count', type=int, default=100, help='faults of each kind; default: %(default)s'
  )
  parser.add_argument('--seed', type=int, default=0, help='default: %(default)s')
  parser.add_argument('--only', default='', help='only kinds with this in their name')
  parser.add_argument('--show', action='store_true', help='print every bad outcome')
  parser.add_argument('--json', help='file for all results')
  args = parser.parse_args(argv)
  cli.set_up_jax()
  kinds = [kind for name, kind in common.kinds().items() if args.only in name]
  if not kinds:
    raise errors.UserError(
      f'--only={args.only}: no such kind; there are {errors.listed(common.kinds())}'
    )
  counts, results = {}, []
  for kind in kinds:
    counts[kind.name] = collections.Counter()
    for result in common.campaign(kind, args.count, args.seed):
      counts[kind.name][result.outcome] += 1
      results.append(result)
      if args.show and result.outcome not in common.GOOD:
        print(f'{kind.name}: {result.how}: {result.outcome}: {result.told}', flush=True)
    print(f'{kind.name}: {dict(counts[kind.name])}', file=sys.stderr, flush=True)
  print(*table(counts), sep='\n')
  if args.json:
    content = {
      'counts': counts,
      'wrong': [vars(r) for r in results if r.outcome not in common.GOOD],
    }
    files.write_json(args.json, content)
  return int(any(result.outcome not in common.GOOD for result in results))


if __name__ == '__main__':
  raise SystemExit(main())
