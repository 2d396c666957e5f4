"""Writes data sets to disk in the format that training reads (TFDS, array_record).

  python tools/prepare_data.py digits glyphs
  python tools/prepare_data.py glyphs/64 cifar10 --data-dir /data
  python tools/prepare_data.py --from folder:photos/train --name photos --split train

The data sets of this package need no download, but `multi_object` is made from files
that you provide. All other names come from the TFDS catalogue. Most of its builders
need TensorFlow (the extra `tf`) to write, none to read. Existing data sets are left
unchanged; an interrupted preparation leaves nothing that looks complete.

--from converts one split of data that you already have:
  folder:PATH           images in PATH/CLASS/
  tar:FILES             tar files with WebDataset's names of members, also .tar.gz
  parquet:FILES         Parquet files of Hugging Face (the extra `parquet`)
  tfrecord:FILES        tf.train.Example in TFRecord files, also compressed
  array_record:FILES    tf.train.Example in array_record files
  tfds:PATH             a data set written by TFDS, as TFRecord for example: the folder
                        with dataset_info.json
FILES may have * and ?, {000..127} and {a,b}; quote them. Examples are shuffled, so that
a part such as train[:1%] has all classes. Rerun the command to resume after a kill.
"""

import argparse
import contextlib
import dataclasses
import functools
import logging
import os
import pathlib
import re
import shutil
import sys
import time
from collections.abc import Sequence
from typing import Any

from big_vision_like import errors
from big_vision_like.data.sources import catalogue
from big_vision_like.errors import UserError, nearest

KINDS = ('folder', 'tar', 'parquet', 'tfrecord', 'array_record', 'tfds')
CATALOGUE = 'https://www.tensorflow.org/datasets/catalog'


@dataclasses.dataclass(frozen=True)
class Prepared:
  """The result of preparing one data set."""

  name: str
  version: str
  splits: dict[str, int]
  megabytes: float
  seconds: float


def builder_of(name: str, data_dir: str | None) -> Any:
  """Returns the TFDS builder of a name such as `glyphs/64`; `UserError` if unknown."""
  import tensorflow_datasets as tfds

  family = name.partition('/')[0].partition(':')[0]
  catalogue.announce(name)
  public = tfds.list_builders(with_community_datasets=False)
  known = sorted({*catalogue.ours(), *public})
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
  """Writes one data set unless it exists; `UserError` if something is missing."""
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
  if builder.info.file_format.value not in ('array_record', 'tfrecord'):
    raise UserError(
      f'{name} is stored as {builder.info.file_format.value} in {builder.data_path},'
      ' which training cannot read; name another folder with --data-dir.'
    )
  return _prepared(builder, name, start, there)


def _prepared(builder: Any, name: str, start: float, there: bool) -> Prepared:
  splits = {split: info.num_examples for split, info in builder.info.splits.items()}
  if there:
    counts = _counts(splits)
    print(f'{name}: already prepared in {builder.data_path} ({counts})', flush=True)
  files = pathlib.Path(builder.data_path).glob('*')
  megabytes = sum(file.stat().st_size for file in files) / 1e6
  full_name = builder.info.full_name.rpartition('/')[0]
  seconds = time.perf_counter() - start
  return Prepared(full_name, str(builder.version), splits, megabytes, seconds)


