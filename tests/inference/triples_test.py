"""Triples of texts, by a run that has learned a few sentences by heart."""

import types

import found_relations
import pytest

from big_vision_like.data import rdfs
from big_vision_like.errors import BadRecordError, UserError
from big_vision_like.inference import loading, triples


@pytest.fixture(scope='module')
def extractor(tmp_path_factory):
  folder = found_relations.saved(tmp_path_factory.mktemp('runs') / 'run')
  return triples.Extractor(loading.load_run(folder))


def test_words_and_sentences_of_a_text():
  text = "Anna's dog, e.g. Rex-2, left. Why?\nNo full stop"
  assert triples.sentences_of(text) == [
    ["Anna's", 'dog', ',', 'e.g', '.'],
    ['Rex-2', ',', 'left', '.'],
    ['Why', '?'],
    ['No', 'full', 'stop'],
  ]
  assert triples.sentences_of(' \n') == []


def test_learned_sentences(extractor):
  text = ' '.join(words for words, *_ in found_relations.SENTENCES)
  found = list(extractor.read(triples.sentences_of(text)))
  for each, (_, entities, related) in zip(
    found, found_relations.SENTENCES, strict=True
  ):
    assert [tuple(entity) for entity in each.entities] == entities
    assert [(one, other, name) for one, name, other in each.relations] == related
  graph = triples.triples_of(found)
  anna, ben, baker, cook = (
    f'urn:text:{name}' for name in ('anna', 'ben', 'baker', 'cook')
  )
  assert graph == [
    (anna, rdfs.TYPE, baker),
    (ben, rdfs.TYPE, cook),
    (baker, rdfs.SUBCLASS, cook),
  ]
  assert (anna, rdfs.TYPE, cook) in rdfs.closure(graph)


def test_more_sentences_than_a_batch(extractor):
  one = triples.sentences_of('Anna is a baker.')
  found = list(extractor.read(one * (triples.BATCH + 1)))
  assert len(found) == triples.BATCH + 1 and found[0].relations == found[-1].relations


def test_names_of_terms_both_ways():
  for name in ('Mira Dovan', "Anna's 50 % & Söhne", rdfs.TYPE):
    known = triples.term(name)
    line = rdfs.line((known, known if name == rdfs.TYPE else 'urn:p', known))
    assert rdfs.parse(line)[0] == known
    assert triples.shown(known) == (name if name == rdfs.TYPE else name.lower())


def test_long_sentences_and_other_runs_are_refused(extractor):
  with pytest.raises(BadRecordError, match='9 words, and there is room for 8'):
    list(extractor.read([['a'] * 9]))
  other = types.SimpleNamespace(workdir='runs/x', task=types.SimpleNamespace())
  with pytest.raises(UserError, match='runs/x is a run of SimpleNamespace: give one'):
    triples.Extractor(other)
