"""Resumable conversion of any source to array_record in TFDS's layout, in parallel.

The plan is fixed at the start and stored next to the data, in NAME-SPLIT.plan.json: the
input, the number of shards, and the treatment of images. A shard gets its final name
once it is complete. Rerun the command to resume after a kill; another input is an
error. `dataset_info.json`, which makes the data findable, is written last.
"""

import contextlib
import dataclasses
import fcntl
import functools
import hashlib
import multiprocessing
import os
import pathlib
import shutil
import sys
import zlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent import futures
from typing import Any

import numpy as np

from big_vision_like import files
from big_vision_like.data.input import parent as parents
from big_vision_like.data.sources import array_records, protos, shards
from big_vision_like.data.sources.base import Source, counted, num_classes
from big_vision_like.errors import BadRecordError, UserError

# Approximate size of a shard in bytes; a shard has at least MIN_EXAMPLES examples.
SHARD_BYTES, MIN_EXAMPLES = 128 << 20, 32
# Seed of the shuffle, which makes `train[:1%]` contain examples of all classes.
SEED = 0


@dataclasses.dataclass(frozen=True)
class Split:
  """A split of a data set on disk; `folder` is DATA_DIR/NAME/VERSION."""

  folder: pathlib.Path
  name: str
  split: str

  def shard(self, index: int, count: int) -> pathlib.Path:
    """Returns the path at which TFDS looks for a shard."""
    file = f'{self.name}-{self.split}.array_record-{index:05d}-of-{count:05d}'
    return self.folder / file

  def beside(self, ending: str) -> pathlib.Path:
    """Returns the path of a file about the split, next to its shards."""
    return self.folder / f'{self.name}-{self.split}.{ending}'


@dataclasses.dataclass(frozen=True)
class Shrink:
  """A conversion of large images to JPEGs with a short side of `size`.

  Images with a short side of at most `size` are unchanged. The JPEGs have restart
  markers.
  """

  size: int
  quality: int = 90

  def shrunk(self, image: bytes, channels: int, index: int) -> bytes:
    """Returns the image to store; `index` names an undecodable image in errors."""
    from big_vision_like.data.prepare import restarts
    from big_vision_like.data.transforms.image import Decode, ResizeSmall

    pixels = Decode(channels).map({'image': image, 'id': index})['image']
    if min(pixels.shape[:2]) <= self.size:
      return image
    pixels = ResizeSmall(self.size).map({'image': pixels})['image']
    return restarts.encode(pixels, self.quality)


