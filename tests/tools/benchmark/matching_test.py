import json

import pytest

from tools.benchmark import matching as tool


@pytest.fixture(autouse=True)
def quick(monkeypatch):
  monkeypatch.setattr(tool.benchmark, 'REPEAT_SECONDS', 0.0)


def test_sizes_are_measured_and_matchings_are_exact(tmp_path, capsys):
  out = tmp_path / 'result.json'
  assert tool.main(['2x3x4', '--repeats=1', f'--output={out}']) == 0
  result = json.loads(out.read_text())
  assert [(row['size'], row['costs']) for row in result['match']] == [
    ('2x3x4', costs) for costs in ('uniform', 'sets', 'padded')
  ]
  for row in result['match']:
    assert min(row[f'{side}_ms'] for side in ('match', 'optax', 'scipy')) > 0
    assert row['error'] < 1e-6
  printed = capsys.readouterr()
  assert 'match ms' in printed.err and not printed.out


def test_a_wrong_matching_shows(monkeypatch):
  other = tool.matching.match
  monkeypatch.setattr(tool.matching, 'match', lambda *args: (other(*args) + 1) % 4)
  assert tool.measure('uniform', 2, 3, 4, repeats=1)['error'] > 0.01


@pytest.mark.parametrize(
  'words, message',
  [
    (['10x10'], "'10x10' is not a size: write examples x targets x queries"),
    (['0x1x1'], "'0x1x1' is not a size"),
    (['2x5x4'], '5 targets cannot each have one of 4 queries'),
    (['2x3x4', '--repeats=0'], '--repeats must be 1 or more'),
  ],
)
def test_invalid_arguments_are_reported(capsys, words, message):
  assert tool.main(words) == 1
  assert message in capsys.readouterr().err
