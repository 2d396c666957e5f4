import math
import re

import pytest

from big_vision_like.report import runs


def config(width: int = 8, **fields) -> dict:
  model = {'_fn': 'big_vision_like.models.vit:ViT', 'width': width, 'pool': 'gap'}
  rate = {'_fn': 'optax:cosine_decay_schedule', 'init_value': 0.1}
  optimizer = {'_fn': 'big_vision_like.optim:adamw', 'rate': rate}
  task = {'_fn': 'a.b:Classification', 'model': model, 'optimizer': optimizer}
  return {
    'task': task,
    'total_steps': 4000,
    'train_data': {'batch_size': 64, 'transforms': [{'_fn': 'a:Crop', 'size': 9}]},
    **fields,
  }


def records(scale: float = 1.0) -> list[dict]:
  lines = [
    {'step': s, 'kind': 'train', 'loss': scale / s, 'rate': 0.1, 'seconds': 60.0 * s}
    for s in range(1, 61)
  ]
  lines[9]['loss'] = math.nan
  few_shot = {'digits/5-shot': 0.91, 'digits/5-shot std': 0.0123}
  return [
    {'step': 1, 'kind': 'info', 'compile_seconds': 3.0},
    *lines,
    {'step': 30, 'kind': 'eval', 'val/loss': 2.0},
    {'step': 60, 'kind': 'eval', 'val/loss': 1.25, **few_shot},
  ]


def table_of(text: str) -> dict[str, list[str]]:
  """Returns the rows of the first table."""
  text = text.replace('<wbr>', '')
  rows = re.findall('<tr>(.*?)</tr>', text.split('</table>')[0])
  cells = [re.findall(r'<t[hd][^>]*>(.*?)</t[hd]>', row) for row in rows]
  return {name: values for name, *values in cells}


def test_summary_tells_config_and_final_metrics():
  log = runs.Log('runs/a', config(), records(), {'parameters': '1,234'})
  table = table_of(runs.summary([log]))
  assert table == {
    'model': ['ViT(width=8, pool=gap)'],
    'optimizer': ['adamw(rate=cosine_decay_schedule(init_value=0.1))'],
    'task': ['Classification'],
    'parameters': ['1,234'],
    'steps': ['60 of 4,000'],
    'batch size': ['64'],
    'time': ['1:00:00'],
    'training loss': ['0.01667 at step 60'],
    'val/loss': ['1.25 at step 60'],
    'digits/5-shot': ['91.0 ± 1.2 % at step 60'],
  }


def test_summary_of_two_runs_lists_differences():
  logs = [
    runs.Log('a', config(), records()),
    runs.Log('b', config(width=16, seed=3), []),
  ]
  text = runs.summary(logs)
  differences = text.split('Where the configs differ')[1]
  assert table_of(differences) == {
    '': ['a', 'b'],
    'task.model.width': ['8', '16'],
    'seed': ['(absent)', '3'],
  }
  same = runs.summary([logs[0], logs[0]]).split('Where the configs differ')[1]
  assert 'No differences.' in same and 'Full config of a' in same


@pytest.mark.parametrize(
  ('node', 'expected'),
  [(90, '90'), ({'epochs': 1.5}, '1.5 epochs'), ({'examples': 5000}, '5,000 examples')],
)
def test_durations_keep_their_unit(node, expected):
  log = runs.Log('a', config(total_steps=node), [])
  assert runs.highlights(log)['steps'] == f'0 of {expected}'


def test_flattened_names_every_leaf_as_overrides_do():
  assert runs.flattened(config())['train_data.transforms[0].size'] == '9'


def charts_of(text: str) -> dict[str, str]:
  svgs = re.findall('<svg.*?</svg>', text)
  return {re.search('aria-label="([^"]*)"', svg)[1]: svg for svg in svgs}


def legend_of(svg: str) -> list[str]:
  return re.findall(r'<text[^>]*>[^<]*<title>([^<]*)</title></text>', svg)