@dataclasses.dataclass(frozen=True)
class Work:
  """The settings that a process needs to write any shard."""

  source: Source
  features: Any
  target: Split
  shards: int
  shrink: Shrink | None
  restarts: bool

  @functools.cached_property
  def order(self) -> np.ndarray:
    """The shuffled indices of all examples; groups, read together, stay together."""
    rng = np.random.default_rng(SEED)
    groups = self.source.groups
    if groups is None:
      return rng.permutation(np.arange(len(self.source), dtype=np.int32))
    parts = [np.arange(*groups[i : i + 2]) for i in rng.permutation(len(groups) - 1)]
    return np.concatenate(parts)

  def places(self, shard: int) -> range:
    """Returns the range of places in `order` that a shard holds."""
    count = len(self.source)
    return range(*(count * (shard + i) // self.shards for i in range(2)))

  def write(self, shard: int, done: Callable[[], None] = lambda: None) -> None:
    """Writes a shard, and a list of its bad records if there are any."""
    from array_record.python import array_record_module

    places = self.places(shard)
    path, bad = self.target.shard(shard, self.shards), []
    with files.atomic(path) as part:
      writer = array_record_module.ArrayRecordWriter(str(part), 'group_size:1')
      for index in self.order[places.start : places.stop].tolist():
        try:
          record = self.record(index)
        except BadRecordError as error:
          bad.append([index, str(error)])
        else:
          with _writing(path):
            writer.write(record)
        done()
      with _writing(path):
        writer.close()
      if array_records.count(str(part)) != len(places) - len(bad):
        raise UserError(f'{path} could not be written: is the disk full?')
      if bad:
        files.write_json(bad_file(path), bad, indent=None)

  def record(self, index: int) -> bytes:
    """Returns the serialized example to store; raises `BadRecordError` if unusable."""
    record = self.source.record(index)
    if record is None:
      record = _serialized(self.source[index], self.features, f'example {index}')
    example = protos.parsed(record, self.features, f'example {index}')
    images = protos.still_encoded(self.features)
    for name in images:
      if not example[name]:
        raise BadRecordError(f'{name} of example {index} is empty')
    _check_label(example, self.features, index)
    if self.shrink is None and not self.restarts:
      return record
    stored = {
      name: self._stored(example[name], self.features[name].shape[-1], index)
      for name in images
    }
    return protos.changed(record, stored)

  def _stored(self, image: bytes, channels: int, index: int) -> bytes:
    from big_vision_like.data.prepare import restarts

    if self.shrink is not None:
      image = self.shrink.shrunk(image, channels, index)
    return restarts.insert(image, index) if self.restarts else image


def _serialized(example: protos.Example, features: Any, name: str) -> bytes:
  try:
    return features.serialize_example(example)
  except ImportError as error:
    raise UserError(
      f'TFDS needs TensorFlow to write such features: leave out lists of lists, or'
      f" install the extra `tf`: pip install -e '.[tf]' ({error})"
    ) from error
  except Exception as error:  # TFDS raises several unrelated types
    raise protos.unfit(name, error) from error


def _check_label(example: protos.Example, features: Any, index: int) -> None:
  label = features['label'] if 'label' in features else None
  classes = num_classes(label)
  if classes is not None and not -1 <= example['label'] < classes:
    raise BadRecordError(
      f'label of example {index} is {example["label"]}, not below {classes}'
    )


@dataclasses.dataclass(frozen=True, kw_only=True)
class Input:
  """The data to convert: `source()` makes the source; the other fields identify it.

  `label_names` names the classes of a source that has only numbers.
  """

  source: Callable[[], Source]
  name: str
  files: Sequence[str]
  keys: Mapping[str, str] | None = None
  label_names: Sequence[str] | None = None


def convert(
  given: Input,
  target: Split,
  *,
  workers: int,
  num_shards: int | None = None,
  shrink: Shrink | None = None,
  restarts: bool = False,
  bad_share: float = 0.0,
) -> None:
  """Writes a split, or its missing shards; `restarts` adds restart markers to JPEGs.

  Raises `UserError` if more than `bad_share` of the examples are bad. The good examples
  are kept, so rerunning with a larger share finishes at once.
  """
  target.folder.mkdir(parents=True, exist_ok=True)
  with _alone(target.folder):
    plan = {
      'input': given.name,
      'keys': given.keys,
      'labels': given.label_names and files.sha256(given.label_names)[:32],
      'files': files.sha256(shards.stamps(map(os.path.abspath, given.files)))[:32],
      'shrink': shrink and dataclasses.asdict(shrink),
      'restarts': restarts or None,
    }
    there = info(target.folder)
    if there is not None and target.split in there.splits:
      return _check_plan(plan, target, 'or another --name or --version')
    source = given.source()
    features = _features(source, given.label_names)
    for problem in source.problems():
      print(f'warning: {problem}', flush=True)
    if source.left_out:
      print(f'left out: {counted(source.left_out)}', flush=True)
    described = protos.described(features)
    if there is not None and protos.described(there.features) != described:
      raise UserError(
        f'{target.folder} has other features or classes than the new split:'
        f' {protos.described(there.features)}; the new split has {described}'
      )
    others = set(protos.still_encoded(features)) - {'image'}
    if shrink is not None and others:
      raise UserError(
        f'--resize-small stores images as JPEGs, but {", ".join(sorted(others))} must'
        ' stay exact: leave out --resize-small.'
      )
    earlier = _earlier(target)
    count = num_shards or earlier.get('shards') or _shards(given.files, len(source))
    plan |= {'examples': len(source), 'features': described, 'shards': count}
    _check_plan(
      plan, target, f'another --name or --version, or delete {target.beside("*")}'
    )
    files.write_json(target.beside('plan.json'), plan)
    work = Work(source, features, target, count, shrink, restarts)
    _write_missing(work, workers)
    _check_bad(work, bad_share)
    _describe(work, there)


def _earlier(target: Split) -> dict[str, Any]:
  file = target.beside('plan.json')
  return files.read_fields(file) if file.exists() else {}


def _check_plan(plan: dict[str, Any], target: Split, remedy: str) -> None:
  """Raises `UserError` if the plan differs from the plan of an earlier run."""
  earlier = _earlier(target)
  changed = [name for name in plan if earlier and plan[name] != earlier.get(name)]
  if changed:
    before = f' (it was {earlier["input"]})' if 'input' in changed else ''
    raise UserError(
      f'{target.name} {target.split} in {target.folder} was begun with other'
      f' {", ".join(changed)}{before}: use the same, {remedy}'
    )


def _features(source: Source, label_names: Sequence[str] | None) -> Any:
  import tensorflow_datasets as tfds

  features = dict(source.features)
  if label_names is not None:
    if 'label' not in features:
      raise UserError(f'there is no label to name, only {", ".join(features)}')
    features['label'] = tfds.features.ClassLabel(names=label_names)
  return tfds.features.FeaturesDict(features)


def _shards(files: Sequence[str], examples: int) -> int:
  if not examples:
    raise UserError('there are no examples')
  size = sum(max(size, 0) for _, size, _ in shards.stamps(files))
  return max(min(size // SHARD_BYTES, examples // MIN_EXAMPLES), 1)


def _write_missing(work: Work, workers: int) -> None:
  target = work.target
  paths = [target.shard(i, work.shards) for i in range(work.shards)]
  for stale in target.folder.glob(f'{target.name}-{target.split}.*.part'):
    shutil.rmtree(stale) if stale.is_dir() else stale.unlink()
  counts = shards.on_threads(array_records.count, map(str, paths))
  missing = [i for i, count in enumerate(counts) if count is None]
  total = sum(len(work.places(i)) for i in missing)
  with _bar(f'{target.name} {target.split}', total) as advance:
    if workers == 1 or len(missing) <= 1:
      for shard in missing:
        work.write(shard, lambda: advance(1))
      return
    # Spawned: forking would copy the locks of library threads in an arbitrary state.
    context = multiprocessing.get_context('spawn')
    done = context.Value('q')
    with futures.ProcessPoolExecutor(
      min(workers, len(missing)), context, _start, (work, done, os.getpid())
    ) as pool:
      running, shown = {pool.submit(_write_one, shard) for shard in missing}, 0
      try:
        while running:
          ended, running = futures.wait(running, timeout=0.2)
          advance(done.value - shown)
          shown = done.value
          for future in ended:
            future.result()
      except BaseException:
        pool.shutdown(cancel_futures=True)
        raise


@contextlib.contextmanager
def _writing(path: pathlib.Path) -> Iterator[None]:
  """Converts errors of the writer, such as a full disk, to `UserError`."""
  try:
    yield
  except RuntimeError as error:
    raise UserError(f'{path} could not be written: {error}') from error


def _start(work: Work, done: Any, parent: int) -> None:
  """Initializes a writing process."""
  global _work, _done
  _work, _done = work, done
  parents.end_with(parent)


def _write_one(shard: int) -> None:
  def done() -> None:
    with _done.get_lock():
      _done.value += 1

  _work.write(shard, done)


def _check_bad(work: Work, bad_share: float) -> None:
  """Lists the bad records of all shards; raises `UserError` for too many."""
  target, bad = work.target, []
  for i in range(work.shards):
    file = bad_file(target.shard(i, work.shards))
    if file.exists():
      bad += files.read_json(file)
  listed = target.beside('bad_records.txt')
  if bad:
    files.write(listed, ''.join(f'{index}\t{why}\n' for index, why in sorted(bad)))
  examples = len(work.source)
  if len(bad) > bad_share * examples:
    raise UserError(
      f'{len(bad):,} of {examples:,} examples are bad, more than --bad-share'
      f' {bad_share:g}; {listed} lists them with reasons. To leave them out, rerun the'
      f' command with --bad-share {_above(len(bad) / examples)} (finishes at once).'
    )


def _above(share: float) -> str:
  """Formats a number with two digits, rounded up."""
  digits = f'{share:.1e}'
  return digits if float(digits) >= share else f'{share * 1.05:.1e}'


def _describe(work: Work, there: Any) -> None:
  """Writes the metadata by which TFDS finds the data, `dataset_info.json` last."""
  import tensorflow_datasets as tfds

  target = work.target
  paths = [target.shard(i, work.shards) for i in range(work.shards)]
  lengths = shards.on_threads(array_records.count, map(str, paths))
  template = tfds.core.ShardedFileTemplate(
    data_dir=str(target.folder),
    dataset_name=target.name,
    split=target.split,
    filetype_suffix='array_record',
  )
  split = tfds.core.SplitInfo(
    name=target.split,
    shard_lengths=lengths,
    num_bytes=sum(path.stat().st_size for path in paths),
    filename_template=template,
  )
  identity = tfds.core.dataset_info.DatasetIdentity(
    name=target.name,
    version=tfds.core.Version(target.folder.name),
    data_dir=str(target.folder),
    module_name='',
  )
  info = tfds.core.DatasetInfo(builder=identity, features=work.features)
  info.set_file_format('array_record')
  others = list(there.splits.values()) if there is not None else []
  info.set_splits(tfds.core.SplitDict([*others, split]))
  with _empty(target.beside('info.part')) as folder:
    info.write_to_directory(str(folder))
    for file in sorted(folder.iterdir(), key=lambda f: f.name == 'dataset_info.json'):
      os.replace(file, target.folder / file.name)
  for path in paths:
    bad_file(path).unlink(missing_ok=True)


def info(folder: pathlib.Path) -> Any:
  """Returns TFDS's DatasetInfo of a folder; None if it has no dataset_info.json."""
  if not (folder / 'dataset_info.json').exists():
    return None
  info = builder(folder).info
  if info.file_format.value != 'array_record':
    raise UserError(
      f'{folder} is stored as {info.file_format.value}: name another folder with'
      ' --data-dir'
    )
  return info


def builder(folder: pathlib.Path) -> Any:
  """Returns a TFDS builder for the data set in a folder; `UserError` if it has none."""
  import tensorflow_datasets as tfds

  try:
    return tfds.builder_from_directory(str(folder))
  except Exception as error:  # TFDS raises several unrelated types
    reason = ' '.join(str(error).split())
    raise UserError(
      f'{folder} is not in the layout of TFDS: {reason or type(error).__name__}'
    ) from error


def unpacked(
  paths: Sequence[str],
  folder: pathlib.Path,
  compressed: Callable[[bytes], bool],
) -> list[str]:
  """Returns the files; compressed ones are replaced by unpacked copies in a folder."""

  def unpack(path: str) -> str:
    with open(path, 'rb') as file:
      if not compressed(file.read(shards.START)):
        return path
    stamp = repr(shards.stamps([path]))
    target = folder / hashlib.sha256(stamp.encode()).hexdigest()[:32]
    if not target.exists():
      with files.atomic(target) as part:
        _decompress(path, part)
    return str(target)

  return shards.on_threads(unpack, paths)


def _decompress(path: str, target: pathlib.Path) -> None:
  ended = True
  with open(path, 'rb') as source, open(target, 'wb') as out:
    stream = _stream()
    try:
      while block := source.read(1 << 20):
        while block:
          out.write(stream.decompress(block))
          ended, block = stream.eof, stream.unused_data
          if ended:  # another compressed stream may follow
            stream = _stream()
    except zlib.error as error:
      raise UserError(f'{path} is damaged: {error}') from error
  if not ended:
    raise UserError(f'{path} is truncated: copy it again')


def _stream() -> Any:
  return zlib.decompressobj(wbits=zlib.MAX_WBITS | 32)  # gzip or zlib


def bad_file(shard: pathlib.Path) -> pathlib.Path:
  """Returns the path that lists a shard's bad records until all shards are written."""
  return shard.with_name(f'{shard.name}.bad')


@contextlib.contextmanager
def _alone(folder: pathlib.Path) -> Iterator[None]:
  """Raises `UserError` if another command is writing to the folder."""
  descriptor = os.open(folder, os.O_RDONLY)
  try:
    fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    yield
  except BlockingIOError as error:
    raise UserError(f'another command is writing to {folder}') from error
  finally:
    os.close(descriptor)


@contextlib.contextmanager
def _empty(folder: pathlib.Path) -> Iterator[pathlib.Path]:
  shutil.rmtree(folder, ignore_errors=True)
  folder.mkdir()
  yield folder
  shutil.rmtree(folder)


@contextlib.contextmanager
def _bar(title: str, total: int) -> Iterator[Callable[[int], None]]:
  """Shows a progress bar on a terminal, otherwise prints a line."""
  if not sys.stderr.isatty():
    print(f'{title}: writing {total:,} examples', flush=True)
    yield lambda count: None
    return
  import rich.console
  import rich.progress

  columns = (
    *rich.progress.Progress.get_default_columns(),
    rich.progress.MofNCompleteColumn(),
  )
  console = rich.console.Console(stderr=True)
  with rich.progress.Progress(*columns, console=console, transient=True) as bar:
    task = bar.add_task(title, total=total)
    yield lambda count: bar.advance(task, count)
