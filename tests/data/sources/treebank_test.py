import pytest

from big_vision_like.data.sources import treebank
from big_vision_like.errors import UserError

FIRST = '( (S (NP-SBJ (DT A) (NN cat)) (VP (VBD slept)) (. .)))\n( (X (-NONE- *)))\n'
SECOND = '( (S (VP (VB Go))))'


def test_files_of_trees(tmp_path):
  (tmp_path / 'wsj_0201.mrg').write_text(FIRST)
  (tmp_path / 'wsj_0202.mrg').write_text(SECOND)
  pattern = str(tmp_path / 'wsj_02{01,02}.mrg')
  source = treebank.Treebank(patterns=pattern)
  assert [source[i]['words'] for i in range(len(source))] == ['A cat slept .', 'Go']
  assert source[0]['tree'] == '(S (NP DT NN )NP (VP VBD )VP . )S'
  assert source.left_out == {'trees without words or brackets': 1}
  short = treebank.Treebank(patterns=pattern, most_words=2)
  assert len(short) == 1 and short[0]['id'] == 0
  assert short.left_out['trees with more than 2 words'] == 1


def test_missing_and_broken_files(tmp_path):
  missing = treebank.Treebank(patterns=str(tmp_path / '*.mrg'), examples=7)
  assert len(missing.planned()) == 7 and missing.planned()[3]['tree'].startswith('(S ')
  with pytest.raises(UserError, match='mrg'):
    len(missing)
  (tmp_path / 'a.mrg').write_text('( (S (NN a))')
  with pytest.raises(UserError, match='a.mrg: 1 brackets are not closed'):
    len(treebank.Treebank(patterns=str(tmp_path / 'a.mrg')))
