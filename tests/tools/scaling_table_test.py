import pytest


def test_a_row_says_what_the_plan_does(run):
  pytest.importorskip('libtpu')
  code = (
    'import sys; from tools import scaling_table as table;'
    ' row = "../tests/tiny_config.py", "v5e:2x2", ("mesh.fsdp=2",);'
    ' table.ROWS = {"tiny": row};'
    ' raise SystemExit(table.main(sys.argv[1:]))'
  )
  done = run('-c', code, 'tiny')
  assert done.returncode == 0 and done.stderr == '', done.stderr
  header, line, row = done.stdout.splitlines()
  assert header.count('|') == line.count('|') == row.count('|')
  cells = dict(zip(header.split(' | '), row.split(' | '), strict=True))
  assert cells['slice'] == 'v5e:2x2' and cells['mesh'] == 'data=2 fsdp=2'
  assert cells['batch'] == '32' and cells['GiB a chip'] == '0.0 of 15.8'
  wrong = run('-c', code, 'Z/99')
  assert wrong.returncode == 1 and "no row 'Z/99': take of tiny" in wrong.stderr
