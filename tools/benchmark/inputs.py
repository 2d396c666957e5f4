"""Measures the speed of the input on this machine, on JPEGs like ImageNet's.

    python tools/benchmark/inputs.py > input.json

Photographs of 500 x 375 pixels and about 110 kB become batches of uint8 with random
crops of 224 pixels, flipped at random. Variants add RandAugment(2, 15), and files with
restart markers as written by `prepare_data.py --restarts`. Images per second are
measured on one core alone, and with one worker process up to one per core. Two further
measurements are the time that a program waits for batches if its steps take longer than
the input, and the memory over --examples.

--against tensorflow also measures tf.data on the same files, interleaved, with
decode_and_crop_jpeg and resize as in google-research/big_vision. TensorFlow may be
installed in another environment, --python. --big-vision FOLDER, a checkout of that
repository, provides the reference's RandAugment for tf.data.

Prints JSON, and a table on stderr. Numbers are medians over --rounds, in which all
variants are interleaved; each has its own process, which warms up first.
"""

import argparse
import contextlib
import itertools
import json
import os
import pathlib
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any

# Other modules of tools, if this file is started as a script.
sys.path.insert(0, str(pathlib.Path(__file__).parents[2]))

SIZE, SHAPE, QUALITY = 224, (375, 500), 95
BATCH = 64
WARM_UP_BATCHES = 4
# Arguments of RandAugment, and whether files have restart markers.
VARIANTS = {
  'crop and flip': ((), False),
  'with RandAugment(2, 15)': ((2, 15), False),
  'crop and flip, restart markers': ((), True),
  'with RandAugment(2, 15), restart markers': ((2, 15), True),
}


def photographs(count: int, markers: bool = False) -> Iterator[bytes]:
  """Yields parts of two photographs, of several scales and tones, as JPEGs."""
  import cv2
  import numpy as np
  import simplejpeg
  from sklearn import datasets

  from big_vision_like.data.prepare import restarts

  rng, sources = np.random.default_rng(0), datasets.load_sample_images().images
  height, width = SHAPE
  for index in range(count):
    image = sources[index % len(sources)]
    scale = rng.uniform(0.55, 0.85)
    h, w = (int(scale * image.shape[0]), int(scale * image.shape[0] * width / height))
    top = rng.integers(image.shape[0] - h + 1)
    left = rng.integers(image.shape[1] - w + 1)
    part = cv2.resize(image[top : top + h, left : left + w], (width, height))
    noisy = part * rng.uniform(0.7, 1.2) + rng.normal(0, 6, part.shape)
    part = np.clip(noisy, 0, 255).astype(np.uint8)
    flipped = part[:, :: rng.choice([-1, 1])].copy()
    if markers:
      yield restarts.encode(flipped, QUALITY)
    else:
      yield simplejpeg.encode_jpeg(flipped, QUALITY, colorsubsampling='420')


def write(folder: pathlib.Path, count: int, markers: bool = False) -> float:
  """Writes the photographs as a TFDS data set and as files; returns their mean kB."""
  import numpy as np
  import tensorflow_datasets as tfds

  with tfds.core.registered.skip_registration():  # the class is defined twice

    class Photographs(tfds.core.GeneratorBasedBuilder):
      """A data set generated from a seed."""

      VERSION = tfds.core.Version('1.0.0')

      def _info(self) -> tfds.core.DatasetInfo:
        features = {
          'image': tfds.features.Image(shape=(*SHAPE, 3), encoding_format='jpeg'),
          'label': tfds.features.ClassLabel(num_classes=1000),
        }
        return tfds.core.DatasetInfo(
          builder=self, features=tfds.features.FeaturesDict(features)
        )

      def _split_generators(self, dl_manager: Any) -> dict[str, Iterator]:
        return {'train': self._generate_examples()}

      def _generate_examples(self) -> Iterator[tuple[int, dict[str, Any]]]:
        for index, jpeg in enumerate(photographs(count, markers)):
          (folder / f'{index:06}.jpg').write_bytes(jpeg)
          yield index, {'image': jpeg, 'label': index % 1000}

  tfds.disable_progress_bar()
  with contextlib.redirect_stdout(None):
    Photographs(data_dir=str(folder)).download_and_prepare(file_format='array_record')
  return float(np.mean([f.stat().st_size for f in folder.glob('*.jpg')])) / 1e3


def ours(folder: str, randaugment: Sequence[int], workers: int) -> Iterator[Any]:
  """Returns batches of this package, on one thread without workers."""
  from big_vision_like.data.input import pipeline
  from big_vision_like.data.sources import tfds as sources
  from big_vision_like.data.transforms import image, labels
  from big_vision_like.data.transforms.randaugment import RandAugment

  augment = [RandAugment(*randaugment)] if randaugment else []
  return iter(
    pipeline.TrainInput(
      source=sources.Tfds('photographs', data_dir=folder),
      transforms=[
        image.DecodeCrop(image.InceptionCrop(SIZE), dct='fast'),
        image.Flip(),
        *augment,
        labels.Keep(),
      ],
      batch_size=BATCH,
      workers=workers,
      threads=1,
    )
  )


