"""Prints published tables with the results of our runs, and lists missing results.

    python tools/paper_tables.py
    python tools/paper_tables.py 2010.11929 --table=2 --runs runs

Without a paper, the known papers are listed. For each table the command prints

- the published numbers and ours, from finished runs in or below the folders of --runs:
  mean and sample standard deviation over the seeds, and the number of seeds,
- parameters and operations of the models, as published and as counted from ours, and
- the configs to run for the numbers that are missing.

The same is written to --out as Markdown and as an HTML page.
"""

import collections
import dataclasses
import pathlib
import sys
from collections.abc import Mapping, Sequence

import jax
import rich.box
import rich.console
import rich.table
import rich.text

from big_vision_like import cli, errors, files
from big_vision_like.errors import UserError
from big_vision_like.report import page

# Other modules of tools, if this file is started as a script.
sys.path.insert(0, str(pathlib.Path(__file__).parents[1]))

from tools.papers import cells as paper_cells
from tools.papers.cells import FACTORS, Cell, Key, Ours, Table

MEMORY = 'quoted from memory, not checked against the paper'


@dataclasses.dataclass(frozen=True)
class Part:
  """A heading with a table of text and remarks, independent of the output format."""

  heading: str
  header: Sequence[str]
  rows: Sequence[Sequence[str]]
  remarks: Sequence[str] = ()


def reason(cell: Cell, found: Mapping[Key, Ours]) -> tuple[str, str]:
  """Returns why a cell has no result of ours: in two words, and in a sentence."""
  if cell.unit not in FACTORS:
    return 'not a score', f'{cell.unit} are not measured by our runs'
  there = [part.key in found for part in paper_cells.column_of(cell)]
  if cell.private and not any(there):
    return 'private data', f'{cell.private} is not public'
  if cell.mean_of:
    share = f'{sum(there)} of {len(there)}'
    return share, f'a mean over table {cell.mean_of}: {share} cells are there'
  if cell.config:
    return 'to run', f'run {cell.config}'
  if why := absent(cell.model):
    return 'no model', why
  return 'no config', 'no config names it yet'


def absent(model: str) -> str:
  """Returns why a published model cannot be built, or '' if it can."""
  for known in paper_cells.models():
    if known.model == model:
      try:
        paper_cells.build(known)
      except UserError:
        return f'the model {model} is not implemented yet'
  return ''


def grid(cells: Sequence[Cell], found: Mapping[Key, Ours]) -> Part:
  """Returns the published numbers with ours below them."""
  columns = list(dict.fromkeys(cell.column for cell in cells))
  at = {(cell.row, cell.column): cell for cell in cells}
  rows, remarks = [], []
  for row in dict.fromkeys(cell.row for cell in cells):
    published, given = [row], ['reproduced']
    for column in columns:
      cell = at.get((row, column))
      published.append(cell.text if cell else '-')
      ours = found.get(cell.key) if cell else None
      given.append(ours.text(cell) if ours else reason(cell, found)[0] if cell else '')
      if ours and ours.differences:
        how = '; '.join(ours.differences)
        remarks.append(f'{row}, {column}: differs from the config: {how}.')
    rows.append(published)
    if {*given[1:]} - {'', 'not a score'}:
      rows.append(given)
  for cell in cells:
    if cell.note and cell.note != 'from memory':
      remarks.append(f'{cell.row}, {cell.column}: {cell.note}.')
  recalled = sum(cell.note == 'from memory' for cell in cells)
  if recalled:
    which = 'All numbers are' if recalled == len(cells) else f'{recalled} numbers are'
    remarks.append(f'{which} {MEMORY}.')
  return Part('', ['', *columns], rows, remarks)


