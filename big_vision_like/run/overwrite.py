"""Removal of a run from its directory, so that another can start there."""

import os
import pathlib
import re
import shutil
import uuid

from big_vision_like import files
from big_vision_like.errors import UserError
from big_vision_like.run.workdir import FAILURE

# Files and folders that training and `evaluate` write, and nobody else. The lock stays.
FILES = re.compile(
  r'(config|learned|evaluation-\d+)\.json|(changes|metrics)\.jsonl|failure\.txt'
  r'|bad_records(-\d+)?\.txt|wandb_id\.txt'
)
FOLDERS = re.compile(r'checkpoints|tensorboard|capsule-\d+|unreadable-\d+(\.\d+)?')
# Fields that every config of a run has.
FIELDS = {'task', 'train_data', 'total_steps'}


def remove_run(workdir: pathlib.Path) -> tuple[list[str], list[str]]:
  """Removes the files of a run from a folder; returns their names and the others.

  Only the process that owns the folder may call it. Raises, before anything is removed,
  if there are files like those of a run without the config of one, or if one of them is
  a link to another place. Folders are renamed before they are removed, so that a kill
  leaves no half of a checkpoint; `leftovers.clean` removes the rest at the next start.
  """
  entries = {entry.name: entry for entry in os.scandir(workdir)}
  own = sorted(
    name
    for name, entry in entries.items()
    if (FOLDERS if entry.is_dir() else FILES).fullmatch(name)
  )
  if {*own} - {FAILURE} and not _is_run(workdir / 'config.json'):
    raise UserError(
      f'--overwrite: {workdir} has {", ".join(own)} but no config.json of a run, so'
      ' they may belong to something else: remove them yourself, or name another'
      ' --workdir'
    )
  for name in own:
    if entries[name].is_symlink():
      raise UserError(
        f'--overwrite: {workdir / name} is a link to {os.readlink(workdir / name)}:'
        ' remove or rename it yourself, or name another --workdir'
      )
  # The config goes last: it shows that the other files are those of a run.
  for name in sorted(own, key=lambda name: name == 'config.json'):
    path = workdir / name
    if not entries[name].is_dir():
      path.unlink()
      continue
    part = path.with_name(f'{name}.{uuid.uuid4().hex[:8]}.part')
    os.replace(path, part)
    shutil.rmtree(part)
  rest = sorted(entries.keys() - {*own, 'lock'})
  shown = [f'{name}/' if entries[name].is_dir() else name for name in own]
  return shown, [f'{name}/' if entries[name].is_dir() else name for name in rest]


def _is_run(path: pathlib.Path) -> bool:
  """Returns whether a file is the saved config of a run."""
  try:
    return FIELDS <= files.read_fields(path).keys()
  except (OSError, UserError):  # absent, damaged, or another program's
    return False