def test_curves_of_one_run_group_by_quantity():
  text = runs.learning_curves([runs.Log('a', config(), records())])
  charts = charts_of(text)
  assert list(charts) == ['loss', 'learning rate', 'seconds since the start']
  assert legend_of(charts['loss']) == ['training', 'val']
  shown, folded = text.split('<details>')
  assert 'aria-label="learning rate"' in shown and 'aria-label="seconds' in folded
  assert 'compile_seconds' not in text
  # Values measured once are in tables; their spread is in the folded ones.
  assert table_of(shown) == {
    'measured once': ['by', 'value', 'at step'],
    '5-shot': ['digits', '91.0 %', '60'],
  }
  assert table_of(folded)['5-shot std'] == ['digits', '1.2 %', '60']
  assert '<summary>2 more measurements</summary>' in folded


def ticks_of(svg: str) -> list[float]:
  return [float(x) for x in re.findall(r'text-anchor="end">([^<]*)<', svg)]


def test_charts_do_not_mislead():
  lines = [
    {'step': s, 'kind': 'train', 'rate': 5e-4, 'top1': 0.99, 'cardinality_error': 0.5}
    | {'input_wait': 0.0, 'examples_per_second': 100.0}
    for s in range(1, 9)
  ]
  evals = [
    {'step': s, 'kind': 'eval', 'val/top1': 1.0, 'val/AP': 0.1 * s, 'val/AR10': 0.5}
    for s in (4, 8)
  ]
  text = runs.learning_curves([runs.Log('a', config(), [*lines, *evals])])
  charts = charts_of(text)
  assert list(charts) == [
    'top-1 accuracy, %',
    'average precision (AP), %',
    'learning rate',
    'examples per second',
    'time waiting for input, %',
    'AR10, %',
    'cardinality_error',
  ]
  shown, folded = text.split('<details>')
  assert 'aria-label="learning rate"' in shown and '5 more' not in folded
  assert all(f'aria-label="{name}' in folded for name in [*charts][3:])
  assert max(ticks_of(charts['top-1 accuracy, %'])) == 100
  assert 'val at 8: 100' in charts['top-1 accuracy, %']
  rates = ticks_of(charts['learning rate'])
  assert rates[0] < 5e-4 < rates[-1] and 2e-4 <= rates[0] and rates[-1] <= 8e-4
  waits = ticks_of(charts['time waiting for input, %'])
  assert waits[0] == 0.0 and waits[-1] <= 1.0
  assert 'average precision' in shown and '80.0 % at step 8' in (
    runs.summary([runs.Log('a', config(), [*lines, *evals])])
  )


def test_a_share_above_one_is_not_a_percentage():
  lines = [{'step': s, 'kind': 'eval', 'val/top1': 40.0 + s} for s in (1, 2)]
  text = runs.learning_curves([runs.Log('a', config(), lines)])
  assert list(charts_of(text)) == ['top-1 accuracy'] and 'val at 2: 42' in text


def test_curves_of_two_runs_share_charts():
  logs = [
    runs.Log('a', config(), records()),
    runs.Log('b', config(), records(scale=0.5)),
  ]
  loss = charts_of(runs.learning_curves(logs))['loss']
  assert legend_of(loss) == ['a, training', 'a, val', 'b, training', 'b, val']
  strokes = re.findall(r'stroke="(#\w+)" stroke-width="2.5"', loss)
  assert strokes[0] == strokes[1] != strokes[2] == strokes[3]


def test_missing_or_infinite_metrics_are_reported():
  assert 'No curves' in runs.learning_curves([runs.Log('a', config(), [])])
  lost = [{'step': s, 'kind': 'train', 'loss': math.nan} for s in (1, 2)]
  assert 'loss: no finite values' in runs.learning_curves(
    [runs.Log('a', config(), lost)]
  )
