"""Triples of texts on the command line, by a run that knows a few sentences."""

from unittest import mock

import found_relations
import numpy as np
import pytest

from big_vision_like.data import rdfs
from big_vision_like.inference import entailment
from tools import extract_triples

TEXT = 'Anna is a baker. Every baker is a cook. Anna met Ben.'


@pytest.fixture(scope='module')
def run(tmp_path_factory):
  return str(found_relations.saved(tmp_path_factory.mktemp('runs') / 'run'))


@pytest.fixture
def call(run, capsys):
  def called(*words):
    with mock.patch('big_vision_like.cli.set_up_jax'):
      status = extract_triples.main([run, *words])
    printed = capsys.readouterr()
    return status, printed.out.splitlines(), printed.err

  return called


def test_what_follows_from_a_text(call, tmp_path):
  out = tmp_path / 'graph.nt'
  ask = '--ask', 'ben', 'rdf:type', 'cook', '--ask', 'anna', 'rdf:type', 'baker'
  status, lines, _ = call('--text', TEXT, '--follows', *ask, '--out', str(out))
  assert not status
  assert lines == [
    '3 sentences, 2 triples',
    '  anna  rdf:type  baker',
    '  baker  rdfs:subClassOf  cook',
    '3 queries',
    '  anna  rdf:type  cook  follows, depth 1',
    '  ben  rdf:type  cook  does not follow',
    '  anna  rdf:type  baker  is given',
  ]
  assert len(rdfs.read(out)) == 2
  # A file, with an axiom of another file.
  axioms, text = tmp_path / 'axioms.nt', tmp_path / 'text.txt'
  axiom = ('urn:text:cook', rdfs.SUBCLASS, 'urn:text:worker')
  axioms.write_text(rdfs.line(axiom) + '\n')
  text.write_text(TEXT)
  _, lines, _ = call('--file', str(text), '--axioms', str(axioms), '--follows')
  assert '  anna  rdf:type  worker  follows, depth 2' in lines


def test_the_network_answers_too(call):
  made = mock.Mock(spec=entailment.Reasoner)
  made.probabilities.return_value = np.array([0.914])
  loaded = mock.patch.object(entailment, 'Reasoner', return_value=made)
  with loaded, mock.patch.object(extract_triples.loading, 'load_run', _load):
    _, lines, _ = call('--text', TEXT, '--follows', '--reasoner', 'other')
  assert lines[-1] == '  anna  rdf:type  cook  follows, depth 1  network 91 %'
  graph, queries = made.probabilities.call_args.args
  assert len(graph) == 2 and queries == [('urn:text:anna', rdfs.TYPE, 'urn:text:cook')]


load = extract_triples.loading.load_run


def _load(folder):
  return None if folder == 'other' else load(folder)


@pytest.mark.parametrize(
  ('words', 'sentence'),
  [
    ((), 'give a text with --text, or a file with --file'),
    (('--text', ' '), 'give a text with --text, or a file with --file'),
    (('--file', 'missing.txt'), 'there is no text missing.txt'),
    (('--text', 'a ' * 9), '9 words, and there is room for 8'),
  ],
)
def test_bad_input_is_one_sentence(call, words, sentence):
  status, _, printed = call(*words)
  assert status and sentence in printed and 'Traceback' not in printed
