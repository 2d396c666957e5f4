"""A writer for tests that appends its calls to a file."""

import dataclasses
import json
import pathlib

from big_vision_like.run import writers


@dataclasses.dataclass(kw_only=True)
class Recording(writers.Writer):
  """A writer that records each call as a line of JSON: its name and arguments."""

  path: str

  def start(self, workdir, config, step):
    self._append('start', str(workdir), config['seed'], step)

  def write(self, step, scalars):
    self._append('write', step, scalars)

  def finish(self, failed):
    self._append('finish', failed)

  def _append(self, *call):
    with pathlib.Path(self.path).open('a') as file:
      file.write(json.dumps(call) + '\n')
