"""Shows what the model really gets, and where the time of the input goes.

    python tools/show_input.py --config=configs/vit/digits.py --out=looked

Writes looked/train_data.png, a sheet of the first batches: examples as they leave the
host's transforms, and beside them as the device makes of them what the model gets in
that step of a run (flipped, erased, mixed), un-normalised. Boxes are drawn, clips are
frames side by side, sequences are written out in train_data.txt. The terminal tells
the arrays, what is odd about them, and the time of each stage on one core; so does
train_data.json.

--input=evals.val shows another input. Of larger batches the first --examples are taken,
and mixed among themselves.
"""

import argparse
import contextlib
import dataclasses
import functools
import json
import pathlib
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import jax
import ml_collections as mlc
import numpy as np
import rich.box
import rich.console
import rich.table
from PIL import Image, ImageDraw, ImageFont

from big_vision_like import cli, errors, files, spec
from big_vision_like.data.input import mixture, pipeline
from big_vision_like.devices.processes import say
from big_vision_like.errors import BadRecordError, UserError, shape_text
from big_vision_like.ops import boxes as box_ops
from big_vision_like.run import preflight
from big_vision_like.run.labels import reachable
from big_vision_like.viz import boxes, images, video

# Other modules of tools, where this file is started as a script.
sys.path.insert(0, str(pathlib.Path(__file__).parents[1]))

from tools.benchmark import input_stages
from tools.benchmark.input_stages import Stage

SIDE, LARGE = 112, 336  # pixels of a tile, and of one with boxes, at most
NARROW = 90  # what a tile is at least given, for what is below it
WIDTH, FRAMES = 1400, 8  # pixels of a sheet, frames of a line
GAP, LINE = 10, 15  # pixels between tiles, and of a line of text
STAGE = ('name', 'median_ms', 'mean_ms', 'on_host')  # what JSON has of one
SHARE = 0.005  # of a target, below which a class is not named
INK, GREY = (20, 20, 20), (120, 120, 120)

Lines = list[str]
# A picture and the lines below it; for an example one, or two side by side.
Tile = tuple[np.ndarray, Lines]


@dataclasses.dataclass(frozen=True)
class Looked:
  """Rows of the first batches of an input, and in `device` as the model gets them.

  Of the device are known `image` and `target`, or the inputs of the model by number.
  `replaced` says which records were bad. `names` are those of the classes, if known.
  """

  batches: list[pipeline.Batch]
  device: list[dict[str, np.ndarray]]
  replaced: Lines
  names: Sequence[str]
  mean: np.ndarray
  std: np.ndarray

  def name(self, label: int) -> str:
    """What a class is called."""
    return self.names[label] if 0 <= label < len(self.names) else str(label)

  @functools.cached_property
  def real(self) -> pipeline.Batch:
    """All rows but those that only fill the last batch, as `joined`."""
    return self._joined(self.batches)

  @functools.cached_property
  def given(self) -> dict[str, np.ndarray]:
    """What the model gets for them."""
    return self._joined(self.device)

  def _joined(self, parts: Sequence[Mapping[str, np.ndarray]]) -> dict[str, np.ndarray]:
    real = [
      {k: x[kept(batch)] for k, x in part.items()}
      for part, batch in zip(parts, self.batches, strict=True)
    ]
    return joined(real)

  @functools.cached_property
  def padded_share(self) -> float | None:
    """How much of the images is padding, where batches say."""
    if not all({'image', 'size'} <= batch.keys() for batch in self.batches):
      return None
    real = padded = 0
    for batch in self.batches:
      count, height, width, _ = batch['image'].shape
      padded += count * height * width
      real += batch['size'].prod(axis=1, dtype=int).sum()
    return float(1 - real / padded)

  @functools.cached_property
  def augmented(self) -> bool:
    """Whether the device does more to images than to normalise them."""
    if 'target' not in self.given:
      return False
    host_BHWC = self.real['image']
    if host_BHWC.dtype != np.uint8:
      return True
    seen_BHWC = self.shown(self.given['image'])
    largest_B = self.given['target'].max(axis=1)
    return np.abs(255 * seen_BHWC - host_BHWC).max() > 0.5 or largest_B.min() < 0.5

  def shown(self, image_BHWC: np.ndarray) -> np.ndarray:
    """What was normalised in [0, 1]; values of no image lie outside."""
    return (image_BHWC * self.std + self.mean).astype(np.float32)


