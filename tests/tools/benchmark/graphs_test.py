import json

import pytest

from tools.benchmark import graphs as tool


def test_all_forms_are_measured(tmp_path, capsys, monkeypatch):
  monkeypatch.setattr(tool.benchmark, 'REPEAT_SECONDS', 0.0)
  out = tmp_path / 'result.json'
  assert tool.main(['2x5x7', '--repeats=1', f'--output={out}']) == 0
  rows = json.loads(out.read_text())['graphs']
  assert [row['form'] for row in rows] == ['incidence', 'segments', 'dense']
  assert all(row['step_ms'] > 0 and row['bytes'] > 0 for row in rows)
  printed = capsys.readouterr()
  assert 'step ms' in printed.err and not printed.out


@pytest.mark.parametrize(
  ('words', 'sentence'),
  [
    (['96x440'], "'96x440' is not a size: write graphs x nodes x edges"),
    (['1x2x3', '--repeats=0'], '--repeats must be 1 or more'),
  ],
)
def test_bad_words_are_one_sentence(words, sentence, capsys):
  assert tool.main(words) == 1
  assert sentence in capsys.readouterr().err
