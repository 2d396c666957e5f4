"""Tests that published tables agree with the configs and show results of runs."""

import argparse
import json

import pages
import pytest

from big_vision_like import cli
from big_vision_like.errors import UserError
from tools import paper_tables
from tools.papers import cells as paper_cells

ALL = paper_cells.read('cells', paper_cells.Cell)
CELLS = {cell.key: cell for cell in ALL}


def test_the_files_fit_together():
  tables = {(t.paper, t.table) for t in paper_cells.tables()}
  assert {key[:2] for key in CELLS} == tables
  assert len(CELLS) == len(ALL)  # no cell twice
  models = {model.model for model in paper_cells.models()}
  for cell in CELLS.values():
    # A cell names no model if the size of its model was not published.
    assert cell.model in models | {''} and float(cell.value) >= 0
    others = {'TPUv3-core-days', 'hours', 'images per second', 'GMACs', 'exaFLOPs'}
    assert cell.unit in {*paper_cells.FACTORS} | others
    assert cell.spread == '' or float(cell.spread) >= 0
  assert len([c for c in CELLS if c[:2] == ('2010.11929', '2')]) == 5 * 8 - 5
  assert len([c for c in CELLS if c[:2] == ('2010.11929', '9')]) == 3 * 19


def test_means_over_tables_match_the_paper():
  means = [cell for cell in CELLS.values() if cell.mean_of]
  assert len(means) == 3
  for cell in means:
    parts = [float(part.value) for part in paper_cells.column_of(cell)]
    assert sum(parts) / 19 == pytest.approx(float(cell.value), abs=0.011)


def test_configs_report_the_metrics_of_the_tables():
  for config, metric in {(cell.config, cell.metric) for cell in ALL}:
    assert bool(config) == bool(metric)
    if config:
      assert metric.partition('/')[0] in paper_cells.load(config).evals, config


def test_papers_that_contradict_each_other_are_named(tmp_path, monkeypatch):
  for paper, count in [('1', '7'), ('2', '7'), ('3', '8')]:
    (tmp_path / paper).mkdir()
    text = (
      f'model,size,parameters,gmacs,symbol,variant,arguments,note\nA,8,{count},,,,,'
    )
    (tmp_path / paper / 'models.csv').write_text(text)
  monkeypatch.setattr(paper_cells, 'PAPERS', tmp_path)
  monkeypatch.setattr(paper_cells, 'read', paper_cells.read.__wrapped__)
  with pytest.raises(
    UserError, match='1 and 3 give different numbers for A at 8 pixels'
  ):
    paper_cells.models()
  (tmp_path / '3' / 'models.csv').unlink()
  assert [model.paper for model in paper_cells.models()] == ['1']


@pytest.mark.parametrize('name', ['ViT-Ti/16', 'ViT-S/16', 'ViT-R26+S/32'])
def test_sizes_are_the_published_ones(name):
  [model] = [m for m in paper_cells.models() if m.model == name]
  parameters, macs = paper_cells.counted(model)
  assert parameters == int(model.parameters)
  # Published numbers of ResNets also count normalizations.
  tolerance = 0.03 if model.note else 0.01
  assert macs / 1e9 == pytest.approx(float(model.gmacs), rel=tolerance)


def test_a_model_may_be_that_of_a_config_and_not_square():
  [model] = [m for m in paper_cells.models() if m.model == 'DETR R50']
  parameters, macs = paper_cells.counted(model)
  assert parameters == int(model.parameters)
  # From the reference code at 800x1066; the published number is a mean over many sizes.
  assert macs / 1e9 == pytest.approx(81.2, rel=0.002)


def test_configs_of_several_networks_have_no_single_size():
  for name in ('gansformer/published.py:ffhq,duplex', 'multi_task/digits.py'):
    assert paper_cells.shape_of(f'configs/{name}') is None


def test_a_config_is_counted_at_its_own_size():
  pixels, parameters, macs = paper_cells.counted_config('configs/vit/plain.py:90')
  assert pixels == '224' and macs / 1e9 == pytest.approx(4.6, rel=0.02)
  # No class token, fixed positions; one more layer of the same width before the head.
  assert parameters == 22_050_664 - 384 * 198 + 384 * 385


CONFIG, STEPS = 'configs/vit/plain.py:90', round(90 * 1_268_355 / 1024)


def write_run(folder, top1, step=STEPS, overrides=()):
  folder.mkdir(parents=True)
  words = [f'--config={CONFIG}', *(f'--config.{text}' for text in overrides)]
  _, config = cli.parse(argparse.ArgumentParser(), words)
  (folder / 'config.json').write_text(config.to_json())
  record = {'step': step, 'kind': 'eval', 'test/top1': top1, 'val/top1': 0.1}
  (folder / 'metrics.jsonl').write_text(json.dumps(record) + '\n')
  return folder


@pytest.fixture
def runs(tmp_path):
  folder = tmp_path / 'runs'
  write_run(folder / 'a', 0.764)
  write_run(folder / 'sweep' / 'b', 0.766, overrides=['seed=1', 'log_every=7'])
  write_run(folder / 'short', 0.3, overrides=['seed=2', 'total_steps=100'], step=100)
  write_run(folder / 'unfinished', 0.5, step=5000, overrides=['seed=3'])
  (folder / 'other').mkdir()
  return folder