def convert(options: argparse.Namespace, data_dir: str | None) -> Prepared:
  """Writes a split of the data set `--name` from the source in `--from`."""
  import tensorflow_datasets as tfds

  from big_vision_like.data.prepare import conversion

  if not re.fullmatch(r'[a-z]\w*', options.name or ''):
    raise UserError(f'--name {options.name}: give a word in lowercase letters')
  if options.version and not re.fullmatch(r'\d+\.\d+\.\d+', options.version):
    raise UserError(f'--version {options.version}: give three numbers, as 1.0.0')
  if options.resize_small is not None and options.resize_small < 1:
    raise UserError(f'--resize-small {options.resize_small}: give 1 pixel or more')
  kind, _, where = options.source.partition(':')
  if kind not in KINDS or not where:
    raise UserError(
      f'--from {options.source}: give KIND:FILES, with a kind of {", ".join(KINDS)}'
    )
  if options.restarts:
    from big_vision_like.data.prepare import restarts

    restarts.check()
  start = time.perf_counter()
  version = options.version or (pathlib.Path(where).name if kind == 'tfds' else '1.0.0')
  folder = pathlib.Path(data_dir or tfds.core.constants.DATA_DIR).expanduser()
  folder = folder / options.name / version
  target = conversion.Split(folder, options.name, options.split)
  there = conversion.info(folder)
  finished = there is not None and options.split in there.splits
  unpacked = target.beside('unpacked')
  conversion.convert(
    _input(kind, where, options, there, unpacked),
    target,
    workers=options.workers or os.cpu_count() or 1,
    num_shards=options.shards,
    shrink=options.resize_small
    and conversion.Shrink(options.resize_small, options.quality),
    restarts=options.restarts,
    bad_share=options.bad_share,
  )
  shutil.rmtree(unpacked, ignore_errors=True)
  listed = target.beside('bad_records.txt')
  if listed.exists():
    count = len(listed.read_text().splitlines())
    print(f'bad examples left out: {count:,}. {listed} lists them with the reasons.')
  builder = conversion.builder(folder)
  return _prepared(builder, options.name, start, finished)


def _input(
  kind: str, where: str, options: argparse.Namespace, there: Any, unpacked: pathlib.Path
) -> Any:
  """Returns the input to convert, given the other splits and a folder for unpacking."""
  from big_vision_like.data.prepare import conversion
  from big_vision_like.data.sources import (
    array_records,
    base,
    classes,
    folders,
    parquet,
    shards,
    tars,
    tfrecords,
  )
  from big_vision_like.data.sources import tfds as sources

  keys = dict(pair.split('=', 1) for pair in options.keys) or None
  if keys and kind not in ('parquet', 'tfrecord', 'array_record'):
    raise UserError(f'--keys cannot be used with {kind}')
  names = classes.names_in(options.labels) if options.labels else None
  if options.dots and kind != 'tar':
    raise UserError(f'--dots cannot be used with {kind}')
  describe = functools.partial(
    conversion.Input, name=options.source, keys=keys, label_names=names
  )
  if kind == 'folder':
    known = base.label_names(there.features) if there else None
    folder = folders.Folder(where, names or known)
    return describe(source=lambda: folder, files=folder.files)
  if kind == 'tfds':
    split = sources.Tfds(*_stored(where, options.split))
    return describe(source=lambda: split, files=split.files)
  files = [os.path.abspath(file) for file in shards.found(where)]
  make = {
    'tar': lambda: tars.Tars(copied(shards.is_gzip), options.dots),
    'tfrecord': lambda: tfrecords.TFRecord(copied(tfrecords.is_compressed), keys),
    'array_record': lambda: array_records.ArrayRecord(files, keys),
    'parquet': lambda: parquet.Parquet(files, keys),
  }

  def copied(is_compressed: Any) -> list[str]:
    return conversion.unpacked(files, unpacked, is_compressed)

  return describe(source=make[kind], files=files)


def _stored(path: str, split: str) -> tuple[str, str, str]:
  """Returns the TFDS name, the split and the data directory of a folder of TFDS."""
  from big_vision_like.data.prepare import conversion

  folder = pathlib.Path(path).expanduser().absolute()
  if not (folder / 'dataset_info.json').exists():
    raise UserError(f'{folder} has no dataset_info.json: it is not a folder of TFDS')
  full_name = conversion.builder(folder).info.full_name
  name, _, version = full_name.rpartition('/')
  return f'{name}:{version}', split, str(folder.parents[full_name.count('/')])


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
  # No network, manual download, full disk (array_record's writer: RuntimeError).
  except (AssertionError, OSError, RuntimeError) as error:
    raise UserError(f'{name} was not prepared: {error}') from error


