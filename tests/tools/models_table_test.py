"""Tests that docs/models.md is what models_table.py would write."""

import pytest

from tools import models_table as tool
from tools.papers.cells import Cell

REMEDY = 'docs/models.md is out of date: run python tools/models_table.py CHANGED_FILES'


def text() -> str:
  return tool.PAGE.read_text(encoding='utf-8')


def test_the_page_lists_every_config_with_its_published_numbers(monkeypatch):
  # Parameters are not counted: a config that the page lacks gets the size "missing".
  monkeypatch.setattr(tool, 'size', lambda name: tool.Size('', '', f'{name}: missing'))
  assert tool.page(tool.known_sizes(text())) == text(), REMEDY


@pytest.mark.parametrize(
  'name',
  [
    'configs/vit/digits.py:sincos2d',
    'configs/swin/i1k.py:T',
    'configs/slot_attention/small_sets.py',
    'configs/multi_task/digits.py',
    'configs/transformer/reverse.py:reverse',
  ],
)
def test_sizes_match_the_configs(name, data_dir):
  assert tool.known_sizes(text())[name] == tool.size(name), REMEDY


def test_a_size_that_only_data_tell():
  name = 'configs/detr/finetune.py:data/objects,weights/detr-r50-e632da11.pth'
  assert tool.size(name) == tool.known_sizes(text())[name]


def test_numbers_of_several_tables():
  def cell(value, table, metric='test/top1', **other):
    fields = dict.fromkeys(Cell.__dataclass_fields__, '')
    fields |= dict(paper='2103.14030', table=table, value=value, unit='%')
    return Cell(**fields | dict(metric=metric) | other)

  assert tool.published_text([]) == ''
  cells = [cell('81.3', '1'), cell('95.6', '4', 'test/top5'), cell('81.3', '4')]
  assert tool.published_text(cells) == (
    'top1 81.3 % (2103.14030, tables 1, 4); top5 95.6 % (2103.14030, table 4)'
  )
  cells += [cell('88.6', '2', spread='0.04', private='JFT'), cell('1', '5')]
  assert tool.published_text(cells).endswith(
    'top1 88.6 ± 0.04 % on JFT (2103.14030, table 2); 1 more'
  )


def test_hardware_of_a_docstring():
  docstring = """A recipe that had 8 V100 for hours.

    python train.py  # 3 hours on 8 V100

Rates are 1e-3. On 8 V100 the authors
took 3.3 hours; 20 GPUs are a lot; two CPU cores: 2 minutes.
"""
  assert tool.hardware(docstring) == (
    ['On 8 V100 the authors took 3.3 hours.', 'Two CPU cores: 2 minutes.']
  )


def test_files_that_are_not_configs(capsys):
  assert tool.main(['tools/demo.py']) == 1
  assert 'demo.py is not a config file below' in capsys.readouterr().err