def measured(batches: Iterator[Any], seconds: float) -> float:
  """Returns images per second."""
  started, count = time.perf_counter(), 0
  while (elapsed := time.perf_counter() - started) < seconds:
    batch = next(batches)
    batch['image'].max()  # touch the data, as a program would
    count += len(batch['image'])
  return count / elapsed


def waited(batches: Iterator[Any], step: float, seconds: float) -> float:
  """Returns the share of time a program waits if its steps take `step` seconds."""
  waiting, started = 0.0, time.perf_counter()
  while (elapsed := time.perf_counter() - started) < seconds:
    before = time.perf_counter()
    next(batches)
    waiting += time.perf_counter() - before
    time.sleep(step)
  return waiting / elapsed


def resident(batches: Iterator[Any], examples: int) -> dict[int, float]:
  """Returns the MiB of this process and its workers at ten points, by examples."""
  found = {}
  for count in itertools.count(BATCH, BATCH):
    next(batches)
    if count // (examples // 10) > len(found):
      found[count] = memory_mib(os.getpid())
    if count >= examples:
      return found


def memory_mib(process: int) -> float:
  """Returns the proportional memory in MiB of a process and its descendants."""
  total = 0.0
  pending = [process]
  while pending:
    one = pending.pop()
    with contextlib.suppress(OSError):
      base = pathlib.Path(f'/proc/{one}')
      rollup = (base / 'smaps_rollup').read_text().splitlines()
      total += sum(int(x.split()[1]) for x in rollup if x.startswith('Pss:')) / 1024
      for task in (base / 'task').iterdir():
        pending += map(int, (task / 'children').read_text().split())
  return total


def serve(description: dict[str, Any]) -> None:
  """Runs a child process: answers each line of stdin until there are no more."""
  if not description['workers']:
    os.sched_setaffinity(0, {max(os.sched_getaffinity(0))})
  if description.pop('kind') == 'ours':
    batches = ours(**description)
  else:
    from tools.benchmark.parts import (
      tf_input,
    )  # imports TensorFlow, only in this process

    batches = tf_input.batches(SIZE, BATCH, **description)
  for _ in range(WARM_UP_BATCHES):
    next(batches)
  print('ready', flush=True)
  works = {'rate': measured, 'wait': waited, 'memory': resident}
  for line in sys.stdin:
    what, *numbers = json.loads(line)
    print(json.dumps(works[what](batches, *numbers)), flush=True)
  if hasattr(batches, 'close'):
    batches.close()


class Child:
  """A process with its own pipeline, which idles until it is asked."""

  def __init__(self, python: str, **description: Any):
    self._process = subprocess.Popen(
      [python, __file__, '--serve', json.dumps(description)],
      stdin=subprocess.PIPE,
      stdout=subprocess.PIPE,
      stderr=subprocess.DEVNULL,
      text=True,
    )
    if self._process.stdout.readline().strip() != 'ready':
      kind = description['kind']
      raise SystemExit(
        f'{kind} did not start; its output:\n{self._failure(python, description)}'
      )

  def _failure(self, python: str, description: dict[str, Any]) -> str:
    again = subprocess.run(
      [python, __file__, '--serve', json.dumps(description)],
      stdin=subprocess.DEVNULL,
      capture_output=True,
      text=True,
    )
    return '\n'.join(again.stderr.splitlines()[-5:])

  def ask(self, what: str, *numbers: float) -> Any:
    """Has the child do something, while all others are idle."""
    self._process.stdin.write(json.dumps([what, *numbers]) + '\n')
    self._process.stdin.flush()
    return json.loads(self._process.stdout.readline())

  def close(self) -> None:
    self._process.stdin.close()
    self._process.wait()
    self._process.stdout.close()


def rates(
  start: Callable[..., Child], kinds: Sequence[str], options: argparse.Namespace
) -> list[dict[str, Any]]:
  """Measures each variant, kind and number of workers; returns a row for each."""
  cores = len(os.sched_getaffinity(0))
  counts = sorted({0, 1, cores})
  rows = []
  for name, (randaugment, markers) in VARIANTS.items():
    # All processes of a row are ready, and measurements are interleaved.
    keys = [(kind, workers) for kind in kinds for workers in counts]
    keys = [(k, w) for k, w in keys if k == 'ours' or w != 1 or cores == 1]
    children = {
      (kind, workers): start(
        kind=kind, markers=markers, randaugment=randaugment, workers=workers
      )
      for kind, workers in keys
    }
    found: dict[Any, list[float]] = {key: [] for key in keys}
    for _ in range(options.rounds):
      for key, child in children.items():
        found[key].append(child.ask('rate', options.seconds))
    for child in children.values():
      child.close()
    for (kind, workers), values in found.items():
      rows.append(
        {
          'variant': name,
          'kind': kind,
          'workers': workers,
          'cores': 1 if workers == 0 else workers,
          'images_per_second': statistics.median(values),
          'spread': [min(values), max(values)],
        }
      )
  return rows


