"""Shows the batches the model sees, and a timing breakdown of the input pipeline.

    python tools/show_input.py --config=configs/vit/digits.py --out=looked

Writes looked/train_data.png, a sheet of the first batches. Each example is shown as it
leaves the transforms of the host. If the task augments images on the device (flips,
erases, mixes), the image that the model receives in that step of a run is shown next to
it, un-normalized. Boxes are drawn, clips are shown as rows of frames, and sequences are
written to train_data.txt. The terminal and train_data.json list the arrays, warnings
about suspicious values, and the time of each stage on one core.

--input=evals.val shows another input. Only the first --examples of a larger batch are
taken, and mixed among themselves.
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
from big_vision_like.run.labels import reachable, vocabulary
from big_vision_like.viz import boxes, images, video

# Other modules of tools, if this file is started as a script.
sys.path.insert(0, str(pathlib.Path(__file__).parents[1]))

from tools.benchmark.parts import input_stages
from tools.benchmark.parts.input_stages import Stage

SIDE, LARGE = 112, 336  # largest side in pixels of a tile, and of one with boxes
NARROW = 90  # smallest width in pixels of a tile, for the text below it
WIDTH, FRAMES = 1400, 8  # width of a sheet in pixels, frames in a row
GAP, LINE = 10, 15  # pixels between tiles, height of a line of text
STAGE = ('name', 'median_ms', 'mean_ms', 'on_host')  # fields of a stage in JSON
SHARE = 0.005  # classes with a smaller share of a target are not named
INK, GREY = (20, 20, 20), (120, 120, 120)

Lines = list[str]
# A picture and the lines below it. An example has one tile, or two side by side.
Tile = tuple[np.ndarray, Lines]


@dataclasses.dataclass(frozen=True)
class Looked:
  """The first batches of an input, on the host and as the model receives them.

  `device` has `image` and `target` of each batch, or the numbered inputs of the model.
  `replaced` lists the bad records that were replaced. `names` are the names of the
  classes, and `box_names` those of objects, if known.
  """

  batches: list[pipeline.Batch]
  device: list[dict[str, np.ndarray]]
  replaced: Lines
  names: Sequence[str]
  mean: np.ndarray
  std: np.ndarray
  box_names: Mapping[int, str] = dataclasses.field(default_factory=dict)

  def name(self, label: int) -> str:
    """Returns the name of a class."""
    return self.names[label] if 0 <= label < len(self.names) else str(label)

  @functools.cached_property
  def real(self) -> pipeline.Batch:
    """All rows except padding of the last batch, joined by `joined`."""
    return self._joined(self.batches)

  @functools.cached_property
  def given(self) -> dict[str, np.ndarray]:
    """The arrays that the model receives for `real`."""
    return self._joined(self.device)

  def _joined(self, parts: Sequence[Mapping[str, np.ndarray]]) -> dict[str, np.ndarray]:
    real = [
      {k: x[kept(batch)] for k, x in part.items()}
      for part, batch in zip(parts, self.batches, strict=True)
    ]
    return joined(real)

  @functools.cached_property
  def padded_share(self) -> float | None:
    """The share of the pixels that is padding; None if batches do not have `size`."""
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
    """Whether the device does more to images than normalize them."""
    if 'target' not in self.given:
      return False
    host_BHWC = self.real['image']
    if host_BHWC.dtype != np.uint8:
      return True
    seen_BHWC = self.shown(self.given['image'])
    largest_B = self.given['target'].max(axis=1)
    return np.abs(255 * seen_BHWC - host_BHWC).max() > 0.5 or largest_B.min() < 0.5

  def shown(self, image_BHWC: np.ndarray) -> np.ndarray:
    """Undoes normalization: images in [0, 1], with values outside where augmented."""
    return (image_BHWC * self.std + self.mean).astype(np.float32)


def rows(batch: Mapping[str, np.ndarray]) -> int:
  """Returns the number of rows of a batch."""
  return len(next(iter(batch.values())))


def kept(batch: pipeline.Batch) -> np.ndarray:
  """Returns a mask of the rows that are examples, not padding: bool (B,)."""
  return batch.get('mask', np.ones(rows(batch), bool))


def joined(batches: Sequence[Mapping[str, np.ndarray]]) -> dict[str, np.ndarray]:
  """Concatenates batches array by array.

  Arrays whose shapes differ between batches stay apart, as 'image 768x1024' and so on.
  """
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
  """Returns the name of an input, the input, and the task it feeds.

  'evals.val' stands for 'evals.val.data', and the name of several training inputs for
  the first of them. The task is '' unless there are several.
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
  raise UserError(f'--input={wanted} is not one of {", ".join(places)}.')


