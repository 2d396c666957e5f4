"""Run directories: one owner at a time, one config, and the same data throughout.

A run claims its directory with its first checkpoint; until then, any config may start
there. Later changes are written to `changes.jsonl`.
"""

import contextlib
import dataclasses
import datetime
import fcntl
import json
import os
import pathlib
import re
import socket
import time
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import jax
import ml_collections as mlc

from big_vision_like import files, spec, upgrade
from big_vision_like.data.sources.base import Identified, Source
from big_vision_like.devices import processes
from big_vision_like.devices.processes import say
from big_vision_like.errors import UserError, plural
from big_vision_like.run import checkpoint, metrics
from big_vision_like.run.labels import reachable

# Fields that affect neither the numbers of training nor the results of an evaluator:
# where the run computes, and how often it logs and saves.
SETTINGS = (
  *('name', 'mesh', 'sharding', 'on_failed_evaluation', 'log_every', 'writers'),
  *('checkpoint_every', 'check_replicas_every', 'keep_last', 'keep_every', 'keep_best'),
)
# Fields that may differ when a run resumes, including all evaluation fields.
FREE = re.compile(
  rf'({"|".join(SETTINGS)}|evals)([.\[].*)?'
  r'|train_data\.(.+\.)?(workers|threads|bad_share)'
)
# Fields with the locations of data and weights, which are identified by their content.
STORED = re.compile(r'train_data\.(.+\.)?source\..+|frozen\..+')
ACCEPT = ('config', 'data')
FAILURE = 'failure.txt'  # why the last training in a folder failed, if it did


@contextlib.contextmanager
def owned(workdir: pathlib.Path) -> Iterator[None]:
  """Locks a run directory against other trainings, until the process ends.

  The lock is the system's (flock), so a dead process never holds it. The file `lock`
  only names the owner. With several processes, the first one holds the lock.
  """
  with contextlib.ExitStack() as stack:
    with processes.together():
      if jax.process_index() == 0:
        stack.enter_context(_locked(workdir))
    yield


@contextlib.contextmanager
def _locked(workdir: pathlib.Path) -> Iterator[None]:
  try:
    workdir.mkdir(parents=True, exist_ok=True)
    file = (workdir / 'lock').open('a+')
  except FileExistsError as error:
    raise UserError(f'--workdir={workdir} is a file, not a folder') from error
  except OSError as error:
    raise UserError(
      f'--workdir={workdir} cannot be written to ({error.strerror}): name a writable'
      ' folder'
    ) from error
  with file:
    try:
      try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
      except BlockingIOError:
        time.sleep(0.1)  # `is_owned` holds it for less
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as error:
      file.seek(0)
      owner = file.read().strip() or 'another process'
      raise UserError(
        f'{workdir} is in use by {owner}: stop that run, or name another --workdir'
      ) from error
    except OSError:  # a file system without locks
      say('lock', f'{workdir} cannot be locked: nothing keeps a second run out of it')
    file.truncate(0)
    now = datetime.datetime.now().isoformat(sep=' ', timespec='seconds')
    file.write(f'process {os.getpid()} on {socket.gethostname()} since {now}\n')
    file.flush()
    with _failures_noted(workdir / FAILURE):
      yield


@contextlib.contextmanager
def _failures_noted(path: pathlib.Path) -> Iterator[None]:
  """Writes an error raised inside to a file, which is removed at the start."""
  path.unlink(missing_ok=True)
  try:
    yield
  except Exception as error:
    kind = '' if isinstance(error, UserError) else f'{type(error).__name__}: '
    with contextlib.suppress(OSError):  # the disk may be what has failed
      files.write(path, f'{kind}{error}\n')
    raise


def is_owned(workdir: pathlib.Path) -> bool:
  """Returns whether a process, on any machine that shares the folder, trains there."""
  try:
    with (workdir / 'lock').open() as file:
      fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
  except BlockingIOError:
    return True
  except OSError:  # no lock, or a file system without them
    return False
  return False


@dataclasses.dataclass(frozen=True)
class Changes:
  """The differences between a run and its resumption, as lines for people."""

  config: tuple[str, ...] = ()
  data: tuple[str, ...] = ()
  accepted: tuple[str, ...] = ()
  extended: bool = False


