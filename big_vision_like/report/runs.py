"""Tables and curves of a run's config and metrics.jsonl, as HTML."""

import collections
import dataclasses
import datetime
import json
import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from big_vision_like import spec
from big_vision_like.errors import plural
from big_vision_like.report import page
from big_vision_like.viz import curves

# The order of charts and their titles, by the last part of a metric's name. Other
# metrics of evaluators are titled by that part and come next; all others are folded.
TITLES = {
  'loss': 'loss',
  'top1': 'top-1 accuracy',
  'top5': 'top-5 accuracy',
  'AP': 'average precision (AP)',
  'AP50': 'AP at IoU 0.5',
  'AP75': 'AP at IoU 0.75',
  'rate': 'learning rate',
  'gradient_norm': 'gradient norm',
}
FOLDED = {
  'examples_per_second': 'examples per second',
  'input_wait': 'time waiting for input',
  'mfu': 'model FLOPs utilisation',
  'seconds': 'seconds since the start',
}
SPREAD = ' std'  # suffix of a metric's standard deviation
# Metrics of evaluators that refine others: by size or number of objects, and counts.
MINOR = re.compile(rf'AP[sml]|AR\w*|[RS]Q\w*|PQ(th|st)|count|.*{SPREAD}')
# Metrics between 0 and 1 that are shown as percentages.
SHARES = re.compile(
  r'(\w+_)?top[15]|\d+-shot|AP\w*|AR\w*|ap_[\w.-]+|[PSR]Q\w*|heads_agree|exact|mfu'
  rf'|input_wait|(\d+-shot{SPREAD})'
)


@dataclasses.dataclass(frozen=True)
class Log:
  """A run's config as plain data, its records of metrics.jsonl, and more facts."""

  name: str
  config: Mapping[str, Any]
  records: Sequence[Mapping[str, Any]]
  facts: Mapping[str, str] = dataclasses.field(default_factory=dict)


def summary(logs: Sequence[Log]) -> str:
  """Returns the config highlights and final metrics, one column per run."""
  columns = [highlights(log) for log in logs]
  names = list(dict.fromkeys(name for column in columns for name in column))
  header = ['', *(log.name for log in logs)]
  text = page.table(
    header if len(logs) > 1 else [],
    [[name, *(column.get(name, '') for column in columns)] for name in names],
  )
  if len(logs) > 1:
    flat = [flattened(log.config) for log in logs]
    keys = dict.fromkeys(key for config in flat for key in config)
    rows = [[key, *(config.get(key, '(absent)') for config in flat)] for key in keys]
    rows = [row for row in rows if len(set(row[1:])) > 1]
    differences = (
      page.table(header, rows) if rows else page.paragraph('No differences.')
    )
    text += page.details('Where the configs differ', differences)
  for log in logs:
    which = f' of {log.name}' if len(logs) > 1 else ''
    config = page.preformatted(json.dumps(log.config, indent=2))
    text += page.details(f'Full config{which}', config)
  return text


def highlights(log: Log) -> dict[str, str]:
  """Returns the main facts about a run by their titles."""
  config, task = log.config, dict(log.config.get('task', {}))
  parts = task.pop('tasks', {})  # of a task that trains several
  rows = {} if parts else {'model': described(task.pop('model', None))}
  rows |= {
    'optimizer': described(task.pop('optimizer', None)),
    'task': described(task),
    **{f'tasks.{name}': described(part) for name, part in parts.items()},
    **log.facts,
    'steps': f'{max((r["step"] for r in log.records), default=0):,}',
  }
  if 'total_steps' in config:
    rows['steps'] += f' of {duration(config["total_steps"])}'
  batch_size = config.get('train_data', {}).get('batch_size')
  if batch_size is not None:
    rows['batch size'] = described(batch_size)
  return rows | timing(log.records) | final_metrics(log.records)


def duration(node: Any) -> str:
  """Returns a number of steps, or of epochs or examples if the config counts these."""
  if isinstance(node, Mapping):
    [(unit, count)] = node.items()
    return f'{count:,} {unit}'
  return f'{node:,}'


def timing(records: Sequence[Mapping[str, Any]]) -> dict[str, str]:
  """Returns wall time and throughput, as far as the records have them."""
  rows = {}
  seconds = [r['seconds'] for r in records if 'seconds' in r]
  if seconds:
    rows['time'] = str(datetime.timedelta(seconds=round(seconds[-1])))
  rates = [r['examples_per_second'] for r in records if 'examples_per_second' in r]
  if rates:
    rows['examples per second'] = f'{np.median(rates):,.0f} (median)'
  return rows


def final_metrics(records: Sequence[Mapping[str, Any]]) -> dict[str, str]:
  """Returns the last value of the training loss and of each evaluated metric."""
  last = {}
  for record in records:
    for key, value in scalars(record):
      if record['kind'] == 'eval' and not key.endswith(SPREAD):
        text = value_text(key, value, record.get(key + SPREAD))
        last[key] = f'{text} at step {record["step"]:,}'
      elif record['kind'] == 'train' and key == 'loss':
        last['training loss'] = f'{value:.4g} at step {record["step"]:,}'
  return last


def is_share(name: str, values: Sequence[float] = ()) -> bool:
  """Returns whether a metric is a share between 0 and 1, shown as a percentage."""
  known = SHARES.fullmatch(name.rpartition('/')[2]) is not None
  return known and all(0.0 <= value <= 1.0 for value in values if np.isfinite(value))


