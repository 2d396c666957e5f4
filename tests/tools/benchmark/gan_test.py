import json

import pytest

from tools.benchmark import gan as tool


def test_our_side_is_measured(tmp_path, capsys, monkeypatch):
  monkeypatch.setattr(tool.benchmark, 'REPEAT_SECONDS', 0.0)
  out = tmp_path / 'result.json'
  assert tool.main(['--size=8x4x4', '--repeats=1', f'--output={out}']) == 0
  works = json.loads(out.read_text())['works']
  assert [own['work'] for own in works] == ['train', 'regularize', 'gradient']
  assert set(works[-1]['sides']) == {'scaled', 'grouped'}
  assert works[-1]['ratios']['grouped'] > 0
  assert 'GANsformer 8x4x4' in capsys.readouterr().err


@pytest.mark.parametrize(
  ('words', 'sentence'),
  [
    (['--size=64'], "'64' is not a size: write resolution x channels x batch"),
    (['--repeats=0'], '--repeats must be 1 or more'),
  ],
)
def test_bad_words_are_one_sentence(words, sentence, capsys):
  assert tool.main(words) == 1
  assert sentence in capsys.readouterr().err