def rows(batch: Mapping[str, np.ndarray]) -> int:
  """How many rows a batch has."""
  return len(next(iter(batch.values())))


def kept(batch: pipeline.Batch) -> np.ndarray:
  """Which rows are examples: bool (B,)."""
  return batch.get('mask', np.ones(rows(batch), bool))


def joined(batches: Sequence[Mapping[str, np.ndarray]]) -> dict[str, np.ndarray]:
  """Batches as one; arrays of several shapes apart, as 'image 768x1024' and so on."""
  made = {}
  for name in batches[0]:
    parts: dict[tuple[int, ...], list[np.ndarray]] = {}
    for batch in batches:
      parts.setdefault(batch[name].shape[1:], []).append(batch[name])
    for shape, own in sorted(parts.items()):
      size = f' {"x".join(map(str, shape))}' if len(parts) > 1 else ''
      made[name + size] = np.concatenate(own)
  return made


def chosen(config: mlc.ConfigDict, wanted: str) -> tuple[str, Any, str]:
  """The name of an input, that input, and which of several tasks it is for, or ''.

  'evals.val' is 'evals.val.data'; of several training inputs the first is meant.
  """
  places, tasks = {}, {}
  for path, node in spec.calls(config):
    if spec.symbol(node, path) in (pipeline.TrainInput, pipeline.EvalInput):
      name = path.removeprefix('config.')
      places[name] = node
      before, _, last = name.rpartition('.inputs.')
      tasks[name] = last if before else ''
      evaluator = config.evals.get(name.split('.')[1]) if name[:6] == 'evals.' else None
      if evaluator is not None:
        tasks[name] = (spec.held(evaluator, 'predict') or '').rpartition('.')[0]
  several = [name for name in places if name.startswith(f'{wanted}.inputs.')]
  for name in (wanted, f'{wanted}.data', *several):
    if name in places:
      return name, spec.build(places[name], f'config.{name}'), tasks[name]
  raise UserError(f'--input={wanted} is none of {", ".join(places)}.')


def look(data: Any, task: Any, key: jax.Array, batches: int, part: str = '') -> Looked:
  """Reads the first batches, and does to them what the device does.

  `part` names the task of several that they are for.
  """
  given, device, replaced = [], [], []
  training = isinstance(data, pipeline.TrainInput)
  compiled = jax.jit(functools.partial(on_device, task, training, part=part))
  stream = iter(data) if training else data.epoch()
  for step, batch in zip(range(batches), stream, strict=False):
    given.append(batch)
    device.append(jax.device_get(compiled(batch, jax.random.fold_in(key, step))))
    replaced += stream.news() if training else []
  stream.close()
  mean, std = map(np.asarray, task.images or (0.5, 0.5))
  return Looked(given, device, replaced, names_of(data), mean, std)


def on_device(
  task: Any, training: bool, batch: pipeline.Batch, key: jax.Array, part: str = ''
) -> dict[str, jax.Array]:
  """What networks are called with, and the targets where a task mixes them."""
  whole = {part: batch} if part else batch
  if training:
    whole = task.prepare(whole, key)
  prepared = whole[part] if part else whole
  if training and {'image', 'target'} <= prepared.keys():
    return {name: prepared[name] for name in ('image', 'target')}
  found = {}
  networks = {
    name.removeprefix(f'{part}.'): network
    for name, network in task.networks().items()
    if name.startswith(f'{part}.' if part else '')
  }
  for name, network in networks.items():
    whose = name if len(networks) > 1 else 'model'
    for i, x in enumerate(network.inputs(whole), start=1):
      found[f"{whose}'s input {i}"] = x
  return found