def claim(
  workdir: pathlib.Path,
  config: mlc.ConfigDict,
  data: Mapping[str, Any] | None = None,
  accept: Sequence[str] = (),
  total_steps: int | None = None,
) -> Changes:
  """Compares a config and the identity of its data with the run in a folder.

  `data` is the result of `identities`. Settings that affect no number may differ, and
  so may the locations of data and weights with the same content. A finished run may be
  extended to more `total_steps`, with the fields that the config computes from them.
  Anything else raises, unless `accept` names it ('config' or 'data'). Without a
  checkpoint there is no run to compare with.
  """
  path = workdir / 'config.json'
  if not checkpoint.steps(workdir):
    return Changes()
  then, plain = checkpoint.data_of(workdir), json.loads(config.to_json())
  if path.exists():
    saved = upgrade.upgraded(files.read_fields(path))
  elif 'config' in accept:
    saved = {}
  else:
    raise UserError(
      f'{workdir} has checkpoints but no config.json to compare the config with:'
      ' restore that file, use another --workdir, or continue with this config:'
      ' --accept=config'
    )
  before, now = (dict(spec.leaves(c)) for c in (saved, upgrade.upgraded(plain)))
  fields = sorted(
    key for key in {*before, *now} if before.get(key, ...) != now.get(key, ...)
  )
  known = then is not None and data is not None
  other = differences(then, data, fields) if known else []
  refused = [
    key for key in fields if not FREE.match(key) and not (known and STORED.match(key))
  ]
  lines = {
    key: f'config.{key}: {before.get(key, "absent")} -> {now.get(key, "absent")}'
    for key in fields
  }
  only_length = bool(refused) and _follow_length(config, saved, refused)
  end = _total_steps(workdir, saved)
  last = checkpoint.steps(workdir)[-1]
  extended = only_length and end is not None and end <= last < (total_steps or 0)
  if refused and not extended and 'config' not in accept:
    shown = '\n'.join(f'  {lines[key]}' for key in refused)
    if only_length:
      raise UserError(
        f'{workdir} belongs to a run of another length, which is at step {last:,}:\n'
        f'{shown}\nOnly a finished run can be extended, to more steps: finish it with'
        f' its own length, use another --workdir, or accept the new one:'
        ' --accept=config'
      )
    raise UserError(
      f'{workdir} belongs to a run with another config:\n{shown}\nUse another'
      f' --workdir, or the saved config: --config={path}, or accept the new one:'
      ' --accept=config'
    )
  if other and 'data' not in accept:
    shown = '\n'.join(f'  {line}' for line in other)
    raise UserError(
      f'{workdir} belongs to a run on other data:\n{shown}\nRestore the data, use'
      ' another --workdir, or accept the new data: --accept=data'
    )
  found = {'config': [] if extended else refused, 'data': other}
  accepted = [name for name in ACCEPT if found[name]]
  changed = tuple(lines[key] for key in fields)
  return Changes(changed, tuple(other), tuple(accepted), extended)


def _follow_length(
  config: mlc.ConfigDict, saved: Mapping[str, Any], fields: Sequence[str]
) -> bool:
  """Returns whether fields differ from a saved config only as `total_steps` does.

  With the saved `total_steps`, the config then has the saved values in all of them.
  """
  own = config.total_steps
  with config.unlocked(), config.ignore_type():
    try:
      config.total_steps = _thawed(saved.get('total_steps'))
      plain = json.loads(config.to_json())
    finally:
      config.total_steps = own
  before, now = (dict(spec.leaves(c)) for c in (saved, upgrade.upgraded(plain)))
  return all(before.get(key, ...) == now.get(key, ...) for key in fields)


def _thawed(value: Any) -> Any:
  """Returns a saved duration as a config holds it."""
  return mlc.ConfigDict(value) if isinstance(value, Mapping) else value


def _total_steps(workdir: pathlib.Path, saved: Mapping[str, Any]) -> int | None:
  """Returns the last step of the run in a folder; None if it is not known."""
  total = saved.get('total_steps')
  return total if isinstance(total, int) else metrics.total_steps(workdir)


