"""Findings of the preflight: a table of all inputs, and one sentence per problem."""

import contextlib
import dataclasses
from collections.abc import Iterator, Sequence
from typing import Any

from big_vision_like.data.sources import tfds
from big_vision_like.data.sources.base import Source
from big_vision_like.devices.processes import say
from big_vision_like.errors import UserError, listed, plural

# Without problems, a run shows the table if it has at most this many rows.
FEW_ROWS = 12
HEADER = ('input', 'data set', 'split', 'examples', 'features', 'first example', '')
WIDEST = 40  # most characters in a cell


@dataclasses.dataclass
class Row:
  """A source that an input reads, and the cells of its line in the table.

  `place` is where the config names it. Inputs that do the same share a line.
  """

  place: str
  source: Source | None = None
  transforms: Sequence[Any] = ()
  examples: int | None = None
  features: str = ''
  first: str = ''
  left_out: str = ''

  @property
  def cells(self) -> list[str]:
    """The cells of its line between the place and the verdict."""
    if self.source is None:
      return [''] * 5
    count = '' if self.examples is None else f'{self.examples:,}'
    return [self.source.title, self.source.split, count, self.features, self.first]


@dataclasses.dataclass
class Findings:
  """Findings about all inputs of a config.

  `made` holds the inputs by their places, such as 'config.train_data', for
  `spec.build`. `evals` holds the evaluators by name, with durations not in steps yet.
  `problems` are sentences, each with the places it applies to. `remarks` are notes that
  people should know about an input although nothing is wrong, by its place.
  """

  made: dict[str, Any] = dataclasses.field(default_factory=dict)
  rows: list[Row] = dataclasses.field(default_factory=list)
  problems: dict[str, list[str]] = dataclasses.field(default_factory=dict)
  remarks: dict[str, list[str]] = dataclasses.field(default_factory=dict)
  evals: dict[str, Any] = dataclasses.field(default_factory=dict)
  thorough: bool = False
  missing: dict[str, Any] = dataclasses.field(default_factory=dict)
  seconds: float = 0.0

  @contextlib.contextmanager
  def noting(self, place: str) -> Iterator[None]:
    """Records a `UserError` inside as a problem of this place, and continues."""
    try:
      yield
    except UserError as error:
      if isinstance(error, tfds.MissingDataError):
        self.missing[str(error)] = error.source
      self.note(str(error), place)

  def note(self, sentence: str, place: str) -> None:
    """Records a problem; it is reported once, however many places have it."""
    places = self.problems.setdefault(sentence, [])
    if place not in places:
      places.append(place)

  def remark(self, place: str, text: str) -> None:
    """Records a remark that the table shows for an input instead of 'ok'."""
    own = self.remarks.setdefault(place, [])
    if text not in own:
      own.append(text)

  @property
  def told(self) -> list[tuple[str, list[str]]]:
    """Problem sentences with their places; one sentence covers all unprepared data."""
    told = []
    if self.missing:
      sentence, *more = self.missing
      if more:
        absent = list(self.missing.values())
        names = ', '.join(dict.fromkeys(repr(source.name) for source in absent))
        remedy = tfds.remedy(absent).replace('Prepare it', 'Prepare them')
        sentence = f'data sets {names} are not prepared. {remedy}'
      told.append((sentence, [p for text in self.missing for p in self.problems[text]]))
    for text, places in self.problems.items():
      if text not in self.missing:
        # Errors of `spec.build` already start with their config path.
        within = tuple(f'{place}.' for place in places)
        outer = [place for place in places if not place.startswith(within)]
        front = '' if text.startswith('config.') else f'{all_or_first(outer)}: '
        told.append((front + text, places))
    return told

  @property
  def table(self) -> list[str]:
    """The lines of the table: a header, and one per source."""
    told = self.told
    others = {p for _, at in told for p in at} - {row.place for row in self.rows}
    places: dict[tuple, list[str]] = {}
    cells = {}
    for row in [*self.rows, *map(Row, sorted(others))]:
      own = [i for i, (_, at) in enumerate(told, start=1) if row.place in at]
      remarks = self.remarks.get(row.place, [])
      same = (repr(row.source), repr(row.transforms), row.first, *own, *remarks)
      key = (row.place,) if row.source is None else same
      verdict = '; '.join(remarks) or 'ok'
      if own:
        numbers = 'below' if len(told) == 1 else ', '.join(map(str, own))
        verdict = f'see {numbers}'
      places.setdefault(key, []).append(row.place)
      cells[key] = [*row.cells, verdict]
    lines = [(all_or_first(names), *cells[key]) for key, names in places.items()]
    return aligned([HEADER, *lines])

  @property
  def left_out(self) -> list[str]:
    """A line for each source that skips some of its stored examples."""
    places: dict[tuple[str, str], list[str]] = {}
    for row in self.rows:
      if row.source is not None and row.left_out:
        places.setdefault((repr(row.source), row.left_out), []).append(row.place)
    return [f'{all_or_first(at)}: left out {what}' for (_, what), at in places.items()]

  def report(self, whole: bool = True) -> None:
    """Prints the table, and raises one `UserError` that lists all problems.

    If there are no problems and no remarks, a long table is printed only if `whole`.
    """
    told = self.told
    shown = told or whole or self.remarks or len(self.rows) <= FEW_ROWS
    lines = [f'  {line}' for line in (self.table if shown else ())]
    took = (
      f'{plural(len(self.rows), "source")} of examples tried in {self.seconds:.1f} s'
    )
    lines += [f'  {line}' for line in self.left_out]
    say('inputs', '\n'.join([took, *lines]))
    if len(told) == 1:
      raise UserError(told[0][0])
    if told:
      lines = '\n'.join(f'  {i}. {text}' for i, (text, _) in enumerate(told, start=1))
      raise UserError(f'{len(told)} things are wrong with the inputs.\n{lines}')


def short(place: str) -> str:
  """Returns a place without its 'config.' prefix."""
  return place.removeprefix('config.')


def all_or_first(places: Sequence[str]) -> str:
  """Returns all places, or if that is too long the first and the number of others."""
  joined = ', '.join(places)
  return joined if len(joined) <= WIDEST else listed(places, most=1)


def aligned(lines: Sequence[Sequence[str]]) -> list[str]:
  """Aligns the columns, with numbers to the right."""
  # Verdicts come last and may be long.
  cells = [[*map(cut, line[:-1]), line[-1]] for line in lines]
  widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
  return [
    '  '.join(
      cell.rjust(width) if name == 'examples' else cell.ljust(width)
      for name, cell, width in zip(HEADER, line, widths, strict=True)
    ).rstrip()
    for line in cells
  ]


def cut(text: str, length: int = WIDEST) -> str:
  """Truncates a text to `length` characters."""
  return text if len(text) <= length else f'{text[: length - 3]}...'