def names_of(data: Any) -> Sequence[str]:
  """The names of classes, where labels are as the source has them."""
  source, transforms, added = data.source, list(data.transforms), {'mask': np.True_}
  if isinstance(source, mixture.Mixture):
    parts = list(source.parts.values())
    named = [part.source.label_names for part in parts]
    if any(names != named[0] for names in named):
      return ()
    source, transforms = parts[0].source, [*parts[0].transforms, *transforms]
    added['part'] = np.int32(0)
  names, makers = source.label_names, None
  with contextlib.suppress(BadRecordError):
    _, makers = preflight.traced(transforms, source[0] | added)
  return names if names and makers == [] else ()


def oddities(looked: Looked) -> Lines:
  """What may well be a mistake, in sentences."""
  batch, notes = looked.real, list(looked.replaced)
  count = int(sum(kept(batch).sum() for batch in looked.batches))
  for name, x in (batch | looked.given).items():
    if x.dtype.kind == 'f' and not np.isfinite(x).all():
      notes.append(f'{name} has values that are not finite')
  if np.ndim(batch.get('label')) == 1 and count > 1:
    classes, counts = np.unique(batch['label'], return_counts=True)
    most, often = looked.name(classes[counts.argmax()]), counts.max()
    if len(classes) == 1:
      notes.append(f'all labels equal: {most}')
    elif len(classes) > 2 and count >= 16 and often > count / 2:
      notes.append(f'{often} of {count} labels are {most}')
  for name, x in batch.items():
    if name.split()[0] in ('image', 'video') and len(x):
      notes += odd_pictures(name, x.reshape(len(x), -1))
  if 'image' in looked.given:
    values = looked.shown(looked.given['image'])
    outside = np.mean((values < -0.01) | (values > 1.01))
    if outside > 1e-4:
      notes.append(
        f'{100 * outside:.2g} % of what the model gets is outside of the values of an'
        ' image, as noise in what is erased: cut off in the picture'
      )
  return notes


def odd_pictures(name: str, values_BP: np.ndarray) -> Lines:
  """What is odd about images or clips, of which P values each are given."""
  notes, count = [], len(values_BP)
  plain = int((values_BP.min(axis=1) == values_BP.max(axis=1)).sum())
  if plain:
    notes.append(f'{plain} of {count} {name}s are of one colour')
  if values_BP.dtype == np.uint8 and 0 < values_BP.max() <= 1:
    notes.append(f'{name}s hold 0 and 1 alone: image.Brighten makes that 0 and 255')
  same = count - len({row.tobytes() for row in values_BP})
  if same:
    notes.append(f'{same} of {count} {name}s are the same as another one')
  return notes


# Pictures


def tiles(looked: Looked) -> Iterator[list[Tile]]:
  """An example as it leaves the host, and as it is on the device if that augments."""
  for batch, device in zip(looked.batches, looked.device, strict=True):
    for row in range(rows(batch)):
      example = {name: x[row] for name, x in batch.items()}
      cell = [(picture(example), caption(example, looked))]
      if looked.augmented:
        seen_HWC = images.to_rgb(looked.shown(device['image'][row]))
        lines = shares(device['target'][row], looked.name)
        cell.append((images.fit(seen_HWC, SIDE), lines))
      yield cell


def caption(example: Mapping[str, np.ndarray], looked: Looked) -> Lines:
  """The label of an example and its id."""
  if not example.get('mask', True):
    return ['only fills the batch']
  lines = []
  if np.ndim(example.get('label', [])) == 0:
    lines.append(looked.name(int(example['label'])))
  if 'id' in example:
    lines.append(f'id {example["id"]}')
  return lines