def identities(
  train: Any,
  evaluators: Mapping[str, Any],
  frozen: Mapping[str, Mapping[str, str]] | None = None,
) -> dict[str, Any]:
  """Returns plain data that identify everything a run reads, by places in the config.

  Sources are identified by `Source.identity`, vocabularies of transforms by their
  content, and `frozen` networks by the checksums of their variables.
  """
  found = {}
  for place, node in [
    ('config.train_data', train),
    *((f'config.evals.{name}', node) for name, node in evaluators.items()),
  ]:
    for where, thing in reachable(node, place, whole=Identified):
      if isinstance(thing, Source):
        found[where] = thing.identity()
      elif isinstance(thing, Identified):
        found[where] = {'fingerprint': thing.fingerprint()}
  for name, sums in (frozen or {}).items():
    found[f'config.frozen.{name}'] = {'fingerprint': files.sha256(sums)}
  return json.loads(json.dumps(found))


def differences(
  before: Mapping[str, Any], now: Mapping[str, Any], fields: Sequence[str]
) -> list[str]:
  """Returns a line for each place where the data have changed.

  `fields` are the config fields that differ: evaluators that have changed may read any
  data.
  """
  lines = []
  for place in sorted({*before, *now}):
    one, other = before.get(place), now.get(place)
    evaluator = re.match(r'config\.(evals\.[^.]+\.)', place)
    changed = evaluator and any(field.startswith(evaluator[1]) for field in fields)
    if changed or (evaluator and None in (one, other)):
      continue
    if one is None or other is None:
      lines.append(f'{place}: {"not there before" if one is None else "gone"}')
    elif one['fingerprint'] != other['fingerprint']:
      lines.append(f'{place}: {_difference(one, other)}')
  return lines


def _difference(one: Mapping[str, Any], other: Mapping[str, Any]) -> str:
  """Returns 'Folder fruit: examples 21 -> 24', or that only the content differs."""
  names = ('split', 'examples', 'files', 'bytes', 'classes')
  told = [
    f'{name} {_text(one.get(name))} -> {_text(other.get(name))}'
    for name in names
    if one.get(name) != other.get(name)
  ]
  inner = [
    f'{name}: {_difference(part, other["inner"][name])}'
    for name, part in one.get('inner', {}).items()
    if other.get('inner', {}).get(name, part)['fingerprint'] != part['fingerprint']
  ]
  title = f'{other["title"]}: ' if 'title' in other else ''
  return title + ('; '.join([', '.join(told)] * bool(told) + inner) or 'other content')


def described(identity: Mapping[str, Any]) -> str:
  """Formats as 'digits 1.0.0 train, 1,347 examples, 1 file, 0.5 MB (59060f0a)'."""
  parts = [f'{identity.get("title", "")} {identity.get("split", "")}'.strip()]
  if 'examples' in identity:
    parts.append(f'{identity["examples"]:,} examples')
  if identity.get('files'):
    parts.append(plural(identity['files'], 'file'))
    parts.append(f'{identity["bytes"] / 1e6:,.1f} MB')
  return ', '.join(filter(None, parts)) + f' ({identity["fingerprint"][:8]})'


def read_changes(workdir: pathlib.Path) -> list[dict[str, Any]]:
  """Returns the entries written by `record`, oldest first; skips damaged lines."""
  return files.read_lines(workdir / 'changes.jsonl', _is_change)


def _is_change(value: Mapping[str, Any]) -> bool:
  """Returns whether a line has the fields that `record` writes."""
  lists = [value.get('config'), value.get('data')]
  return type(value.get('step')) is int and all(
    isinstance(lines, list) and all(isinstance(line, str) for line in lines)
    for lines in lists
  )


def _text(value: Any) -> str:
  return f'{value:,}' if isinstance(value, int) else str(value)


def record(
  workdir: pathlib.Path, config: mlc.ConfigDict, step: int, changes: Changes
) -> None:
  """Saves the config, and prints and records what has changed at a step."""
  for line in [*changes.config, *changes.data]:
    say('changed', line)
  if jax.process_index() != 0:
    return
  files.write_json(workdir / 'config.json', json.loads(config.to_json()))
  if changes.config or changes.data:
    now = datetime.datetime.now().isoformat(timespec='seconds')
    entry = {'step': step, 'time': now, **dataclasses.asdict(changes)}
    entries = [*read_changes(workdir), entry]
    lines = ''.join(json.dumps(entry) + '\n' for entry in entries)
    files.write(workdir / 'changes.jsonl', lines)
