"""Trains three small models, and draws the pictures of the README with them.

    python tools/readme_figures.py [--runs runs/readme] [--out docs]

Writes classification.png, detection.png and discovery.png. The examples are spread
evenly over the validation data, not selected. The data sets are drawn, so nothing is
downloaded. Training takes about 9 minutes of CPU time on two cores. Rerun the command
to resume; runs that are complete are only drawn.
"""

import io
import pathlib
import sys
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np
from PIL import Image

# Other modules of tools, if this file is started as a script.
sys.path.insert(0, str(pathlib.Path(__file__).parents[1]))

from big_vision_like import cli, errors, files, spec, train
from big_vision_like.evals import object_discovery
from big_vision_like.inference import loading, predict, predict_detection
from big_vision_like.report import compose
from big_vision_like.report import slots as report_slots
from big_vision_like.report.source import evenly
from big_vision_like.run import experiment
from big_vision_like.viz import captions, images, slots
from big_vision_like.viz import detection as drawing
from tools import prepare_data

DATA = ('glyphs', 'digits', 'scenes/simple', 'tetrominoes/7')
GAP = 12  # pixels between examples
LARGEST = 200_000  # bytes


class Figure(NamedTuple):
  """A config, overrides of its fields, and the function that draws a run of it."""

  config: str
  draw: Callable[[pathlib.Path], np.ndarray]
  overrides: Sequence[str] = ()


def classification(run: pathlib.Path) -> np.ndarray:
  """Draws characters with the predicted class, and the same brightened by attention."""
  predictor = predict.Predictor(*loading.load(str(run)))
  cells = []
  for example in spread_examples(run, 8):
    sized_HWC = predictor.preprocess.sized(example['image'])
    logits_C, rollout_hw = predictor.outputs(sized_HWC)
    [(name, score)] = predictor.preprocess.top(logits_C, 1)
    shown_HWC = images.fit(images.to_rgb(sized_HWC), 128)
    pair_BHWC = np.stack([shown_HWC, images.highlight(shown_HWC, rollout_hw)])
    cell_HWC = images.tile(pair_BHWC, columns=1)
    cells.append(captions.captioned(cell_HWC, f'{name}  {predict.percent(score)}'))
  return images.tile(np.stack(cells), columns=4, gap=GAP)


def detection(run: pathlib.Path) -> np.ndarray:
  """Draws scenes with the detected objects, and the decoder's attention for two."""
  detector = predict_detection.Detector(*loading.load(str(run)))
  detector.draws = True
  sheets = []
  for example in spread_examples(run, 3):
    *_, pictures = detector(example['image'])
    sheets.append(pictures.get('-attention', pictures['']))
  # Of each sheet the first row, of all objects and of the two surest.
  side = predict_detection.ATTENDED_SIDE * 9 // 10
  cut = [sheet_HWC[:side, : 3 * side + 4] for sheet_HWC in sheets]
  return images.tile(drawing.stacked(cut), columns=1, gap=GAP)


def discovery(run: pathlib.Path) -> np.ndarray:
  """Draws images, their reconstructions, and the content of each slot."""
  source = compose.read(str(run), None, 1024, '')
  found = source.found
  examples = evenly(len(found.index_N), 3)
  rows = report_slots.drawn(source, found, object_discovery.drawn, examples)
  sheets = []
  for row in rows:
    image_HWC, *by_iteration = (row[name] for name in object_discovery.DRAWN)
    last = [array_T[-1:] for array_T in by_iteration]
    sheets.append(slots.slots_sheet(image_HWC, *last, row['segmentation']))
  return images.tile(np.stack(sheets), columns=1, gap=GAP)


def encoded(picture_HWC: np.ndarray) -> bytes:
  """Encodes a picture as a PNG that is a third of the size of `images.png`."""
  out = io.BytesIO()
  Image.fromarray(picture_HWC).save(out, 'PNG', optimize=True)
  return out.getvalue()


FIGURES = {
  'classification': Figure('configs/vit/pretrain_glyphs.py', classification),
  'detection': Figure('configs/detr/small.py', detection),
  'discovery': Figure(
    'configs/slot_attention/small.py', discovery, ('total_steps=8_000',)
  ),
}


def spread_examples(run: pathlib.Path, count: int) -> list[dict[str, Any]]:
  """Returns examples spread evenly over a run's validation data."""
  config = spec.load(str(run / 'config.json'), root=experiment.Settings)
  source = spec.build(config.evals.val.data.source)
  return [source[index] for index in evenly(len(source), count).tolist()]


@errors.told_plainly
def main(argv: Sequence[str] | None = None) -> None:
  """Prepares the data, trains the models, and writes the pictures."""
  parser = errors.parser(__doc__)
  parser.add_argument(
    '--runs', default='runs/readme', help='folder of the runs; default: %(default)s'
  )
  parser.add_argument(
    '--out', default='docs', help='folder of the pictures; default: %(default)s'
  )
  parser.add_argument(
    '--only', choices=FIGURES, nargs='+', default=[*FIGURES], help='some of the figures'
  )
  parser.add_argument(
    '--override', action='append', default=[], help='FIELD=VALUE, for every config'
  )
  args = parser.parse_args(argv)
  cli.set_up_jax()
  prepare_data.main(DATA)
  for name in args.only:
    path, draw, overrides = FIGURES[name]
    run, file = pathlib.Path(args.runs, name), pathlib.Path(args.out, f'{name}.png')
    overrides = [*overrides, *args.override]
    config = spec.load(path, overrides, root=experiment.Settings)
    config.name = spec.name_of(path)
    train.train(config, run)
    data = encoded(draw(run))
    if len(data) > LARGEST:
      raise errors.UserError(f'{file} has {len(data):,} bytes, more than {LARGEST:,}')
    files.write(file, data)
    print(f'written   {file}: {len(data):,} bytes')


if __name__ == '__main__':
  raise SystemExit(main())