def shares(target_C: np.ndarray, name: Callable[[int], str]) -> Lines:
  """The classes of a target, the most first: '0.63 tench', '+ 0.37 goldfish'.

  Without what label smoothing gives to all of them.
  """
  share_C = target_C - target_C.min()
  share_C /= max(share_C.sum(), 1e-9)
  best = np.argsort(-share_C, kind='stable')[:3]
  best = [int(c) for c in best if share_C[c] > SHARE]
  if len(best) == 1:
    return [name(best[0])]
  named = [f'of {name(c)}' if name(c).isdigit() else name(c) for c in best]
  parts = [f'{share_C[c]:.2f} {which}' for c, which in zip(best, named, strict=True)]
  return [part if i == 0 else f'+ {part}' for i, part in enumerate(parts)]


def picture(example: Mapping[str, np.ndarray]) -> np.ndarray:
  """An image with its boxes, or frames or views: RGB uint8 (H, W, 3), to look at."""
  image_HWC = example['video' if 'video' in example else 'image']
  if image_HWC.ndim > 3:  # frames, or views
    frames = image_HWC.reshape(-1, *image_HWC.shape[-3:])
    frames = [images.fit(images.to_rgb(seen(frame)), SIDE) for frame in frames]
    return video.strip(np.stack(frames), columns=min(len(frames), FRAMES))
  image_HWC = images.to_rgb(seen(image_HWC))
  if 'boxes' not in example:
    return images.fit(image_HWC, SIDE)
  grown_HWC = images.fit(image_HWC, LARGE)  # so that tags can be read
  real_N = example.get('box_mask', np.ones(len(example['boxes']), bool))
  labels_N = example.get('box_labels', np.zeros(len(real_N), int))
  scale = grown_HWC.shape[1] / image_HWC.shape[1]
  boxes_N4 = example['boxes'][real_N]
  if 'size' in example and boxes_N4.max(initial=0) <= 1:  # as boxes.Normalize has them
    height, width = example['size']
    sides = np.array([width, height, width, height], np.float32)
    boxes_N4 = np.asarray(box_ops.cxcywh_to_xyxy(boxes_N4)) * sides
  boxes_N4 = boxes_N4 * scale
  return boxes.draw(grown_HWC, boxes_N4, labels_N[real_N].tolist())


def seen(image_HWC: np.ndarray) -> np.ndarray:
  """Floats of a host, in [-1, 1], in [0, 1]."""
  return image_HWC if image_HWC.dtype == np.uint8 else (image_HWC + 1) / 2


