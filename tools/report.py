"""Writes one self-contained HTML page about training runs, or about weights.

  python tools/report.py runs/digits
  python tools/report.py runs/small runs/large --out=comparison.html
  python tools/report.py --weights=B_16.npz --images cat.jpg dog.jpg

The page shows configs and final metrics, curves, inputs as the model sees them and
predictions. Of a vision transformer it shows what it learned: patch filters, position
embeddings, attention (arXiv:2010.11929, figures 6, 7 and 11); of a sequence to sequence
run the attention between tokens, head by head; of Slot Attention what each slot holds,
iteration by iteration (arXiv:2006.15055, figures 3 and 6), or the objects that it
predicts beside the true ones; of DETR the boxes that it finds beside the true ones,
where it looked for them, where the boxes of each query lie, and precision
(arXiv:2005.12872, figures 6 and 7). Several runs stand side by side, and their curves
share axes. What a run cannot show is left out with a reason.

Of weights, which may be published ones (.npz, .safetensors) or a run's, the page shows
the same of a vision transformer, with images of one's own.
"""

import argparse
import dataclasses
import datetime
import json
import pathlib
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import report_detection
import report_images
import report_sequences
import report_slots
import report_source
import report_weights
from report_source import Section, Source

from big_vision_like import cli, errors, evaluate, upgrade
from big_vision_like import spec as specs
from big_vision_like.errors import UserError
from big_vision_like.run import metrics
from big_vision_like.viz import page, runs

# By what a task predicts; of others the page has general sections only.
SOURCES = {
  'classes': report_images.Source,
  'sequences': report_sequences.Source,
  'slots': report_slots.Discovery,
  'sets': report_slots.Sets,
  'objects': report_detection.Source,
}


def read(workdir: str, step: int | None, num_examples: int, evaluator: str) -> Source:
  """Reads a run's folder; UserError when it is not one."""
  folder = pathlib.Path(workdir)
  file = folder / 'config.json'
  if not file.is_file():
    raise UserError(f'{folder} is not the folder of a run: it has no config.json.')
  config = upgrade.upgraded(json.loads(file.read_text()))
  evals = config.get('evals', {})
  if evaluator and evaluator not in evals:
    listed = ', '.join(evals) or 'none'
    raise UserError(f'--evaluator={evaluator}: the config of {folder} has {listed}.')
  records = metrics.read(folder)
  run, why, facts = None, '', {}
  if any(path.name.isdigit() for path in folder.glob('checkpoints/*')):
    run = evaluate.load_run(workdir, step=step)
    sizes = [leaf.size for leaf in jax.tree.leaves(run.state.params)]
    facts['parameters'] = f'{sum(sizes):,}'
    facts['checkpoint shown'] = f'step {int(run.state.step):,}'
  else:
    why = f'{folder / "checkpoints"} holds no checkpoint.'
  log = runs.Log(str(folder), config, records, facts)
  source = source_of(config)
  return source(log, run, why, num_examples, evaluator)


def source_of(config: Mapping[str, Any]) -> type[Source]:
  """The kind of run that a config describes."""
  task = specs.symbol(config['task'], 'config.task')
  return SOURCES.get(task.predicts, report_source.Plain)


def distinct_names(folders: Sequence[str]) -> list[str]:
  """The folders' last parts, or the whole paths where those are not distinct."""
  names = [pathlib.Path(folder).resolve().name for folder in folders]
  return names if len(set(names)) == len(names) else list(folders)


def render(sources: Sequence[Source]) -> str:
  """The whole page: of each section what the runs have that know it."""
  logs = [source.log for source in sources]
  sections = [('Summary', runs.summary(logs)), ('Curves', runs.learning_curves(logs))]
  shown: dict[str, list[tuple[Source, Section]]] = {}
  for source in sources:
    for section in source.sections:
      shown.setdefault(section.heading, []).append((source, section))
  for heading, pairs in shown.items():
    parts, captions = [], {}
    for source, section in pairs:
      content, caption = shown_or_why(section, source)
      captions |= dict.fromkeys(caption)
      title = page.heading(source.log.name) if len(sources) > 1 else ''
      parts.append(title + content)
    content = page.arranged(parts, pairs[0][1].layout)
    sections.append((heading, page.figure(content, *captions)))
  title = ', '.join(source.log.name for source in sources)
  return page.document(title, f'Training report, written {now()}', sections)