def sizes(cells: Sequence[Cell]) -> Part:
  """Returns parameters and operations: of published models, then of our configs."""
  header = ['model', 'pixels', 'parameters', 'counted', 'GMACs', 'counted', 'GFLOPs']
  rows, notes = [], {}
  wanted = {cell.model for cell in cells}
  for model in paper_cells.models():
    if model.model in wanted:
      published = f'{int(model.parameters):,}' if model.parameters else ''
      try:
        parameters, *operations = counted(*paper_cells.counted(model))
      except UserError:
        parameters, *operations = 'no model', '', ''
      row = [model.model, model.size, published, parameters, model.gmacs, *operations]
      rows.append(row)
      if model.note:
        notes[f'{model.note}.'] = True
  first, seen = {}, set()
  for name in dict.fromkeys(cell.config for cell in cells if cell.config):
    if shape := paper_cells.shape_of(name):
      first.setdefault(shape, name)
  for (model, _), name in first.items():
    pixels, *numbers = paper_cells.counted_config(name)
    if (model, pixels) not in seen:  # otherwise only the data differ
      seen.add((model, pixels))
      parameters, gmacs, gflops = counted(*numbers)
      rows.append([name, pixels, '', parameters, '', gmacs, gflops])
  remarks = [
    *notes,
    'MACs are multiply-accumulates of one image in the forward pass, FLOPs are twice as'
    ' many. They are counted from our models, for matrix products and convolutions.'
    ' Published classifiers have 1000 classes.',
  ]
  return Part('Models', header, rows, remarks)


def counted(parameters: int, macs: int) -> tuple[str, str, str]:
  """Returns parameters, GMACs and GFLOPs as text."""
  return f'{parameters:,}', f'{macs / 1e9:.2f}', f'{2 * macs / 1e9:.2f}'


def missing(cells: Sequence[Cell], found: Mapping[Key, Ours]) -> Part:
  """Returns what has to be run, and what cannot be run."""
  reasons = collections.defaultdict(list)
  for cell in cells:
    if cell.key not in found and cell.unit in FACTORS:
      reasons[reason(cell, found)[1]].append(cell)
  rows = [[why, listed(group, cells)] for why, group in reasons.items()]
  private = [cell.config for cell in cells if cell.private and cell.config]
  files = ', '.join(sorted({name.partition(':')[0] for name in private}))
  remarks = [f'Recipes for private data, or for your own: {files}.'] if files else []
  return Part('Missing', ['what to do', 'cells'], rows, remarks)


def listed(group: Sequence[Cell], cells: Sequence[Cell]) -> str:
  """Returns the cells by column: 'ViT-B/16: ImageNet, CIFAR-10; ViT-L/16: all'."""
  parts = []
  scores = [cell.column for cell in cells if cell.unit in FACTORS]
  for column in dict.fromkeys(cell.column for cell in group):
    rows = [cell.row for cell in group if cell.column == column]
    whole = 1 < len(rows) == scores.count(column)
    parts.append(f'{column}: {"all" if whole else ", ".join(rows)}')
  return '; '.join(parts)


def used(cells: Sequence[Cell], found: Mapping[Key, Ours]) -> Part:
  """Returns the runs behind the numbers."""
  rows = [
    [f'{cell.row}, {cell.column}', ', '.join(found[cell.key].folders)]
    for cell in cells
    if cell.key in found and not cell.mean_of
  ]
  return Part('Runs', ['cell', 'folders'], rows)


def section(table: Table, found: Mapping[Key, Ours]) -> tuple[str, list[Part]]:
  """Returns the heading and the parts of one table."""
  cells = [c for c in paper_cells.cells(table.paper) if c.table == table.table]
  parts = [grid(cells, found), sizes(cells), missing(cells, found), used(cells, found)]
  shown = [part for part in parts if part.rows or part.remarks]
  return f'Table {table.table}: {table.title}', shown


def show(heading: str, parts: Sequence[Part]) -> None:
  """Prints a section."""
  console = rich.console.Console()
  console.width = max(console.width, 120)  # better to wrap lines than to truncate cells
  console.rule(heading, align='left')
  for part in parts:
    table = rich.table.Table(
      title=part.heading or None, title_justify='left', box=rich.box.SIMPLE
    )
    console.print()
    for name in part.header:
      table.add_column(rich.text.Text(name), overflow='fold')
    for row in part.rows:
      table.add_row(*map(rich.text.Text, row))
    if part.rows:
      console.print(table)
    for remark in part.remarks:
      console.print(f'  {remark}', highlight=False, markup=False)
  console.print()