def sheet(title: Sequence[str], cells: Sequence[list[Tile]]) -> np.ndarray:
  """Examples row by row under a title: RGB uint8 (H, W, 3)."""
  pictures = [image for cell in cells for image, _ in cell]
  height = max(image.shape[0] for image in pictures)
  width = max(NARROW, *(image.shape[1] for image in pictures))
  lines = max(len(lines) for cell in cells for _, lines in cell)
  tall, wide = height + lines * LINE + GAP, len(cells[0]) * (width + 4) + GAP
  columns = max(1, min(WIDTH // wide, len(cells)))
  top = GAP + len(title) * LINE + GAP
  font = ImageFont.load_default(12)
  measure = ImageDraw.Draw(Image.new('RGB', (1, 1))).textlength
  across = max(columns * wide, *(int(measure(line, font)) for line in title))
  size = (across + GAP, top + -(-len(cells) // columns) * tall)
  canvas = Image.new('RGB', size, 'white')
  draw = ImageDraw.Draw(canvas)
  for i, line in enumerate(title):
    draw.text((GAP, GAP + i * LINE), line, GREY if i else INK, font)
  for number, cell in enumerate(cells):
    row, column = divmod(number, columns)
    for i, (image_HWC, below) in enumerate(cell):
      x, y = GAP + column * wide + i * (width + 4), top + row * tall
      canvas.paste(Image.fromarray(image_HWC), (x, y + height - image_HWC.shape[0]))
      for j, line in enumerate(below):
        while measure(line, font) > width and len(line) > 4:
          line = f'{line[:-4]}...'
        ink = GREY if line.startswith('id ') else INK
        draw.text((x, y + height + 1 + j * LINE), line, ink, font)
  return np.asarray(canvas)


def listing(
  batch: pipeline.Batch, decode: Callable[[Sequence[int]], str] | None
) -> Lines:
  """Pairs of sequences in words, or their ids where there is no vocabulary."""
  lines = []
  for row in range(len(batch['source'])):
    parts = {}
    for name in 'source', 'target':
      ids = batch[name][row]
      parts[name] = ids, batch.get(f'{name}_segment', batch[name] != 0)[row]
    for segment in range(1, int(parts['source'][1].max(initial=0)) + 1):
      for name, (ids, segments) in parts.items():
        own = ids[segments == segment].tolist()
        text = decode(own) if decode else ' '.join(map(str, own))
        lines.append(f'{row:>4}.{segment:<3} {name}  {len(own):>4} tokens  {text}')
  return lines


def decoder(data: Any) -> Callable[[Sequence[int]], str] | None:
  """What makes words of ids, where the input has a vocabulary."""
  parts = reachable((data.source, data.transforms))
  return next((part.decode for _, part in parts if hasattr(part, 'decode')), None)


# Numbers


def ranges(arrays: Mapping[str, np.ndarray]) -> list[dict[str, Any]]:
  """What kind of values each array has."""
  return [
    {
      'name': name,
      'dtype': str(x.dtype),
      'shape': list(x.shape),
      'smallest': float(x.min()),
      'largest': float(x.max()),
      'mean': float(x.mean(dtype=np.float64)),
    }
    for name, x in arrays.items()
    if x.size
  ]


def label_counts(looked: Looked) -> dict[str, int]:
  """How often each class comes, the most frequent first."""
  if np.ndim(looked.real.get('label')) != 1:
    return {}
  classes, counts = np.unique(looked.real['label'], return_counts=True)
  order = np.argsort(-counts, kind='stable')
  return {looked.name(int(classes[i])): int(counts[i]) for i in order}


def arrays_table(rows: Sequence[Mapping[str, Any]]) -> rich.table.Table:
  """One line for each array."""
  table = rich.table.Table(box=rich.box.SIMPLE_HEAD)
  for name in ('array', 'type', 'shape'):
    table.add_column(name)
  for name in ('smallest', 'largest', 'mean'):
    table.add_column(name, justify='right')
  for row in rows:
    numbers = [f'{row[name]:.5g}' for name in ('smallest', 'largest', 'mean')]
    table.add_row(row['name'], row['dtype'], shape_text(row['shape']), *numbers)
  return table


def stages_table(stages: Sequence[Stage]) -> rich.table.Table:
  """What the host does, all of it, and what it need not wait for."""
  table = rich.table.Table(box=rich.box.SIMPLE_HEAD)
  table.add_column('ms for an example')
  for name in ('median', 'mean', 'share'):
    table.add_column(name, justify='right')
  total = sum(stage.mean_ms for stage in stages if stage.on_host)
  for stage in stages:
    share = f'{100 * stage.mean_ms / total:.1f} %' if stage.on_host else ''
    cells = f'{stage.median_ms:.4f}', f'{stage.mean_ms:.4f}', share
    if stage.name == 'stack':
      table.add_row(stage.name, *cells, end_section=True)
      table.add_row('in all, on the host', '', f'{total:.4f}', '', end_section=True)
    else:
      table.add_row(stage.name, *cells)
  return table


@errors.told_plainly
def main(argv: Sequence[str] | None = None) -> None:
  """Reads, draws, measures; prints and writes what it found."""
  parser = errors.parser(__doc__, allow_abbrev=False)
  add = parser.add_argument
  add('--input', default='train_data', help='or evals.NAME (%(default)s)')
  add('--out', type=pathlib.Path, default='looked', metavar='FOLDER')
  add('--batches', type=int, default=1, help='how many are shown (%(default)s)')
  add('--examples', type=int, default=64, help='of each, at most (%(default)s)')
  add('--seconds', type=float, default=3.0, help='to measure (%(default)s)')
  args, config = cli.parse(parser, argv)
  for flag in ('batches', 'examples'):
    if getattr(args, flag) < 1:
      raise UserError(f'--{flag}={getattr(args, flag)} is not positive')
  name, data, part = chosen(config, args.input)
  whole = data.batch_size
  data = dataclasses.replace(data, batch_size=min(whole, args.examples), workers=0)
  plain = spec.in_steps(config, spec.NOMINAL_EPOCH, whole)
  task = spec.build(plain['task'], 'config.task')
  key = jax.random.key(plain.get('seed', 0))
  looked = look(data, task, key, args.batches, part)
  training = isinstance(data, pipeline.TrainInput)
  compiled = jax.jit(functools.partial(on_device, task, training, part=part))
  stages = input_stages.measure(
    data, lambda batch: compiled(batch, key), looked.batches[0], args.seconds
  )
  tell(args, name, data, looked, stages, whole)


def tell(
  args: argparse.Namespace,
  name: str,
  data: Any,
  looked: Looked,
  stages: Sequence[Stage],
  whole: int,
) -> None:
  """Prints what was found, and writes it with the pictures."""
  arrays = ranges(looked.real) + [
    row | {'name': f'{row["name"]} on the device'} for row in ranges(looked.given)
  ]
  notes, labels = oddities(looked), label_counts(looked)
  rate = 1e3 / sum(stage.mean_ms for stage in stages if stage.on_host)
  size = f'{len(looked.batches)} x {data.batch_size}'
  cut = f', the first {data.batch_size} of {whole:,}' if data.batch_size < whole else ''
  say('input', f'{name} of {args.config}: {size} examples{cut}')
  console = rich.console.Console()
  console.print(arrays_table(arrays))
  if labels:
    (first, most), (last, least) = list(labels.items())[0], list(labels.items())[-1]
    count = f'{len(labels)} class{"" if len(labels) == 1 else "es"}'
    say('labels', f'{count}; most often {first} ({most}), least often {last} ({least})')
  if looked.padded_share is not None:
    say('padding', f'{100 * looked.padded_share:.1f} % of the pixels shown')
  for note in notes:
    say('odd', note)
  console.print(stages_table(stages))
  say('rate', f'{rate:,.0f} examples/s of one core, over {stages[0].examples} examples')
  found = {
    'config': args.config,
    'input': name,
    'batch_size': whole,
    'examples': sum(map(rows, looked.batches)),
    'padded_share': looked.padded_share,
    'arrays': arrays,
    'labels': labels,
    'odd': notes,
    'stages': [
      {
        name: getattr(stage, name)
        for name in ('name', 'median_ms', 'mean_ms', 'on_host')
      }
      for stage in stages
    ],
    'examples_per_second_per_core': rate,
  }
  write(args.out / f'{name}.json', json.dumps(found, indent=2) + '\n')
  if {'image', 'video'} & looked.batches[0].keys():
    title = [f'{name} of {args.config}: {size} examples{cut}']
    if 'target' in looked.given:
      title.append(
        'left: after the transforms of the host; right: as the model gets it'
      )
    drawn = sheet(title, list(tiles(looked)))
    write(args.out / f'{name}.png', images.png(drawn))
  if 'source' in looked.real:
    lines = listing(looked.real, decoder(data))
    write(args.out / f'{name}.txt', '\n'.join(lines) + '\n')
    for line in lines[:8]:
      print(line)


def write(path: pathlib.Path, data: str | bytes) -> None:
  """Writes a file and says so."""
  files.write(path, data)
  say('written', str(path))


if __name__ == '__main__':
  raise SystemExit(main())