def _nearest(name: str, known: Sequence[str]) -> str:
  near = nearest(name, known, most=3)
  return f'; the nearest: {", ".join(near)}' if near else f'; see {CATALOGUE}'


def _counts(splits: dict[str, int]) -> str:
  return ', '.join(f'{split} {count:,}' for split, count in splits.items())


def table(results: Sequence[Prepared]) -> str:
  """Formats one line per data set, with aligned columns."""
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


def _parser() -> argparse.ArgumentParser:
  parser = errors.parser(
    __doc__, epilog=f'Data sets of this package: {", ".join(catalogue.ours())}'
  )
  parser.add_argument('names', nargs='*', metavar='name', help='digits, glyphs/64, ...')
  parser.add_argument(
    '--data-dir', help='default: $TFDS_DATA_DIR, else ~/tensorflow_datasets'
  )
  group = parser.add_argument_group('conversion')
  add = group.add_argument
  add('--from', dest='source', metavar='KIND:FILES', help='data to convert')
  add('--name', help='name of the new data set')
  add(
    '--split',
    default='train',
    help='split to write, and to read from tfds; default: train',
  )
  add('--version', help='default: the version of the tfds data set, or 1.0.0')
  add(
    '--keys',
    nargs='+',
    default=[],
    type=_pair,
    metavar='NEW=OLD',
    help='features or columns to keep, with their new names',
  )
  add('--labels', metavar='FILE', help='names of the classes in order, one per line')
  add(
    '--dots',
    choices=('first', 'last'),
    help='dot before the extension of a tar member; default: first',
  )
  add('--shards', type=int, help='number of files; default: about 128 MB each')
  add('--workers', type=int, help='number of processes; default: number of cores')
  add(
    '--bad-share',
    type=float,
    default=0.0,
    help='largest share of bad examples to leave out; default: 0',
  )
  add(
    '--resize-small',
    type=int,
    metavar='PIXELS',
    help='shrink images whose short side is longer to this side, as JPEG',
  )
  add('--quality', type=int, default=90, help='quality of these JPEGs; default: 90')
  add(
    '--restarts',
    action='store_true',
    help='add restart markers to JPEGs, which speeds up cropping; needs jpegtran',
  )
  return parser


def _pair(text: str) -> str:
  if not re.fullmatch('[^=]+=[^=]+', text):
    raise argparse.ArgumentTypeError(f'{text!r} is not NEW=OLD')
  return text


def main(arguments: Sequence[str] | None = None) -> None:
  """Prepares the named data sets in order; stops at the first failure."""
  parser = _parser()
  options = parser.parse_args(arguments)
  if bool(options.names) == bool(options.source):
    parser.error('give either names of data sets or --from')
  # TFDS and its downloader report every retry and every missing README.
  for chatty in ('absl', 'urllib3'):
    logging.getLogger(chatty).setLevel(logging.ERROR)
  data_dir = options.data_dir and str(pathlib.Path(options.data_dir).expanduser())
  try:
    for name in options.names:
      builder_of(name, data_dir)  # reports a wrong name before any work is done
  except (UserError, OSError) as error:
    parser.exit(2, f'{error}\n')
  try:
    if options.source:
      print(table([convert(options, data_dir)]))
    else:
      print(table([prepare(name, data_dir) for name in options.names]))
  except UserError as error:
    parser.exit(1, f'{error}\n')
  except OSError as error:  # the disk is full or read-only
    parser.exit(1, f'{error.filename or "the data"}: {error.strerror or error}\n')
  except KeyboardInterrupt:
    rest = 'unfinished data sets were discarded'
    if options.source:
      rest = 'rerun the command to resume'
    parser.exit(130, f'Interrupted; {rest}.\n')


if __name__ == '__main__':
  main()
