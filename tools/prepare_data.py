"""Writes data sets to disk in the form that training reads (TFDS, array_record).

  python tools/prepare_data.py digits glyphs
  python tools/prepare_data.py glyphs/64 cifar10 --data-dir /data

`digits` and `glyphs` are made here, without a download. All other names are those of
the TFDS catalogue; most of its builders need TensorFlow (the extra `tf`) to write,
none to read. What is already there is left as it is; an interrupted preparation
leaves nothing that looks complete.
"""

import argparse
import contextlib
import dataclasses
import difflib
import logging
import pathlib
import sys
import time
from collections.abc import Sequence
from typing import Any

from big_vision_like.data import sources
from big_vision_like.errors import UserError

CATALOGUE = 'https://www.tensorflow.org/datasets/catalog'


@dataclasses.dataclass(frozen=True)
class Prepared:
  """What one data set came to."""

  name: str
  version: str
  splits: dict[str, int]
  megabytes: float
  seconds: float


def builder_of(name: str, data_dir: str | None) -> Any:
  """The TFDS builder of a name such as `glyphs/64`; `UserError` if there is none."""
  import tensorflow_datasets as tfds

  family = name.partition('/')[0].partition(':')[0]
  sources.announce(name)
  catalogue = tfds.list_builders(with_community_datasets=False)
  known = sorted({*sources.OUR_BUILDERS, *catalogue})
  if family not in known:
    raise UserError(f'There is no data set {name!r}{_nearest(family, known)}.')
  configs = [
    f'{family}/{config}' for config in tfds.builder_cls(family).builder_configs
  ]
  config = name.partition(':')[0]
  if '/' in config and config not in configs:
    raise UserError(f'{family!r} has no variant {config!r}{_nearest(config, configs)}.')
  try:
    return tfds.builder(name, data_dir=data_dir)
  except (AssertionError, ValueError) as error:
    reason = str(error).rpartition('}": ')[2]  # TFDS repeats its arguments before it
    raise UserError(f'{name!r} cannot be built: {reason}') from error


def prepare(name: str, data_dir: str | None = None) -> Prepared:
  """Writes one data set unless it is there; `UserError` says what is missing."""
  import tensorflow_datasets as tfds

  if not sys.stderr.isatty():
    tfds.disable_progress_bar()
  builder = builder_of(name, data_dir)
  there = builder.is_prepared()
  start = time.perf_counter()
  if not there:
    folder = pathlib.Path(builder.data_path)
    for stale in folder.parent.glob('incomplete.*'):
      print(f'{stale} was left by a run that was killed; it can be deleted.')
    print(f'{name}: preparing in {folder}', flush=True)
    _write(builder, name)
  seconds = time.perf_counter() - start
  if builder.info.file_format.value != 'array_record':
    raise UserError(
      f'{name} is stored as {builder.info.file_format.value} in {builder.data_path}, '
      'but training reads array_record; name another folder with --data-dir.'
    )
  splits = {split: info.num_examples for split, info in builder.info.splits.items()}
  if there:
    counts = _counts(splits)
    print(f'{name}: already prepared in {builder.data_path} ({counts})', flush=True)
  files = pathlib.Path(builder.data_path).glob('*')
  megabytes = sum(file.stat().st_size for file in files) / 1e6
  full_name = builder.info.full_name.rpartition('/')[0]
  return Prepared(full_name, str(builder.version), splits, megabytes, seconds)


def _write(builder: Any, name: str) -> None:
  try:
    # TFDS announces itself on stdout; its progress bars go to stderr.
    with contextlib.redirect_stdout(None):
      builder.download_and_prepare(file_format='array_record')
  except ImportError as error:
    cause = error
    while cause.name is None and isinstance(cause.__cause__, ImportError):
      cause = cause.__cause__
    package = (cause.name or str(cause)).partition('.')[0]
    if package == 'tensorflow':
      remedy = "install the extra `tf`: pip install -e '.[tf]'"
    else:
      remedy = 'install it and start again'
    raise UserError(f'{name} needs the package {package!r}: {remedy}.') from error
  except (AssertionError, OSError) as error:  # no network, disk full, manual download
    raise UserError(f'{name} was not prepared: {error}') from error


def _nearest(name: str, known: Sequence[str]) -> str:
  near = difflib.get_close_matches(name, known, n=3, cutoff=0.5)
  return f'; the nearest: {", ".join(near)}' if near else f'; see {CATALOGUE}'


def _counts(splits: dict[str, int]) -> str:
  return ', '.join(f'{split} {count:,}' for split, count in splits.items())


def table(results: Sequence[Prepared]) -> str:
  """One line per data set, columns aligned."""
  rows = [('name', 'version', 'examples', 'MB', 'seconds', 'splits')]
  for r in results:
    examples = f'{sum(r.splits.values()):,}'
    sizes = f'{r.megabytes:.1f}', f'{r.seconds:.1f}'
    rows.append((r.name, r.version, examples, *sizes, _counts(r.splits)))
  widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
  return '\n'.join(
    f'{a:{w[0]}}  {b:{w[1]}}  {c:>{w[2]}}  {d:>{w[3]}}  {e:>{w[4]}}  {f}'
    for (a, b, c, d, e, f), w in ((row, widths) for row in rows)
  )


def main(arguments: Sequence[str] | None = None) -> None:
  """Prepares every data set named; stops at the first that cannot be."""
  parser = argparse.ArgumentParser(
    description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
  )
  parser.add_argument('names', nargs='+', metavar='name', help='digits, glyphs/64, ...')
  parser.add_argument(
    '--data-dir', help='default: $TFDS_DATA_DIR, else ~/tensorflow_datasets'
  )
  options = parser.parse_args(arguments)
  # TFDS and its downloader report every retry and every missing README.
  for chatty in ('absl', 'urllib3'):
    logging.getLogger(chatty).setLevel(logging.ERROR)
  data_dir = options.data_dir and str(pathlib.Path(options.data_dir).expanduser())
  try:
    for name in options.names:
      builder_of(name, data_dir)  # a wrong name is told before any work is done
  except UserError as error:
    parser.exit(2, f'{error}\n')
  try:
    print(table([prepare(name, data_dir) for name in options.names]))
  except UserError as error:
    parser.exit(1, f'{error}\n')
  except KeyboardInterrupt:
    parser.exit(130, 'Interrupted; what was not finished is not kept.\n')


if __name__ == '__main__':
  main()
