"""Composition of the HTML page about runs, or about weights, from sections."""

import dataclasses
import datetime
import importlib
import pathlib
import pkgutil
from collections.abc import Mapping, Sequence
from typing import Any

import jax

from big_vision_like import files, report, upgrade
from big_vision_like import spec as specs
from big_vision_like.errors import UserError
from big_vision_like.inference import loading
from big_vision_like.report import page, runs
from big_vision_like.report import weights as report_weights
from big_vision_like.report.source import Plain, Section, Source
from big_vision_like.run import checkpoint, metrics
from big_vision_like.run import workdir as workdirs


def of_runs(
  folders: Sequence[str],
  step: int | None = None,
  num_examples: int = 1024,
  evaluator: str = '',
) -> str:
  """Returns the page about the runs in these folders."""
  sources = [read(folder, step, num_examples, evaluator) for folder in folders]
  for source, name in zip(sources, distinct_names(folders), strict=True):
    source.log = dataclasses.replace(source.log, name=name)
  return render(sources)


def read(workdir: str, step: int | None, num_examples: int, evaluator: str) -> Source:
  """Reads a run's folder; `UserError` if it is not a run."""
  folder = pathlib.Path(workdir)
  file = folder / 'config.json'
  if not file.is_file():
    raise UserError(f'{folder} is not a run directory: it has no config.json.')
  config = upgrade.upgraded(files.read_fields(file))
  evals = config.get('evals', {})
  if evaluator and evaluator not in evals:
    listed = ', '.join(evals) or 'none'
    raise UserError(f'--evaluator={evaluator}: the config of {folder} has {listed}.')
  records = metrics.read(folder)
  run, why, facts = None, '', {}
  if any(path.name.isdigit() for path in folder.glob('checkpoints/*')):
    run = loading.load_run(workdir, step=step)
    sizes = [leaf.size for leaf in jax.tree.leaves(run.state.params)]
    facts['parameters'] = f'{sum(sizes):,}'
    facts['checkpoint shown'] = f'step {int(run.state.step):,}'
    facts |= {
      place.removeprefix('config.'): workdirs.described(identity)
      for place, identity in (checkpoint.data_of(folder) or {}).items()
    }
  elif not records:
    raise UserError(f'{folder} has no logged steps and no checkpoint: has it started?')
  else:
    why = f'{folder / "checkpoints"} has no checkpoints.'
  for entry in workdirs.read_changes(folder):
    told = '; '.join([*entry['config'], *entry['data']])
    facts[f'changed at step {entry["step"]:,}'] = told
  log = runs.Log(str(folder), config, records, facts)
  source = source_of(config)
  return source(log, run, why, num_examples, evaluator)


def source_of(config: Mapping[str, Any]) -> type[Source]:
  """Returns the class of reports for the run that a config describes.

  A module of this package declares the class for what the task predicts. Runs of other
  tasks, or with other inputs, get the general sections and those of their model only.
  """
  task = specs.symbol(config['task'], 'config.task')
  found = specs.declared(report, 'predicts').get(task.predicts, Plain)
  return found if found.shows(config) else Plain


def sections_of_model(source: Source) -> Sequence[Section]:
  """Returns the sections for the model of a run.

  A module of this package declares them in `OF_MODELS`, by the class of the model.
  """
  kind = type(source.run.network.module) if source.run is not None else None
  found: list[Section] = []
  for info in pkgutil.iter_modules(report.__path__, f'{report.__name__}.'):
    module = importlib.import_module(info.name)
    found += getattr(module, 'OF_MODELS', {}).get(kind, ())
  return found


def distinct_names(folders: Sequence[str]) -> list[str]:
  """Returns the last parts of the folders, or whole paths if parts are not distinct."""
  names = [pathlib.Path(folder).resolve().name for folder in folders]
  return names if len(set(names)) == len(names) else list(folders)


def render(sources: Sequence[Source]) -> str:
  """Returns the whole page, with each section shared by the runs that have it."""
  logs = [source.log for source in sources]
  sections = [('Summary', runs.summary(logs)), ('Curves', runs.learning_curves(logs))]
  shown: dict[str, list[tuple[Source, Section]]] = {}
  for source in sources:
    for section in (*source.sections, *sections_of_model(source)):
      if section.fits(source):
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


def of_weights(
  path: str, pictures: Sequence[str], size: tuple[int, int] | None, step: int | None
) -> str:
  """Returns the page about weights and their outputs for pictures."""
  source, sections = report_weights.read(path, pictures, size, step), []
  for section in source.sections:
    if not section.fits(source):
      continue
    content, caption = shown_or_why(section, source)
    sections.append((section.heading, page.figure(content, *caption)))
  title = pathlib.Path(source.path).name
  return page.document(title, f'Report on weights, written {now()}', sections)


def shown_or_why(section: Section, source: Any) -> tuple[str, list[str]]:
  """Returns the content and captions of a section, or a paragraph with the error."""
  try:
    content, caption = section.show(source)
  except UserError as reason:
    return page.paragraph(f'Not shown: {reason}', 'absent'), []
  return content, [caption] if caption else []


def now() -> str:
  return datetime.datetime.now().strftime('%Y-%m-%d %H:%M')
