"""Further places for what a run measures, besides metrics.jsonl and TensorBoard.

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
  """Receives the scalars of a run; only the first process has one.

  A writer is built before anything is loaded: what it lacks it says then. Its errors
  stop the run, so it keeps and retries what a network may lose.
  """

  @abc.abstractmethod
  def start(self, workdir: pathlib.Path, config: Mapping[str, Any], step: int) -> None:
    """Begins at a step, 0 or that of the checkpoint from which the run resumes.

    Scalars of later steps may have been written before the run was killed; they are
    written again.
    """

  @abc.abstractmethod
  def write(self, step: int, scalars: Mapping[str, float]) -> None:
    """Takes scalars of a step by names such as 'train/loss' and 'val/top1'.

    A step may come several times, with other names.
    """

  @abc.abstractmethod
  def finish(self, failed: bool) -> None:
    """Ends, after the last step, a signal to stop, or an error."""


@dataclasses.dataclass(kw_only=True)
class WandB(Writer):
  """Weights & Biases; `pip install '.[wandb]'` and `wandb login` first.

  `name` is the workdir's unless given. A run that resumes continues the same W&B run,
  whose id is in `wandb_id.txt`. `mode` is 'online', 'offline' (`wandb sync` uploads
  later) or 'disabled'.
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
    import wandb  # an extra

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
    # By W&B's own count a step that is written again would be dropped.
    self._run.define_metric('step')
    self._run.define_metric('*', step_metric='step')

  def write(self, step: int, scalars: Mapping[str, float]) -> None:
    self._run.log({'step': step, **scalars})

  def finish(self, failed: bool) -> None:
    self._run.finish(exit_code=int(failed))


def build(nodes: Mapping[str, Any]) -> list[Writer]:
  """Builds the writers of a config; none in processes other than the first."""
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
  """Has writers started inside, and finished in the end."""
  with contextlib.ExitStack() as stack:
    for writer in made:
      writer.start(workdir, config, step)
      stack.push(lambda kind, *_, writer=writer: writer.finish(kind is not None))
    yield