def ratios(rows: Sequence[dict[str, Any]]) -> dict[str, dict[str, float]]:
  """Returns the ratios of ours over tf.data, and of all workers over one."""
  found: dict[str, dict[str, float]] = {}
  for name in VARIANTS:
    rate = {
      (r['kind'], r['workers']): r['images_per_second']
      for r in rows
      if r['variant'] == name
    }
    most = max(workers for _, workers in rate)
    own = found[name] = {f'{most} workers over 1': rate['ours', most] / rate['ours', 1]}
    if ('tf.data', 0) in rate:
      own['over tf.data, one core'] = rate['ours', 0] / rate['tf.data', 0]
      own['over tf.data, all cores'] = rate['ours', most] / rate['tf.data', most]
  return found


def show(result: dict[str, Any]) -> None:
  """Prints the table of a result on stderr."""
  import rich.box
  import rich.console
  import rich.table

  table = rich.table.Table(box=rich.box.SIMPLE, title_justify='left')
  for column in ('input', 'by', 'processes', 'images/s', 'spread'):
    table.add_column(column, justify='left' if column in ('input', 'by') else 'right')
  for row in result['rates']:
    low, high = row['spread']
    where = f'{row["workers"]} workers' if row['workers'] else 'one core'
    if row['kind'] != 'ours' and row['workers']:
      where = 'all cores'
    table.add_row(
      row['variant'],
      row['kind'],
      where,
      f'{row["images_per_second"]:,.0f}',
      f'{low:,.0f} - {high:,.0f}',
    )
  console = rich.console.Console(stderr=True, width=110)
  console.print(table)
  for name, own in result['ratios'].items():
    for what, value in own.items():
      console.print(f'  {name}: {what} {value:.2f} x', highlight=False)
  wait = result['wait']
  console.print(
    f'  waits {100 * wait["share"]:.2f} % of the time for batches of {BATCH}, with'
    f' steps of {wait["step_seconds"]:.2f} s',
    highlight=False,
  )
  if memory := result.get('memory_mib'):
    listed = ', '.join(f'{mib:,.0f} at {int(at):,}' for at, mib in memory.items())
    console.print(f'  memory in MiB by number of examples: {listed}', highlight=False)


def main(arguments: Sequence[str] | None = None) -> None:
  parser = argparse.ArgumentParser(
    description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
  )
  parser.add_argument(
    '--photographs', type=int, default=512, help='number of images; %(default)s'
  )
  parser.add_argument(
    '--rounds', type=int, default=5, help='measurements of each; %(default)s'
  )
  parser.add_argument(
    '--seconds', type=float, default=5.0, help='duration of a measurement (%(default)g)'
  )
  parser.add_argument(
    '--against',
    choices=['tensorflow'],
    help='also measure the input of big_vision in tf.data',
  )
  parser.add_argument(
    '--python', default=sys.executable, help='Python of an environment with TensorFlow'
  )
  parser.add_argument('--big-vision', metavar='FOLDER', help='checkout of big_vision')
  parser.add_argument(
    '--examples',
    type=int,
    default=0,
    help='number of examples to measure memory over (0: not measured)',
  )
  parser.add_argument('--serve', help=argparse.SUPPRESS)
  options = parser.parse_args(arguments)
  if options.serve:
    return serve(json.loads(options.serve))
  kinds = ['ours', 'tf.data'] if options.against else ['ours']
  if options.against and not options.big_vision:
    parser.error('--against tensorflow needs --big-vision FOLDER for its RandAugment')
  with tempfile.TemporaryDirectory() as temporary:
    folders = {}
    kilobytes = {}
    for markers in (False, True):
      folders[markers] = folder = pathlib.Path(temporary) / str(markers)
      folder.mkdir()
      kilobytes[markers] = write(folder, options.photographs, markers)

    def start(kind: str, markers: bool, **description: Any) -> Child:
      extra = {'big_vision': options.big_vision} if kind == 'tf.data' else {}
      python = options.python if kind == 'tf.data' else sys.executable
      folder = str(folders[markers])
      return Child(python, kind=kind, folder=folder, **description, **extra)

    rows = rates(start, kinds, options)
    cores = len(os.sched_getaffinity(0))
    child = start(kind='ours', markers=False, randaugment=(), workers=cores)
    all_cores = child.ask('rate', options.seconds)
    step = 1.5 * BATCH / all_cores
    share = child.ask('wait', step, 4 * options.seconds)
    result = {
      'cores': cores,
      'photographs': options.photographs,
      'kilobytes': kilobytes[False],
      'kilobytes_with_markers': kilobytes[True],
      'rates': rows,
      'ratios': ratios(rows),
      'wait': {'step_seconds': step, 'share': share},
    }
    if options.examples:
      result['memory_mib'] = child.ask('memory', options.examples)
    child.close()
  show(result)
  print(json.dumps(result, indent=2))
  return None


if __name__ == '__main__':
  main()