def look(data: Any, task: Any, key: jax.Array, batches: int, part: str = '') -> Looked:
  """Reads the first batches and runs the device's part of the pipeline on them.

  `part` names the task that they are for, if there are several.
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
  box_names = vocabulary(data).get('box_labels', {})
  return Looked(given, device, replaced, names_of(data), mean, std, box_names)


def on_device(
  task: Any, training: bool, batch: pipeline.Batch, key: jax.Array, part: str = ''
) -> dict[str, jax.Array]:
  """Returns the networks' inputs, or `image` and `target` where a task makes these."""
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
  """Returns the names of the classes, or () if transforms change the labels."""
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
  """Returns warnings about values that may well be a mistake."""
  batch, notes = looked.real, list(looked.replaced)
  count = int(sum(kept(batch).sum() for batch in looked.batches))
  for name, x in (batch | looked.given).items():
    if x.dtype.kind == 'f' and not np.isfinite(x).all():
      notes.append(f'{name} has non-finite values')
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
        f'{100 * outside:.2g} % of the values that the model receives are outside the'
        ' range of images, as after erasing with noise: clipped in the picture'
      )
  return notes


def odd_pictures(name: str, values_BP: np.ndarray) -> Lines:
  """Returns warnings about images or clips, given as P values each."""
  notes, count = [], len(values_BP)
  plain = int((values_BP.min(axis=1) == values_BP.max(axis=1)).sum())
  if plain:
    notes.append(f'{plain} of {count} {name}s have a single colour')
  if values_BP.dtype == np.uint8 and 0 < values_BP.max() <= 1:
    notes.append(f'{name}s only hold 0 and 1: image.Brighten scales these to 0 and 255')
  same = count - len({row.tobytes() for row in values_BP})
  if same:
    notes.append(f'{same} of {count} {name}s are duplicates of another one')
  return notes


# Pictures


def tiles(looked: Looked) -> Iterator[list[Tile]]:
  """Yields the tiles of each example: of the host, and of the device if it augments."""
  for batch, device in zip(looked.batches, looked.device, strict=True):
    for row in range(rows(batch)):
      example = {name: x[row] for name, x in batch.items()}
      cell = [(picture(example, looked.box_names), caption(example, looked))]
      if looked.augmented:
        seen_HWC = images.to_rgb(looked.shown(device['image'][row]))
        lines = shares(device['target'][row], looked.name)
        cell.append((images.fit(seen_HWC, SIDE), lines))
      yield cell


def caption(example: Mapping[str, np.ndarray], looked: Looked) -> Lines:
  """Returns the lines below a picture: the label and the id of the example."""
  if not example.get('mask', True):
    return ['padding of the batch']
  lines = []
  if np.ndim(example.get('label', [])) == 0:
    lines.append(looked.name(int(example['label'])))
  if 'id' in example:
    lines.append(f'id {example["id"]}')
  return lines