def render_weights(source: report_weights.Source) -> str:
  """The whole page about weights."""
  sections = []
  for section in source.sections:
    content, caption = shown_or_why(section, source)
    sections.append((section.heading, page.figure(content, *caption)))
  title = pathlib.Path(source.path).name
  return page.document(title, f'Report on weights, written {now()}', sections)


def shown_or_why(section: Section, source: Any) -> tuple[str, list[str]]:
  """A section of a page and its caption, or the reason why there is none."""
  try:
    content, caption = section.show(source)
  except UserError as reason:
    return page.paragraph(f'Not shown: {reason}', 'absent'), []
  return content, [caption] if caption else []


def now() -> str:
  return datetime.datetime.now().strftime('%Y-%m-%d %H:%M')


@errors.told_plainly
def main(arguments: Sequence[str] | None = None) -> None:
  """Parses the command line and writes the page."""
  parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
  parser.add_argument('runs', nargs='*', help='folders of runs (--workdir of train)')
  parser.add_argument(
    '--out', help='the page; default: report.html in the first run, or by the weights'
  )
  parser.add_argument('--step', type=int, help='checkpoint to show; default: the last')
  parser.add_argument(
    '--evaluator', default='', help='whose examples to show; default: the first fitting'
  )
  parser.add_argument(
    '--examples', type=int, default=1024, help='how many evaluation examples to predict'
  )
  parser.add_argument(
    '--weights', help='a file of weights, a folder with one or a run, instead of runs'
  )
  parser.add_argument('--images', nargs='+', default=[], help='what --weights look at')
  parser.add_argument(
    '--image-size',
    type=int,
    nargs='+',
    metavar='PIXELS',
    help='of --images: a side, or height and width; default what the weights want',
  )
  options = parser.parse_args(arguments)
  cli.set_up_jax()
  if options.weights:
    out, text = about_weights(options)
  else:
    out, text = about_runs(options)
  out.write_text(text, encoding='utf-8')
  print(out)


def about_runs(options: argparse.Namespace) -> tuple[pathlib.Path, str]:
  """Where the page goes, and the page."""
  if not options.runs:
    raise UserError('name the folders of runs, or --weights.')
  if options.images or options.image_size:
    raise UserError('--images and --image-size are for --weights.')
  if options.examples < 1:
    raise UserError(f'--examples={options.examples}: at least one is needed.')
  sources = [
    read(run, options.step, options.examples, options.evaluator) for run in options.runs
  ]
  for source, name in zip(sources, distinct_names(options.runs), strict=True):
    source.log = dataclasses.replace(source.log, name=name)
  out = pathlib.Path(options.out or pathlib.Path(options.runs[0]) / 'report.html')
  return out, render(sources)


def about_weights(options: argparse.Namespace) -> tuple[pathlib.Path, str]:
  """The same of weights: the page lies in or beside them."""
  if options.runs:
    raise UserError(f'--weights stands alone, without {", ".join(options.runs)}.')
  weights, size = pathlib.Path(options.weights), options.image_size
  if size is not None and len(size) > 2:
    raise UserError('--image-size takes a side, or height and width.')
  size = size and (size[0], size[-1])
  source = report_weights.read(options.weights, options.images, size, options.step)
  if options.out:
    out = pathlib.Path(options.out)
  elif weights.is_dir():
    out = weights / 'report.html'
  else:
    out = weights.with_suffix('.html')
  return out, render_weights(source)


if __name__ == '__main__':
  raise SystemExit(main())
