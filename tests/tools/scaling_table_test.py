import pytest

from tools import scaling_table


def test_a_row_matches_the_plan(data_dir, monkeypatch, capsys):
  pytest.importorskip('libtpu')
  row = '../tests/tiny_config.py', 'v5e:2x2', ('mesh.fsdp=2',)
  monkeypatch.setattr(scaling_table, 'ROWS', {'tiny': row})
  assert scaling_table.main(['tiny']) == 0
  header, line, row = capsys.readouterr().out.splitlines()
  assert header.count('|') == line.count('|') == row.count('|')
  cells = dict(zip(header.split(' | '), row.split(' | '), strict=True))
  assert cells['slice'] == 'v5e:2x2' and cells['mesh'] == 'data=2 fsdp=2'
  assert cells['batch'] == '32' and cells['GiB a chip'] == '0.0 of 15.8'
  assert scaling_table.main(['Z/99']) == 1
  assert "no row 'Z/99': choose from tiny" in capsys.readouterr().err
