import json

import pytest

from big_vision_like.data.sources import tagged_words
from big_vision_like.errors import UserError

CONLL = """-DOCSTART- -X- O O

EU NNP I-NP I-ORG
rejects VBZ I-VP O
German JJ I-NP I-MISC
call NN I-NP O

Peter NNP I-NP I-PER
Blackburn NNP I-NP I-PER
"""


def conll(tmp_path, text=CONLL, **options):
  file = tmp_path / 'eng.train'
  file.write_text(text)
  return tagged_words.Conll(path=str(file), **options)


def test_conll(tmp_path):
  source = conll(tmp_path, scheme='iob1')
  first, second = source
  assert first['words'] == ['EU', 'rejects', 'German', 'call']
  assert first['entities'].tolist() == [[0, 0], [2, 2]]
  assert first['entity_kinds'] == ['ORG', 'MISC']
  assert second['entities'].tolist() == [[0, 1]] and second['id'] == 1
  assert first['pairs'].shape == (0, 2)


@pytest.mark.parametrize(
  ('text', 'sentence'),
  [
    (CONLL, "sentence at line 3 of .*eng.train: word 1 has the tag 'I-ORG'"),
    ('EU B-ORG\nrejects\n', 'line 2 of .*eng.train has no tag'),
    ('-DOCSTART- O\n', 'there are no examples'),
  ],
)
def test_bad_conll_files_are_one_sentence(tmp_path, text, sentence):
  with pytest.raises(UserError, match=sentence):
    len(conll(tmp_path, text))


DOCUMENT = {
  'doc_key': 'X',
  'sentences': [
    ['We', 'train', 'a', 'parser', '.'],
    ['It', 'beats', 'the', 'old', '.'],
  ],
  'ner': [[[3, 3, 'Method']], [[5, 5, 'Generic'], [7, 8, 'Method'], [8, 8, 'Method']]],
  'relations': [[], [[5, 5, 7, 8, 'COMPARE'], [5, 5, 8, 8, 'COMPARE']]],
}


def scierc(tmp_path, *documents, **options):
  file = tmp_path / 'train.json'
  file.write_text('\n'.join(map(json.dumps, documents)))
  return tagged_words.Scierc(path=str(file), **options)


def test_scierc_counts_words_within_the_sentence(tmp_path):
  source = scierc(tmp_path, DOCUMENT, tolerated=0.6)
  first, second = source
  assert first['entities'].tolist() == [[3, 3]]
  assert second['entities'].tolist() == [[0, 0], [2, 3]]
  assert second['entity_kinds'] == ['Generic', 'Method']
  assert second['pairs'].tolist() == [[0, 1]] and second['pair_names'] == ['COMPARE']
  # Shorter entities that share a word are left out with their relations.
  assert sum(source.left_out.values()) == 2


@pytest.mark.parametrize(
  ('change', 'sentence'),
  [
    ({'ner': [[]]}, '2 sentences, 1 lists of entities'),
    ({'ner': [[[9, 9, 'Task']], []]}, r'sentence 1 .* words are 0 to 4'),
    ({'ner': [[[1, 'Task']], []]}, r'not \[first, last, kind\]'),
    ({'relations': [[[3, 3, 'COMPARE']], []]}, r'not \[first, last, first, last'),
  ],
)
def test_bad_scierc_files_are_one_sentence(tmp_path, change, sentence):
  with pytest.raises(UserError, match=sentence):
    len(scierc(tmp_path, DOCUMENT | change, tolerated=1.0))


def test_missing_files_are_planned_with_made_up_sentences(tmp_path):
  for kind in (tagged_words.Conll, tagged_words.Scierc):
    source = kind(path=str(tmp_path / 'missing'), examples=5).planned()
    assert len(source) == 5 and len(source[4]['words']) == 8