def value_text(name: str, value: float, spread: float | None = None) -> str:
  """Returns a value as '96.1 %', '91.0 ± 1.2 %' or '0.4213'."""
  if is_share(name, [value]):
    more = '' if spread is None else f' ± {100 * spread:.1f}'
    return f'{100 * value:.1f}{more} %'
  return f'{value:.4g}' + ('' if spread is None else f' ± {spread:.2g}')


def learning_curves(logs: Sequence[Log]) -> str:
  """Returns one chart per quantity, with the curves of all runs and data sets.

  Quantities that were measured only once are rows of a table. Charts that explain
  others, or only the course of training, unfold on a click.
  """
  groups = collections.defaultdict(list)
  evaluated = set()
  for index, log in enumerate(logs):
    for (kind, key), pairs in series(log.records).items():
      where, _, quantity = key.rpartition('/')
      label = where or ('training' if kind == 'train' else kind)
      group = groups[quantity]
      evaluated |= {quantity} if kind == 'eval' else set()
      # Colours distinguish runs, dashes their data sets; for one run, colours do both.
      colour, dash = len(group), 0
      if len(logs) > 1:
        colour, dash = index, sum(curve.colour == index for curve in group)
        label = f'{log.name}, {label}'
      steps, values = zip(*pairs, strict=True)
      group.append(curves.Curve(label, steps, values, colour=colour, dash=dash))
  if not groups:
    return page.paragraph('No curves: metrics.jsonl is missing or empty.', 'absent')
  others = [q for q in sorted(groups, key=_natural) if q not in TITLES | FOLDED]
  minor = [q for q in others if q not in evaluated or MINOR.fullmatch(q)]
  shown = [*TITLES, *(q for q in others if q not in minor)]
  folded = [q for q in [*FOLDED, *minor] if q in groups]
  text = charts_and_values(
    {q: groups[q] for q in shown if q in groups},
    'Hover over a line for its values. Where a thick line covers a pale one, the pale'
    ' line has the logged values and the thick line their running mean over 2\u00a0%'
    ' of the values.',
  )
  if folded:
    content = charts_and_values({q: groups[q] for q in folded})
    text += page.details(plural(len(folded), 'more measurement'), content)
  return text


def charts_and_values(
  groups: Mapping[str, Sequence[curves.Curve]], *captions: str
) -> str:
  """Returns charts of quantities, and a table of those that were measured once."""
  once = {q for q, group in groups.items() if all(len(c.y) < 2 for c in group)}
  drawn = [curve_chart(q, group) for q, group in groups.items() if q not in once]
  text = page.figure(page.charts(drawn), *captions) if drawn else ''
  return text + single_values({q: groups[q] for q in groups if q in once})


def single_values(groups: Mapping[str, Sequence[curves.Curve]]) -> str:
  """Returns a table of quantities that were measured once; '' if there are none."""
  rows = [
    [title_of(q), curve.label, value_text(q, curve.y[0]), f'{curve.x[0]:,}']
    for q, group in groups.items()
    for curve in group
  ]
  header = ['measured once', 'by', 'value', 'at step']
  return page.table(header, rows) if rows else ''


def title_of(quantity: str) -> str:
  """Returns the title of a quantity, which is its name unless it has another."""
  return (TITLES | FOLDED).get(quantity, quantity)


def series(
  records: Sequence[Mapping[str, Any]],
) -> dict[tuple[str, str], list[tuple[int, float]]]:
  """Returns the (step, value) pairs of every scalar, by kind of record and name."""
  pairs = collections.defaultdict(list)
  for record in records:
    if record['kind'] in ('train', 'eval'):
      for key, value in scalars(record):
        pairs[record['kind'], key].append((record['step'], value))
  return pairs


def curve_chart(quantity: str, group: Sequence[curves.Curve]) -> str:
  """Returns a chart of one quantity.

  Shares are drawn in percent, and losses over 1.5 decades with a log axis.
  """
  title = title_of(quantity)
  values = np.concatenate([np.asarray(curve.y, np.float64) for curve in group])
  values = values[np.isfinite(values)]
  if not len(values):
    return page.paragraph(f'{title}: no finite values.', 'absent')
  log = 'loss' in title and values.min() > 0 and np.ptp(np.log10(values)) > 1.5
  if not is_share(quantity, values):
    return curves.chart(group, title, log=bool(log))
  group = [dataclasses.replace(c, y=[100 * value for value in c.y]) for c in group]
  return curves.chart(group, f'{title}, %', limits=(0.0, 100.0))


def scalars(record: Mapping[str, Any]) -> Iterator[tuple[str, float]]:
  """Yields the names and numbers of a record, without its step."""
  for key, value in record.items():
    if key != 'step' and type(value) in (int, float):
      yield key, float(value)


def described(node: Any) -> str:
  """Returns a recorded call as one line of Python: name(argument=value, ...)."""
  if isinstance(node, Mapping):
    inside = ', '.join(f'{k}={described(v)}' for k, v in node.items() if k != '_fn')
    name = node.get('_fn', 'dict').rpartition(':')[2]
    return f'{name}({inside})' if inside else name
  if isinstance(node, (list, tuple)):
    return f'[{", ".join(map(described, node))}]'
  return node if isinstance(node, str) else json.dumps(node)


def flattened(config: Mapping[str, Any]) -> dict[str, str]:
  """Returns the values of a config as text, by their paths."""
  return {place: described(value) for place, value in spec.leaves(config)}


def _natural(name: str) -> list[tuple[int, str]]:
  """Returns a sort key that puts '5-shot' before '10-shot'."""
  return [(int(n or 0), text) for n, text in re.findall(r'(\d*)(\D*)', name)]