def test_results_appear_next_to_the_published_number(runs, tmp_path, capsys):
  words = ['2205.01580', '--runs', str(runs), f'--out={tmp_path / "out"}']
  assert paper_tables.main(words) == 0, capsys.readouterr().err
  shown = capsys.readouterr().out
  assert '76.5 ± 0.1 (2)' in shown
  text = (tmp_path / 'out' / '2205.01580.md').read_text()
  lines = text.splitlines()
  row = lines.index('| Better plain ViT-S/16 | 76.5 | 78.5 | 80.0 |')
  assert lines[row + 1] == '| reproduced | 76.5 ± 0.1 (2) | to run | to run |'
  assert f'{runs / "a"}, {runs / "sweep" / "b"} |' in text  # the short run is not used
  assert f'{runs / "unfinished"}: at step 5,000 of {STEPS:,}' in text
  assert '| run configs/vit/plain.py:150 | 150 epochs: Better plain ViT-S/16 |' in text
  assert 'original recipe' in text and 'differs from the config' not in text
  assert '| ViT-S/16 | 224 | 22,050,664 | 22,050,664 | 4.61 | ' in text
  page = pages.Reader(tmp_path / 'out' / '2205.01580.html')
  assert page.headings[0].startswith('Table 1: ViT-S/16 on ImageNet')
  assert '76.5 ± 0.1 (2)' in page.text and 'to run' in page.text


def test_runs_with_other_settings_count_if_there_are_no_others(tmp_path):
  write_run(tmp_path / 'short', 0.3, overrides=['total_steps=100'], step=100)
  runs, _ = paper_cells.find_runs([str(tmp_path)])
  cell = CELLS['2205.01580', '1', 'Better plain ViT-S/16', '90 epochs']
  found = paper_cells.ours(cell, runs)
  assert found.text(cell) == '30.0 (1)'
  assert 'total_steps=100 instead of (absent)' in found.differences
  shown = paper_tables.grid([cell], {cell.key: found})
  assert shown.rows[1] == ['reproduced', '30.0 (1)']
  assert 'differs from the config: ' in shown.remarks[0]


def test_the_last_of_runs_with_the_same_seed_counts_and_is_named(tmp_path):
  write_run(tmp_path / 'a', 0.3)
  write_run(tmp_path / 'b', 0.4)
  runs, _ = paper_cells.find_runs([str(tmp_path)])
  cell = CELLS['2205.01580', '1', 'Better plain ViT-S/16', '90 epochs']
  found = paper_cells.ours(cell, runs)
  assert (found.text(cell), found.folders) == ('40.0 (1)', [str(tmp_path / 'b')])


def test_a_run_of_before_configs_had_names_counts(tmp_path):
  write_run(tmp_path / 'a', 0.3)
  file = tmp_path / 'a' / 'config.json'
  saved = json.loads(file.read_text())
  assert saved.pop('name') == CONFIG
  cell = CELLS['2205.01580', '1', 'Better plain ViT-S/16', '90 epochs']
  place = dict(zip(('paper', 'table', 'row', 'column'), cell.key, strict=True))
  saved['reproduces'] = [place | dict(value=76.5, spread=None, metric='test/top1')]
  file.write_text(json.dumps(saved))
  runs, _ = paper_cells.find_runs([str(tmp_path)])
  found = paper_cells.ours(cell, runs)
  assert (found.text(cell), found.differences) == ('30.0 (1)', ())


def test_a_mean_is_taken_over_the_seeds_that_all_cells_have():
  parts = [
    paper_cells.Ours({0: 50.0, 1: 60.0, 2: 0.0}, ['a', 'b'], ['x']),
    paper_cells.Ours({1: 70.0, 0: 52.0}, ['c'], []),
  ]
  mean = paper_cells.mean_of(parts)
  assert mean.values == {0: 51.0, 1: 65.0}
  assert mean.folders == ['a', 'b', 'c'] and mean.differences == ['x']
  assert paper_cells.mean_of([*parts, paper_cells.Ours({3: 1.0}, [], [])]) is None


def test_missing_cells_give_a_reason():
  why = {
    ('2205.01580', '1', 'Better plain ViT-S/16', '90 epochs'): f'run {CONFIG}',
    ('2010.11929', '2', 'ImageNet', 'BiT-L (ResNet152x4)'): 'JFT-300M is not public',
    ('2010.11929', '2', 'VTAB (19 tasks)', 'Ours-I21K (ViT-L/16)'): '0 of 19 cells',
    ('2106.10270', 'timm', 'ViT-B/8, 224', 'ImageNet'): 'no config names it',
    ('2010.11929', '8', '1-D', 'stem'): 'JFT-300M is not public',
  }
  for key, sentence in why.items():
    assert sentence in paper_tables.reason(CELLS[key], {})[1]
  assert paper_tables.absent('EfficientNet-L2') in (
    '',
    'the model EfficientNet-L2 is not implemented yet',
  )


def test_bad_input_is_one_sentence(tmp_path, capsys):
  for words, sentence in [
    (['1234.5678'], "no tables of '1234.5678'"),
    (['2010.11929', '--table=3'], "has no table '3' here, only 2, 5, 6, 7, 8, 9"),
    (['2010.11929', '--runs', 'no/such'], '--runs: no folder no/such.'),
  ]:
    assert paper_tables.main([*words, f'--out={tmp_path}']) == 1
    told = capsys.readouterr().err
    assert sentence in told and told.count('\n') == 1
  assert paper_tables.main([]) == 0
  assert 'How to train your ViT?' in capsys.readouterr().out