def markdown(title: str, sections: Sequence[tuple[str, Sequence[Part]]]) -> str:
  """Renders the tables as Markdown."""
  text = f'# {title}\n'
  for heading, parts in sections:
    text += f'\n## {heading}\n'
    for part in parts:
      text += f'\n### {part.heading}\n' if part.heading else ''
      if part.rows:
        lines = [part.header, ['---'] * len(part.header), *part.rows]
        text += '\n' + ''.join(f'| {" | ".join(line)} |\n' for line in lines)
      text += ''.join(f'\n{remark}\n' for remark in part.remarks)
  return text


def document(title: str, sections: Sequence[tuple[str, Sequence[Part]]]) -> str:
  """Renders the tables as an HTML page."""
  shown = []
  for heading, parts in sections:
    content = ''
    for part in parts:
      content += page.heading(part.heading) if part.heading else ''
      content += page.table(part.header, part.rows) if part.rows else ''
      content += ''.join(page.paragraph(remark) for remark in part.remarks)
    shown.append((heading, content))
  note = (
    'Published numbers, each with the result of our runs below: mean ± standard'
    ' deviation (number of seeds).'
  )
  return page.document(title, note, shown)


def selected(paper: str, table: str | None) -> list[Table]:
  """Returns one or all of the tables of a paper; `UserError` if there are none."""
  known = [t for t in paper_cells.tables() if t.paper == paper]
  if not known:
    listed = ', '.join(dict.fromkeys(t.paper for t in paper_cells.tables()))
    raise UserError(f'no tables of {paper!r} in {paper_cells.PAPERS}, only of {listed}')
  chosen = [t for t in known if table in (None, t.table)]
  if not chosen:
    raise UserError(
      f'{paper} has no table {table!r} here, only {", ".join(t.table for t in known)}'
    )
  return chosen


def papers() -> Part:
  """Returns the known papers and tables."""
  rows = [[t.paper, t.paper_title, t.table, t.title] for t in paper_cells.tables()]
  return Part('', ['paper', 'title', 'table', 'content'], rows)


@errors.told_plainly
def main(argv: Sequence[str] | None = None) -> None:
  """Parses the command line, prints and writes the tables."""
  parser = errors.parser(__doc__)
  parser.add_argument(
    'paper', nargs='?', help='its folder, an arXiv number; default: list known papers'
  )
  parser.add_argument('--table', help='number of a table; default: all')
  parser.add_argument(
    '--runs', nargs='*', default=[], metavar='FOLDER', help='runs, or folders of runs'
  )
  parser.add_argument(
    '--out', default='runs/tables', help='folder to write; default: %(default)s'
  )
  args = parser.parse_args(argv)
  jax.config.update('jax_platforms', 'cpu')  # only shapes are needed
  cli.set_up_jax()
  if args.paper is None:
    show('Papers whose tables are known', [papers()])
    return
  tables = selected(args.paper, args.table)
  runs, unfinished = paper_cells.find_runs(args.runs)
  found = paper_cells.all_ours(args.paper, runs)
  sections = [section(table, found) for table in tables]
  if unfinished:
    sections.append(('Runs left out', [Part('', [], [], unfinished)]))
  for heading, parts in sections:
    show(heading, parts)
  is_arxiv = args.paper.replace('.', '').isdecimal()
  title = f'{tables[0].paper_title}, {"arXiv:" * is_arxiv}{args.paper}'
  name = args.paper + (f'_table_{args.table}' if args.table else '')
  for end, text in (('md', markdown), ('html', document)):
    file = pathlib.Path(args.out) / f'{name}.{end}'
    files.write(file, text(title, sections))
    print(f'written    {file}')


if __name__ == '__main__':
  raise SystemExit(main())
