"""Half-written files that killed runs leave in their directory, and their removal."""

import os
import pathlib
import re
import shutil

# Temporary names that `files.atomic` uses before renaming.
PART = re.compile(r'.+\.[0-9a-f]{8}\.part')


def clean(workdir: str | os.PathLike) -> list[str]:
  """Removes half-written files and folders of a run; returns their relative paths.

  Only the process that owns the run may call it, as another may still be writing them.
  Orbax removes unfinished checkpoints itself. Links are removed, never followed.
  """
  removed = []
  for folder, folders, names in os.walk(workdir):
    for name in [*names, *folders]:
      if not PART.fullmatch(name):
        continue
      path = pathlib.Path(folder, name)
      if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path, ignore_errors=True)
      else:
        path.unlink(missing_ok=True)
      removed.append(str(path.relative_to(workdir)))
    folders[:] = [name for name in folders if not PART.fullmatch(name)]
  return sorted(removed)
