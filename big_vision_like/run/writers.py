"""Writers that send a run's metrics elsewhere, besides metrics.jsonl and TensorBoard.

A config names them in its field `writers`:

    c.writers = dict(wandb=spec(writers.WandB, project='vit'))
"""

import abc
import contextlib
import dataclasses
import importlib.util
import pathlib
import uuid
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import jax

from big_vision_like import files, spec
from big_vision_like.errors import UserError


class Writer(abc.ABC):
  """A receiver of a run's scalars; only the first process has one.

  A writer is built before anything is loaded, and must raise then if it cannot work,
  such as for a missing package. Its errors stop the run, so a writer that uses a
  network should store scalars and retry.
  """

  @abc.abstractmethod
  def start(self, workdir: pathlib.Path, config: Mapping[str, Any], step: int) -> None:
    """Begins at step 0, or at the step of the checkpoint from which the run resumes.

    If the run was killed, scalars of later steps may have been written already; they
    are written again.
    """

  @abc.abstractmethod
  def write(self, step: int, scalars: Mapping[str, float]) -> None:
    """Writes the scalars of a step, by names such as 'train/loss' and 'val/top1'.

    It may be called several times for a step, with different names.
    """

  @abc.abstractmethod
  def finish(self, failed: bool) -> None:
    """Ends the writer, after the last step, a signal to stop, or an error."""


@dataclasses.dataclass(kw_only=True)
class WandB(Writer):
  """A writer for Weights & Biases.

  Run `pip install '.[wandb]'` and `wandb login` first. The default `name` is the name
  of the workdir. `wandb_id.txt` stores the id of the W&B run, and a run that resumes
  continues it. `mode` is 'online', 'offline' (`wandb sync` uploads it later) or
  'disabled'.
  """

  project: str
  entity: str | None = None
  name: str | None = None
  tags: Sequence[str] = ()
  mode: str = 'online'

  def __post_init__(self) -> None:
    if importlib.util.find_spec('wandb') is None:
      raise UserError("wandb is not installed: pip install '.[wandb]'")

  def start(self, workdir: pathlib.Path, config: Mapping[str, Any], step: int) -> None:
    import wandb  # an optional dependency

    path = workdir / 'wandb_id.txt'
    if not path.exists():
      files.write(path, f'{uuid.uuid4().hex[:12]}\n')
    self._run = wandb.init(
      project=self.project,
      entity=self.entity,
      name=self.name or workdir.resolve().name,
      tags=list(self.tags),
      id=path.read_text().strip(),
      resume='allow',
      dir=str(workdir),
      config=dict(config),
      mode=self.mode,
    )
    # With W&B's own step counter, steps that are written again would be dropped.
    self._run.define_metric('step')
    self._run.define_metric('*', step_metric='step')

  def write(self, step: int, scalars: Mapping[str, float]) -> None:
    self._run.log({'step': step, **scalars})

  def finish(self, failed: bool) -> None:
    self._run.finish(exit_code=int(failed))


def build(nodes: Mapping[str, Any]) -> list[Writer]:
  """Returns the writers of a config, or none in processes other than the first."""
  if jax.process_index() != 0:
    return []
  made = []
  for name, node in nodes.items():
    writer = spec.build(node, f'config.writers.{name}')
    if not isinstance(writer, Writer):
      raise UserError(f'config.writers.{name} is not a Writer: {writer!r}')
    made.append(writer)
  return made


@contextlib.contextmanager
def started(
  made: Sequence[Writer], workdir: pathlib.Path, config: Mapping[str, Any], step: int
) -> Iterator[None]:
  """Starts writers, and finishes them when the block ends, with or without an error."""
  with contextlib.ExitStack() as stack:
    for writer in made:
      writer.start(workdir, config, step)
      stack.push(lambda kind, *_, writer=writer: writer.finish(kind is not None))
    yield