def shares(target_C: np.ndarray, name: Callable[[int], str]) -> Lines:
  """Returns the largest classes of a target: '0.63 tench', '+ 0.37 goldfish'.

  The share that label smoothing gives to all classes is subtracted.
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


def picture(
  example: Mapping[str, np.ndarray], box_names: Mapping[int, str]
) -> np.ndarray:
  """Draws an image with its boxes, or a strip of frames or views: uint8 (H, W, 3).

  Boxes without a name in `box_names` have their numbers.
  """
  image_HWC = example['video' if 'video' in example else 'image']
  if image_HWC.ndim > 3:  # frames, or views
    frames = image_HWC.reshape(-1, *image_HWC.shape[-3:])
    frames = [images.fit(images.to_rgb(seen(frame)), SIDE) for frame in frames]
    return video.strip(np.stack(frames), columns=min(len(frames), FRAMES))
  image_HWC = images.to_rgb(seen(image_HWC))
  if 'boxes' not in example:
    return images.fit(image_HWC, SIDE)
  grown_HWC = images.fit(image_HWC, LARGE)  # large enough for legible tags
  real_N = example.get('box_mask', np.ones(len(example['boxes']), bool))
  labels_N = example.get('box_labels', np.zeros(len(real_N), int))
  scale = grown_HWC.shape[1] / image_HWC.shape[1]
  boxes_N4 = example['boxes'][real_N]
  if 'size' in example and boxes_N4.max(initial=0) <= 1:  # after boxes.Normalize
    height, width = example['size']
    sides = np.array([width, height, width, height], np.float32)
    boxes_N4 = np.asarray(box_ops.cxcywh_to_xyxy(boxes_N4)) * sides
  boxes_N4 = boxes_N4 * scale
  labels = [box_names.get(label, label) for label in labels_N[real_N].tolist()]
  return boxes.draw(grown_HWC, boxes_N4, labels)


def seen(image_HWC: np.ndarray) -> np.ndarray:
  """Returns an image of the host in [0, 1]; uint8 is returned unchanged."""
  return image_HWC if image_HWC.dtype == np.uint8 else (image_HWC + 1) / 2


def sheet(title: Sequence[str], cells: Sequence[list[Tile]]) -> np.ndarray:
  """Draws the tiles in rows under a title: RGB uint8 (H, W, 3)."""
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
  """Returns pairs of sequences as text, or as ids if there is no vocabulary."""
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
  """Returns the function that decodes ids, if the input has a vocabulary."""
  parts = reachable((data.source, data.transforms))
  return next((part.decode for _, part in parts if hasattr(part, 'decode')), None)


# Numbers


def ranges(arrays: Mapping[str, np.ndarray]) -> list[dict[str, Any]]:
  """Returns the type, shape, extremes and mean of each array that is not empty."""
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
  """Returns the number of examples of each class, the most frequent first."""
  if np.ndim(looked.real.get('label')) != 1:
    return {}
  classes, counts = np.unique(looked.real['label'], return_counts=True)
  order = np.argsort(-counts, kind='stable')
  return {looked.name(int(classes[i])): int(counts[i]) for i in order}


def arrays_table(rows: Sequence[Mapping[str, Any]]) -> rich.table.Table:
  """Returns a table with one row per array."""
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
  """Returns a table of the stages of the host, their sum, and stages of the device."""
  table = rich.table.Table(box=rich.box.SIMPLE_HEAD)
  table.add_column('ms per example')
  for name in ('median', 'mean', 'share'):
    table.add_column(name, justify='right')
  total = sum(stage.mean_ms for stage in stages if stage.on_host)
  for stage in stages:
    share = f'{100 * stage.mean_ms / total:.1f} %' if stage.on_host else ''
    cells = f'{stage.median_ms:.4f}', f'{stage.mean_ms:.4f}', share
    if stage.name == 'stack':
      table.add_row(stage.name, *cells, end_section=True)
      table.add_row('total on the host', '', f'{total:.4f}', '', end_section=True)
    else:
      table.add_row(stage.name, *cells)
  return table


@errors.told_plainly
def main(argv: Sequence[str] | None = None) -> None:
  """Reads batches, measures the stages, then prints and writes the results."""
  parser = errors.parser(__doc__, allow_abbrev=False)
  add = parser.add_argument
  add(
    '--input', default='train_data', help='input to show, or evals.NAME (%(default)s)'
  )
  add('--out', type=pathlib.Path, default='looked', help='folder (%(default)s)')
  add('--batches', type=int, default=1, help='number of batches (%(default)s)')
  add('--examples', type=int, default=64, help='at most N of each batch (%(default)s)')
  add('--seconds', type=float, default=3.0, help='time to measure for (%(default)s)')
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
  """Prints the results, and writes them with the pictures."""
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
    say('labels', f'{count}; most frequent {first} ({most}), least {last} ({least})')
  if looked.padded_share is not None:
    say('padding', f'{100 * looked.padded_share:.1f} % of the pixels shown')
  for note in notes:
    say('warning', note)
  console.print(stages_table(stages))
  say('rate', f'{rate:,.0f} examples/s on one core, over {stages[0].examples} examples')
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
    if looked.augmented:
      title.append(
        "pairs: left after the host's transforms, right as the model receives it"
      )
    drawn = sheet(title, list(tiles(looked)))
    write(args.out / f'{name}.png', images.png(drawn))
  if 'source' in looked.real:
    lines = listing(looked.real, decoder(data))
    write(args.out / f'{name}.txt', '\n'.join(lines) + '\n')
    for line in lines[:8]:
      print(line)


def write(path: pathlib.Path, data: str | bytes) -> None:
  """Writes a file and prints its path."""
  files.write(path, data)
  say('written', str(path))


if __name__ == '__main__':
  raise SystemExit(main())
