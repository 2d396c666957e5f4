import json

import pytest

from tools.benchmark import sorting as tool


def test_sorts_are_measured(tmp_path, capsys, monkeypatch):
  monkeypatch.setattr(tool.benchmark, 'REPEAT_SECONDS', 0.0)
  out = tmp_path / 'result.json'
  assert tool.main(['2x5x1', '--repeats=1', f'--output={out}']) == 0
  [row] = json.loads(out.read_text())['sorting']
  assert row['size'] == '2x5x1' and row['sort_ms'] > 0 and row['bytes'] > 0
  printed = capsys.readouterr()
  assert 'sort ms' in printed.err and not printed.out


@pytest.mark.parametrize(
  ('words', 'sentence'),
  [
    (['100'], "'100' is not a size: write lists x numbers x layers"),
    (['1x2x1', '--repeats=0'], '--repeats must be 1 or more'),
  ],
)
def test_bad_words_are_one_sentence(words, sentence, capsys):
  assert tool.main(words) == 1
  assert sentence in capsys.readouterr().err
